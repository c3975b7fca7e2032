"""Starts: draws pick for pick, whitening, given labels."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score
from structures import NAMES, random_samples

import jaxgmm
from jaxgmm import initial, lanes, swaps
from jaxgmm.clusters import OUT_OF_REACH, Frame
from jaxgmm.hierarchy import ward

KEY = jax.random.key(0)
K_MEANS_SEEDS = pytest.param("k-means++", marks=pytest.mark.slow)  # the first half of "kmeans"


def cigars(angle, seed=0, n=500):
    """Two parallel cigars, sd 20 x 0.3, 3 apart, rotated."""
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1], n)
    X = rng.normal(size=(2 * n, 2)) * [20, 0.3]
    X[:, 1] += 3 * label
    c, s = np.cos(angle), np.sin(angle)
    return (X @ np.array([[c, -s], [s, c]])).astype(np.float32), label


def test_kmeans_labels_find_parallel_cigars_at_any_rotation():
    start = jax.jit(jax.vmap(lambda k, X: jaxgmm.predict(jaxgmm.initialise(k, X, 2), X)))
    sets = [cigars(angle) for angle in np.linspace(0, np.pi, 60)]
    labels = start(jax.random.split(KEY, 60), np.stack([X for X, _ in sets]))
    found = [adjusted_rand_score(truth, lane) > 0.95 for lane, (_, truth) in zip(labels, sets, strict=True)]
    assert np.mean(found) >= 0.95


@pytest.mark.slow
def test_default_fit_finds_parallel_cigars():
    for seed in range(3):
        X, truth = cigars(np.pi / 4, seed)
        fit = jaxgmm.fit(jax.random.key(seed), X, 2)
        assert adjusted_rand_score(truth, jaxgmm.predict(fit.params, X)) > 0.95


def test_random_from_data_takes_a_row_as_often_as_it_was_seen():
    X = random_samples(n=5)
    weight = np.array([2, 1, 0, 1, 1], np.float32)
    seen = np.repeat(np.arange(5), weight.astype(int))
    start = jax.jit(jax.vmap(lambda k: jaxgmm.initialise(k, X, 4, method="random_from_data", sample_weight=weight).means))
    again = jax.jit(jax.vmap(lambda k: jaxgmm.initialise(k, X[seen], 4, method="random_from_data").means))
    keys = jax.random.split(KEY, 20)
    np.testing.assert_allclose(start(keys), again(keys), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=4, max_size=4),
    st.integers(0, 999).map(lambda i: i / 1000),
)
def test_draw_is_the_inverse_of_the_cumulative_mass(mass, uniform):
    mass = np.array(mass, np.float32)
    index = int(initial.draw(jnp.float32(uniform), jnp.asarray(mass), jnp.asarray([0.0, 1, 0, 1], jnp.float32)))
    if mass.sum() == 0:
        assert index in (1, 3)
    else:
        assert mass[index] > 0
        below = mass[:index].sum()
        assert below <= uniform * mass.sum() * (1 + 1e-6)
        assert uniform * mass.sum() <= (below + mass[index]) * (1 + 1e-6)


@pytest.mark.parametrize("method", ["kmeans", K_MEANS_SEEDS, pytest.param("swaps", marks=pytest.mark.slow), "random_from_data"])
def test_weight_two_is_seen_twice_and_zero_is_absent_pick_for_pick(method, x64):
    X = random_samples(n=20)
    times = np.array([0, 1, 2, 3, 1] * 4)
    if method == "random_from_data":
        times = np.minimum(times, 1)  # K different samples: the second copy of one would be another sample
    spoiled = np.where(times[:, None] == 0, np.nan, X)
    weighted = jax.jit(jax.vmap(lambda k: jaxgmm.initialise(k, spoiled, 3, method=method, sample_weight=times)))
    seen = jax.jit(jax.vmap(lambda k: jaxgmm.initialise(k, np.repeat(X, times, axis=0), 3, method=method)))
    keys = jax.random.split(KEY, 8)
    for a, b in zip(jax.tree.leaves(weighted(keys)), jax.tree.leaves(seen(keys)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_many_samples_start_from_some_of_them_pick_for_pick(monkeypatch, x64):
    monkeypatch.setattr(initial, "START_SAMPLES", 64)
    rng = np.random.default_rng(0)
    X, times = rng.normal(size=(150, 2)) + 9 * rng.integers(0, 2, size=(150, 1)), rng.integers(0, 3, size=150)
    weighted = initial.subsample(jnp.asarray(X), jnp.asarray(times, float), 64)
    seen = initial.subsample(jnp.repeat(X, times, axis=0), jnp.ones(times.sum()), 64)
    jax.tree.map(np.testing.assert_array_equal, weighted, seen)
    start = jax.jit(partial(jaxgmm.initialise, n_components=2))(KEY, X, sample_weight=times)
    np.testing.assert_allclose(sorted(start.means[:, 0]), [0, 9], atol=0.5)


def test_a_start_does_not_depend_on_the_scale_of_weights_below_one(x64):
    X, weight = random_samples(n=40), np.linspace(0.2, 1, 40)
    start = jax.jit(lambda w: jaxgmm.initialise(KEY, X, 3, sample_weight=w))
    for a, b in zip(jax.tree.leaves(start(weight)), jax.tree.leaves(start(weight / weight.sum())), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_hard_responsibilities(name, x64):
    X, labels = random_samples(), np.arange(23) % 3
    one_hot = np.eye(3)[labels]
    by_labels = jaxgmm.initialise(KEY, X, 3, method=labels, covariance_type=name)
    by_gamma = jaxgmm.initialise(KEY, X, 3, method=one_hot, covariance_type=name)
    expected = jaxgmm.m_step(by_labels, X, one_hot)
    for start in (by_labels, by_gamma):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), start, expected)


@pytest.mark.parametrize("method", ["kmeans", K_MEANS_SEEDS, "swaps", "random_from_data", "random"])
def test_every_method_starts_from_awkward_samples(method):
    samples = {
        "one value": np.ones((9, 2)),
        "constant column": np.stack([np.arange(9.0), np.ones(9)], axis=1),
        "copied column": np.repeat(np.arange(9.0)[:, None] ** 2, 2, axis=1),
        "a row of NaN": np.where(np.arange(9)[:, None] == 4, np.nan, np.arange(18.0).reshape(9, 2) % 5),
        "three values": np.repeat([[0.0, 0], [1, 2], [5, 5]], 3, axis=0),
    }
    X = np.stack(list(samples.values())).astype(np.float32)
    for name in ("full", "spherical") if method == "kmeans" else ("full",):
        starts = jax.jit(jax.vmap(lambda X, name=name: jaxgmm.initialise(KEY, X, 3, method=method, covariance_type=name)))(X)
        for what, lane in zip(samples, range(len(X)), strict=True):
            for leaf in jax.tree.leaves(starts):
                assert np.isfinite(np.asarray(leaf[lane])).all(), (what, name)
            density = jaxgmm.log_prob(jax.tree.map(lambda leaf, lane=lane: leaf[lane], starts), np.nan_to_num(X[lane]))
            assert np.isfinite(np.asarray(density)).all(), (what, name)


def test_starts_do_not_depend_on_units_or_axes(x64):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2)) + 7 * np.repeat([[0, 0], [1, 0], [0, 1]], 20, axis=0)
    mix = rng.normal(size=(2, 2)) @ np.diag([1e-3, 1e3])
    label = jax.jit(lambda k, X: jaxgmm.predict(jaxgmm.initialise(k, X, 3), X))
    for key in jax.random.split(KEY, 4):
        assert adjusted_rand_score(label(key, X), label(key, X @ mix + 7)) > 0.95


def test_a_far_sample_owns_neither_whitening_nor_seed():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + [6, 0], [[1e5, 1e5]]])
    labels = jax.jit(jax.vmap(lambda k: jaxgmm.predict(jaxgmm.initialise(k, X, 2), X)))(jax.random.split(KEY, 8))
    for lane in labels:
        assert adjusted_rand_score(np.repeat([0, 1], 100), lane[:200]) > 0.95


def test_random_responsibilities_are_a_distribution(x64):
    start = jaxgmm.initialise(KEY, random_samples(), 3, method="random")
    np.testing.assert_allclose(start.weights.sum(), 1)
    assert (np.asarray(start.weights) > 0).all()


def test_swaps_leave_where_another_start_is_stuck(x64):
    """Two clusters lie close, and a narrow one lies in a wide one: one component may straddle the two."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(60, 1)) * 0.2 + at for at in (0, 1.2, 9)] + [9 + 2 * rng.normal(size=(60, 1))])
    keys = jax.random.split(KEY, 6)

    def ends(method):
        def end(key):
            return jaxgmm.fit_from(jaxgmm.initialise(key, X, 4, method=method), X, max_iter=300).log_likelihood

        return np.asarray(jax.jit(jax.vmap(end))(keys))

    stuck, free = ends("random_from_data"), ends("swaps")
    assert stuck.min() < free.max() - 5  # it can be missed,
    assert free.min() > free.max() - 1  # and is not


