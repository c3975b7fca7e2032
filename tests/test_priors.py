"""Priors as pseudo-observations: mclust's MAP fits, and laws."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from scipy.stats import dirichlet, invwishart, multivariate_normal
from structures import NAMES, SLOW, D, K, N, random_gamma, random_mixture, random_samples, random_weight, rtol
from test_laws import few, seeds

import jaxgmm
from jaxgmm import em, lanes
from jaxgmm.priors import cast_prior, pseudo_observations
from jaxgmm.structures.base import Inner

CASES = [
    pytest.param(
        case,
        id="{dataset} {model} {G} {tag}".format(**case),
        marks=() if (case["model"], case["G"], case["dataset"]) == ("VVV", 2, "faithful") else pytest.mark.long,
    )
    for case in reference.map_prior()
    if case["tag"] != "default" or case["G"] == 3 or (case["model"], case["G"]) == ("VVV", 2)  # others are other programs
]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_mclust(case, x64):
    """After one M-step from labels, and converged, where mclust did."""
    X = reference.samples(case["dataset"])
    labels = np.array([int(c) for c in case["labels"]], np.int32)
    hyper = {name: np.asarray(case[name], float) for name in ("shrinkage", "mean", "dof", "scale")}
    prior = jaxgmm.default_prior(X, case["G"], case["model"], **hyper)
    if case["tag"] == "default":
        default = jaxgmm.default_prior(X, case["G"], case["model"])
        for found, known in zip(jax.tree.leaves(default), jax.tree.leaves(prior), strict=True):
            np.testing.assert_allclose(found, known, rtol=1e-12, atol=1e-12 * np.abs(known).max())
    start = jaxgmm.initialise(jax.random.key(0), X, case["G"], method=labels, covariance_type=case["model"])
    one = jaxgmm.m_step(start, X, np.eye(case["G"])[labels], prior=prior)
    found = jaxgmm.fit_from(one, X, prior=prior, tol=1e-13, max_iter=5000, covariance_floor=0.0, trace=1)
    log_p = pseudo_observations(prior, one).log_likelihood
    np.testing.assert_allclose(found.trace[0] - log_p, case["one"], rtol=1e-8)
    if case["converged"] is not None:
        np.testing.assert_allclose(found.log_likelihood, case["converged"], rtol=1e-6)


def strong_prior(X, covariance_type="full", k=K):
    return jaxgmm.default_prior(X, k, covariance_type, concentration=1.5, shrinkage=0.7, mean=X[0])


def test_density_is_scipys(x64):
    X = random_samples()
    prior = strong_prior(X)

    def theirs(params):
        sigma = np.asarray(jaxgmm.covariances(params))
        dof = float(prior.count) - 2 - D  # of an inverse-Wishart distribution; the mean's adds one more
        return dirichlet.logpdf(np.asarray(params.weights), np.full(K, 1 + prior.weight)) + sum(
            invwishart.logpdf(s, dof, np.asarray(prior.scatter))
            + multivariate_normal.logpdf(m, np.asarray(prior.mean), s / float(prior.shrinkage))
            for m, s in zip(np.asarray(params.means), sigma, strict=True)
        )

    a, b = random_mixture("full", 1), random_mixture("full", 2)
    ours = [float(pseudo_observations(prior, params).log_likelihood) for params in (a, b)]
    np.testing.assert_allclose(ours[0] - ours[1], theirs(a) - theirs(b), rtol=1e-10)


NEVER = [(family, np.float64) for family in (*NAMES, "VVE")] + [
    pytest.param(family, dtype, marks=pytest.mark.long)
    for family, dtype in [*((family, np.float64) for family in SLOW), *((family, np.float32) for family in NAMES)]
]


@pytest.mark.parametrize(("family", "dtype"), NEVER)
def test_posterior_never_falls(family, dtype):
    with jax.enable_x64(dtype is np.float64):
        never_falls(family, dtype)


def never_falls(family, dtype):
    floor = jnp.full(D, 1e-2, dtype)

    @jax.jit
    def turn(params, X, prior):
        sums = em.collect(params, X, None) + pseudo_observations(prior, params)
        return sums, em.maximised(params, sums, floor, prior, inner=Inner.FEW)

    @few
    @given(seeds)
    def law(seed):
        with jax.enable_x64(dtype is np.float64):
            params, X = random_mixture(family, seed), random_samples(seed)
            prior = cast_prior(strong_prior(X, family), np.dtype(dtype))
            previous = -np.inf
            for _ in range(4):
                sums, params = turn(params, X, prior)
                value = float(sums.log_likelihood)
                assert np.isfinite(value)
                assert value >= previous - rtol(factor=64) * (abs(value) + N * D)
                previous = value

    law()


def test_no_strength_is_maximum_likelihood_exactly(dtype):
    X, start = random_samples(), random_mixture("full")
    zeros = jax.tree.map(jnp.zeros_like, strong_prior(X))
    none, zero = (jaxgmm.fit_from(start, X, prior=prior, max_iter=20) for prior in (None, zeros))
    jax.tree.map(np.testing.assert_array_equal, none, zero)


def test_fit_ends_where_the_slope_of_the_posterior_is_zero(x64):
    """Both slots of ``fit_from``, the result's two logarithms, and ``fit_gradient`` meet at one point."""
    X, weight = random_samples(), random_weight()
    prior = strong_prior(X)
    found = jaxgmm.fit_from(random_mixture("full"), X, prior=prior, tol=1e-13, sample_weight=weight)
    log_likelihood = jaxgmm.log_likelihood(found.params, X, sample_weight=weight)
    np.testing.assert_allclose(found.log_likelihood, log_likelihood, rtol=1e-12)
    log_p = pseudo_observations(prior, found.params).log_likelihood
    np.testing.assert_allclose(found.log_posterior, log_likelihood + log_p, rtol=1e-12)

    def posterior(means, cov):
        params = jaxgmm.GMMParams(found.params.weights, means, cov, found.params.structure)
        return jaxgmm.log_likelihood(params, X, sample_weight=weight) + pseudo_observations(prior, params).log_likelihood

    slopes = jax.grad(posterior, argnums=(0, 1))(found.params.means, found.params.cov)
    for slope in slopes:
        np.testing.assert_allclose(slope, 0, atol=1e-4)
    descended = jaxgmm.fit_gradient(found.params, X, prior=prior, sample_weight=weight)
    np.testing.assert_allclose(descended.log_posterior, found.log_posterior, rtol=1e-9)
    assert descended.status == jaxgmm.Status.CONVERGED


