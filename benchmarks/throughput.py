"""Training throughput in posters per second, and whether the input keeps the device busy: training steps on posters from the
cache, and steps on one batch that is already on the device, in turns.

Run: `python -m benchmarks.throughput [DATASET] [--architectures NAME …] [--steps 20]`, by default on ../shared/movie-posters, or
the sample if that does not exist; on the GPU if there is one. Only image networks are measured: the time for words and objects is
negligible. Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters, size_of

ARCHITECTURES = ["tutorial", "residual", "efficientnet_lite1"]
PROGRAM = """
import json, sys, time
from pathlib import Path
import torch
from poster_genres.tensor_cache import read_cache
from poster_genres.devices import prepare
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
learner.network.train()
load = training.load_posters
steps, rounds, size = int(sys.argv[1]), int(sys.argv[2]), parameters.recipe.batch_size


def batches():
    while True:
        yield from (batch for batch in shuffled_batches(training.train_rows, size) if len(batch) == size)


def wait():
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


source = batches()
there = load(next(source))
seconds = {"from the cache": [], "already there": []}
for i in range(rounds + 1):
    for name in seconds if i % 2 else reversed(seconds):
        training.load_posters = load if name == "from the cache" else lambda rows: there
        wait()
        start = time.perf_counter()
        for _ in range(steps):
            training._step(learner, next(source))
        wait()
        if i:  # the first round warms up
            seconds[name].append((time.perf_counter() - start) / steps)
name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
Path("seconds.json").write_text(json.dumps({"batch": size, "device": name} | seconds))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Training throughput in posters per second.")
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
            results[name] = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    print(f"\n{machine()}, {results[arguments.architectures[0]]['device']}")
    print("\n| | batch | posters/s, from the cache | posters/s, already there | busy |\n| --- | --- | --- | --- | --- |")
    for name, result in results.items():
        cache, there = (result["batch"] / statistics.median(result[key]) for key in ("from the cache", "already there"))
        height, width = size_of(name).values()
        print(f"| {name}, {height} x {width} | {result['batch']} | {cache:.0f} | {there:.0f} | {cache / there:.0%} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
