"""Where EM starts: k-means in whitened coordinates, random points, random responsibilities, or what the caller gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

from jaxgmm import checks, swaps
from jaxgmm.clusters import Clusters, Search, cluster, draw, drawn, find_clusters, whole
from jaxgmm.contract import moments
from jaxgmm.em import maximise
from jaxgmm.hierarchy import ward
from jaxgmm.numerics import evenly, float_dtype, place, samples_per_weight, varying_with
from jaxgmm.params import GMMParams, lens_of, moved
from jaxgmm.rounding import about_mean
from jaxgmm.structures import Structure, get_structure
from jaxgmm.structures.base import Expandable

START_FLOOR, GIVEN_FLOOR = 1e-3, 1e-6
"""Covariance floors of the clusters found here and of what is only measured, relative to the variance within components."""

START_SAMPLES, SEARCHED_SAMPLES, START_SAMPLES_EACH = 1 << 14, 1 << 12, 8
"""k-means looks at no more than this many samples, a search at no more than this many, or both at this many times what the
covariances need."""

LANES_MEANT = 8
"""Starts are taken side by side, by ``vmap``: as many should fit into the cache together."""


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
      X: (N, D) samples, in data units. Rows that are not finite count as absent.
      n_components: K.
      method: "kmeans": seeds drawn with probability proportional to w_n min_j |z_n - c_j|^2, c_j the seeds before (k-means++),
        then Lloyd's passes, then the moments of the clusters, all in fully whitened coordinates z, so that the start does not
        depend on the units or axes of X;
        "k-means++": the same without Lloyd's passes;
        "ward": clusters that are left when the pairs whose union is tightest have been merged, features in standard deviations,
        of 400 samples that ``key`` draws where there are more rows, absent ones counted (else the key does not matter);
        "swaps": from k-means a search by random swaps, each a component set down elsewhere and a few passes of EM, kept where
        that is better, by up to eight mixtures side by side, which lend each other components: 120 K (K - 1) passes, but no
        more than look at 2^20 samples in all, and at 4096 of them where there are more (or at eight times what the
        covariances need, and fewer yet); of factor analysers it is k-means;
        "random_from_data": K samples as means, the covariance of X for all;
        "random": random responsibilities, drawn row by row; or (N,) labels counted from 0; or (N, K) responsibilities.
      covariance_type: structure of the mixture, by name.
      sample_weight: (N,) weights; zero is absent, two is seen twice, in the draws as well (but for "random", where a row
        that is absent or seen twice shifts what the others draw, and where k-means looks at some of the rows only: beyond
        16,384 of them, or eight times what the covariances need; or the number of rows bounds the passes of "swaps").

    Returns:
      A mixture in the dtype of X.

    Raises:
      ValueError: key, X, ``method`` or ``covariance_type`` are not of these forms; n_components below one, or above the number
        of samples of positive weight; weights that are negative, not finite, all zero, or beyond the range of float32.

    Source: Arthur and Vassilvitskii (2007), "k-means++: the advantages of careful seeding"; Lloyd (1982), IEEE Transactions on
    Information Theory 28; Ward (1963), Journal of the American Statistical
    Association 58; for "swaps" Zhao et al. (2012), Pattern Recognition Letters 33.

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
    structure = get_structure(covariance_type, X.shape[1])
    seen, offset = about_mean(X, sample_weight)
    given: Any = None
    if not isinstance(method, str):
        name, given = "given", checks.check_init("method", method, X.shape[0], n_components)
    elif (name := checks.check_choice("method", method, METHODS)) in CLUSTERINGS:
        least = structure.least_weight(X.shape[1])
        given = first_clusters(key, seen, sample_weight, n_components, least, n_components, CLUSTERINGS[name])
    start = first_mixture(key, seen, sample_weight, given, n_components, name, n_components, structure)
    return start if offset is None else moved(start, offset)


@partial(jax.jit, static_argnames=("n_components", "search"))
def first_clusters(
    key: Array,
    X: Shaped[Array, "N D"],
    sample_weight: Shaped[Array, " N"] | None,
    n_used: Array | int,
    least: Array | int,
    n_components: int,
    search: Search,
) -> Clusters:
    """The clusters that ``first_mixture`` starts from; they are compiled once for all structures."""
    X, weight = looked_at(X, present(X, sample_weight), n_components, START_SAMPLES)
    return find_clusters(key, X, weight, n_used, least, n_components, search)


@partial(jax.jit, static_argnames=("name", "n_components", "structure"))
def first_mixture(
    key: Array,
    X: Shaped[Array, "N D"],
    sample_weight: Shaped[Array, " N"] | None,
    given: Clusters | Shaped[Array, "N ..."] | None,
    n_used: Array | int,
    name: str,
    n_components: int,
    structure: Structure,
) -> GMMParams:
    """``initialise`` without the door. The first ``n_used`` components are in use, the others have no weight."""
    weight = present(X, sample_weight)
    if isinstance(given, Clusters):
        seen = looked_at(X, weight, n_components, START_SAMPLES)
        start = from_clusters(*seen, given, n_used, structure)
        if name != SWAPS or n_components == 1 or not isinstance(structure, Expandable):  # a swap makes D x D matrices
            return start
        seen = looked_at(X, weight, n_components, SEARCHED_SAMPLES)
        return swaps.improved(jax.random.fold_in(key, 1), *seen, start, n_used)
    if given is None:
        return DRAWN[name](key, X, weight, n_used, n_components, structure)
    gamma = jax.nn.one_hot(given, n_components, dtype=weight.dtype) if given.ndim == 1 else given.astype(weight.dtype)
    return from_responsibilities(X, weight, gamma, n_used, structure)


def present(X: Shaped[Array, "N D"], sample_weight: Shaped[Array, " N"] | None) -> Float[Array, " N"]:
    """The weight of each row in samples; zero for rows that are not finite."""
    dtype = float_dtype(X)
    weight = jnp.ones(X.shape[0], dtype) if sample_weight is None else sample_weight.astype(dtype)
    weight = jnp.where(jnp.all(jnp.isfinite(X), axis=1), weight, 0)
    return weight * samples_per_weight(weight)


def from_clusters(
    X: Shaped[Array, "N D"], weight: Float[Array, " N"], clusters: Clusters, n_used: Array | int, structure: Structure
) -> GMMParams:
    """The moments of clusters, inside a bound."""
    n_components = clusters.means.shape[0]
    about = replace(alike(clusters.means[0], clusters.cov, n_used, n_components, structure), means=clusters.means)

    def hard(diff: Float[Array, "K D B"], label: Float[Array, " B"]) -> tuple[Array, Array]:
        member = label[None] == jnp.arange(n_components, dtype=label.dtype)[:, None]
        return member.astype(diff.dtype), jnp.zeros_like(diff[0, 0])

    sums = moments(structure, about.means, lens_of(about), (X, clusters.label), weight, hard, n_lanes=LANES_MEANT)
    return maximise(about, sums, covariance_floor=START_FLOOR)


def from_responsibilities(
    X: Shaped[Array, "N D"],
    weight: Float[Array, " N"],
    gamma: Float[Array, "N K"],
    n_used: Array | int,
    structure: Structure,
    covariance_floor: float | None = GIVEN_FLOOR,
) -> GMMParams:
    """One M-step from given responsibilities: a pass for the means, and one for the moments about them."""
    n_components = gamma.shape[1]
    single = alike(*whole(X, weight), n_used, n_components, structure)

    def given(diff: Float[Array, "K D B"], gamma: Float[Array, "K B"]) -> tuple[Array, Array]:
        return gamma, jnp.zeros_like(gamma[0])

    lens = lens_of(single)
    rough = maximise(single, moments(structure, single.means, lens, (X, gamma), weight, given))
    about = replace(single, means=rough.means)
    return maximise(about, moments(structure, about.means, lens, (X, gamma), weight, given), covariance_floor=covariance_floor)


def looked_at(
    X: Shaped[Array, "N D"], weight: Float[Array, " N"], n_components: int, enough: int
) -> tuple[Shaped[Array, "n D"], Float[Array, " n"]]:
    """The samples that a start looks at: of many only some, so that its passes cost the same however large X is."""
    enough = max(enough, START_SAMPLES_EACH * n_components * (X.shape[1] + 1))
    return subsample(X, weight, enough) if X.shape[0] > enough else (X, weight)


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


SWAPS = "swaps"

CLUSTERINGS: dict[str, Search] = {"kmeans": cluster, "k-means++": drawn, "ward": ward, SWAPS: cluster}
"""The methods that start from clusters, and what finds these."""

DRAWN: dict[str, Callable[[Array, Array, Array, Array | int, int, Structure], GMMParams]] = {
    "random_from_data": random_from_data,
    "random": random_responsibilities,
}

METHODS = (*CLUSTERINGS, *DRAWN)


def alike(
    mean: Float[Array, " D"], cov: Float[Array, "D D"], n_used: Array | int, n_components: int, structure: Structure
) -> GMMParams:
    """Components of equal weight, as far as they are in use, with the same mean and covariance."""
    used = (jnp.arange(n_components, dtype=jnp.int32) < n_used).astype(mean.dtype)
    weights = used / jnp.sum(used)
    return GMMParams(weights, jnp.repeat(mean[None], n_components, axis=0), structure.alike(weights, cov), structure)


def subsample(X: Shaped[Array, "N D"], weight: Float[Array, " N"], n: int) -> tuple[Float[Array, "n D"], Float[Array, " n"]]:
    """``n`` samples, one from each n-th of the weight in the order of X, and a weight of one for each."""
    share = (jnp.arange(n, dtype=weight.dtype) + evenly(n, weight.dtype)) / n
    return X[place(share, weight)].astype(weight.dtype), jnp.ones_like(share)
