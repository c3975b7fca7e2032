"""Inputs that break mixtures, as a table: scikit-learn's estimator and ours are given each of them alike.

python tests/awkward.py          judges all, and counts
python tests/awkward.py scale    those whose name holds the word
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import adjusted_rand_score

TYPES = "full", "tied", "diag", "spherical"


class Case(NamedTuple):
    """What is fitted, with which arguments, and which samples belong together."""

    X: Any
    arguments: dict[str, Any]
    truth: np.ndarray | None
    weight: np.ndarray | None = None  # of samples; scikit-learn, which takes none, sees rows as often as they weigh


class Outcome(NamedTuple):
    """What came out: an error, or nats a sample of the fit by scikit-learn's own density in float64, and agreement."""

    error: str = ""
    score: float = np.nan
    agreement: float = np.nan


RNG = np.random.default_rng(0)
TRUTH = np.repeat([0, 1], 32)
CLOUDS = np.concatenate([RNG.normal(size=(32, 2)), RNG.normal(size=(32, 2)) @ [[1.0, 0.6], [0.0, 0.5]] + [6, 4]])
NOISE = RNG.normal(size=(64, 8))
WIDE = RNG.normal(size=(64, 200))
SIX = np.array([[0.0, 1], [5, 2], [9, 9], [0.5, 1.2], [5.2, 2.5], [9.1, 9.4]])


class Table(dict[str, Case]):
    """Cases by name."""

    def add(
        self, name: str, X: Any, truth: np.ndarray | None = TRUTH, weight: np.ndarray | None = None, **arguments: Any
    ) -> None:
        assert name not in self
        self[name] = Case(X, {"n_components": 2, "random_state": 0} | arguments, truth, weight)


def cases() -> Table:
    """The table."""
    table = Table()
    for fill in (dtypes, layouts, offsets_and_scales, weights, sizes, by_structure, columns, shapes, broken, options):
        fill(table.add)
    return table


def dtypes(add: Callable[..., None]) -> None:
    whole = np.round(CLOUDS * 8)
    for dtype in ("f8", "f4", "f2", ">f8", ">f4", "g"):
        add(f"dtype {dtype}", CLOUDS.astype(dtype))
    for dtype in ("i1", "i2", "i4", "i8", ">i4"):
        add(f"dtype {dtype}", whole.astype(dtype))
    for dtype in ("u1", "u2", "u8"):
        add(f"dtype {dtype}", (whole + 64).astype(dtype))
    add("dtype bool", np.stack([TRUTH, RNG.random(64) < 0.5, TRUTH], axis=1).astype(bool))
    add("dtype object of numbers", CLOUDS.astype(object))
    add("dtype text of numbers", CLOUDS.astype(str))
    add("dtype text", np.array([["a", "b"]] * 64))
    add("dtype complex", CLOUDS + 1j)
    add("dtype dates", np.full((64, 2), np.datetime64("2020-01-01")))


def layouts(add: Callable[..., None]) -> None:
    import pandas as pd
    import polars as pl
    from scipy import sparse

    frame = pd.DataFrame(CLOUDS, columns=["a", "b"])
    add("layout Fortran", np.asfortranarray(CLOUDS))
    add("layout every second row", np.repeat(CLOUDS, 2, axis=0)[::2])
    add("layout every second column", np.repeat(CLOUDS, 2, axis=1)[:, ::2])
    add("layout reversed", CLOUDS[::-1, ::-1], TRUTH[::-1])
    add("layout read-only", np.frombuffer(CLOUDS.tobytes()).reshape(64, 2))
    add("layout lists", CLOUDS.tolist())
    add("layout rows as tuples", [tuple(row) for row in CLOUDS])
    add("layout masked array without mask", np.ma.masked_array(CLOUDS))
    add("layout matrix", np.asmatrix(CLOUDS))
    add("layout sparse", sparse.csr_array(CLOUDS))
    add("layout pandas", frame)
    add("layout pandas, float32", frame.astype("float32"))
    add("layout pandas, mixed dtypes", frame.assign(a=frame.a.round().astype(int), b=frame.b.astype("float32")))
    add("layout pandas, nullable", frame.convert_dtypes())
    add("layout pandas, nullable and missing", frame.convert_dtypes().mask(frame.a > 7))
    add("layout pandas, odd index", frame.set_index(np.arange(64)[::-1] * 7))
    add("layout pandas, column of text", frame.assign(c="x"))
    add("layout polars", pl.DataFrame(CLOUDS, schema=["a", "b"]))
    add("layout one dimension", CLOUDS[:, 0])
    add("layout three dimensions", CLOUDS[None])
    add("layout scalar", 3.0)
    add("layout no rows", CLOUDS[:0])
    add("layout no columns", CLOUDS[:, :0])


