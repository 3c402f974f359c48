"""Detectors in ONNX files: small networks made here, decoded once more by plain loops, and the real YOLOX-Nano where it is."""

import json
import math
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import onnx
import pandas as pd
import pytest
import sklearn
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from poster_genres.detection import check_detectors, open_detector
from poster_genres.detectors.onnx import Detector, literal
from poster_genres.errors import InputError
from poster_genres.objects import Detection
from tests.conftest import ROOT, make_repository, run, set_parameters, stage

YOLOX_NANO = ROOT.parent / "shared" / "detectors" / "yolox_nano.onnx"
HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
CHINA = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"
NAME = "onnx/data/detectors/net.onnx"


@pytest.fixture
def yolox_nano() -> Path:
    """The real file beside the project."""
    if not YOLOX_NANO.is_file():
        pytest.skip("YOLOX-Nano (../shared/detectors/yolox_nano.onnx) is not on this machine")
    return YOLOX_NANO


@dataclass
class Network:
    """A network of three classes that sees colours: a class's probability is the square of a channel's mean in the cell.

    Attributes
    ----------
    layout : yolox, decoded (the same, with boxes in pixels), yolov5, yolov8, or final
    strides : of its maps
    masks : further values a box, which stand for an object's outline
    half : whether it takes and gives float16
    dynamic : whether its input says no size
    metadata : of the file
    """

    layout: str
    height: int = 64
    width: int = 96
    strides: tuple[int, ...] = (8, 16, 32)
    masks: int = 0
    half: bool = False
    dynamic: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(3)
        places = [
            (column, row, stride)
            for _ in range(3 if self.layout == "yolov5" else 1)
            for stride in self.strides
            for row in range(self.height // stride)
            for column in range(self.width // stride)
        ]
        self.places = places[:100] if self.layout == "final" else places
        # Each box is about its cell, and larger, so that neighbours overlap.
        self.boxes = np.array(
            [
                ((column + random.uniform(-0.2, 1.2)) * s, (row + random.uniform(-0.2, 1.2)) * s, *(random.uniform(2.5, 4, 2) * s))
                for column, row, s in self.places
            ]
        )
        self.objectness = random.uniform(0.7, 1, len(self.places))
        self.classes = random.integers(0, 3, len(self.places))

    def values(self) -> np.ndarray:
        """What the network says of the boxes, float32 (cells, 4)."""
        said = self.boxes.copy()
        if self.layout == "yolox":
            for i, (column, row, stride) in enumerate(self.places):
                x, y, width, height = self.boxes[i]
                said[i] = x / stride - column, y / stride - row, math.log(width / stride), math.log(height / stride)
        if self.layout == "final":
            for i, (x, y, width, height) in enumerate(self.boxes):
                said[i] = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        return said.astype(np.float32)

    def write(self, path: Path) -> Path:
        """The network as an ONNX file."""
        constants: list[onnx.TensorProto] = []

        def constant(value: Any, dtype: type = np.float32) -> str:
            name = f"constant{len(constants)}"
            constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
            return name

        def node(kind: str, *inputs: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(kind, inputs, [f"value{len(nodes)}"], **attributes))
            return f"value{len(nodes) - 1}"

        nodes: list[onnx.NodeProto] = []
        cells = len(self.places)
        pixels = node("Cast", "images", to=TensorProto.FLOAT)
        maps = [
            node("Reshape", node("AveragePool", pixels, kernel_shape=[s, s], strides=[s, s]), constant([1, 3, -1], np.int64))
            for s in self.strides
        ]
        scale = constant(1 / 255 if self.layout in ("yolox", "decoded") else 1)
        means = node("Mul", node("Concat", *maps * (3 if self.layout == "yolov5" else 1), axis=2), scale)
        colors = node("Mul", means, means)
        boxes, masks = constant(self.values()[None]), constant(np.full((1, cells, self.masks), 7))
        rows = node("Transpose", colors, perm=[0, 2, 1])
        if self.layout == "final":
            chosen = node("GatherElements", rows, constant(self.classes[None, :, None], np.int64), axis=2)
            output = node("Concat", boxes, chosen, constant(self.classes[None, :, None]), masks, axis=2)
        elif self.layout == "yolov8":
            output = node("Transpose", node("Concat", boxes, rows, masks, axis=2), perm=[0, 2, 1])
        else:
            output = node("Concat", boxes, constant(self.objectness[None, :, None]), rows, masks, axis=2)
        kind = TensorProto.FLOAT16 if self.half else TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", [output], ["output0"], to=kind))
        outputs = [helper.make_tensor_value_info("output0", kind, None)]
        if self.masks:
            nodes.append(helper.make_node("Identity", [constant(np.zeros((1, self.masks, 4, 4)))], ["output1"]))
            outputs.append(helper.make_tensor_value_info("output1", TensorProto.FLOAT, None))
        size: list[int | str] = ["batch", 3, "height", "width"] if self.dynamic else [1, 3, self.height, self.width]
        inputs = [helper.make_tensor_value_info("images", kind, size)]
        return save(path, nodes, inputs, outputs, constants, self.metadata)

    def found(self, image: Image.Image) -> tuple[list[Detection], int]:
        """What it should find, by plain loops; and how many boxes were dropped as the same."""
        yolox = self.layout in ("yolox", "decoded")
        scale = min(self.height / image.height, self.width / image.width)
        if yolox:
            width, height = int(image.width * scale), int(image.height * scale)
            left, top = 0, 0
        else:
            width, height = round(image.width * scale), round(image.height * scale)
            left, top = math.floor((self.width - width) / 2), math.floor((self.height - height) / 2)
        pixels = np.full((self.height, self.width, 3), 114.0)
        pixels[top : top + height, left : left + width] = cv2.resize(np.asarray(image), (width, height))
        number: Any = np.float16 if self.half else np.float64
        pixels = number(pixels / 255).astype(np.float64)
        positions = number(self.boxes).tolist()
        if yolox:
            pixels = pixels[:, :, ::-1]  # BGR
        names = self.names()
        boxes = []
        for i, (column, row, stride) in enumerate(self.places):
            cell = pixels[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            probabilities = [float(number(cell[:, :, channel].mean() ** 2)) for channel in range(3)]
            index = int(self.classes[i]) if self.layout == "final" else probabilities.index(max(probabilities))
            confidence = probabilities[index]
            if self.layout not in ("yolov8", "final"):
                confidence *= self.objectness[i]
            if confidence >= 0.3:
                x, y, w, h = positions[i]
                boxes.append((confidence, index, x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        boxes.sort(key=lambda box: -box[0])
        kept: list[tuple[Any, ...]] = []
        for box in boxes:
            if self.layout == "final" or all(box[1] != one[1] or overlap(box[2:], one[2:]) <= 0.5 for one in kept):
                kept.append(box)
        objects = []
        for confidence, index, *edges in kept:
            shares = [min(max((edges[k] - (left, top)[k % 2]) / (width, height)[k % 2], 0), 1) for k in range(4)]
            if shares[0] < shares[2] and shares[1] < shares[3]:
                objects.append(
                    Detection(names[index], confidence, shares[0], shares[1], shares[2] - shares[0], shares[3] - shares[1])
                )
        return objects, len(boxes) - len(kept)

    def names(self) -> list[str]:
        return list(literal(self.metadata["names"]).values()) if "names" in self.metadata else ["class 0", "class 1", "class 2"]


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    return both / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both)


def save(path: Path, nodes: Any, inputs: Any, outputs: Any, constants: Any = (), metadata: dict[str, str] | None = None) -> Path:
    """An ONNX file of a graph."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def colorful(width: int, height: int) -> Image.Image:
    """A picture of coloured fields; with noise, so that no two cells are the same."""
    random = np.random.default_rng(5)
    fields = np.kron(random.integers(60, 246, (6, 4, 3)), np.ones((math.ceil(height / 6), math.ceil(width / 4), 1)))
    return Image.fromarray((fields + random.integers(-9, 10, fields.shape)).astype(np.uint8)).crop((0, 0, width, height))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project's folder, to work in; what other tests loaded is forgotten."""
    monkeypatch.chdir(tmp_path)
    open_detector.cache_clear()
    return tmp_path / "data" / "detectors" / "net.onnx"


NAMES = {"names": "{0: 'red', 1: 'green', 2: 'blue'}"}
NETWORKS = {
    "YOLOX": Network("yolox"),
    "YOLOX, decoded": Network("decoded"),
    "YOLOX, four strides": Network("yolox", 128, 64, (8, 16, 32, 64), metadata=NAMES),
    "YOLOX, four strides, decoded": Network("decoded", 64, 128, (8, 16, 32, 64)),
    "YOLO v5": Network("yolov5"),
    "YOLO v5, four strides": Network("yolov5", 128, 128, (8, 16, 32, 64), metadata={"stride": "64", **NAMES}),
    "YOLO v5, outlines": Network("yolov5", masks=4, metadata=NAMES),
    "YOLO v8": Network("yolov8", metadata={"task": "detect", "imgsz": "[640, 640]", **NAMES}),
    "YOLO v8, outlines": Network("yolov8", masks=32, metadata={"task": "segment", **NAMES}),
    "YOLO v8, dynamic": Network("yolov8", dynamic=True, metadata={"imgsz": "[64, 96]", **NAMES}),
    "YOLO v8, half": Network("yolov8", half=True),
    "YOLO v10": Network("final", metadata=NAMES),
    "YOLO v11 with nms=True, outlines": Network("final", masks=32, metadata={"task": "segment", **NAMES}),
}


@pytest.mark.parametrize("size", [(200, 300), (451, 300), (40, 30)])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_boxes_are_those_of_plain_loops(here: Path, network: Network, size: tuple[int, int]) -> None:
    network.write(here)
    image = colorful(*size)
    expected, dropped = network.found(image)
    detector = open_detector(NAME)
    assert detector.classes == network.names()
    # Neither black nor the gray beside it is anything.
    (found, nothing) = detector.detect([image, Image.new("RGB", (30, 40))])
    assert nothing == []
    assert [one.confidence for one in found] == sorted((one.confidence for one in found), reverse=True)
    # By their boxes, as some are equally sure but for the last digit.
    found, expected = (sorted(objects, key=lambda one: (one.label, one[2:])) for objects in (found, expected))
    assert [one.label for one in found] == [one.label for one in expected]
    np.testing.assert_allclose([one[1:6] for one in found], [one[1:6] for one in expected], atol=2e-5)
    assert len(expected) > 3
    assert (dropped > 3) == (network.layout != "final")


def test_what_is_taken_where_the_file_does_not_say(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In an experiment in a temporary copy the file is the copy's, and this is the project's folder.
    monkeypatch.setenv("DVC_ROOT", "/nowhere")
    Network("yolov8", 640, 640, dynamic=True).write(here)
    detector = Detector(NAME)
    assert (detector.height, detector.width) == (640, 640)
    assert detector.classes == ["class 0", "class 1", "class 2"]


def test_names_become_plain_text(here: Path) -> None:
    Network("yolov8", metadata={"names": str({0: "a\x1b[2J\n\tb", 1: "\u202e", 2: "n" * 999})}).write(here)
    assert Detector(NAME).classes == ["a [2J b", "class 1", "n" * 200]
    # Two classes of one name are one; a list will do.
    Network("yolov8", metadata={"names": "['a', 'b', 'a']"}).write(here)
    assert Detector(NAME).classes == ["a", "b"]
    for text in ("(" * 100_000, "-" * 100_000 + "1", "1+" * 50_000 + "1", "{}" + " " * 200_000, "__import__('os')", "[", "\0"):
        assert literal(text) is None


def pointer(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")


def classifier(path: Path) -> None:
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    output = helper.make_tensor_value_info("classes", TensorProto.FLOAT, [1, 3, 1, 1])
    save(path, [helper.make_node("GlobalAveragePool", ["images"], ["classes"])], [image], [output])


def of_two(path: Path) -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("left", "right")]
    output = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 3, 8, 8])
    save(path, [helper.make_node("Add", ["left", "right"], ["sum"])], inputs, [output])


def identity(*size: int | str, kind: int = TensorProto.FLOAT) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = helper.make_tensor_value_info("images", kind, size)
        output = helper.make_tensor_value_info("output", kind, size)
        save(path, [helper.make_node("Identity", ["images"], ["output"])], [image], [output])

    return write


def in_two_files(path: Path) -> None:
    Network("yolox").write(path)
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    # Also where it would be looked for by default.
    shutil.copy(path.parent / "weights", "weights")


def changed(network: Network, **values: Any) -> Callable[[Path], None]:
    """Another network of the kind, with these attributes after all."""

    def write(path: Path) -> None:
        other = Network(network.layout, network.height, network.width, metadata=network.metadata)
        for key, value in values.items():
            setattr(other, key, value)
        other.write(path)

    return write


KINDS = "should be YOLOX, or a YOLO that finds boxes, as Ultralytics exports it"
ONE_PICTURE = "should take one picture, float or float16 [1, 3, height, width]"
V8, CELLS = Network("yolov8"), 126


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda path: None,
            "no such file; put it there, and `dvc add data/detectors/net.onnx` and commit it for queued experiments",
        ),
        (
            lambda path: path.mkdir(parents=True),
            "no such file; put it there, and `dvc add data/detectors/net.onnx` and commit it for queued experiments",
        ),
        (
            pointer,
            "not readable as an ONNX file: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "
            "Failed to load model because protobuf parsing failed.",
        ),
        (in_two_files, "keeps its weights in another file; export it, or save it by the package onnx, as one file"),
        (of_two, f"takes float [1, 3, 8, 8], float [1, 3, 8, 8]; {ONE_PICTURE}"),
        (identity(4, 3, 64, 64), f"takes float [4, 3, 64, 64]; {ONE_PICTURE}"),
        (identity(1, 64, 64, 3), f"takes float [1, 64, 64, 3]; {ONE_PICTURE}"),
        (identity(1, 3, 64, 64, kind=TensorProto.UINT8), f"takes uint8 [1, 3, 64, 64]; {ONE_PICTURE}"),
        (identity(1, 3, 16, 16), "takes pictures of [16, 16]; each side should be 32 to 4096 pixels"),
        (
            changed(V8, dynamic=True, metadata={"imgsz": "[64, '9']"}),
            "takes pictures of [64, '9']; each side should be 32 to 4096 pixels",
        ),
        (classifier, f"gives (1, 3, 1, 1) for a picture of 64 x 64; {KINDS}"),
        (identity(1, 3, 64, 96), f"gives (1, 3, 64, 96) for a picture of 64 x 96; {KINDS}"),
        (changed(V8, metadata={"task": "pose"}), "is for the task 'pose'; should be for detect or segment"),
        (changed(V8, metadata={"task": "obb\n"}), "is for the task 'obb'; should be for detect or segment"),
        (
            changed(V8, metadata={"names": "{0: 'red'}"}),
            "has 3 classes, and 1 names in its metadata; should be as many",
        ),
        (
            changed(V8, metadata={"names": "{1: 'red'}"}),
            "names in its metadata: \"{1: 'red'}\": should be {0: 'person', 1: 'bicycle', …}",
        ),
        (
            changed(V8, metadata={"names": "print()"}),
            "names in its metadata: 'print()': should be {0: 'person', 1: 'bicycle', …}",
        ),
        (
            changed(Network("final")),
            "has no names in its metadata, and gives numbers of classes; export it with Ultralytics, which adds them",
        ),
        (changed(Network("decoded"), objectness=np.ones(CELLS)), f"gives an objectness of 1 everywhere; {KINDS}"),
        (changed(Network("decoded"), objectness=np.full(CELLS, 1.5)), "gives confidences of 3.07e-06 to 1.5; should be in [0, 1]"),
    ],
)
def test_what_is_wrong_is_said(here: Path, write: Callable[[Path], Any], said: str) -> None:
    write(here)
    with pytest.raises(InputError) as error:
        Detector(NAME)
    assert str(error.value) == f"detectors: {NAME}: {said}"


