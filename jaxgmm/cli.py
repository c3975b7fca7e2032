"""The command line: fit a mixture to a file of numbers, label with it, sample from it, show it.

Imports of what is heavy wait until a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from jaxgmm import tables

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from jaxgmm.params import GMMParams
    from jaxgmm.selection import Sweep

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Gaussian mixtures by expectation-maximisation.")

File = Annotated[Path, typer.Argument(help="CSV or Parquet file, one sample a row.")]
Model = Annotated[Path, typer.Argument(help="A model that `fit --output` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[int, typer.Option(help="Seed of the random key.", min=0, max=2**32 - 1)]

PLOT_SUFFIXES = (".png", ".pdf", ".svg", ".jpg")


def main() -> NoReturn:
    """Run the command line; bad input ends in one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
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


def _complain(message: str, code: int) -> int:
    print(f"jaxgmm: {message}", file=sys.stderr)
    return code


@app.command()
def fit(
    file: File,
    components: Annotated[str, typer.Option(help="A number of components, or a range such as 1:9, chosen by BIC.")] = "1:9",
    covariance_type: Annotated[str, typer.Option(help="full, tied, diag or spherical.")] = "full",
    restarts: Annotated[int, typer.Option(help="Random starts; the likeliest end is kept.")] = 16,
    seed: Seed = 0,
    columns: Annotated[str | None, typer.Option(help="Columns to fit, separated by commas; all numeric ones without.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the model to this safetensors file.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Write component and probability of each row to this CSV file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw samples and components to this picture (png, pdf, svg).")] = None,
    as_json: Json = False,
) -> None:
    """Fit a Gaussian mixture to the numeric columns of FILE.

    Example: jaxgmm fit faithful.csv --components 1:6 --plot fit.png
    """
    counts = _component_range(components)
    for path in (output, labels, plot):
        if path is not None and not path.resolve().parent.is_dir():
            raise tables.BadInput(f"{path}: the folder {path.resolve().parent} does not exist. Make it, or write elsewhere.")
        if path is not None and path.is_dir():
            raise tables.BadInput(f"{path} is a folder. Name a file in it.")
    written = [path.resolve() for path in (file, output, labels, plot) if path is not None]
    if len(set(written)) < len(written):
        raise tables.BadInput("FILE, --output, --labels and --plot must name different files.")
    if plot is not None and plot.suffix.lower() not in PLOT_SUFFIXES:
        raise tables.BadInput(f"{plot}: a picture ends in one of {', '.join(PLOT_SUFFIXES)}.")
    table = tables.read_table(file)
    names = tables.choose_columns(table, columns)
    X, complete = tables.numbers(table, names, file)
    if counts[-1] > len(X):
        raise tables.BadInput(f"--components {components} asks for more components than there are complete rows, {len(X)}.")
    _start_jax()

    import numpy as np

    import jaxgmm

    grid = _sweep(X, counts, covariance_type, restarts, seed)
    best = grid.best
    result, params = grid.best_result, grid.best_result.params

    header = {"columns": json.dumps(names), "status": result.message, "log_likelihood": repr(float(grid.log_likelihood[best]))}
    header |= {"bic": repr(float(grid.bic[best])), "n_samples": str(len(X)), "source": file.name}
    if output is not None:
        jaxgmm.save(output, params, header)
    if labels is not None:
        _label_frame(params, X, complete).write_csv(labels)
    if plot is not None:
        from jaxgmm.plotting import plot_fit

        plot_fit(params, X, names).savefig(plot, dpi=150)
    if as_json:
        report = {
            "file": str(file), "columns": names, "rows": table.height, "rows_used": len(X),
            "covariance_type": covariance_type, "restarts": restarts, "seed": seed,
            "log_likelihood": float(grid.log_likelihood[best]), "bic": float(grid.bic[best]), "n_iter": int(result.n_iter),
            "status": jaxgmm.Status(int(result.status)).name, "message": result.message,
            "criteria": [
                {"components": int(k), "log_likelihood": float(log_l), "bic": float(bic), "status": jaxgmm.Status(status).name}
                for k, log_l, bic, status in zip(
                    grid.n_components, grid.log_likelihood, grid.bic, grid.status, strict=True
                )
            ],
            **_as_dict(params),
        }  # fmt: skip
        print(json.dumps(report))
        return
    from rich.console import Console

    console = Console()
    if len(counts) > 1:
        console.print(_criteria_table(grid))
    sizes = np.bincount(jaxgmm.predict(params, X), minlength=params.n_components)
    console.print(_component_table(params, names, [int(s) for s in sizes]))
    console.print(
        f"{len(X)} of {table.height} rows, {len(names)} features, {covariance_type} covariance, {restarts} restarts\n"
        f"log-likelihood {grid.log_likelihood[best]:.4f} nats, BIC {grid.bic[best]:.2f} (smaller is better)",
        highlight=False,
        markup=False,
    )
    console.print(f"Status: {result.message}", highlight=False, markup=False)
    for path in (output, labels, plot):
        if path is not None:
            console.print(f"wrote {path}", highlight=False, markup=False)