def offsets_and_scales(add: Callable[..., None]) -> None:
    for dtype in ("f8", "f4"):
        for offset in (1e2, 1e4, 1e6, 1e8, -1e12):
            add(
                f"offset {offset:g} {dtype}",
                (CLOUDS + offset).astype(dtype),
                TRUTH if offset * np.finfo(dtype).eps < 0.1 else None,
            )
        for scale in (1e-12, 1e-6, 1e-3, 1e3, 1e6, 1e12):
            add(f"scale {scale:g} {dtype}", (CLOUDS * scale).astype(dtype), TRUTH if scale >= 1e-3 else None)
        for ratio in (1e-6, 1e4, 1e8):
            add(f"columns {ratio:g} apart {dtype}", (CLOUDS * [1, ratio]).astype(dtype))
        for far in (1e2, 1e5, 1e10):
            X = CLOUDS.copy()
            X[0] = far
            add(f"one sample at {far:g} {dtype}", X.astype(dtype), None, n_components=3)
            add(f"one sample at {far:g}, no component to spare {dtype}", X.astype(dtype), None)
    for far in (1e20, 1e60, 1e80, 1e100):
        for kind in TYPES:
            X = np.r_[CLOUDS[:63], [[far, far]]]
            add(f"one sample at {far:g}, {kind}", X, None, covariance_type=kind, n_components=3)
    for scale in (1e-160, 1e-300, 1e100, 1e150, 1e160, 1e300):
        add(f"scale {scale:g}", CLOUDS * scale, None)
    for scale in (1e-18, 1e18):
        for kind in TYPES:
            add(f"scale {scale:g} f4, {kind}", (CLOUDS * scale).astype("f4"), None, reg_covar=0.0, covariance_type=kind)
    for far in (1e5, 1e8, 1e12):
        for kind in TYPES:
            X = np.r_[CLOUDS[:10], CLOUDS[:54] + far]
            truth = np.r_[np.full(10, 2), TRUTH[:54]]
            add(f"most samples {far:g} away, {kind}", X, truth, covariance_type=kind, n_components=3)


def weights(add: Callable[..., None]) -> None:
    table = {
        "ones": np.ones(64, int),
        "two for a half": 1 + TRUTH,
        "zero for a quarter": np.repeat([0, 1, 1, 1], 16),
        "zero for all but three": (np.arange(64) % 30 == 0).astype(int),
        "one sample as heavy as the others together": np.r_[64, np.ones(63, int)],
        "zero for rows of NaN": np.r_[np.zeros(4, int), np.ones(60, int)],
        "zero for all": np.zeros(64, int),
    }
    for name, weight in table.items():
        for kind in TYPES:
            X = np.where((weight > 0)[:, None] | ("NaN" not in name), CLOUDS, np.nan)
            add(f"weights: {name}, {kind}", X, TRUTH, weight, covariance_type=kind, n_init=5)


def sizes(add: Callable[..., None]) -> None:
    for n, k in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (5, 5), (2, 3), (6, 3)):
        add(f"{n} samples, {k} components", SIX[:n], None, n_components=k)


