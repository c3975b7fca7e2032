"""What structures ask of one symmetric matrix: its factors, its eigenvalues raised to a bound.

Factors are computed here, not by LAPACK. On a CPU, JAX maps a batch of LAPACK calls over the same threads that wait for them,
so two such calls side by side, Cholesky factors and eigenvalues of K matrices, can wait for each other for ever (two cores,
K = 50, D = 64: a fit hung, DECISIONS 26). And OpenBLAS has threads of its own, which stay awake beside those of XLA: the pass
after it took 20 to 30 % longer (100,000 x 32, K = 32). Eigenvalues are still LAPACK's, one matrix a call.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jaxtyping import Bool, Float

from jaxgmm.numerics import contract, varying_with

PANEL = 32
"""Columns that are factored at once; what is left of the matrix is brought up to date by one multiplication."""

ROUNDING_FLOOR = 8
"""Least variance in any direction, in roundings of each feature's variance, times D: below it a Cholesky factor exists only by
luck."""


@jax.custom_jvp
def factors(cov: Float[Array, "D D"]) -> tuple[Float[Array, "D D"], Float[Array, "D D"]]:
    """The Cholesky factor L, cov = L L^T, and its inverse; NaN where ``cov`` is not positive definite."""
    cov = (cov + cov.T) / 2  # as the derivative does
    n_features = cov.shape[-1]
    if n_features <= PANEL:
        return _by_columns(cov)
    n_panels = -(-n_features // PANEL)
    size = n_panels * PANEL
    beyond = jnp.diag((jnp.arange(size, dtype=jnp.int32) >= n_features).astype(cov.dtype))
    cov = jnp.pad(cov, (0, size - n_features)) + beyond
    row = jnp.arange(size, dtype=jnp.int32)[:, None]

    def panel(index: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        root, inverse = found
        start = index * PANEL
        above = lax.dynamic_slice_in_dim(root, start, PANEL, axis=0)  # rows of the panel, columns before it
        left = lax.dynamic_slice_in_dim(cov, start, PANEL, axis=1) - contract("ij,kj->ik", root, above)
        corner, corner_inverse = _by_columns(lax.dynamic_slice_in_dim(left, start, PANEL, axis=0))
        columns = jnp.where(row >= start + PANEL, contract("ij,kj->ik", left, corner_inverse), 0)
        columns = lax.dynamic_update_slice_in_dim(columns, corner, start, axis=0)
        unit = lax.dynamic_slice_in_dim(jnp.eye(size, dtype=cov.dtype), start, PANEL, axis=0)
        rows = contract("ij,jk->ik", corner_inverse, unit - contract("ij,jk->ik", above, inverse))
        return (
            lax.dynamic_update_slice_in_dim(root, columns, start, axis=1),
            lax.dynamic_update_slice_in_dim(inverse, rows, start, axis=0),
        )

    nothing = varying_with(jnp.zeros_like(cov), cov)
    root, inverse = lax.fori_loop(0, n_panels, panel, (nothing, nothing))
    return root[:n_features, :n_features], inverse[:n_features, :n_features]


@factors.defjvp
def _factors_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """dL = L Phi and dL^-1 = -Phi L^-1, Phi the lower triangle of L^-1 dcov L^-T with half of its diagonal (Murray 2016)."""
    root, inverse = factors(primals[0])
    turned = contract("ij,jk,lk->il", inverse, (tangents[0] + tangents[0].T) / 2, inverse)
    half = jnp.tril(turned) - jnp.diag(jnp.diagonal(turned)) / 2
    return (root, inverse), (contract("ij,jk->ik", root, half), -contract("ij,jk->ik", half, inverse))


@jax.jit  # traced once, however often it is asked for
def _by_columns(cov: Float[Array, "D D"]) -> tuple[Float[Array, "D D"], Float[Array, "D D"]]:
    """``factors``, one column of L and one row of its inverse a turn."""
    order = jnp.arange(cov.shape[-1], dtype=jnp.int32)

    def turn(index: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        root, inverse = found
        before = root[index]
        left = cov[:, index] - contract("ij,j->i", root, before)
        pivot = jnp.where(left[index] > 0, jnp.sqrt(left[index]), jnp.nan)
        column = jnp.where(order >= index, left / pivot, 0)
        row = ((order == index).astype(cov.dtype) - contract("j,jk->k", before, inverse)) / pivot
        return root.at[:, index].set(column), inverse.at[index].set(row)

    nothing = varying_with(jnp.zeros_like(cov), cov)
    return lax.fori_loop(0, cov.shape[-1], turn, (nothing, nothing))


def inverse_root(cov: Float[Array, "D D"]) -> tuple[Float[Array, "D D"], Float[Array, ""]]:
    """W with W cov W^T = 1 (the inverse of the Cholesky factor), and ln |cov|."""
    root, inverse = factors(cov)
    return inverse, 2 * jnp.sum(jnp.log(jnp.diagonal(root)))


@jax.custom_jvp
def eigen(matrix: Float[Array, "D D"]) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    """Eigenvalues, rising, and eigenvectors of a symmetric matrix; on a CPU one matrix after the other under ``vmap``.

    A single matrix is LAPACK's in the thread that asks, and waits for no other: fits may go on side by side.
    """
    return lax.platform_dependent(matrix, cpu=_one_by_one, default=_eigh)


@eigen.defjvp
def _eigen_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """First-order perturbation; among equal eigenvalues, whose vectors are arbitrary, nothing turns."""
    values, vectors = eigen(primals[0])
    turned = contract("ji,jk,kl->il", vectors, (tangents[0] + tangents[0].T) / 2, vectors)
    gap = values[None, :] - values[:, None]
    apart = jnp.abs(gap) > jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    turn = jnp.where(apart, turned / jnp.where(apart, gap, 1), 0)
    return (values, vectors), (jnp.diagonal(turned), contract("ij,jk->ik", vectors, turn))


def _eigh(matrix: Float[Array, "D D"]) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


_one_by_one = custom_vmap(_eigh)


@_one_by_one.def_vmap
def _(axis_size: int, batched: list[bool], matrix: Array) -> tuple[tuple[Array, Array], tuple[bool, bool]]:
    if batched[0]:
        return lax.map(_one_by_one, matrix), (True, True)
    return _eigh(matrix), (False, False)  # only tangents are batched


def is_indefinite(matrix: Float[Array, "D D"]) -> Bool[Array, ""]:
    """Is a symmetric matrix not positive definite? One Cholesky factor, far cheaper than eigenvalues."""
    return jnp.isnan(factors(matrix)[0]).any()


def binds(cov: Float[Array, "D D"], floor: Float[Array, " D"]) -> Bool[Array, ""]:
    """Is Sigma - diag(floor) not positive definite?"""
    return is_indefinite(cov - jnp.diag(_bound(cov, floor)))


def clip(cov: Float[Array, "D D"], floor: Float[Array, " D"]) -> Float[Array, "D D"]:
    """``cov`` with its eigenvalues, in units of the bound, raised to one."""
    unit = jnp.sqrt(_bound(cov, floor))
    scale = unit[:, None] * unit[None, :]
    return scale * raise_eigenvalues(cov / scale)


@jax.custom_jvp
def raise_eigenvalues(matrix: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """The symmetric matrix with eigenvalues below one raised to one."""
    values, vectors = eigen(matrix)
    half = vectors * jnp.sqrt(jnp.maximum(values, 1))[None, :]
    return contract("ij,kj->ik", half, half)


@raise_eigenvalues.defjvp
def _raised_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """By divided differences of max(., 1) (Daleckii and Krein 1965): equal eigenvalues, where vectors turn, do no harm."""
    values, vectors = eigen(primals[0])
    raised = jnp.maximum(values, 1)
    gap = values[:, None] - values[None, :]
    apart = jnp.abs(gap) > jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    above = (values > 1).astype(values.dtype)
    slope = (above[:, None] + above[None, :]) / 2
    slope = jnp.where(apart, (raised[:, None] - raised[None, :]) / jnp.where(apart, gap, 1), slope)
    turned = contract("ji,jk,kl->il", vectors, tangents[0], vectors)
    half = vectors * jnp.sqrt(raised)[None, :]
    return contract("ij,kj->ik", half, half), contract("ij,jk,lk->il", vectors, slope * turned, vectors)


def _bound(cov: Float[Array, "D D"], floor: Float[Array, " D"]) -> Float[Array, " D"]:
    """The floor, or what rounding needs of each feature's variance where that is more."""
    rounding = ROUNDING_FLOOR * cov.shape[-1] * float(jnp.finfo(cov.dtype).eps)
    return jnp.maximum(floor, rounding * jnp.diagonal(cov))


