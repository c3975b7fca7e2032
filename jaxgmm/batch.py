"""Many runs of EM at once: restarts on shared samples, or data sets of their own. Those that have ended drop out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxgmm import lanes, loop
from jaxgmm.clusters import Clusters, Search
from jaxgmm.contract import CENTRED
from jaxgmm.initial import CLUSTERINGS, first_clusters, first_mixture
from jaxgmm.lanes import Added, Lane, Samples
from jaxgmm.loop import Status
from jaxgmm.params import GMMParams, best_centre, digits_needed, mixture_centre
from jaxgmm.priors import Prior
from jaxgmm.result import FitResult
from jaxgmm.structures import Structure

LANES = "lanes"
"""Name of the vmap axis of the runs."""

ROWS = {"cpu": 32}
WORK = {"cpu": 1 << 16}
"""Rows of one multiplication (lanes times components of shared samples), and products N K D of a group of data sets, that keep
a core busy. 1000 data sets of 400 x 2, K = 2, tol 1e-6: 0.34, 0.47, 0.70, 1.42 s in groups of 32, 64, 128, 256."""

ROWS_OF_RIVALS = {"cpu": 16}
"""The same where lanes race: many passes are those of one that leads alone, whatever goes on beside it (DECISIONS 48)."""

ROWS_ELSEWHERE, WORK_ELSEWHERE = 1 << 14, 1 << 24
"""The same of an accelerator; not measured."""


MANY_FEATURES = 1000
"""From so many on restarts are one run, as each run has matrices of D x D while it starts, and start a few at a time: factor
analysers of 10 components, 2000 features, take 30 MiB each while they do."""


@dataclass(frozen=True)
class Plan:
    """What a program is compiled for, besides shapes."""

    structure: Structure
    n_components: int
    init: str  # how to start where nothing is given
    accelerate: str | None
    trace: int  # length of the record
    width: int  # lanes that go on together
    rivals: int = 1  # so many consecutive lanes race: of them only the best is wanted


class Data(NamedTuple):
    """What the runs look at: where an array has an axis of M, a lane sees its owner's entry, and where not, what all see."""

    X: Array  # (N, D), or (M, N, D)
    weight: Array | None  # (N,), or (M, N)
    owner: Array | None = None  # (L,) int32, of which of the M each lane is; None where nothing has that axis

    @property
    def shared(self) -> bool:
        """Do all lanes see the same samples, if under weights of their own?"""
        return self.X.ndim == 2

    def over_lanes(self, function: Callable[..., Any], index: Array, centre: Array | None, *lane_wise: Any) -> Any:
        """vmap ``function(samples, *lane_wise)`` over the lanes of these indices; the centre is shared like the samples."""
        # Multiplications with a batch axis are slow.
        form = CENTRED if not self.shared and len(index) > 1 else None
        X, weight, own = self.X, self.weight, None if self.shared else 0
        own_weight = None
        if self.owner is not None:
            owner = self.owner[index]
            X = X if self.shared else X[owner]
            if weight is not None and weight.ndim == 2:
                weight, own_weight = weight[owner], 0

        def one(seen: tuple[Array, Array | None, Any], *rest: Any) -> Any:
            return function(Samples(*seen, lanes=LANES, form=form), *rest)

        axes = ((own, own_weight, own), *(0 for _ in lane_wise))
        return jax.vmap(one, in_axes=axes, axis_name=LANES)((X, weight, centre), *lane_wise)


class Batch(NamedTuple):
    """Runs under way."""

    lanes: Lane  # with a leading axis of L
    centre: Array  # what their means are relative to: (D,) where samples are shared, or (L, D)
    taken: Array  # () int32, passes that those which have not ended have taken
    gained: Any = None  # (L,) nats that each gained when it last went on; inf before


