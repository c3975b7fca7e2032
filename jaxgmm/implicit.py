"""Reverse mode through a fit, by the implicit rule at the fixed point.

One turn of EM is a map theta -> T(theta, X), and a fit that has converged is its fixed point, theta = T(theta, X). Then

    d theta = (1 - J)^-1 (dT/dX) dX,    J = dT/dtheta,

so the cotangent v of theta becomes (dT/dX)^T (1 - J^T)^-1 v: products with J^T, each the derivative of one turn, in place of
the loop run backwards, which would need every state that it went through. The eigenvalues of J at a maximum are shares of
missing information, from 0 to below 1 (Dempster, Laird and Rubin 1977), so a Krylov solver needs few products. The state is
that of ``params.to_free``: unconstrained numbers in units of the standard deviation within components.

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
from jaxgmm.lanes import Samples
from jaxgmm.numerics import divide_or_keep, varying_axes
from jaxgmm.params import GMMParams, from_free, mixture_centre, moved, to_free
from jaxgmm.result import FitResult

A = TypeVar("A")
B = TypeVar("B")

RESTART, MOST_RESTARTS = 20, 10
"""Products with J^T before GMRES starts anew, and how often it may."""


class Problem(NamedTuple):
    """All that a fit depends on."""

    start: GMMParams
    X: Array
    sample_weight: Array | None
    floor: Array
    tol: Array
    max_iter: Array


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
    raise NotImplementedError(
        "fit_from has first derivatives only. For higher ones differentiate log_likelihood at its parameters, or a loop of "
        "m_step(params, X, e_step(params, X)[0])."
    )


def parameters_adjoint(problem: Problem, result: FitResult, cotangent: FitResult) -> Problem:
    """The cotangent of a fit as one of what it was fitted to: of the start, ``tol`` and ``max_iter`` nothing."""
    start, X, sample_weight, covariance_floor, *_ = problem
    centre = mixture_centre(start)

    def setting(X: Array, sample_weight: Array | None, covariance_floor: Array) -> Any:
        return lanes.begin(start, Samples(X, sample_weight, centre), covariance_floor, None, 0).setting

    floor, unit, *_ = setting(X, sample_weight, covariance_floor)
    free = to_free(moved(result.params, -centre), unit)

    def turn(free: GMMParams, floor: Array, X: Array, sample_weight: Array | None) -> tuple[GMMParams, Array]:
        params = from_free(free, unit)
        sums = lanes.expect(params, Samples(X, sample_weight, centre), safest=True)
        # A component without weight is where the start left it: it follows nothing.
        resting = replace(params, cov=lax.stop_gradient(params.cov))
        new = em.maximise(resting, sums)
        means = divide_or_keep(sums.count[:, None] * new.means, sums.count, lax.stop_gradient(params.means))
        cov = params.structure.floored(new.cov, floor, always=True)
        return to_free(replace(new, means=means, cov=cov), unit), sums.log_likelihood

    def of_data(X: Array, sample_weight: Array | None, covariance_floor: Array) -> tuple[GMMParams, Array]:
        return turn(free, setting(X, sample_weight, covariance_floor).floor, X, sample_weight)

    _, back = jax.vjp(lambda free: turn(free, floor, X, sample_weight), free)
    objective = cotangent.log_likelihood + cotangent.lanes.log_likelihood[0]
    known = jax.vjp(lambda free: from_free(free, unit), free)[1](cotangent.params)[0]
    known = jax.tree.map(jnp.add, known, back((_zeros(free), objective))[0])

    def without(v: GMMParams) -> GMMParams:
        return jax.tree.map(jnp.subtract, v, back((v, jnp.zeros_like(objective)))[0])

    accuracy = float(jnp.finfo(objective.dtype).eps) ** 0.75
    through, _ = gmres(without, known, tol=accuracy, restart=RESTART, maxiter=MOST_RESTARTS, solve_method="incremental")
    X_bar, weight_bar, floor_bar = jax.vjp(of_data, X, sample_weight, covariance_floor)[1]((through, objective))
    return problem._replace(start=_zeros(start), X=X_bar, sample_weight=weight_bar, floor=floor_bar, tol=_zeros(problem.tol))


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
