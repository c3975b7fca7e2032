"""How the time of an EM step grows with N, K and D: ``python -m benchmarks.growth [--json FILE] [--chart FILE]``."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.__main__ import machine
from benchmarks.rows import Row, samples
from benchmarks.sides import STEPS
from benchmarks.worker import seconds, step_seconds

BASE = Row("growth", "iteration", 50_000, 8, 16)

AXES: dict[str, tuple[str, Row, list[int]]] = {
    "N": ("n_samples", BASE, [10_000, 40_000, 160_000, 640_000, 1_600_000, 4_000_000]),
    "K": ("n_components", BASE, [2, 4, 8, 16, 32, 64, 128, 256]),
    "D": ("n_features", replace(BASE, n_samples=20_000, n_components=8), [2, 4, 8, 16, 32, 64, 128]),
}
"""What grows, and what stays."""

BOUNDS = {"N": 1.05, "K": 1.05, "D": 2.1}
"""Exponents, over the upper half of the range, that are asked of jaxgmm."""

ENOUGH = 0.3
"""Seconds that the longer of two runs should take, so that the difference stands out of the noise."""

ROUNDS = 5


def fastest_step(row: Row, names: list[str]) -> dict[str, float]:
    """Time of one more EM step of each side, over as many as stand out of the noise."""
    X = samples(row)
    runs = {name: STEPS[name](row, X)[0] for name in names}
    many = {}
    for name, run in runs.items():
        run(1)
        once = max(seconds(run, 3) - seconds(run, 1), 1e-4) / 2
        many[name] = 1 + int(np.clip(ENOUGH / once, 1, 200))
    return step_seconds(runs, many, ROUNDS)[0]


def exponent(sizes: list[int], times: list[float]) -> float:
    """Slope of the logarithms over the upper half of the range."""
    half = np.log(sizes) >= (np.log(sizes[0]) + np.log(sizes[-1])) / 2
    return float(np.polyfit(np.log(sizes)[half], np.log(times)[half], 1)[0])


def measure(names: list[str], console: Console) -> dict[str, Any]:
    found = {}
    for axis, (field, base, sizes) in AXES.items():
        times: dict[str, list[float]] = {name: [] for name in names}
        for size in sizes:
            for name, taken in fastest_step(replace(base, **{field: size}), names).items():
                times[name].append(taken)
            console.print(f"{axis} = {size}: " + ", ".join(f"{n} {1e3 * t[-1]:.2f} ms" for n, t in times.items()))
        slopes = {name: exponent(sizes, taken) for name, taken in times.items()}
        console.print(f"exponents in {axis}: {slopes} (at most {BOUNDS[axis]} asked of jaxgmm)")
        fixed = {"N": base.n_samples, "D": base.n_features, "K": base.n_components}
        del fixed[axis]
        found[axis] = {"sizes": sizes, "fixed": fixed, "seconds": times, "exponents": slopes}
    return found


def chart(found: dict[str, Any], file: Path) -> None:
    """Time of a step against each size, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    colours = {"jaxgmm": "#0072B2", "scikit-learn": "#D55E00"}
    axes = figure.subplots(1, len(found), sharey=True)
    for ax, (axis, what) in zip(axes, found.items(), strict=True):
        for name, taken in what["seconds"].items():
            label = f"{name}: {axis}$^{{{what['exponents'][name]:.2f}}}$"
            ax.loglog(what["sizes"], taken, "o-" if name == "jaxgmm" else "s--", color=colours[name], label=label)
        ax.set_xlabel(axis)
        ax.set_title(", ".join(f"{k} = {v:,}" for k, v in what["fixed"].items()), fontsize=10)
        ax.legend(frameon=False)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("seconds per EM step (full, float32)")
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write times and versions to this file")
    parser.add_argument("--chart", type=Path, help="draw the times to this picture")
    options = parser.parse_args()
    found = measure(["jaxgmm", "scikit-learn"], Console())
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "growth": found}, indent=1) + "\n")
    if options.chart:
        chart(found, options.chart)


if __name__ == "__main__":
    main()
