"""Conjugate distributions: what Dirichlet, stick-breaking and Wishart posteriors expect, and how far they are from the prior.

Divergences of posteriors that saw N samples are of size ln N, but differences of terms of size N ln N. They are written in what
ln Gamma and digamma leave beyond Stirling's formula, so that float32 does not lose them.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

STEPS = 10
"""From this argument on the series below have the digits of float64; a smaller one is moved up by as much, by recurrence. JAX's
own functions compile to twice as much, and a program holds several."""


def _moved_up(a: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Bool[Array, "*shape"], Float[Array, "*shape S"]]:
    """An argument of the series, whether it was moved there, and the steps that it passed."""
    small = a < STEPS
    steps = a[..., None] + jnp.arange(STEPS, dtype=a.dtype).reshape((1,) * a.ndim + (-1,))
    return jnp.where(small, a + STEPS, a), small, steps


def log_gamma_rest(a: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ln Gamma(a) - ((a - 1/2) ln a - a + ln(2 pi) / 2)."""
    x, small, steps = _moved_up(a)
    square = 1 / (x * x)
    series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))) / x
    below = (x - 0.5) * jnp.log(x) - x - ((a - 0.5) * jnp.log(a) - a) - jnp.sum(jnp.log(steps), axis=-1)
    return series + jnp.where(small, below, 0)


def digamma_gap(a: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ln a - digamma(a)."""
    x, small, steps = _moved_up(a)
    square = 1 / (x * x)
    terms = 1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square * (1 / 132 - square * 691 / 32760))))
    return 0.5 / x + square * terms + jnp.where(small, jnp.log(a / x) + jnp.sum(1 / steps, axis=-1), 0)


def digamma(a: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """d ln Gamma(a) / da."""
    return jnp.log(a) - digamma_gap(a)


def gamma_divergence(a: Float[Array, "*shape"], prior: Array) -> Float[Array, "*shape"]:
    """KL(Gamma(a, 1) || Gamma(prior, 1)) - (a - prior), in nats: of the divergences below, the part that does not cancel."""
    remainder = log_gamma_rest(prior) - log_gamma_rest(a)
    return (prior - 0.5) * jnp.log(prior / a) - (a - prior) * digamma_gap(a) + remainder


class Weights(abc.ABC):
    """A prior on the weights of a mixture that stays in its family when samples are counted."""

    name: ClassVar[str]

    @abc.abstractmethod
    def counted(self, concentration: Float[Array, ""], count: Float[Array, " K"]) -> Array:
        """The posterior after N_k samples of each component."""

    @abc.abstractmethod
    def mean(self, posterior: Array) -> Float[Array, " K"]:
        """E pi_k, of sum one."""

    @abc.abstractmethod
    def log_mean(self, posterior: Array) -> Float[Array, " K"]:
        """E ln pi_k."""

    @abc.abstractmethod
    def divergence(self, posterior: Array, concentration: Float[Array, ""]) -> Float[Array, ""]:
        """KL(posterior || prior), nats."""


@dataclass(frozen=True)
class Dirichlet(Weights):
    """pi ~ Dirichlet(alpha_0, ..., alpha_0); the posterior is (K,), alpha_0 + N_k (Bishop 2006, 10.58)."""

    name = "dirichlet"

    def counted(self, concentration: Float[Array, ""], count: Float[Array, " K"]) -> Float[Array, " K"]:
        return concentration + count

    def mean(self, posterior: Float[Array, " K"]) -> Float[Array, " K"]:
        return posterior / jnp.sum(posterior)

    def log_mean(self, posterior: Float[Array, " K"]) -> Float[Array, " K"]:
        return digamma(posterior) - digamma(jnp.sum(posterior))

    def divergence(self, posterior: Float[Array, " K"], concentration: Float[Array, ""]) -> Float[Array, ""]:
        total = gamma_divergence(jnp.sum(posterior), len(posterior) * concentration)
        return jnp.sum(gamma_divergence(posterior, concentration)) - total


@dataclass(frozen=True)
class StickBreaking(Weights):
    """pi_k = v_k prod_{j < k} (1 - v_j), v_k ~ Beta(1, gamma): a Dirichlet process of which the posterior uses K components.

    The posterior is (2, K), the two parameters of each Beta: 1 + N_k and gamma + the samples of later components (Blei and
    Jordan 2006). All K sticks are free, as in Kurihara, Welling and Vlassis (2007) and in scikit-learn: what is left of the
    stick belongs to components without samples, and ``mean`` is scaled to sum one.
    """

    name = "dirichlet_process"

    def counted(self, concentration: Float[Array, ""], count: Float[Array, " K"]) -> Float[Array, "2 K"]:
        later = jnp.concatenate([jnp.cumsum(count[::-1])[-2::-1], jnp.zeros_like(count[:1])])
        return jnp.stack([1 + count, concentration + later])

    def mean(self, posterior: Float[Array, "2 K"]) -> Float[Array, " K"]:
        taken, left = posterior / jnp.sum(posterior, axis=0, keepdims=True)
        weights = taken * jnp.concatenate([jnp.ones_like(left[:1]), jnp.cumprod(left[:-1])])
        return weights / jnp.sum(weights)

    def log_mean(self, posterior: Float[Array, "2 K"]) -> Float[Array, " K"]:
        taken, left = digamma(posterior) - digamma(jnp.sum(posterior, axis=0, keepdims=True))
        return taken + jnp.concatenate([jnp.zeros_like(left[:1]), jnp.cumsum(left[:-1])])

    def divergence(self, posterior: Float[Array, "2 K"], concentration: Float[Array, ""]) -> Float[Array, ""]:
        taken = gamma_divergence(posterior[0], jnp.ones_like(concentration))
        left = gamma_divergence(posterior[1], concentration)
        return jnp.sum(taken + left - gamma_divergence(jnp.sum(posterior, axis=0), 1 + concentration))


WEIGHTS: dict[str, Weights] = {weights.name: weights for weights in (Dirichlet(), StickBreaking())}


def wishart_log_det(dof: Float[Array, "*shape"], lacking: np.ndarray, n_features: int) -> Float[Array, "*shape"]:
    """E ln |Lambda| - ln |E Lambda| of a Wishart distribution.

    Args:
      dof: degrees of freedom.
      lacking: how many fewer each chi-squared factor of |Lambda| has, ``Structure.lacking``. Fewer factors than features: each
        stands for as many features, and has as many times the degrees of freedom.
      n_features: D.
    """
    whole = n_features // len(lacking) * dof[..., None]
    lost = _along(lacking, whole) / whole
    excess = jnp.log1p(-lost) - digamma_gap((whole - lost * whole) / 2)
    return n_features // len(lacking) * jnp.sum(excess, axis=-1)


def wishart_divergence(
    dof: Float[Array, "*shape"], prior: Float[Array, ""], lacking: np.ndarray, n_features: int
) -> Float[Array, "*shape"]:
    """KL of two Wishart distributions, nats, but for tr(V_0 E Lambda) / 2 and dof_0 / 2 (ln |V| - ln |V_0| - D)."""
    times = n_features // len(lacking)
    posterior, before = ((times * value[..., None] - _along(lacking, value[..., None])) / 2 for value in (dof, prior))
    return jnp.sum(gamma_divergence(posterior, jnp.broadcast_to(before, posterior.shape)), axis=-1)


def _along(lacking: np.ndarray, like: Float[Array, "*shape 1"]) -> Float[Array, "*_ F"]:
    """In the rank and dtype of ``like``."""
    return jnp.asarray(lacking.astype(like.dtype)).reshape((1,) * (like.ndim - 1) + (-1,))
