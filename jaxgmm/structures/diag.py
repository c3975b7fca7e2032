"""Diagonal covariances: axes-aligned ellipsoids."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxgmm.numerics import contract, divide_or_keep
from jaxgmm.structures.base import Diagonal, Inner, Whitener


@dataclass(frozen=True)
class Diag(Diagonal):
    """One variance per component and feature (mclust VVI); ``cov`` is (K, D), squared data units."""

    name = "diag"

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        return self.floored(divide_or_keep(scatter, count, previous), floor)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def least_weight(self, n_features: int) -> int:
        return 2

    def dense(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D D"]:
        return cov[:, :, None] * jnp.eye(n_features, dtype=cov.dtype)[None]

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        return jnp.diagonal(dense, axis1=-2, axis2=-1)

    def whitener(self, cov: Array, n_components: int, n_features: int) -> Whitener:
        return Whitener(1 / jnp.sqrt(cov), jnp.sum(jnp.log(cov), axis=-1))

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        return dof + 2 + shrunk, 1.0

    def floored(self, cov: Array, floor: Float[Array, " D"] | None) -> Array:
        return cov if floor is None else jnp.maximum(cov, floor[None])

    def narrower(self, weights: Float[Array, " K"], cov: Array, share: Float[Array, " K"]) -> Bool[Array, " K"]:
        return jnp.any(cov < share[:, None] * contract("k,kd->d", weights, cov)[None], axis=-1)
