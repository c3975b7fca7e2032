"""Variational Bayes: the loop of EM with a posterior in the place of the mixture.

The E-step is that of EM for the mixture of expected precisions, its log weights moved; the M-step counts the same sums into the
prior; the objective is the evidence bound, a lower bound of ln p(X),

    sum_n ln sum_k exp E ln(pi_k N(x_n | mu_k, Sigma_k)) - KL(q(pi) || p(pi)) - KL(q(mu, Lambda) || p(mu, Lambda)).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm import checks, checks_params, contract, lanes, loop
from jaxgmm.batch import LANES
from jaxgmm.clusters import Search
from jaxgmm.conjugate import WEIGHTS, Weights
from jaxgmm.fitting import MAX_ITER, N_RESTARTS, TOL, admit, check_options
from jaxgmm.initial import CLUSTERINGS, METHODS, first_clusters, first_mixture
from jaxgmm.lanes import Samples
from jaxgmm.loop import Objective, Status
from jaxgmm.numerics import float_dtype, samples_per_weight, two_sum, typical_where_constant
from jaxgmm.params import GMMParams, best_centre, digits_needed, mixture_centre, moved
from jaxgmm.posterior import Hyperparameters, Posterior, absorbed, carried, divergence, responsible, start_less, stored, volume
from jaxgmm.rounding import about_mean, difference
from jaxgmm.structures import CLASSICS, Structure, get_structure
from jaxgmm.structures.base import Whitener
from jaxgmm.structures.matrices import ROUNDING_FLOOR
from jaxgmm.sums import Statistics, sum_over
from jaxgmm.variational_result import VariationalLanes, VariationalResult

SCALE_RIDGE = 1e-6
"""What is added to the covariance of the samples as a prior scale, as a share of the variance of each feature: a constant
feature, or fewer samples than features, leave it singular. In float32 twice the bound of ``absorbed`` is more, to be clear
of it."""


class Evidence(NamedTuple):
    """What a pass says of a posterior."""

    sums: Statistics  # whose log_likelihood is the first sum of the bound
    divergence: Array  # () from the prior


def fit_variational(
    key: Array,
    X: ArrayLike,
    n_components: int,
    *,
    covariance_type: str | Structure = "full",
    weights: str = "dirichlet_process",
    prior: Hyperparameters | None = None,
    n_restarts: int = N_RESTARTS,
    init: str | ArrayLike = "kmeans",
    sample_weight: ArrayLike | None = None,
    tol: ArrayLike = TOL,
    max_iter: ArrayLike = MAX_ITER,
    trace: int = 0,
) -> VariationalResult:
    """Fit a Gaussian mixture by variational Bayes, from ``n_restarts`` starts at once, and keep the highest evidence bound.

        q(pi) prod_k q(mu_k, Lambda_k) that raises  sum_n ln sum_k exp E ln(pi_k N(x_n | mu_k, Lambda_k^-1)) - KL(q || prior)

    ``n_components`` is an upper bound: components that the samples do not call for end near their prior, with little weight.
    Restart r is ``fit_variational_from(initialise(jax.random.split(key, n_restarts)[r], X, n_components, ...), X, ...)`` up to
    rounding.

    Args:
      key: random key; the same key gives the same result, bit for bit.
      X: (N, D) samples, in data units, as in ``fit``.
      n_components: K, the most components.
      covariance_type: "full", "tied", "diag" or "spherical".
      weights: prior on the weights: "dirichlet", the same concentration for each, or "dirichlet_process", stick-breaking.
      prior: hyper-parameters; those left out are taken from the data.
      n_restarts: R, starts from different keys.
      init: a method of ``initialise`` by name, (N,) labels counted from 0, or (N, K) responsibilities.
      sample_weight: (N,) weights: zero is absent, two is seen twice.
      tol, max_iter, trace: see ``fit_variational_from``.

    Returns:
      The best lane, with the ends of all lanes in ``lanes``.

    Raises:
      ValueError: as ``fit``; a structure that is none of the four; hyper-parameters as in ``fit_variational_from``.

    Source: Bishop (2006), "Pattern Recognition and Machine Learning", section 10.2; Blei and Jordan (2006), "Variational
    inference for Dirichlet process mixtures", Bayesian Analysis 1.

    >>> import jax, jaxgmm
    >>> X, few = [[0.0], [0.1], [0.2], [0.3], [0.4], [9.0], [9.1], [9.2], [9.3], [9.4]], jaxgmm.Hyperparameters(1e-3)
    >>> result = jaxgmm.fit_variational(jax.random.key(0), X, 4, weights="dirichlet", prior=few)
    >>> int((result.posterior.mixture.weights > 0.05).sum())
    2
    """
    key = checks.check_key(key)
    data, offset = admit(X, sample_weight)
    n_samples, n_features = data.X.shape
    n_components = checks.check_n_components(n_components, checks.n_present(sample_weight, n_samples))
    n_restarts = checks.check_int("n_restarts", n_restarts, 1)
    structure = _structure(covariance_type)
    kind = WEIGHTS[checks.check_choice("weights", weights, WEIGHTS)]
    given: Any = None
    if isinstance(init, str):
        checks.check_choice("init", init, METHODS)
    else:
        given, init, n_restarts = jnp.asarray(checks.check_init("init", init, n_samples, n_components)), "given", 1
    dtype = float_dtype(data.X)
    prior = _hyperparameters(prior, n_features, structure, dtype, offset)
    _, tol, max_iter, _, trace = check_options(data.X, tol, max_iter, None, None, trace)
    keys = jax.random.split(key, n_restarts)
    if given is None and init in CLUSTERINGS:
        given = _clusters(keys, data.X, data.weight, n_components, structure.least_weight(n_features), CLUSTERINGS[init])
    result = _fit(keys, data.X, data.weight, given, prior, tol, max_iter, init, n_components, structure, kind, trace)
    return _returned(result, offset)


def fit_variational_from(
    start: GMMParams | Posterior,
    X: ArrayLike,
    *,
    weights: str | None = None,
    prior: Hyperparameters | None = None,
    sample_weight: ArrayLike | None = None,
    tol: ArrayLike = TOL,
    max_iter: ArrayLike = MAX_ITER,
    axis_name: str | None = None,
    trace: int = 0,
) -> VariationalResult:
    """Variational Bayes from a given mixture or posterior to convergence. Pure: ``jit``, ``vmap``, ``shard_map`` it.

    The bound never falls, but by rounding. No value of X or of the start raises: one that is not finite ends in
    ``Status.NONFINITE``.

    Args:
      start: a mixture, whose responsibilities are counted into the prior in a pass of its own; or a posterior to go on from.
      X: (N, D) samples, in the units of ``start.means``. The dtype of X is that of the result.
      weights: prior on the weights, "dirichlet" or "dirichlet_process"; without, that of the posterior, or the latter.
      prior: hyper-parameters; those left out are those of the posterior, or are taken from the data.
      sample_weight: (N,) weights: zero is absent, two is seen twice.
      tol: stop when a step gains no more than this many nats per unit of sample weight. Zero: run all ``max_iter`` passes.
      max_iter: passes over X after the one that evaluates the first posterior.
      axis_name: mesh axis over which X and sample_weight are spread, inside ``shard_map``.
      trace: length T of the record of bounds, in nats.

    Returns:
      A ``VariationalResult`` of one lane.

    Raises:
      ValueError: X as in ``e_step``; options outside their range; hyper-parameters of another shape, not positive, a ``dof`` of
        D - 1 or less for full and tied, a ``scale`` that is not positive definite; weights as in ``fit_from``; a posterior with
        another kind of ``weights``.

    Source: see ``fit_variational``.

    >>> import jax, jaxgmm
    >>> X = jax.random.normal(jax.random.key(0), (100, 2))
    >>> def fitted(key, X):
    ...     return jaxgmm.fit_variational_from(jaxgmm.initialise(key, X, 3), X).bound
    >>> jax.vmap(fitted)(jax.random.split(jax.random.key(1), 2), jax.numpy.stack([X, X + 1])).shape
    (2,)
    """
    X = checks.check_samples(X, start.mixture if isinstance(start, Posterior) else start)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    structure, dtype = _structure(start.structure), float_dtype(X)
    _, tol, max_iter, _, trace = check_options(X, tol, max_iter, None, None, trace)
    kind = start.weights if isinstance(start, Posterior) else WEIGHTS["dirichlet_process"]
    if weights is not None:
        kind = WEIGHTS[checks.check_choice("weights", weights, WEIGHTS)]
        if isinstance(start, Posterior) and kind != start.weights:
            raise ValueError(f"the posterior has {start.weights.name!r} weights; start from posterior.mixture for {weights!r}.")
    away, offset = about_mean(X, sample_weight)
    prior = _hyperparameters(prior, X.shape[1], structure, dtype, offset)
    weight = None if sample_weight is None else jnp.asarray(sample_weight)
    start = start_less(start, offset, dtype)
    return _returned(_fit_from(start, jnp.asarray(away), weight, prior, tol, max_iter, kind, axis_name, trace), offset)


@partial(jax.jit, static_argnames=("kind", "axis_name", "trace"))
def _fit_from(
    start: GMMParams | Posterior,
    X: Array,
    sample_weight: Array | None,
    prior: Hyperparameters,
    tol: Array,
    max_iter: Array,
    kind: Weights,
    axis_name: str | None,
    trace: int,
) -> VariationalResult:
    mixture = start.mixture if isinstance(start, Posterior) else start
    return run(start, prior, Samples(X, sample_weight, mixture_centre(mixture), axis_name), tol, max_iter, kind, trace)


@partial(jax.jit, static_argnames=("n_components", "least", "search"))
def _clusters(keys: Array, X: Array, weight: Array | None, n_components: int, least: int, search: Search) -> Any:
    return jax.vmap(lambda key: first_clusters(key, X, weight, n_components, least, n_components, search))(keys)


@partial(jax.jit, static_argnames=("init", "n_components", "structure", "kind", "trace"))
def _fit(
    keys: Array,
    X: Array,
    weight: Array | None,
    given: Any,
    prior: Hyperparameters,
    tol: Array,
    max_iter: Array,
    init: str,
    n_components: int,
    structure: Structure,
    kind: Weights,
    trace: int,
) -> VariationalResult:
    def start(key: Array, known: Any) -> GMMParams:
        return first_mixture(key, X, weight, known, n_components, init, n_components, structure)

    starts = jax.vmap(start, in_axes=(0, 0 if init in CLUSTERINGS else None))(keys, given)
    flat = (array.reshape(-1, array.shape[-1]) for array in (starts.means, jax.vmap(digits_needed)(starts)))
    samples = Samples(X, weight, best_centre(*flat), lanes=LANES)
    ends = jax.vmap(lambda start: run(start, prior, samples, tol, max_iter, kind, trace), axis_name=LANES)(starts)
    sound = (ends.status != Status.NONFINITE) & jnp.isfinite(ends.bound)
    best = jax.tree.map(lambda leaf: leaf[jnp.argmax(jnp.where(sound, ends.bound, -jnp.inf))], ends)
    return best._replace(lanes=jax.tree.map(lambda leaf: leaf[:, 0], ends.lanes))


def run(
    start: GMMParams | Posterior,
    prior: Hyperparameters,
    samples: Samples,
    tol: Array,
    max_iter: Array,
    kind: Weights,
    trace: int,
) -> VariationalResult:
    """One lane, from its start to its end."""
    per_weight = jnp.ones((), start.means.dtype)
    if samples.weight is not None:
        per_weight = samples_per_weight(samples.weight.astype(start.means.dtype), samples.axis_name)
    if isinstance(start, Posterior):
        known = {name: value for name, value in vars(prior).items() if value is not None}
        begun = carried(replace(start, prior=replace(start.prior, **known)), -samples.centre)
    else:
        prior = prior if prior.mean is None else replace(prior, mean=prior.mean - samples.centre)
        begun = counted(moved(start, -samples.centre), prior, samples, per_weight, kind)
    prior_volume = volume(begun.structure, begun.prior.scale, begun.n_features)
    slots = problem(samples, per_weight, prior_volume)
    first = expect(begun, samples._replace(form=contract.CENTRED), prior_volume)  # one pass in one form, which compiles sooner
    end = loop.run(slots, loop.hold(slots, begun, first, trace), max_iter, tol)
    bound = slots.objective(end.sums).value
    ends = jax.tree.map(lambda leaf: leaf[None], VariationalLanes(bound, end.n_iter, end.status, end.trace))
    return VariationalResult(carried(end.state, samples.centre), bound, end.n_iter, end.status, end.trace, ends)


def problem(samples: Samples, per_weight: Float[Array, ""], prior_volume: Float[Array, ""]) -> loop.Problem:
    """Both slots of the loop filled with variational Bayes."""
    return loop.Problem(
        lambda posterior: expect(posterior, samples, prior_volume),
        lambda posterior, found: updated(posterior, found.sums),
        lambda found: objective(found, per_weight),
    )


def expect(posterior: Posterior, samples: Samples, prior_volume: Float[Array, ""]) -> Evidence:
    """The variational E-step and its sums, and how far the posterior is from the prior."""
    whitener = posterior.structure.whitener(posterior.cov, *posterior.means.shape)
    return Evidence(collect(posterior, samples, whitener), divergence(posterior, whitener, prior_volume))


def collect(posterior: Posterior, samples: Samples, whitener: Whitener) -> Statistics:
    """The sums of the variational E-step, on whatever devices the samples are."""
    X, weight, centre = samples[:3]
    assign, form = responsible(posterior), samples.form
    mixture, lanes = posterior.mixture, samples.lanes
    sums = contract.expect(mixture, X, weight, assign, centre, lanes=lanes, form=form, whitener=whitener)
    return sums if samples.axis_name is None else sum_over(samples.axis_name, sums)


def updated(posterior: Posterior, sums: Statistics) -> Posterior:
    """The variational M-step."""
    return absorbed(posterior.means, sums, posterior.prior, posterior.structure, posterior.weights)


def objective(found: Evidence, per_weight: Float[Array, ""]) -> Objective:
    """The evidence bound, and what rounding can do to it."""
    of_samples = lanes.objective(found.sums, per_weight)
    bound, lost = two_sum(of_samples.value, -found.divergence)
    eps = jnp.finfo(bound.dtype).eps
    rounding = eps * (found.divergence + found.sums.first.size) / of_samples.weight  # near the prior terms of one cancel
    return Objective(
        bound,
        lost + of_samples.lost,
        of_samples.weight,
        of_samples.resolution + lanes.RESOLUTION * rounding,
        of_samples.noise + lanes.NOISE * rounding,
    )


def counted(
    start: GMMParams, prior: Hyperparameters, samples: Samples, per_weight: Float[Array, ""], kind: Weights
) -> Posterior:
    """The posterior from the responsibilities of a mixture, and the prior completed from the same sums."""
    sums = lanes.expect(start, samples._replace(form=contract.CENTRED))
    structure, count = start.structure, sums.count
    shift = jnp.where(count[:, None] > 0, sums.first / jnp.where(count > 0, count, 1)[:, None], 0)
    mean = jnp.sum(count[:, None] * (start.means + shift), axis=0) / sums.weight
    scatter = structure.recentre(None, count, shift, sums.second)
    total = structure.recentre(None, -count, start.means + shift - mean[None], scatter)
    if structure.by_component:
        total = jnp.sum(total, axis=0, keepdims=True)
    n = jnp.maximum(sums.weight * per_weight, 2)
    variance = typical_where_constant(structure.feature_variance(None, sums.weight[None], total)[0][0])
    ridge = max(SCALE_RIDGE, 2 * ROUNDING_FLOOR * start.n_features * float(jnp.finfo(variance.dtype).eps))
    apart = jnp.diag(jnp.sqrt(ridge * variance))[None]  # as many samples as features, one along each
    total = total / sums.weight * (n / (n - 1)) + structure.second_moment(None, jnp.ones_like(apart[:, 0]), apart)
    scale = stored(structure, total)
    found = Hyperparameters(
        jnp.full_like(n, 1 / start.n_components),
        jnp.ones_like(n),
        mean,
        jnp.full_like(n, start.n_features),
        scale[0] if structure.by_component else scale,
    )
    prior = replace(found, **{name: value for name, value in vars(prior).items() if value is not None})
    return absorbed(start.means, sums, prior, structure, kind)


def _returned(result: VariationalResult, offset: np.ndarray | None) -> VariationalResult:
    """The fit of samples less ``offset`` as that of the samples."""
    if offset is None:
        return result
    dtype = result.posterior.means.dtype
    return result._replace(posterior=carried(result.posterior, jnp.asarray(offset, dtype)))


def _structure(covariance_type: str | Structure) -> Structure:
    """One that has a conjugate prior."""
    structure = get_structure(covariance_type)
    checks.check_choice("covariance_type", structure.name, CLASSICS)
    return structure


def _hyperparameters(
    prior: Any, n_features: int, structure: Structure, dtype: Any, offset: np.ndarray | None = None
) -> Hyperparameters:
    """Those that were given, checked, as arrays, of samples less ``offset``."""
    if prior is None:
        return Hyperparameters()
    least = float(structure.lacking(n_features).max())
    shape = structure.shape(1, n_features)
    found = checks_params.check_hyperparameters(prior, n_features, least, shape[1:] if structure.by_component else shape)
    if offset is not None and found["mean"] is not None:
        found["mean"] = difference(found["mean"], offset, dtype)
    return Hyperparameters(**{name: None if v is None else jnp.asarray(v).astype(dtype) for name, v in found.items()})
