"""The command line: fit a mixture to a file of numbers, label with it, sample from it, show it.

Imports of what is heavy wait until a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from jaxgmm import tables

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from jaxgmm.params import GMMParams
    from jaxgmm.selection import Sweep

GUIDE = """Gaussian mixtures by expectation-maximisation.

Fit a file, look at the picture, keep the model: jaxgmm fit faithful.csv --plot fit.png --output model.safetensors.
Then label other rows with it: jaxgmm predict model.safetensors more.csv. Every command has a --help with examples and a
--json for scripts, and computes in float64; --install-completion teaches your shell the options.
"""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=GUIDE)

File = Annotated[Path, typer.Argument(help="CSV or Parquet file, one sample a row.")]
Model = Annotated[Path, typer.Argument(help="A model that `fit --output` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[int, typer.Option(help="Seed of the random key.", min=0, max=2**32 - 1)]

PLOT_SUFFIXES = (".png", ".pdf", ".svg", ".jpg")

MOST_COMPONENTS = 1_000_000
"""More are refused before they are counted one by one."""


def main() -> NoReturn:
    """Run the command line; bad input ends in one line and exit code 2."""
    try:
        code = _command()(standalone_mode=False)
        sys.stdout.flush()
    except typer.Exit as leave:
        code = leave.exit_code
    except KeyboardInterrupt:
        code = _complain("interrupted.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: let the last flush succeed
        code = 0
    except typer.TyperException as error:
        message = getattr(error, "format_message", lambda: str(error))()
        code = _complain(f"{message} Try 'jaxgmm --help'.", 2) if message else 2
    except (tables.BadInput, ValueError, OSError) as error:
        code = _complain(" ".join(str(error).split()), 2)
    sys.exit(code or 0)


def _command() -> Any:
    """The command line; flags show no type in its help, as they take no value."""
    command: Any = typer.main.get_command(app)
    for one in (command, *command.commands.values()):
        for option in one.get_params(typer.Context(one)):
            if getattr(option, "is_flag", False):
                option.metavar = ""
    return command


def _complain(message: str, code: int) -> int:
    print(f"jaxgmm: {message}", file=sys.stderr)
    return code


@app.command()
def fit(
    file: File,
    components: Annotated[
        str, typer.Option(help="A number of components; or a range, 1:9, or a list, 1,2,4, chosen from by BIC.")
    ] = "1:9",
    covariance_type: Annotated[
        str, typer.Option(help="full, tied, diag, spherical, one of mclust: EEV, ...; or UUU-5, ...")
    ] = "full",
    restarts: Annotated[int, typer.Option(help="Random starts; the likeliest end is kept.")] = 16,
    seed: Seed = 0,
    columns: Annotated[str | None, typer.Option(help="Columns to fit, separated by commas; all numeric ones without.")] = None,
    group: Annotated[str | None, typer.Option(help="Fit a mixture to each group of rows that share a value here.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the model to this safetensors file; with --group, those of all into a folder without models."),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Write component and probability of each row to this CSV file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw samples and components to this picture (png, pdf, svg); not with --group.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Fit a Gaussian mixture to the numeric columns of FILE.

    The number of components is chosen by BIC. Rows with missing values are left out, and said so. Components and the rows of
    the labels count from 0. The picture shows clusters with ellipses that hold 50 % and 95 % of a component; for one column a
    histogram, for more than two all pairs.

    Examples: jaxgmm fit faithful.csv --components 1:6 --plot fit.png;
    jaxgmm fit sales.parquet --group shop --columns price,amount --labels labels.csv --output models
    """
    counts = _component_range(components)
    _check_outputs(file, output, labels, plot, group)
    table = tables.read_table(file, ",".join(filter(None, (columns, group))))
    if group is not None and group not in table.columns:
        raise tables.BadInput(f"there is no column {group!r}, which --group asks for. Columns: {', '.join(table.columns)}.")
    if group is not None and group in [name.strip() for name in (columns or "").split(",")]:
        raise tables.BadInput(f"--columns names {group!r}, by which --group divides the rows. Leave it out of one of them.")
    names = tables.choose_columns(table if group is None else table.drop(group), columns)
    X, complete = tables.numbers(table, names, file)
    if group is not None:
        _start_jax()
        from jaxgmm.cli_groups import fit_all

        return _ended(
            fit_all(table, group, names, X, complete, counts, covariance_type, restarts, seed, output, labels, as_json)
        )
    n_rows = table.height
    del table  # its memory is that of X once more
    if counts[-1] > len(X):
        raise tables.BadInput(f"--components {components} asks for more components than there are complete rows, {len(X)}.")
    _start_jax()

    import numpy as np

    import jaxgmm
    from jaxgmm.reports import as_dict, component_table, criteria_table, label_frame

    grid = _sweep(X, counts, covariance_type, restarts, seed)
    best = grid.best
    result, params = grid.best_result, grid.best_result.params

    header = {"columns": json.dumps(names), "status": result.message, "log_likelihood": repr(float(grid.log_likelihood[best]))}
    header |= {"bic": repr(float(grid.bic[best])), "n_samples": str(len(X)), "source": file.name}
    if output is not None:
        jaxgmm.save(output, params, header)
    if labels is not None:
        label_frame(params, X, complete).write_csv(labels)
    if plot is not None:
        import matplotlib

        from jaxgmm.plotting import plot_fit

        matplotlib.use("Agg")  # a file is all that is wanted
        np.ravel(plot_fit(params, X, names=names))[0].figure.savefig(plot, dpi=150)
    if as_json:
        report = {
            "file": str(file), "columns": names, "rows": n_rows, "rows_used": len(X),
            "covariance_type": covariance_type, "restarts": restarts, "seed": seed,
            "log_likelihood": float(grid.log_likelihood[best]), "bic": float(grid.bic[best]), "n_iter": int(result.n_iter),
            "status": jaxgmm.Status(int(result.status)).name, "message": result.message,
            "criteria": [
                {"components": int(k), "log_likelihood": float(log_l), "bic": float(bic), "status": jaxgmm.Status(status).name}
                for k, log_l, bic, status in zip(
                    grid.n_components, grid.log_likelihood, grid.bic, grid.status, strict=True
                )
            ],
            **as_dict(params),
        }  # fmt: skip
        print(json.dumps(report))
        return _ended(grid.status)
    from rich.console import Console

    console = Console()
    if len(counts) > 1:
        console.print(criteria_table(grid))
    sizes = np.bincount(jaxgmm.predict(params, X), minlength=params.n_components)
    console.print(component_table(params, names, [int(s) for s in sizes]))
    console.print(
        f"{len(X)} of {n_rows} rows, {len(names)} features, {covariance_type} covariance, {restarts} restarts\n"
        f"log-likelihood {grid.log_likelihood[best]:.4f} nats, BIC {grid.bic[best]:.2f} (smaller is better)",
        highlight=False,
        markup=False,
    )
    console.print(f"Status: {result.message}", highlight=False, markup=False)
    for path in (output, labels, plot):
        if path is not None:
            console.print(f"wrote {path}", highlight=False, markup=False)
    return _ended(grid.status)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model that `fit --output` wrote, or with --group the folder of models.")],
    file: File,
    output: Annotated[Path | None, typer.Option(help="Write to this CSV file instead of the terminal.")] = None,
    as_json: Json = False,
) -> None:
    """Label the rows of FILE, counted from 0, with the component of the largest responsibility, and its probability.

    Examples: jaxgmm predict model.safetensors faithful.csv --output labels.csv; jaxgmm predict models sales.csv
    """
    if model.is_dir():
        _start_jax()
        from jaxgmm.cli_groups import predict_all

        frame = predict_all(model, file)
    else:
        params, names = _load(model)
        from jaxgmm.reports import label_frame

        table = tables.read_table(file, ",".join(names))
        X, complete = tables.numbers(table, tables.require(table, names, "the model was fitted to"), file)
        frame = label_frame(params, X, complete)
    if output is not None and output.resolve() in (file.resolve(), model.resolve()):
        raise tables.BadInput("--output must not name a file that is read.")
    _emit(frame, output, as_json)


