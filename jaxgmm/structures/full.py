"""Full covariances: every component its own ellipsoid."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer

from jaxgmm.numerics import contract, divide_or_keep
from jaxgmm.structures.base import Dense, Whitener, each
from jaxgmm.structures.matrices import inverse_root, least_relative_eigenvalue


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
        side, row, column = _pairs(factor.shape[-1])
        times = np.where(row // side == column // side, 1, 2).astype(factor.dtype)  # on the diagonal a tile holds ij and ji
        return precision.at[:, row, column].get(mode="fill", fill_value=0) * times[None]

    def products(self, x: Float[Array, "D B"]) -> Float[Array, "F B"]:
        side, row, _ = _pairs(x.shape[0])
        tiles = jnp.pad(x, ((0, -x.shape[0] % side), (0, 0))).reshape(-1, side, x.shape[1])
        left, right = np.triu_indices(len(tiles))
        return (tiles[left][:, :, None] * tiles[right][:, None]).reshape(len(row), -1)

    def square(self, precision: Array, x: Float[Array, "D B"], products: Float[Array, "F B"]) -> Float[Array, "K B"]:
        return contract("kf,fb->kb", precision, products)

    def sum_products(
        self, gamma: Float[Array, "K B"], x: Float[Array, "D B"], products: Float[Array, "F B"]
    ) -> Float[Array, "F K"]:
        return contract("fb,kb->fk", products, gamma)  # the long side first: twice as fast on a CPU as its transpose

    def unpack(self, sums: Float[Array, "F K"], n_features: int) -> Float[Array, "K D D"]:
        _, row, column = _pairs(n_features)
        place = np.zeros((row[-1] + 1, row[-1] + 1), np.int32)
        place[row, column] = place[column, row] = np.arange(len(row))
        return jnp.moveaxis(sums[place[:n_features, :n_features]], -1, 0)

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


def _pairs(n_features: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Side of a tile, and the features (i, j) of each product: the upper triangle of x x^T, cut into square tiles.

    Tiles of 8 x 8 are formed faster than single products, though there are a fifth more of them at D = 32. Products and
    multiplications of 100,000 samples, K = 32, float32, single / tiles: D = 16 18 / 27 ms; D = 24 41 / 36; D = 32 70 / 60;
    D = 48 155 / 115; D = 64 280 / 190; D = 128, K = 16 1010 / 550 (measured with fewer samples where D is large).
    """
    side = 8 if n_features >= 24 else 1
    left, right = np.triu_indices(-(-n_features // side))
    within = np.arange(side)
    row = side * left[:, None, None] + within[None, :, None]
    column = side * right[:, None, None] + within[None, None, :]
    row, column = np.broadcast_arrays(row, column)
    return side, row.ravel(), column.ravel()
