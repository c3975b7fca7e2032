"""The door of the estimator: samples and weights as scikit-learn takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import validate_data

from jaxgmm import checks

FLOATS = (np.float64, np.float32)


def samples(estimator: Any, X: Any, **options: Any) -> np.ndarray:
    """X as an (N, D) array of float64 or float32, the first call setting the feature names that later ones must meet."""
    table = hasattr(X, "columns") and not hasattr(X, "collect")  # a lazy table warns when it is asked, and is refused below
    kinds = [str(dtype).lower() for dtype in (X.dtypes if table else [getattr(X, "dtype", "")])]
    times = [kind for kind in kinds if kind.startswith(("date", "time", "duration"))]
    if times:
        raise ValueError(f"X must hold numbers; got dtype {times[0]}. Take differences of times in a unit of your choice.")
    return validate_data(estimator, X, dtype=FLOATS, **options)


def weighted_samples(estimator: Any, X: Any, sample_weight: Any, **options: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """X and its weights; a row of weight zero is absent, so that it may hold anything."""
    if sample_weight is None:
        return samples(estimator, X, **options), None
    X = samples(estimator, X, ensure_all_finite=False, **options)
    weight = np.asarray(checks.check_sample_weight(np.asarray(sample_weight), len(X)), X.dtype)
    present = weight > 0
    assert_all_finite(X[present], input_name="X")
    # scikit-learn's k-means looks at rows of weight zero, too.
    return X if np.isfinite(X).all() else np.where(present[:, None], X, X[present][0]), weight


def shaped(name: str, value: Any, expected: tuple[int, ...]) -> np.ndarray:
    """A parameter of numbers, in the words of scikit-learn."""
    array = check_array(np.atleast_1d(value), dtype=FLOATS, ensure_2d=False, allow_nd=True, input_name=name)
    if array.shape != expected:
        raise ValueError(f"The parameter '{name}' should have the shape of {expected}, but got {array.shape}")
    return array


def unit(X: np.ndarray, weight: np.ndarray | None, vanishing: bool) -> float:
    """What to divide samples by so that sums of squares stay inside the dtype: 1, or a power of two, which rounds nothing.

    Squares that may be ``vanishing`` beside what is added to variances are not asked to be more than zero.
    """
    present = X if weight is None else X[weight > 0]
    limits = np.finfo(X.dtype)
    with np.errstate(over="ignore"):
        spread = float(np.max(present.max(axis=0).astype(np.longdouble) - present.min(axis=0)))
    limit, largest = np.sqrt(float(limits.max)), np.sqrt(float(limits.max) / X.size) / 4
    least, smallest = 64 * np.sqrt(float(limits.tiny)), np.sqrt(float(limits.tiny) / float(limits.eps))
    if largest < spread < limit:
        return float(2.0 ** np.ceil(np.log2(spread / largest)))
    if least < spread < smallest and not vanishing:
        return float(2.0 ** np.ceil(np.log2(spread)))
    return 1.0  # beyond, variances themselves leave the dtype: that is refused in words
