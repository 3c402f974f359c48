"""Run the pipeline's stages on real posters and print the README's table: time, peak memory and scores of each architecture.

Run: `python -m benchmarks.real_posters [DATASET] [--architectures NAME …] [--limits 3000 100000] [--seeds 0 1 2]`, by default on
../shared/movie-posters with the values of params.yaml, except for networks trained from scratch: the tutorial's takes posters of
200 x 200 pixels as in the tutorial, and the others 160 x 112. Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
import itertools
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters, size_of

STAGES = ("join", "cache", "detect", "train", "evaluate")
# Too rare to be scored in any split of a few thousand posters.
RARE = ("News", "Reality-TV")
ARCHITECTURES = ["tutorial", "residual", "efficientnet_lite1", "two_stream/efficientnet_lite1"]
SHOWN = ("macro_average_precision", "micro_average_precision", "macro_f1", "micro_f1", "macro_roc_auc", "binary_cross_entropy")


def run_pipeline(folder: Path, **parameters: object) -> dict[str, Any]:
    """Run all stages with these parameters, and return their times, peak memory and scores."""
    set_parameters(folder, **parameters)
    costs = {name: run_python(["-m", f"stages.{name}"], folder) for name in STAGES}
    scores = pd.read_csv(folder / "metrics" / "scores.csv").set_index(["split", "score"])
    result: dict[str, Any] = {"parameters": parameters, "costs": costs, "scores": {}}
    for split in ("validation", "test"):
        genres = pd.read_csv(folder / "metrics" / f"genres_{split}.csv")
        genres = genres[~genres["genre"].isin(RARE) & (genres["positives"] > 0)]
        for who, column in (("model", "average_precision"), ("prior", "prior_average_precision")):
            row = {name: float(scores.loc[(split, name), who]) for name in SHOWN}
            result["scores"][f"{split} {who}"] = {f"macro AP, {len(genres)} genres": float(genres[column].mean()), **row}
    history = pd.read_csv(folder / "metrics" / "history.csv")
    result["epochs"] = int(history["epoch"].max())
    result["training_seconds"] = float(history["seconds"].sum())
    return result


def print_tables(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print Markdown tables: the mean over seeds and, if there are several, the standard deviation."""
    print("\n| architecture | " + " | ".join(f"{name}: seconds, peak MB" for name in STAGES) + " | training alone |")
    print("| --- |" + " --- |" * (len(STAGES) + 1))
    for name, runs in results.items():
        cells = []
        for stage in STAGES:
            seconds, memory = (statistics.mean(run["costs"][stage][i] for run in runs) for i in (0, 1))
            cells.append(f"{seconds:.1f}, {memory:.0f}")
        alone = statistics.mean(run["training_seconds"] for run in runs)
        print(f"| {name} | " + " | ".join(cells) + f" | {alone:.0f} s, {runs[0]['epochs']} epochs |")
    columns = list(next(iter(results.values()))[0]["scores"]["test model"])
    print("\n| | " + " | ".join(column.replace("_", " ") for column in columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for split in ("validation", "test"):
        for i, (name, runs) in enumerate(results.items()):
            for who in ("prior", "model") if i == 0 else ("model",):
                cells = []
                for column in columns:
                    values = [run["scores"][f"{split} {who}"][column] for run in runs]
                    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                    cells.append(f"{statistics.mean(values):.3f}{spread}")
                print(f"| {split}: {name if who == 'model' else 'prior'} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost and scores of the pipeline on real posters.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help=f"({' '.join(ARCHITECTURES)})")
    parser.add_argument("--limits", nargs="+", type=int, default=[3000], help="movies to train and validate on (3000)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    parser.add_argument("--figures", type=Path, help="also copy the last seed's metrics/figures here, one folder per architecture")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    with project_copy() as folder:
        for architecture, limit in itertools.product(arguments.architectures, arguments.limits):
            size = size_of(architecture)
            name = f"{architecture}, {size['image_height']} x {size['image_width']}"
            if len(arguments.limits) > 1:
                name += f", limit {limit}"
            for seed in arguments.seeds:
                chosen = {"architecture": architecture, "seed": seed, "limit": limit, **size}
                result = run_pipeline(folder, dataset=str(arguments.dataset.resolve()), **chosen)
                results.setdefault(name, []).append(result)
                # After each training, because they take long.
                if arguments.json:
                    arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            if arguments.figures:
                target = arguments.figures / architecture.replace("/", "-")
                shutil.copytree(folder / "metrics" / "figures", target, dirs_exist_ok=True)
    print(f"\n{machine()}")
    print_tables(results)


if __name__ == "__main__":
    main()
