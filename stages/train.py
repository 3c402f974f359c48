"""Train networks on the cached posters, and keep their weights of the epoch with the least validation cross-entropy.

In: data/cache and, for two_stream/…, data/detections. Out: models/model.pt; metrics/history.csv, an epoch a row; models/run.json,
what the MLflow run is known by. A training that was interrupted goes on from its last whole epoch when it is started again. Run:
`python -m stages.train`; with `processes: 4` it starts so many of itself, and on several machines `torchrun` starts it.
"""

import contextlib
import hashlib
import io
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from tqdm import tqdm

from poster_genres import errors, processes
from poster_genres.architectures import needs_objects
from poster_genres.devices import prepare
from poster_genres.errors import InputError
from poster_genres.files import repository, whole_file, write_json
from poster_genres.fusion import fit_fusion, out_of_fold_logits
from poster_genres.model import Model, save_model
from poster_genres.movies import genres_of, labels_of
from poster_genres.network import find_architecture
from poster_genres.object_model import LEAST, count_classes, fit_objects
from poster_genres.objects import DatasetDetections, PosterDetections, read_detections
from poster_genres.parameters import TrainParameters, read_parameters
from poster_genres.tensor_cache import read_cache
from poster_genres.tracking import RUN, Tracking, describe_run
from poster_genres.training import Training
from poster_genres.words import fit_words

CACHE = Path("data/cache")
DETECTIONS = Path("data/detections")
HISTORY = Path("metrics/history.csv")
# Checkpoints of trainings that nobody went on with are cleared away after a week.
KEPT_SECONDS = 7 * 24 * 3600


def new_model(
    parameters: TrainParameters,
    genres: list[str],
    shape: tuple[int, ...],
    prior: np.ndarray,
    device: torch.device,
    detections: DatasetDetections | None = None,
) -> Model:
    """A model with networks to be trained, for posters of `shape` (N, height, width, 3)."""
    _, height, width, _ = shape
    recipe = parameters.recipe
    architecture = find_architecture(parameters.architecture)
    preprocessing = architecture.preprocessing
    if architecture.load_pretrained is None and recipe.linear_probe:
        raise InputError(f"params.yaml: linear_probe: {parameters.architecture} has no pretrained weights; set it to false")
    if preprocessing.interpolation not in (None, parameters.interpolation):
        raise InputError(
            f"params.yaml: interpolation: {parameters.architecture} was pretrained on pictures resized by "
            f"{preprocessing.interpolation} interpolation; set it to that, not {parameters.interpolation!r}"
        )
    networks = []
    for i in range(recipe.ensemble_size):
        torch.manual_seed(parameters.seed + i)
        try:
            network = architecture.build(len(genres), height, width)
        except ValueError as error:
            raise InputError(f"params.yaml: image_height, image_width: {height} x {width} is too small; {error}") from None
        if architecture.load_pretrained is not None:
            architecture.load_pretrained(network)
        try:
            network.freeze(recipe.frozen_blocks)
        except ValueError as error:
            raise InputError(f"params.yaml: {error}") from None
        networks.append(network.to(device))
    return Model(
        parameters.architecture,
        genres,
        height,
        width,
        list(preprocessing.mean),
        list(preprocessing.std),
        networks,
        prior.tolist(),
        detectors={} if detections is None else detections.detectors,
        classes=[] if detections is None else detections.classes,
        flip=recipe.flip,
        backbone=architecture.config,
        interpolation=parameters.interpolation,
    )


def print_detections(model: Model, detected: list[PosterDetections]) -> None:
    """Print what words and objects the model goes by, and which are on too few training posters."""
    if model.words is not None:
        print(f"words: {len(model.words.vocabulary):,} parts of words", flush=True)
    rare = {label: posters for label, posters in count_classes(detected, model.classes).items() if posters < LEAST}
    if model.objects is not None:
        print(f"objects: {len(model.objects.classes)} classes: {', '.join(model.objects.classes)}", flush=True)
    if rare:
        some = ", ".join(f"{label} ({posters})" for label, posters in sorted(rare.items(), key=lambda item: -item[1])[:5])
        print(f"not used, on fewer than {LEAST} training posters: {len(rare)} classes: {some}{', …' if len(rare) > 5 else ''}")


