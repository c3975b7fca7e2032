"""What pictures hold: every function draws on the axes it is given, and says in numbers what it shows."""

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from sklearn import mixture
from structures import random_mixture, random_samples

import jaxgmm
from jaxgmm import plotting
from jaxgmm.drawing import COLOURS, MARKERS, marker_of

matplotlib.use("Agg")
X = random_samples(n=80, d=3)
MIXTURE = random_mixture("full", d=3)

ON_SAMPLES = {
    "plot_histogram": lambda ax: plotting.plot_histogram(MIXTURE, X, ax, feature=2),
    "plot_clusters": lambda ax: plotting.plot_clusters(MIXTURE, X, ax, features=(0, 2)),
    "plot_density": lambda ax: plotting.plot_density(MIXTURE, X, ax),
    "plot_uncertainty": lambda ax: plotting.plot_uncertainty(MIXTURE, X, ax),
    "plot_responsibilities": lambda ax: plotting.plot_responsibilities(MIXTURE, X, ax),
    "plot_comparison": lambda ax: plotting.plot_comparison(MIXTURE, random_mixture("diag", 1, d=3), ax),
}


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


@pytest.mark.parametrize("name", ON_SAMPLES)
def test_pictures_are_drawn_on_the_axes_that_are_given(name):
    figure, ax = pyplot.subplots()
    assert ON_SAMPLES[name](ax) is ax
    assert ax.has_data()
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    figure.canvas.draw()
    own = ON_SAMPLES[name](None)
    assert own is not ax
    assert own.figure is not figure


def test_pairs_are_drawn_for_three_features_and_more():
    axes = plotting.plot_fit(MIXTURE, X, names=["a", "b", "c"])
    assert axes.shape == (3, 3)
    np.testing.assert_array_equal([[ax.get_visible() for ax in row] for row in axes], np.tri(3, dtype=bool))
    assert [ax.get_xlabel() for ax in axes[-1]] == ["a", "b", "c"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["density", "b", "c"]
    assert [ax.get_title() for ax in np.diagonal(axes)] == ["a", "b", "c"]
    assert [text.get_text() for text in axes[0, 0].get_legend().texts][-2:] == ["component 2", "mixture"]
    assert plotting.plot_fit(random_mixture("full"), X[:, :2]).get_xlabel() == "feature 0"
    assert plotting.plot_fit(random_mixture("full", d=1), X[:, :1]).get_ylabel() == "density"


@pytest.mark.parametrize("level", [0.3, 0.95])
def test_an_ellipse_holds_its_share_of_a_component(level):
    one = random_mixture("full", k=1)
    ax = plotting.plot_clusters(one, X[:, :2], levels=[level])
    contour = next(line for line in ax.lines if len(line.get_xdata()) > 1)
    inside = matplotlib.path.Path(np.column_stack(contour.get_data()))
    draws = np.asarray(jaxgmm.sample(jax.random.key(0), one, 4000)[0])
    assert inside.contains_points(draws).mean() == pytest.approx(level, abs=0.03)


def test_a_histogram_carries_the_density_of_the_mixture():
    ax = plotting.plot_histogram(MIXTURE, X)
    total = {line.get_label(): line for line in ax.lines}["mixture"]
    marginal = jaxgmm.GMMParams.from_moments(MIXTURE.weights, MIXTURE.means[:, :1], MIXTURE.cov[:, :1, :1])
    x, y = total.get_data()
    np.testing.assert_allclose(y, np.exp(jaxgmm.log_prob(marginal, x[:, None].astype(np.float32))), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_histogram_shows_the_whole_mixture_and_the_samples_even_of_a_constant(spread):
    part = jaxgmm.GMMParams.from_moments([0.7, 0.3], [[7.0], [7.0]], [[[1e-6]], [[1e-6]]])
    ax = plotting.plot_histogram(part, 7 + spread * np.linspace(-1, 1, 50)[:, None])
    x, y = {line.get_label(): line for line in ax.lines}["mixture"].get_data()
    left, right = ax.get_xlim()
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in ax.patches]
    assert sum(width * height for _, width, height in bars) == pytest.approx(1)
    assert all(left <= start and start + width <= right for start, width, _ in bars)
    if not spread:
        assert np.trapezoid(y, x) == pytest.approx(1, abs=0.01)
        assert max(height for *_, height in bars) > 0.3 * y.max()


def test_what_cannot_be_drawn_says_so():
    line = jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1.0]]])
    with pytest.raises(ValueError, match=r"features must be among 0 to 0, those of the mixture; got \[0, 1\]. Of one"):
        plotting.plot_density(line)
    with pytest.raises(ValueError, match="the mixtures must have the same features; got 3 and 1"):
        plotting.plot_comparison(MIXTURE, line)
    with pytest.raises(ValueError, match="names must hold 3 names"):
        plotting.plot_fit(MIXTURE, X, names=["a"])
    with pytest.raises(ValueError, match="from_sklearn takes scikit-learn's; got GaussianMixture"):
        plotting.plot_fit(mixture.GaussianMixture(2), X)


