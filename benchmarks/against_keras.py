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
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers import OURS, Costs, of_program, prepare, print_costs, python_with, run_project, write_rounds
from benchmarks.pipeline import DATASET, ROOT, machine, project_clone, run, size_of

PACKAGES = ["tensorflow-cpu==2.21.0", "pandas==3.1.1", "pillow==13.0.0"]


def run_keras(python: str, dataset: Path, epochs: int, limit: int) -> Costs:
    """Run the tutorial's program, and return what it costs."""
    program = str(ROOT / "benchmarks" / "keras_tutorial.py")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        seconds, memory = run([python, program, str(dataset), "--epochs", str(epochs), "--limit", str(limit)], ROOT, output)
        output.seek(0)
        return of_program(seconds, memory, json.loads(output.readlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="The pipeline compared with the tutorial's Keras program.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--rounds", type=int, default=2, help="of each (2)")
    parser.add_argument("--epochs", type=int, default=10, help="(10)")
    parser.add_argument("--limit", type=int, default=3000, help="movies to train and validate on (3000)")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    dataset = arguments.dataset.resolve()
    python = python_with(PACKAGES, "keras")
    prepare(dataset)
    run([python, "-c", "import tensorflow.keras, pandas"], ROOT)
    parameters = {"architecture": "tutorial", "batch_size": 64, "epochs": arguments.epochs, "limit": arguments.limit}
    rounds: list[dict[str, Costs]] = []
    for _ in range(arguments.rounds):
        keras = run_keras(python, dataset, arguments.epochs, arguments.limit)
        with project_clone(dataset=str(dataset), **parameters, **size_of("tutorial")) as folder:
            # Not another seed: that changes the split, and DVC would run the stage `cache` again.
            rounds.append({"Keras": keras, OURS: run_project(folder, "learning_rate=0.002")})
        write_rounds(rounds, arguments.json)
    print(f"\n{machine()}, torch {version('torch')}, {PACKAGES[0].replace('==', ' ')}")
    print(f"movies: {arguments.limit}; epochs: {arguments.epochs}; rounds, in turns: {arguments.rounds}")
    print_costs(rounds)


if __name__ == "__main__":
    main()
