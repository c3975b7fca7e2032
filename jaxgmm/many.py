"""Thousands of data sets in one call: bucketed by size, padded with samples of weight zero, fitted side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm import batch, checks, checks_params
from jaxgmm.batch import Data, Plan
from jaxgmm.fitting import COVARIANCE_FLOOR, MAX_ITER, N_RESTARTS, TOL, check_options, prior_of, returned
from jaxgmm.initial import METHODS
from jaxgmm.loop import Status
from jaxgmm.numerics import float_dtype
from jaxgmm.priors import Prior, cast_prior
from jaxgmm.result import FitResult
from jaxgmm.rounding import centred
from jaxgmm.rounds import Progress, Run, at_once, counted, heard, rounds, together
from jaxgmm.structures import Structure, get_structure

CHUNK_BYTES = 1 << 26
"""Bytes of the data sets that are on the device at once, their samples and the states of their lanes."""

STATES = 4
"""How often a lane's parameters are held: as state, as sums, as the next of both."""

SMALLEST_BUCKET = 16

LEAST_LANES = 16
"""Lanes of a chunk, if there are so many: fewer are not worth a chunk of their own."""


class Chunk(NamedTuple):
    """Data sets of like sizes, padded to one size and to a power of two in number."""

    place: np.ndarray  # (m,) their places in the caller's order
    X: Any  # (C, N, D)
    weight: Any  # (C, N) or None
    offset: np.ndarray | None  # (C, D) what was subtracted


def fit_many(
    key: Array,
    X: ArrayLike | Sequence[ArrayLike],
    n_components: int,
    *,
    groups: ArrayLike | None = None,
    covariance_type: str | Structure = "full",
    n_restarts: int = N_RESTARTS,
    init: str = "kmeans",
    sample_weight: ArrayLike | Sequence[ArrayLike] | None = None,
    tol: ArrayLike = TOL,
    max_iter: int = MAX_ITER,
    covariance_floor: ArrayLike = COVARIANCE_FLOOR,
    prior: Prior | str | None = None,
    accelerate: str | None = None,
    trace: int = 0,
    callback: Callable[[Progress], None] | None = None,
    progress: bool = False,
) -> FitResult:
    """Fit a mixture to each of many data sets.

    Data set i gets what ``fit(jax.random.fold_in(key, i), X[i], n_components, init=init, ...)`` would give it, up to rounding
    and to which of equally likely restarts wins, in a fraction of the time: all advance side by side, and those that have ended
    drop out. The default start is k-means; that of ``fit``, a search, would take many times as long. A data set with NaN ends
    in ``Status.NONFINITE``, one with fewer samples than components in ``Status.DEGENERATE``, and the others do not notice. Data
    sets of other sizes are other programs: sizes are rounded up to 16, 24, 32, 48, 64, ..., and each of these that occurs is
    compiled. Runs on the host, in chunks of bounded memory; inside ``jit`` use ``jax.vmap`` over ``fit``.

    Args:
      key: random key; see ``fit``. How many runs are under way depends on the cores, and rounding on that.
      X: (M, N, D) samples of M data sets, in data units; or a sequence of M arrays (N_i, D), N_i from one up, computed in the
        widest of their dtypes; or, with ``groups``, a table (N, D) of all samples.
      n_components: K, the same for all.
      groups: (N,) which data set each row of X belongs to; the data sets come in the order of ``np.unique(groups)``.
      sample_weight: weights in the shape of X without its last axis; in a sequence None stands for ones.
      callback: called with a ``Progress`` of the fits of one chunk after each round; chunks take turns.
      progress: show a bar (needs tqdm, in the extra ``cli``). Ctrl-C ends all fits that are under way, in
        ``Status.INTERRUPTED``; those that had not begun hold NaN.
      prior: see ``fit``: a ``Prior`` is that of all data sets, "default" of each its own.
      covariance_type, n_restarts, init, tol, max_iter, covariance_floor, accelerate, trace: see ``fit``; ``init`` by name.

    Returns:
      A ``FitResult`` whose arrays have a leading axis of M, for example ``params.means`` (M, K, D).

    Raises:
      ValueError: shapes that do not fit together, an empty data set, weights as in ``fit_from``, groups that are missing,
        options outside their range, X so large or small that its squares leave the range of its dtype, a call under a trace.
      ImportError: ``progress`` without tqdm.

    Source: see ``fit``.

    >>> import jax, jaxgmm
    >>> X = jax.random.normal(jax.random.key(0), (3, 50, 2))
    >>> jaxgmm.fit_many(jax.random.key(1), X, 2, n_restarts=1).params.means.shape
    (3, 2, 2)
    """
    key = checks.check_key(key)
    advice = "inside jit use jax.vmap(jaxgmm.fit) over keys and data sets"
    checks.refuse_trace("fit_many", advice, key, X, sample_weight, prior)
    n_components = checks.check_int("n_components", n_components, 1)
    n_restarts = checks.check_int("n_restarts", n_restarts, 1)
    checks.check_choice("init", init, METHODS)
    sets, weights = _sets(X, sample_weight, groups)
    prior = checks_params.check_prior(prior, sets[0].shape[1], by_name=True)
    structure = get_structure(covariance_type, sets[0].shape[1])
    options = check_options(sets[0], tol, max_iter, covariance_floor, accelerate, trace)
    checks.refuse_trace("fit_many", advice, options)
    floor, tol, passes, accelerate, trace = options
    n_features = sets[0].shape[1]
    of_state = STATES * n_restarts * (math.prod(structure.shape(n_components, n_features)) + n_components * (n_features + 2))

    def ends_of(chunk: Chunk) -> Run[tuple[np.ndarray, FitResult]]:
        n_sets, n_wanted = len(chunk.X), len(chunk.place)
        n_lanes, n_live = n_sets * n_restarts, n_wanted * n_restarts
        data = Data(chunk.X, chunk.weight, jnp.arange(n_lanes, dtype=jnp.int32) // n_restarts)
        plan = Plan(structure, n_components, init, accelerate, trace, width=batch.good_width(data, n_lanes, n_components))
        keys = _keys(key, jnp.asarray(np.resize(chunk.place, n_sets)), n_restarts)
        known = None if prior is None else (yield partial(_priors, prior, data, chunk, n_components, structure))
        running = yield partial(batch.begin, keys, data, None, None, n_live, floor, plan, known)
        advance = partial(batch.advance, data=data, most=passes, tol=tol, plan=plan)
        said = None if say is None else partial(say, int(chunk.place[0]))
        running = yield from rounds(running, advance, int(passes), n_live, said)
        end = yield partial(batch.finish, running, n_restarts)
        end = jax.tree.map(lambda leaf: np.asarray(leaf)[:n_wanted], end)
        return chunk.place, returned(end, None if chunk.offset is None else chunk.offset[:n_wanted])

    sides = at_once()
    chunks = _chunks(sets, weights, of_state, sides, -(-LEAST_LANES // n_restarts))
    with heard(checks.check_callback(callback), progress) as said:
        say = None if said is None else counted(said, len(sets) * n_restarts)
        done = [end for end in together((ends_of(chunk) for chunk in chunks), sides) if end is not None]
    places, ends = zip(*done, strict=True)
    n_done = sum(map(len, places))
    if n_done < len(sets):  # Ctrl-C
        missing = np.setdiff1d(np.arange(len(sets)), np.concatenate(places))
        places, ends = (*places, missing), (*ends, _unknown(ends[0], len(missing)))
    order = np.argsort(np.concatenate(places))
    return jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)[order]), *ends)


