"""Covariance structures by name."""

from __future__ import annotations

from typing import Any

from jaxgmm.checks import check_choice
from jaxgmm.structures.along_axes import EEV, EVE, VEV, VVE
from jaxgmm.structures.along_features import EEI, EII, EVI, VEI
from jaxgmm.structures.base import Dense, Diagonal, Structure
from jaxgmm.structures.diag import Diag
from jaxgmm.structures.factor_analyzers import FactorAnalyzers
from jaxgmm.structures.full import Full
from jaxgmm.structures.proportional import EVV, VEE
from jaxgmm.structures.spherical import Spherical
from jaxgmm.structures.tied import Tied

CLASSICS = "full", "tied", "diag", "spherical"
"""Those that scikit-learn has; mclust has the others besides."""

TABLE = Full(), Tied(), Diag(), Spherical(), EII(), EEI(), VEI(), EVI(), VEE(), EVE(), VVE(), EEV(), VEV(), EVV()

STRUCTURES: dict[str, Structure] = {structure.name: structure for structure in TABLE}

KNOWN = ", ".join([*STRUCTURES, "UUU-5 and its like"])
"""What there is to choose from, as text."""

SYNONYMS = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical", "E": "EII", "V": "spherical"}
"""mclust's names of the classics; E and V are its names in one dimension."""


def get_structure(covariance_type: str | Structure, n_features: int | None = None) -> Structure:
    """The structure of a name, if it can have so many features; a structure is returned as it is."""
    structure = covariance_type if isinstance(covariance_type, Structure) else _named(covariance_type)
    if n_features is not None and n_features < structure.least_features():
        raise ValueError(
            f"covariance_type {structure.name!r} needs at least {structure.least_features()} features; X has {n_features}. "
            "Factors must be fewer than features."
        )
    return structure


def is_name(name: object) -> bool:
    """Is this the name of a structure, as the structure bears it?"""
    return isinstance(name, str) and (name in STRUCTURES or FactorAnalyzers.named(name) is not None)


def _named(name: Any) -> Structure:
    known = SYNONYMS.get(name, name) if isinstance(name, str) else name
    if isinstance(known, str) and (found := FactorAnalyzers.named(known)) is not None:
        return found
    others = [*SYNONYMS, *FactorAnalyzers.names_like(str(known))]
    return STRUCTURES[check_choice("covariance_type", known, STRUCTURES, others, ", or factor analysers such as 'UUU-5'")]


__all__ = [
    "CLASSICS",
    "KNOWN",
    "STRUCTURES",
    "Dense",
    "Diag",
    "Diagonal",
    "FactorAnalyzers",
    "Full",
    "Spherical",
    "Structure",
    "Tied",
    "get_structure",
    "is_name",
]
