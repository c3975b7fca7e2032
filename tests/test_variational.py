"""Variational Bayes: the bound against the evidence itself, and laws over structures and priors on the weights."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from scipy.special import betaln, gammaln, multigammaln
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning
from structures import NAMES, random_mixture, random_samples, random_weight, rtol

import jaxgmm
from jaxgmm import GMMParams, Hyperparameters, Status, conjugate
from jaxgmm.sklearn import BayesianGaussianMixture

KINDS = list(conjugate.WEIGHTS)
CASES = [(name, kind) for name in NAMES for kind in KINDS]
FEW = [("full", "dirichlet_process"), ("tied", "dirichlet"), ("diag", "dirichlet"), ("spherical", "dirichlet_process")]
MOST = [case if case in FEW else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]


def some_prior(name: str, d: int) -> Hyperparameters:
    """One that has nothing special about it."""
    scale = {"diag": np.linspace(0.5, 2, d), "spherical": np.asarray(0.7)}.get(name, np.eye(d) + 0.3)
    return Hyperparameters(np.asarray(0.8), np.asarray(0.4), np.linspace(-1, 1, d), np.asarray(d + 0.5), scale)


def log_evidence(X: np.ndarray, prior: Hyperparameters, name: str) -> float:
    """ln p(X) of one normal-inverse-Wishart component, in closed form; of none 0."""
    n, d = X.shape
    shrinkage, dof = prior.shrinkage + n, prior.dof + n
    mean = X.mean(axis=0) if n else prior.mean
    scatter = (X - mean).T @ (X - mean) + prior.shrinkage * n / shrinkage * np.outer(mean - prior.mean, mean - prior.mean)

    def wishart(dof, scale):  # minus the logarithm of what makes it a density, but for powers of two and pi that cancel
        scale = np.atleast_2d(scale)
        return multigammaln(dof / 2, len(scale)) - dof / 2 * np.linalg.slogdet(scale)[1]

    if name == "diag":
        of_precision = sum(wishart(dof, prior.scale[i] + scatter[i, i]) - wishart(prior.dof, prior.scale[i]) for i in range(d))
    elif name == "spherical":
        of_precision = wishart(d * dof, d * prior.scale + np.trace(scatter)) - wishart(d * prior.dof, d * prior.scale)
    else:
        of_precision = wishart(dof, prior.scale + scatter) - wishart(prior.dof, prior.scale)
    return of_precision + d / 2 * np.log(prior.shrinkage / shrinkage) - n * d / 2 * np.log(np.pi)


def log_assignment(count: np.ndarray, concentration: float, kind: str) -> float:
    """ln p(z), the weights integrated out."""
    if kind == "dirichlet":
        total = len(count) * concentration
        return np.sum(gammaln(count + concentration) - gammaln(concentration)) + gammaln(total) - gammaln(total + count.sum())
    later = count[::-1].cumsum()[::-1] - count
    return np.sum(betaln(1 + count, concentration + later) - betaln(1, concentration))


@pytest.mark.parametrize(("name", "kind"), MOST)
def test_bound_of_one_component_is_the_log_evidence(name, kind, x64):
    X, prior = random_samples(d=3), some_prior(name, 3)
    result = jaxgmm.fit_variational_from(random_mixture(name, k=1, d=3), X, prior=prior, weights=kind, trace=2)
    expected = log_evidence(X, prior, name) + log_assignment(np.array([len(X)]), prior.concentration, kind)
    np.testing.assert_allclose(result.bound, expected, rtol=1e-12)
    np.testing.assert_allclose(result.trace, result.bound, rtol=1e-12)  # from the first pass on
    assert result.n_iter in (1, 2)  # which ends it, unless a rounding made it fall: a first fall is not judged


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("full", "dirichlet"), ("diag", "dirichlet_process")])
def test_bound_is_below_the_log_evidence_of_all_assignments(name, kind, x64):
    X = np.array([[0.0], [0.3], [7.0], [7.5], [7.2]])
    prior = replace(some_prior(name, 1), mean=np.array([4.0]))
    terms = []
    for labels in itertools.product(range(2), repeat=len(X)):
        z = np.array(labels)
        of_samples = sum(log_evidence(X[z == k], prior, name) for k in range(2))
        terms.append(of_samples + log_assignment(np.bincount(z, minlength=2), prior.concentration, kind))
    evidence = np.logaddexp.reduce(terms)
    start = jaxgmm.initialise(jax.random.key(0), X, 2, method=np.array([1, 1, 0, 0, 0]), covariance_type=name)
    bound = jaxgmm.fit_variational_from(start, X, prior=prior, weights=kind).bound
    # Swapping the components is as good under a Dirichlet, and the posterior knows one of the two.
    assert evidence - 1.5 < bound < evidence


PASSES = {"tol": 0, "max_iter": 30, "trace": 31}


@pytest.mark.parametrize(("name", "kind"), MOST)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), log_concentration=st.floats(-5, 3), log_shrinkage=st.floats(-5, 3))
def test_bound_never_falls(name, kind, dtype_float32_slow, seed, log_concentration, log_shrinkage):
    dtype = dtype_float32_slow
    prior = Hyperparameters(concentration=np.exp(log_concentration), shrinkage=np.exp(log_shrinkage))
    start, X = random_mixture(name, seed, dtype=dtype), random_samples(seed, dtype=dtype)
    result = jaxgmm.fit_variational_from(start, X, prior=prior, weights=kind, **PASSES)
    trace = np.asarray(result.trace)
    assert result.bound == trace[-1]
    assert (np.diff(trace) >= -rtol(dtype) * (1 + abs(trace[1:]))).all()


@pytest.mark.parametrize(("name", "kind"), FEW[:1])
def test_units_weights_and_batches(name, kind, x64):
    """Data times a plus b; weight 0 is absent and 2 seen twice; vmap is a loop."""
    X, start = random_samples(), random_mixture(name)

    def fitted(start, X, weight):
        return jaxgmm.fit_variational_from(start, X, weights=kind, sample_weight=weight, **PASSES)

    weight = np.ones(len(X))
    weight[3], weight[5] = 0, 2
    once = fitted(start, X, weight)
    twice = np.concatenate([X[:3], X[4:], X[5:6]])
    seen = fitted(start, twice, np.ones(len(twice)))
    np.testing.assert_allclose(once.trace, seen.trace, rtol=1e-10)

    a, b = 1e3, 1e4
    moved = GMMParams(start.weights, start.means * a + b, start.cov * a**2, start.structure)
    batch = jax.vmap(fitted)(*(jax.tree.map(lambda *leaves: np.stack(leaves), *pair) for pair in (
        (start, moved), (X, X * a + b), (weight, weight)
    )))  # fmt: skip
    np.testing.assert_allclose(batch.trace[0], once.trace, rtol=1e-10)
    n_numbers = weight.sum() * X.shape[1]
    np.testing.assert_allclose(batch.bound[1], once.bound - n_numbers * np.log(a), rtol=1e-9)
    np.testing.assert_allclose(batch.posterior.means[1], once.posterior.means * a + b, rtol=1e-7)
    assert batch.posterior.mixture.weights.shape == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "tied"])
def test_samples_spread_over_devices_are_one_data_set(name, x64):
    X, weight = random_samples(n=40), random_weight(n=40)
    mesh = Mesh(np.array(jax.devices()[:2]), ("n",))
    start = random_mixture(name)
    for _ in range(2):  # from a mixture, then from a posterior

        def local(X, weight, start=start):
            return jaxgmm.fit_variational_from(start, X, sample_weight=weight, axis_name="n", max_iter=10)

        spread = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P("n"), P("n")), out_specs=P()))(X, weight)
        single = jaxgmm.fit_variational_from(start, X, sample_weight=weight, max_iter=10)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), spread, single)
        start = single.posterior


@pytest.mark.slow
def test_restarts_and_statuses(x64):
    X = random_samples(n=40)
    result = jaxgmm.fit_variational(jax.random.key(0), X, 3, n_restarts=3, weights="dirichlet")
    assert result.bound == result.lanes.bound.max()
    again = jaxgmm.fit_variational_from(result.posterior, X)
    np.testing.assert_allclose(again.bound, result.bound, rtol=1e-7)
    X[3, 1] = np.nan
    spoilt = jaxgmm.fit_variational_from(result.posterior, X)
    assert spoilt.status == Status.NONFINITE
    np.testing.assert_array_equal(spoilt.posterior.cov, result.posterior.cov)


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (Hyperparameters(concentration=0.0), "concentration must be a finite number above 0"),
        (Hyperparameters(dof=1.0), "dof must be a finite number above 1"),
        (Hyperparameters(shrinkage=np.ones(2)), "shrinkage must be a finite number above 0"),
        (Hyperparameters(mean=np.array([0.0, np.nan])), "mean must be finite"),
        (Hyperparameters(mean=np.zeros(3)), r"mean must have shape \(2,\)"),
        (Hyperparameters(scale=np.array([[1.0, 2.0], [2.0, 1.0]])), "positive definite"),
        ({"dof": 3}, "must be Hyperparameters"),
    ],
)
def test_door(prior, words):
    with pytest.raises(ValueError, match=words):
        jaxgmm.fit_variational(jax.random.key(0), random_samples(), 2, prior=prior)
    with pytest.raises(ValueError, match="covariance_type must be one of"):
        jaxgmm.fit_variational(jax.random.key(0), random_samples(), 2, covariance_type="VVE")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "tied"])
@pytest.mark.parametrize("kind", ["dirichlet_process", "dirichlet_distribution"])
def test_steps_are_those_of_scikit_learn(name, kind):
    X = random_samples(n=200, d=3, dtype=np.float64)
    options = {"n_components": 5, "covariance_type": name, "weight_concentration_prior_type": kind, "random_state": 0}
    theirs = mixture.BayesianGaussianMixture(max_iter=500, **options).fit(X)
    ours = BayesianGaussianMixture(max_iter=500, **options).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(np.diff(ours.lower_bounds_), np.diff(np.ravel(theirs.lower_bounds_)), atol=1e-9)
    for attribute in ("weights_", "means_", "covariances_", "precisions_cholesky_", "mean_precision_", "degrees_of_freedom_"):
        np.testing.assert_allclose(getattr(ours, attribute), getattr(theirs, attribute), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tol": "small"}, "tol must be a finite number, zero or more; got 'small'"),
        ({"tol": -1.0}, "tol must be a finite number, zero or more; got -1"),
        ({"mean_precision_prior": -1.0}, "mean_precision_prior must be a finite number above 0; got -1"),
        (
            {"covariance_type": "spherical", "covariance_prior": -1.0},
            "covariance_prior must be a finite number above 0",
        ),
        ({"covariance_type": "spherical", "covariance_prior": [1.0]}, "covariance_prior must be a finite number above 0"),
        ({"covariance_type": "diag", "covariance_prior": [1.0, -1.0]}, "'diag covariance_prior' should be positive"),
        ({"covariance_prior": -np.eye(2)}, "'full covariance_prior' should be symmetric, positive-definite"),
        ({"warm_start": True, "n_components": 3}, "warm_start goes on with 1 full components"),
        ({"warm_start": True, "mean_prior": [1.0]}, r"'means' should have the shape of \(2,\)"),
    ],
)
def test_a_fit_of_the_estimator_that_is_refused_leaves_the_last_one(arguments, words):
    X = random_samples(dtype=np.float64)
    estimator = BayesianGaussianMixture(random_state=0).fit(X)
    fields = [name for name in vars(estimator) if name.endswith("_")]
    before = {name: getattr(estimator, name) for name in fields}
    with pytest.raises(ValueError, match=words):
        estimator.set_params(mean_precision_prior=2.0).set_params(**arguments).fit(X + 1)
    for name in fields:
        np.testing.assert_array_equal(getattr(estimator, name), before[name])


@pytest.mark.slow
def test_the_estimator_takes_a_constant_feature_as_scikit_learn_does():
    """The prior from such samples is singular, and its volume a constant of all steps."""
    X = np.random.default_rng(0).normal(size=(40, 2))
    X[:20] += 4
    X, classes = np.c_[X, np.ones(40)], (BayesianGaussianMixture, mixture.BayesianGaussianMixture)
    ours, theirs = (kind(n_components=2, random_state=0).fit(X) for kind in classes)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-8)
    assert ours.n_iter_ == theirs.n_iter_


def test_the_estimator_takes_an_empty_component_beside_a_singular_prior_as_scikit_learn_does():
    """Samples on two points, the second feature constant: the prior is singular, and the third component has nothing else."""
    X, classes = np.repeat([[0.0, 1], [9, 1]], 50, axis=0), (BayesianGaussianMixture, mixture.BayesianGaussianMixture)
    with pytest.warns(ConvergenceWarning, match="distinct clusters"):
        ours, theirs = (kind(n_components=3, random_state=0).fit(X) for kind in classes)
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8, atol=1e-12)
    assert ours.n_iter_ == theirs.n_iter_


@pytest.mark.parametrize("name", ["full", "tied"])
@pytest.mark.parametrize("n_components", [1, 3])
def test_features_that_depend_on_each_other_end_finite_in_single_precision(name, n_components):
    for seed in range(12):  # whether factors exist is luck
        X = random_samples(seed, n=100).astype(np.float32)
        X = np.c_[X, X.sum(axis=1)]
        start = jaxgmm.initialise(jax.random.key(seed), X, n_components, covariance_type=name)
        result = jaxgmm.fit_variational_from(start, X, tol=0.0, max_iter=15, trace=16)
        assert result.status != Status.NONFINITE
        # At its bound of 8 D roundings an eigenvalue is known to a share of 1 / (8 D), and the bound holds N / 2 of its
        # logarithm: N / (8 D) nats between two passes, and half as much again.
        assert (np.diff(result.trace) > -1.5 * len(X) / (8 * X.shape[1])).all()


def test_a_prior_that_is_nearly_singular_is_no_bound(x64):
    """A feature is the sum of the others to 1e-7: what rounding leaves of it is more than nothing, and the bound rises."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(80, 3))
    X = np.c_[X, X.sum(axis=1) + 1e-7 * rng.normal(size=80)]
    start = jaxgmm.initialise(jax.random.key(5), X, 3)
    trace = jaxgmm.fit_variational_from(start, X, trace=50, prior=Hyperparameters(scale=np.cov(X.T))).trace
    assert (np.diff(trace[np.isfinite(trace)]) > -1e-3).all()