def test_slopes_of_a_fit_in_its_prior_are_differences(x64):
    X, start = random_samples(), random_mixture("diag", k=2)

    def weight_of_first(shrinkage):
        prior = jaxgmm.default_prior(X, 2, "diag", shrinkage=shrinkage)
        found = jaxgmm.fit_from(start, X, prior=prior, tol=1e-14)
        return found.params.means[0, 0] + found.log_posterior

    slope = jax.grad(weight_of_first)(1.0)
    difference = (weight_of_first(1.0 + 1e-4) - weight_of_first(1.0 - 1e-4)) / 2e-4
    np.testing.assert_allclose(slope, difference, rtol=1e-5)


def test_many_fits_with_a_prior_are_single_fits_and_units_do_not_matter(x64):
    sets = np.stack([random_samples(seed) for seed in range(2)])
    options = {"prior": "default", "n_restarts": 2, "init": "k-means++"}
    many = jaxgmm.fit_many(jax.random.key(0), sets, 2, **options)
    moved = jaxgmm.fit_many(jax.random.key(0), 1e3 * sets - 5, 2, **options)
    np.testing.assert_allclose(moved.params.means, 1e3 * many.params.means - 5, rtol=1e-6)
    single = jaxgmm.fit(jax.random.fold_in(jax.random.key(0), 1), sets[1], 2, **options)
    np.testing.assert_allclose(single.log_posterior, many.log_posterior[1], rtol=1e-8)


def test_components_out_of_use_have_no_prior(x64):
    X = random_samples()
    prior = strong_prior(X)
    samples = lanes.Samples(X, None, jnp.zeros(D))
    gamma = random_gamma(k=K)[:, :2]
    two = jaxgmm.initialise(jax.random.key(0), X, 2, method=gamma / gamma.sum(axis=1, keepdims=True))
    three = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), two)
    three = jaxgmm.GMMParams(three.weights.at[2].set(0), three.means, three.cov, two.structure)
    ends = []
    for params in (two, three):
        lane = lanes.begin(params, samples, jnp.asarray(1e-6), None, 0, 2, prior)
        ends.append(lanes.finish(lanes.advance(lane, samples, jnp.int32(5), jnp.asarray(0.0), None), samples.centre))
    np.testing.assert_allclose(ends[0].log_posterior, ends[1].log_posterior, rtol=1e-12)
    assert ends[1].params.weights[2] == 0


