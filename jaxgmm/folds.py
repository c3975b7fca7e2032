"""Cross-validation: folds are left out by weights of zero, so that all fits see one X, side by side."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool

from jaxgmm.batch import Data
from jaxgmm.em import log_likelihood
from jaxgmm.numerics import apart, float_dtype
from jaxgmm.params import GMMParams
from jaxgmm.result import FitResult


def divided(key: Array, weight: Array | None, n_samples: int, n_folds: int) -> Bool[np.ndarray, "F N"]:
    """Which samples each fold holds: each of positive weight is in one, and their numbers differ by one at most."""
    order = np.asarray(jax.random.permutation(apart(key, n_folds), n_samples)) if n_folds else np.arange(0)
    present = order if weight is None else order[np.asarray(weight)[order] > 0]
    held = np.zeros((n_folds, n_samples), bool)
    held[np.arange(len(present)) % max(n_folds, 1), present] = True
    return held


def with_folds(data: Data, held: Bool[np.ndarray, "F N"], n_restarts: int, n_counts: int) -> Data:
    """What lanes see that are, from the outermost, numbers of components, all samples and without each fold, restarts."""
    n_folds, n_samples = held.shape
    if not n_folds:
        return data
    weight = np.ones(n_samples, float_dtype(data.X)) if data.weight is None else np.asarray(data.weight)
    weights = np.concatenate([weight[None], np.where(held, 0, weight[None])])
    owner = np.tile(np.repeat(np.arange(1 + n_folds, dtype=np.int32), n_restarts), n_counts)
    return Data(data.X, jnp.asarray(weights), jnp.asarray(owner))


def parted(ends: FitResult, n_folds: int) -> tuple[FitResult, GMMParams]:
    """Results (G,) of all samples, and mixtures (G, F) without each fold."""
    apart = jax.tree.map(lambda leaf: leaf.reshape(len(leaf) // (1 + n_folds), 1 + n_folds, *leaf.shape[1:]), ends)
    return jax.tree.map(lambda leaf: leaf[:, 0], apart), jax.tree.map(lambda leaf: leaf[:, 1:], apart.params)


@jax.jit
def held_out(params: GMMParams, X: Array, sample_weight: Array | None, held: Array) -> Array:
    """(G, F) log-likelihood of what each fold holds, of mixtures (G, F)."""

    def of_fold(params: GMMParams, held: Array) -> Array:
        weight = held.astype(params.weights.dtype)
        weight = weight if sample_weight is None else jnp.where(held, sample_weight, 0)
        return log_likelihood(params, X, sample_weight=weight)

    return jax.vmap(jax.vmap(of_fold), in_axes=(0, None))(params, held)
