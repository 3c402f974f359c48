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
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit

from benchmarks.paired import HEADER, row, score_resampled
from benchmarks.pipeline import DATASET, ROOT, commit, machine, project_clone, run, run_python, size_of
from poster_genres.movies import genres_of, labels_of, read_movies

PEERS = ROOT / "build" / "peers"
PACKAGES = ["fastai==2.8.12", "scikit-learn==1.9.1"]
PROGRAMS = ("torchvision", "fastai")
OURS = "this project"
MEASURES = {
    "whole job from nothing, s": "whole",
    "second experiment, s": "second",
    "training epoch, median, s": "epoch",
    "peak memory of the largest process, MB": "memory",
}
Costs = dict[str, float]


def peers_python() -> str:
    """The Python of an environment with `PACKAGES`, which is created if it does not exist yet."""
    python, stamp = PEERS / "bin" / "python", PEERS / "installed.json"
    if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8")) != PACKAGES:
        venv.create(PEERS, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        stamp.write_text(json.dumps(PACKAGES), encoding="utf-8")
    return str(python)


def run_project(folder: Path) -> tuple[Costs, dict[str, np.ndarray]]:
    """Run the pipeline in a clone, then a second experiment; return costs, and the first one's probabilities by split."""
    whole, memory = run_python(["-m", "dvc", "repro"], folder)
    predictions = pd.read_csv(folder / "metrics" / "predictions.csv").set_index("id")
    seconds = pd.read_csv(folder / "metrics" / "history.csv")["seconds"].tolist()
    movies = read_movies(folder / "data" / "movies.csv")
    genres = genres_of(movies)
    probabilities = {
        split: predictions.loc[movies["id"][movies["split"] == split], genres].to_numpy() for split in ("validation", "test")
    }
    commit(folder)
    second, more = run_python(["-m", "dvc", "exp", "run", "-S", "learning_rate=0.001"], folder)
    return {"whole": whole, "second": second, "epoch": statistics.median(seconds), "memory": max(memory, more)}, probabilities


def run_peer(
    python: str, program: str, movies: pd.DataFrame, dataset: Path, epochs: int, seed: int
) -> tuple[Costs, dict[str, np.ndarray]]:
    """Run one of benchmarks/peer_programs.py on the same posters; a second experiment costs it as much as the first."""
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        table, saved = Path(temporary) / "posters.csv", Path(temporary) / "probabilities.npz"
        images = [str(dataset / poster) for poster in movies["poster"]]
        movies[["split", *genres_of(movies)]].assign(image=images).to_csv(table, index=False)
        module = ["-m", "benchmarks.peer_programs", program, str(table), str(epochs), str(saved), "--seed", str(seed)]
        seconds, memory = run([python, *module], ROOT, output)
        output.seek(0)
        steps = json.loads(output.readlines()[-1])["epochs"]
        with np.load(saved) as arrays:
            probabilities = dict(arrays)
    return {"whole": seconds, "second": seconds, "epoch": statistics.median(steps), "memory": memory}, probabilities


def print_costs(rounds: list[dict[str, Costs]]) -> None:
    """Print a Markdown table of medians over the rounds, and of the ratios to what each of the others took."""
    print(f"\n| | {OURS} | {' | '.join(f'{name} | ratio' for name in PROGRAMS)} |\n| --- |{' --- |' * (1 + 2 * len(PROGRAMS))}")
    for title, key in MEASURES.items():
        cells = [f"{statistics.median(one[OURS][key] for one in rounds):.1f}"]
        for name in PROGRAMS:
            ratio = statistics.median(one[OURS][key] / one[name][key] for one in rounds)
            cells += [f"{statistics.median(one[name][key] for one in rounds):.1f}", f"{ratio:.2f}"]
        print(f"| {title} | {' | '.join(cells)} |")


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
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    python = peers_python()
    # Warm the page cache: otherwise only the first run would read posters and libraries from disk.
    for path in dataset.rglob("*.jpg"):
        path.read_bytes()
    run([python, "-c", "import fastai.vision.all, sklearn.metrics"], ROOT)
    run([sys.executable, "-c", "import dvc.cli, mlflow, pandas, torch"], ROOT)
    rounds: list[dict[str, Costs]] = []
    scores: dict[tuple[str, str], list[np.ndarray]] = {}
    for seed in range(arguments.rounds):
        parameters = {"architecture": "residual", "epochs": arguments.epochs, "limit": arguments.limit, "seed": seed}
        costs: dict[str, Costs] = {}
        probabilities: dict[str, dict[str, np.ndarray]] = {}
        with project_clone(dataset=str(dataset), **parameters, **size_of("residual")) as folder:
            costs[OURS], probabilities[OURS] = run_project(folder)
            movies = read_movies(folder / "data" / "movies.csv")
        for name in PROGRAMS:
            costs[name], probabilities[name] = run_peer(python, name, movies, dataset, arguments.epochs, seed)
        for name, of_splits in probabilities.items():
            for split, values in of_splits.items():
                labels = labels_of(movies[movies["split"] == split])
                scored = score_resampled(labels, logit(np.clip(values, 1e-7, 1 - 1e-7)), genres_of(movies), seed)
                scores.setdefault((name, split), []).append(scored)
        rounds.append(costs)
        # After each round, because they take long.
        if arguments.json:
            arguments.json.write_text(json.dumps(rounds, indent=2) + "\n", encoding="utf-8")
    print(f"\n{machine()}, torch {version('torch')}, {PACKAGES[0].replace('==', ' ')}")
    print(f"movies: {arguments.limit}; epochs: {arguments.epochs}; rounds, in turns: {arguments.rounds}")
    print_costs(rounds)
    print_scores(scores)


if __name__ == "__main__":
    main()
