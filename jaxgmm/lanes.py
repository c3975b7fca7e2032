"""One run of EM as a value that can be started, continued and finished."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxgmm import em, loop
from jaxgmm.accelerate import Squarem
from jaxgmm.contract import CENTRED
from jaxgmm.loop import Status
from jaxgmm.numerics import contract, is_present, samples_per_weight
from jaxgmm.params import GMMParams, from_free, moved, to_free
from jaxgmm.priors import Prior, cast_prior, counts, pseudo_observations
from jaxgmm.result import FitResult, Lanes
from jaxgmm.structures.base import Inner, Whitener
from jaxgmm.sums import Statistics, sum_over

SPIKE, FLAT = 1e-3, 1e-5
"""A component whose variance in some direction, as a share of the pooled covariance, is below ``SPIKE`` with just the
samples it needs (below ``SPIKE / r`` with r times as many), or below ``FLAT`` with any number, is a spike: DECISIONS.md."""

NARROW, BENEFIT = 1e-3, 40
"""Restarts are compared as if the first ``BENEFIT`` samples gained nothing by a component that in some direction has less than
``NARROW`` of the variance of the features: DECISIONS 41."""

APART = 5
"""Standard deviations within components that groups may be apart for this variance: were distances to count in full, all
components of distant groups would be narrow."""

SETTLED, PROMISE = 16, 64
"""Passes after which a lane that is degenerate stays so, and any other is expected to gain at most what it would in so many
stages like its last, a fifth of its passes: DECISIONS 48."""

CREEP = 1e-5
"""Nats a sample and pass; of lanes that gain less only the one that leads goes on: DECISIONS 48."""

RESOLUTION, NOISE = 64, 2
"""Roundings of a log density within which a fall of the likelihood may be rounding, and that a gain typically has."""


class Samples(NamedTuple):
    """The data of a run."""

    X: Array  # (N, D)
    weight: Array | None  # (N,)
    centre: Array  # (D,) what means are relative to: in float32 an offset would take their digits
    axis_name: str | None = None  # mesh axis over which the samples are spread
    lanes: str | None = None  # vmap axis of runs side by side
    form: int | None = None  # that of ``contract.expect``


class Added(NamedTuple):
    """A variance that is added to every covariance, in the place of a floor: the likelihood may then fall."""

    variance: Array  # () squared data units


class Setting(NamedTuple):
    """What a run fixes at its start."""

    floor: Array | Added  # (D,) least variance, squared data units
    unit: Array  # (D,) standard deviation within components
    per_weight: Array  # () samples that a unit of weight stands for
    n_used: Array  # () int32, the first so many components are in use
    prior: Prior | None  # its mean relative to ``Samples.centre``

    def used(self, n_components: int) -> Float[Array, " K"]:
        """One for components in use, zero for others."""
        return (jnp.arange(n_components, dtype=jnp.int32) < self.n_used).astype(self.unit.dtype)


class Lane(NamedTuple):
    """A run of EM under way, its means relative to ``Samples.centre``."""

    carry: loop.Carry
    setting: Setting


def begin(
    params: GMMParams,
    samples: Samples,
    covariance_floor: Array | Added,
    accelerate: str | None,
    trace: int,
    n_used: Array | int | None = None,
    prior: Prior | None = None,
) -> Lane:
    """Evaluate the start: one pass, which also sets the scale of the floor."""
    params = moved(params, -samples.centre)
    sums = expect(params, samples._replace(form=CENTRED))  # one pass; the loop chooses
    scale = em.absolute_floor(params, sums, jnp.ones_like(sums.weight))
    floor = covariance_floor
    if not isinstance(floor, Added) and floor.ndim == 0:
        floor = floor * scale
    weight = samples.weight
    per_weight = jnp.ones_like(sums.weight)
    if weight is not None:
        per_weight = samples_per_weight(weight.astype(sums.weight.dtype), samples.axis_name)
    n_used = jnp.asarray(params.n_components if n_used is None else n_used, jnp.int32)
    prior = None if prior is None else cast_prior(prior, sums.weight.dtype, samples.centre)
    setting = Setting(floor, jnp.sqrt(scale), per_weight, n_used, prior)
    return Lane(loop.hold(problem(setting, samples, accelerate), params, with_prior(params, sums, setting), trace), setting)


def advance(lane: Lane, samples: Samples, passes: Array, tol: Array, accelerate: str | None) -> Lane:
    """Go on for at most ``passes`` passes over X."""
    return lane._replace(carry=loop.run(problem(lane.setting, samples, accelerate), lane.carry, passes, tol))


def raced(lane: Lane, gained: Float[Array, " R"]) -> Lane:
    """Of R lanes of which one is wanted, those that have settled too far behind are left, in ``Status.OVERTAKEN``.

    So are degenerate ones, where another is not, and those that only creep while another leads: on a plateau all would go the
    same long way. They go on later if what led turns out degenerate.

    Args:
      lane: the lanes, with a leading axis.
      gained: nats that each gained in its last stage.
    """
    (state, sums, *_), setting, status, best = lane.carry, lane.setting, lane.carry.status, lane.carry.best[0]
    noise = jax.vmap(objective)(sums, setting.per_weight).noise * sums.weight
    promise = best + PROMISE * (gained + noise)
    worth = jnp.where(status == Status.NONFINITE, -jnp.inf, jax.vmap(standing)(state, sums, setting))
    lead, leads = jnp.max(worth), jnp.arange(len(worth)) == jnp.argmax(worth)
    stage = jnp.maximum(loop.SHORTEST_STAGE, lane.carry.n_iter // (loop.STAGES_SHARE + 1)).astype(gained.dtype)
    creeps = gained < CREEP * sums.weight * stage
    spiky = jax.vmap(is_degenerate)(state, sums.weight * setting.per_weight, setting)
    below_spikes = promise < jnp.max(jnp.where(spiky, best, -jnp.inf))
    behind = jnp.where(spiky, (lead > -jnp.inf) | below_spikes, promise < lead) & (lane.carry.n_iter >= SETTLED)
    behind = behind | (creeps & ~spiky & ~leads)
    runs = (status == Status.ITERATION_LIMIT) | (status == Status.OVERTAKEN)
    after = jnp.where(behind, Status.OVERTAKEN, Status.ITERATION_LIMIT).astype(status.dtype)
    return lane._replace(carry=lane.carry._replace(status=jnp.where(runs, after, status)))


def finish(lane: Lane, centre: Float[Array, " D"]) -> FitResult:
    """The lane as a result, its means in data units."""
    carry = lane.carry
    spiky = is_degenerate(carry.state, carry.sums.weight * lane.setting.per_weight, lane.setting)
    spiky = spiky & (carry.status != Status.NONFINITE)
    status = jnp.where(spiky, jnp.int32(Status.DEGENERATE), carry.status)
    log_posterior = log_likelihood = carry.sums.log_likelihood
    if lane.setting.prior is not None:
        used = lane.setting.used(carry.state.n_components)
        log_likelihood = log_posterior - pseudo_observations(lane.setting.prior, carry.state, used).log_likelihood
    ends = Lanes(log_likelihood, carry.n_iter, status, carry.trace, log_posterior)
    lanes = jax.tree.map(lambda leaf: leaf[None], ends)
    return FitResult(moved(carry.state, centre), log_likelihood, carry.n_iter, status, carry.trace, lanes, log_posterior)


def handicap(lane: Lane) -> Float[Array, ""]:
    """Nats that are taken off the log-likelihood of a lane before it is compared with others."""
    return charge(lane.carry.state) / lane.setting.per_weight


def charge(params: GMMParams, whitener: Whitener | None = None) -> Float[Array, ""]:
    """Nats that components gain by being narrow on few samples.

    With s_k the ``narrowness`` of a component times ``NARROW``, features measured in standard deviations of the mixture, or in
    those within its components times ``APART`` where that is less, which is above one where a direction is narrower than
    ``NARROW``: BENEFIT / 2 sum_k (1 + ln s_k), over the s_k above one. ``whitener`` is that of the covariances, if known.
    """
    whitener = whitener or params.structure.whitener(params.cov, params.n_components, params.n_features)
    mean = contract("k,kd->d", params.weights, params.means)
    within = params.structure.variances(params.cov, params.n_components, params.n_features)
    between = (params.means - mean[None]) ** 2
    within, between = (contract("k,kd->d", params.weights, variance) for variance in (within, between))
    unit = jnp.sqrt(jnp.minimum(within + between, APART**2 * within))
    narrowness = NARROW * params.structure.narrowness(whitener.factor, params.n_components, unit)
    narrowness = jnp.where(params.weights > 0, narrowness, 0)
    nats = jnp.where(narrowness > 1, 1 + jnp.log(jnp.maximum(narrowness, 1)), 0)
    return BENEFIT / 2 * jnp.sum(nats)


def standing(params: GMMParams, sums: Statistics, setting: Setting, whitener: Whitener | None = None) -> Float[Array, ""]:
    """What a mixture is worth beside others of the same samples, in nats; -inf where it is degenerate or not finite."""
    well = ~is_degenerate(params, sums.weight * setting.per_weight, setting) & jnp.isfinite(sums.log_likelihood)
    return jnp.where(well, sums.log_likelihood - charge(params, whitener) / setting.per_weight, -jnp.inf)


def best(results: FitResult, handicaps: Float[Array, " R"]) -> FitResult:
    """The likeliest of R results, less their handicaps: of those that ended well, else of the degenerate, else of the rest."""
    rank = jnp.select([results.status == Status.NONFINITE, results.status == Status.DEGENERATE], [0, 1], 2)
    rank = jnp.where(jnp.isfinite(results.log_posterior), rank, -1)
    worth = results.log_posterior - jnp.where(jnp.isfinite(handicaps), handicaps, 0)  # NaN of a covariance that is not finite
    score = jnp.where(rank == jnp.max(rank), worth, -jnp.inf)
    chosen = jax.tree.map(lambda leaf: leaf[jnp.argmax(score)], results)
    return chosen._replace(lanes=jax.tree.map(lambda leaf: leaf[:, 0], results.lanes))


def problem(setting: Setting, samples: Samples, accelerate: str | None) -> loop.Problem:
    """The two slots of the loop filled with EM."""

    def bounded(free: GMMParams) -> GMMParams:
        params, floor = from_free(free, setting.unit), setting.floor
        return params if isinstance(floor, Added) else replace(params, cov=params.structure.floored(params.cov, floor))

    accelerator = Squarem(lambda params: to_free(params, setting.unit), bounded) if accelerate else loop.PLAIN
    return loop.Problem(
        lambda params: with_prior(params, expect(params, samples), setting),
        lambda params, sums: maximise(params, sums, setting),
        lambda sums: objective(sums, setting.per_weight),
        accelerator,
        ascends=not isinstance(setting.floor, Added),
    )


def with_prior(params: GMMParams, sums: Statistics, setting: Setting) -> Statistics:
    """The sums with those of the prior, and its logarithm in the likelihood: what the loop raises is the posterior."""
    if setting.prior is None:
        return sums
    return sums + pseudo_observations(setting.prior, params, setting.used(params.n_components))


def maximise(params: GMMParams, sums: Statistics, setting: Setting) -> GMMParams:
    """A turn's M-step inside the bound, or with what is added to the covariances."""
    floor, prior = setting.floor, setting.prior
    if isinstance(floor, Added):
        # A component without weight keeps its covariance: what is added to all must not add up in it.
        narrow = replace(params, cov=params.structure.widened(params.cov, -floor.variance))
        found = em.maximised(narrow, sums, None, inner=Inner.FEW)
        return replace(found, cov=found.structure.widened(found.cov, floor.variance))
    used = None if prior is None else setting.used(params.n_components)
    return em.maximised(params, sums, floor, prior, used, inner=Inner.FEW)


