"""How often BIC finds what made the data, beside mclust: ``python -m benchmarks.truth [--sets N] [--json FILE]``.

Two hundred data sets by a seed: each of the fourteen families 14 or 15 times, K = 1..6, D = 2..6, 100 to 1000 samples. Both
choose among all families and K = 1..9 by BIC: ``sweep`` in float64, and ``Mclust`` where R has it. Overlap of two components is
what the likelier of them, weights and all, misclassifies of the other, both ways added (omega of Maitra and Melnykov 2010);
means are spread until the largest of a mixture is 0.01 to 0.1. With one component several families are one model: XII, XXI or
XXX, here as in mclust, whoever names it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxgmm
from benchmarks.__main__ import machine
from jaxgmm.structures import SYNONYMS, TABLE

FAMILIES = ["EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV"]
LETTERS = {name: letters for letters, name in SYNONYMS.items() if letters in FAMILIES}

SETS, SEED = 200, 0
SAMPLES = [100, 200, 300, 500, 700, 1000]
OVERLAPS = [0.01, 0.02, 0.05, 0.1]
COUNTS = range(1, 10)
"""Numbers of components that both sides try."""

ROWS = 1024
"""Samples are padded to so many by rows of weight zero, so that data sets of the same D share programs."""

DRAWS = 4000
"""Samples a component from which an overlap is known."""

SPREAD = 0.7
"""Standard deviation of the logarithms of volumes and of variances along axes."""

MCLUST = """
suppressMessages(library(mclust))
for (name in commandArgs(TRUE)) {
  seconds <- system.time(fit <- Mclust(as.matrix(read.csv(paste0(name, ".csv"), header = FALSE)), verbose = FALSE))[3]
  table <- fit$BIC
  cells <- paste(ifelse(is.na(table), "null", format(-as.vector(table), digits = 15)), collapse = ",")
  names <- paste0('"', colnames(table), '"', collapse = ",")
  line <- '{"family":"%s","n_components":%d,"bic":%.15g,"seconds":%.3f,"names":[%s],"cells":[%s]}'
  cat(sprintf(line, fit$modelName, fit$G, -fit$bic, seconds, names, cells), file = paste0(name, ".mclust.json"))
}
"""


class Truth(NamedTuple):
    """What a data set was made from."""

    family: str
    n_components: int
    n_features: int
    n_samples: int
    overlap: float  # aimed at; none with one component


def grid(seed: int) -> list[Truth]:
    """Every level of each factor as often as every other, in an order of its own."""
    rng = np.random.default_rng(seed)
    levels = [FAMILIES, range(1, 7), range(2, 7), SAMPLES, OVERLAPS]
    columns = [rng.permutation(np.resize(np.arange(len(level)), SETS)) for level in levels]
    return [Truth(*(level[i] for level, i in zip(levels, row, strict=True))) for row in zip(*columns, strict=True)]


def covariances_of(rng: np.random.Generator, family: str, n_components: int, n_features: int) -> np.ndarray:
    """A random member of a family, (K, D, D); every letter draws, so that E and V of one seed are alike."""
    volume, shape, axes = family
    log_volume = rng.normal(0, SPREAD, (n_components, 1))
    log_shape = rng.normal(0, SPREAD, (n_components, n_features))
    turn = np.linalg.qr(rng.normal(size=(n_components, n_features, n_features)))[0]
    log_shape = 0 * log_shape if shape == "I" else log_shape - log_shape.mean(axis=1, keepdims=True)
    turn = np.eye(n_features) + 0 * turn if axes == "I" else turn
    log_volume, log_shape, turn = (
        np.repeat(every[:1], n_components, axis=0) if letter == "E" else every
        for letter, every in ((volume, log_volume), (shape, log_shape), (axes, turn))
    )
    return np.einsum("kij,kj,klj->kil", turn, np.exp(log_volume + log_shape), turn)


def largest_overlap(
    weights: np.ndarray, directions: np.ndarray, covariances: np.ndarray, noise: np.ndarray
) -> Callable[[float], float]:
    """max over i < j of omega_ij + omega_ji as a function of the spread s, means s m_k, from ``noise`` (DRAWS, D), normal.

    Of samples of i the squared distance to j in standard deviations of j is |a + s b|^2, a and b known once.
    """
    roots = np.linalg.cholesky(covariances)
    whiteners = np.linalg.inv(roots)
    log_weight = np.log(weights) - np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    a = np.einsum("jab,ibc,nc->jina", whiteners, roots, noise, optimize=True)
    b = np.einsum("jab,jib->jia", whiteners, directions[None] - directions[:, None])
    square, cross, between = (a * a).sum(axis=-1), np.einsum("jina,jia->jin", a, b), (b * b).sum(axis=-1)[..., None]

    def largest(spread: float) -> float:
        log_p = log_weight[:, None, None] - (square + 2 * spread * cross + spread**2 * between) / 2
        wrong = (log_p > np.einsum("iin->in", log_p)[None]).mean(axis=2)
        return float((wrong + wrong.T).max())

    return largest


def mixture(rng: np.random.Generator, truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and covariances whose largest overlap is what is aimed at."""
    K, D = truth.n_components, truth.n_features
    covariances, weights = covariances_of(rng, truth.family, K, D), rng.dirichlet(np.full(K, 10.0))
    directions, noise = rng.normal(size=(K, D)), rng.normal(size=(DRAWS, D))
    if K == 1:
        return weights, directions, covariances
    largest = largest_overlap(weights, directions, covariances, noise)
    near, far = 0.0, 100.0
    for _ in range(20):
        middle = (near + far) / 2
        near, far = (middle, far) if largest(middle) > truth.overlap else (near, middle)
    return weights, far * directions, covariances


