"""The door of the estimator: samples and weights as scikit-learn takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import validate_data

from jaxgmm import checks

FLOATS = (np.float64, np.float32)


def samples(estimator: Any, X: Any, **options: Any) -> np.ndarray:
    """X as an (N, D) array of float64 or float32, the first call setting the feature names that later ones must meet."""
    kinds = [str(dtype).lower() for dtype in getattr(X, "dtypes", [getattr(X, "dtype", "")])]
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
