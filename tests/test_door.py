"""Bad input meets one sentence; awkward input meets a finite fit."""

import warnings

import jax
import numpy as np
import pytest
from structures import K, N, random_mixture, random_samples

import jaxgmm
from jaxgmm import Status

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)


def with_cell(value):
    spoiled = X.copy()
    spoiled[3, 1] = value
    return spoiled


BAD = {
    "nan": (dict(X=with_cell(np.nan)), r"X holds NaN.* row 3, column 1"),
    "inf": (dict(X=with_cell(np.inf)), r"X holds NaN or infinity"),
    "no rows": (dict(X=np.zeros((0, 2))), r"X must have at least one sample.*\(0, 2\)"),
    "no columns": (dict(X=np.zeros((5, 0))), r"X must have at least one sample and one feature"),
    "fewer rows than components": (dict(X=X[:2], n_components=3), r"n_components=3 .* 2"),
    "fewer weighted rows": (dict(sample_weight=np.eye(30)[0], n_components=2), r"n_components=2 .* 1"),
    "one-dimensional": (dict(X=X[:, 0]), r"X must have shape \(N, D\); got \(30,\).*X\[:, None\]"),
    "three-dimensional": (dict(X=X[None]), r"X must have shape \(N, D\)"),
    "strings": (dict(X=[["a", "b"]]), r"X must hold real numbers"),
    "ragged": (dict(X=[[1.0, 2.0], [3.0]]), r"X must be an array"),
    "complex": (dict(X=X + 1j), r"X must hold real numbers; got dtype complex64"),
    "objects": (dict(X=X.astype(object)), r"X must hold real numbers; got dtype object"),
    "squares too large": (dict(X=X * np.float32(1e20)), r"squares, summed, leave the range of float32.*Rescale"),
    "squares too small": (dict(X=X * np.float32(1e-22)), r"squares, summed, leave the range of float32"),
    "weights of another length": (dict(sample_weight=np.ones(7)), r"sample_weight must have shape \(30,\).*\(7,\)"),
    "weights with columns": (dict(sample_weight=np.ones((30, 1))), r"sample_weight must have shape"),
    "negative weights": (dict(sample_weight=-np.ones(30)), r"sample_weight must be finite and not negative; 30 of 30"),
    "nan weights": (dict(sample_weight=np.full(30, np.nan)), r"sample_weight must be finite"),
    "zero weights": (dict(sample_weight=np.zeros(30)), r"sample_weight is zero for every row"),
    "zero components": (dict(n_components=0), r"n_components must be at least 1; got 0"),
    "half a component": (dict(n_components=2.5), r"n_components must be an integer; got 2.5"),
    "components as text": (dict(n_components="2"), r"n_components must be an integer; got '2'"),
    "components as bool": (dict(n_components=True), r"n_components must be an integer"),
    "unknown covariance": (dict(covariance_type="diagonal"), r"covariance_type must be one of.*'diagonal'.*'diag'"),
    "covariance not text": (dict(covariance_type=3), r"covariance_type must be one of"),
    "negative tol": (dict(tol=-1.0), r"tol must be a finite number, zero or more; got -1"),
    "nan tol": (dict(tol=np.nan), r"tol must be a finite number"),
    "text tol": (dict(tol="small"), r"tol must be a finite number"),
    "negative max_iter": (dict(max_iter=-1), r"max_iter must be at least 0"),
    "fraction of max_iter": (dict(max_iter=1.5), r"max_iter must be an integer"),
    "negative floor": (dict(covariance_floor=-1e-3), r"covariance_floor must be a finite number"),
    "floor of another length": (dict(covariance_floor=np.ones(3)), r"covariance_floor must be a number.*\(2,\).*\(3,\)"),
    "floor with a zero": (dict(covariance_floor=np.array([1.0, 0])), r"covariance_floor as an array must hold positive"),
    "no restarts": (dict(n_restarts=0), r"n_restarts must be at least 1"),
    "unknown init": (dict(init="kmean"), r"init must be one of.*'kmeans'"),
    "callback not a function": (dict(callback=3), r"callback must be a function.*got 3"),
    "labels out of range": (dict(init=np.full(30, 2)), r"init as labels must count from 0 to n_components - 1 = 1"),
    "labels of another length": (dict(init=np.zeros(9, int)), r"init as labels must be integers of shape \(30,\)"),
    "responsibilities with nan": (dict(init=np.full((30, 2), np.nan)), r"must hold finite responsibilities"),
    "huge weights": (dict(sample_weight=np.full(30, 1e38)), r"sample_weight reaches .* leaves the range"),
    "tiny weights": (dict(sample_weight=np.full(30, 1e-60)), r"sample_weight reaches .* leaves the range"),
    "weights times squares": (
        dict(X=X * np.float32(1e6), sample_weight=np.full(30, 1e28)),
        r"squares, summed, leave the range",
    ),
    "masked": (dict(X=np.ma.masked_greater(X, 0)), r"X is a masked array"),
    "times": (dict(X=np.zeros((30, 2), "timedelta64[s]")), r"X must hold real numbers; got dtype timedelta64"),
    "beyond single precision": (dict(X=np.full((30, 2), 1e300)), r"leave the range of float32"),
    "no tol": (dict(tol=None), r"tol must be a finite number, zero or more; got None"),
    "key of another length": (dict(key=np.zeros(3, np.uint32)), r"key must be a JAX random key; got an array of shape"),
    "init beside params": (dict(params=random_mixture("full"), n_components=K, init="x"), r"init must be one of"),
    "params of another kind": (dict(params=(1, 2)), r"params must be a GMMParams; got tuple"),
    "fractional labels": (dict(init=np.zeros(30)), r"init as labels must be integers"),
    "responsibilities of another shape": (dict(init=np.ones((30, 3))), r"must have shape \(30, 2\)"),
    "params of another size": (dict(params=random_mixture("full")), r"params is a mixture of 3 components"),
    "params of another structure": (
        dict(params=random_mixture("diag"), n_components=K, covariance_type="tied"),
        r"covariance_type asks for 'tied', but params is 'diag'",
    ),
    "unknown acceleration": (dict(accelerate="fast"), r"accelerate must be one of 'squarem'"),
    "key as number": (dict(key=0), r"key must be a JAX random key; got 0.*jax.random.key\(0\)"),
    "batch of keys": (dict(key=jax.random.split(KEY, 2)), r"key must be one key"),
    "negative trace": (dict(trace=-1), r"trace must be at least 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_meets_one_sentence(case):
    change, message = BAD[case]
    arguments = {"key": KEY, "X": X, "n_components": 2} | change
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        jaxgmm.fit(**arguments)
    assert "\n" not in str(caught.value)


def test_functions_of_a_mixture_check_the_features():
    params, wide = random_mixture("diag"), np.zeros((5, 3), np.float32)
    gamma = np.ones((5, K), np.float32)
    for call in (
        lambda: jaxgmm.e_step(params, wide),
        lambda: jaxgmm.m_step(params, wide, gamma),
        lambda: jaxgmm.log_likelihood(params, wide),
        lambda: jaxgmm.statistics(params, wide),
        lambda: jaxgmm.fit_from(params, wide),
        lambda: jaxgmm.predict(params, wide),
        lambda: jaxgmm.predict_proba(params, wide),
        lambda: jaxgmm.log_prob(params, wide),
        lambda: jaxgmm.bic(params, wide),
        lambda: jaxgmm.icl(params, wide),
    ):
        with pytest.raises(ValueError, match="X has 3 features, but the mixture has 2"):
            call()
    with pytest.raises(ValueError, match=r"gamma must have shape \(5, 3\)"):
        jaxgmm.m_step(params, wide[:, :2], gamma[:, :2])
    with pytest.raises(ValueError, match=r"centre must have shape \(2,\), one number a feature; got \(3,\)"):
        jaxgmm.statistics(params, X, centre=np.zeros(3))
    with pytest.raises(ValueError, match=r"params must be a GMMParams; got dict"):
        jaxgmm.log_likelihood({}, X)
    batch = jax.tree.map(lambda leaf: leaf[None], params)
    with pytest.raises(ValueError, match=r"params must be one mixture, .* \(1, 3, 2\)"):
        jaxgmm.predict(batch, X)


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        (([1.0], [[0.0]], [[1.0]]), r"covariances must have shape \(1, 1, 1\)"),
        (([1.0, 1.0], [[0.0]], [[[1.0]]]), r"weights must have shape \(1,\)"),
        (([-1.0], [[0.0]], [[[1.0]]]), r"weights must be finite and not negative"),
        (([1.0], [[np.nan]], [[[1.0]]]), r"means must be finite"),
        (([1.0], [0.0], [[[1.0]]]), r"means must have shape \(K, D\)"),
        (([1.0], [[0.0]], [[[-1.0]]]), r"covariances\[0\] must be finite, symmetric and positive definite"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), r"positive definite"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), r"symmetric"),
    ],
)
def test_from_moments_checks(moments, message):
    with pytest.raises(ValueError, match=message):
        jaxgmm.GMMParams.from_moments(*moments)


