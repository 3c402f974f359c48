"""Object detectors in ONNX files, `onnx/<path>`: YOLOX, and what Ultralytics' YOLOs and their kin are exported to.

They are told apart by the shape of their (first) output, of C classes, where a cell is a place in the maps of strides 8, 16 and 32,
or 64 as well:

- YOLOX (Ge et al. 2021, arXiv:2107.08430), (1, cells, 5 + C): the box relative to its cell, or in pixels; objectness; classes.
  Its input is BGR, 0 to 255, the picture at the top left:
  https://github.com/Megvii-BaseDetection/YOLOX/blob/main/yolox/data/data_augment.py, …/yolox/utils/demo_utils.py
- YOLO v5 and v7, (1, 3 * cells, 5 + C): centre, width and height in pixels; objectness; classes.
  https://github.com/ultralytics/yolov5/issues/3387
- YOLO v5u, v8, v9, v11 and v12, (1, 4 + C, cells): the same without objectness; https://github.com/ultralytics/ultralytics/issues/828
- YOLO v10, and those exported with `nms=True`, (1, n, 6): left, top, right, bottom in pixels; confidence; class. These are final.

The last three see RGB, 0 to 1, the picture in the middle: https://www.ultralytics.com/glossary/letterboxing. All see it scaled to
fit by bilinear interpolation, the rest filled with 114. Networks that find the objects' outlines as well have more values a box,
which are passed over.
"""

import ast
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from poster_genres.architectures import ONNX
from poster_genres.errors import InputError
from poster_genres.objects import Detection, clipped

# Objects that the network gives less than this are none.
MIN_CONFIDENCE = 0.3
# Of two boxes of one class that share more (intersection over union), the one with less confidence is dropped.
MAX_OVERLAP = 0.5
# What the rest of the picture is filled with.
GRAY = 114
STRIDES = ((8, 16, 32), (8, 16, 32, 64))
# The side of the picture where neither the file's input nor its metadata say it; and what they may say.
SIDE, SIDES = 640, range(32, 4097)
# Longer metadata is not read.
MAX_METADATA = 200_000
RIGHT = "should be YOLOX, or a YOLO that finds boxes, as Ultralytics exports it"
# https://github.com/Megvii-BaseDetection/YOLOX/blob/main/yolox/data/datasets/coco_classes.py
COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter,
bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup,
fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted
plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator,
book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""

Layout = Literal["yolox", "yolov5", "yolov8", "end to end"]


