"""The mixture as a distribution over mixtures: q(pi) prod_k q(mu_k, Lambda_k), its updates and its distance from the prior.

Under the prior pi is Dirichlet or stick-breaking, mu_k is N(m_0, (kappa_0 Lambda_k)^-1), and the precisions are Wishart(nu_0,
V_0): one matrix a component (full), one shared by all (tied), one number a component and feature (diag) or a component
(spherical). So

    E Lambda_k = nu_k V_k^-1,    mu_k | Lambda_k ~ N(m_k, (kappa_k Lambda_k)^-1)

under the posterior, and what is stored of V_k is Sigma_k = V_k / nu_k, in the form in which the structure stores a covariance.

Source: Bishop (2006), "Pattern Recognition and Machine Learning", section 10.2; Blei and Jordan (2006), "Variational inference
for Dirichlet process mixtures", Bayesian Analysis 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from jaxgmm import blocks
from jaxgmm.conjugate import Weights, wishart_divergence, wishart_log_det
from jaxgmm.contract import deviations, log_gaussians
from jaxgmm.em import bayes
from jaxgmm.numerics import float_dtype
from jaxgmm.params import GMMParams, cast, less
from jaxgmm.rounding import difference
from jaxgmm.structures import Structure
from jaxgmm.structures.base import Whitener
from jaxgmm.sums import Statistics

EMPTY = 10
"""Rounding errors that a component without samples has as scatter, in each direction, in the estimator: scikit-learn counts so
many samples to it, at the origin."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Hyperparameters:
    """The prior of variational Bayes; what is None is taken from the data, so that their units do not matter.

    Attributes:
      concentration: () alpha_0 of the Dirichlet, or gamma of the Dirichlet process, positive: the smaller, the fewer components
        are used. 1 / K without.
      shrinkage: () kappa_0, positive: samples that ``mean`` is worth. 1 without.
      mean: (D,) m_0, data units. The mean of the samples without.
      dof: () nu_0, samples that ``scale`` is worth: above D - 1 for full and tied, above 0 for diag and spherical, whose
        precisions are numbers. D without.
      scale: V_0, squared data units, a scatter: 1 / nu_0 times it is the covariance expected. (D, D) positive definite for full
        and tied, (D,) for diag, () for spherical. The covariance of the samples without, and of each variance
        1e-6 added, or what rounding needs if that is more.

    >>> import jaxgmm
    >>> jaxgmm.Hyperparameters(concentration=0.01).shrinkage is None
    True
    """

    concentration: Any = None
    shrinkage: Any = None
    mean: Any = None
    dof: Any = None
    scale: Any = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Posterior:
    """A variational posterior over Gaussian mixtures: an immutable pytree.

    Attributes:
      concentration: (K,) of the Dirichlet, alpha_0 + N_k; or (2, K) of the sticks, 1 + N_k and gamma + sum_{j > k} N_j.
      shrinkage: (K,) kappa_k = kappa_0 + N_k, samples.
      means: (K, D) m_k = E mu_k, data units.
      dof: (K,) nu_k = nu_0 + N_k; () nu_0 + N for tied.
      cov: V_k / nu_k, the inverse of E Lambda_k, squared data units, stored as in ``GMMParams``.
      prior: the hyper-parameters, none of them None.
      structure: static; how ``cov`` is to be read.
      weights: static; the kind of prior on the weights.

    >>> import jax, jaxgmm
    >>> X = [[0.0], [0.1], [0.2], [0.3], [0.4], [9.0], [9.1], [9.2], [9.3], [9.4]]
    >>> posterior = jaxgmm.fit_variational(jax.random.key(0), X, 3, weights="dirichlet").posterior
    >>> posterior.mixture.weights.round(1).sort().tolist()
    [0.0, 0.5, 0.5]
    """

    concentration: Array  # (K,) or (2, K)
    shrinkage: Array  # (K,)
    means: Array  # (K, D)
    dof: Array  # (K,) or ()
    cov: Array  # per structure
    prior: Hyperparameters
    structure: Structure = field(metadata={"static": True})
    weights: Weights = field(metadata={"static": True})

    @property
    def n_components(self) -> int:
        """K."""
        return self.means.shape[-2]

    @property
    def n_features(self) -> int:
        """D."""
        return self.means.shape[-1]

    @property
    def mixture(self) -> GMMParams:
        """The mixture of expected weights, means and precisions, for ``predict``, ``log_prob`` and all else."""
        weights: Callable[[Array], Array] = self.weights.mean
        for _ in range(self.means.ndim - 2):
            weights = jax.vmap(weights)
        return GMMParams(weights(self.concentration), self.means, self.cov, self.structure)


