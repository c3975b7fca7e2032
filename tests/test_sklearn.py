"""The estimator beside scikit-learn's, and what it adds."""

import io
import pickle
import warnings

import jax
import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn import mixture
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from structures import NAMES, random_mixture, random_samples

import jaxgmm
from jaxgmm.sklearn import GaussianMixture

ATTRIBUTES = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "lower_bounds_"]

X = random_samples(n=60, dtype=np.float64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_the_same_seed_takes_the_same_steps_as_in_scikit_learn(name, init):
    """x64 is off; ``k-means++`` starts tied from all samples there, from the chosen ones here."""
    options = {"covariance_type": name, "n_init": 3, "init_params": init, "tol": 1e-4, "max_iter": 300, "random_state": 3}
    ours, theirs = (kind(2, **options).fit(X) for kind in (GaussianMixture, mixture.GaussianMixture))
    if name == "tied" and init == "k-means++":
        assert ours.lower_bound_ >= theirs.lower_bound_ - 1e-4
        return
    for attribute in ATTRIBUTES[: -1 if init == "k-means++" else None]:  # there the first bound is of weights 1 / N
        np.testing.assert_allclose(
            getattr(ours, attribute), getattr(theirs, attribute), rtol=1e-10, atol=1e-12, err_msg=attribute
        )
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    for method in ("score_samples", "predict_proba", "predict", "score", "aic", "bic"):
        np.testing.assert_allclose(getattr(ours, method)(X), getattr(theirs, method)(X), rtol=1e-10, atol=1e-12, err_msg=method)


@pytest.mark.parametrize("seed", range(6))
def test_k_means_starts_end_no_lower_than_in_scikit_learn(seed):
    stretched = random_samples(seed=seed, n=60, dtype=np.float64) * [1, 1000]
    options = {"random_state": seed, "reg_covar": 1e-9, "max_iter": 500}
    ours, theirs = (kind(2, **options).fit(stretched) for kind in (GaussianMixture, mixture.GaussianMixture))
    assert ours.lower_bound_ >= theirs.lower_bound_ - 1e-10


def test_dtypes_are_kept_and_the_flag_is_left_alone():
    for dtype in (np.float64, np.float32):
        fitted = GaussianMixture(2, random_state=0).fit(X.astype(dtype))
        arrays = [
            fitted.weights_,
            fitted.means_,
            fitted.covariances_,
            fitted.precisions_cholesky_,
            fitted.score_samples(X.astype(dtype)),
        ]
        assert {array.dtype for array in arrays} == {np.dtype(dtype)}
        assert {type(array) for array in arrays} == {np.ndarray}
    assert not jax.config.jax_enable_x64
    with jax.enable_x64(True):
        assert GaussianMixture(2, random_state=0).fit(X.astype(np.float32)).means_.dtype == np.float32
        assert jax.config.jax_enable_x64


def test_the_mixture_serves_the_core_with_x64_off():
    fitted = GaussianMixture(2, random_state=0).fit(X)
    assert isinstance(fitted.params_, jaxgmm.GMMParams)
    assert fitted.params_.means.dtype == np.float64
    np.testing.assert_allclose(jaxgmm.log_prob(fitted.params_, X.astype(np.float32)), fitted.score_samples(X), rtol=1e-4)
    assert jaxgmm.fit_from(fitted.params_, X.astype(np.float32)).log_likelihood >= fitted.score(X) * len(X) - 1e-2


def test_weight_two_is_seen_twice_and_zero_is_absent():
    weight = np.resize([1, 2, 0], len(X))
    start = {"means_init": X[:2], "weights_init": [0.5, 0.5], "precisions_init": np.stack([np.eye(2)] * 2)}
    weighted = GaussianMixture(2, **start).fit(X, sample_weight=weight)
    repeated = GaussianMixture(2, **start).fit(np.repeat(X, weight, axis=0))
    for attribute in ATTRIBUTES:
        np.testing.assert_allclose(getattr(weighted, attribute), getattr(repeated, attribute), rtol=1e-9, atol=1e-12)
    for method in ("score", "aic", "bic"):
        expected = getattr(repeated, method)(np.repeat(X, weight, axis=0))
        np.testing.assert_allclose(getattr(weighted, method)(X, sample_weight=weight), expected, rtol=1e-9)


def test_tables_keep_their_names_and_outputs_can_be_tables():
    frame = pd.DataFrame(X, columns=["height", "width"])
    fitted = GaussianMixture(2, random_state=0).set_output(transform="pandas").fit(frame)
    assert list(fitted.feature_names_in_) == ["height", "width"]
    assert list(fitted.transform(frame).columns) == ["gaussianmixture0", "gaussianmixture1"]
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame[["width", "height"]])
    from_polars = GaussianMixture(2, random_state=0).fit(pl.DataFrame({"height": X[:, 0], "width": X[:, 1]}))
    np.testing.assert_array_equal(from_polars.means_, fitted.means_)
    assert list(from_polars.feature_names_in_) == ["height", "width"]


