"""Ward's hierarchical clustering, of so few samples that all pairs can be looked at.

Source: Ward (1963), "Hierarchical grouping to optimize an objective function", Journal of the American Statistical
Association 58.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm.clusters import OUT_OF_REACH, Frame
from jaxgmm.numerics import contract, evenly, place, varying_with

ENOUGH = 400
"""Samples that are clustered: the work is that of the cube of their number."""


class Tree(NamedTuple):
    """What is left of the clusters."""

    centres: Array  # (n, D)
    size: Array  # (n,) weight; zero of those that were merged into another
    cost: Array  # (n, n) by how much a merge raises the sum of squares; infinite where there is none


def ward(
    uniforms: Float[Array, "T K"],
    z: Float[Array, "D N"],
    weight: Float[Array, " N"],
    n_used: Array | int,
    *,
    least: Array | int,
    frame: Frame,
) -> Float[Array, "K D"]:
    """Centres of the ``n_used`` clusters that are left when pairs have been merged, the cheapest first; others out of reach.

    A merge of clusters a and b raises the sum of squares by n_a n_b / (n_a + n_b) |c_a - c_b|^2, features in standard
    deviations: white coordinates would blow up the directions in which clusters do not differ. Of more than ``ENOUGH`` samples
    one is taken from each n-th of the weight.
    """
    n_components = uniforms.shape[1]
    n = min(max(ENOUGH, n_components), z.shape[1])
    unit = jnp.sqrt(jnp.diagonal(frame.cov))
    points, size = frame.unwhite(z.T) / unit[None], weight
    if n < z.shape[1]:
        within = (evenly(n, weight.dtype) + uniforms[0, 0]) % 1
        points = points[place((jnp.arange(n, dtype=weight.dtype) + within) / n, weight)]
        size = jnp.ones_like(within)

    def costs(a: Array, centres: Float[Array, "n D"], size: Float[Array, " n"]) -> Float[Array, " n"]:
        share = size * size[a] / jnp.maximum(size + size[a], jnp.finfo(size.dtype).tiny)
        cost = share * jnp.sum((centres - centres[a][None]) ** 2, axis=1)
        return jnp.where((size > 0) & (size[a] > 0) & (jnp.arange(n, dtype=jnp.int32) != a), cost, jnp.inf)

    def merge(tree: Tree) -> Tree:
        a, b = jnp.divmod(jnp.argmin(tree.cost).astype(jnp.int32), jnp.int32(n))
        total = tree.size[a] + tree.size[b]
        centre = (tree.size[a] * tree.centres[a] + tree.size[b] * tree.centres[b]) / total
        centres, size = tree.centres.at[a].set(centre), tree.size.at[a].set(total).at[b].set(0)
        row = costs(a, centres, size)
        cost = tree.cost.at[b].set(jnp.inf).at[:, b].set(jnp.inf).at[a].set(row).at[:, a].set(row)
        return Tree(centres, size, cost)

    cost = lax.map(lambda a: costs(a, points, size), jnp.arange(n, dtype=jnp.int32))
    start = varying_with(Tree(points, size, cost), z, weight)
    tree = lax.while_loop(lambda tree: jnp.sum(tree.size > 0, dtype=jnp.int32) > n_used, merge, start)
    left = jnp.argsort(tree.size <= 0, stable=True)[:n_components]
    used = jnp.arange(n_components, dtype=jnp.int32) < n_used
    white = contract("ij,kj->ki", frame.whitener, tree.centres[left] * unit[None])
    return jnp.where(used[:, None], white, OUT_OF_REACH)