def by_structure(add: Callable[..., None]) -> None:
    few, halves = WIDE[:20, :40] + 4 * TRUTH[22:42, None], TRUTH[22:42]
    for kind in TYPES:
        add(f"20 samples of 40 features, {kind}", few, halves, covariance_type=kind)
        add(
            f"20 samples of 40 features, float32, {kind}",
            few.astype("f4"),
            TRUTH[22:42],
            covariance_type=kind,
        )
        add(f"column of spread 1e-18, float32, {kind}", (CLOUDS * [1, 1e-18]).astype("f4"), TRUTH, covariance_type=kind)
        add(f"64 samples of 200 features, {kind}", WIDE + 2 * TRUTH[:, None], TRUTH, covariance_type=kind)
        add(f"constant column, {kind}", np.c_[CLOUDS, np.full(64, 3.0)], TRUTH, covariance_type=kind)
        add(f"column of zeros, float32, {kind}", np.c_[CLOUDS, np.zeros(64)].astype("f4"), TRUTH, covariance_type=kind)
        add(f"column twice, {kind}", CLOUDS[:, [0, 1, 1]], TRUTH, covariance_type=kind)
        add(f"sum of columns, {kind}", np.c_[CLOUDS, CLOUDS.sum(axis=1)], TRUTH, covariance_type=kind)
        add(f"three values only, {kind}", np.repeat(SIX[:3], 21, axis=0), None, n_components=3, covariance_type=kind)
        add(f"one value only, {kind}", np.full((64, 2), 2.5), None, covariance_type=kind)
        add(f"one feature, {kind}", CLOUDS[:, :1], TRUTH, covariance_type=kind)
        add(f"no covariance floor, {kind}", CLOUDS, TRUTH, reg_covar=0.0, covariance_type=kind)
        for init in ("k-means++", "random", "random_from_data"):
            add(f"start {init}, {kind}", CLOUDS, TRUTH, init_params=init, covariance_type=kind, n_init=5)


def columns(add: Callable[..., None]) -> None:
    add("two constant columns of three", np.c_[CLOUDS[:, :1], np.ones((64, 2))])
    add("constant column at 1e8", np.c_[CLOUDS, np.full(64, 1e8)])
    add("counts with many zeros", np.where(NOISE > 0.7, np.round(np.exp(NOISE)), 0.0), None)
    add("rounded to whole numbers", np.round(CLOUDS))
    add("indicators", np.eye(8)[RNG.integers(8, size=64)], None)
    add("a column nearly constant", np.c_[CLOUDS, 1 + 1e-9 * NOISE[:, 0]])
    add("columns correlated to 1 - 1e-12", np.c_[CLOUDS[:, 0], CLOUDS[:, 0] + 1e-6 * NOISE[:, 0], CLOUDS[:, 1]])


def shapes(add: Callable[..., None]) -> None:
    tight = np.concatenate([NOISE[:44, :2], 1e-3 * NOISE[44:, :2] + 0.3])
    add("tight cluster within a wide one", tight, np.repeat([0, 1], [44, 20]), n_init=5)
    add("nested, one mean", np.concatenate([NOISE[:32, :2], 30 * NOISE[32:, :2]]), None, n_init=5)
    add(
        "three samples beside 61",
        np.concatenate([CLOUDS[:1] + 20, CLOUDS[:1] + 21, CLOUDS[:1] + 19, CLOUDS[3:32], NOISE[:32, :2]]),
        None,
    )
    add("a line", np.c_[np.arange(64.0), 2 * np.arange(64.0)], None)
    add("a grid", np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), axis=-1).reshape(64, 2), None)
    add("heavy tails", RNG.standard_cauchy(size=(64, 2)), None)
    add("far apart", CLOUDS + 1e6 * TRUTH[:, None])
    add("no structure, ten components", NOISE[:, :2], None, n_components=10)
    add("as many components as samples", CLOUDS[:12], None, n_components=12)
    add("one component", CLOUDS, None, n_components=1)
    add("rows in pairs", np.repeat(CLOUDS[::2], 2, axis=0), TRUTH)


def broken(add: Callable[..., None]) -> None:
    for value, name in ((np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "minus infinity"), (1e39, "1e39")):
        X = CLOUDS.copy()
        X[5, 1] = value
        add(f"a value {name}", X, None)
        with np.errstate(over="ignore"):
            add(f"a value {name} in float32", X.astype("f4"), None)
    add("None among numbers", np.where(np.eye(64, 2) > 0, None, CLOUDS), None)


def options(add: Callable[..., None]) -> None:
    means = np.array([[0.0, 0], [6, 4]])
    add("given means", CLOUDS, means_init=means)
    add("given means, wrong shape", CLOUDS, means_init=means.T[:1])
    add("given weights", CLOUDS, weights_init=[0.9, 0.1])
    add("given weights, not of sum one", CLOUDS, weights_init=[0.9, 0.9])
    add("given precisions", CLOUDS, precisions_init=[np.eye(2), np.eye(2)], means_init=means)
    add("given precisions, not positive definite", CLOUDS, precisions_init=[np.eye(2), -np.eye(2)])
    add("given means far away", CLOUDS, None, means_init=means + [[0, 0], [1e3, 1e3]])
    for name, value in (("reg_covar", -1.0), ("tol", -1.0), ("n_components", 0), ("n_init", 0), ("max_iter", 0)):
        add(f"{name} = {value}", CLOUDS, None, **{name: value})
    for name, value in (("reg_covar", 1e-12), ("reg_covar", 100.0), ("tol", 1e-12), ("max_iter", 1), ("n_components", 2.5)):
        add(f"{name} = {value}", CLOUDS, None, **{name: value})
    add("covariance_type unknown", CLOUDS, None, covariance_type="round")


