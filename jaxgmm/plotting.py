"""Pictures of mixtures; matplotlib (in the extra ``plot``) is imported when one is drawn.

Every function draws on ``ax``, or on axes of its own, and returns what it drew on. A mixture is a ``GMMParams``, a
``FitResult`` or an estimator of ``jaxgmm.sklearn``. Features that are not drawn are integrated out: the marginal of a Gaussian
is the Gaussian of the chosen rows and columns, so ellipses and curves are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgmm.drawing import (
    COLOURS,
    GRID,
    LEVELS,
    MARKERS,
    STYLES,
    UNCERTAIN,
    axes_of,
    dot_size,
    draw_clusters,
    draw_component,
    draw_histogram,
    extent,
    legend_beside,
    legend_in_corner,
    marginal,
    marker_of,
    name_axes,
    names_of,
    params_of,
    responsibilities_of,
    some_rows,
)
from jaxgmm.loop import Status
from jaxgmm.result import FitResult
from jaxgmm.selection import CRITERIA, best_by

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 6


def plot_fit(mixture: Any, X: Any, ax: Any = None, *, names: Sequence[str] | None = None) -> Any:
    """The samples with the fitted components: ``plot_histogram``, ``plot_clusters`` or ``plot_pairs``, as D is 1, 2 or more.

    Args:
      mixture: a ``GMMParams``, a ``FitResult`` or a fitted estimator.
      X: (N, D) samples, in the units of the mixture.
      ax: axes, or for D > 2 an array of them as ``plot_pairs`` takes it.
      names: (D,) the features' names, with units.

    Returns:
      ``ax``, or the axes that were made: one, or an array of them.

    Raises:
      ValueError, IndexError: as the function that draws.

    >>> import jaxgmm
    >>> from jaxgmm.plotting import plot_fit
    >>> mixture = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0], [3.0]], [[[1.0]]] * 2)
    >>> plot_fit(mixture, [[0.0], [3.1]], names=["height (m)"]).get_xlabel()
    'height (m)'
    """
    n_features = params_of(mixture).n_features
    if n_features == 1:
        return plot_histogram(mixture, X, ax, names=names)
    return (plot_clusters if n_features == 2 else plot_pairs)(mixture, X, ax, names=names)


def plot_histogram(
    mixture: Any, X: Any, ax: Axes | None = None, *, feature: int = 0, names: Sequence[str] | None = None
) -> Axes:
    """A histogram of one feature d, the density of the mixture over it, eq. (1), and its weighted components.

    Curves are pi_k N(x_d | mu_kd, Sigma_kdd) and their sum, per unit of the feature.

    Args:
      mixture: a ``GMMParams``, a ``FitResult`` or a fitted estimator.
      X: (N, D) samples, in the units of the mixture.
      ax: axes.
      feature: the one that is drawn.
      names: (D,) the features' names, with units.

    Returns:
      ``ax``, or the axes that were made.

    Raises:
      ValueError: ``mixture`` holds no mixture, or a batch; it has no such feature; ``names`` are not D.
      IndexError: X has no such column.

    >>> import jaxgmm
    >>> from jaxgmm.plotting import plot_histogram
    >>> mixture = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0], [3.0]], [[[1.0]]] * 2)
    >>> [line.get_label() for line in plot_histogram(mixture, [[0.0], [3.1], [3.3]]).lines]
    ['component 0', 'component 1', 'mixture']
    """
    params = params_of(mixture)
    ax = axes_of(ax, (6.0, 4.0))
    draw_histogram(ax, np.asarray(X, float)[:, feature], marginal(params, [feature]))
    ax.set(xlabel=names_of(names, params)[feature], ylabel="density")
    legend_beside(ax)
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
    """Samples in the colour of the component with the largest responsibility, eq. (5), and ellipses.

    An ellipse that holds a share s of a component is (x - mu_k)^T Sigma_k^-1 (x - mu_k) = -2 ln(1 - s), in the two features.

    Args:
      mixture: a ``GMMParams``, a ``FitResult`` or a fitted estimator, of two features or more.
      X: (N, D) samples, in the units of the mixture; of more than 20,000 some are drawn.
      ax: axes.
      features: the two that are drawn.
      levels: shares s of a component's probability that its ellipses hold, from 0 to below 1.
      names: (D,) the features' names, with units.

    Returns:
      ``ax``, or the axes that were made.

    Raises:
      ValueError: ``mixture`` holds no mixture, or a batch; ``features`` are not among its; X has another D; ``names`` are
        not D.

    >>> import jaxgmm
    >>> from jaxgmm.plotting import plot_clusters
    >>> mixture = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2)
    >>> len(plot_clusters(mixture, [[0.0, 0.1], [3.1, 0.2]], levels=[0.9]).lines)  # an ellipse and a cross each
    4
    """
    params, X = params_of(mixture), np.asarray(X, float)
    ax = axes_of(ax, (6.5, 4.5))
    draw_clusters(ax, X, responsibilities_of(params, X).argmax(axis=1), marginal(params, features), features, levels)
    name_axes(ax, names, params, features)
    legend_beside(ax)
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
    """The density of two features in shades, eq. (1), with each component's ellipses; X, if given, as dots.

    Args:
      mixture: a ``GMMParams``, a ``FitResult`` or a fitted estimator, of two features or more.
      X: (N, D) samples, in the units of the mixture.
      ax: axes.
      features: the two that are drawn.
      levels: as ``plot_clusters``.
      names: (D,) the features' names, with units.

    Returns:
      ``ax``, or the axes that were made.

    Raises:
      ValueError: ``mixture`` holds no mixture, or a batch; ``features`` are not among its; ``names`` are not D.
      IndexError: X has no such columns.

    >>> import jaxgmm
    >>> from jaxgmm.plotting import plot_density
    >>> mixture = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2)
    >>> plot_density(mixture, names=["x (m)", "y (m)"]).get_ylabel()
    'y (m)'
    """
    params = params_of(mixture)
    part = marginal(params, features)
    ax = axes_of(ax, (6.5, 4.5))
    points = None if X is None else np.asarray(X, float)[:, list(features)]
    low, high = extent(part, points)
    x, y = (np.linspace(low[i], high[i], GRID // 2) for i in (0, 1))
    plane = np.stack(np.meshgrid(x, y), axis=-1)
    density = part.density(plane.reshape(-1, 2)).sum(axis=0).reshape(plane.shape[:2])
    shades = ax.contourf(x, y, density, levels=12, cmap="Greys")
    ax.figure.colorbar(shades, ax=ax, label="density per unit area", format="%.2g")
    if points is not None:
        some_x, some_y = points[some_rows(len(points))].T
        ax.scatter(some_x, some_y, s=3, color="#E69F00", linewidths=0)
    for k in range(len(part.weights)):
        draw_component(ax, part, k, levels, COLOURS[k % len(COLOURS)], label=f"component {k}")
    name_axes(ax, names, params, features)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if len(part.weights) > 1:
        ax.legend(frameon=True, fontsize=8)
    return ax


def plot_uncertainty(
    mixture: Any, X: Any, ax: Axes | None = None, *, features: tuple[int, int] = (0, 1), names: Sequence[str] | None = None
) -> Axes:
    """How uncertain the classification of each sample is: 1 - max_k gamma_nk, dark and large where components compete.

    Args:
      mixture: a ``GMMParams``, a ``FitResult`` or a fitted estimator, of two features or more.
      X: (N, D) samples, in the units of the mixture.
      ax: axes.
      features: the two that are drawn.
      names: (D,) the features' names, with units.

    Returns:
      ``ax``, or the axes that were made.

    Raises:
      ValueError: as ``plot_clusters``.

    Source: Fraley and Raftery (2002), Journal of the American Statistical Association 97, as mclust.

    >>> import jaxgmm
    >>> from jaxgmm.plotting import plot_uncertainty
    >>> mixture = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2)
    >>> dots = plot_uncertainty(mixture, [[1.5, 0.0], [-9.0, 0.0]]).collections[0]
    >>> dots.get_array().tolist()
    [0.0, 0.5]
    """
    from matplotlib.colors import LinearSegmentedColormap

    params, X = params_of(mixture), np.asarray(X, float)
    part, rows = marginal(params, features), some_rows(len(X))
    shades = LinearSegmentedColormap.from_list("uncertain", UNCERTAIN)
    ax = axes_of(ax, (6.5, 4.5))
    uncertain = 1 - responsibilities_of(params, X).max(axis=1)[rows]
    order = np.argsort(uncertain)  # the uncertain on top
    largest = 1 - 1 / max(len(part.weights), 2)
    size = dot_size(len(rows)) * (1 + 9 * uncertain[order] / largest)
    x, y = X[rows][order][:, list(features)].T
    dots = ax.scatter(x, y, s=size, c=uncertain[order], cmap=shades, vmin=0, vmax=largest)
    dots.set(edgecolors="#595959", linewidths=0.4)
    ax.figure.colorbar(dots, ax=ax, label="uncertainty, 1 - largest responsibility")
    for k in range(len(part.weights)):
        draw_component(ax, part, k, LEVELS[:1], "#7F7F7F")
    name_axes(ax, names, params, features)
    return ax


def plot_responsibilities(mixture: Any, X: Any, ax: Axes | None = None) -> Axes:
    """The responsibilities of all samples, eq. (5), stacked to one: samples ordered by component, then from sure to unsure.

    Args:
      mixture: a ``GMMParams``, a ``FitResult`` or a fitted estimator.
      X: (N, D) samples, in the units of the mixture.
      ax: axes.

    Returns:
      ``ax``, or the axes that were made.

    Raises:
      ValueError: ``mixture`` holds no mixture, or a batch; X has another D.

    >>> import jaxgmm
    >>> from jaxgmm.plotting import plot_responsibilities
    >>> mixture = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2)
    >>> plot_responsibilities(mixture, [[0.0, 0.0], [3.1, 0.0]]).get_ylabel()
    'responsibility'
    """
    gamma = responsibilities_of(params_of(mixture), np.asarray(X, float))
    ax = axes_of(ax, (7.0, 3.0))
    gamma = gamma[np.lexsort((-gamma.max(axis=1), gamma.argmax(axis=1)))]
    edges = np.arange(len(gamma) + 1)
    below = np.zeros(len(gamma))
    for k, part in enumerate(gamma.T):
        ax.stairs(below + part, edges, baseline=below, fill=True, color=COLOURS[k % len(COLOURS)], label=f"component {k}")
        below = below + part
    ax.set(xlim=(0, len(gamma)), ylim=(0, 1), xlabel="samples, by component, from sure to unsure", ylabel="responsibility")
    legend_beside(ax)
    return ax


def plot_pairs(
    mixture: Any, X: Any, ax: np.ndarray | None = None, *, levels: Sequence[float] = LEVELS, names: Sequence[str] | None = None
) -> np.ndarray:
    """Every pair of the first six features as ``plot_clusters``, each of them as ``plot_histogram`` on the diagonal.

    Args:
      mixture: a ``GMMParams``, a ``FitResult`` or a fitted estimator.
      X: (N, D) samples, in the units of the mixture.
      ax: (P, P) axes, P the number of features that are drawn; those above the diagonal are hidden.
      levels: as ``plot_clusters``.
      names: (D,) the features' names, with units.

    Returns:
      ``ax``, or the (P, P) axes that were made.

    Raises:
      ValueError: ``mixture`` holds no mixture, or a batch; X has another D; ``names`` are not D.

    >>> import jaxgmm
    >>> from jaxgmm.plotting import plot_pairs
    >>> mixture = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2)
    >>> plot_pairs(mixture, [[0.0, 0.1], [3.1, 0.2]]).shape
    (2, 2)
    """
    params, X = params_of(mixture), np.asarray(X, float)
    names, n_panels = names_of(names, params), min(params.n_features, MOST_PANELS)
    side = 1.9 * n_panels + 1
    ax = axes_of(ax, (side, side), nrows=n_panels, ncols=n_panels, sharex="col", squeeze=False)
    label = responsibilities_of(params, X).argmax(axis=1)
    for i in range(n_panels):
        for j in range(n_panels):
            panel = ax[i, j]
            panel.set_visible(j <= i)
            panel.tick_params(labelsize=7)
            if i == j:
                draw_histogram(panel, X[:, i], marginal(params, [i]))
                panel.set_yticks([])
                panel.set_title(names[i], fontsize=8)
            elif j < i:
                draw_clusters(panel, X, label, marginal(params, (j, i)), (j, i), levels)
                panel.tick_params(labelleft=j == 0)
            if i == n_panels - 1:
                panel.set_xlabel(names[j], fontsize=8)
            if j == 0:
                panel.set_ylabel(names[i] if i else "density", fontsize=8)
    if params.n_components > 1 and n_panels > 1:
        legend_in_corner(ax)
    return ax


def plot_criterion(sweep: Any, ax: Axes | None = None, *, criterion: str | None = None) -> Axes:
    """A criterion over the number of components, a curve a structure, ringed at its best; hollow where a fit is degenerate.

    Args:
      sweep: what ``jaxgmm.sweep`` returns.
      ax: axes.
      criterion: what the sweep chose by, without; or "bic", "aic", "icl", "cross_validation" with the standard error of its
        difference from the best, in nats times two, "nec", or "log_likelihood" or "entropy", in nats.

    Returns:
      ``ax``, or the axes that were made.

    Raises:
      ValueError: cross-validation of a sweep without folds.
      AttributeError: a criterion of another name.

    Source: see ``jaxgmm.aic``, ``jaxgmm.bic``, ``jaxgmm.icl``, ``jaxgmm.nec`` and ``jaxgmm.sweep``.

    >>> import jax, jaxgmm
    >>> from jaxgmm.plotting import plot_criterion
    >>> X = [[0.0], [0.1], [0.2], [0.4], [9.0], [9.1], [9.2], [9.4]]
    >>> found = jaxgmm.sweep(jax.random.key(0), X, range(1, 3), "tied", n_restarts=2)
    >>> plot_criterion(found).lines[-1].get_xdata().tolist()  # the ring
    [2]
    """
    criterion = sweep.criterion if criterion is None else criterion
    if criterion == "cross_validation" and not sweep.held_out.size:
        raise ValueError("the sweep has no folds, so no cross-validation to draw; pass n_folds=5, say, to sweep.")
    ax = axes_of(ax, (6.5, 4.0))
    values = np.asarray(getattr(sweep, criterion), float)
    families = np.array(sweep.family)
    for i, name in enumerate(dict.fromkeys(sweep.family)):
        mine = np.flatnonzero(families == name)
        mine = mine[np.argsort(sweep.n_components[mine])]
        colour, marker = COLOURS[i % len(COLOURS)], marker_of(i)
        counts, style = np.asarray(sweep.n_components), STYLES[i % len(STYLES)]
        ax.plot(counts[mine], values[mine], label=str(name), markersize=5, color=colour, marker=marker, linestyle=style)
        spikes = mine[sweep.status[mine] == Status.DEGENERATE]
        ax.plot(counts[spikes], values[spikes], linestyle="none", marker=marker, color=colour, markerfacecolor="white")
        if criterion == "cross_validation":
            error = sweep.standard_error[mine]
            ax.errorbar(counts[mine], values[mine], error, fmt="none", ecolor=colour, elinewidth=1, capsize=2)
    if criterion in CRITERIA:  # the log-likelihood rises with every component, and entropy is zero for one
        at = best_by(values, sweep.status)
        ring = sweep.n_components[at], values[at]
        ax.plot(*ring, marker="o", markersize=13, linestyle="none", color="none", markeredgecolor="black", label="best")
    unit = f"{CRITERIA[criterion]} (smaller is better)" if criterion in CRITERIA else f"{criterion.replace('_', '-')} (nats)"
    ax.set(xlabel="number of components", ylabel=unit, xticks=np.unique(sweep.n_components))
    legend_beside(ax)
    return ax


def plot_merging(merging: Any, ax: Axes | None = None) -> Axes:
    """The entropy of each number of clusters over the weight of the samples that merges have moved, ringed at the elbow.

    Args:
      merging: what ``jaxgmm.merge_components`` returns.
      ax: axes.

    Returns:
      ``ax``, or the axes that were made. Points from the elbow on bear their number of clusters; the two lines meet there.

    Source: Baudry, Raftery, Celeux, Lo and Gottardo (2010), Journal of Computational and Graphical Statistics 19.

    >>> import jaxgmm
    >>> from jaxgmm.plotting import plot_merging
    >>> params = jaxgmm.GMMParams.from_moments([1, 1, 1, 1], [[0.0], [0.5], [9.0], [19.0]], [[[1.0]]] * 4)
    >>> merging = jaxgmm.merge_components(params, [[-1.0], [0.2], [0.4], [1.0], [8.0], [9.0], [18.0], [19.0]])
    >>> [text.get_text() for text in plot_merging(merging).texts]
    ['1', '2', '3', '4']
    """
    ax = axes_of(ax, (6.5, 4.0))
    entropy, moved = np.asarray(merging.entropy, float), np.asarray(merging.moved, float)
    x, chosen = np.cumsum(moved[::-1])[::-1], int(merging.n_clusters)
    for part in (slice(0, chosen), slice(chosen - 1, None)):
        if np.ptp(x[part]) > 0:
            slope, level = np.polyfit(x[part], entropy[part], 1)
            ax.plot(x[part], level + slope * x[part], color=COLOURS[6], linewidth=1)
    ax.plot(x, entropy, color=COLOURS[0], marker=MARKERS[0], markersize=5, linestyle="none")
    ax.plot(
        x[chosen - 1], entropy[chosen - 1], color="none", marker="o", markersize=13, markeredgecolor="black", linestyle="none"
    )
    ax.lines[-1].set_label(f"{chosen} clusters suggested")
    for n, place in enumerate(zip(x, entropy, strict=True), start=1):
        if chosen < n < len(x):  # of many components, these lie close
            continue
        ax.annotate(str(n), place, xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8)
    ax.set(xlabel="samples moved by merges", ylabel="entropy of the classification (nats)")
    ax.margins(y=0.12)
    ax.legend(frameon=False)
    return ax


def plot_trace(result: FitResult, ax: Axes | None = None, *, total_weight: float | int = 1) -> Axes:
    """How far below the end that won each restart is after each pass; the one that won is drawn thick.

    Restart r after pass t is drawn at (L_best - L_r(t)) / ``total_weight``, L_best the highest in the trace of the one
    that won. A curve ends where that distance comes down to rounding.

    Args:
      result: of a ``fit`` with ``trace`` at least as long as its passes.
      ax: axes.
      total_weight: what log-likelihoods, in nats, are divided by, such as the number of samples.

    Returns:
      ``ax``, or the axes that were made.

    Raises:
      ValueError: the result has no trace.
      TypeError: a batch of results.

    >>> import jax, jaxgmm
    >>> from jaxgmm.plotting import plot_trace
    >>> fit = jaxgmm.fit(jax.random.key(0), [[0.0], [0.2], [9.0], [9.2]], 2, covariance_type="tied", n_restarts=3, trace=50)
    >>> len(plot_trace(fit).lines)
    3
    """
    from matplotlib.ticker import MaxNLocator

    traces = np.atleast_2d(np.asarray(result.lanes.trace, float)) / total_weight
    if not traces.size:
        raise ValueError("the result has no trace; pass trace=200, say, to fit.")
    ax = axes_of(ax, (6.5, 4.0))
    ends = np.asarray(result.lanes.log_likelihood, float)
    place = int(np.argmin(np.abs(ends - float(result.log_likelihood))))
    best = traces[place][np.isfinite(traces[place])].max()
    least = max(4 * np.finfo(np.asarray(result.log_likelihood).dtype).eps * abs(best), 1e-12)
    for r, trace in enumerate(traces):
        # A spike that was left out may rise above the winner; what rounding raises again is not drawn.
        gap = np.where(np.logical_or.accumulate(best - trace <= least), np.nan, best - trace)
        if r == place:
            ax.plot(gap, color=COLOURS[1], linewidth=2.5, label="the restart that won", zorder=3)
        else:
            ax.plot(gap, color=COLOURS[6], linewidth=0.8, alpha=0.5, label="other restarts" if r == (place == 0) else None)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    unit = "nats" if total_weight == 1 else "nats a sample"
    ax.set(xlabel="pass", ylabel=f"log-likelihood below the one that won ({unit})")
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
      first, second: each a ``GMMParams``, a ``FitResult`` or a fitted estimator, of the same D and in the same units.
      ax: axes.
      labels: what they are called.
      features: one or two; None for the first one or two.
      levels: as ``plot_clusters``.
      names: (D,) the features' names, with units.

    Returns:
      ``ax``, or the axes that were made.

    Raises:
      ValueError: either holds no mixture, or a batch, or lacks one of ``features``; their numbers of features differ;
        ``labels`` are not two; ``names`` are not D.

    >>> import jaxgmm
    >>> from jaxgmm.plotting import plot_comparison
    >>> mixture = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2)
    >>> other = jaxgmm.GMMParams.from_moments([1.0], [[1.5, 0.0]], [[[3.0, 0.0], [0.0, 1.0]]])
    >>> [text.get_text() for text in plot_comparison(mixture, other, labels=("ours", "theirs")).get_legend().texts]
    ['ours', 'theirs']
    """
    pair = [params_of(first), params_of(second)]
    if pair[0].n_features != pair[1].n_features:
        raise ValueError(f"the mixtures must have the same features; got {pair[0].n_features} and {pair[1].n_features}.")
    chosen = list(range(min(2, pair[0].n_features))) if features is None else list(features)
    parts = [marginal(params, chosen) for params in pair]
    ax = axes_of(ax, (6.5, 4.5))
    for i, (part, label) in enumerate(zip(parts, labels, strict=True)):
        colour, style = COLOURS[i], STYLES[i]
        if len(chosen) == 1:
            low, high = np.array([extent(each, None) for each in parts])[..., 0].T
            grid = np.linspace(low.min(), high.max(), GRID)
            ax.plot(grid, part.density(grid[:, None]).sum(axis=0), color=colour, linestyle=style, label=label)
            continue
        for k in range(len(part.weights)):
            draw_component(ax, part, k, levels, colour, style, label if k == 0 else None)
        x, y = part.means.T
        ax.scatter(x, y, s=20 + 200 * part.weights, color=colour, marker=MARKERS[i], alpha=0.5, linewidths=0)
    if len(chosen) == 1:
        ax.set(xlabel=names_of(names, pair[0])[chosen[0]], ylabel="density")
    else:
        name_axes(ax, names, pair[0], chosen)
    ax.legend(frameon=False)
    return ax
