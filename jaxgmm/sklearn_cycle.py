"""The loop of scikit-learn's variational Bayes on ours: the bound is taken after the M-step, and a bound may fall."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm import contract, lanes, loop
from jaxgmm.batch import Batch, Data
from jaxgmm.lanes import Samples
from jaxgmm.loop import Objective
from jaxgmm.numerics import contract as multiply
from jaxgmm.numerics import samples_per_weight
from jaxgmm.params import GMMParams, mixture_centre
from jaxgmm.posterior import Hyperparameters, Posterior, absorbed, carried, divergence, gain, volume
from jaxgmm.structures import Structure
from jaxgmm.sums import Statistics
from jaxgmm.variational import collect


class Going(NamedTuple):
    """What ``rounds`` asks of lanes."""

    carry: loop.Carry


class Cycle(NamedTuple):
    """An E-step and the M-step after it: one iteration of scikit-learn."""

    sums: Statistics
    after: Posterior
    log_likelihood: Array  # () the evidence bound of ``after`` at these responsibilities, nats


@partial(jax.jit, static_argnames=("structure", "kind"))
def estimated(
    X: Array, weight: Array, gamma: Array, prior: Hyperparameters, noise: Array, structure: Structure, kind: Any
) -> Posterior:
    """The M-step from responsibilities."""
    mass = gamma * weight[:, None]
    count = jnp.sum(mass, axis=0)
    means = multiply("nk,nd->kd", mass, X) / jnp.where(count > 0, count, 1)[:, None]

    def given(diff: Float[Array, "K D B"], gamma: Float[Array, "K B"]) -> tuple[Array, Array]:
        return gamma, jnp.zeros_like(gamma[0])

    sums = contract.moments(structure, means, None, (X, gamma), weight, given)
    return absorbed(means, sums, prior, structure, kind, noise)


def _problem(samples: Samples, noise: Array, prior_volume: Array) -> loop.Problem:
    """The loop of scikit-learn: the bound is taken after the M-step."""

    def cycle(posterior: Posterior) -> Cycle:
        whitener = posterior.structure.whitener(posterior.cov, *posterior.means.shape)
        sums = collect(posterior, samples, whitener)
        after = absorbed(posterior.means, sums, posterior.prior, posterior.structure, posterior.weights, noise)
        whiteners = whitener, after.structure.whitener(after.cov, *after.means.shape)
        bound = sums.log_likelihood + gain(posterior, after, whiteners, sums) - divergence(after, whiteners[1], prior_volume)
        return Cycle(sums, after, bound)

    def objective(found: Cycle) -> Objective:
        weight = samples.weight
        per_weight = jnp.ones_like(found.sums.weight) if weight is None else samples_per_weight(weight)
        return lanes.objective(found.sums, per_weight)._replace(
            value=found.log_likelihood, lost=jnp.zeros_like(found.log_likelihood)
        )

    return loop.Problem(cycle, lambda _, found: found.after, objective, ascends=False)


def _problem_of(posterior: Posterior, data: Data, centre: Array, noise: Array, form: int | None) -> loop.Problem:
    prior_volume = volume(posterior.structure, posterior.prior.scale, posterior.n_features)
    prior_volume = jnp.where(jnp.isfinite(prior_volume), prior_volume, 0)  # of a singular prior: a constant of all steps
    return _problem(Samples(data.X, data.weight, centre, form=form), noise, prior_volume)


@partial(jax.jit, static_argnames="trace")
def begin(start: Posterior, data: Data, noise: Array, trace: int) -> Batch:
    """A run of one lane, with its first iteration: one pass in one form, which compiles sooner."""
    centre = mixture_centre(start.mixture)
    state = carried(start, -centre)
    carry = loop.begin(_problem_of(state, data, centre, noise, contract.CENTRED), state, trace)
    lanes: Any = Going(jax.tree.map(lambda leaf: leaf[None], carry))
    return Batch(lanes, centre, jnp.zeros((), jnp.int32))


@jax.jit
def advance(running: Batch, passes: Array, data: Data, noise: Array, tol: Array) -> Batch:
    carry = jax.tree.map(lambda leaf: leaf[0], running.lanes.carry)
    carry = loop.run(_problem_of(carry.state, data, running.centre, noise, None), carry, passes, tol)
    lanes: Any = Going(jax.tree.map(lambda leaf: leaf[None], carry))
    return running._replace(lanes=lanes, taken=running.taken + passes)


@partial(jax.jit, static_argnames="stepped")
def finished(running: Batch, stepped: bool) -> tuple[tuple[Posterior, GMMParams], Array, Array, Array, Array]:
    """The end of a run: the posterior, the mixture that it expects, its bound, its status, its passes, and the record."""
    carry = jax.tree.map(lambda leaf: leaf[0], running.lanes.carry)
    end = carry.sums.after if stepped else carry.state
    end = carried(end, running.centre)
    return (end, end.mixture), carry.sums.log_likelihood, carry.status, carry.n_iter, carry.trace
