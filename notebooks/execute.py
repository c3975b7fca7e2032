"""Run the notebooks from start to end, each in a kernel of its own.

    python notebooks/execute.py                      all of them
    python notebooks/execute.py 04 --pictures docs   one, its tagged pictures kept

A cell with the tag ``picture:NAME`` draws a picture that README shows; ``--pictures FOLDER`` writes it to NAME.png there. A
notebook that holds outputs and one that fails end with an exit code; one of more than a minute is told of, as machines differ.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent
MOST_SECONDS = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of file names; all without")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures of tagged cells")
    parser.add_argument("--strip", action="store_true", help="only remove outputs from the files")
    options = parser.parse_args()
    paths = [path for path in sorted(HERE.glob("*.ipynb")) if path.name.startswith(tuple(options.names) or "")]
    if options.strip:
        for path in paths:
            nbformat.write(stripped(nbformat.read(path, 4)), path)
        return 0
    return max([execute(path, options.pictures) for path in paths], default=1)


def execute(path: Path, pictures: Path | None) -> int:
    """0, or 1 with a line that says why not."""
    notebook = nbformat.read(path, 4)
    clean = notebook == stripped(notebook)
    began = time.perf_counter()
    try:
        NotebookClient(notebook, timeout=10 * MOST_SECONDS, resources={"metadata": {"path": str(HERE)}}).execute()
    except CellExecutionError as error:
        print(f"{path.name}: {error}")
        return 1
    seconds = time.perf_counter() - began
    slow = f", more than {MOST_SECONDS} s" if seconds > MOST_SECONDS else ""
    fault = "" if clean else "; holds outputs: run python notebooks/execute.py --strip"
    print(f"{path.name}: {seconds:.0f} s{slow}{fault}")
    for cell in notebook.cells if pictures else []:
        keep_pictures(cell, pictures)
    return int(not clean)


def keep_pictures(cell: nbformat.NotebookNode, folder: Path) -> None:
    names = [tag.removeprefix("picture:") for tag in cell.metadata.get("tags", []) if tag.startswith("picture:")]
    drawn = [output.data["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    for name, image in zip(names, drawn, strict=True) if names else ():
        (folder / f"{name}.png").write_bytes(base64.b64decode(image))


def stripped(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without outputs, counts, and what editors leave in its metadata."""
    notebook = nbformat.from_dict(notebook)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


if __name__ == "__main__":
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    sys.exit(main())
