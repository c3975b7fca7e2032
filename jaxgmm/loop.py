"""The one loop: expect, maximise, repeat. It knows no Gaussian, so that k-means and EM share it.

The carry holds a state together with the sums that were taken under it, so the objective it reports belongs to the state
it holds. One turn is one pass over the data: propose the next state from the sums, take its sums, then keep or reject it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgmm.numerics import varying_with

T = TypeVar("T")


class Status(enum.IntEnum):
    """How a lane ended. On the device it is an integer; ``FitResult.message`` turns it into a sentence.

    Attributes:
      ITERATION_LIMIT: 0, ``max_iter`` passes did not do; in a callback, a lane that runs.
      CONVERGED: 1, the gain of a step fell to ``tol``; see ``fit_from``.
      DECREASED: 2, a step lowered the log-likelihood by more than ``tol`` and than rounding explains, and was not kept.
      NONFINITE: 3, the log-likelihood or a parameter left the finite numbers.
      DEGENERATE: 4, a component sits on fewer samples than its covariance needs or its dtype can tell from none, or is
        far narrower than the others.
      INTERRUPTED: 5, Ctrl-C.
      OVERTAKEN: 6, of a restart in ``sweep``: another was ahead, and this one gained too little.
      STALLED: 7, of ``fit_gradient``: the optimiser found nothing better, but EM would.

    >>> import jaxgmm
    >>> jaxgmm.Status(1).name
    'CONVERGED'
    """

    ITERATION_LIMIT = 0
    CONVERGED = 1
    DECREASED = 2
    NONFINITE = 3
    DEGENERATE = 4
    INTERRUPTED = 5
    OVERTAKEN = 6
    STALLED = 7


OUT_OF_PASSES = "not converged after {n_iter} iterations. Raise max_iter, or raise tol."

ADVICE = {
    Status.ITERATION_LIMIT: "not converged after {n_iter} iterations. Raise max_iter, raise tol, or pass accelerate='squarem'.",
    Status.CONVERGED: "converged after {n_iter} iterations.",
    Status.DECREASED: "the log-likelihood fell by more than rounding explains at iteration {n_iter}; the better parameters "
    "were kept. Scale the features alike, use float64, or raise covariance_floor.",
    Status.NONFINITE: "the log-likelihood became NaN or infinite at iteration {n_iter}; the parameters are the last finite "
    "ones. Look for NaN in X, scale the features alike, use float64, raise covariance_floor, or lower n_components.",
    Status.DEGENERATE: "after {n_iter} iterations a component sits on fewer samples than its covariance needs or its "
    "dtype can tell from none, or is far narrower than the others: a spike of the likelihood rather than a cluster. Lower "
    "n_components, choose a simpler covariance_type, raise covariance_floor, or use float64 for a millionth of the weight.",
    Status.INTERRUPTED: "stopped by Ctrl-C after {n_iter} iterations; these are the best parameters so far. "
    "Go on with fit(..., params=result.params).",
    Status.OVERTAKEN: "left after {n_iter} iterations: another restart was ahead, and this one gained too little to catch up. "
    "Go on with fit(..., params=result.params).",
    Status.STALLED: "the optimiser found nothing better after {n_iter} steps, but EM would: rounding hides what is left "
    "to gain. Go on with fit_from(result.params, X), or use float64.",
}


def advice(status: int, n_iter: int, words: Mapping[Status, str] = ADVICE) -> str:
    """The status as a sentence that says what to do."""
    return words[Status(int(status))].format(n_iter=int(n_iter))


class Objective(NamedTuple):
    """What a pass says of a state: the sum that the loop raises."""

    value: Array  # (), the sum over samples
    lost: Array  # (), what rounding lost in it
    weight: Array  # (), total weight of the samples
    resolution: Array  # (), per unit weight: a fall of less may be rounding
    noise: Array  # (), per unit weight: typical rounding error of a gain

    def above(self, value: Array, lost: Array) -> Array:
        """How much higher than another, to which rounding did what it lost."""
        return (self.value - value) + (self.lost - lost)


PATIENCE = 200
"""Most passes without a new best, however small the tolerance is beside the noise of a gain."""

FLAT = 16
"""The same in single precision where ``maximise`` does not ascend, so that falls tell nothing."""


SHORTEST_STAGE, STAGES_SHARE = 4, 4
"""Passes that lanes take before those that ended are left out: at least so many, and a quarter of those taken before."""


class Carry(NamedTuple):
    """All of a run: enough to go on with it later as if it had not been interrupted."""

    state: Any
    sums: Any  # those of state
    memory: Any  # of the accelerator
    n_iter: Array  # () int32, passes after the one that evaluated the start
    status: Array  # () int32
    best: tuple[Array, Array]  # highest objective so far, and what rounding lost in it
    best_at: Array  # () int32, the pass that found it
    trace: Array  # (T,) objective of the state held after each pass, NaN after the end


class Proposal(NamedTuple):
    """A state to evaluate next."""

    state: Any
    memory: Any
    plain: Array | bool  # is it the ascent step itself, which may not lower the objective and whose gain tells convergence?


class Accelerator(Protocol):
    """Proposes states from the ascent steps that the loop takes."""

    def begin(self, state: Any) -> Any:
        """The memory before the first pass."""

    def propose(self, memory: Any, state: Any, step: Any) -> Proposal:
        """The next state to evaluate, given the one held and the ascent step from it."""


class Plain:
    """No acceleration: the proposal is the step."""

    def begin(self, state: Any) -> tuple[()]:
        return ()

    def propose(self, memory: tuple[()], state: Any, step: Any) -> Proposal:
        return Proposal(step, memory, True)


PLAIN = Plain()


class Problem(NamedTuple):
    """The two slots of the loop, and how to read the sums."""

    expect: Callable[[Any], Any]  # state -> sums, one pass over the data
    maximise: Callable[[Any, Any], Any]  # state, its sums -> the state that raises the objective
    objective: Callable[[Any], Objective]  # sums -> objective
    accelerator: Accelerator = PLAIN
    ascends: bool = True  # does maximise never lower the objective? Else a fall is no failure, and is kept


def begin(problem: Problem, state: Any, trace: int = 0) -> Carry:
    """Evaluate the start, in one pass.

    Args:
      problem: the two slots.
      state: any pytree of floating arrays.
      trace: length of the record of objectives.
    """
    sums = problem.expect(state)
    return hold(problem, state, sums, trace)


def hold(problem: Problem, state: Any, sums: Any, trace: int = 0) -> Carry:
    """The carry of a start whose sums are known."""
    start = problem.objective(sums)
    record = _record(jnp.full((trace,), jnp.nan, start.value.dtype), 0, start.value)
    status = jnp.where(jnp.isfinite(start.value), Status.ITERATION_LIMIT, Status.NONFINITE).astype(jnp.int32)
    zero = jnp.zeros_like(status)
    carry = Carry(state, sums, problem.accelerator.begin(state), zero, status, (start.value, start.lost), zero, record)
    return varying_with(carry, state, sums)


def run(problem: Problem, carry: Carry, passes: Array | int, tol: Array | float) -> Carry:
    """Go on for at most ``passes`` passes; ``run(run(c, a), b)`` equals ``run(c, a + b)``.

    A lane ends when an ascent step gains no more than ``tol`` per unit weight (``CONVERGED``), lowers the objective by more
    than that and than rounding explains (``DECREASED``), or leaves the finite numbers (``NONFINITE``). ``tol = 0`` switches the
    first two off. A step that lowers the objective is not kept, but where a fall is within rounding or ``tol = 0``; a state
    that is not finite never is. Where ``maximise`` does not ascend, every finite state is kept, and a lane ends when the
    objective moves, up or down, by less than ``tol``, or in single precision has found nothing better for ``FLAT`` passes.

    Where ``tol`` is below the noise of a gain, single gains say nothing: float32 on a plateau would stop at the first that
    happens to be negative. Such a lane walks on, through falls within rounding, until no new best has come for so many
    passes that a gain of ``tol`` in each would have shown above the noise (at most ``PATIENCE``); the drift adds up and the
    noise does not.
    """
    limit = carry.n_iter + jnp.asarray(passes, jnp.int32)

    def runs(carry: Carry) -> Array:
        return (carry.status == Status.ITERATION_LIMIT) & (carry.n_iter < limit)

    def turn(carry: Carry) -> Carry:
        step = problem.maximise(carry.state, carry.sums)
        proposal = problem.accelerator.propose(carry.memory, carry.state, step)
        sums = problem.expect(proposal.state)
        old, new = problem.objective(carry.sums), problem.objective(sums)
        gain = new.above(old.value, old.lost) / new.weight
        finite = jnp.isfinite(new.value) & all_finite(proposal.state)
        n_iter = carry.n_iter + 1
        above_best = new.above(*carry.best)
        best = jax.tree.map(lambda a, b: jnp.where(above_best > 0, a, b), (new.value, new.lost), carry.best)
        best_at = jnp.where(above_best > 0, n_iter, carry.best_at)

        judged = proposal.plain & (jnp.asarray(tol) > 0)
        if problem.ascends:
            # The start may lie outside the bounds that maximise keeps: a fall in the first step is no failure.
            judged = judged & ((carry.n_iter > 0) | (gain >= 0))
            noisy = jnp.asarray(tol) < new.noise
            fell = gain < -jnp.maximum(new.resolution, tol)  # less than tol is a step that gains no more
            waited = (n_iter - best_at).astype(gain.dtype)
            settled = jnp.where(noisy, (waited * tol >= new.noise) | (waited >= PATIENCE), gain <= tol)
            kept = finite & ((gain >= 0) | (proposal.plain & (~judged | (noisy & ~fell))))
        else:
            # Single precision near a singular covariance moves the objective by more than tol for ever.
            flat = (gain.dtype == jnp.float32) & (n_iter - best_at >= FLAT)
            fell, settled, kept = jnp.zeros_like(finite), (jnp.abs(gain) < tol) | flat, finite
        status = jnp.select(
            [proposal.plain & ~finite, judged & fell, judged & settled],
            [Status.NONFINITE, Status.DECREASED, Status.CONVERGED],
            Status.ITERATION_LIMIT,
        )
        state, sums = jax.tree.map(
            lambda new, old: jnp.where(kept, new, old), (proposal.state, sums), (carry.state, carry.sums)
        )
        trace = _record(carry.trace, n_iter, problem.objective(sums).value)
        return Carry(state, sums, proposal.memory, n_iter, status.astype(jnp.int32), best, best_at, trace)

    return lax.while_loop(runs, turn, carry)


def run_lanes(
    advance: Callable[[Array, Any, Array], Any],
    lanes: T,
    carry_of: Callable[[T], Carry],
    taken: Array | int,
    passes: Array | int,
    most: Array | int,
    width: int,
    between: Callable[[T], T] = lambda lanes: lanes,
) -> tuple[Array, T]:
    """``run`` for many lanes, those that have ended left out: they cost what each needs, not the slowest times their number.

    Lanes go on ``width`` at a time for a stage of a few passes, which are more the longer the run; then those that still live
    close ranks. A stage is never cut: which lanes go on together does not depend on how a run is divided into calls.

    Args:
      advance: (indices of lanes, those lanes, the passes that each may take at most) -> the same lanes further on.
      lanes: a pytree of arrays with a leading axis of L lanes.
      carry_of: lanes -> their carries.
      taken: passes that lanes which still live have taken.
      passes: go on for so many, and to the end of a stage.
      most: passes of each lane in all.
      width: lanes that go on together; L or more for all at once, to exactly ``passes``.
      between: lanes after a stage -> the same, with other statuses perhaps; there are no stages if all go on at once.

    Returns:
      The passes taken, and the lanes.
    """

    def left(lanes: T) -> Array:
        return jnp.asarray(most, jnp.int32) - carry_of(lanes).n_iter

    def live(lanes: T) -> Array:
        return (carry_of(lanes).status == Status.ITERATION_LIMIT) & (left(lanes) > 0)

    def visit_all(state: tuple[Array, T]) -> tuple[Array, T]:
        taken, lanes = state
        stage = jnp.maximum(SHORTEST_STAGE, taken // STAGES_SHARE)

        def further(index: Array, group: T) -> T:
            return advance(index, group, jnp.minimum(stage, left(group)))

        alive = live(lanes)
        order, n_alive = jnp.argsort(~alive, stable=True), jnp.sum(alive, dtype=jnp.int32)
        return taken + stage, between(in_groups(further, order, n_alive, width, lanes))

    n_lanes = carry_of(lanes).status.shape[0]
    taken, passes = jnp.asarray(taken, jnp.int32), jnp.asarray(passes, jnp.int32)
    if width >= n_lanes:
        everyone = jnp.arange(n_lanes, dtype=jnp.int32)
        return taken + passes, advance(everyone, lanes, jnp.minimum(passes, left(lanes)))
    until = taken + passes
    start = varying_with(taken, carry_of(lanes).n_iter)
    return lax.while_loop(lambda state: (state[0] < until) & jnp.any(live(state[1])), visit_all, (start, lanes))


def in_groups(function: Callable[[Array, T], T], order: Array, n: Array | int, width: int, rows: T) -> T:
    """``rows`` with the first ``n`` of ``order`` replaced by ``function(indices, those rows)``, ``width`` at a time.

    The last group may reach back over rows that were replaced already, or on over rows beyond ``n``.
    """

    def visit(turn: Array, rows: T) -> T:
        index = lax.dynamic_slice_in_dim(order, turn * width, width)
        group = jax.tree.map(lambda leaf: leaf[index], rows)
        return jax.tree.map(lambda leaf, new: leaf.at[index].set(new), rows, function(index, group))

    return lax.fori_loop(0, (n + width - 1) // width, visit, rows)


def _record(trace: Array, index: Array | int, value: Array) -> Array:
    return trace.at[index].set(value, mode="drop") if trace.shape[0] else trace


def all_finite(tree: Any) -> Array:
    """Are all numbers of a pytree finite?"""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