def test_a_class_without_a_name_is_said(here: Path) -> None:
    Network("final", metadata={"names": "{0: 'red', 1: 'green'}"}).write(here)
    with pytest.raises(InputError) as error:
        Detector(NAME).detect([colorful(200, 300)])
    assert str(error.value) == f"detectors: {NAME}: found class 2, and has 2 names in its metadata; should be as many"


def test_packages_that_are_missing_are_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Network("yolox").write(here)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError) as error:
        Detector(NAME)
    packages = "needs onnxruntime and opencv-python-headless: pip install -r requirements.txt"
    assert str(error.value) == f"detectors: {NAME}: {packages}"


def test_names_in_the_parameters(project: Path) -> None:
    for name in ("onnx/net.onnx", "onnx/data/net.onnx", "onnx/data/detectors/../net.onnx", f"onnx/{project}/net.onnx"):
        set_parameters(project, detectors=[name])
        assert stage("join", cwd=project, fails=True).stderr == (
            f"error: params.yaml: detectors: {name} should be in data/detectors, where DVC sees when the file changes: "
            f"copy it there, and say onnx/data/detectors/net.onnx, not [{name!r}]\n"
        )
    for name in ("onnx/", "onnx", "yolo"):
        set_parameters(project, detectors=[name])
        assert stage("join", cwd=project, fails=True).stderr == (
            "error: params.yaml: detectors: should be of lettering, hf/<model ID or folder> and onnx/data/detectors/<file>, "
            f"not [{name!r}]\n"
        )


