"""The helpers that others rely on for their digits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgmm import numerics
from jaxgmm.structures.matrices import factors


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=40, max_size=40))
def test_compensated_sums_are_right_to_twice_the_precision(values):
    numbers = np.asarray(values, np.float32)
    total, lost = jax.jit(numerics.sum_compensated)(jnp.asarray(numbers), jnp.zeros(40, jnp.float32))
    exact, size = math.fsum(numbers.astype(float)), math.fsum(np.abs(numbers).astype(float))
    underflow = 40 * float(np.finfo(np.float32).tiny)  # XLA takes a subnormal number for zero
    assert abs(float(total) + float(lost) - exact) <= 1e-13 * size + underflow


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_compensated_sums_pass_on_what_is_not_finite(value):
    total, _ = numerics.sum_compensated(jnp.asarray([1.0, value, 2.0]), jnp.zeros(3))
    np.testing.assert_equal(np.asarray(total), np.float32(value))


def test_compensated_sums_have_the_derivative_of_a_sum():
    gradient = jax.grad(lambda x: numerics.sum_compensated(x, 0.5 * x)[0])(jnp.asarray([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(gradient, 1.5)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_largest_of_is_the_maximum_and_passes_on_nan(k):
    rows = np.random.default_rng(k).normal(size=(k, 3 * k))
    rows[np.arange(k), np.arange(k)] = np.nan
    rows[:, k] = -np.inf
    np.testing.assert_array_equal(numerics.largest_of(jnp.asarray(rows)), rows.max(axis=0).astype(np.float32))


@pytest.mark.parametrize("n", [10, 100, 16384])
def test_an_even_sequence_leaves_no_gap(n):
    """Between neighbours there is never more than about twice the mean distance."""
    numbers = np.sort(np.asarray(numerics.evenly(n, jnp.dtype(np.float32))))
    assert numbers[0] >= 0
    assert numbers[-1] < 1
    assert np.diff(np.append(numbers, numbers[0] + 1)).max() < 3 / n


@pytest.mark.parametrize("n_features", [1, 2, 33, 70])
def test_factors_are_those_of_numpy(n_features, x64):
    """In one panel, and in several of which the last is not full; a bad pivot in a later panel shows."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(3, n_features, 2 * n_features))
    cov = roots @ np.swapaxes(roots, 1, 2) / n_features
    bad = cov[2].copy()
    bad[-1, -1] = -1
    root, inverse = jax.jit(jax.vmap(factors))(jnp.asarray(np.stack([*cov[:2], bad])))
    for k in range(2):
        np.testing.assert_allclose(root[k], np.linalg.cholesky(cov[k]), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(inverse[k] @ root[k], np.eye(n_features), atol=1e-10)
    assert np.isnan(root[2]).any()
    single = factors(jnp.asarray(cov[0], jnp.float32))
    np.testing.assert_allclose(single[0], np.linalg.cholesky(cov[0]), rtol=1e-3, atol=1e-4)
    assert single[1].dtype == jnp.float32


@pytest.mark.parametrize("n_features", [2, 33])
def test_factors_have_the_derivative_of_what_they_compute(n_features, x64):
    """Along a direction that is not symmetric, too: only the symmetric part of a matrix is factored."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(n_features, 2 * n_features))
    cov, along = jnp.asarray(root @ root.T / n_features), jnp.asarray(rng.normal(size=(n_features, n_features)))
    _, tangents = jax.jvp(factors, (cov,), (along,))
    step = 1e-6
    ahead, behind = factors(cov + step * along), factors(cov - step * along)
    for tangent, a, b in zip(tangents, ahead, behind, strict=True):
        np.testing.assert_allclose(tangent, (a - b) / (2 * step), atol=1e-6)


def test_what_one_lane_does_not_want_leaves_no_slope():
    """Neither in it nor in what all lanes share, though there it is infinite; in whatever order modes are composed."""
    x, shared = jnp.asarray([0.0, 4.0], jnp.float32), jnp.zeros((), jnp.float32)

    def one(x, shared):
        return numerics.apply_if(x > 1, lambda y: jnp.sqrt(y + shared), x)

    def total(x, shared):
        return jnp.sum(jax.vmap(one, (0, None))(x, shared))

    np.testing.assert_allclose(jax.vmap(one, (0, None))(x, shared), [0, 2])
    for slopes in (jax.grad(total, (0, 1)), jax.jit(jax.grad(total, (0, 1))), jax.jacfwd(total, (0, 1))):
        of_x, of_shared = slopes(x, shared)
        np.testing.assert_allclose(of_x, [1, 0.25])
        np.testing.assert_allclose(of_shared, 0.25)
    of_x, of_shared = jax.vmap(jax.grad(one, (0, 1)), (0, None))(x, shared)
    np.testing.assert_allclose(of_x, [1, 0.25])
    np.testing.assert_allclose(of_shared, [0, 0.25])
    np.testing.assert_allclose(jax.grad(jax.grad(lambda x: one(x, shared)))(x[1]), -1 / 32)


def test_nothing_is_done_where_no_lane_wants_it():
    seen = []

    def heard(x):
        jax.debug.callback(lambda: seen.append(1))
        return 2 * x

    for wanted, calls in (([False, False], 0), ([False, True], 1)):
        seen.clear()
        found = jax.vmap(lambda wanted, x: numerics.apply_if(wanted, heard, x))(jnp.asarray(wanted), jnp.ones(2, jnp.float32))
        jax.effects_barrier()
        np.testing.assert_array_equal(found, 1 + np.asarray(wanted))
        assert len(seen) == calls


def test_what_is_applied_keeps_the_tree_and_leaks_nothing():
    x = jnp.arange(3, dtype=jnp.float32)
    with pytest.raises(TypeError, match="must return"):
        numerics.apply_if(jnp.asarray(True), list, (x, x))
    with jax.checking_leaks():
        jax.jit(jax.vmap(lambda y: numerics.apply_if(y[0] > 0, lambda u: u * y, x)))(jnp.stack([x, x]))
