"""Fine-tuning a sentence model on the text of posters."""

import copy
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import binary_cross_entropy_with_logits, normalize
from torch.optim.lr_scheduler import OneCycleLR

from poster_genres.devices import autocast
from poster_genres.mini_lm import LENGTH, MAX_TOKENS, empty_encoder, mini_lm
from poster_genres.objects import PosterDetections, text_of
from poster_genres.progress import progress
from poster_genres.sentences import SentenceModel
from poster_genres.words import MEANING_C, fit_meaning, quantise

# Chosen by cross-validation over 3,000 posters; docs/results.md has what else was tried. More epochs overfit, the less so the more
# lines and tokens are left out, at random, each time that a poster is seen.
EPOCHS = 4
BATCH_SIZE = 32
DROPPED_LINES = 0.4
DROPPED_TOKENS = 0.15
WEIGHT_DECAY = 0.01
HEAD_LEARNING_RATE = 0.001
MAX_NORM = 1.0  # of the gradient
PARTS_AT_ONCE = 1024  # of words, filled up to the longest text: on a CPU as fast as more, in less memory
HEAD = ("weights", "offset")
_MERGING = Lock()


@dataclass
class TextNetwork:
    """MiniLM, fine-tuned, and a linear layer.

    Attributes
    ----------
    changes : what fine-tuning added to the encoder's weights, by their names: matrices as int8 levels and float32 scales, one for
        each row, whose product they are, at a fourth of the size; vectors as float32
    weights : of the linear layer, float32 (`mini_lm.LENGTH`, genres)
    offset : the mean logits of training posters with text, float32 (genres,)
    """

    changes: dict[str, tuple[np.ndarray, np.ndarray] | np.ndarray]
    weights: np.ndarray
    offset: np.ndarray
    _encoder: nn.TransformerEncoder | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def genres(self) -> int:
        return len(self.offset)

    @property
    def encoder(self) -> nn.TransformerEncoder:
        """The fine-tuned layers, in evaluation mode; made once. Raises InputError where MiniLM is not installed."""
        # Threads that predict ask at the same time.
        with _MERGING:
            if self._encoder is None:
                self._encoder = self._merge()
            return self._encoder

    def _merge(self) -> nn.TransformerEncoder:
        encoder = copy.deepcopy(mini_lm().encoder)
        state = encoder.state_dict()
        for name, change in self.changes.items():
            state[name] = state[name] + torch.from_numpy(change[0] * change[1][:, None] if isinstance(change, tuple) else change)
        encoder.load_state_dict(state)
        return encoder

    def sentence_model(self) -> SentenceModel:
        """MiniLM with these layers in place of its own."""
        model = copy.copy(mini_lm())
        model.encoder = self.encoder
        return model

    def logits(self, contents: list[PosterDetections]) -> np.ndarray:
        """The logits of posters, float32 (posters, genres): 0 without text; the mean over training posters with text is 0, too."""
        has_text = np.array([bool(text_of(content.objects).strip()) for content in contents], bool)[:, None]
        return np.asarray(has_text * (embed_posters(self.encoder, contents) @ self.weights - self.offset), np.float32)

    def by_object(self, content: PosterDetections) -> np.ndarray:
        """Each detection's contribution to `logits`, float32 (objects, genres), in proportion to the length of its text; their sum
        minus the offset are the logits."""
        lengths = np.array([len(detection.text) for detection in content.objects])
        total = self.logits([content])[0] + self.offset
        return np.asarray(np.outer(lengths / max(1, lengths.sum()), total), np.float32)

    def state(self) -> dict[str, Any]:
        """Plain values and tensors for the model's file; `TextNetwork.load` reads them."""
        changes = {
            name: list(map(torch.from_numpy, change)) if isinstance(change, tuple) else torch.from_numpy(change)
            for name, change in self.changes.items()
        }
        return {"changes": changes} | {name: torch.from_numpy(getattr(self, name)) for name in HEAD}

    @classmethod
    def load(cls, state: dict[str, Any]) -> "TextNetwork":
        """The network of a file's values and tensors. Raises ValueError where they do not fit each other."""
        changes = {
            name: tuple(tensor.numpy() for tensor in change) if isinstance(change, list) else change.numpy()
            for name, change in state["changes"].items()
        }
        network = cls(changes, *(state[name].numpy() for name in HEAD))
        expected = {name: tuple(value.shape) for name, value in empty_encoder().state_dict().items()}
        shapes = {name: change[0].shape if isinstance(change, tuple) else change.shape for name, change in changes.items()}
        rows_have_scales = all(
            scale.shape == levels.shape[:1] for levels, scale in (c for c in changes.values() if isinstance(c, tuple))
        )
        head_fits = network.weights.shape == (LENGTH, network.genres) and network.offset.ndim == 1
        if shapes != expected or not rows_have_scales or not head_fits:
            raise ValueError("its text network's parts do not fit each other")
        return network


