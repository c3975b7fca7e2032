"""The host's side of long runs: rounds of about a second, and several runs at once.

A compiled call cannot be interrupted, and a callback wants to be called, so a run goes on in rounds. A run is a generator: it
yields what is to be computed and is sent the answer. Another thread may compute it, so that small runs, each a chain of small
steps that keeps one core busy, share a CPU, and programs are compiled side by side. All else stays in the caller's thread,
callbacks and Ctrl-C among it; what has been asked for ends before an exception comes through. After Ctrl-C a run that has
begun ends with the best parameters so far, in ``Status.INTERRUPTED``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array

from jaxgmm.batch import MANY_FEATURES, Batch
from jaxgmm.loop import Carry, Status

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

PART, FEWEST_APART = 16, 4
"""Restarts of one fit that are one run where several share the machine, and the fewest that are parted at all."""


class Progress(NamedTuple):
    """What a callback sees after each round, on the host."""

    n_iter: int  # of the lane that went furthest
    max_iter: int
    log_likelihood: np.ndarray  # (R,)
    status: np.ndarray  # (R,) 0 while a lane runs
    finished: int  # lanes of the whole call that have ended,
    total: int  # of so many
    covariance_type: str = ""  # of a sweep, which has several


class Stop(BaseException):
    """What a run is told when the user has pressed Ctrl-C."""


class Round(partial):
    """What a run asks for that may be left off: after Ctrl-C its answer is ``Stop``."""


def rounds(
    running: Batch,
    advance: Callable[..., Batch],
    max_iter: int,
    n_live: int,
    callback: Callable[[Progress], None] | None = None,
    covariance_type: str = "",
) -> Run[Batch]:
    """Advance to the end, or to Ctrl-C; a callback hears of the first ``n_live`` lanes."""
    passes, done = FIRST_ROUND, 0
    try:
        while done < max_iter and (np.asarray(running.lanes.carry.status) == Status.ITERATION_LIMIT).any():
            began, before = time.perf_counter(), done
            turn = np.int32(min(passes, max_iter - done))
            running = yield Round(advance, running, passes=turn)
            done = min(int(running.taken), max_iter)
            if callback is not None:
                callback(_progress(running.lanes.carry, max_iter, n_live, covariance_type))
            per_second = (done - before) / (time.perf_counter() - began)
            passes = int(np.clip(per_second * ROUND_SECONDS, max(1, passes // 4), 16 * passes))
    except (KeyboardInterrupt, Stop) as stop:
        if not isinstance(stop, Stop):  # it came here, in the caller's thread: the other runs are to hear of it, too
            with suppress(Stop):
                yield Round(_interrupt)
        return _interrupted(running)
    return running


def _progress(carry: Carry, max_iter: int, n_live: int, covariance_type: str) -> Progress:
    n_iter, status = np.asarray(carry.n_iter)[:n_live], np.asarray(carry.status)[:n_live]
    finished = int((status != Status.ITERATION_LIMIT).sum())
    log_likelihood = np.asarray(carry.sums.log_likelihood)[:n_live]
    return Progress(int(n_iter.max()), max_iter, log_likelihood, status, finished, n_live, covariance_type)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _interrupted(running: Batch) -> Batch:
    carry = running.lanes.carry
    status = np.asarray(carry.status)
    status = np.where(status == Status.ITERATION_LIMIT, np.int32(Status.INTERRUPTED), status)
    return running._replace(lanes=running.lanes._replace(carry=carry._replace(status=jax.numpy.asarray(status))))


def may_share(X: Array | None = None) -> bool:
    """May several runs share the machine? On a CPU, but where X is spread over several devices: programs that wait for each
    other must start in the same order on all."""
    return jax.default_backend() == "cpu" and (X is None or len(X.devices()) == 1)


def at_once(X: Array | None = None) -> int:
    """Runs that are worth having under way together: one for each core of a CPU, else one."""
    if not may_share(X):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_AT_ONCE)


def good_part(X: Array, n_restarts: int) -> int:
    """Restarts of one fit that are one run. It decides how they are rounded, so the number of cores must not decide it."""
    if n_restarts < FEWEST_APART or not may_share(X) or X.shape[1] >= MANY_FEATURES:
        return n_restarts
    return -(-n_restarts // max(2, n_restarts // PART))


def as_one(callback: Callable[[Progress], None], n_restarts: int, part: int) -> Callable[[int, Progress], None]:
    """What parts of a fit say of themselves, from their first restart on, said of the whole.

    A restart that was not heard of runs, at a log-likelihood of -inf.
    """
    n_iter, known = 0, np.full(n_restarts, -np.inf)
    status = np.zeros(n_restarts, np.int32)

    def say(first: int, progress: Progress) -> None:
        nonlocal n_iter, known
        known = known.astype(progress.log_likelihood.dtype)
        n_iter = max(n_iter, progress.n_iter)
        known[first : first + part], status[first : first + part] = progress.log_likelihood, progress.status
        finished = int((status != Status.ITERATION_LIMIT).sum())
        callback(Progress(n_iter, progress.max_iter, known.copy(), status.copy(), finished, n_restarts))

    return say


def counted(callback: Callable[[Progress], None], total: int) -> Callable[[Any, Progress], None]:
    """What runs say of themselves, under their names, with the count of all."""
    finished: dict[Any, int] = {}

    def say(name: Any, progress: Progress) -> None:
        finished[name] = progress.finished
        callback(progress._replace(finished=sum(finished.values()), total=total))

    return say


@contextmanager
def heard(callback: Callable[[Progress], None] | None, bar: bool) -> Iterator[Callable[[Progress], None] | None]:
    """The callback, or one that moves a progress bar as well, in a terminal or a notebook."""
    if not bar:
        yield callback
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install 'jaxgmm[cli]'.") from None
    with tqdm(unit="fit") as shown:

        def say(progress: Progress) -> None:
            shown.total, shown.n = progress.total, progress.finished
            shown.set_postfix_str(f"pass {progress.n_iter}")
            if callback is not None:
                callback(progress)

        yield say


def together(runs: Iterable[Run[T]], most: int) -> list[T | None]:
    """The ends of all runs, in their order; ``most`` of them are under way, each in a thread if there are several.

    After Ctrl-C rounds are left off, and no run begins; None stands for one that has nothing to show. If none has, or at a
    second Ctrl-C, KeyboardInterrupt comes through.
    """
    waiting = iter(runs)
    first = list(islice(waiting, min(most, 2)))
    settings = {name: getattr(jax.config, name) for name in SETTINGS}
    in_order = enumerate(chain(first, waiting))
    ends: dict[int, T | None] = {}
    asked: dict[Future[Any], tuple[int, Run[T], Callable[[], Any]]] = {}
    stopped = False

    def go_on(place: int, run: Run[T], send: Callable[[Any], Callable[[], Any]], answer: Any) -> None:
        try:
            ask = send(answer)
            while stopped and isinstance(ask, Round):
                ask = run.throw(Stop())
        except StopIteration as end:
            ends[place] = end.value
        else:
            asked[pool.submit(_computed, ask, settings) if len(first) > 1 else pool.submit(ask)] = place, run, ask

    try:
        with ThreadPoolExecutor(most) if len(first) > 1 else _Here() as pool:
            while True:
                try:
                    while not stopped and len(asked) < most and (following := next(in_order, None)) is not None:
                        go_on(*following, following[1].send, None)
                    if not asked:
                        break
                    for future in wait(asked, return_when=FIRST_COMPLETED).done:
                        answer = future.result()
                        place, run, _ = asked.pop(future)
                        go_on(place, run, run.send, answer)
                except KeyboardInterrupt:
                    if stopped:
                        raise
                    stopped = True
                    wait(asked)
                    for future in list(asked):
                        place, run, ask = asked.pop(future)
                        if isinstance(ask, Round):
                            go_on(place, run, run.throw, Stop())
                        elif isinstance(future.exception(), KeyboardInterrupt):  # it was under way in this thread
                            run.close()
                            ends[place] = None
                        else:
                            go_on(place, run, run.send, future.result())
    finally:
        for _, run, _ in asked.values():
            run.close()
    if stopped and all(end is None for end in ends.values()):
        raise KeyboardInterrupt
    return [ends[place] for place in sorted(ends)]


class _Here(Executor):
    """Computes where it is asked."""

    def submit(self, function: Callable[..., T], /, *arguments: Any, **options: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as error:  # whoever asks for the result is told
            future.set_exception(error)
        return future


def _computed(ask: Callable[[], T], settings: dict[str, Any]) -> T:
    """The answer, under the settings of the thread that asks."""
    with ExitStack() as stack:
        for name, value in settings.items():
            if getattr(jax.config, name) != value:  # entered where needed only: programs are looked up by them
                stack.enter_context(SETTINGS[name](value))
        return jax.block_until_ready(ask())
