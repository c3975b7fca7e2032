"""The mixture as a value: weights, means, covariances."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm.checks import check_array, check_params, is_traced
from jaxgmm.checks_params import check_centre, check_definite, check_free
from jaxgmm.numerics import T, float_dtype, weighted_quantile
from jaxgmm.rounding import difference
from jaxgmm.structures import Structure, get_structure


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class GMMParams:
    """A Gaussian mixture p(x) = sum_k pi_k N(x | mu_k, Sigma_k), eq. (1): an immutable pytree.

    Attributes:
      weights: (K,) pi_k, non-negative, of sum one, eqs. (2) and (3).
      means: (K, D) mu_k, data units.
      cov: the covariances in squared data units, stored as the structure stores them: (K, D, D) full, (D, D) tied,
        (K, D) diag, (K,) spherical, (K, D, Q + 1) ``FactorAnalyzers``; of the other families each says so itself.
        ``covariances`` is (K, D, D) for all.
      structure: static; how ``cov`` is to be read. Under ``vmap`` the arrays have leading axes more.

    >>> import jax.numpy as jnp
    >>> from jaxgmm import GMMParams
    >>> params = GMMParams.from_moments([0.5, 0.5], [[0.0], [3.0]], [[[1.0]], [[4.0]]], covariance_type="diag")
    >>> params.cov.shape
    (2, 1)
    """

    weights: Array  # (K,)
    means: Array  # (K, D)
    cov: Array  # per structure
    structure: Structure = field(metadata={"static": True})

    @property
    def n_components(self) -> int:
        """K."""
        return self.means.shape[-2]

    @property
    def n_features(self) -> int:
        """D."""
        return self.means.shape[-1]

    @staticmethod
    def from_moments(
        weights: ArrayLike, means: ArrayLike, covariances: ArrayLike, covariance_type: str | Structure = "full"
    ) -> GMMParams:
        """Build a mixture from numbers, without a fit.

        Args:
          weights: (K,) non-negative; scaled to sum one.
          means: (K, D), data units.
          covariances: (K, D, D) positive definite, squared data units, whatever the structure. A narrower structure takes the
            likeliest member of its family: the diagonal, the mean of the diagonal, the average over components, ...
          covariance_type: name of the structure: one of mclust's fourteen (EII to VVV), or full (VVV), tied (EEE),
            diag (VVI), spherical (VII); or ``FactorAnalyzers``.

        Returns:
          The mixture, in the dtype of ``means``.

        Raises:
          ValueError: what is not numeric; shapes that do not fit; weights that are negative, not finite, or all zero; means
            that are not finite; a matrix that is not symmetric positive definite; a structure of no known name.

        >>> from jaxgmm import GMMParams
        >>> GMMParams.from_moments([1, 3], [[0.0], [1.0]], [[[1.0]], [[1.0]]]).weights.tolist()
        [0.25, 0.75]
        """
        arrays = [check_array(n, v) for n, v in (("weights", weights), ("means", means), ("covariances", covariances))]
        w, mu, sigma = arrays
        if mu.ndim != 2 or 0 in mu.shape:
            raise ValueError(f"means must have shape (K, D); got {mu.shape}.")
        n_components, n_features = mu.shape
        structure = get_structure(covariance_type, n_features)
        if w.shape != (n_components,):
            raise ValueError(f"weights must have shape ({n_components},), one a component; got {w.shape}.")
        if sigma.shape != (n_components, n_features, n_features):
            raise ValueError(
                f"covariances must have shape ({n_components}, {n_features}, {n_features}), a matrix a component whatever "
                f"the structure; got {sigma.shape}."
            )
        if not is_traced(arrays):
            _check_moments(*(np.asarray(a, np.float64) for a in arrays))
        dtype = float_dtype(mu)
        w, mu, sigma = (jnp.asarray(a).astype(dtype) for a in arrays)
        w = w / jnp.sum(w)
        return GMMParams(w, mu, _from_dense(structure, w, sigma), structure)


@partial(jax.jit, static_argnums=0)
def _from_dense(structure: Structure, weights: Array, dense: Array) -> Array:
    return structure.from_dense(weights, dense)


def _check_moments(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> None:
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError(f"weights must be finite and not negative, one at least positive; got {weights}.")
    if not np.isfinite(means).all():
        raise ValueError("means must be finite.")
    for k, sigma in enumerate(covariances):
        check_definite(f"covariances[{k}]", sigma)


def cast(tree: T, dtype: jnp.dtype) -> T:
    """The same mixture, or posterior, in another dtype."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), tree)