def carried(posterior: Posterior, offset: Float[Array, " D"]) -> Posterior:
    """The posterior of ``x + offset``."""
    prior = replace(posterior.prior, mean=posterior.prior.mean + offset)
    return replace(posterior, means=posterior.means + offset[None], prior=prior)


def start_less(start: GMMParams | Posterior, offset: np.ndarray | None, dtype: jnp.dtype) -> GMMParams | Posterior:
    """The start of ``x - offset`` in another dtype, to which means are rounded once they are small."""
    if isinstance(start, GMMParams):
        return less(start, offset, dtype)
    if offset is not None:
        prior = replace(start.prior, mean=difference(start.prior.mean, offset, dtype))
        start = replace(start, means=difference(start.means, offset, dtype), prior=prior)
    return cast(start, dtype)


def absorbed(
    means: Float[Array, "K D"],
    sums: Statistics,
    prior: Hyperparameters,
    structure: Structure,
    weights: Weights,
    noise: Float[Array, ""] | None = None,
) -> Posterior:
    """The posterior that maximises the bound at fixed responsibilities (Bishop 2006, 10.58 to 10.63).

        kappa_k = kappa_0 + N_k,  nu_k = nu_0 + N_k,  m_k = (kappa_0 m_0 + N_k xbar_k) / kappa_k,
        V_k = V_0 + N_k S_k + kappa_0 N_k / kappa_k (xbar_k - m_0)(xbar_k - m_0)^T

    Args:
      means: what the moments of ``sums`` are about.
      sums: of the samples under their responsibilities.
      prior: all of its numbers.
      structure: of the precisions.
      weights: kind of prior on the weights.
      noise: a variance that is added to each S_k of samples whose scale is about one.
    """
    count = sums.count
    seen = count > jnp.finfo(count.dtype).tiny
    shift = jnp.where(seen[:, None], sums.first / jnp.where(seen, count, 1)[:, None], 0)
    shrinkage = prior.shrinkage + count
    away = means + shift - prior.mean[None]
    scatter = structure.recentre(
        None, -(prior.shrinkage * count / shrinkage), away, structure.recentre(None, count, shift, sums.second)
    )
    scatter = jnp.broadcast_to(prior.scale, scatter.shape) + scatter
    mass = count if structure.by_component else jnp.sum(count)
    dof = prior.dof + mass
    per_dof = scatter / jnp.expand_dims(dof, tuple(range(dof.ndim, scatter.ndim)))
    cov = stored(structure, per_dof)
    number = jnp.finfo(cov.dtype)
    if noise is None:
        # What rounding may have made singular is bounded: that factors exist may be luck, and not so in the next program. A
        # prior inside of the bound asks for less; then only what has no factors is.
        smallest = jnp.full_like(means[0], number.tiny)
        scale = jnp.broadcast_to(prior.scale, cov.shape)
        asked = jnp.any(structure.floored(scale, smallest) != scale)
        found = jnp.all(jnp.isfinite(structure.whitener(cov, *means.shape).log_det))
        cov = jnp.where(asked & found, cov, structure.floored(cov, smallest))
    else:
        widened = jax.vmap(structure.widened) if structure.by_component else structure.widened
        # The prior alone may be singular.
        empty = EMPTY * number.eps
        cov = widened(cov, jnp.where(mass > empty, noise * mass, empty) / dof)
    return Posterior(
        weights.counted(prior.concentration, count),
        shrinkage,
        prior.mean[None] + (count / shrinkage)[:, None] * away,
        dof,
        cov,
        prior,
        structure,
        weights,
    )


def stored(structure: Structure, moments: Array) -> Array:
    """Second moments of samples, such as ``Statistics.second`` over a count, in the form of covariances."""
    n = len(moments) if structure.by_component else 1
    nothing = jnp.zeros(structure.shape(n, moments.shape[-1]), moments.dtype)
    return structure.estimate(jnp.ones((n,), moments.dtype), moments, nothing)


def log_joint(posterior: Posterior) -> Float[Array, " K"]:
    """What E ln(pi_k N(x | mu_k, Sigma_k)) has beyond ln N(x | m_k, Sigma_k) with Sigma_k the inverse of E Lambda_k."""
    n_features = posterior.n_features
    excess = wishart_log_det(posterior.dof, posterior.structure.lacking(n_features), n_features)
    return posterior.weights.log_mean(posterior.concentration) + (excess - n_features / posterior.shrinkage) / 2