def test_the_estimator_refuses_a_singular_prior_without_reg_covar():
    X = np.repeat([[0.0, 1], [9, 1]], 50, axis=0)
    with pytest.raises(ValueError, match="ill-defined"):
        BayesianGaussianMixture(n_components=2, random_state=0, reg_covar=0.0).fit(X)


def test_little_weight_in_all_is_no_fall(x64):
    """Close to the prior the divergence from it is a difference of terms that are far larger."""
    X, weight = random_samples(n=40), np.full(40, 1e-3)
    start = random_mixture("full")
    exact = jaxgmm.fit_variational_from(start, X, sample_weight=weight)
    cast = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), start)
    single = jaxgmm.fit_variational_from(cast, X.astype(np.float32), sample_weight=weight)
    assert single.status == exact.status == Status.CONVERGED
    np.testing.assert_allclose(single.bound, exact.bound, rtol=1e-3)


@pytest.mark.parametrize("name", ["diag", "spherical"])
def test_precisions_that_are_numbers_need_no_more_than_a_positive_dof(name):
    start, X = random_mixture(name, k=1), random_samples()
    assert np.isfinite(jaxgmm.fit_variational_from(start, X, prior=Hyperparameters(dof=0.01), max_iter=0).bound)
    with pytest.raises(ValueError, match="dof must be a finite number above 0"):
        jaxgmm.fit_variational_from(start, X, prior=Hyperparameters(dof=0.0))


def test_a_result_shows_itself_in_a_line():
    start, X = random_mixture("full", k=1), random_samples()
    one = jaxgmm.fit_variational_from(start, X, max_iter=0)
    assert one.message == "not converged after 0 iterations. Raise max_iter, or raise tol."
    assert repr(one) == f"<VariationalResult: K = 1, D = 2, full, bound {float(one.bound):.7g} nats; {one.message}>"
    assert "evidence bound fell" in one._replace(status=np.int32(Status.DECREASED)).message
    several = jax.tree.map(lambda leaf: np.stack([leaf] * 2), one)
    assert repr(several) == "<VariationalResult (2,): K = 1, D = 2, full; 2 ITERATION_LIMIT>"
    with pytest.raises(ValueError, match=r"a batch of \(2,\) results"):
        _ = several.message
    assert repr(jax.tree.map(lambda leaf: 0, one)).startswith("VariationalResult(posterior=")
