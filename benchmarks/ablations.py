"""What each technique of a recipe brings: train an architecture on real posters as params.yaml says, but for one network where it
averages several, and with one thing changed at a time; and print a table of validation scores.

Run: `python -m benchmarks.ablations [DATASET] [--architecture NAME] [--seeds 0 1 2] [--only KEY=VALUE …]`, by default on
../shared/movie-posters. Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.pipeline import DATASET, ROOT, machine, project_copy, run_python, set_parameters, size_of
from poster_genres.architectures import image_stream, needs_objects, recipe_name

# What a recipe's keys are when the technique is left out; `networks` shows what more brings, `epochs` what the probe does alone.
CHANGES: dict[str, list[Any]] = {
    "probe": [False],
    "frozen_blocks": [0],
    "flip": [False],
    "crop": [0.0],
    "weight_averaging": [0.0],
    "schedule": ["constant"],
    "body_learning_rate": [1.0],
    "weight_decay": [0.0],
    "networks": [2],
    "epochs": [0],
}


def changes_of(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """One changed key each; those that change nothing, or leave nothing to train, are no change."""
    return [
        {key: value}
        for key, values in CHANGES.items()
        for value in values
        if recipe[key] != value and (key != "epochs" or recipe["probe"])
    ]


def train(folder: Path, family: str, recipe: dict[str, Any], **parameters: object) -> dict[str, float]:
    """Train with this recipe; the validation scores of the epoch that is kept, and the seconds."""
    recipes = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["recipes"] | {family: recipe}
    set_parameters(folder, recipes=recipes, **parameters)
    for name in () if (folder / "data" / "cache").is_dir() else ("join", "cache", "detect"):
        run_python(["-m", f"stages.{name}"], folder)
    seconds, _ = run_python(["-m", "stages.train"], folder)
    history = pd.read_csv(folder / "metrics" / "history.csv")
    kept = history.loc[history["validation_macro_average_precision"].idxmax()]
    return {
        "macro AP": float(kept["validation_macro_average_precision"]),
        "micro AP": float(kept["validation_micro_average_precision"]),
        "cross-entropy": float(kept["validation_loss"]),
        "seconds": seconds,
    }


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """A Markdown table: means over seeds, each score with the difference to the recipe as it is."""
    base = next(iter(results.values()))
    print("\n| validation | macro AP | micro AP | cross-entropy | training, s |")
    print("| --- |" + " --- |" * 4)
    for name, runs in results.items():
        cells = []
        for score in ("macro AP", "micro AP", "cross-entropy"):
            mean = statistics.mean(run[score] for run in runs)
            change = mean - statistics.mean(run[score] for run in base)
            cells.append(f"{mean:.3f}" if runs is base else f"{mean:.3f} ({change:+.3f})")
        print(f"| {name} | {' | '.join(cells)} | {statistics.mean(run['seconds'] for run in runs):.0f} |")


def main() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description="What each technique of a recipe brings, on validation.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--architecture", default=values["architecture"], help=f"({values['architecture']})")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", metavar="KEY=VALUE", help="these changes instead of the usual ones")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    family = recipe_name(arguments.architecture)
    recipe = values["recipes"][family] | {"networks": 1}
    changes = changes_of(recipe)
    if needs_objects(arguments.architecture):
        changes.insert(0, {"architecture": image_stream(arguments.architecture)})
    if arguments.only:
        changes = [{key: yaml.safe_load(value)} for key, _, value in (text.partition("=") for text in arguments.only)]
    size = size_of(arguments.architecture)
    results: dict[str, list[dict[str, float]]] = {}
    with project_copy() as folder:
        for change in ({}, *changes):
            name = ", ".join(f"`{key}: {value}`" for key, value in change.items()) or "as it is, one network"
            for seed in arguments.seeds:
                chosen = {"dataset": str(arguments.dataset.resolve()), "seed": seed, **size}
                changed = recipe | change
                chosen["architecture"] = changed.pop("architecture", arguments.architecture)
                results.setdefault(name, []).append(train(folder, family, changed, **chosen))
                # After each training, as they take long.
                if arguments.json:
                    arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\n{machine()}")
    print_table(results)


if __name__ == "__main__":
    main()
