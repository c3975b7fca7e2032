"""Pictures of a fit; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgmm.density import predict
from jaxgmm.params import GMMParams, covariances

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A500")
MARKERS = "osD^vP*X"
"""Okabe and Ito's colours, told apart with any colour vision, and markers for when they repeat."""

LEVELS = (0.5, 0.95)
MOST_PANELS = 6
MOST_POINTS = 20_000


def plot_fit(params: GMMParams, X: Any, names: Sequence[str] | None = None) -> Figure:
    """The samples with the fitted components: a density over a histogram, ellipses, or a grid of pairs.

    Ellipses hold 50 % and 95 % of a component. With more than two features every pair of the first six is drawn; the
    marginal of a Gaussian is the Gaussian of the chosen rows and columns, so the ellipses are exact.

    Args:
      params: a mixture.
      X: (N, D) samples.
      names: the features' names, with units.

    Returns:
      The figure, to be saved or shown.
    """
    from matplotlib.figure import Figure

    X = np.asarray(X, float)
    weights, means, sigma = (np.asarray(v, float) for v in (params.weights, params.means, covariances(params)))
    label = np.asarray(predict(params, X))
    rows = np.random.default_rng(0).permutation(len(X))[:MOST_POINTS]
    names = list(names) if names is not None else [f"feature {d}" for d in range(X.shape[1])]
    components = list(zip(weights, means, sigma, strict=True))

    n_panels = min(X.shape[1], MOST_PANELS)
    if n_panels == 1:
        figure = Figure(figsize=(6, 4), layout="constrained")
        ax = figure.subplots()
        _density(ax, X[:, 0], components)
        ax.set(xlabel=names[0], ylabel="density")
        ax.legend(frameon=False)
    elif n_panels == 2:
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        ax = figure.subplots()
        _scatter(ax, X[rows], label[rows], components, (0, 1))
        ax.set(xlabel=names[0], ylabel=names[1])
        if len(components) > 1:
            figure.legend(
                *ax.get_legend_handles_labels(), loc="outside upper center", ncols=min(4, len(components)), frameon=False
            )
    else:
        figure = Figure(figsize=(1.9 * n_panels + 1, 1.9 * n_panels + 1), layout="constrained")
        axes = figure.subplots(n_panels, n_panels, sharex="col", squeeze=False)
        for i in range(n_panels):
            for j in range(n_panels):
                ax = axes[i, j]
                if i == j:
                    _density(ax, X[:, i], [(w, m[[i]], s[i : i + 1, i : i + 1]) for w, m, s in components])
                    ax.set_yticks([])
                elif j < i:
                    _scatter(ax, X[rows], label[rows], components, (j, i))
                else:
                    ax.set_visible(False)
                    continue
                ax.tick_params(labelsize=7)
                if i == n_panels - 1:
                    ax.set_xlabel(names[j], fontsize=8)
                if j == 0 and i > 0:
                    ax.set_ylabel(names[i], fontsize=8)
                elif 0 < j < i:
                    ax.set_yticklabels([])
        if len(components) > 1:
            handles = axes[1, 0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside upper right", ncols=min(4, len(components)), frameon=False, fontsize=8)
    return figure


def _scatter(ax: Axes, X: np.ndarray, label: np.ndarray, components: list, pair: tuple[int, int]) -> None:
    """Samples by their component, and each component's ellipses."""
    columns = list(pair)
    size = float(np.clip(2000 / len(X), 1, 14))
    for k, (_, mean, sigma) in enumerate(components):
        colour = COLOURS[k % len(COLOURS)]
        chosen = X[label == k][:, columns]
        marker = MARKERS[k % len(MARKERS)]
        ax.scatter(
            chosen[:, 0], chosen[:, 1], s=size, marker=marker, color=colour, alpha=0.55, linewidths=0, label=f"component {k}"
        )
        for level in LEVELS:
            ax.plot(*_ellipse(mean[columns], sigma[np.ix_(columns, columns)], level), color=colour, linewidth=1.4)
        ax.plot(*mean[columns], marker="+", color="black", markersize=8, linestyle="none")


def _density(ax: Axes, x: np.ndarray, components: list) -> None:
    """A histogram, the mixture, and its weighted components."""
    ax.hist(x, bins="auto" if len(x) < MOST_POINTS else 100, density=True, color="#D9D9D9")
    grid = np.linspace(x.min(), x.max(), 400)
    total = np.zeros_like(grid)
    for k, (weight, mean, sigma) in enumerate(components):
        part = weight * np.exp(-0.5 * (grid - mean[0]) ** 2 / sigma[0, 0]) / np.sqrt(2 * np.pi * sigma[0, 0])
        total += part
        ax.plot(grid, part, color=COLOURS[k % len(COLOURS)], linewidth=1.4, label=f"component {k}")
    ax.plot(grid, total, color="black", linewidth=1.2, linestyle="--", label="mixture")


def _ellipse(mean: np.ndarray, sigma: np.ndarray, level: float) -> np.ndarray:
    """(2, 100) the contour that holds ``level`` of a two-dimensional Gaussian: chi-squared with two degrees of freedom."""
    angle = np.linspace(0, 2 * np.pi, 100)
    values, vectors = np.linalg.eigh(sigma)
    radius = np.sqrt(-2 * np.log1p(-level) * np.maximum(values, 0))
    return mean[:, None] + vectors @ (radius[:, None] * np.stack([np.cos(angle), np.sin(angle)]))