def test_known_pictures(here: Path, yolox_nano: Path) -> None:
    here.parent.mkdir(parents=True)
    shutil.copy(yolox_nano, here)
    detector = open_detector(NAME)
    assert detector.version == "sha256 695e750a5d5754bb"
    assert len(detector.classes) == 80
    hopper, china = detector.detect([Image.open(path).convert("RGB") for path in (HOPPER, CHINA)])
    assert china == []
    person, tie = hopper
    assert (person.label, tie.label) == ("person", "tie")
    assert person.confidence == pytest.approx(0.94, abs=0.01)
    assert tie.confidence == pytest.approx(0.87, abs=0.02)
    # She fills the picture, and the tie is below her chin.
    np.testing.assert_allclose(person[2:6], [0.0, 0.05, 1.0, 0.95], atol=0.07)
    np.testing.assert_allclose(tie[2:6], [0.43, 0.68, 0.14, 0.2], atol=0.03)


def test_the_stages_with_a_real_network(project: Path, yolox_nano: Path) -> None:
    file = project / "data" / "detectors" / "yolox_nano.onnx"
    shutil.copy(yolox_nano, file)
    shutil.copy(HOPPER, project / "data" / "posters" / "m003.jpg")
    name = "onnx/data/detectors/yolox_nano.onnx"
    set_parameters(project, architecture="two_stream/residual", detectors=[name])
    for one in ("join", "cache", "detect"):
        stage(one, cwd=project)
    objects = pd.read_csv(project / "data" / "detections" / "objects.csv")
    assert list(objects.loc[objects["id"] == "m003", "label"]) == ["person", "tie"]
    about = json.loads((project / "data" / "detections" / "detectors.json").read_text(encoding="utf-8"))
    assert about["detectors"] == {name: "sha256 695e750a5d5754bb"}
    assert len(about["classes"]) == 80

    def stored() -> int:
        with sqlite3.connect(project / ".dvc" / "tmp" / "detections.db") as connection:
            return int(connection.execute("SELECT count(*) FROM found WHERE detector LIKE 'onnx/%'").fetchone()[0])

    # What was found is found anew where this detector's own code changes, and not where another's does.
    posters = stored()
    for modules, times in ((("detectors/lettering", "detectors/hf", "detection"), 1), (("detectors/onnx",), 2)):
        for module in modules:
            with (project / "poster_genres" / f"{module}.py").open("a", encoding="utf-8") as code:
                code.write("# changed\n")
        stage("detect", cwd=project)
        assert stored() == times * posters, modules

    stage("train", cwd=project)
    poster = project / "data" / "posters" / "m003.jpg"
    assert len(stage("predict", poster, cwd=project).stdout.splitlines()) == 4
    Network("yolox").write(file)
    version = open_version(file)
    assert stage("predict", poster, cwd=project, fails=True).stderr.splitlines()[-1] == (
        f"error: detectors: {name}: the model was trained with sha256 695e750a5d5754bb, here is {version}; install the former"
    )
    file.unlink()
    missing = f"detectors: {name}: no such file; put it there, and `dvc add {name[5:]}` and commit it for queued experiments"
    assert stage("predict", poster, cwd=project, fails=True).stderr.splitlines()[-1] == f"error: {missing}"
    # The served model asks the same.
    open_detector.cache_clear()
    with pytest.raises(InputError) as error:
        check_detectors({name: version})
    assert str(error.value) == missing


