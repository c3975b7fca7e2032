"""The forms of a pass: each against float64 on both sides of the switch, and the bound that chooses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import NAMES

import jaxgmm
from jaxgmm import GMMParams, contract, em
from jaxgmm.contract import deviations

N, D, K = 1000, 3, 4


def separated(name, distance, dtype, correlation=0.9, n_features=D):
    """Components ``distance`` standard deviations from the centre, and samples of them."""
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(np.full((n_features, n_features), correlation) + (1 - correlation) * np.eye(n_features))
    means = distance * np.stack([np.ones(n_features), -np.ones(n_features), np.eye(n_features)[0], -np.eye(n_features)[0]])
    X = (means[rng.integers(K, size=N)] + rng.normal(size=(N, n_features)) @ root.T).astype(np.float32)
    params = jaxgmm.GMMParams.from_moments(np.full(K, 1 / K), means.astype(np.float32), np.stack([root @ root.T] * K), name)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params), X.astype(dtype)


@jax.jit
def pass_in(form, params, X):
    """A pass in the form asked for, which is traced: one compilation serves all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "safe_form", lambda *_: form)
        return em.collect.__wrapped__(params, X, None, jnp.zeros(D, X.dtype))


def sums(params, X, form):
    return pass_in(jnp.int32(form), params, jnp.asarray(X))


def chosen(params):
    return int(contract.safe_form(params.structure, params, params.structure.whitener(params.cov, K, D), N))


