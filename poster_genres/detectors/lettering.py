"""The detector `lettering`: where there is lettering on a poster and what it says.

By PaddleOCR's networks (Apache-2.0; the weights are in RapidOCR's wheel) and ONNX Runtime (MIT): differentiable binarisation (Liao
et al. 2020, arXiv:1911.08947) and a reader of lines.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from PIL import Image

from poster_genres.errors import InputError
from poster_genres.objects import Detection, clipped

# Of here, not of a module for all: what the stage `detect` keeps is told apart by a hash of the one file that made it.
# Posters are looked at in this size, so that what is found does not depend on the file's resolution; nearly all are 2:3.
WIDTH, HEIGHT = 480, 720
# Lines that are read with less confidence are none.
MIN_CONFIDENCE = 0.3


def installed(package: str) -> str:
    """A package's name and version.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise InputError(f"detectors: lettering needs {package}: pip install -r requirements.txt") from None


class Detector:
    """See `detection.Detector`."""

    parallel = True
    packages = ("onnxruntime", "rapidocr")

    def __init__(self, name: str) -> None:
        self.classes = ["lettering"]
        installed("onnxruntime")
        self.version = installed("rapidocr")
        from rapidocr import RapidOCR

        settings = {"Det.limit_type": "min", "Det.limit_side_len": WIDTH, "Global.text_score": MIN_CONFIDENCE}
        self.find = RapidOCR(params=settings | {"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 1})

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        found = []
        for image in images:
            pixels = np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))[:, :, ::-1]
            output: Any = self.find(np.ascontiguousarray(pixels), use_det=True, use_cls=False, use_rec=True)
            lines = (
                [] if output.boxes is None else list(zip(output.boxes / (WIDTH, HEIGHT), output.scores, output.txts, strict=True))
            )
            objects = []
            for corners, score, text in lines:
                (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
                objects.append(clipped("lettering", score, left, top, right, bottom, " ".join(text.split())))
            found.append(objects)
        return found
