"""What tracking costs a training: epochs with and without MLflow, in turns in one process.

Run: `python -m benchmarks.tracking [DATASET] [--epochs 10]`, by default the tutorial's network at 200 x 200 on
../shared/movie-posters, with a local SQLite store. On a shared machine, whole trainings vary by more than tracking costs,
so neighbouring epochs are compared. Each epoch with MLflow is a run of its own, which costs more than in a training, where all
epochs share one run. Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters, size_of

PROGRAM = """
import json, sys, time
from pathlib import Path
from poster_genres.tensor_cache import read_cache
from poster_genres.devices import prepare
from poster_genres.movies import genres_of, labels_of
from poster_genres.parameters import TrainParameters, read_parameters
from poster_genres.tracking import Tracking, connect, describe_run
from poster_genres.training import Training
from stages.train import new_model

parameters = read_parameters()
posters, movies = read_cache(Path("data/cache"))
labels, splits = labels_of(movies), movies["split"].to_numpy(str)
device = prepare()
used, prior = parameters.used_by(TrainParameters), labels[splits == "train"].mean(axis=0)
model = new_model(used, genres_of(movies), posters.shape, prior, device)
training = Training(model, posters, labels, splits, parameters.recipe, device)
connect()  # create the store, which only the first run has to do
training.run_epoch()
seconds = {"with": [], "without": []}
for i in range(int(sys.argv[1])):
    for name in ("with", "without") if i % 2 else ("without", "with"):
        start = time.perf_counter()
        if name == "with":
            with Tracking(describe_run(parameters)) as tracking:
                tracking.log_epoch(training.run_epoch())
                assert tracking.on
        else:
            training.run_epoch()
        seconds[name].append(time.perf_counter() - start)
        print(f"epoch {name} MLflow: {seconds[name][-1]:.2f} s", flush=True)
Path("seconds.json").write_text(json.dumps(seconds))
"""
IMPORT = """
import time
import torch, pandas, sklearn.metrics
start = time.perf_counter()
import mlflow
print(time.perf_counter() - start, file=open("import.txt", "w"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="What tracking costs a training.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--architecture", default="tutorial")
    parser.add_argument("--epochs", type=int, default=10, help="of each kind (10)")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    with project_copy() as folder:
        size = size_of(arguments.architecture)
        length = {"architecture": arguments.architecture, "epochs": 2 * arguments.epochs + 1}
        set_parameters(folder, dataset=str(arguments.dataset.resolve()), **length, **size)
        for stage in ("join", "cache"):
            run_python(["-m", f"stages.{stage}"], folder)
        run_python(["-c", PROGRAM, str(arguments.epochs)], folder)
        run_python(["-c", IMPORT], folder)
        seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
        imports = float((folder / "import.txt").read_text(encoding="utf-8"))
    difference = statistics.median(a - b for a, b in zip(seconds["with"], seconds["without"], strict=True))
    epoch = statistics.median(seconds["without"])
    share = (imports + arguments.epochs * difference) / (arguments.epochs * epoch)
    print(f"\n{machine()}: {arguments.architecture}, {arguments.epochs} epochs with MLflow and as many without")
    print("| an epoch without | with MLflow, more by (median) | importing MLflow, once | of a training of that length |")
    print("| --- | --- | --- | --- |")
    print(f"| {epoch:.2f} s | {difference:+.3f} s | {imports:.2f} s | {share:+.1%} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds | {"import": imports}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
