"""Type checker of the import hook: beartype on internal functions; the public doors speak for themselves."""

from collections.abc import Callable

from beartype import beartype

DOORS = {
    "aic", "bic", "bootstrap_lrt", "covariances", "default_prior", "e_step", "entropy", "fit", "fit_from", "fit_many",
    "fit_variational", "fit_variational_from", "from_free", "from_moments", "get_structure", "icl", "initialise", "load",
    "log_likelihood", "log_prob", "m_step", "maximise", "merge_components", "mixture_covariance", "mixture_mean",
    "n_free_parameters", "nec", "predict", "predict_proba", "sample", "save", "statistics", "sweep", "to_free",
}  # fmt: skip


def internal(function: Callable) -> Callable:
    """Check the annotations of ``function`` unless it is a public door or checks what comes through one."""
    is_door = function.__name__ in DOORS or function.__name__.startswith("check_")
    holds_any_leaf = function.__name__ == "__init__"  # a pytree is also rebuilt with tracers, None and NumPy leaves
    return function if is_door or holds_any_leaf else beartype(function)
