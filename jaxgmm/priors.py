"""Conjugate priors as pseudo-observations: sums that are added to those of the samples, eqs. (7), (8) and (11).

Sources: Dempster, Laird and Rubin (1977), see ``e_step``, for the posterior in the place of the likelihood; Fraley and Raftery
(2007), "Bayesian regularization for normal mixture estimation and model-based clustering", Journal of Classification 24.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm import checks, checks_params
from jaxgmm.contract import mean_and_scatter
from jaxgmm.numerics import contract, float_dtype, samples_per_weight
from jaxgmm.params import GMMParams
from jaxgmm.rounding import difference
from jaxgmm.structures import Structure, get_structure
from jaxgmm.sums import Statistics

SHRINKAGE = 0.01
"""Samples at the mean of X that each mean is drawn to by default, as in mclust."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Prior:
    """A conjugate prior on weights, means and covariances: an immutable pytree of what each component has seen before.

    Up to a constant, with a Dirichlet prior on the weights and a normal-inverse-Wishart one on means and covariances,

        ln p = sum_k weight ln pi_k - (count ln |Sigma_k| + tr(scatter Sigma_k^-1)
               + shrinkage (mu_k - mean)^T Sigma_k^-1 (mu_k - mean)) / 2,

    so that the M-step of the posterior is eqs. (7), (8) and (11) with these samples besides. All zeros is no prior, exactly.

    Attributes:
      weight: () samples more in eq. (11): the concentration of the Dirichlet distribution less one.
      shrinkage: () samples more in eq. (7), all of them at ``mean``.
      mean: (D,) data units.
      count: () samples more in eq. (8): of an inverse-Wishart distribution its degrees of freedom and D + 2.
      scatter: (D, D) what they add to sum_n gamma_nk (x_n - mu_k)(x_n - mu_k)^T, squared data units.

    >>> import jax, jaxgmm
    >>> X = [[0.0], [0.0], [0.0], [9.0], [9.2], [9.4]]
    >>> prior = jaxgmm.default_prior(X, 2)
    >>> result = jaxgmm.fit(jax.random.key(0), X, 2, prior=prior)
    >>> bool(result.params.cov.min() > 0.5), bool(result.log_posterior < result.log_likelihood)
    (True, True)
    """

    weight: Array  # ()
    shrinkage: Array  # ()
    mean: Array  # (D,)
    count: Array  # ()
    scatter: Array  # (D, D)


