"""Spherical covariances: one radius per component."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from jaxgmm.numerics import divide_or_keep
from jaxgmm.structures.base import Diagonal, Inner, Whitener


@dataclass(frozen=True)
class Spherical(Diagonal):
    """One variance per component (mclust VII); ``cov`` is (K,), squared data units."""

    name = "spherical"

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        return self.floored(divide_or_keep(jnp.mean(scatter, axis=-1), count, previous), floor)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components

    def least_weight(self, n_features: int) -> int:
        return 2

    def lacking(self, n_features: int) -> np.ndarray:
        return np.zeros(1, int)

    def dense(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D D"]:
        return cov[:, None, None] * jnp.eye(n_features, dtype=cov.dtype)[None]

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        return jnp.trace(dense, axis1=-2, axis2=-1) / dense.shape[-1]

    def whitener(self, cov: Array, n_components: int, n_features: int) -> Whitener:
        return Whitener(1 / jnp.sqrt(cov), n_features * jnp.log(cov))

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        return (dof + 2) / n_features + shrunk, 1 / n_features

    def floored(self, cov: Array, floor: Float[Array, " D"] | None) -> Array:
        return cov if floor is None else jnp.maximum(cov, jnp.max(floor))

    def narrower(self, weights: Float[Array, " K"], cov: Array, share: Float[Array, " K"]) -> Bool[Array, " K"]:
        return cov < share * jnp.sum(weights * cov)