def test_a_swap_exchanges_one_component_in_use(x64):
    """What comes lies on a sample in use, or is one that another mixture holds; all else stays."""
    X, weight = random_samples(n=20), jnp.asarray(np.arange(20) % 2, float)
    held = jax.vmap(lambda key: jaxgmm.initialise(key, X, 3))(jax.random.split(KEY, 2))
    held = dataclasses.replace(held, weights=jnp.asarray([[0.6, 0.4, 0.0]] * 2))
    drawn = swaps.draws(KEY, (12, 2), jnp.asarray(X), weight, jnp.zeros(2), jnp.int32(2))
    assert 0 < drawn.lent.sum() < drawn.lent.size
    for i in range(12):
        after = swaps.swapped(held, jax.tree.map(lambda leaf, i=i: leaf[i], drawn), jnp.int32(2))
        np.testing.assert_array_equal(after.weights[:, 2], 0)
        np.testing.assert_allclose(after.weights.sum(axis=1), 1)
        for mine in (0, 1):
            (moved,) = np.flatnonzero((after.means != held.means)[mine].any(axis=1))
            mean, cov = np.asarray(after.means[mine, moved]), np.asarray(after.cov[mine, moved])
            assert moved < 2
            if not drawn.lent[i, mine]:
                assert (X[1::2] == mean).all(axis=1).any()
                continue
            lent = (np.asarray(held.means[1 - mine, :2]) == mean).all(axis=1)
            np.testing.assert_array_equal(cov, held.cov[1 - mine, :2][lent][0])


