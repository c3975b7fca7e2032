"""Criteria by which mixtures are compared, smaller is better (scikit-learn's sign; mclust's is the opposite)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxgmm import blocks, checks, lanes
from jaxgmm.contract import deviations
from jaxgmm.em import log_likelihood, posterior_of
from jaxgmm.initial import GIVEN_FLOOR, from_responsibilities, present
from jaxgmm.lanes import Samples
from jaxgmm.numerics import float_dtype, sum_compensated, weighted
from jaxgmm.params import GMMParams, cast, mixture_centre, moved, n_free_parameters
from jaxgmm.structures import Structure

MAX_ITER, TOL = 5000, 1e-9
"""Of the run by which factor analysers of one component are fitted."""


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
    """Schwarz's criterion, m ln n - 2 L, where n is the total weight: weights that add up to one leave nothing of the penalty.

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
    return bic(params, X, sample_weight=sample_weight) - 2 * overlap(params, X, sample_weight).log_certainty


def entropy(params: GMMParams, X: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Array:
    """How much components overlap on X: E = -sum_n w_n sum_k gamma(z_nk) ln gamma(z_nk), with eq. (5).

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.
      sample_weight: (N,) weights, ones without.

    Returns:
      (), nats, from 0 where every sample clearly belongs to one component to N ln K.

    Raises:
      ValueError: as ``log_likelihood``.

    Source: Celeux and Soromenho (1996), Journal of Classification 13.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    >>> round(float(jaxgmm.entropy(params, [[0.0], [99.0]])), 4)  # ln 2 of the first
    0.6931
    """
    X = checks.check_samples(X, params)
    return overlap(params, X, checks.check_sample_weight(sample_weight, X.shape[0])).entropy


def nec(params: GMMParams, X: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Array:
    """Normalised entropy criterion: ``entropy`` of K components for each nat that they gain over one, E / (L - L(1)).

    L(1) is the likelihood of one component of the same structure, by one M-step. One component itself has the value 1: more
    are groups only where their criterion is smaller.

    Args:
      params: a mixture of K components in D dimensions.
      X: (N, D) samples, in the units of ``params.means``.
      sample_weight: (N,) weights, ones without.

    Returns:
      (), smaller is better; infinite where K components are no likelier than one.

    Raises:
      ValueError: as ``log_likelihood``.

    Source: Celeux and Soromenho (1996), Journal of Classification 13; Biernacki, Celeux and Govaert (1999), Pattern
    Recognition Letters 20, for one component.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0], [9.0]], [[[1.0]], [[1.0]]])
    >>> bool(jaxgmm.nec(params, [[-1.0], [1.0], [8.0], [10.0]]) < 0.01)
    True
    """
    X = checks.check_samples(X, params)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    if params.n_components == 1:
        return jnp.ones((), float_dtype(X))
    single = log_likelihood_of_one(X, sample_weight, params.structure)
    gain = log_likelihood(params, X, sample_weight=sample_weight) - single
    disorder = overlap(params, X, sample_weight).entropy
    return jnp.where(gain > 0, disorder / jnp.where(gain > 0, gain, 1), jnp.inf)


@partial(jax.jit, static_argnames="structure")
def log_likelihood_of_one(X: Array, sample_weight: Array | None, structure: Structure) -> Array:
    """The highest L of one component: after an M-step, but of factor analysers, whose factors are missing, too."""
    weight = present(X, sample_weight)
    one = from_responsibilities(X, weight, jnp.ones((X.shape[0], 1), weight.dtype), 1, structure)
    if structure.lens(one.cov, 1, X.shape[1]) is not None:
        # At a maximum L follows the samples as if the mixture stood still, so no derivative goes through the run.
        one, seen, weights = lax.stop_gradient((one, X, sample_weight))
        samples = Samples(seen, weights, mixture_centre(one))
        lane = lanes.begin(one, samples, jnp.asarray(GIVEN_FLOOR, weight.dtype), "squarem", 0)
        lane = lanes.advance(lane, samples, jnp.int32(MAX_ITER), jnp.asarray(TOL, weight.dtype), "squarem")
        one = moved(lane.carry.state, samples.centre)
    return log_likelihood(one, X, sample_weight=sample_weight)


class Overlap(NamedTuple):
    """How sure the classification of samples is."""

    log_certainty: Array  # () sum_n w_n ln max_k gamma(z_nk)
    entropy: Array  # () -sum_n w_n sum_k gamma(z_nk) ln gamma(z_nk)


@jax.jit
def overlap(params: GMMParams, X: Array, sample_weight: Array | None) -> Overlap:
    """Both in one pass; a component without weight adds nothing."""
    posterior = posterior_of(params := cast(params, float_dtype(X)))

    def block(x: Array, weight: Array) -> Overlap:
        gamma, log_px = posterior(deviations(params.means, x))
        gamma = jnp.where(log_px[None] == -jnp.inf, 0, gamma)  # beyond the reach of all components: of none
        certain = gamma == 0  # gamma ln gamma tends to zero, and its slope is cut there
        terms = jnp.where(certain, 0, -gamma * jnp.log(jnp.where(certain, 1, gamma)))
        return Overlap(weighted(weight, jnp.log(jnp.max(gamma, axis=0))), weighted(weight, jnp.sum(terms, axis=0)))

    size = blocks.block_size(X.shape[0], params.means.size, params.means.dtype.itemsize)
    total, lost = blocks.fold(block, (X,), sample_weight, size, params.means.dtype, params)
    return Overlap(*(sum_compensated(*pair)[0] for pair in zip(total, lost, strict=True)))
