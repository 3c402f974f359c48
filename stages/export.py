"""Export a trained model to ONNX, with an example that predicts without this project: `python -m stages.export`.

In: models/model.pt, or the model that --model names. Out, in the folder export: model.onnx (pixels to probabilities, with the
networks, the linear probe, the mirror image and the weights of the parts), for two_stream/… words.npz (the weights of letters,
meaning and title), sentence.onnx and tokenizer.json (the embedding that meaning and title are read from), text.onnx and
text_tokenizer.json where the model has a fine-tuned sentence model, and predict.py, the example.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from poster_genres import errors

if TYPE_CHECKING:
    from torch import nn

    from poster_genres.model import Model
    from poster_genres.sentences import SentenceModel

FILES = ("model.onnx", "predict.py", "words.npz", "sentence.onnx", "text.onnx", "tokenizer.json", "text_tokenizer.json")
EXAMPLE = Path(__file__).parent.parent / "poster_genres" / "onnx_example.py"
# The version of ONNX's operators, which ONNX Runtime reads since 1.15.
OPSET = 18


def image_model(model: "Model") -> "nn.Module":
    """A model's image stream as a module.

    It maps posters, uint8 (N, height, width, 3), and what words add to the logits, float32 (N, genres), to probabilities,
    float32 (N, genres). Objects are taken for absent, as they would be on a poster without any.
    """
    import torch
    from torch import Tensor, nn

    from poster_genres.objects import PosterDetections

    assert model.fusion is not None
    fusion = model.fusion
    constant = fusion.intercepts
    if model.objects is not None:
        constant = constant + model.objects.logits([PosterDetections([], np.zeros(0), np.zeros(0))])[0] @ fusion.matrix("objects")

    class ImageModel(nn.Module):
        mean: Tensor
        std: Tensor
        constant: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.networks = nn.ModuleList(model.networks)
            self.probe = nn.ModuleList([] if model.probe is None else [model.probe])
            self.register_buffer("mean", torch.tensor(model.mean))
            self.register_buffer("std", torch.tensor(model.std))
            self.register_buffer("constant", torch.tensor(constant, dtype=torch.float32))
            for part in ("networks", "probe"):
                self.register_buffer(f"matrix_of_{part}", torch.tensor(fusion.matrix(part), dtype=torch.float32))

        def forward(self, posters: Tensor, words: Tensor) -> Tensor:
            pixels = ((posters.float() - self.mean) / self.std).permute(0, 3, 1, 2)
            views = [pixels, pixels.flip(3)] if model.flip else [pixels]
            logits = words + self.constant
            for part, networks in (("networks", self.networks), ("probe", self.probe)):
                if len(networks):
                    outputs = [network(view) for view in views for network in networks]
                    logits = logits + torch.stack(outputs).mean(dim=0) @ self.get_buffer(f"matrix_of_{part}")
            return torch.sigmoid(logits)

    return ImageModel().eval()


def sentence_module(model: "SentenceModel") -> "nn.Module":
    """A sentence model as a module: from token IDs, int64 (tokens,), to the embedding, float32 (length,)."""
    from torch import Tensor, nn

    class Sentence(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return model.forward(tokens)

    return Sentence().eval()


def write_onnx(
    module: "nn.Module", arguments: dict[str, Any], dynamic: dict[str, Any], output: str, path: Path, about: dict[str, Any]
) -> None:
    """Write a module to an ONNX file; `about` becomes the metadata `about`, as JSON."""
    import contextlib
    import io
    import logging
    import warnings

    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # The exporter prints its progress.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            kwargs=arguments,
            dynamic_shapes=dynamic,
            input_names=list(arguments),
            output_names=[output],
            opset_version=OPSET,
            dynamo=True,
        )
    assert program is not None
    program.model.metadata_props["about"] = json.dumps(about, ensure_ascii=False)
    program.save(path, external_data=False)


def export(model: "Model", folder: Path) -> list[str]:
    """Write the files of this stage's description to a folder, all or none, and remove those that an earlier model left there;
    returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        names = _write(model, Path(temporary))
        for name in names:
            Path(temporary, name).replace(folder / name)
    for name in set(FILES) - set(names):
        (folder / name).unlink(missing_ok=True)
    return names