def test_it_goes_where_estimators_go():
    fitted = GaussianMixture(2, random_state=0).fit(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))
    assert clone(fitted).get_params() == fitted.get_params()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), GaussianMixture(random_state=0)), {"gaussianmixture__n_components": [1, 2]}
    )
    assert search.fit(X).best_params_["gaussianmixture__n_components"] in (1, 2)
    several = joblib.Parallel(2, prefer="threads")(joblib.delayed(clone(fitted).fit)(X) for _ in range(4))
    assert all(np.array_equal(one.means_, fitted.means_) for one in several)


def test_weights_are_routed():
    weight = np.resize([1.0, 0.0], len(X))
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = GaussianMixture(2, random_state=0).set_fit_request(sample_weight=True)
        piped = make_pipeline(estimator).fit(X, sample_weight=weight)
    np.testing.assert_array_equal(piped[-1].means_, GaussianMixture(2, random_state=0).fit(X, sample_weight=weight).means_)


@pytest.mark.parametrize("name", NAMES)
def test_estimators_and_mixtures_turn_into_each_other(name):
    theirs = mixture.GaussianMixture(2, covariance_type=name, random_state=0, n_init=2).fit(X)
    ours = GaussianMixture.from_sklearn(theirs)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-10)
    back = ours.to_sklearn()
    assert back.get_params() == theirs.get_params()
    assert vars(back).keys() == vars(theirs).keys()
    np.testing.assert_array_equal(back.predict(X), theirs.predict(X))
    np.testing.assert_array_equal(ours.sample(5)[0], theirs.sample(5)[0])
    made = GaussianMixture.from_params(ours.params_)
    np.testing.assert_allclose(made.precisions_, theirs.precisions_, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(made.predict_proba(X), ours.predict_proba(X))


@pytest.mark.parametrize("name", ["UUU-1", "EVE", "EII"])
def test_a_mixture_that_scikit_learn_cannot_hold_says_so_and_goes_there_as_full(name):
    params = random_mixture(name)
    with pytest.raises(ValueError, match=f"full, tied, diag, spherical, but params is '{name}'"):
        GaussianMixture.from_params(params)
    full = jaxgmm.GMMParams.from_moments(params.weights, params.means, jaxgmm.covariances(params))
    made = GaussianMixture.from_params(full)
    np.testing.assert_allclose(made.score_samples(np.float32(X)), jaxgmm.log_prob(params, np.float32(X)), rtol=1e-4)


def test_a_start_ends_the_same_beside_any_number_of_others():
    one, five = (GaussianMixture(2, n_init=n, init_params="random", random_state=0).fit(X) for n in (1, 5))
    assert five.lower_bound_ >= one.lower_bound_
    again = GaussianMixture(2, n_init=5, init_params="random", random_state=0).fit(X)
    for attribute in ATTRIBUTES:
        np.testing.assert_array_equal(getattr(again, attribute), getattr(five, attribute))


def test_one_start_that_collapses_leaves_the_others_be():
    """Without regularisation some of these starts end on copies of one sample; scikit-learn gives up at the first."""
    copies = np.concatenate([X, np.repeat(X[:1] + 20, 6, axis=0), np.repeat(X[:1] - [15, 0], 6, axis=0)])
    options = {"reg_covar": 0.0, "n_init": 6, "init_params": "random", "random_state": 1, "max_iter": 500}
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        mixture.GaussianMixture(2, **options).fit(copies)
    assert np.isfinite(GaussianMixture(2, **options).fit(copies).score(copies))


def test_rows_of_weight_zero_are_absent_in_fit_and_score():
    missing = np.concatenate([X, np.full((3, X.shape[1]), np.nan)])
    weight = np.r_[np.ones(len(X)), np.zeros(3)]
    gm = GaussianMixture(2, random_state=0).fit(missing, sample_weight=weight)
    np.testing.assert_allclose(gm.score(missing, sample_weight=weight), gm.score(X), rtol=1e-12)
    np.testing.assert_allclose(gm.bic(missing, sample_weight=weight), gm.bic(X), rtol=1e-12)
    with pytest.raises(ValueError, match="contains NaN"):
        gm.score(missing)


def test_columns_of_the_output_are_those_of_the_fit():
    gm = GaussianMixture(3, random_state=0).fit(X).set_output(transform="pandas").set_params(n_components=5)
    assert gm.transform(X).shape == (len(X), 3)


@pytest.mark.parametrize("width", [1e-3, 1e-2])
def test_a_tight_cluster_that_scikit_learn_finds_is_found(width):
    """It is narrow enough to be told of as a spike, which is no reason to end lower."""
    rng = np.random.default_rng(9)
    shift = np.repeat([[0, 0], [4, 0], [4, 4]], 20, axis=0)
    tight = rng.normal(size=(60, 2)) * np.repeat([[1], [width], [1]], 20, axis=0) + shift
    ours, theirs = (kind(3, random_state=9).fit(tight) for kind in (GaussianMixture, mixture.GaussianMixture))
    assert ours.lower_bound_ >= theirs.lower_bound_ - 1e-9


@pytest.mark.parametrize(("dtype", "place"), [(np.float32, 1e10), (np.float64, 1e20)])
def test_a_far_outlier_does_not_take_the_digits_of_the_others(dtype, place):
    far = X.astype(dtype)
    far[0, 0] = place
    ours, theirs = (kind(2, random_state=0).fit(far) for kind in (GaussianMixture, mixture.GaussianMixture))
    assert ours.lower_bound_ == pytest.approx(ours.score(far), abs=1e-2)
    assert ours.score(far) >= theirs.score(far) - 1e-2


def test_a_component_without_samples_keeps_its_covariance():
    start = {"weights_init": [0.5, 0.5], "means_init": [[0, 0], [1e4, 1e4]], "precisions_init": [np.eye(2)] * 2}
    with pytest.warns(ConvergenceWarning):
        fitted = GaussianMixture(2, **start, reg_covar=1.0, tol=0.0, max_iter=20).fit(X)
    np.testing.assert_allclose(fitted.covariances_[1], np.eye(2))


def test_arrays_are_the_callers_own():
    fitted = GaussianMixture(2, random_state=0).fit(X)
    theirs = fitted.to_sklearn()
    fitted.means_ += 100
    assert (theirs.means_ < 50).all()
    proba = theirs.predict_proba(X)
    fitted.predict_proba(X)[:] = 0
    np.testing.assert_array_equal(theirs.predict_proba(X), proba)
    by_hand = GaussianMixture(2)
    for name in ("weights_", "means_", "precisions_cholesky_"):
        setattr(by_hand, name, getattr(theirs, name))
    np.testing.assert_allclose(by_hand.score_samples(X), theirs.score_samples(X), rtol=1e-10)


@pytest.mark.parametrize("changed", [{"n_components": 3}, {"covariance_type": "diag"}])
def test_warm_start_with_other_settings_says_so(changed):
    fitted = GaussianMixture(2, warm_start=True, random_state=0).fit(X)
    before = fitted.predict(X)
    fitted.set_params(**changed)
    np.testing.assert_array_equal(fitted.predict(X), before)
    with pytest.raises(ValueError, match="warm_start goes on with 2 full components in 2 features"):
        fitted.fit(X)


def test_single_precision_ends_where_rounding_is_all_that_moves():
    """Two groups of ten samples in 40 dimensions: what is added is all that keeps the covariances from being singular."""
    wide = (np.random.default_rng(1).normal(size=(20, 40)) + (np.arange(20) % 2)[:, None] * 4).astype(np.float32)
    fitted = GaussianMixture(2, random_state=0, reg_covar=1e-5).fit(wide)
    assert fitted.converged_
    np.testing.assert_array_equal(fitted.predict(wide) == fitted.predict(wide)[0], np.arange(20) % 2 == 0)


def test_many_samples_and_many_iterations_cost_no_more_than_they_need():
    many = random_samples(n=17_000, dtype=np.float32)
    fitted = GaussianMixture(1, max_iter=10**7).fit(many)
    assert fitted.n_iter_ == 2
    np.testing.assert_allclose(fitted.means_[0], many.mean(axis=0), rtol=1e-4)


def test_the_status_tells_how_it_ended():
    overlapping = np.random.default_rng(1).normal(size=(60, 2))
    assert "still falling slowly" in GaussianMixture(2, random_state=0).fit(overlapping).status_
    assert GaussianMixture(1).fit(X).status_ == "converged after 2 iterations."
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        assert "not converged after 3" in GaussianMixture(3, tol=0.0, max_iter=3, random_state=0).fit(X).status_
    assert "max_iter is 0" in GaussianMixture(2, max_iter=0).fit(X).status_
    spike = np.concatenate([X, X[:1] + [[50, 50], [50, 50.001]]])
    assert "fewer samples" in GaussianMixture(2, random_state=0).fit(spike).status_


def test_verbose_says_so(capsys):
    words = dict(verbose=2, verbose_interval=1)
    gm = GaussianMixture(2, tol=1e-9, init_params="random", random_state=0, max_iter=1000, **words).fit(X)
    said = capsys.readouterr().out
    assert "Iteration" in said
    assert "Initialization converged." in said
    bounds = [float(line.split("lower bound ")[1].split()[0].rstrip(".")) for line in said.splitlines()]
    np.testing.assert_allclose(bounds, gm.lower_bound_, atol=1)  # means of a sample, all of them


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"covariance_type": "ful"}, "Did you mean 'full'"),
        ({"init_params": "kmean"}, "Did you mean 'kmeans'"),
        ({"tol": -1.0}, "tol must be"),
        ({"reg_covar": -1.0}, "reg_covar must be"),
        ({"max_iter": -1}, "max_iter must be"),
        ({"n_init": 0}, "n_init must be"),
        ({"n_components": 0}, "n_components must be"),
        ({"n_components": 61}, "n_samples >= n_components"),
    ],
)
def test_arguments_outside_their_range_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        GaussianMixture(**arguments).fit(X)


