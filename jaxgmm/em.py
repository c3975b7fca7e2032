"""The equations of expectation-maximisation for Gaussian mixtures.

A mixture of K Gaussians has the density, eq. (1), with weights under eqs. (2) and (3)::

    p(x) = sum_k pi_k N(x | mu_k, Sigma_k),    0 <= pi_k <= 1,    sum_k pi_k = 1.

Let z be the one-hot indicator of the component that x came from. Its posterior is the responsibility, eq. (4),
gamma(z_nk) = p(z_nk = 1 | x_n). Setting the derivatives of the log-likelihood L to zero gives the M-step; the weights
are bound to sum one by a Lagrange multiplier.

Source: Dempster, Laird and Rubin (1977), "Maximum likelihood from incomplete data via the EM algorithm"; Bishop (2006),
"Pattern Recognition and Machine Learning", section 9.2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

from jaxgmm import blocks, checks, checks_params, contract
from jaxgmm.contract import deviations, log_gaussians, moments
from jaxgmm.numerics import contract as multiply
from jaxgmm.numerics import (
    divide_or_keep,
    float_dtype,
    largest_of,
    sum_compensated,
    typical_where_constant,
    weighted,
    weighted_quantile,
)
from jaxgmm.params import GMMParams, cast, lens_of, mixture_centre, moved
from jaxgmm.priors import Prior, cast_prior, counts, pseudo_observations
from jaxgmm.structures.base import Inner
from jaxgmm.sums import Statistics

SINGLE_VALUE = 1e-20
"""A component is on a single value of a feature if its variance is less than this share of that between components, or than
rounding leaves of none: EM comes near without end, and of factors no zero is exact."""


def bayes(weights: Float[Array, " K"], log_density: Float[Array, "K B"]) -> tuple[Float[Array, "K B"], Float[Array, " B"]]:
    """Responsibilities by Bayes' theorem, eq. (5), and ln p(x) by eq. (1), for a block of samples.

    The largest term is taken out of the sum before it is exponentiated. The weights stay outside of the logarithm, so that
    the derivative in pi_k is N(x | mu_k, Sigma_k) / p(x), right for pi_k = 0 as well; the cap keeps a component without
    weight from overflowing and is never reached by another.
    """
    largest = largest_of(lax.stop_gradient(log_density + jnp.log(weights)[:, None]))
    largest = jnp.where(largest == -jnp.inf, 0, largest)  # beyond the range of the dtype: ln p(x) is -inf, not NaN
    cap = jnp.log(jnp.finfo(log_density.dtype).max) - 1
    density = jnp.exp(jnp.minimum(log_density - largest[None], cap))
    evidence = multiply("k,kb->b", weights, density)  # 10 % of a pass faster than a sum of the products, at K = 8
    return weights[:, None] * density / evidence[None], largest + jnp.log(evidence)


def posterior_of(params: GMMParams) -> Callable[[Float[Array, "K D B"]], tuple[Array, Array]]:
    """Eq. (5) of a mixture as a function of ``x - mu_k``; the covariances are factored once."""
    whitener = params.structure.whitener(params.cov, params.n_components, params.n_features)
    return lambda diff: bayes(params.weights, log_gaussians(params.structure, whitener, diff))


def e_step(params: GMMParams, X: ArrayLike) -> tuple[Array, Array]:
    """The E-step, eq. (5): responsibilities, and the terms of the log-likelihood.

        gamma(z_nk) = pi_k N(x_n | mu_k, Sigma_k) / sum_j pi_j N(x_n | mu_j, Sigma_j)

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.

    Returns:
      gamma (N, K), probabilities, rows of sum one, and ln p(x_n) (N,) in nats. A row of X holding NaN gives NaN; for a sample
      so far that its density underflows the logarithm, too, ln p(x_n) is -inf and gamma NaN.

    Raises:
      ValueError: X is not numeric, empty, not two-dimensional, or has another D than ``params``; ``params`` is not one
        mixture.

    Source: Dempster, Laird and Rubin (1977), Journal of the Royal Statistical Society B 39.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> gamma, log_px = jaxgmm.e_step(params, [[0.0], [9.0]])
    >>> gamma.round(3).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    return _e_step(params, checks.check_samples(X, params))