def log_cholesky(cov: Float[Array, "D D"], unit: Float[Array, " D"]) -> Float[Array, "D D"]:
    """The Cholesky factor as unconstrained numbers, rows measured in ``unit``: its diagonal by logarithms."""
    root = factors(cov)[0] / unit[:, None]
    return jnp.tril(root, -1) + jnp.diag(jnp.log(jnp.diagonal(root)))


def exp_cholesky(free: Float[Array, "D D"], unit: Float[Array, " D"]) -> Float[Array, "D D"]:
    """The way back."""
    root = (jnp.tril(free, -1) + jnp.diag(jnp.exp(jnp.diagonal(free)))) * unit[:, None]
    return contract("ij,kj->ik", root, root)


def symmetric(matrix: Float[Array, "K D D"]) -> Float[Array, "K D D"]:
    """Without what rounding made of it."""
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2


def lower_trapezoidal(loadings: Float[Array, "D Q"]) -> Float[Array, "D Q"]:
    """Loadings turned, by reflections, so that row i has nothing beyond column i, and no negative number in it."""
    order = jnp.arange(loadings.shape[1], dtype=jnp.int32)

    def reflect(i: Array, loadings: Array) -> Array:
        row = jnp.where(order >= i, loadings[i], 0)
        square = jnp.sum(row * row)
        length = jnp.sqrt(jnp.where(square > 0, square, 1))
        sign = jnp.where(row[i] < 0, -1, 1).astype(row.dtype)
        across = jnp.where(square > 0, row.at[i].add(sign * length) / length, 0)
        twice = 1 / jnp.where(square > 0, 1 + jnp.abs(row[i]) / length, 1)  # 2 / |across|^2
        turned = loadings - contract("dq,q->d", loadings, across)[:, None] * (twice * across)[None]
        return turned.at[:, i].multiply(jnp.where(square > 0, -sign, 1))

    return jnp.tril(lax.fori_loop(0, len(order), reflect, loadings))
