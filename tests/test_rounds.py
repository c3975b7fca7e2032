"""Several runs at once: their order, their settings, and who is called by which thread."""

import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from structures import random_samples

import jaxgmm
from jaxgmm import rounds
from jaxgmm.rounds import alone, together

KEY = jax.random.key(0)


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
    assert [alone(counting(10 * i, n)) for i, n in enumerate(turns)] == [10 * i + n for i, n in enumerate(turns)]


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


def test_an_interrupt_in_a_callback_stops_a_sweep():
    """Ctrl-C arrives in the caller's thread, as callbacks do."""
    calls = []

    def stop(progress):
        calls.append(threading.get_ident())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jaxgmm.sweep(KEY, random_samples(n=41), (1, 2), ("diag", "spherical"), n_restarts=2, callback=stop)
    assert calls == [threading.get_ident()]


def test_samples_on_several_devices_are_one_run_at_a_time():
    spread = jax.device_put(random_samples(n=40), NamedSharding(Mesh(np.array(jax.devices()[:2]), ("n",)), PartitionSpec("n")))
    assert rounds.at_once(spread) == 1
    assert rounds.at_once(jnp.zeros((4, 2))) == rounds.at_once() >= 1
    found = jaxgmm.sweep(KEY, spread, (1, 2), ("diag", "spherical"), n_restarts=1, max_iter=3)
    assert np.isfinite(found.log_likelihood).all()
