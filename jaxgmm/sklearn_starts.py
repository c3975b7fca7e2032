"""Where scikit-learn's mixture starts, the same for the same seed, and k-means in whitened coordinates beside it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn.cluster import KMeans, kmeans_plusplus

from jaxgmm import em
from jaxgmm.initial import from_responsibilities
from jaxgmm.lanes import Added
from jaxgmm.numerics import contract, divide_or_keep
from jaxgmm.params import GMMParams
from jaxgmm.structures import Structure

MOST_SAMPLES = 1 << 14
"""Samples that k-means in whitened coordinates looks at."""

LEAST_SPREAD = 1e-6
"""Variance of standardised features along an axis below which whitening does not stretch it further: copied features."""


STARTS = "kmeans", "k-means++", "random", "random_from_data"
"""scikit-learn's values of ``init_params``."""


def responsibilities(
    method: str, X: np.ndarray, weight: np.ndarray | None, n_components: int, random_state: np.random.RandomState
) -> np.ndarray:
    """Where scikit-learn starts: (N, K)."""
    if method == "random":
        gamma = random_state.uniform(size=(len(X), n_components)).astype(X.dtype)
        return gamma / gamma.sum(axis=1, keepdims=True)
    if method == "kmeans":
        found = KMeans(n_clusters=n_components, n_init=1, random_state=random_state).fit(X, sample_weight=weight)
        return _one_hot(found.labels_, n_components, X.dtype)
    if method == "k-means++":
        _, rows = kmeans_plusplus(X, n_components, sample_weight=weight, random_state=random_state)
    else:
        share = None if weight is None else weight / weight.sum()
        rows = random_state.choice(len(X), size=n_components, replace=False, p=share)
    gamma = np.zeros((len(X), n_components), X.dtype)
    gamma[rows, np.arange(n_components)] = 1
    return gamma


def whitened_clusters(
    X: np.ndarray, weight: np.ndarray | None, n_components: int, random_state: np.random.RandomState
) -> np.ndarray:
    """k-means where the samples have unit covariance, which does not depend on their units: (N, K)."""
    away = X - np.average(X.astype(np.float64), axis=0, weights=weight)
    spread = np.sqrt(np.average(away**2, axis=0, weights=weight))
    away = away / np.where(spread > 0, spread, 1)
    values, axes = np.linalg.eigh(np.atleast_2d(np.cov(away, rowvar=False, aweights=weight, ddof=0)))
    away = away @ (axes / np.sqrt(np.maximum(values, LEAST_SPREAD)))
    some = slice(None) if len(X) <= MOST_SAMPLES else random_state.choice(len(X), MOST_SAMPLES, replace=False)
    found = KMeans(n_clusters=n_components, n_init=1, random_state=random_state)
    found.fit(away[some], sample_weight=None if weight is None else weight[some])
    return _one_hot(found.predict(away), n_components, X.dtype)


def _one_hot(label: np.ndarray, n_components: int, dtype: np.dtype) -> np.ndarray:
    return (label[:, None] == np.arange(n_components)).astype(dtype)


@partial(jax.jit, static_argnames="structure")
def estimated(X: Array, weight: Array, gamma: Array, added: Added, structure: Structure) -> GMMParams:
    """The M-step from responsibilities, with what is added to the covariances.

    About means that are plain sums over the samples of each component: those about the mean of all would take the digits of
    most where one sample is at 1e80.
    """
    found = from_responsibilities(X, weight, gamma, gamma.shape[1], structure, covariance_floor=None)
    mass = gamma * weight[:, None]
    means = divide_or_keep(contract("nk,nd->kd", mass, X), jnp.sum(mass, axis=0), found.means)
    found = em.m_step(replace(found, means=means), X, gamma, sample_weight=weight)
    return replace(found, cov=structure.widened(found.cov, added.variance))
