"""One comparison in a process of its own: ``python -m benchmarks.worker ROW PEER ROUNDS`` or ``... ROW SIDE memory``."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import ROWS, Row, mean_log_likelihood, samples, start
from benchmarks.sides import FITS, SCRIPT, STEPS, jaxgmm_patches, jaxgmm_rounds, multiplications, patches, sklearn_patches

AGREEMENT = 1e-4
"""Relative difference of log-likelihood between the sides that is still the same computation."""


SETTLE = 0.3
"""Seconds of rest before each timed run: the threads of NumPy's BLAS and of scikit-learn's OpenMP stay awake for a while and
would be counted to whoever comes next."""


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    time.sleep(SETTLE)
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    return timed(function, *arguments)[0]


def iteration(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Time of one more EM step: the difference of the fastest long and the fastest short run."""
    X = samples(row)
    sides = {name: STEPS[name](row, X) for name in ("jaxgmm", peer)}
    ends = {name: mean_log_likelihood(X, *comparable(row, X, *side)) for name, side in sides.items()}
    ours, theirs = ends["jaxgmm"], ends[peer]
    step, median = step_seconds({name: run for name, (run, _) in sides.items()}, dict.fromkeys(sides, row.many), rounds)
    return {
        "seconds": step["jaxgmm"],
        "peer_seconds": step[peer],
        "ratio": step[peer] / step["jaxgmm"],
        "ratio_of_medians": median[peer] / median["jaxgmm"],
        "log_likelihood": ours,
        "peer_log_likelihood": theirs,
        "agree": bool(abs(ours - theirs) <= AGREEMENT * abs(theirs)),
    }


def limit(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Time of one more EM step over the time of its multiplications."""
    X = samples(row)
    runs = {"jaxgmm": STEPS["jaxgmm"](row, X)[0], peer: multiplications(row, X)}
    step, median = step_seconds(runs, dict.fromkeys(runs, row.many), rounds)
    ratios = {"ratio": step["jaxgmm"] / step[peer], "ratio_of_medians": median["jaxgmm"] / median[peer]}
    return {"seconds": step["jaxgmm"], "peer_seconds": step[peer]} | ratios


def rounds(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Time of many passes in one loop over their time in rounds, with a callback and a bar."""
    runs, many = jaxgmm_rounds(row, samples(row)), 300
    reached = {name: run(many) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run, many))
    return compared(taken["jaxgmm"], taken[peer], reached["jaxgmm"], reached[peer])


