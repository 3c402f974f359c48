"""What is exported to ONNX predicts what the model does."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from poster_genres.fusion import Fusion, fit_changes
from poster_genres.model import Model, predict_probabilities
from poster_genres.network import find_architecture
from poster_genres.object_model import fit_objects
from poster_genres.objects import Detection, text_of, title_of
from poster_genres.text_network import fine_tune
from poster_genres.words import WORDS, fit_words
from stages.export import export
from tests.conftest import run, stage, with_sentences

GENRES = ["Comedy", "Horror", "Action & Adventure"]
HEIGHT, WIDTH = 97, 83
TEXTS = ["Noël à la PLAGE\nun été", "the night   of the\ndead dead DEAD", "I fell in\nlove", "Öde Nächte"]


def make_model(architecture: str, with_words: bool) -> Model:
    """A model with random weights, and words and objects fitted on a few."""
    record = find_architecture(architecture)
    torch.manual_seed(0)
    # An ensemble, or a network beside its probe: of a large network, more take torch's exporter minutes.
    networks = [record.build(len(GENRES), HEIGHT, WIDTH) for _ in range(1 if record.load_pretrained else 2)]
    probe = record.build(len(GENRES), HEIGHT, WIDTH) if record.load_pretrained else None
    # As deep networks begin in torch, they say nearly the same of every image.
    for network in [*networks, *([] if probe is None else [probe])]:
        for parameter in network.parameters():
            if parameter.dim() > 1:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    words, objects, parts = None, None, ["networks"] if probe is None else ["networks", "probe"]
    if with_words:
        found = with_sentences([[lettering(text), Detection("cat", i / 80, 0, 0, 1, 1)] for i, text in enumerate(TEXTS * 20)])
        labels = np.random.default_rng(0).integers(0, 2, (len(found), len(GENRES))).astype(np.float32)
        words, objects = fit_words(found, labels), fit_objects(found, labels, ["cat"])
        parts += [*WORDS, "objects"]
    rng = np.random.default_rng(1)
    return Model(
        f"two_stream/{architecture}" if with_words else architecture,
        GENRES,
        HEIGHT,
        WIDTH,
        list(record.preprocessing.mean),
        list(record.preprocessing.std),
        networks,
        [0.3] * len(GENRES),
        probe=probe,
        words=words,
        objects=objects,
        classes=["cat"] if with_words else [],
        fusion=Fusion(
            parts,
            0.6 * np.eye(len(GENRES)) + rng.normal(0, 0.1, (len(parts), len(GENRES), len(GENRES))),
            rng.normal(0, 1, len(GENRES)),
        ),
        flip=True,
        interpolation="bicubic",
        thresholds=[0.5] * len(GENRES),
    )


def lettering(text: str) -> Detection:
    return Detection("lettering", 1, 0, 0, 1, 1, text)


def load_example(folder: Path) -> ModuleType:
    """The example of an export, as a module."""
    spec = importlib.util.spec_from_file_location("example", folder / "predict.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["tutorial", "residual", *(pytest.param(name, marks=pytest.mark.long) for name in ("alexnet", "efficientnet_lite0"))],
)
def test_each_architecture_predicts_the_same(architecture: str, tmp_path: Path) -> None:
    model = make_model(architecture, with_words=False)
    for name in ("mine.txt", "sentence.onnx", "tokenizer.json"):
        (tmp_path / name).touch()
    assert export(model, tmp_path) == ["model.onnx", "predict.py"]
    # What an earlier model left does not stay.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "model.onnx", "predict.py"]
    posters = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    expected = predict_probabilities(model, posters, torch.device("cpu"))
    assert expected.std(axis=0).max() > 1e-3
    inputs = {"posters": posters, "words": np.zeros((3, len(GENRES)), np.float32)}
    (found,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fine_tuned", [pytest.param(False, marks=pytest.mark.long), True])
def test_words_say_the_same(tmp_path: Path, fine_tuned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fine_tuned:  # the exporter takes seconds a layer; the other test, run weekly, has all of them
        monkeypatch.setattr("poster_genres.mpnet.LAYERS", 2)
    model = make_model("residual", with_words=True)
    files = ["model.onnx", "predict.py", "words.npz", "sentence.onnx", "tokenizer.json"]
    if fine_tuned:
        assert model.words is not None
        assert model.fusion is not None
        contents = with_sentences([[lettering(text)] for text in TEXTS * 10])
        labels = np.random.default_rng(0).integers(0, 2, (len(contents), len(GENRES))).astype(np.float32)
        model.text, _ = fine_tune(contents, labels, 1e-3, 0, torch.device("cpu"))
        evidence = dict.fromkeys([*model.fusion.parts, "text"], labels)
        model.fusion = fit_changes(model.fusion, [{"text": model.fusion.matrix("meaning")}], evidence, labels)
        assert model.fusion.weight("text") > 0
        files += ["text.onnx", "text_tokenizer.json"]
    assert export(model, tmp_path) == files
    example = load_example(tmp_path)
    poster = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    seen = []
    small = Detection("lettering", 0.9, 0, 0, 1, 0.1, "a film by nobody")
    for text in [*TEXTS, "love", "zzz", " ", "the night " * 300]:
        detected = with_sentences([[lettering(text), small]])
        expected = predict_probabilities(model, poster, torch.device("cpu"), detected=detected)
        words = example.words_logits(text_of(detected[0].objects), title_of(detected[0].objects))
        (found,) = session.run(None, {"posters": poster, "words": words})
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=text[:20])
        seen.append(expected)
    assert np.std(seen, axis=0).max() > 1e-3


@pytest.mark.slow
def test_the_example_needs_onnxruntime_numpy_and_pillow_alone(finished: Path, tmp_path: Path) -> None:
    said = stage("export", "--model", finished / "models" / "model.pt", "--folder", tmp_path / "export", cwd=finished).stdout
    assert said == f"{tmp_path}/export: model.onnx, predict.py; try `python {tmp_path}/export/predict.py poster.jpg`\n"
    content = next((finished / "data" / "sample" / "posters").rglob("*.jpg"))
    # Of other modes and sizes than the sample has.
    save: dict[str, Callable[[Image.Image], Image.Image]] = {
        "a.jpg": lambda image: image,
        "b.jpg": lambda image: image.resize((900, 1400)),
        "c.png": lambda image: image.convert("RGBA").rotate(20, fillcolor=(0, 0, 0, 0)),
        "d.png": lambda image: image.convert("L"),
        "e.png": lambda image: Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 250),
    }
    for name, change in save.items():
        with Image.open(content) as image:
            change(image).save(tmp_path / name)
    predicted = map(json.loads, stage("predict", *map(tmp_path.joinpath, save), "--json", cwd=finished).stdout.splitlines())
    missing = "import sys; sys.modules.update(dict.fromkeys(('torch', 'scipy', 'sklearn', 'pandas', 'mlflow', 'poster_genres')))"
    for name, expected in zip(save, predicted, strict=True):
        program = f"{missing}; import runpy; runpy.run_path('export/predict.py', run_name='__main__')"
        lines = run(sys.executable, "-c", program, name, cwd=tmp_path).stdout.splitlines()
        found = {match[1]: float(match[2]) for line in lines if (match := re.fullmatch(r"(.+) \(([\d.]+)\)( \*)?", line))}
        assert found == pytest.approx(expected["genres"], abs=1e-3)
        assert {line.partition(" (")[0] for line in lines if line.endswith("*")} == set(expected["verdict"])
    refused = run(sys.executable, "export/predict.py", cwd=tmp_path, fails=True)
    assert (refused.returncode, refused.stderr) == (
        1,
        'name a poster: python export/predict.py poster.jpg ["The words on it" ["The title"]]\n',
    )
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    refused = run(sys.executable, "export/predict.py", "mine.txt", cwd=tmp_path, fails=True)
    assert (refused.returncode, refused.stderr) == (1, "mine.txt: cannot be read: cannot identify image file 'mine.txt'\n")
