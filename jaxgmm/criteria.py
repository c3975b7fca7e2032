"""Information criteria, smaller is better (scikit-learn's sign; mclust's is the opposite)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxgmm import blocks, checks
from jaxgmm.contract import deviations
from jaxgmm.em import log_likelihood, posterior_of
from jaxgmm.numerics import float_dtype, sum_compensated, weighted
from jaxgmm.params import GMMParams, cast, n_free_parameters


def aic(params: GMMParams, X: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Array:
    """Akaike's criterion, 2 m - 2 L with m free parameters and log-likelihood L, eq. (6).

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.
      sample_weight: (N,) weights, ones without.

    Returns:
      (), nats times two; smaller is better.

    Raises:
      ValueError: as ``log_likelihood``.

    Source: Akaike (1974), IEEE Transactions on Automatic Control 19.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1.0]]])
    >>> round(float(jaxgmm.aic(params, [[0.0]])), 3)
    5.838
    """
    return 2 * n_free_parameters(params) - 2 * log_likelihood(params, X, sample_weight=sample_weight)


def bic(params: GMMParams, X: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Array:
    """Schwarz's criterion, m ln n - 2 L, where n is the total weight.

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.
      sample_weight: (N,) weights, ones without.

    Returns:
      (), nats times two; smaller is better.

    Raises:
      ValueError: as ``log_likelihood``.

    Source: Schwarz (1978), Annals of Statistics 6.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1.0]]])
    >>> round(float(jaxgmm.bic(params, [[0.0], [0.0]])), 3)
    5.062
    """
    X = checks.check_samples(X, params)
    log_l = log_likelihood(params, X, sample_weight=sample_weight)
    n = float(X.shape[0]) if sample_weight is None else jnp.sum(jnp.asarray(sample_weight).astype(log_l.dtype))
    return n_free_parameters(params) * jnp.log(jnp.asarray(n).astype(log_l.dtype)) - 2 * log_l


def icl(params: GMMParams, X: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Array:
    """Integrated completed likelihood: ``bic`` - 2 sum_n w_n ln max_k gamma(z_nk), a penalty on overlap.

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.
      sample_weight: (N,) weights, ones without.

    Returns:
      (), nats times two; smaller is better.

    Raises:
      ValueError: as ``log_likelihood``.

    Source: Biernacki, Celeux and Govaert (2000), IEEE Transactions on Pattern Analysis and Machine Intelligence 22, in the
    form with the hard classification that mclust reports.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> round(float(jaxgmm.icl(params, [[0.0]]) - jaxgmm.bic(params, [[0.0]])), 3)
    1.386
    """
    X = checks.check_samples(X, params)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    return bic(params, X, sample_weight=sample_weight) - 2 * log_certainty(params, X, sample_weight)


@jax.jit
def log_certainty(params: GMMParams, X: Array, sample_weight: Array | None) -> Array:
    """sum_n w_n ln max_k gamma(z_nk)."""
    posterior = posterior_of(params := cast(params, float_dtype(X)))

    def block(x: Array, weight: Array) -> Array:
        certainty = jnp.max(posterior(deviations(params.means, x))[0], axis=0)
        return weighted(weight, jnp.log(certainty))

    size = blocks.block_size(X.shape[0], params.means.size, params.means.dtype.itemsize)
    return sum_compensated(*blocks.fold(block, (X,), sample_weight, size, params.means.dtype, params))[0]
