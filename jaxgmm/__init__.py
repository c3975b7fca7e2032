"""Gaussian mixtures by expectation-maximisation: pure functions over an immutable parameter pytree."""

from jaxgmm.em import e_step, log_likelihood, m_step, maximise, statistics
from jaxgmm.fitting import fit, fit_from
from jaxgmm.initial import initialise
from jaxgmm.loop import Status
from jaxgmm.params import GMMParams, covariances, n_free_parameters
from jaxgmm.result import FitResult
from jaxgmm.sums import Statistics

__all__ = [
    "FitResult",
    "GMMParams",
    "Statistics",
    "Status",
    "covariances",
    "e_step",
    "fit",
    "fit_from",
    "initialise",
    "log_likelihood",
    "m_step",
    "maximise",
    "n_free_parameters",
    "statistics",
]