def moved(params: GMMParams, offset: ArrayLike) -> GMMParams:
    """The mixture of ``x + offset``, or each of several of ``x`` plus its own, in the dtype of the means."""
    return replace(params, means=params.means + jnp.asarray(offset).astype(params.means.dtype)[..., None, :])


def less(params: GMMParams, offset: np.ndarray | None, dtype: jnp.dtype) -> GMMParams:
    """The mixture of ``x - offset`` in another dtype, to which means are rounded once they are small."""
    return cast(params if offset is None else replace(params, means=difference(params.means, offset, dtype)), dtype)


def lens_of(params: GMMParams) -> Array | None:
    """What the sums are taken through under this mixture, see ``Structure.lens``."""
    return params.structure.lens(params.cov, params.n_components, params.n_features)


def mixture_centre(params: GMMParams) -> Float[Array, " D"]:
    """What to subtract from samples so that those of every component keep their digits: see ``best_centre``."""
    return best_centre(params.means, digits_needed(params))


def digits_needed(params: GMMParams) -> Float[Array, "K D"]:
    """pi_k / sd_k: samples of component k that are moved by a length lose so many roundings of it, relative to their spread.

    No spread counts as less than one rounding of the mean, which is all that samples there can resolve.
    """
    spread = jnp.sqrt(params.structure.variances(params.cov, params.n_components, params.n_features))
    spread = jnp.maximum(spread, jnp.finfo(spread.dtype).eps * jnp.abs(params.means))
    return params.weights[:, None] / jnp.where(spread > 0, spread, jnp.inf)


def best_centre(means: Float[Array, "K D"], need: Float[Array, "K D"]) -> Float[Array, " D"]:
    """The point c that minimises sum_k need_k |mu_k - c|, a median, feature by feature; the origin where that is not finite.

    A mean would follow the component of a single far outlier.
    """
    centre = weighted_quantile(means, need, 0.5)
    return jnp.where(jnp.isfinite(centre), centre, 0)


def covariances(params: GMMParams) -> Array:
    """Covariances as full matrices, whatever the structure.

    Sigma_k for full, Sigma for tied, diag(sigma_k1^2 ... sigma_kD^2) for diag, sigma_k^2 times the identity for spherical,
    R_k R_k^T for those that store roots (EVE, VVE, EEV, VEV), L_k L_k^T + Psi_k for factor analysers.

    Args:
      params: a mixture of K components in D dimensions.

    Returns:
      (K, D, D), squared data units.

    Raises:
      ValueError: ``params`` is not one mixture: no ``GMMParams``, or a batch of them.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.0, 0.0]], [[[2.0, 0.0], [0.0, 4.0]]], "spherical")
    >>> jaxgmm.covariances(params).tolist()
    [[[3.0, 0.0], [0.0, 3.0]]]
    """
    check_params(params)
    return params.structure.dense(jnp.asarray(params.cov), params.n_components, params.n_features)


