"""Factor analysers: against scikit-learn's, what they never form, what is shared, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA, FactorAnalysis
from structures import FACTORS, least_relative_eigenvalues, random_mixture, random_samples

import jaxgmm
from jaxgmm import FactorAnalyzers, GMMParams
from jaxgmm.structures import get_structure


def factored(n=150, d=6, q=2, seed=0):
    """Samples of one factor model."""
    rng = np.random.default_rng(seed)
    deviation = rng.uniform(0.5, 1.2, d)
    return 3 + rng.normal(size=(n, q)) @ rng.normal(size=(q, d)) + deviation * rng.normal(size=(n, d))


def one(mean, loadings, noise, structure):
    cov = np.concatenate([loadings, np.broadcast_to(noise, len(loadings))[:, None]], axis=1)
    return GMMParams(jnp.ones(1), jnp.asarray(mean)[None], jnp.asarray(cov)[None], structure)


def ended(X, structure, **options):
    """The end of EM from the moments of all samples."""
    start = GMMParams.from_moments([1.0], X.mean(0)[None], np.cov(X.T)[None], structure)
    result = jaxgmm.fit_from(start, X, **options)
    assert result.converged
    return result


def test_factor_analysis_is_scikit_learns(x64):
    X = factored()
    theirs = FactorAnalysis(2, tol=1e-10, max_iter=10_000, svd_method="lapack").fit(X)
    params = one(theirs.mean_, theirs.components_.T, theirs.noise_variance_, FactorAnalyzers(2))
    np.testing.assert_allclose(jaxgmm.log_prob(params, X), theirs.score_samples(X), rtol=1e-10)
    ours = ended(X, FactorAnalyzers(2), tol=1e-11)
    np.testing.assert_allclose(ours.log_likelihood, theirs.score(X) * len(X), rtol=1e-7)
    np.testing.assert_allclose(jaxgmm.covariances(ours.params)[0], theirs.get_covariance(), rtol=1e-3, atol=1e-3)


def test_principal_components_are_scikit_learns(x64):
    X = factored()
    structure, n = FactorAnalyzers(2, isotropic=True), len(X)
    theirs = PCA(2).fit(X)  # its variances are those of n - 1 samples
    values, axes = theirs.explained_variance_, theirs.components_.T
    params = one(theirs.mean_, axes * np.sqrt(values - theirs.noise_variance_), theirs.noise_variance_, structure)
    np.testing.assert_allclose(jaxgmm.log_prob(params, X), theirs.score_samples(X), rtol=1e-10)
    ours = ended(X, structure, tol=1e-12)
    np.testing.assert_allclose(jaxgmm.covariances(ours.params)[0], theirs.get_covariance() * (n - 1) / n, rtol=1e-6, atol=1e-6)


def test_no_matrix_of_all_features_is_formed():
    """97 features: of two such axes there is no array in a fit, and in its start none for each component."""
    n_components, n_features = 3, 97
    structure = FactorAnalyzers(2)
    X = jnp.zeros((40, n_features))
    cov = jnp.ones(structure.shape(n_components, n_features))
    params = GMMParams(jnp.ones(n_components), jnp.zeros((n_components, n_features)), cov, structure)
    start = jax.make_jaxpr(lambda key: jaxgmm.initialise(key, X, n_components, covariance_type=structure))(jax.random.key(0))
    for jaxpr, most in (
        (jax.make_jaxpr(lambda p: jaxgmm.fit_from(p, X, accelerate="squarem").params)(params), 1),
        (jax.make_jaxpr(lambda p: jaxgmm.sample(jax.random.key(0), p, 5))(params), 1),
        (start, 2),
    ):
        shapes = list(shapes_in(jaxpr.jaxpr))
        assert (n_components, n_features) in shapes
        wide = [shape for shape in shapes if sum(n in (n_features, n_features + 2) for n in shape) > 1]
        assert all(most == 2 and np.prod(shape) <= (n_features + 31) ** 2 for shape in wide), wide


def shapes_in(jaxpr):
    for equation in jaxpr.eqns:
        yield from (tuple(variable.aval.shape) for variable in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


@pytest.mark.parametrize(
    "name", ["CCU-1", *(pytest.param(name, marks=pytest.mark.slow) for name in FACTORS if name != "CCU-1")]
)
def test_what_is_shared_is_equal_in_each(name):
    structure = get_structure(name)
    cov = np.asarray(jaxgmm.fit_from(random_mixture(name, d=3), random_samples(n=60, d=3), max_iter=20).params.cov)
    equal = [(part == part[:1]).all() for part in (cov[..., :-1], cov[..., -1])]
    assert equal == [structure.loadings == "shared", structure.noise == "shared"]
    assert (np.ptp(cov[..., -1], axis=1) == 0).all() == structure.isotropic


def test_single_precision_keeps_its_digits_where_factors_explain_nearly_all():
    rng = np.random.default_rng(0)
    loadings, noise = 30 * rng.normal(size=(40, 3)), rng.uniform(0.01, 0.02, 40)
    X = rng.normal(size=(50, 3)) @ loadings.T + np.sqrt(noise) * rng.normal(size=(50, 40))
    found = []
    for dtype in (np.float64, np.float32):
        with jax.enable_x64(dtype is np.float64):
            exact = one(np.zeros(40), loadings, noise, FactorAnalyzers(3))
            params = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), exact)
            turn = jaxgmm.maximise(params, jaxgmm.statistics(params, X.astype(dtype)))
            found.append([np.asarray(a, np.float64) for a in (jaxgmm.log_prob(params, X.astype(dtype)), turn.cov[0, :, -1])])
    np.testing.assert_allclose(found[1][0], found[0][0], atol=2e-2)  # x / noise is 1e3, and its square 1e6
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-3)


@pytest.mark.parametrize("name", [*FACTORS, "UUU-12"])
def test_a_structure_is_its_name(name, tmp_path):
    structure = get_structure(name)
    assert structure.name == name
    assert get_structure(name) == structure == get_structure(structure)
    params = GMMParams(*(np.ones(s, np.float32) for s in ((2,), (2, 13), structure.shape(2, 13))), structure)
    jaxgmm.save(tmp_path / "m.safetensors", params)
    for again in (jaxgmm.load(tmp_path / "m.safetensors"), jaxgmm.from_dict(jaxgmm.to_dict(params))):
        assert again.structure == structure
        np.testing.assert_array_equal(again.cov, params.cov)


@pytest.mark.parametrize(
    ("name", "place", "words"),
    [
        ("UUU-2", None, "holds UUU-2 in 2 features; it needs at least 3"),
        ("CUU-1", (1, 0, 0), "holds CUU-1, but loadings that components share are not equal"),
        ("UCU-1", (1, 0, 1), "holds UCU-1, but noise that components share"),
        ("UUC-1", (1, 0, 1), "holds UUC-1, but noise that features share"),
        ("UUU-1", (1, 0, 1), None),
    ],
)
def test_a_file_holds_equal_numbers_where_they_are_shared(name, place, words, tmp_path):
    structure = get_structure(name)
    cov = np.ones(structure.shape(2, 2), np.float32)
    if place is not None:
        cov[place] = 2
    params = GMMParams(np.ones(2, np.float32), np.ones((2, 2), np.float32), cov, structure)
    jaxgmm.save(tmp_path / "m.safetensors", params)
    for again in (lambda: jaxgmm.load(tmp_path / "m.safetensors"), lambda: jaxgmm.from_dict(jaxgmm.to_dict(params))):
        if words is None:
            np.testing.assert_array_equal(again().cov, cov)
            continue
        with pytest.raises(ValueError, match=words):
            again()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("UUX-5", "UUU-5"),
        ("uuu-5", "UUU-5"),
        ("UUU5", "UUU-5"),
        ("UUU_12", "UUU-12"),
        ("ccu", "CCU-1"),
        ("vei", "VEI"),
        ("vvv", "VVV"),
        ("fulll", "full"),
    ],
)
def test_a_misspelt_name_is_answered_by_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"got '{name}'. Did you mean '{near}'"):
        get_structure(name)


def test_the_door_names_what_is_wrong():
    X = random_samples()
    for make, message in (
        (lambda: FactorAnalyzers(0), "n_factors must be at least 1; got 0"),
        (lambda: FactorAnalyzers(1.5), "n_factors must be an integer"),
        (lambda: FactorAnalyzers(1, loadings="tied"), "loadings must be one of 'own', 'shared'; got 'tied'"),
        (lambda: FactorAnalyzers(1, noise=2), "noise must be one of"),
        (lambda: FactorAnalyzers(1, isotropic=1), "isotropic must be True or False"),
        (
            lambda: jaxgmm.fit(jax.random.key(0), X, 2, covariance_type=FactorAnalyzers(2)),
            "'UUU-2' needs at least 3 features; X has 2",
        ),
        (lambda: jaxgmm.sweep(jax.random.key(0), X, 2, ["full", "UUU-3"]), "'UUU-3' needs at least 4 features"),
        (lambda: jaxgmm.fit(jax.random.key(0), X, 2, covariance_type="UUX-1"), "covariance_type must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_the_floor_is_that_of_a_feature_on_single_values(dtype):
    """A flag that each cluster holds at one value: its floor is a share of the spread between them, as of all structures."""
    flag = np.repeat([0, 1], 30)
    X = np.c_[random_samples(n=60, d=3) + 20 * flag[:, None], flag].astype(dtype)
    for factor in (1, 16):
        start = jaxgmm.initialise(jax.random.key(0), factor * X, 2, covariance_type="UUU-1", method=flag)
        variance = jaxgmm.covariances(jaxgmm.fit_from(start, factor * X, max_iter=40).params)[:, 3, 3]
        np.testing.assert_allclose(variance, 1e-6 * factor**2 / 4, rtol=0.1)


@pytest.mark.slow
def test_samples_of_what_was_drawn_come_back(x64):
    """Two factor analysers drawn from and fitted again: the likelihood is at least that of the truth."""
    rng = np.random.default_rng(0)
    cov = np.concatenate([rng.normal(size=(2, 8, 2)), rng.uniform(0.3, 1, (2, 8, 1))], axis=-1)
    truth = GMMParams(jnp.array([0.4, 0.6]), jnp.asarray(rng.normal(size=(2, 8))), jnp.asarray(cov), FactorAnalyzers(2))
    X, _ = jaxgmm.sample(jax.random.key(0), truth, 400)
    result = jaxgmm.fit(jax.random.key(1), X, 2, covariance_type="UUU-2", n_restarts=4, tol=1e-7)
    assert result.log_likelihood > jaxgmm.log_likelihood(truth, X)


@pytest.mark.parametrize(("quiet", "ratio"), [(0, 1), (0, 1e4), (1, 1), (1, 100), (3, 1), (3, 1e4)])
@pytest.mark.parametrize("spread", [1e-3, 1])
def test_spikes_are_told_in_single_precision_however_much_factors_explain(ratio, spread, quiet):
    """Against eigenvalues in float64; alike loadings or not, some features almost without noise."""
    rng = np.random.default_rng(0)
    loadings = ratio * (rng.normal(size=(6, 2)) + spread * rng.normal(size=(3, 6, 2)))
    noise = rng.uniform(0.3, 2, (3, 6))
    noise[0, :quiet] *= 1e-7
    cov = loadings @ np.swapaxes(loadings, 1, 2) + noise[:, :, None] * np.eye(6)
    weights = np.array([0.2, 0.3, 0.5])
    least = least_relative_eigenvalues(cov, np.einsum("k,kij->ij", weights, cov))
    stored = np.concatenate([loadings, noise[..., None]], axis=-1)
    for factor in (0.7, 1.4):
        found = FactorAnalyzers(2).narrower(*(jnp.asarray(a, jnp.float32) for a in (weights, stored, factor * least)))
        assert found.tolist() == [factor > 1] * 3