AWKWARD = {
    "constant column": np.c_[X[:, :1], np.full(30, 7.0)],
    "two constant columns": np.c_[np.full(30, 7.0), X[:, 0], np.full(30, -1.0)],
    "duplicated rows": np.repeat(X[:6], 5, axis=0),
    "three distinct rows": np.repeat(X[:3], 10, axis=0),
    "copied columns": np.c_[X, X, 2 * X[:, :1], -X[:, 1:]],
    "all points identical": np.full((30, 2), 3.25),
    "all zero": np.zeros((30, 2)),
    "one far outlier": np.r_[X[1:], [[1e5, 1e5]]],
    "small units": X * 1e-6,
    "large units": X * 1e8,
    "columns of other units": X * [1e-5, 1e5],
    "far from the origin": X + 1e4,
    "integers": (10 * X).astype(int),
    "bytes": (10 * X).astype(np.int8),
    "booleans": X > 0,
    "half precision": X.astype(np.float16),
    "Fortran order": np.asfortranarray(X),
    "strided": np.repeat(X, 2, axis=0)[::2],
    "big endian": X.astype(">f4"),
    "long double": X.astype(np.longdouble),
    "two values": np.repeat([[0.0, 0.0], [1.0, 1.0]], 15, axis=0),
    "few rows": X[:4],
    "more features than rows": np.random.default_rng(1).normal(size=(6, 9)),
    "a lattice": np.stack(np.meshgrid(np.arange(6.0), np.arange(5.0)), axis=-1).reshape(-1, 2),
}


