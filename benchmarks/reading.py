"""What reading words costs by part, and what each setting of the reader brings: processor seconds a poster, letters, likeness.

Run: `python -m benchmarks.reading [DATASET] [--posters 60]`, by default on ../shared/movie-posters; with --openvino, if it is
installed, also by OpenVINO. All readers read each poster, one after the other, by one thread: what else the machine does disturbs
all alike. Likeness is that of a poster's text to what the first reader read, by difflib, weighted by its length.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rapidocr import EngineType, RapidOCR

from benchmarks.pipeline import DATASET, machine
from poster_genres.dataset import POSTER_SUFFIXES, list_files, read_bytes
from poster_genres.detection import MIN_SIZE
from poster_genres.detectors.lettering import ENLARGED, HEIGHT, MIN_CONFIDENCE, WIDTH
from poster_genres.posters import Unreadable, upright

ONE_THREAD = {"EngineConfig.onnxruntime.intra_op_num_threads": 1, "EngineConfig.openvino.inference_num_threads": 1}
FIXED = {"Det.limit_type": "min", "Det.limit_side_len": 32, "Global.text_score": MIN_CONFIDENCE, "Global.log_level": "error"}
ARENA = {"EngineConfig.onnxruntime.enable_cpu_mem_arena": True}
ALONE = {"Rec.rec_batch_num": 1, "Rec.rec_img_shape": [3, 48, 32]}
# Each reader's settings of RapidOCR, and the size of the posters.
Size = tuple[int, int]
READERS: dict[str, tuple[dict[str, Any], Size]] = {
    "six lines at a time, padded to 320 pixels at least": ({}, (WIDTH, HEIGHT)),
    "and one block of memory": (ARENA, (WIDTH, HEIGHT)),
    "and a line at a time, as wide as it is": (ARENA | ALONE, (WIDTH, HEIGHT)),
    "and posters of 400 x 600": (ARENA | ALONE, (400, 600)),
    "and posters of 320 x 480": (ARENA | ALONE, (320, 480)),
}


class Reader:
    """RapidOCR with its networks loaded, and the processor seconds that its parts took."""

    def __init__(self, settings: dict[str, Any], size: Size) -> None:
        self.size, self.seconds, self.texts = size, defaultdict[str, float](float), list[str]()
        self.ocr: Any = RapidOCR(params=FIXED | ONE_THREAD | settings)
        self.read(Image.new("RGB", (64, 64)))  # loads the network that finds lines
        self.ocr._load_rec_model()
        for part, name in (("find lines", "text_det"), ("read them", "text_rec")):
            setattr(self.ocr, name, self.timed(part, getattr(self.ocr, name)))

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.seconds[part] += time.process_time() - start

        return run

    def read(self, image: Image.Image) -> list[str]:
        start = time.process_time()
        size = min(self.size[0], ENLARGED * image.width), min(self.size[1], ENLARGED * image.height)
        pixels = np.ascontiguousarray(np.asarray(image.resize(size, Image.Resampling.BICUBIC))[:, :, ::-1])
        output = self.ocr(pixels, use_det=True, use_cls=False, use_rec=True)
        self.seconds["all"] += time.process_time() - start
        return list(output.txts or [])


def main() -> None:
    parser = argparse.ArgumentParser(description="What reading words costs.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--posters", type=int, default=60)
    parser.add_argument("--openvino", action="store_true", help="also by OpenVINO, where it is installed")
    arguments = parser.parse_args()
    files = [file for file in list_files(arguments.dataset) if file.suffix in POSTER_SUFFIXES]
    chosen = np.random.default_rng(0).permutation(len(files))[: arguments.posters]
    if arguments.openvino:
        by_openvino = {"Det.engine_type": EngineType.OPENVINO, "Rec.engine_type": EngineType.OPENVINO}
        READERS["a line at a time, by OpenVINO"] = (ALONE | by_openvino, (WIDTH, HEIGHT))
    readers = {name: Reader(*values) for name, values in READERS.items()}
    for reader in readers.values():
        reader.seconds.clear()
    for i in chosen:
        try:
            image = upright(read_bytes(arguments.dataset, files[i].archive, files[i].path), MIN_SIZE)
        except Unreadable:
            continue
        for reader in readers.values():
            reader.texts.append("\n".join(reader.read(image)))
    first = next(iter(readers.values()))
    posters = len(first.texts)
    print(f"{machine()}; {posters} posters, processor seconds a poster, one thread\n")
    print("| reader | all | find lines | read them | letters | alike |\n| --- | --- | --- | --- | --- | --- |")
    for name, reader in readers.items():
        seconds = " | ".join(f"{reader.seconds[part] / posters:.3f}" for part in ("all", "find lines", "read them"))
        letters = sum(len("".join(text.split())) for text in reader.texts)
        likeness = [SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in zip(first.texts, reader.texts, strict=True)]
        alike = np.average(likeness, weights=[len(text) + 1 for text in first.texts])
        print(f"| {name} | {seconds} | {letters} | {alike:.3f} |")


if __name__ == "__main__":
    main()
