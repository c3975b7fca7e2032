"""The contractions over samples: log densities of a block, and its moments.

Samples come feature-major, (D, B). There are three ways to the same sums, from the fastest to the safest:

* ``EXPANDED``: |W_k (x - mu_k)|^2 = x^T P_k x - 2 x^T P_k mu_k + mu_k^T P_k mu_k about a centre that all components share. The
  products of features are formed once a block; one large multiplication gives all densities and another all sums, K D^2
  operations a sample each (an addition and a multiplication for each of the D (D + 1) / 2 products).
* ``WHITENED``: W_k x - W_k mu_k, again one large multiplication (2 K D^2 a sample), with the sums of ``EXPANDED``.
* ``CENTRED``: W_k (x - mu_k) and sums about mu_k, component by component.

What cancels. In the first form |W_k mu_k|^2, which each of its three terms holds, and in x^T P_k x the products P_ij x_i
x_j, of size s_i P_ij s_j for a typical sample of component k, where s_k^2 = diag Sigma_k + mu_k^2. Partial sums of the one
and independent roundings of the other leave an error of u (|W_k mu_k|^2 + D + the Frobenius norm of s_i P_ij s_j) nats,
times 0.2 to 2.0, u the unit roundoff (80 cases, D = 2 to 128, DECISIONS 25): quadratic in the separation of the components
in standard deviations. In the second form the coordinates are rounded by u | |W_k| s_k |, and the density errs by at most
0.3 times that: linear in the separation. The third form loses nothing to separation. A pass takes the first form whose
estimate, the mean over samples sum_k pi_k of these, is within ``BUDGET``. The error of the sums of the first two is the
first estimate relative to Sigma_k. It moves the likelihood by its square only, as the M-step stands at a maximum, but a
component of few samples could be lost in it unseen: it is within ``SUMS_BUDGET`` on average and for each component that
has the samples which its covariance needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from jaxgmm import blocks
from jaxgmm.numerics import apply_if, contract, divide_or_keep, sum_compensated, varying_with, weighted
from jaxgmm.params import GMMParams
from jaxgmm.structures import Full, Structure
from jaxgmm.structures.base import Expandable, Whitener
from jaxgmm.sums import Statistics

EXPANDED, WHITENED, CENTRED = range(3)

BUDGET = 1e-4
"""Nats a sample that rounding may move the log density by, beyond what the centred form does."""

SUMS_BUDGET = 1e-2
"""Relative error of a covariance, in its own metric, that the sums may have."""


SMALL = 1 << 15
"""Products N K D^2 of a pass below which the program holds the centred form alone, whatever is safe: it compiles in two thirds
of the time (2.4 instead of 3.7 s), and a pass of 8 lanes over 272 x 2 samples, K = 3, takes 36 us instead of 29 us."""


def log_gaussians(structure: Structure, whitener: Whitener, diff: Float[Array, "K D B"]) -> Float[Array, "K B"]:
    """ln N(x | mu_k, Sigma_k) from ``diff = x - mu_k``."""
    white = structure.whiten(whitener.factor, diff)
    constant = diff.shape[1] * math.log(2 * math.pi) + whitener.log_det
    return -0.5 * (jnp.sum(white * white, axis=1) + constant[:, None])


def deviations(means: Float[Array, "K D"], x: Float[Array, "D B"]) -> Float[Array, "K D B"]:
    """x - mu_k for every sample of a block and every component."""
    return x[None, :, :] - means[:, :, None]


def moments(
    structure: Structure,
    means: Float[Array, "K D"],
    lens: Array | None,
    samples: tuple[Array, ...],
    sample_weight: Array | None,
    assign: Callable[..., tuple[Array, Array]],
    centre: Float[Array, " D"] | None = None,
    block_size: int | None = None,
    n_lanes: int = 1,
) -> Statistics:
    """One pass over X: the sums, about ``means``, of samples assigned to components.

    Args:
      structure: says which second moments are needed.
      means: mu_k, relative to ``centre``.
      lens: what the structure looks through, see ``Structure.lens``.
      samples: X (N, D), and whatever else of shape (N, ...) ``assign`` needs.
      sample_weight: (N,) or None.
      assign: (diff, *further blocks) -> gamma (K, B) and log p(x) (B,).
      centre: subtracted from each sample first, so that in float32 the means keep digits that an offset would take.
      block_size: samples a block; None chooses by the size of the temporaries.
      n_lanes: how many runs side by side have temporaries of their own.
    """
    n_components, n_features = means.shape

    def step(x: Array, *others: Array) -> tuple[Array, ...]:
        *further, weight = others
        if centre is not None:
            x = x - centre[:, None]
        diff = deviations(means, x)
        gamma, log_px = assign(diff, *further)
        present = weight > 0
        gamma = jnp.where(present[None], gamma * weight[None], 0)
        first = jnp.sum(gamma[:, None, :] * diff, axis=-1)
        return (
            jnp.sum(weight),
            jnp.sum(gamma, axis=-1),
            first,
            structure.second_moment(lens, gamma, diff),
            weighted(weight, log_px),
        )

    # Deviations, white coordinates and weighted deviations, (K, D, B) each.
    per_sample = 4 * n_lanes * n_components * n_features
    size = block_size or blocks.block_size(samples[0].shape[0], per_sample, means.dtype.itemsize)
    return Statistics(*_fold(step, samples, sample_weight, size, means))


def mean_and_scatter(X: Array, weight: Float[Array, " N"]) -> tuple[Float[Array, " D"], Float[Array, "D D"], Float[Array, ""]]:
    """Of all samples: their mean, sum_n w_n (x_n - mean)(x_n - mean)^T, and their weight."""

    def all_to_one(diff: Float[Array, "1 D B"]) -> tuple[Array, Array]:
        return jnp.ones_like(diff[:, 0]), jnp.zeros_like(diff[0, 0])

    # The moments are taken about a sample, so an offset of the data costs no digits.
    about = X[jnp.argmax(weight > 0)][None].astype(weight.dtype)
    about = jnp.where(jnp.isfinite(about), about, 0)
    sums = moments(Full(), about, None, (X,), weight, all_to_one)
    shift = sums.first / jnp.maximum(sums.weight, jnp.finfo(weight.dtype).tiny)
    return about[0] + shift[0], Full().recentre(None, sums.count, shift, sums.second)[0], sums.weight


def expect(
    params: GMMParams,
    X: Array,
    sample_weight: Array | None,
    bayes: Callable[..., tuple[Array, Array]],
    centre: Float[Array, " D"] | None = None,
    block_size: int | None = None,
    lanes: str | None = None,
    form: int | None = None,
    whitener: Whitener | None = None,
) -> Statistics:
    """The E-step and its sums in one pass over X, in the fastest form that is safe if no other is asked for.

    Args:
      params: the mixture, its means relative to ``centre``.
      X: (N, D) samples.
      sample_weight: (N,) or None.
      bayes: (weights, log densities (K, B)) -> gamma (K, B) and log p(x) (B,).
      centre: what is subtracted from each sample, and what the components share in the fast forms.
      block_size: samples a block; None chooses by the size of the temporaries.
      lanes: name of a ``vmap`` axis of restarts over the same samples, which then take the same form.
      form: ``EXPANDED`` or ``CENTRED``, unseen, in a structure that has it; a program with one form compiles sooner.
      whitener: that of the covariances, where it is known.
    """
    structure = params.structure
    whitener = whitener or structure.whitener(params.cov, params.n_components, params.n_features)

    def posterior(diff: Float[Array, "K D B"]) -> tuple[Array, Array]:
        return bayes(params.weights, log_gaussians(structure, whitener, diff))

    def centred(_: Statistics | None) -> Statistics:
        factor = whitener.factor
        return moments(structure, params.means, factor, (X,), sample_weight, posterior, centre, block_size, n_lanes)

    n_lanes = jax.lax.axis_size(lanes) if lanes else 1
    if form is None and X.shape[0] * params.means.size * params.n_features < SMALL:
        form = CENTRED
    if form == CENTRED or not isinstance(structure, Expandable):
        return centred(None)

    def expanded(whitened: bool, _: Statistics | None) -> Statistics:
        return _expanded(structure, params, whitener, whitened, X, sample_weight, bayes, centre, block_size, n_lanes)

    if form is not None:
        return expanded(False, None)
    safe = safe_form(structure, params, whitener, X.shape[0])
    if lanes:
        safe = jax.lax.pmax(safe, lanes)

    forms: dict[int, Callable[[Statistics], Statistics]] = {EXPANDED: partial(expanded, False), CENTRED: centred}
    if structure.separate:
        forms[WHITENED] = partial(expanded, True)
    sums = varying_with(_nothing(structure, params.means), X, sample_weight, params.means)
    for name, function in forms.items():
        sums = apply_if(safe == name, function, sums)
    return sums


def _nothing(structure: Expandable, means: Float[Array, "K D"]) -> Statistics:
    """The sums over no samples."""
    second = structure.like_moments(means)
    zero, count = jnp.zeros((), means.dtype), jnp.zeros_like(means[:, 0])
    return Statistics(zero, count, jnp.zeros_like(means), jnp.zeros(second.shape, second.dtype), zero, zero)


def safe_form(structure: Expandable, params: GMMParams, whitener: Whitener, n_samples: int) -> Integer[Array, ""]:
    """The fastest form whose rounding stays within the budgets, from the mixture and the number of samples alone."""
    quadratic, linear = structure.reach(whitener.factor, params.cov, params.means)
    share = jnp.where(params.weights > 0, params.weights, 0)
    unit = jnp.finfo(params.means.dtype).eps / 2
    # The error is about twice the first at most, and 0.3 times the second.
    quadratic, linear = (unit * jnp.where(share > 0, size, 0) for size in (2 * quadratic, linear))
    determined = share * n_samples >= structure.least_weight(params.n_features)  # the others are degenerate anyway
    mean, largest = jnp.sum(share * quadratic), jnp.max(jnp.where(determined, quadratic, 0))
    summable = jnp.maximum(mean, largest) <= SUMS_BUDGET
    expandable = summable & (mean <= BUDGET)
    whitenable = summable & structure.separate & (jnp.sum(share * linear) <= BUDGET)
    return jnp.select([expandable, whitenable], [EXPANDED, WHITENED], CENTRED).astype(jnp.int32)


def _expanded(
    structure: Expandable,
    params: GMMParams,
    whitener: Whitener,
    whitened: bool,
    X: Array,
    sample_weight: Array | None,
    bayes: Callable[..., tuple[Array, Array]],
    centre: Float[Array, " D"] | None,
    block_size: int | None,
    n_lanes: int,
) -> Statistics:
    """``EXPANDED``, or ``WHITENED``."""
    means, factor = params.means, whitener.factor
    n_components, n_features = means.shape
    volume = -0.5 * (n_features * math.log(2 * math.pi) + whitener.log_det)
    coefficients = structure.coefficients(factor, means)
    white_means = structure.whiten(factor, means[:, :, None])

    def step(x: Float[Array, "D B"], weight: Float[Array, " B"]) -> tuple[Array, tuple[Array, ...], Array]:
        if centre is not None:
            x = x - centre[:, None]
        features = structure.features(factor, x)
        if whitened:
            white = contract("kij,jb->kib", factor, x) - white_means
            exponent = -jnp.sum(white * white, axis=1) / 2
        else:
            exponent = reduce(jnp.add, [contract("kf,fb->kb", c, f) for c, f in zip(coefficients, features, strict=True)])
        gamma, log_px = bayes(params.weights, volume[:, None] + exponent)
        present = weight > 0
        gamma = jnp.where(present[None], gamma * weight[None], 0)
        return jnp.sum(weight), structure.sum_features(gamma, features), weighted(weight, log_px)

    shapes = jax.eval_shape(structure.features, factor, jax.ShapeDtypeStruct((n_features, 1), means.dtype))
    per_lane = n_components * (n_features if whitened else 3)
    per_sample = n_lanes * per_lane + n_features + sum(shape.shape[0] for shape in shapes)
    size = block_size or blocks.block_size(X.shape[0], per_sample, means.dtype.itemsize, n_lanes * n_components)
    weight, sums, *log_likelihood = _fold(step, (X,), sample_weight, size, means)
    count, first, second = structure.unpack(sums, n_features)
    # From moments about the centre to moments about the new means, and on to those about the old.
    new = divide_or_keep(first, count, means)
    shift = new - means
    scatter = structure.recentre(None, count, new, second)
    return Statistics(weight, count, count[:, None] * shift, structure.recentre(None, -count, shift, scatter), *log_likelihood)


def _fold(
    step: Callable[..., tuple[Any, ...]], samples: tuple[Array, ...], sample_weight: Array | None, size: int, means: Array
) -> tuple[Any, ...]:
    """Sum what a step returns over all blocks; of the last, the log densities, the sum and what rounding lost in it."""
    sums, lost = blocks.fold(step, samples, sample_weight, min(size, samples[0].shape[0]), means.dtype, means)
    return *jax.tree.map(jnp.add, sums[:-1], lost[:-1]), *sum_compensated(sums[-1], lost[-1])
