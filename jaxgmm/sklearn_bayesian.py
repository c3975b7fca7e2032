"""Variational Bayes as an estimator: scikit-learn's arguments and attributes over ``posterior.py`` and ``variational.py``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from jaxgmm import checks, sklearn_door
from jaxgmm.batch import Batch, Data
from jaxgmm.conjugate import WEIGHTS
from jaxgmm.fitting import admit, check_options
from jaxgmm.loop import Status
from jaxgmm.padding import in_padded, in_rows
from jaxgmm.params import GMMParams
from jaxgmm.posterior import (
    Hyperparameters,
    Posterior,
    expected_e_step,
)
from jaxgmm.precisions import COLLAPSED, check_positive, precisions_cholesky, squared
from jaxgmm.rounds import Run, at_once, rounds, together
from jaxgmm.sklearn_answers import FittedMixture, in_precision
from jaxgmm.sklearn_cycle import advance, begin, estimated, finished
from jaxgmm.sklearn_door import shaped, weighted_samples
from jaxgmm.sklearn_starts import responsibilities
from jaxgmm.sklearn_words import UNCONVERGED, Talk, in_words, trace_length
from jaxgmm.structures import Structure

KINDS = {"dirichlet_process": "dirichlet_process", "dirichlet_distribution": "dirichlet"}
"""scikit-learn's names of priors on the weights, and ours."""


