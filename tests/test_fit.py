"""The front room: restarts, rounds, results, and agreement with scikit-learn."""

import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from structures import (
    NAMES,
    D,
    K,
    N,
    least_relative_eigenvalues,
    random_gamma,
    random_mixture,
    random_samples,
    random_weight,
)

import jaxgmm
from jaxgmm import Status, lanes, rounds
from jaxgmm.structures import STRUCTURES

KEY = jax.random.key(0)


def blobs(dtype=np.float32, n=100, seed=0):
    """Two unit blobs 6 apart, and which is which."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + [6, 0]]).astype(dtype), np.repeat([0, 1], n)


BLOB_START = ([0.5, 0.5], [[0.0, 0.0], [6.0, 0.0]], np.stack([np.eye(2)] * 2))


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_scikit_learn_from_the_same_start(name, x64):
    X, start = random_samples(n=90), random_mixture(name)
    ours = jaxgmm.fit_from(start, X, tol=0.0, max_iter=10, covariance_floor=0.0)
    sigma = np.asarray(jaxgmm.covariances(start))
    precisions = {
        "full": np.linalg.inv(sigma),
        "tied": np.linalg.inv(sigma[0]),
        "diag": 1 / np.asarray(start.cov),
        "spherical": 1 / np.asarray(start.cov),
    }[name]
    theirs = GaussianMixture(
        K, covariance_type=name, tol=0.0, max_iter=10, reg_covar=0.0, weights_init=np.asarray(start.weights),
        means_init=np.asarray(start.means), precisions_init=precisions,
    )  # fmt: skip
    with pytest.warns(Warning, match="did not converge"):
        theirs.fit(X)
    np.testing.assert_allclose(ours.params.weights, theirs.weights_, rtol=1e-10)
    np.testing.assert_allclose(ours.params.means, theirs.means_, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.params.cov, theirs.covariances_, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(jaxgmm.log_prob(ours.params, X), theirs.score_samples(X), rtol=1e-10)
    np.testing.assert_allclose(jaxgmm.bic(ours.params, X), theirs.bic(X), rtol=1e-10)
    np.testing.assert_allclose(jaxgmm.aic(ours.params, X), theirs.aic(X), rtol=1e-10)


def test_restarts_are_a_loop_over_the_same_keys(x64):
    X = random_samples(n=60)
    options = {"tol": 0.0, "max_iter": 10}
    fit = jaxgmm.fit(KEY, X, K, n_restarts=4, **options)
    loop = [jaxgmm.fit_from(jaxgmm.initialise(k, X, K, method="swaps"), X, **options) for k in jax.random.split(KEY, 4)]
    np.testing.assert_allclose(fit.lanes.log_likelihood, [r.log_likelihood for r in loop], rtol=1e-9)
    np.testing.assert_array_equal(fit.lanes.n_iter, [r.n_iter for r in loop])
    np.testing.assert_array_equal(fit.lanes.status, [r.status for r in loop])
    winner = int(np.argmax(np.where(fit.lanes.status == Status.DEGENERATE, -np.inf, fit.lanes.log_likelihood)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), fit.params, loop[winner].params)


@pytest.mark.slow
def test_rounds_change_nothing(monkeypatch):
    X = random_samples(n=60)
    whole = jaxgmm.fit(KEY, X, K, n_restarts=3, trace=9)
    seen = []
    monkeypatch.setattr(rounds, "FIRST_ROUND", 1)
    monkeypatch.setattr(rounds, "ROUND_SECONDS", 0.0)
    cut = jaxgmm.fit(KEY, X, K, n_restarts=3, trace=9, callback=seen.append)
    jax.tree.map(np.testing.assert_array_equal, whole, cut)
    assert [p.n_iter for p in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].n_iter == max(cut.lanes.n_iter)


@pytest.mark.slow
def test_fit_under_a_trace_is_the_same_fit(x64):
    X = random_samples(n=60)
    plain = jaxgmm.fit(KEY, X, K, n_restarts=3, max_iter=20)
    traced = jax.jit(lambda key, X: jaxgmm.fit(key, X, K, n_restarts=3, max_iter=20))(KEY, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), plain, traced)


def test_no_iterations_is_the_start_with_its_likelihood(x64):
    X, start = random_samples(), random_mixture("full")
    fit = jaxgmm.fit(KEY, X, K, params=start, max_iter=0)
    assert (fit.n_iter, fit.status) == (0, Status.ITERATION_LIMIT)
    np.testing.assert_allclose(fit.log_likelihood, jaxgmm.log_likelihood(start, X), rtol=1e-12)
    np.testing.assert_allclose(fit.params.means, start.means, rtol=1e-14, atol=1e-14)


def test_a_given_start_is_one_restart():
    X = random_samples()
    for options in ({"params": random_mixture("diag")}, {"init": np.arange(N) % K}, {"init": random_gamma()}):
        fit = jax.eval_shape(lambda options=options: jaxgmm.fit(KEY, X, K, n_restarts=7, **options))
        assert fit.lanes.status.shape == (1,)
        assert fit.params.structure.name == ("diag" if "params" in options else "full")


def test_reported_likelihood_is_that_of_the_parameters(dtype):
    X, w = random_samples(), random_weight()
    for accelerate in (None, "squarem"):
        fit = jaxgmm.fit_from(random_mixture("full"), X, sample_weight=w, max_iter=12, accelerate=accelerate)
        again = jaxgmm.log_likelihood(fit.params, X, sample_weight=w)
        np.testing.assert_allclose(fit.log_likelihood, again, rtol=1e-12 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize(
    ("name", "counts"),
    [pytest.param(name, (4, 6), marks=pytest.mark.slow, id=name) for name in reference.DATASETS]
    + [pytest.param(name, range(1, 7), marks=pytest.mark.long, id=f"{name}, 1 to 6") for name in reference.DATASETS]
    + [pytest.param("iris", range(1, 10), marks=pytest.mark.long, id="iris, 1 to 9")],
)
def test_no_winner_is_degenerate_unless_every_lane_is(name, counts, x64):
    X = reference.samples(name)
    bic = {}
    for k in counts:
        fit = jaxgmm.fit(KEY, X, k, n_restarts=16, init="kmeans")
        degenerate = np.asarray(fit.lanes.status) == Status.DEGENERATE
        assert (fit.status == Status.DEGENERATE) == degenerate.all()
        assert degenerate.all() or (np.asarray(fit.params.weights) * len(X)).min() >= X.shape[1] + 1 - 0.1
        bic[k] = float(jaxgmm.bic(fit.params, X))
    if name == "iris" and 1 in counts:
        assert min(bic, key=bic.get) in (2, 3)


@pytest.mark.slow
def test_a_tight_cluster_with_many_samples_is_not_degenerate(x64):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(300, 2)), 6 + 0.02 * rng.normal(size=(300, 2))])
    assert jaxgmm.fit(KEY, X, 2).status == Status.CONVERGED


def test_a_component_too_small_to_be_seen_is_called_degenerate(dtype):
    """Ten of ten million samples are more than one variance needs, and in float32 below ten roundings of them all."""
    X = np.r_[np.linspace(-1, 1, 10), np.linspace(99, 101, 10)][:, None].astype(dtype)
    weight = np.r_[np.full(10, 1e6), np.ones(10)].astype(dtype)
    start = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0], [50.0]], np.ones((2, 1, 1)), "spherical")
    for prior in (None, jaxgmm.default_prior(X, 2, "spherical", dof=20.0, shrinkage=0.01)):
        status = jaxgmm.fit_from(start, X, sample_weight=weight, prior=prior).status
        assert status == (Status.DEGENERATE if dtype is np.float32 else Status.CONVERGED)


def test_a_spike_on_few_samples_is_degenerate(x64):
    X, _ = blobs(np.float64)
    X[:3] = X[0] + 1e-7 * np.random.default_rng(1).normal(size=(3, 2))
    start = jaxgmm.GMMParams.from_moments(
        [0.5, 0.48, 0.02], [[0, 0], [6, 0], X[:3].mean(0)], [np.eye(2), np.eye(2), 1e-4 * np.eye(2)]
    )
    assert jaxgmm.fit_from(start, X).status == Status.DEGENERATE


@pytest.mark.parametrize("power", [-8, -4, 0, 4, 8])
@pytest.mark.parametrize("name", ["full", "spherical"])
def test_equivariance_float64(name, power, x64):
    X, truth = blobs(np.float64)
    start = jaxgmm.GMMParams.from_moments(*BLOB_START, name)
    base = _blob_fit(start, X)
    a = 10.0**power
    for b in (0.0, 1.0, 1e6):
        shift = b * a if b < 1e6 else b
        if abs(shift) / a > 1e9:  # the shift would eat the digits of X itself
            continue
        moved = jaxgmm.GMMParams(start.weights, start.means * a + shift, start.cov * a**2, start.structure)
        fit = _blob_fit(moved, X * a + shift)
        np.testing.assert_array_equal(jaxgmm.predict(fit.params, X * a + shift), jaxgmm.predict(base.params, X))
        np.testing.assert_allclose(fit.log_likelihood + X.size * np.log(a), base.log_likelihood, rtol=1e-6)
    assert adjusted_rand_score(truth, jaxgmm.predict(base.params, X)) > 0.95


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_equivariance_float32(name, offset):
    X, _ = blobs(np.float32)
    start = jaxgmm.GMMParams.from_moments(*BLOB_START, name)
    base = _blob_fit(start, X)
    for a in (1e-8, 1e-4, 1.0, 1e4, 1e8):
        Y = (X.astype(np.float64) * a + offset * a).astype(np.float32)
        moved = jaxgmm.GMMParams(start.weights, (start.means + offset) * a, start.cov * a**2, start.structure)
        fit = _blob_fit(moved, Y)
        np.testing.assert_array_equal(jaxgmm.predict(fit.params, Y), jaxgmm.predict(base.params, X))
        gap = (fit.log_likelihood - base.log_likelihood) / len(X) + 2 * np.log(a)
        assert abs(gap) < 1e-3


@jax.jit
def _blob_fit(start, X):
    return jaxgmm.fit_from(start, X, tol=1e-9, max_iter=200)


def test_a_power_of_two_gives_bit_equal_labels(dtype):
    X, _ = blobs(dtype)
    start = jaxgmm.GMMParams.from_moments(*(np.asarray(m, dtype) for m in BLOB_START))
    base = _blob_fit(start, X)
    for power in (-20, 13):
        a = dtype(2.0**power)
        fit = _blob_fit(jaxgmm.GMMParams(start.weights, start.means * a, start.cov * a**2, start.structure), X * a)
        np.testing.assert_array_equal(jaxgmm.predict(fit.params, X * a), jaxgmm.predict(base.params, X))


@pytest.mark.parametrize("point", [[1e5, 1e5], [1e5, 0.0], [0.0, -1e5]])
def test_one_far_outlier_keeps_two_blobs_apart(point, dtype_float32_slow):
    """With a component for the outlier; with two, maximum likelihood itself gives it one of them."""
    dtype = dtype_float32_slow
    X, truth = blobs(dtype, seed=1)
    X = np.concatenate([X, np.asarray([point], dtype)])
    start = jaxgmm.GMMParams.from_moments([0.5, 0.49, 0.01], [*BLOB_START[1], point], np.stack([np.eye(2)] * 3))
    for fit in (jaxgmm.fit(KEY, X, 3, init="kmeans"), jaxgmm.fit_from(start, X)):
        label = np.asarray(jaxgmm.predict(fit.params, X))
        assert adjusted_rand_score(truth, label[:200]) == 1
        assert (label[:200] != label[200]).all()
        assert fit.status == Status.DEGENERATE


def test_float64_input_without_x64_is_centred_first():
    X, _ = blobs(np.float64)
    fit = jaxgmm.fit(KEY, X + 100, 2, init="kmeans")
    np.testing.assert_allclose(np.sort(fit.params.means[:, 0]), [100, 106], atol=0.3)
    with pytest.warns(UserWarning, match="jax_enable_x64"):
        far = jaxgmm.fit(KEY, X + 1e6, 2, init="kmeans")
    np.testing.assert_allclose(far.log_likelihood, fit.log_likelihood, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:X is float64, but JAX computes in float32")
def test_float64_samples_priors_and_starts_are_moved_before_they_are_rounded():
    """By 1.2e8, where float32 has steps of eight: every fit is that without the offset."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(24, 1)), rng.normal(size=(24, 1)) + 6])
    off = {"covariance_type": "VII", "n_restarts": 1, "init": "random_from_data"}

    def ends(offset):
        prior = replace(jaxgmm.default_prior(X, 2, "VII", shrinkage=5.0), mean=np.array([2.5 + offset]))
        start = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0], [5.0]], [[[1.0]], [[2.0]]], "VII")
        start, moved = replace(start, means=np.array([[0.0], [5.0]]) + offset), X + offset
        hyper = jaxgmm.Hyperparameters(mean=np.array([2.5 + offset]), shrinkage=5.0)
        yield jaxgmm.fit(KEY, moved, 2, prior=prior, **off).log_posterior
        yield jaxgmm.fit(KEY, moved, 2, params=start, covariance_type="VII", max_iter=0).log_likelihood
        yield jaxgmm.fit_from(start, moved, prior=prior, max_iter=3).log_posterior
        yield jaxgmm.fit_gradient(start, moved, prior=prior, max_iter=3).log_posterior
        yield jaxgmm.sweep(KEY, moved, [2], prior=prior, **off).results[0].log_posterior
        yield jaxgmm.fit_many(KEY, [moved], 2, prior=prior, **off).log_posterior[0]
        yield jaxgmm.fit_variational(KEY, moved, 2, covariance_type="spherical", prior=hyper, n_restarts=1).bound
        first = jaxgmm.fit_variational_from(start, moved, prior=hyper, max_iter=2)
        yield first.bound
        of_hyper = replace(first.posterior.prior, mean=hyper.mean)
        from_there = replace(first.posterior, means=np.array([[0.0], [5.0]]) + offset, prior=of_hyper)
        yield jaxgmm.fit_variational_from(from_there, moved, max_iter=2).bound
        yield jaxgmm.initialise(KEY, moved, 2, covariance_type="VII", method="random").cov[0]

    for there, here in zip(ends(123456788.37), ends(0.0), strict=True):
        np.testing.assert_allclose(there, here, rtol=2e-5)
    start = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0], [5.0]], [[[1.0]], [[2.0]]], "VII")
    for fit in (jaxgmm.fit_from, jaxgmm.fit_variational_from):  # the start may be traced where samples are not
        found = jax.jit(lambda start, fit=fit: fit(start, X, max_iter=0)[1])(start)
        np.testing.assert_allclose(found, fit(start, X, max_iter=0)[1], rtol=1e-5)
        with np.errstate(over="ignore"):
            assert fit(start, np.full_like(X, 1e39), max_iter=2).status == Status.NONFINITE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:X is float64, but JAX computes in float32")
