"""Gradient fits: Fisher's identity, the optimum of EM, statuses, and how they compose."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from structures import EVERY, D, N, random_mixture, random_samples, random_weight

import jaxgmm
from jaxgmm import em
from jaxgmm.contract import CENTRED
from jaxgmm.gradient import q_function
from jaxgmm.params import from_free, to_free


@pytest.mark.parametrize("name", EVERY)
def test_the_slope_of_q_is_that_of_the_likelihood(name, x64):
    X, weight, unit = random_samples(), random_weight(), jnp.array([0.5, 2.0])
    free = to_free(random_mixture(name), unit)

    @jax.jit
    def slopes(free):
        sums = em.collect(from_free(free, unit), X, weight, form=CENTRED)
        direct = jax.grad(lambda free: em.log_likelihood(from_free(free, unit), X, sample_weight=weight))(free)
        return direct, jax.grad(lambda free: q_function(from_free(free, unit), sums))(free)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), *slopes(free))


@pytest.mark.parametrize("name", EVERY)
def test_free_coordinates_are_a_bijection_with_mixtures(name, x64):
    params, unit = random_mixture(name), jnp.array([0.5, 2.0])
    free = to_free(params, unit)
    back = from_free(free, unit)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), back, params)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), free)
    again = to_free(from_free(moved, unit), unit)
    # Logarithms of weights are known but for a constant.
    logits = [tree.weights - jax.nn.logsumexp(tree.weights) for tree in (again, moved)]
    np.testing.assert_allclose(*logits, atol=1e-12)
    np.testing.assert_allclose(again.means, moved.means, atol=1e-12)
    square = moved.cov.ndim > 1 and moved.cov.shape[-1] == moved.cov.shape[-2]
    used = np.tril if square else np.asarray  # of a Cholesky factor
    np.testing.assert_allclose(used(again.cov), used(moved.cov), atol=1e-9)


@pytest.mark.parametrize("name", ["full", "tied", "spherical", "VEI", "UUC-1"])
def test_free_coordinates_of_another_length_are_refused(name):
    free = to_free(random_mixture(name))
    for field in ("weights", "cov"):
        longer = replace(free, **{field: jnp.concatenate([getattr(free, field)] * 2)})
        with pytest.raises(ValueError, match=rf"free\.{field} must have shape .* for 3 {name} components in 2 features"):
            from_free(longer)
    for unit in ([0.0, 1.0], [-1.0, 1.0], [np.nan, 1.0]):
        for function in (to_free, from_free):
            with pytest.raises(ValueError, match="unit must hold positive, finite numbers"):
                function(free, unit)


@pytest.mark.parametrize("name", EVERY)
def test_em_then_lbfgs_ends_where_em_ends(name, x64):
    X = reference.samples("iris")
    start = jaxgmm.initialise(jax.random.key(0), X, 3, covariance_type=name)
    slow = jaxgmm.fit_from(start, X, tol=1e-12, max_iter=5000)
    begun = jaxgmm.fit_from(start, X, tol=0.0, max_iter=20)
    fast = jaxgmm.fit_gradient(begun.params, X)
    assert fast.converged, fast.message
    np.testing.assert_allclose(fast.log_likelihood, slow.log_likelihood, rtol=1e-6)
    np.testing.assert_allclose(fast.log_likelihood, jaxgmm.log_likelihood(fast.params, X), rtol=1e-12)


def test_single_precision_reaches_the_optimum_far_from_the_origin():
    X = (reference.samples("iris") + 100).astype(np.float32)
    start = jaxgmm.initialise(jax.random.key(0), X, 3)
    slow, fast = jaxgmm.fit_from(start, X), jaxgmm.fit_gradient(jaxgmm.fit_from(start, X, tol=0.0, max_iter=20).params, X)
    assert fast.params.means.dtype == np.float32
    np.testing.assert_allclose(fast.log_likelihood, slow.log_likelihood, rtol=1e-5)


@pytest.fixture(scope="module")
def adam():
    return optax.adam(3e-2)


def test_batches_raise_the_likelihood_of_all_samples(adam, x64):
    X, weight = random_samples(n=200), random_weight(n=200)
    start = random_mixture("full")
    found = jaxgmm.fit_gradient(start, X, adam, sample_weight=weight, batch_size=50, key=jax.random.key(0), max_iter=200)
    begun = float(jaxgmm.log_likelihood(start, X, sample_weight=weight))
    best = float(jaxgmm.fit_from(start, X, sample_weight=weight).log_likelihood)
    assert float(found.log_likelihood) > begun + 0.8 * (best - begun)
    assert found.n_iter == 200
    assert found.status == jaxgmm.Status.ITERATION_LIMIT
    expected = jaxgmm.log_likelihood(found.params, X, sample_weight=weight)
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-12)


def test_batches_see_weights_as_repeated_rows(x64):
    """Nine to one, in batches of two: divided by what a batch weighs, the share was 0.7."""
    X = np.concatenate([random_samples(n=50, d=1), random_samples(n=50, d=1) + 40])
    start = jaxgmm.initialise(jax.random.key(0), X, 2, method=np.repeat([0, 1], 50))
    weight, slower = np.repeat([9.0, 1.0], 50), optax.adam(optax.exponential_decay(2e-2, 400, 0.3))
    found = jaxgmm.fit_gradient(start, X, slower, sample_weight=weight, batch_size=2, key=jax.random.key(0), max_iter=2000)
    np.testing.assert_allclose(found.params.weights, [0.9, 0.1], atol=0.02)


def test_a_batch_of_absent_rows_is_a_number(adam):
    X, weight = random_samples(), (np.arange(N) < 2).astype(np.float32)
    found = jaxgmm.fit_gradient(
        random_mixture("diag"), X, adam, sample_weight=weight, batch_size=1, key=jax.random.key(0), max_iter=20
    )
    assert (found.n_iter, np.isfinite(found.log_likelihood)) == (20, True)


def test_the_trace_is_of_log_likelihoods(x64):
    X, start = random_samples(n=60), random_mixture("diag")
    trace = jaxgmm.fit_gradient(start, X, trace=4, max_iter=3).trace
    ends = [jaxgmm.fit_gradient(start, X, max_iter=n).log_likelihood for n in range(4)]
    np.testing.assert_allclose(trace, ends, rtol=1e-10)


def test_other_optimizers_converge_by_the_gain_that_em_still_sees(adam, x64):
    X = random_samples(n=60)
    found = jaxgmm.fit_gradient(random_mixture("diag"), X, adam, tol=1e-6, max_iter=3000, covariance_floor=0.01)
    assert found.converged
    assert found.n_iter == 3000
    again = jaxgmm.fit_from(found.params, X, tol=1e-10, max_iter=1)
    assert float(again.log_likelihood - found.log_likelihood) <= 1e-6 * len(X)


def test_it_maps_compiles_once_and_follows_units(x64):
    X, starts = random_samples(), [random_mixture("full", seed) for seed in range(3)]
    traced = []

    @jax.jit
    def one(params, X, tol):
        traced.append(None)
        return jaxgmm.fit_gradient(params, X, tol=tol, max_iter=30, covariance_floor=0.05).log_likelihood

    alone = [one(start, X, tol) for start, tol in zip(starts, (1e-8, 1e-9, 1e-8), strict=True)]
    assert len(traced) == 1
    together = jax.vmap(lambda params: one(params, X, 1e-8))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts))
    np.testing.assert_allclose(together[::2], alone[::2], rtol=1e-6)
    for scale in (1e-8, 1e8):
        params = starts[0]
        wide = jaxgmm.GMMParams(params.weights, params.means * scale + 3 * scale, params.cov * scale**2, params.structure)
        moved = one(wide, X * scale + 3 * scale, 1e-8)
        np.testing.assert_allclose(moved + N * D * np.log(scale), alone[0], rtol=1e-6)


def test_what_is_not_finite_ends_so_and_keeps_finite_parameters():
    X = random_samples()
    X[3, 0] = np.nan
    found = jaxgmm.fit_gradient(random_mixture("full"), X, max_iter=5)
    assert found.status == jaxgmm.Status.NONFINITE
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params))


def test_a_spike_is_called_one():
    X = np.concatenate([random_samples(), np.full((1, D), 30.0, np.float32)])
    start = jaxgmm.initialise(jax.random.key(0), X, 2, method=np.r_[np.zeros(N, int), 1])
    assert jaxgmm.fit_gradient(start, X).status == jaxgmm.Status.DEGENERATE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 4}, "go together"),
        ({"key": jax.random.key(0)}, "go together"),
        ({"batch_size": 0, "key": jax.random.key(0)}, "batch_size"),
        ({"batch_size": 4, "key": jax.random.key(0)}, "line search"),
        ({"tol": -1.0}, "tol"),
        ({"optimizer": "adam"}, "must be a transformation of optax"),
        ({"optimizer": optax.adam}, "must be a transformation of optax"),
        ({"optimizer": optax.GradientTransformation}, "must be a transformation of optax"),
    ],
)
def test_the_door(options, words):
    with pytest.raises(ValueError, match=words):
        jaxgmm.fit_gradient(random_mixture("full"), random_samples(), **options)


def test_an_end_before_the_last_step_is_converged_or_stalled():
    """In single precision a line search may see no gain where a step of EM still has one."""
    X, seen = random_samples(n=300), []
    for key in jax.random.split(jax.random.key(0), 8):
        found = jaxgmm.fit_gradient(jaxgmm.initialise(key, X, 4, method="random_from_data"), X)
        assert found.n_iter < 2000
        seen.append(int(found.status))
        if found.status == jaxgmm.Status.STALLED:
            assert "fit_from" in found.message
            further = jaxgmm.fit_from(found.params, X, max_iter=200)
            assert further.log_likelihood > found.log_likelihood - 1e-3  # eight roundings of it
    assert jaxgmm.Status.STALLED in seen
    assert set(seen) <= {jaxgmm.Status.CONVERGED, jaxgmm.Status.STALLED, jaxgmm.Status.DEGENERATE}
