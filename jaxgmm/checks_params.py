"""The door for mixtures and priors: what they must be to take part."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgmm.checks import (
    check_above,
    check_array,
    check_choice,
    check_finite,
    check_nonnegative,
    check_params,
    is_traced,
)


def check_centre(centre: ArrayLike | None, n_features: int, name: str = "centre") -> np.ndarray | jax.Array | None:
    """None, or a point of D features."""
    if centre is None:
        return None
    point = check_array(name, centre)
    if point.shape != (n_features,):
        raise ValueError(f"{name} must have shape ({n_features},), one number a feature; got {point.shape}.")
    return point


def check_free(free: Any, cov_shape: tuple[int, ...]) -> None:
    """As many numbers as the mixture has: (K,) for its weights, and of ``cov_shape`` for its covariances."""
    for name, shape in (("weights", (free.n_components,)), ("cov", cov_shape)):
        if np.shape(getattr(free, name)) != shape:
            raise ValueError(
                f"free.{name} must have shape {shape} for {free.n_components} {free.structure.name} components in "
                f"{free.n_features} features; got {np.shape(getattr(free, name))}."
            )


def check_hyperparameters(prior: Any, n_features: int, least_dof: float, scale_shape: tuple[int, ...]) -> dict[str, Any]:
    """The numbers of a prior, by name; None where one is left to the data."""
    if not hasattr(prior, "shrinkage"):
        raise ValueError(f"prior must be Hyperparameters; got {type(prior).__name__}.")
    found: dict[str, Any] = dict(vars(prior))
    for name, bound in (("concentration", 0.0), ("shrinkage", 0.0), ("dof", least_dof)):
        if found[name] is not None:
            check_above(f"prior.{name}", found[name], bound)
    for name, shape in (("mean", (n_features,)), ("scale", scale_shape)):
        if found[name] is not None:
            found[name] = check_finite(f"prior.{name}", found[name], shape)
    scale = found["scale"]
    if scale is not None and not is_traced(scale):
        values = np.asarray(scale, np.float64)
        check_definite("prior.scale", values if values.ndim == 2 else np.diag(np.atleast_1d(values)))
    return found


def check_concentration(concentration: Any) -> Any:
    """A finite number of at least one, or a tracer: below one a Dirichlet distribution has no mode."""
    check_nonnegative("concentration", concentration)
    if not is_traced(concentration) and np.asarray(concentration) < 1:
        raise ValueError(f"concentration must be at least one, which is flat; got {concentration!r}.")
    return concentration


def check_scale(scale: ArrayLike, n_features: int) -> np.ndarray | jax.Array:
    """A number, or a positive semidefinite (D, D) matrix."""
    array = check_array("scale", scale)
    if array.shape not in ((), (n_features, n_features)):
        raise ValueError(f"scale must be a number or have shape ({n_features}, {n_features}); got shape {array.shape}.")
    if not is_traced(array):
        check_definite("scale", np.asarray(array, np.float64).reshape(len(array) if array.ndim else 1, -1), singular=True)
    return array


def check_prior(prior: Any, n_features: int, by_name: bool = False) -> Any:
    """None, or a ``Prior`` of D features, as arrays; "default" where it may come by name."""
    if prior is None or (by_name and isinstance(prior, str) and check_choice("prior", prior, ["default"])):
        return prior
    if not hasattr(prior, "shrinkage") or not hasattr(prior, "scatter"):
        raise ValueError(f"prior must be a jaxgmm.Prior or None; got {prior!r}. Make one with jaxgmm.default_prior(X, K).")
    shapes = {"weight": (), "shrinkage": (), "mean": (n_features,), "count": (), "scatter": (n_features, n_features)}
    arrays = {}
    for name, shape in shapes.items():
        arrays[name] = array = check_finite(f"prior.{name}", getattr(prior, name), shape)
        if shape == ():
            check_nonnegative(f"prior.{name}", array)
        if name == "scatter" and not is_traced(array):
            check_definite("prior.scatter", np.asarray(array, np.float64), singular=True)
    return dataclasses.replace(prior, **arrays)


def check_prior_sees_all(prior: Any, axis_name: str | None) -> None:
    """A default prior is made of all samples, and inside ``shard_map`` there is a part of them."""
    if axis_name is not None and isinstance(prior, str):
        raise ValueError(
            f"prior={prior!r} would see only the samples of one device. Make it outside: prior=jaxgmm.default_prior(X, K)."
        )


def check_start(params: Any, n_components: int, n_features: int, structure: Any) -> None:
    """A mixture that fits X, n_components and, unless it was left at its default, the structure asked for."""
    check_params(params)
    if structure.name not in ("full", params.structure.name):
        raise ValueError(
            f"covariance_type asks for {structure.name!r}, but params is {params.structure.name!r}. "
            "Leave covariance_type out, or build params in the structure you want with GMMParams.from_moments."
        )
    shape = (params.n_components, params.n_features)
    if shape != (n_components, n_features):
        raise ValueError(
            f"params is a mixture of {shape[0]} components in {shape[1]} features; "
            f"n_components and X ask for {n_components} in {n_features}."
        )


def check_definite(name: str, matrix: np.ndarray, singular: bool = False) -> None:
    """A symmetric matrix, positive definite or, where it may be ``singular``, semidefinite."""
    size = np.abs(matrix).max()
    symmetric = np.isfinite(size) and np.abs(matrix - matrix.T).max() <= 1e-5 * size
    least = np.linalg.eigvalsh(matrix)[0] if symmetric else np.nan
    if not (least >= -1e-5 * size if singular else least > 0):
        raise ValueError(f"{name} must be finite, symmetric and positive {'semi' * singular}definite; got {matrix.tolist()}.")
