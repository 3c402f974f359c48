"""Object detectors in ONNX files, `onnx/<path>`: YOLOX, and YOLOs as exported by Ultralytics and similar projects.

The shape of the first output tells them apart. With C classes, and one cell per position in the feature maps of strides 8, 16, 32
(and 64), it is:

- YOLOX (Ge et al. 2021, arXiv:2107.08430), (1, cells, 5 + C): the box relative to its cell, or in pixels; objectness; classes.
  Its input is BGR, 0 to 255, with the image at the top left:
  https://github.com/Megvii-BaseDetection/YOLOX/blob/main/yolox/data/data_augment.py, …/yolox/utils/demo_utils.py
- YOLO v5 and v7, (1, 3 * cells, 5 + C): centre, width and height in pixels; objectness; classes.
  https://github.com/ultralytics/yolov5/issues/3387
- YOLO v5u, v8, v9, v11 and v12, (1, 4 + C, cells): the same without objectness; https://github.com/ultralytics/ultralytics/issues/828
- YOLO v10, and exports with `nms=True`, (1, n, 6): left, top, right, bottom in pixels; confidence; class. They need no NMS.

The input of the last three is RGB, 0 to 1, with the image centred: https://www.ultralytics.com/glossary/letterboxing. For all, the
image is scaled to fit by bilinear interpolation and padded with 114. Segmentation networks output more values per box, which are
ignored.
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

# Detections with less confidence are dropped.
MIN_CONFIDENCE = 0.3
# The intersection over union above which non-maximum suppression drops the less confident of two boxes of one class.
MAX_IOU = 0.5
# The padding's value.
GRAY = 114
STRIDES = ((8, 16, 32), (8, 16, 32, 64))
# The input's side in pixels if neither the network's input nor its metadata fixes it, and the range of valid sides.
SIDE, SIDES = 640, range(32, 4097)
# Longer metadata is ignored.
MAX_METADATA = 200_000
EXPECTED = "should be YOLOX, or a YOLO that finds boxes, as Ultralytics exports it"
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
    """An untrusted text on one line, without control characters, of at most 200 characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())[:200]


