"""Pictures of mixtures; matplotlib is imported when one is drawn.

Every function draws on ``ax``, or on axes of its own, and returns what it drew on. A mixture is a ``GMMParams``, a
``FitResult`` or an estimator of ``jaxgmm.sklearn``. Features that are not drawn are integrated out: the marginal of a Gaussian
is the Gaussian of the chosen rows and columns, so ellipses and curves are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxgmm.density import predict_proba
from jaxgmm.loop import Status
from jaxgmm.params import GMMParams, covariances
from jaxgmm.result import FitResult
from jaxgmm.selection import best_by

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A500")
MARKERS = "osD^vP*X"
STYLES = ("-", "--", ":", "-.")
"""Okabe and Ito's colours, told apart with any colour vision, and markers and lines for when they repeat."""

LEVELS = (0.5, 0.95)
MOST_PANELS = 6
MOST_POINTS = 20_000
GRID = 400
"""Points along an axis of a curve; a plane takes a fourth in each direction."""


class _Gaussians(NamedTuple):
    """Weights (K,), means (K, d) and covariances (K, d, d) of the features that are drawn."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def density(self, points: np.ndarray) -> np.ndarray:
        """(K, n) pi_k N(x | mu_k, Sigma_k)."""
        away = points[None] - self.means[:, None]
        square = np.einsum("kni,kni->kn", away, np.linalg.solve(self.covariances, away.swapaxes(1, 2)).swapaxes(1, 2))
        log_det = np.linalg.slogdet(self.covariances)[1]
        n_features = self.means.shape[1]
        return self.weights[:, None] * np.exp(-(square + log_det[:, None] + n_features * np.log(2 * np.pi)) / 2)


def plot_fit(mixture: Any, X: Any, ax: Any = None, *, names: Sequence[str] | None = None) -> Any:
    """The samples with the fitted components: ``plot_histogram``, ``plot_clusters`` or ``plot_pairs``, as D is 1, 2 or more.

    Args:
      mixture: of D features.
      X: (N, D) samples.
      ax: axes, or for D > 2 an array of them as ``plot_pairs`` takes it.
      names: (D,) the features' names, with units.
    """
    n_features = _params(mixture).n_features
    if n_features == 1:
        return plot_histogram(mixture, X, ax, names=names)
    return (plot_clusters if n_features == 2 else plot_pairs)(mixture, X, ax, names=names)


def plot_histogram(
    mixture: Any, X: Any, ax: Axes | None = None, *, feature: int = 0, names: Sequence[str] | None = None
) -> Axes:
    """A histogram of one feature, the density of the mixture over it, eq. (1), and its weighted components."""
    params = _params(mixture)
    ax = _axes(ax, (6.0, 4.0))
    _draw_histogram(ax, np.asarray(X, float)[:, feature], _marginal(params, [feature]))
    ax.set(xlabel=_names(names, params)[feature], ylabel="density")
    _legend(ax)
    return ax


def plot_clusters(
    mixture: Any,
    X: Any,
    ax: Axes | None = None,
    *,
    features: tuple[int, int] = (0, 1),
    levels: Sequence[float] = LEVELS,
    names: Sequence[str] | None = None,
) -> Axes:
    """Samples in the colour of the component with the largest responsibility, and ellipses.

    Args:
      mixture: of two features or more.
      X: (N, D) samples; of more than 20,000 some are drawn.
      ax: axes.
      features: the two that are drawn.
      levels: shares of a component's probability that its ellipses hold.
      names: (D,) the features' names, with units.
    """
    params, X = _params(mixture), np.asarray(X, float)
    ax = _axes(ax, (6.5, 4.5))
    _draw_clusters(ax, X, _responsibilities(params, X).argmax(axis=1), _marginal(params, features), features, levels)
    _name(ax, names, params, features)
    _legend(ax)
    return ax


def plot_density(
    mixture: Any,
    X: Any = None,
    ax: Axes | None = None,
    *,
    features: tuple[int, int] = (0, 1),
    levels: Sequence[float] = LEVELS,
    names: Sequence[str] | None = None,
) -> Axes:
    """The density of two features in shades, eq. (1), with each component's ellipses; X, if given, as dots."""
    params = _params(mixture)
    part = _marginal(params, features)
    ax = _axes(ax, (6.5, 4.5))
    points = None if X is None else np.asarray(X, float)[:, list(features)]
    low, high = _extent(part, points)
    x, y = (np.linspace(low[i], high[i], GRID // 2) for i in (0, 1))
    plane = np.stack(np.meshgrid(x, y), axis=-1)
    density = part.density(plane.reshape(-1, 2)).sum(axis=0).reshape(plane.shape[:2])
    shades = ax.contourf(x, y, density, levels=12, cmap="Greys")
    ax.figure.colorbar(shades, ax=ax, label="density per unit area", format="%.2g")
    if points is not None:
        some_x, some_y = points[_some(len(points))].T
        ax.scatter(some_x, some_y, s=3, color="#E69F00", linewidths=0)
    for k in range(len(part.weights)):
        _draw_component(ax, part, k, levels, COLOURS[k % len(COLOURS)], label=f"component {k}")
    _name(ax, names, params, features)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if len(part.weights) > 1:
        ax.legend(frameon=True, fontsize=8)
    return ax


def plot_uncertainty(
    mixture: Any, X: Any, ax: Axes | None = None, *, features: tuple[int, int] = (0, 1), names: Sequence[str] | None = None
) -> Axes:
    """How uncertain the classification of each sample is: 1 - max_k gamma_nk, dark and large where components compete."""
    params, X = _params(mixture), np.asarray(X, float)
    part, rows = _marginal(params, features), _some(len(X))
    ax = _axes(ax, (6.5, 4.5))
    uncertain = 1 - _responsibilities(params, X).max(axis=1)[rows]
    order = np.argsort(uncertain)  # the uncertain on top
    size = _dot(len(rows)) * (1 + 4 * uncertain[order])
    largest = 1 - 1 / max(len(part.weights), 2)
    x, y = X[rows][order][:, list(features)].T
    dots = ax.scatter(x, y, s=size, c=uncertain[order], cmap="cividis_r", vmin=0, vmax=largest)
    dots.set(edgecolors="#7F7F7F", linewidths=0.3)
    ax.figure.colorbar(dots, ax=ax, label="uncertainty, 1 - largest responsibility")
    for k in range(len(part.weights)):
        _draw_component(ax, part, k, LEVELS[:1], "#7F7F7F")
    _name(ax, names, params, features)
    return ax


def plot_responsibilities(mixture: Any, X: Any, ax: Axes | None = None) -> Axes:
    """The responsibilities of all samples, eq. (5), stacked to one: samples ordered by component, then from sure to unsure."""
    gamma = _responsibilities(_params(mixture), np.asarray(X, float))
    ax = _axes(ax, (7.0, 3.0))
    gamma = gamma[np.lexsort((-gamma.max(axis=1), gamma.argmax(axis=1)))]
    edges = np.arange(len(gamma) + 1)
    below = np.zeros(len(gamma))
    for k, part in enumerate(gamma.T):
        ax.stairs(below + part, edges, baseline=below, fill=True, color=COLOURS[k % len(COLOURS)], label=f"component {k}")
        below = below + part
    ax.set(xlim=(0, len(gamma)), ylim=(0, 1), xlabel="samples, by component, from sure to unsure", ylabel="responsibility")
    _legend(ax)
    return ax


def plot_pairs(
    mixture: Any, X: Any, ax: np.ndarray | None = None, *, levels: Sequence[float] = LEVELS, names: Sequence[str] | None = None
) -> np.ndarray:
    """Every pair of the first six features as ``plot_clusters``, each of them as ``plot_histogram`` on the diagonal.

    Args:
      mixture: of two features or more.
      X: (N, D) samples.
      ax: (P, P) axes, P the number of features that are drawn; those above the diagonal are hidden.
      levels: as ``plot_clusters``.
      names: (D,) the features' names, with units.
    """
    params, X = _params(mixture), np.asarray(X, float)
    names, n_panels = _names(names, params), min(params.n_features, MOST_PANELS)
    side = 1.9 * n_panels + 1
    ax = _axes(ax, (side, side), nrows=n_panels, ncols=n_panels, sharex="col", squeeze=False)
    label = _responsibilities(params, X).argmax(axis=1)
    for i in range(n_panels):
        for j in range(n_panels):
            panel = ax[i, j]
            panel.set_visible(j <= i)
            panel.tick_params(labelsize=7)
            if i == j:
                _draw_histogram(panel, X[:, i], _marginal(params, [i]))
                panel.set_yticks([])
            elif j < i:
                _draw_clusters(panel, X, label, _marginal(params, (j, i)), (j, i), levels)
                panel.tick_params(labelleft=j == 0)
            if i == n_panels - 1:
                panel.set_xlabel(names[j], fontsize=8)
            if j == 0 < i:
                panel.set_ylabel(names[i], fontsize=8)
    if params.n_components > 1 and n_panels > 1:
        handles = ax[1, 0].get_legend_handles_labels()
        columns = min(4, params.n_components)
        ax[0, 0].figure.legend(*handles, loc="outside upper right", ncols=columns, frameon=False, fontsize=8, markerscale=1.5)
    return ax


def plot_criterion(sweep: Any, ax: Axes | None = None, *, criterion: str = "bic") -> Axes:
    """A criterion over the number of components, a curve a structure, ringed at its best; hollow where a fit is degenerate.

    Args:
      sweep: what ``jaxgmm.sweep`` returns.
      ax: axes.
      criterion: "bic", "aic", "icl", smaller is better, or "log_likelihood".
    """
    ax = _axes(ax, (6.5, 4.0))
    values = np.asarray(getattr(sweep, criterion), float)
    for i, name in enumerate(dict.fromkeys(sweep.covariance_type)):
        mine = np.flatnonzero(sweep.covariance_type == name)
        mine = mine[np.argsort(sweep.n_components[mine])]
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        counts, style = np.asarray(sweep.n_components), STYLES[i % len(STYLES)]
        ax.plot(counts[mine], values[mine], label=str(name), markersize=5, color=colour, marker=marker, linestyle=style)
        spikes = mine[sweep.status[mine] == Status.DEGENERATE]
        ax.plot(counts[spikes], values[spikes], linestyle="none", marker=marker, color=colour, markerfacecolor="white")
    if criterion != "log_likelihood":  # that rises with every component
        at = best_by(values, sweep.status)
        ring = sweep.n_components[at], values[at]
        ax.plot(*ring, marker="o", markersize=13, linestyle="none", color="none", markeredgecolor="black", label="best")
    unit = "log-likelihood (nats)" if criterion == "log_likelihood" else f"{criterion.upper()} (smaller is better)"
    ax.set(xlabel="number of components", ylabel=unit, xticks=np.unique(sweep.n_components))
    _legend(ax)
    return ax


def plot_trace(result: FitResult, ax: Axes | None = None, *, total_weight: float | int = 1) -> Axes:
    """How far below the best end each restart is after each pass; the one that won is drawn thick.

    Args:
      result: of a ``fit`` with ``trace`` at least as long as its passes.
      ax: axes.
      total_weight: what log-likelihoods are divided by, such as the number of samples.

    Raises:
      ValueError: the result has no trace.
    """
    traces = np.atleast_2d(np.asarray(result.lanes.trace, float)) / total_weight
    if not traces.size:
        raise ValueError("the result has no trace; pass trace=200, say, to fit.")
    ax = _axes(ax, (6.5, 4.0))
    ends = np.asarray(result.lanes.log_likelihood, float)
    place = int(np.argmin(np.abs(ends - float(result.log_likelihood))))
    best = np.nanmax(traces)
    least = max(np.finfo(np.asarray(result.log_likelihood).dtype).eps * abs(best), 1e-12)
    for r, trace in enumerate(traces):
        gap = np.maximum(best - trace, least)
        if r == place:
            ax.plot(gap, color=COLOURS[1], linewidth=2.2, label="the restart that won", zorder=3)
        else:
            ax.plot(gap, color=COLOURS[0], linewidth=0.9, alpha=0.6, label="other restarts" if r == (place == 0) else None)
    ax.set_yscale("log")
    unit = "nats" if total_weight == 1 else "nats a sample"
    ax.set(xlabel="pass", ylabel=f"log-likelihood below the best ({unit})")
    ax.legend(frameon=False)
    return ax


def plot_comparison(
    first: Any,
    second: Any,
    ax: Axes | None = None,
    *,
    labels: tuple[str, str] = ("first", "second"),
    features: Sequence[int] | None = None,
    levels: Sequence[float] = LEVELS,
    names: Sequence[str] | None = None,
) -> Axes:
    """Two mixtures of the same features: their densities for one feature, their ellipses for two, means sized by weight.

    Args:
      first, second: mixtures, of the same D.
      ax: axes.
      labels: what they are called.
      features: one or two; None for the first one or two.
      levels: as ``plot_clusters``.
      names: (D,) the features' names, with units.
    """
    pair = [_params(first), _params(second)]
    chosen = list(range(min(2, pair[0].n_features))) if features is None else list(features)
    parts = [_marginal(params, chosen) for params in pair]
    ax = _axes(ax, (6.5, 4.5))
    for i, (part, label) in enumerate(zip(parts, labels, strict=True)):
        colour, style = COLOURS[i], STYLES[i]
        if len(chosen) == 1:
            low, high = np.array([_extent(each, None) for each in parts])[..., 0].T
            grid = np.linspace(low.min(), high.max(), GRID)
            ax.plot(grid, part.density(grid[:, None]).sum(axis=0), color=colour, linestyle=style, label=label)
            continue
        for k in range(len(part.weights)):
            _draw_component(ax, part, k, levels, colour, style, label if k == 0 else None)
        x, y = part.means.T
        ax.scatter(x, y, s=20 + 200 * part.weights, color=colour, marker=MARKERS[i], alpha=0.5, linewidths=0)
    if len(chosen) == 1:
        ax.set(xlabel=_names(names, pair[0])[chosen[0]], ylabel="density")
    else:
        _name(ax, names, pair[0], chosen)
    ax.legend(frameon=False)
    return ax


def _params(mixture: Any) -> GMMParams:
    """The parameters of whatever holds a mixture."""
    for name in ("params", "params_"):
        mixture = getattr(mixture, name, mixture)
    if not isinstance(mixture, GMMParams):
        raise ValueError(f"mixture must be a GMMParams, a FitResult or a fitted estimator; got {type(mixture).__name__}.")
    return mixture


def _marginal(params: GMMParams, features: Sequence[int]) -> _Gaussians:
    weights, means, sigma = (np.asarray(v, float) for v in (params.weights, params.means, covariances(params)))
    chosen = list(features)
    return _Gaussians(weights, means[:, chosen], sigma[:, chosen][:, :, chosen])


def _responsibilities(params: GMMParams, X: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(predict_proba(params, X), float))


def _names(names: Sequence[str] | None, params: GMMParams) -> list[str]:
    return list(names) if names is not None else [f"feature {d}" for d in range(params.n_features)]


def _name(ax: Axes, names: Sequence[str] | None, params: GMMParams, features: Sequence[int]) -> None:
    x, y = (_names(names, params)[d] for d in features)
    ax.set(xlabel=x, ylabel=y)


def _axes(ax: Any, size: tuple[float, float], **grid: Any) -> Any:
    """The axes that are given, or new ones."""
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained").subplots(**grid) if ax is None else ax


def _legend(ax: Axes) -> None:
    """Beside the axes, where it covers nothing."""
    if len(ax.get_legend_handles_labels()[1]) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8, markerscale=1.5)


def _some(n: int) -> np.ndarray:
    """Rows to draw."""
    return np.random.default_rng(0).permutation(n)[:MOST_POINTS]


def _dot(n: int) -> float:
    return float(np.clip(2000 / n, 1, 14))


def _extent(part: _Gaussians, points: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The corners of what is drawn: three standard deviations, and all samples."""
    reach = 3 * np.sqrt(np.diagonal(part.covariances, axis1=1, axis2=2))
    low, high = (part.means - reach).min(axis=0), (part.means + reach).max(axis=0)
    return (low, high) if points is None else (np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0)))


def _draw_histogram(ax: Axes, x: np.ndarray, part: _Gaussians) -> None:
    ax.hist(x, bins="auto" if len(x) < MOST_POINTS else 100, density=True, color="#D9D9D9")
    grid = np.linspace(x.min(), x.max(), GRID)
    density = part.density(grid[:, None])
    for k, curve in enumerate(density):
        colour, style = COLOURS[k % len(COLOURS)], STYLES[k // len(COLOURS) % len(STYLES)]
        ax.plot(grid, curve, color=colour, linestyle=style, linewidth=1.4, label=f"component {k}")
    ax.plot(grid, density.sum(axis=0), color="black", linewidth=1.2, linestyle="--", label="mixture")


def _draw_clusters(
    ax: Axes, X: np.ndarray, label: np.ndarray, part: _Gaussians, features: Sequence[int], levels: Sequence[float]
) -> None:
    rows = _some(len(X))
    for k in range(len(part.weights)):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        x, y = X[rows][label[rows] == k][:, list(features)].T
        ax.scatter(x, y, s=_dot(len(rows)), marker=marker, color=colour, alpha=0.55, linewidths=0, label=f"component {k}")
        _draw_component(ax, part, k, levels, colour)


def _draw_component(
    ax: Axes, part: _Gaussians, k: int, levels: Sequence[float], colour: str, style: str = "-", label: str | None = None
) -> None:
    """The ellipses of a component that hold these shares of it (chi-squared with two degrees of freedom), and its mean."""
    angle = np.linspace(0, 2 * np.pi, 100)
    values, axes = np.linalg.eigh(part.covariances[k])
    for i, level in enumerate(levels):
        radius = np.sqrt(-2 * np.log1p(-level) * np.maximum(values, 0))
        x, y = part.means[k][:, None] + axes @ (radius[:, None] * np.stack([np.cos(angle), np.sin(angle)]))
        ax.plot(x, y, color=colour, linestyle=style, linewidth=1.4, label=label if i == 0 else None)
    ax.plot(*part.means[k], marker="+", color="black", markersize=8, linestyle="none")
