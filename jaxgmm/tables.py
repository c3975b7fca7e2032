"""Tables as arrays: read CSV and Parquet, choose numeric columns, keep complete rows."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

MISSING = [
    *("", "-", "--", "---", ".", "..", "?", "NA", "N/A", "n/a", "n.a.", "#N/A", "#N/A N/A", "#NA", "<NA>"),
    *("NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "#VALUE!", "#DIV/0!", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
]
"""Cells that hold no value: pandas's, and what spreadsheets and statistics programs write."""

COMMA_NUMBER = r'(?:^|[;\t])\s*"?[-+]?\d*,\d+(?:[eE][-+]?\d+)?"?\s*(?:[;\t]|$)'
QUOTED = r'"[^"]*"'

PARQUET = ".parquet", ".pq"

REPEATED = r"_duplicated_\d+$"
"""What polars adds to a name that it has met before."""

LEAST_IDENTIFIER = 10
"""Rows from which evenly spaced integers are taken for an identifier."""

NAMED = 3
"""Columns or groups that a note names; of the others it gives the number."""


class BadInput(Exception):
    """One line that says what is wrong with the input and what to do."""


def read_table(file: Path, asked: str = "") -> pl.DataFrame:
    """A Parquet file, or a text file of a header line and at least one row, separated by commas, semicolons or tabs.

    Of a Parquet file text is read only where it is ``asked`` for, by names separated by commas; elsewhere it is missing.
    """
    if not file.is_file():
        raise BadInput(f"{file} is a folder." if file.is_dir() else f"{file}: there is no such file.")
    try:
        if file.suffix.lower() in PARQUET:
            table = _parquet(file, [name.strip() for name in asked.split(",")])
        else:
            separator, decimal_comma = _dialect(file)
            table = _without_blanks(
                pl.read_csv(
                    file, infer_schema_length=None, null_values=MISSING, separator=separator, decimal_comma=decimal_comma
                ),
                decimal_comma,
            )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"{file} cannot be read as a table ({reason}). Give a CSV or Parquet file with a header line.") from None
    if file.suffix.lower() not in PARQUET:
        _check_header(table, file)
    if table.is_empty():
        raise BadInput(f"{file} has no rows below its header line.")
    return table


def _check_header(table: pl.DataFrame, file: Path) -> None:
    """A first line of numbers, perhaps with values missing, is none; one with numbers like those below may be none.

    Of names that are given twice it says what they are now.
    """
    first = {name: re.sub(REPEATED, "", name) for name in table.columns}
    shown = ", ".join(list(first.values())[:4])
    numbers = [_is_number(cell) for cell in first.values()]
    if any(numbers) and all(number or (cell and cell in MISSING) for number, cell in zip(numbers, first.values(), strict=True)):
        raise BadInput(f"{file} begins with numbers, {shown}. Add a header line with the columns' names.")
    header = _first_line(file)
    if again := [name for name, cell in first.items() if name != cell and name not in header]:
        note(f"columns of a name that the header line gives twice are called {', '.join(again[:NAMED])}")
    over_numbers = {name: cell for name, cell in first.items() if _is_numeric(table, name)}
    alike = any(_is_among(cell, table[name]) for name, cell in over_numbers.items())
    if alike and all(_is_number(cell) for cell in over_numbers.values()):
        note(f"the first line, {shown}, is taken for names, but has numbers like those below. Add a header line if it is a row")


def _parquet(file: Path, asked: list[str]) -> pl.DataFrame:
    schema = pl.read_parquet_schema(file)
    wanted = [name for name, dtype in schema.items() if dtype.is_numeric() or name in asked]
    table = pl.read_parquet(file, columns=wanted or None)
    return table.select(pl.col(name) if name in table.columns else pl.lit(None).alias(name) for name in schema)


def _first_line(file: Path) -> str:
    with file.open(errors="replace") as lines:
        return lines.readline()


def _dialect(file: Path) -> tuple[str, bool]:
    """What separates the names of the header line, and whether numbers are written with a decimal comma."""
    separator = max(",;\t", key=re.sub(QUOTED, "", _first_line(file)).count)
    with file.open(errors="replace") as lines:
        lines.readline()
        decimal_comma = separator != "," and any(re.search(COMMA_NUMBER, line) for line in lines)
    return separator, decimal_comma


def _without_blanks(table: pl.DataFrame, decimal_comma: bool) -> pl.DataFrame:
    """Names without blanks around them; text that is numbers but for blanks and quotes as numbers."""
    names = [name.strip() for name in table.columns]
    if len(set(names)) == len(names):
        table.columns = names
    for name in (name for name, dtype in table.schema.items() if dtype == pl.String):
        text = table[name].str.strip_chars()
        text = text.set(text.is_in(MISSING), None)
        if decimal_comma:
            text = text.str.replace(r"^([-+]?\d*),(\d+(?:[eE][-+]?\d+)?)$", "$1.$2")
        odd, cells, _ = _odd_cells(text)
        if odd == 0 < cells:
            table = table.with_columns(text.cast(pl.Float64))
        elif odd < cells / 2:
            table = table.with_columns(text)  # numbers but for a few cells: ``_said_of`` tells which
    return table