@dataclass(frozen=True)
class Lines:
    """A poster's text as numbers of tokens: those of each line, int64 (length,), and what is before and after a text."""

    tokens: list[np.ndarray]
    first: int
    last: int

    def sample(self, random: np.random.Generator) -> list[int]:
        """The text without random lines and tokens; with all lines where none would be left."""
        parts = [line[random.random(len(line)) >= DROPPED_TOKENS] for line in self.tokens]
        kept = [part for part in parts if random.random() >= DROPPED_LINES] or parts
        return [self.first, *np.concatenate(kept)[: MAX_TOKENS - 2].tolist(), self.last]


def lines_of(content: PosterDetections) -> Lines:
    """The lines of a poster that has text."""
    tokenizer = mini_lm().tokenizer
    texts = [line for line in text_of(content.objects).split("\n") if line.strip()]
    tokens = [np.array(tokenizer.encode(line, add_special_tokens=False).ids, np.int64) for line in texts]
    first, last = mini_lm().tokens("")
    return Lines(tokens, first, last)


def embed_batch(encoder: nn.Module, texts: list[list[int]], device: torch.device) -> Tensor:
    """The embeddings of texts, given as numbers of tokens: float32 (texts, `mini_lm.LENGTH`), of length one."""
    tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    present = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
        present[row, : len(text)] = True
    x, present = mini_lm().inputs(tokens).to(device), present.to(device)
    outputs = encoder(x, src_key_padding_mask=~present).float() * present[..., None]
    return normalize(outputs.sum(dim=1) / present.sum(dim=1, keepdim=True), dim=1)


def embed_posters(encoder: nn.Module, contents: list[PosterDetections]) -> np.ndarray:
    """The embedding of each poster's text, float32 (posters, `mini_lm.LENGTH`), of length one; zeros without text."""
    texts = [text_of(content.objects) for content in contents]
    tokens = {row: mini_lm().tokens(text) for row, text in enumerate(texts) if text.strip()}
    rows = sorted(tokens, key=lambda row: len(tokens[row]))
    embeddings = np.zeros((len(contents), LENGTH), np.float32)
    with torch.inference_mode(), progress("text", len(rows), leave=False) as bar:
        for start in range(0, len(rows), BATCH_SIZE):
            batch = rows[start : start + BATCH_SIZE]
            embeddings[batch] = embed_batch(encoder, [tokens[row] for row in batch], torch.device("cpu")).numpy()
            bar.update(len(batch))
    return embeddings


