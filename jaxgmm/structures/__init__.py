"""Covariance structures by name."""

from __future__ import annotations

from jaxgmm.checks import check_choice
from jaxgmm.structures.base import Dense, Diagonal, Structure
from jaxgmm.structures.diag import Diag
from jaxgmm.structures.full import Full
from jaxgmm.structures.spherical import Spherical
from jaxgmm.structures.tied import Tied

STRUCTURES: dict[str, Structure] = {s.name: s for s in (Full(), Tied(), Diag(), Spherical())}


def get_structure(covariance_type: str | Structure) -> Structure:
    """The structure of a name; a structure is returned as it is."""
    if isinstance(covariance_type, Structure):
        return covariance_type
    return STRUCTURES[check_choice("covariance_type", covariance_type, STRUCTURES)]


__all__ = ["STRUCTURES", "Dense", "Diag", "Diagonal", "Full", "Spherical", "Structure", "Tied", "get_structure"]