def test_float64_input_is_centred_under_weights_that_are_traced():
    X, _ = blobs(np.float64)
    weight = np.ones(len(X), np.float32)

    def fit(w):
        return jaxgmm.fit(KEY, X + 1e6, 2, sample_weight=w, n_restarts=1, max_iter=20, init="random_from_data")

    np.testing.assert_allclose(jax.jit(fit)(weight).log_likelihood, fit(weight).log_likelihood, rtol=1e-5)


def test_shard_map_on_two_devices_equals_one(x64):
    X, w, start = random_samples(n=40), random_weight(n=40), random_mixture("full")
    options = {"tol": 1e-9, "max_iter": 30}
    mesh = Mesh(np.array(jax.devices()[:2]), ("n",))

    def local(X, w):
        return jaxgmm.fit_from(start, X, sample_weight=w, axis_name="n", **options)

    sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P("n"), P("n")), out_specs=P()))(X, w)
    single = jaxgmm.fit_from(start, X, sample_weight=w, **options)
    assert sharded.n_iter == single.n_iter
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), sharded, single)


def test_components_spread_over_devices_fit_as_on_one(x64):
    X, start = random_samples(), random_mixture("full", k=4)
    over = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("k",)), P("k"))
    single, spread = (jaxgmm.fit_from(params, X, tol=0.0, max_iter=3) for params in (start, jax.device_put(start, over)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), spread, single)


