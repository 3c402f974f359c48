"""Sentence models: what the words on a poster mean, as an embedding."""

from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Loaded = TypeVar("Loaded")
_LOADING = Lock()
LOADED: dict[type, Any] = {}


class SentenceModel:
    """A tokenizer, and a network that gives texts embeddings.

    Attributes
    ----------
    weights : of the network, by its authors' names
    max_tokens : the longest text, in tokens; what is longer is cut
    """

    def __init__(self, tokenizer: bytes, weights: "dict[str, Tensor]", max_tokens: int) -> None:
        from tokenizers import Tokenizer

        self.weights, self.max_tokens = weights, max_tokens
        self.tokenizer = Tokenizer.from_buffer(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)

    def tokens(self, text: str) -> list[int]:
        """The numbers of a text's tokens; lines are taken for one sentence."""
        return list(self.tokenizer.encode(" ".join(text.split())).ids)

    def forward(self, tokens: "Tensor") -> "Tensor":
        """The embedding, float32 (length of an embedding,), of length one, for the numbers of tokens, int64 (length,)."""
        raise NotImplementedError

    def embed(self, text: str) -> np.ndarray:
        """The embedding of a text, float32 (length of an embedding,), of length one.

        A text at a time, as the last digits would depend on the others in a batch.
        """
        import torch

        with torch.inference_mode():
            embedding: np.ndarray = self.forward(torch.tensor(self.tokens(text))).numpy()
            return embedding


def load_once(kind: type[Loaded]) -> Loaded:
    """A sentence model of a class, loaded once a process, although threads may ask at the same time."""
    with _LOADING:
        if kind not in LOADED:
            LOADED[kind] = kind()
        model: Loaded = LOADED[kind]
        return model
