"""From components to clusters: components that overlap are merged, as long as the classification becomes clearer by it.

BIC takes as many Gaussians as the density needs. A cluster that is no Gaussian needs several, which overlap. Merged step by
step, the pair first that overlaps most, they give a clustering for each number of clusters, all of the same density.

Source: Baudry, Raftery, Celeux, Lo and Gottardo (2010), "Combining mixture components for clustering", Journal of
Computational and Graphical Statistics 19.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer

from jaxgmm import checks
from jaxgmm.em import e_step
from jaxgmm.numerics import contract
from jaxgmm.params import GMMParams


class Merging(NamedTuple):
    """The clusterings that the components of a mixture give, one for each number of clusters C = 1, ..., K.

    Attributes:
      cluster: (K, K) int32, row C - 1 says which of C clusters each component is in; clusters count from 0, in the order of
        their first components.
      entropy: (K,) overlap of C clusters on X, nats, from C = 1 up; it rises with C.
      moved: (K,) weight of the samples that the merge to C clusters put together, those whose likeliest cluster was on either
        side; 0 for C = K.
      n_clusters: () int32, C at the elbow of the entropy; K below three components.
      labels: (N,) int32, the cluster of each sample among ``n_clusters``.

    >>> import jax, jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1, 1, 1, 1], [[0.0], [0.5], [9.0], [19.0]], [[[1.0]]] * 4)
    >>> X = jaxgmm.sample(jax.random.key(0), params, 200)[0]
    >>> merging = jaxgmm.merge_components(params, X)
    >>> int(merging.n_clusters), merging.cluster[2].tolist()
    (3, [0, 0, 1, 2])
    """

    cluster: Array
    entropy: Array
    moved: Array
    n_clusters: Array
    labels: Array

    def __repr__(self) -> str:
        """What each step merges, from K clusters down; the fields under a trace, and of a batch."""
        if checks.is_traced(tuple(self)) or np.ndim(self.entropy) != 1:
            return f"Merging({', '.join(f'{name}={value!r}' for name, value in zip(self._fields, self, strict=True))})"
        parts = [[np.flatnonzero(row == c).tolist() for c in range(n + 1)] for n, row in enumerate(np.asarray(self.cluster))]
        rows, before = [("clusters", "entropy", "merged")], parts[-1]
        for n in range(len(parts), 0, -1):
            merged = " + ".join(" ".join(map(str, part)) for part in before if part not in parts[n - 1])
            rows.append((f"{'*' * (n == int(self.n_clusters))}{n}", f"{self.entropy[n - 1]:.3f}", merged))
            before = parts[n - 1]
        wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
        table = [f"{n.rjust(wide[0])}  {entropy.rjust(wide[1])}  {merged}".rstrip() for n, entropy, merged in rows]
        return "\n".join(["Merging: entropy in nats; * suggested", *table])

    def proba(self, gamma: ArrayLike, n_clusters: int | None = None) -> Array:
        """Responsibilities of clusters: the sums of those of their components.

        Args:
          gamma: (N, K) responsibilities of the components, of these samples or others.
          n_clusters: C, the suggested number without; under a trace it must be given.

        Returns:
          (N, C) probabilities.

        Raises:
          ValueError: C is not from 1 to K, or is left out under a trace; ``gamma`` is no such array, or has another K.

        >>> import jaxgmm
        >>> params = jaxgmm.GMMParams.from_moments([1, 1, 2], [[0.0], [0.5], [19.0]], [[[1.0]]] * 3)
        >>> merging = jaxgmm.merge_components(params, [[0.0], [0.2], [19.0]])
        >>> merging.proba(jaxgmm.predict_proba(params, [[0.3], [18.0]]), 2).round(3).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        gamma = checks.check_array("gamma", gamma)
        gamma = jnp.asarray(checks.check_gamma(gamma, len(gamma) if gamma.ndim else 1, len(self.entropy)))
        if n_clusters is None:
            checks.refuse_trace("Merging.proba without n_clusters", "give it, as it decides the shape", self.n_clusters)
            n_clusters = int(self.n_clusters)
        chosen = checks.check_n_clusters(n_clusters, len(self.entropy))
        return gathered(gamma, jnp.asarray(self.cluster)[chosen - 1], chosen)


