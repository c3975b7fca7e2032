"""The workloads: one row of the table each, with the figures that are asked of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """A workload.

    Attributes:
      name: what the table says.
      kind: "iteration" (time of one more EM step from a fixed start), "limit" (that time over the time of the step's two
        multiplications alone), "fit" (whole fits from random starts, warm; what is fitted says the side of that name),
        "rounds" (a fit with callback and bar, beside one compiled loop), "first" (the first of these in a process, compiling
        included), "command" (a whole process from a shell), "reach" (time to the likelihood at which the peer stops, starts
        included, warm), "passes" (how many times fewer passes an acceleration needs), or "memory" (peak beyond the data, no
        timing).
      must, aim: ratios asked for, the largest in a "limit" row, or MB in a "memory" row.
      floor: the least variance on our side, and what the peers add to covariances; zero where EM needs none.
      many: EM steps of the longer of the two runs whose difference is timed; the shorter does one.
      slow: minutes; not for ``--quick``.
    """

    name: str
    kind: str
    n_samples: int
    n_features: int
    n_components: int
    dtype: str = "float32"
    covariance_type: str = "full"
    must: float = 0
    aim: float = 0
    many: int = 4
    floor: float = 0.0
    slow: bool = False
    peers: tuple[str, ...] = ("scikit-learn", "gmmx", "tgmm")


ALONE = "the multiplications alone"
PLAIN = "plain EM"
LOOP = "one compiled loop"
"""Sides that are always there."""

ROWS = {
    row.name: row
    for row in (
        Row("full 100k x 32, K=32, float32", "iteration", 100_000, 32, 32, must=8, aim=12),
        Row("full 100k x 32, K=32, float64", "iteration", 100_000, 32, 32, "float64", must=7, aim=9, peers=("scikit-learn",)),
        Row("full 200k x 8, K=16, float32", "iteration", 200_000, 8, 16, must=20, aim=40),
        Row("full 500k x 2, K=8, float32", "iteration", 500_000, 2, 8, must=30, aim=60),
        Row(
            "full 30k x 64, K=100, float32", "iteration", 30_000, 64, 100, must=8, aim=12, many=3,
            peers=("scikit-learn",), floor=1e-3,
        ),
        Row(
            "diag 200k x 32, K=32, float32", "iteration", 200_000, 32, 32, covariance_type="diag", must=6, aim=12,
            peers=("scikit-learn",),
        ),
        Row("multiplications, 100k x 32, K=32, float32", "limit", 100_000, 32, 32, must=1.5, aim=1.2, many=2, peers=(ALONE,)),
        Row("16 restarts, 4000 x 8, K=8", "fit", 4000, 8, 8, must=10, aim=30, peers=("scikit-learn",)),
        Row("1000 data sets of 400 x 2, K=2", "fit", 400, 2, 2, must=80, aim=150, peers=("scikit-learn",)),
        Row("sweep of iris, 9 x 4 x 3", "fit", 150, 4, 9, must=10, aim=30, peers=("scikit-learn",)),
        Row("estimator, 50k x 8, K=16, float64", "fit", 50_000, 8, 16, "float64", must=1, aim=3, peers=("scikit-learn",)),
        Row("callback and bar, 100k x 8, K=8", "rounds", 100_000, 8, 8, must=0.95, aim=1, peers=(LOOP,)),
        Row("sweep of iris, first call", "first", 150, 4, 9, must=0.15, aim=0.5, peers=("scikit-learn",)),
        Row("jaxgmm fit faithful.csv, cache warm", "command", 272, 2, 6, must=1, aim=1.5, peers=("scikit-learn",)),
        Row("jaxgmm fit faithful.csv, cache cold", "command", 272, 2, 6, must=0.5, aim=1, peers=("scikit-learn",)),
        Row(
            "patches of photographs, to the peer's likelihood", "reach", 40_000, 64, 50, must=10, aim=25, slow=True,
            peers=("scikit-learn",),
        ),
        Row("passes, two overlapping clouds", "passes", 400, 1, 2, must=3, aim=8, peers=(PLAIN,)),
        Row(
            "memory, full 2M x 16, K=32, float32", "memory", 2_000_000, 16, 32, must=64, aim=32, many=2, peers=("scikit-learn",)
        ),
    )
}  # fmt: skip


def samples(row: Row) -> np.ndarray:
    """(N, D) clusters of one correlated shape, as every side sees them."""
    n, d, k = row.n_samples, row.n_features, row.n_components
    rng = np.random.default_rng(0)
    mu = 2 * rng.normal(size=(k, d))
    z = rng.integers(k, size=n)
    return (mu[z] + rng.normal(size=(n, d)) @ (0.2 * rng.normal(size=(d, d)) + np.eye(d))).astype(row.dtype)


def start(X: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equal weights, the first K samples as means, the covariance of the data for each."""
    weights = np.full(n_components, 1 / n_components, X.dtype)
    return weights, X[:n_components].copy(), np.repeat(np.cov(X.T).astype(X.dtype)[None], n_components, axis=0)


def mean_log_likelihood(X: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> float:
    """A referee that belongs to no side: nats a sample in float64, over at most 20,000 samples."""
    X = X[:20_000].astype(np.float64)
    log_joint = np.empty((len(weights), len(X)))
    for k, (weight, mean, covariance) in enumerate(zip(weights, means, np.asarray(covariances, np.float64), strict=True)):
        root = np.linalg.cholesky(covariance)
        white = np.linalg.solve(root, (X - np.asarray(mean, np.float64)[None]).T)
        log_det = np.log(np.diagonal(root)).sum() + X.shape[1] / 2 * np.log(2 * np.pi)
        log_joint[k] = np.log(weight) - 0.5 * (white**2).sum(axis=0) - log_det
    largest = log_joint.max(axis=0)
    return float((largest + np.log(np.exp(log_joint - largest).sum(axis=0))).mean())
