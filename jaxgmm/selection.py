"""Which number of components, which structure: a grid of fits, compared by information criteria."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm import batch, checks
from jaxgmm.batch import Plan
from jaxgmm.criteria import log_certainty
from jaxgmm.fitting import COVARIANCE_FLOOR, MAX_ITER, N_RESTARTS, TOL, admit, check_options, returned
from jaxgmm.initial import METHODS
from jaxgmm.loop import Status
from jaxgmm.params import GMMParams, n_free_parameters
from jaxgmm.result import FitResult
from jaxgmm.rounds import Progress, Run, at_once, counted, heard, rounds, together
from jaxgmm.structures import CLASSICS, Structure, get_structure


class Sweep(NamedTuple):
    """The fits of a grid; the arrays have an entry a fit, structure by structure.

    Attributes:
      covariance_type: (G,) names of the structures.
      n_components: (G,) K.
      log_likelihood: (G,) eq. (6), nats.
      n_free_parameters: (G,) see the function.
      aic, bic, icl: (G,) criteria, nats times two, smaller is better; see the functions.
      status: (G,) see ``Status``.
      results: the G fits, of NumPy arrays.
      best: the place of the fit with the lowest criterion among those that ended finite and not degenerate.

    >>> import jax, jaxgmm
    >>> found = jaxgmm.sweep(jax.random.key(0), [[0.0], [0.1], [0.2], [9.0], [9.1], [9.3]], [1, 2], "tied", n_restarts=2)
    >>> found.covariance_type.tolist(), found.n_free_parameters.tolist(), found.best_result.params.n_components
    (['tied', 'tied'], [2, 4], 2)
    >>> found
    Sweep: BIC, smaller is better; * chosen, ! not converged
    K   tied
    1  38.71
    2  *5.51
    """

    covariance_type: np.ndarray
    n_components: np.ndarray
    log_likelihood: np.ndarray
    n_free_parameters: np.ndarray
    aic: np.ndarray
    bic: np.ndarray
    icl: np.ndarray
    status: np.ndarray
    results: tuple[FitResult, ...]
    best: int

    def __repr__(self) -> str:
        """BIC by number of components and structure."""
        if not all(isinstance(column, np.ndarray) for column in self[: self._fields.index("results")]):
            return f"Sweep({', '.join(f'{name}={value!r}' for name, value in zip(self._fields, self, strict=True))})"
        cells = {
            (k, name): f"{'*' * (place == self.best)}{bic:.2f}{'' if status == Status.CONVERGED else '!'}"
            for place, (k, name, bic, status) in enumerate(
                zip(self.n_components.tolist(), self.covariance_type.tolist(), self.bic, self.status, strict=True)
            )
        }
        names = list(dict.fromkeys(name for _, name in cells))
        rows = [["K", *names]] + [
            [str(k), *(cells.get((k, name), "") for name in names)] for k in sorted({k for k, _ in cells})
        ]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)) for row in rows]
        return "\n".join(["Sweep: BIC, smaller is better; * chosen, ! not converged", *table])

    @property
    def best_result(self) -> FitResult:
        """The fit that was chosen."""
        return self.results[self.best]


def sweep(
    key: Array,
    X: ArrayLike,
    n_components: int | Sequence[int] = range(1, 10),
    covariance_type: str | Structure | Sequence[str | Structure] = CLASSICS,
    *,
    n_restarts: int = N_RESTARTS,
    init: str = "kmeans",
    sample_weight: ArrayLike | None = None,
    tol: ArrayLike = TOL,
    max_iter: int = MAX_ITER,
    covariance_floor: ArrayLike = COVARIANCE_FLOOR,
    accelerate: str | None = None,
    criterion: str = "bic",
    callback: Callable[[Progress], None] | None = None,
    progress: bool = False,
) -> Sweep:
    """Fit every number of components in every structure, and compare.

    The fit of K components is what ``fit(key, X, K, ...)`` gives, up to rounding. All numbers of components of a structure
    go on side by side as mixtures of the largest number, the components beyond K without weight, so a structure is compiled
    once. Runs on the host.

    Args:
      key: random key; see ``fit``.
      X: (N, D) samples, in data units.
      n_components: the numbers of components, or one; each at most once.
      covariance_type: a structure or several.
      criterion: "bic", "aic" or "icl", what ``best`` is chosen by.
      callback: called with a ``Progress`` of the fits of one structure after each round; structures take turns.
      progress: show a bar (needs tqdm, in the extra ``cli``). Ctrl-C ends all fits that are under way, in
        ``Status.INTERRUPTED``; structures that had not begun are left out.
      n_restarts, init, sample_weight, tol, max_iter, covariance_floor, accelerate: see ``fit``; ``init`` by name.

    Returns:
      A ``Sweep``: a table of the fits, and which is best.

    Raises:
      ValueError: as ``fit``; a number of components given twice, none, or no structure; a criterion of another name; a call
        under a trace.
      ImportError: ``progress`` without tqdm.

    Source: see ``fit`` for the fits; ``aic``, ``bic`` and ``icl`` for the criteria.

    >>> import jax, jaxgmm
    >>> X = [[0.0], [0.1], [0.2], [0.4], [9.0], [9.1], [9.2], [9.4]]
    >>> found = jaxgmm.sweep(jax.random.key(0), X, range(1, 3), "tied", n_restarts=2)
    >>> int(found.n_components[found.best])
    2
    """
    key = checks.check_key(key)
    advice = "inside jit use jaxgmm.fit for each number of components"
    checks.refuse_trace("sweep", advice, key, X, sample_weight)
    data, offset = admit(X, sample_weight)
    n_present = checks.n_present(sample_weight, len(data.X))
    several_counts = n_components if isinstance(n_components, Iterable) else [n_components]
    counts = [checks.check_n_components(k, n_present) for k in several_counts]
    if not counts or len(set(counts)) < len(counts):
        raise ValueError(f"n_components must be different numbers, at least one; got {counts}.")
    several = [covariance_type] if isinstance(covariance_type, (str, Structure)) else list(covariance_type)
    structures = [get_structure(one) for one in several]
    if not structures:
        raise ValueError("covariance_type must name at least one structure.")
    checks.check_choice("init", init, METHODS)
    checks.check_choice("criterion", criterion, ["bic", "aic", "icl"])
    n_restarts = checks.check_int("n_restarts", n_restarts, 1)
    options = check_options(data.X, tol, max_iter, covariance_floor, accelerate, 0)
    checks.refuse_trace("sweep", advice, options)
    floor, tol, passes, accelerate, trace = options
    keys = _keys(key, n_restarts, len(counts))
    n_used = jnp.asarray(np.repeat(np.array(counts, np.int32), n_restarts))
    n_lanes = len(keys)
    total = n_present if data.weight is None else float(np.asarray(data.weight).sum(dtype=np.float64))

    def rows_of(structure: Structure) -> Run[list[dict[str, Any]]]:
        plan = Plan(structure, max(counts), init, accelerate, trace, batch.good_width(data, n_lanes, max(counts)))
        running = yield partial(batch.begin, keys, data, None, n_used, n_lanes, floor, plan)
        advance = partial(batch.advance, data=data, most=passes, tol=tol, plan=plan)
        said = None if say is None else partial(say, structure)
        running = yield from rounds(running, advance, int(passes), n_lanes, said, structure.name)
        ends = yield partial(batch.finish, running, n_restarts)
        certainty = yield partial(_log_certainty, ends.params, data.X, data.weight)
        certainty = np.asarray(certainty, np.float64)
        ends = jax.tree.map(np.asarray, ends)  # slices of many shapes: NumPy compiles nothing for them
        rows = []
        for i, k in enumerate(counts):
            end = jax.tree.map(lambda leaf, i=i: leaf[i], ends)
            result = returned(end._replace(params=_narrowed(end.params, k)), offset)
            m, log_l = n_free_parameters(result.params), float(result.log_likelihood)
            bic = m * np.log(total) - 2 * log_l
            rows.append(
                {
                    "covariance_type": structure.name,
                    "n_components": k,
                    "log_likelihood": log_l,
                    "n_free_parameters": m,
                    "aic": 2 * m - 2 * log_l,
                    "bic": bic,
                    "icl": bic - 2 * certainty[i],
                    "status": int(result.status),
                    "results": result,
                }
            )
        return rows

    with heard(callback, progress) as said:
        say = None if said is None else counted(said, n_lanes * len(structures))
        ends = together(map(rows_of, structures), at_once(data.X))
    rows = [row for end in ends if end is not None for row in end]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {name: np.array(column) for name, column in columns.items() if name != "results"}
    return Sweep(**arrays, results=tuple(columns["results"]), best=best_by(arrays[criterion], arrays["status"]))


def best_by(criterion: np.ndarray, status: np.ndarray) -> int:
    """The lowest criterion among the fits that ended finite and not degenerate, else among the finite ones."""
    rank = np.select([status == Status.NONFINITE, status == Status.DEGENERATE], [2, 1], 0)
    return int(np.lexsort((criterion, rank))[0])


def _narrowed(params: GMMParams, n_components: int) -> GMMParams:
    """The first components; the others have no weight."""
    shape = params.structure.shape(n_components, params.n_features)
    cov = params.cov[tuple(slice(0, n) for n in shape)]
    return replace(params, weights=params.weights[:n_components], means=params.means[:n_components], cov=cov)


@partial(jax.jit, static_argnums=(1, 2))
def _keys(key: Array, n_restarts: int, n_counts: int) -> Array:
    """The same keys for every number of components."""
    return jax.random.split(key, n_restarts)[jnp.tile(jnp.arange(n_restarts), n_counts)]


@jax.jit
def _log_certainty(params: GMMParams, X: Array, sample_weight: Array | None) -> Array:
    return jax.vmap(lambda params: log_certainty(params, X, sample_weight))(params)
