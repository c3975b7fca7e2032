"""A mixture for each group of a table, its number of components chosen by BIC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxgmm.density import predict_proba
from jaxgmm.loop import Status, advice
from jaxgmm.many import fit_many
from jaxgmm.params import GMMParams, n_free_parameters
from jaxgmm.rounds import Progress


class GroupFit(NamedTuple):
    """The mixture of a group."""

    name: Any
    rows: np.ndarray  # their places in the table
    params: GMMParams
    log_likelihood: float
    bic: float
    status: int
    message: str


def fit_groups(
    key: Array,
    X: np.ndarray,
    groups: np.ndarray,
    counts: Sequence[int],
    covariance_type: str,
    n_restarts: int,
    callback: Callable[[Progress], None] | None = None,
) -> list[GroupFit]:
    """Fit every number of components to every group, all groups at once, and keep the lowest BIC of each.

    A fit that is degenerate counts only where there is no other: a group of few rows has fewer components. Where all are,
    their likelihoods say nothing, and the smallest number is kept.

    Args:
      key: random key.
      X: (N, D) complete rows.
      groups: (N,) which group each belongs to.
      counts: numbers of components.
      covariance_type, n_restarts, callback: see ``fit_many``.
    """
    names, member = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(member == g) for g in range(len(names))]
    best: list[tuple[tuple[int, float], GroupFit] | None] = [None] * len(names)
    for count in sorted(counts):
        found = fit_many(
            key, X, count, groups=member, covariance_type=covariance_type, n_restarts=n_restarts, callback=callback
        )
        found = jax.tree.map(np.asarray, found)
        for g, name in enumerate(names):
            one = jax.tree.map(lambda leaf, g=g: leaf[g], found)
            params, status, log_l = one.params, int(one.status), float(one.log_likelihood)
            bic = n_free_parameters(params) * np.log(len(rows[g])) - 2 * log_l
            rank = {Status.NONFINITE: 2, Status.DEGENERATE: 1}.get(Status(status), 0)
            fit = GroupFit(name, rows[g], params, log_l, float(bic), status, advice(status, int(one.n_iter)))
            order = rank, (count if rank else fit.bic)
            known = best[g]
            if known is None or order < known[0]:
                best[g] = order, fit
    return [known[1] for known in best if known is not None]


def classify(parts: Sequence[tuple[GMMParams, np.ndarray]], X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The component of each row in the mixture of its group, (N,), and its probability: NaN for rows of no group.

    Args:
      parts: of each group its mixture and its rows.
      X: (N, D) complete rows.
    """
    component, probability = np.zeros(len(X), int), np.full(len(X), np.nan)
    largest = max((len(rows) for _, rows in parts), default=0)
    for count in sorted({params.n_components for params, _ in parts}):
        mine = [(params, rows) for params, rows in parts if params.n_components == count]
        padded = np.stack([np.pad(X[rows], ((0, largest - len(rows)), (0, 0))) for _, rows in mine])
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(params for params, _ in mine))
        gamma = np.asarray(jax.vmap(predict_proba)(stacked, padded))
        for (_, rows), part in zip(mine, gamma, strict=True):
            seen = part[: len(rows)]
            component[rows], probability[rows] = seen.argmax(axis=1), seen.max(axis=1)
    return component, probability
