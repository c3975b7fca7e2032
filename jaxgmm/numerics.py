"""Stable numerical helpers that more than one room uses; none of them knows what a mixture is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Bool, Float, Integer

T = TypeVar("T")

contract = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
"""einsum in the full precision of its operands: a GPU or TPU would otherwise round them to 10 or 8 bits."""

NO_RESTART = 1 << 31
"""Numbers from here on, folded into a key, are no restart's: ``split(key, n)[i]`` may be ``fold_in(key, i)``."""


def float_dtype(array: Any) -> jnp.dtype:
    """The dtype to compute in: that of the array, float32 for halves, the default float for integers."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.zeros(()).dtype
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def apart(key: Array, index: int) -> Array:
    """A key for what is no restart of ``key``."""
    return jax.random.fold_in(key, np.uint32(NO_RESTART + index))


def samples_per_weight(weight: Float[Array, " N"], axis_name: str | None = None) -> Float[Array, ""]:
    """How many samples a unit of weight stands for: one, or more where the weights have a mean below one.

    Two is seen twice, so weights count as samples; but those that sum to one are not a single sample.
    """
    sums = jnp.sum(weight), jnp.sum((weight > 0).astype(weight.dtype))
    total, present = sums if axis_name is None else lax.psum(sums, axis_name)
    return jnp.maximum(1, present / jnp.where(total > 0, total, 1))


def weighted(weight: Float[Array, " B"], values: Float[Array, " B"]) -> Float[Array, " B"]:
    """``weight * values``; a weight of zero is absent, and one that is negative or NaN shows as NaN."""
    return jnp.where(weight > 0, weight * values, jnp.where(weight == 0, 0, jnp.nan))


def largest_of(rows: Float[Array, "K B"]) -> Float[Array, " B"]:
    """The maximum of each column, NaN where it holds one.

    By halves, as XLA:CPU hands a maximum over rows to a library (YNNPACK): an E-step of K = 9, N = 2000, float64, takes 62 us
    so and 42 by halves. A reducer of its own is as fast, but collectives do not know it, and components may be spread over
    devices.
    """
    while (k := len(rows)) > 1:
        half = (k + 1) // 2
        rows = jnp.maximum(rows[:half], rows[k - half :])  # of an odd number the middle one twice
    return rows[0]


def place(share: Float[Array, "*picks"], mass: Float[Array, " N"]) -> Integer[Array, "*picks"]:
    """The rows at which the cumulative mass passes these shares of the total; never one without mass."""
    reached = jnp.cumsum(mass)
    last = jnp.sum(reached < reached[-1], dtype=jnp.int32)
    if share.ndim == 0:  # comparing with every row compiles to one loop, halving to one for each step
        index = jnp.sum(reached <= share * reached[-1], dtype=jnp.int32)
    else:
        index = jnp.searchsorted(reached, share * reached[-1], side="right").astype(jnp.int32)
    return jnp.minimum(index, last)


def evenly(n: int, dtype: jnp.dtype) -> Float[Array, " n"]:
    """Numbers in [0, 1) that fill the interval evenly however many are taken: multiples of the golden ratio, modulo one."""
    turns = jnp.arange(n, dtype=jnp.uint32) * jnp.uint32(2654435769)  # the ratio times 2^32; the product wraps
    return (turns >> 8).astype(dtype) / (1 << 24)


def varying_with(tree: T, *sources: Any) -> T:
    """``tree``, unchanged, but depending on the first number of every array in ``sources``.

    Inside ``shard_map`` a carry that starts as a constant must already vary over the mesh axes over which the loop will make
    it vary. What adds the dependence is zero whatever the sources hold, NaN included.
    """
    corners = [leaf[(0,) * leaf.ndim] for leaf in jax.tree.leaves(sources)]
    zero = sum((0 * (corner.astype(jnp.float32) > 0).astype(jnp.int32) for corner in corners), start=jnp.int32(0))
    return jax.tree.map(lambda leaf: leaf ^ (zero != 0) if leaf.dtype == bool else leaf + zero.astype(leaf.dtype), tree)


def varying_axes(array: Array) -> tuple[str, ...]:
    """The mesh axes over which an array varies inside ``shard_map``."""
    kind: Any = jax.typeof(array)
    return tuple(kind.vma if hasattr(kind, "vma") else kind.mat.varying)  # the one until JAX 0.9, the other since


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """``a + b`` as the rounded sum and what rounding lost, exactly (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


def add_compensated(a: tuple[T, T], b: T) -> tuple[T, T]:
    """Add the pytree ``b`` to the pair (sum, lost) of pytrees ``a``."""
    pairs = jax.tree.map(two_sum, a[0], b)
    total, error = jax.tree.transpose(jax.tree.structure(b), jax.tree.structure((0, 0)), pairs)
    return total, jax.tree.map(jnp.add, a[1], error)


def sum_compensated(total: Float[Array, " n"], lost: Float[Array, " n"]) -> tuple[Array, Array]:
    """Reduce a vector of (sum, lost) pairs to one pair.

    Each number is cut at a common place, so high that the upper parts add up without rounding in whatever order; then
    what is below, once more (Rump, Ogita and Oishi 2008, "Accurate floating-point summation, part I").
    """
    upper, lower = _cut(total)
    middle, lowest = _cut(lower)
    result, error = two_sum(jnp.sum(upper), jnp.sum(middle))
    below = jnp.where(jnp.isfinite(result), error + (jnp.sum(lowest) + jnp.sum(lost)), 0)
    return two_sum(result, below)


def _cut(numbers: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Upper parts whose sum is exact, and lower parts."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(numbers)))
    power_of_two = lax.reduce_precision(4 * numbers.shape[0] * largest, jnp.finfo(numbers.dtype).nexp, 0)
    place = jnp.where(jnp.isfinite(power_of_two), power_of_two, 0)
    upper = (numbers + place) - place
    return upper, jnp.where(upper == numbers, 0, numbers - upper)  # infinity stays what it is


def apply_if(wanted: Bool[Array, ""], function: Callable[[T], T], operand: T) -> T:
    """``function(operand)`` where ``wanted``, else ``operand``, and no work where no lane wants it, in derivatives neither.

    ``lax.cond`` under ``vmap`` computes both sides for every lane, unless all lanes have one predicate: ``_any_lane``.
    """
    # A rule for derivatives must be given all that it depends on, what the function closes over too.
    closed, shape = jax.make_jaxpr(function, return_shape=True)(operand)
    tree: Any = jax.tree.structure(operand)
    if (returned := jax.tree.structure(shape)) != tree:
        raise TypeError(f"The function must return {tree}; it returns {returned}.")
    jaxpr = closed.jaxpr

    def either(wanted: Array, operand: T, shared: list[Array], guarded: bool) -> T:
        def inside(operand: T, shared: list[Array]) -> T:
            given = operand, shared
            if guarded:  # where a lane does not want it, slopes may be infinite, and zero times infinity is NaN
                given = jax.tree.map(lambda leaf: jnp.where(wanted, leaf, lax.stop_gradient(leaf)), given)
            leaves = jaxpr_as_fun(ClosedJaxpr(jaxpr, given[1]))(*jax.tree.leaves(given[0]))
            return jax.tree.map(lambda new, old: jnp.where(wanted, new, old), jax.tree.unflatten(tree, leaves), operand)

        return lax.cond(_any_lane(wanted), inside, lambda operand, _: operand, operand, shared)

    @jax.custom_jvp
    def once(wanted: Array, operand: T, shared: list[Array]) -> T:
        return either(wanted, operand, shared, False)

    @once.defjvp
    def _(primals: tuple[Array, T, list[Array]], tangents: tuple[Any, T, list[Array]]) -> tuple[T, T]:
        return jax.jvp(lambda operand, shared: either(primals[0], operand, shared, True), primals[1:], tangents[1:])

    return once(wanted, operand, closed.consts)


@custom_vmap
def _any_lane(wanted: Bool[Array, ""]) -> Bool[Array, ""]:
    """Does any lane of a ``vmap`` want it? The same answer for all of them."""
    return wanted


@_any_lane.def_vmap
def _(axis_size: int, batched: list[bool], wanted: Array) -> tuple[Array, bool]:
    return _any_lane(jnp.any(wanted, axis=0) if batched[0] else wanted), False


def is_present(count: Float[Array, " K"]) -> Bool[Array, " K"]:
    """Which components have weight.

    Without weight means below ten roundings of the total: a smaller count is the tail of other components' samples, and
    ``finfo.tiny`` as the bound would let a quotient overflow.
    """
    return count > 10 * jnp.finfo(count.dtype).eps * jnp.sum(count)


def divide_or_keep(
    sums: Float[Array, "K ..."], count: Float[Array, " K"], previous: Float[Array, "K ..."]
) -> Float[Array, "K ..."]:
    """``sums / count`` per component; a component without weight keeps ``previous``."""
    present, trailing = is_present(count), tuple(range(1, sums.ndim))
    divisor = jnp.expand_dims(jnp.where(present, count, jnp.ones_like(count)), trailing)
    return jnp.where(jnp.expand_dims(present, trailing), sums / divisor, previous)


def typical_where_constant(variance: Float[Array, " D"]) -> Float[Array, " D"]:
    """Variances of features, for those that are constant the mean of the others, or one."""
    varies = variance > 0
    typical = jnp.sum(variance) / jnp.maximum(jnp.sum(varies), 1).astype(variance.dtype)
    return jnp.where(varies, variance, jnp.where(typical > 0, typical, 1))


def weighted_quantile(values: Float[Array, "K D"], weight: Float[Array, "K D"], share: float) -> Float[Array, " D"]:
    """The smallest value of each column at which ``share`` of the column's weight is reached."""
    order = jnp.argsort(values, axis=0)
    reached = jnp.cumsum(jnp.take_along_axis(weight, order, axis=0), axis=0)
    place = jnp.argmax(reached >= share * reached[-1:], axis=0)
    return jnp.take_along_axis(jnp.take_along_axis(values, order, axis=0), place[None], axis=0)[0]
