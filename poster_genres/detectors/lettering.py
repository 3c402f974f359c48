"""The detector `lettering`: text detection and recognition (OCR).

It runs PaddleOCR's networks (Apache-2.0; the weights are in RapidOCR's wheel) with ONNX Runtime (MIT): differentiable binarisation
(Liao et al. 2020, arXiv:1911.08947) for detection, and a recogniser of text lines.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from poster_genres.objects import Detection, clipped

# Defined in each detector's file, as the stage `detect` stores detections under a hash of that file alone.
# All posters are resized to this, so that detections do not depend on the file's resolution; nearly all are 2:3. Small ones are
# enlarged up to this factor only, as more takes longer and shows no more.
WIDTH, HEIGHT, ENLARGED = 480, 720, 3
# Text lines recognised with less confidence are dropped.
MIN_CONFIDENCE = 0.3


class Detector:
    """See `detection.Detector`."""

    parallel = True
    packages = ("onnxruntime", "rapidocr")

    def __init__(self, name: str) -> None:
        self.classes = ["lettering"]
        self.version = f"rapidocr {version('rapidocr')}"
        from rapidocr import RapidOCR

        settings = {
            # The images that it gets have the right size already, so it should resize none.
            "Det.limit_type": "min",
            "Det.limit_side_len": 32,
            # A line at a time, as wide as it is. By default, six are padded to the widest of them, and to 320 pixels: two pixels of
            # five that the network sees are padding. Nor does a line's text depend on other lines now.
            "Rec.rec_batch_num": 1,
            "Rec.rec_img_shape": [3, 48, 32],
            "Global.text_score": MIN_CONFIDENCE,
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.enable_cpu_mem_arena": True,
        }
        self.ocr = RapidOCR(params=settings)

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        detections_by_image = []
        for image in images:
            size = min(WIDTH, ENLARGED * image.width), min(HEIGHT, ENLARGED * image.height)
            pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))[:, :, ::-1]
            output: Any = self.ocr(np.ascontiguousarray(pixels), use_det=True, use_cls=False, use_rec=True)
            lines = [] if output.boxes is None else list(zip(output.boxes / size, output.scores, output.txts, strict=True))
            detections = []
            for corners, score, text in lines:
                (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
                detections.append(clipped("lettering", score, left, top, right, bottom, " ".join(text.split())))
            detections_by_image.append(detections)
        return detections_by_image
