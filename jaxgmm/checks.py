"""The door: every ``ValueError`` that a user can meet is worded here, or for mixtures and priors in ``checks_params.py``.

Shapes, dtypes and option values are checked at the public functions. The values of arrays are checked only where they can
be seen, outside of a trace; inside one, ``Status`` tells of them.
"""

from __future__ import annotations

import contextlib
import difflib
import operator
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

MOST_PASSES = np.iinfo(np.int32).max // 2


def is_traced(*trees: Any) -> bool:
    """Is any leaf a tracer, so that its value cannot be looked at?"""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def refuse_trace(function: str, advice: str, *trees: Any) -> None:
    """A function that runs on the host cannot be traced."""
    if is_traced(*trees):
        raise ValueError(f"{function} runs on the host, and cannot be traced; {advice}.")


def check_array(name: str, value: ArrayLike) -> np.ndarray | jax.Array:
    """A real, numeric array, or a sentence that says what else came."""
    if not isinstance(value, jax.Array):
        try:
            value = np.asanyarray(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name} must be an array of real numbers; NumPy cannot make one of it ({error}).") from None
    if np.ma.is_masked(value):
        raise ValueError(f"{name} is a masked array with masked entries. Drop these rows, or give them sample_weight 0.")
    value = value if isinstance(value, jax.Array) else np.asarray(value)
    dtype = value.dtype
    if dtype.kind in "mM" or not (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer) or dtype == np.bool_
    ):
        advice = "Convert or drop the columns that are not numeric." if dtype.kind != "c" else "Take real and imaginary parts."
        raise ValueError(f"{name} must hold real numbers; got dtype {dtype}. {advice}")
    if dtype == np.longdouble and dtype != np.float64:
        return value.astype(np.float64)
    return value.astype(dtype.newbyteorder("=")) if dtype.byteorder == {"little": ">", "big": "<"}[sys.byteorder] else value


def check_samples(X: ArrayLike, params: Any = ...) -> np.ndarray | jax.Array:
    """Samples of shape (N, D), N and D at least one; D is that of the mixture ``params``, if one is given."""
    if params is not ...:
        check_params(params)
    X = check_array("X", X)
    if X.ndim != 2:
        hint = (
            "For one feature use X[:, None]." if X.ndim == 1 else "Samples go along the first axis, features along the second."
        )
        raise ValueError(f"X must have shape (N, D); got {X.shape}. {hint}")
    if not isinstance(X, jax.Array) and X.dtype.kind in "iu" and X.dtype.itemsize >= 4:
        X = X.astype(np.float64)  # JAX would take them for int32, in which large ones are others
    if 0 in X.shape:
        raise ValueError(f"X must have at least one sample and one feature; got shape {X.shape}.")
    if params is not ... and X.shape[1] != params.n_features:
        raise ValueError(
            f"X has {X.shape[1]} features, but the mixture has {params.n_features}. "
            "Pass the columns that the mixture was fitted to."
        )
    return X


def check_sample_weight(sample_weight: ArrayLike | None, n_samples: int) -> np.ndarray | jax.Array | None:
    """None, or one weight a sample; where the values can be seen, non-negative, finite and not all zero."""
    if sample_weight is None:
        return None
    weight = check_array("sample_weight", sample_weight)
    if weight.shape != (n_samples,):
        raise ValueError(f"sample_weight must have shape ({n_samples},), one weight a row of X; got {weight.shape}.")
    if not is_traced(weight):
        values = np.asarray(weight)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"sample_weight must be finite and not negative; {bad.sum()} of {n_samples} are not, "
                f"first row {row} with {values[row]}. Use 0 for a row that shall not count."
            )
        if not values.any():
            raise ValueError("sample_weight is zero for every row; at least one must be positive.")
        smallest, largest = float(values[values > 0].min()), float(values.sum(dtype=np.float64))
        single = np.finfo(np.float32)
        if not (float(single.tiny / single.eps) < smallest and largest < float(single.max * single.eps)):
            raise ValueError(
                f"sample_weight reaches from {smallest:.3g} to a sum of {largest:.3g}, which leaves the range of float32. "
                "Scale the weights to mean one, and give 0 to rows that shall not count."
            )
    return weight