def _priors(prior: Prior | str, data: Data, chunk: Chunk, n_components: int, structure: Structure) -> Prior:
    """That of each lane."""
    if isinstance(prior, str):

        def of_set(X: Array, weight: Array | None) -> Prior | None:
            return prior_of(prior, Data(X, weight), None, n_components, structure)

        each = jax.vmap(of_set)(data.X, data.weight)
    else:
        offsets = np.zeros((len(data.X), 1)) if chunk.offset is None else chunk.offset
        one = cast_prior(prior, float_dtype(data.X), offsets)
        each = jax.tree.map(lambda leaf, each: jnp.broadcast_to(leaf, (len(offsets), *jnp.shape(each))), one, prior)
    return jax.tree.map(lambda leaf: leaf[data.owner], each)


def _unknown(result: FitResult, n: int) -> FitResult:
    """Results of ``n`` fits that had not begun."""

    def blank(leaf: np.ndarray) -> np.ndarray:
        return np.full((n, *leaf.shape[1:]), np.nan if leaf.dtype.kind == "f" else 0, leaf.dtype)

    nothing = jax.tree.map(blank, result)
    lanes = nothing.lanes._replace(status=nothing.lanes.status + Status.INTERRUPTED)
    return nothing._replace(status=nothing.status + Status.INTERRUPTED, lanes=lanes)


