"""Families of mclust by principal axes and variances along them, of which components share something: EVE, VVE, EEV, VEV.

Source: Celeux and Govaert (1995), "Gaussian parsimonious clustering models", Pattern Recognition 28; for common axes Flury and
Gautschi (1986), SIAM Journal on Scientific and Statistical Computing 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from jaxgmm.numerics import contract, is_present
from jaxgmm.structures.axes import from_angles, orthonormal, rotation, squares_along, to_angles, tournament
from jaxgmm.structures.base import Inner, Whitener, each
from jaxgmm.structures.full import Full
from jaxgmm.structures.matrices import eigen
from jaxgmm.structures.volumes import BOTH, EQUAL, SHAPES, VOLUMES, Sharing, deviance, log_floor, settle


class AlongAxes(Full):
    """Principal axes and a table of variances along them.

    ``cov`` is (K, D, D), in data units: its columns are the principal axes, each times the standard deviation along it, so that
    Sigma_k = R_k R_k^T. Axes and variances can be read off, and whitening needs no Cholesky factor.
    """

    sharing: ClassVar[Sharing]

    def n_orientations(self, n_components: int) -> int:
        """How many sets of axes there are: one that all share, or K."""
        return n_components

    def n_free(self, n_components: int, n_features: int) -> int:
        angles = self.n_orientations(n_components) * n_features * (n_features - 1) // 2
        return self.sharing.n_free(n_components, n_features) + angles

    def least_weight(self, n_features: int) -> int:
        return n_features

    def dense(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D D"]:
        return contract("kij,klj->kil", cov, cov)

    def whitener(self, cov: Array, n_components: int, n_features: int) -> Whitener:
        variance = jnp.sum(cov * cov, axis=1)
        return Whitener(jnp.swapaxes(cov / variance[:, None, :], 1, 2), jnp.sum(jnp.log(variance), axis=1))

    def root(self, cov: Array) -> Array:
        return cov

    def variances(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D"]:
        return jnp.sum(cov * cov, axis=2)

    def narrower(self, weights: Float[Array, " K"], cov: Array, share: Float[Array, " K"]) -> Bool[Array, " K"]:
        return super().narrower(weights, self.dense(cov, *cov.shape[:2]), share)

    def floored(self, cov: Array, floor: Float[Array, " D"] | None) -> Array:
        axes, table = _read(cov)
        return _root(axes, self.sharing.lifted(table, log_floor(floor, axes, table.shape)))

    def better(self, count: Array, scatter: Array, previous: Array, found: Array, floor: Array | None, inner: Inner) -> Array:
        """What was found, unless turning into a bound that depends on the axes made it less likely than ``previous``.

        Less likely by more than rounding: at rest the two are one, and what was found has the derivatives. ``Inner.ONE`` has
        none of this, as to keep what is there is a step with any fixed point.
        """
        if floor is None or inner is Inner.ONE:
            return found
        present = is_present(count)
        count, scatter = jnp.where(present, count, 0), jnp.where(present[:, None, None], scatter, 0)

        def judged(root: Array) -> tuple[Array, Array]:
            axes, table = _read(root)
            above = table >= log_floor(floor, axes, table.shape) - 1e-3
            return deviance(count, squares_along(axes, scatter), table), jnp.all(above)

        (before, inside), (after, _) = judged(previous), judged(found)
        noise = 64 * jnp.finfo(after.dtype).eps * jnp.sum(jnp.abs(count[:, None] * _read(previous)[1]) + count[:, None])
        return jnp.where(inside & (after - before > noise), previous, found)

    def widened(self, cov: Array, variance: Float[Array, ""]) -> Array:
        axes, table = _read(cov)
        return axes * jnp.sqrt(jnp.exp(table) + variance)[:, None, :]

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        axes, table = _read(cov)
        angles = jax.vmap(to_angles)(axes[: self.n_orientations(len(cov))])
        return jnp.concatenate([self.sharing.to_free(table / 2), angles.reshape(-1)])

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        n_features = len(unit)
        n_table = self.sharing.n_free(n_components, n_features)
        n_orientations = self.n_orientations(n_components)
        angles = free[n_table:].reshape(n_orientations, n_features * (n_features - 1) // 2)
        axes = jax.vmap(lambda one: from_angles(one, n_features))(angles)
        return _root(axes, 2 * self.sharing.from_free(free[:n_table], n_components, n_features))


class OwnAxes(AlongAxes):
    """Each component its own axes: the eigenvectors of its scatter, the eigenvalues in rising order."""

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        present = is_present(count)
        before, table = _read(previous)
        axes = jnp.where(present[:, None, None], each(eigen, scatter)[1], before)
        squares = squares_along(axes, scatter)
        least = log_floor(floor, axes, table.shape)
        found = self.sharing.fitted(count, squares, self.sharing.lifted(table, least), least, present, inner)
        return self.better(count, scatter, previous, _root(axes, found), floor, inner)

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        values, axes = each(eigen, dense)
        return self.estimate(weights, weights[:, None, None] * dense, _root(axes, jnp.log(values)), None, inner)


@dataclass(frozen=True)
class EEV(OwnAxes):
    """One volume and shape, each its own axes (mclust EEV); ``cov`` is (K, D, D) roots, data units."""

    name = "EEV"
    sharing = EQUAL

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        return (dof + n_features + 2) / n_components, 1.0


@dataclass(frozen=True)
class VEV(OwnAxes):
    """One shape, each its own volume and axes (mclust VEV); ``cov`` is (K, D, D) roots, data units."""

    name = "VEV"
    sharing = VOLUMES

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        return jnp.zeros_like(dof), 1.0


class Turning(NamedTuple):
    """Common axes under way, D, and the scatters in their coordinates, D^T W_k D."""

    axes: Array
    turned: Array
    table: Array


class CommonAxes(AlongAxes):
    """The same axes for all components, found by plane rotations (Flury and Gautschi 1986), of which none lowers Q."""

    def n_orientations(self, n_components: int) -> int:
        return 1

    def least_weight(self, n_features: int) -> int:
        return 2

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        before, table = _read(previous)
        found = self._turned(count, scatter, orthonormal(before[0]), table, floor, inner)
        return self.better(count, scatter, previous, found, floor, inner)

    def _turned(self, count: Array, scatter: Array, axes: Array, table: Array, floor: Array | None, inner: Inner) -> Array:
        present = is_present(count)

        def fitted(axes: Array, turned: Array, table: Array) -> Array:
            squares = jnp.diagonal(turned, axis1=1, axis2=2)
            return self.sharing.step(count, squares, table, log_floor(floor, axes[None], table.shape), present)

        def meet(pairs: Array, state: Turning) -> Turning:
            turn = rotation(state.turned, jnp.where(present[:, None], jnp.exp(-state.table), 0), pairs)
            axes = contract("ij,jk->ik", state.axes, turn)
            turned = contract("ji,kjl,lm->kim", turn, state.turned, turn)
            return Turning(axes, turned, fitted(axes, turned, state.table))

        rounds = tournament(scatter.shape[1])

        def sweep(state: Turning) -> Turning:
            return lax.fori_loop(0, len(rounds), lambda index, state: meet(jnp.asarray(rounds)[index], state), state)

        turned = contract("ji,kjl,lm->kim", axes, scatter, axes)
        start = Turning(axes, turned, fitted(axes, turned, table))
        found = settle(sweep, start, lambda state: state.table, inner)
        return _root(found.axes[None], found.table)

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        scatter = weights[:, None, None] * dense
        values, axes = eigen(jnp.sum(scatter, axis=0) / jnp.sum(weights))
        table = jnp.broadcast_to(jnp.log(values)[None], scatter.shape[:2])
        return self._turned(weights, scatter, axes, table, None, inner)


@dataclass(frozen=True)
class EVE(CommonAxes):
    """One volume and the same axes, each its own shape (mclust EVE); ``cov`` is (K, D, D) roots, data units."""

    name = "EVE"
    sharing = SHAPES


@dataclass(frozen=True)
class VVE(CommonAxes):
    """The same axes, each its own volume and shape (mclust VVE); ``cov`` is (K, D, D) roots, data units."""

    name = "VVE"
    sharing = BOTH


def _read(root: Float[Array, "K D D"]) -> tuple[Float[Array, "K D D"], Float[Array, "K D"]]:
    """Principal axes, and the logarithms of the variances along them."""
    variance = jnp.sum(root * root, axis=1)
    return root / jnp.sqrt(variance)[:, None, :], jnp.log(variance)


def _root(axes: Float[Array, "_ D D"], table: Float[Array, "K D"]) -> Float[Array, "K D D"]:
    """Axes times standard deviations. An axis has no sign: its largest entry is positive, so that there is one root of each."""
    largest = jnp.take_along_axis(axes, jnp.argmax(jnp.abs(axes), axis=1, keepdims=True), axis=1)
    return axes * jnp.where(largest < 0, -1, 1) * jnp.exp(table / 2)[:, None, :]
