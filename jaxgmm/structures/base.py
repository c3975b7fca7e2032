"""What a covariance structure is, and the two kinds of storage that structures share.

A structure is a frozen dataclass without arrays; its arrays sit in ``GMMParams.cov``, and every method is a pure function
of them. ``Dense`` structures store D x D matrices, ``Diagonal`` ones variances. A new structure derives from one of the
two, defines what differs (above all ``estimate``), and takes a row in the table of ``structures/__init__.py``. One that stores
something else derives from ``Structure`` itself.

Shapes: diff (K, D, B) samples minus means, feature-major; gamma (K, B); count (K,); shift (K, D) new means minus old.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Integer

from jaxgmm.numerics import apply_if, contract
from jaxgmm.structures.matrices import binds, clip, exp_cholesky, factors, log_cholesky

T = TypeVar("T")


class Inner(enum.IntEnum):
    """Most turns, within one M-step, of what a family without a closed form repeats."""

    END = 200  # until nothing moves: the likeliest member
    FEW = 3  # a step of EM: it rises as well, and the next one goes on from there (DECISIONS 39)
    ONE = 1  # in a form with a reverse mode and the same fixed point


class Whitener(NamedTuple):
    """What turns ``x - mu_k`` into standard normal coordinates, and the volume that takes."""

    factor: Array  # per structure; a leading axis of K where ``cov`` has one
    log_det: Array  # (K,), ln |Sigma_k|


@dataclass(frozen=True)
class Structure(abc.ABC):
    """A family of covariances Sigma_1 ... Sigma_K."""

    by_component: ClassVar[bool] = True
    """Has ``cov`` a leading axis of components?"""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What ``get_structure`` knows it by."""

    # The family.
    @abc.abstractmethod
    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        """The member that maximises the likelihood, eq. (8) within the family, and inside the bound.

        Args:
          count: N_k.
          scatter: sum_n gamma_nk (x_n - mu_k)(x_n - mu_k)^T about the new means, as ``recentre`` gives it.
          previous: what a component without weight keeps, and where a family without a closed form goes on from.
          floor: (D,) least variances, see ``floored``; None for no bound.
          inner: how far a family without a closed form goes from ``previous``.
        """

    @abc.abstractmethod
    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``cov``."""

    def least_features(self) -> int:
        """Features without which the family does not exist."""
        return 1

    def unequal(self, cov: np.ndarray) -> str:
        """What differs in ``cov`` though it is one number stored several times; nothing for a family that does not look."""
        return ""

    @abc.abstractmethod
    def n_free(self, n_components: int, n_features: int) -> int:
        """Free parameters of the covariances."""

    @abc.abstractmethod
    def least_weight(self, n_features: int) -> int:
        """Samples that a component needs before its own covariance is determined."""

    @abc.abstractmethod
    def dense(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D D"]:
        """The covariances as full matrices."""

    @abc.abstractmethod
    def variances(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D"]:
        """The diagonals of the covariances: the variance of each feature."""

    @abc.abstractmethod
    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        """The member nearest to full matrices, as ``estimate`` would take it from their samples; ``inner`` is its."""

    def alike(self, weights: Float[Array, " K"], dense: Float[Array, "D D"]) -> Array:
        """``from_dense`` of one matrix for all components."""
        return self.from_dense(weights, jnp.broadcast_to(dense, (len(weights), *dense.shape)))

    # The density.
    @abc.abstractmethod
    def whitener(self, cov: Array, n_components: int, n_features: int) -> Whitener:
        """Factor the covariances."""

    @abc.abstractmethod
    def whiten(self, factor: Array, diff: Float[Array, "K D B"]) -> Float[Array, "K _ B"]:
        """W_k diff with W_k^T W_k = Sigma_k^-1: coordinates whose squares add up to the Mahalanobis distance."""

    @abc.abstractmethod
    def root(self, cov: Array) -> Array:
        """The factor R with Sigma = R R^T that ``colour`` takes."""

    def n_noise(self, n_features: int) -> int:
        """Columns of R."""
        return n_features

    @abc.abstractmethod
    def colour(self, root: Array, label: Integer[Array, ""], noise: Float[Array, " _"]) -> Float[Array, " D"]:
        """R_label noise: standard normal noise given the covariance of component ``label``."""

    # The sums. What a family sees of the samples may depend on the covariances under which it looks: then there is a lens.
    def lens(self, cov: Array, n_components: int, n_features: int) -> Array | None:
        """The whitener's factor, if the sums are taken through it."""
        return None

    @abc.abstractmethod
    def second_moment(self, lens: Array | None, gamma: Float[Array, "K B"], diff: Float[Array, "K D B"]) -> Array:
        """Sum over the block of gamma diff diff^T, as much of it as the family needs."""

    def like_moments(self, means: Float[Array, "K D"]) -> jax.ShapeDtypeStruct:
        """Shape and dtype of second moments about these means."""
        no_gamma, no_diff = (jax.ShapeDtypeStruct((*shape, 0), means.dtype) for shape in (means.shape[:1], means.shape))
        return jax.eval_shape(self.second_moment, None, no_gamma, no_diff)

    @abc.abstractmethod
    def recentre(self, lens: Array | None, count: Array, shift: Float[Array, "K D"], second: Array) -> Array:
        """Second moments about the old means moved to the new means: the scatter."""

    @abc.abstractmethod
    def feature_variance(
        self, lens: Array | None, count: Array, scatter: Array
    ) -> tuple[Float[Array, "J D"], Float[Array, " J"]]:
        """Variance of each feature within each component, and their weights; a pooled structure has one row."""

    @abc.abstractmethod
    def quadratic(self, factor: Array, scatter: Array) -> Float[Array, ""]:
        """sum_k tr(Sigma_k^-1 W_k) of scatters W_k, stored as ``recentre`` gives them; if seen through a lens, to first order
        in what ``factor`` differs from it."""

    # A prior on the covariances.
    @abc.abstractmethod
    def as_second_moment(self, dense: Float[Array, "K D D"], whitener: Whitener) -> Array:
        """Second moments given as matrices, stored as ``second_moment`` stores them."""

    def prior_samples(self, dof: Array, shrunk: Array, n_components: int, n_features: int) -> tuple[Array, float]:
        """What an inverse-Wishart prior of ``dof`` adds to each N_k in eq. (8), and the share of its scale in each scatter.

        The sums are mclust's, family by family (see ``default_prior``). ``shrunk``: one if means have a prior, too, else zero.
        """
        return dof + n_features + 2, 1.0

    @abc.abstractmethod
    def prior_scale(self, cov: Float[Array, "D D"]) -> Float[Array, "D D"]:
        """The scale of a prior for data of this covariance."""

    def lacking(self, n_features: int) -> np.ndarray:
        """Under a Wishart prior on the precisions |Lambda| is a product of chi-squared variables: what each lacks in degrees of
        freedom, one for all features or one a feature. Only of ``CLASSICS``, whose prior is conjugate."""
        return np.arange(n_features)

    # The bound.
    @abc.abstractmethod
    def floored(self, cov: Array, floor: Float[Array, " D"] | None) -> Array:
        """A member with Sigma_k - diag(floor) positive semidefinite, or, of principal axes, as wide as the floor along each,
        or, of factors, with at least the floor as noise.

        From the unbounded maximum of a family with a closed form it is the likeliest.
        """

    @abc.abstractmethod
    def widened(self, cov: Array, variance: Float[Array, ""]) -> Array:
        """Sigma_k + variance 1."""

    @abc.abstractmethod
    def narrowness(self, factor: Array, n_components: int, unit: Float[Array, " D"]) -> Float[Array, " K"]:
        """How large Sigma_k^-1 is, features measured in ``unit``, what the narrowest direction decides: its Frobenius norm, or
        its trace where the norm would need a D x D matrix. ``factor`` is the whitener's."""

    @abc.abstractmethod
    def narrower(self, weights: Float[Array, " K"], cov: Array, share: Float[Array, " K"]) -> Bool[Array, " K"]:
        """Has a component in some direction less than its ``share`` of the variance of the pooled covariance?"""

    # Free coordinates, for extrapolation.
    @abc.abstractmethod
    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        """``cov`` as unconstrained numbers, features measured in ``unit``."""

    @abc.abstractmethod
    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        """The way back."""


