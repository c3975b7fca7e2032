"""Families of mclust without correlation in which components share something: EII, EEI, VEI, EVI.

Three letters say whether volume, shape and orientation of the covariances are equal (E) for all components or vary (V); I is
a sphere, or axes along the features. Storage is that of spherical (VII) and diag (VVI): a row each, whatever is shared.

Source: Celeux and Govaert (1995), "Gaussian parsimonious clustering models", Pattern Recognition 28.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxgmm.numerics import is_present
from jaxgmm.structures.base import Inner
from jaxgmm.structures.diag import Diag
from jaxgmm.structures.spherical import Spherical
from jaxgmm.structures.volumes import EQUAL, SHAPES, VOLUMES, Sharing, log_floor


@dataclass(frozen=True)
class EII(Spherical):
    """Spheres of one size (mclust EII); ``cov`` is (K,), all equal, squared data units."""

    name = "EII"

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        shared = jnp.sum(jnp.mean(scatter, axis=-1)) / jnp.sum(count)
        return self.floored(jnp.full_like(count, 1) * shared, floor)

    def n_free(self, n_components: int, n_features: int) -> int:
        return 1

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        return (dof + 2) / (n_features * n_components) + shrunk, 1 / (n_features * n_components)

    def least_weight(self, n_features: int) -> int:
        return 1

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        return jnp.full_like(weights, 1) * jnp.sum(weights * super().from_dense(weights, dense)) / jnp.sum(weights)

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        return super().to_free(cov[:1], unit)

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        return jnp.broadcast_to(super().from_free(free, unit, n_components), (n_components,))


class AlongFeatures(Diag):
    """Axes along the features, and a table of variances of which components share something."""

    sharing: ClassVar[Sharing]

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        present = is_present(count)
        least = log_floor(floor, jnp.eye(scatter.shape[1], dtype=scatter.dtype)[None], scatter.shape)
        return jnp.exp(self.sharing.fitted(count, scatter, jnp.log(previous), least, present, inner))

    def n_free(self, n_components: int, n_features: int) -> int:
        return self.sharing.n_free(n_components, n_features)

    def least_weight(self, n_features: int) -> int:
        return 1 if self.sharing == EQUAL else 2

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        variances = super().from_dense(weights, dense)
        return self.estimate(weights, weights[:, None] * variances, variances, None, inner)

    def floored(self, cov: Array, floor: Float[Array, " D"] | None) -> Array:
        least = log_floor(floor, jnp.eye(cov.shape[1], dtype=cov.dtype)[None], cov.shape)
        return jnp.exp(self.sharing.lifted(jnp.log(cov), least))

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        return self.sharing.to_free(jnp.log(cov) / 2)

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        return jnp.exp(2 * self.sharing.from_free(free, n_components, len(unit)))


@dataclass(frozen=True)
class EEI(AlongFeatures):
    """One diagonal matrix for all components (mclust EEI); ``cov`` is (K, D), rows equal, squared data units."""

    name = "EEI"
    sharing = EQUAL

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        return (dof + 2) / n_components + shrunk, 1 / n_components

    def narrower(self, weights: Float[Array, " K"], cov: Array, share: Float[Array, " K"]) -> Bool[Array, " K"]:
        return jnp.zeros_like(weights, bool)


@dataclass(frozen=True)
class VEI(AlongFeatures):
    """Diagonal, of one shape and each its own volume (mclust VEI); ``cov`` is (K, D), squared data units."""

    name = "VEI"
    sharing = VOLUMES

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        return (dof + 2 + shrunk) / n_features, 1.0


@dataclass(frozen=True)
class EVI(AlongFeatures):
    """Diagonal, of one volume and each its own shape (mclust EVI); ``cov`` is (K, D), squared data units."""

    name = "EVI"
    sharing = SHAPES

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        return (dof + 2) / n_components, 1.0