SAME_SHAPE = [name for name, Y in AWKWARD.items() if Y.shape == (30, 2) and Y.dtype.kind in "fi" and Y.dtype.itemsize >= 4]


@pytest.mark.filterwarnings("ignore:X is float64, but JAX computes in float32")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            c,
            marks=[pytest.mark.slow] if c not in SAME_SHAPE else [],
        )
        for c in AWKWARD
    ],
)
def test_awkward_input_meets_a_finite_fit(case):
    samples = AWKWARD[case]
    if isinstance(samples, np.ndarray) and case == "strided":
        samples.flags.writeable = False
    fit = jaxgmm.fit(KEY, samples, 3, n_restarts=2, init="kmeans", max_iter=50)
    assert fit.status != Status.NONFINITE
    for leaf in jax.tree.leaves((fit.params, fit.log_likelihood)):
        assert np.isfinite(np.asarray(leaf)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tied", "diag", "spherical"])
@pytest.mark.parametrize("case", ["copied columns", "all points identical", "one far outlier"])
def test_hard_cases_for_the_other_structures(name, case):
    fit = jaxgmm.fit(KEY, AWKWARD[case].astype(np.float32), 3, covariance_type=name, n_restarts=2, init="kmeans", max_iter=50)
    assert fit.status != Status.NONFINITE
    assert np.isfinite(np.asarray(fit.log_likelihood))


def test_every_row_its_own_component():
    fit = jaxgmm.fit(KEY, X[:5], 5, n_restarts=2)
    assert fit.status == Status.DEGENERATE
    assert np.isfinite(np.asarray(fit.params.cov)).all()


@pytest.mark.slow
def test_a_row_of_weight_zero_may_hold_anything():
    weight = np.ones(30)
    weight[3] = 0
    clean = jaxgmm.fit(KEY, X, 2, sample_weight=weight, n_restarts=2, init="kmeans", max_iter=5)
    spoiled = jaxgmm.fit(KEY, with_cell(np.nan), 2, sample_weight=weight, n_restarts=2, init="kmeans", max_iter=5)
    jax.tree.map(np.testing.assert_array_equal, clean, spoiled)


def test_inside_jit_nothing_raises_on_values():
    samples = np.stack([random_samples(), np.full((N, 2), np.nan, np.float32), np.full((N, 2), np.inf, np.float32)])
    samples = np.concatenate([samples, samples[[0, 0]]])
    weight = np.ones((5, N), np.float32)
    weight[3, 4], weight[4, 4] = np.nan, -9.0
    fit = jax.jit(jax.vmap(lambda X, w: jaxgmm.fit(KEY, X, 2, sample_weight=w, n_restarts=1, max_iter=5)))(samples, weight)
    assert fit.status.tolist()[1:] == [Status.NONFINITE] * 4
    assert fit.status[0] != Status.NONFINITE


def test_large_integers_are_not_wrapped():
    big = (X * 100).round().astype(np.int64)
    for offset in (1_600_000_000_000, 2_000_000_000):
        with pytest.warns(UserWarning, match="lose digits"):
            fit = jaxgmm.fit(KEY, big + offset, 2, n_restarts=1, max_iter=3, init="random_from_data")
        assert abs(float(fit.params.means.mean()) / offset - 1) < 1e-3
    one = jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1e18]]])
    assert jaxgmm.log_prob(one, np.array([[3_000_000_000]])) == jaxgmm.log_prob(one, np.array([[3e9]]))


