"""Random swaps: a search among the optima of the likelihood, by short runs of EM from mixtures with one component moved.

EM climbs the hill it stands on. A component that shares a cluster with another, or covers two, is rarely freed by it: between
here and there the likelihood falls. A swap takes such a component away and sets it down on a sample drawn at random; a few
passes show whether the mixture is better for it, and it is kept only then. A trial is given up as soon as a few more passes as
good as its last would not bring it up to what is held: most are not worth more than four.

Source: Zhao, Hautamaki, Karkkainen and Franti (2012), "Random swap EM algorithm for Gaussian mixture models", Pattern
Recognition Letters 33.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Shaped

from jaxgmm import em, lanes
from jaxgmm.lanes import Samples, Setting
from jaxgmm.numerics import contract, place, varying_with
from jaxgmm.params import GMMParams, mixture_centre, moved
from jaxgmm.structures.base import Inner

TURNS_EACH, ROW_TURNS = 300, 1 << 20
"""Passes of a search for each component, and the most samples that all of them look at together: DECISIONS 41."""

LEAST, MOST = 3, 30
"""The fewest and most passes that a trial is given; the start is the first."""

REACH = 5
"""A trial goes on while so many times the gain of its last pass would make it better than what is held."""

WORTH = 1e-4
"""Nats a sample by which a trial must be better: the same optimum come upon again, a little further up, is not another one, and
the run of EM that follows takes what is left."""

NARROWEST = 100
"""A component that is set down has the pooled covariance over a factor from 1 to this, its logarithm drawn evenly."""


class Swap(NamedTuple):
    """Which component is set down where, and how narrow."""

    component: Array  # () int32
    sample: Array  # (D,) relative to the centre
    narrower: Array  # () what the pooled covariance is divided by


class Search(NamedTuple):
    """A search under way."""

    held: GMMParams  # the best so far
    worth: Array  # () its ``lanes.standing``, nats
    trial: GMMParams  # what is looked at next
    log_likelihood: Array  # () of the trial a pass ago; -inf where there was none
    age: Array  # () int32, passes since the swap


def n_turns(n_samples: int, n_components: int) -> int:
    """Passes over so many samples."""
    return min(TURNS_EACH * n_components, ROW_TURNS // n_samples)


def improved(
    key: Array, X: Shaped[Array, "N D"], weight: Float[Array, " N"], start: GMMParams, n_used: Array | int
) -> GMMParams:
    """The best mixture that a search from ``start`` comes upon; the first ``n_used`` components take part."""
    samples = Samples(X, weight, mixture_centre(start), small=True)
    total, n_used = jnp.sum(weight), jnp.asarray(n_used, jnp.int32)
    first, unit = moved(start, -samples.centre), jnp.ones_like(samples.centre)
    setting = Setting(jnp.zeros_like(unit), unit, jnp.ones_like(total), n_used, None)  # weights count as samples already

    def turn(search: Search, swap: Swap) -> tuple[Search, None]:
        sums = lanes.expect(search.trial, samples)
        gain = sums.log_likelihood - search.log_likelihood
        found = lanes.standing(search.trial, sums, setting)
        better = found > search.worth + WORTH * total
        held, worth = where(better, (search.trial, found), (search.held, search.worth))
        hopeless = sums.log_likelihood + REACH * gain < worth + WORTH * total
        over = (found == -jnp.inf) | (search.age >= MOST) | (hopeless & (search.age >= LEAST))
        climbed = em.maximised(search.trial, sums, None, inner=Inner.FEW)  # without a floor: a spike is given up before
        trial = where(over, swapped(held, swap, n_used), climbed)
        before = jnp.where(over, -jnp.inf, sums.log_likelihood)
        return Search(held, worth, trial, before, jnp.where(over, 0, search.age + 1)), None

    nothing = jnp.full_like(total, -jnp.inf)
    search = Search(first, nothing, first, nothing, jnp.int32(0))
    swaps = draws(key, n_turns(X.shape[0], start.n_components), X, weight, samples.centre, n_used)
    return moved(lax.scan(turn, varying_with(search, X, weight), swaps)[0].held, samples.centre)


def draws(
    key: Array, n: int, X: Shaped[Array, "N D"], weight: Float[Array, " N"], centre: Float[Array, " D"], n_used: Array
) -> Swap:
    """``n`` swaps: a component in use drawn evenly, a sample by weight."""
    which, row, width = jax.random.split(key, 3)
    sample = X[place(jax.random.uniform(row, (n,), weight.dtype), weight)].astype(weight.dtype) - centre[None]
    narrower = NARROWEST ** jax.random.uniform(width, (n,), weight.dtype)
    return Swap(jax.random.randint(which, (n,), 0, n_used, jnp.int32), sample, narrower)


def swapped(params: GMMParams, swap: Swap, n_used: Array) -> GMMParams:
    """The mixture with one component set down elsewhere, of equal share."""
    moves = jnp.arange(params.n_components, dtype=jnp.int32) == swap.component
    dense = params.structure.dense(params.cov, params.n_components, params.n_features)
    pooled = contract("k,kij->ij", params.weights, dense) / swap.narrower
    share = jnp.where(moves, 1 / n_used.astype(params.weights.dtype), params.weights)
    weights = share / jnp.sum(share)
    cov = params.structure.from_dense(weights, jnp.where(moves[:, None, None], pooled[None], dense))
    means = jnp.where(moves[:, None], swap.sample[None], params.means)
    return replace(params, weights=weights, means=means, cov=cov)


def where(condition: Bool[Array, ""], these: Any, those: Any) -> Any:
    """One pytree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), these, those)
