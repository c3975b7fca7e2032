"""Many fits in one call: each equals the fit alone; grids; who drops out."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import random_mixture, random_samples

import jaxgmm
from jaxgmm import Status, batch, initial, loop, many, rounds, swaps
from jaxgmm.result import FitResult, Lanes
from jaxgmm.structures import get_structure

KEY = jax.random.key(0)
OPTIONS = {"n_restarts": 2, "tol": 0.0, "max_iter": 10, "init": "random_from_data"}
DIAG = OPTIONS | {"covariance_type": "diag"}  # these compile soonest


@pytest.fixture(scope="module")
def sets():
    return [random_samples(seed, n=n, dtype=np.float32) for seed, n in enumerate((30, 24, 30, 24, 30))]


def same(found, alone, i):
    np.testing.assert_allclose(found.log_likelihood[i], alone.log_likelihood, rtol=1e-4)
    order, own = np.argsort(found.params.means[i, :, 0]), np.argsort(alone.params.means[:, 0])
    np.testing.assert_allclose(found.params.means[i][order], alone.params.means[own], atol=2e-2)
    assert found.n_iter[i] == alone.n_iter
    assert found.lanes.status[i].tolist() == alone.lanes.status.tolist()


def test_each_data_set_gets_the_fit_that_it_gets_alone(sets):
    found = jaxgmm.fit_many(KEY, sets, 2, **DIAG)
    for i, X in enumerate(sets[:3]):
        same(found, jaxgmm.fit(jax.random.fold_in(KEY, i), X, 2, **DIAG), i)


def test_a_table_with_groups_is_a_list_of_data_sets(sets):
    names = np.repeat(["b", "a", "d", "c", "e"], [len(X) for X in sets])
    shuffled = np.random.default_rng(0).permutation(len(names))
    rows = np.concatenate([shuffled[names[shuffled] == name] for name in "abcde"])
    table = np.concatenate(sets)
    by_group = jaxgmm.fit_many(KEY, table[shuffled], 2, groups=names[shuffled], **DIAG)
    ends = np.cumsum([len(sets[i]) for i in (1, 0, 3, 2, 4)])[:-1]
    by_list = jaxgmm.fit_many(KEY, np.split(table[rows], ends), 2, **DIAG)
    jax.tree.map(np.testing.assert_array_equal, by_group, by_list)


def test_a_bad_data_set_does_not_touch_the_others(sets):
    """One holds NaN, one has weight in a single row, which is too small for two components."""
    equal, weight = np.stack([sets[i] for i in (0, 2, 4, 0)]), np.ones((4, 30))
    clean = jaxgmm.fit_many(KEY, equal, 2, sample_weight=weight, **DIAG)
    equal[1, 3, 0], weight[2, 1:] = np.nan, 0
    spoiled = jaxgmm.fit_many(KEY, equal, 2, sample_weight=weight, **DIAG)
    assert spoiled.status[1:3].tolist() == [Status.NONFINITE, Status.DEGENERATE]
    assert all(np.isfinite(leaf[2]).all() for leaf in jax.tree.leaves(spoiled.params))
    for i in (0, 3):
        np.testing.assert_allclose(spoiled.log_likelihood[i], clean.log_likelihood[i], rtol=1e-6)


@pytest.mark.slow
def test_chunks_and_buckets_change_nothing(sets, monkeypatch):
    whole = jaxgmm.fit_many(KEY, sets, 2, **DIAG)
    monkeypatch.setattr(many, "CHUNK_BYTES", 2 * 32 * 2 * 4)
    chunked = jaxgmm.fit_many(KEY, sets, 2, **DIAG)
    np.testing.assert_allclose(chunked.log_likelihood, whole.log_likelihood, rtol=1e-5)


@pytest.mark.slow
def test_weights_go_along(sets):
    weights = [np.arange(len(X)) % 3 for X in sets[:2]]
    found = jaxgmm.fit_many(KEY, sets[:2], 2, sample_weight=weights, **DIAG)
    repeated = [np.repeat(X, w, axis=0) for X, w in zip(sets, weights, strict=False)]
    np.testing.assert_allclose(found.log_likelihood, jaxgmm.fit_many(KEY, repeated, 2, **DIAG).log_likelihood, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros((5, 2))}, "groups"),
        ({"X": []}, "at least one data set"),
        ({"X": [np.zeros((5, 2)), np.zeros((5, 3))]}, r"features; all must have the same"),
        ({"X": [np.zeros((5, 2)), np.zeros((0, 2))]}, "at least one sample"),
        ({"X": np.zeros((5, 2)), "groups": np.zeros(4)}, r"groups must have shape \(5,\)"),
        ({"X": np.zeros((2, 5, 2)), "sample_weight": np.ones((3, 5))}, "for each of 2 data sets; got 3"),
        ({"X": [np.zeros((5, 2)), np.zeros(5)]}, r"data set 1: X must have shape \(N, D\)"),
        ({"X": np.zeros((2, 5, 2)), "sample_weight": np.repeat([[1.0], [0.0]], 5, 1)}, "data set 1: sample_weight is zero"),
        ({"X": np.zeros((2, 5, 2)), "sample_weight": 1.0}, "for each of 2 data sets; got 1.0"),
        ({"X": np.zeros((2, 5, 2)), "sample_weight": np.array(1.0)}, r"for each of 2 data sets; got array\(1\.\)"),
        ({"X": np.array([1e-25, 1.0])[:, None, None] * np.ones((2, 5, 2)) * np.arange(5)[:, None]}, "column 0 of data set 0"),
        ({"X": np.zeros((3, 2)), "groups": ["a", None, "b"]}, "groups is missing for 1 of 3 rows, first row 1"),
        ({"X": np.zeros((3, 2)), "groups": [0.0, 1.0, np.nan]}, "groups is missing for 1 of 3 rows"),
        ({"X": np.zeros((3, 2)), "groups": np.array(["a", 1, "b"], object)}, "groups must hold entries of one kind"),
        ({"X": np.zeros((2, 5, 2)), "init": "labels"}, "init must be one of"),
        ({"X": np.zeros((2, 5, 2)), "n_components": 0}, "n_components must be at least 1"),
    ],
)
def test_bad_input_meets_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        jaxgmm.fit_many(**({"key": KEY, "n_components": 2} | change))


@pytest.mark.slow
@pytest.mark.parametrize("names", [("diag", "tied"), ("full", "spherical")])
def test_a_sweep_is_the_fits_of_its_grid(names):
    X = random_samples(n=40)
    found = jaxgmm.sweep(KEY, X, (1, 3, 2), names, **OPTIONS)
    assert found.n_components.tolist() == [1, 3, 2] * 2
    assert found.covariance_type.tolist() == list(np.repeat(names, 3))
    for i in (2, 5):
        name = str(found.covariance_type[i])
        alone = jaxgmm.fit(KEY, X, 2, covariance_type=name, accelerate="squarem", **OPTIONS)
        result = found.results[i]
        np.testing.assert_allclose(result.log_likelihood, alone.log_likelihood, rtol=1e-4)
        assert [leaf.shape for leaf in jax.tree.leaves(result)] == [leaf.shape for leaf in jax.tree.leaves(alone)]
        assert result.status == alone.status != Status.OVERTAKEN
        pairs = zip(result.lanes.status.tolist(), alone.lanes.status.tolist(), strict=True)
        assert all(raced in (Status.OVERTAKEN, status) for raced, status in pairs)
        for criterion in ("aic", "bic", "icl"):
            expected = getattr(jaxgmm, criterion)(result.params, X)
            np.testing.assert_allclose(getattr(found, criterion)[i], expected, rtol=1e-4, err_msg=criterion)
    sound = found.status != Status.DEGENERATE
    assert found.bic[found.best] == found.bic[sound].min()


@pytest.mark.parametrize(
    "name", ["kmeans", pytest.param("k-means++", marks=pytest.mark.slow), "swaps", "random_from_data", "random"]
)
def test_components_not_in_use_change_nothing(name, x64, monkeypatch):
    """A mixture of two inside an array of four is the mixture of two, start by start."""
    X, full = jnp.asarray(random_samples(n=41)), get_structure("full")
    monkeypatch.setattr(swaps, "ROW_TURNS", 41 * 100)  # as many passes for both: the array's size decides it otherwise

    def start(k):
        given = None
        if name in initial.CLUSTERINGS:
            given = initial.first_clusters(KEY, X, None, jnp.int32(2), full.least_weight(2), k, initial.CLUSTERINGS[name])
        return initial.first_mixture(KEY, X, None, given, jnp.int32(2), name, k, full)

    narrow, wide = start(2), start(4)
    assert wide.weights[2:].tolist() == [0, 0]
    for a, b in ((narrow.weights, wide.weights), (narrow.means, wide.means), (narrow.cov, wide.cov)):
        np.testing.assert_allclose(b[:2], a, rtol=1e-9, atol=1e-12)


def test_lanes_that_have_ended_are_left_alone():
    """A count of visits: each lane advances as far as it needs, in groups, and no further."""
    need = jnp.asarray([1, 30, 2, 9, 30, 0, 3], jnp.int32)
    zero = jnp.zeros(7, jnp.int32)
    status = jnp.where(need == 0, jnp.int32(Status.CONVERGED), jnp.int32(0))
    carry = loop.Carry(zero, zero, zero, zero, status, (zero, zero), zero, zero)

    def advance(index, group, passes):
        n_iter = jnp.minimum(group.n_iter + jnp.where(group.status == 0, passes, 0), need[index])
        ended = jnp.where(n_iter == need[index], jnp.int32(Status.CONVERGED), group.status)
        return group._replace(state=group.state + 1, n_iter=n_iter, status=ended)

    for width in (1, 2, 3, 7, 9):
        _, end = jax.jit(lambda c, width=width: loop.run_lanes(advance, c, lambda c: c, 0, 25, 25, width))(carry)
        assert end.n_iter.tolist() == [1, 25, 2, 9, 25, 0, 3]
        if width == 1:
            assert end.state[0] == 1  # one stage of four passes
            assert end.state[5] == 0


def test_chunks_count_the_states_of_lanes(sets, monkeypatch):
    monkeypatch.setattr(many, "CHUNK_BYTES", 4 * 4 * (30 * 2 + 40))
    same = [sets[0]] * 8
    assert [len(chunk.place) for chunk in many._chunks(same, None, 40, 1, 1)] == [4, 4]
    assert [len(chunk.place) for chunk in many._chunks(same, None, 140, 1, 1)] == [2, 2, 2, 2]


def test_chunks_share_the_cores_and_one_program(sets):
    for cores, least, shares, padded in ((1, 1, [9], 16), (2, 1, [5, 4], 8), (4, 1, [3, 3, 3], 4), (4, 4, [4, 4, 1], 4)):
        chunks = list(many._chunks([sets[0]] * 9, None, 40, cores, least))
        assert [len(chunk.place) for chunk in chunks] == shares
        assert {len(chunk.X) for chunk in chunks} == {padded}
    ragged = list(many._chunks([random_samples(n=n) for n in (32, 32, 30, 30)], None, 40, 2, 1))
    assert [len(chunk.place) for chunk in ragged] == [2, 2]
    assert all(chunk.weight is not None for chunk in ragged)


@pytest.mark.slow
def test_a_sweep_compiles_clusters_once_for_all_structures():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **about: compiled.append(about.get("fun_name")) if event.endswith("backend_compile_duration") else None
    )
    jaxgmm.sweep(KEY, random_samples(n=41), (1, 2), ("diag", "spherical"), n_restarts=2, max_iter=2)
    assert sum("_clusters" in str(name) for name in compiled) == 1
    assert sum("advance" in str(name) for name in compiled) == 2


def test_none_among_weights_stands_for_ones(sets):
    weights = [np.full(len(X), 2.0) if i == 1 else None for i, X in enumerate(sets)]
    found = many._sets(sets, weights, None)[1]
    assert [w.tolist() for w in found] == [[2.0 if i == 1 else 1.0] * len(X) for i, X in enumerate(sets)]


def test_what_runs_on_the_host_refuses_a_trace():
    X = random_samples()
    for call in (
        lambda x: jaxgmm.sweep(KEY, x, 2),
        lambda x: jaxgmm.sweep(KEY, X, 2),
        lambda x: jaxgmm.fit_many(KEY, X[None], 2),
    ):
        with pytest.raises(ValueError, match="runs on the host, and cannot be traced; inside jit use"):
            jax.eval_shape(call, X)


@pytest.mark.slow
def test_the_length_of_rounds_changes_nothing(monkeypatch):
    """Lanes in groups, some of which need the centred form: who goes on with whom is not a matter of time."""
    rng = np.random.default_rng(1)
    centres = np.concatenate([rng.normal(0, 3, (12, 3)), rng.normal(0, 9, (4, 3))])
    scale = np.repeat([1.0, 0.2], [12 * 40, 4 * 40])[:, None]
    X = (np.repeat(centres, 40, axis=0) + scale * rng.normal(size=(640, 3))).astype(np.float32)
    ends = []
    for seconds in (1e-9, 0.02, 1e9):
        monkeypatch.setattr(rounds, "ROUND_SECONDS", seconds)
        ends.append(
            jaxgmm.fit(KEY, X, 16, covariance_type="diag", n_restarts=24, tol=1e-5, max_iter=150, init="random_from_data")
        )
    for other in ends[1:]:
        jax.tree.map(np.testing.assert_array_equal, ends[0], other)


def test_groups_are_small_and_at_least_one():
    shared = batch.Data(np.zeros((1000, 8)), None)
    own = batch.Data(np.zeros((1000, 400, 2)), None, np.arange(1000))
    for data in (shared, own):
        for k in (1, 8, 512):
            for n_rivals in (1, 8):
                assert 1 <= batch.good_width(data, 16, k, n_rivals) <= 16


@pytest.mark.slow
def test_a_single_start_splits_two_clusters_along_the_gap():
    """Two unit clusters 4.2 sd apart: of 400 single starts three may be wrong (by inertia alone seven were, DECISIONS 27)."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, (400, 400))
    sets = (rng.normal(size=(400, 400, 2)) + 3 * right[:, :, None]).astype(np.float32)
    found = jaxgmm.fit_many(KEY, sets, 2, n_restarts=1, tol=1e-3)
    means = np.asarray(found.params.means)
    assert (np.linalg.norm(means[:, 0] - means[:, 1], axis=1) < 3).sum() <= 3


