"""One comparison in a process of its own: ``python -m benchmarks.worker ROW PEER ROUNDS`` or ``... ROW SIDE memory``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import ROWS, Row, mean_log_likelihood, samples
from benchmarks.sides import RESTARTS, STEPS

AGREEMENT = 1e-4
"""Relative difference of log-likelihood between the sides that is still the same computation."""


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def iteration(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Time of one more EM step: the difference of the fastest long and the fastest short run."""
    X = samples(row)
    sides = {name: STEPS[name](row, X) for name in ("jaxgmm", peer)}
    ends = {name: mean_log_likelihood(X, *moments(run(row.many))) for name, (run, moments) in sides.items()}
    ours, theirs = ends["jaxgmm"], ends[peer]
    short: dict[str, list[float]] = {name: [] for name in sides}
    long: dict[str, list[float]] = {name: [] for name in sides}
    for run, _ in sides.values():
        run(1)
    for _ in range(rounds):
        for name, (run, _) in sides.items():
            short[name].append(seconds(run, 1))
            long[name].append(seconds(run, row.many))
    step = {name: (min(long[name]) - min(short[name])) / (row.many - 1) for name in sides}
    median = {name: (np.median(long[name]) - np.median(short[name])) / (row.many - 1) for name in sides}
    return {
        "seconds": step["jaxgmm"],
        "peer_seconds": step[peer],
        "ratio": step[peer] / step["jaxgmm"],
        "ratio_of_medians": float(median[peer] / median["jaxgmm"]),
        "log_likelihood": ours,
        "peer_log_likelihood": theirs,
        "agree": bool(abs(ours - theirs) <= AGREEMENT * abs(theirs)),
    }


def restarts(row: Row, peer: str, rounds: int) -> dict[str, Any]:
    """Time of a whole fit, warm, the same seeds on both sides every round; medians, as starts differ."""
    X = samples(row)
    sides = {name: RESTARTS[name](row, X) for name in ("jaxgmm", peer)}
    for run in sides.values():
        run(0)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    reached: dict[str, list[float]] = {name: [] for name in sides}
    for seed in range(rounds):
        for name, run in sides.items():
            began = time.perf_counter()
            reached[name].append(run(seed))
            taken[name].append(time.perf_counter() - began)
    ours, theirs = np.mean(reached["jaxgmm"]), np.mean(reached[peer])
    return {
        "seconds": float(np.median(taken["jaxgmm"])),
        "peer_seconds": float(np.median(taken[peer])),
        "ratio": min(taken[peer]) / min(taken["jaxgmm"]),
        "ratio_of_medians": float(np.median(taken[peer]) / np.median(taken["jaxgmm"])),
        "log_likelihood": float(ours),
        "peer_log_likelihood": float(theirs),
        "agree": bool(ours >= theirs - AGREEMENT * abs(theirs)),
    }


def memory(row: Row, side: str) -> float | None:
    """MB of peak memory beyond what is resident before a warm run, as the operating system counts (Linux only)."""
    X = samples(row)
    run = (lambda: RESTARTS[side](row, X)(0)) if row.kind == "restarts" else (lambda: STEPS[side](row, X)[0](row.many))
    if not Path("/proc/self/clear_refs").exists():
        return None
    if side != "scikit-learn":
        run()  # compiles
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
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
        measure = {"iteration": iteration, "restarts": restarts}[row.kind]
        print(json.dumps(measure(row, side, int(what))))


if __name__ == "__main__":
    main()
