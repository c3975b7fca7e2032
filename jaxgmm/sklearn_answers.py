"""What a fitted estimator answers: classes, densities, criteria, samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any, ClassVar

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from jaxgmm import checks, density
from jaxgmm.padding import in_rows, padded
from jaxgmm.params import GMMParams
from jaxgmm.precisions import inverted, squared
from jaxgmm.sklearn_door import samples, weighted_samples
from jaxgmm.sklearn_starts import STARTS
from jaxgmm.structures import CLASSICS, Structure, get_structure


class FittedMixture(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    """Methods that follow from the fitted attributes alone; the estimator itself brings ``fit``."""

    _answers: ClassVar[Any] = density
    """Functions of ``_held``."""

    _theirs: ClassVar[Any]
    """The class of scikit-learn."""

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
        """The component with the largest responsibility, argmax_k gamma(z_nk), eq. (5); see ``predict_proba``.

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
        return self._ask(self._answers.predict, X).astype(np.int64)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Responsibilities, gamma(z_nk) by eq. (5); see ``jaxgmm.e_step``.

        Those of ``BayesianGaussianMixture`` are proportional to exp E ln(pi_k N(x_n | mu_k, Sigma_k)) under the posterior.

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
        return self._ask(self._answers.predict_proba, X)

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

        Of ``BayesianGaussianMixture`` it is ln sum_k exp E ln(pi_k N(x_n | mu_k, Sigma_k)) under the posterior, as in
        scikit-learn (of "tied" but for a constant): no density, as it integrates to less than one.
        ``jaxgmm.log_prob(estimator.params_, X)`` is one.

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
        return self._ask(self._answers.log_prob, X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean log-likelihood of a sample, eq. (6) over the total weight: sum_n w_n ln p(x_n) / sum_n w_n.

        ln p(x_n) is what ``score_samples`` gives.

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
        log_px = self._told(self._answers.log_prob, X)
        if weight is None:
            return float(log_px.mean())
        weight = weight.astype(np.float64)
        return float(np.where(weight > 0, weight * log_px, 0).sum() / weight.sum())

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw from ``params_``, seeded by ``random_state``: a component k with probability pi_k, then from N(mu_k, Sigma_k).

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
        fitted = getattr(self, "_fitted_pair", None)
        if upper is None:
            cov: Any = self.covariances_
        elif fitted is not None and np.array_equal(upper, fitted[0]):
            cov = fitted[1]  # the precisions have lost digits that these have
        else:  # made or changed by hand, or by scikit-learn, which predicts with the precisions
            cov = inverted(squared(np.asarray(upper), structure), structure)
        held: Any = map(np.asarray, (self.weights_, self.means_, cov))  # set by hand they may be lists
        weights, means, cov = held
        return GMMParams(weights, means, cov, structure)

    @classmethod
    def from_sklearn(cls, estimator: BaseEstimator) -> Any:
        """The estimator with our engine, fitted if ``estimator`` is.

        It answers as scikit-learn's, except that a ``BayesianGaussianMixture`` has expectations of its own (see the class): of
        diag and spherical responsibilities and scores are others, of tied scores by a constant.

        Args:
          estimator: scikit-learn's, of the same name.

        Returns:
          Ours, with copies of its attributes.

        Raises:
          TypeError: an estimator with arguments that ours does not know.

        >>> from sklearn import mixture
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> theirs = mixture.GaussianMixture(2, random_state=0).fit([[0.0], [0.2], [9.0], [9.2]])
        >>> bool((GaussianMixture.from_sklearn(theirs).predict([[0.1], [9.1]]) == theirs.predict([[0.1], [9.1]])).all())
        True
        """
        made = cls(**estimator.get_params(deep=False))
        for name, value in vars(estimator).items():
            if name.endswith("_") and not name.startswith("_"):
                setattr(made, name, deepcopy(value))
        if hasattr(made, "converged_"):
            made.status_ = "fitted by scikit-learn."
        return made

    def to_sklearn(self) -> Any:
        """The estimator with scikit-learn's engine, fitted if this one is: what converters such as skl2onnx know.

        It answers as this one, with the exceptions of ``from_sklearn``.

        Returns:
          The class of the same name in ``sklearn.mixture``, with copies of the attributes.

        >>> import jaxgmm
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> params = jaxgmm.GMMParams.from_moments([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
        >>> GaussianMixture.from_params(params).to_sklearn().predict([[-3.0], [2.0]]).tolist()
        [0, 1]
        """
        made = self._theirs()
        made.set_params(**{name: getattr(self, name) for name in made.get_params()})  # a class derived from ours may have more
        for name, value in vars(self).items():
            if name.endswith("_") and not name.startswith("_") and name != "status_":
                setattr(made, name, deepcopy(value))
        return made

    def _structure(self) -> Structure:
        return get_structure(checks.check_choice("covariance_type", self.covariance_type, CLASSICS))

    def _check_present(self, X: np.ndarray, weight: np.ndarray | None) -> None:
        if (n_present := checks.n_present(weight, len(X))) < checks.check_int("n_components", self.n_components, 1):
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, n_samples = {n_present}"
            )

    def _check_arguments(self) -> None:
        """Those that no other check sees."""
        for name, least in (("max_iter", 0), ("n_init", 1), ("verbose_interval", 1)):
            checks.check_int(name, getattr(self, name), least)
        for name in ("tol", "reg_covar"):
            checks.check_nonnegative(name, getattr(self, name))
        checks.check_nonnegative("verbose", int(self.verbose) if isinstance(self.verbose, (bool, np.bool_)) else self.verbose)
        if not isinstance(self.warm_start, (bool, np.bool_)):
            raise ValueError(f"warm_start must be True or False; got {self.warm_start!r}.")
        checks.check_choice("init_params", self.init_params, STARTS)

    def _ask(self, function: Any, X: Any) -> np.ndarray:
        """A function of the core, of samples in the wider of their dtype and the mixture's."""
        check_is_fitted(self)
        return self._told(function, samples(self, X, reset=False))

    def _told(self, function: Any, X: np.ndarray) -> np.ndarray:
        held = self._held
        X = X.astype(np.result_type(X, held.means), copy=False)
        with in_precision(X.dtype):
            return np.array(function(held, in_rows(X, padded(len(X)))))[: len(X)]

    @property
    def _held(self) -> Any:
        """What ``_answers`` are asked of."""
        return self.params_

    @property
    def _n_features_out(self) -> int:
        return len(self.weights_)


@contextmanager
def in_precision(dtype: np.dtype) -> Iterator[None]:
    """Where JAX computes in this dtype, and where NaN is a number like any other: it marks what is absent."""
    with jax.debug_nans(False), jax.enable_x64(True) if dtype == np.float64 else nullcontext():
        yield
