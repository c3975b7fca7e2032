"""Laws that every covariance structure obeys, over one table, on random inputs."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from structures import EVERY, FACTORS, NAMES, D, K, N, random_gamma, random_mixture, random_samples, random_weight, rtol

import jaxgmm
from jaxgmm import em, lanes
from jaxgmm.structures import STRUCTURES
from jaxgmm.structures.base import Inner

seeds = st.integers(0, 10_000)
few = settings(max_examples=15, deadline=None)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=EVERY)
def family(request):
    """The structures of mclust as well: the laws that ask for more than they share with the four."""
    return request.param


def close(a, b, rtol, atol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@cache
def turn(name):
    """One turn of EM with its likelihood, compiled once a structure and precision; the loop's M-step, or to the end."""
    floor = np.full(D, 1e-2)  # inside a bound: without one a component may shrink onto a sample, and rounding explodes

    @partial(jax.jit, static_argnames="inner")
    def step(params, X, inner):
        sums = em.collect(params, X, None)
        return sums, em.maximised(params, sums, jnp.asarray(floor, X.dtype), inner=inner)

    return step


def test_density_is_scipys(family, dtype):
    params, X = random_mixture(family), random_samples()
    sigma = np.asarray(jaxgmm.covariances(params), np.float64)
    expected = sum(
        w * multivariate_normal.pdf(X, m, s)
        for w, m, s in zip(np.asarray(params.weights), np.asarray(params.means), sigma, strict=True)
    )
    np.testing.assert_allclose(jaxgmm.log_prob(params, X), np.log(expected), rtol=rtol(), atol=rtol())


def test_dtype_is_that_of_x(name, dtype):
    def everything(params, X):
        fit = jaxgmm.fit_from(params, X)
        return fit.params, fit.log_likelihood, jaxgmm.e_step(params, X), jaxgmm.statistics(params, X)

    for leaf in jax.tree.leaves(jax.eval_shape(everything, random_mixture(name), random_samples())):
        assert leaf.dtype == dtype