def n_present(sample_weight: ArrayLike | None, n_samples: int) -> int:
    """Rows of positive weight, as far as that can be seen."""
    return n_samples if sample_weight is None or is_traced(sample_weight) else int(np.count_nonzero(np.asarray(sample_weight)))


def check_values(X: np.ndarray, weight: np.ndarray | None, dtype: np.dtype, vanishing: bool = False) -> None:
    """Finite samples whose squares, times ``weight``, stay inside ``dtype``; rows of weight zero may hold anything."""
    present = slice(None) if weight is None else weight > 0
    total = float(len(X)) if weight is None else float(weight.sum(dtype=np.float64))
    rows = X[present]
    # A sum is finite unless a term is not (or it overflows): one pass without a temporary for the usual case.
    with np.errstate(over="ignore", invalid="ignore"):
        clean = not jnp.issubdtype(X.dtype, jnp.inexact) or bool(np.isfinite(rows.sum()))
    if not clean:
        bad = np.zeros(len(X), bool)
        bad[present] = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            column = int(np.argmin(np.isfinite(X[row])))
            raise ValueError(
                f"X holds NaN or infinity in {bad.sum()} of {len(X)} rows, first at row {row}, column {column}. "
                "Drop or fill these rows, or give them sample_weight 0."
            )
    low, high = (bound.astype(np.float64) for bound in (rows.min(axis=0), rows.max(axis=0)))
    check_range(low, high, len(rows), total, dtype, vanishing=vanishing)


def check_range(
    low: np.ndarray,
    high: np.ndarray,
    n_rows: Any,
    total: Any,
    dtype: np.dtype,
    sets: np.ndarray | None = None,
    vanishing: bool = False,
) -> None:
    """Squares of samples between these bounds (D,), summed over rows of a total weight, stay inside ``dtype``.

    Bounds (M, D) are those of the data sets numbered ``sets``. Bounds that are not finite are left to ``Status``. Squares that
    may be ``vanishing`` are asked only not to overflow.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        spread, size = high - low, np.maximum(np.abs(low), np.abs(high))
        limits = np.finfo(dtype)
        largest = np.sqrt(float(limits.max) / np.maximum(n_rows, total))
        smallest = np.sqrt(float(limits.tiny) / float(limits.eps) / np.minimum(1.0, total / n_rows))
        outside = ~(spread < largest) | (size >= float(limits.max))
        if not vanishing:
            outside |= (spread > 0) & (spread < smallest)
        outside &= np.isfinite(low) & np.isfinite(high)
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        where = f"column {place[-1]}" + ("" if sets is None else f" of data set {sets[place[0]]}")
        raise ValueError(
            f"X spans {spread[place]:.3g} in {where} (largest {size[place]:.3g}); its squares, summed, leave the "
            f"range of {np.dtype(dtype).name}. "
            "Rescale X, for example to unit variance."
        )


@contextlib.contextmanager
def of_data_set(index: int) -> Iterator[None]:
    """Say which of many data sets an error is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"data set {index}: {error}") from None


def check_groups(groups: ArrayLike, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Which group each row belongs to, counted from 0 in their sorted order, and how many rows each has."""
    column = np.asarray(groups)
    if column.shape != (n_samples,):
        raise ValueError(f"groups must have shape ({n_samples},), one entry a row of X; got {column.shape}.")
    missing = np.not_equal(column, column)  # NaN and NaT differ from themselves
    if column.dtype == object:  # None, and what the makers of tables write for it
        missing = np.array([not isinstance(v, str) and str(v) in ("None", "nan", "NaT", "<NA>") for v in column], bool)
    if missing.any():
        raise ValueError(
            f"groups is missing for {missing.sum()} of {n_samples} rows, first row {int(np.argmax(missing))}. "
            "Drop these rows, or name a group for them."
        )
    try:
        _, member, count = np.unique(column, return_inverse=True, return_counts=True)
    except TypeError:
        raise ValueError("groups must hold entries of one kind, which can be sorted: all text or all numbers.") from None
    return member, count


def check_int(name: str, value: Any, least: int) -> int:
    """An integer of at least ``least``."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer; got {value!r}.") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}; got {number}.")
    return number


