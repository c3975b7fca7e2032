"""The ten families of mclust beside spherical (VII), diag (VVI), tied (EEE) and full (VVV).

Three letters say whether volume, shape and orientation of the covariances are equal (E) for all components or vary (V); I is
a sphere, or axes along the features. Storage is that of the nearest of the four: a component each, whatever is shared.

Source: Celeux and Govaert (1995), "Gaussian parsimonious clustering models", Pattern Recognition 28; Scrucca, Fop, Murphy and
Raftery (2016), "mclust 5", The R Journal 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from jaxgmm.numerics import apply_if, contract, is_present
from jaxgmm.structures.axes import from_angles, orthonormal, rotation, squares_along, to_angles, tournament
from jaxgmm.structures.base import Whitener, each
from jaxgmm.structures.diag import Diag
from jaxgmm.structures.full import Full
from jaxgmm.structures.matrices import eigen, exp_cholesky, inverse_root, is_indefinite, log_cholesky
from jaxgmm.structures.spherical import Spherical
from jaxgmm.structures.volumes import Sharing, deviance, settle

EQUAL, VOLUMES, SHAPES, BOTH = Sharing(False, False), Sharing(True, False), Sharing(False, True), Sharing(True, True)


@dataclass(frozen=True)
class EII(Spherical):
    """Spheres of one size (mclust EII); ``cov`` is (K,), all equal, squared data units."""

    name = "EII"

    def estimate(self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, once: bool = False) -> Array:
        shared = jnp.sum(jnp.mean(scatter, axis=-1)) / jnp.sum(count)
        return self.floored(jnp.full_like(count, 1) * shared, floor)

    def n_free(self, n_components: int, n_features: int) -> int:
        return 1

    def least_weight(self, n_features: int) -> int:
        return 1

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"]) -> Array:
        return jnp.full_like(weights, 1) * jnp.sum(weights * super().from_dense(weights, dense)) / jnp.sum(weights)

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        return super().to_free(cov[:1], unit)

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        return jnp.broadcast_to(super().from_free(free, unit, n_components), (n_components,))


class AlongFeatures(Diag):
    """Axes along the features, and a table of variances of which components share something."""

    sharing: ClassVar[Sharing]

    def estimate(self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, once: bool = False) -> Array:
        present = is_present(count)
        least = _log_floor(floor, jnp.eye(scatter.shape[1], dtype=scatter.dtype)[None], scatter.shape)

        def step(table: Array) -> Array:
            return self.sharing.step(count, scatter, table, least, present)

        return jnp.exp(settle(step, jnp.log(previous), lambda table: table, once))

    def n_free(self, n_components: int, n_features: int) -> int:
        return self.sharing.n_free(n_components, n_features)

    def least_weight(self, n_features: int) -> int:
        return 1 if self.sharing == EQUAL else 2

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"]) -> Array:
        variances = super().from_dense(weights, dense)
        return self.estimate(weights, weights[:, None] * variances, variances)

    def floored(self, cov: Array, floor: Float[Array, " D"] | None, always: bool = False) -> Array:
        least = _log_floor(floor, jnp.eye(cov.shape[1], dtype=cov.dtype)[None], cov.shape)
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

    def narrower(self, weights: Float[Array, " K"], cov: Array, share: Float[Array, " K"]) -> Bool[Array, " K"]:
        return jnp.zeros_like(weights, bool)


@dataclass(frozen=True)
class VEI(AlongFeatures):
    """Diagonal, of one shape and each its own volume (mclust VEI); ``cov`` is (K, D), squared data units."""

    name = "VEI"
    sharing = VOLUMES


@dataclass(frozen=True)
class EVI(AlongFeatures):
    """Diagonal, of one volume and each its own shape (mclust EVI); ``cov`` is (K, D), squared data units."""

    name = "EVI"
    sharing = SHAPES


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

    def floored(self, cov: Array, floor: Float[Array, " D"] | None, always: bool = False) -> Array:
        axes, table = _read(cov)
        return _root(axes, self.sharing.lifted(table, _log_floor(floor, axes, table.shape)))

    def better(self, count: Array, scatter: Array, previous: Array, found: Array, floor: Array | None) -> Array:
        """What was found, unless turning into a bound that depends on the axes made it less likely than ``previous``."""
        if floor is None:
            return found
        count = jnp.where(is_present(count), count, 0)
        scatter = jnp.where(is_present(count)[:, None, None], scatter, 0)

        def judged(root: Array) -> tuple[Array, Array]:
            axes, table = _read(root)
            above = table >= _log_floor(floor, axes, table.shape) - 1e-3
            return deviance(count, squares_along(axes, scatter), table), jnp.all(above)

        (before, inside), (after, _) = judged(previous), judged(found)
        return jnp.where(inside & (after > before), previous, found)

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

    def estimate(self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, once: bool = False) -> Array:
        present = is_present(count)
        before, table = _read(previous)
        axes = jnp.where(present[:, None, None], each(eigen, scatter)[1], before)
        squares = squares_along(axes, scatter)
        least = _log_floor(floor, axes, table.shape)

        def step(table: Array) -> Array:
            return self.sharing.step(count, squares, table, least, present)

        found = settle(step, self.sharing.lifted(table, least), lambda table: table, once)
        return self.better(count, scatter, previous, _root(axes, found), floor)

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"]) -> Array:
        values, axes = each(eigen, dense)
        return self.estimate(weights, weights[:, None, None] * dense, _root(axes, jnp.log(values)))


@dataclass(frozen=True)
class EEV(OwnAxes):
    """One volume and shape, each its own axes (mclust EEV); ``cov`` is (K, D, D) roots, data units."""

    name = "EEV"
    sharing = EQUAL


@dataclass(frozen=True)
class VEV(OwnAxes):
    """One shape, each its own volume and axes (mclust VEV); ``cov`` is (K, D, D) roots, data units."""

    name = "VEV"
    sharing = VOLUMES


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

    def estimate(self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, once: bool = False) -> Array:
        before, table = _read(previous)
        found = self._turned(count, scatter, orthonormal(before[0]), table, floor, once)
        return self.better(count, scatter, previous, found, floor)

    def _turned(self, count: Array, scatter: Array, axes: Array, table: Array, floor: Array | None, once: bool) -> Array:
        present = is_present(count)
        precision = jnp.where(present[:, None], jnp.ones_like(table), 0)

        def fitted(axes: Array, turned: Array, table: Array) -> Array:
            squares = jnp.diagonal(turned, axis1=1, axis2=2)
            return self.sharing.step(count, squares, table, _log_floor(floor, axes[None], table.shape), present)

        def meet(pairs: Array, state: Turning) -> Turning:
            turn = rotation(state.turned, precision * jnp.exp(-state.table), pairs)
            axes = contract("ij,jk->ik", state.axes, turn)
            turned = contract("ji,kjl,lm->kim", turn, state.turned, turn)
            return Turning(axes, turned, fitted(axes, turned, state.table))

        rounds = tournament(scatter.shape[1])

        def sweep(state: Turning) -> Turning:
            return lax.fori_loop(0, len(rounds), lambda index, state: meet(jnp.asarray(rounds)[index], state), state)

        turned = contract("ji,kjl,lm->kim", axes, scatter, axes)
        start = Turning(axes, turned, fitted(axes, turned, table))
        found = settle(sweep, start, lambda state: state.table, once)
        return _root(found.axes[None], found.table)

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"]) -> Array:
        scatter = weights[:, None, None] * dense
        values, axes = eigen(jnp.sum(scatter, axis=0) / jnp.sum(weights))
        table = jnp.broadcast_to(jnp.log(values)[None], scatter.shape[:2])
        return self._turned(weights, scatter, axes, table, None, False)


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


@dataclass(frozen=True)
class VEE(Full):
    """One shape and the same axes, each its own volume (mclust VEE): Sigma_k = exp(u_k) C; ``cov`` is (K, D, D)."""

    name = "VEE"

    def estimate(self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, once: bool = False) -> Array:
        present, n_features = is_present(count), scatter.shape[1]
        count = jnp.where(present, count, 0)
        scatter = jnp.where(present[:, None, None], scatter, 0)
        within = super().floored

        def common(volume: Array) -> Array:
            found = jnp.sum(scatter * jnp.exp(-volume)[:, None, None], axis=0) / jnp.sum(count)
            smallest = jnp.min(jnp.where(present, volume, jnp.inf))
            return within(found, None if floor is None else floor * jnp.exp(-smallest), once)

        def step(volume: Array) -> Array:
            cov = common(volume)
            inverse, _ = inverse_root(cov)
            trace = jnp.sum(contract("ij,kjl->kil", inverse, scatter) * inverse[None], axis=(1, 2))
            mean = jnp.maximum(trace, 0) / (n_features * jnp.where(present, count, 1))  # rounding may leave less than nothing
            return _above(jnp.where(present, jnp.log(mean), volume), cov, floor, once)

        volume = each(inverse_root, previous)[1] / n_features
        volume = settle(step, volume, lambda volume: volume, once)
        return jnp.exp(volume)[:, None, None] * common(volume)[None]

    def n_free(self, n_components: int, n_features: int) -> int:
        return n_components - 1 + n_features * (n_features + 1) // 2

    def least_weight(self, n_features: int) -> int:
        return 2

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"]) -> Array:
        return self.estimate(weights, weights[:, None, None] * dense, dense)

    def floored(self, cov: Array, floor: Float[Array, " D"] | None, always: bool = False) -> Array:
        volume = each(inverse_root, cov)[1] / cov.shape[-1]
        common = cov[0] * jnp.exp(-volume[0])
        return jnp.exp(_above(volume, common, floor, always))[:, None, None] * common[None]

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        volume = each(inverse_root, cov)[1] / (2 * cov.shape[-1])
        return jnp.concatenate([volume[1:] - volume[0], log_cholesky(cov[0], unit)[np.tril_indices(len(unit))]])

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        volume = jnp.concatenate([jnp.zeros_like(free[:1]), free[: n_components - 1]])
        first = exp_cholesky(_lower(free[n_components - 1 :], len(unit)), unit)
        return jnp.exp(2 * volume)[:, None, None] * first[None]


@dataclass(frozen=True)
class EVV(Full):
    """One volume, each its own shape and axes (mclust EVV); ``cov`` is (K, D, D), squared data units."""

    name = "EVV"

    def estimate(self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, once: bool = False) -> Array:
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
            values, axes = each(eigen, scatter / scale)
            squares = jnp.maximum(values, 0)

            def step(table: Array) -> Array:
                return SHAPES.step(count, squares, table, jnp.zeros_like(table), present)

            start = SHAPES.lifted(jnp.zeros_like(values), jnp.zeros_like(values))
            found = settle(step, start, lambda table: table, once)
            return scale * contract("kij,kj,klj->kil", axes, jnp.exp(found), axes)

        outside = each(lambda one: is_indefinite(one - jnp.diag(floor)), free)
        binds = jnp.any(present & outside) & jnp.all(jnp.isfinite(scatter))
        return jnp.where(binds, bounded(free), free) if once else apply_if(binds, bounded, free)

    def n_free(self, n_components: int, n_features: int) -> int:
        return super().n_free(n_components, n_features) - (n_components - 1)

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"]) -> Array:
        return self.estimate(weights, weights[:, None, None] * dense, dense)

    def floored(self, cov: Array, floor: Float[Array, " D"] | None, always: bool = False) -> Array:
        volume = _above(jnp.zeros_like(cov[:, 0, 0]), cov, floor, always)
        return jnp.exp(jnp.max(volume)) * cov

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        root = each(log_cholesky, cov, unit)
        diagonal = jnp.diagonal(root, axis1=1, axis2=2)
        volume = jnp.mean(diagonal, axis=1, keepdims=True)
        below = root[:, *np.tril_indices(len(unit), -1)]
        return jnp.concatenate([volume[0], (diagonal - volume)[:, :-1].reshape(-1), below.reshape(-1)])

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        n_features = len(unit)
        n_table = 1 + n_components * (n_features - 1)
        diagonal = SHAPES.from_free(free[:n_table], n_components, n_features)
        below = free[n_table:].reshape(n_components, n_features * (n_features - 1) // 2)
        places = np.tril_indices(n_features, -1)
        root = jax.vmap(lambda diagonal, below: jnp.diag(diagonal).at[places].set(below))(diagonal, below)
        return each(exp_cholesky, root, unit)


def _log_floor(floor: Float[Array, " D"] | None, axes: Float[Array, "_ D D"], shape: tuple[int, ...]) -> Float[Array, "K D"]:
    """The logarithm of the least variance along each axis, that of the floor: ln d^T diag(floor) d."""
    if floor is None:
        return jnp.full(shape, -jnp.inf, axes.dtype)
    return jnp.broadcast_to(jnp.log(contract("kij,i->kj", axes * axes, floor)), shape)


def _read(root: Float[Array, "K D D"]) -> tuple[Float[Array, "K D D"], Float[Array, "K D"]]:
    """Principal axes, and the logarithms of the variances along them."""
    variance = jnp.sum(root * root, axis=1)
    return root / jnp.sqrt(variance)[:, None, :], jnp.log(variance)


def _root(axes: Float[Array, "_ D D"], table: Float[Array, "K D"]) -> Float[Array, "K D D"]:
    return axes * jnp.exp(table / 2)[:, None, :]


def _above(volume: Float[Array, " K"], cov: Array, floor: Array | None, always: bool) -> Float[Array, " K"]:
    """Logarithms u_k of volumes, raised until exp(u_k) Sigma - diag(floor) is positive semidefinite."""
    if floor is None:
        return volume

    def raised(volume: Array) -> Array:
        inverse = each(inverse_root, cov)[0]
        least = each(lambda one: eigen(one)[0][-1], contract("...ij,j,...kj->...ik", inverse, floor, inverse))
        return jnp.maximum(volume, jnp.log(least))

    if always:
        return raised(volume)
    shape = jnp.exp(volume)[:, None, None] * jnp.broadcast_to(cov, (len(volume), *cov.shape[-2:]))
    outside = each(lambda one: is_indefinite(one - jnp.diag(floor)), shape)
    return apply_if(jnp.any(outside) & jnp.all(jnp.isfinite(shape)), raised, volume)


def _lower(numbers: Float[Array, " F"], n_features: int) -> Float[Array, "D D"]:
    return jnp.zeros((n_features, n_features), numbers.dtype).at[np.tril_indices(n_features)].set(numbers)
