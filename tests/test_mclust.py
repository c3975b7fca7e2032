"""Agreement with R mclust from the same hard starts: one M-step, and converged."""

import jax
import numpy as np
import pytest
import reference
from structures import FAMILIES_OF_MCLUST, NAMES

import jaxgmm
from jaxgmm.structures import STRUCTURES

MOST = 6  # components; fewer are padded with components of weight zero, so that a data set compiles once a structure


CASES = [
    pytest.param(name, structure, dtype, marks=() if structure in NAMES and dtype is np.float64 else pytest.mark.slow)
    for name in reference.DATASETS
    for structure in STRUCTURES
    for dtype in (np.float64, np.float32)
    if dtype is np.float64 or structure in NAMES or name == "iris"
]
INEXACT = "EVE", "VVE"
"""mclust leaves off looking for the axes early, and its VVE lowers the likelihood: these are held to exact EM's figures."""


@pytest.mark.parametrize(("name", "covariance_type", "dtype"), CASES)
def test_agrees_with_mclust(name, covariance_type, dtype):
    with jax.enable_x64(dtype is np.float64):
        agrees_with_mclust(name, covariance_type, dtype)


def agrees_with_mclust(name, covariance_type, dtype):
    X = reference.samples(name).astype(dtype)
    n_samples, n_features = X.shape

    @jax.jit
    @jax.vmap
    def lanes(labels):
        start = jaxgmm.initialise(jax.random.key(0), X, MOST, method=labels, covariance_type=covariance_type)
        return jaxgmm.fit_from(start, X, tol=1e-12, max_iter=5000, covariance_floor=0.0, trace=1)

    fit = lanes(reference.labels(name))
    after_one, converged = (1e-8, 1e-6) if dtype == np.float64 else (1e-4, 1e-4)
    compared = 0
    for cell in reference.fits(name, covariance_type):
        g = cell["G"] - 1
        assert n_free(covariance_type, g + 1, n_features) == cell["n_params"]
        if covariance_type in INEXACT and n_features > 1:
            found = float(fit.log_likelihood[g])
            assert found >= cell["truth"] - converged * abs(cell["truth"]), f"converged, G={g + 1}"
            compared += 1
            continue
        rtol = 1e-6 if covariance_type == "VEE" and dtype == np.float64 else after_one  # mclust iterates it to 1e-5
        np.testing.assert_allclose(fit.trace[g, 0], cell["one"], rtol=rtol, err_msg=f"one M-step, G={g + 1}")
        if cell["loglik"] is None or abs(cell["loglik"] - cell["tight"]) > 1e-7 * abs(cell["tight"]):
            continue  # mclust failed there, or still moved
        np.testing.assert_allclose(fit.log_likelihood[g], cell["loglik"], rtol=converged, err_msg=f"converged, G={g + 1}")
        bic = cell["n_params"] * np.log(n_samples) - 2 * fit.log_likelihood[g]
        np.testing.assert_allclose(bic, -cell["bic"], rtol=2 * converged)
        compared += 1
    assert compared >= 4  # mclust failed in two of six on acidity, and of iris in one (VEE) or two (EVV)


WEIGHTED = [
    pytest.param(cell, id=f"{cell['dataset']} {cell['model']}", marks=() if cell["model"] == "VVV" else pytest.mark.slow)
    for cell in reference.mclust()["weighted"]
]


@pytest.mark.parametrize("cell", WEIGHTED)
def test_weighted_fits_agree_with_mclust(cell, x64):
    X = reference.samples(cell["dataset"])
    weight = ((7 * np.arange(1, len(X) + 1)) % 11 + 1) / 11
    labels = np.array([int(c) for c in cell["labels"]], np.int32)
    options = {"sample_weight": weight}
    start = jaxgmm.initialise(jax.random.key(0), X, cell["G"], method=labels, covariance_type=cell["model"], **options)
    found = jaxgmm.fit_from(start, X, tol=1e-12, max_iter=5000, covariance_floor=0.0, **options).log_likelihood
    if cell["model"] in INEXACT:
        assert found >= cell["loglik"] - 1e-8 * abs(cell["loglik"])
    else:
        np.testing.assert_allclose(found, cell["loglik"], rtol=1e-8)


def n_free(covariance_type, n_components, n_features):
    structure = jaxgmm.initialise(
        jax.random.key(0), np.eye(2), 1, method="random_from_data", covariance_type=covariance_type
    ).structure
    shapes = ((n_components,), (n_components, n_features), structure.shape(n_components, n_features))
    return jaxgmm.n_free_parameters(jaxgmm.GMMParams(*map(np.zeros, shapes), structure))


@pytest.mark.parametrize("covariance_type", FAMILIES_OF_MCLUST)
@pytest.mark.parametrize("name", reference.DATASETS)
def test_criteria_of_mclusts_own_mixture_equal_mclusts(name, covariance_type, x64):
    X = reference.samples(name)
    (cell,) = (f for f in reference.fits(name, covariance_type) if f["G"] == 3)
    moments = cell["params"]
    n_features = X.shape[1]
    params = jaxgmm.GMMParams.from_moments(
        np.reshape(moments["pro"], 3),
        np.reshape(moments["mean"], (3, n_features)),
        np.reshape(moments["cov"], (3, n_features, n_features)),
        covariance_type,
    )
    np.testing.assert_allclose(jaxgmm.log_likelihood(params, X), cell["loglik"], rtol=1e-6)
    np.testing.assert_allclose(jaxgmm.bic(params, X), -cell["bic"], rtol=1e-6)
    np.testing.assert_allclose(jaxgmm.icl(params, X), -cell["icl"], rtol=1e-6)