def _odd_cells(column: pl.Series) -> tuple[int, int, int]:
    """Of a column of text: how many cells are no numbers, how many are not missing, and the row of the first odd one."""
    odd = column.is_not_null() & column.cast(pl.Float64, strict=False).is_null()
    return int(odd.sum()), len(column) - column.null_count(), odd.arg_max() or 0


def _said_of(table: pl.DataFrame, name: str, few: bool = False) -> str:
    """Which cells of a column of text are no numbers; with ``few``, only where most are numbers."""
    column = table[name]
    if column.dtype != pl.String:
        return ""
    odd, cells, first = _odd_cells(column)
    if not odd or (few and odd >= cells / 2):
        return ""
    numbers = "is no number" if odd == 1 else "are no numbers"
    value = column[first] if len(column[first]) < 40 else column[first][:37] + "..."
    return f"{odd} of {cells} cells {numbers}, the first {value!r} in row {first}, counted from 0"


def choose_columns(table: pl.DataFrame, columns: str | None) -> list[str]:
    """The named columns, or all numeric ones; what is left out is reported."""
    if columns is not None:
        chosen = [c.strip() for c in columns.split(",") if c.strip()]
        if not chosen or len(set(chosen)) < len(chosen):
            raise BadInput(f"--columns must name different columns, separated by commas; got {columns!r}.")
        return require(table, chosen, "--columns asks for")
    names = [name for name in table.columns if _is_numeric(table, name)]
    left_out = [name for name in table.columns if name not in names]
    if not names:
        raise BadInput(
            f"no column is numeric; the columns are {', '.join(table.columns)}. "
            "Are they separated by commas, semicolons or tabs, in UTF-8, under a header line?"
        )
    if left_out:
        note(f"left out {len(left_out)} column{'s' * (len(left_out) > 1)} not numeric: {', '.join(left_out)}")
    for name in left_out:
        if said := _said_of(table, name, few=True):
            note(f"column {name!r} holds numbers, but {said}. Mend or empty such cells to fit the column")
    for name in names:
        if len(names) > 1 and _is_identifier(table[name]):
            others = ",".join(other for other in names if other != name)
            note(
                f"column {name!r} looks like an identifier or a row number, and is fitted. Leave it out by --columns {others!r}"
            )
    return names


def _is_identifier(column: pl.Series) -> bool:
    """Integers, all different and evenly spaced, whatever their order."""
    if not column.dtype.is_integer() or len(column) < LEAST_IDENTIFIER or column.null_count():
        return False
    if column.dtype == pl.Int128:  # more than NumPy holds
        return False
    values = column.to_numpy()
    low = int(values.min())
    step, rest = divmod(int(values.max()) - low, len(values) - 1)
    return rest == 0 < step and bool(((values - low) % step == 0).all()) and column.n_unique() == len(values)


def require(table: pl.DataFrame, names: list[str], what: str) -> list[str]:
    """``names``, each a numeric column of the table."""
    for name in names:
        if name not in table.columns:
            near = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise BadInput(f"there is no column {name!r}, which {what}.{hint} Columns: {', '.join(table.columns)}.")
        if table[name].null_count() == table.height:
            raise BadInput(f"column {name!r} holds no value. Leave it out.")
        if not _is_numeric(table, name):
            said = _said_of(table, name) or "its cells are no numbers"
            raise BadInput(f"column {name!r} is not numeric ({table.schema[name]}): {said}. Convert it, or leave it out.")
    return names


def numbers(table: pl.DataFrame, names: list[str], file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The complete rows as float64, and which rows they are."""
    X = table.select(pl.col(names).cast(pl.Float64)).to_numpy(order="c")  # as JAX holds it: one copy less
    present = np.isfinite(X)
    complete = present.all(axis=1)
    missing = int((~complete).sum())
    if missing == len(X):
        raise BadInput(f"{file}: every row lacks a value in {', '.join(names)}. Choose other --columns.")
    if missing:
        lacking = len(X) - present.sum(axis=0)
        causes = [f"{lacking[i]} in {names[i]}" for i in np.argsort(-lacking, kind="stable") if lacking[i]]
        note(f"left out {missing} of {len(X)} rows with missing or infinite values: {listed(causes)}")
    return X[complete] if missing else X, complete


def _is_numeric(table: pl.DataFrame, name: str) -> bool:
    return table.schema[name].is_numeric() and table[name].null_count() < table.height


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_among(text: str, column: pl.Series) -> bool:
    """A number, within the range of a column of numbers."""
    if not _is_number(text):
        return False
    values, number = column.cast(pl.Float64), float(text)
    return bool((values <= number).any() and (values >= number).any())


def group_names(column: pl.Series) -> pl.Series:
    """What divides the rows: numbers as numbers, whole ones as integers, all else as text; missing where there is none."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        same = whole.null_count() == column.null_count() and (whole == column).all()
        return whole if same else column
    return column if column.dtype.is_integer() else column.cast(pl.String)


def listed(parts: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return ", ".join(parts[:NAMED]) + more


def note(text: str) -> None:
    print(f"jaxgmm: {text}", file=sys.stderr)