@pytest.mark.parametrize("share", [0.2, 0.3, 0.6])
def test_a_repeated_value_does_not_set_the_floor_of_the_others(share, x64):
    """A code for missing values, -9999, is a cluster of its own; the two others keep their shapes."""
    rng = np.random.default_rng(0)
    coded = np.full(int(200 * share / (1 - share)), -9999.0)
    samples = np.concatenate([rng.normal(size=100), 6 + rng.normal(size=100), coded])[:, None]
    start = jaxgmm.GMMParams.from_moments(np.ones(3) / 3, [[0.0], [6.0], [-9999.0]], np.ones((3, 1, 1)))
    fit = jaxgmm.fit_from(start, samples)
    assert np.sort(fit.params.cov.ravel())[1:] == pytest.approx([1, 1], abs=0.3)


def test_mixed_precision_is_cast_not_refused(x64):
    params, samples = random_mixture("full", dtype=np.float32), random_samples()
    stats = jaxgmm.statistics(params, samples)
    assert jaxgmm.maximise(params, stats).means.dtype == np.float64


def test_lists_are_arrays_and_warnings_are_not_raised():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = jaxgmm.fit(KEY, X.tolist(), 2, n_restarts=1, max_iter=3, init="random_from_data")
    assert fit.params.means.dtype == np.float32
