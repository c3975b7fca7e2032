"""k-means in whitened coordinates: clusters that do not depend on the units or axes of the samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Integer, Shaped

from jaxgmm import blocks, loop
from jaxgmm.contract import mean_and_scatter
from jaxgmm.numerics import apply_if, contract, divide_or_keep, evenly, place, typical_where_constant, varying_with
from jaxgmm.structures.matrices import inverse_root

LEAST_RIDGE = 1e-6
"""Added to the covariance that whitens, in units of each feature's variance: copied or constant features stay harmless."""

LLOYD_PASSES = 30
LLOYD_TOL = 1e-4
"""Lloyd's passes, and the fall of the mean squared distance, per feature, at which they stop."""

TRIES, TRY_PASSES, FAR = 8, 2, 0.3
"""Sets of seeds, Lloyd's passes that each is given, and the nats by which a later one needs to tell clusters better apart to
take the place of an earlier: a gross local optimum is left, and restarts stay diverse (DECISIONS.md)."""

OUTLIER_PASSES = 5
OUTLIER_ROUNDS = 4
OUTLIER_SHARE = 0.1
"""Lloyd's passes of a search, how often, and up to what share of the weight, clusters too small for a covariance are set aside
as outliers."""

TINY_COST = 1e3
"""Nats by which a try is worse that leaves a cluster too small for a covariance."""

COINCIDENT = 1e-4
"""Variance within clusters below which they could not be further apart: 1 - 1 is all rounding."""

UNSEEN = 1e30
"""Inertia of centres that no pass has seen."""

OUT_OF_REACH = 1e12
"""Coordinate of a centre that is not in use, where whitened samples are of order one: no sample is nearest to it."""


Search = Callable[..., Array]
"""(uniforms (T, K), whitened samples (D, N), weights, clusters in use, least samples of each, frame) -> centres (K, D)."""


class Clusters(NamedTuple):
    """What k-means finds; it does not depend on a covariance structure."""

    means: Array  # (K, D) data units
    cov: Array  # (D, D) of all samples that belong to clusters, data units
    label: Array  # (N,) int32; -1 for samples that are absent or set aside


class Frame(NamedTuple):
    """Coordinates in which the samples have mean zero and unit covariance."""

    mean: Array  # (D,)
    cov: Array  # (D, D)
    whitener: Array  # (D, D)

    def white(self, X: Shaped[Array, "N D"]) -> Float[Array, "D N"]:
        """Whitened samples, feature-major."""
        x = X.astype(self.mean.dtype).T - self.mean[:, None]
        return contract("ij,jn->in", self.whitener, jnp.where(jnp.isfinite(x), x, 0))

    def unwhite(self, centres: Float[Array, "K D"]) -> Float[Array, "K D"]:
        """Centres in data units, less the mean."""
        return contract("ij,lj,kl->ki", self.cov, self.whitener, centres)  # W cov W^T = 1, so cov W^T is the way back


def whole(X: Shaped[Array, "N D"], weight: Float[Array, " N"]) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    """Mean and covariance of X, the latter positive definite whatever X holds."""

    mean, scatter, weight_of_all = mean_and_scatter(X, weight)
    cov = scatter / jnp.maximum(weight_of_all, jnp.finfo(weight.dtype).tiny)
    # Between two clusters whitening leaves a distance of at most 2, which drowns in the noise of many features or of few
    # samples; there the ridge turns whitening into a scaling of each feature (DECISIONS.md has the figures).
    n_features = X.shape[1]
    ridge = LEAST_RIDGE + (n_features / 100) ** 2 + (n_features / jnp.maximum(weight_of_all, n_features)) ** 2
    return mean, cov + ridge * jnp.diag(typical_where_constant(jnp.diagonal(cov)))


def draw(uniform: Float[Array, ""], mass: Float[Array, " N"], fallback: Float[Array, " N"]) -> Integer[Array, ""]:
    """The row at which the cumulative mass passes ``uniform`` of the total; ``fallback`` where there is no mass.

    One uniform a pick and rows in their order: a row of weight two is drawn where the row seen twice would be.
    """
    mass = jnp.where(jnp.sum(mass) > 0, mass, fallback)
    side = math.isqrt(mass.shape[0] - 1) + 1
    rows = jnp.pad(mass, (0, side * side - mass.shape[0])).reshape(side, side)  # so that most is added, not accumulated
    row_mass = jnp.sum(rows, axis=1)
    row = place(uniform, row_mass)
    before = jnp.sum(jnp.where(jnp.arange(side, dtype=row.dtype) < row, row_mass, 0))
    share = (uniform * jnp.sum(row_mass) - before) / row_mass[row]
    return row * side + place(jnp.clip(share, 0, 1), rows[row])


