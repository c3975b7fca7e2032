"""Where EM starts: k-means in whitened coordinates, random points, random responsibilities, or what the caller gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Shaped

from jaxgmm import blocks, checks, loop
from jaxgmm.contract import moments
from jaxgmm.em import maximise
from jaxgmm.numerics import apply_if, contract, float_dtype, place, samples_per_weight, varying_with
from jaxgmm.params import GMMParams
from jaxgmm.structures import Structure, get_structure
from jaxgmm.structures.base import inverse_root

START_FLOOR, GIVEN_FLOOR = 1e-3, 1e-6
"""Covariance floors of the clusters found here and of what is only measured, relative to the variance within components."""

LEAST_RIDGE = 1e-6
"""Added to the covariance that whitens, in units of each feature's variance: copied or constant features stay harmless."""

FULL = get_structure("full")
LLOYD_PASSES = 30
LLOYD_TOL = 1e-4
"""Lloyd's passes, and the fall of the mean squared distance, per feature, at which they stop."""

TRIES, TRY_PASSES, NEAR = 4, 5, 1.1
"""Sets of seeds, Lloyd's passes that each is given, and how many times less inertia a later one needs to take the place of
an earlier: a gross local optimum is left, and restarts stay as diverse as they were (DECISIONS.md)."""

START_SAMPLES, START_SAMPLES_EACH = 1 << 14, 8
"""k-means looks at no more than this many samples, or this many times what the covariances need."""

LANES_MEANT = 8
"""Starts are taken side by side, by ``vmap``: as many should fit into the cache together."""

OUTLIER_ROUNDS = TRIES
OUTLIER_SHARE = 0.1
"""How often, and up to what share of the weight, clusters too small for a covariance are set aside as outliers."""

TINY_COST = 1e3
"""How many times the inertia of a try counts that leaves a cluster too small for a covariance."""

OUT_OF_REACH = 1e12
"""Coordinate of a centre that is not in use, where whitened samples are of order one: no sample is nearest to it."""


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
        return jax.scipy.linalg.solve_triangular(self.whitener, centres.T, lower=True).T


def initialise(
    key: Array,
    X: ArrayLike,
    n_components: int,
    *,
    method: str | ArrayLike = "kmeans",
    covariance_type: str | Structure = "full",
    sample_weight: ArrayLike | None = None,
) -> GMMParams:
    """A mixture to start EM from. Pure: jit it, and vmap it over keys or data sets.

    Args:
      key: random key; the same key gives the same start.
      X: (N, D) samples. Rows that are not finite count as absent.
      n_components: K.
      method: "kmeans": seeds drawn by squared distance (k-means++), then Lloyd's passes, then the moments of the clusters,
        all in fully whitened coordinates, so that the start does not depend on the units or axes of X;
        "k-means++": the same without Lloyd's passes; "random_from_data": K samples as means, the covariance of X for all;
        "random": random responsibilities, drawn row by row; or (N,) labels counted from 0; or (N, K) responsibilities.
      covariance_type: structure of the mixture, by name.
      sample_weight: (N,) weights; zero is absent, two is seen twice, in the draws as well (but for "random", where a row
        that is absent or seen twice shifts what the others draw).

    Raises:
      ValueError: X, n_components or method are not of these forms.

    Source: Arthur and Vassilvitskii (2007), "k-means++: the advantages of careful seeding".

    >>> import jax, jaxgmm
    >>> X = [[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]]
    >>> params = jaxgmm.initialise(jax.random.key(0), X, 2)
    >>> sorted(params.means.round(1).ravel().tolist())
    [0.10000000149011612, 9.100000381469727]
    """
    key = checks.check_key(key)
    X = checks.check_samples(X)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    n_components = checks.check_n_components(n_components, checks.n_present(sample_weight, X.shape[0]))
    structure = get_structure(covariance_type)
    if isinstance(method, str):
        name, given = checks.check_choice("method", method, METHODS), None
    else:
        name, given = "given", checks.check_init("method", method, X.shape[0], n_components)
    return first_mixture(key, X, sample_weight, given, n_components, name, n_components, structure)


