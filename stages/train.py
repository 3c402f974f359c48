"""Train networks on the cached posters, and keep the weights of the epoch with the lowest validation cross-entropy.

In: data/cache and, for two_stream/…, data/detections. Out: models/model.pt; metrics/history.csv, one row per epoch;
models/validation.npy, the model's logits for validation posters, float32 (posters, genres), out of fold, for `evaluate`;
models/run.json, which identifies the MLflow run. An interrupted training, started again, resumes after its last completed epoch.
Run: `python -m stages.train`; with `processes: 4` it launches four processes, and on several machines `torchrun` launches it.
"""

import contextlib
import hashlib
import io
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from tqdm import tqdm

from poster_genres import errors, processes
from poster_genres.architectures import needs_objects
from poster_genres.devices import prepare, release_memory
from poster_genres.errors import InputError, printable
from poster_genres.files import repository, whole_file, write_json
from poster_genres.fusion import folds
from poster_genres.model import Model, evidence_of_detections, is_sealed, save_model, seal
from poster_genres.movies import genres_of, labels_of
from poster_genres.network import find_architecture, network_to_train
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
VALIDATION = Path("models/validation.npy")
# Checkpoints of abandoned trainings are deleted after a week.
KEPT_SECONDS = 7 * 24 * 3600


def new_model(
    parameters: TrainParameters,
    genres: list[str],
    shape: tuple[int, ...],
    prior: np.ndarray,
    device: torch.device,
    detections: DatasetDetections | None = None,
) -> Model:
    """A model with networks ready for training, for posters of `shape` (N, height, width, 3). Raises InputError."""
    _, height, width, _ = shape
    recipe = parameters.recipe
    architecture = find_architecture(parameters.architecture)
    preprocessing = architecture.preprocessing
    networks = []
    for i in range(recipe.ensemble_size):
        torch.manual_seed(parameters.seed + i)
        network = network_to_train(
            parameters.architecture,
            architecture,
            len(genres),
            (height, width),
            linear_probe=recipe.linear_probe,
            frozen_blocks=recipe.frozen_blocks,
            interpolation=parameters.interpolation,
        )
        if architecture.load_pretrained is not None:
            architecture.load_pretrained(network)
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


def print_detections(model: Model, contents: list[PosterDetections]) -> None:
    """Print which words and classes of objects the model uses, and which classes are on too few training posters."""
    if model.words is not None:
        print(f"words: {len(model.words.vocabulary):,} character n-grams", flush=True)
    counts = count_classes(contents, [label for label in model.classes if label != "lettering"])
    rare = {label: posters for label, posters in counts.items() if posters < LEAST}
    if model.objects is not None:
        print(f"objects of {len(model.objects.classes)} class(es): {printable(', '.join(model.objects.classes))}", flush=True)
    if rare:
        examples = ", ".join(f"{label} ({posters})" for label, posters in sorted(rare.items(), key=lambda item: -item[1])[:5])
        more = ", …" if len(rare) > 5 else ""
        print(f"not used, on fewer than {LEAST} training posters: {len(rare)} class(es): {printable(examples)}{more}")


