"""Training: the learners' epochs, the probe on frozen features that they may begin from, and the state to go on from."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from poster_genres import processes
from poster_genres.augmentation import augment, random_transforms
from poster_genres.devices import autocast
from poster_genres.errors import InputError
from poster_genres.fusion import out_of_fold_logits
from poster_genres.logistic import fit_logistic
from poster_genres.model import BATCH, Model, evidence_of_detections, image_logits
from poster_genres.network import Network
from poster_genres.objects import PosterDetections
from poster_genres.parameters import Recipe
from poster_genres.tensor_cache import Posters

# Strengths of the probe's weight decay, of which validation chooses.
DECAYS = (0.1, 0.3, 0.5, 1.0, 2.0)
# Of an epoch's training posters about so many at most are scored: to rank all that a large data set has would take more memory than
# to train on them, for a running score.
SCORED = 20_000


def build_optimizer(network: Network, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), which without weight decay is Adam, and its schedule.

    The maps learn at `backbone_learning_rate_factor` times the head's rate. Biases and batch norm are not decayed. Epsilon: Keras'.
    "one_cycle" is Smith 2018, arXiv:1803.09820, over `steps` steps.
    """
    groups: list[dict[str, Any]] = []
    head = list(network.head.parameters())
    body = [one for name, one in network.named_parameters() if not name.startswith("head.") and one.requires_grad]
    for part, rate in ((head, recipe.learning_rate), (body, recipe.learning_rate * recipe.backbone_learning_rate_factor)):
        weights = [parameter for parameter in part if parameter.ndim > 1]
        others = [parameter for parameter in part if parameter.ndim <= 1]
        groups.append({"params": weights, "lr": rate, "weight_decay": recipe.weight_decay})
        groups.append({"params": others, "lr": rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, eps=1e-7)
    if recipe.schedule == "constant" or steps < 3:  # too short for a cycle
        return optimizer, None
    # The rate rises over a quarter of the steps, and over two at least: torch divides by their number less one.
    rates = [group["lr"] for group in groups]
    return optimizer, OneCycleLR(optimizer, rates, total_steps=steps, pct_start=max(0.25, 2 / steps))


def exponential_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential moving average for `AveragedModel`, with a shorter memory in the first steps, lest the random weights that
    training began from weigh in it for epochs (as in TensorFlow's ExponentialMovingAverage, `num_updates`)."""

    def average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        keep = min(decay, (1 + int(steps)) / (10 + int(steps)))
        return averaged.lerp(current.to(averaged.dtype), 1 - keep) if averaged.is_floating_point() else current

    return average


def loader(posters: Posters, device: torch.device) -> Callable[[np.ndarray], Tensor]:
    """What brings rows of posters to a device, as uint8 (rows, height, width, 3).

    A GPU keeps all posters where they take up to half of its free memory. Else each batch is read and sent on its way while the GPU
    still works on the one before.
    """
    if device.type != "cuda":
        return lambda rows: torch.from_numpy(posters[rows]).to(device)
    if np.prod(posters.shape) > torch.cuda.mem_get_info(device)[0] / 2:
        return lambda rows: torch.from_numpy(posters[rows]).pin_memory().to(device, non_blocking=True)
    kept = torch.empty(posters.shape, dtype=torch.uint8, device=device)
    for part in torch.arange(len(kept)).split(1024):
        kept[part[0] : part[-1] + 1] = torch.from_numpy(posters[part.numpy()]).to(device)
    return lambda rows: kept[torch.from_numpy(rows).to(device)]


def batch_starts(rows: int, batch_size: int) -> range:
    """Where the batches of so many rows begin. A last one of one row is left out, as batch norm cannot take it, and one that has
    not a row for each process."""
    last = rows % batch_size
    return range(0, rows if last >= max(2, processes.world_size()) else rows - last, batch_size)


def shuffled_batches(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """The rows in random order, from torch's global generator, in batches."""
    order = rows[torch.randperm(len(rows)).numpy()]
    for start in batch_starts(len(rows), batch_size):
        yield order[start : start + batch_size]


def frozen_features(network: Network, model: Model, posters: Posters, rows: np.ndarray, device: torch.device) -> Tensor:
    """What a network in its present state makes of posters and of their mirror images.

    Returns
    -------
    float32 (2, rows, features) on the CPU
    """
    network.eval()
    found: list[Tensor] = []
    with torch.inference_mode(), tqdm(total=len(rows), desc="features", unit=" posters", leave=False, disable=None) as progress:
        for start in range(0, len(rows), BATCH):
            pixels = model.normalise(torch.from_numpy(posters[rows[start : start + BATCH]]).to(device))
            with autocast(device):
                found.append(torch.stack([network.features(view).float().cpu() for view in (pixels, pixels.flip(3))]))
            progress.update(len(pixels))
    return torch.cat(found, dim=1)


@dataclass
class Learner:
    """A network in training, and what changes with it. `distributed` is the same network, as several processes call it to train;
    `average` is the moving average of its weights, where there is one."""

    network: Network
    distributed: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None

    @property
    def scored(self) -> Network:
        """The network that is scored and kept."""
        return self.network if self.average is None else self.average.module  # type: ignore[return-value]

    def state(self) -> dict[str, Any]:
        parts = {"network": self.network, "average": self.average, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load(self, state: dict[str, Any]) -> None:
        for name, content in state.items():
            getattr(self, name).load_state_dict(content)


class Training:
    """A training, an epoch at a time.

    Parameters
    ----------
    model : whose networks are trained, beside words and objects that have learned already; at the end it has the weights of the
        epoch with the least cross-entropy on validation posters
    posters : uint8 (N, height, width, 3)
    labels : float32 (N, genres), 0 or 1
    splits : (N,), "train", "validation" or "test"; test posters are not looked at
    detected : what is on each poster, for two streams
    """

    def __init__(
        self,
        model: Model,
        posters: Posters,
        labels: np.ndarray,
        splits: np.ndarray,
        recipe: Recipe,
        device: torch.device,
        detected: list[PosterDetections] | None = None,
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, device
        self.posters, self.labels = posters, labels
        self.load_posters = loader(posters, device)
        self.train_rows, self.validation_rows = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "validation")
        self.history: list[dict[str, Any]] = []
        # Of the best epoch: the networks' weights, none where the probe alone is best, and the logits that they give, float32
        # (validation posters, genres).
        self.best: list[dict[str, Tensor]] = []
        self.best_logits: np.ndarray | None = None
        # What the parts that are not trained here say of validation posters.
        chosen = None if detected is None else [detected[row] for row in self.validation_rows]
        self.evidence = evidence_of_detections(model, chosen)
        steps = recipe.epochs * len(batch_starts(len(self.train_rows), recipe.batch_size))
        self.learners = []
        for network in model.networks:
            average = None
            if recipe.ema_decay:
                # Batch norm's statistics are averaged too.
                average = AveragedModel(network, avg_fn=exponential_average(recipe.ema_decay), use_buffers=True)
            learner = Learner(network, processes.distribute(network), average, *build_optimizer(network, recipe, steps))
            self.learners.append(learner)

    def start_from_probe(self) -> None:
        """Fit logistic regressions on the features of the pretrained maps: epoch 0 of metrics/history.csv.

        The heads begin from them, and they are a part of the model beside the networks.
        """
        start = time.perf_counter()
        network = copy.deepcopy(self.model.networks[0])
        features = {}
        for split, rows in (("train", self.train_rows), ("validation", self.validation_rows)):
            part = frozen_features(network, self.model, self.posters, processes.shard(rows), self.device)
            features[split] = torch.from_numpy(processes.all_gather_rows(part.transpose(0, 1).numpy())).transpose(0, 1)
        labels, truth = (torch.from_numpy(self.labels[rows]) for rows in (self.train_rows, self.validation_rows))
        best = math.inf
        for decay in DECAYS:
            weight, bias = fit_logistic(features["train"].flatten(0, 1), labels.repeat(2, 1), decay)
            loss = float(binary_cross_entropy_with_logits(features["validation"].mean(dim=0) @ weight.T + bias, truth))
            if loss < best:
                best, chosen = loss, (weight, bias)
        for one in (network, *self.model.networks):
            set_head(one, *chosen)
        self.use_probe(network)
        logits = (features["train"].mean(dim=0) @ chosen[0].T + chosen[1]).numpy()
        seconds = time.perf_counter() - start
        self.history.append(
            {
                "epoch": 0,
                **score_epoch("train", self.labels[self.train_rows], logits),
                **self._score_validation(self.evidence),
                "learning_rate": 0.0,
                "seconds": seconds,
                "posters_per_second": len(self.train_rows) / seconds,
            }
        )

    def use_probe(self, network: Network) -> None:
        """Have this network, which is not trained any more, as a part of the model."""
        self.model.probe = network
        self.evidence["probe"] = self._validation_logits([network])

    def _validation_logits(self, networks: list[Network]) -> np.ndarray:
        """float32 (validation posters, genres)"""
        rows = processes.shard(self.validation_rows)
        return processes.all_gather_rows(image_logits(self.model, networks, self.posters, self.device, rows))

    def _score_validation(self, evidence: dict[str, np.ndarray]) -> dict[str, float]:
        """The scores of all parts of the model together, which are fitted on validation posters, and scored on others of them."""
        if not all(np.isfinite(logits).all() for logits in evidence.values()):
            raise diverged()
        truth = self.labels[self.validation_rows]
        return score_epoch("validation", truth, out_of_fold_logits(evidence, truth))

    def best_evidence(self) -> dict[str, np.ndarray]:
        """What each part of the model of the best epoch says of validation posters, float32 (validation posters, genres)."""
        networks = {} if self.best_logits is None else {"networks": self.best_logits}
        return networks | self.evidence

    def run_epoch(self) -> dict[str, Any]:
        """Train each network for an epoch, and score the model on validation: a row of metrics/history.csv."""
        epoch = self.epoch + 1
        start = time.perf_counter()
        processes.broadcast_random_state()
        learning_rate = self.learners[0].optimizer.param_groups[0]["lr"]
        row = self._train_epoch(f"epoch {epoch}/{self.recipe.epochs}")
        trained = time.perf_counter() - start
        logits = self._validation_logits([learner.scored for learner in self.learners])
        row |= self._score_validation({"networks": logits} | self.evidence)
        if row["validation_loss"] < self.best_loss():
            self.best = [
                {key: value.detach().clone() for key, value in learner.scored.state_dict().items()} for learner in self.learners
            ]
            self.best_logits = logits
        self.history.append(
            {
                "epoch": epoch,
                **row,
                "learning_rate": learning_rate,
                "seconds": time.perf_counter() - start,
                "posters_per_second": len(self.learners) * len(self.train_rows) / trained,
            }
        )
        return self.history[-1]

    @property
    def epoch(self) -> int:
        """The last epoch that is done; 0 before the first."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    def best_loss(self) -> float:
        """The least cross-entropy on validation so far; infinite before the first epoch."""
        return min((row["validation_loss"] for row in self.history), default=math.inf)

    def epochs_since_best(self) -> int:
        losses = [row["validation_loss"] for row in self.history]
        return len(losses) - 1 - losses.index(min(losses))

    def _train_epoch(self, name: str) -> dict[str, float]:
        """Go once over the training posters with each network.

        Returns
        -------
        The running scores, of the posters as augmented and the networks as they were at each step, without what words add, which
        is learned by heart on these posters; see `score_epoch`. Of more than SCORED, each second batch counts, or each third, …
        """
        every = math.ceil(len(self.train_rows) * len(self.learners) / SCORED)
        seen: list[np.ndarray] = []
        outputs: list[Tensor] = []
        with tqdm(
            total=len(self.train_rows) * len(self.learners), desc=name, unit=" posters", leave=False, disable=None
        ) as progress:
            for learner in self.learners:
                learner.network.train()
                for i, batch in enumerate(shuffled_batches(self.train_rows, self.recipe.batch_size)):
                    output = self._step(learner, batch)
                    if i % every == 0:
                        outputs.append(output)
                        seen.append(processes.shard(batch))
                    progress.update(len(batch))
        parts = (np.concatenate(seen), torch.cat(outputs).cpu().numpy())
        rows, logits = (np.concatenate(processes.all_gather(part)) for part in parts)
        return score_epoch("train", self.labels[rows], logits)

    def _step(self, learner: Learner, batch: np.ndarray) -> Tensor:
        """Learn from a batch of rows; the logits it gave, of this process's share of them."""
        transforms = random_transforms(len(batch), self.recipe.flip, self.recipe.crop)
        rows = processes.shard(batch)
        pixels = self.model.normalise(self.load_posters(rows))
        pixels = augment(pixels, None if transforms is None else processes.shard(transforms))
        with autocast(self.device):
            logits = learner.distributed(pixels).float()
        loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(self.labels[rows]).to(self.device))
        # Gradients are averaged over the processes, whose shares may differ by a poster.
        loss = loss * (len(rows) * processes.world_size() / len(batch))
        learner.optimizer.zero_grad()
        loss.backward()
        learner.optimizer.step()
        if learner.scheduler is not None:
            learner.scheduler.step()
        if learner.average is not None:
            learner.average.update_parameters(learner.network)
        detached: Tensor = logits.detach()
        return detached

    def finish(self) -> None:
        """Give the model the networks of the best epoch: the probe alone, where that is epoch 0."""
        if not self.best:
            self.model.networks.clear()
        for network, weights in zip(self.model.networks, self.best, strict=True):
            network.load_state_dict(weights)

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from here, for `load`."""
        return {
            "learners": [learner.state() for learner in self.learners],
            "probe": None if self.model.probe is None else self.model.probe.state_dict(),
            "best": self.best,
            "best logits": None if self.best_logits is None else torch.from_numpy(self.best_logits),
            "history": self.history,
            "random": torch.get_rng_state(),
            "random on the device": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state; the epochs after it are the same as if there had been no break."""
        for learner, content in zip(self.learners, state["learners"], strict=True):
            learner.load(content)
        if state["probe"] is not None:
            probe = copy.deepcopy(self.model.networks[0])
            probe.load_state_dict(state["probe"])
            self.use_probe(probe)
        self.best, self.history = state["best"], state["history"]
        self.best_logits = None if state["best logits"] is None else state["best logits"].numpy()
        torch.set_rng_state(state["random"])
        if state["random on the device"] is not None:
            torch.cuda.set_rng_state(state["random on the device"])


def set_head(network: Network, weight: Tensor, bias: Tensor) -> None:
    """Give the last layer of a network these weights (genres, features) and biases (genres,)."""
    last = network.head[-1]  # type: ignore[index]
    with torch.no_grad():
        last.weight.copy_(weight)
        last.bias.copy_(bias)


def diverged() -> InputError:
    return InputError("params.yaml: learning_rate: training diverged, the network's outputs are no numbers; try a tenth of it")


def score_epoch(split: str, labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """The scores of a row of metrics/history.csv, for one split.

    Posters are ranked by logits, as probabilities near 1 are rounded to the same number.

    Raises
    ------
    InputError
        Some logit is not a finite number.
    """
    # With scikit-learn, for which the first training step need not wait.
    from poster_genres import scores

    if not np.isfinite(logits).all():
        raise diverged()
    probabilities = expit(logits)
    return {
        f"{split}_loss": scores.binary_cross_entropy(labels, probabilities),
        f"{split}_accuracy": float(((probabilities >= 0.5) == (labels > 0)).mean()),
        f"{split}_macro_average_precision": scores.macro_average_precision(labels, logits),
        f"{split}_micro_average_precision": scores.micro_average_precision(labels, logits),
    }