def _write(model: "Model", folder: Path) -> list[str]:
    import torch

    from poster_genres.mini_lm import mini_lm
    from poster_genres.mpnet import mpnet
    from poster_genres.old_model import OldWords
    from poster_genres.words import WORDS

    torch.backends.mha.set_fastpath_enabled(False)  # it is one operation, which ONNX does not have
    assert model.fusion is not None
    about = {"genres": model.genres, "thresholds": model.thresholds, "height": model.height, "width": model.width}
    posters = torch.zeros(2, model.height, model.width, 3, dtype=torch.uint8)
    arguments = {"posters": posters, "words": torch.zeros(2, len(model.genres))}
    batch = {0: torch.export.Dim("count")}
    with torch.no_grad():
        write_onnx(
            image_model(model),
            arguments,
            {"posters": batch, "words": batch},
            "probabilities",
            folder / "model.onnx",
            about | {"interpolation": model.interpolation},
        )
    names = ["model.onnx", "predict.py"]
    shutil.copy(EXAMPLE, folder / "predict.py")
    if model.words is not None:
        words = model.words
        letters, meaning, title = (model.fusion.matrix(part) for part in WORDS)
        sentence_models: dict[str, tuple[str, SentenceModel]] = {
            "sentence.onnx": ("tokenizer.json", mini_lm() if isinstance(words, OldWords) else mpnet())
        }
        arrays: dict[str, Any] = {}
        if model.text is not None:
            sentence_models["text.onnx"] = ("text_tokenizer.json", model.text.sentence_model())
            text = model.fusion.matrix("text")
            arrays = {"text": np.float32(model.text.weights @ text), "text_offset": np.float32(model.text.offset @ text)}
        # Models of old files have no weights for titles, and perhaps a sentence model of another length.
        if words.title_weights.any():
            arrays |= {"title": np.float32(words.title_weights @ title), "title_offset": np.float32(words.title_offset @ title)}
        np.savez_compressed(
            folder / "words.npz",
            **arrays,
            vocabulary=np.array(words.vocabulary),
            frequencies=words.frequencies,
            letters=np.float32(words.weights @ letters),
            letters_offset=np.float32(words.offset @ letters),
            meaning=np.float32(words.sentence_weights @ meaning),
            meaning_offset=np.float32(words.sentence_offset @ meaning),
        )
        names.append("words.npz")
        for name, (tokenizer, sentence_model) in sentence_models.items():
            tokens = {"tokens": torch.tensor(sentence_model.tokens("this"))}
            dynamic = {"tokens": {0: torch.export.Dim("length", max=sentence_model.max_tokens)}}
            with torch.no_grad():
                write_onnx(sentence_module(sentence_model), tokens, dynamic, "embedding", folder / name, {})
            (folder / tokenizer).write_text(sentence_model.tokenizer.to_str(), encoding="utf-8")
            names += [name, tokenizer]
    return names


def main() -> None:
    parser = errors.Parser(prog="python -m stages.export", description="Export a trained model to ONNX.")
    parser.add_argument("--model", type=Path, help="the model file, or models:/… in MLflow (models/model.pt)")
    parser.add_argument("--folder", type=Path, default=Path("export"), help="where to write (export)")
    arguments = parser.parse_args()
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise errors.InputError("stages.export needs onnxscript: pip install onnxscript") from None
    import torch

    from poster_genres.model import load_model
    from poster_genres.prediction import choose_model

    names = export(load_model(choose_model(arguments.model), torch.device("cpu")), arguments.folder)
    print(f"{arguments.folder}: {', '.join(names)}; try `python {arguments.folder / 'predict.py'} poster.jpg`")


if __name__ == "__main__":
    errors.run(main)