FORMS = [(name, form) for name in NAMES for form in range(3) if name == "full" or form != contract.WHITENED]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_forms_agree_in_double_precision(name, form, x64):
    params, X = separated(name, 2.0, np.float64)
    reference = sums(params, X, contract.CENTRED)
    for a, b in zip(jax.tree.leaves(sums(params, X, form)), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("n_features", [3, 26, 31])
@pytest.mark.parametrize("name", jaxgmm.structures.STRUCTURES)
def test_features_stand_for_the_quadratic_form_and_the_moments(name, n_features):
    """In single products, and (D = 31) in tiles, of which the last is not full."""
    structure = jaxgmm.structures.STRUCTURES[name]
    params, X = separated(name, 2.0, np.float32, n_features=n_features)
    factor, x = structure.whitener(params.cov, K, n_features).factor, jnp.asarray(X[:7].T)
    gamma = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(K), size=7).T, jnp.float32)
    features = structure.features(factor, x)
    exponent = sum(c @ f for c, f in zip(structure.coefficients(factor, params.means), features, strict=True))
    white = structure.whiten(factor, deviations(params.means, x))
    np.testing.assert_allclose(exponent, -np.sum(np.square(white), axis=1) / 2, rtol=2e-4, atol=2e-4)
    count, first, second = structure.unpack(structure.sum_features(gamma, features), n_features)
    np.testing.assert_allclose(count, np.sum(gamma, axis=1), rtol=1e-5)
    np.testing.assert_allclose(first, gamma @ x.T, rtol=1e-4, atol=1e-4)
    expected = structure.second_moment(None, gamma, deviations(jnp.zeros_like(params.means), x))
    np.testing.assert_allclose(second, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("n_features", [2, 26, 64])
def test_the_bound_covers_the_rounding_of_the_expanded_form(n_features, correlation):
    """Where the terms of a product cancel (correlated features), and where long sums of them are rounded (many features)."""
    rng = np.random.default_rng(0)
    full = jaxgmm.structures.STRUCTURES["full"]
    cov = np.full((n_features, n_features), correlation) + (1 - correlation) * np.eye(n_features)
    means = 5 * rng.normal(size=(K, n_features))
    label = rng.integers(K, size=N)
    x = (means[label] + rng.normal(size=(N, n_features)) @ np.linalg.cholesky(cov).T).T.astype(np.float32)
    with jax.enable_x64(True):
        factor = full.whitener(jnp.asarray(np.stack([cov] * K)), K, n_features).factor
        exact = np.sum(np.square(full.whiten(factor, jnp.asarray(x, np.float64)[None] - means[:, :, None])), axis=1)
        coefficients = full.coefficients(factor, jnp.asarray(means))
        size, _ = full.reach(factor, jnp.asarray(np.stack([cov] * K)), jnp.asarray(means))
        bound = np.finfo(np.float32).eps / 2 * 2 * float(np.mean(size))
        coefficients = [np.asarray(c, np.float32) for c in coefficients]
        factor = np.asarray(factor, np.float32)
    features = full.features(jnp.asarray(factor), jnp.asarray(x))
    found = sum(jnp.asarray(c) @ f for c, f in zip(coefficients, features, strict=True))
    error = np.abs(np.asarray(found) + exact / 2)[label, np.arange(N)]
    assert 0.02 * bound < error.mean() < bound


def test_a_light_component_is_not_lost_in_the_sums():
    """A tenth of a thousandth of the samples, far and narrow: its covariance would drown, and no likelihood would tell."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(99_990, 2)), [20, 0] + 0.01 * rng.normal(size=(10, 2))]).astype(np.float32)
    covariances = np.stack([np.eye(2), 1e-4 * np.eye(2)])
    params = GMMParams.from_moments(np.float32([0.9999, 0.0001]), np.float32([[0, 0], [20, 0]]), np.float32(covariances))
    end = jaxgmm.maximise(params, em.collect(params, jnp.asarray(X), None, jnp.zeros(2)))
    np.testing.assert_allclose(end.cov[1], np.cov(X[-10:].astype(np.float64).T, bias=True), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("distance", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_chosen_form_stays_within_its_budget(name, distance):
    params, X = separated(name, distance, np.float32)
    form = chosen(params)
    found = sums(params, X, form)
    safest = sums(params, X, contract.CENTRED)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        exact = sums(wide, np.asarray(X, np.float64), contract.CENTRED)
        metric = np.linalg.inv(np.linalg.cholesky(np.asarray(jaxgmm.covariances(wide))))

        error = np.asarray(found.second, np.float64) - np.asarray(exact.second)
        if error.shape == (K, D):
            error = error[:, :, None] * np.eye(D)
        relative = np.abs(metric @ error @ metric.transpose(0, 2, 1)).max() / N
        assert abs(float(found.log_likelihood) - float(exact.log_likelihood)) / N <= (
            contract.BUDGET + abs(float(safest.log_likelihood) - float(exact.log_likelihood)) / N
        )
        assert relative <= contract.SUMS_BUDGET


def test_the_switch_is_where_the_bound_is_spent(dtype):
    order = [chosen(separated("full", distance, dtype)[0]) for distance in (1.0, 30.0, 1e3, 1e5, 1e9)]
    assert order == sorted(order)
    assert order[0] == contract.EXPANDED
    assert order[-1] == contract.CENTRED
    if dtype == np.float32:
        assert contract.WHITENED in order


def test_the_form_does_not_depend_on_units():
    params, _ = separated("full", 30.0, np.float32)
    scaled = [GMMParams(params.weights, a * params.means, a * a * params.cov, params.structure) for a in (1e-15, 1.0, 1e15)]
    assert len({chosen(p) for p in scaled}) == 1
    sizes = [p.structure.reach(p.structure.whitener(p.cov, K, D).factor, p.cov, p.means)[0] for p in scaled]
    np.testing.assert_allclose(sizes[0], sizes[1], rtol=1e-4)
    np.testing.assert_allclose(sizes[2], sizes[1], rtol=1e-4)


def test_restarts_take_one_form_together():
    """A restart that needs the centred form takes the others with it; alone they would not."""
    near, X = separated("full", 3.0, np.float32)
    far, _ = separated("full", 1e5, np.float32)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), near, far)
    centre = jnp.zeros(D, jnp.float32)
    run = jax.jit(jax.vmap(lambda p: em.collect(p, jnp.asarray(X), None, centre, lanes="lanes"), axis_name="lanes"))
    assert chosen(near) == contract.EXPANDED
    assert chosen(far) == contract.CENTRED
    together = np.asarray(run(both).second[0])
    centred, expanded = (np.asarray(sums(near, X, form).second) for form in (contract.CENTRED, contract.EXPANDED))
    assert np.abs(together - centred).max() < 0.1 * np.abs(expanded - centred).max()
