"""Time and memory to train the risk model on 1, 10 and 100 times a CSV's rows: `python -m tests.load.risk_scale`.

Rows are drawn with replacement and given ids of their own. Copies of one customer then stand in training and in
held-out rows, so cross-validation sees no overfitting and goes on for as many rounds as it may: times are those of
the longest training that the preset allows, and nothing is said of how good the models are.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from churnsaver.domain.schema import Role
from churnsaver.errors import BadInput, ChurnSaverError
from churnsaver.settings import DEFAULT_SEED, load_schema
from trainers.data.csv_reader import read_csv
from trainers.eval.figures import new_axes

stderr = Console(stderr=True)
REPORTS = Path("reports")
FACTORS = (1, 10, 100)
QUICK_FROM = 100  # the full preset would take most of an hour there


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took; `peak_mb` is its largest resident memory."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def main() -> None:
    """Entry point; exit 2 where the data or the schema cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a CSV of customers")
    parser.add_argument("--schema", type=Path, required=True, help="its YAML schema, with an id and a label")
    parser.add_argument("--factors", type=int, nargs="+", default=FACTORS, help="how many times the rows")
    parser.add_argument("--quick-from", type=int, default=QUICK_FROM, help="train --quick from this factor on")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder for risk_scale.json and risk_scale.png")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    options = parser.parse_args()
    try:
        result = measure(options)
    except ChurnSaverError as error:
        stderr.print(f"error: {error}", highlight=False)
        sys.exit(2)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "risk_scale.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(options.out / "risk_scale.png", result["runs"])
    print(json.dumps(result))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Prepares and trains at every factor, each in a process of its own."""
    runs = []
    for factor in options.factors:
        with tempfile.TemporaryDirectory() as folder:
            rows = multiply(options.data, options.schema, Path(folder) / "customers.csv", factor, options.seed)
            run = _train(Path(folder), options.schema, options.seed, quick=factor >= options.quick_from)
        runs.append({"factor": factor, "rows": rows, **run})
        stderr.print(f"{factor} ×: {runs[-1]}", highlight=False)
    return {"data": options.data.name, "seed": options.seed, "cores": os.cpu_count(), "runs": runs}


def multiply(source: Path, schema_path: Path, target: Path, factor: int, seed: int) -> int:
    """Writes `factor` times the rows of `source`, drawn with replacement, with ids of their own; returns how many."""
    name = load_schema(schema_path).name_of(Role.ID)
    cells = read_csv(source).cells
    if name is None or name not in cells.columns:
        raise BadInput(f"{schema_path}: needs a column of {source.name} with the role id")
    rows, place = cells.rows(), cells.columns.index(name)
    chosen = (
        range(len(rows)) if factor == 1 else np.random.default_rng(seed).integers(len(rows), size=factor * len(rows))
    )
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(cells.columns)
        for number, row in enumerate(chosen):
            copy = list(rows[row])
            copy[place] = f"{copy[place]}-{number}"
            writer.writerow(copy)
    return len(chosen)


def _train(folder: Path, schema: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    csv_file, prepared, out = folder / "customers.csv", folder / "prepared", folder / "risk"
    prepare = run("data", "prepare", "--csv", csv_file, "--schema", schema, "--out", prepared, "--seed", seed)
    train = run("train", "risk", "--data", prepared, "--out", out, "--seed", seed, *(("--quick",) if quick else ()))
    return {"preset": "quick" if quick else "full", "prepare": asdict(prepare), "train": asdict(train)}


def run(*words: str | int | Path) -> Cost:
    """What a `churn-saver` command takes; BadInput where it fails."""
    command = [sys.executable, "-m", "cli.main", *map(str, words), "--json"]
    started = os.times().elapsed
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise BadInput(f"`churn-saver {words[0]} {words[1]}` exits {process.returncode}; its error stands above")
    wall_s = os.times().elapsed - started
    return Cost(round(wall_s, 1), round(usage.ru_utime + usage.ru_stime, 1), round(usage.ru_maxrss / 1024, 0))


def draw(path: Path, runs: list[dict[str, Any]]) -> None:
    """Writes a PNG: left the CPU time, right the largest memory, against the rows."""
    figure, axes = new_axes(2, width_in=9.0, height_in=3.6)
    rows = [run["rows"] for run in runs]
    for panel, key, label in zip(axes, ("cpu_s", "peak_mb"), ("CPU seconds", "largest memory, MB"), strict=True):
        for step in ("prepare", "train"):
            panel.plot(rows, [run[step][key] for run in runs], marker="o", label=step)
        panel.set(xscale="log", yscale="log", xlabel="rows", ylabel=label)
        panel.legend()
    for found in runs:
        axes[0].annotate(found["preset"], (found["rows"], found["train"]["cpu_s"]), fontsize=8, va="bottom")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
