"""The table of structures that every law runs over, and tiny mixtures and samples to run it on."""

import jax
import numpy as np
import pytest

from jaxgmm import GMMParams
from jaxgmm.structures import CLASSICS, STRUCTURES

NAMES = list(CLASSICS)
FAMILIES = [name for name in STRUCTURES if name not in NAMES]
FACTORS = ["UUC-1", "UUU-1", "UCU-1", "UCC-1", "CUU-1", "CUC-1", "CCU-1", "CCC-1"]
QUICK = [*NAMES, "VVE", "UUC-1"]
SLOW = [name for name in [*FAMILIES, "UUU-1", "CUC-1", "CCU-1"] if name not in QUICK]
FAMILIES_OF_MCLUST = [*NAMES, "VVE", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "VVE")]
LONG = "UUU-1", "CUC-1"
EVERY = [*QUICK, *(pytest.param(n, marks=pytest.mark.long if n in LONG else pytest.mark.slow) for n in SLOW)]
N, D, K = 23, 2, 3


def random_samples(seed: int = 0, n: int = N, d: int = D, dtype=None) -> np.ndarray:
    """Three overlapping clouds."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + 2.5 * rng.integers(0, 3, size=(n, 1))
    return X.astype(dtype or default_dtype())


def random_mixture(covariance_type: str, seed: int = 0, k: int = K, d: int = D, dtype=None) -> GMMParams:
    """A mixture that has nothing special about it."""
    rng = np.random.default_rng(seed)
    dtype = dtype or default_dtype()
    root = 0.4 * rng.normal(size=(k, d, d)) + np.eye(d)
    moments = rng.dirichlet(np.full(k, 5.0)), 2 * rng.normal(size=(k, d)), root @ root.transpose(0, 2, 1)
    return GMMParams.from_moments(*(m.astype(dtype) for m in moments), covariance_type)


def random_gamma(seed: int = 0, n: int = N, k: int = K, dtype=None) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(k), size=n).astype(dtype or default_dtype())


def random_weight(seed: int = 0, n: int = N, dtype=None) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 2.0, size=n).astype(dtype or default_dtype())


def default_dtype() -> type:
    return np.float64 if jax.config.jax_enable_x64 else np.float32


def rtol(dtype=None, factor: float = 64) -> float:
    """So many roundings."""
    return factor * float(np.finfo(dtype or default_dtype()).eps)


def least_relative_eigenvalues(cov: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """Smallest eigenvalue of each matrix in the metric of another."""
    root = np.linalg.inv(np.linalg.cholesky(pooled))
    return np.linalg.eigvalsh(root @ cov @ root.T)[:, 0]