@partial(jax.jit, static_argnames=("name", "n_components", "structure"))
def first_mixture(
    key: Array,
    X: Shaped[Array, "N D"],
    sample_weight: Shaped[Array, " N"] | None,
    given: Shaped[Array, "N ..."] | None,
    n_used: Array | int,
    name: str,
    n_components: int,
    structure: Structure,
) -> GMMParams:
    """``initialise`` without the door. The first ``n_used`` components are in use, the others have no weight."""
    dtype = float_dtype(X)
    weight = jnp.ones(X.shape[0], dtype) if sample_weight is None else sample_weight.astype(dtype)
    weight = jnp.where(jnp.all(jnp.isfinite(X), axis=1), weight, 0)
    weight = weight * samples_per_weight(weight)
    if given is None:
        return METHODS[name](key, X, weight, n_used, n_components, structure)
    gamma = jax.nn.one_hot(given, n_components, dtype=dtype) if given.ndim == 1 else given.astype(dtype)
    return from_responsibilities(X, weight, gamma, n_used, structure)


def from_responsibilities(
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    gamma: Float[Array, "N K"],
    n_used: Array | int,
    structure: Structure,
) -> GMMParams:
    """One M-step from given responsibilities: a pass for the means, and one for the moments about them."""
    n_components = gamma.shape[1]
    single = alike(*whole(X, weight), n_used, n_components, structure)

    def given(diff: Float[Array, "K D B"], gamma: Float[Array, "K B"]) -> tuple[Array, Array]:
        return gamma, jnp.zeros_like(gamma[0])

    rough = maximise(single, moments(structure, single.means, (X, gamma), weight, given))
    about = GMMParams(single.weights, rough.means, single.cov, structure)
    return maximise(about, moments(structure, about.means, (X, gamma), weight, given), covariance_floor=GIVEN_FLOOR)


def kmeans(
    key: Array,
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    n_components: int,
    structure: Structure,
    *,
    lloyd: bool = True,
) -> GMMParams:
    """Moments of the clusters that k-means finds in whitened coordinates.

    Of many samples it looks at some, drawn by weight, so that its passes cost the same however large X is. Which samples those
    are, which of them are outliers, and the coordinates do not depend on the key: restarts share them.
    """
    least = structure.least_weight(X.shape[1])
    enough = max(START_SAMPLES, START_SAMPLES_EACH * n_components * (X.shape[1] + 1))
    if X.shape[0] > enough:
        X, weight = subsample(X, weight, enough)
    frame, weight = without_outliers(X, weight, n_used, n_components, least)
    z, uniforms = frame.white(X), draws(key, n_components, weight.dtype)
    centres = cluster(uniforms, z, weight, n_used, least=least) if lloyd else seeds(uniforms, z, weight, n_used)
    about = alike(frame.mean, frame.cov, n_used, n_components, structure)
    used = (jnp.arange(n_components, dtype=jnp.int32) < n_used)[:, None]
    about = replace(about, means=jnp.where(used, about.means + frame.unwhite(centres), about.means))

    def hard(diff: Float[Array, "K D B"], z: Float[Array, "D B"]) -> tuple[Array, Array]:
        label = jnp.argmin(squared_distances(z, centres), axis=0)
        return jax.nn.one_hot(label, n_components, axis=0, dtype=diff.dtype), jnp.zeros_like(diff[0, 0])

    sums = moments(structure, about.means, (X, z.T), weight, hard, n_lanes=LANES_MEANT)
    return maximise(about, sums, covariance_floor=START_FLOOR)