@app.command()
def sample(
    model: Model,
    n: Annotated[int, typer.Option("-n", help="How many samples.", min=1, max=10**8)] = 100,
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option(help="Write to this CSV file instead of the terminal.")] = None,
    as_json: Json = False,
) -> None:
    """Draw samples from a model, with the component that each came from.

    Example: jaxgmm sample model.safetensors -n 100
    """
    params, names = _load(model)

    import jax
    import numpy as np
    import polars as pl

    import jaxgmm

    X, label = jaxgmm.sample(jax.random.key(seed), params, n)
    heading = "component"
    while heading in names:
        heading += "_"
    frame = pl.DataFrame(np.asarray(X), schema=names).with_columns(pl.Series(heading, np.asarray(label)))
    _emit(frame, output, as_json)


@app.command()
def show(model: Model, as_json: Json = False) -> None:
    """Show the weights, means and standard deviations of a model.

    Example: jaxgmm show model.safetensors
    """
    params, names = _load(model)
    from jaxgmm.io import load_metadata
    from jaxgmm.reports import as_dict, component_table

    header = load_metadata(model)
    if as_json:
        print(json.dumps({"columns": names, "header": header, **as_dict(params)}))
        return
    from rich.console import Console

    console = Console()
    console.print(component_table(params, names, None))
    about = ", ".join(f"{key} {header[key]}" for key in ("structure", "log_likelihood", "bic", "n_samples") if key in header)
    console.print(about, highlight=False, markup=False)
    if "status" in header:
        console.print(f"Status: {header['status']}", highlight=False, markup=False)