def find_clusters(
    key: Array,
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    least: Array | int,
    n_components: int,
    search: Search,
) -> Clusters:
    """k-means in whitened coordinates, of the first ``n_used`` clusters.

    Which samples are outliers, and the coordinates, do not depend on the key: restarts share them.

    Args:
      key: random key.
      X: (N, D) samples.
      weight: (N,) zero for rows that are not finite.
      n_used: clusters in use, of K.
      least: samples below which a cluster is too small for its covariance.
      n_components: K.
      search: finds centres of the whitened samples.
    """
    frame, weight = without_outliers(X, weight, n_used, n_components, least)
    z, uniforms = frame.white(X), draws(key, n_components, weight.dtype)
    centres = search(uniforms, z, weight, n_used, least=least, frame=frame)
    used = (jnp.arange(n_components, dtype=jnp.int32) < n_used)[:, None]
    means = frame.mean[None] + jnp.where(used, frame.unwhite(centres), 0)
    return Clusters(means, frame.cov, jnp.where(weight > 0, nearest(z, centres).astype(jnp.int32), -1))


def without_outliers(
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    n_components: int,
    least: Array | int,
) -> tuple[Frame, Float[Array, " N"]]:
    """Whitened coordinates, and the weights with those of outliers set to zero.

    Clusters of a short try that hold fewer samples than a covariance needs are set aside, and the rest is whitened anew: one
    far sample would otherwise own both the whitening and a seed, and EM would start on a spike.
    """
    total = jnp.sum(weight)
    uniforms = evenly(n_components * OUTLIER_ROUNDS, weight.dtype).reshape(n_components, OUTLIER_ROUNDS).T

    def search(carry: tuple) -> tuple:
        turn, kept, *_ = carry
        mean, cov = whole(X, kept)
        frame = Frame(mean, cov, inverse_root(cov)[0])
        z = frame.white(X)
        found = lloyd_passes(z, kept, seeds(uniforms, z, kept, n_used, turn), OUTLIER_PASSES)
        label, count = nearest(z, found.state), found.sums.n_k
        small = (count > 0) & (count < least)
        rest = jnp.where(small[label], 0, kept)
        again = jnp.any(small) & (jnp.sum(rest) >= (1 - OUTLIER_SHARE) * total)
        again = again & (turn + 1 < OUTLIER_ROUNDS)
        return turn + 1, jnp.where(again, rest, kept), frame, again

    n_features, dtype = X.shape[1], weight.dtype
    nothing = Frame(jnp.zeros(n_features, dtype), *(jnp.zeros((n_features, n_features), dtype) for _ in range(2)))
    start = varying_with((jnp.zeros((), jnp.int32), weight, nothing, jnp.ones((), bool)), X, weight)
    _, kept, frame, _ = lax.while_loop(lambda carry: carry[-1], search, start)
    return frame, kept


def draws(key: Array, n_components: int, dtype: jnp.dtype) -> Float[Array, "T K"]:
    """Uniform numbers to draw seeds by, for all tries; the first components' do not depend on how many follow."""
    return jax.random.uniform(key, (n_components, TRIES), dtype).T


def squared_distances(z: Float[Array, "D B"], centres: Float[Array, "K D"]) -> Float[Array, "K B"]:
    """|z - c_k|^2; whitened coordinates are of order one, so the expanded square loses nothing."""
    square = jnp.sum(centres**2, axis=1)[:, None] - 2 * contract("kd,db->kb", centres, z) + jnp.sum(z * z, axis=0)[None]
    return jnp.maximum(square, 0)