@pytest.mark.slow
def test_the_warning_of_lost_digits_points_to_the_user():
    """In a process of its own: what checks types here stands between the frames."""
    program = """if True:
        import warnings, jax, jaxgmm, numpy as np
        sets = [np.random.default_rng(i).normal(size=(30, 2)) + 1e6 for i in range(5)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            jaxgmm.fit_many(jax.random.key(0), sets, 2, covariance_type="diag", max_iter=1)
            jaxgmm.fit(jax.random.key(0), sets[0], 2, covariance_type="diag", max_iter=1)
        assert {(w.filename, "lose digits" in str(w.message)) for w in caught} == {("<string>", True)}, caught
        assert len(caught) >= 2
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


def test_a_result_shows_itself_in_a_line():
    params = jax.tree.map(np.asarray, random_mixture("diag"))
    status = np.array(Status.CONVERGED, np.int32)
    number, count = np.array(-1.5), np.array(7, np.int32)
    lanes = Lanes(number[None], count[None], status[None], np.zeros((1, 0)), number[None])
    one = FitResult(params, number, count, status, np.zeros(0), lanes, number)
    shape = f"K = {params.n_components}, D = {params.n_features}, diag"
    assert repr(one) == f"<FitResult: {shape}, log-likelihood -1.5 nats; converged after 7 iterations.>"
    many = jax.tree.map(lambda leaf: np.stack([leaf] * 3), one)
    assert repr(many) == f"<FitResult (3,): {shape}; 3 CONVERGED>"
    assert repr(jax.tree.map(lambda leaf: 0, one)).startswith("FitResult(params=")
    said = []
    jax.eval_shape(lambda result: said.append(repr(result)), one)
    assert said[0].startswith("FitResult(params=")
    assert "Tracer" in said[0]
