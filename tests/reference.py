"""Results of other software, as files beside the tests."""

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
DATASETS = ["faithful", "iris", "diabetes", "banknote", "acidity"]
LETTERS = {"full": "VVV", "tied": "EEE", "diag": "VVI", "spherical": "VII"}
"""mclust's names of the classics; the other structures have no others."""


@cache
def mclust() -> dict:
    return json.loads((DATA / "mclust.json").read_text())


@cache
def samples(name: str) -> np.ndarray:
    """(N, D) float64, the numeric columns of a data set."""
    with (DATA / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[c]) for c in mclust()[name]["columns"]] for row in rows])


@cache
def map_prior() -> list[dict]:
    """mclust's fits with a conjugate prior, their hyper-parameters written out."""
    return json.loads((DATA / "map_prior.json").read_text())


def labels(name: str) -> np.ndarray:
    """(6, N) the hard starts for G = 1..6, counted from 0."""
    return np.array([[int(c) for c in mclust()[name]["labels"][str(g)]] for g in range(1, 7)], np.int32)


def letters(covariance_type: str) -> str:
    return LETTERS.get(covariance_type, covariance_type)


def fits(name: str, covariance_type: str) -> list[dict]:
    """The reference fits of a structure, for G = 1..6; in one dimension the letter of the volume stands for it."""
    model = letters(covariance_type)
    return [f for f in mclust()[name]["fits"] if f["model"] in (model, model[0])]
