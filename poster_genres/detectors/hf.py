"""Object detectors from Hugging Face transformers, `hf/<model ID or folder>`: YOLOS, RT-DETR, D-FINE, DETR … (Apache-2.0).

Their classes may be COCO's or any others. Only weights in the safetensors format are loaded.
"""

import hashlib
import json
from typing import Any

import torch
from PIL import Image

from poster_genres.devices import choose_device
from poster_genres.errors import InputError
from poster_genres.hugging_face import find, transformers
from poster_genres.objects import Detection, clipped

# Defined in each detector's file, as the stage `detect` stores detections under a hash of that file alone.
# All posters are resized to this, so that detections do not depend on the file's resolution; nearly all are 2:3.
WIDTH, HEIGHT = 480, 720
# Detections with less confidence are dropped.
MIN_CONFIDENCE = 0.3


class Detector:
    """See `detection.Detector`."""

    parallel = False
    packages = ("transformers",)

    def __init__(self, name: str) -> None:
        library = transformers()
        source = find(name)
        try:
            self.processor = library.AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
            self.model: Any = library.AutoModelForObjectDetection.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"detectors: {name}: {reason}; give the ID of a model that detects objects, or its folder") from None
        labels = self.model.config.id2label
        self.classes = list(dict.fromkeys(labels[i] for i in sorted(labels) if labels[i] != "N/A"))
        digest = hashlib.sha256(json.dumps([self.processor.to_dict(), labels], sort_keys=True, default=str).encode())
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data if value.ndim else str(value.item()).encode())
        self.version = f"weights {digest.hexdigest()[:16]}"
        self.device = choose_device()
        self.model.eval().to(self.device)

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        # All of one size, so that the batch needs no padding, for which boxes would have to be corrected.
        batch = [image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for image in images]
        inputs = self.processor(images=batch, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            output = self.model(**inputs)
        results = self.processor.post_process_object_detection(
            output, threshold=MIN_CONFIDENCE, target_sizes=[(1.0, 1.0)] * len(images)
        )
        labels = self.model.config.id2label
        return [
            [
                clipped(labels[label], confidence, *box)
                for label, confidence, box in zip(*(result[key].tolist() for key in ("labels", "scores", "boxes")), strict=True)
                if labels[label] != "N/A"
            ]
            for result in results
        ]