@pytest.mark.parametrize("place", range(K))
def test_a_weight_below_zero_is_nan_wherever_it_stands(place, x64):
    start = random_mixture("full")
    outside = replace(start, weights=start.weights.at[place].multiply(-0.1))
    X = random_samples()
    assert np.isnan(jaxgmm.log_prob(outside, X)).all()
    assert jaxgmm.fit_from(outside, X, max_iter=3).status == jaxgmm.Status.NONFINITE


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kmeans", pytest.param("swaps", marks=pytest.mark.slow)])
def test_shard_map_without_a_sum_spreads_restarts_and_data_sets(method, x64):
    """Each device its own keys, or its own samples: nothing is summed across them."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("i",))
    keys, sets = jax.random.split(KEY, 2), np.stack([random_samples(seed) for seed in (0, 1)])

    def one(key, X):
        return jaxgmm.fit_from(jaxgmm.initialise(key, X, K, method=method), X, max_iter=5)

    for spec in ((P("i"), P()), (P(), P("i")), (P("i"), P("i"))):
        shapes = tuple(v if s == P("i") else v[:1] for s, v in zip(spec, (keys, sets), strict=True))

        def local(keys, sets):
            return jax.tree.map(lambda leaf: leaf[None], one(keys[0], sets[0]))

        sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=P("i")))(*shapes)
        for i in range(2):
            single = one(*(v[i] if s == P("i") else v[0] for s, v in zip(spec, (keys, sets), strict=True)))
            np.testing.assert_allclose(sharded.log_likelihood[i], single.log_likelihood, rtol=1e-9)


def test_forward_mode_goes_through_fit_from(x64):
    """Derivatives of the fitted means along a direction in X, against central differences."""
    X, start = random_samples(), random_mixture("full")
    direction = np.random.default_rng(1).normal(size=X.shape)

    @jax.jit
    def means(t):
        return jaxgmm.fit_from(start, X + t * direction, tol=0.0, max_iter=5).params.means

    slope, twice = jax.vmap(lambda along: jax.jvp(means, (0.0,), (along,))[1])(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(twice, 2 * slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slope, (means(1e-6) - means(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_forward_mode_goes_through_a_floor_that_binds_alike_in_two_directions(x64):
    X = np.random.default_rng(0).normal(size=(20, 1)) * [1.0, 0, 0]
    start = jaxgmm.initialise(KEY, X, 2)

    @jax.jit
    def cov(t):
        return jaxgmm.fit_from(start, X * (1 + t), tol=0.0, max_iter=3, covariance_floor=1e-3).params.cov

    slope, _ = jax.vmap(lambda along: jax.jvp(cov, (0.0,), (along,))[1])(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(slope, (cov(1e-6) - cov(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_forward_mode_goes_through_an_acceleration_at_rest():
    """Steps of length zero: the step length is a root, whose slope there is infinite."""
    X, _ = blobs()
    start = jaxgmm.GMMParams.from_moments(*BLOB_START)

    def means(scale):
        return jaxgmm.fit_from(start, X * scale, tol=0.0, max_iter=30, accelerate="squarem").params.means

    _, slope = jax.jvp(means, (jnp.float32(1),), (jnp.float32(1),))
    np.testing.assert_allclose(slope, means(1.0), rtol=1e-3, atol=1e-3)  # means scale with the data


def test_what_is_closed_over_is_traced_too():
    X, tol, start = random_samples(), jnp.asarray(1e-3), random_mixture("full")
    inside = jax.jit(lambda a: jaxgmm.fit(KEY, X, 2, init="random_from_data", max_iter=5).log_likelihood * a)(1.0)
    outside = jaxgmm.fit(KEY, X, 2, init="random_from_data", max_iter=5).log_likelihood
    np.testing.assert_allclose(inside, outside, rtol=1e-4)
    jax.eval_shape(lambda p: jaxgmm.fit_from(p, X, tol=tol, covariance_floor=tol), start)


@pytest.mark.slow
def test_trace_and_lanes_have_the_documented_shapes():
    fit = jaxgmm.fit(KEY, random_samples(), K, n_restarts=3, init="kmeans", max_iter=4, trace=6)
    assert fit.trace.shape == (6,)
    assert fit.lanes.trace.shape == (3, 6)
    assert fit.lanes.log_likelihood.shape == fit.lanes.n_iter.shape == fit.lanes.status.shape == (3,)
    assert np.isnan(fit.trace[5])
    np.testing.assert_array_equal(fit.trace[int(fit.n_iter)], fit.log_likelihood)
    assert isinstance(fit.message, str)


@pytest.mark.slow
def test_same_key_same_bits_in_a_new_process():
    program = (
        "import jax, jaxgmm, numpy as np, hashlib\n"
        "X = np.random.default_rng(0).normal(size=(40, 2)).astype('float32')\n"
        "fit = jaxgmm.fit(jax.random.key(3), X, 2, n_restarts=2, max_iter=9)\n"
        "print(hashlib.sha256(b''.join(np.asarray(l).tobytes() for l in jax.tree.leaves(fit))).hexdigest())\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (run.communicate()[0] for run in runs)
    assert len(first.strip()) == 64
    assert first == second


def test_new_values_compile_nothing_new():
    X, w, start = random_samples(), random_weight(), random_mixture("full")
    calls = [
        lambda t: jaxgmm.fit_from(
            start, X * t, sample_weight=w * t, tol=1e-5 * t, max_iter=int(5 * t), covariance_floor=1e-6 * t
        ),
        lambda t: jaxgmm.fit(
            KEY,
            X * t,
            K,
            sample_weight=w * t,
            tol=1e-5 * t,
            max_iter=int(5 * t),
            covariance_floor=1e-6 * t,
            init="random_from_data",
        ),
        lambda t: jaxgmm.e_step(start, X * t),
        lambda t: jaxgmm.log_likelihood(start, X * t, sample_weight=w * t),
        lambda t: jaxgmm.statistics(start, X * t, sample_weight=w * t),
        lambda t: jaxgmm.initialise(jax.random.key(int(t)), X * t, K),
    ]
    with jax.log_compiles(), _CompileCount() as count:
        jaxgmm.e_step(start, X[: N // 2 + 1])
    assert count.names  # a new shape is seen
    for call in calls:
        call(np.float32(1))
        with jax.log_compiles(), _CompileCount() as count:
            for t in (2, 3):
                call(np.float32(t))
        assert count.names == []


class _CompileCount:
    """The names of what JAX compiles inside the block."""

    def __enter__(self):
        import logging

        self.names = []
        self.handler = logging.Handler()
        self.handler.emit = lambda record: (
            self.names.append(record.getMessage()) if "Compiling" in record.getMessage() else None
        )
        logger = logging.getLogger("jax")
        logger.addHandler(self.handler)
        return self

    def __exit__(self, *_):
        import logging

        logging.getLogger("jax").removeHandler(self.handler)


def test_lowers_for_every_platform():
    X, start = random_samples(), random_mixture("full")
    programs = {
        "fit_from": lambda p, X: jaxgmm.fit_from(p, X, accelerate="squarem"),
        "steps": lambda p, X: jaxgmm.m_step(p, X, jaxgmm.e_step(p, X)[0], covariance_floor=1e-6),
    }
    for program in programs.values():
        exported = jax.export.export(
            jax.jit(lambda *leaves, program=program: _leaves(program, *leaves)), platforms=["cpu", "cuda", "tpu"]
        )
        assert exported(start.weights, start.means, start.cov, X).platforms == ("cpu", "cuda", "tpu")


def _leaves(program, weights, means, cov, X):
    params = jaxgmm.GMMParams(weights, means, cov, random_mixture("full").structure)
    return jax.tree.leaves(program(params, X))


def test_memory_beyond_x_does_not_grow_with_n():
    """Temporaries of the compiled pass, as XLA counts them, at two sizes of X."""

    def temporary(n):
        X = jax.ShapeDtypeStruct((n, D), jnp.float32)
        compiled = jax.jit(lambda X: jaxgmm.statistics(random_mixture("full"), X)).lower(X).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(400_000) <= temporary(100_000) + 1024 < 8 << 20


def test_weights_that_sum_to_one_are_not_a_single_sample(x64):
    X, _ = blobs(np.float64, 30)
    fit = jax.jit(lambda w: jaxgmm.fit_from(jaxgmm.GMMParams.from_moments(*BLOB_START), X, sample_weight=w))
    whole, share = fit(np.ones(60)), fit(np.full(60, 1 / 60))
    assert share.status == whole.status == Status.CONVERGED
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), share.params, whole.params)


@pytest.mark.slow
def test_factors_and_eigenvalues_do_not_wait_for_each_other():
    """On two cores two batched LAPACK calls in one program wait for each other for ever: a process of its own can be ended."""
    program = """if True:
        from concurrent.futures import ThreadPoolExecutor
        import jax, jaxgmm
        X = jax.random.normal(jax.random.key(0), (2000, 64))
        def fit(seed):
            result = jaxgmm.fit(jax.random.key(seed), X, 20, n_restarts=1, init="kmeans", covariance_floor=0.5, max_iter=5)
            assert result.n_iter > 0
        fit(0)
        with ThreadPoolExecutor(4) as pool:  # nor do fits wait for each other
            list(pool.map(fit, range(8)))
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=200)


