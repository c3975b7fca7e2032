"""The host's side of long runs: rounds of about a second, and several runs at once.

A compiled call cannot be interrupted, and a callback wants to be called, so a run goes on in rounds. A run is a generator: it
yields what is to be computed and is sent the answer. Another thread may compute it, so that small runs, each a chain of small
steps that keeps one core busy, share a CPU, and programs are compiled side by side. All else stays in the caller's thread,
callbacks and Ctrl-C among it; what has been asked for ends before an exception comes through.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array

from jaxgmm.batch import Batch
from jaxgmm.loop import Status

T = TypeVar("T")

Run = Generator[Callable[[], Any], Any, T]
"""Yields what is to be computed, is sent what came of it, and returns its end."""

ROUND_SECONDS = 1.0
FIRST_ROUND = 4
"""Seconds that a round of passes is meant to last, and the passes of the first, before anything is known."""

SETTINGS: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_device": jax.default_device,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_default_prng_impl": jax.default_prng_impl,
    "jax_threefry_partitionable": jax.threefry_partitionable,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_numpy_rank_promotion": jax.numpy_rank_promotion,
    "jax_debug_nans": jax.debug_nans,
    "jax_debug_infs": jax.debug_infs,
    "jax_disable_jit": jax.disable_jit,
    "jax_log_compiles": jax.log_compiles,
}
"""What a ``with`` may have set in the caller's thread alone."""

MOST_AT_ONCE = 8
"""Runs under way on a CPU of many cores; two cores were measured."""


class Progress(NamedTuple):
    """What a callback sees after each round, on the host."""

    n_iter: int
    max_iter: int
    log_likelihood: np.ndarray  # (R,)
    status: np.ndarray  # (R,) 0 while a lane runs
    covariance_type: str = ""  # of a sweep, which has several


def rounds(
    running: Batch,
    advance: Callable[..., Batch],
    max_iter: int,
    callback: Callable[[Progress], None] | None = None,
    covariance_type: str = "",
) -> Run[Batch]:
    """Advance to the end."""
    passes, done = FIRST_ROUND, 0
    while done < max_iter and (np.asarray(running.lanes.carry.status) == Status.ITERATION_LIMIT).any():
        began, before = time.perf_counter(), done
        turn = np.int32(min(passes, max_iter - done))
        running = yield partial(advance, running, passes=turn)
        status = np.asarray(running.lanes.carry.status)
        done = min(int(running.taken), max_iter)
        if callback is not None:
            log_likelihood = np.asarray(running.lanes.carry.sums.log_likelihood)
            callback(Progress(done, max_iter, log_likelihood, status, covariance_type))
        per_second = (done - before) / (time.perf_counter() - began)
        passes = int(np.clip(per_second * ROUND_SECONDS, max(1, passes // 4), 16 * passes))
    return running


def alone(run: Run[T]) -> T:
    """The end of a run, computed in this thread."""
    answer = None
    while True:
        try:
            ask = run.send(answer)
        except StopIteration as end:
            return end.value
        answer = ask()


def at_once(X: Array | None = None) -> int:
    """Runs that are worth having under way together: one for each core of a CPU, one on an accelerator.

    One where X is spread over several devices: programs that wait for each other must start in the same order on all.
    """
    if jax.default_backend() != "cpu" or (X is not None and len(X.devices()) > 1):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_AT_ONCE)


def together(runs: Iterable[Run[T]], most: int) -> list[T]:
    """The ends of all runs, in their order; ``most`` of them are under way."""
    waiting = iter(runs)
    first = list(islice(waiting, min(most, 2)))
    if len(first) < 2:
        return [alone(run) for run in chain(first, waiting)]
    settings = {name: getattr(jax.config, name) for name in SETTINGS}
    in_order = enumerate(chain(first, waiting))
    ends: dict[int, T] = {}
    asked: dict[Future[Any], tuple[int, Run[T]]] = {}

    def go_on(pool: ThreadPoolExecutor, place: int, run: Run[T], answer: Any) -> None:
        try:
            ask = run.send(answer)
        except StopIteration as end:
            ends[place] = end.value
        else:
            asked[pool.submit(_computed, ask, settings)] = place, run

    try:
        with ThreadPoolExecutor(most) as pool:
            while True:
                while len(asked) < most and (following := next(in_order, None)) is not None:
                    go_on(pool, *following, None)
                if not asked:
                    return [ends[place] for place in sorted(ends)]
                for future in wait(asked, return_when=FIRST_COMPLETED).done:
                    go_on(pool, *asked.pop(future), future.result())
    finally:
        for _, run in asked.values():
            run.close()


def _computed(ask: Callable[[], T], settings: dict[str, Any]) -> T:
    """The answer, under the settings of the thread that asks."""
    with ExitStack() as stack:
        for name, value in settings.items():
            if getattr(jax.config, name) != value:  # entered where needed only: programs are looked up by them
                stack.enter_context(SETTINGS[name](value))
        return jax.block_until_ready(ask())
