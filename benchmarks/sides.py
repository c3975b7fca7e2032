"""The sides of a comparison. Each says how to run a number of EM steps from a given start, and how to fit from restarts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rows import Row, start

Moments = tuple[np.ndarray, np.ndarray, np.ndarray]
Steps = Callable[[int], Any]


def jaxgmm_steps(row: Row, X: np.ndarray) -> tuple[Steps, Callable[[Any], Moments]]:
    import jax

    import jaxgmm

    on_device = jax.numpy.asarray(X)
    params = jaxgmm.GMMParams.from_moments(*start(X, row.n_components), row.covariance_type)

    def run(n: int) -> Any:
        return jax.block_until_ready(jaxgmm.fit_from(params, on_device, tol=0.0, max_iter=n, covariance_floor=0.0).params)

    return run, lambda end: (np.asarray(end.weights), np.asarray(end.means), np.asarray(jaxgmm.covariances(end)))


def sklearn_steps(row: Row, X: np.ndarray) -> tuple[Steps, Callable[[Any], Moments]]:
    from sklearn.mixture import GaussianMixture

    weights, means, covariances = start(X, row.n_components)
    diagonal = row.covariance_type == "diag"
    precisions = 1 / np.diagonal(covariances, axis1=1, axis2=2) if diagonal else np.linalg.inv(covariances)

    def run(n: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return GaussianMixture(
                row.n_components, covariance_type=row.covariance_type, tol=0.0, max_iter=n, reg_covar=row.peer_floor,
                weights_init=weights, means_init=means, precisions_init=precisions.astype(X.dtype),
            ).fit(X)  # fmt: skip

    def moments(end: Any) -> Moments:
        dense = end.covariances_[:, :, None] * np.eye(X.shape[1]) if diagonal else end.covariances_
        return end.weights_, end.means_, dense

    return run, moments


def gmmx_steps(row: Row, X: np.ndarray) -> tuple[Steps, Callable[[Any], Moments]]:
    import gmmx
    import jax

    on_device = jax.numpy.asarray(X)
    weights, means, covariances = start(X, row.n_components)
    model = gmmx.GaussianMixtureModelJax.from_squeezed(means, covariances, weights, row.covariance_type)

    def run(n: int) -> Any:
        fitter = gmmx.EMFitter(max_iter=n, tol=0.0, reg_covar=row.peer_floor)
        return jax.block_until_ready(fitter.fit(on_device, model).gmm)

    return run, lambda end: (end.weights_numpy, end.means_numpy, np.asarray(end.covariances.values_dense)[0])


STEPS = {"jaxgmm": jaxgmm_steps, "scikit-learn": sklearn_steps, "gmmx": gmmx_steps}


def jaxgmm_restarts(row: Row, X: np.ndarray) -> Callable[[int], float]:
    import jax

    import jaxgmm

    on_device = jax.numpy.asarray(X)

    def run(seed: int) -> float:
        result = jaxgmm.fit(jax.random.key(seed), on_device, row.n_components, n_restarts=16, tol=1e-4)
        return float(result.log_likelihood) / len(X)

    return run


def sklearn_restarts(row: Row, X: np.ndarray) -> Callable[[int], float]:
    from sklearn.mixture import GaussianMixture

    def run(seed: int) -> float:
        return float(GaussianMixture(row.n_components, n_init=16, tol=1e-4, random_state=seed).fit(X).score(X))

    return run


RESTARTS = {"jaxgmm": jaxgmm_restarts, "scikit-learn": sklearn_restarts}
