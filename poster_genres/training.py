"""Training: epochs, the linear probe on frozen features that may come before them, and the state to resume from."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from poster_genres import processes
from poster_genres.augmentation import random_transforms
from poster_genres.devices import autocast, micro_batches
from poster_genres.errors import InputError
from poster_genres.fusion import STACKED, Fusion, fit_fusion, fit_stack, folds, out_of_fold_logits
from poster_genres.inputs import Inputs
from poster_genres.logistic import fit_logistic
from poster_genres.model import Model, average_logits, evidence_of_detections
from poster_genres.movies import SPLITS
from poster_genres.network import Network
from poster_genres.objects import PosterDetections
from poster_genres.parameters import Recipe
from poster_genres.progress import progress
from poster_genres.tensor_cache import Posters
from poster_genres.text_network import TextNetwork, fine_tune

# L2 penalties that are tried for the linear probe, until the validation loss rises; the one with the lowest is kept.
DECAYS = (2.0, 1.0, 0.5, 0.3, 0.1)
# How many training posters, at most, an epoch is scored on beside the validation posters: more take longer than what they tell is
# worth, as they are predicted for this alone.
SCORED = 300
# The share of the other parts' probabilities, out of fold, in the targets of fine-tuning; the rest are labels. That is knowledge
# distillation (Hinton et al. 2015, arXiv:1503.02531), from a teacher that knows the words too; docs/results.md has what it brings.
DISTILLATION = 0.5


def build_optimizer(network: Network, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), which without weight decay is Adam, and its learning rate schedule.

    All layers but the head learn at `backbone_learning_rate_factor` times its rate. Biases and batch norm are not decayed. Epsilon
    is Keras'. "one_cycle" is Smith 2018, arXiv:1803.09820, over `steps` steps.
    """
    groups: list[dict[str, Any]] = []
    head = list(network.head.parameters())
    backbone = [p for name, p in network.named_parameters() if not name.startswith("head.") and p.requires_grad]
    for parameters, rate in ((head, recipe.learning_rate), (backbone, recipe.learning_rate * recipe.backbone_learning_rate_factor)):
        decayed = [p for p in parameters if p.ndim > 1]
        not_decayed = [p for p in parameters if p.ndim <= 1]
        groups.append({"params": decayed, "lr": rate, "weight_decay": recipe.weight_decay})
        groups.append({"params": not_decayed, "lr": rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, eps=1e-7)
    if recipe.schedule == "constant" or steps < 3:  # too short for a cycle
        return optimizer, None
    # The learning rate rises for a quarter of the steps, but for at least two: torch divides by their number minus one.
    rates = [group["lr"] for group in groups]
    return optimizer, OneCycleLR(optimizer, rates, total_steps=steps, pct_start=max(0.25, 2 / steps))


def batch_starts(rows: int, batch_size: int) -> range:
    """Where the batches of `rows` rows start. A last batch of one row is left out, as batch norm cannot train on it, and so is one
    with fewer rows than processes."""
    last = rows % batch_size
    return range(0, rows if last >= max(2, processes.world_size()) else rows - last, batch_size)


def shuffled_batches(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """The rows in random order, from torch's global generator, in batches."""
    order = rows[torch.randperm(len(rows)).numpy()]
    for start in batch_starts(len(rows), batch_size):
        yield order[start : start + batch_size]


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether what a network in training says of a poster depends on the others in the batch."""
    return any(isinstance(module, nn.BatchNorm2d) and module.training for module in network.modules())


@dataclass
class Learner:
    """A network in training, with its optimizer. `distributed` is the same network, wrapped for training in several processes."""

    network: Network
    distributed: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None

    def state(self) -> dict[str, Any]:
        stateful: dict[str, Any] = {"network": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {name: value.state_dict() for name, value in stateful.items() if value is not None}

    def load(self, state: dict[str, Any]) -> None:
        for name, state_dict in state.items():
            getattr(self, name).load_state_dict(state_dict)


class Training:
    """Trains the networks of a model, one epoch at a time.

    Parameters
    ----------
    model : its networks are trained; words and objects already are. `finish` gives it the weights of the epoch with the lowest
        validation cross-entropy
    posters : uint8 (N, height, width, 3)
    labels : float32 (N, genres), 0 or 1
    splits : (N,), "train", "validation" or "test"; of test posters only the number with each genre is used, which decides what
        genres macro scores are over
    contents : the detections on each of the N posters, for two streams
    train_evidence : for two streams, the logits of words and objects for training posters, out of fold
    dask_scheduler : of a cluster that computes the features for the linear probe; see `spread.spread`
    """

    def __init__(
        self,
        model: Model,
        posters: Posters,
        labels: np.ndarray,
        splits: np.ndarray,
        recipe: Recipe,
        device: torch.device,
        contents: list[PosterDetections] | None = None,
        train_evidence: dict[str, np.ndarray] | None = None,
        dask_scheduler: str | None = None,
    ) -> None:
        self.model, self.recipe, self.device, self.dask_scheduler = model, recipe, device, dask_scheduler
        self.labels = labels
        # What the networks learn, float32 (N, genres) in [0, 1].
        self.targets = labels
        self.inputs = Inputs(model, posters, device, recipe.frozen_blocks)
        self.train_rows, self.validation_rows, self.test_rows = (np.flatnonzero(splits == split) for split in SPLITS)
        # Which of the training posters the history's scores are over: the same at each epoch, evenly spaced.
        self.scored = np.linspace(0, len(self.train_rows) - 1, min(SCORED, len(self.train_rows))).astype(int)
        self.history: list[dict[str, Any]] = []
        # The best epoch's weights, empty where the probe alone is best, and logits, float32 (validation posters, genres).
        self.best: list[dict[str, Tensor]] = []
        self.best_logits: np.ndarray | None = None
        # Out-of-fold logits for training posters of the parts that are not trained here, and how these parts add up.
        self.train_evidence = dict(train_evidence or {})
        self.stack = self._fit_stack()
        # Logits for validation posters of the same parts.
        self.contents = contents
        self.evidence = evidence_of_detections(model, self._contents_of(self.validation_rows))
        # The text network's logits for training posters, which it was trained on: for their scores only.
        self.text_of_train: dict[str, np.ndarray] = {}
        steps = recipe.epochs * len(batch_starts(len(self.train_rows), recipe.batch_size))
        self.learners = [
            Learner(network, processes.distribute(network), *build_optimizer(network, recipe, steps)) for network in model.networks
        ]

    @cached_property
    def columns(self) -> np.ndarray:
        """The genres that macro scores are over, int (genres,)."""
        # Imported here, as it imports scikit-learn, for which the first training step need not wait.
        from poster_genres.scores import scored_genres

        return scored_genres(self.labels[self.validation_rows], self.labels[self.test_rows])

    def _contents_of(self, rows: np.ndarray) -> list[PosterDetections] | None:
        return None if self.contents is None else [self.contents[row] for row in rows]

    def fine_tune_text(self, seed: int) -> None:
        """Fine-tune a sentence model on the posters' text, where there are words, enough posters for a stack, and epochs."""
        contents, recipe = self._contents_of(self.train_rows), self.recipe
        if contents is None or self.model.words is None or self.stack is None or not recipe.text_learning_rate or not recipe.epochs:
            return
        tuned = None
        if processes.rank() == 0:
            labels = self.labels[self.train_rows]
            tuned = fine_tune(contents, labels, recipe.text_learning_rate, seed, self.device)
        self.use_text(*processes.broadcast(tuned))

    def use_text(self, network: TextNetwork, of_train: np.ndarray) -> None:
        """Make this network, which is not trained further, a part of the model; its logits for training posters are these."""
        self.model.text = network
        self.text_of_train["text"] = of_train
        self.evidence["text"] = network.logits(self._contents_of(self.validation_rows) or [])

    def start_from_probe(self) -> None:
        """Fit a linear probe on the features of the pretrained network: epoch 0 of metrics/history.csv.

        The networks' heads start from its weights, and the probe itself is a part of the model beside the networks.
        """
        start = time.perf_counter()
        probe = copy.deepcopy(self.model.networks[0])
        features = {}
        for split, rows in (("train", self.train_rows), ("validation", self.validation_rows)):
            shard = self.inputs.features(processes.shard(rows), self.recipe.epochs > 0, self.dask_scheduler)
            features[split] = torch.from_numpy(processes.all_gather_rows(shard.transpose(0, 1).numpy())).transpose(0, 1)
        train_labels, validation_labels = (torch.from_numpy(self.labels[rows]) for rows in (self.train_rows, self.validation_rows))
        # As in the model: without `flip` it sees no mirror image.
        seen = {split: views[: 2 if self.model.flip else 1].mean(dim=0) for split, views in features.items()}
        best_loss, best_decay = math.inf, 0.0
        for decay in DECAYS:
            weight, bias = fit_logistic(features["train"].flatten(0, 1), train_labels.repeat(2, 1), decay)
            logits = seen["validation"] @ weight.T + bias
            loss = float(binary_cross_entropy_with_logits(logits, validation_labels))
            if loss >= best_loss:
                break
            best_loss, best_decay, best_weight, best_bias = loss, decay, weight, bias
        for network in (probe, *self.model.networks):
            set_head(network, best_weight, best_bias)
        # Logits for training posters, out of fold.
        logits = torch.empty_like(train_labels)
        for fitted, predicted in folds(len(train_labels)):
            of_fold = features["train"][:, fitted]
            weight, bias = fit_logistic(of_fold.flatten(0, 1), train_labels[fitted].repeat(2, 1), best_decay)
            logits[predicted] = seen["train"][predicted] @ weight.T + bias
        self.train_evidence["probe"] = logits.numpy()
        self.use_probe(probe, (seen["validation"] @ best_weight.T + best_bias).numpy())
        seconds = time.perf_counter() - start
        self.history.append(
            {
                "epoch": 0,
                **self._score_train(self.fusion(self.evidence), {}),
                **self._score_validation(self.evidence),
                "learning_rate": 0.0,
                "seconds": seconds,
                "posters_per_second": len(self.train_rows) / seconds,
            }
        )

    def _fit_stack(self) -> Fusion | None:
        if not self.train_evidence or len(self.train_rows) < STACKED:
            return None
        return fit_stack(self.train_evidence, self.labels[self.train_rows])

    def use_probe(self, probe: Network, of_validation: np.ndarray) -> None:
        """Make this network, which is not trained further, a part of the model and of the targets.

        Its logits for training posters, out of fold, are in `train_evidence`; these are those for validation posters.
        """
        self.model.probe = probe
        self.evidence["probe"] = of_validation
        self.stack = self._fit_stack()
        if self.stack is not None:
            probabilities = expit(self.stack.logits(self.train_evidence))
            self.targets = self.labels.copy()
            self.targets[self.train_rows] += DISTILLATION * (probabilities - self.labels[self.train_rows])

    def _logits(self, networks: list[Network], rows: np.ndarray, name: str) -> np.ndarray:
        """The mean of the networks' logits for posters, float32 (rows, genres)."""
        rows = processes.shard(rows)
        logits = np.empty((len(rows), len(self.model.genres)), np.float32)
        for network in networks:
            network.eval()
        with torch.inference_mode(), autocast(self.device), progress(name, len(rows), leave=False) as bar:
            for few in micro_batches(len(rows), self.device):
                views = self.inputs.views(rows[few])[: 2 if self.model.flip else 1]
                logits[few] = average_logits(networks, views)
                bar.update(len(rows[few]))
        return processes.all_gather_rows(logits)

    def _score_train(self, fusion: Fusion, networks: dict[str, np.ndarray]) -> dict[str, float]:
        """The scores of the whole model on the training posters of `scored`, as they are: not augmented.

        What words, objects and the probe say of them is out of fold; networks and fine-tuned text were trained on them.
        """
        others = self.train_evidence | self.text_of_train
        evidence = networks | {part: logits[self.scored] for part, logits in others.items()}
        labels = self.labels[self.train_rows[self.scored]]
        # Of few posters, as in a tiny data set, none may have one of these genres.
        columns = self.columns[labels[:, self.columns].any(axis=0)]
        return score_epoch("train", labels, fusion.logits(evidence), columns)

    def _score_validation(self, evidence: dict[str, np.ndarray]) -> dict[str, float]:
        """The validation scores of the whole model: stacking weights are fitted in folds, and the scores are out of fold."""
        if not all(np.isfinite(logits).all() for logits in evidence.values()):
            raise diverged()
        return score_epoch("validation", self.labels[self.validation_rows], self.validation_logits(evidence), self.columns)

    def validation_logits(self, evidence: dict[str, np.ndarray]) -> np.ndarray:
        """The whole model's logits, given each part's, float32 (validation posters, genres); the fusion is fitted in folds."""
        return out_of_fold_logits(self.stack, evidence, self.labels[self.validation_rows])

    def fusion(self, evidence: dict[str, np.ndarray]) -> Fusion:
        """How a model's parts add up, given their logits for validation posters."""
        return fit_fusion(self.stack, evidence, self.labels[self.validation_rows])

    def best_evidence(self) -> dict[str, np.ndarray]:
        """The logits of each part of the model at its best epoch, float32 (validation posters, genres)."""
        networks = {} if self.best_logits is None else {"networks": self.best_logits}
        return networks | self.evidence

    def run_epoch(self) -> dict[str, Any]:
        """Train each network for one epoch and score the model on training and validation posters: a row of metrics/history.csv."""
        epoch = self.epoch + 1
        start = time.perf_counter()
        processes.broadcast_random_state()
        learning_rate = self.learners[0].optimizer.param_groups[0]["lr"]
        self._train_epoch(f"epoch {epoch}/{self.recipe.epochs}")
        train_seconds = time.perf_counter() - start
        logits = self._logits(self.model.networks, self.validation_rows, "validation")
        evidence = {"networks": logits} | self.evidence
        of_validation = self._score_validation(evidence)
        of_train = {"networks": self._logits(self.model.networks, self.train_rows[self.scored], "training posters")}
        row = self._score_train(self.fusion(evidence), of_train) | of_validation
        if row["validation_loss"] < self.best_loss():
            self.best = [
                {key: value.detach().clone() for key, value in network.state_dict().items()} for network in self.model.networks
            ]
            self.best_logits = logits
        self.history.append(
            {
                "epoch": epoch,
                **row,
                "learning_rate": learning_rate,
                "seconds": time.perf_counter() - start,
                "posters_per_second": len(self.learners) * len(self.train_rows) / train_seconds,
            }
        )
        return self.history[-1]

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    def best_loss(self) -> float:
        """The lowest validation cross-entropy so far; infinite before the first epoch."""
        return min((row["validation_loss"] for row in self.history), default=math.inf)

    def epochs_since_best(self) -> int:
        losses = [row["validation_loss"] for row in self.history]
        return len(losses) - 1 - losses.index(min(losses))

    def _train_epoch(self, name: str) -> None:
        """Train each network once on all training posters."""
        with progress(name, len(self.train_rows) * len(self.learners), leave=False) as bar:
            for learner in self.learners:
                learner.network.train()
                for batch in shuffled_batches(self.train_rows, self.recipe.batch_size):
                    self._step(learner, batch)
                    bar.update(len(batch))

    def _step(self, learner: Learner, batch: np.ndarray) -> None:
        """Take a training step on a batch of rows.

        On a CPU gradients are accumulated over micro-batches, which take less memory, unless the network uses statistics of the
        batch.
        """
        transforms = random_transforms(len(batch), self.recipe.flip, self.recipe.crop, self.inputs.windows)
        rows = processes.shard(batch)
        transforms = None if transforms is None else processes.shard(transforms)
        accumulate = self.device.type == "cpu" and processes.world_size() == 1 and not uses_batch_statistics(learner.network)
        learner.optimizer.zero_grad()
        for few in micro_batches(len(rows), self.device) if accumulate else [slice(None)]:
            inputs = self.inputs.augmented(rows[few], None if transforms is None else transforms[few])
            with autocast(self.device):
                of_few = learner.distributed(inputs).float()
            targets = torch.from_numpy(self.targets[rows[few]]).to(self.device)
            # Gradients are averaged over the processes, whose shards may differ by one poster.
            share = len(of_few) * processes.world_size() / len(batch)
            (binary_cross_entropy_with_logits(of_few, targets) * share).backward()
        learner.optimizer.step()
        if learner.scheduler is not None:
            learner.scheduler.step()

    def finish(self) -> None:
        """Give the model's networks the weights of the best epoch; where that is epoch 0, only the probe remains."""
        if not self.best:
            self.model.networks.clear()
        for network, weights in zip(self.model.networks, self.best, strict=True):
            network.load_state_dict(weights)

    def state(self) -> dict[str, Any]:
        """All that is needed to resume from here, for `load`."""
        return {
            "learners": [learner.state() for learner in self.learners],
            "text": None if self.model.text is None else self.model.text.state(),
            "text of train": {part: torch.from_numpy(logits) for part, logits in self.text_of_train.items()},
            "probe": None if self.model.probe is None else self.model.probe.state_dict(),
            "probe out of fold": None if self.model.probe is None else torch.from_numpy(self.train_evidence["probe"]),
            "probe of validation": None if self.model.probe is None else torch.from_numpy(self.evidence["probe"]),
            "best": self.best,
            "best logits": None if self.best_logits is None else torch.from_numpy(self.best_logits),
            "history": self.history,
            "random": torch.get_rng_state(),
            "random on the device": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Resume from a state; the epochs that follow are the same as without an interruption."""
        for learner, learner_state in zip(self.learners, state["learners"], strict=True):
            learner.load(learner_state)
        if state["text"] is not None:
            self.use_text(TextNetwork.load(state["text"]), state["text of train"]["text"].numpy())
        if state["probe"] is not None:
            probe = copy.deepcopy(self.model.networks[0])
            probe.load_state_dict(state["probe"])
            self.train_evidence["probe"] = state["probe out of fold"].numpy()
            self.use_probe(probe, state["probe of validation"].numpy())
        self.best, self.history = state["best"], state["history"]
        self.best_logits = None if state["best logits"] is None else state["best logits"].numpy()
        torch.set_rng_state(state["random"])
        if state["random on the device"] is not None:
            torch.cuda.set_rng_state(state["random on the device"])


def set_head(network: Network, weight: Tensor, bias: Tensor) -> None:
    """Set the weights (genres, features) and biases (genres,) of a network's last layer."""
    last = network.head[-1]  # type: ignore[index]
    with torch.no_grad():
        last.weight.copy_(weight)
        last.bias.copy_(bias)


def diverged() -> InputError:
    return InputError("params.yaml: learning_rate: training diverged, the network's outputs are not finite; try a tenth of it")


def score_epoch(split: str, labels: np.ndarray, logits: np.ndarray, columns: np.ndarray) -> dict[str, float]:
    """The scores of one split for a row of metrics/history.csv, macro scores over the genres `columns`.

    Posters are ranked by logits, as probabilities near 1 round to the same number.

    Raises
    ------
    InputError
        A logit is not finite.
    """
    from poster_genres import scores

    if not np.isfinite(logits).all():
        raise diverged()
    probabilities = expit(logits)
    return {
        f"{split}_loss": scores.binary_cross_entropy(labels, probabilities),
        f"{split}_accuracy": float(((probabilities >= 0.5) == (labels > 0)).mean()),
        f"{split}_macro_average_precision": scores.macro_average_precision(labels, logits, columns),
        f"{split}_micro_average_precision": scores.micro_average_precision(labels, logits),
    }
