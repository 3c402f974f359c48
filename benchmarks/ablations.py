"""What each technique of a recipe contributes: train an architecture on real posters with the values of params.yaml, but with a
single network instead of an ensemble, change one technique at a time, and print a table of validation scores.

Run: `python -m benchmarks.ablations [DATASET] [--architecture NAME] [--seeds 0 1 2] [--size 240 168] [--only KEY=VALUE …]`, by
default on ../shared/movie-posters. With `--absent`, techniques that recipes do not use are added, instead of removing those that
they use, and all blocks are trained. Works in a temporary copy of the project; Linux and macOS.
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
from poster_genres.parameters import DEFAULT, read_recipes

# Values that turn a technique off; except `ensemble_size`, which adds a network, and `epochs`, which leaves the probe alone.
CHANGES: dict[str, list[Any]] = {
    "linear_probe": [False],
    "frozen_blocks": [0],
    "flip": [False],
    "crop": [0.0],
    "schedule": ["constant"],
    "text_learning_rate": [0.0],
    "backbone_learning_rate_factor": [1.0],
    "weight_decay": [0.0],
    "ensemble_size": [2],
    "epochs": [0],
}


# Techniques that are not parameters, all but the first as they bring nothing: programs that patch them into the stage `train`.
ABSENT = {
    "labels alone, without distillation": """
training.DISTILLATION, changed = 0.0, plain
""",
    "label smoothing, 0.1, to the genres' frequencies": """
changed = lambda logits, labels: plain(logits, 0.9 * labels + 0.1 * frequencies(labels))
""",
    # Lin et al. 2017, arXiv:1708.02002.
    "focal loss, gamma 2": """
changed = lambda logits, labels: weighted(logits, labels, (labels - torch.sigmoid(logits)).abs() ** 2)
""",
    # Ridnik et al. 2021, arXiv:2009.14119.
    "asymmetric loss, gammas 0 and 2, margin 0.05": """
def changed(logits, labels):
    shifted = (torch.sigmoid(logits) - 0.05).clamp(min=0)
    negative = -(1 - labels) * shifted**2 * torch.log1p(-shifted)
    return (labels * torch.nn.functional.softplus(-logits) + negative).mean()
""",
    "class weights, square root of absent to present": """
def changed(logits, labels):
    share = frequencies(labels).clamp(0.01, 0.99)
    return plain(logits, labels, pos_weight=((1 - share) / share).sqrt())
""",
    # Zhang et al. 2018, arXiv:1710.09412.
    "mixup, alpha 0.4": """
def augment(posters, *how):
    mixed.clear()
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    mixed.append((share, torch.randperm(len(posters))))
    posters = unmixed(posters, *how)
    return share * posters + (1 - share) * posters[mixed[0][1]]


def changed(logits, labels):
    share, order = mixed[0]
    return plain(logits, share * labels + (1 - share) * labels[order])


mixed, unmixed, inputs.augment = [], inputs.augment, augment
""",
    "colour: brightness, contrast and saturation by up to a fifth": """
def augment(posters, *how):
    posters = uncoloured(posters, *how)
    brightness, contrast, saturation = 0.8 + 0.4 * torch.rand(3, len(posters), 1, 1, 1)
    grey = posters.mean(dim=1, keepdim=True)
    posters = grey + saturation * (posters - grey)
    mean = posters.mean(dim=(1, 2, 3), keepdim=True)
    # Normalised posters have standard deviation 1, and black is about 2 below their mean, which brightness scales.
    return mean + contrast * (posters - mean) + 2 * (brightness - 1)


uncoloured, inputs.augment, changed = inputs.augment, augment, plain
""",
    # Zhong et al. 2020, arXiv:1708.04896.
    "erase: a quarter of each side, in half of the posters": """
