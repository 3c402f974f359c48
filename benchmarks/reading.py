"""What reading words costs by part, and what each setting of the reader brings: processor seconds a poster, letters, likeness.

Run: `python -m benchmarks.reading [DATASET] [--posters 60]`, by default on ../shared/movie-posters; with --eight-bits also by
networks that ONNX Runtime's static quantisation brings to 8 bits, calibrated on 12 other posters; with --openvino, if it is
installed, also by OpenVINO. All readers read each poster, one after the other, by one thread: what else the machine does disturbs
all alike. Likeness is that of a poster's text to what the first reader read, by difflib, weighted by its length.

With --scores, some readers also read the whole data set, each in the stage `detect` of a temporary copy of the project, and the
model without fine-tuning (`epochs: 0`) learns from what they read: its scores on validation posters, beside those by the reader in
use, with the paired bootstrap's standard error. That takes ten minutes and more a reader.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import rapidocr
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image
from rapidocr import EngineType, RapidOCR

from benchmarks.folds import MOVIES, logits_of
from benchmarks.paired import HEADER, row, score_resampled
from benchmarks.parts import TRAIN
from benchmarks.pipeline import DATASET, ROOT, machine, project_copy, run_python, set_parameters
from poster_genres.dataset import POSTER_SUFFIXES, list_files, read_bytes
from poster_genres.detection import MIN_SIZE
from poster_genres.detectors.lettering import ENLARGED, HEIGHT, MIN_CONFIDENCE, WIDTH
from poster_genres.movies import genres_of, read_movies
from poster_genres.posters import Unreadable, upright

ONE_THREAD = {"EngineConfig.onnxruntime.intra_op_num_threads": 1, "EngineConfig.openvino.inference_num_threads": 1}
FIXED = {"Det.limit_type": "min", "Det.limit_side_len": 32, "Global.text_score": MIN_CONFIDENCE, "Global.log_level": "error"}
ARENA = {"EngineConfig.onnxruntime.enable_cpu_mem_arena": True}
LINE_HEIGHT = 48
ALONE = {"Rec.rec_batch_num": 1, "Rec.rec_img_shape": [3, LINE_HEIGHT, 32]}
USED = "and a line at a time, as wide as it is"
# Each reader's settings of RapidOCR, and the size of the posters.
Size = tuple[int, int]
READERS: dict[str, tuple[dict[str, Any], Size]] = {
    "six lines at a time, padded to 320 pixels at least": ({}, (WIDTH, HEIGHT)),
    "and one block of memory": (ARENA, (WIDTH, HEIGHT)),
    USED: (ARENA | ALONE, (WIDTH, HEIGHT)),
    "and lines found at 400 x 600": (ARENA | ALONE | {"Det.limit_type": "max", "Det.limit_side_len": 600}, (WIDTH, HEIGHT)),
    "and lines found at 320 x 480": (ARENA | ALONE | {"Det.limit_type": "max", "Det.limit_side_len": 480}, (WIDTH, HEIGHT)),
}
CALIBRATED = 12


LARGER = "and in 8 bits, posters enlarged to 640 x 960"
SCORED = (USED, "and in 8 bits", "and in 8 bits, lines found at 320 x 480", LARGER)


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


class Inputs(CalibrationDataReader):
    """What a network is calibrated on."""

    def __init__(self, name: str, arrays: list[np.ndarray]) -> None:
        self.feeds = ({name: array} for array in arrays)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def in_eight_bits(folder: Path, images: list[Image.Image]) -> dict[str, str]:
    """Settings of RapidOCR by which its networks compute in 8 bits, calibrated on these posters; they are written to `folder`."""
    given = defaultdict[str, list[np.ndarray]](list)
    run = onnxruntime.InferenceSession.run

    def kept(self: Any, names: Any, feed: dict[str, np.ndarray], *more: Any) -> Any:
        (pixels,) = feed.values()
        given["rec" if pixels.shape[2] == LINE_HEIGHT else "det"].append(pixels)
        return run(self, names, feed, *more)

    reader = Reader(ARENA | ALONE, (WIDTH, HEIGHT))
    given.clear()
    onnxruntime.InferenceSession.run = kept
    try:
        for image in images:
            reader.read(image)
    finally:
        onnxruntime.InferenceSession.run = run
    settings = {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, arrays in given.items():
        (path,) = (Path(rapidocr.__file__).parent / "models").glob(f"*_{part}_small.onnx")
        network = onnx.version_converter.convert_version(onnx.load(path), 17)
        whole, target = folder / f"{part}.onnx", folder / f"{part}_8.onnx"
        onnx.save(network, whole)
        quant_pre_process(str(whole), str(whole), skip_symbolic_shape=True)
        inputs = Inputs(network.graph.input[0].name, arrays)
        # Unsigned pixels and signed weights are what x86 has instructions for (VNNI).
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        layers = ["Conv", "MatMul", "Gemm"]
        quantize_static(str(whole), str(target), inputs, QuantFormat.QDQ, layers, per_channel=True, **kinds)
        settings[f"{part.capitalize()}.model_path"] = str(target)
    return settings


def score_readers(dataset: Path, limit: int | None) -> None:
    """Let each reader of SCORED that there is read the data set, and print the scores of what is learnt from its words."""
    runs: dict[str, np.ndarray] = {}
    with project_copy() as folder:
        parameters = {} if limit is None else {"limit": limit}
        set_parameters(folder, dataset=str(dataset.resolve()), epochs=0, **parameters)
        for stage in ("resolve", "join", "cache"):
            run_python(["-m", f"stages.{stage}"], folder)
        genres = genres_of(read_movies(folder / MOVIES))
        code = folder / "poster_genres" / "detectors" / "lettering.py"
        original = code.read_text(encoding="utf-8")
        for name in SCORED:
            if name not in READERS:
                continue
            # What it finds is stored under a hash of this file.
            settings, (width, height) = READERS[name]
            changed = original.replace("RapidOCR(params=settings)", f"RapidOCR(params=settings | {settings!r})")
            changed = changed.replace(
                f"WIDTH, HEIGHT, ENLARGED = {WIDTH}, {HEIGHT}", f"WIDTH, HEIGHT, ENLARGED = {width}, {height}"
            )
            code.write_text(original if name == USED else changed, encoding="utf-8")
            seconds, _ = run_python(["-m", "stages.detect"], folder)
            print(f"{name}: detect took {seconds:.0f} s", flush=True)
            run_python(["-c", TRAIN], folder)
            labels = np.load(folder / "validation.npz")["labels"]
            runs[name] = score_resampled(labels, logits_of(folder)["model"], genres, 0)
    print(f"\n{machine()}; nothing fine-tuned\n\n| {len(labels)} validation posters | {HEADER}")
    for name, run in runs.items():
        print(row(name, [run], None if name == USED else [runs[USED]]))


def main() -> None:
    parser = argparse.ArgumentParser(description="What reading words costs.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--posters", type=int, default=60)
    parser.add_argument("--eight-bits", action="store_true", help="also by networks in 8 bits")
    parser.add_argument("--openvino", action="store_true", help="also by OpenVINO, where it is installed")
    parser.add_argument("--scores", action="store_true", help="also score what is learnt from the words of each")
    parser.add_argument("--limit", type=int, help="posters to train and validate on (that of params.yaml)")
    arguments = parser.parse_args()
    files = [file for file in list_files(arguments.dataset) if file.suffix in POSTER_SUFFIXES]
    chosen = np.random.default_rng(0).permutation(len(files))[: CALIBRATED + arguments.posters]

    def poster(i: int) -> Image.Image:
        return upright(read_bytes(arguments.dataset, files[i].archive, files[i].path), MIN_SIZE)

    if arguments.eight_bits:
        eight = in_eight_bits(ROOT / "build" / "eight_bits", [poster(i) for i in chosen[:CALIBRATED]])
        READERS["and in 8 bits"] = (ARENA | ALONE | eight, (WIDTH, HEIGHT))
        recogniser = {"Rec.model_path": eight["Rec.model_path"]}
        READERS["and the recogniser alone in 8 bits"] = (ARENA | ALONE | recogniser, (WIDTH, HEIGHT))
        READERS[LARGER] = (ARENA | ALONE | eight, (640, 960))
        READERS["and in 8 bits, lines found at 320 x 480"] = (READERS["and lines found at 320 x 480"][0] | eight, (WIDTH, HEIGHT))
    if arguments.openvino:
        by_openvino = {"Det.engine_type": EngineType.OPENVINO, "Rec.engine_type": EngineType.OPENVINO}
        READERS["a line at a time, by OpenVINO"] = (ALONE | by_openvino, (WIDTH, HEIGHT))
    readers = {name: Reader(*values) for name, values in READERS.items()}
    for reader in readers.values():
        reader.seconds.clear()
    for i in chosen[CALIBRATED:]:
        try:
            image = poster(i)
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
        print(f"| {name} | {seconds} | {letters} | {alike:.3f} |", flush=True)
    if arguments.scores:
        score_readers(arguments.dataset, arguments.limit)


if __name__ == "__main__":
    main()
