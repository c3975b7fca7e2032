"""How many components, by likelihood-ratio tests whose null distribution is simulated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm import checks
from jaxgmm.density import sample
from jaxgmm.fitting import COVARIANCE_FLOOR, MAX_ITER, N_RESTARTS, TOL, admit
from jaxgmm.loop import Status
from jaxgmm.many import fit_many
from jaxgmm.numerics import apart
from jaxgmm.params import GMMParams
from jaxgmm.result import FitResult
from jaxgmm.selection import sweep
from jaxgmm.structures import Structure


class BootstrapTest(NamedTuple):
    """Tests of K against K + 1 components, one for each of T numbers K.

    Attributes:
      n_components: (T,) K, the number under the null hypothesis.
      statistic: (T,) 2 (L(K + 1) - L(K)) of X, nats times two, at least zero.
      simulated: (T, B) the same of samples from the fit of K components; NaN, and not counted, where K components had no sound
        fit.
      p_value: (T,) share of the statistics, that of X among them, that are no smaller than that of X.
      level: the one at which a test counts as rejected.

    >>> import numpy as np
    >>> from jaxgmm import BootstrapTest
    >>> simulated = np.array([[3.0, 9.0], [1.0, 8.0]])
    >>> BootstrapTest(np.array([1, 2]), np.array([40.0, 2.0]), simulated, np.array([1 / 3, 2 / 3]), level=0.5)
    Bootstrap test: K against K + 1; 2 simulations, level 0.5
    K  2 (L1 - L0)  p-value
    1        40.00   0.3333
    2         2.00   0.6667
    2 components are not rejected
    """

    n_components: np.ndarray
    statistic: np.ndarray
    simulated: np.ndarray
    p_value: np.ndarray
    level: float

    def __repr__(self) -> str:
        """A line a test, and what they come to."""
        rows = [("K", "2 (L1 - L0)", "p-value")]
        rows += [
            (str(k), f"{statistic:.2f}", f"{p:.4f}")
            for k, statistic, p in zip(self.n_components, self.statistic, self.p_value, strict=True)
        ]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)) for row in rows]
        title = f"Bootstrap test: K against K + 1; {self.simulated.shape[1]} simulations, level {self.level:g}"
        last, p = self.n_components[-1], self.p_value[-1]
        verdict = "without a sound fit, and not tested" if np.isnan(p) else "rejected" if p <= self.level else "not rejected"
        return "\n".join([title, *table, f"{last} component{'s are' if last > 1 else ' is'} {verdict}"])


def bootstrap_lrt(
    key: Array,
    X: ArrayLike,
    n_components: int | Sequence[int] = range(1, 9),
    *,
    n_bootstrap: int = 99,
    level: float = 0.05,
    covariance_type: str | Structure = "full",
    n_restarts: int = N_RESTARTS,
    init: str = "kmeans",
    tol: ArrayLike = TOL,
    max_iter: int = MAX_ITER,
    covariance_floor: ArrayLike = COVARIANCE_FLOOR,
    accelerate: str | None = None,
) -> BootstrapTest:
    """Test K against K + 1 components, for each K in turn until one is not rejected.

    The statistic 2 (L(K + 1) - L(K)) has no chi-squared distribution, as K components lie on the border of K + 1. So B data
    sets of the size of X are drawn from the fit of K components, and both are fitted to each of them, all side by side, from as
    many restarts as to X (by ``fit_many``; those of X by ``sweep``, where they race). With b of the B statistics no smaller
    than that of X, p = (1 + b) / (1 + B). A statistic is zero where K + 1 components have no fit that is sound and likelier:
    two halves of a component are as likely as the whole. Runs on the host.

    Args:
      key: random key; see ``fit``.
      X: (N, D) samples, in data units.
      n_components: numbers K in the order in which they are tested, or one.
      n_bootstrap: B, data sets that are drawn for each K; at least 1 / ``level`` - 1, or nothing is ever rejected.
      level: a p-value up to this rejects K, and the next is tested.
      covariance_type, n_restarts, init, tol, max_iter, covariance_floor, accelerate: see ``fit``; ``init`` by name.

    Returns:
      A ``BootstrapTest`` of the tests that were made.

    Raises:
      ValueError: as ``sweep``; a level that is not between 0 and 1, or too small for ``n_bootstrap``.

    Source: McLachlan (1987), Applied Statistics 36; Davison and Hinkley (1997), "Bootstrap methods and their application",
    section 4.2, for p.

    >>> import jax, jaxgmm
    >>> X = jax.random.normal(jax.random.key(0), (60, 1)).at[:25].add(9)
    >>> test = jaxgmm.bootstrap_lrt(jax.random.key(1), X, 1, covariance_type="spherical", n_bootstrap=19, n_restarts=2)
    >>> test.n_components.tolist(), round(float(test.p_value[0]), 3)  # one is rejected; to go on give range(1, 9)
    ([1], 0.05)
    """
    key = checks.check_key(key)
    checks.refuse_trace("bootstrap_lrt", "call it outside of jit", key, X)
    n_bootstrap = checks.check_int("n_bootstrap", n_bootstrap, 1)
    level = checks.check_level(level, n_bootstrap)
    data, _ = admit(X, None)  # about the mean, if JAX would have rounded: ratios of likelihoods do not notice
    several = list(n_components) if isinstance(n_components, Iterable) else [n_components]
    counts = [checks.check_int("n_components", k, 1) for k in several]
    if not counts or len(set(counts)) < len(counts):
        raise ValueError(f"n_components must be different numbers, at least one; got {counts}.")
    if not isinstance(covariance_type, (str, Structure)):
        raise ValueError(f"covariance_type must be one structure here; got {covariance_type!r}.")
    options: dict[str, Any] = {
        "covariance_type": covariance_type,
        "n_restarts": n_restarts,
        "init": init,
        "tol": tol,
        "max_iter": max_iter,
        "covariance_floor": covariance_floor,
        "accelerate": accelerate,
    }
    grid = sweep(key, data.X, sorted({*counts, *(k + 1 for k in counts)}), **options)
    found = dict(zip(grid.n_components.tolist(), grid.results, strict=True))
    statistics, simulated, p_values = [], [], []
    for k in counts:
        draw_key, fit_key = jax.random.split(apart(key, k))
        drawn = _drawn(draw_key, found[k].params, n_bootstrap, len(data.X))
        statistic = float(_statistic(found[k], found[k + 1]))
        others = _statistic(*(fit_many(fit_key, drawn, n, **options) for n in (k, k + 1)))
        statistics.append(statistic)
        simulated.append(others)
        n_valid = np.isfinite(others).sum()
        p_values.append(np.nan if np.isnan(statistic) else (1 + (others >= statistic).sum()) / (1 + n_valid))
        if not p_values[-1] <= level:
            break
    n_tests = len(statistics)
    return BootstrapTest(np.array(counts[:n_tests]), np.array(statistics), np.stack(simulated), np.array(p_values), level)


def _statistic(null: FitResult, other: FitResult) -> Any:
    """2 (L1 - L0), at least zero; NaN where K components have no sound fit."""
    log_l0, log_l1 = (np.asarray(fit.log_likelihood, np.float64) for fit in (null, other))
    unsound = [np.isin(fit.status, [Status.DEGENERATE, Status.NONFINITE]) for fit in (null, other)]
    gain = np.where(unsound[1], 0, np.maximum(2 * (log_l1 - log_l0), 0))
    return np.where(unsound[0], np.nan, gain)


@partial(jax.jit, static_argnums=(2, 3))
def _drawn(key: Array, params: GMMParams, n_sets: int, n_samples: int) -> Array:
    """(B, N, D) samples from a mixture."""
    return jax.vmap(lambda key: sample(key, params, n_samples)[0])(jax.random.split(key, n_sets))
