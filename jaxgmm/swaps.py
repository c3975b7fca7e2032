"""Random swaps: a search among the optima of the likelihood, by short runs of EM from mixtures with one component moved.

EM climbs the hill it stands on. A component that shares a cluster with another, or covers two, is rarely freed by it: between
here and there the likelihood falls. A swap takes such a component away and sets another down; a few passes show whether the
mixture is better for it, and it is kept only then. A trial is given up as soon as a few more passes as good as its last would
not bring it up to what is held: most are not worth more than three.

What is set down is round and at a sample drawn at random, or a component of another mixture: a search holds several, side by
side, one from its start and the others from components scattered over the samples, and what one has found the others may
borrow.

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

TURNS_EACH, ROW_TURNS = 360, 1 << 20
"""Passes of a search for each component but one, and the most samples that all of them look at together: DECISIONS 41."""

FEWEST_EACH, HELD = 60, 4
"""The fewest passes, for each component, that a mixture of several gets, and the most mixtures that a search holds."""

LENT = 0.8
"""The share of swaps that set down what another mixture holds."""

OTHERS = "held"
"""Name of the axis of mixtures that a search holds."""

LEAST, MOST = 2, 30
"""The fewest and most passes that a trial is given; the start is the first."""

REACH = 5
"""A trial goes on while so many times the gain of its last pass would make it better than what is held."""

WORTH = 1e-4
"""Nats a sample by which a trial must be better: the same optimum come upon again, a little further up, is not another one, and
the run of EM that follows takes what is left."""

NARROWEST = 100
"""A component that is set down has the pooled covariance over a factor from 1 to this, its logarithm drawn evenly."""


class Swap(NamedTuple):
    """Which component leaves, and what comes in its place: one that another mixture holds, or a round one at a sample."""

    component: Array  # () int32
    lent: Array  # () bool
    lender: Array  # () int32, how many mixtures further on
    loan: Array  # () int32, which of its components
    sample: Array  # (D,) relative to the centre
    narrower: Array  # () what the pooled covariance is divided by


class Component(NamedTuple):
    """Several, or one, of a mixture; all arrays have a leading axis."""

    weight: Array  # (n,)
    mean: Array  # (n, D)
    cov: Array  # (n, D, D)


class Search(NamedTuple):
    """A search under way."""

    held: GMMParams  # the best so far
    worth: Array  # () its ``lanes.standing``, nats
    trial: GMMParams  # what is looked at next
    log_likelihood: Array  # () of the trial a pass ago; -inf where there was none
    age: Array  # () int32, passes since the swap


def n_turns(n_samples: int, n_components: int) -> tuple[int, int]:
    """Mixtures that are held, and passes over so many samples for each."""
    passes = min(TURNS_EACH * (n_components - 1), ROW_TURNS // n_samples)
    n_held = min(max(passes // (FEWEST_EACH * n_components), 1), HELD)
    return n_held, passes // n_held


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

    def begun(seeds: Swap) -> Search:
        own, nothing = lax.axis_index(OTHERS) == 0, jnp.full_like(total, -jnp.inf)
        return Search(first, nothing, where(own, first, scattered(first, seeds, n_used)), nothing, jnp.int32(0))

    n_held, n = n_turns(X.shape[0], start.n_components)
    seeding, swapping = jax.random.split(key)
    seeds = draws(seeding, (start.n_components, n_held), X, weight, samples.centre, n_used)
    swaps = draws(swapping, (n, n_held), X, weight, samples.centre, n_used)
    searches = jax.vmap(begun, in_axes=1, axis_name=OTHERS)(seeds)
    ends = lax.scan(jax.vmap(turn, axis_name=OTHERS), varying_with(searches, X, weight), swaps)[0]
    return moved(jax.tree.map(lambda leaf: leaf[jnp.argmax(ends.worth)], ends.held), samples.centre)


def draws(
    key: Array,
    shape: tuple[int, int],
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    centre: Float[Array, " D"],
    n_used: Array,
) -> Swap:
    """Swaps for each of ``shape[1]`` mixtures: components in use drawn evenly, samples by weight."""
    leaves, lent, lender, loan, row, width = jax.random.split(key, 6)
    n_held = shape[1]
    return Swap(
        jax.random.randint(leaves, shape, 0, n_used, jnp.int32),
        jax.random.bernoulli(lent, LENT, shape) & (n_held > 1),
        jax.random.randint(lender, shape, 1, max(n_held, 2), jnp.int32),
        jax.random.randint(loan, shape, 0, n_used, jnp.int32),
        X[place(jax.random.uniform(row, shape, weight.dtype), weight)].astype(weight.dtype) - centre[None, None],
        NARROWEST ** jax.random.uniform(width, shape, weight.dtype),
    )


def scattered(params: GMMParams, seeds: Swap, n_used: Array) -> GMMParams:
    """The mixture with every component in use set down elsewhere, one seed each."""
    dense = params.structure.dense(params.cov, params.n_components, params.n_features)
    used = jnp.arange(params.n_components, dtype=jnp.int32) < n_used
    return exchanged(params, dense, used, set_down(params, dense, seeds, n_used))


def swapped(params: GMMParams, swap: Swap, n_used: Array) -> GMMParams:
    """The mixture with another component in the place of one; within a ``vmap`` over what is held, named ``OTHERS``."""
    dense = params.structure.dense(params.cov, params.n_components, params.n_features)
    everyone = lax.all_gather(Component(params.weights, params.means, dense), OTHERS)
    lender = (lax.axis_index(OTHERS) + swap.lender) % lax.axis_size(OTHERS)
    borrowed = jax.tree.map(lambda leaf: leaf[lender, swap.loan][None], everyone)
    new = where(swap.lent, borrowed, set_down(params, dense, jax.tree.map(lambda leaf: leaf[None], swap), n_used))
    leaves = jnp.arange(params.n_components, dtype=jnp.int32) == swap.component
    return exchanged(params, dense, leaves, new)


def set_down(params: GMMParams, dense: Float[Array, "K D D"], swaps: Swap, n_used: Array) -> Component:
    """Components of equal share, one for each swap: at its sample, round as the pooled covariance is."""
    pooled = contract("k,kij->ij", params.weights, dense)
    share = jnp.ones_like(swaps.narrower) / n_used.astype(params.weights.dtype)
    return Component(share, swaps.sample, pooled[None] / swaps.narrower[:, None, None])


def exchanged(params: GMMParams, dense: Float[Array, "K D D"], leaves: Bool[Array, " K"], new: Component) -> GMMParams:
    """The mixture with new components in the place of those that leave: one for each component, or one for all."""
    share = jnp.where(leaves, new.weight, params.weights)
    weights = share / jnp.sum(share)
    cov = params.structure.from_dense(weights, jnp.where(leaves[:, None, None], new.cov, dense))
    return replace(params, weights=weights, means=jnp.where(leaves[:, None], new.mean, params.means), cov=cov)


def where(condition: Bool[Array, ""], these: Any, those: Any) -> Any:
    """One pytree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), these, those)