def merge_components(params: GMMParams, X: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Merging:
    """Merge the components of a mixture into clusters, from K down to 1. Pure.

    Each step merges the two clusters by which the entropy -sum_n w_n sum_c t_nc ln t_nc falls most, t_nc the sum of the
    responsibilities, eq. (5), of the components of cluster c. The suggested number is where two straight lines, joined at it,
    fit the entropy best over the number of samples that the merges from K on have moved: to merge what overlaps lowers it
    much for each sample, to merge what does not, little. Such an elbow is never at 1 or K; look at the entropies.

    Args:
      params: a mixture of K components in D dimensions, such as BIC chooses.
      X: (N, D) samples, in the units of ``params.means``. (N, K) responsibilities and their entropies are held at once, and
        the work is that of N K^2 logarithms.
      sample_weight: (N,) weights w_n, ones without.

    Returns:
      A ``Merging``: a clustering for each number of clusters.

    Raises:
      ValueError: as ``log_likelihood``.

    Source: Baudry, Raftery, Celeux, Lo and Gottardo (2010), Journal of Computational and Graphical Statistics 19.

    >>> import jax, jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1, 1, 1, 1], [[0.0], [0.5], [9.0], [19.0]], [[[1.0]]] * 4)
    >>> jaxgmm.merge_components(params, [[-1.0], [0.2], [0.4], [1.0], [8.0], [9.0], [18.0], [19.0]])
    Merging: entropy in nats; * suggested
    clusters  entropy  merged
           4    2.708
          *3    0.000  0 + 1
           2    0.000  0 1 + 2
           1    0.000  0 1 2 + 3
    """
    X = checks.check_samples(X, params)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    return _merge_components(params, X, sample_weight)


@jax.jit
def _merge_components(params: GMMParams, X: Array, sample_weight: Array | None) -> Merging:
    gamma = jnp.nan_to_num(e_step(params, X)[0])  # a sample beyond the reach of all components says nothing of them
    weight = jnp.ones_like(gamma[:, 0]) if sample_weight is None else sample_weight.astype(gamma.dtype)
    cluster, entropy, moved = merged(gamma, weight)
    n_clusters = elbow(jnp.cumsum(moved[::-1])[::-1], entropy)
    labels = jnp.argmax(gathered(gamma, cluster[n_clusters - 1], gamma.shape[1]), axis=1)
    return Merging(cluster, entropy, moved, n_clusters, labels.astype(jnp.int32))


def merged(gamma: Float[Array, "N K"], weight: Float[Array, " N"]) -> tuple[Array, Array, Array]:
    """``cluster``, ``entropy`` and ``moved`` of a ``Merging``, from responsibilities."""
    n_components = gamma.shape[1]
    place = jnp.arange(n_components, dtype=jnp.int32)
    gamma = jnp.where((weight > 0)[None], gamma.T, 0)

    def falls(c: Array, gamma: Float[Array, "K N"], own: Float[Array, " K"]) -> Float[Array, " K"]:
        """By how much the entropy falls if cluster c is merged with each."""
        return own + own[c] - entropies(gamma + gamma[c][None], weight)

    def merge(state: Any, _: None) -> tuple[Any, tuple[Array, ...]]:
        gamma, own, fall, cluster = state
        live = cluster == place
        pairs = live[:, None] & live[None] & (place[:, None] < place[None])
        a, b = jnp.divmod(jnp.argmax(jnp.where(pairs, fall, -jnp.inf)).astype(jnp.int32), jnp.int32(n_components))
        likeliest = jnp.argmax(gamma, axis=0)
        moved = jnp.sum(jnp.where((likeliest == a) | (likeliest == b), weight, 0))
        gamma = gamma.at[a].add(gamma[b]).at[b].set(0)
        own = own.at[a].set(entropies(gamma[a][None], weight)[0]).at[b].set(0)
        row = falls(a, gamma, own)
        fall = fall.at[a].set(row).at[:, a].set(row)
        after = gamma, own, fall, jnp.where(cluster == b, a, cluster)
        return after, (counted(cluster), jnp.sum(own), moved)

    own = entropies(gamma, weight)
    start = gamma, own, lax.map(lambda c: falls(c, gamma, own), place), place
    end, (clusters, entropy, moved) = lax.scan(merge, start, None, length=n_components - 1)
    # Steps come from K clusters down: a state before each, and an entropy after.
    clusters = jnp.concatenate([clusters, counted(end[3])[None]])
    entropy, moved = jnp.concatenate([jnp.sum(own)[None], entropy]), jnp.concatenate([jnp.zeros_like(moved[:1]), moved])
    return clusters[::-1], entropy[::-1], moved[::-1]


def entropies(gamma: Float[Array, "K N"], weight: Float[Array, " N"]) -> Float[Array, " K"]:
    """-sum_n w_n gamma_kn ln gamma_kn."""
    log_gamma = jnp.log(jnp.where(gamma > 0, jnp.minimum(gamma, 1), 1))  # sums of responsibilities may pass 1 by rounding
    return jnp.sum(weight[None] * (-gamma * log_gamma), axis=1)  # one loop without temporaries


def counted(cluster: Integer[Array, " K"]) -> Integer[Array, " K"]:
    """Clusters named by their first components, counted from 0 instead."""
    first = cluster == jnp.arange(cluster.shape[0], dtype=cluster.dtype)
    return (jnp.cumsum(first, dtype=cluster.dtype) - 1)[cluster]


def gathered(gamma: Float[Array, "N K"], cluster: Integer[Array, " K"], n_clusters: int) -> Float[Array, "N C"]:
    """Sums over the components of each cluster."""
    return contract("nk,kc->nc", gamma, jax.nn.one_hot(cluster, n_clusters, dtype=gamma.dtype))


def elbow(x: Float[Array, " K"], y: Float[Array, " K"]) -> Integer[Array, ""]:
    """The number of points, from the first on, at whose last two least-squares lines meet that leave the least of y."""
    if len(x) < 3:
        return jnp.int32(len(x))
    place = jnp.arange(1, len(x) + 1, dtype=jnp.int32)

    def left(part: Bool[Array, " K"]) -> Float[Array, ""]:
        share = part.astype(x.dtype) / jnp.sum(part, dtype=x.dtype)
        dx, dy = x - jnp.sum(share * x), y - jnp.sum(share * y)
        spread = jnp.sum(share * dx * dx)
        slope = jnp.sum(share * dx * dy) / jnp.where(spread > 0, spread, 1)
        return jnp.sum(jnp.where(part, (dy - slope * dx) ** 2, 0))

    remaining = jax.vmap(lambda n: left(place <= n) + left(place >= n))(place[1:-1])
    return 2 + jnp.argmin(remaining).astype(jnp.int32)
