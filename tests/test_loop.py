"""The loop, on a problem that is no mixture: climb -(x - 3)^2 with steps that halve the distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import samples
from structures import random_mixture, random_samples

import jaxgmm
from jaxgmm import lanes, loop
from jaxgmm.lanes import Samples
from jaxgmm.loop import Carry, Objective, Problem, Status


def hill(step=lambda x: x + (3 - x) / 2, noise=0.0):
    def objective(value):
        return Objective(value, *(jnp.full_like(value, v) for v in (0, 1, 1e-5, noise)))

    return Problem(lambda x: -jnp.sum((x - 3) ** 2), lambda x, _: step(x), objective)


START = np.zeros(2, np.float32)


def run(problem, passes=100, tol=1e-4, start=START, trace=0) -> Carry:
    return loop.run(problem, loop.begin(problem, jnp.asarray(start), trace), passes, tol)


def test_converges_when_a_step_gains_no_more_than_tol():
    carry = run(hill(), tol=1e-4)
    # the gain of pass n is 18 (1 - 1/4) / 4^(n - 1): below 1e-4 first at n = 10
    assert (carry.status, carry.n_iter) == (Status.CONVERGED, 10)
    np.testing.assert_allclose(carry.state, 3, atol=4e-3)


def test_no_passes_is_the_start_with_its_objective():
    carry = run(hill(), passes=0, trace=2)
    assert (carry.status, carry.n_iter, carry.sums) == (Status.ITERATION_LIMIT, 0, -18)
    np.testing.assert_array_equal(carry.trace, [-18, np.nan])


def test_reported_objective_is_that_of_the_state():
    carry = run(hill(), passes=3)
    assert carry.sums == -jnp.sum((carry.state - 3) ** 2)


def test_trace_holds_the_objective_after_each_pass_and_nan_after_the_end():
    trace = run(hill(), tol=1e-4, trace=15).trace
    np.testing.assert_allclose(trace[:11], -18 / 4.0 ** np.arange(11), rtol=1e-5)
    assert np.isnan(trace[11:]).all()


def test_a_fall_is_not_kept():
    carry = run(hill(step=lambda x: x - 1))
    # the first step may leave a start outside of the bounds; the second is judged
    assert (carry.status, carry.n_iter) == (Status.DECREASED, 2)
    np.testing.assert_array_equal(carry.state, START - 1)


def test_a_fall_of_less_than_tol_is_convergence():
    carry = run(hill(step=lambda x: jnp.where(x < 1, x + 1, x - 1e-5)), tol=1e-3)
    assert (carry.status, carry.n_iter) == (Status.CONVERGED, 2)  # of 8e-5, more than rounding explains
    np.testing.assert_array_equal(carry.state, START + 1)


def test_tol_zero_keeps_falls_and_never_stops():
    carry = run(hill(step=lambda x: x - 1), passes=7, tol=0.0)
    assert (carry.status, carry.n_iter) == (Status.ITERATION_LIMIT, 7)
    np.testing.assert_array_equal(carry.state, START - 7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("tol", [0.0, 1e-4])
def test_the_last_finite_state_is_kept(bad, tol):
    carry = run(hill(step=lambda x: jnp.where(x > 1, bad, x + 1)), tol=tol)
    assert carry.status == Status.NONFINITE
    np.testing.assert_array_equal(carry.state, START + 2)


def test_a_start_that_is_not_finite_ends_at_once():
    carry = run(hill(), start=np.array([np.nan, 0], np.float32))
    assert (carry.status, carry.n_iter) == (Status.NONFINITE, 0)


def test_below_the_noise_single_gains_say_nothing():
    """A wiggle larger than the drift: a single gain stops at once, the best of many passes climbs on."""

    def wiggle(x):
        drift = 0.05 * jnp.where(x[1] > 0, 1, -0.5).astype(x.dtype)
        return jnp.stack([x[0] + drift, 1 - x[1]])

    def problem(noise):
        def objective(value):
            return Objective(value, *(jnp.full_like(value, v) for v in (0, 1, 10.0, noise)))

        return Problem(lambda x: -((x[0] - 3) ** 2), lambda x, _: wiggle(x), objective)

    assert abs(run(problem(0.0), passes=1000, tol=0.02).state[0] - 3) > 2
    assert abs(run(problem(0.5), passes=1000, tol=0.02).state[0] - 3) < 1


def test_stopping_and_going_on_is_going_on():
    once = run(hill(), passes=7, trace=12)
    problem = hill()
    twice = loop.run(problem, run(problem, passes=3, trace=12), 4, 1e-4)
    jax.tree.map(np.testing.assert_array_equal, once, twice)


@pytest.mark.parametrize("accelerate", [None, "squarem"])
def test_em_is_resumable_bit_for_bit(accelerate):
    params, samples = random_mixture("full"), Samples(jnp.asarray(random_samples()), None, jnp.zeros(2))
    tol = jnp.asarray(1e-6)
    start = lanes.begin(params, samples, jnp.asarray(1e-6), accelerate, 12)
    go = jax.jit(lambda lane, passes: lanes.advance(lane, samples, passes, tol, accelerate))
    jax.tree.map(np.testing.assert_array_equal, go(start, 9), go(go(go(start, 2), 3), 4))


def test_every_status_has_advice():
    for status in Status:
        sentence = loop.advice(status, 7)
        assert "7" in sentence
        assert sentence.endswith(".")


@pytest.mark.parametrize("seed", range(4))
def test_squarem_never_falls(seed, x64):
    X, params = random_samples(seed), random_mixture("full", seed)
    fit = jaxgmm.fit_from(params, X, accelerate="squarem", tol=1e-7, max_iter=60, trace=61)
    trace = np.asarray(fit.trace)[: int(fit.n_iter) + 1]
    assert np.isfinite(trace).all()
    assert (np.diff(trace[1:]) >= -1e-10).all()


def test_squarem_needs_fewer_passes_on_overlap(x64):
    """PEERS: two overlapping clouds, where plain EM crawls; both ends are the same optimum."""
    X, start = overlap()
    plain = jaxgmm.fit_from(start, X, tol=1e-12, max_iter=5000)
    fast = jaxgmm.fit_from(start, X, tol=1e-12, max_iter=5000, accelerate="squarem")
    np.testing.assert_allclose(fast.log_likelihood, plain.log_likelihood, rtol=1e-8)
    assert fast.n_iter * 3 < plain.n_iter


@pytest.mark.slow
@pytest.mark.parametrize("n_components", [3, 4])
def test_squarem_ends_no_lower_than_plain_em(n_components, x64):
    """Over 112 starts: their mean and the best of each 16; and from inside a basin each of them."""
    X = samples("faithful")
    X = jnp.asarray((X - X.mean(axis=0)) / X.std(axis=0))

    def start(key):
        return jaxgmm.initialise(key, X, n_components, method="random_from_data")

    def ends(starts, tol, accelerate):
        def one(start):
            return jaxgmm.fit_from(start, X, tol=tol, max_iter=5000, covariance_floor=1e-3, accelerate=accelerate)

        return jax.jit(jax.vmap(one))(starts)

    starts = jax.vmap(start)(jax.random.split(jax.random.key(1), 112))
    plain, fast = (ends(starts, 1e-10, accelerate).log_likelihood / len(X) for accelerate in (None, "squarem"))
    assert fast.mean() >= plain.mean() - 1e-4
    assert fast.reshape(7, 16).max(axis=1).mean() >= plain.reshape(7, 16).max(axis=1).mean() - 1e-4
    inside = ends(starts, 1e-4, None).params
    plain, fast = (ends(inside, 1e-12, accelerate).log_likelihood / len(X) for accelerate in (None, "squarem"))
    assert (fast >= plain - 1e-6).all()


def overlap():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(300, 1)), rng.normal(size=(100, 1)) + 1.5])
    start = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-0.5], [1.5]], [[[1.0]], [[1.0]]])
    return X, start


def test_default_tolerance_reaches_the_limit_on_overlap(x64):
    X, start = overlap()
    fit = jaxgmm.fit_from(start, X)
    assert fit.converged
    np.testing.assert_allclose(np.sort(fit.params.weights), [0.25, 0.75], atol=0.02)