@jax.jit
def _e_step(params: GMMParams, X: Shaped[Array, "N D"]) -> tuple[Array, Array]:
    posterior = posterior_of(params := cast(params, float_dtype(X)))

    def block(x: Float[Array, "D B"]) -> tuple[Array, Array]:
        gamma, log_px = posterior(deviations(params.means, x))
        return gamma.T, log_px

    size = blocks.block_size(X.shape[0], params.means.size, params.means.dtype.itemsize)
    return blocks.map_samples(block, X, size, params.means.dtype)


def m_step(
    params: GMMParams,
    X: ArrayLike,
    gamma: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    covariance_floor: ArrayLike | None = None,
    prior: Prior | None = None,
) -> GMMParams:
    """The M-step, eqs. (7), (8) and (11): the parameters that maximise Q at fixed responsibilities.

    Of factor analysers a step that raises it, as the factors are missing, too. Forward-mode derivatives in every structure;
    reverse mode not where updates are repeated (VEI, VEV, VEE, EVE, VVE).

        N_k = sum_n gamma_nk,  mu_k = sum_n gamma_nk x_n / N_k,
        Sigma_k = sum_n gamma_nk (x_n - mu_k)(x_n - mu_k)^T / N_k,  pi_k = N_k / N

    Args:
      params: says the structure and the centre of the sums; a component without weight, less than ten roundings of the
        total (1.2e-6 in float32), keeps its mean and covariance.
      X: (N, D) samples, in the units of ``params.means``.
      gamma: (N, K) responsibilities.
      sample_weight: (N,) weights w_n, by which gamma_nk is multiplied: zero is absent, two is seen twice.
      covariance_floor: see ``fit_from``, but relative to the components of ``gamma``; None for no bound.
      prior: samples that each component has seen besides, see ``Prior``; then Q plus ln p is maximised.

    Returns:
      The mixture of these responsibilities, in the dtype of X.

    Raises:
      ValueError: X as in ``e_step``; gamma of another shape, negative, not finite, or all zero; a floor as in ``maximise``;
        weights that are negative, not finite, all zero, or beyond the range of float32.

    Source: see ``e_step``.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> X = [[0.0], [2.0], [9.0], [11.0]]
    >>> jaxgmm.m_step(params, X, [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).means.tolist()
    [[1.0], [10.0]]
    """
    X = checks.check_samples(X, params)
    gamma = checks.check_gamma(gamma, X.shape[0], params.n_components)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    covariance_floor = checks.check_covariance_floor(covariance_floor, params.n_features)
    return _m_step(params, X, gamma, sample_weight, covariance_floor, checks_params.check_prior(prior, params.n_features))


@jax.jit
def _m_step(
    params: GMMParams,
    X: Array,
    gamma: Array,
    sample_weight: Array | None,
    covariance_floor: Array | None,
    prior: Prior | None,
) -> GMMParams:
    params = cast(params, float_dtype(X))

    def given(diff: Float[Array, "K D B"], gamma: Float[Array, "K B"]) -> tuple[Array, Array]:
        return gamma, jnp.zeros_like(gamma[0])

    sums = moments(params.structure, params.means, lens_of(params), (X, gamma), sample_weight, given)
    return maximise(params, sums, covariance_floor=covariance_floor, prior=prior)


