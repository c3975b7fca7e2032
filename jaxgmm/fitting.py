"""The front room: checks at the door, a start, lanes, the loop, a result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm import batch, checks, checks_params, lanes
from jaxgmm.batch import Batch, Data, Plan
from jaxgmm.implicit import Problem, parameters_adjoint, with_adjoint
from jaxgmm.initial import METHODS
from jaxgmm.lanes import Samples
from jaxgmm.numerics import float_dtype
from jaxgmm.params import GMMParams, less, mixture_centre, moved
from jaxgmm.priors import Prior, cast_prior, default_prior
from jaxgmm.result import FitResult
from jaxgmm.rounding import about_mean
from jaxgmm.rounds import Progress, Run, as_one, at_once, good_part, heard, rounds, together
from jaxgmm.structures import Structure, get_structure

TOL = 1e-8
MAX_ITER = 2000
COVARIANCE_FLOOR = 1e-6
N_RESTARTS = 8


def fit_from(
    params: GMMParams,
    X: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    tol: ArrayLike = TOL,
    max_iter: ArrayLike = MAX_ITER,
    covariance_floor: ArrayLike = COVARIANCE_FLOOR,
    prior: Prior | str | None = None,
    accelerate: str | None = None,
    axis_name: str | None = None,
    trace: int = 0,
) -> FitResult:
    """EM from a given mixture to convergence. Pure: it works inside ``jit``, ``vmap``, ``shard_map``, ``jvp`` and ``grad``.

    No value of X or of the start raises: one that is not finite ends in ``Status.NONFINITE``.

    Forward mode differentiates the loop. Reverse mode is that of the fixed point to which the run leads, by the implicit rule:
    in X, ``sample_weight`` (but of a row of weight zero, which is absent), ``covariance_floor``, the numbers of ``prior`` and,
    where a relative floor binds, the start. It is NaN where the run ended far from a fixed point, as it may on a plateau at any
    ``tol`` above zero: lower ``tol`` then. ``trace`` has none, second derivatives raise, and inside ``shard_map`` there is
    forward mode only. To differentiate a ``fit``, go on from its end: ``fit_from(result.params, X)``.

    Args:
      params: the start; its structure is that of the fit.
      X: (N, D) samples, in the units of ``params.means``. The dtype of X is that of the result.
      sample_weight: (N,) weights: zero is absent, two is seen twice. They count as samples when a component is judged
        degenerate; weights of a mean below one count as if they were scaled to mean one.
      tol: stop when a step gains no more than this many nats per unit of sample weight. Zero: run all ``max_iter`` passes.
      max_iter: passes over X after the one that evaluates the start.
      covariance_floor: least variance in any direction; of EVE, VVE, EEV and VEV along each principal axis, of factor
        analysers that of the noise. A number is relative to the variance of each feature within the components of the start; a
        (D,) array is absolute, in squared data units. Inside the bound the likelihood still never falls. Zero: no bound.
      prior: None for maximum likelihood; a ``Prior``, samples that each component has seen besides; or "default", that of
        ``default_prior``. With one the fit maximises the posterior, ``tol`` and ``trace`` are in its terms, and the result
        holds ``log_posterior`` beside ``log_likelihood``.
      accelerate: None for plain EM, or "squarem" for squared extrapolation, kept only where it raises the likelihood.
      axis_name: mesh axis over which X and sample_weight are spread, inside ``shard_map``.
      trace: length T of the record of log-likelihoods, in nats.

    Returns:
      A ``FitResult`` of one lane.

    Raises:
      ValueError: X as in ``e_step``; options outside their range; weights that are negative, not finite, all zero, or beyond
        the range of float32.
      NotImplementedError: a second derivative: the rule solves a linear system at the fixed point, and JAX differentiates no
        further through what that solver closes over.

    Source: Dempster, Laird and Rubin (1977), see ``e_step``; Varadhan and Roland (2008), Scandinavian Journal of Statistics
    35, scheme SqS3, for "squarem"; Blondel et al. (2022), "Efficient and modular implicit differentiation", for reverse mode.

    >>> import jax, jaxgmm
    >>> X = jax.random.normal(jax.random.key(0), (100, 2))
    >>> start = jaxgmm.initialise(jax.random.key(1), X, 2)
    >>> result = jax.jit(jaxgmm.fit_from)(start, X)
    >>> bool(result.log_likelihood >= jaxgmm.log_likelihood(start, X))
    True
    >>> one = jaxgmm.initialise(jax.random.key(1), X[:4], 1)  # a mean of four samples follows each by a fourth
    >>> jax.grad(lambda X: jaxgmm.fit_from(one, X).params.means[0, 0])(X[:4]).round(4).tolist()
    [[0.25, 0.0], [0.25, 0.0], [0.25, 0.0], [0.25, 0.0]]
    """
    X = checks.check_samples(X, params)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    options = check_options(X, tol, max_iter, covariance_floor, accelerate, trace)
    floor, tol, max_iter, *static = options
    checks_params.check_prior_sees_all(prior, axis_name)
    X, offset = about_mean(X, sample_weight)
    data = Data(jnp.asarray(X), _as_array(sample_weight))
    known = prior_of(prior, data, offset, params.n_components, params.structure)
    problem = Problem(less(params, offset, float_dtype(X)), data.X, data.weight, floor, tol, max_iter, known)
    return returned(_fit_from(problem, *static, axis_name), offset)


def fit(
    key: Array,
    X: ArrayLike,
    n_components: int,
    *,
    covariance_type: str | Structure = "full",
    n_restarts: int = N_RESTARTS,
    init: str | ArrayLike = "swaps",
    sample_weight: ArrayLike | None = None,
    tol: ArrayLike = TOL,
    max_iter: ArrayLike = MAX_ITER,
    covariance_floor: ArrayLike = COVARIANCE_FLOOR,
    params: GMMParams | None = None,
    prior: Prior | str | None = None,
    accelerate: str | None = None,
    trace: int = 0,
    callback: Callable[[Progress], None] | None = None,
    progress: bool = False,
) -> FitResult:
    """Fit a Gaussian mixture: check, start ``n_restarts`` times, run EM on all starts at once, keep the best.

    Restart r is ``fit_from(initialise(jax.random.split(key, n_restarts)[r], X, n_components, method=init, ...), X, ...)`` up to
    rounding. By default each restart searches before it runs ("swaps"): that finds better optima, and takes longer on small
    samples; ``init="kmeans"`` is the default of ``fit_many``, ``sweep`` and ``initialise``.
    The best is the likeliest of those that ended finite and not ``Status.DEGENERATE``; a degenerate one wins only if there is
    no other. A component that in some direction has less than about a thousandth of the features' variance is charged what its
    first 40 samples gain by that, so that one flattened on a few samples does not win. On the host the fit runs in rounds of
    about a second, and Ctrl-C ends it after the round with the best parameters so far, in ``Status.INTERRUPTED`` (twice:
    without); under a trace it is one loop, without the checks of values.

    Args:
      key: random key; the same key gives the same result, bit for bit. (Keys of the implementation "rbg" draw otherwise
        under ``vmap``: restarts are then other ones than those of ``initialise``.)
      X: (N, D) samples, in data units: floating (half precision is computed in float32), integer or boolean. float64 needs
        ``jax_enable_x64``; without it X is centred in float64 and then rounded to float32.
      n_components: K.
      covariance_type: "full", "tied", "diag" or "spherical", another of mclust's families by its letters, or
        ``FactorAnalyzers`` where features are many.
      n_restarts: R, starts from different keys; a given start implies one.
      init: a method of ``initialise`` by name, (N,) labels counted from 0, or (N, K) responsibilities.
      sample_weight: (N,) weights: zero is absent, two is seen twice. They count as samples when a component is judged
        degenerate; weights of a mean below one count as if they were scaled to mean one.
      tol, max_iter, covariance_floor, accelerate, trace: see ``fit_from``.
      params: a mixture to start from, instead of ``init``; its structure is that of the fit.
      prior: see ``fit_from``.
      callback: called after each round, on the host, never under a trace, with a ``Progress``: ``n_iter``, ``max_iter``,
        ``log_likelihood`` (R,) in nats, ``status`` (R,), and of the ``total`` lanes how many have ``finished``.
      progress: show a bar (needs tqdm, in the extra ``cli``).

    Returns:
      The best lane, with the ends of all lanes in ``lanes``.

    Raises:
      ValueError: any argument that is not of these forms; more components than samples of positive weight; X holding NaN or
        infinity in a row of positive weight; X so large or small that its squares leave the range of its dtype; weights as in
        ``fit_from``.
      ImportError: ``progress`` without tqdm.

    Source: see ``fit_from`` for EM, ``initialise`` for the starts.

    >>> import jax, jaxgmm
    >>> X = [[0.0], [0.2], [0.4], [9.0], [9.2], [9.4]]
    >>> result = jaxgmm.fit(jax.random.key(0), X, 2, covariance_type="tied")
    >>> sorted(result.params.means.round(1).ravel().tolist())
    [0.20000000298023224, 9.199999809265137]
    """
    key = checks.check_key(key)
    data, offset = admit(X, sample_weight)
    n_samples, n_features = data.X.shape
    n_components = checks.check_n_components(n_components, checks.n_present(sample_weight, n_samples))
    n_restarts = checks.check_int("n_restarts", n_restarts, 1)
    structure = get_structure(covariance_type, n_features)
    start: Any = None
    if isinstance(init, str):
        checks.check_choice("init", init, METHODS)
    else:
        start = jnp.asarray(checks.check_init("init", init, n_samples, n_components))
    if params is not None:
        checks_params.check_start(params, n_components, n_features, structure)
        structure = params.structure
        start = less(params, offset, float_dtype(data.X))
    name, n_restarts = (init, n_restarts) if start is None else ("given", 1)
    options = check_options(data.X, tol, max_iter, covariance_floor, accelerate, trace)
    floor, tol, max_iter, accelerate, trace = options
    # Under the caller's jit the options are tracers, too, whatever they were made of.
    traced = checks.is_traced(key, data, start, options, prior)

    part = n_restarts if traced else good_part(data.X, n_restarts)
    width = part if traced else batch.good_width(data, part, n_components)
    plan = Plan(structure, n_components, str(name), accelerate, trace, width)
    keys = batch.restart_keys(key, n_restarts, part)

    known = of_lanes(prior_of(prior, data, offset, n_components, structure), part)

    def begin(first: int) -> Batch:
        return batch.begin(keys[first // part], data, start, None, min(part, n_restarts - first), floor, plan, known)

    with heard(checks.check_callback(callback), progress and not traced) as said:
        ends, n_ended = run_parts(begin, n_restarts, part, data, plan, tol, max_iter, said, traced)
    return returned(batch.finish_one(ends, n_ended), offset)


def run_parts(
    begin: Callable[[int], Batch],
    n_restarts: int,
    part: int,
    data: Data,
    plan: Plan,
    tol: Array,
    max_iter: Array,
    callback: Callable[[Progress], None] | None = None,
    traced: bool = False,
) -> tuple[list[Batch], int]:
    """All restarts to their ends, those of a part together; ``begin`` is told the first of a part.

    Returns the parts and how many of their lanes count, the first so many: after Ctrl-C parts may be missing.
    """
    advance = partial(batch.advance, data=data, most=max_iter, tol=tol, plan=plan)
    say = None if callback is None else as_one(callback, n_restarts, part)

    def restarts(first: int) -> Run[Batch]:
        running = yield partial(begin, first)
        if traced:
            return advance(running, passes=max_iter)
        said = None if say is None else partial(say, first)
        return (yield from rounds(running, advance, int(max_iter), min(part, n_restarts - first), said))

    firsts = range(0, n_restarts, part)
    ends = together(map(restarts, firsts), 1 if traced else at_once(data.X))
    counts = [min(part, n_restarts - first) for first, end in zip(firsts, ends, strict=False) if end is not None]
    return [end for end in ends if end is not None], sum(counts)


def admit(X: Any, sample_weight: Any, vanishing: bool = False) -> tuple[Data, np.ndarray | None]:
    """Samples and weights that passed the door, and what was subtracted from samples that JAX would have rounded.

    Where squares of samples may be ``vanishing``, something else keeps variances from zero.
    """
    X = checks.check_samples(X)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    if not checks.is_traced(X, sample_weight):
        weight = None if sample_weight is None else np.asarray(sample_weight)
        checks.check_values(np.asarray(X), weight, float_dtype(X), vanishing)
    X, offset = about_mean(X, sample_weight)
    return Data(jnp.asarray(X), _as_array(sample_weight)), offset


def prior_of(prior: Any, data: Data, offset: np.ndarray | None, n_components: int, structure: Structure) -> Prior | None:
    """The prior that passed the door, of samples less ``offset``."""
    n_features, dtype = data.X.shape[1], float_dtype(data.X)
    prior = checks_params.check_prior(prior, n_features, by_name=True)
    if isinstance(prior, str):
        return default_prior(data.X, n_components, structure, sample_weight=data.weight)
    return None if prior is None else cast_prior(prior, dtype, offset)


def of_lanes(prior: Prior | None, n_lanes: int) -> Prior | None:
    """The same prior for each lane."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n_lanes, *leaf.shape)), prior)


