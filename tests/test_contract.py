"""The forms of a pass: each against float64 on both sides of the switch, and the bound that chooses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import NAMES

import jaxgmm
from jaxgmm import GMMParams, contract, em

N, D, K = 1000, 3, 4


def separated(name, distance, dtype, correlation=0.9):
    """Components ``distance`` standard deviations from the centre, and samples of them."""
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(np.full((D, D), correlation) + (1 - correlation) * np.eye(D))
    means = distance * np.stack([np.ones(D), -np.ones(D), np.eye(D)[0], -np.eye(D)[0]])
    X = (means[rng.integers(K, size=N)] + rng.normal(size=(N, D)) @ root.T).astype(np.float32)
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
    return int(contract.safe_form(params, params.structure.whitener(params.cov, K, D)))


FORMS = [(name, form) for name in NAMES for form in range(3) if name == "full" or form != contract.WHITENED]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_forms_agree_in_double_precision(name, form, x64):
    params, X = separated(name, 2.0, np.float64)
    reference = sums(params, X, contract.CENTRED)
    for a, b in zip(jax.tree.leaves(sums(params, X, form)), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("n_features", [3, 26])
def test_products_stand_for_the_outer_product(n_features):
    """In single products and in tiles, of which the last is not full."""
    rng = np.random.default_rng(0)
    x, gamma = rng.normal(size=(n_features, 5)), rng.uniform(size=(K, 5))
    factor = np.tril(rng.normal(size=(K, n_features, n_features)))
    x, gamma, factor = (jnp.asarray(a, jnp.float32) for a in (x, gamma, factor))
    full = jaxgmm.structures.STRUCTURES["full"]
    products = full.products(x)
    square = full.square(full.precision(factor), x, products)
    np.testing.assert_allclose(square, np.sum(np.square(factor @ x), axis=1), rtol=2e-4)
    second = full.unpack(full.sum_products(gamma, x, products), n_features)
    np.testing.assert_allclose(second, np.einsum("kb,ib,jb->kij", gamma, x, x), rtol=1e-4, atol=1e-5)


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
        terms = (full.precision(factor), *full.pull(factor, jnp.asarray(means)))
        size, _ = full.reach(factor, jnp.asarray(np.stack([cov] * K)), jnp.asarray(means))
        bound = np.finfo(np.float32).eps / 2 * 2 * float(np.mean(size))
        precision, pull, pull_square = (np.asarray(term, np.float32) for term in terms)
    products = full.products(jnp.asarray(x))
    found = full.square(jnp.asarray(precision), jnp.asarray(x), products) - 2 * pull @ x + pull_square[:, None]
    error = np.abs(np.asarray(found) - exact)[label, np.arange(N)] / 2
    assert 0.02 * bound < error.mean() < bound


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