def random_from_data(
    key: Array,
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    n_components: int,
    structure: Structure,
) -> GMMParams:
    """K samples as means, no row more often than it was seen, equal weights, and the covariance of X for every component."""
    about = alike(*whole(X, weight), n_used, n_components, structure)

    def pick(carry: Array, uniform: Array) -> tuple[Array, Array]:
        index = draw(uniform, carry, weight)
        return carry.at[index].set(jnp.maximum(carry[index] - 1, 0)), index  # a row of weight two can be drawn twice

    uniforms = jax.random.uniform(key, (n_components,), weight.dtype)
    _, index = lax.scan(pick, varying_with(weight, uniforms), uniforms)
    return GMMParams(about.weights, X[index].astype(weight.dtype), about.cov, structure)


def random_responsibilities(
    key: Array,
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    n_components: int,
    structure: Structure,
) -> GMMParams:
    """Responsibilities drawn uniformly, row by row."""
    gamma = jax.random.uniform(key, (n_components, X.shape[0]), weight.dtype).T
    gamma = jnp.where(jnp.arange(n_components, dtype=jnp.int32)[None] < n_used, gamma, 0)
    return from_responsibilities(X, weight, gamma / jnp.sum(gamma, axis=1, keepdims=True), n_used, structure)


METHODS: dict[str, Callable[[Array, Array, Array, Array | int, int, Structure], GMMParams]] = {
    "kmeans": kmeans,
    "k-means++": partial(kmeans, lloyd=False),
    "random_from_data": random_from_data,
    "random": random_responsibilities,
}


def whole(X: Shaped[Array, "N D"], weight: Float[Array, " N"]) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    """Mean and covariance of X, the latter positive definite whatever X holds."""

    def all_to_one(diff: Float[Array, "1 D B"]) -> tuple[Array, Array]:
        return jnp.ones_like(diff[:, 0]), jnp.zeros_like(diff[0, 0])

    # The moments are taken about a sample, so an offset of the data costs no digits.
    about = X[jnp.argmax(weight > 0)][None].astype(weight.dtype)
    about = jnp.where(jnp.isfinite(about), about, 0)
    sums = moments(FULL, about, (X,), weight, all_to_one)
    total = jnp.maximum(sums.weight, jnp.finfo(weight.dtype).tiny)
    shift = sums.first / total
    cov = FULL.recentre(sums.count, shift, sums.second)[0] / total
    variance = jnp.diagonal(cov)
    varies = variance > 0
    typical = jnp.sum(variance) / jnp.maximum(jnp.sum(varies), 1).astype(variance.dtype)
    scale = jnp.where(varies, variance, jnp.where(typical > 0, typical, 1))  # a constant feature takes the mean scale
    # Between two clusters whitening leaves a distance of at most 2, which drowns in the noise of many features or of few
    # samples; there the ridge turns whitening into a scaling of each feature (DECISIONS.md has the figures).
    n_features = X.shape[1]
    ridge = LEAST_RIDGE + (n_features / 100) ** 2 + (n_features / jnp.maximum(sums.weight, n_features)) ** 2
    return about[0] + shift[0], cov + ridge * jnp.diag(scale)


def alike(
    mean: Float[Array, " D"], cov: Float[Array, "D D"], n_used: Array | int, n_components: int, structure: Structure
) -> GMMParams:
    """Components of equal weight, as far as they are in use, with the same mean and covariance."""
    used = (jnp.arange(n_components, dtype=jnp.int32) < n_used).astype(mean.dtype)
    weights = used / jnp.sum(used)
    dense = jnp.repeat(cov[None], n_components, axis=0)
    return GMMParams(weights, jnp.repeat(mean[None], n_components, axis=0), structure.from_dense(weights, dense), structure)


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


def subsample(X: Shaped[Array, "N D"], weight: Float[Array, " N"], n: int) -> tuple[Float[Array, "n D"], Float[Array, " n"]]:
    """``n`` samples, one from each n-th of the weight in the order of X, and a weight of one for each."""
    share = (jnp.arange(n, dtype=weight.dtype) + jax.random.uniform(jax.random.key(0), (n,), weight.dtype)) / n
    return X[place(share, weight)].astype(weight.dtype), jnp.ones_like(share)


