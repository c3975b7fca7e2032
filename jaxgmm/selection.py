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

from jaxgmm import batch, checks, checks_params, folds
from jaxgmm.batch import Data, Plan, good_width
from jaxgmm.clusters import Clusters
from jaxgmm.criteria import Overlap, log_likelihood_of_one, overlap
from jaxgmm.fitting import COVARIANCE_FLOOR, MAX_ITER, N_RESTARTS, TOL, admit, check_options, prior_of, returned
from jaxgmm.initial import METHODS
from jaxgmm.loop import Status
from jaxgmm.params import GMMParams, n_free_parameters
from jaxgmm.priors import Prior
from jaxgmm.result import FitResult
from jaxgmm.rounds import Progress, Run, at_once, counted, heard, rounds, together
from jaxgmm.structures import CLASSICS, Structure, get_structure

SAME = 1e-4
"""Nats a sample within which restarts have ended at the same optimum; what ``tol`` leaves of the way to it is less."""

CRITERIA = {"bic": "BIC", "aic": "AIC", "icl": "ICL", "nec": "NEC", "cross_validation": "cross-validation"}
"""What a sweep may choose by, and what it is called."""


class Sweep(NamedTuple):
    """The fits of a grid; the arrays have an entry a fit, structure by structure.

    Attributes:
      covariance_type: (G,) names of the structures.
      prior: (G,) "none", "default" or "given"; of several that are given "given 1", "given 2" and so on.
      n_components: (G,) K.
      log_likelihood: (G,) eq. (6), nats.
      n_free_parameters: (G,) see the function.
      aic, bic, icl: (G,) criteria, nats times two, smaller is better; see the functions.
      entropy: (G,) overlap of the components, nats; see the function.
      nec: (G,) smaller is better; see the function.
      held_out: (G, F) log-likelihood of each fold under the fit to the others, nats; F = 0 without folds.
      cross_validation: (G,) -2 times the sum over folds, smaller is better, on the scale of ``aic``; NaN without folds.
      n_agreeing: (G,) restarts that ended within 1e-4 nats a sample of the one that was kept, itself among them; one that was
        left on a plateau counts by where it was left.
      status: (G,) see ``Status``.
      results: the G fits, of NumPy arrays.
      best: the place of the fit with the lowest criterion among those that ended finite and not degenerate.
      criterion: the name of the one that ``best`` is chosen by.

    >>> import jax, jaxgmm
    >>> found = jaxgmm.sweep(jax.random.key(0), [[0.0], [0.1], [0.2], [9.0], [9.1], [9.3]], [1, 2], "tied", n_restarts=2)
    >>> found.covariance_type.tolist(), found.n_free_parameters.tolist(), found.best_result.params.n_components
    (['tied', 'tied'], [2, 4], 2)
    >>> found
    Sweep: BIC, smaller is better; * chosen, ! not converged
    K   tied
    1  38.71
    2  *5.51
    tied, K = 2: 2 of 2 restarts end there
    """

    covariance_type: np.ndarray
    prior: np.ndarray
    n_components: np.ndarray
    log_likelihood: np.ndarray
    n_free_parameters: np.ndarray
    aic: np.ndarray
    bic: np.ndarray
    icl: np.ndarray
    entropy: np.ndarray
    nec: np.ndarray
    held_out: np.ndarray
    cross_validation: np.ndarray
    n_agreeing: np.ndarray
    status: np.ndarray
    results: tuple[FitResult, ...]
    best: int
    criterion: str

    def __repr__(self) -> str:
        """The criterion by number of components and structure, and how many restarts found what was chosen."""
        if not all(isinstance(column, np.ndarray) for column in self[: self._fields.index("results")]):
            return f"Sweep({', '.join(f'{name}={value!r}' for name, value in zip(self._fields, self, strict=True))})"
        values = getattr(self, self.criterion)
        places = "4f" if self.criterion == "nec" else "2f"
        cells = {
            (k, name): f"{'*' * (place == self.best)}{value:.{places}}{'' if status == Status.CONVERGED else '!'}"
            for place, (k, name, value, status) in enumerate(
                zip(self.n_components.tolist(), self.family, values, self.status, strict=True)
            )
        }
        names = list(dict.fromkeys(name for _, name in cells))
        rows = [["K", *names]] + [
            [str(k), *(cells.get((k, name), "") for name in names)] for k in sorted({k for k, _ in cells})
        ]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)) for row in rows]
        title = f"Sweep: {CRITERIA[self.criterion]}, smaller is better; * chosen, ! not converged"
        chosen = f"{self.family[self.best]}, K = {self.n_components[self.best]}"
        n_restarts = len(self.best_result.lanes.status)
        return "\n".join([title, *table, f"{chosen}: {self.n_agreeing[self.best]} of {n_restarts} restarts end there"])

    @property
    def best_result(self) -> FitResult:
        """The fit that was chosen."""
        return self.results[self.best]

    @property
    def family(self) -> list[str]:
        """Structure of each fit, and its prior, if there is one."""
        pairs = zip(self.covariance_type.tolist(), self.prior.tolist(), strict=True)
        return [name if prior == "none" else f"{name} + {prior} prior" for name, prior in pairs]

    @property
    def standard_error(self) -> np.ndarray:
        """(G,) of ``cross_validation`` less that of the best by it, whose own is zero; NaN without folds.

        Two fits are judged on the same folds, so it is taken from their differences: for F folds sqrt(F) times the standard
        deviation of a fold's.
        """
        n_folds = self.held_out.shape[1]
        if not n_folds:
            return np.full(len(self.held_out), np.nan)
        away = self.held_out - self.held_out[best_by(self.cross_validation, self.status)]
        return 2 * np.sqrt(n_folds) * away.std(axis=1, ddof=1)


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
    prior: Prior | str | Sequence[Prior | str | None] | None = None,
    accelerate: str | None = "squarem",
    criterion: str = "bic",
    n_folds: int = 0,
    callback: Callable[[Progress], None] | None = None,
    progress: bool = False,
) -> Sweep:
    """Fit every number of components in every structure, and compare.

    The fit of K components is what ``fit(key, X, K, init=init, accelerate="squarem", ...)`` gives, up to rounding, but that on
    a CPU its restarts race: one is left, in ``Status.OVERTAKEN``, when it gains less than 1e-5 nats a sample and pass while
    another leads, and after 16 passes while another is further ahead than it can be expected to gain, or while it is degenerate
    and another is not. (Elsewhere all lanes advance at once, and each goes on to its end.) They start from k-means; the search
    by which ``fit`` starts would take many times as long. All numbers of components of a structure go on side by side as
    mixtures of the largest number, the components beyond K without weight, so a structure is compiled once. Runs on the host.

    Args:
      key: random key; see ``fit``.
      X: (N, D) samples, in data units.
      n_components: the numbers of components, or one; each at most once.
      covariance_type: a structure or several.
      prior: see ``fit``, or several of them, each fitted in every structure; "default" is that of each structure and number of
        components, and of the samples that a fit sees. Criteria take the likelihood, not the posterior.
      criterion: "bic", "aic", "icl", "nec" or "cross_validation", what ``best`` is chosen by.
      n_folds: F, into how many parts of equal size, drawn by ``key``, the samples are divided for cross-validation: each fit is
        repeated F times without one part, by the side of the others. Zero: not at all.
      callback: called with a ``Progress`` of the fits of one structure after each round; structures take turns.
      progress: show a bar (needs tqdm, in the extra ``cli``). Ctrl-C ends all fits that are under way, in
        ``Status.INTERRUPTED``; structures that had not begun are left out.
      n_restarts, init, sample_weight, tol, max_iter, covariance_floor, accelerate: see ``fit``; ``init`` by name.

    Returns:
      A ``Sweep``: a table of the fits, and which is best.

    Raises:
      ValueError: as ``fit``; a number of components given twice, none, or no structure; a criterion of another name, or
        cross-validation without folds; folds so large that fewer samples than components remain; a call under a trace.
      ImportError: ``progress`` without tqdm.

    Source: see ``fit`` for the fits; ``aic``, ``bic``, ``icl`` and ``nec`` for the criteria; Smyth (2000), Statistics and
    Computing 10, for cross-validation.

    >>> import jax, jaxgmm
    >>> X = [[0.0], [0.1], [0.2], [0.4], [9.0], [9.1], [9.2], [9.4]]
    >>> found = jaxgmm.sweep(jax.random.key(0), X, range(1, 3), "tied", n_restarts=2)
    >>> int(found.n_components[found.best])
    2
    """
    key = checks.check_key(key)
    advice = "inside jit use jaxgmm.fit for each number of components"
    checks.refuse_trace("sweep", advice, key, X, sample_weight, prior)
    data, offset = admit(X, sample_weight)
    n_present = checks.n_present(sample_weight, len(data.X))
    counts, families = _grid(n_components, covariance_type, prior, n_present, data.X.shape[1])
    checks.check_choice("init", init, METHODS)
    n_folds = checks.check_folds(n_folds, n_present, max(counts))
    _check_criterion(criterion, n_folds)
    n_restarts = checks.check_int("n_restarts", n_restarts, 1)
    options = check_options(data.X, tol, max_iter, covariance_floor, accelerate, 0)
    checks.refuse_trace("sweep", advice, options)
    floor, tol, passes, accelerate, trace = options
    held = folds.divided(key, data.weight, len(data.X), n_folds)
    seen = folds.with_folds(data, held, n_restarts, len(counts))
    n_each = (1 + n_folds) * n_restarts  # lanes of a number of components: all samples, then without each fold
    keys = _keys(key, n_restarts, n_lanes := n_each * len(counts))
    n_used = jnp.asarray(np.repeat(np.array(counts, np.int32), n_each))
    total = float(n_present) if data.weight is None else float(np.asarray(data.weight).sum(dtype=np.float64))

    shared: dict[int, Clusters] = {}

    def rows_of(structure: Structure, prior: Prior | str | None, called: str) -> Run[list[dict[str, Any]]]:
        plan = Plan(
            structure, max(counts), init, accelerate, trace, good_width(seen, n_lanes, max(counts), n_restarts), n_restarts
        )
        known = None if prior is None else (yield partial(_priors, prior, seen, offset, counts, structure, n_restarts))
        running = yield partial(batch.begin, keys, seen, None, n_used, n_lanes, floor, plan, known, shared)
        advance = partial(batch.advance, data=seen, most=passes, tol=tol, plan=plan)
        said = None if say is None else partial(say, (structure, called))
        running = yield from rounds(running, advance, int(passes), n_lanes, said, structure.name)
        every = yield partial(batch.finish, running, n_restarts)
        ends, left_out = folds.parted(jax.tree.map(np.asarray, every), n_folds)  # NumPy compiles nothing for their shapes
        judged = np.zeros((len(counts), 0))
        if n_folds:
            judged = yield partial(folds.held_out, left_out, data.X, data.weight, held)
        about = yield partial(_overlap, ends.params, data.X, data.weight)
        if 1 in counts and prior is None:
            single = ends.log_likelihood[counts.index(1)]
        else:
            single = yield partial(log_likelihood_of_one, data.X, data.weight, structure)
        about, judged = jax.tree.map(partial(np.asarray, dtype=np.float64), (about, judged))
        rows = []
        for i, k in enumerate(counts):
            end, overlap_of_end = jax.tree.map(lambda leaf, i=i: leaf[i], (ends, about))
            result = returned(end._replace(params=_narrowed(end.params, k)), offset)
            rows.append(_row(result, called, total, float(single), overlap_of_end, judged[i]))
        return rows

    with heard(checks.check_callback(callback), progress) as said:
        say = None if said is None else counted(said, n_lanes * len(families))
        ends = together((rows_of(*family) for family in families), at_once(data.X))
    rows = [row for end in ends if end is not None for row in end]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {name: np.array(column) for name, column in columns.items() if name != "results"}
    best = best_by(arrays[criterion], arrays["status"])
    return Sweep(**arrays, results=tuple(columns["results"]), best=best, criterion=criterion)


