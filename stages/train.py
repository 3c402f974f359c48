"""Train a network on the cached posters, and keep its weights of the epoch with the best validation score.

In: data/cache. Out: models/model.pt; metrics/history.csv, an epoch a row; models/run.json, what the MLflow run is known by.
Run: `python -m stages.train`.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from poster_genres import errors, scores
from poster_genres.augmentation import augment
from poster_genres.cached import read_cache, take_posters
from poster_genres.errors import InputError
from poster_genres.files import whole_file, write_json
from poster_genres.model import Model, autocast, choose_device, predict_probabilities, save_model
from poster_genres.movies import genres_of, labels_of
from poster_genres.networks import NETWORKS, build_network
from poster_genres.parameters import Parameters, Recipe, read_parameters
from poster_genres.tracking import RUN, Tracking, describe_run

HISTORY = Path("metrics/history.csv")


def build_optimizer(network: nn.Module, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), which without weight decay is Adam, and its schedule.

    Biases and batch norm are not decayed. Epsilon is Keras'. "one_cycle" is Smith 2018, arXiv:1803.09820, over `steps` steps.
    """
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, eps=1e-7)
    if recipe.schedule == "constant" or steps < 3:  # too short for a cycle
        return optimizer, None
    # The rate rises over a quarter of the steps, and over two at least: torch divides by their number less one.
    return optimizer, OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=max(0.25, 2 / steps))