def log_likelihood(params: GMMParams, X: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Array:
    """The log-likelihood, eq. (6), in nats: L = sum_n w_n ln sum_k pi_k N(x_n | mu_k, Sigma_k).

    Differentiable in ``params`` and in X, to any order, in forward and reverse mode.

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.
      sample_weight: (N,) weights w_n, ones without.

    Returns:
      () nats, a sum over samples, not a mean.

    Raises:
      ValueError: X as in ``e_step``; weights that are negative, not finite, all zero, or beyond the range of float32.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1.0]]])
    >>> round(float(jaxgmm.log_likelihood(params, [[0.0]])), 4)
    -0.9189
    """
    X = checks.check_samples(X, params)
    return _log_likelihood(params, X, checks.check_sample_weight(sample_weight, X.shape[0]))


@jax.jit
def _log_likelihood(params: GMMParams, X: Shaped[Array, "N D"], sample_weight: Shaped[Array, " N"] | None) -> Array:
    posterior = posterior_of(params := cast(params, float_dtype(X)))

    def block(x: Float[Array, "D B"], weight: Float[Array, " B"]) -> Array:
        return weighted(weight, posterior(deviations(params.means, x))[1])

    size = blocks.block_size(X.shape[0], params.means.size, params.means.dtype.itemsize)
    return sum_compensated(*blocks.fold(block, (X,), sample_weight, size, params.means.dtype, params))[0]


def statistics(
    params: GMMParams,
    X: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    centre: ArrayLike | None = None,
    block_size: int | None = None,
) -> Statistics:
    """E-step and sums in one pass over X, block by block: eqs. (5) and (6) and the sums of (7), (8) and (11).

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in data units.
      sample_weight: (N,) weights: zero is absent, two is seen twice.
      centre: (D,) what ``params.means`` are relative to, data units; the origin without.
      block_size: samples a block; the result depends on it by rounding only.

    Differentiable in forward and reverse mode, at every size.

    Returns:
      Sums that add: those of two sets of samples, under the same ``params``, are those of both.

    Raises:
      ValueError: X as in ``e_step``; a centre of another shape; ``block_size`` not an integer of at least one; weights that
        are negative, not finite, all zero, or beyond the range of float32.

    Source: see ``e_step``.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> both = jaxgmm.statistics(params, [[0.0], [2.0]]) + jaxgmm.statistics(params, [[-2.0]])
    >>> both.count.round(2).tolist()
    [1.5, 1.5]
    """
    X = checks.check_samples(X, params)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    if block_size is not None:
        block_size = checks.check_int("block_size", block_size, 1)
    centre = checks_params.check_centre(centre, params.n_features)
    params = cast(params, float_dtype(X))
    if centre is None:  # the fast forms want an origin amid the components
        centre = mixture_centre(params)
        params = moved(params, -centre)
    return collect(params, X, sample_weight, centre, block_size=block_size)


@partial(jax.jit, static_argnames=("block_size", "lanes", "form"))
def collect(
    params: GMMParams,
    X: Shaped[Array, "N D"],
    sample_weight: Shaped[Array, " N"] | None,
    centre: Float[Array, " D"] | None = None,
    *,
    block_size: int | None = None,
    lanes: str | None = None,
    form: int | None = None,
) -> Statistics:
    """``statistics`` without the door; ``lanes`` and ``form`` are those of ``contract.expect``."""
    params = cast(params, float_dtype(X))
    return contract.expect(params, X, sample_weight, bayes, centre, block_size, lanes, form)


def maximise(
    params: GMMParams, stats: Statistics, *, covariance_floor: ArrayLike | None = None, prior: Prior | None = None
) -> GMMParams:
    """The M-step from sums: eqs. (7), (8) and (11), the covariances inside the bound.

    Args:
      params: the mixture under which ``stats`` were taken, so the moments are about ``params.means``.
      stats: sums of ``statistics``.
      covariance_floor: see ``fit_from``, but relative to the components of ``stats``; None for no bound.
      prior: samples that each component has seen besides, see ``Prior``.

    Returns:
      The mixture, in the dtype of ``stats``.

    Raises:
      ValueError: ``params`` is not one mixture; a floor that is neither a finite number of at least zero nor a (D,) array of
        positive, finite ones.

    Source: see ``e_step``.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> X = [[-3.0], [0.0], [1.0], [4.0]]
    >>> one_turn = jaxgmm.maximise(params, jaxgmm.statistics(params, X))
    >>> bool(jaxgmm.log_likelihood(one_turn, X) > jaxgmm.log_likelihood(params, X))
    True
    """
    checks.check_params(params)
    covariance_floor = checks.check_covariance_floor(covariance_floor, params.n_features)
    prior = checks_params.check_prior(prior, params.n_features)
    params = cast(params, stats.first.dtype)
    floor = None if covariance_floor is None else absolute_floor(params, stats, covariance_floor)
    if prior is not None:
        prior = cast_prior(prior, stats.first.dtype)
        stats = stats + pseudo_observations(prior, params)
    return maximised(params, stats, floor, prior)


@partial(jax.jit, static_argnames="inner")
def maximised(
    params: GMMParams,
    stats: Statistics,
    floor: Float[Array, " D"] | None,
    prior: Prior | None = None,
    used: Float[Array, " K"] | None = None,
    *,
    inner: Inner = Inner.END,
) -> GMMParams:
    """``maximise`` without the door, inside an absolute bound, from sums that hold the prior's.

    ``inner`` is that of ``Structure.estimate``; a prior sees the components that are ``used``.
    """
    structure, lens = params.structure, lens_of(params)
    of_mean, of_cov, of_weight = counts(prior, stats.count, used)
    shift = divide_or_keep(stats.first, of_mean, jnp.zeros_like(stats.first))
    means = params.means + shift  # eq. (7): the mean of x is the mean of x - mu, moved
    scatter = structure.recentre(lens, of_mean, shift, stats.second)
    cov = structure.estimate(of_cov, scatter, params.cov, floor, inner)  # eq. (8) within the family
    return GMMParams(of_weight / jnp.sum(of_weight), means, cov, structure)  # eqs. (10), (11): lambda = N


def absolute_floor(params: GMMParams, stats: Statistics, covariance_floor: ArrayLike) -> Array:
    """The covariance floor as (D,) variances in squared data units.

    A number is relative to the variance of each feature within components, the lower quartile by weight over the components in
    which the feature varies: the pooled mean would follow a single far outlier, and a cluster on a single value, such as a code
    for what is missing, says nothing of the others. A feature without variance takes the mean scale of the others, or 1.
    """
    floor = jnp.asarray(covariance_floor).astype(stats.first.dtype)
    if floor.ndim == 1:
        return floor
    shift = divide_or_keep(stats.first, stats.count, jnp.zeros_like(stats.first))
    lens = lens_of(params)
    scatter = params.structure.recentre(lens, stats.count, shift, stats.second)
    variance, weight = params.structure.feature_variance(lens, stats.count, scatter)
    means = params.means + shift
    share = (stats.count / jnp.sum(stats.count))[:, None]
    between = jnp.sum(share * (means - jnp.sum(share * means, axis=0, keepdims=True)) ** 2, axis=0)
    still = max(SINGLE_VALUE, float(jnp.finfo(variance.dtype).eps) ** 2)
    varies = (variance > 0) & ~(variance <= still * between[None])  # so said that a mean that is no number decides nothing
    scale = weighted_quantile(variance, jnp.where(varies, weight[:, None], 0), 0.25)
    # Every component on a single value: the spread between them.
    scale = jnp.where(jnp.any(varies & (weight > 0)[:, None], axis=0), scale, between)
    return floor * typical_where_constant(scale)


def expected_log_likelihood(params: GMMParams, X: ArrayLike, gamma: Array, *, sample_weight: ArrayLike | None = None) -> Array:
    """Q = sum_nk w_n gamma_nk ln(pi_k N(x_n | mu_k, Sigma_k)), which the M-step maximises at fixed gamma.

    Its gradient in mu_k and Sigma_k vanishes at eqs. (7) and (8). Holds all (N, K) terms at once.
    """
    X = checks.check_samples(X, params)
    dtype = float_dtype(X)
    params = cast(params, dtype)
    whitener = params.structure.whitener(params.cov, params.n_components, params.n_features)
    diff = deviations(params.means, jnp.asarray(X).astype(dtype).T)
    holds = jnp.any(gamma.T > 0, axis=1)  # a component that holds nothing takes no part, in slopes neither
    log_weights = jnp.log(jnp.where(holds, params.weights, 1))
    log_joint = log_weights[:, None] + log_gaussians(params.structure, whitener, diff)
    log_joint = jnp.where(gamma.T > 0, log_joint, 0)
    weight = jnp.ones(X.shape[0], dtype) if sample_weight is None else jnp.asarray(sample_weight).astype(dtype)
    return jnp.sum(weight[None] * gamma.T * log_joint)


def lagrangian(objective: Array, weights: Float[Array, " K"], multiplier: ArrayLike) -> Array:
    """The Lagrangian J = L + lambda (1 - sum_k pi_k), eq. (9), of an objective under eq. (3).

    dJ/dpi_k = N_k / pi_k - lambda = 0; times pi_k and summed over k this gives lambda = N, eq. (10), hence
    pi_k = N_k / N, eq. (11).
    """
    return objective + multiplier * (1 - jnp.sum(weights))