def check_n_components(n_components: Any, n_samples: int) -> int:
    """An integer from one to the number of samples."""
    number = check_int("n_components", n_components, 1)
    if number > n_samples:
        raise ValueError(
            f"n_components={number} needs at least as many samples; X has {n_samples} with weight. Lower n_components."
        )
    return number


def check_n_clusters(n_clusters: Any, n_components: int) -> int:
    """An integer from one to the number of components."""
    number = check_int("n_clusters", n_clusters, 1)
    if number > n_components:
        raise ValueError(f"n_clusters must be at most {n_components}, the number of components; got {number}.")
    return number


def check_level(level: Any, n_bootstrap: int) -> float:
    """A number between 0 and 1 that p-values of so many simulations can reach."""
    number = float(check_nonnegative("level", level))
    if not 0 < number < 1:
        raise ValueError(f"level must be between 0 and 1; got {level!r}.")
    if number * (1 + n_bootstrap) < 1 - 1e-9:
        raise ValueError(f"n_bootstrap={n_bootstrap} gives no p-value below {1 / (1 + n_bootstrap):.3g}. Raise it, or level.")
    return number


def check_folds(n_folds: Any, n_samples: int, n_components: int) -> int:
    """Zero, or a number of folds so that without the largest at least ``n_components`` samples are left."""
    number = check_int("n_folds", n_folds, 0)
    if number == 1:
        raise ValueError("n_folds must be 0, for no cross-validation, or at least 2; got 1.")
    if number and (number > n_samples or n_samples - -(-n_samples // number) < n_components):
        raise ValueError(
            f"n_folds={number} leaves too few of {n_samples} samples with weight: each fold needs one, and {n_components} "
            "components as many besides. Lower n_components, or divide otherwise."
        )
    return number


def check_nonnegative(name: str, value: Any) -> Any:
    """A finite real number of at least zero, or a tracer."""
    if not _is_number(value) or not (is_traced(value) or np.asarray(value) >= 0):
        raise ValueError(f"{name} must be a finite number, zero or more; got {value!r}.")
    return value


def check_above(name: str, value: Any, bound: float) -> Any:
    """A finite real number of more than ``bound``, or a tracer."""
    if not _is_number(value) or not (is_traced(value) or np.asarray(value) > bound):
        raise ValueError(f"{name} must be a finite number above {bound:g}; got {value!r}.")
    return value


def _is_number(value: Any) -> bool:
    """Is it real and, as far as that can be seen, finite?"""
    number = value if is_traced(value) else np.asarray(value)
    kind_is_good = jnp.issubdtype(number.dtype, jnp.floating) or jnp.issubdtype(number.dtype, jnp.integer)
    return number.ndim == 0 and kind_is_good and (is_traced(value) or bool(np.isfinite(number)))


def check_max_iter(max_iter: Any) -> Any:
    """An integer of at least zero, or a traced one."""
    if is_traced(max_iter):
        if max_iter.ndim or not jnp.issubdtype(max_iter.dtype, jnp.integer):
            raise ValueError(f"max_iter must be an integer; got {max_iter.dtype} of shape {max_iter.shape}.")
        return jnp.minimum(max_iter, MOST_PASSES) if max_iter.dtype.itemsize > 4 else max_iter
    if isinstance(max_iter, (jax.Array, np.ndarray)) and max_iter.ndim == 0:
        max_iter = max_iter.item()
    return min(check_int("max_iter", max_iter, 0), MOST_PASSES)


def check_covariance_floor(floor: Any, n_features: int) -> Any:
    """A number relative to the data, or (D,) absolute variances; None for no bound."""
    if floor is None:
        return floor
    if np.ndim(floor) == 0:
        return check_nonnegative("covariance_floor", floor)
    array = check_array("covariance_floor", floor)
    if array.shape != (n_features,):
        raise ValueError(
            f"covariance_floor must be a number (relative to the variance within components) or have shape ({n_features},) "
            f"(variances in squared data units); got shape {array.shape}."
        )
    if not is_traced(array) and not (np.isfinite(np.asarray(array)).all() and (np.asarray(array) > 0).all()):
        raise ValueError("covariance_floor as an array must hold positive, finite variances.")
    return array


def check_params(params: Any) -> None:
    """One mixture."""
    if hasattr(params, "mixture"):
        raise ValueError("params must be a GMMParams; got a posterior over mixtures. Pass posterior.mixture.")
    if not hasattr(params, "structure") or not hasattr(params, "means"):
        raise ValueError(f"params must be a GMMParams; got {type(params).__name__}. Build one with GMMParams.from_moments.")
    if np.ndim(params.means) != 2:
        raise ValueError(
            f"params must be one mixture, with means of shape (K, D); got means of shape {np.shape(params.means)}. "
            "Under jax.vmap a batch is seen one by one."
        )


def check_finite(name: str, value: ArrayLike, shape: tuple[int, ...]) -> np.ndarray | jax.Array:
    """An array of this shape, finite where that can be seen."""
    array = check_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
    if not is_traced(array) and not np.isfinite(np.asarray(array)).all():
        raise ValueError(f"{name} must be finite; got {np.asarray(array).tolist()}.")
    return array


def check_choice(name: str, value: Any, choices: Iterable[str], others: Iterable[str] = (), besides: str = "") -> str:
    """One of ``choices``, or a sentence with the nearest, which may be one of ``others`` that the caller knows as well.

    ``besides`` ends the list of choices in the sentence.
    """
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    spelt = {word.lower(): word for word in (*others, *known)}
    near = difflib.get_close_matches(value.lower(), spelt, n=1, cutoff=0.4) if isinstance(value, str) else []
    hint = f" Did you mean {spelt[near[0]]!r}?" if near else ""
    got = f"an array of shape {value.shape}" if isinstance(value, (np.ndarray, jax.Array)) else repr(value)
    raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}{besides}; got {got}.{hint}")


def check_callback(callback: Any) -> Any:
    """None, or something to call."""
    if callback is None or callable(callback):
        return callback
    raise ValueError(f"callback must be a function, which is given a Progress; got {callback!r}.")


def check_key(key: Any) -> jax.Array:
    """A single key from ``jax.random.key`` or ``jax.random.PRNGKey``."""
    advice = "Make one with jax.random.key(0)."
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise ValueError(f"key must be a JAX random key; got {key!r}. {advice}")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != np.uint32:
        raise ValueError(f"key must be a JAX random key; got an array of {key.dtype}. {advice}")
    if key.ndim == 1 and not typed and key.shape != jax.random.key_data(jax.random.key(0)).shape:
        raise ValueError(f"key must be a JAX random key; got an array of shape {key.shape}. {advice}")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key must be one key, not a batch of shape {key.shape}; vmap over keys instead.")
    return jnp.asarray(key)


def check_gamma(gamma: ArrayLike, n_samples: int, n_components: int) -> np.ndarray | jax.Array:
    """Responsibilities of shape (N, K)."""
    gamma = check_array("gamma", gamma)
    if gamma.shape != (n_samples, n_components):
        raise ValueError(f"gamma must have shape ({n_samples}, {n_components}), samples by components; got {gamma.shape}.")
    if not is_traced(gamma):
        values = np.asarray(gamma)
        if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
            raise ValueError("gamma must hold finite responsibilities, zero or more, and not all zero.")
    return gamma


def check_labels(name: str, labels: ArrayLike, n_samples: int, n_components: int) -> np.ndarray | jax.Array:
    """0-based integer labels of shape (N,)."""
    labels = check_array(name, labels)
    if labels.shape != (n_samples,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{name} as labels must be integers of shape ({n_samples},); got {labels.dtype} of shape {labels.shape}. "
            f"Responsibilities have shape ({n_samples}, {n_components})."
        )
    if not is_traced(labels) and (np.asarray(labels).min() < 0 or np.asarray(labels).max() >= n_components):
        values = np.asarray(labels)
        raise ValueError(
            f"{name} as labels must count from 0 to n_components - 1 = {n_components - 1}; "
            f"got {values.min()} to {values.max()}."
        )
    return labels


def check_init(name: str, init: ArrayLike, n_samples: int, n_components: int) -> np.ndarray | jax.Array:
    """Labels (N,) or responsibilities (N, K) to start from."""
    given = check_array(name, init)
    if given.ndim == 1:
        return check_labels(name, given, n_samples, n_components)
    return check_gamma(given, n_samples, n_components)
