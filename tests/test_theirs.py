"""scikit-learn's own tests of its mixture, with our estimator in the place of theirs, and its checks of any estimator."""

import importlib.util
from unittest import mock

import numpy as np
import pytest
import sklearn.mixture
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxgmm.sklearn import BayesianGaussianMixture, GaussianMixture

PRIVATE = {
    "test_gaussian_mixture_precisions_init": "calls _initialize and _set_parameters",
    "test_compare_covar_type": "calls _check_parameters and _initialize_parameters",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": "counts calls of _estimate_gaussian_parameters",
}
"""Tests that reach into scikit-learn's private helpers, not into what the class does."""


def exchanged(module: str) -> dict:
    """The tests of one of scikit-learn's modules, imported anew with the class exchanged."""
    spec = importlib.util.find_spec(f"sklearn.mixture.tests.{module}")
    copy = importlib.util.module_from_spec(spec)
    with mock.patch.multiple(sklearn.mixture, GaussianMixture=GaussianMixture, BayesianGaussianMixture=BayesianGaussianMixture):
        spec.loader.exec_module(copy)
    tests = {name: test for name, test in vars(copy).items() if name.startswith("test_") and name not in PRIVATE}
    for test in tests.values():  # pytest wants lists of parameters, and some are generators
        test.pytestmark = [
            pytest.mark.parametrize(mark.args[0], list(mark.args[1])).mark if mark.name == "parametrize" else mark
            for mark in getattr(test, "pytestmark", [])
        ]
    return tests


globals().update(exchanged("test_gaussian_mixture"))
globals().update({f"{name}_bayesian": test for name, test in exchanged("test_bayesian_mixture").items()})
globals().update(exchanged("test_mixture"))
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"])
def global_dtype(request):
    return request.param


@pytest.fixture
def global_random_seed():
    return 42


@parametrize_with_checks([GaussianMixture()])
def test_checks_of_any_estimator(estimator, check):
    check(estimator)


@pytest.mark.long
@parametrize_with_checks([BayesianGaussianMixture()])
def test_checks_of_any_estimator_of_the_bayesian(estimator, check):
    check(estimator)
