"""Covariances and their inverses, as scikit-learn holds them: in NumPy, (K, D, D), (D, D), (K, D) or (K,)."""

from __future__ import annotations

import numpy as np

from jaxgmm.params import GMMParams
from jaxgmm.structures import Structure
from jaxgmm.structures.base import Dense

COLLAPSED = (
    "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance caused by "
    "singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or scale the input data."
)
"""What scikit-learn says, too: scripts match it."""


def transposed(matrices: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrices, -1, -2)


def check_weights(weights: np.ndarray) -> None:
    if (weights < 0).any() or (weights > 1).any():
        raise ValueError(
            # The two change places in scikit-learn's sentence, and its tests want them so.
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.min():.5f}, min value {weights.max():.5f}"
        )
    if abs(1 - weights.sum(dtype=np.float64)) > (1e-6 if weights.dtype == np.float32 else 1e-8):
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}")


def check_positive(name: str, parts: np.ndarray, structure: Structure) -> None:
    """Matrices, variances or inverses of them, in the words of scikit-learn."""
    if not isinstance(structure, Dense):
        if (parts <= 0).any():
            raise ValueError(f"'{name}' should be positive")
    elif not np.allclose(parts, transposed(parts)) or (np.linalg.eigvalsh(parts) <= 0).any():
        raise ValueError(f"'{name}' should be symmetric, positive-definite")


def inverted(precisions: np.ndarray, structure: Structure) -> np.ndarray:
    """Covariances from precisions that are checked."""
    check_positive(f"{structure.name} precision", precisions, structure)
    if not isinstance(structure, Dense):
        return 1 / precisions
    cov = np.linalg.inv(precisions)
    return (cov + transposed(cov)) / 2


def squared(upper: np.ndarray, structure: Structure) -> np.ndarray:
    """The precisions that have these factors."""
    return upper @ transposed(upper) if isinstance(structure, Dense) else upper**2


def precisions_cholesky(cov: np.ndarray, structure: Structure) -> np.ndarray:
    """Upper triangular U with U U^T the inverse of each covariance, or its square root."""
    if not isinstance(structure, Dense):
        if not (cov > 0).all():
            raise ValueError(COLLAPSED)
        return 1 / np.sqrt(cov)
    try:
        lower = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        raise ValueError(COLLAPSED) from None
    return np.triu(transposed(np.linalg.inv(lower)))


def has_inverses(params: GMMParams) -> bool:
    """Does every covariance have an inverse, as far as rounding lets it be told?"""
    try:
        precisions_cholesky(np.asarray(params.cov), params.structure)
    except ValueError:
        return False
    return True