def test_an_empty_component_and_a_strong_prior_are_no_trouble():
    """ln 0 of a weight, and N_k beside many pseudo-observations in single precision."""
    X = random_samples()
    labels = (np.arange(N) % 2).astype(np.int32)
    prior = jaxgmm.default_prior(X, K, concentration=2.0)
    found = jaxgmm.fit(jax.random.key(0), X, K, init=labels, prior=prior)
    assert found.status == jaxgmm.Status.CONVERGED
    assert np.asarray(found.params.weights).min() > 0
    pinned = jaxgmm.default_prior(X, K, shrinkage=1e9)
    found = jaxgmm.fit(jax.random.key(0), X, K, init=labels, prior=pinned)
    np.testing.assert_allclose(found.params.means, np.tile(pinned.mean, (K, 1)), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(found.params.weights).sum(), 1, rtol=1e-6)


def test_an_offset_takes_no_digits_of_a_prior():
    X = random_samples(dtype=np.float64)
    near, far = jaxgmm.default_prior(X, K), jaxgmm.default_prior(X + 1e8, K)
    np.testing.assert_allclose(far.scatter, near.scatter, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(far.mean) - 1e8, near.mean, atol=1e-4)


@pytest.mark.slow
def test_a_sweep_takes_priors_as_an_axis(x64):
    X = random_samples()
    options = {"n_restarts": 2, "init": "k-means++", "accelerate": "squarem"}
    grid = jaxgmm.sweep(jax.random.key(0), X, [1, 2], "diag", prior=[None, "default"], n_folds=2, **options)
    assert grid.prior.tolist() == ["none", "none", "default", "default"]
    for result, k, prior in zip(grid.results, [1, 2, 1, 2], [None, None, "default", "default"], strict=True):
        single = jaxgmm.fit(jax.random.key(0), X, k, covariance_type="diag", prior=prior, **options)
        np.testing.assert_allclose(result.log_posterior, single.log_posterior, rtol=1e-6)
    assert "diag + default prior" in repr(grid)
    assert np.isfinite(grid.cross_validation).all()


def test_priors_of_a_sweep_have_a_column_each():
    X = random_samples()
    weak = jaxgmm.default_prior(X, 1, "spherical")
    strong = jaxgmm.default_prior(X, 1, "spherical", scale=9.0, dof=30.0)
    options = {"n_restarts": 1, "max_iter": 3, "init": "random_from_data"}
    for prior, names in (
        ([weak, None, strong], ["given 1", "none", "given 2"]),
        ([None, weak, "default"], ["none", "given", "default"]),
    ):
        grid = jaxgmm.sweep(jax.random.key(0), X, 1, "spherical", prior=prior, **options)
        assert grid.prior.tolist() == names
        assert len(repr(grid).splitlines()[2].split()) == 4


@pytest.mark.parametrize("name", ["UUU-1", "CCC-1"])
def test_factor_analysers_have_the_rule_of_full(name):
    X = random_samples()
    jax.tree.map(np.testing.assert_array_equal, jaxgmm.default_prior(X, 2, name), jaxgmm.default_prior(X, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dof": -1.0}, "dof must be a finite number"),
        ({"concentration": 0.5}, "concentration must be at least one"),
        ({"scale": np.ones((3, 3))}, "scale must be a number or have shape"),
        ({"scale": -1.0}, "positive semidefinite"),
        ({"mean": np.zeros(1)}, "mean must have shape"),
    ],
)
def test_hyperparameters_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        jaxgmm.default_prior(random_samples(), 2, **options)


def test_a_default_prior_needs_finite_samples():
    X = random_samples()
    X[3, 0] = np.nan
    with pytest.raises(ValueError, match="X holds NaN or infinity in 1 of"):
        jaxgmm.default_prior(X, 2)
    weight = np.ones(len(X))
    weight[3] = 0
    jax.tree.map(
        lambda leaf: np.testing.assert_equal(np.isfinite(leaf).all(), True), jaxgmm.default_prior(X, 2, sample_weight=weight)
    )


def test_what_is_no_prior_is_refused():
    X = random_samples()
    with pytest.raises(ValueError, match=r"prior must be a jaxgmm\.Prior"):
        jaxgmm.fit(jax.random.key(0), X, 2, prior=3)
    with pytest.raises(ValueError, match=r"prior\.mean must have shape"):
        jaxgmm.fit(jax.random.key(0), X, 2, prior=jaxgmm.default_prior(np.ones((3, 5)), 2))
    known = jaxgmm.default_prior(X, 2)
    for change, words in (
        ({"count": -1.0}, "count must be a finite number, zero or more"),
        ({"weight": np.nan}, "weight must be finite"),
        ({"scatter": -np.eye(2)}, "scatter must be finite, symmetric and positive semidefinite"),
    ):
        with pytest.raises(ValueError, match=rf"prior\.{words}"):
            jaxgmm.fit(jax.random.key(0), X, 2, prior=replace(known, **change))
    with pytest.raises(ValueError, match="prior must be one of"):
        jaxgmm.fit(jax.random.key(0), X, 2, prior="weak")
