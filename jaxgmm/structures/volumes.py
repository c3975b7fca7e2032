"""Variances along principal axes, and what of them components share.

Sigma_k = D_k diag(v_k) D_k^T: the columns of D_k are the principal axes, the mean over j of the table l_kj = ln v_kj is the
logarithm of the volume, and what is left of row k is its shape (Banfield and Raftery 1993, in logarithms, so that no
determinant under- or overflows). The letters E and V say of each whether it is equal for all components or varies.

At given axes the covariances enter the likelihood by two sums only, N_k and s_kj = sum_n gamma_nk (d_kj^T (x_n - mu_k))^2:

    -2 Q = sum_kj N_k l_kj + s_kj exp(-l_kj) + constant,

which is convex in l, under bounds l >= floor as well.

Source: Celeux and Govaert (1995), "Gaussian parsimonious clustering models", Pattern Recognition 28.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import logsumexp
from jaxtyping import Bool, Float

from jaxgmm.numerics import contract
from jaxgmm.structures.base import Inner

T = TypeVar("T")

NEWTON = 12
"""Steps of Newton's method to the volume that components share."""

NOTHING = 50
"""Logarithm of how far below its floor a coordinate is taken for resting on it, so that no squares are a number, too."""


@dataclass(frozen=True)
class Sharing:
    """Which of volume and shape varies between components."""

    volume: bool
    shape: bool

    def n_free(self, n_components: int, n_features: int) -> int:
        """Free parameters of the table."""
        return (n_components if self.volume else 1) + (n_components if self.shape else 1) * (n_features - 1)

    def step(
        self,
        count: Float[Array, " K"],
        squares: Float[Array, "K D"],
        table: Float[Array, "K D"],
        floor: Float[Array, "K D"],
        present: Bool[Array, " K"],
    ) -> Float[Array, "K D"]:
        """A table of this kind that is at least as likely as ``table``; the likeliest, but where what is shared takes turns.

        A component that is not ``present`` keeps of its own what it has.
        """
        count = jnp.where(present, count, 0)
        squares = jnp.where(present[:, None], jnp.maximum(squares, 0), 0)  # rounding may leave less than nothing
        total = jnp.sum(count)
        own = jnp.where(present, count, 1)
        floor_shared = jnp.where(present[:, None], floor, -jnp.inf)
        if self.volume and self.shape:
            return jnp.where(present[:, None], jnp.maximum(jnp.log(squares / own[:, None]), floor), table)
        if not self.volume and not self.shape:
            shared = jnp.log(jnp.sum(squares, axis=0) / total)
            return jnp.broadcast_to(jnp.maximum(shared, jnp.max(floor_shared, axis=0))[None], table.shape)
        volume, shape = split(table)
        if self.volume:
            shape = jnp.log(jnp.sum(squares * jnp.exp(-volume), axis=0, keepdims=True) / total)
            shape = jnp.maximum(shape, jnp.max(floor_shared - volume, axis=0, keepdims=True))
            mean = jnp.mean(squares * jnp.exp(-shape), axis=1, keepdims=True) / own[:, None]
            volume = jnp.where(present[:, None], jnp.log(mean), volume)
            return jnp.maximum(volume, jnp.max(floor - shape, axis=1, keepdims=True)) + shape
        fitted = pour(count, squares, floor, present)
        shared = jnp.max(jnp.where(present[:, None], split(fitted)[0], -jnp.inf))
        return jnp.where(present[:, None], fitted, shared + shape)

    def fitted(
        self, count: Array, squares: Array, table: Array, floor: Array, present: Array, inner: Inner
    ) -> Float[Array, "K D"]:
        """The likeliest: ``step`` until it no longer moves, where volumes and a common shape take turns."""
        if not self.volume or self.shape:
            return self.step(count, squares, table, floor, present)
        return settle(lambda table: self.step(count, squares, table, floor, present), table, lambda table: table, inner)

    def lifted(self, table: Float[Array, "K D"], floor: Float[Array, "K D"]) -> Float[Array, "K D"]:
        """A table of this kind above the floor, from one that may be below it."""
        short = jnp.maximum(floor - table, 0)
        if self.shape and self.volume:
            return table + short
        axes = {(False, False): (0,), (True, False): (1,), (False, True): (0, 1)}[self.volume, self.shape]
        return table + jnp.max(short, axis=axes, keepdims=True)

    def to_free(self, table: Float[Array, "K D"]) -> Float[Array, " F"]:
        """The table as unconstrained numbers: volumes, then what is free of the shapes."""
        volume, shape = split(table)
        parts = volume[: None if self.volume else 1], shape[: None if self.shape else 1, :-1]
        return jnp.concatenate([part.reshape(-1) for part in parts])

    def from_free(self, free: Float[Array, " F"], n_components: int, n_features: int) -> Float[Array, "K D"]:
        """The way back."""
        n_volumes = n_components if self.volume else 1
        first = free[n_volumes:].reshape(n_components if self.shape else 1, n_features - 1)
        shape = jnp.concatenate([first, -jnp.sum(first, axis=1, keepdims=True)], axis=1)
        return jnp.broadcast_to(free[:n_volumes, None] + shape, (n_components, n_features))


