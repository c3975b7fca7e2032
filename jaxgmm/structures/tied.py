"""One covariance for all components."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer

from jaxgmm.numerics import contract
from jaxgmm.structures.base import Dense, Inner, Whitener, constant_of, with_one
from jaxgmm.structures.matrices import inverse_root


@dataclass(frozen=True)
class Tied(Dense):
    """One matrix shared by all components (mclust EEE); ``cov`` is (D, D), squared data units."""

    name = "tied"
    by_component = False

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        return self.floored(scatter / jnp.sum(count), floor)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def least_weight(self, n_features: int) -> int:
        return 1

    def dense(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D D"]:
        return jnp.broadcast_to(cov, (n_components, n_features, n_features))

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        return contract("k,kij->ij", weights / jnp.sum(weights), dense)

    def whitener(self, cov: Array, n_components: int, n_features: int) -> Whitener:
        inverse, log_det = inverse_root(cov)
        return Whitener(inverse, jnp.broadcast_to(log_det, (n_components,)))

    def whiten(self, factor: Array, diff: Float[Array, "K D B"]) -> Float[Array, "K D B"]:
        return contract("ij,kjb->kib", factor, diff)

    def features(self, factor: Array, x: Float[Array, "D B"]) -> tuple[Float[Array, "_ B"], Float[Array, "1 B"]]:
        white = contract("ij,jb->ib", factor, x)
        return with_one(x), jnp.sum(white * white, axis=0, keepdims=True)  # apart, as restarts share the first only

    def coefficients(self, factor: Array, means: Float[Array, "K D"]) -> tuple[Float[Array, "K _"], Float[Array, "K 1"]]:
        white = contract("ij,kj->ki", factor, means)
        linear = contract("ji,kj->ki", factor, white)
        return jnp.concatenate([linear, constant_of(white)], axis=1), jnp.full_like(white[:, :1], -0.5)

    def sum_features(self, gamma: Float[Array, "K B"], features: tuple[Array, ...]) -> tuple[Array, ...]:
        x = features[0][:-1]
        return *super().sum_features(gamma, features[:1]), contract("ib,jb->ij", jnp.sum(gamma, axis=0)[None] * x, x)

    def unpack(self, sums: tuple[Array, ...], n_features: int) -> tuple[Array, Array, Float[Array, "D D"]]:
        linear, square = sums
        return linear[n_features], linear[:n_features].T, square

    def colour(self, root: Array, label: Integer[Array, ""], noise: Float[Array, " D"]) -> Float[Array, " D"]:
        return contract("ij,j->i", root, noise)

    def second_moment(self, lens: Array | None, gamma: Float[Array, "K B"], diff: Float[Array, "K D B"]) -> Float[Array, "D D"]:
        return contract("kib,kjb->ij", gamma[:, None, :] * diff, diff)

    def recentre(self, lens: Array | None, count: Array, shift: Float[Array, "K D"], second: Array) -> Float[Array, "D D"]:
        scatter = second - contract("k,ki,kj->ij", count, shift, shift)
        return (scatter + scatter.T) / 2

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        return (dof + n_features + 1) / n_components + shrunk, 1 / n_components

    def as_second_moment(self, dense: Float[Array, "K D D"], whitener: Whitener) -> Float[Array, "D D"]:
        return jnp.sum(dense, axis=0)

    def feature_variance(
        self, lens: Array | None, count: Array, scatter: Array
    ) -> tuple[Float[Array, "1 D"], Float[Array, " 1"]]:
        total = jnp.sum(count)
        return (jnp.diagonal(scatter) / total)[None], total[None]

    def narrower(self, weights: Float[Array, " K"], cov: Array, share: Float[Array, " K"]) -> Bool[Array, " K"]:
        return jnp.zeros_like(weights, bool)