class BayesianGaussianMixture(FittedMixture):
    """Variational Bayes as a scikit-learn estimator: ``sklearn.mixture.BayesianGaussianMixture`` with another engine.

    Arguments, attributes and defaults are scikit-learn's, the start of a seed is the same, and for full and tied so are the
    steps (Bishop 2006, 10.46 to 10.66), with ``reg_covar`` added to the covariance of each component's samples. What differs:
    tied from "k-means++" and "random_from_data" starts as ``GaussianMixture`` does; for diag and spherical scikit-learn expects
    ln |Lambda_k| of a full Wishart matrix, of which no mixture of such Gaussians has the evidence; here it is that of the gamma
    distributions whose updates the others are. ``lower_bound_`` holds all constants, and is a bound of ln p(X). Samples may
    have weights.

    Args:
      n_components: K, the most components.
      covariance_type: "full", "tied", "diag" or "spherical".
      tol: stop when the evidence bound changes by less, in nats, of all samples together.
      reg_covar: squared data units.
      max_iter: iterations; 0 leaves the start as it is.
      n_init: starts, of which the one with the highest bound is kept.
      init_params: "kmeans", "k-means++", "random" or "random_from_data"; see ``jaxgmm.initialise``.
      weight_concentration_prior_type: "dirichlet_process" (stick-breaking) or "dirichlet_distribution".
      weight_concentration_prior: gamma or alpha_0; 1 / K without.
      mean_precision_prior: kappa_0, in samples; 1 without.
      mean_prior: (D,) m_0, data units; the mean of X without.
      degrees_of_freedom_prior: nu_0, above D - 1, of diag and spherical as well, as in scikit-learn; D without.
      covariance_prior: V_0, squared data units: (D, D) full and tied, (D,) diag, a number spherical; that of X without.
      random_state: seed of the starts and of ``sample``. The same seed draws the starts of scikit-learn.
      warm_start: go on from the last fit.
      verbose: 1 says how far the fit is, about once a second, 2 with the lower bound and the time.
      verbose_interval: at least so many iterations between two lines.

    Attributes:
      weights_: (K,) E pi_k, scaled to sum one.
      means_: (K, D) m_k, data units.
      covariances_: inverses of E Lambda_k, squared data units: (K, D, D) full, (D, D) tied, (K, D) diag, (K,) spherical.
      precisions_, precisions_cholesky_: E Lambda_k, and upper triangular U_k with U_k U_k^T = E Lambda_k.
      weight_concentration_: (K,) of the Dirichlet, or the two parameters of the sticks, (K,) each.
      mean_precision_: (K,) kappa_k.
      degrees_of_freedom_: (K,) nu_k; for tied a number, nu_0 + N / K, in scikit-learn's count.
      weight_concentration_prior_, mean_precision_prior_, mean_prior_, degrees_of_freedom_prior_, covariance_prior_: the prior.
      converged_: did the change fall below ``tol``?
      n_iter_: iterations of the start that won.
      lower_bound_: the evidence bound, nats; less the volume of a covariance prior that is singular.
      lower_bounds_: the same after each iteration, of the first 16,384.
      status_: how the fit ended, in words, with advice.
      params_, posterior_: the expected mixture and the posterior, of NumPy arrays, for the functions of jaxgmm.
      n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
      ValueError: see ``fit``; the constructor looks at nothing.

    Source: scikit-learn 1.9, ``sklearn.mixture.BayesianGaussianMixture``; see ``jaxgmm.fit_variational``.

    >>> import numpy as np
    >>> from jaxgmm.sklearn import BayesianGaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [4, 2], [12, 4], [10, 7]])
    >>> bgm = BayesianGaussianMixture(n_components=2, random_state=42).fit(X)
    >>> bgm.means_.round(1).tolist()
    [[2.5, 2.3], [8.5, 4.5]]
    >>> bgm.predict([[0, 0], [9, 3]]).tolist()
    [0, 1]
    """

    _theirs = mixture.BayesianGaussianMixture
    _answers = SimpleNamespace(
        predict=lambda posterior, X: jnp.argmax(expected_e_step(posterior, X)[0], axis=1),
        predict_proba=lambda posterior, X: expected_e_step(posterior, X)[0],
        log_prob=lambda posterior, X: expected_e_step(posterior, X)[1],
    )

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> BayesianGaussianMixture:
        """Fit by variational Bayes, E-step and M-step by turns, as the class says.

        Args:
          X: (N, D) samples, in data units: NumPy, pandas, polars, JAX.
          y: not used.
          sample_weight: (N,) weights: zero is absent, whatever its row holds, two is seen twice.

        Returns:
          The estimator.

        Raises:
          ValueError: arguments outside their range or of another shape; X as in ``GaussianMixture.fit``; ``warm_start`` from
            another K, D, structure or prior on the weights; a start that is not finite.
          TypeError: X is sparse.

        Warns ``ConvergenceWarning`` where the start that won did not converge.

        >>> from jaxgmm.sklearn import BayesianGaussianMixture
        >>> X = [[0.0], [0.1], [0.2], [0.3], [0.4], [9.0], [9.1], [9.2], [9.3], [9.4]]
        >>> bgm = BayesianGaussianMixture(n_components=2, random_state=0).fit(X)
        >>> bgm.weights_.round(1).tolist()
        [0.5, 0.5]
        """
        X, sample_weight = weighted_samples(self, X, sample_weight, ensure_min_samples=2)
        self._check_present(X, sample_weight)
        structure = self._structure()
        self._check_arguments()
        checks.check_choice("weight_concentration_prior_type", self.weight_concentration_prior_type, KINDS)
        unit = sklearn_door.unit(X, sample_weight, vanishing=self.reg_covar > 0)
        held = self._last_fit(structure, X.shape[1])
        asked = self._asked_prior(X, sample_weight, structure)
        total = float(len(X) if sample_weight is None else sample_weight.sum(dtype=np.float64))
        away = total * X.shape[1] * math.log(unit)  # the bound of samples in data units is so much less
        talk = Talk(self.verbose, self.verbose_interval, 1.0, away)
        passes = max(self.max_iter - 1, 0)  # the first iteration is the one that evaluates the start
        before = self.lower_bound_ + away if held is not None else -np.inf
        prior = _prior(asked, self._copies(structure, self.n_components))
        X = X if unit == 1 else X / X.dtype.type(unit)
        with in_precision(X.dtype):
            data, _ = admit(*in_padded(X, sample_weight), vanishing=self.reg_covar > 0)
            _, tol, limit, _, _ = check_options(data.X, self.tol / total, passes, None, None, 0)
            noise = jnp.asarray(self.reg_covar / unit**2, X.dtype)
            numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf, X.dtype), _in_unit(prior, unit))
            if held is not None:
                here = replace(held, means=held.means / unit, cov=held.cov / unit / unit, prior=_in_unit(prior, unit))
                starts = [jax.tree.map(lambda leaf: jnp.asarray(leaf, X.dtype), here)]
            else:
                starts = self._starts(X, sample_weight, data, numbers, noise, structure)
            trace = trace_length(self.max_iter)

            def follow(start: Posterior) -> Run[Batch]:
                running = yield partial(begin, start, data, noise, trace)
                gained = float(running.lanes.carry.sums.log_likelihood[0]) - before
                if passes == 0 or abs(gained) < self.tol:
                    return running
                return (yield from rounds(running, partial(advance, data=data, noise=noise, tol=tol), int(limit), 1, talk))

            runs = [run for run in together(map(follow, starts), at_once(data.X)) if run is not None]
            ends = [jax.tree.map(np.asarray, finished(run, self.max_iter > 0)) for run in runs]
        (end, expected), bound, status, n_iter, record = max(ends, key=_standing)
        if status == Status.NONFINITE:
            raise ValueError(COLLAPSED)
        bounds = (record.astype(np.float64) - away)[: n_iter + 1].tolist()
        if n_iter + 1 > len(bounds):  # a run longer than the record
            bounds[-1] = float(bound) - away
        settled = self.max_iter > 0 and abs(bounds[0] + away - before) < self.tol
        self.__dict__.update(asked)
        self._keep(end, expected, unit)
        self.converged_ = self.max_iter > 0 and (settled or bool(status == Status.CONVERGED))
        self.n_iter_ = int(n_iter) + 1 if self.max_iter else 0
        self.lower_bounds_ = bounds if self.max_iter else []
        self.lower_bound_: float = bounds[-1] if self.max_iter else -np.inf
        self.status_ = in_words(int(status), self.converged_, self.n_iter_, [b / total for b in bounds], self.tol / total)
        talk.end(self.converged_, self.lower_bound_)
        if not self.converged_ and self.max_iter:
            warnings.warn(UNCONVERGED, ConvergenceWarning, stacklevel=2)
        return self

    @property
    def posterior_(self) -> Posterior:
        """The posterior as the core knows it: a ``Posterior`` of NumPy arrays.

        Returns:
          See ``jaxgmm.Posterior``; for tied its ``dof`` and prior are K times scikit-learn's, of the one matrix that all share.

        Raises:
          NotFittedError: before ``fit``.

        >>> from jaxgmm.sklearn import BayesianGaussianMixture
        >>> bgm = BayesianGaussianMixture(random_state=0).fit([[0.0], [1.0]])
        >>> bgm.posterior_.shrinkage.tolist()
        [3.0]
        """
        params = self.params_
        structure = params.structure
        stacked = np.ndim(self.weight_concentration_[0])  # a pair of arrays, or an array
        held: Any = {
            "concentration": np.array(self.weight_concentration_),
            "shrinkage": np.asarray(self.mean_precision_),
            "means": params.means,
            "dof": np.asarray(self.degrees_of_freedom_ * self._copies(structure, len(self.weights_))),
            "cov": params.cov,
        }
        kind = WEIGHTS["dirichlet_process" if stacked else "dirichlet"]
        prior = _prior(vars(self), self._copies(structure, len(self.weights_)))
        return Posterior(**held, prior=prior, structure=structure, weights=kind)

    @property
    def _held(self) -> Posterior:
        return self.posterior_

    def _copies(self, structure: Structure, n_components: int) -> int:
        """scikit-learn counts a shared matrix as a K-th of K."""
        return 1 if structure.by_component else n_components

    def _asked_prior(self, X: np.ndarray, weight: np.ndarray | None, structure: Structure) -> dict[str, Any]:
        """The attributes of the prior, checked, or taken from the data as scikit-learn does."""
        n_features = X.shape[1]
        shape = structure.shape(1, n_features)
        shape = shape[1:] if structure.by_component else shape
        numbers = ["weight_concentration_prior", "mean_precision_prior", "degrees_of_freedom_prior"]
        for name in numbers if shape else [*numbers, "covariance_prior"]:
            if (value := getattr(self, name)) is not None:
                checks.check_above(name, value, 0.0)
        dof = self.degrees_of_freedom_prior
        if dof is not None and dof <= n_features - 1.0:
            raise ValueError(
                f"The parameter 'degrees_of_freedom_prior' should be greater than {n_features - 1}, but got {dof:.3f}."
            )
        concentration, shrinkage = self.weight_concentration_prior, self.mean_precision_prior
        shares = np.ones(len(X), X.dtype) if weight is None else weight
        n = shares.sum() * float(np.maximum(1, (shares > 0).sum() / shares.sum()))
        mean = np.average(X, axis=0, weights=weight)
        scale: Any = self.covariance_prior
        if scale is None:
            root = (X - mean) * np.sqrt(shares / shares.sum() * (n / (n - 1)))[:, None]
            variance = (root**2).sum(axis=0)
            scale = root.T @ root if len(shape) == 2 else variance if shape else variance.mean()
        elif shape:
            name = f"{structure.name} covariance_prior"
            scale = shaped(name, scale, shape)
            check_positive(name, scale, structure)
        return {
            "weight_concentration_prior_": 1.0 / self.n_components if concentration is None else concentration,
            "mean_precision_prior_": 1.0 if shrinkage is None else shrinkage,
            "mean_prior_": mean if self.mean_prior is None else shaped("means", self.mean_prior, (n_features,)),
            "degrees_of_freedom_prior_": n_features if dof is None else dof,
            "covariance_prior_": scale,
        }

    def _last_fit(self, structure: Structure, n_features: int) -> Posterior | None:
        """The posterior to go on from, if it is asked for."""
        if not (self.warm_start and hasattr(self, "converged_")):
            return None
        held = self.posterior_
        kind = WEIGHTS[KINDS[self.weight_concentration_prior_type]]
        asked = (structure, kind, self.n_components, n_features)
        if (held.structure, held.weights, *held.means.shape) != asked:
            raise ValueError(
                f"warm_start goes on with {held.n_components} {held.structure.name} components in {held.n_features} features, "
                f"{held.weights.name}; now {asked[2]} {asked[0].name} ones in {asked[3]}, {kind.name}, are asked for. "
                "Fit a clone."
            )
        return held

    def _starts(
        self,
        X: np.ndarray,
        weight: np.ndarray | None,
        data: Data,
        prior: Hyperparameters,
        noise: Array,
        structure: Structure,
    ) -> list[Posterior]:
        """scikit-learn's starts, the same for the same seed."""
        random_state = check_random_state(self.random_state)
        kind = WEIGHTS[KINDS[self.weight_concentration_prior_type]]
        n = data.X.shape[0]
        seen = jnp.ones(n, X.dtype) if data.weight is None else data.weight
        gammas = (responsibilities(self.init_params, X, weight, self.n_components, random_state) for _ in range(self.n_init))
        return [estimated(data.X, seen, in_rows(gamma, n), prior, noise, structure, kind) for gamma in gammas]

    def _keep(self, posterior: Posterior, mixture: GMMParams, unit: float) -> None:
        """Set the attributes of a posterior of samples divided by ``unit``."""
        dtype = posterior.means.dtype.type
        self.weights_, self.means_ = np.array(mixture.weights), mixture.means * dtype(unit)
        self.covariances_ = mixture.cov * dtype(unit) * dtype(unit)
        self._fitted_structure = posterior.structure
        self.precisions_cholesky_ = precisions_cholesky(self.covariances_, posterior.structure)
        self._fitted_pair = self.precisions_cholesky_.copy(), self.covariances_.copy()
        self.precisions_ = squared(self.precisions_cholesky_, posterior.structure)
        concentration = np.array(posterior.concentration)
        self.weight_concentration_ = concentration if concentration.ndim == 1 else tuple(concentration)
        self.mean_precision_ = np.array(posterior.shrinkage)
        self.degrees_of_freedom_ = np.array(posterior.dof)[()] / self._copies(posterior.structure, posterior.n_components)


def _prior(attributes: Mapping[str, Any], copies: int) -> Hyperparameters:
    """The prior as the core knows it, from the attributes of an estimator."""
    return Hyperparameters(
        np.asarray(attributes["weight_concentration_prior_"]),
        np.asarray(attributes["mean_precision_prior_"]),
        np.asarray(attributes["mean_prior_"]),
        np.asarray(copies * attributes["degrees_of_freedom_prior_"]),
        np.asarray(copies * attributes["covariance_prior_"]),
    )


def _in_unit(prior: Hyperparameters, unit: float) -> Hyperparameters:
    """The prior of samples divided by ``unit``."""
    mean, scale = np.asarray(prior.mean), np.asarray(prior.scale)
    return replace(prior, mean=mean / unit, scale=scale / unit / unit)


def _standing(end: tuple[Any, ...]) -> float:
    """The bound of a start that ended well."""
    _, bound, status, *_ = end
    return float(bound) if status != Status.NONFINITE and np.isfinite(bound) else -np.inf