def n_free_parameters(params: GMMParams) -> int:
    """Free parameters of the mixture, m = K - 1 + K D + c: weights, means, and those of the covariances.

    c = K D (D + 1) / 2 for full, D (D + 1) / 2 for tied, K D for diag, K for spherical. Of mclust's families in general: one
    volume or K, D - 1 of shape once or K times, D (D - 1) / 2 of orientation never, once or K times. Of factor analysers:
    D Q - Q (Q - 1) / 2 of loadings and D or 1 of noise, once or K times each, but no more than the covariances themselves have.

    Args:
      params: a mixture of K components in D dimensions.

    Returns:
      m, an integer: the number that ``aic`` and ``bic`` charge for.

    Raises:
      ValueError: ``params`` is not one mixture.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.0, 0.0]], [[[2.0, 0.0], [0.0, 4.0]]])
    >>> jaxgmm.n_free_parameters(params)
    5
    """
    check_params(params)
    n_components, n_features = params.n_components, params.n_features
    return n_components - 1 + n_components * n_features + params.structure.n_free(n_components, n_features)


def to_free(params: GMMParams, unit: ArrayLike | None = None) -> GMMParams:
    """The mixture as unconstrained numbers, for gradient steps, or for a network that ends in a mixture.

    Args:
      params: a mixture of K components in D dimensions.
      unit: (D,) what features are measured in, data units; ones without. Standard deviations make directions alike.

    Returns:
      A ``GMMParams`` of other numbers: ``weights`` are ln pi_k, means in ``unit``, and ``cov`` as many numbers as the
      covariances have freedom: logarithms of standard deviations (diag, spherical), logarithms of volumes and shapes, and
      angles of axes (the others); but whole matrices for full, (K, D, D), and tied, (D, D), Cholesky factors with logarithms on
      their diagonals: what is above these counts for nothing.

    Raises:
      ValueError: ``params`` is not one mixture; a unit of another shape, or not positive.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[3.0]], [[[4.0]]], "diag")
    >>> jaxgmm.to_free(params, [2.0]).means.tolist()
    [[1.5]]
    """
    check_params(params)
    params, measure = cast(params, float_dtype(params.means)), _measure(params, unit)
    log_weights = jnp.log(jnp.maximum(params.weights, jnp.finfo(params.weights.dtype).tiny))
    cov = params.structure.to_free(params.cov, measure)
    return GMMParams(log_weights, params.means / measure[None], cov, params.structure)


def from_free(free: GMMParams, unit: ArrayLike | None = None) -> GMMParams:
    """The way back from ``to_free``: whatever the numbers are, a mixture of the family.

    Args:
      free: of the form that ``to_free`` returns. A constant added to ``free.weights`` changes nothing: pi = softmax of them.
      unit: (D,) that of ``to_free``; ones without.

    Returns:
      The mixture.

    Raises:
      ValueError: ``free`` is not the numbers of one mixture, or has more or fewer than such a mixture; a unit of another shape,
        or not positive.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0], [3.0]], [[[1.0]], [[4.0]]], "diag")
    >>> jaxgmm.from_free(jaxgmm.to_free(params)).cov.round(3).tolist()
    [[1.0], [4.0]]
    """
    check_params(free)
    shape = _free_shape(free.structure, free.n_components, free.n_features)
    check_free(free, shape)
    free, measure = cast(free, float_dtype(free.means)), _measure(free, unit)
    cov = free.structure.from_free(free.cov, measure, free.n_components)
    return GMMParams(jax.nn.softmax(free.weights), free.means * measure[None], cov, free.structure)


@cache
def _free_shape(structure: Structure, n_components: int, n_features: int) -> tuple[int, ...]:
    """Shape of the free coordinates of covariances."""
    numbers = (jax.ShapeDtypeStruct(s, np.float32) for s in (structure.shape(n_components, n_features), (n_features,)))
    return jax.eval_shape(structure.to_free, *numbers).shape


def _measure(params: GMMParams, unit: Any) -> Float[Array, " D"]:
    """The unit of each feature, ones without."""
    dtype = float_dtype(params.means)
    known = check_centre(unit, params.n_features, "unit")
    if known is not None and not is_traced(known) and not (np.isfinite(known).all() and (np.asarray(known) > 0).all()):
        raise ValueError(f"unit must hold positive, finite numbers; got {np.asarray(known).tolist()}.")
    return jnp.ones(params.n_features, dtype) if known is None else jnp.asarray(known).astype(dtype)