def open_version(file: Path) -> str:
    """The version of the detector in any file."""
    return Detector(f"onnx/{file}").version


@pytest.mark.slow
def test_dvc_sees_when_the_file_changes(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "repository", architecture="two_stream/residual", detectors=[NAME])
    file = Network("yolox", metadata=NAMES).write(folder / "data" / "detectors" / "net.onnx")

    def add() -> None:
        run("dvc", "add", "data/detectors/net.onnx", cwd=folder)
        run("git", "add", "-A", cwd=folder)
        run("git", "commit", "-qm", "Add a detector", cwd=folder)

    add()
    tracked = run("git", "ls-files", "data/detectors", cwd=folder).stdout.splitlines()
    assert tracked == ["data/detectors/.gitignore", "data/detectors/README.md", "data/detectors/net.onnx.dvc"]
    run("dvc", "repro", "detect", cwd=folder)
    assert run("dvc", "status", "detect", cwd=folder).stdout == "Data and pipelines are up to date.\n"
    # DVC's links are read-only.
    file.unlink()
    Network("yolov8", metadata=NAMES).write(file)
    status = run("dvc", "status", "detect", cwd=folder).stdout
    assert status.split() == ["detect:", "changed", "deps:", "modified:", "data/detectors"]
    add()
    # An experiment in a temporary copy finds the file of its commit, and DVC takes that for the one that is here.
    run("dvc", "exp", "run", "--temp", "detect", cwd=folder)
    assert "Stage 'detect' is cached - skipping run" in run("dvc", "repro", "detect", cwd=folder).stdout
    about = json.loads((folder / "data" / "detections" / "detectors.json").read_text(encoding="utf-8"))
    assert about.pop("movies")
    assert about == {"detectors": {NAME: open_version(file)}, "classes": ["red", "green", "blue"]}