def test_responsibilities_are_stacked_to_one():
    ax = plotting.plot_responsibilities(MIXTURE, X)
    tops = ax.patches[-1].get_data().values
    np.testing.assert_allclose(tops, 1, rtol=1e-5)


def test_merging_is_drawn_with_a_ring_at_the_elbow():
    merging = jaxgmm.merge_components(MIXTURE, X)
    ax = plotting.plot_merging(merging)
    ring = next(line for line in ax.lines if "suggested" in str(line.get_label()))
    np.testing.assert_allclose(ring.get_xydata(), [[merging.moved[1:].sum(), merging.entropy[1]]])
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3"]


def test_fits_and_sweeps_and_estimators_are_drawn():
    key = jax.random.key(0)
    result = jaxgmm.fit(key, X, 2, covariance_type="diag", n_restarts=4, init="kmeans", trace=40, tol=1e-4)
    ax = plotting.plot_trace(result, total_weight=len(X))
    assert len(ax.lines) == 4
    assert ax.get_ylabel() == "log-likelihood below the one that won (nats a sample)"
    with pytest.raises(ValueError, match="pass trace="):
        plotting.plot_trace(result._replace(lanes=result.lanes._replace(trace=result.lanes.trace[:, :0])))
    swept = jaxgmm.sweep(key, X, (1, 2, 3), ("diag", "spherical"), n_restarts=2, tol=1e-4)
    ax = plotting.plot_criterion(swept)
    curves = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(curves["diag"].get_ydata(), swept.bic[:3])
    np.testing.assert_array_equal(curves["best"].get_ydata(), swept.bic[swept.best])
    apart = swept._replace(icl=np.where(np.arange(6) == 4, -1e9, swept.icl))
    rings = [line for line in plotting.plot_criterion(apart, criterion="icl").lines if line.get_label() == "best"]
    np.testing.assert_array_equal(rings[0].get_xydata(), [[apart.n_components[4], -1e9]])
    with pytest.raises(ValueError, match="no folds, so no cross-validation to draw; pass n_folds="):
        plotting.plot_criterion(swept, criterion="cross_validation")
    named = swept._replace(prior=np.array(["given 1"] * 3 + ["given 2"] * 3), covariance_type=np.full(6, "diag"))
    labels = {line.get_label() for line in plotting.plot_criterion(named).lines}
    assert {"diag + given 1 prior", "diag + given 2 prior"} < labels
    held_out = -(np.arange(24.0).reshape(6, 4) ** 2)
    judged = swept._replace(held_out=held_out, cross_validation=-2 * held_out.sum(axis=1), criterion="cross_validation")
    bars = [np.diff(np.stack(part.get_segments())[:, :, 1])[:, 0] for part in plotting.plot_criterion(judged).collections]
    np.testing.assert_allclose(np.concatenate(bars), 2 * judged.standard_error)
    from jaxgmm.sklearn import GaussianMixture

    assert plotting.plot_fit(GaussianMixture.from_params(MIXTURE), X).shape == (3, 3)
    with pytest.raises(ValueError, match="mixture must be"):
        plotting.plot_fit(X, X)


def test_colours_that_repeat_have_other_markers():
    looks = {(k % len(COLOURS), marker_of(k)) for k in range(len(COLOURS) * len(MARKERS))}
    assert len(looks) == len(COLOURS) * len(MARKERS)