def seeds(
    uniforms: Float[Array, "T K"],
    z: Float[Array, "D N"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    turn: Array | int = 0,
) -> Float[Array, "K D"]:
    """k-means++: each seed is drawn with probability proportional to weight times squared distance to the seeds before.

    A component that is not in use has its seed out of all reach.
    """

    def pick(nearest: Float[Array, " N"], turn: tuple[Array, Array]) -> tuple[Array, Array]:
        uniform, first = turn
        seed = z[:, draw(uniform, weight * jnp.where(first, 1, nearest), weight)]
        distance = jnp.sum((z - seed[:, None]) ** 2, axis=0)
        return jnp.minimum(nearest, jnp.where(weight > 0, distance, 0)), seed

    component = jnp.arange(uniforms.shape[1], dtype=jnp.int32)
    start = varying_with(jnp.full_like(weight, jnp.inf), z, weight, uniforms)
    found = lax.scan(pick, start, (uniforms[turn], component == 0))[1]
    return jnp.where((component < n_used)[:, None], found, OUT_OF_REACH)


def drawn(
    uniforms: Float[Array, "T K"],
    z: Float[Array, "D N"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    *,
    least: Array | int,
    frame: Frame,
) -> Float[Array, "K D"]:
    """The seeds of the first try as they are."""
    return seeds(uniforms, z, weight, n_used)


def cluster(
    uniforms: Float[Array, "T K"],
    z: Float[Array, "D N"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    *,
    least: Array | int,
    frame: Frame,
) -> Float[Array, "K D"]:
    """Centres of k-means: a few short tries, then Lloyd's passes to the end from the one that no later beat by far.

    A try that leaves a cluster of fewer than ``least`` samples yields to one that does not.
    """

    def attempt(best: tuple[Array, Array], turn: Array) -> tuple[tuple[Array, Array], None]:
        is_last = turn == TRIES
        begun = apply_if(~is_last, lambda _: seeds(uniforms, z, weight, n_used, turn), best[0])
        found = lloyd_passes(z, weight, begun, jnp.where(is_last, LLOYD_PASSES, TRY_PASSES))
        tiny = jnp.any((found.sums.n_k > 0) & (found.sums.n_k < least))
        cost = log_within(found.sums) + jnp.where(tiny, TINY_COST, 0)
        better = is_last | (turn == 0) | (cost < best[1] - FAR)
        return (jnp.where(better, found.state, best[0]), jnp.where(better, cost, best[1])), None

    start = jnp.zeros((uniforms.shape[1], z.shape[0]), z.dtype), jnp.zeros((), z.dtype)
    turns = jnp.arange(TRIES + 1, dtype=jnp.int32)
    return lax.scan(attempt, varying_with(start, z, weight, uniforms), turns)[0][0]


class ClusterSums(NamedTuple):
    n_k: Array  # (K,) weight of each cluster
    first: Array  # (K, D) sum of its whitened samples
    inertia: Array  # () sum of squared distances to the nearest centre
    weight: Array  # ()


def log_within(sums: ClusterSums) -> Float[Array, ""]:
    """ln |1 - B|, B the scatter of cluster means: as the frame makes the covariance one, 1 - B is that within clusters.

    Unlike inertia, the trace of 1 - B, it sees a gap that whitening has shortened (Friedman and Rubin 1967).
    """
    means = divide_or_keep(sums.first, sums.n_k, jnp.zeros_like(sums.first))
    root = jnp.sqrt(sums.n_k / sums.weight)[:, None] * means  # B = root^T root
    n_components, n_features = root.shape
    one = 1 + COINCIDENT
    if n_components < n_features:  # the determinant of the smaller of the two products, and ones
        rest = (n_features - n_components) * math.log(one)
        return rest + inverse_root(one * jnp.eye(n_components, dtype=root.dtype) - contract("ki,li->kl", root, root))[1]
    return inverse_root(one * jnp.eye(n_features, dtype=root.dtype) - contract("ki,kj->ij", root, root))[1]


def lloyd_passes(
    z: Float[Array, "D N"], weight: Float[Array, " N"], centres: Float[Array, "K D"], passes: Array | int
) -> loop.Carry:
    """k-means on the same loop as EM: expect assigns samples to centres, maximise moves centres to their samples."""
    size = blocks.block_size(z.shape[1], 3 * centres.shape[0] + z.shape[0], z.dtype.itemsize)
    n_features = z.shape[0]

    def expect(centres: Float[Array, "K D"]) -> ClusterSums:
        def step(z: Float[Array, "D B"], weight: Float[Array, " B"], present: Float[Array, " B"]) -> ClusterSums:
            square = squared_distances(z, centres)
            weight = weight * present
            member = jax.nn.one_hot(jnp.argmin(square, axis=0), centres.shape[0], axis=0, dtype=z.dtype) * weight[None]
            first = contract("kb,db->kd", member, z)
            return ClusterSums(jnp.sum(member, axis=1), first, jnp.sum(weight * jnp.min(square, axis=0)), jnp.sum(weight))

        # Weights go along as data, so that restarts, which may weigh samples differently, share the blocks of z.
        return blocks.fold(step, (z.T, weight), None, size, z.dtype, centres)[0]

    def maximise(centres: Float[Array, "K D"], sums: ClusterSums) -> Float[Array, "K D"]:
        return divide_or_keep(sums.first, sums.n_k, centres)

    def objective(sums: ClusterSums) -> loop.Objective:
        zero, resolution = jnp.zeros_like(sums.inertia), LLOYD_TOL * jnp.asarray(n_features, z.dtype)
        return loop.Objective(-sums.inertia, zero, sums.weight, resolution, zero)

    problem = loop.Problem(expect, maximise, objective)
    # Without members centres stay: the first turn evaluates them, and the pass is compiled once.
    unknown = ClusterSums(
        jnp.zeros_like(centres[:, 0]), jnp.zeros_like(centres), jnp.full_like(weight[0], UNSEEN), jnp.ones_like(weight[0])
    )
    return loop.run(problem, loop.hold(problem, centres, unknown), passes + 1, LLOYD_TOL * n_features)


def nearest(z: Float[Array, "D N"], centres: Float[Array, "K D"]) -> Integer[Array, " N"]:
    """The label of each sample."""
    size = blocks.block_size(z.shape[1], centres.shape[0] + z.shape[0], z.dtype.itemsize)
    return blocks.map_samples(lambda z: jnp.argmin(squared_distances(z, centres), axis=0), z.T, size, z.dtype)