def responsible(posterior: Posterior) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Responsibilities and ln sum_k exp E ln(pi_k N(x | mu_k, Sigma_k)): eq. (5) in expectation, for ``contract.expect``."""
    log_weight = log_joint(posterior)  # of an empty component far below what an exponential holds

    def assign(weights: Float[Array, " K"], log_density: Float[Array, "K B"]) -> tuple[Array, Array]:
        return bayes(jnp.ones_like(weights), log_density + log_weight[:, None])

    return assign


def from_prior(posterior: Posterior, whitener: Whitener) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """sum_k tr(V_0 E Lambda_k), of a shared Lambda once, and sum_k kappa_0 (m_k - m_0)^T E Lambda_k (m_k - m_0)."""
    prior, structure = posterior.prior, posterior.structure
    white = structure.whiten(whitener.factor, (posterior.means - prior.mean[None])[:, :, None])
    scatter = jnp.broadcast_to(prior.scale, structure.like_moments(posterior.means).shape)
    return structure.quadratic(whitener.factor, scatter), prior.shrinkage * jnp.sum(white * white)


def divergence(posterior: Posterior, whitener: Whitener, prior_volume: Float[Array, ""]) -> Float[Array, ""]:
    """KL(q(pi) || p(pi)) + sum_k KL(q(mu_k, Lambda_k) || p(mu_k, Lambda_k)), nats.

    Args:
      posterior: as it is.
      whitener: of ``posterior.cov``.
      prior_volume: ln |V_0|, of ``volume``.
    """
    prior, structure, n_features = posterior.prior, posterior.structure, posterior.n_features
    of_scale, of_mean = from_prior(posterior, whitener)
    ratio = prior.shrinkage / posterior.shrinkage
    of_means = (jnp.sum(n_features * (ratio - 1 - jnp.log(ratio))) + of_mean) / 2
    # One Wishart a component, or one in all.
    log_det = whitener.log_det if structure.by_component else whitener.log_det[0]
    shrunk = log_det + n_features * jnp.log(posterior.dof) - prior_volume - n_features
    apart = wishart_divergence(posterior.dof, prior.dof, structure.lacking(n_features), n_features)
    of_precisions = jnp.sum(apart + prior.dof / 2 * shrunk) + of_scale / 2
    return posterior.weights.divergence(posterior.concentration, prior.concentration) + of_means + of_precisions


def gain(old: Posterior, new: Posterior, whiteners: tuple[Whitener, Whitener], sums: Statistics) -> Float[Array, ""]:
    """sum_nk gamma_nk (E_new - E_old) ln(pi_k N(x_n | mu_k, Sigma_k)) under the responsibilities of ``sums``, which are those
    that ``new`` has counted, about the old means."""
    structure = old.structure
    scatter = structure.recentre(None, sums.count, jnp.zeros_like(sums.first), sums.second)
    before = structure.quadratic(whiteners[0].factor, scatter)
    after = old.n_features * jnp.sum(new.dof) - sum(from_prior(new, whiteners[1]))
    each = log_joint(new) - log_joint(old) - (whiteners[1].log_det - whiteners[0].log_det) / 2
    return jnp.sum(sums.count * each) - (after - before) / 2


def volume(structure: Structure, scale: Array, n_features: int) -> Float[Array, ""]:
    """ln |V_0|."""
    return structure.whitener(scale[None] if structure.by_component else scale, 1, n_features).log_det[0]


@jax.jit
def expected_e_step(posterior: Posterior, X: Shaped[Array, "N D"]) -> tuple[Array, Array]:
    """Responsibilities (N, K), and ln sum_k exp E ln(pi_k N(x_n | mu_k, Sigma_k)), (N,) nats."""
    posterior = jax.tree.map(lambda leaf: leaf.astype(float_dtype(X)), posterior)
    mixture, assign = posterior.mixture, responsible(posterior)
    whitener = mixture.structure.whitener(mixture.cov, *mixture.means.shape)

    def block(x: Float[Array, "D B"]) -> tuple[Array, Array]:
        log_density = log_gaussians(mixture.structure, whitener, deviations(mixture.means, x))
        gamma, log_px = assign(mixture.weights, log_density)
        return gamma.T, log_px

    size = blocks.block_size(X.shape[0], mixture.means.size, mixture.means.dtype.itemsize)
    return blocks.map_samples(block, X, size, mixture.means.dtype)
