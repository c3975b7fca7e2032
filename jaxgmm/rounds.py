"""The host's side of long runs: rounds of about a second, and several runs at once.

A compiled call cannot be interrupted, and a callback wants to be called, so a run goes on in rounds. A run is a generator: it
yields what is to be computed and is sent the answer. Another thread may compute it, so that small runs, each a chain of small
steps that keeps one core busy, share a CPU, and programs are compiled side by side. All else stays in the caller's thread,
callbacks and Ctrl-C among it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jaxgmm.batch import Batch
from jaxgmm.loop import Status

T = TypeVar("T")

Run = Generator[Callable[[], Any], Any, T]
"""Yields what is to be computed, is sent what came of it, and returns its end."""

ROUND_SECONDS = 1.0
FIRST_ROUND = 4
"""Seconds that a round of passes is meant to last, and the passes of the first, before anything is known."""

SETTINGS = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_device": jax.default_device,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_numpy_rank_promotion": jax.numpy_rank_promotion,
    "jax_debug_nans": jax.debug_nans,
    "jax_debug_infs": jax.debug_infs,
}
"""What a ``with`` may have set in the caller's thread alone."""


class Progress(NamedTuple):
    """What a callback sees after each round, on the host."""

    n_iter: int
    max_iter: int
    log_likelihood: np.ndarray  # (R,)
    status: np.ndarray  # (R,) 0 while a lane runs


def rounds(
    running: Batch,
    advance: Callable[..., Batch],
    max_iter: int,
    callback: Callable[[Progress], None] | None = None,
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
            callback(Progress(done, max_iter, np.asarray(running.lanes.carry.sums.log_likelihood), status))
        per_second = (done - before) / (time.perf_counter() - began)
        passes = int(np.clip(per_second * ROUND_SECONDS, max(1, passes // 4), 16 * passes))
    return running


def alone(run: Run[T]) -> T:
    """The end of a run, computed in this thread."""
    try:
        ask = next(run)
        while True:
            ask = run.send(ask())
    except StopIteration as end:
        return end.value


def at_once() -> int:
    """Runs that are worth having under way together: one for each core of a CPU that is ours, one on an accelerator."""
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def together(runs: Iterable[Run[T]]) -> list[T]:
    """The ends of all runs, in their order; ``at_once`` of them are under way."""
    n_threads = at_once()
    if n_threads == 1:
        return [alone(run) for run in runs]
    settings = {name: getattr(jax.config, name) for name in SETTINGS}
    waiting, ends = enumerate(runs), dict[int, T]()
    asked: dict[Future[Any], tuple[int, Run[T]]] = {}
    with ThreadPoolExecutor(n_threads) as pool:

        def go_on(place: int, run: Run[T], answer: Any) -> None:
            try:
                ask = run.send(answer)
            except StopIteration as end:
                ends[place] = end.value
                begin_next()
            else:
                asked[pool.submit(_computed, ask, settings)] = place, run

        def begin_next() -> None:
            for place, run in waiting:
                go_on(place, run, None)
                break

        for _ in range(n_threads):
            begin_next()
        while asked:
            for future in wait(asked, return_when=FIRST_COMPLETED).done:
                go_on(*asked.pop(future), future.result())
    return [ends[place] for place in sorted(ends)]


def _computed(ask: Callable[[], T], settings: dict[str, Any]) -> T:
    """The answer, under the settings of the thread that asks."""
    with ExitStack() as stack:
        for name, value in settings.items():
            if getattr(jax.config, name) != value:  # entered where needed only: programs are looked up by them
                stack.enter_context(SETTINGS[name](value))
        return jax.block_until_ready(ask())