def test_likelihood_never_falls(family, dtype):
    @few
    @given(seeds)
    def law(seed):
        with jax.enable_x64(dtype is np.float64):
            params, X = random_mixture(family, seed), random_samples(seed)
            previous = -np.inf
            for inner in 3 * (Inner.FEW, Inner.END):
                stats, params = turn(family)(params, X, inner)
                value = float(stats.log_likelihood)
                assert np.isfinite(value)
                assert value >= previous - rtol(factor=64) * (abs(value) + N * D)
                previous = value

    law()


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_narrow_components_of_many_features_keep_their_digits_in_single_precision(name):
    """D = 40 and standard deviations about 0.01: determinants of 1e-160, far below what float32 holds."""
    d, n = 40, 300
    rng = np.random.default_rng(0)
    axes = [np.linalg.qr(rng.normal(size=(d, d)))[0] * np.exp(rng.normal(size=d) / 2) for _ in range(2)]
    X = np.concatenate([0.05 * rng.normal(size=d) + 0.01 * rng.normal(size=(n // 2, d)) @ a.T for a in axes])
    gamma = np.repeat(np.eye(2), n // 2, axis=0)
    gamma = 0.9 * gamma + 0.05

    def turns(dtype):
        @jax.jit
        def both(X, gamma):
            start = jaxgmm.initialise(jax.random.key(0), X, 2, method=gamma, covariance_type=name)
            one = jaxgmm.m_step(start, X, gamma)
            two = jaxgmm.m_step(one, X, jaxgmm.e_step(one, X)[0])
            return jnp.stack([jaxgmm.log_likelihood(one, X), jaxgmm.log_likelihood(two, X)])

        return np.asarray(both(X.astype(dtype), gamma.astype(dtype)), np.float64) / n

    low = turns(np.float32)
    with jax.enable_x64(True):
        high = turns(np.float64)
    np.testing.assert_allclose(low, high, rtol=2e-6)
    assert low[1] >= low[0] - 1e-4


def at_rest(params, X, gamma):
    """The maximum of Q: the M-step, or, of factor analysers, whose M-step is a step of EM, many."""
    turns = 3000 if isinstance(params.structure, jaxgmm.FactorAnalyzers) else 1
    return jax.jit(lambda p: jax.lax.fori_loop(0, turns, lambda _, p: jaxgmm.m_step(p, X, gamma), p))(params)


def test_no_small_move_inside_the_family_beats_maximise(family, x64):
    X, gamma = random_samples(), jnp.asarray(random_gamma())
    best = at_rest(random_mixture(family), X, gamma)
    value = jax.jit(lambda p: em.expected_log_likelihood(p, X, gamma))
    unit = jnp.ones(D)

    def moved(direction):
        free = best.structure.to_free(best.cov, unit)
        cov = best.structure.from_free(free + direction[2], unit, K)
        weights = jax.nn.softmax(jnp.log(best.weights) + direction[0])
        return replace(best, weights=weights, means=best.means + direction[1], cov=cov)

    @few
    @given(seeds, st.sampled_from([1e-3, 1e-2, 0.1]))
    def law(seed, size):
        with jax.enable_x64(True):
            rng = np.random.default_rng(seed)
            leaves = best.weights, best.means, best.structure.to_free(best.cov, unit)
            direction = [jnp.asarray(size * rng.normal(size=leaf.shape)) for leaf in leaves]
            assert value(moved(direction)) <= value(best) + 1e-10

    law()


def test_free_coordinates_are_a_bijection(family, dtype):
    params = random_mixture(family)
    unit = jnp.asarray([0.5, 3.0], dtype)
    there = params.structure.to_free(params.cov, unit)
    back = replace(params, cov=params.structure.from_free(there, unit, K))
    np.testing.assert_allclose(jaxgmm.covariances(back), jaxgmm.covariances(params), rtol=rtol(), atol=rtol())
    again = params.structure.to_free(back.cov, unit)
    np.testing.assert_allclose(again, there, rtol=rtol(factor=256), atol=rtol(factor=256))


def test_sums_add(name, dtype_float32_slow):
    params, X, w = random_mixture(name), random_samples(), random_weight()
    whole = jaxgmm.statistics(params, X, sample_weight=w)
    parts = jaxgmm.statistics(params, X[:9], sample_weight=w[:9]) + jaxgmm.statistics(params, X[9:], sample_weight=w[9:])
    for field in ("weight", "count", "first", "second", "log_likelihood"):
        a, b = getattr(whole, field), getattr(parts, field)
        np.testing.assert_allclose(a, b, rtol=rtol(), atol=rtol() * N, err_msg=field)


@pytest.mark.parametrize("size", [1, 7])
def test_block_size_changes_only_rounding(name, size, x64):
    params, X, w = random_mixture(name), random_samples(), random_weight()
    whole = jaxgmm.statistics(params, X, sample_weight=w)
    close(whole, jaxgmm.statistics(params, X, sample_weight=w, block_size=size), rtol=1e-12, atol=1e-12)


def test_weight_two_is_seen_twice_and_zero_is_absent(name, x64):
    params, X = random_mixture(name), random_samples()
    times = np.array([0, 1, 2, 3] * 6)[:N]
    spoiled = np.where(times[:, None] == 0, np.nan, X)
    repeated = np.repeat(X, times, axis=0)
    options = {"tol": 0.0, "max_iter": 5}
    for weighted, seen in (
        (jaxgmm.statistics(params, spoiled, sample_weight=times), jaxgmm.statistics(params, repeated)),
        (jaxgmm.log_likelihood(params, spoiled, sample_weight=times), jaxgmm.log_likelihood(params, repeated)),
        (jaxgmm.bic(params, spoiled, sample_weight=times), jaxgmm.bic(params, repeated)),
        (jaxgmm.icl(params, spoiled, sample_weight=times), jaxgmm.icl(params, repeated)),
        (
            jaxgmm.fit_from(params, spoiled, sample_weight=times, **options).params,
            jaxgmm.fit_from(params, repeated, **options).params,
        ),
    ):
        close(weighted, seen, rtol=1e-9, atol=1e-9)


def test_order_of_rows_and_components_does_not_matter(family, x64):
    params, X = random_mixture(family), random_samples()
    rng = np.random.default_rng(0)
    rows, order = rng.permutation(N), rng.permutation(K)
    cov = params.cov[order] if params.structure.by_component else params.cov
    permuted = replace(params, weights=params.weights[order], means=params.means[order], cov=cov)
    a = jaxgmm.fit_from(params, X, tol=0.0, max_iter=5)
    b = jaxgmm.fit_from(permuted, X[rows], tol=0.0, max_iter=5)
    np.testing.assert_allclose(a.log_likelihood, b.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(a.params.means[order], b.params.means, rtol=1e-9, atol=1e-9)


def test_scale_and_shift(family, x64):
    """Data times a and plus b: means times a and plus b, log-likelihood less N D ln a."""
    params, X = random_mixture(family), random_samples()
    base = jaxgmm.fit_from(params, X, tol=0.0, max_iter=5)
    run = jax.jit(lambda p, Y: jaxgmm.fit_from(p, Y, tol=0.0, max_iter=5))
    for a, b in ((1e-8, 0.0), (1e4, -3e5), (1e8, 1e6), (0.25, 7.0)):
        if family in FACTORS:  # from a matrix of two features, loadings and noise are not unique
            start = replace(params, means=params.means * a + b, cov=params.cov * np.array([[[a, a**2]]]))
        else:
            moments = params.means * a + b, jaxgmm.covariances(params) * a**2
            start = jaxgmm.GMMParams.from_moments(params.weights, *moments, family)
        fit = run(start, X * a + b)
        offset = abs(b) / a
        np.testing.assert_allclose(fit.params.means, base.params.means * a + b, rtol=1e-9, atol=a * 1e-12 * (1 + offset))
        cov, expected = jaxgmm.covariances(fit.params), jaxgmm.covariances(base.params) * a**2
        np.testing.assert_allclose(cov, expected, rtol=1e-8, atol=a**2 * 1e-11 * (1 + offset))
        np.testing.assert_allclose(fit.log_likelihood + N * D * np.log(a), base.log_likelihood, rtol=1e-9)


def test_jit_and_vmap_are_the_plain_function(family, x64):
    X = random_samples()
    mixtures = [random_mixture(family, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *mixtures)

    def one(params):
        fit = jaxgmm.fit_from(params, X, tol=0.0, max_iter=4)
        return fit.params, jaxgmm.e_step(params, X), jaxgmm.log_likelihood(params, X), jaxgmm.log_prob(params, X)

    lanes = jax.jit(jax.vmap(one))(stacked)
    for lane, params in enumerate(mixtures):
        close(jax.tree.map(lambda leaf, lane=lane: leaf[lane], lanes), one(params), rtol=1e-9, atol=1e-11)


def test_nan_in_one_lane_leaves_the_others_bit_equal(name):
    X = np.stack([random_samples(seed) for seed in range(4)])
    spoiled = X.copy()
    spoiled[1, 3, 0] = np.nan

    @jax.jit
    @jax.vmap
    def fits(key, X):
        return jaxgmm.fit_from(jaxgmm.initialise(key, X, K, covariance_type=name, method="k-means++"), X, max_iter=10)

    keys = jax.random.split(jax.random.key(0), 4)
    clean, dirty = fits(keys, X), fits(keys, spoiled)
    assert dirty.status[1] == jaxgmm.Status.NONFINITE
    for a, b in zip(jax.tree.leaves(clean.params), jax.tree.leaves(dirty.params), strict=True):
        assert np.isfinite(np.asarray(b)).all()
        np.testing.assert_array_equal(np.asarray(a)[[0, 2, 3]], np.asarray(b)[[0, 2, 3]])


def test_floor_is_maximum_likelihood_inside_the_bound(family, x64):
    """Sigma_k - diag(floor) is positive semidefinite, and no move inside the bound is likelier."""
    X, gamma = random_samples(), jnp.asarray(random_gamma())
    floor = jnp.asarray([4.0, 0.5])
    best = jaxgmm.m_step(random_mixture(family), X, gamma, covariance_floor=floor)
    if family in FACTORS:  # the noise is bounded
        assert (best.cov[..., -1] >= floor[None]).all()
        return
    sigma = np.asarray(jaxgmm.covariances(best))
    if family in ("EVE", "VVE", "EEV", "VEV"):  # bounded along each principal axis only, and not to the last likelihood
        values, axes = np.linalg.eigh(sigma)
        assert (values >= np.einsum("kij,i->kj", axes**2, floor) * (1 - 1e-9)).all()
        return
    assert np.linalg.eigvalsh(sigma - np.diag(floor)).min() > -1e-12
    value = jax.jit(lambda p: em.expected_log_likelihood(p, X, gamma))

    @few
    @given(seeds)
    def law(seed):
        with jax.enable_x64(True):
            rng = np.random.default_rng(seed)
            free = best.structure.to_free(best.cov, jnp.ones(D))
            cov = best.structure.from_free(free + 0.02 * rng.normal(size=free.shape), jnp.ones(D), K)
            other = replace(best, cov=cov)
            inside = np.linalg.eigvalsh(np.asarray(jaxgmm.covariances(other)) - np.diag(floor)).min() >= 0
            assert not inside or value(other) <= value(best) + 1e-10

    law()


def test_a_component_at_its_bound_leaves_the_others_alone(dtype):
    """One flat component and one with features of very different scales: only the flat one is moved."""
    flat, uneven = np.ones((2, 2), dtype), np.diag([1e8, 1.0]).astype(dtype)
    floor = jnp.full(2, 1e-6, dtype)
    structure = random_mixture("full").structure
    both = structure.floored(jnp.stack([uneven, flat]), floor)
    np.testing.assert_array_equal(both[0], uneven)
    assert np.linalg.eigvalsh(np.asarray(both[1], np.float64))[0] >= 0.9e-6


def test_empty_component_keeps_its_mean_and_covariance(family, dtype):
    params, X = random_mixture(family), random_samples()
    gamma = np.zeros((N, K), dtype)
    gamma[:, 0] = 1
    new = jaxgmm.m_step(params, X, gamma, covariance_floor=1e-6)
    np.testing.assert_array_equal(new.means[1:], params.means[1:])
    np.testing.assert_array_equal(new.weights, [1, 0, 0])
    if family in ("full", "diag", "spherical"):  # the others share something with the component that has the samples
        np.testing.assert_array_equal(new.cov[1:], params.cov[1:])


def test_sample_has_the_mixtures_moments(family, x64):
    params = random_mixture(family)
    X, label = jaxgmm.sample(jax.random.key(0), params, 40_000)
    np.testing.assert_allclose(X.mean(0), jaxgmm.mixture_mean(params), atol=0.1)
    np.testing.assert_allclose(np.cov(X.T), jaxgmm.mixture_covariance(params), rtol=0.1, atol=0.1)
    sigma = jaxgmm.covariances(params)
    for k in range(K):
        np.testing.assert_allclose((label == k).mean(), params.weights[k], atol=0.02)
        np.testing.assert_allclose(np.cov(X[label == k].T), sigma[k], rtol=0.15, atol=0.1)


@pytest.mark.parametrize("name", EVERY)
def test_narrowness_is_that_of_full_matrices(name, x64):
    params, unit = random_mixture(name), jnp.asarray(np.arange(1.0, 1 + random_samples().shape[1]))
    dense = jaxgmm.covariances(params) / (unit[:, None] * unit[None, :])[None]
    whitener = params.structure.whitener(params.cov, params.n_components, params.n_features)
    found = params.structure.narrowness(whitener.factor, params.n_components, unit)
    precision = np.linalg.inv(dense)
    of_factors = isinstance(params.structure, jaxgmm.FactorAnalyzers)
    expected = np.trace(precision, axis1=1, axis2=2) if of_factors else np.linalg.norm(precision, axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["full", "diag"])
def test_narrowness_stays_in_the_range_of_float32(name):
    params = jaxgmm.GMMParams.from_moments([1.0], [[0.0, 0.0]], [[[1e-25, 0.0], [0.0, 1.0]]], covariance_type=name)
    whitener = params.structure.whitener(params.cov, 1, 2)
    np.testing.assert_allclose(params.structure.narrowness(whitener.factor, 1, jnp.ones(2)), 1e25, rtol=1e-5)


def test_distant_groups_do_not_make_components_narrow(x64):
    """Two clusters in each of two groups: how far the groups are apart does not change what a restart is worth."""

    def charge(distance, sd):
        means, cov = [[0.0, 0], [6, 0], [distance, 0], [distance + 6, 0]], np.tile(np.eye(2), (4, 1, 1))
        cov[0, 0, 0] = sd**2
        return lanes.charge(jaxgmm.GMMParams.from_moments(np.full(4, 0.25), means, cov))

    assert charge(1e2, 1) == charge(1e6, 1) == 0
    np.testing.assert_allclose(charge(1e6, 1e-3), charge(1e2, 1e-3), rtol=1e-9)
    assert charge(1e2, 1e-3) > 0