def default_prior(
    X: ArrayLike,
    n_components: int,
    covariance_type: str | Structure = "full",
    *,
    concentration: ArrayLike = 1.0,
    shrinkage: ArrayLike = SHRINKAGE,
    mean: ArrayLike | None = None,
    dof: ArrayLike | None = None,
    scale: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> Prior:
    """A weak prior at the scale of the data, as mclust's ``priorControl`` and ``defaultPrior`` have it.

    It keeps components off single samples, and moves well supported ones little. What an inverse-Wishart distribution of
    ``dof`` and ``scale`` counts for depends on the family: components that share all of a covariance share the prior of it, and
    the sums of each family are those of Fraley and Raftery (2007). For EII and EEI, where mclust 6.0 ignores the scale and
    the shrinkage, and for VEE, EVE, VVE and EVV, which it leaves out, the rules are ours: of the first two that of EEE for
    spheres and diagonals, of the others that of VVV. So it is for factor analysers, whatever they share: the prior is on each
    L_k L_k^T + Psi_k.

    Args:
      X: (N, D) samples, in data units.
      n_components: K, that of the fit.
      covariance_type: structure of the fit, or its name.
      concentration: of the Dirichlet prior on the weights; one is flat. At least one: below it has no mode.
      shrinkage: samples at ``mean`` that each mu_k is drawn to; zero leaves means free.
      mean: (D,) data units; the mean of X without.
      dof: degrees of freedom; D + 2 without, the fewest at which Sigma has a mean.
      scale: () or (D, D), squared data units; a number stands for that number times the identity. Without, the covariance of X
        (the mean of its variances for families without correlation) over K^(2 / D).
      sample_weight: (N,) weights: zero is absent, two is seen twice. Samples of the prior are units of it.

    Returns:
      A ``Prior`` in the dtype of X.

    Raises:
      ValueError: X as in ``e_step``, or not finite; hyper-parameters that are not finite, or below zero; a concentration below
        one; shapes that do not fit; a structure of no known name; weights as in ``fit_from``.

    Source: Fraley and Raftery (2007), Journal of Classification 24.

    >>> import jaxgmm
    >>> prior = jaxgmm.default_prior([[0.0], [2.0]], 1)
    >>> float(prior.count), prior.scatter.tolist()
    (6.0, [[2.0]])
    """
    X = checks.check_samples(X)
    sample_weight = checks.check_sample_weight(sample_weight, X.shape[0])
    n_components = checks.check_int("n_components", n_components, 1)
    structure = get_structure(covariance_type, X.shape[1])
    n_features, dtype = X.shape[1], float_dtype(X)
    numbers = {"shrinkage": shrinkage, "dof": n_features + 2 if dof is None else dof, "concentration": concentration}
    for name, value in numbers.items():
        checks.check_nonnegative(name, value)
    checks_params.check_concentration(concentration)
    shrinkage, dof, concentration = (jnp.asarray(value).astype(dtype) for value in numbers.values())
    offset, samples = None, X
    if isinstance(X, np.ndarray) and not checks.is_traced(sample_weight) and X.dtype == np.float64 and dtype == jnp.float32:
        present = X if sample_weight is None else X[np.asarray(sample_weight) > 0]
        samples = X - (offset := present.mean(axis=0))  # JAX would round them first
    weight = jnp.ones(X.shape[0], dtype) if sample_weight is None else jnp.asarray(sample_weight).astype(dtype)
    centre, scatter, total = mean_and_scatter(jnp.asarray(samples), weight * samples_per_weight(weight))
    if not checks.is_traced(scatter) and not np.isfinite(np.asarray(scatter)).all():
        checks.check_values(np.asarray(X), None if sample_weight is None else np.asarray(sample_weight), dtype)
    if scale is None:
        unit = structure.prior_scale(scatter / jnp.maximum(total - 1, 1)) / n_components ** (2 / n_features)
    else:
        given = jnp.asarray(checks_params.check_scale(scale, n_features)).astype(dtype)
        unit = given if given.ndim else given * jnp.eye(n_features, dtype=dtype)
    if offset is not None:
        centre = offset + np.asarray(centre, np.float64)
    centre = centre if mean is None else jnp.asarray(checks.check_finite("mean", mean, (n_features,))).astype(dtype)
    count, share = structure.prior_samples(dof, (shrinkage > 0).astype(dtype), n_components, n_features)
    return Prior(concentration - 1, shrinkage, centre, count, share * unit)


def cast_prior(prior: Prior, dtype: jnp.dtype, offset: Any = None) -> Prior:
    """The same prior in another dtype, of samples less ``offset``, or less each of several."""
    if offset is not None:
        prior = replace(prior, mean=difference(prior.mean, offset, dtype))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), prior)


def pseudo_observations(prior: Prior, params: GMMParams, used: Float[Array, " K"] | None = None) -> Statistics:
    """What a prior adds to the sums under a mixture: moments about its means, and ln p in the place of a likelihood.

    N_k stays that of the samples: ``counts`` tells what each equation has more, and added here a strong prior would take the
    digits of it. Only components in use have any.
    """
    structure = params.structure
    used = jnp.ones_like(params.weights) if used is None else used
    pull = prior.shrinkage * used
    away = prior.mean[None] - params.means
    dense = used[:, None, None] * prior.scatter[None] + pull[:, None, None] * away[:, :, None] * away[:, None, :]
    whitener = structure.whitener(params.cov, params.n_components, params.n_features)
    second = structure.as_second_moment(dense, whitener)
    held = jnp.maximum(params.weights, jnp.finfo(params.weights.dtype).tiny)  # finite where a component is empty
    log_weights = prior.weight * jnp.log(jnp.where(used > 0, held, 1))
    log_density = jnp.sum(log_weights) - contract("k,k->", prior.count * used, whitener.log_det) / 2
    still = structure.as_second_moment(dense, jax.lax.stop_gradient(whitener))  # what is seen through a lens moves with it
    log_density = log_density - structure.quadratic(whitener.factor, still) / 2
    zero = jnp.zeros_like(log_density)
    return Statistics(zero, jnp.zeros_like(pull), pull[:, None] * away, second, log_density, zero)


def counts(prior: Prior | None, count: Array, used: Float[Array, " K"] | None = None) -> tuple[Array, Array, Array]:
    """N_k of eqs. (7), (8) and (11), from that of the samples."""
    if prior is None:
        return count, count, count
    used = jnp.ones_like(count) if used is None else used
    return count + prior.shrinkage * used, count + prior.count * used, count + prior.weight * used