def _sets(X: Any, sample_weight: Any, groups: Any) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """The samples and the weights of each data set."""
    if groups is not None:
        table = np.asarray(checks.check_samples(X))
        member, count = checks.check_groups(groups, len(table))
        rows, ends = np.argsort(member, kind="stable"), np.cumsum(count)[:-1]
        weight = checks.check_sample_weight(sample_weight, len(table))
        sets = np.split(table[rows], ends)
        return sets, None if weight is None else _weights(sets, np.split(np.asarray(weight)[rows], ends))
    if getattr(X, "ndim", None) == 3:
        X = checks.check_array("X", X)
        sets = list(np.asarray(checks.check_samples(X.reshape(-1, X.shape[-1]))).reshape(X.shape)) if X.size else list(X)
    else:
        if not isinstance(X, Sequence):
            raise ValueError("X must be an array (M, N, D), a sequence of arrays (N_i, D), or a table (N, D) with groups.")
        sets = []
        for i, x in enumerate(X):
            with checks.of_data_set(i):
                sets.append(np.asarray(checks.check_samples(x)))
    if not sets or 0 in sets[0].shape:
        raise ValueError("X must hold at least one data set, with at least one sample and one feature.")
    if len({x.shape[1] for x in sets}) > 1:
        raise ValueError(f"X holds data sets of {sorted({x.shape[1] for x in sets})} features; all must have the same.")
    if sample_weight is None:
        return sets, None
    several = isinstance(sample_weight, Sequence) or getattr(sample_weight, "ndim", 0) > 0
    if not several or len(sample_weight) != len(sets):
        came = f"{len(sample_weight)} of them" if several else repr(sample_weight)
        raise ValueError(f"sample_weight must hold an array of weights for each of {len(sets)} data sets; got {came}.")
    return sets, _weights(sets, sample_weight)


def _weights(sets: list[np.ndarray], given: Any) -> list[np.ndarray]:
    """The weights of each data set, checked."""
    weights = []
    for i, (x, weight) in enumerate(zip(sets, given, strict=True)):
        with checks.of_data_set(i):
            weights.append(np.asarray(checks.check_sample_weight(np.ones(len(x)) if weight is None else weight, len(x))))
    return weights


def _chunks(sets: list[np.ndarray], weights: list[np.ndarray] | None, of_state: int, sides: int, least: int) -> Iterator[Chunk]:
    """Data sets of like sizes together, in ``sides`` chunks or more; of ``least`` sets, if memory and their number allow.

    Each set has ``of_state`` numbers besides its samples.
    """
    sizes = np.array([len(x) for x in sets])
    buckets = sizes if np.ptp(sizes) == 0 else _bucket(sizes)
    halves = {x.dtype for x in sets if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4}
    wide = np.result_type(*({x.dtype for x in sets} - halves), *([np.float32] if halves else []))
    dtype = float_dtype(np.empty(0, wide))
    n_features = sets[0].shape[1]
    for size in np.unique(buckets):
        members = np.flatnonzero(buckets == size)
        fitting = _power_of_two(max(1, CHUNK_BYTES // sides // int((size * n_features + of_state) * dtype.itemsize)))
        most = min(fitting, max(least, -(-len(members) // sides)), len(members))
        n_sets = _power_of_two(2 * most - 1)  # the next one up
        full = weights is None and (sizes[members] == size).all()  # of all chunks alike: they share a program
        for first in range(0, len(members), most):
            index = members[first : first + most]
            X = np.zeros((n_sets, size, n_features), wide)
            weight = None
            if full:
                X[: len(index)] = np.stack([sets[member] for member in index])
            else:
                weight = np.zeros((n_sets, size), dtype)
                for row, member in enumerate(index):
                    X[row, : sizes[member]] = sets[member]
                    weight[row, : sizes[member]] = 1 if weights is None else weights[member]
            low, high = _bounds(X[: len(index)], None if weight is None else weight[: len(index)])
            total = sizes[index] if weight is None else weight[: len(index)].sum(axis=1, dtype=np.float64)
            checks.check_range(low, high, sizes[index][:, None], total[:, None], dtype, index)
            offset = None
            if wide == np.float64 and dtype == np.float32:
                X, offset = centred(X, weight)
            yield Chunk(index, jnp.asarray(X), None if weight is None else jnp.asarray(weight), offset)


def _bounds(X: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value (M, D) of each feature among the samples that have a weight."""
    low = high = X.transpose(0, 2, 1).copy()  # NumPy reduces a last axis 25 times as fast as one before a short last axis
    if weight is not None:
        present = weight[:, None, :] > 0
        low, high = np.where(present, low, np.inf), np.where(present, high, -np.inf)
    return low.min(axis=-1).astype(np.float64), high.max(axis=-1).astype(np.float64)


def _bucket(sizes: np.ndarray) -> np.ndarray:
    """Sizes rounded up to a power of two or one and a half of it, so that few programs are compiled."""
    power = 2 ** np.ceil(np.log2(np.maximum(sizes, SMALLEST_BUCKET))).astype(int)
    return np.where(sizes <= 3 * power // 4, 3 * power // 4, power)


def _power_of_two(n: int) -> int:
    """The largest power of two that is not larger."""
    return 1 << (n.bit_length() - 1)


@partial(jax.jit, static_argnames="n_restarts")
def _keys(key: Array, index: Array, n_restarts: int) -> Array:
    """A key for each restart of each data set."""
    return jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), n_restarts))(index).reshape(
        (index.shape[0] * n_restarts, *key.shape)
    )
