"""What the command line says of fits: tables for a terminal, dictionaries for JSON, frames for files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table
from rich.text import Text

from jaxgmm.density import predict_proba
from jaxgmm.grouped import GroupFit
from jaxgmm.loop import Status
from jaxgmm.params import GMMParams, covariances
from jaxgmm.selection import Sweep


def label_frame(params: GMMParams, X: np.ndarray, complete: np.ndarray) -> pl.DataFrame:
    """Component and probability in the file's order of rows, blank where a row was left out or lies out of all reach."""
    gamma = np.asarray(predict_proba(params, X))
    return placed(gamma.argmax(axis=1), gamma.max(axis=1), complete)


def placed(chosen: np.ndarray, certainty: np.ndarray, complete: np.ndarray, groups: pl.Series | None = None) -> pl.DataFrame:
    """Rows counted from 0, their group if there are any, and components and probabilities of the complete ones."""
    component = np.zeros(len(complete), np.int64)
    probability = np.zeros(len(complete))
    component[complete], probability[complete] = chosen, certainty
    known = complete & np.isfinite(probability)  # beyond the reach of every component there is nothing to say
    frame = pl.DataFrame({"component": component, "probability": probability})
    frame = frame.select(pl.when(pl.Series(known)).then(pl.all()))
    if groups is not None:
        frame.insert_column(0, groups.alias("group"))
    return frame.with_row_index("row")


def as_dict(params: GMMParams) -> dict[str, Any]:
    """A mixture with dense covariances."""
    return {
        "structure": params.structure.name,
        "weights": np.asarray(params.weights).tolist(),
        "means": np.asarray(params.means).tolist(),
        "covariances": covariances(params).tolist(),
    }


def criteria_table(grid: Sweep) -> Table:
    """A row a number of components."""
    table = Table(title="Number of components by BIC (smaller is better)", title_justify="left")
    for heading in ("components", "log-likelihood", "BIC", "status"):
        table.add_column(heading, justify="left" if heading == "status" else "right")
    for i, k in enumerate(grid.n_components):
        chosen = i == grid.best
        status = Status(int(grid.status[i])).name.lower().replace("_", " ") + ("  <- chosen" if chosen else "")
        row = (str(k), f"{grid.log_likelihood[i]:.3f}", f"{grid.bic[i]:.2f}", status)
        table.add_row(*row, style="bold" if chosen else "")
    return table


def component_table(params: GMMParams, names: list[str], sizes: list[int] | None) -> Table:
    """Components by label: mean and, in brackets, standard deviation of each feature."""
    deviation = np.sqrt(np.diagonal(np.asarray(covariances(params)), axis1=1, axis2=2))
    means, weights = np.asarray(params.means), np.asarray(params.weights)
    table = Table(title="Components: mean (standard deviation)", title_justify="left")
    for heading in ("component", "weight", *(["rows"] if sizes else []), *names):
        table.add_column(Text(heading), justify="right")
    for k in range(len(weights)):
        cells = [f"{m:.5g} ({s:.3g})" for m, s in zip(means[k], deviation[k], strict=True)]
        table.add_row(str(k), f"{weights[k]:.4f}", *([str(sizes[k])] if sizes else []), *cells)
    return table


def group_table(fits: Sequence[GroupFit], group: str) -> Table:
    """A row a group."""
    table = Table(title=f"A mixture for each {group}, components by BIC", title_justify="left")
    for heading in (group, "rows", "components", "log-likelihood", "BIC", "status"):
        table.add_column(Text(heading), justify="left" if heading in (group, "status") else "right")
    for fit in fits:
        row = (str(len(fit.rows)), str(fit.params.n_components), f"{fit.log_likelihood:.3f}", f"{fit.bic:.2f}")
        table.add_row(Text(str(fit.name)), *row, Status(fit.status).name.lower().replace("_", " "))
    return table
