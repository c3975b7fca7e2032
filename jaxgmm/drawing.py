"""What the pictures of ``plotting`` are made of: marginals, axes, colours, and one component drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxgmm.density import predict_proba
from jaxgmm.params import GMMParams, covariances

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A500")
MARKERS = "osD^vP*X"
STYLES = ("-", "--", ":", "-.")
"""Okabe and Ito's colours, told apart with any colour vision, and markers and lines for when they repeat."""


def marker_of(k: int) -> str:
    """Another one when the colours begin again."""
    return MARKERS[(k + k // len(COLOURS)) % len(MARKERS)]


UNCERTAIN = ("#CFCFCF", "#E69F00", "#D55E00", "#3F1A00")
"""From pale grey, which is still seen on white, to dark."""

LEVELS = (0.5, 0.95)
MOST_POINTS = 20_000
GRID = 400
"""Points along an axis of a curve; a plane takes a fourth in each direction."""


class Gaussians(NamedTuple):
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


def params_of(mixture: Any) -> GMMParams:
    """The parameters of whatever holds a mixture."""
    for name in ("params", "params_"):
        mixture = getattr(mixture, name, mixture)
    if not isinstance(mixture, GMMParams):
        raise ValueError(
            "mixture must be a GMMParams, a FitResult or a fitted estimator of jaxgmm.sklearn, whose from_sklearn takes "
            f"scikit-learn's; got {type(mixture).__name__}."
        )
    return mixture


def marginal(params: GMMParams, features: Sequence[int]) -> Gaussians:
    weights, means, sigma = (np.asarray(v, float) for v in (params.weights, params.means, covariances(params)))
    chosen, n_features = list(features), params.n_features
    if not all(0 <= feature < n_features for feature in chosen):
        hint = " Of one feature plot_histogram is a picture." if n_features == 1 else ""
        raise ValueError(f"features must be among 0 to {n_features - 1}, those of the mixture; got {chosen}.{hint}")
    return Gaussians(weights, means[:, chosen], sigma[:, chosen][:, :, chosen])


def responsibilities_of(params: GMMParams, X: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(predict_proba(params, X), float))


def names_of(names: Sequence[str] | None, params: GMMParams) -> list[str]:
    if names is None:
        return [f"feature {d}" for d in range(params.n_features)]
    if len(names) != params.n_features:
        raise ValueError(f"names must hold {params.n_features} names, one a feature; got {list(names)}.")
    return list(names)


def name_axes(ax: Axes, names: Sequence[str] | None, params: GMMParams, features: Sequence[int]) -> None:
    x, y = (names_of(names, params)[d] for d in features)
    ax.set(xlabel=x, ylabel=y)


def axes_of(ax: Any, size: tuple[float, float], **grid: Any) -> Any:
    """The axes that are given, or new ones."""
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained").subplots(**grid) if ax is None else ax


def legend_beside(ax: Axes) -> None:
    """Beside the axes, where it covers nothing."""
    if len(ax.get_legend_handles_labels()[1]) > 1:
        legend = ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
        solid_markers(legend)


def legend_in_corner(ax: Any) -> None:
    """In the empty half of a triangle of panels, right of the first."""
    handles, labels = ax[1, 0].get_legend_handles_labels()
    curves = dict(zip(*ax[0, 0].get_legend_handles_labels()[::-1], strict=True))
    handles, labels = [*handles, curves["mixture"]], [*labels, "mixture"]
    columns = 1 if len(ax) == 2 else 1 + len(labels) // 10
    place = {"loc": "upper left", "bbox_to_anchor": (1.04, 1.0), "borderaxespad": 0.0}
    legend = ax[0, 0].legend(handles, labels, **place, ncols=columns, frameon=False, fontsize=8)
    legend.set_in_layout(False)
    solid_markers(legend)


def solid_markers(legend: Any) -> None:
    """To be seen however small and pale the dots are."""
    for handle in filter(None, legend.legend_handles):
        if hasattr(handle, "set_sizes"):
            handle.set(sizes=[24], alpha=1)


def some_rows(n: int) -> np.ndarray:
    """Rows to draw."""
    return np.random.default_rng(0).permutation(n)[:MOST_POINTS]


def dot_size(n: int) -> float:
    return float(np.clip(6000 / n, 3, 14))


def extent(part: Gaussians, points: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The corners of what is drawn: three standard deviations, and all samples."""
    reach = 3 * np.sqrt(np.diagonal(part.covariances, axis1=1, axis2=2))
    low, high = (part.means - reach).min(axis=0), (part.means + reach).max(axis=0)
    return (low, high) if points is None else (np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0)))


def draw_histogram(ax: Axes, x: np.ndarray, part: Gaussians) -> None:
    (low,), (high,) = extent(part, x[:, None])
    ax.hist(x, bins="auto" if len(x) < MOST_POINTS else 100, range=(low, high), density=True, color="#D9D9D9")
    grid = np.linspace(low, high, GRID)
    density = part.density(grid[:, None])
    for k, curve in enumerate(density):
        colour, style = COLOURS[k % len(COLOURS)], STYLES[k // len(COLOURS) % len(STYLES)]
        ax.plot(grid, curve, color=colour, linestyle=style, linewidth=1.4, label=f"component {k}")
    ax.plot(grid, density.sum(axis=0), color="black", linewidth=1.2, linestyle="--", label="mixture")


def draw_clusters(
    ax: Axes, X: np.ndarray, label: np.ndarray, part: Gaussians, features: Sequence[int], levels: Sequence[float]
) -> None:
    rows = some_rows(len(X))
    for k in range(len(part.weights)):
        colour, marker = COLOURS[k % len(COLOURS)], marker_of(k)
        x, y = X[rows][label[rows] == k][:, list(features)].T
        ax.scatter(x, y, s=dot_size(len(rows)), marker=marker, color=colour, alpha=0.55, linewidths=0, label=f"component {k}")
        draw_component(ax, part, k, levels, colour)


def draw_component(
    ax: Axes, part: Gaussians, k: int, levels: Sequence[float], colour: str, style: str = "-", label: str | None = None
) -> None:
    """The ellipses of a component that hold these shares of it (chi-squared with two degrees of freedom), and its mean."""
    angle = np.linspace(0, 2 * np.pi, 100)
    values, axes = np.linalg.eigh(part.covariances[k])
    for i, level in enumerate(levels):
        radius = np.sqrt(-2 * np.log1p(-level) * np.maximum(values, 0))
        x, y = part.means[k][:, None] + axes @ (radius[:, None] * np.stack([np.cos(angle), np.sin(angle)]))
        ax.plot(x, y, color=colour, linestyle=style, linewidth=1.4, label=label if i == 0 else None)
    ax.plot(*part.means[k], marker="+", color="black", markersize=8, linestyle="none")
