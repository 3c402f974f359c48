"""What each part of a model contributes on real posters: image networks, linear probe, words, and objects of COCO's classes.

Run: `python -m benchmarks.parts [DATASET] [--detector FILE.onnx] [--architecture NAME] [--size H W] [--seeds 0 1 2]`, by default on
../shared with its YOLOX-Nano. For each seed all parts are trained once; then for each choice of parts their fusion is fitted as
training fits it, and test posters are scored. Differences are paired: both models are scored on the
same 1,000 bootstrap resamples of posters; the mean over seeds comes with its standard error over posters. Works in a temporary
copy of the project; Linux and macOS.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from benchmarks.paired import HEADER, row, score_resampled
from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters
from poster_genres.devices import prepare
from poster_genres.fusion import fit_fusion, fit_stack, out_of_fold_logits
from poster_genres.model import load_model, predict_evidence
from poster_genres.movies import genres_of, labels_of
from poster_genres.objects import read_detections
from poster_genres.tensor_cache import read_cache

DETECTOR = DATASET.parent / "detectors" / "yolox_nano.onnx"
IMAGE, WORDS = ("networks", "probe"), ("letters", "meaning", "title", "text")
ONE_WEIGHT = "picture and words, one weight a part, fitted on validation"
# The parts of each choice, and the choice that it is compared with.
CHOICES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "picture": (IMAGE, None),
    "objects alone": (("objects",), None),
    "words alone": (WORDS, None),
    "picture and objects": ((*IMAGE, "objects"), "picture"),
    "picture and words": ((*IMAGE, *WORDS), "picture"),
    "picture, words and objects": ((*IMAGE, *WORDS, "objects"), "picture and words"),
    "probe and words, nothing trained": (("probe", "letters", "meaning", "title"), "picture and words"),
    "picture and words, the text not fine-tuned": ((*IMAGE, "letters", "meaning", "title"), "picture and words"),
    "picture and words, the title not apart": ((*IMAGE, "letters", "meaning", "text"), "picture and words"),
    ONE_WEIGHT: ((*IMAGE, *WORDS), "picture and words"),
}


# Trains, and writes the evidence of training posters, out of fold, and of validation posters.
TRAIN = """
import numpy as np
from poster_genres import errors
from stages import train

finish = train.finish


def keep(training):
    np.savez("train.npz", labels=training.labels[training.train_rows], **training.train_evidence)
    np.savez("validation.npz", labels=training.labels[training.validation_rows], **training.best_evidence())
    finish(training)


train.finish = keep
errors.run(train.main)
"""
Evidence = dict[str, np.ndarray]


def evidence_of_test(folder: Path) -> tuple[Evidence, list[str]]:
    """The test posters' labels and the logits of each part of the model in a project's folder; and the genres."""
    posters, movies = read_cache(folder / "data" / "cache")
    device = prepare()
    model = load_model(folder / "models" / "model.pt", device)
    detected = read_detections(folder / "data" / "detections", list(movies["id"])).posters
    rows = np.flatnonzero(movies["split"] == "test")
    evidence = predict_evidence(model, posters, device, rows, detected)
    return {"labels": labels_of(movies)[rows], **evidence}, genres_of(movies)


def compare(splits: dict[str, Evidence], genres: list[str], seed: int) -> dict[str, np.ndarray]:
    """The result of `score_resampled` for both splits and each choice of parts, by `SPLIT: CHOICE`."""
    scored = {}
    labels = {split: evidence["labels"] for split, evidence in splits.items()}
    for name, (chosen, _) in CHOICES.items():
        train, validation, test = (
            {part: splits[split][part] for part in chosen if part in splits[split]} for split in ("train", "validation", "test")
        )
        stack = fit_stack(train, labels["train"]) if train and name != ONE_WEIGHT else None
        logits = {
            "validation": out_of_fold_logits(stack, validation, labels["validation"]),
            "test": fit_fusion(stack, validation, labels["validation"]).logits(test),
        }
        for split, values in logits.items():
            scored[f"{split}: {name}"] = score_resampled(labels[split], values, genres, seed)
    return scored


def print_tables(runs: list[dict[str, np.ndarray]]) -> None:
    """Print one Markdown table per split."""
    for split in ("validation", "test"):
        print(f"\n| {split} | {HEADER}")
        for name, (_, other) in CHOICES.items():
            others = None if other is None else [run[f"{split}: {other}"] for run in runs]
            print(row(f"{name}{f', against {other}' if other else ''}", [run[f"{split}: {name}"] for run in runs], others))


def main() -> None:
    parser = argparse.ArgumentParser(description="What each part of a model contributes.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--detector", type=Path, default=DETECTOR, help="a detector in an ONNX file")
    parser.add_argument("--architecture", default="efficientnet_lite1", help="of the image stream (efficientnet_lite1)")
    parser.add_argument("--size", nargs=2, type=int, default=[320, 224], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", default="auto", help="(auto)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="also write the evidence of each seed to this folder")
    arguments = parser.parse_args()
    runs = []
    with project_copy() as folder:
        (folder / "data" / "detectors").mkdir(parents=True)
        shutil.copy(arguments.detector, folder / "data" / "detectors")
        size = dict(zip(("image_height", "image_width"), arguments.size, strict=True))
        detectors = ["lettering", f"onnx/data/detectors/{arguments.detector.name}"]
        architecture = f"two_stream/{arguments.architecture}"
        epochs = arguments.epochs if arguments.epochs == "auto" else int(arguments.epochs)
        for seed in arguments.seeds:
            chosen = {"seed": seed, "detectors": detectors, "architecture": architecture, "epochs": epochs, **size}
            set_parameters(folder, dataset=str(arguments.dataset.resolve()), **chosen)
            for stage in ("join", "cache", "detect"):
                run_python(["-m", f"stages.{stage}"], folder)
            seconds, memory = run_python(["-c", TRAIN], folder)
            print(f"seed {seed}: training took {seconds:.0f} s and {memory:.0f} MB", flush=True)
            splits = {split: dict(np.load(folder / f"{split}.npz")) for split in ("train", "validation")}
            splits["test"], genres = evidence_of_test(folder)
            if arguments.keep:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                for split, evidence in splits.items():
                    np.savez(arguments.keep / f"{seed}-{split}.npz", **evidence)
            if arguments.keep:
                (arguments.keep / "genres.json").write_text(json.dumps(genres), encoding="utf-8")
                shutil.copy(folder / "metrics" / "history.csv", arguments.keep / f"{seed}-history.csv")
            runs.append(compare(splits, genres, seed))
            # After each training, because they take long.
            print(f"\n{machine()}; {architecture} at {arguments.size}; seeds {arguments.seeds[: len(runs)]}")
            print_tables(runs)


if __name__ == "__main__":
    main()
