"""Restarts of a sweep race: who is left behind, who comes back, and that the winner is the one of the fits alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import random_mixture, random_samples

import jaxgmm
from jaxgmm import Status, lanes, rounds
from jaxgmm.lanes import Samples

raced = jax.jit(lanes.raced)

RUNS, LEFT = Status.ITERATION_LIMIT, Status.OVERTAKEN


@pytest.fixture
def three(x64):
    """Three lanes of which the first leads by ten nats; the third still gains."""
    samples = Samples(jnp.asarray(random_samples()), None, jnp.zeros(2))
    start = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), random_mixture("diag"))
    lane = jax.jit(jax.vmap(lambda params: lanes.begin(params, samples, jnp.asarray(1e-6), None, 0)))(start)
    carry, value = lane.carry, jnp.array([-100.0, -110.0, -110.5])
    sums = replace(carry.sums, log_likelihood=value)
    return after(lanes.SETTLED, lane._replace(carry=carry._replace(best=(value, carry.best[1]), sums=sums)))


def after(n_iter, lane):
    return lane._replace(carry=lane.carry._replace(n_iter=jnp.full((3,), n_iter, jnp.int32)))


def statuses(lane, *gained):
    return raced(lane, jnp.array(gained)).carry.status.tolist()


def spiked(lane):
    """The first lane has a component without samples."""
    weights = np.array(lane.carry.state.weights)
    weights[0] = [1, *np.zeros(weights.shape[1] - 1)]
    state = replace(lane.carry.state, weights=jnp.asarray(weights))
    return lane._replace(carry=lane.carry._replace(state=state))


def test_who_is_further_behind_than_it_may_gain_is_left(three):
    assert statuses(three, 0.01, 0.01, 1.0) == [RUNS, LEFT, RUNS]
    assert statuses(after(lanes.SETTLED - 1, three), 0.1, 0.1, 1.0) == [RUNS, RUNS, RUNS]
    ended = three._replace(carry=three.carry._replace(status=jnp.array([1, 1, 3], jnp.int32)))
    assert statuses(ended, 0.01, 0.01, 0.01) == [1, 1, 3]


def test_who_was_left_goes_on_when_the_leader_turns_degenerate(three):
    left = raced(three, jnp.array([0.01, 0.01, 0.01]))
    assert left.carry.status.tolist() == [RUNS, LEFT, LEFT]
    assert statuses(spiked(left), 0.01, 0.01, 0.01) == [LEFT, RUNS, RUNS]
    assert statuses(after(lanes.SETTLED - 1, spiked(left)), 0.01, 0.01, 0.01) == [RUNS, RUNS, RUNS]


def test_of_those_that_creep_the_leader_goes_on_alone(three):
    least = lanes.CREEP * float(three.carry.sums.weight[0]) * 4  # of a stage of four passes
    assert statuses(after(8, three), 0.0, 0.5 * least, 1.5 * least) == [RUNS, LEFT, RUNS]
    near = three._replace(carry=three.carry._replace(best=(jnp.full(3, -100.0), three.carry.best[1])))
    assert statuses(after(50, near), 0.0, 2.4 * least, 2.6 * least) == [RUNS, LEFT, RUNS]  # a stage of ten


@pytest.mark.slow
def test_a_race_ends_with_the_best_of_the_fits_alone_however_it_is_cut(monkeypatch, x64):
    X, counts, options = random_samples(n=200), (5, 8), {"n_restarts": 6, "covariance_type": "diag", "init": "kmeans"}
    found = jaxgmm.sweep(jax.random.key(0), X, counts, **options)
    assert (np.concatenate([result.lanes.status for result in found.results]) == LEFT).any()
    alone = jaxgmm.fit(jax.random.key(0), X, 5, accelerate="squarem", **options)
    np.testing.assert_allclose(found.log_likelihood[0], alone.log_likelihood, rtol=1e-6)
    monkeypatch.setattr(rounds, "FIRST_ROUND", 1000)
    again = jaxgmm.sweep(jax.random.key(0), X, counts, **options)
    jax.tree.map(np.testing.assert_array_equal, found.results, again.results)
