"""Fewer passes: squared extrapolation of the steps of the loop, kept only where it raises the objective.

Source: Varadhan and Roland (2008), "Simple and globally convergent methods for accelerating the convergence of any EM
algorithm", Scandinavian Journal of Statistics 35, scheme SqS3 (the step length is a geometric mean).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxgmm.loop import Proposal

LONGEST_FIRST = 4.0
GROWTH = 4.0

CALM = 1.0
"""Length of a plain step, in free coordinates, above which nothing is extrapolated: a long first step would often jump into
another basin than that of the start, where plain EM ends (DECISIONS 28)."""


class SquaremMemory(NamedTuple):
    origin: Any  # free coordinates of the state before the last plain step
    extrapolate: Array  # () bool, is the next proposal an extrapolation?
    longest: Array  # () the longest step allowed
    tried: Array  # () the length last tried, 0 after a plain step


@dataclass(frozen=True)
class Squarem:
    """Alternate a plain step with an extrapolation through the last two steps.

    From x0 the plain step leads to x1 and the next one would lead to x2. With r = x1 - x0 and v = (x2 - x1) - r the
    proposal is x0 + 2 a r + a^2 v, where a = |r| / |v| (a = 1 gives x2). The loop keeps it only if its objective is at
    least that of x1; otherwise the next proposal is x2 itself, so a bad extrapolation costs one pass and no likelihood. While
    plain steps are longer than ``CALM`` nothing is extrapolated.

    Attributes:
      to_free: state -> pytree in which any real numbers are a state, in comparable units.
      from_free: the way back.
    """

    to_free: Callable[[Any], Any]
    from_free: Callable[[Any], Any]

    def begin(self, state: Any) -> SquaremMemory:
        free = self.to_free(state)
        dtype = jax.tree.leaves(free)[0].dtype
        return SquaremMemory(free, jnp.zeros((), bool), jnp.asarray(LONGEST_FIRST, dtype), jnp.zeros((), dtype))

    def propose(self, memory: SquaremMemory, state: Any, step: Any) -> Proposal:
        x0, x1, x2 = memory.origin, self.to_free(state), self.to_free(step)
        r = jax.tree.map(jnp.subtract, x1, x0)
        v = jax.tree.map(lambda a, b, c: (a - b) - c, x2, x1, r)
        square = _square(r) / jnp.maximum(_square(v), jnp.finfo(memory.longest.dtype).tiny)
        too_long = square > memory.longest**2
        moved = (square > 0) & ~too_long  # elsewhere the root is not wanted, and has no derivative at zero
        length = jnp.where(too_long, memory.longest, jnp.where(moved, jnp.sqrt(jnp.where(moved, square, 1)), 0))
        # A length of one is x2: nothing to extrapolate, and the step may be judged like any plain one.
        extrapolate = memory.extrapolate & (length > 1) & (_square(r) <= CALM**2)
        far = jax.tree.map(lambda a, b, c: a + 2 * length * b + length**2 * c, x0, r, v)
        chosen = jax.tree.map(lambda a, b: jnp.where(extrapolate, a, b), self.from_free(far), step)
        # Allow longer steps while the bound binds; shorten after a rejection, which is seen by the state not having moved.
        longest = jnp.where(extrapolate & too_long, GROWTH * memory.longest, memory.longest)
        rejected = (memory.tried > 0) & (_square(r) == 0)
        longest = jnp.where(rejected, jnp.maximum(LONGEST_FIRST, memory.tried / GROWTH), longest)
        return Proposal(
            chosen,
            SquaremMemory(x1, ~memory.extrapolate, longest, jnp.where(extrapolate, length, 0)),
            ~extrapolate,
        )


def _square(tree: Any) -> Array:
    return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()).astype(jax.tree.leaves(tree)[0].dtype))