def batches_of_like_length(texts: list[list[int]], random: np.random.Generator) -> list[np.ndarray]:
    """Batches of rows, in random order. Each has texts of about the same length, as the shorter ones are filled up; random texts
    that are too many for whole batches are left out."""
    count = max(1, len(texts) // BATCH_SIZE)
    rows = random.permutation(len(texts))[: max(BATCH_SIZE, count * BATCH_SIZE)]
    rows = rows[np.argsort([len(texts[row]) for row in rows], kind="stable")]
    batches = np.array_split(rows, count)
    return [batches[i] for i in random.permutation(count)]


def fine_tune(
    contents: list[PosterDetections], labels: np.ndarray, learning_rate: float, seed: int, device: torch.device
) -> tuple[TextNetwork, np.ndarray]:
    """Fine-tune MiniLM, starting from logistic regressions on its embeddings.

    With AdamW and one cycle of the learning rate (Smith 2018, arXiv:1803.09820). Its random numbers are its own, so that those of
    other networks stay the same.

    Parameters
    ----------
    contents : the detections on each training poster
    labels : float32 (posters, genres), 0 or 1
    learning_rate : the highest one, of the encoder

    Returns
    -------
    The network, and its logits for these posters, float32 (posters, genres).
    """
    from scipy.special import logit

    read = [row for row, content in enumerate(contents) if text_of(content.objects).strip()]
    lines, truth = [lines_of(contents[row]) for row in read], torch.from_numpy(labels[read])
    start = mini_lm().encoder
    encoder = copy.deepcopy(start).to(device)
    at_start = embed_posters(start, contents)
    first_weights = fit_meaning(at_start, labels)
    weights = torch.tensor(first_weights, device=device, requires_grad=True)
    bias = logit(np.clip(labels.mean(axis=0), 1e-4, 1 - 1e-4)) - (at_start[read] @ first_weights).mean(axis=0)
    biases = torch.tensor(bias, dtype=torch.float32, device=device, requires_grad=True)
    body = list(encoder.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": body, "weight_decay": WEIGHT_DECAY}, {"params": [weights, biases], "weight_decay": 0.0}],
        fused=True,
    )
    rates, steps = [learning_rate, HEAD_LEARNING_RATE], EPOCHS * max(1, len(read) // BATCH_SIZE)
    schedule = OneCycleLR(optimizer, rates, total_steps=max(3, steps), pct_start=max(0.25, 2 / max(3, steps)))
    random = np.random.default_rng(seed)
    encoder.train()
    with progress("text network", steps, unit=" batches", leave=False) as bar:
        for _ in range(EPOCHS):
            texts = [poster.sample(random) for poster in lines]
            for rows in batches_of_like_length(texts, random):
                optimizer.zero_grad()
                longest = max(len(texts[row]) for row in rows)
                at_once = max(1, PARTS_AT_ONCE // longest) if device.type == "cpu" else len(rows)
                for few in np.split(rows, range(at_once, len(rows), at_once)):
                    # torch's other attention is made for longer texts: with it, a step of such short ones takes half as long again.
                    with autocast(device), sdpa_kernel(SDPBackend.MATH):
                        embeddings = embed_batch(encoder, [texts[row] for row in few], device)
                    logits = embeddings @ weights + biases
                    targets = truth[few].to(device)
                    (binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(rows)).backward()
                (weights.square().sum() / (2 * MEANING_C * len(read))).backward()
                nn.utils.clip_grad_norm_(body, MAX_NORM)
                optimizer.step()
                schedule.step()
                bar.update()
    network = TextNetwork(
        changes_between(start, encoder.cpu()), weights.detach().cpu().numpy(), np.zeros(labels.shape[1], np.float32)
    )
    of_train = network.logits(contents)
    network.offset = of_train[read].mean(axis=0)
    of_train[read] -= network.offset
    return network, of_train


def changes_between(start: nn.Module, end: nn.Module) -> dict[str, tuple[np.ndarray, np.ndarray] | np.ndarray]:
    """`TextNetwork.changes` from one encoder to another."""
    changes: dict[str, tuple[np.ndarray, np.ndarray] | np.ndarray] = {}
    with torch.no_grad():
        for (name, before), after in zip(start.state_dict().items(), end.state_dict().values(), strict=True):
            change = (after - before).numpy()
            changes[name] = quantise(change) if change.ndim > 1 else change
    return changes
