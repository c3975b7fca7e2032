"""Random swaps: a search among the optima of the likelihood, by short runs of EM from mixtures with one component moved.

EM climbs the hill it stands on. A component that shares a cluster with another, or covers two, is rarely freed by it: between
here and there the likelihood falls. A swap takes such a component away and sets it down on a sample drawn at random; a few
passes show whether the mixture is better for it, and it is kept only then.

Source: Zhao, Hautamaki, Karkkainen and Franti (2012), "Random swap EM algorithm for Gaussian mixture models", Pattern
Recognition Letters 33.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Shaped

from jaxgmm import lanes
from jaxgmm.lanes import Lane, Samples
from jaxgmm.numerics import contract, place
from jaxgmm.params import GMMParams, mixture_centre, moved

N_SWAPS, SHORT = 96, 12
"""Swaps that are tried, and the passes of EM after each: DECISIONS 41."""

WORTH = 1e-4
"""Nats a sample by which a swap must be better: the same optimum come upon again, a little further up, is not another one."""

NARROWER = 4
"""A component that is set down has the pooled covariance over this: half the width of the others."""

TOL, FLOOR = 1e-8, 1e-6
"""Tolerance and relative covariance floor of the short runs, whatever those of the fit."""


def improved(
    key: Array, X: Shaped[Array, "N D"], weight: Float[Array, " N"], start: GMMParams, n_used: Array | int
) -> GMMParams:
    """The best of the mixtures that ``N_SWAPS`` swaps lead to from ``start``; the first ``n_used`` components take part."""
    samples = Samples(X, weight, mixture_centre(start), small=True)
    total = jnp.sum(weight)

    def climbed(params: GMMParams) -> Lane:
        lane = lanes.begin(params, samples, jnp.asarray(FLOOR, weight.dtype), None, 0, n_used)
        return lanes.advance(lane, samples, jnp.int32(SHORT), jnp.asarray(TOL, weight.dtype), None)

    def attempt(held: tuple[GMMParams, Array], key: Array) -> tuple[tuple[GMMParams, Array], None]:
        lane = climbed(swapped(key, held[0], X, weight, n_used))
        found = moved(lane.carry.state, samples.centre), lanes.standing(lane)
        better = found[1] > held[1] + WORTH * total
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), found, held), None

    first = climbed(start)
    held = moved(first.carry.state, samples.centre), lanes.standing(first)
    return lax.scan(attempt, held, jax.random.split(key, N_SWAPS))[0][0]


def swapped(
    key: Array, params: GMMParams, X: Shaped[Array, "N D"], weight: Float[Array, " N"], n_used: Array | int
) -> GMMParams:
    """One of the first ``n_used`` components, drawn evenly, is set down on a sample drawn by weight."""
    which, where = jax.random.split(key)
    moves = jnp.arange(params.n_components, dtype=jnp.int32) == jax.random.randint(which, (), 0, n_used, jnp.int32)
    sample = X[place(jax.random.uniform(where, (1,), weight.dtype), weight)[0]].astype(weight.dtype)
    dense = params.structure.dense(params.cov, params.n_components, params.n_features)
    pooled = contract("k,kij->ij", params.weights, dense) / NARROWER
    share = jnp.where(moves, 1 / jnp.asarray(n_used, weight.dtype), params.weights)
    weights = share / jnp.sum(share)
    cov = params.structure.from_dense(weights, jnp.where(moves[:, None, None], pooled[None], dense))
    return replace(params, weights=weights, means=jnp.where(moves[:, None], sample[None], params.means), cov=cov)