def samples(seed: int, place: int, truth: Truth) -> np.ndarray:
    """(N, D) samples; weights and labels are drawn again while a component has fewer than D + 2."""
    rng = np.random.default_rng([seed, place])
    while True:
        weights, means, covariances = mixture(rng, truth)
        label = rng.choice(truth.n_components, truth.n_samples, p=weights)
        if np.bincount(label, minlength=truth.n_components).min() >= truth.n_features + 2:
            break
    noise = rng.normal(size=(truth.n_samples, truth.n_features))
    return means[label] + np.einsum("nij,nj->ni", np.linalg.cholesky(covariances)[label], noise)


def called(family: str, n_components: int) -> str:
    """A family by its letters; with one component by what is left of them."""
    letters = LETTERS.get(family, family)
    if n_components > 1:
        return letters
    return {"I": "XII" if letters[1] == "I" else "XXI"}.get(letters[2], "XXX")


def ours(X: np.ndarray, seed: int, **options: Any) -> dict[str, Any]:
    """What ``sweep`` chooses, and its table."""
    padded = np.pad(X, ((0, ROWS - len(X)), (0, 0)))
    weight = (np.arange(ROWS) < len(X)).astype(float)
    began = time.perf_counter()
    found = jaxgmm.sweep(jax.random.key(seed), padded, COUNTS, TABLE, sample_weight=weight, **options)
    return {
        "family": found.covariance_type[found.best],
        "n_components": int(found.n_components[found.best]),
        "bic": float(found.bic[found.best]),
        "seconds": time.perf_counter() - began,
        "names": [LETTERS.get(structure.name, structure.name) for structure in TABLE],
        "cells": found.bic.tolist(),
        "status": found.status.tolist(),
    }


def mclust(work: Path, places: list[int]) -> None:
    """What ``Mclust`` chooses, beside the samples; one R for all."""
    left = [str(work / f"{place:03d}") for place in places if not (work / f"{place:03d}.mclust.json").exists()]
    if left:
        subprocess.run(["Rscript", "-e", MCLUST, *left], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def score(truths: list[Truth], chosen: list[dict[str, Any]]) -> dict[str, int]:
    """How often is K right, the family, both?"""
    right_k = [one["n_components"] == truth.n_components for truth, one in zip(truths, chosen, strict=True)]
    right_family = [
        called(one["family"], one["n_components"]) == called(truth.family, truth.n_components)
        for truth, one in zip(truths, chosen, strict=True)
    ]
    both = sum(k and family for k, family in zip(right_k, right_family, strict=True))
    return {"K": sum(right_k), "family": sum(right_family), "both": both}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=SETS, help="the first so many data sets")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--restarts", type=int, help="restarts of a fit of jaxgmm; its default without")
    parser.add_argument("--work", type=Path, help="a folder to keep samples and answers in; what is there is not done again")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    console = Console()
    options = {} if arguments.restarts is None else {"n_restarts": arguments.restarts}
    truths = grid(arguments.seed)[: arguments.sets]
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for place, truth in enumerate(truths):
            np.savetxt(work / f"{place:03d}.csv", samples(arguments.seed, place, truth), fmt="%.17g", delimiter=",")
        sides = ["jaxgmm"]
        if shutil.which("Rscript"):
            mclust(work, list(range(len(truths))))
            sides.append("mclust")
        left = [place for place in range(len(truths)) if not (work / f"{place:03d}.jaxgmm.json").exists()]
        # By D: the programs of one are compiled once, and dropped for the next, as a process may map only so many.
        for n_features in sorted({truths[place].n_features for place in left}):
            jax.clear_caches()
            for place in (place for place in left if truths[place].n_features == n_features):
                found = ours(np.loadtxt(work / f"{place:03d}.csv", delimiter=","), arguments.seed, **options)
                (work / f"{place:03d}.jaxgmm.json").write_text(json.dumps(found))
                console.print(f"[dim]{place}: {truths[place]}, {found['seconds']:.1f} s", highlight=False)
        answers = {
            side: [json.loads((work / f"{place:03d}.{side}.json").read_text()) for place in range(len(truths))]
            for side in sides
        }
    scores = {side: score(truths, chosen) for side, chosen in answers.items()}
    table = Table("", "right K", "right family", "both", title=f"Of {len(truths)} data sets")
    for side, counts in scores.items():
        table.add_row(side, *(str(count) for count in counts.values()))
    console.print(table)
    if arguments.json:
        chosen = [
            {"place": place, **truth._asdict()}
            | {
                side: [called(one["family"], one["n_components"]), one["n_components"], round(one["bic"], 3)]
                for side, one in both
            }
            for place, truth in enumerate(truths)
            for both in [[(side, answers[side][place]) for side in sides]]
        ]
        content = {
            "machine": machine(),
            "seed": arguments.seed,
            "restarts": arguments.restarts,
            "scores": scores,
            "sets": chosen,
        }
        arguments.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
