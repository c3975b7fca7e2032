"""Full covariances: every component its own ellipsoid."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Integer

from jaxgmm.numerics import contract, divide_or_keep
from jaxgmm.structures.base import Dense, Inner, Whitener, constant_of, each, products, with_one
from jaxgmm.structures.matrices import inverse_root, is_indefinite

TILE, TILED, WASTE = 8, 24, 4 / 3
"""Side of a tile of products; from how many features on products are formed in tiles, if these hold no more than so many times
as many: tiles are faster than products one by one. Products and multiplications of 100,000 samples, K = 32, float32, single /
tiles, in ms: 18 / 27 for D = 16, 41 / 36 for 24, 70 / 60 for 32, 155 / 115 for 48, 280 / 190 for 64; 1010 / 550 for D = 128, K
= 16."""


@dataclass(frozen=True)
class Full(Dense):
    """One matrix per component (mclust VVV); ``cov`` is (K, D, D), squared data units."""

    name = "full"
    separate = True

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        return self.floored(divide_or_keep(scatter, count, previous), floor)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def least_weight(self, n_features: int) -> int:
        return n_features + 1

    def dense(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D D"]:
        return cov

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        return dense

    def whitener(self, cov: Array, n_components: int, n_features: int) -> Whitener:
        return Whitener(*each(inverse_root, cov))

    def whiten(self, factor: Array, diff: Float[Array, "K D B"]) -> Float[Array, "K D B"]:
        return contract("kij,kjb->kib", factor, diff)

    def features(self, factor: Array, x: Float[Array, "D B"]) -> tuple[Float[Array, "_ B"], ...]:
        if not _tiled(len(x)):
            return (products(x, *_products(len(x))),)
        tiles = jnp.pad(x, ((0, -len(x) % TILE), (0, 0))).reshape(-1, TILE, x.shape[1])
        left, right = np.triu_indices(len(tiles))
        return (tiles[left][:, :, None] * tiles[right][:, None]).reshape(len(left) * TILE**2, -1), with_one(x)

    def coefficients(self, factor: Array, means: Float[Array, "K D"]) -> tuple[Float[Array, "K _"], ...]:
        n_features = means.shape[1]
        precision, white = contract("kli,klj->kij", factor, factor), contract("kij,kj->ki", factor, means)
        linear = jnp.concatenate([contract("kji,kj->ki", factor, white), constant_of(white)], axis=1)
        row, column = _products(n_features)
        if not _tiled(n_features):
            # A symmetric form of (x, 1), its diagonal halved below.
            square = jnp.concatenate([-precision, linear[:, None, :-1]], axis=1)
            column_one = jnp.concatenate([linear[:, :-1], 2 * linear[:, -1:]], axis=1)
            form = jnp.concatenate([square, column_one[:, :, None]], axis=2)
            return (form[:, row, column] * np.where(row == column, 0.5, 1).astype(form.dtype)[None],)
        # On the diagonal a tile holds ij and ji.
        times = np.where(row // TILE == column // TILE, 0.5, 1).astype(factor.dtype)
        return -precision.at[:, row, column].get(mode="fill", fill_value=0) * times[None], linear

    def unpack(self, sums: tuple[Array, ...], n_features: int) -> tuple[Array, Array, Float[Array, "K D D"]]:
        row, column = _products(n_features)
        place = np.zeros((row[-1] + 1, row[-1] + 1), np.int32)
        place[row, column] = place[column, row] = np.arange(len(row))
        matrix = jnp.moveaxis(sums[0][place], -1, 0)
        linear = sums[1].T if _tiled(n_features) else matrix[:, n_features]
        return linear[:, n_features], linear[:, :n_features], matrix[:, :n_features, :n_features]

    def colour(self, root: Array, label: Integer[Array, ""], noise: Float[Array, " D"]) -> Float[Array, " D"]:
        return contract("ij,j->i", root[label], noise)

    def second_moment(
        self, lens: Array | None, gamma: Float[Array, "K B"], diff: Float[Array, "K D B"]
    ) -> Float[Array, "K D D"]:
        return contract("kib,kjb->kij", gamma[:, None, :] * diff, diff)

    def recentre(self, lens: Array | None, count: Array, shift: Float[Array, "K D"], second: Array) -> Float[Array, "K D D"]:
        scatter = second - count[:, None, None] * shift[:, :, None] * shift[:, None, :]
        return (scatter + jnp.swapaxes(scatter, -1, -2)) / 2

    def feature_variance(
        self, lens: Array | None, count: Array, scatter: Array
    ) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
        diagonal = jnp.diagonal(scatter, axis1=-2, axis2=-1)
        return diagonal / jnp.where(count > 0, count, 1)[:, None], count

    def narrower(self, weights: Float[Array, " K"], cov: Array, share: Float[Array, " K"]) -> Bool[Array, " K"]:
        return each(is_indefinite, cov - share[:, None, None] * contract("k,kij->ij", weights, cov)[None])


def _tiled(n_features: int) -> bool:
    """Are products formed in tiles?"""
    n_tiles = -(-n_features // TILE)
    in_tiles, single = TILE**2 * n_tiles * (n_tiles + 1), (n_features + 1) * (n_features + 2)
    return n_features >= TILED and in_tiles <= WASTE * single


def _products(n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates i <= j of each product: of (x, 1), or of x cut into square tiles."""
    if not _tiled(n_features):
        return np.triu_indices(n_features + 1)
    left, right = np.triu_indices(-(-n_features // TILE))
    within = np.arange(TILE)
    row = TILE * left[:, None, None] + within[None, :, None]
    column = TILE * right[:, None, None] + within[None, None, :]
    row, column = np.broadcast_arrays(row, column)
    return row.ravel(), column.ravel()