@pytest.mark.parametrize("name", [*STRUCTURES, "UUU-1", "CUC-1", "CCU-1"])
def test_a_component_is_narrower_than_a_share_of_the_pooled_covariance(name, x64):
    """Against the smallest eigenvalue in the metric of the pooled covariance."""
    mixture = random_mixture(name)
    structure, weights = mixture.structure, np.asarray(mixture.weights)
    cov = np.asarray(jaxgmm.covariances(mixture))
    least = least_relative_eigenvalues(cov, np.einsum("k,kij->ij", weights, cov))
    for factor in (0.999, 1.001):
        found = structure.narrower(mixture.weights, mixture.cov, jnp.asarray(least * factor))
        assert found.tolist() == [factor > 1 and name not in ("tied", "EEI")] * len(weights)


def test_of_restarts_a_narrow_one_must_be_likelier_by_what_its_first_samples_gain(x64):
    """BENEFIT / 2 (1 + ln s), s = NARROW tr(Sigma_k^-1) in units of the mixture's variance; nothing below s = 1."""
    X = np.random.default_rng(0).normal(size=(50, 1))
    samples = lanes.Samples(jnp.asarray(X), None, jnp.zeros(1))
    found = []
    for width in (1.0, 1e-2):
        start = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[width**2]]])
        lane = lanes.begin(start, samples, jnp.asarray(0.0), None, 0)
        found.append(float(lanes.handicap(lane)))
    variance = (1 + width**2) / 2 + 1
    np.testing.assert_allclose(found, [0, lanes.BENEFIT / 2 * (1 + np.log(lanes.NARROW * variance / width**2))], rtol=1e-9)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), lanes.finish(lane, jnp.zeros(1)))
    several = several._replace(status=jnp.zeros(2, jnp.int32))
    for handicap, chosen in ((0.9, 1), (1.1, 0)):
        best = lanes.best(several, jnp.asarray([0.0, handicap]))
        np.testing.assert_array_equal(best.log_likelihood, several.log_likelihood[chosen])
