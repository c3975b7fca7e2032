"""Reverse mode through a fit, by the implicit rule at the fixed point.

One turn of EM is a map theta -> T(theta, X), and a fit that has converged is its fixed point, theta = T(theta, X). Then

    d theta = (1 - J)^-1 (dT/dX) dX,    J = dT/dtheta,

so the cotangent v of theta becomes (dT/dX)^T (1 - J^T)^-1 v: products with J^T, each the derivative of one turn, in place of
the loop run backwards, which would need every state that it went through. Where the run stopped short of the fixed point,
Newton's method, theta + (1 - J)^-1 (T(theta) - theta), goes the rest of the way first. The eigenvalues of J at a maximum
are shares of missing information, from 0 to below 1 (Dempster, Laird and Rubin 1977), so a Krylov solver needs few products.
The state is that of ``params.to_free``: unconstrained numbers in units of the standard deviation within components.

Source: Blondel et al. (2022), "Efficient and modular implicit differentiation".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.sparse.linalg import gmres

from jaxgmm import em, lanes
from jaxgmm.contract import CENTRED
from jaxgmm.lanes import Added, Samples, Setting
from jaxgmm.numerics import divide_or_keep, is_present, varying_axes
from jaxgmm.params import GMMParams, from_free, mixture_centre, moved, to_free
from jaxgmm.priors import Prior, counts
from jaxgmm.result import FitResult
from jaxgmm.structures.base import Inner

A = TypeVar("A")
B = TypeVar("B")

RESTART, MOST_RESTARTS, LEFT = 20, 10, 1e-3
"""Products with J before GMRES starts anew, how often it may, and what it may leave of the right side."""

NEWTON, REACH = 6, 0.1
"""Most steps of Newton's method from the end of a run to the fixed point, and how far it may be: in standard deviations within
components, logarithms of these and of weights."""


class Problem(NamedTuple):
    """All that a fit depends on."""

    start: GMMParams
    X: Array
    sample_weight: Array | None
    floor: Array
    tol: Array
    max_iter: Array
    prior: Prior | None


def with_adjoint(function: Callable[[A], B], adjoint: Callable[[A, B, B], A], operand: A) -> B:
    """``function(operand)``, its forward mode its own and its reverse mode ``adjoint(operand, result, cotangent)``.

    ``custom_vjp`` would forbid forward mode. A linear map whose transpose is ours is a ``custom_linear_solve`` that has nothing
    to solve: its matrix is the identity, its two solvers are the map and the adjoint. That mixes badly with ``shard_map``,
    as all that a solver closes over must vary over the same axes: there the loop stays as it is, forward mode only.
    """
    if any(varying_axes(leaf) for leaf in jax.tree.leaves(operand)):
        return function(operand)

    @jax.custom_jvp
    def run(operand: A) -> B:
        return function(operand)

    @run.defjvp
    def _(primals: tuple[A], tangents: tuple[A]) -> tuple[B, B]:
        result = run(*primals)
        known, reached = _first_order((primals[0], result))

        def push(_: Any, vector: tuple[list[Array], list[Array]]) -> tuple[list[Array], list[Array]]:
            moves, still = vector
            turns = jax.jvp(function, (known,), (_filled(known, moves, _no_tangent),))[1]
            return moves, jax.tree.map(jnp.add, still, _floating(reached, turns))

        def pull(_: Any, vector: tuple[list[Array], list[Array]]) -> tuple[list[Array], list[Array]]:
            moves, turns = vector
            slopes = adjoint(known, reached, _filled(reached, turns, _no_tangent))
            return jax.tree.map(jnp.add, moves, _floating(known, slopes)), turns

        # The solver's transpose wants all of its vector to move: what stands still in this direction moves by nothing.
        moves = _floating(known, tangents[0])
        nothing = jnp.sum(jnp.stack([0 * move[(0,) * move.ndim].astype(jnp.float32) for move in moves]))
        vector = moves, _zeros(_floating(reached, reached))
        vector = jax.tree.map(lambda leaf: leaf + nothing.astype(leaf.dtype), vector)
        _, turns = lax.custom_linear_solve(lambda vector: vector, vector, push, pull)
        return result, _filled(result, turns, _no_tangent)

    return run(operand)


@jax.custom_jvp
def _first_order(tree: A) -> A:
    return tree


@_first_order.defjvp
def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    # A second derivative would be wrong: custom_linear_solve leaves out what its solvers close over, a silent zero.
    raise NotImplementedError(
        "fit_from has first derivatives only. For higher ones differentiate log_likelihood at its parameters, or a loop of "
        "m_step(params, X, e_step(params, X)[0])."
    )


def parameters_adjoint(problem: Problem, result: FitResult, cotangent: FitResult) -> Problem:
    """The cotangent of a fit as one of what it was fitted to; NaN where the run ended far from a fixed point.

    The start matters only through a floor that is relative to it and binds, ``tol`` and ``max_iter`` not at all.
    """
    start, X, sample_weight, covariance_floor, _, _, prior = problem
    centre = mixture_centre(start)

    def settled_on(
        start: GMMParams, X: Array, sample_weight: Array | None, covariance_floor: Array, prior: Prior | None
    ) -> Setting:
        return lanes.begin(start, Samples(X, sample_weight, centre), covariance_floor, None, 0, prior=prior).setting

    fixed = settled_on(start, X, sample_weight, covariance_floor, prior)
    unit = fixed.unit

    def turn(
        free: GMMParams, floor: Array | Added, prior: Prior | None, X: Array, sample_weight: Array | None
    ) -> tuple[GMMParams, tuple[Array, Array]]:
        params = from_free(free, unit)
        of_samples = lanes.expect(params, Samples(X, sample_weight, centre, form=CENTRED))
        sums = lanes.with_prior(params, of_samples, fixed._replace(prior=prior))
        held = counts(prior, sums.count)[0]
        # A component without weight is where the start left it: it follows nothing.
        resting = lax.stop_gradient(params.cov)
        if params.structure.by_component:
            moving = is_present(held).reshape(-1, *(1 for _ in resting.shape[1:]))
            resting = jnp.where(moving, params.cov, resting)
        new = em.maximised(replace(params, cov=resting), sums, floor, prior, inner=Inner.ONE)
        means = divide_or_keep(held[:, None] * new.means, held, lax.stop_gradient(params.means))
        return to_free(replace(new, means=means), unit), (of_samples.log_likelihood, sums.log_likelihood)

    def of_data(
        start: GMMParams, X: Array, sample_weight: Array | None, covariance_floor: Array, prior: Prior | None
    ) -> tuple[GMMParams, tuple[Array, Array]]:
        setting = settled_on(start, X, sample_weight, covariance_floor, prior)
        return turn(free, setting.floor, setting.prior, X, sample_weight)

    def turned(free: GMMParams) -> tuple[GMMParams, tuple[Array, Array]]:
        return turn(free, fixed.floor, fixed.prior, X, sample_weight)

    ended = to_free(moved(result.params, -centre), unit)
    free, settled = _at_rest(lambda free: turned(free)[0], ended)
    _, back = jax.vjp(turned, free)
    objective = (
        cotangent.log_likelihood + cotangent.lanes.log_likelihood[0],
        cotangent.log_posterior + cotangent.lanes.log_posterior[0],
    )
    known = jax.vjp(lambda free: from_free(free, unit), free)[1](cotangent.params)[0]
    known = jax.tree.map(jnp.add, known, back((_zeros(free), objective))[0])
    through = _solve(lambda v: back((v, _zeros(objective)))[0], known)
    through = jax.tree.map(lambda leaf: jnp.where(settled, leaf, jnp.nan), through)
    slopes = jax.vjp(of_data, start, X, sample_weight, covariance_floor, prior)[1]((through, objective))
    names = "start", "X", "sample_weight", "floor", "prior"
    return problem._replace(tol=_zeros(problem.tol), **dict(zip(names, slopes, strict=True)))


def _at_rest(turn: Callable[[A], A], ended: A) -> tuple[A, Array]:
    """The fixed point near where a run ended, by Newton's method, and whether there is one within ``REACH``.

    A run ends where gains are small, which on a plateau is far from where it leads: there J is close to one, and the rule
    would multiply what is left of the way.
    """

    def step(carry: tuple[Array, A, Array]) -> tuple[Array, A, Array]:
        count, state, _ = carry
        after, push = jax.linearize(turn, state)
        move = _solve(push, jax.tree.map(jnp.subtract, after, state))
        return count + 1, jax.tree.map(jnp.add, state, move), _largest(move)

    far = jnp.full_like(_largest(ended), jnp.inf)
    accuracy = float(jnp.finfo(far.dtype).eps) ** 0.75
    begin = jnp.int32(0), ended, far
    _, state, last = lax.while_loop(lambda carry: (carry[0] < NEWTON) & (carry[2] > accuracy), step, begin)
    way = _largest(jax.tree.map(jnp.subtract, state, ended))
    return state, (last <= REACH / 10) & (way <= REACH)


def _solve(product: Callable[[A], A], known: A) -> A:
    """v with v - J v = known, NaN where that was not found."""

    def without(v: A) -> A:
        return jax.tree.map(jnp.subtract, v, product(v))

    size = _largest(known)
    size = jnp.where(size > 0, size, 1)  # the solver takes what is below one rounding for zero
    known = jax.tree.map(lambda leaf: leaf / size, known)
    accuracy = float(jnp.finfo(size.dtype).eps) ** 0.75
    found, _ = gmres(without, known, tol=accuracy, restart=RESTART, maxiter=MOST_RESTARTS, solve_method="incremental")
    left = _largest(jax.tree.map(jnp.subtract, without(found), known))
    return jax.tree.map(lambda leaf: jnp.where(left <= LEFT, size * leaf, jnp.nan), found)


def _largest(tree: Any) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _zeros(tree: A) -> A:
    return jax.tree.map(jnp.zeros_like, tree)


def _is_floating(leaf: Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _no_tangent(leaf: Array) -> np.ndarray:
    return np.zeros(leaf.shape, jax.dtypes.float0)


def _floating(like: Any, tree: Any) -> list[Array]:
    """The leaves of ``tree`` where those of ``like`` are floating."""
    pairs = zip(jax.tree.leaves(like), jax.tree.leaves(tree), strict=True)
    return [leaf for model, leaf in pairs if _is_floating(model)]


def _filled(like: A, floating: Iterable[Array], other: Callable[[Array], Any]) -> A:
    """A tree like ``like`` of these floating leaves and ``other`` ones."""
    leaves = iter(floating)
    return jax.tree.map(lambda leaf: next(leaves) if _is_floating(leaf) else other(leaf), like)
