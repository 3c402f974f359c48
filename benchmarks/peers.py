"""Shared by the benchmarks against other programs: their environments, what the project costs beside them, and the table."""

import json
import os
import statistics
import subprocess
import venv
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.pipeline import ROOT, commit, run_python

OURS = "this project"
MEASURES = {
    "whole job from nothing, s": "whole",
    "second experiment, s": "second",
    "training epoch, median, s": "epoch",
    "peak memory of the largest process, MB": "memory",
}
Costs = dict[str, float]


def python_with(packages: list[str], name: str) -> str:
    """The Python of an environment with these packages, build/NAME, which is created if it does not exist yet."""
    folder = ROOT / "build" / name
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8")) != packages:
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        stamp.write_text(json.dumps(packages), encoding="utf-8")
    return str(python)


def prepare(dataset: Path) -> None:
    """Give each round an MLflow store of its own, hide the GPU, which not all programs can use, and warm the page cache: otherwise
    only the first run would read the posters from disk."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for path in dataset.rglob("*.jpg"):
        path.read_bytes()
    run_python(["-c", "import dvc.cli, mlflow, pandas, torch"], ROOT)


def run_project(folder: Path, second: str) -> Costs:
    """Run the pipeline in a clone from scratch, then a second experiment by `-S` `second`, which finds its posters in the cache."""
    whole, memory = run_python(["-m", "dvc", "repro"], folder)
    seconds = pd.read_csv(folder / "metrics" / "history.csv")["seconds"].tolist()
    commit(folder)
    experiment, more = run_python(["-m", "dvc", "exp", "run", "-S", second], folder)
    return {"whole": whole, "second": experiment, "epoch": statistics.median(seconds), "memory": max(memory, more)}


def of_program(seconds: float, memory: float, steps: dict[str, Any]) -> Costs:
    """The costs of a program that prints the seconds of its `epochs`; a second experiment costs it as much as the first."""
    return {"whole": seconds, "second": seconds, "epoch": statistics.median(steps["epochs"]), "memory": memory}


def write_rounds(rounds: list[dict[str, Costs]], path: Path | None) -> None:
    """Write the costs so far to a file, if one is named: after each round, as they take long."""
    if path:
        path.write_text(json.dumps(rounds, indent=2) + "\n", encoding="utf-8")


def print_costs(rounds: list[dict[str, Costs]]) -> None:
    """Print a Markdown table of medians over the rounds, and of the project's ratios to what each other program took."""
    others = [name for name in rounds[0] if name != OURS]
    print(f"\n| | {OURS} | {' | '.join(f'{name} | ratio' for name in others)} |\n| --- |{' --- |' * (1 + 2 * len(others))}")
    for title, key in MEASURES.items():
        cells = [f"{statistics.median(one[OURS][key] for one in rounds):.1f}"]
        for name in others:
            ratio = statistics.median(one[OURS][key] / one[name][key] for one in rounds)
            cells += [f"{statistics.median(one[name][key] for one in rounds):.1f}", f"{ratio:.2f}"]
        print(f"| {title} | {' | '.join(cells)} |")
