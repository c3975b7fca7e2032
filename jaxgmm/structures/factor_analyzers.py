"""Mixtures of factor analysers and of principal-component analysers: few numbers for many features.

A sample of component k is x = mu_k + L_k z + e, factors z ~ N(0, 1) in Q dimensions, noise e ~ N(0, Psi_k) without correlation,
so that Sigma_k = L_k L_k^T + Psi_k. No D x D matrix is formed, but for a prior. By Woodbury's identity, with
M = 1 + L^T Psi^-1 L,

    u = M^-1 L^T Psi^-1 (x - mu),    r = Psi^-1/2 (x - mu - L u),
    (x - mu)^T Sigma^-1 (x - mu) = |r|^2 + |u|^2,    |Sigma| = |Psi| |M|,

u the posterior mean of the factors and r what they leave, in standard deviations of the noise: a sum of squares, in which
nothing cancels. The M-step needs of the samples no more than sum_n gamma_n r_n (u_n, r_n), Q + 1 numbers a feature, and
sum_n gamma_n u_n u_n^T: L^T Psi^-1/2 r is u, too, but where factors explain nearly all r does not hold the digits.

Source: Ghahramani and Hinton (1996), "The EM algorithm for mixtures of factor analyzers"; Tipping and Bishop (1999), "Mixtures
of probabilistic principal component analyzers"; McLachlan, Peel and Bean (2003), Computational Statistics and Data Analysis 41,
for cycles of means and loadings; McNicholas and Murphy (2008), "Parsimonious Gaussian mixture models", for what is shared; Liu,
Rubin and Wu (1998), "Parameter expansion to accelerate EM", for the scale of the factors.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Integer

from jaxgmm.checks import check_choice, check_int
from jaxgmm.numerics import contract, is_present
from jaxgmm.structures.base import Inner, Structure, Whitener
from jaxgmm.structures.matrices import factors, is_indefinite, lower_trapezoidal, symmetric
from jaxgmm.structures.volumes import settle

SHARING = {"own": "U", "shared": "C"}
"""Unconstrained and constrained, in the letters of McNicholas and Murphy."""


class Posterior(NamedTuple):
    """What factors are given a sample, lengths in standard deviations of the noise."""

    loadings: Array  # (K, D, Q) Psi^-1/2 L
    noise: Array  # (K, D) standard deviations, data units
    cov: Array  # (K, Q, Q) M^-1, the covariance of the factors
    log_det: Array  # (K,) ln |Sigma|


@dataclass(frozen=True)
class FactorAnalyzers(Structure):
    """Factor analysers, Sigma_k = L_k L_k^T + Psi_k: a ``covariance_type`` for many features.

    ``cov`` is (K, D, Q + 1): loadings L_k, data units, then the diagonal of Psi_k, squared data units; what components share is
    equal in each. Loadings are known but for a rotation: those stored are lower-trapezoidal, the diagonal not negative.

    Attributes:
      n_factors: Q, at least one and fewer than the features.
      loadings: "own", L_k of each component, or "shared".
      noise: "own", Psi_k of each component, or "shared".
      isotropic: is the noise of a component the same in all features? Then it is a mixture of principal-component analysers.

    How many passes EM takes depends on the samples, and on the start. Of 1500 in three clusters, means of size 3, loadings of
    size one, noise of 0.5, 1 and 1.5, three starts each by k-means, float32, the default ``tol``: 56 to 107 with D = 10, Q = 2
    and 59 to 239 with D = 30, Q = 3 (with ``accelerate="squarem"`` 38 to 55 and 47 to 234), but for a start that took 1714
    (665) to a lower optimum.

    The name of a structure is that of the family of McNicholas and Murphy (U for own, C for shared, of loadings and of noise; C
    for isotropic) and Q, as "UUU-5", and can stand for it.

    >>> import jax, jaxgmm
    >>> jaxgmm.FactorAnalyzers(2, noise="shared").name
    'UCU-2'
    >>> X = jax.random.normal(jax.random.key(0), (60, 8))
    >>> result = jaxgmm.fit(jax.random.key(1), X, 1, covariance_type=jaxgmm.FactorAnalyzers(2))
    >>> result.params.cov.shape, jaxgmm.n_free_parameters(result.params)
    ((1, 8, 3), 31)
    """

    n_factors: int
    loadings: str = field(default="own", kw_only=True)
    noise: str = field(default="own", kw_only=True)
    isotropic: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_factors", check_int("n_factors", self.n_factors, 1))
        check_choice("loadings", self.loadings, SHARING)
        check_choice("noise", self.noise, SHARING)
        if not isinstance(self.isotropic, bool):
            raise ValueError(f"isotropic must be True or False; got {self.isotropic!r}.")

    @property
    def name(self) -> str:
        return f"{SHARING[self.loadings]}{SHARING[self.noise]}{'UC'[self.isotropic]}-{self.n_factors}"

    @staticmethod
    def named(name: str) -> FactorAnalyzers | None:
        """The structure of such a name, if it is one."""
        match = re.fullmatch(r"([CU])([CU])([CU])-([1-9]\d*)", name)
        if match is None:
            return None
        word = {letter: word for word, letter in SHARING.items()}
        first, second, third, n_factors = match.groups()
        return FactorAnalyzers(int(n_factors), loadings=word[first], noise=word[second], isotropic=third == "C")

    @staticmethod
    def names_like(name: str) -> list[str]:
        """The names of all families with as many factors as ``name`` says, or one."""
        found = re.search(r"[1-9]\d*", name)
        return [f"{''.join(letters)}-{found[0] if found else 1}" for letters in itertools.product("CU", repeat=3)]

    # The family.
    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, self.n_factors + 1)

    def least_features(self) -> int:
        return self.n_factors + 1

    def unequal(self, cov: np.ndarray) -> str:
        loadings, noise = cov[..., :-1], cov[..., -1]
        stored = {
            "loadings that components share": (self.loadings == "shared", loadings, 0),
            "noise that components share": (self.noise == "shared", noise, 0),
            "noise that features share": (self.isotropic, noise, 1),
        }
        return next((name for name, (one, part, axis) in stored.items() if one and not _equal(part, axis)), "")

    def n_free(self, n_components: int, n_features: int) -> int:
        most = n_features * (n_features + 1) // 2
        n_noise = 1 if self.isotropic else n_features
        # Loadings of one component and its noise are no more than its covariance holds; nor is noise that all share.
        if self.loadings == "own" and self.noise == "shared":
            return min(n_components * self._n_loadings(n_features) + n_noise, n_components * most)
        one = min(self._n_loadings(n_features) + n_noise, most)
        if self.loadings == "own":
            return n_components * one
        return one + (n_components - 1) * n_noise if self.noise == "own" else one

    def least_weight(self, n_features: int) -> int:
        return 1 + (self.n_factors if self.loadings == "own" else 0) + (1 if self.noise == "own" else 0)

    def estimate(
        self, count: Array, scatter: Array, previous: Array, floor: Array | None = None, inner: Inner = Inner.END
    ) -> Array:
        """One step of EM whose missing data are the factors: the sums know the samples no better than that."""
        posterior = _posterior(previous)
        present = is_present(count)[:, None, None]
        n = jnp.where(present, count[:, None, None], 1)
        known, residual, square = self._moments(scatter / n)
        factor = posterior.cov + known  # E[z z^T]
        cross = residual + contract("kdq,kqr->kdr", posterior.loadings, known)  # Psi^-1/2 (x - mu) u^T
        if self.loadings == "own":
            root, inverse = jax.vmap(factors)(factor)
            loadings = contract("kdq,krq,krs->kds", cross, inverse, inverse)
        else:
            # Row by row, components weighted by the precision of their noise.
            units = posterior.noise / jnp.max(posterior.noise)  # so that no precision leaves the range of the dtype
            weight = jnp.where(present[..., 0], count[:, None], 0) / (units * units)
            inverse = jax.vmap(factors)(contract("kd,kqr->dqr", weight, factor))[1]
            common = contract("dq,drq,drs->ds", contract("kd,kdq->dq", weight * units, cross), inverse, inverse)
            loadings = common[None] / units[..., None]
            root = jnp.broadcast_to(factors(contract("k,kqr->qr", count, factor) / jnp.sum(count))[0][None], factor.shape)
        # E[e^2] of e = x - mu - L z, from what the loadings before left: near the end nothing large cancels.
        change = loadings - posterior.loadings
        left = square - 2 * jnp.sum(change * residual, axis=-1) + _form(change, known) + _form(loadings, posterior.cov)
        noise = self._pooled(count, jnp.maximum(left, 0) * posterior.noise**2)
        # The factors took up a covariance of their own: the loadings of factors of unit covariance.
        loadings = posterior.noise[..., None] * contract("kdq,kqr->kdr", loadings, root)
        if self.loadings == "shared":  # equal to the last digit
            loadings = jnp.broadcast_to(loadings[:1], loadings.shape)
        new = self.floored(_joined(jax.vmap(lower_trapezoidal)(loadings), noise), floor)
        return jnp.where(self._moving(present), new, previous)

    def _moving(self, present: Bool[Array, "K 1 1"]) -> Bool[Array, "K 1 _"]:
        """Which columns of ``cov`` follow the samples: those of a component without weight only if they are shared."""
        loadings = jnp.repeat(present | (self.loadings == "shared"), self.n_factors, axis=-1)
        return jnp.concatenate([loadings, present | (self.noise == "shared")], axis=-1)

    def _pooled(self, count: Float[Array, " K"], noise: Float[Array, "K D"]) -> Float[Array, "K D"]:
        """Variances of the noise, averaged over what they are equal in."""
        if self.isotropic:
            noise = jnp.broadcast_to(jnp.mean(noise, axis=-1, keepdims=True), noise.shape)
        if self.noise == "shared":
            noise = jnp.broadcast_to(contract("k,kd->d", count / jnp.sum(count), noise)[None], noise.shape)
        return noise

    def dense(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D D"]:
        loadings, noise = _parts(cov)
        return contract("kiq,kjq->kij", loadings, loadings) + noise[:, :, None] * jnp.eye(n_features, dtype=cov.dtype)[None]

    def variances(self, cov: Array, n_components: int, n_features: int) -> Float[Array, "K D"]:
        loadings, noise = _parts(cov)
        return jnp.sum(loadings * loadings, axis=-1) + noise

    def from_dense(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner = Inner.END) -> Array:
        return self._nearest(weights, dense, inner)

    def alike(self, weights: Float[Array, " K"], dense: Float[Array, "D D"]) -> Array:
        one = self._nearest(jnp.ones_like(weights[:1]), dense[None], Inner.FEW)
        return jnp.broadcast_to(one, (len(weights), *one.shape[1:]))

    def _nearest(self, weights: Float[Array, " K"], dense: Float[Array, "K D D"], inner: Inner) -> Array:
        """By EM on the matrices, from their rows that explain most."""
        count = jnp.where(weights > 0, weights, jnp.finfo(weights.dtype).eps * 100 * jnp.sum(weights))
        average = contract("k,kij->ij", count, dense) / jnp.sum(count)
        begun = jax.vmap(self._begun)(dense if self.loadings == "own" else jnp.broadcast_to(average, dense.shape))
        loadings, noise = _parts(begun)
        begun = _joined(loadings, self._pooled(count, noise))

        def turn(cov: Array) -> Array:
            seen = self.as_second_moment(dense, self.whitener(cov, *dense.shape[:2]))
            return self.estimate(count, count[:, None, None] * seen, cov)

        unit = jnp.sqrt(jnp.mean(jnp.diagonal(dense, axis1=-2, axis2=-1), axis=0))
        return settle(turn, begun, lambda cov: self.to_free(cov, unit), inner)

    def _begun(self, dense: Float[Array, "D D"]) -> Float[Array, "D E"]:
        """Factors one after the other, each the row of correlations with the largest squares, half of what they explain left to
        the noise."""
        deviation = jnp.sqrt(jnp.diagonal(dense))
        left = dense / (deviation[:, None] * deviation[None, :])
        columns = []
        for _ in range(self.n_factors):
            pivot = jnp.argmax(jnp.sum(left * left, axis=0))
            scale = jnp.sqrt(jnp.maximum(left[pivot, pivot], jnp.finfo(dense.dtype).eps))
            columns.append(left[pivot] / scale)
            left = left - columns[-1][:, None] * columns[-1][None, :]
        loadings = jnp.stack(columns, axis=-1) * np.sqrt(0.5).astype(dense.dtype)
        noise = jnp.maximum(1 - jnp.sum(loadings * loadings, axis=-1), 0.25)
        return _joined(deviation[:, None] * loadings, deviation * deviation * noise)

    # The density.
    def whitener(self, cov: Array, n_components: int, n_features: int) -> Whitener:
        posterior = _posterior(cov)
        scores = contract("kdq,kqr->kdr", posterior.loadings, posterior.cov) / posterior.noise[..., None]
        parts = scores, posterior.loadings, 1 / posterior.noise[..., None]
        return Whitener(jnp.concatenate(parts, axis=-1), posterior.log_det)

    def _split(self, factor: Array) -> list[Array]:
        """What takes samples to u, loadings and the inverse of the noise, in standard deviations of it."""
        return jnp.split(factor, [self.n_factors, 2 * self.n_factors], axis=-1)

    def _seen(self, factor: Array, diff: Float[Array, "K D B"]) -> tuple[Float[Array, "K Q B"], Float[Array, "K D B"]]:
        """Posterior means of the factors, u, and the residuals r."""
        scores, loadings, scale = self._split(factor)
        u = contract("kdq,kdb->kqb", scores, diff)
        return u, scale * diff - contract("kdq,kqb->kdb", loadings, u)

    def whiten(self, factor: Array, diff: Float[Array, "K D B"]) -> Float[Array, "K _ B"]:
        return jnp.concatenate(self._seen(factor, diff), axis=1)

    def root(self, cov: Array) -> Array:
        loadings, noise = _parts(cov)
        return _joined(loadings, jnp.sqrt(noise))

    def n_noise(self, n_features: int) -> int:
        return self.n_factors + n_features

    def colour(self, root: Array, label: Integer[Array, ""], noise: Float[Array, " _"]) -> Float[Array, " D"]:
        loadings, deviation = _parts(root[label])
        return contract("dq,q->d", loadings, noise[: self.n_factors]) + deviation * noise[self.n_factors :]

    # The sums.
    def lens(self, cov: Array, n_components: int, n_features: int) -> Array:
        return self.whitener(cov, n_components, n_features).factor

    def second_moment(self, lens: Array | None, gamma: Float[Array, "K B"], diff: Float[Array, "K D B"]) -> Array:
        assert lens is not None
        white = self.whiten(lens, diff)
        weighted = gamma[:, None, :] * white
        return _joined(contract("kdb,kqb->kdq", weighted, white[:, : self.n_factors]), jnp.sum(weighted * white, axis=-1))

    def _moments(self, scatter: Array) -> tuple[Float[Array, "K Q Q"], Float[Array, "K D Q"], Float[Array, "K D"]]:
        """Those of u u^T, r u^T and r^2."""
        q = self.n_factors
        return symmetric(scatter[:, :q, :q]), scatter[:, q:, :q], scatter[:, q:, q]

    def recentre(self, lens: Array | None, count: Array, shift: Float[Array, "K D"], second: Array) -> Array:
        moved = second - self.second_moment(lens, count[:, None], shift[:, :, None])
        return _joined(moved[..., :-1], jnp.maximum(moved[..., -1], 0))

    def feature_variance(
        self, lens: Array | None, count: Array, scatter: Array
    ) -> tuple[Float[Array, "K D"], Float[Array, " K"]]:
        assert lens is not None
        _, loadings, scale = self._split(lens)
        known, residual, square = self._moments(scatter / jnp.where(count > 0, count, 1)[:, None, None])
        variance = square + 2 * jnp.sum(loadings * residual, axis=-1) + _form(loadings, known)  # of r + Psi^-1/2 L u
        return variance / scale[..., 0] ** 2, count

    def as_second_moment(self, dense: Float[Array, "K D D"], whitener: Whitener) -> Array:
        scores, loadings, scale = self._split(whitener.factor)
        cross = contract("kij,kjq->kiq", dense, scores)  # (x - mu) u^T
        known = symmetric(contract("kdq,kdr->kqr", scores, cross))
        cross = scale * cross
        total = scale[..., 0] ** 2 * jnp.diagonal(dense, axis1=-2, axis2=-1)
        square = total - 2 * jnp.sum(loadings * cross, axis=-1) + _form(loadings, known)
        residual = cross - contract("kdq,kqr->kdr", loadings, known)
        own = _joined(known, jnp.diagonal(known, axis1=-2, axis2=-1))
        return jnp.concatenate([own, _joined(residual, jnp.maximum(square, 0))], axis=1)

    def prior_scale(self, cov: Float[Array, "D D"]) -> Float[Array, "D D"]:
        return cov

    def quadratic(self, factor: Array, scatter: Array) -> Float[Array, ""]:
        _, loadings, scale = self._split(factor)
        still, unit = lax.stop_gradient(loadings), lax.stop_gradient(scale)
        _, residual, square = self._moments(scatter)
        # -d tr(Sigma^-1 W) = tr(dSigma Sigma^-1 W Sigma^-1), and Sigma^-1 (x - mu) = Psi^-1/2 r.
        by_loadings = 2 * jnp.sum((still - loadings * unit / scale) * residual)
        return jnp.sum(scatter[..., -1]) + by_loadings + jnp.sum((1 - (unit / scale)[..., 0] ** 2) * square)

    # The bound.
    def floored(self, cov: Array, floor: Float[Array, " D"] | None) -> Array:
        if floor is None:
            return cov
        loadings, noise = _parts(cov)
        return _joined(loadings, jnp.maximum(noise, jnp.max(floor) if self.isotropic else floor[None]))

    def widened(self, cov: Array, variance: Float[Array, ""]) -> Array:
        return cov.at[..., -1].add(variance)

    def narrowness(self, factor: Array, n_components: int, unit: Float[Array, " D"]) -> Float[Array, " K"]:
        scores, loadings, scale = self._split(factor)
        share = jnp.sum(scores / scale * loadings, axis=-1)  # Sigma^-1 = Psi^-1/2 (1 - L S L^T) Psi^-1/2
        return contract("d,kd->k", unit * unit, scale[..., 0] ** 2 * (1 - share))

    def narrower(self, weights: Float[Array, " K"], cov: Array, share: Float[Array, " K"]) -> Bool[Array, " K"]:
        """Sigma_k - s Sigma = A - C C^T, A with loadings of its own and C a few columns, is positive definite where
        1 - C^T A^-1 C is. A keeps what s Sigma leaves of the noise, but for the Q features where that is least: their loadings
        may make up for what they lack, so A has as much noise there as s Sigma, and what is too much stands in a column."""
        loadings, noise = _parts(cov)
        n_components, n_features, n_factors = loadings.shape
        pooled = contract("j,jdq->djq", jnp.sqrt(weights), loadings).reshape(n_features, -1)
        columns = jnp.sqrt(share)[:, None, None] * pooled[None]
        taken = share[:, None] * contract("k,kd->d", weights, noise)[None]
        left = noise - taken
        least = jax.nn.one_hot(lax.top_k(-left / taken, n_factors)[1], n_features, axis=1, dtype=cov.dtype)
        is_least = jnp.sum(least, axis=-1) > 0
        kept = jnp.where(is_least | (left <= 0), jnp.maximum(noise, taken), left)
        columns = jnp.concatenate([columns, jnp.sqrt(kept - left)[..., None] * least], axis=-1)
        white = self.whiten(self.whitener(_joined(loadings, kept), n_components, n_features).factor, columns)
        form = jnp.eye(columns.shape[-1], dtype=cov.dtype)[None] - contract("kdb,kdc->kbc", white, white)
        return jnp.any(~is_least & (left <= 0), axis=-1) | jax.vmap(is_indefinite)(form)

    # Free coordinates: loadings as they are stored, then logarithms of the noise.
    def to_free(self, cov: Array, unit: Float[Array, " D"]) -> Array:
        loadings, noise = _parts(cov)
        loadings = loadings[:1] if self.loadings == "shared" else loadings
        noise = noise[:1] if self.noise == "shared" else noise
        known = jax.vmap(lower_trapezoidal)(loadings / unit[None, :, None])[:, *self._lower(len(unit))]
        return jnp.concatenate([known.ravel(), jnp.log(noise[:, : 1 if self.isotropic else None]).ravel() / 2])

    def from_free(self, free: Array, unit: Float[Array, " D"], n_components: int) -> Array:
        n_features = len(unit)
        n_loadings = self._n_loadings(n_features) * (1 if self.loadings == "shared" else n_components)
        known = free[:n_loadings].reshape(-1, self._n_loadings(n_features))
        loadings = jnp.zeros((len(known), n_features, self.n_factors), free.dtype).at[:, *self._lower(n_features)].set(known)
        noise = jnp.exp(2 * free[n_loadings:]).reshape(1 if self.noise == "shared" else n_components, -1)
        shape = n_components, n_features
        loadings = jnp.broadcast_to(loadings * unit[None, :, None], (*shape, self.n_factors))
        return _joined(loadings, jnp.broadcast_to(noise, shape))

    def _lower(self, n_features: int) -> tuple[np.ndarray, np.ndarray]:
        return np.tril_indices(n_features, 0, self.n_factors)

    def _n_loadings(self, n_features: int) -> int:
        """Loadings but for a rotation: D Q - Q (Q - 1) / 2."""
        return len(self._lower(n_features)[0])


def _equal(part: np.ndarray, axis: int) -> bool:
    """Along the axis, but for what is lost where numbers are written in single precision."""
    return bool((np.ptp(part, axis=axis) <= 1e-5 * np.abs(part).max(axis=axis)).all())


def _parts(cov: Float[Array, "... D E"]) -> tuple[Float[Array, "... D Q"], Float[Array, "... D"]]:
    return cov[..., :-1], cov[..., -1]


def _joined(loadings: Float[Array, "... D Q"], noise: Float[Array, "... D"]) -> Float[Array, "... D E"]:
    return jnp.concatenate([loadings, noise[..., None]], axis=-1)


def _posterior(cov: Float[Array, "K D E"]) -> Posterior:
    loadings, noise = _parts(cov)
    deviation = jnp.sqrt(noise)
    loadings = loadings / deviation[..., None]
    one = jnp.eye(loadings.shape[-1], dtype=cov.dtype)[None]
    root, inverse = jax.vmap(factors)(one + contract("kdq,kdr->kqr", loadings, loadings))
    log_det = jnp.sum(jnp.log(noise), axis=-1) + 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), axis=-1)
    return Posterior(loadings, deviation, contract("kij,kil->kjl", inverse, inverse), log_det)


def _form(rows: Float[Array, "K D Q"], matrix: Float[Array, "K Q Q"]) -> Float[Array, "K D"]:
    """a^T S a of each row."""
    return jnp.sum(contract("kdq,kqr->kdr", rows, matrix) * rows, axis=-1)
