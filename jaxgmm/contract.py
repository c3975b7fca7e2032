"""The contractions over samples: log densities of a block, and its moments.

Samples come feature-major, (D, B), and centred per component: at an offset of many standard deviations a form about one
shared centre would lose digits to cancellation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm import blocks
from jaxgmm.numerics import sum_compensated
from jaxgmm.structures import Structure
from jaxgmm.structures.base import Whitener
from jaxgmm.sums import Statistics


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
    samples: tuple[Array, ...],
    sample_weight: Array | None,
    assign: Callable[..., tuple[Array, Array]],
    centre: Float[Array, " D"] | None = None,
    block_size: int | None = None,
) -> Statistics:
    """One pass over X: the sums, about ``means``, of samples assigned to components.

    Args:
      structure: says which second moments are needed.
      means: mu_k, relative to ``centre``.
      samples: X (N, D), and whatever else of shape (N, ...) ``assign`` needs.
      sample_weight: (N,) or None.
      assign: (diff, *further blocks) -> gamma (K, B) and log p(x) (B,).
      centre: subtracted from each sample first, so that in float32 the means keep digits that an offset would take.
      block_size: samples a block; None chooses by the size of the temporaries.
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
            weight,
            jnp.sum(gamma, axis=-1),
            first,
            structure.second_moment(gamma, diff),
            jnp.where(present, weight * log_px, 0),
        )

    dtype = means.dtype
    size = block_size or blocks.block_size(samples[0].shape[0], n_components * n_features, dtype.itemsize)
    sums, lost = blocks.fold(step, samples, sample_weight, min(size, samples[0].shape[0]), dtype, means)
    (weight, count, first, second, log_px), (weight_lost, *lost_moments, log_px_lost) = sums, lost
    log_likelihood, log_likelihood_lost = sum_compensated(log_px, log_px_lost)
    count, first, second = jax.tree.map(jnp.add, (count, first, second), tuple(lost_moments))
    weight, _ = sum_compensated(weight, weight_lost)
    return Statistics(weight, count, first, second, log_likelihood, log_likelihood_lost)
