"""The pipeline compared with the tutorial's Keras program, in turns: both train the tutorial's network, here by `dvc repro`.

Run: `python -m benchmarks.against_keras [DATASET] [--rounds 2] [--epochs 10] [--limit 3000]`, by default on
../shared/movie-posters; the data set needs a train.csv. TensorFlow is installed once, in build/keras (1.7 GB). Linux.

Each round runs benchmarks/keras_tutorial.py, then the project, as committed, in a fresh clone with no cache and no runs: `dvc
repro`, and a second experiment with another learning rate, which finds its posters in the cache. Both have the same network, the
same number of posters of 200 x 200 pixels, batch size and epochs, and no GPU. The project does more in its time: DVC's hashing,
MLflow's runs, the stage `sample`, and the test set, a quarter of all posters for any `--limit`, which the tutorial does not
have. Both use their default precision; the project's is bfloat16 if the processor supports it.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.pipeline import DATASET, ROOT, commit, machine, project_clone, run, run_python, size_of

KERAS = ROOT / "build" / "keras"
PACKAGES = ["tensorflow-cpu==2.21.0", "pandas==3.1.1", "pillow==13.0.0"]
MEASURES = {
    "whole job from nothing, s": ("script", "repro"),
    "second experiment, posters cached, s": ("script", "experiment"),
    "training epoch, median, s": ("epoch", "epoch"),
    "peak memory of the largest process, MB": ("memory", "memory"),
}


def keras_python() -> str:
    """The Python of an environment with `PACKAGES`, which is created if it does not exist yet."""
    python, stamp = KERAS / "bin" / "python", KERAS / "installed.json"
    if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8")) != PACKAGES:
        venv.create(KERAS, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        stamp.write_text(json.dumps(PACKAGES), encoding="utf-8")
    return str(python)


def run_keras(python: str, dataset: Path, epochs: int, limit: int) -> dict[str, Any]:
    """Run the tutorial's program, and return its times and peak memory."""
    program = str(ROOT / "benchmarks" / "keras_tutorial.py")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        command = [python, program, str(dataset), "--epochs", str(epochs), "--limit", str(limit)]
        seconds, memory = run(command, ROOT, output)
        output.seek(0)
        steps = json.loads(output.readlines()[-1])
    return {"script": seconds, "epoch": statistics.median(steps["epochs"]), "memory": memory, "steps": steps}


def run_project(dataset: Path, epochs: int, limit: int) -> dict[str, Any]:
    """Run the pipeline from scratch and then a second experiment, and return their times and peak memory."""
    parameters = {"architecture": "tutorial", "batch_size": 64, "epochs": epochs, "limit": limit, **size_of("tutorial")}
    with project_clone(dataset=str(dataset), **parameters) as folder:
        repro, memory = run_python(["-m", "dvc", "repro"], folder)
        seconds = pd.read_csv(folder / "metrics" / "history.csv")["seconds"].tolist()
        commit(folder)
        # Not another seed: that changes the split, and DVC would run the stage `cache` again.
        experiment, more = run_python(["-m", "dvc", "exp", "run", "-S", "learning_rate=0.002"], folder)
    costs = {"repro": repro, "experiment": experiment, "epoch": statistics.median(seconds), "memory": max(memory, more)}
    return costs | {"steps": {"epochs": seconds}}


def print_table(rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Print a Markdown table of medians over the rounds, also of the ratios."""
    print("\n| | Keras | this project | ratio |\n| --- | --- | --- | --- |")
    for name, (theirs, ours) in MEASURES.items():
        keras = [one["keras"][theirs] for one in rounds]
        project = [one["project"][ours] for one in rounds]
        ratio = statistics.median(a / b for a, b in zip(project, keras, strict=True))
        print(f"| {name} | {statistics.median(keras):.1f} | {statistics.median(project):.1f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="The pipeline compared with the tutorial's Keras program.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--rounds", type=int, default=2, help="of each (2)")
    parser.add_argument("--epochs", type=int, default=10, help="(10)")
    parser.add_argument("--limit", type=int, default=3000, help="movies to train and validate on (3000)")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    dataset = arguments.dataset.resolve()
    # Each round has its own MLflow store. Hide the GPU from torch, because this TensorFlow cannot use one.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    python = keras_python()
    # Warm the page cache: otherwise only the first run would read posters and libraries from disk.
    for path in dataset.rglob("*.jpg"):
        path.read_bytes()
    run([python, "-c", "import tensorflow.keras, pandas"], ROOT)
    run_python(["-c", "import dvc.cli, mlflow, pandas, torch"], ROOT)
    rounds: list[dict[str, dict[str, Any]]] = []
    for _ in range(arguments.rounds):
        keras = run_keras(python, dataset, arguments.epochs, arguments.limit)
        rounds.append({"keras": keras, "project": run_project(dataset, arguments.epochs, arguments.limit)})
        # After each round, because they take long.
        if arguments.json:
            arguments.json.write_text(json.dumps(rounds, indent=2) + "\n", encoding="utf-8")
    print(f"\n{machine()}, torch {version('torch')}, {PACKAGES[0].replace('==', ' ')}")
    print(f"movies: {arguments.limit}; epochs: {arguments.epochs}; rounds, in turns: {arguments.rounds}")
    print_table(rounds)


if __name__ == "__main__":
    main()
