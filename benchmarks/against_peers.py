"""The pipeline compared with what people write in an evening, with torchvision and with fastai: the same network, in turns.

Run: `python -m benchmarks.against_peers [DATASET] [--rounds 3] [--epochs 10] [--limit 3000]`, by default on
../shared/movie-posters. fastai, with torchvision and torch, is installed once, in build/peers (6 GB on Linux, as torch brings CUDA
along). Linux.

Each round, with a seed of its own, runs the project, as committed, in a fresh clone with no cache and no runs: `dvc repro` with
`architecture=residual` on pictures of 160 x 112 pixels, and a second experiment. Then benchmarks/peer_programs.py trains the same
network on the same posters, as they were split, with the same batch size and number of epochs, and no GPU. The project does more in
its time: DVC's hashing, MLflow's runs, scores with intervals, figures and a report.
"""

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from dvc.api import DVCFileSystem
from scipy.special import logit

from benchmarks.paired import HEADER, row, score_resampled
from benchmarks.peers import OURS, Costs, of_program, prepare, print_costs, python_with, run_project, write_rounds
from benchmarks.pipeline import DATASET, ROOT, machine, project_clone, run, size_of
from poster_genres.movies import genres_of, labels_of, read_movies

PACKAGES = ["fastai==2.8.12", "scikit-learn==1.9.1"]
PROGRAMS = ("torchvision", "fastai")
SECOND = "learning_rate=0.001"
Probabilities = dict[str, np.ndarray]


def predictions_of(folder: Path, movies: pd.DataFrame) -> Probabilities:
    """The probabilities of a clone's first experiment by split, float64 (posters, genres)."""
    with DVCFileSystem(str(folder), rev="HEAD").open("metrics/predictions.csv") as file:
        predictions = pd.read_csv(file).set_index("id")
    return {
        split: predictions.loc[movies["id"][movies["split"] == split], genres_of(movies)].to_numpy()
        for split in ("validation", "test")
    }


def run_peer(python: str, program: str, movies: pd.DataFrame, dataset: Path, epochs: int, seed: int) -> tuple[Costs, Probabilities]:
    """Run one of benchmarks/peer_programs.py on the same posters."""
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        table, saved = Path(temporary) / "posters.csv", Path(temporary) / "probabilities.npz"
        images = [str(dataset / poster) for poster in movies["poster"]]
        movies[["split", *genres_of(movies)]].assign(image=images).to_csv(table, index=False)
        module = ["-m", "benchmarks.peer_programs", program, str(table), str(epochs), str(saved), "--seed", str(seed)]
        seconds, memory = run([python, *module], ROOT, output)
        output.seek(0)
        costs = of_program(seconds, memory, json.loads(output.readlines()[-1]))
        with np.load(saved) as arrays:
            return costs, dict(arrays)


def print_scores(scores: dict[tuple[str, str], list[np.ndarray]]) -> None:
    """Print a Markdown table of scores, and paired differences from the project's."""
    for split in ("validation", "test"):
        print(f"\n| {split} | {HEADER}")
        print(row(OURS, scores[OURS, split]))
        for name in PROGRAMS:
            print(row(f"{name}, and what it has more", scores[name, split], scores[OURS, split]))


def main() -> None:
    parser = argparse.ArgumentParser(description="The pipeline compared with what people write in an evening.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--rounds", type=int, default=3, help="of each, with seeds from 0 (3)")
    parser.add_argument("--epochs", type=int, default=10, help="(10)")
    parser.add_argument("--limit", type=int, default=3000, help="movies to train and validate on (3000)")
    parser.add_argument("--json", type=Path, help="also write all costs to this file")
    arguments = parser.parse_args()
    dataset = arguments.dataset.resolve()
    python = python_with(PACKAGES, "peers")
    prepare(dataset)
    run([python, "-c", "import fastai.vision.all, sklearn.metrics"], ROOT)
    rounds: list[dict[str, Costs]] = []
    scores: dict[tuple[str, str], list[np.ndarray]] = {}
    for seed in range(arguments.rounds):
        parameters = {"architecture": "residual", "epochs": arguments.epochs, "limit": arguments.limit, "seed": seed}
        costs: dict[str, Costs] = {}
        probabilities: dict[str, Probabilities] = {}
        with project_clone(dataset=str(dataset), **parameters, **size_of("residual")) as folder:
            costs[OURS] = run_project(folder, SECOND)
            movies = read_movies(folder / "data" / "movies.csv")
            probabilities[OURS] = predictions_of(folder, movies)
        for name in PROGRAMS:
            costs[name], probabilities[name] = run_peer(python, name, movies, dataset, arguments.epochs, seed)
        for name, of_splits in probabilities.items():
            for split, values in of_splits.items():
                labels = labels_of(movies[movies["split"] == split])
                scored = score_resampled(labels, logit(np.clip(values, 1e-7, 1 - 1e-7)), genres_of(movies), seed)
                scores.setdefault((name, split), []).append(scored)
        rounds.append(costs)
        write_rounds(rounds, arguments.json)
    print(f"\n{machine()}, torch {version('torch')}, {PACKAGES[0].replace('==', ' ')}")
    print(f"movies: {arguments.limit}; epochs: {arguments.epochs}; rounds, in turns: {arguments.rounds}")
    print_costs(rounds)
    print_scores(scores)


if __name__ == "__main__":
    main()
