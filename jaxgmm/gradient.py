"""Fits by gradient steps, with any transformation of optax, on unconstrained coordinates.

The coordinates are those of ``to_free``: logarithms of weights, means in standard deviations within components, and numbers
that are a covariance of the family whatever they are. No pass is differentiated. By Fisher's identity the gradient of the
log-likelihood is that of Q at the same parameters, and Q depends on the samples through the sums of an E-step only:

    Q = sum_k N_k (ln pi_k - ln |Sigma_k| / 2) - tr(Sigma_k^-1 S_k) / 2,    S_k about mu_k,

so value and gradient cost one pass of EM, in whichever form is fastest.

Source: Fisher's identity as in Salakhutdinov, Roweis and Ghahramani (2003), "Optimization with EM and
expectation-conjugate-gradient".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxgmm import checks, lanes, loop
from jaxgmm.batch import Data
from jaxgmm.fitting import COVARIANCE_FLOOR, MAX_ITER, TOL, check_options, prior_of, returned
from jaxgmm.lanes import Samples
from jaxgmm.loop import Objective, Status
from jaxgmm.numerics import float_dtype
from jaxgmm.params import GMMParams, from_free, less, mixture_centre, to_free
from jaxgmm.priors import Prior, pseudo_observations
from jaxgmm.result import FitResult
from jaxgmm.rounding import about_mean
from jaxgmm.sums import Statistics

if TYPE_CHECKING:
    from optax import GradientTransformation


EARLIER = 0.01
"""Share of ``tol`` that ends a run by line searches: a step that gains little may be a short one, and EM judges the end."""


class Descent(NamedTuple):
    """Where a descent is."""

    free: GMMParams  # unconstrained coordinates
    memory: Any  # of the optimiser
    turn: Array  # () int32, which batch is next


class Slope(NamedTuple):
    """What a pass says of it."""

    loss: Array  # () minus the log-likelihood, nats per unit weight
    gradient: GMMParams  # of the loss


def fit_gradient(
    params: GMMParams,
    X: ArrayLike,
    optimizer: GradientTransformation | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    batch_size: int | None = None,
    key: Array | None = None,
    tol: ArrayLike = TOL,
    max_iter: ArrayLike = MAX_ITER,
    covariance_floor: ArrayLike = COVARIANCE_FLOOR,
    prior: Prior | str | None = None,
    trace: int = 0,
) -> FitResult:
    """Maximise the log-likelihood, eq. (6), by gradient steps from a given mixture. Pure: it works inside ``jit`` and ``vmap``.

    Where EM is slow, between components that overlap much, L-BFGS needs far fewer steps: two clouds of 1000 samples, 1.5
    standard deviations apart, float64, ``tol`` 1e-9, take EM 3846 passes and L-BFGS 39 steps after 20 passes of EM, to a
    likelihood higher by 0.001 nats (2 apart: 522 and 15; 3 apart: 71 and 8). Far from a maximum EM is the surer one. So let EM
    begin and L-BFGS finish, as in the example. No derivatives go through it: differentiate
    ``fit_from(result.params, X)``.

    Args:
      params: the start; its structure is that of the fit. It is no good place to start from if components are alike.
      X: (N, D) samples, in the units of ``params.means``. The dtype of X is that of the result.
      optimizer: a transformation of optax, such as ``optax.adam(1e-2)``; ``optax.lbfgs()`` without. A learning rate is a length
        in standard deviations within components, and in logarithms of these and of weights. Each one that is made compiles
        anew: make it once (a rate that changes is for ``optax.inject_hyperparams``).
      sample_weight: (N,) weights: zero is absent, two is seen twice.
      batch_size: samples drawn anew, with replacement, for each step; all samples without.
      key: random key for drawing; only and always with ``batch_size``.
      tol: the fit counts as converged if at its end a step of EM gains no more than this many nats per unit of sample weight.
        An optimiser with a line search stops when a step gains a hundredth of it or less, in ``Status.STALLED`` if a step of EM
        gains more; others take all ``max_iter`` steps.
      max_iter: steps of the optimiser. A line search may look at X more than once a step.
      covariance_floor: see ``fit_from``. What lies below counts as if it lay on it, so variances there have no slope.
      prior: see ``fit_from``; what is maximised is then the posterior.
      trace: length T of the record of log-likelihoods, in nats; with batches those of the batch scaled to all samples.

    Returns:
      A ``FitResult`` of one lane: the log-likelihood is that of ``params`` and all samples; ``n_iter`` counts steps.

    Raises:
      ValueError: X as in ``e_step``; options outside their range; weights as in ``fit_from``; an ``optimizer`` that is no
        transformation (``optax.adam`` without its call); ``batch_size`` without ``key`` or the other way round, or with a line
        search, which must see all samples.

    Source: Liu and Nocedal (1989), "On the limited memory BFGS method", for the default; Salakhutdinov, Roweis and Ghahramani
    (2003), "Optimization with EM and expectation-conjugate-gradient", for beginning with EM.

    >>> import jax, jaxgmm
    >>> X = jax.random.normal(jax.random.key(0), (100, 2))
    >>> begun = jaxgmm.fit(jax.random.key(1), X, 2, init="kmeans", max_iter=5)
    >>> result = jaxgmm.fit_gradient(begun.params, X)
    >>> bool(result.log_likelihood > begun.log_likelihood)
    True
    """
    X = checks.check_samples(X, params)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    if optimizer is not None and not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise ValueError(f"optimizer must be a transformation of optax, such as optax.adam(1e-2); got {optimizer!r}.")
    if (batch_size is None) != (key is None):
        raise ValueError("batch_size and key go together: give both to draw batches, or neither.")
    if batch_size is not None:
        batch_size = checks.check_int("batch_size", batch_size, 1)
    key = None if key is None else checks.check_key(key)
    floor, tol, max_iter, _, trace = check_options(X, tol, max_iter, covariance_floor, None, trace)
    weight = None if sample_weight is None else jnp.asarray(sample_weight)
    X, offset = about_mean(X, sample_weight)
    start, X = less(params, offset, float_dtype(X)), jnp.asarray(X)
    known = prior_of(prior, Data(X, weight), offset, params.n_components, params.structure)
    end = _fit_gradient(start, X, weight, key, floor, tol, max_iter, known, optimizer, batch_size, trace)
    return returned(end, offset)


@partial(jax.jit, static_argnames=("optimizer", "batch_size", "trace"))
def _fit_gradient(
    params: GMMParams,
    X: Array,
    sample_weight: Array | None,
    key: Array | None,
    floor: Array,
    tol: Array,
    max_iter: Array,
    prior: Prior | None,
    optimizer: GradientTransformation | None,
    batch_size: int | None,
    trace: int,
) -> FitResult:
    import optax  # half a second, and most of what imports jaxgmm does not need it

    solver = optax.with_extra_args_support(optax.lbfgs() if optimizer is None else optimizer)
    samples = Samples(X, sample_weight, mixture_centre(params))
    start = lanes.begin(params, samples, floor, None, 0, prior=prior)
    setting, first, bound = start.setting, start.carry.sums, start.setting.floor
    assert isinstance(bound, Array)  # nothing is added to covariances here
    origin, origin_lost = first.log_likelihood / first.weight, first.lost / first.weight
    seen = first.weight * (1 if batch_size is None else batch_size / len(X))  # what a batch weighs on average

    def mixture(free: GMMParams) -> GMMParams:
        found = from_free(free, setting.unit)
        return replace(found, cov=found.structure.floored(found.cov, bound))

    def drawn(turn: Array) -> Samples:
        if batch_size is None or key is None:
            return samples
        rows = jax.random.randint(jax.random.fold_in(key, turn), (batch_size,), 0, len(X))
        return samples._replace(X=X[rows], weight=None if sample_weight is None else sample_weight[rows])

    def loss(free: GMMParams, turn: Array) -> Array:
        params = mixture(free)
        sums = lanes.expect(lax.stop_gradient(params), drawn(turn))
        surrogate = q_function(params, sums) / seen
        # From the start on: in float32 a line search could not see gains beside the likelihood itself.
        rise = sums.log_likelihood / seen - origin + (sums.lost / seen - origin_lost)
        if setting.prior is not None:
            rise = rise + pseudo_observations(setting.prior, params).log_likelihood / first.weight
        return -rise - (surrogate - lax.stop_gradient(surrogate))

    def expect(state: Descent) -> Slope:
        of_turn = partial(loss, turn=state.turn)
        if searches:  # the line search has been here already
            return Slope(*_standard(optax.value_and_grad_from_state(of_turn))(state.free, state=state.memory))
        return Slope(*jax.value_and_grad(of_turn)(state.free))

    def step(state: Descent, slope: Slope) -> Descent:
        known = {"value": slope.loss, "grad": slope.gradient, "value_fn": partial(loss, turn=state.turn)}
        updates, memory = _standard(solver.update)(slope.gradient, state.memory, state.free, **known)
        free, memory = jax.tree.map(
            lambda new, old: new.astype(old.dtype), (_standard(optax.apply_updates)(state.free, updates), memory), state[:2]
        )
        return Descent(free, memory, state.turn + 1)

    def objective(slope: Slope) -> Objective:
        total = start.carry.sums.weight
        rounding = jnp.finfo(total.dtype).eps * (X.shape[1] + jnp.abs(slope.loss))
        nothing = jnp.zeros_like(total)  # a line search that finds nothing better has ended, noise or not
        return Objective(-slope.loss * total, nothing, total, lanes.RESOLUTION * rounding, nothing)

    free = to_free(start.carry.state, setting.unit)
    memory = _standard(solver.init)(free)
    searching = optax.ScaleByZoomLinesearchState, optax.ScaleByBacktrackingLinesearchState
    searches = any(isinstance(part, searching) for part in jax.tree.leaves(memory, is_leaf=lambda x: isinstance(x, searching)))
    if searches and batch_size is not None:
        raise ValueError("a line search must see all samples: leave batch_size out, or take another optimizer.")
    problem = loop.Problem(expect, step, objective)
    begun = loop.begin(problem, Descent(free, memory, jnp.zeros((), jnp.int32)), trace)
    ended = loop.run(problem, begun, max_iter, EARLIER * tol if searches else jnp.zeros_like(tol))

    # The end as EM sees it, and what EM would still gain.
    sound = loop.all_finite(last := mixture(ended.state.free))
    found = jax.tree.map(lambda new, old: jnp.where(sound, new, old), last, start.carry.state)
    of_samples = lanes.problem(setting, samples, None)
    sums = of_samples.expect(found)
    new, old = (of_samples.objective(s) for s in (of_samples.expect(of_samples.maximise(found, sums)), sums))
    gain = new.above(old.value, old.lost) / old.weight
    ends = [gain <= jnp.maximum(tol, new.noise), ended.n_iter < max_iter]
    status = jnp.select(ends, [Status.CONVERGED, Status.STALLED], Status.ITERATION_LIMIT)
    status = jnp.where(sound & jnp.isfinite(gain) & (ended.status != Status.NONFINITE), status, Status.NONFINITE)
    carry = start.carry._replace(
        state=found, sums=sums, n_iter=ended.n_iter, status=status.astype(jnp.int32), trace=first.log_likelihood + ended.trace
    )
    return lanes.finish(start._replace(carry=carry), samples.centre)


def q_function(params: GMMParams, sums: Statistics) -> Array:
    """Q of the sums as a function of ``params`` near the mixture of the sums: its gradient there is right, its value is not.

    The means enter linearly, by their slope Sigma_k^-1 sum_n gamma_nk (x_n - mu_k).
    """
    structure = params.structure
    whitener = structure.whitener(params.cov, params.n_components, params.n_features)
    still = lax.stop_gradient(whitener.factor)
    scatter = structure.recentre(still, sums.count, jnp.zeros_like(sums.first), sums.second)
    by_mean = structure.whiten(still, params.means[:, :, None]) * structure.whiten(still, sums.first[:, :, None])
    by_weight = jnp.sum(sums.count * (jnp.log(params.weights) - whitener.log_det / 2))
    return by_weight - structure.quadratic(whitener.factor, scatter) / 2 + jnp.sum(by_mean)


def _standard(function: Callable[..., Any]) -> Callable[..., Any]:
    """optax mixes dtypes in ways that strict promotion forbids."""

    def called(*arguments: Any, **options: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*arguments, **options)

    return called