def step_seconds(
    runs: dict[str, Callable[[int], Any]], many: dict[str, int], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Time of one more step of each side, in turn: ``many`` steps less one step, the fastest of each and the medians."""
    short: dict[str, list[float]] = {name: [] for name in runs}
    long: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(1)
    for _ in range(rounds):
        for name, run in runs.items():
            short[name].append(seconds(run, 1))
            long[name].append(seconds(run, many[name]))
    fastest = {name: (min(long[name]) - min(short[name])) / (many[name] - 1) for name in runs}
    median = {name: float(np.median(long[name]) - np.median(short[name])) / (many[name] - 1) for name in runs}
    return fastest, median


def comparable(row: Row, X: np.ndarray, run: Callable[..., Any], moments: Callable[..., Any]) -> Any:
    """The mixture that both sides must agree in; where the peer adds to covariances, all but these, after one step."""
    if not row.floor:
        return moments(run(row.many))
    weights, means, _ = moments(run(1))
    return weights, means, start(X, row.n_components)[2]


def fit(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Time of whole fits, warm, the same seeds on both sides every round; medians, as starts differ."""
    X = samples(row)
    sides = {name: FITS[row.name][name](row, X) for name in ("jaxgmm", peer)}
    for run in sides.values():
        run(0)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    reached: dict[str, list[float]] = {name: [] for name in sides}
    for seed in range(rounds):
        for name, run in sides.items():
            took, likelihood = timed(run, seed)
            taken[name].append(took)
            reached[name].append(likelihood())
    return compared(taken["jaxgmm"], taken[peer], np.mean(reached["jaxgmm"]), np.mean(reached[peer]))


def first(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Time of the first call in this process, compiling included, beside the peer's usual time."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # which whoever started this may have switched on
    X = samples(row)
    ours, theirs = (FITS[row.name][name](row, X) for name in ("jaxgmm", peer))
    took, reached = timed(ours, 0)
    return compared([took], [seconds(theirs, 0) for _ in range(rounds)], reached(), theirs(0)())


def command(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Time of whole processes: the command line, its compilation cache warm or cold, and a script."""
    file = Path(__file__).parent.parent / "notebooks" / "data" / "faithful.csv"
    program = Path(sys.executable).with_name("jaxgmm")
    ours = [str(program), "fit", str(file), "--components", f"1:{row.n_components}"]
    theirs = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(file)]
    taken: tuple[list[float], list[float]] = [], []
    said = ["", ""]
    unseen = "warm" in row.name  # the first process fills the cache
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + unseen):
            cache = folder if unseen else f"{folder}/{turn}"
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
            for side, line in enumerate((ours, theirs)):
                run = partial(subprocess.run, line, check=True, capture_output=True, text=True, env=environment)
                took, done = timed(run)
                taken[side].append(took)
                said[side] = done.stdout
    ours_bic, their_bic = float(re.search(r"BIC (-?[\d.]+)", said[0])[1]), float(said[1].split()[0])
    return compared(taken[0][unseen:], taken[1][unseen:], -ours_bic, -their_bic)


def reach(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Time until the mean log-likelihood is where the peer stops, compiled before; the peer takes minutes, so three seeds."""
    X = patches(row)
    jaxgmm_patches(row, X, 0, -np.inf)
    taken: tuple[list[float], list[float]] = [], []
    reached: tuple[list[float], list[float]] = [], []
    for seed in range(min(rounds, 3)):
        took, target = timed(sklearn_patches, row, X, seed)
        taken[1].append(took)
        reached[1].append(target)
        took, likelihood = timed(jaxgmm_patches, row, X, seed, target)
        taken[0].append(took)
        reached[0].append(likelihood)
    result = compared(*taken, np.mean(reached[0]), np.mean(reached[1]))
    return result | {"agree": all(ours >= theirs for ours, theirs in zip(*reached, strict=True))}


def passes(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Passes until the likelihood is within 1e-8 nats a sample of EM's limit, plain over accelerated (float64)."""
    import jax

    import jaxgmm

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(300, 1)), rng.normal(size=(100, 1)) + 1.5])
    begin = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-0.5], [1.5]], np.ones((2, 1, 1)))
    most = 20_000
    limit = jaxgmm.fit_from(begin, X, tol=0.0, max_iter=10 * most).log_likelihood

    def needed(accelerate: str | None) -> int:
        trace = jaxgmm.fit_from(begin, X, tol=0.0, max_iter=most, accelerate=accelerate, trace=most).trace
        return int(np.argmax(np.asarray(limit - trace) / len(X) < 1e-8))

    plain, fast = needed(None), needed("squarem")
    return {"passes": fast, "peer_passes": plain, "ratio": plain / fast, "ratio_of_medians": plain / fast, "agree": fast > 0}


def compared(ours: list[float], theirs: list[float], our_figure: float, their_figure: float) -> dict[str, Any]:
    return {
        "seconds": float(np.median(ours)),
        "peer_seconds": float(np.median(theirs)),
        "ratio": min(theirs) / min(ours),
        "ratio_of_medians": float(np.median(theirs) / np.median(ours)),
        "log_likelihood": float(our_figure),
        "peer_log_likelihood": float(their_figure),
        "agree": bool(our_figure >= their_figure - AGREEMENT * abs(their_figure)),
    }


MEASURES = {
    "iteration": iteration,
    "limit": limit,
    "fit": fit,
    "rounds": rounds,
    "first": first,
    "command": command,
    "reach": reach,
    "passes": passes,
}


def memory(row: Row, side: str) -> float | None:
    """MB of peak memory beyond what is resident before a warm run, as the operating system counts (Linux only).

    What the allocator kept of the run before goes back first, else it would hide in what is resident.
    """
    X = samples(row)
    run = FITS[row.name][side](row, X) if row.name in FITS else STEPS[side](row, X)[0]
    if not Path("/proc/self/clear_refs").exists():
        return None
    if side != "scikit-learn":
        run(row.many)  # compiles
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(row.many)
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """A line of the process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    row, side, what = ROWS[sys.argv[1]], sys.argv[2], sys.argv[3]
    if row.dtype == "float64":
        import jax

        jax.config.update("jax_enable_x64", True)
    if what == "memory":
        print(json.dumps(memory(row, side)))
    else:
        print(json.dumps(MEASURES[row.kind](row, side, int(what))))


if __name__ == "__main__":
    main()