def good_width(data: Data, n_lanes: int, n_components: int, n_rivals: int = 1) -> int:
    """Lanes that go on together: few, for little to wait for the slowest, but enough to keep busy."""
    backend = jax.default_backend()
    if data.shared:
        rows = ROWS if n_rivals == 1 else ROWS_OF_RIVALS
        return min(n_lanes, max(1, rows.get(backend, ROWS_ELSEWHERE) // n_components))
    fitting = WORK.get(backend, WORK_ELSEWHERE) // (data.X.shape[1] * data.X.shape[2] * n_components)
    return min(n_lanes, 1 << max(0, fitting.bit_length() - 1))


@partial(jax.jit, static_argnames=("n_restarts", "part"))
def restart_keys(key: Array, n_restarts: int, part: int) -> list[Array]:
    """A key for each restart, ``part`` at a time; parts share a program, so the last is filled with keys once more."""
    keys = jax.random.split(key, n_restarts)
    return [keys[jnp.arange(first, first + part) % n_restarts] for first in range(0, n_restarts, part)]


@partial(jax.jit, static_argnames="plan")
def begin_from(starts: GMMParams, data: Data, floor: Array | Added, plan: Plan) -> Batch:
    """Start lanes from mixtures with a leading axis of L; ``floor`` may be what is added in its place."""
    n_lanes = len(starts.weights)
    return _evaluated(starts, data, None, None, n_lanes, floor, plan, n_lanes)


def begin(
    keys: Array,
    data: Data,
    given: Any,
    n_used: Array | None,
    n_live: Array | int,
    floor: Array,
    plan: Plan,
    prior: Prior | None = None,
    shared: dict[int, Clusters] | None = None,
) -> Batch:
    """Start the first ``n_live`` lanes; the others count as ended.

    Args:
      keys: (L,) one a lane.
      data: what they look at.
      given: a mixture, labels or responsibilities to start from, or None.
      n_used: (L,) components in use, of ``plan.n_components``; None for all of them, in every lane.
      n_live: lanes that are wanted.
      floor: see ``fit``.
      plan: what to compile for.
      prior: one for each lane, with a leading axis of L, or None.
      shared: clusters that structures share which need as many samples a component; what is found here joins them.
    """
    clusters = None
    # Restarts of one mixture share what a start measures of the samples, if they start together.
    width = len(keys) if data.owner is None and n_used is None else plan.width
    if given is None and plan.init in CLUSTERINGS:
        least, search = plan.structure.least_weight(data.X.shape[-1]), CLUSTERINGS[plan.init]
        shared = {} if shared is None else shared
        if least not in shared:
            shared[least] = _clusters(keys, data, n_used, n_live, least, plan.n_components, search, width)
        clusters = shared[least]
    width = plan.width if data.X.shape[-1] >= MANY_FEATURES else width
    return _begin(keys, data, given, clusters, n_used, prior, n_live, floor, plan, width)


@partial(jax.jit, static_argnames=("n_components", "search", "width"))
def _clusters(
    keys: Array,
    data: Data,
    n_used: Array | None,
    n_live: Array | int,
    least: Array | int,
    n_components: int,
    search: Search,
    width: int,
) -> Clusters:
    """The clusters that lanes start from, whatever their structure."""

    def find(samples: Samples, key: Array, n_used: Array | None) -> Clusters:
        used = n_components if n_used is None else n_used
        return first_clusters(key, samples.X, samples.weight, used, least, n_components, search)

    def find_group(index: Array) -> Clusters:
        return data.over_lanes(find, index, None, *_rows((keys, n_used), index))

    found = _in_groups(find_group, len(keys), n_live, width)
    if data.shared and data.owner is None and n_used is None:  # then it is one, and of D x D numbers one is enough
        return found._replace(cov=found.cov[0])
    return found


@partial(jax.jit, static_argnames=("plan", "width"))
def _begin(
    keys: Array,
    data: Data,
    given: Any,
    clusters: Clusters | None,
    n_used: Array | None,
    prior: Prior | None,
    n_live: Array | int,
    floor: Array,
    plan: Plan,
    width: int,
) -> Batch:
    n_lanes = len(keys)
    found: dict[str, Array] = {} if clusters is None else clusters._asdict()
    shared = {"cov": found.pop("cov")} if clusters is not None and clusters.cov.ndim == 2 else {}

    def start(samples: Samples, key: Array, n_used: Array | None, found: dict[str, Array]) -> GMMParams:
        if isinstance(given, GMMParams):
            return given
        used = plan.n_components if n_used is None else n_used
        known = Clusters(**shared, **found) if found else given
        return first_mixture(key, samples.X, samples.weight, known, used, plan.init, plan.n_components, plan.structure)

    def start_group(index: Array) -> GMMParams:
        return data.over_lanes(start, index, None, *_rows((keys, n_used, found), index))

    starts = _in_groups(start_group, n_lanes, n_live, width)
    return _evaluated(starts, data, n_used, prior, n_live, floor, plan, width)


def _evaluated(
    starts: GMMParams,
    data: Data,
    n_used: Array | None,
    prior: Prior | None,
    n_live: Array | int,
    floor: Array | Added,
    plan: Plan,
    width: int,
) -> Batch:
    """Lanes with the sums of their starts."""
    n_lanes = len(starts.weights)

    def evaluate(samples: Samples, params: GMMParams, n_used: Array | None, prior: Prior | None) -> Lane:
        return lanes.begin(params, samples, floor, plan.accelerate, plan.trace, n_used, prior)

    if data.shared:  # that of the components of all lanes
        flat = (array.reshape(-1, array.shape[-1]) for array in (starts.means, jax.vmap(digits_needed)(starts)))
        centre = best_centre(*flat)
    else:
        centre = jax.vmap(mixture_centre)(starts)

    def begin_group(index: Array) -> Lane:
        return data.over_lanes(evaluate, index, _of_lanes(centre, index), *_rows((starts, n_used, prior), index))

    begun = _in_groups(begin_group, n_lanes, n_live, width)
    live = jnp.arange(n_lanes, dtype=jnp.int32) < n_live
    status = jnp.where(live, begun.carry.status, jnp.int32(Status.CONVERGED))
    begun = begun._replace(carry=begun.carry._replace(status=status))
    return Batch(begun, centre, jnp.zeros((), jnp.int32), jnp.full_like(begun.carry.best[0], jnp.inf))


def _in_groups(function: Callable[[Array], Any], n_lanes: int, n_live: Array | int, width: int) -> Any:
    """``function(indices)`` of the first ``n_live`` lanes, ``width`` at a time; zeros for the others."""
    everyone = jnp.arange(n_lanes, dtype=jnp.int32)
    if width >= n_lanes:
        return function(everyone)
    shapes = jax.eval_shape(function, everyone[:width])  # of a group, for which it is traced anyway
    nothing = jax.tree.map(lambda leaf: jnp.zeros((n_lanes, *leaf.shape[1:]), leaf.dtype), shapes)
    return loop.in_groups(lambda index, _: function(index), everyone, n_live, width, nothing)


def _rows(tree: Any, index: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _of_lanes(centre: Array, index: Array) -> Array:
    return centre if centre.ndim == 1 else centre[index]


@partial(jax.jit, static_argnames="plan")
def advance(batch: Batch, data: Data, passes: Array, most: Array, tol: Array, plan: Plan) -> Batch:
    """Go on for about ``passes`` passes over the samples of each lane (see ``loop.run_lanes``), to at most ``most`` in all."""

    def further(index: Array, group: tuple[Lane, Array], passes: Array) -> tuple[Lane, Array]:
        def one(samples: Samples, lane: Lane, passes: Array) -> Lane:
            return lanes.advance(lane, samples, passes, tol, plan.accelerate)

        before, gained = group
        after = data.over_lanes(one, index, _of_lanes(batch.centre, index), before, passes)
        went_on = after.carry.n_iter > before.carry.n_iter
        return after, jnp.where(went_on, after.carry.best[0] - before.carry.best[0], gained)

    def race(group: tuple[Lane, Array]) -> tuple[Lane, Array]:
        if plan.rivals == 1:
            return group
        n_sets = len(group[1]) // plan.rivals
        sets = jax.tree.map(lambda leaf: leaf.reshape(n_sets, plan.rivals, *leaf.shape[1:]), group)
        after = jax.vmap(lanes.raced)(*sets)
        return jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), after, group[0]), group[1]

    taken, (further_on, gained) = loop.run_lanes(
        further, (batch.lanes, batch.gained), lambda group: group[0].carry, batch.taken, passes, most, plan.width, race
    )
    return batch._replace(lanes=further_on, taken=taken, gained=gained)


@partial(jax.jit, static_argnames="n_restarts")
def finish(batch: Batch, n_restarts: int) -> FitResult:
    """The best of each ``n_restarts`` consecutive lanes, with a leading axis."""
    ends = _ends(batch, n_restarts)
    sets = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] // n_restarts, n_restarts, *leaf.shape[1:]), ends)
    return jax.vmap(lanes.best)(*sets)


@partial(jax.jit, static_argnames="n_restarts")
def finish_one(parts: Sequence[Batch], n_restarts: int) -> FitResult:
    """The best of the first ``n_restarts`` lanes of all parts."""
    several = [_ends(part, n_restarts) for part in parts]
    return lanes.best(*jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:n_restarts], *several))


def _ends(batch: Batch, n_restarts: int) -> tuple[FitResult, Array]:
    """All lanes as results, with their handicaps where there are several to choose from."""
    ends = jax.vmap(lanes.finish, in_axes=(0, None if batch.centre.ndim == 1 else 0))(batch.lanes, batch.centre)
    alone = n_restarts == 1
    return ends, jnp.zeros_like(ends.log_likelihood) if alone else jax.vmap(lanes.handicap)(batch.lanes)
