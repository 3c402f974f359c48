"""Posters per second of each architecture in training and in prediction, and whether the input keeps the device busy: steps on
posters from the cache, and steps on one batch that is already on the device, in turns.

Run: `python -m benchmarks.gpu [DATASET] [--architectures NAME …] [--steps 20]`, by default on ../shared/movie-posters, or the
sample if that does not exist; on the GPU if there is one, else by the same code on the CPU. Only image networks are measured: words
are read on the CPU. Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters, size_of

ARCHITECTURES = ["tutorial", "alexnet", "residual", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
PROGRAM = """
import json, sys, time
from pathlib import Path
import numpy as np
import torch
from poster_genres.network import FrozenMaps
from poster_genres.tensor_cache import read_cache
from poster_genres.devices import prepare
from poster_genres.model import image_evidence
from poster_genres.movies import genres_of, labels_of
from poster_genres.parameters import TrainParameters, read_parameters
from poster_genres.training import Training, shuffled_batches
from stages.train import new_model

parameters = read_parameters().used_by(TrainParameters)
posters, movies = read_cache(Path("data/cache"))
labels, splits = labels_of(movies), movies["split"].to_numpy(str)
device = prepare()
model = new_model(parameters, genres_of(movies), posters.shape, labels[splits == "train"].mean(axis=0), device)
training = Training(model, posters, labels, splits, parameters.recipe, device)
learner = training.learners[0]
inputs = training.inputs
load, maps = inputs.load, inputs._maps
steps, rounds, size = int(sys.argv[1]), int(sys.argv[2]), min(parameters.recipe.batch_size, len(training.train_rows))
rows = training.train_rows[: steps * size]


def batches():
    while True:
        yield from (batch for batch in shuffled_batches(training.train_rows, size) if len(batch) == size)


source = batches()
batch = next(source)
there = load(batch)
if inputs.frozen_blocks:
    maps_there = maps(batch, np.zeros(len(batch), int))
    for few in np.array_split(training.train_rows, 20):  # once a training
        inputs.views(few)


class Repeated:
    # As many posters as are asked for: a batch that is on the device already, again and again.
    def __getitem__(self, rows):
        return there.repeat(-(-len(rows) // size), 1, 1, 1)[: len(rows)]


def train(from_cache):
    inputs.load = load if from_cache else lambda rows: there[: len(rows)]
    inputs._maps = maps if from_cache else lambda rows, sides: FrozenMaps(*(part[: len(rows)] for part in maps_there))
    learner.network.train()
    for _ in range(steps):
        training._step(learner, next(source))
    return steps * size


def predict(from_cache):
    from_numpy = torch.from_numpy
    if not from_cache:
        torch.from_numpy = lambda pixels: pixels
    try:
        image_evidence(model, posters if from_cache else Repeated(), device, rows)
    finally:
        torch.from_numpy = from_numpy
    return len(rows)


def wait():
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


speed = {work.__name__: {"from the cache": [], "already there": []} for work in (train, predict)}
for i in range(rounds + 1):
    for work in (train, predict):
        for from_cache in (True, False) if i % 2 else (False, True):
            wait()
            start = time.perf_counter()
            posters_done = work(from_cache)
            wait()
            if i:  # the first round warms up
                speed[work.__name__]["from the cache" if from_cache else "already there"].append(
                    posters_done / (time.perf_counter() - start)
                )
name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
megabytes = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
Path("speed.json").write_text(json.dumps({"batch": size, "device": name, "megabytes": megabytes} | speed))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Posters a second in training and prediction.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET if DATASET.is_dir() else None)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help=f"({' '.join(ARCHITECTURES)})")
    parser.add_argument("--steps", type=int, default=20, help="per round (20)")
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    results = {}
    with project_copy() as folder:
        if arguments.dataset is None:
            run_python(["-m", "stages.sample"], folder)
        dataset = "data/sample" if arguments.dataset is None else str(arguments.dataset.resolve())
        for name in arguments.architectures:
            # So many epochs that the learning-rate schedule does not end during the measured steps.
            set_parameters(folder, dataset=dataset, architecture=name, limit=1000, epochs=1000, **size_of(name))
            for stage in ("join", "cache"):
                run_python(["-m", f"stages.{stage}"], folder)
            run_python(["-c", PROGRAM, str(arguments.steps), str(arguments.rounds)], folder)
            results[name] = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
    print(f"\n{machine()}, {results[arguments.architectures[0]]['device']}")
    work = "posters/s, from the cache | already there | busy"
    print(f"\n| | batch | training: {work} | prediction: {work} | GPU memory |\n|{' --- |' * 9}")
    for name, result in results.items():
        cells = []
        for key in ("train", "predict"):
            cache, there = (statistics.median(result[key][source]) for source in ("from the cache", "already there"))
            cells.append(f"{cache:.0f} | {there:.0f} | {cache / there:.0%}")
        height, width = size_of(name).values()
        memory = "" if result["megabytes"] is None else f"{result['megabytes']:.0f} MB"
        print(f"| {name}, {height} x {width} | {result['batch']} | {' | '.join(cells)} | {memory} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