class Expandable(Structure):
    """A family with the fast forms of ``contract``.

    About one centre that all components share, the density is linear in a few features of a sample, products of coordinates of
    (x, 1), so that one large multiplication serves all components, and a second one gives the sums.
    """

    separate: ClassVar[bool] = False
    """Has each component a matrix of its own? Then whitening all at once is worth a form of its own: ``contract.WHITENED``."""

    @abc.abstractmethod
    def features(self, factor: Array, x: Float[Array, "D B"]) -> tuple[Float[Array, "_ B"], ...]:
        """What the density is linear in, and the sums, but for what ``sum_features`` adds."""

    @abc.abstractmethod
    def coefficients(self, factor: Array, means: Float[Array, "K D"]) -> tuple[Float[Array, "K _"], ...]:
        """-(x - mu_k)^T P_k (x - mu_k) / 2 in terms of the features."""

    def sum_features(self, gamma: Float[Array, "K B"], features: tuple[Array, ...]) -> tuple[Array, ...]:
        """Sum over the block of gamma times the features."""
        return tuple(contract("fb,kb->fk", block, gamma) for block in features)  # the long side first: twice as fast on a CPU

    @abc.abstractmethod
    def unpack(self, sums: tuple[Array, ...], n_features: int) -> tuple[Float[Array, " K"], Float[Array, "K D"], Array]:
        """Summed features as N_k, the sum of gamma x, and second moments about the shared centre."""

    @abc.abstractmethod
    def reach(self, factor: Array, cov: Array, means: Float[Array, "K D"]) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        """How large the terms are that cancel, with s^2 = diag Sigma_k + mu_k^2: |W_k mu_k|^2 + D and the Frobenius norm of
        s_i P_ij s_j together, and | |W_k| s |."""


