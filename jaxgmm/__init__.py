"""Gaussian mixtures by expectation-maximisation: pure functions over an immutable parameter pytree."""

from jaxgmm.bootstrap import BootstrapTest, bootstrap_lrt
from jaxgmm.cache import keep_compiled
from jaxgmm.criteria import aic, bic, entropy, icl, nec
from jaxgmm.density import log_prob, mixture_covariance, mixture_mean, predict, predict_proba, sample
from jaxgmm.em import e_step, log_likelihood, m_step, maximise, statistics
from jaxgmm.fitting import fit, fit_from
from jaxgmm.gradient import fit_gradient
from jaxgmm.initial import initialise
from jaxgmm.io import from_dict, load, load_metadata, save, to_dict
from jaxgmm.loop import Status
from jaxgmm.many import fit_many
from jaxgmm.merging import Merging, merge_components
from jaxgmm.params import GMMParams, covariances, from_free, n_free_parameters, to_free
from jaxgmm.posterior import Hyperparameters, Posterior
from jaxgmm.priors import Prior, default_prior
from jaxgmm.result import FitResult
from jaxgmm.selection import Sweep, sweep
from jaxgmm.structures import FactorAnalyzers
from jaxgmm.sums import Statistics
from jaxgmm.variational import fit_variational, fit_variational_from
from jaxgmm.variational_result import VariationalResult

__all__ = [
    "BootstrapTest",
    "FactorAnalyzers",
    "FitResult",
    "GMMParams",
    "Hyperparameters",
    "Merging",
    "Posterior",
    "Prior",
    "Statistics",
    "Status",
    "Sweep",
    "VariationalResult",
    "aic",
    "bic",
    "bootstrap_lrt",
    "covariances",
    "default_prior",
    "e_step",
    "entropy",
    "fit",
    "fit_from",
    "fit_gradient",
    "fit_many",
    "fit_variational",
    "fit_variational_from",
    "from_dict",
    "from_free",
    "icl",
    "initialise",
    "keep_compiled",
    "load",
    "load_metadata",
    "log_likelihood",
    "log_prob",
    "m_step",
    "maximise",
    "merge_components",
    "mixture_covariance",
    "mixture_mean",
    "n_free_parameters",
    "nec",
    "predict",
    "predict_proba",
    "sample",
    "save",
    "statistics",
    "sweep",
    "to_dict",
    "to_free",
]