def augment(posters, *how):
    posters = whole(posters, *how)
    number, _, height, width = posters.shape
    for i in torch.nonzero(torch.rand(number) < 0.5)[:, 0].tolist():
        top, left = int(torch.randint(height * 3 // 4, ())), int(torch.randint(width * 3 // 4, ()))
        posters[i, :, top : top + height // 4, left : left + width // 4] = 0
    return posters


whole, inputs.augment, changed = inputs.augment, augment, plain
""",
}
AROUND = """
import numpy as np
import torch
from poster_genres import errors, inputs, training
from stages import train

plain = training.binary_cross_entropy_with_logits
memory = {{}}


def frequencies(labels):
    return memory["frequencies"]


def weighted(logits, labels, weights):
    return (weights * plain(logits, labels, reduction="none")).mean()

{program}

step = training.Training._step


def changed_step(self, learner, batch):
    # In steps alone: the linear probe keeps the plain loss.
    memory["frequencies"] = torch.from_numpy(self.labels[self.train_rows].mean(axis=0))
    training.binary_cross_entropy_with_logits = changed
    try:
        return step(self, learner, batch)
    finally:
        training.binary_cross_entropy_with_logits = plain


training.Training._step = changed_step
errors.run(train.main)
"""


def changes_of(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The changes to try, one key each, without those that change nothing or leave nothing to train."""
    return [
        {key: value}
        for key, values in CHANGES.items()
        for value in values
        if recipe[key] != value and (key != "epochs" or recipe["linear_probe"])
    ]


def train(folder: Path, program: str | None, **parameters: object) -> dict[str, float]:
    """Train with these parameters, and with `program` patched in; the validation scores of the best epoch, and the seconds."""
    set_parameters(folder, **parameters)
    for name in ("join", "cache", "detect"):
        run_python(["-m", f"stages.{name}"], folder)
    seconds, _ = run_python(["-m", "stages.train"] if program is None else ["-c", AROUND.format(program=program)], folder)
    history = pd.read_csv(folder / "metrics" / "history.csv")
    kept = history.loc[history["validation_loss"].idxmin()]
    return {
        "macro AP": float(kept["validation_macro_average_precision"]),
        "micro AP": float(kept["validation_micro_average_precision"]),
        "cross-entropy": float(kept["validation_loss"]),
        "seconds": seconds,
    }


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Print a Markdown table: means over seeds, each score with its difference from the unchanged recipe."""
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
    parser = argparse.ArgumentParser(description="What each technique of a recipe contributes, on validation.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--architecture", default=values["architecture"], help=f"({values['architecture']})")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="of posters (as in params.yaml)")
    parser.add_argument("--only", nargs="+", metavar="KEY=VALUE", help="these changes instead of the usual ones")
    parser.add_argument("--absent", action="store_true", help="add techniques that recipes do not use, instead of removing others")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    recipes = read_recipes()
    recipe = recipes.get(recipe_name(arguments.architecture), recipes[DEFAULT]).model_dump() | {"ensemble_size": 1}
    changes = changes_of(recipe)
    if needs_objects(arguments.architecture):
        changes.insert(0, {"architecture": image_stream(arguments.architecture)})
    if arguments.only:
        changes = [{key: yaml.safe_load(value)} for key, _, value in (text.partition("=") for text in arguments.only)]
    # Some change pixels, which frozen blocks would see once only.
    base: dict[str, Any] = {"frozen_blocks": 0} if arguments.absent else {}
    variants: dict[str, tuple[dict[str, Any], str | None]] = {"unchanged recipe, one network": (base, None)}
    if arguments.absent:
        variants |= {name: (base, program) for name, program in ABSENT.items()}
    else:
        variants |= {", ".join(f"`{key}: {value}`" for key, value in change.items()): (change, None) for change in changes}
    size = size_of(arguments.architecture)
    if arguments.size:
        size = dict(zip(("image_height", "image_width"), arguments.size, strict=True))
    results: dict[str, list[dict[str, float]]] = {}
    with project_copy() as folder:
        for seed in arguments.seeds:
            for name, (change, program) in variants.items():
                chosen = {"dataset": str(arguments.dataset.resolve()), "seed": seed, **size}
                chosen |= {"architecture": arguments.architecture, **recipe, **change}
                results.setdefault(name, []).append(train(folder, program, **chosen))
                # After each training, because they take long.
                if arguments.json:
                    arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\n{machine()}")
    print_table(results)


if __name__ == "__main__":
    main()
