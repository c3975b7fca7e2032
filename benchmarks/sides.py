"""The sides of a comparison. Each says how to run a number of EM steps from a given start, and how to fit from restarts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rows import LOOP, Row, start

Moments = tuple[np.ndarray, np.ndarray, np.ndarray]
Steps = Callable[[int], Any]


def jaxgmm_steps(row: Row, X: np.ndarray) -> tuple[Steps, Callable[[Any], Moments]]:
    import jax

    import jaxgmm

    on_device = jax.numpy.asarray(X)
    params = jaxgmm.GMMParams.from_moments(*start(X, row.n_components), row.covariance_type)
    floor = np.full(row.n_features, row.floor, row.dtype) if row.floor else 0.0

    def run(n: int) -> Any:
        return jax.block_until_ready(jaxgmm.fit_from(params, on_device, tol=0.0, max_iter=n, covariance_floor=floor).params)

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
                row.n_components, covariance_type=row.covariance_type, tol=0.0, max_iter=n, reg_covar=row.floor,
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
        fitter = gmmx.EMFitter(max_iter=n, tol=0.0, reg_covar=row.floor)
        return jax.block_until_ready(fitter.fit(on_device, model).gmm)

    return run, lambda end: (end.weights_numpy, end.means_numpy, np.asarray(end.covariances.values_dense)[0])


def tgmm_steps(row: Row, X: np.ndarray) -> tuple[Steps, Callable[[Any], Moments]]:
    import torch
    from tgmm import GaussianMixture

    samples = torch.from_numpy(X)
    weights, means, covariances = (torch.from_numpy(part) for part in start(X, row.n_components))

    def run(n: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return GaussianMixture(
                row.n_components, row.n_features, row.covariance_type, tol=1e-30, max_iter=n, reg_covar=row.floor,
                init_weights=weights, init_means=means, init_covariances=covariances,
            ).fit(samples)  # fmt: skip

    return run, lambda end: (end.weights_.numpy(), end.means_.numpy(), end.covariances_.numpy())


def multiplications(row: Row, X: np.ndarray) -> Steps:
    """The multiplications of a step in the expanded form, blocks of the same numbers: 4 flops a feature and component."""
    import jax
    import jax.numpy as jnp

    from jaxgmm import blocks
    from jaxgmm.structures import get_structure

    structure = get_structure(row.covariance_type)
    features = jax.jit(lambda x: jnp.concatenate(structure.features(None, x)))
    rng = np.random.default_rng(0)
    per_sample = 3 * row.n_components + len(features(jnp.ones((row.n_features, 1), row.dtype))) + row.n_features
    size = blocks.block_size(row.n_samples, per_sample, X.dtype.itemsize, row.n_components)
    block = features(jnp.asarray(X[:size].T))
    coefficients = jnp.asarray(rng.normal(size=(row.n_components, len(block))).astype(row.dtype))

    @jax.jit
    def repeated(coefficients: Any, block: Any, n: Any) -> Any:
        def turn(_: Any, coefficients: Any) -> Any:
            density = jnp.dot(coefficients, block, precision="highest")
            sums = jax.lax.dot_general(block, density, (((1,), (1,)), ((), ())), precision="highest")
            return 1e-6 * sums.T  # each turn needs the one before

        return jax.lax.fori_loop(0, n, turn, coefficients)

    return lambda n: jax.block_until_ready(repeated(coefficients, block, n * (row.n_samples // size)))


STEPS = {"jaxgmm": jaxgmm_steps, "scikit-learn": sklearn_steps, "gmmx": gmmx_steps, "tgmm": tgmm_steps}


def many_sets(row: Row) -> np.ndarray:
    """(1000, N, D) pairs of unit clusters, 3 apart in each feature."""
    rng = np.random.default_rng(0)
    shift = 3 * rng.integers(0, 2, size=(1000, row.n_samples, 1))
    return (rng.normal(size=(1000, row.n_samples, row.n_features)) + shift).astype(row.dtype)


Fit = Callable[[int], Callable[[], float]]
"""seed -> what tells, after the timing, the mean log-likelihood of a sample, or another figure that both must agree in."""


def jaxgmm_restarts(row: Row, X: np.ndarray) -> Fit:
    import jax

    import jaxgmm

    on_device = jax.numpy.asarray(X)

    def run(seed: int) -> Callable[[], float]:
        result = jaxgmm.fit(jax.random.key(seed), on_device, row.n_components, n_restarts=16, init="kmeans", tol=1e-4)
        jax.block_until_ready(result)
        return lambda: float(result.log_likelihood) / len(X)

    return run


def sklearn_restarts(row: Row, X: np.ndarray) -> Fit:
    from sklearn.mixture import GaussianMixture

    def run(seed: int) -> Callable[[], float]:
        fit = GaussianMixture(row.n_components, n_init=16, tol=1e-4, random_state=seed).fit(X)
        return lambda: float(fit.score(X))

    return run


def jaxgmm_many(row: Row, _: np.ndarray) -> Fit:
    import jax

    import jaxgmm

    sets = many_sets(row)

    def run(seed: int) -> Callable[[], float]:
        result = jaxgmm.fit_many(jax.random.key(seed), sets, row.n_components, n_restarts=1, tol=1e-3)
        jax.block_until_ready(result)
        return lambda: float(result.log_likelihood.mean()) / row.n_samples

    return run


def sklearn_many(row: Row, _: np.ndarray) -> Fit:
    from sklearn.mixture import GaussianMixture

    sets = many_sets(row)

    def run(seed: int) -> Callable[[], float]:
        fits = [GaussianMixture(row.n_components, tol=1e-3, init_params="k-means++", random_state=seed).fit(X) for X in sets]
        return lambda: float(np.mean([fit.score(X) for fit, X in zip(fits, sets, strict=True)]))

    return run


STRUCTURES = ("full", "tied", "diag", "spherical")


def iris() -> np.ndarray:
    from sklearn.datasets import load_iris

    return load_iris().data.astype(np.float32)


def jaxgmm_sweep(row: Row, _: np.ndarray) -> Fit:
    import jax

    import jaxgmm

    X = iris()

    def run(seed: int) -> Callable[[], float]:
        counts = range(1, row.n_components + 1)
        found = jaxgmm.sweep(jax.random.key(seed), X, counts, STRUCTURES, n_restarts=3, tol=1e-3)
        return lambda: float(found.log_likelihood[found.n_components == 1].mean()) / len(X)  # one component has one answer

    return run


def sklearn_sweep(row: Row, _: np.ndarray) -> Fit:
    from sklearn.mixture import GaussianMixture

    X = iris()

    def run(seed: int) -> Callable[[], float]:
        single = []
        for name in STRUCTURES:
            for k in range(1, row.n_components + 1):
                fit = GaussianMixture(k, covariance_type=name, n_init=3, tol=1e-3, random_state=seed).fit(X)
                fit.bic(X), fit.aic(X)
                single += [fit] if k == 1 else []
        return lambda: float(np.mean([fit.score(X) for fit in single]))

    return run


PATCH_FLOOR = 1e-5
"""Least variance of a patch in any direction, grey levels from 0 to 1 squared; scikit-learn adds it."""


def patches(row: Row) -> np.ndarray:
    """(N, D) square patches of two photographs, their means removed, with noise of sd 0.01."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    side = round(row.n_features**0.5)
    found = []
    for image in load_sample_images().images:
        grey = image.mean(axis=2) / 255
        windows = np.lib.stride_tricks.sliding_window_view(grey, (side, side)).reshape(-1, row.n_features)
        found.append(windows[rng.choice(len(windows), row.n_samples // 2, replace=False)])
    X = np.concatenate(found)
    X = X - X.mean(axis=1, keepdims=True) + 0.01 * rng.normal(size=X.shape)
    return X.astype(row.dtype)


def sklearn_patches(row: Row, X: np.ndarray, seed: int) -> float:
    """Its defaults: the mean log-likelihood of a sample where it stops."""
    from sklearn.mixture import GaussianMixture

    return float(GaussianMixture(row.n_components, reg_covar=PATCH_FLOOR, random_state=seed).fit(X).score(X))


class Reached(Exception):
    """The likelihood aimed at."""


def jaxgmm_patches(row: Row, X: np.ndarray, seed: int, target: float) -> float:
    """One start, until the mean log-likelihood is at the target: what it has become, or where EM ended below it."""
    import jax

    import jaxgmm

    reached = -np.inf

    def look(progress: Any) -> None:
        nonlocal reached
        reached = float(progress.log_likelihood.max()) / len(X)
        if reached >= target:
            raise Reached

    floor = np.full(row.n_features, PATCH_FLOOR)
    with contextlib.suppress(Reached):
        jaxgmm.fit(
            jax.random.key(seed),
            X,
            row.n_components,
            n_restarts=1,
            init="random_from_data",
            covariance_floor=floor,
            callback=look,
        )
    return reached


def jaxgmm_estimator(row: Row, X: np.ndarray) -> Fit:
    from jaxgmm.sklearn import GaussianMixture

    return _estimator(GaussianMixture, row, X)


def sklearn_estimator(row: Row, X: np.ndarray) -> Fit:
    from sklearn.mixture import GaussianMixture

    return _estimator(GaussianMixture, row, X)


def _estimator(kind: Any, row: Row, X: np.ndarray) -> Fit:
    """Its defaults, for a script that changes one import."""

    def run(seed: int) -> Callable[[], float]:
        fit = kind(row.n_components, random_state=seed).fit(X)
        return lambda: float(fit.score(X))

    return run


def jaxgmm_rounds(row: Row, X: np.ndarray) -> dict[str, Steps]:
    """The same passes with a callback and a bar, and in one loop without the host."""
    import jax

    import jaxgmm

    on_device, key = jax.numpy.asarray(X), jax.random.key(0)

    def fit(X: Any, passes: Any, **options: Any) -> Any:
        return jaxgmm.fit(
            key, X, row.n_components, n_restarts=1, init="kmeans", tol=0.0, max_iter=passes, **options
        ).log_likelihood

    alone = jax.jit(fit)
    return {
        "jaxgmm": lambda n: float(fit(on_device, n, callback=lambda progress: None, progress=True)),
        LOOP: lambda n: float(alone(on_device, n)),
    }


FITS = {
    "estimator, 50k x 8, K=16, float64": {"jaxgmm": jaxgmm_estimator, "scikit-learn": sklearn_estimator},
    "16 restarts, 4000 x 8, K=8": {"jaxgmm": jaxgmm_restarts, "scikit-learn": sklearn_restarts},
    "1000 data sets of 400 x 2, K=2": {"jaxgmm": jaxgmm_many, "scikit-learn": sklearn_many},
    "sweep of iris, 9 x 4 x 3": {"jaxgmm": jaxgmm_sweep, "scikit-learn": sklearn_sweep},
    "sweep of iris, first call": {"jaxgmm": jaxgmm_sweep, "scikit-learn": sklearn_sweep},
}

SCRIPT = """
import sys, numpy as np
from sklearn.mixture import GaussianMixture
X = np.loadtxt(sys.argv[1], delimiter=",", skiprows=1)
fits = [GaussianMixture(k, n_init=16).fit(X) for k in range(1, 7)]
best = min(fits, key=lambda fit: fit.bic(X))
print(best.bic(X), best.weights_, best.means_, best.covariances_, np.bincount(best.predict(X)))
"""
"""What a user of scikit-learn would write for ``jaxgmm fit faithful.csv --components 1:6``."""
