"""Rows of zeros, of weight zero, so that samples of like sizes share a program."""

from __future__ import annotations

import numpy as np

LARGE = 1 << 14
"""Samples from which on a program of their own is worth its compilation."""


def padded(n: int) -> int:
    """``n`` rounded up to an eighth of its power of two, so that samples of many sizes share few programs."""
    step = max(16, 1 << max(0, n.bit_length() - 4))
    return n if n > LARGE else -(-n // step) * step


def in_rows(array: np.ndarray, n: int) -> np.ndarray:
    """``array`` with rows of zeros up to ``n``."""
    if n == len(array):
        return array
    return np.pad(array, ((0, n - len(array)), *((0, 0) for _ in array.shape[1:])))


def in_padded(X: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples and weights in padded rows, of weight zero; many samples as they are."""
    n = padded(len(X))
    if weight is None and n == len(X) > LARGE:
        return X, None
    return in_rows(X, n), in_rows(np.ones(len(X), X.dtype) if weight is None else weight, n)
