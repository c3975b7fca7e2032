"""Float64 samples where JAX computes in float32: what must be subtracted is subtracted in NumPy, before anything is rounded."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm import checks
from jaxgmm.numerics import float_dtype


def about_mean(X: Any, sample_weight: Any) -> tuple[Any, np.ndarray | None]:
    """Samples that JAX would round, about their mean, and the mean; others as they are, and those that have none."""
    if checks.is_traced(X) or X.dtype != np.float64 or float_dtype(X) != jnp.float32:
        return X, None
    # Under weights that are traced a row that is not finite may be absent, or must show.
    known = sample_weight is not None and not checks.is_traced(sample_weight)
    away, offset = centred(np.asarray(X), np.asarray(sample_weight) if known else None)
    with np.errstate(over="ignore"):
        return (away, offset) if np.isfinite(offset.astype(np.float32)).all() else (X, None)


def difference(values: ArrayLike, offset: ArrayLike, dtype: jnp.dtype) -> Array:
    """``values - offset``; where both are known, rounded once."""
    if checks.is_traced(values, offset):
        values, offset = jnp.broadcast_arrays(jnp.asarray(values).astype(dtype), jnp.asarray(offset).astype(dtype))
        return values - offset
    return jnp.asarray((np.asarray(values, np.float64) - np.asarray(offset, np.float64)).astype(dtype))


def centred(X: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """float64 samples (..., N, D) as float32 about their mean (..., D), and the mean; rows of weight zero become zero."""
    present = np.ones(X.shape[:-1], bool) if weight is None else weight > 0
    count = np.maximum(present.sum(axis=-1), 1)[..., None]
    with np.errstate(over="ignore", invalid="ignore"):
        X = X if weight is None else np.where(present[..., None], X, 0)
        offset = X.sum(axis=-2) / count
        away = X - offset[..., None, :]
        away = away if weight is None else np.where(present[..., None], away, 0)
        spread = np.sqrt((away**2).sum(axis=-2) / count)
        step = np.spacing(np.abs(X).max(axis=-2).astype(np.float32))
        away = away.astype(np.float32)
        coarse = np.argwhere((spread > 0) & (step > 1e-3 * spread))
    if coarse.size:
        first = tuple(coarse[0])
        warnings.warn(
            f"X is float64, but JAX computes in float32, whose steps of {step[first]:.2g} in column {first[-1]} are more than "
            f"a thousandth of its standard deviation {spread[first]:.2g}. The fit is centred and sound, but means and later "
            'predictions lose digits. Subtract the mean, or set jax.config.update("jax_enable_x64", True).',
            stacklevel=_frames_of_ours(),
        )
    return away, offset


def _frames_of_ours() -> int:
    """The ``stacklevel`` at which a warning of the function that asks points to the code of the user."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("jaxgmm."):
        frame, level = frame.f_back, level + 1
    return level
