"""The command line by groups: a mixture for each group of rows, their models in a folder, labels by that folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import polars as pl
from rich.console import Console

from jaxgmm import tables
from jaxgmm.grouped import GroupFit, classify, fit_groups
from jaxgmm.io import load, load_metadata, save
from jaxgmm.loop import Status
from jaxgmm.params import GMMParams
from jaxgmm.reports import as_dict, group_table, placed

SUFFIX = ".safetensors"


def fit_all(
    table: pl.DataFrame,
    group: str,
    names: list[str],
    X: np.ndarray,
    complete: np.ndarray,
    counts: list[int],
    covariance_type: str,
    restarts: int,
    seed: int,
    output: Path | None,
    labels: Path | None,
    as_json: bool,
) -> list[int]:
    """A mixture for each group: a table or JSON, models in a folder, labels. Returns how the fits ended."""
    groups = tables.group_names(table[group])
    known = groups.is_not_null().to_numpy()
    if without := int((complete & ~known).sum()):
        tables.note(f"left out {without} rows without a {group}")
    X, complete = X[known[complete]], complete & known
    if not len(X):
        raise tables.BadInput(f"column {group!r} is empty. Choose another --group.")
    column = groups.filter(pl.Series(complete)).to_numpy()
    largest = int(np.unique_counts(column).counts.max())
    if counts[-1] > largest:
        raise tables.BadInput(f"--components asks for up to {counts[-1]}, and the largest group has {largest} complete rows.")
    fits = fit_groups(jax.random.key(seed), X, column, counts, covariance_type, restarts)
    if thin := [str(fit.name) for fit in fits if fit.status == Status.DEGENERATE]:
        which = f"{len(thin)} group{'s' * (len(thin) > 1)}"
        tables.note(f"every number of components is degenerate in {which}, and the smallest is kept: {tables.listed(thin)}")
    if output is not None:
        _write(output, fits, group, names)
    if labels is not None:
        placed(*classify([(fit.params, fit.rows) for fit in fits], X), complete, groups).write_csv(labels)
    if as_json:
        report = [
            {
                "group": str(fit.name), "rows_used": len(fit.rows), "components": fit.params.n_components,
                "log_likelihood": fit.log_likelihood, "bic": fit.bic, "status": Status(fit.status).name,
                "message": fit.message, **as_dict(fit.params),
            }
            for fit in fits
        ]  # fmt: skip
        print(json.dumps({"columns": names, "group": group, "groups": report}))
    else:
        console = Console()
        console.print(group_table(fits, group))
        if output is not None:
            console.print(f"wrote {len(fits)} models to {output}", highlight=False, markup=False)
        if labels is not None:
            console.print(f"wrote {labels}", highlight=False, markup=False)
    return [fit.status for fit in fits]


def check_folder(folder: Path) -> None:
    """Models of two runs must not lie side by side: ``predict`` takes all that a folder holds."""
    if folder.is_file():
        raise tables.BadInput(f"{folder} is a file; with --group it is the folder of the models.")
    if any(folder.glob(f"*{SUFFIX}")):
        raise tables.BadInput(f"{folder} holds models already. Name another folder, or empty this one.")


def predict_all(folder: Path, file: Path) -> pl.DataFrame:
    """Each row of a file labelled by the model of its group."""
    group, names, models = _read(folder)
    table = tables.read_table(file, ",".join((group, *names)))
    if group not in table.columns:
        raise tables.BadInput(
            f"there is no column {group!r}, by which the models were made. Columns: {', '.join(table.columns)}."
        )
    X, complete = tables.numbers(table, tables.require(table, names, "the models were fitted to"), file)
    groups = tables.group_names(table[group])
    known = groups.is_not_null().to_numpy()
    X, complete = X[known[complete]], complete & known
    found, member = np.unique(groups.filter(pl.Series(complete)).to_numpy(), return_inverse=True)
    rows = {str(name): np.flatnonzero(member == g) for g, name in enumerate(found)}
    if strange := [name for name in rows if name not in models]:
        n_rows = sum(len(rows[name]) for name in strange)
        which = f"group{'s' * (len(strange) > 1)} {tables.listed(strange)}"
        tables.note(f"{folder} has no model of the {which}: labels of {n_rows} rows are left blank")
    return placed(*classify([(models[name], rows[name]) for name in rows if name in models], X), complete, groups)


def _write(folder: Path, fits: list[GroupFit], group: str, names: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for i, fit in enumerate(fits):
        header = {"columns": json.dumps(names), "status": fit.message, "group_column": group, "group": str(fit.name)}
        header |= {"log_likelihood": repr(fit.log_likelihood), "bic": repr(fit.bic), "n_samples": str(len(fit.rows))}
        safe = re.sub(r"[^\w.-]", "_", str(fit.name))[:100]
        save(folder / f"{i:04d}_{safe}{SUFFIX}", fit.params, header)


def _read(folder: Path) -> tuple[str, list[str], dict[str, GMMParams]]:
    """The column that divides, the columns that were fitted, and the mixture of each group."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    headers = [load_metadata(file) for file in files]
    runs = {(header.get("group_column"), header.get("columns")) for header in headers}
    group, columns = runs.pop() if len(runs) == 1 else (None, None)
    if group is None or columns is None:
        raise tables.BadInput(f"{folder} does not hold the models of one run of `fit --group --output`. Name a model file.")
    models = {header["group"]: load(file) for header, file in zip(headers, files, strict=True)}
    return group, json.loads(columns), models