EQUAL, VOLUMES, SHAPES, BOTH = Sharing(False, False), Sharing(True, False), Sharing(False, True), Sharing(True, True)


def split(table: Float[Array, "K D"]) -> tuple[Float[Array, "K 1"], Float[Array, "K D"]]:
    """Logarithms of volumes and of shapes."""
    volume = jnp.mean(table, axis=1, keepdims=True)
    return volume, table - volume


def deviance(count: Float[Array, " K"], squares: Float[Array, "K D"], table: Float[Array, "K D"]) -> Float[Array, ""]:
    """-2 Q but for constants."""
    return jnp.sum(count[:, None] * table + squares * jnp.exp(-table))


def pour(
    count: Float[Array, " K"], squares: Float[Array, "K D"], floor: Float[Array, "K D"], present: Bool[Array, " K"]
) -> Float[Array, "K D"]:
    """The likeliest table whose rows have one mean c, above the floor: l_kj = max(ln s_kj - t_k, floor_kj).

    Each row is filled as water is: as its t falls, coordinates leave their floors in the order of ln s - floor. With the first
    i of them off, the mean is c at one t, the root of a line; the sum of l is convex in t, so the largest of the D roots is the
    right one. What c is worth to row k is exp(t_k), so that sum_k exp(t_k(c)) = N. Its logarithm is convex in c and falls, and
    Newton's method rises to the root from the least c that the floors allow; without floors one step is exact.
    """
    n_features = floor.shape[1]
    bounded = jnp.all(jnp.isfinite(floor))
    low = jnp.where(bounded, floor, 0)
    known = jnp.where(present[:, None], squares, 1)
    log_squares = jnp.log(known)
    log_squares = jnp.where(bounded, jnp.maximum(log_squares, low - NOTHING), log_squares)
    order = jnp.argsort(low - log_squares, axis=1)
    filled = jnp.cumsum(jnp.take_along_axis(log_squares, order, axis=1), axis=1)
    resting = jnp.cumsum(jnp.take_along_axis(low, order, axis=1), axis=1)
    free = jnp.arange(1, n_features + 1, dtype=jnp.int32).astype(floor.dtype)[None]
    offset = (filled + resting[:, -1:] - resting) / free  # t = offset - c D / i
    slope = jnp.broadcast_to(n_features / free, offset.shape)
    used = (jnp.arange(n_features, dtype=jnp.int32) == n_features - 1)[None] | bounded
    offset = jnp.where(used, offset, -jnp.inf)

    def level(mean: Array) -> tuple[Array, Array]:
        line = jnp.argmax(offset - slope * mean, axis=1)
        first, fall = (jnp.take_along_axis(table, line[:, None], axis=1)[:, 0] for table in (offset, slope))
        return jnp.where(present, first - fall * mean, -jnp.inf), fall

    def newton(_: Array, mean: Array) -> Array:
        t, fall = level(mean)
        share = jax.nn.softmax(t)
        return jnp.maximum(mean + (logsumexp(t) - jnp.log(jnp.sum(count))) / jnp.sum(share * fall), least)

    least = jnp.max(jnp.where(present & bounded, jnp.mean(low, axis=1), -jnp.inf))
    start = jnp.where(bounded, least, jnp.mean(jnp.where(present[:, None], log_squares, 0)))
    mean = lax.fori_loop(0, NEWTON, newton, start)
    return jnp.maximum(log_squares - level(mean)[0][:, None], floor)


def log_floor(floor: Float[Array, " D"] | None, axes: Float[Array, "_ D D"], shape: tuple[int, ...]) -> Float[Array, "K D"]:
    """The logarithm of the least variance along each axis, that of the floor: ln d^T diag(floor) d."""
    if floor is None:
        return jnp.full(shape, -jnp.inf, axes.dtype)
    return jnp.broadcast_to(jnp.log(contract("kij,i->kj", axes * axes, floor)), shape)


def settle(step: Callable[[T], T], state: T, table_of: Callable[[T], Array], inner: Inner) -> T:
    """``step`` until the table no longer moves, or for as many turns as ``inner`` allows."""
    if inner is Inner.ONE:
        return step(state)
    still = 4 * float(jnp.finfo(table_of(state).dtype).eps)

    def turn(carry: tuple[Array, Array, T]) -> tuple[Array, Array, T]:
        count, _, state = carry
        after = step(state)
        old, new = table_of(state), table_of(after)
        return count + 1, jnp.max(jnp.abs(new - old) - still * (1 + jnp.abs(new))), after

    far = jnp.max(table_of(state)) * 0 + 1  # varies with the state, as the loop will make it
    begin = jnp.int32(0), jnp.where(jnp.isfinite(far), far, 1), state
    return lax.while_loop(lambda carry: (carry[0] < inner) & (carry[1] > 0), turn, begin)[2]
