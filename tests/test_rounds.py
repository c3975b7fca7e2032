"""Several runs at once: their order, their settings, and who is called by which thread."""

import threading

import jax
import jax.numpy as jnp
import pytest
from structures import random_samples

import jaxgmm
from jaxgmm import rounds
from jaxgmm.rounds import alone, together

KEY = jax.random.key(0)


def counting(start, turns, seen=None):
    """A run that adds one to a number so many times."""
    number = jnp.asarray(start)
    for _ in range(turns):
        number = yield lambda number=number: number + 1
        if seen is not None:
            seen.append(threading.get_ident())
    return int(number)


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_ends_come_in_the_order_of_the_runs(cores, monkeypatch):
    monkeypatch.setattr(rounds, "at_once", lambda: cores)
    turns = [7, 0, 1, 30, 2, 0, 0, 3]
    assert together(counting(10 * i, n) for i, n in enumerate(turns)) == [10 * i + n for i, n in enumerate(turns)]
    assert together([]) == []
    assert [alone(counting(10 * i, n)) for i, n in enumerate(turns)] == [10 * i + n for i, n in enumerate(turns)]


def test_no_more_runs_have_begun_than_are_under_way(monkeypatch):
    monkeypatch.setattr(rounds, "at_once", lambda: 2)
    open_runs, most = set(), []

    def run(name):
        open_runs.add(name)
        most.append(len(open_runs))
        yield lambda: jnp.zeros(())
        open_runs.remove(name)

    together(run(name) for name in range(6))
    assert max(most) == 2


def test_runs_are_told_of_their_answers_in_the_thread_of_the_caller(monkeypatch):
    monkeypatch.setattr(rounds, "at_once", lambda: 2)
    seen = []
    together(counting(0, 3, seen) for _ in range(4))
    assert set(seen) == {threading.get_ident()}


def test_settings_of_the_caller_go_along(monkeypatch):
    monkeypatch.setattr(rounds, "at_once", lambda: 2)

    def dtype():
        answer = yield lambda: (threading.get_ident(), jnp.zeros(()) + 1.0, jax.config.jax_default_matmul_precision)
        return answer[0], answer[1].dtype, answer[2]

    for wide in (True, False):
        with jax.enable_x64(wide), jax.default_matmul_precision("highest"):
            for thread, found, precision in together(dtype() for _ in range(3)):
                assert thread != threading.get_ident()
                assert found == (jnp.float64 if wide else jnp.float32)
                assert precision == "highest"


@pytest.mark.parametrize("where", ["computing", "telling"])
def test_an_error_ends_all_and_comes_through(where, monkeypatch):
    monkeypatch.setattr(rounds, "at_once", lambda: 2)

    def fails():
        yield lambda: 1 / 0 if where == "computing" else jnp.zeros(())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        together(iter([counting(0, 50), fails(), counting(0, 50)]))


def test_an_interrupt_in_a_callback_stops_a_sweep():
    """Ctrl-C arrives in the caller's thread, as callbacks do."""
    calls = []

    def stop(progress):
        calls.append(threading.get_ident())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jaxgmm.sweep(KEY, random_samples(n=41), (1, 2), ("diag", "spherical"), n_restarts=2, callback=stop)
    assert calls == [threading.get_ident()]
