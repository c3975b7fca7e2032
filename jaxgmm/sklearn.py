"""The face for scikit-learn: estimators with its arguments and attributes, over the core.

Arrays that pass through here are NumPy's. float64 samples are computed in float64 and float32 in float32, whatever the global
x64 flag, which is left as it was.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from jaxgmm import batch, checks, lanes, sklearn_door
from jaxgmm.batch import Batch, Data, Plan
from jaxgmm.fitting import admit, check_options, run_parts
from jaxgmm.lanes import Added
from jaxgmm.loop import Status
from jaxgmm.padding import in_padded, in_rows
from jaxgmm.params import GMMParams, n_free_parameters
from jaxgmm.precisions import COLLAPSED, check_weights, has_inverses, inverted, precisions_cholesky, squared
from jaxgmm.result import FitResult
from jaxgmm.sklearn_answers import FittedMixture, in_precision
from jaxgmm.sklearn_bayesian import BayesianGaussianMixture
from jaxgmm.sklearn_door import shaped, weighted_samples
from jaxgmm.sklearn_starts import estimated, responsibilities, whitened_clusters
from jaxgmm.sklearn_words import UNCONVERGED, Talk, in_words, trace_length
from jaxgmm.structures import CLASSICS, Structure

__all__ = ["BayesianGaussianMixture", "GaussianMixture"]

FIELDS = ("weights", "means", "cov")


class GaussianMixture(FittedMixture):
    """A Gaussian mixture as a scikit-learn estimator: ``sklearn.mixture.GaussianMixture`` with another engine.

    Arguments, attributes and defaults are scikit-learn's. EM takes the same steps from the same start, eqs. (5), (7), (8) and
    (11), with ``reg_covar`` added to the diagonal of every covariance. What differs: beside scikit-learn's k-means starts go as
    many in whitened coordinates, and the likeliest wins; a start that collapses leaves the others be; tied from "k-means++" or
    "random_from_data" starts with the covariance of the chosen samples, not of all; samples may have weights.

    Args:
      n_components: K.
      covariance_type: "full", "tied", "diag" or "spherical".
      tol: stop when the mean log-likelihood of a sample changes by less, in nats. scikit-learn's default often stops while
        EM still creeps: ``status_`` tells.
      reg_covar: added to the diagonal of the covariances, squared data units.
      max_iter: EM iterations; 0 leaves the start as it is.
      n_init: starts, of which the likeliest is kept.
      init_params: "kmeans", "k-means++", "random" or "random_from_data"; see ``jaxgmm.initialise``.
      weights_init: (K,) weights to start from.
      means_init: (K, D) means to start from, data units.
      precisions_init: inverse covariances to start from, per squared data unit: (K, D, D) full, (D, D) tied, (K, D) diag,
        (K,) spherical.
      random_state: seed of the starts and of ``sample``. The same seed draws the starts of scikit-learn.
      warm_start: go on from the last fit.
      verbose: 1 says how far EM is, about once a second, 2 with the lower bound and the time.
      verbose_interval: at least so many iterations between two lines.

    Attributes:
      weights_: (K,) pi_k, probabilities.
      means_: (K, D) mu_k, data units.
      covariances_: Sigma_k, squared data units, in the shape of ``precisions_init``.
      precisions_: inverses of ``covariances_``, per squared data unit.
      precisions_cholesky_: upper triangular U_k with U_k U_k^T = Sigma_k^-1; square roots for diag and spherical.
      converged_: did the change fall below ``tol``?
      n_iter_: EM iterations of the start that won.
      lower_bound_: mean log-likelihood of a sample before the last M-step, nats, as in scikit-learn.
      lower_bounds_: the same after each iteration, of the first 16,384.
      status_: how the fit ended, in words, with advice.
      params_: the mixture as a ``GMMParams`` of NumPy arrays, for all functions of jaxgmm.
      n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
      ValueError: see ``fit``; the constructor looks at nothing.

    Source: scikit-learn 1.9, ``sklearn.mixture.GaussianMixture``; for EM, see ``jaxgmm.fit_from``.

    >>> import numpy as np
    >>> from jaxgmm.sklearn import GaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> sorted(gm.means_.round(6).tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    >>> bool(np.ptp(gm.predict([[0, 0], [12, 3]])))
    True
    """

    _theirs = mixture.GaussianMixture

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
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
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Fit by EM: ``jaxgmm.e_step`` and ``jaxgmm.m_step`` by turns, as the class says.

        Args:
          X: (N, D) samples, in data units: NumPy, pandas, polars, JAX.
          y: not used.
          sample_weight: (N,) weights: zero is absent, whatever its row holds, two is seen twice.

        Returns:
          The estimator.

        Raises:
          ValueError: arguments outside their range; X that is not numeric, not finite in a row of positive weight, or of fewer
            than two samples; fewer samples of positive weight than components; weights that are negative, not finite, all
            zero, or beyond the range of float32; ``warm_start`` from another K, D or structure; squares of X that leave the
            range of its dtype; covariances that collapse in every start.
          TypeError: X is sparse.

        Warns ``ConvergenceWarning`` where the start that won did not converge.

        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture(2, random_state=0).fit([[0.0], [0.2], [9.0], [9.2]], sample_weight=[1, 3, 1, 1])
        >>> sorted(gm.means_.round(3).ravel().tolist())
        [0.15, 9.1]
        """
        X, sample_weight = weighted_samples(self, X, sample_weight, ensure_min_samples=2)
        self._check_present(X, sample_weight)
        structure = self._structure()
        self._check_arguments()
        unit = sklearn_door.unit(X, sample_weight, vanishing=self.reg_covar > 0)
        given = self._given(structure, X.shape[1], X.dtype)
        given |= _in_unit(given, unit)
        passes = max(self.max_iter - 1, 0)  # an iteration of scikit-learn ends with the M-step, ours with the E-step
        settled = False
        if warm := self.warm_start and hasattr(self, "converged_"):
            held = replace(self.params_, **_in_unit(vars(self.params_), unit))
            if (held.structure, *held.means.shape) != (structure, self.n_components, X.shape[1]):
                raise ValueError(
                    f"warm_start goes on with {held.n_components} {held.structure.name} components in {held.n_features} "
                    f"features; now {self.n_components} {structure.name} ones in {X.shape[1]} are asked for. Fit a clone."
                )
            settled = abs(self._mean_log_px(X, sample_weight) - self.lower_bound_) < self.tol
            passes = 0 if settled else passes

        total = float(len(X) if sample_weight is None else sample_weight.sum(dtype=np.float64))
        volume = X.shape[1] * math.log(unit)
        talk = Talk(self.verbose, self.verbose_interval, total, volume)
        X = X if unit == 1 else X / X.dtype.type(unit)
        with in_precision(X.dtype):
            data, _ = admit(*in_padded(X, sample_weight), vanishing=self.reg_covar > 0)
            _, tol, limit, _, _ = check_options(data.X, self.tol, passes, None, None, 0)
            added = Added(jnp.asarray(self.reg_covar / unit**2, X.dtype))
            starts = [held] if warm else self._starts(X, sample_weight, data, given, added)
            n_theirs, n_lanes = min(self.n_init, len(starts)), len(starts)
            plan = Plan(structure, self.n_components, "given", None, trace_length(self.max_iter), width=1)

            def begin(lane: int) -> Batch:
                start = jax.tree.map(lambda leaf: jnp.asarray(leaf, X.dtype)[None], starts[lane])
                return batch.begin_from(start, data, added, plan)

            # Each start is a run of its own: it ends the same, bit for bit, beside any number of others, and in one program.
            runs, _ = run_parts(begin, n_lanes, 1, data, plan, tol, limit, talk)
            ends = [_end(run, self.max_iter > 0) for run in runs]
        end, converged = _likeliest(ends, n_theirs)
        if end.status == Status.NONFINITE:
            raise ValueError(COLLAPSED)
        bounds = (end.trace.astype(np.float64) / total - volume)[: end.n_iter + 1].tolist()
        if end.n_iter + 1 > len(bounds):  # a run longer than the record
            bounds[-1] = float(end.log_likelihood) / total - volume
        self._keep(replace(end.params, **_in_unit(vars(end.params), 1 / unit)))
        self.converged_ = self.max_iter > 0 and (settled or bool(converged))
        self.n_iter_ = int(end.n_iter) + 1 if self.max_iter else 0
        self.lower_bounds_ = bounds if self.max_iter else []
        self.lower_bound_: float = bounds[-1] if self.max_iter else -np.inf
        self.status_ = in_words(int(end.status), self.converged_, self.n_iter_, bounds, self.tol)
        talk.end(self.converged_, self.lower_bound_)
        if not self.converged_ and self.max_iter:
            warnings.warn(UNCONVERGED, ConvergenceWarning, stacklevel=2)
        return self

    @classmethod
    def from_params(cls, params: GMMParams, **arguments: Any) -> GaussianMixture:
        """An estimator that holds a mixture as if it had been fitted.

        Args:
          params: one mixture, full, tied, diag or spherical.
          arguments: further ones of the constructor.

        Returns:
          A fitted estimator.

        Raises:
          ValueError: ``params`` is not one mixture, is of a structure that scikit-learn does not have, or a covariance has no
            inverse.
          TypeError: arguments that the constructor does not know, or that ``params`` says.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
        >>> GaussianMixture.from_params(params).predict([[-3.0], [2.0]]).tolist()
        [0, 1]
        """
        checks.check_params(params)
        if params.structure.name not in CLASSICS:
            raise ValueError(
                f"scikit-learn knows {', '.join(CLASSICS)}, but params is {params.structure.name!r}. As 'full' the same "
                "mixture is GMMParams.from_moments(params.weights, params.means, jaxgmm.covariances(params))."
            )
        made = cls(params.n_components, covariance_type=params.structure.name, **arguments)
        made._keep(jax.tree.map(np.asarray, params))
        made.n_features_in_ = params.n_features
        made.converged_, made.n_iter_, made.lower_bound_, made.lower_bounds_ = True, 0, -np.inf, []
        made.status_ = "not fitted here: made from parameters."
        return made

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike's information criterion, 2 m - 2 L with m free parameters and log-likelihood L, eq. (6).

        Args:
          X: (N, D) samples, in the units of ``means_``.
          sample_weight: (N,) weights, ones without: zero is absent, two is seen twice.

        Returns:
          nats times two; smaller is better.

        Raises:
          ValueError, TypeError, NotFittedError: as ``score``.

        Source: see ``jaxgmm.aic``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> round(gm.aic([[0.0]]), 3)
        12.838
        """
        mean = self.score(X, sample_weight=sample_weight)
        return 2 * self._n_parameters() - 2 * mean * _total(X, sample_weight)

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """The Bayesian information criterion, m ln n - 2 L, n the total weight.

        Args:
          X: (N, D) samples, in the units of ``means_``.
          sample_weight: (N,) weights, ones without: zero is absent, two is seen twice.

        Returns:
          nats times two; smaller is better.

        Raises:
          ValueError, TypeError, NotFittedError: as ``score``.

        Source: see ``jaxgmm.bic``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> round(gm.bic([[0.0], [0.0]]), 3)
        9.141
        """
        mean = self.score(X, sample_weight=sample_weight)
        total = _total(X, sample_weight)
        return self._n_parameters() * math.log(total) - 2 * mean * total

    def _n_parameters(self) -> int:
        return n_free_parameters(self.params_)

    def _given(self, structure: Structure, n_features: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """What was given to start from, checked, by the names of ``GMMParams``."""
        shape = structure.shape(self.n_components, n_features)
        found = {}
        for field, name, value, expected in (
            ("weights", "weights", self.weights_init, (self.n_components,)),
            ("means", "means", self.means_init, (self.n_components, n_features)),
            ("cov", f"{structure.name} precision", self.precisions_init, shape),
        ):
            if value is not None:
                found[field] = shaped(name, value, expected)
        if "weights" in found:
            check_weights(found["weights"])
        if "cov" in found:
            found["cov"] = inverted(found["cov"], structure)
        return {field: array.astype(dtype) for field, array in found.items()}

    def _starts(
        self, X: np.ndarray, weight: np.ndarray | None, data: Data, given: dict[str, Any], added: Added
    ) -> list[GMMParams]:
        """scikit-learn's starts, the same for the same seed; beside those of its k-means as many of ours."""
        structure = self._structure()
        if len(given) == len(FIELDS):
            return [GMMParams(given["weights"], given["means"], given["cov"], structure)]
        random_state = check_random_state(self.random_state)

        def start(gamma: np.ndarray) -> GMMParams:
            n = data.X.shape[0]
            seen = np.ones(n, X.dtype) if data.weight is None else data.weight
            return jax.tree.map(np.asarray, estimated(data.X, seen, in_rows(gamma, n), added, structure))

        starts = [
            start(responsibilities(self.init_params, X, weight, self.n_components, random_state)) for _ in range(self.n_init)
        ]
        if self.init_params == "kmeans" and not given:  # given parts go with the order of scikit-learn's clusters
            apart = deepcopy(random_state)  # the caller's goes on as with scikit-learn
            starts += [start(whitened_clusters(X, weight, self.n_components, apart)) for _ in range(self.n_init)]
        return [replace(found, **given) for found in starts]

    def _keep(self, params: GMMParams) -> None:
        """Set the attributes of a mixture."""
        # Copies: what JAX hands out cannot be written to.
        self.weights_, self.means_, self.covariances_ = map(np.array, (params.weights, params.means, params.cov))
        self._fitted_structure = params.structure
        self.precisions_cholesky_ = precisions_cholesky(self.covariances_, params.structure)
        self._fitted_pair = self.precisions_cholesky_.copy(), self.covariances_.copy()
        self.precisions_ = squared(self.precisions_cholesky_, params.structure)


def _in_unit(parts: Mapping[str, Any], unit: float) -> dict[str, Any]:
    """What of a mixture depends on the unit of X, in samples divided by ``unit``."""
    powers = {"means": 1, "cov": 2}
    return {name: parts[name] if unit == 1 else _divided(parts[name], unit, powers[name]) for name in powers if name in parts}


def _divided(array: np.ndarray, unit: float, times: int) -> np.ndarray:
    for _ in range(times):  # the square of the unit may leave the range of the dtype
        array = array / array.dtype.type(unit)
    return array


def _end(run: Batch, stepped: bool) -> tuple[FitResult, Any]:
    """``_finished`` in NumPy. A last M-step that collapses a component is not taken: the step before it is a mixture still."""
    end = jax.tree.map(np.asarray, _finished(run, stepped))
    return end if not stepped or has_inverses(end[0].params) else jax.tree.map(np.asarray, _finished(run, False))


@partial(jax.jit, static_argnames="stepped")
def _finished(run: Batch, stepped: bool) -> tuple[FitResult, Array]:
    """The end of a run of one lane, and whether it converged; ``stepped`` by the M-step that ends scikit-learn's iterations."""
    lane = jax.tree.map(lambda leaf: leaf[0], run.lanes)
    carry = lane.carry
    if stepped:
        carry = carry._replace(state=lanes.maximise(carry.state, carry.sums, lane.setting))
    return lanes.finish(lane._replace(carry=carry), run.centre), carry.status == Status.CONVERGED


def _likeliest(ends: list[tuple[FitResult, Any]], n_theirs: int) -> tuple[FitResult, Any]:
    """The likeliest end. One of ours that is degenerate comes last; of theirs, the first ``n_theirs``, all count, as there."""

    def rank(place: int) -> tuple[int, float]:
        result = ends[place][0]
        if result.status == Status.NONFINITE or not np.isfinite(result.log_likelihood) or not has_inverses(result.params):
            return 0, 0.0
        return 1 if result.status == Status.DEGENERATE and place >= n_theirs else 2, float(result.log_likelihood)

    return ends[max(range(len(ends)), key=rank)]


def _total(X: Any, sample_weight: Any) -> float:
    return float(len(X) if sample_weight is None else np.sum(sample_weight, dtype=np.float64))
