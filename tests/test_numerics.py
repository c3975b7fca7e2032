"""The helpers that others rely on for their digits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgmm import numerics


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=40, max_size=40))
def test_compensated_sums_are_right_to_twice_the_precision(values):
    numbers = np.asarray(values, np.float32)
    total, lost = jax.jit(numerics.sum_compensated)(jnp.asarray(numbers), jnp.zeros(40, jnp.float32))
    exact, size = math.fsum(numbers.astype(float)), math.fsum(np.abs(numbers).astype(float))
    assert abs(float(total) + float(lost) - exact) <= 1e-13 * size


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_compensated_sums_pass_on_what_is_not_finite(value):
    total, _ = numerics.sum_compensated(jnp.asarray([1.0, value, 2.0]), jnp.zeros(3))
    np.testing.assert_equal(np.asarray(total), np.float32(value))


def test_compensated_sums_have_the_derivative_of_a_sum():
    gradient = jax.grad(lambda x: numerics.sum_compensated(x, 0.5 * x)[0])(jnp.asarray([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(gradient, 1.5)


@pytest.mark.parametrize("n", [10, 100, 16384])
def test_an_even_sequence_leaves_no_gap(n):
    """Between neighbours there is never more than about twice the mean distance."""
    numbers = np.sort(np.asarray(numerics.evenly(n, jnp.dtype(np.float32))))
    assert numbers[0] >= 0
    assert numbers[-1] < 1
    assert np.diff(np.append(numbers, numbers[0] + 1)).max() < 3 / n
