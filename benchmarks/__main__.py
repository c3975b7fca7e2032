"""Time jaxgmm beside its peers, each comparison in a process of its own, and print the ratios.

``python -m benchmarks [--quick] [--json FILE] [--chart FILE]``; the extra ``bench`` holds what it needs. A comparison counts
only if both sides computed the same thing; where they did not, the table says so and the exit code is 1. tgmm, which
brings PyTorch, is timed where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rows import ALONE, LOOP, PLAIN, ROWS, Row


def worker(row: Row, side: str, what: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.worker", row.name, side, what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{row.name}, {side}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    )
    packages = ("jax", "jaxlib", "jaxgmm", "numpy", "scikit-learn", "gmmx", "tgmm", "torch")
    versions = {name: importlib.metadata.version(name) for name in packages if _installed(name)}
    return {
        "date": date.today().isoformat(),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "versions": versions,
    }


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def measure(row: Row, peers: list[str], quick: bool, console: Console) -> list[dict[str, Any]]:
    found = []
    rounds = 5 if quick else 9
    weighs = row.kind == "memory" or (row.kind in ("iteration", "fit") and not quick)
    ours = worker(row, "jaxgmm", "memory") if weighs else None
    for peer in peers:
        console.print(f"[dim]{row.name}: {peer}", highlight=False)
        result = {} if row.kind == "memory" else worker(row, peer, str(rounds))
        result |= {"memory_mb": ours, "peer_memory_mb": worker(row, peer, "memory") if weighs else None}
        found.append({"row": row.name, "kind": row.kind, "peer": peer, "must": row.must, "aim": row.aim} | result)
    return found


def table(results: list[dict[str, Any]]) -> Table:
    out = Table(title="Times of the peer over times of jaxgmm (of jaxgmm over the multiplications alone; MB beyond the data)")
    for heading in (
        "workload",
        "peer",
        "jaxgmm",
        "peer's",
        "ratio",
        "of medians",
        "must",
        "aim",
        "MB",
        "peer's MB",
        "same result",
    ):
        out.add_column(heading, justify="left" if heading in ("workload", "peer") else "right")
    for r in results:
        timed = r["kind"] != "memory"
        times = [f"{1e3 * r[k]:.1f} ms" if k in r else "" for k in ("seconds", "peer_seconds")]
        if r["kind"] == "passes":
            times = [str(r["passes"]), str(r["peer_passes"])]
        ratios = [f"{r[k]:.1f}" for k in ("ratio", "ratio_of_medians")] if timed else ["", ""]
        memory = ["" if r[k] is None else f"{r[k]:.0f}" for k in ("memory_mb", "peer_memory_mb")]
        same = {True: "yes", False: "NO", None: ""}[r.get("agree")]
        out.add_row(r["row"], r["peer"], *times, *ratios, f"{r['must']:g}", f"{r['aim']:g}", *memory, same)
    return out


def chart(results: list[dict[str, Any]], file: Path) -> None:
    """Ratios as bars on a logarithmic axis, with what is asked of each."""
    from matplotlib.figure import Figure

    timed = [r for r in results if r["kind"] not in ("memory", "limit")][::-1]
    figure = Figure(figsize=(8, 0.6 + 0.45 * len(timed)), layout="constrained")
    ax = figure.subplots()
    for i, r in enumerate(timed):
        ratio = r["ratio_of_medians"]
        ax.barh(i, ratio - 1, left=1, color="#0072B2" if r["peer"] == "scikit-learn" else "#E69F00")
        asked = r["must"] if r["peer"] in (LOOP, PLAIN, "scikit-learn") else None
        if asked:
            ax.plot([asked] * 2, [i - 0.4, i + 0.4], color="black", linewidth=1.5)
        ax.text(1.1 * max(ratio, asked or 1, 1), i, f"{ratio:.2g}", va="center")
    ax.set_yticks(range(len(timed)), [f"{r['row']}\nagainst {r['peer']}" for r in timed], fontsize=8)
    ax.set_xscale("log")
    ax.set_ylim(-0.7, len(timed) - 0.3)
    ax.axvline(1, color="grey", linewidth=0.8)
    ratios = [r["ratio_of_medians"] for r in timed] + [r["must"] for r in timed]
    ax.set_xlim(min(0.8, 0.8 * min(ratios)), 2 * max(ratios))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("times as fast as the peer (medians; line: asked)")
    figure.savefig(file, dpi=150)


def kept(file: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The results in a file, which must be of this day, machine and versions for others to stand beside them."""
    found = json.loads(file.read_text())
    if found["machine"] != about:
        raise SystemExit(f"{file} holds results of another day, machine or version: {found['machine']}.")
    return found["results"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="five rounds instead of nine, scikit-learn only, memory in its own row only, no row of minutes",
    )
    parser.add_argument("--rows", default="", help="only the workloads whose name holds this text")
    parser.add_argument("--json", type=Path, help="write results and versions to this file; with --rows the others stay in it")
    parser.add_argument("--chart", type=Path, help="draw the ratios to this picture")
    options = parser.parse_args()
    console = Console()
    about = machine()
    before = kept(options.json, about) if options.rows and options.json and options.json.exists() else []
    results = []
    for row in ROWS.values():
        if options.rows in row.name and not (row.slow and options.quick):
            peers = [
                p
                for p in row.peers
                if p in (ALONE, LOOP, PLAIN) or (_installed(p) and (p == "scikit-learn" or not options.quick))
            ]
            results += measure(row, peers, options.quick, console)
    latest = {(r["row"], r["peer"]): r for r in before + results}
    results = sorted(latest.values(), key=lambda r: list(ROWS).index(r["row"]))
    console.print(table(results))
    console.print(f"{about['date']}, {about['processor']}, {about['cores']} cores, {about['versions']}", highlight=False)
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n")
    if options.chart:
        chart(results, options.chart)
    return 0 if all(r.get("agree", True) for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