def checkpoint_path(parameters: TrainParameters) -> Path:
    """Where the state of exactly this training is kept until it is finished: the same parameters, data and code.

    In DVC's folder for temporary files, which experiments in temporary copies share.
    """
    digest = hashlib.sha256(json.dumps([parameters.model_dump(), torch.__version__], sort_keys=True).encode())
    code = sorted(Path(__file__).parent.parent.glob("poster_genres/**/*.py"))
    inputs = [CACHE / "movies.csv", *sorted(CACHE.glob("*.npy")), DETECTIONS / "objects.csv", DETECTIONS / "detectors.json"]
    for path in (*inputs, Path(__file__), *code):
        # Without the stage `detect` there are no detections, which most architectures do not need.
        content = hashlib.sha256()
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            # In large parts, as after each one this thread waits for Python's lock, which imports hold meanwhile.
            while part := file.read(1 << 24):
                content.update(part)
        digest.update(content.digest())
    return repository() / ".dvc" / "tmp" / "training" / f"{digest.hexdigest()[:32]}.pt"


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state of an interrupted training; None where there is none that can be read. Clears away old ones."""
    for other in path.parent.glob("*.pt"):
        with contextlib.suppress(OSError):
            if other.stat().st_mtime < time.time() - KEPT_SECONDS:
                other.unlink()
    with contextlib.suppress(Exception):  # whatever is wrong with it, training begins anew
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    return None


def write_history(history: list[dict[str, Any]]) -> None:
    with whole_file(HISTORY) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def print_epoch(history: list[dict[str, Any]], epochs: int) -> None:
    """Print the last row of metrics/history.csv in a line, with the time that the rest of `epochs` will take."""
    row = history[-1]
    trained = [one["seconds"] for one in history if one["epoch"] > 0]
    remaining = (epochs - row["epoch"]) * sum(trained) / len(trained) if trained else None
    print(
        f"epoch {row['epoch']:3}/{epochs}  loss {row['train_loss']:.4f}, validation {row['validation_loss']:.4f}"
        f"  macro AP {row['validation_macro_average_precision']:.4f}  micro AP {row['validation_micro_average_precision']:.4f}"
        f"  {row['posters_per_second']:.0f} posters/s  ETA {'?' if remaining is None else tqdm.format_interval(remaining)}",
        flush=True,
    )


def run_epochs(training: Training, tracking: Tracking | None, checkpoint: Path, patience: int) -> None:
    """Train epoch by epoch to the end, or until `patience` epochs brought nothing better. All is saved after each epoch, by the
    process with `tracking`."""
    epochs = training.recipe.epochs
    if tracking is not None and training.history and training.epoch == 0:
        write_history(training.history)
        print_epoch(training.history, epochs)
    while training.epoch < epochs:
        errors.check_interrupt()
        if patience and training.history and training.epochs_since_best() >= patience:
            if tracking is not None:
                print(f"no better validation score for {patience} epochs; stopping")
            break
        row = training.run_epoch()
        if tracking is None:
            continue
        with whole_file(checkpoint) as temporary, temporary.open("wb") as file:
            torch.save(training.state() | {"training": tracking.description["tags"]["training"]}, file)
        write_history(training.history)
        print_epoch(training.history, epochs)
        tracking.log_epoch(row)


def finish(model: Model, training: Training) -> None:
    """Give the model its best weights, and what validation chooses: how its parts are added up, and thresholds; and save it."""
    from poster_genres import scores

    training.finish()
    labels, evidence = training.labels[training.validation_rows], training.best_evidence()
    model.fusion = fit_fusion(evidence, labels)
    print("parts: " + ", ".join(f"{name} {weight:.2f}" for name, weight in zip(evidence, model.fusion.weights, strict=True)))
    model.threshold, thresholds = scores.tune_thresholds(labels, expit(out_of_fold_logits(evidence, labels)))
    model.thresholds = thresholds.tolist()
    save_model(model, Path("models/model.pt"))


def train(parameters: TrainParameters, description: dict[str, Any], device: torch.device) -> None:
    first = processes.rank() == 0
    # It reads all posters, beside what follows.
    checkpoint_future = ThreadPoolExecutor(1).submit(checkpoint_path, parameters)
    recipe = parameters.recipe
    posters, movies = read_cache(CACHE)
    genres, labels, splits = genres_of(movies), labels_of(movies), movies["split"].to_numpy(str)
    if (splits == "train").sum() < 2:
        raise InputError("data/cache: one poster is not enough to train on; raise `limit` or lower `validation`")
    detections = read_detections(DETECTIONS, list(movies["id"])) if needs_objects(parameters.architecture) else None
    model = new_model(parameters, genres, posters.shape, labels[splits == "train"].mean(axis=0), device, detections)
    detected = None
    if detections is not None:
        detected = detections.posters
        rows = np.flatnonzero(splits == "train")
        learned_from = [detected[row] for row in rows]
        model.words = fit_words(learned_from, labels[rows])
        model.objects = fit_objects(learned_from, labels[rows], detections.classes)
        if first:
            print_detections(model, learned_from)
    if first:
        size = sum(parameter.numel() for network in model.networks for parameter in network.parameters())
        numbers = f"{(splits == 'train').sum()} posters to train, {(splits == 'validation').sum()} to validate"
        where = device.type if processes.world_size() == 1 else f"{processes.world_size()} x {device.type}"
        print(f"{model.architecture}: {size:,} parameters on {where}, {numbers}", flush=True)

    training = Training(model, posters, labels, splits, recipe, device, detected)
    checkpoint = checkpoint_future.result()
    state = read_checkpoint(checkpoint)
    if state is not None:
        description["tags"]["training"] = state.pop("training")
        training.load(state)
    elif recipe.linear_probe:
        training.start_from_probe()
    if not first:
        run_epochs(training, None, checkpoint, parameters.patience)
        return
    if state is not None:
        write_history(training.history)
        print(f"going on after epoch {training.epoch}, where this training was interrupted", flush=True)
    with Tracking(description) as tracking:
        tracking.log_missing_epochs(training.history)
        try:
            run_epochs(training, tracking, checkpoint, parameters.patience)
        except KeyboardInterrupt:
            print("the same command goes on from the last whole epoch", file=sys.stderr)
            raise
        finish(model, training)
        write_json(RUN, tracking.description)
    checkpoint.unlink(missing_ok=True)
    best = min(training.history, key=lambda row: row["validation_loss"])
    print(
        f"kept epoch {best['epoch']}: validation cross-entropy {best['validation_loss']:.4f}"
        f"  macro AP {best['validation_macro_average_precision']:.4f}"
    )


def main() -> None:
    everything = read_parameters()
    parameters = everything.used_by(TrainParameters)
    if parameters.processes > 1 and processes.world_size() == 1:
        processes.launch(parameters.processes, "stages.train")
        return
    device = prepare()
    with processes.process_group(device):
        train(parameters, describe_run(everything), device)


if __name__ == "__main__":
    errors.run(main)