def judge(case: Case) -> tuple[str, Outcome, Outcome]:
    """ "worse", "equal" or "better", and what theirs and ours came to."""
    from sklearn.mixture import GaussianMixture as Theirs

    from jaxgmm.sklearn import GaussianMixture as Ours

    ours = outcome(Ours, case, {} if case.weight is None else {"sample_weight": case.weight})
    if case.weight is not None:
        case = case._replace(X=np.repeat(case.X, case.weight, axis=0), truth=np.repeat(case.truth, case.weight))
    theirs = outcome(Theirs, case)
    if theirs.error or ours.error:
        verdict = "equal" if theirs.error and ours.error else "worse" if ours.error else "better"
        return verdict, theirs, ours
    gain = ours.score - theirs.score
    gain = 0.0 if abs(gain) <= 1e-3 * max(1, abs(theirs.score)) else gain
    more = np.nan_to_num(ours.agreement - theirs.agreement)
    # Where it is known what belongs together, a likelier fit that tells less of it is not a better one.
    merit = np.sign(more) if abs(more) > 0.05 else np.sign(gain)
    return {-1: "worse", 0: "equal", 1: "better"}[int(merit)], theirs, ours


def outcome(Estimator: type, case: Case, weights: dict[str, Any] | None = None) -> Outcome:
    """The fit of one estimator; only a ``ValueError`` or ``TypeError`` in words counts as an answer of its own."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            fitted = Estimator(**case.arguments).fit(case.X, **(weights or {}))
            X, truth = np.asarray(case.X, np.float64), case.truth
            if weights:
                seen = np.repeat(np.arange(len(X)), case.weight)
                X, truth = X[seen], truth[seen]
            label = np.asarray(fitted.predict(case.X if not weights else X))
        except Exception as error:
            return Outcome(f"{type(error).__name__}: {error}")
        score = float(np.mean(log_density(fitted, X)))
    if not np.isfinite(score):
        return Outcome("not finite")
    return Outcome(score=score, agreement=np.nan if truth is None else adjusted_rand_score(truth, label))


def log_density(fitted: Any, X: np.ndarray) -> np.ndarray:
    """ln p(x) in float64 by eigenvectors, from covariances, whatever precision these were fitted in."""
    K, D = fitted.means_.shape
    covariances = np.asarray(fitted.covariances_, np.float64)
    dense = {
        "full": lambda: covariances,
        "tied": lambda: np.broadcast_to(covariances, (K, D, D)),
        "diag": lambda: covariances[:, :, None] * np.eye(D),
        "spherical": lambda: covariances[:, None, None] * np.eye(D),
    }[fitted.covariance_type]()
    terms = []
    for weight, mean, cov in zip(fitted.weights_, np.asarray(fitted.means_, np.float64), dense, strict=True):
        values, vectors = np.linalg.eigh(cov)
        least = np.finfo(fitted.means_.dtype).eps * values[-1] * D
        values = np.maximum(values, least)
        white = (X - mean) @ vectors / np.sqrt(values)
        terms.append(np.log(float(weight)) - 0.5 * (np.sum(white**2, axis=1) + np.sum(np.log(values)) + D * np.log(2 * np.pi)))
    return np.logaddexp.reduce(terms)


def main() -> int:
    """Print the table and the counts."""
    counts: Counter[str] = Counter()
    for name, case in cases().items():
        if not all(word in name for word in sys.argv[1:]):
            continue
        verdict, theirs, ours = judge(case)
        counts[verdict] += 1
        sides = [side.error.split("\n")[0][:70] or f"{side.score:.4f} {side.agreement:.2f}" for side in (theirs, ours)]
        print(f"{verdict:7}{name:50}{sides[0]:72}{sides[1]}", flush=True)
    print(dict(counts))
    return int(counts["worse"] > 0)


if __name__ == "__main__":
    sys.exit(main())