def _sweep(X: np.ndarray, counts: list[int], covariance_type: str, restarts: int, seed: int) -> Sweep:
    """A fit for each number of components, under a progress bar."""
    import jax
    from tqdm import tqdm

    import jaxgmm

    with tqdm(total=restarts * len(counts), unit="fit", leave=False, delay=0.5, disable=None) as bar:

        def progress(p: Any) -> None:
            bar.set_description(f"pass {p.n_iter}")
            bar.update(p.finished - bar.n)

        key = jax.random.key(seed)
        return jaxgmm.sweep(key, X, counts, covariance_type, n_restarts=restarts, callback=progress)


def _ended(statuses: Iterable[Any]) -> int:
    """The exit code: what Ctrl-C left is shown, but a script must not take it for the whole."""
    from jaxgmm import Status

    if Status.INTERRUPTED not in [int(status) for status in statuses]:
        return 0
    return _complain("interrupted; this is the best so far.", 130)


def _check_outputs(file: Path, output: Path | None, labels: Path | None, plot: Path | None, group: str | None) -> None:
    """Can all that is asked for be written?"""
    if group is not None and plot is not None:
        raise tables.BadInput("--plot draws one mixture; leave it out, or --group.")
    for path in (output, labels, plot):
        if path is not None and not path.resolve().parent.is_dir():
            raise tables.BadInput(f"{path}: the folder {path.resolve().parent} does not exist. Make it, or write elsewhere.")
        if path is not None and path.is_dir() and (path != output or group is None):
            raise tables.BadInput(f"{path} is a folder. Name a file in it.")
    if group is not None and output is not None:
        from jaxgmm.cli_groups import check_folder

        check_folder(output)
    written = [path.resolve() for path in (file, output, labels, plot) if path is not None]
    if len(set(written)) < len(written):
        raise tables.BadInput("FILE, --output, --labels and --plot must name different files.")
    if plot is not None and plot.suffix.lower() not in PLOT_SUFFIXES:
        raise tables.BadInput(f"{plot}: a picture ends in one of {', '.join(PLOT_SUFFIXES)}.")


def _component_range(text: str) -> list[int]:
    """The numbers of "3", "1:9", both ends included, or "1,2,4", in rising order."""
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?::\s*(\d+)\s*)?", part)
        numbers = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else range(0)
        if not numbers or numbers[0] < 1 or numbers[-1] > MOST_COMPONENTS:
            raise tables.BadInput(
                "--components must be a number such as 3, a range such as 1:9 or a list such as 1,2,4, "
                f"up to {MOST_COMPONENTS:,}; got {text!r}."
            )
        found |= set(numbers)
    return sorted(found)


def _emit(frame: pl.DataFrame, output: Path | None, as_json: bool) -> None:
    if output is not None:
        frame.write_json(output) if as_json else frame.write_csv(output)
    else:
        sys.stdout.write(frame.write_json() + "\n" if as_json else frame.write_csv())


def _load(model: Path) -> tuple[GMMParams, list[str]]:
    if model.is_dir():
        raise tables.BadInput(f"{model} is a folder. Name a model in it.")
    _start_jax()
    from jaxgmm.io import load, load_metadata

    params, header = load(model), load_metadata(model)
    try:
        names = json.loads(header.get("columns", "null"))
    except json.JSONDecodeError:
        names = None  # metadata of another kind, from Python
    sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not sound or not len(names) == len(set(names)) == params.n_features:
        names = [f"x{d}" for d in range(params.n_features)]
    return params, names


def _start_jax() -> None:
    """float64, and compiled programs kept between runs."""
    import jax

    from jaxgmm.cache import keep_compiled

    jax.config.update("jax_enable_x64", True)
    keep_compiled()
