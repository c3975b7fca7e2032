"""Agreement with R mclust from the same hard starts: one M-step, and converged."""

import jax
import numpy as np
import pytest
import reference

import jaxgmm

MOST = 6  # components; fewer are padded with components of weight zero, so that a data set compiles once a structure


def run(X, covariance_type):
    """All six hard starts at once: the log-likelihood after one M-step, and the converged fits."""

    @jax.jit
    def lanes(starts):
        def lane(labels):
            start = jaxgmm.initialise(
                jax.random.key(0), X, MOST, method=labels, covariance_type=covariance_type
            )
            one = jaxgmm.fit_from(start, X, max_iter=0)
            return one.log_likelihood, jaxgmm.fit_from(start, X, tol=1e-12, max_iter=5000, covariance_floor=0.0)

        return jax.vmap(lane)(starts)

    return lanes


@pytest.mark.parametrize("covariance_type", reference.MODELS)
@pytest.mark.parametrize("name", reference.DATASETS)
def test_agrees_with_mclust(name, covariance_type, dtype):
    X = reference.samples(name).astype(dtype)
    one, fit = run(X, covariance_type)(reference.labels(name))
    one_bound, bound = (1e-8, 1e-6) if dtype == np.float64 else (1e-4, 1e-4)
    compared = 0
    for cell in reference.fits(name, covariance_type):
        g = cell["G"] - 1
        np.testing.assert_allclose(one[g], cell["one"], rtol=one_bound, err_msg=f"one M-step, G={g + 1}")
        if cell["loglik"] is None or abs(cell["loglik"] - cell["tight"]) > 1e-7 * abs(cell["tight"]):
            continue  # mclust failed there, or still moved
        np.testing.assert_allclose(fit.log_likelihood[g], cell["loglik"], rtol=bound, err_msg=f"converged, G={g + 1}")
        kept = slice(0, g + 1)
        params = jax.tree.map(lambda leaf: leaf[g], fit.params)
        cov = params.cov if covariance_type == "tied" else params.cov[kept]
        params = jaxgmm.GMMParams(params.weights[kept], params.means[kept], cov, params.structure)
        assert jaxgmm.n_free_parameters(params) == cell["n_params"]
        np.testing.assert_allclose(jaxgmm.bic(params, X), -cell["bic"], rtol=2 * bound)
        np.testing.assert_allclose(jaxgmm.icl(params, X), -cell["icl"], rtol=20 * bound)
        compared += 1
    assert compared >= 4
