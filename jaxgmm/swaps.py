"""Random swaps: a search among the optima of the likelihood, by short runs of EM from mixtures with one component moved.

EM climbs the hill it stands on. A component that shares a cluster with another, or covers two, is rarely freed by it: between
here and there the likelihood falls. A swap takes such a component away and sets another down; a few passes show whether the
mixture is better for it, and it is kept only then. A trial ends as soon as a few more passes as good as its last would not
bring it above what is held, and most are not worth more than three; or as it grows narrow on few samples, which is no merit.

What is set down lies on a sample drawn at random, or is a component of another mixture: where samples are few a search holds
several, side by side, one from its start and the others from components scattered over the samples, and what one has found the
others may borrow.

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
from jaxgmm.contract import CENTRED, EXPANDED, expect
from jaxgmm.lanes import Setting
from jaxgmm.numerics import contract, place, varying_with
from jaxgmm.params import GMMParams, mixture_centre, moved
from jaxgmm.structures.base import Inner

TURNS_EACH, ROW_TURNS = 120, 1 << 20
"""Passes of a search for each two components, in either order, and the most samples that all of them look at together:
DECISIONS 41."""

FEWEST_EACH, HELD = 60, 8
"""The fewest passes, for each component, that a mixture of several gets, and the most mixtures that a search holds."""

LENT = 0.8
"""The share of swaps that set down what another mixture holds."""

LEAST, MOST = 2, 30
"""The fewest and most passes that a trial is given after its first."""

REACH = 5
"""A trial goes on while so many times the gain of its last pass would make it better than what is held."""

WORTH = 1e-4
"""Nats a sample by which a trial must be better: the same optimum come upon again, a little further up, is not another one, and
the run of EM that follows takes what is left."""

NARROWEST = 100
"""A component that is set down has the pooled covariance over a factor from 1 to this, its logarithm drawn evenly."""


class Swap(NamedTuple):
    """Which component leaves, and what comes in its place: one that another mixture holds, or one at a sample."""

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
    standing: Array  # () of the trial a pass ago; -inf where there was none
    age: Array  # () int32, passes since the swap


def n_turns(n_samples: int, n_components: int) -> tuple[int, int]:
    """Mixtures that are held, and passes over so many samples for each."""
    passes = min(TURNS_EACH * n_components * (n_components - 1), ROW_TURNS // n_samples)
    n_held = min(max(passes // (FEWEST_EACH * n_components), 1), HELD)
    return n_held, passes // n_held


def improved(
    key: Array, X: Shaped[Array, "N D"], weight: Float[Array, " N"], start: GMMParams, n_used: Array | int
) -> GMMParams:
    """The best mixture that a search from ``start`` comes upon; the first ``n_used`` components take part."""
    structure, centre = start.structure, mixture_centre(start)
    total, n_used = jnp.sum(weight), jnp.asarray(n_used, jnp.int32)
    first, unit = moved(start, -centre), jnp.ones_like(centre)
    # In float32 the fast form would round away what a trial gains where clusters lie some hundred standard deviations apart.
    form = EXPANDED if total.dtype == jnp.float64 else CENTRED
    setting = Setting(jnp.zeros_like(unit), unit, jnp.ones_like(total), n_used, None)  # weights count as samples already

    def passed(search: Search, last: Array) -> tuple[Search, Array]:
        whitener = structure.whitener(search.trial.cov, *first.means.shape)
        sums = expect(search.trial, X, weight, em.bayes, centre, form=form, whitener=whitener)
        found = lanes.standing(search.trial, sums, setting, whitener)
        gain = found - search.standing
        hopeless = found + REACH * gain < jnp.maximum(search.worth, found) + WORTH * total
        # The standing falls as a component becomes narrow, or by rounding, where nothing is left to gain.
        over = last | (found == -jnp.inf) | (gain < 0) | (search.age >= MOST) | (hopeless & (search.age >= LEAST))
        better = over & (found > search.worth + WORTH * total)  # not before: what climbs may yet turn out narrow
        held, worth = where(better, (search.trial, found), (search.held, search.worth))
        climbed = em.maximised(search.trial, sums, None, inner=Inner.FEW)  # without a floor: a spike is given up before
        return Search(held, worth, climbed, found, search.age + 1), over

    def turn(searches: Search, given: tuple[Swap, Array]) -> tuple[Search, None]:
        swaps, last = given
        searches, over = jax.vmap(passed, in_axes=(0, None))(searches, last)
        anew = searches._replace(
            trial=swapped(searches.held, swaps, n_used),
            standing=jnp.full_like(searches.worth, -jnp.inf),
            age=jnp.zeros_like(searches.age),
        )
        return jax.vmap(where)(over, anew, searches), None

    n_components = start.n_components
    n_held, n = n_turns(X.shape[0], n_components)
    # The seeds come last, so that components not in use do not shift what is drawn for the swaps.
    drawn = draws(key, (n + n_components, n_held), X, weight, centre, n_used)
    swaps, seeds = (jax.tree.map(lambda leaf, part=part: leaf[part], drawn) for part in (slice(n), slice(n, None)))

    def begun(place: Array, seeds: Swap) -> Search:
        nothing = jnp.full_like(total, -jnp.inf)
        return Search(first, nothing, where(place == 0, first, scattered(first, seeds, n_used)), nothing, jnp.int32(0))

    searches = jax.vmap(begun, in_axes=(0, 1))(jnp.arange(n_held, dtype=jnp.int32), seeds)
    last = jnp.arange(n, dtype=jnp.int32) == n - 1
    ends = lax.scan(turn, varying_with(searches, X, weight, start.means, drawn.sample), (swaps, last))[0]
    return moved(jax.tree.map(lambda leaf: leaf[jnp.argmax(ends.worth)], ends.held), centre)


def draws(
    key: Array,
    shape: tuple[int, int],
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    centre: Float[Array, " D"],
    n_used: Array,
) -> Swap:
    """``shape[0]`` swaps for each of ``shape[1]`` mixtures: components in use drawn evenly, samples by weight."""
    n_held, dtype = shape[1], weight.dtype
    uniforms = jax.random.uniform(key, (*shape, 6), dtype)  # one call: each is much to compile
    component, lent, lender, loan, row, width = jnp.moveaxis(uniforms, -1, 0)

    def below(n: Array | int, uniform: Array) -> Array:
        return jnp.minimum((uniform * jnp.asarray(n, dtype)).astype(jnp.int32), n - 1)  # the product may round up

    return Swap(
        below(n_used, component),
        (lent < LENT) & (n_held > 1),
        1 + below(max(n_held - 1, 1), lender),
        below(n_used, loan),
        X[place(row, weight)].astype(dtype) - centre[None, None],
        NARROWEST**width,
    )


def scattered(params: GMMParams, seeds: Swap, n_used: Array) -> GMMParams:
    """The mixture with every component in use set down elsewhere, one seed each."""
    dense = params.structure.dense(params.cov, params.n_components, params.n_features)
    used = jnp.arange(params.n_components, dtype=jnp.int32) < n_used
    return exchanged(params, dense, used, set_down(params, dense, seeds, n_used))


def swapped(held: GMMParams, swaps: Swap, n_used: Array) -> GMMParams:
    """Mixtures with another component in the place of one; all arrays have a leading axis, of what is held."""
    structure, n_features = held.structure, held.means.shape[-1]
    n_held, n_components = held.weights.shape
    dense = jax.vmap(lambda cov: structure.dense(cov, n_components, n_features))(held.cov)
    everyone = Component(held.weights, held.means, dense)
    lender = (jnp.arange(n_held, dtype=jnp.int32) + swaps.lender) % n_held

    def one(params: GMMParams, dense: Float[Array, "K D D"], swap: Swap, lender: Array) -> GMMParams:
        borrowed = jax.tree.map(lambda leaf: leaf[lender, swap.loan][None], everyone)
        alone = jax.tree.map(lambda leaf: leaf[None], swap)
        new = where(swap.lent, borrowed, set_down(params, dense, alone, n_used))
        return exchanged(params, dense, jnp.arange(n_components, dtype=jnp.int32) == swap.component, new)

    return jax.vmap(one)(held, dense, swaps, lender)


def set_down(params: GMMParams, dense: Float[Array, "K D D"], swaps: Swap, n_used: Array) -> Component:
    """Components of equal share, one for each swap: at its sample, of the pooled shape."""
    pooled = contract("k,kij->ij", params.weights, dense)
    share = jnp.ones_like(swaps.narrower) / n_used.astype(params.weights.dtype)
    return Component(share, swaps.sample, pooled[None] / swaps.narrower[:, None, None])


def exchanged(params: GMMParams, dense: Float[Array, "K D D"], leaves: Bool[Array, " K"], new: Component) -> GMMParams:
    """The mixture with new components in the place of those that leave: one for each component, or one for all."""
    share = jnp.where(leaves, new.weight, params.weights)
    weights = share / jnp.sum(share)
    cov = params.structure.from_dense(weights, jnp.where(leaves[:, None, None], new.cov, dense), Inner.FEW)
    return replace(params, weights=weights, means=jnp.where(leaves[:, None], new.mean, params.means), cov=cov)


def where(condition: Bool[Array, ""], these: Any, those: Any) -> Any:
    """One pytree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), these, those)