def literal(text: str) -> Any:
    """The value of a Python literal, as by `ast.literal_eval`; None if the text is not one."""
    if len(text) > MAX_METADATA:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def layout_of(shape: tuple[int, ...], height: int, width: int, segments: bool) -> tuple[Layout, tuple[int, ...]] | None:
    """A network's layout and strides, given its output's shape (1, a, b) and its input's size; None if the layout is unknown.

    Parameters
    ----------
    segments : whether the network is for instance segmentation
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
    """An object detector in an ONNX file; see `detection.Detector`.

    It runs with batch size 1 in one thread, so that detections depend neither on the machine nor on the rest of the batch. The
    version is the file's hash alone: the ONNX standard defines what operators compute, and releases of ONNX Runtime differ only in
    the last digits, which is no reason to reject a trained model.

    Attributes
    ----------
    height, width : of the network's input
    layout : of its output
    labels : the class names, by class index
    class_start : the column of the first class score in the output's rows
    grid, strides : each cell's column and row, int (cells, 2), and stride, int (cells, 1), if boxes are relative to their cells
    """

    # A thread of `spread` each: for a small network, two threads take twice the CPU time, mostly waiting for each other.
    parallel = True
    packages = ("onnxruntime", "opencv-python-headless")

    def __init__(self, name: str) -> None:
        """Read the file, and determine the layout from the output for a gray image.

        Raises
        ------
        InputError
            The file does not exist, is not ONNX, stores its weights in other files, or is not a detector of a supported layout.
        """
        self.name = name
        # Not relative to `files.repository()`: in an experiment's temporary copy, DVC tracks the copy's file.
        path = Path(name.removeprefix(ONNX))
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise self.error(f"no such file; put it there, and `dvc add {path}` and commit it for queued experiments") from None
        self.version = f"sha256 {hashlib.sha256(data).hexdigest()[:16]}"
        self.session = self._session(data, path)
        metadata = self.session.get_modelmeta().custom_metadata_map
        task = metadata.get("task", "detect")
        if task not in ("detect", "segment"):
            raise self.error(f"is for the task {plain(task)!r}; should be for detect or segment")
        self._read_input(literal(metadata.get("imgsz", "")))
        names = self._names(metadata["names"]) if "names" in metadata else None
        self._read_output(task == "segment", names)
        self.classes = list(dict.fromkeys(self.labels))

    def error(self, problem: str) -> InputError:
        """An error that names this detector."""
        return InputError(f"detectors: {self.name}: {problem}")

    def _session(self, data: bytes, path: Path) -> Any:
        """An ONNX Runtime session for the file's content."""
        try:
            import cv2  # noqa: F401
            import onnxruntime
        except ImportError:
            raise self.error("needs onnxruntime and opencv-python-headless: pip install -r requirements.txt") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, too
        # A file has no subfolder, so that the network cannot load weights from other files.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path / "none"))
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base class
            if "external" in str(error).lower():
                raise self.error(
                    "keeps its weights in another file; export it, or save it by the package onnx, as one file"
                ) from None
            raise self.error(f"not readable as an ONNX file: {plain(str(error))}") from None

    def _read_input(self, imgsz: Any) -> None:
        """Set `input`, its `dtype`, `height` and `width`.

        Parameters
        ----------
        imgsz : the input's height and width, or one number for both, from the metadata
        """
        inputs = self.session.get_inputs()
        dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        shape = inputs[0].shape if len(inputs) == 1 else []
        # A dynamic axis has a name instead of a size.
        if (
            len(shape) != 4
            or inputs[0].type not in dtypes
            or any(isinstance(size, int) and size != expected for size, expected in zip(shape, (1, 3), strict=False))
        ):
            takes = ", ".join(f"{value.type.removeprefix('tensor(').removesuffix(')')} {value.shape}" for value in inputs)
            raise self.error(f"takes {plain(takes)}; should take one picture, float or float16 [1, 3, height, width]")
        self.input, self.dtype = inputs[0].name, dtypes[inputs[0].type]
        default = imgsz if isinstance(imgsz, list | tuple) and len(imgsz) == 2 else (imgsz, imgsz)
        sides = [
            fixed if isinstance(fixed, int) else SIDE if side is None else side
            for fixed, side in zip(shape[2:], default, strict=True)
        ]
        if not all(isinstance(side, int) and side in SIDES for side in sides):
            raise self.error(f"takes pictures of {plain(str(sides))}; each side should be {SIDES[0]} to {SIDES[-1]} pixels")
        self.height, self.width = sides

    def _names(self, text: str) -> list[str]:
        """The class names from the metadata."""
        names = literal(text)
        if isinstance(names, dict):
            names = [names.get(i) for i in range(len(names))]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise self.error(f"names in its metadata: {plain(text[:100])!r}: should be {{0: 'person', 1: 'bicycle', …}}")
        return [plain(name) or f"class {i}" for i, name in enumerate(names)]

    def _read_output(self, segments: bool, names: list[str] | None) -> None:
        """Set `layout`, `labels`, `class_start`, `grid` and `strides`, given the output for a gray image."""
        gray = np.full((1, 3, self.height, self.width), GRAY / 255, self.dtype)
        self.output = self.session.get_outputs()[0].name
        try:
            outputs = self.session.run(None, {self.input: gray})
        except Exception as error:
            raise self.error(f"does not run on a picture of {self.height} x {self.width}: {plain(str(error))}") from None
        shapes = " and ".join(str(value.shape) if isinstance(value, np.ndarray) else type(value).__name__ for value in outputs)
        first = outputs[0]
        array = isinstance(first, np.ndarray) and first.dtype in (np.float32, np.float16) and first.ndim == 3 and len(first) == 1
        # Segmentation networks have another output, for the masks.
        segments |= any(isinstance(value, np.ndarray) and value.ndim == 4 for value in outputs[1:])
        layout = layout_of(first.shape, self.height, self.width, segments) if array else None
        if layout is None:
            raise self.error(f"gives {shapes} for a picture of {self.height} x {self.width}; {EXPECTED}")
        self.layout, strides = layout
        output = self._rows(first[0])
        if self.layout == "end to end":
            if names is None:
                raise self.error(
                    "has no names in its metadata, and gives numbers of classes; export it with Ultralytics, which adds them"
                )
            scores = output[:, 4]
            if (output[:, 5] % 1 != 0).any():
                raise self.error(f"gives {shapes}, whose last column are no classes; {EXPECTED}")
        else:
            self.class_start = 4 if self.layout == "yolov8" else 5
            count = output.shape[1] - self.class_start
            if names is None:
                coco = [" ".join(name.split()) for name in COCO.split(",")]
                names = coco if count == len(coco) else [f"class {i}" for i in range(count)]
            if len(names) != count and not (segments and len(names) < count):
                raise self.error(f"has {count} classes, and {len(names)} names in its metadata; should be as many")
            scores = output[:, 4 : self.class_start + len(names)]
        self.labels = names
        if not ((scores >= 0) & (scores <= 1)).all():
            raise self.error(f"gives confidences of {scores.min():.3g} to {scores.max():.3g}; should be in [0, 1]")
        self.grid = self.strides = None
        if self.layout == "yolox":
            if (output[:, 4] == 1).all():  # YOLO v6, whose preprocessing differs
                raise self.error(f"gives an objectness of 1 everywhere; {EXPECTED}")
            grids = [np.indices((self.height // stride, self.width // stride))[::-1].reshape(2, -1).T for stride in strides]
            steps = np.concatenate([np.full((len(grid), 1), stride) for grid, stride in zip(grids, strides, strict=True)])
            cells = np.concatenate(grids)
            # Boxes lie near their cells' centres: at (0.5, 0.5) if relative to the cell, else at the centre's pixel.
            relative_error = np.abs(output[:, :2] - 0.5).mean()
            pixel_error = np.abs(output[:, :2] / steps - cells - 0.5).mean()
            if relative_error < pixel_error:
                self.grid, self.strides = cells, steps

    def _rows(self, output: np.ndarray) -> np.ndarray:
        """The network's output for one image as float32 (boxes, values)."""
        return np.asarray(output.T if self.layout == "yolov8" else output, np.float32)

    def _fit(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        """The network's input for an image (letterboxing).

        Returns
        -------
        The input, (1, 3, height, width); the image's left, top, width and height in it, in pixels, float64 (4,).
        """
        import cv2

        pixels = np.asarray(image)
        scale = min(self.height / image.height, self.width / image.width)
        # As the authors of each network round.
        rounded = int if self.layout == "yolox" else round
        width, height = (max(rounded(side * scale), 1) for side in image.size)
        left, top = (0, 0) if self.layout == "yolox" else ((self.width - width) // 2, (self.height - height) // 2)
        canvas = np.full((self.height, self.width, 3), GRAY, np.uint8)
        canvas[top : top + height, left : left + width] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        # Transposing bytes takes a seventh of the time of transposing floats.
        channels = canvas[:, :, ::-1] if self.layout == "yolox" else canvas
        values = np.ascontiguousarray(channels.transpose(2, 0, 1)[None]).astype(np.float32)
        values /= 1 if self.layout == "yolox" else 255
        return values.astype(self.dtype, copy=False), np.array([left, top, width, height], float)

    def _boxes(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The boxes of at least MIN_CONFIDENCE in the network's output for one image, (boxes, values), most confident first.

        Returns
        -------
        float64 (n, 4), left, top, right and bottom in pixels of the input; float32 (n,), confidences; int (n,), class indices.
        """
        if self.layout == "end to end":
            confidences, classes = output[:, 4], output[:, 5].astype(int)
        else:
            probabilities = output[:, self.class_start : self.class_start + len(self.labels)]
            classes = probabilities.argmax(axis=1)
            confidences = probabilities[np.arange(len(output)), classes]
            if self.class_start == 5:
                confidences = confidences * output[:, 4]
        kept = np.flatnonzero((confidences >= MIN_CONFIDENCE) & np.isfinite(output[:, :4]).all(axis=1))
        kept = kept[np.argsort(-confidences[kept], kind="stable")]
        boxes, confidences, classes = output[kept, :4].astype(np.float64), confidences[kept], classes[kept]
        if self.layout != "end to end":
            centers, sizes = boxes[:, :2], boxes[:, 2:]
            if self.grid is not None and self.strides is not None:
                centers = (centers + self.grid[kept]) * self.strides[kept]
                sizes = np.exp(np.minimum(sizes, 50)) * self.strides[kept]
            boxes = np.hstack([centers - sizes / 2, centers + sizes / 2])
        return boxes, confidences, classes

    def _nms(self, boxes: np.ndarray, confidences: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """The indices of the boxes that non-maximum suppression within each class keeps, in ascending order."""
        import cv2

        # OpenCV separates classes by shifting their boxes, which must therefore be non-negative and bounded.
        side = max(self.height, self.width)
        boxes = np.clip(boxes, -side, 2 * side) + side
        rectangles = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        kept = cv2.dnn.NMSBoxesBatched(rectangles.tolist(), confidences.tolist(), classes.tolist(), 0.0, MAX_IOU)
        return np.sort(np.asarray(kept, int))

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        """The detections on each image, most confident first; images are RGB, of any size."""
        detections_by_image = []
        for image in images:
            values, (left, top, width, height) = self._fit(image)
            boxes, confidences, classes = self._boxes(self._rows(self.session.run([self.output], {self.input: values})[0][0]))
            if self.layout != "end to end":
                kept = self._nms(boxes, confidences, classes)
                boxes, confidences, classes = boxes[kept], confidences[kept], classes[kept]
            if not ((classes >= 0) & (classes < len(self.labels))).all():
                raise self.error(
                    f"found class {classes.max()}, and has {len(self.labels)} names in its metadata; should be as many"
                )
            boxes = (boxes - (left, top, left, top)) / (width, height, width, height)
            detections = [
                clipped(self.labels[index], confidence, *box)
                for index, confidence, box in zip(classes, confidences, boxes, strict=True)
            ]
            # Boxes in the padding are empty once clipped to the poster.
            detections_by_image.append([detection for detection in detections if detection.width > 0 and detection.height > 0])
        return detections_by_image
