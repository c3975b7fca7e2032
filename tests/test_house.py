"""The house itself: imports only go down, and importing it is light."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxgmm"

FLOORS = {
    0: ["numerics", "blocks", "checks", "checks_params", "loop"],
    1: ["accelerate", "conjugate", "rounding", "structures"],
    2: ["params", "sums", "contract", "priors", "result"],
    3: ["em"],
    4: [
        "clusters",
        "hierarchy",
        "initial",
        "lanes",
        "implicit",
        "swaps",
        "batch",
        "rounds",
        "density",
        "criteria",
        "merging",
        "posterior",
    ],
    5: ["fitting", "folds", "gradient"],
    6: ["many", "selection", "bootstrap", "variational", "variational_result"],
    7: [
        "cache",
        "cli_groups",
        "drawing",
        "grouped",
        "io",
        "padding",
        "plotting",
        "precisions",
        "reports",
        "sklearn",
        "sklearn_answers",
        "sklearn_bayesian",
        "sklearn_cycle",
        "sklearn_door",
        "sklearn_starts",
        "sklearn_words",
        "tables",
    ],
    8: ["cli"],
}
# Within a floor, who may be seen by whom.
STEPS = {
    "blocks": {"numerics"},
    "loop": {"numerics"},
    "contract": {"params", "sums"},
    "priors": {"contract", "params", "sums"},
    "result": {"params"},
    "hierarchy": {"clusters"},
    "initial": {"clusters", "hierarchy", "swaps"},
    "swaps": {"lanes"},
    "criteria": {"initial", "lanes"},
    "batch": {"clusters", "initial", "lanes"},
    "implicit": {"lanes"},
    "gradient": {"fitting"},
    "bootstrap": {"many", "selection"},
    "checks_params": {"checks"},
    "variational": {"variational_result"},
    "rounds": {"batch"},
    "cli_groups": {"grouped", "io", "reports", "tables"},
    "plotting": {"drawing"},
    "reports": {"grouped"},
    "sklearn_answers": {"padding", "precisions", "sklearn_door", "sklearn_starts"},
    "sklearn_bayesian": {
        "padding",
        "precisions",
        "sklearn_answers",
        "sklearn_cycle",
        "sklearn_door",
        "sklearn_starts",
        "sklearn_words",
    },
    "sklearn": {
        "padding",
        "precisions",
        "sklearn_answers",
        "sklearn_bayesian",
        "sklearn_cycle",
        "sklearn_door",
        "sklearn_starts",
        "sklearn_words",
    },
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}


def rooms_seen_by(path: Path) -> set[str]:
    seen = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxgmm":
            seen |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxgmm."):
            seen.add(node.module.split(".")[1])
    return seen & FLOOR.keys()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    relative = path.relative_to(PACKAGE)
    if relative.name == "__init__.py" and len(relative.parts) == 1:
        return  # the street door shows every room
    room = relative.parts[0].removesuffix(".py")
    assert room in FLOOR, f"{room} stands on no floor: give it one in FLOORS"
    for other in rooms_seen_by(path) - {room}:
        allowed = FLOOR[other] < FLOOR[room] or other in STEPS.get(room, set())
        assert allowed, f"{room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})"


def test_no_file_bears_the_name_of_a_public_function():
    import jaxgmm

    assert not {p.stem for p in PACKAGE.glob("*.py")} & set(jaxgmm.__all__)


def test_import_is_light():
    program = (
        "import sys, jaxgmm\n"
        "heavy = ['optax', 'chex', 'matplotlib', 'sklearn', 'scipy.stats', 'typer', 'rich', 'polars', 'tqdm', 'beartype']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def public_names():
    import jaxgmm
    from jaxgmm import plotting, sklearn

    yield from ((name, getattr(jaxgmm, name)) for name in jaxgmm.__all__)
    yield from ((name, value) for name, value in vars(plotting).items() if name.startswith("plot_"))
    yield "GaussianMixture", sklearn.GaussianMixture
    yield "BayesianGaussianMixture", sklearn.BayesianGaussianMixture
    for kind in (sklearn.GaussianMixture, sklearn.BayesianGaussianMixture, sklearn.FittedMixture):
        for name, value in vars(kind).items():
            if not name.startswith("_") and not name.endswith("_request"):  # scikit-learn's, of metadata
                yield name, getattr(value, "__func__", value)


def test_every_public_name_says_what_it_takes_gives_and_raises_and_shows_it():
    for name, value in public_names():
        words = [">>>"]
        if inspect.isfunction(value):
            takes = set(inspect.signature(value).parameters) - {"self", "cls"}
            gives = inspect.signature(value).return_annotation != "None"
            words += ["Args:"] * bool(takes) + ["Returns:"] * gives
        missing = [word for word in words if word not in value.__doc__]
        assert not missing, (name, missing)