def expect(params: GMMParams, samples: Samples) -> Statistics:
    """Statistics of all samples, on whatever devices they are."""
    sums = em.collect(params, samples.X, samples.weight, samples.centre, lanes=samples.lanes, form=samples.form)
    return sums if samples.axis_name is None else sum_over(samples.axis_name, sums)


def objective(sums: Statistics, per_weight: Float[Array, ""]) -> loop.Objective:
    """The log-likelihood, and what rounding of the log densities can do to it per unit weight."""
    n_features, eps = sums.first.shape[-1], jnp.finfo(sums.weight.dtype).eps
    rounding = eps * (n_features + jnp.abs(sums.log_likelihood / sums.weight))
    # A fall is judged as if all samples erred the same way, noise as if they erred independently.
    noise = NOISE * rounding / jnp.sqrt(jnp.maximum(sums.weight * per_weight, 1))
    return loop.Objective(sums.log_likelihood, sums.lost, sums.weight, RESOLUTION * rounding, noise)


def is_degenerate(params: GMMParams, n_samples: Float[Array, ""], setting: Setting) -> Bool[Array, ""]:
    """Does a component in use hold fewer samples than its covariance needs, those of a prior included, or too few to be seen
    beside the others, or is one a spike?"""
    structure = params.structure
    own = held = params.weights * n_samples
    if (prior := setting.prior) is not None:  # one that is flat in a feature keeps nothing from collapsing
        bounds = jnp.min(jnp.diagonal(prior.scatter) / setting.unit**2) > FLAT * prior.count
        held = held + jnp.where(bounds, prior.count, 0)
    support = held / structure.least_weight(params.n_features)
    narrow = structure.narrower(params.weights, params.cov, jnp.maximum(SPIKE / jnp.maximum(support, 1), FLAT))
    used = setting.used(params.n_components) > 0
    unseen = (own >= 1) & ~is_present(counts(setting.prior, own)[0])  # some of very many, in float32: its mean stands still
    return jnp.any(used & ((support < 1 - 1e-3) | narrow | unseen))
