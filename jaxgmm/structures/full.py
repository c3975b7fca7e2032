"""Full covariances: every component its own ellipsoid."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer

from jaxgmm.numerics import contract, divide_or_keep
from jaxgmm.structures.base import Dense, Whitener, each, inverse_root, least_relative_eigenvalue


@dataclass(frozen=True)
class Full(Dense):
    """One matrix per component (mclust VVV); ``cov`` is (K, D, D), squared data units."""

    name = "full"
    separate = True

    def estimate(self, count: Array, scatter: Array, previous: Array) -> Array:
        return divide_or_keep(scatter, count, previous)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def least_weight(self, n_features: int) -> int:
        return n_features + 1

    def dense(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D D"]:
        return cov

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"]) -> Array:
        return dense

    def whitener(self, cov: Array, n_components: int, n_features: int) -> Whitener:
        return Whitener(*each(inverse_root, cov))

    def whiten(self, factor: Array, diff: Float[Array, "K D B"]) -> Float[Array, "K D B"]:
        return contract("kij,kjb->kib", factor, diff)

    def precision(self, factor: Array) -> Float[Array, "K F"]:
        precision = contract("kli,klj->kij", factor, factor)
        row, column = np.triu_indices(factor.shape[-1])
        return precision[:, row, column] * jnp.where(row == column, 1, 2).astype(factor.dtype)[None]

    def products(self, x: Float[Array, "D B"]) -> Float[Array, "F B"]:
        row, column = np.triu_indices(x.shape[0])
        return x[row] * x[column]

    def square(self, precision: Array, x: Float[Array, "D B"], products: Float[Array, "F B"]) -> Float[Array, "K B"]:
        return contract("kf,fb->kb", precision, products)

    def sum_products(
        self, gamma: Float[Array, "K B"], x: Float[Array, "D B"], products: Float[Array, "F B"]
    ) -> Float[Array, "F K"]:
        return contract("fb,kb->fk", products, gamma)  # the long side first: twice as fast on a CPU as its transpose

    def unpack(self, sums: Float[Array, "F K"], n_features: int) -> Float[Array, "K D D"]:
        row, column = np.triu_indices(n_features)
        place = np.zeros((n_features, n_features), np.int32)
        place[row, column] = place[column, row] = np.arange(len(row))
        return jnp.moveaxis(sums[place], -1, 0)

    def colour(self, root: Array, label: Integer[Array, ""], noise: Float[Array, " D"]) -> Float[Array, " D"]:
        return contract("ij,j->i", root[label], noise)

    def second_moment(self, gamma: Float[Array, "K B"], diff: Float[Array, "K D B"]) -> Float[Array, "K D D"]:
        return contract("kib,kjb->kij", gamma[:, None, :] * diff, diff)

    def recentre(self, count: Array, shift: Float[Array, "K D"], second: Array) -> Float[Array, "K D D"]:
        scatter = second - count[:, None, None] * shift[:, :, None] * shift[:, None, :]
        return (scatter + jnp.swapaxes(scatter, -1, -2)) / 2

    def feature_variance(self, count: Array, scatter: Array) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
        diagonal = jnp.diagonal(scatter, axis1=-2, axis2=-1)
        return diagonal / jnp.where(count > 0, count, 1)[:, None], count

    def least_relative_variance(self, weights: Float[Array, " K"], cov: Array) -> Float[Array, " K"]:
        return each(least_relative_eigenvalue, cov, contract("k,kij->ij", weights, cov))