def exponential_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential moving average for `AveragedModel`, with a shorter memory in the first steps, lest the random weights that
    training began from weigh in it for epochs (as in TensorFlow's ExponentialMovingAverage, `num_updates`)."""

    def average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        keep = min(decay, (1 + int(steps)) / (10 + int(steps)))
        return averaged.lerp(current.to(averaged.dtype), 1 - keep) if averaged.is_floating_point() else current

    return average


def shuffled_batches(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """The rows in random order, from torch's global generator, in batches. A last batch of one row is left out: batch norm
    cannot take it."""
    order = rows[torch.randperm(len(rows)).numpy()]
    for start in range(0, len(rows), batch_size):
        if len(batch := order[start : start + batch_size]) > 1:
            yield batch


@dataclass
class Learner:
    """What changes while a model is trained. `average` is the moving average of its network's weights, where there is one."""

    model: Model
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None


def train_one_epoch(
    learner: Learner, posters: np.ndarray, labels: np.ndarray, rows: np.ndarray, recipe: Recipe, device: torch.device, name: str
) -> dict[str, float]:
    """Go once over the training posters.

    Parameters
    ----------
    posters : uint8 (N, height, width, 3)
    labels : float32 (N, genres), 0 or 1
    rows : int (n,), the training posters among them
    name : of the epoch, for the progress bar

    Returns
    -------
    The running scores, of the posters as augmented and the network as it was at each step; see `score_epoch`.
    """
    model = learner.model
    model.network.train()
    seen: list[np.ndarray] = []
    outputs: list[Tensor] = []
    with tqdm(total=len(rows), desc=name, unit=" posters", leave=False, disable=None) as progress:
        for batch in shuffled_batches(rows, recipe.batch_size):
            pixels = model.normalise(torch.from_numpy(take_posters(posters, batch)).to(device))
            pixels = augment(pixels, recipe.flip, recipe.crop)
            with autocast(device):
                logits = model.network(pixels).float()
            loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(labels[batch]).to(device))
            learner.optimizer.zero_grad()
            loss.backward()
            learner.optimizer.step()
            if learner.scheduler is not None:
                learner.scheduler.step()
            if learner.average is not None:
                learner.average.update_parameters(model.network)
            seen.append(batch)
            outputs.append(logits.detach())
            progress.update(len(batch))
    probabilities = torch.cat(outputs).sigmoid().cpu().numpy()
    return score_epoch("train", labels[np.concatenate(seen)], probabilities)


def score_epoch(split: str, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The scores of a row of metrics/history.csv, for one split.

    Raises
    ------
    InputError
        Some probability is not a number.
    """
    if not np.isfinite(probabilities).all():
        raise InputError("params.yaml: learning_rate: training diverged, the network's outputs are no numbers; try a tenth of it")
    return {
        f"{split}_loss": scores.binary_cross_entropy(labels, probabilities),
        f"{split}_accuracy": float(((probabilities >= 0.5) == (labels > 0)).mean()),
        f"{split}_macro_average_precision": scores.macro_average_precision(labels, probabilities),
        f"{split}_micro_average_precision": scores.micro_average_precision(labels, probabilities),
    }


def train(
    model: Model, posters: np.ndarray, labels: np.ndarray, splits: np.ndarray, recipe: Recipe, patience: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Train `model.network` in place. At the end it has the weights of the best epoch by validation macro average precision.

    Parameters
    ----------
    posters : uint8 (N, height, width, 3)
    labels : float32 (N, genres), 0 or 1
    splits : (N,), "train", "validation" or "test"; test posters are not looked at
    patience : epochs without a better score after which training stops; 0 for never

    Yields
    ------
    A row of metrics/history.csv an epoch.
    """
    train_rows, validation_rows = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "validation")
    last = len(train_rows) % recipe.batch_size
    steps = recipe.epochs * (len(train_rows) // recipe.batch_size + (last > 1))
    optimizer, scheduler = build_optimizer(model.network, recipe, steps)
    average = None
    scored = model
    if recipe.weight_averaging:
        # Batch norm's statistics are averaged too. The averaged network is the one that is scored and kept.
        average = AveragedModel(model.network, avg_fn=exponential_average(recipe.weight_averaging), use_buffers=True)
        scored = copy.copy(model)
        scored.network = average.module
    learner = Learner(model, average, optimizer, scheduler)
    best, best_epoch, best_weights = -1.0, 0, {}
    for epoch in range(1, recipe.epochs + 1):
        start = time.perf_counter()
        learning_rate = optimizer.param_groups[0]["lr"]
        row = train_one_epoch(learner, posters, labels, train_rows, recipe, device, f"epoch {epoch}/{recipe.epochs}")
        trained = time.perf_counter() - start
        probabilities = predict_probabilities(scored, posters, device, validation_rows)
        row |= score_epoch("validation", labels[validation_rows], probabilities)
        score = row["validation_macro_average_precision"]
        if score > best:
            best, best_epoch = score, epoch
            best_weights = {key: value.detach().clone() for key, value in scored.network.state_dict().items()}
        yield {
            "epoch": epoch,
            **row,
            "learning_rate": learning_rate,
            "seconds": time.perf_counter() - start,
            "posters_per_second": len(train_rows) / trained,
        }
        if patience and epoch - best_epoch >= patience:
            print(f"no better validation score for {patience} epochs; stopping")
            break
    model.network.load_state_dict(best_weights)


def new_model(parameters: Parameters, genres: list[str], shape: tuple[int, ...], prior: np.ndarray, device: torch.device) -> Model:
    """A model with fresh weights for posters of `shape` (N, height, width, 3)."""
    _, height, width, _ = shape
    try:
        network = build_network(parameters.architecture, len(genres), height, width)
    except ValueError as error:
        raise InputError(f"params.yaml: image_height, image_width: {height} x {width} is too small; {error}") from None
    architecture = NETWORKS[parameters.architecture]
    return Model(
        parameters.architecture,
        genres,
        height,
        width,
        list(architecture.mean),
        list(architecture.std),
        network.to(device),
        prior.tolist(),
    )


def print_epoch(history: list[dict[str, Any]], epochs: int) -> None:
    """Print the last row of metrics/history.csv in a line, with the time that the rest of `epochs` will take."""
    row = history[-1]
    remaining = (epochs - row["epoch"]) * sum(one["seconds"] for one in history) / len(history)
    print(
        f"epoch {row['epoch']:3}/{epochs}  loss {row['train_loss']:.4f}, validation {row['validation_loss']:.4f}"
        f"  macro AP {row['validation_macro_average_precision']:.4f}  micro AP {row['validation_micro_average_precision']:.4f}"
        f"  {row['posters_per_second']:.0f} posters/s  ETA {tqdm.format_interval(remaining)}",
        flush=True,
    )


def main() -> None:
    parameters = read_parameters()
    recipe = parameters.recipe()
    posters, movies = read_cache(Path("data/cache"))
    genres, labels, splits = genres_of(movies), labels_of(movies), movies["split"].to_numpy(str)
    if (splits == "train").sum() < 2:
        raise InputError("data/cache: one poster is not enough to train on; raise `limit` or lower `validation`")
    device = choose_device()
    torch.manual_seed(parameters.seed)
    # On the CPU the same seed gives the same bytes; CUDA has no deterministic form of some of the operations.
    torch.use_deterministic_algorithms(device.type == "cpu")
    model = new_model(parameters, genres, posters.shape, labels[splits == "train"].mean(axis=0), device)
    size = sum(parameter.numel() for parameter in model.network.parameters())
    numbers = f"{(splits == 'train').sum()} posters to train, {(splits == 'validation').sum()} to validate"
    print(f"{model.architecture}: {size:,} parameters on {device.type}, {numbers}", flush=True)
    history: list[dict[str, Any]] = []
    with Tracking(describe_run(parameters)) as tracking:
        for row in train(model, posters, labels, splits, recipe, parameters.patience, device):
            history.append(row)
            with whole_file(HISTORY) as temporary:
                pd.DataFrame(history).to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
            print_epoch(history, recipe.epochs)
            tracking.log_epoch(row)
        validation = np.flatnonzero(splits == "validation")
        probabilities = predict_probabilities(model, posters, device, validation)
        model.threshold, thresholds = scores.tune_thresholds(labels[validation], probabilities)
        model.thresholds = thresholds.tolist()
        save_model(model, Path("models/model.pt"))
        write_json(RUN, tracking.description)
    best = max(history, key=lambda row: row["validation_macro_average_precision"])
    print(f"kept epoch {best['epoch']}: validation macro AP {best['validation_macro_average_precision']:.4f}")


if __name__ == "__main__":
    errors.run(main)
