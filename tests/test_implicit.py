"""Reverse mode through fit_from: the implicit rule against forward mode, which differentiates the loop, and differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from structures import FAMILIES, NAMES, random_weight

import jaxgmm

K = 2


def clouds(n=30, seed=0):
    """Two clouds that overlap, so that responsibilities move with the data."""
    rng = np.random.default_rng(seed)
    near, far = rng.normal(size=(n // 2, 2)), rng.normal(size=(n - n // 2, 2)) @ [[1, 0.5], [0, 0.7]] + [3, 1]
    return np.concatenate([near, far])


def start_of(name):
    cov = [[[1.0, 0.2], [0.2, 1.0]], [[1.5, 0.5], [0.5, 1.0]]]
    return jaxgmm.GMMParams.from_moments([0.5, 0.5], [[0.0, 0.0], [3.0, 1.0]], cov, name)


def probe(result, seed=3):
    """Every number of a result, mixed by fixed coefficients."""
    rng = np.random.default_rng(seed)
    leaves = [*jax.tree.leaves(result.params), result.log_likelihood, result.lanes.log_likelihood]
    return sum(jnp.sum(jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) * leaf) for leaf in leaves)


def fitted(start, X, weight, floor, **options):
    options = {"tol": 0.0, "max_iter": 1000} | options
    return jaxgmm.fit_from(start, X, sample_weight=weight, covariance_floor=floor, **options)


FREE, BINDS = 1e-6, np.array([1.4, 0.1])
QUICK = [pytest.param("full", BINDS, id="full-binds"), pytest.param("diag", FREE, id="diag-free")]
SLOW = [
    pytest.param(name, floor, id=f"{name}-{word}", marks=pytest.mark.slow)
    for name in NAMES
    for word, floor in (("free", FREE), ("binds", BINDS))
    if (name, word) not in (("full", "binds"), ("diag", "free"))
]
SLOW += [  # VVE iterates, VEV has axes of its own, EEI is along the features; the others are made of their parts
    pytest.param(name, FREE, id=f"{name}-free", marks=pytest.mark.slow if name in ("VVE", "VEV", "EEI") else pytest.mark.long)
    for name in FAMILIES
]


@pytest.mark.parametrize(("name", "floor"), QUICK + SLOW)
def test_reverse_is_forward_is_differences(name, floor, x64):
    X, weight, floor = clouds(), random_weight(n=30) + 0.1, jnp.asarray(floor)
    rng = np.random.default_rng(1)
    along = rng.normal(size=X.shape), rng.normal(size=weight.shape), rng.normal(size=floor.shape) * floor
    score = jax.jit(lambda *data: probe(fitted(start_of(name), *data)))
    slopes = jax.jit(jax.grad(score, (0, 1, 2)))(X, weight, floor)
    slope = sum(jnp.sum(a * b) for a, b in zip(slopes, along, strict=True))
    _, forward = jax.jvp(score, (X, jnp.asarray(weight), floor), tuple(map(jnp.asarray, along)))
    np.testing.assert_allclose(slope, forward, rtol=1e-8)
    ahead, behind = (score(*(d + s * a for d, a in zip((X, weight, floor), along, strict=True))) for s in (1e-5, -1e-5))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_batches_of_directions_starts_and_data(x64):
    """``jacrev`` is ``jacfwd``, and the gradient of many fits at once is that of each."""
    X, start = clouds(12), start_of("full")
    ends = jax.jit(lambda X: fitted(start, X, None, 0.0).params)
    backward, forward = jax.jacrev(ends)(X), jax.jacfwd(ends)(X)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), backward, forward)
    slope = jax.jit(jax.grad(lambda X: probe(fitted(start, X, None, 0.0))))
    sets = np.stack([clouds(12, seed) for seed in range(3)])
    np.testing.assert_allclose(jax.vmap(slope)(sets), np.stack([slope(X) for X in sets]), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_inside_shard_map_forward_mode_stays(x64):
    X, start = clouds(), start_of("diag")
    mesh = Mesh(np.array(jax.devices()[:2]), ("n",))

    def ends(X, axis_name):
        return fitted(start, X, None, 1e-6, max_iter=20, axis_name=axis_name).params

    sharded = jax.shard_map(partial(ends, axis_name="n"), mesh=mesh, in_specs=P("n"), out_specs=P())
    along = np.random.default_rng(0).normal(size=X.shape)
    _, two = jax.jvp(jax.jit(sharded), (X,), (jnp.asarray(along),))
    _, one = jax.jvp(partial(ends, axis_name=None), (X,), (jnp.asarray(along),))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11), two, one)


@pytest.mark.slow
def test_single_precision_keeps_its_digits():
    X, start = clouds(), start_of("full")

    def slope(dtype):
        return jax.jit(jax.grad(lambda X: probe(fitted(start, X, None, 1e-6))))(X.astype(dtype))

    low = slope(np.float32)
    with jax.enable_x64(True):
        high = slope(np.float64)
    assert low.dtype == np.float32
    np.testing.assert_allclose(low, high, atol=2e-3 * np.abs(high).max())


def test_what_does_not_move_has_no_slope(x64):
    """A component without weight rests where it was put; the start, and rows of weight zero, do not matter to the fit."""
    X, weight = clouds(), np.r_[np.zeros(3), np.ones(27)]
    X[0] = np.nan
    far = jaxgmm.GMMParams.from_moments([0.5, 0.5, 0.0], [[0, 0], [3, 1], [50, 50]], [np.eye(2)] * 3, "full")
    score = jax.jit(lambda start, X: probe(fitted(start, X, weight, 1e-6)))
    of_start, of_X = jax.jit(jax.grad(score, (0, 1)))(far, X)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), of_start)
    np.testing.assert_array_equal(of_X[:3], 0)
    along = np.random.default_rng(0).normal(size=X.shape)
    _, forward = jax.jvp(partial(score, far), (X,), (jnp.asarray(along),))
    np.testing.assert_allclose(np.sum(of_X[3:] * along[3:]), forward, rtol=1e-8)


def test_on_a_plateau_it_is_the_fixed_points_or_nan(x64):
    """Two components of one cloud: gains of 1e-8 a turn, and a third of a standard deviation to go."""
    X, along = (np.random.default_rng(seed).normal(size=(200, 1)) for seed in (7, 1))
    start = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-0.5], [0.5]], [[[1.0]], [[1.0]]])

    @jax.jit
    def mean(X, tol, max_iter):
        return jaxgmm.fit_from(start, X, tol=tol, max_iter=max_iter).params.means[0, 0]

    slope = jax.jit(lambda *data: jnp.sum(jax.grad(mean)(*data) * along))
    X, most = jnp.asarray(X), jnp.int32(100_000)
    difference = (mean(X + 1e-4 * along, 0.0, most) - mean(X - 1e-4 * along, 0.0, most)) / 2e-4
    np.testing.assert_allclose(slope(X, 1e-9, most), difference, rtol=1e-5)
    assert np.isnan(slope(X, 1e-8, most))
    assert np.isnan(slope(X, 1e-8, jnp.int32(0)))


@pytest.mark.slow
def test_a_relative_floor_that_binds_hands_the_start_a_slope(x64):
    X, start = clouds(), start_of("diag")
    score = jax.jit(lambda start: probe(fitted(start, X, None, 1.5)))
    along = jax.tree.map(lambda leaf: jnp.asarray(np.random.default_rng(0).normal(size=leaf.shape)), start)
    slope = jax.grad(score)(start)
    _, forward = jax.jvp(score, (start,), (along,))
    assert abs(forward) > 1e-3
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), slope, along)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), forward, rtol=1e-7)


def test_whole_numbers_and_second_derivatives_say_so():
    X = np.arange(12).reshape(6, 2)
    start = jaxgmm.GMMParams.from_moments([1.0], [[0.0, 0.0]], [np.eye(2)])

    def mean(w):
        return fitted(start, X, w, 1e-6, max_iter=5).params.means[0, 0]

    influence = jax.grad(mean)(np.ones(6, np.float32))
    np.testing.assert_allclose(influence, (X[:, 0] - 5) / 6, rtol=1e-5, atol=1e-6)
    # Not yet to come but refused: JAX would give a second derivative that is silently wrong.
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        jax.hessian(mean)(np.ones(6, np.float32))