def _check_criterion(criterion: Any, n_folds: int) -> None:
    checks.check_choice("criterion", criterion, CRITERIA)
    if criterion == "cross_validation" and not n_folds:
        raise ValueError("criterion 'cross_validation' needs folds: give n_folds as well, 5, say.")


def _grid(
    n_components: Any, covariance_type: Any, prior: Any, n_present: int, n_features: int
) -> tuple[list[int], list[tuple[Structure, Prior | str | None, str]]]:
    """The axes of a sweep: numbers of components, and structures with priors and what these are called."""
    several_counts = n_components if isinstance(n_components, Iterable) else [n_components]
    counts = [checks.check_n_components(k, n_present) for k in several_counts]
    if not counts or len(set(counts)) < len(counts):
        raise ValueError(f"n_components must be different numbers, at least one; got {counts}.")
    alone = isinstance(covariance_type, (str, Structure)) or not isinstance(covariance_type, Iterable)
    several = [covariance_type] if alone else list(covariance_type)
    structures = [get_structure(one, n_features) for one in several]
    if not structures or len(set(structures)) < len(structures):
        raise ValueError(f"covariance_type must be different structures, at least one; got {[one.name for one in structures]}.")
    priors = list(prior) if isinstance(prior, (list, tuple)) else [prior]
    known = [checks_params.check_prior(one, n_features, by_name=True) for one in priors]
    named = [one for one in known if not isinstance(one, Prior)]
    if not known or len(set(named)) < len(named):
        raise ValueError(f"prior must be different priors, at least one; None is maximum likelihood; got {priors}.")
    return counts, [(structure, *one) for structure in structures for one in zip(known, _called(known), strict=True)]