def checkpoint_path(parameters: TrainParameters) -> Path:
    """The checkpoint of an unfinished training with exactly these parameters, data and code, all of which its name hashes.

    It lies in DVC's folder for temporary files, which experiments in temporary copies share.
    """
    digest = hashlib.sha256(json.dumps([parameters.model_dump(), torch.__version__], sort_keys=True).encode())
    code = sorted(Path(__file__).parent.parent.glob("poster_genres/**/*.py"))
    inputs = [CACHE / "movies.csv", *sorted(CACHE.glob("*.npy")), DETECTIONS / "objects.csv", DETECTIONS / "detectors.json"]
    for path in (*inputs, Path(__file__), *code):
        # Detections are missing if the stage `detect` has not run; most architectures need none.
        content = hashlib.sha256()
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            # In large chunks, because after each one this thread waits for the GIL, which imports hold meanwhile.
            while chunk := file.read(1 << 24):
                content.update(chunk)
        digest.update(content.digest())
    return repository() / ".dvc" / "tmp" / "training" / f"{digest.hexdigest()[:32]}.pt"


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state of an interrupted training, or None if no checkpoint can be read. Deletes old checkpoints."""
    for checkpoint in path.parent.glob("*.pt"):
        with contextlib.suppress(OSError):
            if checkpoint.stat().st_mtime < time.time() - KEPT_SECONDS:
                checkpoint.unlink()
    with contextlib.suppress(Exception):  # if the checkpoint is damaged, training starts again
        if is_sealed(path):
            return dict(torch.load(path, map_location="cpu", weights_only=True))
    return None


def save_checkpoint(path: Path, state: dict[str, Any], saved: bool) -> bool:
    """Write a checkpoint. Where that fails, training goes on, and warns if the one before was `saved`. Returns whether it is."""
    try:
        with whole_file(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
            file.close()
            seal(temporary)
    except (InputError, OSError, RuntimeError) as error:
        if saved:
            reason = printable(str(error).partition(";")[0])[:200]
            print(f"warning: no checkpoint ({reason}); training goes on, but could not be resumed", file=sys.stderr, flush=True)
        return False
    return True


def write_history(history: list[dict[str, Any]]) -> None:
    with whole_file(HISTORY) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def print_epoch(history: list[dict[str, Any]], epochs: int) -> None:
    """Print the last row of metrics/history.csv on one line, with the estimated time for the remaining epochs."""
    row = history[-1]
    name, speed = "linear probe", ""
    if row["epoch"] > 0:
        name = f"epoch {row['epoch']:3}/{epochs}"
        seconds = [past["seconds"] for past in history if past["epoch"] > 0]
        remaining = (epochs - row["epoch"]) * sum(seconds) / len(seconds)
        speed = f"  {row['posters_per_second']:.0f} posters/s  ETA {tqdm.format_interval(remaining)}"
    print(
        f"{name:12}  loss {row['train_loss']:.4f}, validation {row['validation_loss']:.4f}"
        f"  macro AP {row['validation_macro_average_precision']:.4f}  micro AP {row['validation_micro_average_precision']:.4f}"
        f"{speed}",
        flush=True,
    )


def run_epochs(training: Training, tracking: Tracking | None, checkpoint: Path, patience: int) -> None:
    """Train for all epochs, or until validation has not improved for `patience` epochs (early stopping). Rank 0, the only process
    with `tracking`, saves a checkpoint after each epoch."""
    epochs = training.recipe.epochs
    saved = True
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
        saved = save_checkpoint(checkpoint, training.state() | {"training": tracking.description["tags"]["training"]}, saved)
        write_history(training.history)
        print_epoch(training.history, epochs)
        tracking.log_epoch(row)


def finish(training: Training) -> None:
    """Restore the best weights, fit the fusion and tune the thresholds on validation, and save the model and its logits there."""
    from poster_genres import scores

    training.finish()
    model = training.model
    evidence = training.best_evidence()
    model.fusion = training.fusion(evidence)
    print(f"mean weights of the parts: {model.fusion}")
    logits = training.validation_logits(evidence)
    model.threshold, thresholds = scores.tune_thresholds(training.labels[training.validation_rows], expit(logits))
    model.thresholds = thresholds.tolist()
    save_model(model, Path("models/model.pt"))
    with whole_file(VALIDATION) as temporary, temporary.open("wb") as file:
        np.save(file, logits, allow_pickle=False)


def detections_out_of_fold(
    model: Model, contents: list[PosterDetections], labels: np.ndarray, classes: list[str]
) -> dict[str, np.ndarray]:
    """Logits of words and objects, those that the model has, for its training posters, float32 (posters, genres), out of fold."""
    evidence = {part: np.zeros(labels.shape, np.float32) for part in evidence_of_detections(model, contents[:1])}
    for train, test in folds(len(contents)):
        to_fit, to_predict = (list(compress(contents, mask)) for mask in (train, test))
        of_fold = replace(model, words=fit_words(to_fit, labels[train]), objects=fit_objects(to_fit, labels[train], classes))
        for part, logits in evidence_of_detections(of_fold, to_predict).items():
            # A fold may have enough of a class for a part that the whole has not, if it has not enough of another.
            if part in evidence:
                evidence[part][test] = logits
    return evidence


def prepare_training(parameters: TrainParameters, device: torch.device) -> Training:
    """Read the posters, fit words and objects on training posters, and build the networks.

    Raises
    ------
    InputError
        There are too few posters; see also `new_model` and `read_detections`.
    """
    posters, movies = read_cache(CACHE)
    genres, labels, splits = genres_of(movies), labels_of(movies), movies["split"].to_numpy(str)
    rows = np.flatnonzero(splits == "train")
    if len(rows) < 2:
        raise InputError("data/cache: one poster is not enough to train on; raise `limit` or lower `validation`")
    fewest = min(parameters.recipe.batch_size, len(rows), int((splits == "validation").sum()))
    if processes.world_size() > max(1, fewest):
        raise InputError(
            f"params.yaml: processes: {processes.world_size()} processes, but a batch or a split has {fewest} posters; lower it"
        )
    detections = read_detections(DETECTIONS, list(movies["id"])) if needs_objects(parameters.architecture) else None
    model = new_model(parameters, genres, posters.shape, labels[rows].mean(axis=0), device, detections)
    contents, train_evidence = None, None
    if detections is not None:
        contents = detections.posters
        train_contents = [contents[row] for row in rows]
        model.words = fit_words(train_contents, labels[rows])
        model.objects = fit_objects(train_contents, labels[rows], detections.classes)
        train_evidence = detections_out_of_fold(model, train_contents, labels[rows], detections.classes)
        if processes.rank() == 0:
            print_detections(model, train_contents)
    if processes.rank() == 0:
        size = sum(parameter.numel() for network in model.networks for parameter in network.parameters())
        numbers = f"{len(rows)} posters to train, {(splits == 'validation').sum()} to validate"
        devices = device.type if processes.world_size() == 1 else f"{processes.world_size()} x {device.type}"
        print(f"{model.architecture}: {size:,} parameters on {devices}, {numbers}", flush=True)
    scheduler = parameters.dask_scheduler
    return Training(model, posters, labels, splits, parameters.recipe, device, contents, train_evidence, scheduler)


def train(parameters: TrainParameters, description: dict[str, Any], device: torch.device) -> None:
    """Train, or resume a training that was interrupted; rank 0 logs it to MLflow under this description and saves the model."""
    # In a thread, because it reads all posters.
    checkpoint_future = ThreadPoolExecutor(1).submit(checkpoint_path, parameters)
    training = prepare_training(parameters, device)
    checkpoint = checkpoint_future.result()
    state = read_checkpoint(checkpoint)
    if state is not None:
        description["tags"]["training"] = state.pop("training")
        training.load(state)
    else:
        training.fine_tune_text(parameters.seed)
        release_memory()
        if parameters.recipe.linear_probe:
            training.start_from_probe()
            release_memory()
    if processes.rank() > 0:
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
        finish(training)
        write_json(RUN, tracking.description)
    checkpoint.unlink(missing_ok=True)
    best = min(training.history, key=lambda row: row["validation_loss"])
    when = "" if best["epoch"] else ", from before fine-tuning"
    print(
        f"kept epoch {best['epoch']}{when}: validation cross-entropy {best['validation_loss']:.4f}"
        f"  macro AP {best['validation_macro_average_precision']:.4f}"
    )


def main() -> None:
    all_parameters = read_parameters()
    parameters = all_parameters.used_by(TrainParameters)
    if parameters.processes > 1 and processes.world_size() == 1:
        processes.launch(parameters.processes, "stages.train")
        return
    device = prepare()
    with processes.process_group(device):
        description = describe_run(all_parameters)
        # Sums are rounded otherwise by another number of threads, so that results differ in their last digits.
        description["tags"]["threads"] = str(torch.get_num_threads())
        train(parameters, description, device)


if __name__ == "__main__":
    errors.run_stage(main)