def without_outliers(
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    n_components: int,
    least: int,
) -> tuple[Frame, Float[Array, " N"]]:
    """Whitened coordinates, and the weights with those of outliers set to zero.

    Clusters of a short try that hold fewer samples than a covariance needs are set aside, and the rest is whitened anew: one
    far sample would otherwise own both the whitening and a seed, and EM would start on a spike.
    """
    total = jnp.sum(weight)
    uniforms = draws(jax.random.key(0), n_components, weight.dtype)

    def search(carry: tuple) -> tuple:
        turn, kept, *_ = carry
        mean, cov = whole(X, kept)
        frame = Frame(mean, cov, inverse_root(cov)[0])
        z = frame.white(X)
        found = lloyd_passes(z, kept, seeds(uniforms, z, kept, n_used, turn), TRY_PASSES)
        label, count = nearest(z, kept, found.state)
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


def cluster(
    uniforms: Float[Array, "T K"], z: Float[Array, "D N"], weight: Float[Array, " N"], n_used: Array | int, *, least: int
) -> Float[Array, "K D"]:
    """Centres of k-means: a few short tries, then Lloyd's passes to the end from the one that no later beat by far.

    A try that leaves a cluster of fewer than ``least`` samples yields to one that does not.
    """

    def attempt(best: tuple[Array, Array], turn: Array) -> tuple[tuple[Array, Array], None]:
        is_last = turn == TRIES
        begun = apply_if(~is_last, lambda _: seeds(uniforms, z, weight, n_used, turn), best[0])
        found = lloyd_passes(z, weight, begun, jnp.where(is_last, LLOYD_PASSES, TRY_PASSES))
        tiny = jnp.any((found.sums.n_k > 0) & (found.sums.n_k < least))
        cost = found.sums.inertia * jnp.where(tiny, TINY_COST, 1)
        better = is_last | (NEAR * cost < best[1])
        return (jnp.where(better, found.state, best[0]), jnp.where(better, cost, best[1])), None

    start = jnp.zeros((uniforms.shape[1], z.shape[0]), z.dtype), jnp.asarray(jnp.inf, z.dtype)
    turns = jnp.arange(TRIES + 1, dtype=jnp.int32)
    return lax.scan(attempt, varying_with(start, z, weight, uniforms), turns)[0][0]


class ClusterSums(NamedTuple):
    n_k: Array  # (K,) weight of each cluster
    first: Array  # (K, D) sum of its whitened samples
    inertia: Array  # () sum of squared distances to the nearest centre
    weight: Array  # ()


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
        empty = sums.n_k[:, None] <= 0
        return jnp.where(empty, centres, sums.first / jnp.where(empty, 1, sums.n_k[:, None]))

    def objective(sums: ClusterSums) -> loop.Objective:
        zero, resolution = jnp.zeros_like(sums.inertia), LLOYD_TOL * jnp.asarray(n_features, z.dtype)
        return loop.Objective(-sums.inertia, zero, sums.weight, resolution, zero)

    problem = loop.Problem(expect, maximise, objective)
    return loop.run(problem, loop.begin(problem, centres), passes, LLOYD_TOL * n_features)


def nearest(
    z: Float[Array, "D N"], weight: Float[Array, " N"], centres: Float[Array, "K D"]
) -> tuple[Integer[Array, " N"], Float[Array, " K"]]:
    """The label of each sample, and the weight of each cluster."""
    size = blocks.block_size(z.shape[1], centres.shape[0] + z.shape[0], z.dtype.itemsize)
    label = blocks.map_samples(lambda z: jnp.argmin(squared_distances(z, centres), axis=0), z.T, size, z.dtype)
    return label, jnp.zeros(centres.shape[0], weight.dtype).at[label].add(weight)