def _called(priors: list[Prior | str | None]) -> list[str]:
    """A name for each prior, as ``Sweep.prior`` holds it."""
    given = [place for place, one in enumerate(priors) if isinstance(one, Prior)]
    names = {place: f"given {n}" if len(given) > 1 else "given" for n, place in enumerate(given, start=1)}
    return [names.get(place, str(one or "none")) for place, one in enumerate(priors)]


def _priors(
    prior: Prior | str, seen: Data, offset: np.ndarray | None, counts: list[int], structure: Structure, n_restarts: int
) -> Prior:
    """That of each lane: of its number of components, and of the samples that it sees."""

    def of_samples(weight: Array | None) -> Prior:
        each = [prior_of(prior, Data(seen.X, weight), offset, k, structure) for k in counts]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    apart = seen.owner is not None
    found = jax.vmap(of_samples, out_axes=1)(seen.weight) if apart else of_samples(seen.weight)
    in_lanes = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[1 + apart :]), found)
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, n_restarts, axis=0), in_lanes)


def _row(result: FitResult, prior: str, total: float, single: float, about: Overlap, held_out: np.ndarray) -> dict[str, Any]:
    """What a ``Sweep`` says of a fit; ``prior`` is a name, ``single`` the log-likelihood of one component, ``total`` the weight
    of samples."""
    params, log_l = result.params, float(result.log_likelihood)
    m, gain = n_free_parameters(params), log_l - single
    bic = m * np.log(total) - 2 * log_l
    return {
        "covariance_type": params.structure.name,
        "prior": prior,
        "n_components": params.n_components,
        "log_likelihood": log_l,
        "n_free_parameters": m,
        "aic": 2 * m - 2 * log_l,
        "bic": bic,
        "icl": bic - 2 * about.log_certainty,
        "entropy": about.entropy,
        "nec": 1.0 if params.n_components == 1 else about.entropy / gain if gain > 0 else np.inf,
        "held_out": held_out,
        "cross_validation": -2 * held_out.sum() if held_out.size else np.nan,
        "n_agreeing": n_agreeing(result, total),
        "status": int(result.status),
        "results": result,
    }


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
def _keys(key: Array, n_restarts: int, n_lanes: int) -> Array:
    """The same keys for every number of components and all samples that are seen."""
    return jax.random.split(key, n_restarts)[jnp.arange(n_lanes) % n_restarts]


def n_agreeing(result: FitResult, total_weight: float) -> int:
    """Restarts that ended where the best did, as far as the likelihood tells, and as sound."""
    near = np.abs(result.lanes.log_posterior - result.log_posterior) <= SAME * total_weight
    return int((near & ((result.lanes.status == Status.DEGENERATE) == (result.status == Status.DEGENERATE))).sum())


@jax.jit
def _overlap(params: GMMParams, X: Array, sample_weight: Array | None) -> Overlap:
    return jax.vmap(lambda params: overlap(params, X, sample_weight))(params)
