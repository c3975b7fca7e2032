"""What a fitted estimator answers: classes, densities, criteria, samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from jaxgmm import density
from jaxgmm.padding import in_rows, padded
from jaxgmm.params import GMMParams, n_free_parameters
from jaxgmm.precisions import inverted, squared
from jaxgmm.sklearn_door import samples, weighted_samples


class FittedMixture(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    """Methods that follow from the fitted attributes alone; the estimator itself brings ``fit`` and ``to_sklearn``."""

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """``fit``, then ``predict``, of the same samples.

        Args:
          X: (N, D) samples, in data units.
          y: not used.
          sample_weight: (N,) weights, ones without: zero is absent, two is seen twice.

        Returns:
          (N,) labels from 0.

        Raises:
          ValueError, TypeError: as ``fit``.

        >>> from jaxgmm.sklearn import GaussianMixture
        >>> labels = GaussianMixture(2, random_state=0).fit_predict([[0.0], [0.1], [9.0], [9.1]])
        >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
        True
        """
        # A class derived from this one may know a fit without weights.
        weighted = {} if sample_weight is None else {"sample_weight": sample_weight}
        return self.fit(X, y, **weighted).predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """The component with the largest responsibility, argmax_k gamma(z_nk), eq. (5).

        Args:
          X: (N, D) samples, in the units of ``means_``.

        Returns:
          (N,) labels from 0.

        Raises:
          ValueError: X is not numeric, not finite, or has another D or other feature names than the fit's.
          TypeError: X is sparse.
          NotFittedError: before ``fit``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> gm.predict([[-3.0], [0.5]]).tolist()
        [0, 1]
        """
        return self._ask(density.predict, X).astype(np.int64)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Responsibilities, gamma(z_nk) by eq. (5); see ``jaxgmm.e_step``.

        Args:
          X: (N, D) samples, in the units of ``means_``.

        Returns:
          (N, K), probabilities, rows of sum one.

        Raises:
          ValueError, TypeError, NotFittedError: as ``predict``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> gm.predict_proba([[0.0]]).tolist()
        [[0.5, 0.5]]
        """
        return self._ask(density.predict_proba, X)

    def transform(self, X: Any) -> np.ndarray:
        """``predict_proba`` as features, for a ``Pipeline``.

        Args:
          X: (N, D) samples, in the units of ``means_``.

        Returns:
          (N, K), probabilities, rows of sum one; a DataFrame after ``set_output``.

        Raises:
          ValueError, TypeError, NotFittedError: as ``predict``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> gm.set_output(transform="pandas").transform([[0.0]]).columns.tolist()
        ['gaussianmixture0', 'gaussianmixture1']
        """
        return self.predict_proba(X)

    def score_samples(self, X: Any) -> np.ndarray:
        """ln p(x_n) of each sample, eq. (1); see ``jaxgmm.log_prob``.

        Args:
          X: (N, D) samples, in the units of ``means_``.

        Returns:
          (N,) nats.

        Raises:
          ValueError, TypeError, NotFittedError: as ``predict``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> gm.score_samples([[0.0]]).round(3).tolist()
        [-1.419]
        """
        return self._ask(density.log_prob, X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean log-likelihood of a sample, eq. (6) over the total weight: sum_n w_n ln p(x_n) / sum_n w_n.

        Args:
          X: (N, D) samples, in the units of ``means_``.
          y: not used.
          sample_weight: (N,) weights, ones without: zero is absent, two is seen twice.

        Returns:
          nats.

        Raises:
          ValueError, TypeError, NotFittedError: as ``predict``, rows of weight zero excepted.
          ValueError: weights that are negative, not finite, all zero, or beyond the range of float32.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> round(gm.score([[0.0], [9.0]], sample_weight=[1, 0]), 3)
        -1.419
        """
        check_is_fitted(self)
        return self._mean_log_px(*weighted_samples(self, X, sample_weight, reset=False))

    def _mean_log_px(self, X: np.ndarray, weight: np.ndarray | None) -> float:
        log_px = self._told(density.log_prob, X)
        if weight is None:
            return float(log_px.mean())
        weight = weight.astype(np.float64)
        return float(np.where(weight > 0, weight * log_px, 0).sum() / weight.sum())

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike's information criterion, 2 m - 2 L with m free parameters and log-likelihood L, eq. (6).

        Args:
          X: (N, D) samples, in the units of ``means_``.
          sample_weight: (N,) weights, ones without: zero is absent, two is seen twice.

        Returns:
          nats times two; smaller is better.

        Raises:
          ValueError, TypeError, NotFittedError: as ``score``.

        Source: see ``jaxgmm.aic``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> round(gm.aic([[0.0]]), 3)
        12.838
        """
        mean = self.score(X, sample_weight=sample_weight)
        return 2 * self._n_parameters() - 2 * mean * _total(X, sample_weight)

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """The Bayesian information criterion, m ln n - 2 L, n the total weight.

        Args:
          X: (N, D) samples, in the units of ``means_``.
          sample_weight: (N,) weights, ones without: zero is absent, two is seen twice.

        Returns:
          nats times two; smaller is better.

        Raises:
          ValueError, TypeError, NotFittedError: as ``score``.

        Source: see ``jaxgmm.bic``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> round(gm.bic([[0.0], [0.0]]), 3)
        9.141
        """
        mean = self.score(X, sample_weight=sample_weight)
        total = _total(X, sample_weight)
        return self._n_parameters() * math.log(total) - 2 * mean * total

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw from the mixture, seeded by ``random_state``: a component k with probability pi_k, then from N(mu_k, Sigma_k).

        Args:
          n_samples: how many.

        Returns:
          Samples (n, D) float64, data units, component by component, and the component of each (n,).

        Raises:
          ValueError: ``n_samples`` below one.
          NotFittedError: before ``fit``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> X, label = gm.sample(5)
        >>> X.shape, bool((label[1:] >= label[:-1]).all())
        ((5, 1), True)
        """
        check_is_fitted(self)
        return self.to_sklearn().sample(n_samples)

    @property
    def params_(self) -> GMMParams:
        """The mixture as the core knows it: a ``GMMParams`` of NumPy arrays.

        Returns:
          weights (K,), probabilities; means (K, D), data units; covariances as the structure stores them, squared data units.

        Raises:
          NotFittedError: before ``fit``.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> gm = GaussianMixture.from_params(jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]]))
        >>> gm.params_.weights.tolist()
        [0.5, 0.5]
        """
        check_is_fitted(self, ("weights_", "means_"))
        structure = getattr(self, "_fitted_structure", None) or self._structure()
        upper = getattr(self, "precisions_cholesky_", None)
        if upper is None or (upper is getattr(self, "_fitted_cholesky", upper) and hasattr(self, "covariances_")):
            cov: Any = self.covariances_
        else:  # made or changed by hand: scikit-learn predicts with the precisions
            cov = inverted(squared(np.asarray(upper), structure), structure)
        held: Any = map(np.asarray, (self.weights_, self.means_, cov))  # set by hand they may be lists
        weights, means, cov = held
        return GMMParams(weights, means, cov, structure)

    def _ask(self, function: Any, X: Any) -> np.ndarray:
        """A function of the core, of samples in the wider of their dtype and the mixture's."""
        check_is_fitted(self)
        return self._told(function, samples(self, X, reset=False))

    def _told(self, function: Any, X: np.ndarray) -> np.ndarray:
        params = self.params_
        X = X.astype(np.result_type(X, params.means), copy=False)
        with in_precision(X.dtype):
            return np.array(function(params, in_rows(X, padded(len(X)))))[: len(X)]

    def _n_parameters(self) -> int:
        return n_free_parameters(self.params_)

    @property
    def _n_features_out(self) -> int:
        return len(self.weights_)


@contextmanager
def in_precision(dtype: np.dtype) -> Iterator[None]:
    """Where JAX computes in this dtype, and where NaN is a number like any other: it marks what is absent."""
    with jax.debug_nans(False), jax.enable_x64(True) if dtype == np.float64 else nullcontext():
        yield


def _total(X: Any, sample_weight: Any) -> float:
    return float(len(X) if sample_weight is None else np.sum(sample_weight, dtype=np.float64))