def test_a_mixture_alone_borrows_nothing():
    drawn = swaps.draws(KEY, (50, 1), jnp.asarray(random_samples(n=20)), jnp.ones(20), jnp.zeros(2), jnp.int32(2))
    assert not drawn.lent.any()


def test_scattered_components_lie_on_samples(x64):
    X = random_samples(n=20)
    start = dataclasses.replace(jaxgmm.initialise(KEY, X, 3), weights=jnp.asarray([0.9, 0.1, 0.0]))
    seeds = swaps.draws(KEY, (3, 1), jnp.asarray(X), jnp.ones(20), jnp.zeros(2), jnp.int32(2))
    found = swaps.scattered(start, jax.tree.map(lambda leaf: leaf[:, 0], seeds), jnp.int32(2))
    np.testing.assert_allclose(found.weights, [0.5, 0.5, 0])
    assert all((np.asarray(mean) == X).all(axis=1).any() for mean in found.means[:2])
    np.testing.assert_array_equal(found.means[2], start.means[2])


def test_a_search_ends_no_lower_than_it_began(x64):
    """Its start is the first that is held, and only a better one takes its place."""
    X = random_samples(n=60)
    for key in jax.random.split(KEY, 3):
        start, found = (jaxgmm.initialise(key, X, 3, method=method) for method in ("kmeans", "swaps"))
        assert jaxgmm.log_likelihood(found, X) > jaxgmm.log_likelihood(start, X) - swaps.WORTH * len(X)