@app.command()
def predict(
    model: Model,
    file: File,
    output: Annotated[Path | None, typer.Option(help="Write to this CSV file instead of the terminal.")] = None,
    as_json: Json = False,
) -> None:
    """Label the rows of FILE with the component of the largest responsibility, and its probability.

    Example: jaxgmm predict model.safetensors faithful.csv --output labels.csv
    """
    params, names = _load(model)
    table = tables.read_table(file)
    X, complete = tables.numbers(table, tables.require(table, names, "the model was fitted to"), file)
    frame = _label_frame(params, X, complete)
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

    header = load_metadata(model)
    if as_json:
        print(json.dumps({"columns": names, "header": header, **_as_dict(params)}))
        return
    from rich.console import Console

    console = Console()
    console.print(_component_table(params, names, None))
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
            bar.update(int((p.status != 0).sum()) - bar.n)

        key = jax.random.key(seed)
        return jaxgmm.sweep(key, X, counts, covariance_type, n_restarts=restarts, callback=progress)


def _component_range(text: str) -> list[int]:
    """ "3" or "1:9", both ends included."""
    parts = text.split(":")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or numbers[0] < 1 or numbers[-1] < numbers[0]:
        raise tables.BadInput(f"--components must be a number such as 3 or a range such as 1:9; got {text!r}.")
    return list(range(numbers[0], numbers[-1] + 1))


def _label_frame(params: GMMParams, X: np.ndarray, complete: np.ndarray) -> pl.DataFrame:
    """Component and probability in the file's order of rows, blank where a row was left out or lies out of all reach."""
    import numpy as np
    import polars as pl

    from jaxgmm.density import predict_proba

    gamma = np.asarray(predict_proba(params, X))
    component = np.zeros(len(complete), np.int64)
    probability = np.zeros(len(complete))
    component[complete], probability[complete] = gamma.argmax(axis=1), gamma.max(axis=1)
    known = complete & np.isfinite(probability)  # beyond the reach of every component there is nothing to say
    frame = pl.DataFrame({"component": component, "probability": probability})
    return frame.select(pl.when(pl.Series(known)).then(pl.all()))


def _emit(frame: pl.DataFrame, output: Path | None, as_json: bool) -> None:
    if output is not None:
        frame.write_json(output) if as_json else frame.write_csv(output)
    else:
        sys.stdout.write(frame.write_json() + "\n" if as_json else frame.write_csv())


def _load(model: Path) -> tuple[GMMParams, list[str]]:
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


def _as_dict(params: GMMParams) -> dict[str, Any]:
    from jaxgmm.params import covariances

    return {
        "structure": params.structure.name,
        "weights": params.weights.tolist(),
        "means": params.means.tolist(),
        "covariances": covariances(params).tolist(),
    }


def _criteria_table(grid: Sweep) -> Any:
    from rich.table import Table

    from jaxgmm.loop import Status

    table = Table(title="Number of components by BIC (smaller is better)", title_justify="left")
    for heading in ("components", "log-likelihood", "BIC", "status"):
        table.add_column(heading, justify="left" if heading == "status" else "right")
    for i, k in enumerate(grid.n_components):
        chosen = i == grid.best
        status = Status(int(grid.status[i])).name.lower().replace("_", " ") + ("  <- chosen" if chosen else "")
        row = (str(k), f"{grid.log_likelihood[i]:.3f}", f"{grid.bic[i]:.2f}", status)
        table.add_row(*row, style="bold" if chosen else "")
    return table


def _component_table(params: GMMParams, names: list[str], sizes: list[int] | None) -> Any:
    """Components by falling weight: mean and, in brackets, standard deviation of each feature."""
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from jaxgmm.params import covariances

    deviation = np.sqrt(np.diagonal(np.asarray(covariances(params)), axis1=1, axis2=2))
    means, weights = np.asarray(params.means), np.asarray(params.weights)
    table = Table(title="Components: mean (standard deviation)", title_justify="left")
    for heading in ("component", "weight", *(["rows"] if sizes else []), *names):
        table.add_column(Text(heading), justify="right")
    for k in np.argsort(-weights, kind="stable"):
        cells = [f"{m:.5g} ({s:.3g})" for m, s in zip(means[k], deviation[k], strict=True)]
        table.add_row(str(k), f"{weights[k]:.4f}", *([str(sizes[k])] if sizes else []), *cells)
    return table


def _start_jax() -> None:
    """float64, and compiled programs kept between runs."""
    import jax

    from jaxgmm.cache import keep_compiled

    jax.config.update("jax_enable_x64", True)
    keep_compiled()
