"""What changes of a recipe bring to the whole model on real posters, cross-validated: each of the posters to train and validate on
is once in the validation part, so that differences have half the error that they have on a fifth of them.

Run: `python -m benchmarks.folds [DATASET] [--architecture NAME] [--only KEY=VALUE …] [--folds 5] [--seeds 0]`, by default on
../shared/movie-posters. The model, of a pretrained architecture, is compared with itself without its networks: the stack of
the probe and, for two_stream/…, the words. With `distillation=0`, fine-tuning learns from labels alone. Test posters are not looked
at. Fold 0 is the project's own validation part. A training takes seconds on a GPU, and some ten minutes on two cores.
Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.paired import HEADER, row, score_resampled
from benchmarks.parts import TRAIN
from benchmarks.pipeline import DATASET, ROOT, machine, project_copy, run_python, set_parameters, size_of
from poster_genres.fusion import fit_stack, out_of_fold_logits
from poster_genres.movies import genres_of, labels_of, read_movies, write_movies

STACK = "without the networks"
RECIPE = "the recipe"
MOVIES = Path("data/cache/movies.csv")


def divide(validation: np.ndarray, train: np.ndarray, folds: int) -> np.ndarray:
    """The fold of each poster, int (posters,), -1 for those of the test set: 0 where `validation`, else random ones of those in
    `train`, both bool (posters,)."""
    fold_of = np.full(len(train), -1)
    fold_of[validation] = 0
    fold_of[train] = 1 + np.random.default_rng(0).permutation(np.count_nonzero(train)) % (folds - 1)
    return fold_of


def logits_of(folder: Path) -> dict[str, np.ndarray]:
    """The logits for validation posters of the model that TRAIN has just trained, out of fold, and of its stack alone."""
    train, validation = (dict(np.load(folder / f"{split}.npz")) for split in ("train", "validation"))
    train_labels, labels = train.pop("labels"), validation.pop("labels")
    stack = fit_stack(train, train_labels)
    return {"model": out_of_fold_logits(stack, validation, labels), STACK: stack.logits(validation)}


def cross_validate(folder: Path, movies: pd.DataFrame, fold_of: np.ndarray, program: str) -> dict[str, np.ndarray]:
    """Train once a fold, by `program`; the logits of `logits_of`, float32 (posters, genres), for the posters in folds."""
    found = {part: np.zeros((len(movies), len(genres_of(movies))), np.float32) for part in ("model", STACK)}
    for fold in range(fold_of.max() + 1):
        splits = np.where(fold_of < 0, "test", np.where(fold_of == fold, "validation", "train"))
        write_movies(movies.assign(split=splits), folder / MOVIES)
        run_python(["-c", program], folder)
        for part, logits in logits_of(folder).items():
            found[part][fold_of == fold] = logits
    return {part: logits[fold_of >= 0] for part, logits in found.items()}


def main() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description="What changes of a recipe bring, cross-validated.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--architecture", default=values["architecture"], help=f"({values['architecture']})")
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY=VALUE", help="a change each; several keys joined by commas")
    parser.add_argument("--folds", type=int, default=5, help="(5)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="of posters (the architecture's)",
    )
    arguments = parser.parse_args()
    changes: dict[str, dict[str, Any]] = {RECIPE: {}}
    for text in arguments.only:
        changes[text] = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in text.split(","))}
    size = size_of(arguments.architecture)
    if arguments.size:
        size = dict(zip(size, arguments.size, strict=True))
    base = {"dataset": str(arguments.dataset.resolve()), "architecture": arguments.architecture, **size}
    with project_copy() as folder:
        set_parameters(folder, **base)
        for stage in ("join", "cache", "detect"):
            run_python(["-m", f"stages.{stage}"], folder)
        movies = read_movies(folder / MOVIES)
        splits = movies["split"].to_numpy(str)
        fold_of = divide(splits == "validation", splits == "train", arguments.folds)
        genres, labels = genres_of(movies), labels_of(movies)[fold_of >= 0]
        scored: dict[str, list[np.ndarray]] = {STACK: []}
        for name, change in changes.items():
            scored[name] = []
            program = TRAIN
            if "distillation" in change:
                program = f"from poster_genres import training\ntraining.DISTILLATION = {change.pop('distillation')}\n{TRAIN}"
            for seed in arguments.seeds:
                set_parameters(folder, **base | change | {"seed": seed})
                logits = cross_validate(folder, movies, fold_of, program)
                scored[name].append(score_resampled(labels, logits["model"], genres, seed))
                if name == RECIPE:
                    scored[STACK].append(score_resampled(labels, logits[STACK], genres, seed))
            print(f"\n{machine()}; {arguments.architecture} at {list(size.values())}; seeds {arguments.seeds}")
            print(f"\n| {len(labels)} posters, cross-validated; differences from it {STACK} | {HEADER}")
            for key, runs in scored.items():
                print(row(key, runs, None if key == STACK else scored[STACK]))


if __name__ == "__main__":
    main()
