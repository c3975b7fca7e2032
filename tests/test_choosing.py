"""What a mixture is chosen by: criteria, cross-validation and merged components against plain NumPy, the bootstrap's laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import random_mixture, random_samples

import jaxgmm
from jaxgmm import Status, checks, folds, merging, selection
from jaxgmm.result import FitResult, Lanes

KEY = jax.random.key(0)
OPTIONS = {"n_restarts": 2, "tol": 0.0, "max_iter": 10, "init": "random_from_data"}


def minus_x_ln_x(x):
    return -x * np.log(np.where(x > 0, x, 1))


@pytest.mark.parametrize("name", ["full", pytest.param("tied", marks=pytest.mark.slow)])
def test_entropy_and_nec_are_their_sums(name, x64):
    X = random_samples(n=30)
    weight = np.arange(30) % 3 + 0.5
    place = np.argsort(X.sum(axis=1)).reshape(2, 15)
    halves = [(X[rows].mean(axis=0), np.cov(X[rows].T, bias=True)) for rows in place]
    good = jaxgmm.GMMParams.from_moments([1, 1], *map(np.stack, zip(*halves, strict=True)), name)
    mean, sigma = np.average(X, axis=0, weights=weight), np.cov(X.T, aweights=weight, bias=True)
    single = -weight.sum() / 2 * (len(mean) * (np.log(2 * np.pi) + 1) + np.linalg.slogdet(sigma)[1])
    for params, better in ((good, True), (random_mixture(name, k=2), False)):
        gamma = np.asarray(jaxgmm.predict_proba(params, X))
        entropy = (weight[:, None] * minus_x_ln_x(gamma)).sum()
        np.testing.assert_allclose(jaxgmm.entropy(params, X, sample_weight=weight), entropy, rtol=1e-10)
        gain = float(jaxgmm.log_likelihood(params, X, sample_weight=weight)) - single
        assert (gain > 0) == better
        expected = entropy / gain if better else np.inf
        np.testing.assert_allclose(jaxgmm.nec(params, X, sample_weight=weight), expected, rtol=1e-8)


def test_nec_of_factor_analysers_is_beside_the_best_fit_of_one(x64):
    X, halves = random_samples(n=40, d=3) + 3 * (np.arange(40) % 2)[:, None], np.arange(40) % 2
    params = jaxgmm.initialise(KEY, X, 2, covariance_type="UUU-1", method=halves)
    start = jaxgmm.initialise(KEY, X, 1, covariance_type="UUU-1")
    single = jaxgmm.fit_from(start, X, tol=1e-12, accelerate="squarem").log_likelihood
    expected = jaxgmm.entropy(params, X) / (jaxgmm.log_likelihood(params, X) - single)
    assert expected > 0
    np.testing.assert_allclose(jaxgmm.nec(params, X), expected, rtol=1e-5)
    along = np.cos(np.arange(X.size)).reshape(X.shape)
    slope = np.sum(jax.grad(lambda X: jaxgmm.nec(params, X))(X) * along)
    ahead, behind = (jaxgmm.nec(params, X + step * along) for step in (1e-4, -1e-4))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-4, rtol=1e-4)


def test_a_component_without_weight_adds_no_entropy_and_a_gradient_is_finite(x64):
    X, params = random_samples(n=9), random_mixture("diag")
    far = jaxgmm.GMMParams(params.weights, params.means.at[0].add(1e3), params.cov, params.structure)
    assert 0 < jaxgmm.entropy(far, X) < np.log(2) * 9
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(jaxgmm.entropy)(far, X)))
    assert jaxgmm.nec(random_mixture("diag", k=1), X) == 1


def test_a_sample_beyond_the_reach_of_all_components_has_no_overlap(x64):
    X, params = random_samples(n=9), random_mixture("diag")
    away = np.r_[X, [[1e200, 0]]]
    np.testing.assert_allclose(jaxgmm.entropy(params, away), jaxgmm.entropy(params, X), rtol=1e-12)
    assert jaxgmm.icl(params, away) == np.inf
    assert np.isnan(jaxgmm.entropy(params, np.r_[X, [[np.nan, 0]]]))


@pytest.mark.slow
def test_a_sweep_with_folds_is_the_fits_with_weights(x64):
    X = random_samples(n=40)
    weight = 1.0 + np.arange(40) % 2
    weight[3] = 0
    X[3] = np.nan
    found = jaxgmm.sweep(KEY, X, (1, 2), "diag", sample_weight=weight, n_folds=3, **OPTIONS)
    held = folds.divided(KEY, jnp.asarray(weight), 40, 3)
    options = OPTIONS | {"covariance_type": "diag", "accelerate": "squarem"}
    whole = jaxgmm.fit(KEY, X, 2, sample_weight=weight, **options)
    np.testing.assert_allclose(found.log_likelihood[1], whole.log_likelihood, rtol=1e-9)
    np.testing.assert_allclose(found.nec[1], jaxgmm.nec(whole.params, X, sample_weight=weight), rtol=1e-6)
    for f in range(3):
        out = np.where(held[f], weight, 0)
        part = jaxgmm.fit(KEY, X, 2, sample_weight=weight - out, **options)
        expected = jaxgmm.log_likelihood(part.params, X, sample_weight=out)
        np.testing.assert_allclose(found.held_out[1, f], expected, rtol=1e-6, err_msg=f"fold {f}")
    np.testing.assert_allclose(found.cross_validation, -2 * found.held_out.sum(axis=1))
    assert found.standard_error[found.cross_validation.argmin()] == 0


def test_folds_are_balanced_and_hold_each_sample_once():
    weight = jnp.asarray(np.arange(23) % 4, jnp.float32)
    held = folds.divided(KEY, weight, 23, 5)
    np.testing.assert_array_equal(held.sum(axis=0), np.asarray(weight) > 0)
    assert set(held.sum(axis=1)) == {3, 4}
    assert (folds.divided(jax.random.key(1), weight, 23, 5) != held).any()
    assert folds.divided(KEY, None, 23, 0).shape == (0, 23)


def test_folds_that_cannot_be_are_refused():
    for n_folds, message in ((1, "at least 2; got 1"), (24, "leaves too few of 23"), (2, "leaves too few of 23")):
        with pytest.raises(ValueError, match=message):
            checks.check_folds(n_folds, 23, 12)
    assert checks.check_folds(23, 23, 12) == 23
    for options, words in (
        ({"criterion": "cross_validation"}, "give n_folds as well"),
        ({"covariance_type": ["full", "VVV"]}, r"different structures, .* got \['full', 'full'\]"),
        ({"covariance_type": 5}, "covariance_type must be one of"),
        ({"prior": [None, None]}, "different priors"),
        ({"init": np.zeros((2, 2))}, r"init must be one of .* got an array of shape \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=words):
            jaxgmm.sweep(KEY, random_samples(), 2, **options)


def brute(gamma, weight):
    """Merging as it is defined: at each step every pair is tried."""
    parts = [[k] for k in range(gamma.shape[1])]

    def entropy(parts):
        return sum((weight * minus_x_ln_x(gamma[:, part].sum(axis=1))).sum() for part in parts)

    steps = [(entropy(parts), parts)]
    while len(parts) > 1:
        pairs = [(i, j) for j in range(len(parts)) for i in range(j)]
        tried = [[p for n, p in enumerate(parts) if n not in (i, j)] + [sorted(parts[i] + parts[j])] for i, j in pairs]
        parts = min(tried, key=entropy)
        steps.append((entropy(parts), sorted(parts)))
    return steps[::-1]


@pytest.mark.parametrize("k", [6, 2, 1])
def test_merging_is_that_of_trying_all_pairs(k):
    rng = np.random.default_rng(0)
    gamma, weight = rng.dirichlet(np.ones(k), 50), rng.integers(0, 3, 50).astype(float)
    cluster, entropy, moved = jax.jit(merging.merged)(gamma.astype(np.float32), weight.astype(np.float32))
    for n, (expected, parts) in enumerate(brute(gamma, weight), start=1):
        assert [np.flatnonzero(cluster[n - 1] == c).tolist() for c in range(n)] == parts
        np.testing.assert_allclose(entropy[n - 1], expected, rtol=1e-5, atol=1e-4)
    assert (np.diff(entropy) >= 0).all()
    for n in range(1, k):
        grown = [np.flatnonzero(cluster[n] == c) for c in range(n + 1)]
        likeliest = np.stack([gamma[:, part].sum(axis=1) for part in grown]).argmax(axis=0)
        kept = [np.flatnonzero(cluster[n - 1] == c).tolist() for c in range(n)]
        joined = [c for c, part in enumerate(grown) if part.tolist() not in kept]
        assert moved[n - 1] == weight[np.isin(likeliest, joined)].sum()


def test_halves_of_a_cloud_are_merged_first_and_the_clouds_are_suggested():
    sd = [[[1.0]], [[1.0]], [[1.0]], [[2.0]], [[2.0]]]
    params = jaxgmm.GMMParams.from_moments([1, 1, 2, 1, 1], [[0.0], [20.0], [60.0], [0.7], [21.0]], sd)
    X = jaxgmm.sample(KEY, params, 400)[0].at[7].set(np.inf)
    weight = np.ones(400)
    weight[7] = 0
    found = jaxgmm.merge_components(params, X, sample_weight=weight)
    assert found.n_clusters == 3
    assert found.cluster[2].tolist() == [0, 1, 2, 0, 1]
    gamma = np.delete(jaxgmm.predict_proba(params, X), 7, axis=0)
    clusters = found.proba(gamma)
    np.testing.assert_allclose(
        clusters, np.stack([gamma[:, [0, 3]].sum(1), gamma[:, [1, 4]].sum(1), gamma[:, 2]], 1), rtol=1e-5
    )
    np.testing.assert_array_equal(clusters.argmax(axis=1), np.delete(found.labels, 7))
    assert repr(found).splitlines()[-1].split()[-1] == "2"
    with pytest.raises(ValueError, match="n_clusters must be at most 5"):
        found.proba(gamma, 6)


def test_probabilities_of_clusters_say_what_they_lack():
    params = jaxgmm.GMMParams.from_moments([1, 1], [[0.0], [9.0]], [[[1.0]]] * 2)
    found = jaxgmm.merge_components(params, [[0.0], [9.0]])
    gamma = jnp.array([[0.25, 0.75]])
    np.testing.assert_array_equal(jax.jit(lambda found: found.proba(gamma, 1))(found), [[1.0]])
    for call, words in (
        (lambda: jax.jit(lambda found: found.proba(gamma))(found), "cannot be traced; give it"),
        (lambda: found.proba(1.0), r"gamma must have shape \(1, 2\), samples by components; got \(\)"),
        (lambda: found.proba(gamma[0]), r"gamma must have shape \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_an_elbow_is_where_two_lines_meet():
    x = np.array([0.0, 2.0, 3.0, 7.0, 8.0, 9.0], np.float32)
    for n in range(2, 6):
        y = np.where(x < x[n - 1], -x, 5 * (x - x[n - 1]) - x[n - 1])
        assert merging.elbow(jnp.asarray(x), jnp.asarray(y)) == n
    assert merging.elbow(jnp.zeros(2), jnp.zeros(2)) == 2


def test_restarts_that_agree_are_counted():
    ends, none = -7 - np.array([0, 0.003, 0.005, 1, 0, np.nan]), np.zeros(6, np.int32)
    status = np.array([1, 1, 1, 1, Status.DEGENERATE, Status.NONFINITE], np.int32)
    lanes = Lanes(ends, none, status, np.zeros((6, 0)), log_posterior=ends)
    result = FitResult(random_mixture("diag"), ends[0], none[0], status[0], np.zeros(0), lanes, log_posterior=ends[0])
    assert selection.n_agreeing(result, 40.0) == 2
    assert selection.n_agreeing(result._replace(status=status[4]), 40.0) == 1


@pytest.mark.slow
def test_a_bootstrap_rejects_one_component_for_two_clouds_and_keeps_one_for_one():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 1))
    options = {"covariance_type": "spherical", "n_restarts": 2, "tol": 1e-5}
    apart = X + 6 * (np.arange(80)[:, None] < 30)
    found = jaxgmm.bootstrap_lrt(KEY, apart, (1, 2), n_bootstrap=19, **options)
    assert found.n_components.tolist() == [1, 2]
    assert found.p_value[0] == 0.05 < found.p_value[1]
    assert found.simulated.shape == (2, 19)
    assert repr(found).splitlines()[-1] == "2 components are not rejected"
    one, two = (jaxgmm.fit(KEY, apart, k, init="kmeans", **options) for k in (1, 2))
    np.testing.assert_allclose(found.statistic[0], 2 * float(two.log_likelihood - one.log_likelihood), rtol=1e-4)
    alike = jaxgmm.bootstrap_lrt(KEY, X, (1, 2), n_bootstrap=19, **options)
    with pytest.raises(ValueError, match="different numbers"):
        jaxgmm.bootstrap_lrt(KEY, X, (1, 1))
    assert alike.n_components.tolist() == [1]
    assert alike.p_value[0] == (1 + (alike.simulated[0] >= alike.statistic[0]).sum()) / 20 > 0.05


def test_levels_that_cannot_be_are_refused():
    for level, message in ((0.01, "no p-value below 0.05"), (1.5, "between 0 and 1"), (0.0, "between 0 and 1")):
        with pytest.raises(ValueError, match=message):
            jaxgmm.bootstrap_lrt(KEY, random_samples(), 1, n_bootstrap=19, level=level)
    with pytest.raises(ValueError, match="one structure here"):
        jaxgmm.bootstrap_lrt(KEY, random_samples(), 1, covariance_type=["full", "diag"])


def test_a_test_without_a_sound_fit_says_so():
    said = repr(jaxgmm.BootstrapTest(np.array([2]), np.array([np.nan]), np.full((1, 9), np.nan), np.array([np.nan]), 0.05))
    assert said.endswith("2 components are without a sound fit, and not tested")