def test_a_fit_that_goes_on_is_one_fit():
    whole = GaussianMixture(2, tol=1e-9, max_iter=6, init_params="random", random_state=0)
    cut = GaussianMixture(2, tol=1e-9, max_iter=3, init_params="random", random_state=0, warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole.fit(X), cut.fit(X).fit(X)
    for attribute in ATTRIBUTES[:-1]:
        np.testing.assert_allclose(getattr(whole, attribute), getattr(cut, attribute), rtol=1e-9, atol=1e-12)
    assert whole.lower_bounds_[3:] == pytest.approx(cut.lower_bounds_, rel=1e-12)


@pytest.mark.parametrize(("dtype", "far"), [(np.float32, 1e8), (np.float64, 1e17)])
def test_most_samples_far_away_do_not_take_the_digits_of_the_others(dtype, far):
    noise = np.random.default_rng(0).normal(size=(60, 1))
    X = np.where(np.arange(60)[:, None] < 36, far * (1 + 1e-3 * noise), noise).astype(dtype)
    gm = GaussianMixture(2, covariance_type="diag", random_state=0).fit(X)
    near = np.argmin(np.abs(gm.means_[:, 0]))
    np.testing.assert_allclose(gm.means_[near], noise[36:].mean(), rtol=1e-5)
    np.testing.assert_allclose(gm.covariances_[near], noise[36:].var(), rtol=1e-4)
    np.testing.assert_allclose(gm.score(X), gm.lower_bound_, rtol=1e-4)


@pytest.mark.parametrize(("scale", "dtype"), [(2.0**60, np.float32), (2.0**-60, np.float32), (2.0**505, np.float64)])
def test_squares_beyond_the_range_are_taken_in_another_unit(scale, dtype):
    """By a power of two, so that nothing but the unit changes."""
    X = random_samples(n=64, dtype=dtype)
    base, scaled = (GaussianMixture(2, reg_covar=0, random_state=0).fit(data) for data in (X, X * dtype(scale)))
    np.testing.assert_allclose(scaled.means_ / dtype(scale), base.means_, rtol=1e-5)
    np.testing.assert_allclose(scaled.covariances_ / dtype(scale) / dtype(scale), base.covariances_, rtol=1e-4)
    np.testing.assert_allclose(scaled.lower_bound_, base.lower_bound_ - 2 * np.log(scale), rtol=1e-6)


def test_a_class_derived_from_it_may_know_no_weights_and_more_arguments():
    class Derived(GaussianMixture):
        def __init__(self, n_components=2, random_state=0, more=1):
            super().__init__(n_components, random_state=random_state)
            self.more = more

        def fit(self, X, y=None):
            return super().fit(X, y)

    gm = Derived()
    assert gm.fit_predict(random_samples()).shape == (len(random_samples()),)
    assert gm.sample(3)[0].shape == (3, 2)


def test_what_is_set_by_hand_counts():
    X = random_samples()
    gm = GaussianMixture(2, random_state=0).fit(X)
    theirs = gm.to_sklearn()
    for estimator in (gm, theirs):
        estimator.precisions_cholesky_ = estimator.precisions_cholesky_ / 2
    gm.weights_, gm.means_ = gm.weights_.tolist(), gm.means_.tolist()
    np.testing.assert_allclose(gm.score(X), theirs.score(X))
    for estimator in (gm, theirs):
        estimator.precisions_cholesky_ *= 2
        estimator.covariances_ = 4 * estimator.covariances_  # with which scikit-learn does not predict
    np.testing.assert_allclose(gm.score(X), theirs.score(X))


def test_joblib_keeps_every_digit():
    """Of a covariance whose inverse has lost some; joblib writes an array twice that two attributes name."""
    X = random_samples(n=60, dtype=np.float32)
    X[:, 1] = X[:, 0] + 1e-2 * X[:, 1]
    gm, file = GaussianMixture(2, random_state=0).fit(X), io.BytesIO()
    joblib.dump(gm, file)
    file.seek(0)
    np.testing.assert_array_equal(joblib.load(file).score_samples(X), gm.score_samples(X))


def test_a_table_goes_on_warm_without_a_word():
    frame = pd.DataFrame(random_samples(), columns=["a", "b"])
    gm = GaussianMixture(2, random_state=0, warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm.fit(frame).fit(frame)


def test_not_a_number_is_no_error_under_debug_nans():
    with jax.debug_nans(True):
        assert np.isfinite(GaussianMixture(2, random_state=0).fit(random_samples()).lower_bound_)
