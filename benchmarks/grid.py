"""Time a sweep of all fourteen families beside R's mclust: ``python -m benchmarks.grid [--rounds N]``.

Four overlapping clouds, 2000 x 4, K = 1..9, float64. ``Mclust`` with its defaults, one hierarchical start, takes turns with
``sweep`` and its, eight restarts a fit; Rscript is needed for it. Medians of seconds, compiling apart.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import numpy as np
from rich.console import Console

import jaxgmm
from jaxgmm.structures import TABLE

MCLUST = """
suppressMessages(library(mclust))
X <- as.matrix(read.csv(commandArgs(TRUE), header = FALSE))
cat(system.time(Mclust(X, verbose = FALSE))[3])
"""


def clouds(n_samples: int = 2000) -> np.ndarray:
    """Four clouds of one shape, two or three standard deviations apart."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0, 0], [3, 0, 0, 1], [0, 3, 1, 0], [2, 3, 3, 2]], float)
    root = np.linalg.cholesky(np.cov(rng.normal(size=(4, 12))))
    return np.concatenate([rng.normal(size=(n_samples // 4, 4)) @ root.T + centre for centre in centres])


def sweep_seconds(X: np.ndarray) -> float:
    began = time.perf_counter()
    jaxgmm.sweep(jax.random.key(0), X, range(1, 10), TABLE)
    return time.perf_counter() - began


def mclust_seconds(file: Path) -> float:
    done = subprocess.run(["Rscript", "-e", MCLUST, str(file)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    console = Console()
    X = clouds()
    found: dict[str, list[float]] = {"jaxgmm": [], "mclust": []}
    console.print(f"first call of jaxgmm, compiling: {sweep_seconds(X):.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        np.savetxt(file := Path(folder) / "samples.csv", X, fmt="%.17g", delimiter=",")
        for _ in range(arguments.rounds):
            found["jaxgmm"].append(sweep_seconds(X))
            if shutil.which("Rscript"):
                found["mclust"].append(mclust_seconds(file))
    for side, taken in found.items():
        console.print(f"{side}: {median(taken):.2f} s, {min(taken):.2f} to {max(taken):.2f}" if taken else f"{side}: not here")


if __name__ == "__main__":
    main()