class Dense(Expandable):
    """Covariances stored as matrices: (K, D, D), or (D, D) where they are shared."""

    def variances(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D"]:
        return jnp.broadcast_to(jnp.diagonal(cov, axis1=-2, axis2=-1), (n_components, n_features))

    def reach(self, factor: Array, cov: Array, means: Float[Array, "K D"]) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        factor = jnp.broadcast_to(factor, (*means.shape, means.shape[1]))
        spread = jnp.sqrt(self.variances(cov, *means.shape) + means * means)
        terms = spread[:, :, None] * contract("kli,klj->kij", factor, factor) * spread[:, None, :]
        white = contract("kij,kj->ki", factor, means)
        quadratic = jnp.sum(1 + white * white, axis=-1) + jnp.sqrt(jnp.sum(terms * terms, axis=(-2, -1)))
        linear = contract("kij,kj->ki", jnp.abs(factor), spread)
        return quadratic, jnp.sqrt(jnp.sum(linear * linear, axis=-1))

    def quadratic(self, factor: Array, scatter: Array) -> Float[Array, ""]:
        return jnp.sum(contract("...ij,...jk->...ik", factor, scatter) * factor)

    def as_second_moment(self, dense: Float[Array, "K D D"], whitener: Whitener) -> Array:
        return dense

    def prior_scale(self, cov: Float[Array, "D D"]) -> Float[Array, "D D"]:
        return cov

    def narrowness(self, factor: Array, n_components: int, unit: Float[Array, " D"]) -> Float[Array, " K"]:
        root = jnp.broadcast_to(factor, (n_components, len(unit), len(unit))) * unit[None, None]
        return _norm(contract("kli,klj->kij", root, root).reshape(n_components, -1))

    def root(self, cov: Array) -> Array:
        return each(factors, cov)[0]

    def floored(self, cov: Array, floor: Float[Array, " D"] | None) -> Array:
        if floor is None:
            return cov
        # What is not finite is left alone, for the status to tell of it; no floor means no bound.
        bound = each(binds, cov, floor) & jnp.all(floor > 0) & jnp.all(jnp.isfinite(cov))

        def clipped(cov: Array) -> Array:
            return jnp.where(bound[..., None, None], each(clip, cov, floor), cov)

        return apply_if(jnp.any(bound), clipped, cov)

    def widened(self, cov: Array, variance: Float[Array, ""]) -> Array:
        return each(lambda matrix: matrix + variance * jnp.eye(len(matrix), dtype=matrix.dtype), cov)

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        return each(log_cholesky, cov, unit)

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        return each(exp_cholesky, free, unit)


class Diagonal(Expandable):
    """Covariances without correlation, stored as variances."""

    def lacking(self, n_features: int) -> np.ndarray:
        return np.zeros(n_features, int)

    def variances(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D"]:
        return jnp.broadcast_to(_by_feature(cov), (n_components, n_features))

    def whiten(self, factor: Array, diff: Float[Array, "K D B"]) -> Float[Array, "K D B"]:
        return _by_feature(factor)[:, :, None] * diff

    def colour(self, root: Array, label: Integer[Array, ""], noise: Float[Array, " D"]) -> Float[Array, " D"]:
        return root[label] * noise

    def features(self, factor: Array, x: Float[Array, "D B"]) -> tuple[Float[Array, "_ B"]]:
        n = len(x)  # the squares, then x and 1
        return (products(x, np.r_[np.arange(n), np.arange(n + 1)], np.r_[np.arange(n), np.full(n + 1, n)]),)

    def coefficients(self, factor: Array, means: Float[Array, "K D"]) -> tuple[Float[Array, "K _"]]:
        factor = jnp.broadcast_to(_by_feature(factor), means.shape)
        white = factor * means
        return (jnp.concatenate([-factor * factor / 2, factor * white, constant_of(white)], axis=1),)

    def reach(self, factor: Array, cov: Array, means: Float[Array, "K D"]) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        terms = 1 + (_by_feature(factor) * means) ** 2
        size = jnp.sum(terms, axis=-1)
        return size + jnp.sqrt(jnp.sum(terms * terms, axis=-1)), jnp.sqrt(size)

    def unpack(self, sums: tuple[Array, ...], n_features: int) -> tuple[Array, Array, Float[Array, "K D"]]:
        return sums[0][-1], sums[0][n_features:-1].T, sums[0][:n_features].T

    def second_moment(self, lens: Array | None, gamma: Float[Array, "K B"], diff: Float[Array, "K D B"]) -> Float[Array, "K D"]:
        return jnp.sum(gamma[:, None, :] * diff * diff, axis=-1)

    def recentre(self, lens: Array | None, count: Array, shift: Float[Array, "K D"], second: Array) -> Float[Array, "K D"]:
        return jnp.maximum(second - count[:, None] * shift * shift, 0)

    def feature_variance(
        self, lens: Array | None, count: Array, scatter: Array
    ) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
        return scatter / jnp.where(count > 0, count, 1)[:, None], count

    def quadratic(self, factor: Array, scatter: Float[Array, "K D"]) -> Float[Array, ""]:
        return jnp.sum(_by_feature(factor) ** 2 * scatter)

    def as_second_moment(self, dense: Float[Array, "K D D"], whitener: Whitener) -> Float[Array, "K D"]:
        return jnp.diagonal(dense, axis1=-2, axis2=-1)

    def prior_scale(self, cov: Float[Array, "D D"]) -> Float[Array, "D D"]:
        return jnp.trace(cov) / len(cov) * jnp.eye(len(cov), dtype=cov.dtype)

    def narrowness(self, factor: Array, n_components: int, unit: Float[Array, " D"]) -> Float[Array, " K"]:
        return _norm(jnp.broadcast_to((_by_feature(factor) * unit[None]) ** 2, (n_components, len(unit))))

    def root(self, cov: Array) -> Array:
        return jnp.sqrt(cov)

    def widened(self, cov: Array, variance: Float[Array, ""]) -> Array:
        return cov + variance

    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        return jnp.log(cov) / 2  # the logarithm needs no unit: it moves every state alike

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        return jnp.exp(2 * free)


def _norm(entries: Float[Array, "K J"]) -> Float[Array, " K"]:
    """Of each row; no square leaves the range of the dtype."""
    largest = jnp.max(jnp.abs(entries), axis=-1)
    scaled = entries / jnp.where(largest > 0, largest, 1)[:, None]
    return largest * jnp.sqrt(jnp.sum(scaled * scaled, axis=-1))


def _by_feature(factor: Array) -> Float[Array, "K J"]:
    """A factor a component as a column, one a component and feature as it is."""
    return factor.reshape(factor.shape[0], -1)


def with_one(x: Float[Array, "D B"]) -> Float[Array, "E B"]:
    """(x, 1): sums of its products are N_k, first and second moments in one."""
    return jnp.concatenate([x, jnp.ones_like(x[:1])])


def products(x: Float[Array, "D B"], row: np.ndarray, column: np.ndarray) -> Float[Array, "F B"]:
    """Products of coordinates of (x, 1), picked from one array: faster on a CPU than to join squares and x (diag, 200,000 x
    32, K = 32: 26 to 29 ms)."""
    extended = with_one(x)
    return extended[row] * extended[column]


def constant_of(white: Float[Array, "K D"]) -> Float[Array, "K 1"]:
    """-mu_k^T P_k mu_k / 2 from W_k mu_k."""
    return -jnp.sum(white * white, axis=-1, keepdims=True) / 2


def each(function: Callable[..., T], cov: Array, *shared: Array) -> T:
    """``function(matrix, *shared)`` for each of K matrices, or for the one matrix that all components share."""
    return jax.vmap(lambda matrix: function(matrix, *shared))(cov) if cov.ndim == 3 else function(cov, *shared)
