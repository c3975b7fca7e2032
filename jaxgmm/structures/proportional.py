"""Families of mclust whose matrices are free but for what is equal: the shape with its axes (VEE), or the volume (EVV).

Source: Celeux and Govaert (1995), "Gaussian parsimonious clustering models", Pattern Recognition 28.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxgmm.numerics import apply_if, contract, is_present
from jaxgmm.structures.base import Inner, Whitener, each
from jaxgmm.structures.full import Full
from jaxgmm.structures.matrices import eigen, exp_cholesky, inverse_root, is_indefinite, log_cholesky, raise_eigenvalues
from jaxgmm.structures.volumes import NOTHING, SHAPES, settle


@dataclass(frozen=True)
class VEE(Full):
    """One shape and the same axes, each its own volume (mclust VEE): Sigma_k = exp(u_k) C; ``cov`` is (K, D, D)."""

    name = "VEE"

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        present, n_features = is_present(count), scatter.shape[1]
        count = jnp.where(present, count, 0)
        scatter = jnp.where(present[:, None, None], scatter, 0)
        within = super().floored

        def common(volume: Array) -> Array:
            found = jnp.sum(scatter * jnp.exp(-volume)[:, None, None], axis=0) / jnp.sum(count)
            smallest = jnp.min(jnp.where(present, volume, jnp.inf))
            return within(found, None if floor is None else floor * jnp.exp(-smallest))

        def step(volume: Array) -> Array:
            cov = common(volume)
            inverse, _ = inverse_root(cov)
            trace = jnp.sum(contract("ij,kjl->kil", inverse, scatter) * inverse[None], axis=(1, 2))
            mean = jnp.maximum(trace, 0) / (n_features * jnp.where(present, count, 1))  # rounding may leave less than nothing
            return _above(jnp.where(present, jnp.log(mean), volume), cov, floor)

        volume = each(inverse_root, previous)[1] / n_features
        volume = settle(step, volume, lambda volume: volume, inner)
        return jnp.exp(volume)[:, None, None] * common(volume)[None]

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components - 1 + n_features * (n_features + 1) // 2

    def least_weight(self, n_features: int) -> int:
        return 2

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        return self.estimate(weights, weights[:, None, None] * dense, dense, None, inner)

    def floored(self, cov: Array, floor: Float[Array, " D"] | None) -> Array:
        volume = each(inverse_root, cov)[1] / cov.shape[-1]
        common = cov[0] * jnp.exp(-volume[0])
        return jnp.exp(_above(volume, common, floor))[:, None, None] * common[None]

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        volume = each(inverse_root, cov)[1] / (2 * cov.shape[-1])
        return jnp.concatenate([volume[1:] - volume[0], log_cholesky(cov[0], unit)[np.tril_indices(len(unit))]])

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        volume = jnp.concatenate([jnp.zeros_like(free[:1]), free[: n_components - 1]])
        first = exp_cholesky(_lower(free[n_components - 1 :], len(unit)), unit)
        return jnp.exp(2 * volume)[:, None, None] * first[None]


@dataclass(frozen=True)
class EVV(Full):
    """One volume, each its own shape and axes (mclust EVV); ``cov`` is (K, D, D), squared data units.

    Of determinants that differ, as rounding makes them, the density and ``to_free`` take the geometric mean.
    """

    name = "EVV"

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        present, n_features = is_present(count), scatter.shape[1]
        scatter = jnp.where(present[:, None, None], scatter, previous)
        volume = each(inverse_root, scatter)[1] / n_features
        total = jnp.sum(jnp.where(present, count, 0))
        shared = jnp.log(jnp.sum(jnp.where(present, jnp.exp(volume), 0)) / total)
        free = jnp.exp(shared - volume)[:, None, None] * scatter
        if floor is None:
            return free

        def bounded(free: Array) -> Array:
            # In units of the floor the bound is one in every direction: the axes stay, and the table is known.
            unit = jnp.sqrt(floor)
            scale = (unit[:, None] * unit[None, :])[None]
            least = math.exp(-NOTHING)  # a component on one value has directions, too
            inside = scatter / scale + least * jnp.eye(n_features, dtype=scatter.dtype)[None]
            values = jnp.maximum(each(eigen, inside)[0], least)
            floors = jnp.zeros_like(values)
            found = SHAPES.step(count, values, floors, floors, present)  # closed but for the volume: one step is the likeliest
            fall = jnp.log(values) - found  # the same in all directions that are not on the floor
            level = jnp.where(present, jnp.max(fall, axis=1), jnp.mean(fall, axis=1))
            return scale * each(raise_eigenvalues, jnp.exp(-level)[:, None, None] * inside)

        outside = each(lambda one: is_indefinite(one - jnp.diag(floor)), free)
        binds = jnp.any(present & outside) & jnp.all(jnp.isfinite(scatter))
        return apply_if(binds, bounded, free)

    def n_free(self, n_components: int, n_features: int) -> int:
        return super().n_free(n_components, n_features) - (n_components - 1)

    def whitener(self, cov: Array, n_components: int, n_features: int) -> Whitener:
        # At the best equal volumes a likelihood still has slopes along unequal ones: rounding would move it at first order.
        factor, log_det = super().whitener(cov, n_components, n_features)
        shared = jnp.mean(log_det)
        return Whitener(factor * jnp.exp((log_det - shared) / (2 * n_features))[:, None, None], jnp.full_like(log_det, shared))

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        return self.estimate(weights, weights[:, None, None] * dense, dense, None, inner)

    def floored(self, cov: Array, floor: Float[Array, " D"] | None) -> Array:
        volume = _above(jnp.zeros_like(cov[:, 0, 0]), cov, floor)
        return jnp.exp(jnp.max(volume)) * cov

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        root = each(log_cholesky, cov, unit)
        diagonal = jnp.diagonal(root, axis1=1, axis2=2)
        volume = jnp.mean(diagonal, axis=1, keepdims=True)
        shared = jnp.mean(volume, axis=0, keepdims=True)
        below = root[:, *np.tril_indices(len(unit), -1)] * jnp.exp(shared - volume)
        return jnp.concatenate([shared[0], (diagonal - volume)[:, :-1].reshape(-1), below.reshape(-1)])

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        n_features = len(unit)
        n_table = 1 + n_components * (n_features - 1)
        diagonal = SHAPES.from_free(free[:n_table], n_components, n_features)
        below = free[n_table:].reshape(n_components, n_features * (n_features - 1) // 2)
        places = np.tril_indices(n_features, -1)
        root = jax.vmap(lambda diagonal, below: jnp.diag(diagonal).at[places].set(below))(diagonal, below)
        return each(exp_cholesky, root, unit)


def _above(volume: Float[Array, " K"], cov: Array, floor: Array | None) -> Float[Array, " K"]:
    """Logarithms u_k of volumes, raised until exp(u_k) Sigma - diag(floor) is positive semidefinite."""
    if floor is None:
        return volume

    def raised(volume: Array) -> Array:
        inverse = each(inverse_root, cov)[0]
        least = each(lambda one: eigen(one)[0][-1], contract("...ij,j,...kj->...ik", inverse, floor, inverse))
        return jnp.maximum(volume, jnp.log(least))

    shape = jnp.exp(volume)[:, None, None] * jnp.broadcast_to(cov, (len(volume), *cov.shape[-2:]))
    outside = each(lambda one: is_indefinite(one - jnp.diag(floor)), shape)
    return apply_if(jnp.any(outside) & jnp.all(jnp.isfinite(shape)), raised, volume)


def _lower(numbers: Float[Array, " F"], n_features: int) -> Float[Array, "D D"]:
    return jnp.zeros((n_features, n_features), numbers.dtype).at[np.tril_indices(n_features)].set(numbers)
