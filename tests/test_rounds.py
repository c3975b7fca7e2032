"""Several runs at once: their order, their settings, and who is called by which thread."""

import _thread
import contextlib
import signal
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from structures import random_samples

import jaxgmm
from jaxgmm import Status, batch, rounds
from jaxgmm.rounds import together

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A job in the background, such as CI, is started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def counting(start, turns, seen=None):
    """A run that adds one to a number so many times."""
    number = jnp.asarray(start)
    for _ in range(turns):
        number = yield partial(jnp.add, number, 1)
        if seen is not None:
            seen.append(threading.get_ident())
    return int(number)


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_ends_come_in_the_order_of_the_runs(cores):
    turns = [7, 0, 1, 30, 2, 0, 0, 3]
    assert together((counting(10 * i, n) for i, n in enumerate(turns)), cores) == [10 * i + n for i, n in enumerate(turns)]
    assert together([], cores) == []
    assert [together([counting(10 * i, n)], 2)[0] for i, n in enumerate(turns)] == [10 * i + n for i, n in enumerate(turns)]


def test_no_more_runs_have_begun_than_are_under_way():
    open_runs, most = set(), []

    def run(name):
        open_runs.add(name)
        most.append(len(open_runs))
        yield lambda: jnp.zeros(())
        open_runs.remove(name)

    together((run(name) for name in range(6)), 2)
    assert max(most) == 2


def test_runs_are_told_of_their_answers_in_the_thread_of_the_caller():
    seen = []
    together((counting(0, 3, seen) for _ in range(4)), 2)
    assert set(seen) == {threading.get_ident()}


OTHER = {
    "jax_enable_x64": True,
    "jax_default_device": jax.devices()[0],
    "jax_default_matmul_precision": "highest",
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": not jax.config.jax_threefry_partitionable,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "warn",
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_disable_jit": True,
    "jax_log_compiles": True,
}


@pytest.mark.parametrize("name", sorted(rounds.SETTINGS))
def test_settings_of_the_caller_go_along(name):
    def asks():
        return (yield lambda: (threading.get_ident(), getattr(jax.config, name)))

    def found():
        threads, values = zip(*together((asks() for _ in range(3)), 2), strict=True)
        assert threading.get_ident() not in threads
        return values

    before = getattr(jax.config, name)
    assert before != OTHER[name]
    with rounds.SETTINGS[name](OTHER[name]):
        assert found() == (OTHER[name],) * 3
    assert found() == (before,) * 3


def test_a_single_run_stays_with_the_caller():
    def asks():
        return (yield threading.get_ident)

    assert together([asks()], 2) == [threading.get_ident()]


def test_an_error_among_the_runs_to_come_is_shown_alone():
    def runs():
        yield counting(0, 1)
        yield counting(0, 9)
        raise ValueError("the third")

    with pytest.raises(ValueError, match="the third") as caught:
        together(runs(), 2)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("where", ["computing", "telling"])
def test_an_error_ends_all_and_comes_through(where):
    def fails():
        yield lambda: 1 / 0 if where == "computing" else jnp.zeros(())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        together([counting(0, 50), fails(), counting(0, 50)], 2)


LONG = {"tol": 0.0, "max_iter": 10**6}


