"""Mixtures as files: safetensors, which holds arrays and a header of text, and no code; and as plain numbers, for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from jaxgmm.checks import check_params
from jaxgmm.params import GMMParams
from jaxgmm.structures import KNOWN, Structure, get_structure, is_name

FORMAT, VERSION = "jaxgmm", "1"
FIELDS = ("weights", "means", "cov")


def save(path: str | PathLike[str], params: GMMParams, metadata: Mapping[str, str] | None = None) -> None:
    """Write a mixture to a safetensors file: tensors ``weights``, ``means``, ``cov``, and a header.

    Args:
      path: the file; an existing one is replaced.
      params: a mixture.
      metadata: further text for the header, such as the names of the features.

    Raises:
      OSError: the file cannot be written.
      ValueError: ``params`` is not one mixture of a structure that ``load`` knows; ``metadata`` uses a name of the format
        itself, or holds what is not text.

    Source: the safetensors format, version 1 of the keys ``format``, ``version``, ``structure``.

    >>> import jaxgmm, tempfile, os
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1.0]]])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> jaxgmm.save(path, params, {"columns": "height"})
    >>> jaxgmm.load(path).weights.tolist()
    [1.0]
    """
    _check_known(params)
    header = {"format": FORMAT, "version": VERSION, "structure": params.structure.name}
    extra = dict(metadata or {})
    if header.keys() & extra.keys() or not all(isinstance(v, str) for pair in extra.items() for v in pair):
        raise ValueError(f"metadata must map text to text, without the names {sorted(header)}; got {extra}.")
    tensors = {name: np.ascontiguousarray(getattr(params, name)) for name in FIELDS}
    Path(path).write_bytes(to_bytes(tensors, metadata=extra | header))


def load(path: str | PathLike[str]) -> GMMParams:
    """Read a mixture that ``save`` wrote.

    Args:
      path: the file.

    Returns:
      The mixture in the dtype and units of the file: JAX arrays, or NumPy arrays where the file holds float64 and x64 is off.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not one of ours, is truncated, is of another version, or holds numbers that are no mixture; factor
        analysers with too few features, or that differ in what they share.

    >>> import jaxgmm, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> jaxgmm.save(path, jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1.0]]]))
    >>> jaxgmm.load(path).means.tolist()
    [[0.0]]
    """
    return _read(path)[0]


def load_metadata(path: str | PathLike[str]) -> dict[str, str]:
    """The header of a file that ``save`` wrote.

    Args:
      path: the file.

    Returns:
      Text by name: ``format``, ``version``, ``structure``, and what ``save`` was given.

    Raises:
      FileNotFoundError, ValueError: as ``load``.

    >>> import jaxgmm, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> jaxgmm.save(path, jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1.0]]]), {"columns": "height"})
    >>> jaxgmm.load_metadata(path)["columns"]
    'height'
    """
    return _read(path)[1]


def _read(path: str | PathLike[str]) -> tuple[GMMParams, dict[str, str]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"{path} is a safetensors file, but not of a jaxgmm mixture; its header is {header}.")
            if header.get("version") != VERSION:
                raise ValueError(
                    f"{path} is of format version {header.get('version')}; this jaxgmm reads {VERSION}. Upgrade it."
                )
            if not is_name(header.get("structure")) or set(file.keys()) != set(FIELDS):
                raise ValueError(
                    f"{path} holds {sorted(file.keys())} of structure {header.get('structure')!r}; "
                    f"expected {sorted(FIELDS)} of one of {KNOWN}."
                )
            weights, means, cov = (file.get_tensor(name) for name in FIELDS)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is truncated ({error}). Save the mixture again.") from None
    return _checked(weights, means, cov, get_structure(header["structure"]), str(path)), header


def to_dict(params: GMMParams) -> dict[str, Any]:
    """A mixture as lists of numbers, text and nothing else: what ``json.dumps`` takes.

    Args:
      params: a mixture.

    Returns:
      ``format``, ``version``, ``structure`` and ``dtype`` as text, and ``weights``, ``means`` and ``cov`` as nested lists in
      the shapes of ``GMMParams``.

    Raises:
      ValueError: ``params`` is not one mixture of a structure that ``from_dict`` knows.

    >>> import jaxgmm, json
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.5]], [[[2.0]]])
    >>> text = json.dumps(jaxgmm.to_dict(params))
    >>> jaxgmm.from_dict(json.loads(text)).means.tolist()
    [[0.5]]
    """
    _check_known(params)
    arrays = {name: np.asarray(getattr(params, name)) for name in FIELDS}
    about = {"format": FORMAT, "version": VERSION, "structure": params.structure.name, "dtype": str(arrays["means"].dtype)}
    return about | {name: array.tolist() for name, array in arrays.items()}


def from_dict(numbers: Mapping[str, Any]) -> GMMParams:
    """The mixture that ``to_dict`` wrote, in its dtype, as ``load``.

    Args:
      numbers: what ``to_dict`` returned, or ``json.loads`` of its text.

    Returns:
      The mixture: JAX arrays, or NumPy arrays where the numbers are float64 and x64 is off.

    Raises:
      ValueError: entries that are missing, or say what is not known here; shapes that do not fit; numbers that are no mixture;
        factor analysers as in ``load``. Further entries are ignored.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.5]], [[[2.0]]])
    >>> jaxgmm.from_dict(jaxgmm.to_dict(params)).cov.tolist()
    [[[2.0]]]
    """
    expected = {"format": [FORMAT], "version": [VERSION], "dtype": ["float32", "float64"]}
    known = {name: numbers.get(name) in choices for name, choices in expected.items()}
    known["structure"] = is_name(numbers.get("structure"))
    for name, sound in known.items():
        if not sound:
            choices = expected.get(name, KNOWN)
            raise ValueError(f"{name!r} must be one of {choices}; got {numbers.get(name)!r}. Write the mixture with to_dict.")
    try:
        weights, means, cov = (np.asarray(numbers[name], numbers["dtype"]) for name in FIELDS)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{', '.join(FIELDS)} must be nested lists of numbers ({error!r}).") from None
    return _checked(weights, means, cov, get_structure(numbers["structure"]), "the dictionary")


def _check_known(params: GMMParams) -> None:
    check_params(params)
    name = params.structure.name
    if not is_name(name) or get_structure(name) != params.structure:
        raise ValueError(f"params is {params.structure}, which load does not know; it knows {KNOWN}.")


def _checked(weights: np.ndarray, means: np.ndarray, cov: np.ndarray, structure: Structure, source: str) -> GMMParams:
    """The mixture, if the arrays from ``source`` are one."""
    fits = means.ndim == 2 and weights.shape == means.shape[:1] and cov.shape == structure.shape(*means.shape)
    if not fits or 0 in means.shape:
        raise ValueError(
            f"{source} holds shapes that do not fit together: weights {weights.shape}, means {means.shape}, cov {cov.shape}."
        )
    if means.shape[1] < structure.least_features():
        raise ValueError(
            f"{source} holds {structure.name} in {means.shape[1]} features; it needs at least {structure.least_features()}."
        )
    params = GMMParams(_leaf(weights), _leaf(means), _leaf(cov), structure)
    leaves = (weights, means, cov)
    sound = all(np.issubdtype(leaf.dtype, np.floating) and np.isfinite(leaf).all() for leaf in leaves)
    if not (sound and (weights >= 0).all() and weights.any() and np.isfinite(_log_det(params)).all()):
        raise ValueError(f"{source} holds numbers that are no mixture: weights that are negative or no covariance, or NaN.")
    if differing := structure.unequal(cov):
        raise ValueError(f"{source} holds {structure.name}, but {differing} are not equal in it.")
    return params


def _log_det(params: GMMParams) -> np.ndarray:
    return np.asarray(params.structure.whitener(jnp.asarray(params.cov), params.n_components, params.n_features).log_det)


def _leaf(value: np.ndarray) -> Any:
    representable = jax.dtypes.canonicalize_dtype(value.dtype) == value.dtype
    return jnp.asarray(value) if representable else value
