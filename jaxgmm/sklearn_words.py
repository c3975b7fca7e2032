"""What the estimator says of a fit: as it goes, and how it ended."""

from __future__ import annotations

import time

import numpy as np

from jaxgmm import loop
from jaxgmm.loop import Status, advice
from jaxgmm.rounds import Progress

ADVICE = {
    Status.ITERATION_LIMIT: loop.OUT_OF_PASSES,
    Status.INTERRUPTED: "stopped by Ctrl-C after {n_iter} iterations; these are the best parameters so far. Go on with "
    "warm_start=True.",
    Status.DEGENERATE: "after {n_iter} iterations a component sits on fewer samples than its covariance needs or its "
    "dtype can tell from none, or is far narrower than the others: perhaps a spike of the likelihood rather than a cluster. "
    "Lower n_components, choose a simpler covariance_type, raise reg_covar, or fit float64.",
}

UNCONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, or check for "
    "degenerate data."
)
"""What scikit-learn says, too: scripts match it."""


SHORTEST_TRACE, LONGEST_TRACE = 1 << 10, 1 << 14
"""Length of the record of lower bounds: doubled, and compiled anew, until it holds ``max_iter``, up to the second."""


def trace_length(max_iter: int) -> int:
    return 1 << (min(max(max_iter, SHORTEST_TRACE), LONGEST_TRACE) - 1).bit_length()


class Talk:
    """Says how a fit goes, in scikit-learn's words.

    Args:
      verbose, interval: see the estimator.
      total: total weight of the samples.
      volume: what a mean log-likelihood of ours is above that of a sample in data units, nats.
    """

    def __init__(self, verbose: int, interval: int, total: float, volume: float) -> None:
        self.verbose, self.interval, self.total, self.volume = verbose, interval, total, volume
        self.said_at, self.began = 0, time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        if not self.verbose or progress.n_iter < self.said_at + self.interval:
            return
        now = time.perf_counter() - self.began
        best = float(progress.log_likelihood.max()) / self.total - self.volume
        self.said_at = progress.n_iter
        going = int((progress.status == Status.ITERATION_LIMIT).sum())
        details = f"\t time lapse {now:.5f}s\t lower bound {best:.5f}\t {going} going on" if self.verbose > 1 else ""
        print(f"  Iteration {progress.n_iter}{details}")

    def end(self, converged: bool, lower_bound: float) -> None:
        if self.verbose:
            lapse = f" time lapse {time.perf_counter() - self.began:.5f}s\t lower bound {lower_bound:.5f}."
            said = "converged" if converged else "did not converge"
            print(f"Initialization {said}.{lapse if self.verbose > 1 else ''}")


def in_words(status: int, converged: bool, n_iter: int, bounds: list[float], tol: float) -> str:
    """How a fit ended; and what may be left to gain, if gains go on to shrink as the last two did."""
    if n_iter == 0:
        return "not fitted: max_iter is 0, the parameters are the start."
    if status == Status.DEGENERATE and not converged:
        return (
            ADVICE[Status.ITERATION_LIMIT].format(n_iter=n_iter)
            + " A component is on few samples, or far narrower than others."
        )
    if status in ADVICE and not (status == Status.ITERATION_LIMIT and converged):
        return ADVICE[Status(status)].format(n_iter=n_iter)
    said = advice(Status.CONVERGED, n_iter)
    gains = np.diff(bounds[-3:])
    if len(gains) == 2 and 0 < gains[1] < gains[0]:
        ratio = gains[1] / gains[0]
        left = gains[1] * ratio / (1 - ratio)  # the rest of a geometric series
        if left > tol:
            return said[:-1] + f", but the gain was still falling slowly: some {left:.1g} nats a sample may be left. Lower tol."
    return said