def press(progress):
    """Ctrl-C arrives in the caller's thread, as callbacks do."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("cores", [1, 2])
def test_ctrl_c_ends_a_fit_with_what_it_has(monkeypatch, cores):
    X = random_samples(n=41)
    monkeypatch.setattr("jaxgmm.fitting.at_once", lambda X: cores)
    timers = []

    def press_soon(progress):
        if not timers:
            timers.append(threading.Timer(0.3, _thread.interrupt_main))
            timers[0].start()

    found = jaxgmm.fit(KEY, X, 2, covariance_type="diag", n_restarts=5, init="kmeans", callback=press_soon, **LONG)
    assert found.status == Status.INTERRUPTED
    assert "Ctrl-C" in found.message
    assert found.log_likelihood == max(found.lanes.log_likelihood)
    at_all = jaxgmm.fit(KEY, X, 2, covariance_type="diag", n_restarts=1, init="kmeans", tol=0.0, max_iter=0)
    assert found.log_likelihood > at_all.log_likelihood


@pytest.mark.parametrize("cores", [1, 2])
def test_ctrl_c_in_a_callback_ends_all_of_a_sweep(monkeypatch, cores):
    monkeypatch.setattr("jaxgmm.selection.at_once", lambda X: cores)
    types = ("diag", "spherical", "tied")
    found = jaxgmm.sweep(KEY, random_samples(n=41), (1, 2), types, n_restarts=2, callback=press, **LONG)
    assert set(found.status) == {Status.INTERRUPTED}
    assert set(found.covariance_type) <= set(types[:cores])
    assert np.isfinite(found.log_likelihood).all()


def test_ctrl_c_leaves_data_sets_that_had_not_begun_blank(monkeypatch):
    monkeypatch.setattr("jaxgmm.many.at_once", lambda: 1)
    sets = [random_samples(seed, n=20 + 9 * (seed % 2)) for seed in range(4)]  # of two sizes: two chunks
    found = jaxgmm.fit_many(KEY, sets, 2, covariance_type="diag", n_restarts=1, callback=press, **LONG)
    np.testing.assert_array_equal(found.status, [Status.INTERRUPTED] * 4)
    np.testing.assert_array_equal(np.isfinite(found.log_likelihood), [True, False] * 2)
    np.testing.assert_array_equal(np.isfinite(found.params.means).all(axis=(1, 2)), [True, False] * 2)


def test_ctrl_c_before_anything_is_known_comes_through():
    def begins():
        yield lambda: press(None)

    with pytest.raises(KeyboardInterrupt):
        together([begins()], 1)


@pytest.mark.parametrize("cores", [1, 2])
def test_after_ctrl_c_rounds_are_left_off_and_ends_are_not(cores):
    def run(name):
        begun = yield lambda: name
        with contextlib.suppress(rounds.Stop):
            while True:
                yield rounds.Round(press, None)
        return (yield lambda: begun + " ended")

    assert together((run(name) for name in "abc"), cores) == ["a ended", "b ended"][:cores]


def test_a_second_ctrl_c_comes_through():
    def stubborn():
        with contextlib.suppress(rounds.Stop):
            yield rounds.Round(press, None)
        yield lambda: press(None)

    with pytest.raises(KeyboardInterrupt):
        together([stubborn(), counting(0, 3)], 2)


def test_a_bar_counts_what_has_ended(capsys):
    X, heard = random_samples(n=41), []
    jaxgmm.fit(KEY, X, 2, covariance_type="diag", n_restarts=5, init="kmeans", tol=1e-4, callback=heard.append, progress=True)
    assert "5/5" in capsys.readouterr().err
    assert [(p.finished, p.total) for p in heard][-1] == (5, 5)
    jaxgmm.fit_many(KEY, np.stack([X, X]), 2, covariance_type="diag", n_restarts=5, tol=1e-4, progress=True)
    assert "10/10" in capsys.readouterr().err


def test_samples_on_several_devices_are_one_run_at_a_time():
    spread = jax.device_put(random_samples(n=40), NamedSharding(Mesh(np.array(jax.devices()[:2]), ("n",)), PartitionSpec("n")))
    assert rounds.at_once(spread) == 1
    assert rounds.at_once(jnp.zeros((4, 2))) == rounds.at_once() >= 1
    found = jaxgmm.sweep(KEY, spread, (1, 2), ("diag", "spherical"), n_restarts=1, max_iter=3)
    assert np.isfinite(found.log_likelihood).all()


def test_parts_of_a_fit_are_those_of_any_number_of_cores(monkeypatch):
    """Five restarts are parts of three, the last with one lane to spare; what a callback hears is of five."""
    X, heard = random_samples(n=41), []
    fit = partial(jaxgmm.fit, KEY, X, 2, covariance_type="diag", n_restarts=5, init="kmeans", tol=1e-4)
    several = fit()
    monkeypatch.setattr(rounds, "FIRST_ROUND", 1)
    monkeypatch.setattr("jaxgmm.fitting.at_once", lambda X: 1)
    single = fit(callback=heard.append)
    jax.tree.map(np.testing.assert_array_equal, several, single)
    assert several.lanes.status.shape == (5,)
    n_iter, likelihoods = [p.n_iter for p in heard], np.stack([p.log_likelihood for p in heard])
    assert n_iter == sorted(n_iter)
    assert n_iter[-1] == several.lanes.n_iter.max()
    np.testing.assert_array_equal(heard[0].log_likelihood == -np.inf, [False] * 3 + [True] * 2)
    np.testing.assert_array_equal(likelihoods[-1], several.lanes.log_likelihood)
    assert heard[-1].status.all()
    assert not heard[0].status[3:].any()


@pytest.mark.parametrize("n_restarts", [1, 3, 4, 17, 49, 335, 1615])
def test_parts_hold_each_restart_once(n_restarts):
    part = rounds.good_part(jnp.zeros((4, 2)), n_restarts)
    parts = batch.restart_keys(KEY, n_restarts, part)
    assert (len(parts) - 1) * part < n_restarts <= len(parts) * part
    assert {len(keys) for keys in parts} == {part}
    assert part <= 2 * rounds.PART
    keys = jnp.concatenate([jax.random.key_data(keys) for keys in parts])[:n_restarts]
    np.testing.assert_array_equal(keys, jax.random.key_data(jax.random.split(KEY, n_restarts)))
