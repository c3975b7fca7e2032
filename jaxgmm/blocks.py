"""Walk over the samples block by block, so that memory beyond X does not grow with N.

A block is stored feature-major, (D, B): XLA multiplies matrices about twice as fast when the sample axis comes last.
X is never transposed, padded or copied as a whole. The last block slides back over samples that were already seen, and
these get weight zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Shaped

from jaxgmm import numerics

T = TypeVar("T")

BLOCK_BYTES = 1 << 23
"""Bytes of the temporaries of a block. Two cores, D = K = 32, float32: 102, 93, 84, 79 ms a pass for 1, 2, 4, 8 MiB."""


SPLIT = 1 << 16
"""From so many numbers on XLA:CPU divides a loop over an array between two threads, which pays from twice as much on. A pass
with K x B = 2^15, 2^16, 2^17, 2^18 numbers: 200,000 x 8, K = 16 10 to 13, 15, 12, 9 ms; 200,000 x 32, K = 32, diag 34, 33 to
42, 29 to 32, 28."""


def block_size(n_samples: int, per_sample: int, itemsize: int, rows: int = 0) -> int:
    """Samples a block: a power of two whose temporaries of ``per_sample`` numbers each, most in arrays of so many ``rows``, fit
    in cache."""
    fitting = max(1, BLOCK_BYTES // (itemsize * per_sample))
    size = min(n_samples, 1 << min(12, max(7, fitting.bit_length() - 1)))
    return -(-size // 2) if SPLIT <= rows * size < 2 * SPLIT else size


def fold(
    step: Callable[..., T],
    samples: tuple[Array, ...],
    sample_weight: Array | None,
    size: int,
    dtype: jnp.dtype,
    *closed_over: Any,
) -> tuple[T, T]:
    """Sum ``step(*blocks, weight)`` over the blocks of ``samples``, compensated.

    Args:
      step: takes each array's block, sample axis last, and the (B,) weights; returns a pytree of arrays to be summed.
      samples: arrays of shape (N, ...), sliced alike.
      sample_weight: (N,) or None for ones. A sample of weight zero is absent: its values are replaced by zeros, so that
        a NaN in it is absent, too.
      size: B, samples a block.
      dtype: of the blocks and of the weights.
      closed_over: arrays that ``step`` depends on besides.

    Returns:
      The sums, and what rounding lost in each of them.
    """
    n_samples = samples[0].shape[0]
    n_blocks = -(-n_samples // size)

    def take(start: Array | int, weight: Array) -> T:
        blocks = [_slice(array, start, size, dtype) for array in samples]
        if sample_weight is not None:
            weight = weight * _slice(sample_weight, start, size, dtype)
            blocks = [jnp.where((weight > 0)[None], b.reshape(-1, size), 0).reshape(b.shape) for b in blocks]
        return step(*blocks, weight)

    if n_blocks == 1:
        whole = numerics.varying_with(take(0, jnp.ones(size, dtype)), samples, sample_weight, closed_over)
        return whole, jax.tree.map(jnp.zeros_like, whole)

    def body(carry: tuple[T, T], index: Array) -> tuple[tuple[T, T], None]:
        start = jnp.minimum(index * size, n_samples - size)
        unseen = (start + jnp.arange(size, dtype=index.dtype) >= index * size).astype(dtype)
        return numerics.add_compensated(carry, block(start, unseen)), None

    block = jax.checkpoint(take)  # in reverse mode a block is computed again, not kept
    first = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((size,), dtype)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(block, *first))
    zeros = numerics.varying_with(zeros, samples, sample_weight, closed_over)
    return lax.scan(body, (zeros, zeros), jnp.arange(n_blocks, dtype=jnp.int32))[0]


def map_samples(step: Callable[[Array], T], X: Shaped[Array, "N D"], size: int, dtype: jnp.dtype) -> T:
    """Stack ``step(block)`` over the blocks of X: per-sample results, the sample axis first.

    ``step`` takes a (D, B) block and returns a pytree of arrays whose first axis is the B samples.
    """
    n_samples = X.shape[0]
    n_blocks = -(-n_samples // size)
    if n_blocks == 1:
        return step(_slice(X, 0, size, dtype))
    step = jax.checkpoint(step)

    def body(_: None, index: Array) -> tuple[None, T]:
        return None, step(_slice(X, jnp.minimum(index * size, n_samples - size), size, dtype))

    stacked = lax.scan(body, None, jnp.arange(n_blocks, dtype=jnp.int32))[1]
    repeated = n_blocks * size - n_samples

    def join(parts: Array) -> Array:
        head = parts[:-1].reshape(-1, *parts.shape[2:])
        return jnp.concatenate([head, parts[-1, repeated:]])

    return jax.tree.map(join, stacked)


def _slice(array: Array, start: Array | int, size: int, dtype: jnp.dtype) -> Array:
    """Samples ``start`` to ``start + size``, the sample axis moved last."""
    return jnp.moveaxis(lax.dynamic_slice_in_dim(array, start, size), 0, -1).astype(dtype)
