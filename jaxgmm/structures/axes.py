"""Principal axes: those that all components share, found by plane rotations, and axes as unconstrained numbers."""

from __future__ import annotations

from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Integer

from jaxgmm.numerics import contract, varying_with


def squares_along(axes: Float[Array, "... D D"], scatter: Float[Array, "K D D"]) -> Float[Array, "K D"]:
    """d_kj^T W_k d_kj, for axes of each component or for axes that all share."""
    axes = jnp.broadcast_to(axes, scatter.shape)
    return jnp.sum(axes * contract("kil,klj->kij", scatter, axes), axis=1)


def orthonormal(axes: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """Axes that rounding has moved a little off orthonormality, brought back (Newton and Schulz)."""
    return contract("ij,jk->ik", axes, 1.5 * jnp.eye(len(axes), dtype=axes.dtype) - contract("ji,jk->ik", axes, axes) / 2)


@cache
def tournament(n_features: int) -> np.ndarray:
    """(rounds, 2, pairs): every pair of axes meets once, disjoint pairs at a time; of an odd number one rests a round."""
    players = list(range(n_features + n_features % 2))
    rounds = []
    for _ in range(len(players) - 1):
        pairs = [(players[i], players[-1 - i]) for i in range(len(players) // 2)]
        rounds.append([pair for pair in pairs if max(pair) < n_features])
        players = [players[0], players[-1], *players[1:-1]]
    return np.array(rounds, np.int32).reshape(len(rounds), -1, 2).transpose(0, 2, 1)


def rotation(
    turned: Float[Array, "K D D"], precision: Float[Array, "K D"], pairs: Integer[Array, "2 P"]
) -> Float[Array, "D D"]:
    """The turn of each pair of axes, in its plane, that minimises sum_kj precision_kj d_j^T W_k d_j.

    ``turned`` holds D^T W_k D. Turning d_p and d_q by theta adds a cos(2 theta) + b sin(2 theta) and a constant, where
    a = sum_k (w_kp - w_kq) (W_pp - W_qq) / 2 and b = sum_k (w_kp - w_kq) W_pq: the minimum is known in closed form.
    """
    p, q = pairs
    weight = precision[:, p] - precision[:, q]
    diagonal = jnp.diagonal(turned, axis1=1, axis2=2)
    a = jnp.sum(weight * (diagonal[:, p] - diagonal[:, q]), axis=0) / 2
    b = jnp.sum(weight * turned[:, p, q], axis=0)
    moves = (b != 0) | (a > 0)
    theta = jnp.where(moves, jnp.arctan2(-b, jnp.where(moves, -a, 1)) / 2, 0)
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    turn = jnp.eye(turned.shape[1], dtype=turned.dtype)
    return turn.at[p, p].set(cos).at[q, q].set(cos).at[q, p].set(sin).at[p, q].set(-sin)


def invert(matrix: Float[Array, "D D"], reflect: bool = False) -> tuple[Float[Array, "D D"], Float[Array, " D"]]:
    """The inverse of ``matrix + diag(sign)`` by elimination without a search for pivots, and ``sign``: zeros, or as it is
    ``reflect``-ed, of each pivot its sign, which makes them one at least."""
    n = len(matrix)

    def eliminate(index: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        left, inverse, sign = state
        here = jnp.where(left[index, index] < 0, -1, 1).astype(left.dtype) if reflect else jnp.zeros((), left.dtype)
        pivot = left[index, index] + here
        column = left[:, index].at[index].set(0)  # of the other rows
        row = left[index].at[index].set(pivot) / pivot
        inverse_row = inverse[index] / pivot
        left = (left - column[:, None] * row[None]).at[index].set(row)
        inverse = (inverse - column[:, None] * inverse_row[None]).at[index].set(inverse_row)
        return left, inverse, sign.at[index].set(here)

    start = varying_with((matrix, jnp.eye(n, dtype=matrix.dtype), jnp.zeros_like(matrix[0])), matrix)
    _, inverse, sign = lax.fori_loop(0, n, eliminate, start)
    return inverse, sign


def to_angles(axes: Float[Array, "D D"]) -> Float[Array, " F"]:
    """Axes as D (D - 1) / 2 unconstrained numbers: the skew matrix S of Cayley's Q = (1 - S)(1 + S)^-1.

    An axis has no sign; those are taken with which the transform exists (Kahan 2006: they can always be found), and no pivot
    of it is less than one.
    """
    inverse, sign = invert(axes, reflect=True)
    skew = contract("ij,jk->ik", jnp.diag(sign) - axes, inverse)
    return skew[np.triu_indices(len(axes), 1)]


def from_angles(angles: Float[Array, " F"], n_features: int) -> Float[Array, "D D"]:
    """The way back."""
    upper = jnp.zeros((n_features, n_features), angles.dtype).at[np.triu_indices(n_features, 1)].set(angles)
    skew, one = upper - upper.T, jnp.eye(n_features, dtype=angles.dtype)
    return contract("ij,jk->ik", one - skew, invert(one + skew)[0])