def returned(result: FitResult, offset: np.ndarray | None) -> FitResult:
    """The result with its means in the caller's units."""
    return result if offset is None else result._replace(params=moved(result.params, offset))


def check_options(
    X: Any, tol: Any, max_iter: Any, covariance_floor: Any, accelerate: Any, trace: Any
) -> tuple[Array, Array, Array, str | None, int]:
    """Options as arrays, so that a new value compiles nothing new."""
    dtype = float_dtype(X)
    floor = checks.check_covariance_floor(covariance_floor, X.shape[1])
    if accelerate is not None:
        checks.check_choice("accelerate", accelerate, ["squarem"])
    return (
        _number(0.0 if floor is None else floor, dtype),
        _number(checks.check_nonnegative("tol", tol), dtype),
        _number(checks.check_max_iter(max_iter), np.dtype(np.int32)),
        accelerate,
        checks.check_int("trace", trace, 0),
    )


def _number(value: Any, dtype: np.dtype) -> Array:
    if isinstance(value, jax.Array):
        return value.astype(dtype)
    number = np.asarray(value, dtype)
    if np.issubdtype(dtype, np.floating):  # zero has a meaning of its own
        number = np.where((number == 0) & (np.asarray(value) > 0), np.finfo(dtype).tiny, number)
    return jnp.asarray(number)


def _as_array(value: Any) -> Array | None:
    return None if value is None else jnp.asarray(value)


@partial(jax.jit, static_argnames=("accelerate", "trace", "axis_name"))
def _fit_from(problem: Problem, accelerate: str | None, trace: int, axis_name: str | None) -> FitResult:
    def run(problem: Problem) -> FitResult:
        start, X, sample_weight, floor, tol, max_iter, prior = problem
        samples = Samples(X, sample_weight, mixture_centre(start), axis_name)
        lane = lanes.begin(start, samples, floor, accelerate, trace, prior=prior)
        return lanes.finish(lanes.advance(lane, samples, max_iter, tol, accelerate), samples.centre)

    return with_adjoint(run, parameters_adjoint, problem)