def test_a_search_without_passes_is_its_start(monkeypatch, x64):
    monkeypatch.setattr(swaps, "ROW_TURNS", 1)
    X = random_samples(n=19)  # a shape of its own: what is compiled for another knows another number of passes
    start, found = (jaxgmm.initialise(KEY, X, 3, method=method) for method in ("kmeans", "swaps"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, start)


def test_a_search_of_few_passes_is_better_than_its_start(monkeypatch, x64):
    """The trial under way when they end counts: here it is the start itself."""
    monkeypatch.setattr(swaps, "ROW_TURNS", 61 * 7)
    X = random_samples(n=61)  # see above
    start, found = (jaxgmm.initialise(KEY, X, 3, method=method) for method in ("kmeans", "swaps"))
    assert jaxgmm.log_likelihood(found, X) > jaxgmm.log_likelihood(start, X) + swaps.WORTH * len(X)


@pytest.mark.slow
def test_a_search_sees_clusters_inside_of_distant_groups():
    """In float32, 10^4 standard deviations apart: the fast form of a pass would round away what tells them apart."""
    rng = np.random.default_rng(0)
    centres = np.array([[x + dx, dy] for x in (0, 1e4) for dx, dy in ((0, 0), (6, 0), (0, 6))])
    X = (centres[:, None] + rng.normal(size=(6, 60, 2))).reshape(-1, 2).astype(np.float32)
    truth = jaxgmm.fit_from(jaxgmm.initialise(KEY, X, 6, method=np.repeat(np.arange(6), 60)), X).log_likelihood
    found = [jaxgmm.fit(jax.random.key(seed), X, 6).log_likelihood for seed in range(4)]
    assert np.mean(np.array(found) > truth - 1e-3 * len(X)) >= 0.75


@pytest.mark.slow
def test_a_search_does_not_end_on_the_way_to_a_narrow_component(x64):
    """The likelihood of a trial rises highest where a component flattens itself: what is held must not lie just before that."""
    X = reference.samples("iris")

    def end(key):
        return lanes.charge(jaxgmm.fit_from(jaxgmm.initialise(key, X, 5, method="swaps"), X).params)

    assert np.mean(jax.vmap(end)(jax.random.split(KEY, 16)) > 0) < 0.25  # half of them, kept as soon as they were better


@pytest.mark.parametrize("n_components", [2, 3, 10])
def test_a_search_makes_fewer_passes_over_more_samples(n_components):
    """What it costs does not grow with the samples, but for a handful of them; few passes are not parted."""
    held, each = zip(*(swaps.n_turns(n, n_components) for n in (100, 1 << 12, 1 << 15)), strict=True)
    assert held[0] > held[-1] == 1
    assert held[0] * each[0] <= swaps.TURNS_EACH * n_components * (n_components - 1)
    for n, mixtures, passes in zip((100, 1 << 12, 1 << 15), held, each, strict=True):
        assert n * mixtures * passes <= swaps.ROW_TURNS
        assert passes >= swaps.FEWEST_EACH * n_components or mixtures == 1


def test_ward_is_scipys(x64):
    """Clusters of the same samples; a weight of two is a sample seen twice, a weight of zero none."""
    z = np.random.default_rng(3).normal(size=(40, 2)) + 2 * np.random.default_rng(4).integers(0, 3, size=(40, 1))
    weight = np.ones(40)
    weight[:5], weight[5:8] = 2, 0
    rows = np.repeat(np.arange(40), weight.astype(int))
    label = fcluster(linkage(z[rows], "ward"), 4, "maxclust")
    centres = np.array([z[rows][label == k].mean(axis=0) for k in range(1, 5)])
    frame = Frame(jnp.zeros(2), jnp.eye(2), jnp.eye(2))
    found = ward(jnp.full((8, 5), 0.5), jnp.asarray(z.T), jnp.asarray(weight), jnp.int32(4), least=3, frame=frame)
    order = np.lexsort(centres.T), np.lexsort(np.asarray(found[:4]).T)
    np.testing.assert_allclose(found[:4][order[1]], centres[order[0]], rtol=1e-10)
    assert (found[4] == OUT_OF_REACH).all()


def test_ward_starts_a_fit_of_many_samples():
    X = np.random.default_rng(0).normal(size=(900, 2)) + 9 * np.arange(3).repeat(300)[:, None]
    start = jaxgmm.initialise(jax.random.key(0), X, 3, method="ward", covariance_type="diag")
    np.testing.assert_allclose(np.sort(start.means[:, 0]), [0, 9, 18], atol=0.3)
