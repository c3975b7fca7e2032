"""Each seed equation, (1) to (11), where it stands in the code, against an independent form or by autodiff."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from structures import FACTORS, NAMES, D, K, N, random_gamma, random_mixture, random_samples, random_weight

import jaxgmm
from jaxgmm import em
from jaxgmm.structures import STRUCTURES

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(params=NAMES)
def params(request):
    return random_mixture(request.param)


@pytest.fixture
def X():
    return random_samples()


def dense_joint(params, X):
    """pi_k N(x_n | mu_k, Sigma_k), (N, K), by SciPy."""
    sigma = np.asarray(jaxgmm.covariances(params))
    return np.stack(
        [w * multivariate_normal.pdf(X, m, s) for w, m, s in zip(params.weights, params.means, sigma, strict=True)], axis=1
    )


def test_eq_1_density(params, X):
    np.testing.assert_allclose(jaxgmm.log_prob(params, X), np.log(dense_joint(params, X).sum(1)), rtol=1e-12)


def test_eqs_2_and_3_weights(params, X):
    for mixture in (params, jaxgmm.m_step(params, X, random_gamma())):
        assert ((mixture.weights >= 0) & (mixture.weights <= 1)).all()
        np.testing.assert_allclose(mixture.weights.sum(), 1, rtol=1e-15)


def test_eqs_4_and_5_responsibilities_and_classification(params, X):
    joint = dense_joint(params, X)
    gamma, log_px = jaxgmm.e_step(params, X)
    np.testing.assert_allclose(gamma, joint / joint.sum(1, keepdims=True), rtol=1e-11)
    np.testing.assert_allclose(log_px, np.log(joint.sum(1)), rtol=1e-12)
    np.testing.assert_array_equal(jaxgmm.predict(params, X), joint.argmax(1))
    np.testing.assert_array_equal(jaxgmm.predict_proba(params, X), gamma)


def test_eq_6_log_likelihood(params, X):
    w = random_weight()
    log_px = np.log(dense_joint(params, X).sum(1))
    np.testing.assert_allclose(jaxgmm.log_likelihood(params, X), log_px.sum(), rtol=1e-13)
    np.testing.assert_allclose(jaxgmm.log_likelihood(params, X, sample_weight=w), w @ log_px, rtol=1e-13)


def test_eqs_7_8_and_11_closed_forms(X):
    gamma = random_gamma()
    count = gamma.sum(0)
    means = gamma.T @ X / count[:, None]
    away = X[:, None] - means[None]
    sigma = np.einsum("nk,nki,nkj->kij", gamma, away, away) / count[:, None, None]
    variances = np.diagonal(sigma, axis1=1, axis2=2)
    expected = {
        "full": sigma,
        "tied": np.einsum("k,kij->ij", count / N, sigma),
        "diag": variances,
        "spherical": variances.mean(1),
    }
    for name, cov in expected.items():
        new = jaxgmm.m_step(random_mixture(name), X, gamma)
        np.testing.assert_allclose(new.weights, count / N, rtol=1e-13)
        np.testing.assert_allclose(new.means, means, rtol=1e-12)
        np.testing.assert_allclose(new.cov, cov, rtol=1e-12)


def test_eqs_7_and_8_are_stationary_points_of_q(params, X):
    """With gamma held fixed the gradient of Q in mu_k and Sigma_k vanishes at the M-step."""
    gamma = jnp.asarray(random_gamma())
    new = jaxgmm.m_step(params, X, gamma)
    gradient = jax.grad(em.expected_log_likelihood)(new, X, gamma)
    np.testing.assert_allclose(gradient.means, 0, atol=1e-11)
    np.testing.assert_allclose(gradient.cov, 0, atol=1e-11)


def test_gradient_of_the_log_likelihood_has_the_closed_forms_behind_eqs_7_and_8(X):
    """dL/dmu_k = P_k sum_n gamma_nk (x_n - mu_k);  dL/dSigma_k = sum_n gamma_nk (P_k d d^T P_k - P_k) / 2."""
    params = random_mixture("full")
    gradient = jax.grad(jaxgmm.log_likelihood)(params, X)
    gamma = np.asarray(jaxgmm.e_step(params, X)[0])
    P = np.linalg.inv(params.cov)
    away = X[:, None] - np.asarray(params.means)[None]
    by_mean = np.einsum("kij,nk,nkj->ki", P, gamma, away)
    scatter = np.einsum("nk,nki,nkj->kij", gamma, away, away)
    by_sigma = (P @ scatter @ P - gamma.sum(0)[:, None, None] * P) / 2
    np.testing.assert_allclose(gradient.means, by_mean, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(gradient.cov, by_sigma, rtol=1e-9, atol=1e-11)


def test_eqs_9_10_and_11_lagrangian(params, X):
    """At the M-step dJ/dpi_k = N_k / pi_k - lambda = 0 with lambda = N; J itself by autodiff, Q and weights apart."""
    gamma = jnp.asarray(random_gamma())
    new = jaxgmm.m_step(params, X, gamma)

    def lagrangian(weights, multiplier):
        q = em.expected_log_likelihood(replace(new, weights=weights), X, gamma)
        return em.lagrangian(q, weights, multiplier)

    by_weights, by_multiplier = jax.grad(lagrangian, argnums=(0, 1))(new.weights, float(N))
    np.testing.assert_allclose(by_weights, 0, atol=1e-11)
    np.testing.assert_allclose(by_multiplier, 0, atol=1e-14)
    # eq. (10) solved for lambda at any weights: sum_k pi_k dQ/dpi_k = N
    other = random_mixture("full", seed=5).weights
    slope = jax.grad(lambda w: em.expected_log_likelihood(replace(new, weights=w), X, gamma))(other)
    np.testing.assert_allclose(jnp.dot(other, slope), N, rtol=1e-12)


def test_derivation_holds_at_a_fixed_point_of_em(params, X):
    """At a converged fit the gradient of L vanishes in mu and Sigma, and that of J in pi, with lambda = N."""
    X = random_samples(n=60, seed=3)
    fit = jaxgmm.fit_from(params, X, tol=0.0, max_iter=4000, covariance_floor=0.0)
    assert fit.status != jaxgmm.Status.NONFINITE
    gradient = jax.grad(jaxgmm.log_likelihood)(fit.params, X)
    scale = abs(float(fit.log_likelihood))
    alive = np.asarray(fit.params.weights) > 1e-9
    np.testing.assert_allclose(gradient.means / scale, 0, atol=1e-7)
    np.testing.assert_allclose(gradient.cov / scale, 0, atol=1e-7)
    np.testing.assert_allclose(np.asarray(gradient.weights)[alive], len(X), rtol=1e-6)


def test_m_step_of_e_step_is_one_turn_of_the_loop(params, X):
    w = random_weight()
    one = jaxgmm.m_step(params, X, jaxgmm.e_step(params, X)[0], sample_weight=w)
    turn = jaxgmm.maximise(params, jaxgmm.statistics(params, X, sample_weight=w))
    loop = jaxgmm.fit_from(params, X, sample_weight=w, tol=0.0, max_iter=1, covariance_floor=0.0).params
    for other in (turn, loop):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), one, other)


def test_gradients_against_differences(params, X):
    """Every parameter, also with a component of weight zero, by central differences along a random direction."""
    for mixture in (params, replace(params, weights=jnp.asarray([0.0, 0.4, 0.6]))):
        gradient = jax.grad(jaxgmm.log_likelihood)(mixture, X)
        rng = np.random.default_rng(1)
        for field in ("weights", "means", "cov"):
            value = getattr(mixture, field)
            direction = rng.normal(size=value.shape)
            if field == "cov" and mixture.structure.name in ("full", "tied"):
                direction = direction + np.swapaxes(direction, -1, -2)
            slope = float(jnp.sum(getattr(gradient, field) * direction))
            assert np.isfinite(np.asarray(getattr(gradient, field))).all()
            one_sided = field == "weights" and mixture is not params  # weights stop at zero
            if one_sided:
                direction = np.abs(direction)
                slope = float(jnp.sum(getattr(gradient, field) * direction))
            h = 1e-3 / max(1e3, abs(slope))

            def along(t, field=field, value=value, direction=direction, mixture=mixture):
                return float(jaxgmm.log_likelihood(replace(mixture, **{field: value + t * direction}), X))

            step = (-3 * along(0) + 4 * along(h) - along(2 * h)) if one_sided else (along(h) - along(-h))
            assert step / (2 * h) == pytest.approx(slope, rel=2e-6, abs=1e-6), field


def test_unequal_volumes_of_evv_count_as_their_mean(X):
    """Rounding of what is stored must not move the likelihood, which has slopes along volumes that differ."""
    params, apart = random_mixture("EVV"), jnp.linspace(-1e-3, 1e-3, K)
    other = replace(params, cov=params.cov * jnp.exp(apart)[:, None, None])
    np.testing.assert_allclose(jaxgmm.log_likelihood(other, X), jaxgmm.log_likelihood(params, X), rtol=1e-13)
    back = jaxgmm.from_free(jaxgmm.to_free(other))
    np.testing.assert_allclose(jaxgmm.log_likelihood(back, X), jaxgmm.log_likelihood(params, X), rtol=1e-12)
    full = [replace(mixture, structure=STRUCTURES["full"]) for mixture in (params, other)]
    assert abs(jaxgmm.log_likelihood(full[0], X) - jaxgmm.log_likelihood(full[1], X)) > 1e-4


@pytest.mark.parametrize("floor", [1e-6, 0.7])
@pytest.mark.parametrize("name", ["full", "tied", "EEI", "EVI", "EEV", "EVV", "UCU-1"])
def test_an_m_step_in_closed_form_has_a_reverse_mode(name, floor, X):
    """Where the floor binds as well: the larger does."""
    params, gamma, along = random_mixture(name), random_gamma(), np.cos(np.arange(X.size)).reshape(X.shape)

    def of(X):
        return jnp.sum(jnp.sin(jaxgmm.covariances(jaxgmm.m_step(params, X, gamma, covariance_floor=np.full(D, floor)))))

    slope = np.sum(jax.grad(of)(X) * along)
    both = jax.grad(lambda both: jnp.sum(jax.vmap(of)(both)))(np.stack([X, 2 * X]))
    np.testing.assert_allclose(slope, [np.sum(both[0] * along), jax.jvp(of, (X,), (along,))[1]], rtol=1e-9)
    h = 1e-5
    np.testing.assert_allclose(slope, (of(X + h * along) - of(X - h * along)) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize("name", ["full", "diag"])
def test_a_pass_of_whatever_form_has_a_reverse_mode(name, X, monkeypatch):
    """Also of many mixtures at once, of which each may take another form."""
    monkeypatch.setattr("jaxgmm.contract.SMALL", 0)
    one, far = random_mixture(name), random_mixture(name)
    far = replace(far, means=far.means * 1e7)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, far)

    def of_pass(params, X):
        return jaxgmm.statistics(params, X).log_likelihood

    direct = jax.vmap(jax.grad(jaxgmm.log_likelihood), (0, None))(both, X)
    each = jax.vmap(jax.grad(of_pass), (0, None))(both, X)
    at_once = jax.grad(lambda both: jnp.sum(jax.vmap(of_pass, (0, None))(both, X)))(both)
    for other in (each, at_once):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), other, direct)


def test_gradient_in_x_and_second_order(X):
    params = random_mixture("diag")
    by_x = jax.grad(jaxgmm.log_likelihood, argnums=1)(params, X)
    gamma = np.asarray(jaxgmm.e_step(params, X)[0])
    away = (X[:, None] - np.asarray(params.means)[None]) / np.asarray(params.cov)[None]
    np.testing.assert_allclose(by_x, -np.einsum("nk,nkd->nd", gamma, away), rtol=1e-10)
    hessian = jax.hessian(lambda m: jaxgmm.log_likelihood(replace(params, means=m), X))(params.means)
    assert hessian.shape == (K, D, K, D)
    np.testing.assert_allclose(hessian, np.transpose(hessian, (2, 3, 0, 1)), atol=1e-10)


@pytest.mark.parametrize(
    "names", [STRUCTURES, pytest.param([*FACTORS, "UUU-2", "UCU-2", "CUU-2"], marks=pytest.mark.slow)], ids=["all", "factors"]
)
def test_free_parameters_are_the_rank_of_the_family(names):
    """The Jacobian of the moments in the parameters has as many dimensions as n_free_parameters counts."""
    for name in names:
        params = random_mixture(name, d=3)
        unit = jnp.ones(3, params.means.dtype)

        def moments(leaves, params=params, unit=unit):
            weights, means, free = leaves
            cov = params.structure.from_free(free, unit, K)
            mixture = replace(params, weights=jax.nn.softmax(weights), means=means, cov=cov)
            sigma = jaxgmm.covariances(mixture)
            return jnp.concatenate([mixture.weights, mixture.means.ravel(), sigma.ravel()])

        jacobian = jax.jacobian(moments)((params.weights, params.means, params.structure.to_free(params.cov, unit)))
        flat = np.concatenate([np.asarray(j).reshape(j.shape[0], -1) for j in jacobian], axis=1)
        assert np.linalg.matrix_rank(flat) == jaxgmm.n_free_parameters(params)


def test_q_has_slopes_where_a_component_holds_nothing(x64):
    params, X = random_mixture("full"), random_samples()
    empty = replace(params, weights=params.weights.at[0].set(0), means=params.means.at[0].set(9))
    gamma = jnp.asarray(random_gamma()).at[:, 0].set(0)
    slope = jax.grad(em.expected_log_likelihood)(empty, X, gamma)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    assert slope.weights[0] == 0


def test_evv_inside_a_bound_has_slopes_at_round_components_and_keeps_the_shape_of_absent_ones():
    """Among equal eigenvalues vectors turn by any angle; the covariance does not."""
    count, floor = jnp.array([10.0, 10.0, 0.0]), jnp.array([0.05, 0.05])
    scatter = jnp.array([[[30.0, 0], [0, 30]], [[200, 0], [0, 0.02]], [[1, 0.5], [0.5, 2]]])
    before = jnp.array([[[2.0, 0], [0, 2]], [[1, 0], [0, 1]], [[3, 1], [1, 1]]])
    way = jnp.array([[[0.0, 1], [1, 0]], [[0.1, 0.03], [0.03, 0.02]], [[0, 0], [0, 0]]])

    @jax.jit
    def bounded(scatter):
        return STRUCTURES["EVV"].estimate(count, scatter, before, floor)

    found, slope = jax.jvp(bounded, (scatter,), (way,))
    np.testing.assert_allclose(found[1, 1, 1], floor[1])  # the bound binds
    differences = (bounded(scatter + 1e-5 * way) - bounded(scatter - 1e-5 * way)) / 2e-5
    np.testing.assert_allclose(slope, differences, atol=1e-8)
    np.testing.assert_allclose(found[2] / found[2, 1, 1], before[2] / before[2, 1, 1])
    np.testing.assert_allclose(np.linalg.det(found), np.linalg.det(found)[0])


@pytest.mark.parametrize("name", [*jaxgmm.structures.STRUCTURES, "UUU-1"])
def test_every_multiplication_keeps_the_precision_of_its_operands(name):
    """A GPU or a TPU would round them to 10 or 8 bits; of so many samples a program holds all forms of a pass."""
    fit = jax.jit(lambda params, X: jaxgmm.fit_from(params, X, accelerate="squarem", prior="default"))
    lines = fit.lower(random_mixture(name), random_samples(n=3000)).as_text().splitlines()
    products = [line for line in lines if "dot_general" in line]
    assert products
    assert [line for line in products if "HIGHEST" not in line] == []
