"""The mixture as a density: evaluate, classify, sample, take moments."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxgmm import blocks, checks
from jaxgmm.contract import deviations
from jaxgmm.em import e_step, posterior_of
from jaxgmm.numerics import contract, float_dtype, place
from jaxgmm.params import GMMParams, cast, covariances


def log_prob(params: GMMParams, X: ArrayLike) -> Array:
    """Log density of each sample, eq. (1): ln p(x_n) = ln sum_k pi_k N(x_n | mu_k, Sigma_k).

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.

    Returns:
      (N,) nats (per unit volume of data space), in the dtype of X; the (N, K) responsibilities are never held.

    Raises:
      ValueError: as ``e_step``.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1.0]]])
    >>> [round(float(value), 4) for value in jaxgmm.log_prob(params, [[0.0], [1.0]])]
    [-0.9189, -1.4189]
    """
    return _log_prob(params, checks.check_samples(X, params))


@jax.jit
def _log_prob(params: GMMParams, X: Array) -> Array:
    posterior = posterior_of(params := cast(params, float_dtype(X)))
    size = blocks.block_size(X.shape[0], params.means.size, params.means.dtype.itemsize)
    return blocks.map_samples(lambda x: posterior(deviations(params.means, x))[1], X, size, params.means.dtype)


def predict_proba(params: GMMParams, X: ArrayLike) -> Array:
    """Responsibilities of the components for each sample, gamma(z_nk) by eq. (5); see ``e_step``.

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.

    Returns:
      (N, K), probabilities, rows of sum one, or NaN as in ``e_step``.

    Raises:
      ValueError: as ``e_step``.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> jaxgmm.predict_proba(params, [[0.0]]).tolist()
    [[0.5, 0.5]]
    """
    return e_step(params, X)[0]


def predict(params: GMMParams, X: ArrayLike) -> Array:
    """The component with the largest responsibility for each sample, argmax_k gamma(z_nk), eq. (5).

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.

    Returns:
      (N,) int32 labels, counted from 0 in the order of ``params.weights``; a row whose responsibilities are NaN (it
      holds NaN, or lies so far out that every density underflows) gives 0.

    Raises:
      ValueError: as ``e_step``.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> jaxgmm.predict(params, [[-3.0], [0.5]]).tolist()
    [0, 1]
    """
    return _predict(params, checks.check_samples(X, params))


@jax.jit
def _predict(params: GMMParams, X: Array) -> Array:
    posterior = posterior_of(params := cast(params, float_dtype(X)))
    size = blocks.block_size(X.shape[0], params.means.size, params.means.dtype.itemsize)

    def block(x: Array) -> Array:
        return jnp.argmax(jnp.nan_to_num(posterior(deviations(params.means, x))[0]), axis=0).astype(jnp.int32)

    return blocks.map_samples(block, X, size, params.means.dtype)


def sample(key: Array, params: GMMParams, n: int) -> tuple[Array, Array]:
    """Draw from the mixture: a component k with probability pi_k, then a point from N(mu_k, Sigma_k).

    Args:
      key: random key.
      params: a mixture.
      n: how many.

    Returns:
      samples (n, D), data units, and the component of each (n,) int32.

    Raises:
      ValueError: n is not an integer of at least one; key is not one key; ``params`` is not one mixture.

    >>> import jax, jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-9.0], [9.0]], [[[1.0]], [[1.0]]])
    >>> X, label = jaxgmm.sample(jax.random.key(0), params, 5)
    >>> bool(((X[:, 0] > 0) == (label == 1)).all())
    True
    """
    checks.check_params(params)
    return _sample(checks.check_key(key), params, checks.check_int("n", n, 1))


@partial(jax.jit, static_argnames="n")
def _sample(key: Array, params: GMMParams, n: int) -> tuple[Array, Array]:
    params = cast(params, float_dtype(params.means))
    which, where = jax.random.split(key)
    label = place(jax.random.uniform(which, (n,), params.weights.dtype), params.weights).astype(jnp.int32)
    noise = jax.random.normal(where, (n, params.structure.n_noise(params.n_features)), params.means.dtype)
    root = params.structure.root(params.cov)

    def draw(pair: tuple[Array, Array]) -> Array:
        return params.means[pair[0]] + params.structure.colour(root, *pair)

    # In batches: a root of D x D per sample would be gathered at once otherwise.
    return jax.lax.map(draw, (label, noise), batch_size=min(n, 1024)), label


def mixture_mean(params: GMMParams) -> Array:
    """E[x] = sum_k pi_k mu_k.

    Args:
      params: a mixture of K components in D dimensions.

    Returns:
      (D,), data units.

    Raises:
      ValueError: ``params`` is not one mixture: no ``GMMParams``, or a batch of them.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> jaxgmm.mixture_mean(params).tolist()
    [0.0]
    """
    checks.check_params(params)
    params = cast(params, float_dtype(params.means))
    return contract("k,kd->d", params.weights, params.means)


def mixture_covariance(params: GMMParams) -> Array:
    """Cov[x] = sum_k pi_k (Sigma_k + (mu_k - E[x])(mu_k - E[x])^T), the law of total covariance.

    Args:
      params: a mixture of K components in D dimensions.

    Returns:
      (D, D), squared data units.

    Raises:
      ValueError: ``params`` is not one mixture: no ``GMMParams``, or a batch of them.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> jaxgmm.mixture_covariance(params).tolist()
    [[2.0]]
    """
    checks.check_params(params)
    params = cast(params, float_dtype(params.means))
    away = params.means - mixture_mean(params)[None]
    within = contract("k,kij->ij", params.weights, covariances(params))
    return within + contract("k,ki,kj->ij", params.weights, away, away)