def plain(text: str) -> str:
    """Somebody's text as part of one line: without control characters, and not long."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200]


def literal(text: str) -> Any:
    """What a text says as Python writes numbers, texts, lists and dictionaries of them; None where it is none."""
    if len(text) > MAX_METADATA:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def layout_of(shape: tuple[int, ...], height: int, width: int, segments: bool) -> tuple[Layout, tuple[int, ...]] | None:
    """A network's layout and strides by its output's shape (1, a, b), for an input of this size; None where it is none of them.

    Parameters
    ----------
    segments : whether the network finds the objects' outlines as well
    """
    _, rows, columns = shape
    for strides in STRIDES:
        cells = sum((height // stride) * (width // stride) for stride in strides)
        if rows == cells and columns > 5:
            return "yolox", strides
        if rows == 3 * cells and columns > 5:
            return "yolov5", strides
        if columns == cells and rows > 4:
            return "yolov8", strides
    return ("end to end", ()) if columns == 6 or (segments and columns > 6) else None


class Detector:
    """A network in an ONNX file.

    It runs on one poster at a time and in one thread, so that what is found on a poster does not depend on the machine or on its
    neighbours. The version is the file's hash alone: ONNX says what a network's operators compute, and releases of ONNX Runtime
    differ in the last digits, for which no trained model should be refused.

    Attributes
    ----------
    height, width : of the network's input
    layout : of its output
    labels : by the number of the class
    grid, strides : each cell's column and row, int (cells, 2), and stride, int (cells, 1), where boxes are relative to them
    """

    # Processes of one thread each: two threads in one take twice the processor time for a small network, waiting for each other.
    parallel = True
    packages = ("onnxruntime", "opencv-python-headless")

    def __init__(self, name: str) -> None:
        """Read the file, and see what kind of network it is by what it says of a gray picture.

        Raises
        ------
        InputError
            There is no such file; it is no ONNX file, or needs others; it holds no detector of these kinds.
        """
        self.name = name
        # Not by way of `files.repository()`: in an experiment in a temporary copy, this is the file that DVC knows of.
        path = Path(name.removeprefix(ONNX))
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise self.wrong(f"no such file; put it there, and `dvc add {path}` and commit it for queued experiments") from None
        self.version = f"sha256 {hashlib.sha256(data).hexdigest()[:16]}"
        self.session = self._session(data, path)
        metadata = self.session.get_modelmeta().custom_metadata_map
        task = metadata.get("task", "detect")
        if task not in ("detect", "segment"):
            raise self.wrong(f"is for the task {plain(task)!r}; should be for detect or segment")
        self._read_input(literal(metadata.get("imgsz", "")))
        names = self._names(metadata["names"]) if "names" in metadata else None
        self._read_output(task == "segment", names)
        self.classes = list(dict.fromkeys(self.labels))

    def wrong(self, what: str) -> InputError:
        """The error that something is wrong with this file."""
        return InputError(f"detectors: {self.name}: {what}")

    def _session(self, data: bytes, path: Path) -> Any:
        """ONNX Runtime's session of the file's content."""
        try:
            import cv2  # noqa: F401
            import onnxruntime
        except ImportError:
            raise self.wrong("needs onnxruntime and opencv-python-headless: pip install -r requirements.txt") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is raised, too
        # There is nothing below a file, so that no weights are read from others, wherever the network says they are.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path / "none"))
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no class in common
            if "external" in str(error).lower():
                raise self.wrong(
                    "keeps its weights in another file; export it, or save it by the package onnx, as one file"
                ) from None
            raise self.wrong(f"not readable as an ONNX file: {plain(str(error))}") from None

    def _read_input(self, said: Any) -> None:
        """Set `input`, its `dtype`, `height` and `width`.

        Parameters
        ----------
        said : the picture's height and width, or both as one number, by the metadata
        """
        inputs = self.session.get_inputs()
        dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        shape = inputs[0].shape if len(inputs) == 1 else []
        # The size of an axis is no number where it is not fixed.
        if (
            len(shape) != 4
            or inputs[0].type not in dtypes
            or any(isinstance(size, int) and size != right for size, right in zip(shape, (1, 3), strict=False))
        ):
            takes = ", ".join(f"{one.type.removeprefix('tensor(').removesuffix(')')} {one.shape}" for one in inputs)
            raise self.wrong(f"takes {plain(takes)}; should take one picture, float or float16 [1, 3, height, width]")
        self.input, self.dtype = inputs[0].name, dtypes[inputs[0].type]
        default = said if isinstance(said, list | tuple) and len(said) == 2 else (said, said)
        sides = [
            fixed if isinstance(fixed, int) else SIDE if side is None else side
            for fixed, side in zip(shape[2:], default, strict=True)
        ]
        if not all(isinstance(side, int) and side in SIDES for side in sides):
            raise self.wrong(f"takes pictures of {plain(str(sides))}; each side should be {SIDES[0]} to {SIDES[-1]} pixels")
        self.height, self.width = sides

    def _names(self, text: str) -> list[str]:
        """The classes' names by the metadata."""
        names = literal(text)
        if isinstance(names, dict):
            names = [names.get(i) for i in range(len(names))]
        if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
            raise self.wrong(f"names in its metadata: {plain(text[:100])!r}: should be {{0: 'person', 1: 'bicycle', …}}")
        return [plain(one) or f"class {i}" for i, one in enumerate(names)]

    def _read_output(self, segments: bool, names: list[str] | None) -> None:
        """Set `layout`, `labels`, and how boxes are relative to cells, by the output for a gray picture."""
        gray = np.full((1, 3, self.height, self.width), GRAY / 255, self.dtype)
        self.output = self.session.get_outputs()[0].name
        try:
            outputs = self.session.run(None, {self.input: gray})
        except Exception as error:
            raise self.wrong(f"does not run on a picture of {self.height} x {self.width}: {plain(str(error))}") from None
        shapes = " and ".join(str(one.shape) if isinstance(one, np.ndarray) else type(one).__name__ for one in outputs)
        first = outputs[0]
        array = isinstance(first, np.ndarray) and first.dtype in (np.float32, np.float16) and first.ndim == 3 and len(first) == 1
        # Outlines are made of another output, a map.
        segments |= any(isinstance(one, np.ndarray) and one.ndim == 4 for one in outputs[1:])
        known = layout_of(first.shape, self.height, self.width, segments) if array else None
        if known is None:
            raise self.wrong(f"gives {shapes} for a picture of {self.height} x {self.width}; {RIGHT}")
        self.layout, strides = known
        output = self._rows(first[0])
        if self.layout == "end to end":
            if names is None:
                raise self.wrong(
                    "has no names in its metadata, and gives numbers of classes; export it with Ultralytics, which adds them"
                )
            scores = output[:, 4]
            if (output[:, 5] % 1 != 0).any():
                raise self.wrong(f"gives {shapes}, whose last column are no classes; {RIGHT}")
        else:
            self.begin = 4 if self.layout == "yolov8" else 5
            count = output.shape[1] - self.begin
            if names is None:
                coco = [" ".join(name.split()) for name in COCO.split(",")]
                names = coco if count == len(coco) else [f"class {i}" for i in range(count)]
            if len(names) != count and not (segments and len(names) < count):
                raise self.wrong(f"has {count} classes, and {len(names)} names in its metadata; should be as many")
            scores = output[:, 4 : self.begin + len(names)]
        self.labels = names
        if not ((scores >= 0) & (scores <= 1)).all():
            raise self.wrong(f"gives confidences of {scores.min():.3g} to {scores.max():.3g}; should be in [0, 1]")
        self.grid = self.strides = None
        if self.layout == "yolox":
            if (output[:, 4] == 1).all():  # YOLO v6, which sees other pixels
                raise self.wrong(f"gives an objectness of 1 everywhere; {RIGHT}")
            grids = [np.indices((self.height // one, self.width // one))[::-1].reshape(2, -1).T for one in strides]
            steps = np.concatenate([np.full((len(grid), 1), one) for grid, one in zip(grids, strides, strict=True)])
            cells = np.concatenate(grids)
            # A box's centre is about its cell's own: at (0.5, 0.5) of it, or at that place of the picture where it is in pixels.
            relative = np.abs(output[:, :2] - 0.5).mean()
            decoded = np.abs(output[:, :2] / steps - cells - 0.5).mean()
            if relative < decoded:
                self.grid, self.strides = cells, steps

    def _rows(self, output: np.ndarray) -> np.ndarray:
        """One row a box, float32, of the network's output for one picture."""
        return np.asarray(output.T if self.layout == "yolov8" else output, np.float32)

    def _fit(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        """The network's input, and where in it the picture is.

        Returns
        -------
        (1, 3, height, width); float64 (4,), the picture's left, top, width and height in pixels.
        """
        import cv2

        pixels = np.asarray(image)
        scale = min(self.height / image.height, self.width / image.width)
        # Each as its authors round.
        rounded = int if self.layout == "yolox" else round
        width, height = (max(rounded(side * scale), 1) for side in image.size)
        left, top = (0, 0) if self.layout == "yolox" else ((self.width - width) // 2, (self.height - height) // 2)
        canvas = np.full((self.height, self.width, 3), GRAY, np.uint8)
        canvas[top : top + height, left : left + width] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        # Bytes are turned around, not floats, which takes a seventh of the time.
        channels = canvas[:, :, ::-1] if self.layout == "yolox" else canvas
        values = np.ascontiguousarray(channels.transpose(2, 0, 1)[None]).astype(np.float32)
        values /= 1 if self.layout == "yolox" else 255
        return values.astype(self.dtype, copy=False), np.array([left, top, width, height], float)

    def _boxes(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is sure enough of the network's output for one picture, (boxes, values).

        Returns
        -------
        float64 (n, 4), left, top, right and bottom in pixels of the input; float32 (n,), confidences; int (n,), classes. From the
        most to the least confident.
        """
        if self.layout == "end to end":
            confidences, classes = output[:, 4], output[:, 5].astype(int)
        else:
            probabilities = output[:, self.begin : self.begin + len(self.labels)]
            classes = probabilities.argmax(axis=1)
            confidences = probabilities[np.arange(len(output)), classes]
            if self.begin == 5:
                confidences = confidences * output[:, 4]
        sure = np.flatnonzero((confidences >= MIN_CONFIDENCE) & np.isfinite(output[:, :4]).all(axis=1))
        sure = sure[np.argsort(-confidences[sure], kind="stable")]
        boxes, confidences, classes = output[sure, :4].astype(np.float64), confidences[sure], classes[sure]
        if self.layout != "end to end":
            centers, sizes = boxes[:, :2], boxes[:, 2:]
            if self.grid is not None and self.strides is not None:
                centers = (centers + self.grid[sure]) * self.strides[sure]
                sizes = np.exp(np.minimum(sizes, 50)) * self.strides[sure]
            boxes = np.hstack([centers - sizes / 2, centers + sizes / 2])
        return boxes, confidences, classes

    def _suppressed(self, boxes: np.ndarray, confidences: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Which boxes are left after non-maximum suppression within each class: their places, in their order."""
        import cv2

        # OpenCV keeps classes apart by moving their boxes, for which none may be negative or far away.
        side = max(self.height, self.width)
        boxes = np.clip(boxes, -side, 2 * side) + side
        rectangles = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        kept = cv2.dnn.NMSBoxesBatched(rectangles.tolist(), confidences.tolist(), classes.tolist(), 0.0, MAX_OVERLAP)
        return np.sort(np.asarray(kept, int))

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        """The objects of each of some RGB images of any size, from the most to the least confident."""
        found = []
        for image in images:
            values, (left, top, width, height) = self._fit(image)
            boxes, confidences, classes = self._boxes(self._rows(self.session.run([self.output], {self.input: values})[0][0]))
            if self.layout != "end to end":
                kept = self._suppressed(boxes, confidences, classes)
                boxes, confidences, classes = boxes[kept], confidences[kept], classes[kept]
            if not ((classes >= 0) & (classes < len(self.labels))).all():
                raise self.wrong(
                    f"found class {classes.max()}, and has {len(self.labels)} names in its metadata; should be as many"
                )
            shares = (boxes - (left, top, left, top)) / (width, height, width, height)
            objects = [
                clipped(self.labels[index], confidence, *box)
                for index, confidence, box in zip(classes, confidences, shares, strict=True)
            ]
            # What lies beside the picture is on no poster.
            found.append([one for one in objects if one.width > 0 and one.height > 0])
        return found
