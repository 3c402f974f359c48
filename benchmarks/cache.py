"""The stage `cache` compared with the least work possible, a bare loop on one core in which Pillow decodes and resizes the same
posters. In turns, in posters per second.

Run: `python -m benchmarks.cache [DATASET] [--height 200] [--width 200] [--rounds 5]`, by default on ../shared/movie-posters, or the
sample if that does not exist. The stage is measured twice: its work alone, whose time grows with the number of posters, and as a
command, with Python's start and all imports. Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters

# Each runs in its own process and writes the seconds of its work to a file.
BARE_LOOP = """
import sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from poster_genres.movies import read_movies
dataset, size = Path(sys.argv[1]), (int(sys.argv[3]), int(sys.argv[2]))
paths = [dataset / path for path in read_movies(Path("data/movies.csv"))["poster"]]
start = time.perf_counter()
for path in paths:
    with Image.open(path) as image:
        np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
Path("seconds.txt").write_text(str(time.perf_counter() - start))
"""
STAGE = """
import sys, time
from pathlib import Path
from poster_genres.movies import read_movies
from stages.cache import write_cache
movies = read_movies(Path("data/movies.csv"))
start = time.perf_counter()
write_cache(Path(sys.argv[1]), movies, int(sys.argv[2]), int(sys.argv[3]), "bicubic", 0.05, Path("data/cache"))
Path("seconds.txt").write_text(str(time.perf_counter() - start))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="The stage cache compared with a bare loop.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET if DATASET.is_dir() else None)
    parser.add_argument("--height", type=int, default=200, help="of the cached posters (200)")
    parser.add_argument("--width", type=int, default=200, help="(200)")
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"bare loop": [], "stage, its work": [], "stage, as a command": []}
    with project_copy() as folder:
        if arguments.dataset is None:
            run_python(["-m", "stages.sample"], folder)
        dataset = "data/sample" if arguments.dataset is None else str(arguments.dataset.resolve())
        set_parameters(folder, dataset=dataset, limit=100_000, image_height=arguments.height, image_width=arguments.width)
        run_python(["-m", "stages.join"], folder)
        posters = len((folder / "data" / "movies.csv").read_text(encoding="utf-8").splitlines()) - 1
        words = [dataset, str(arguments.height), str(arguments.width)]
        for i in range(arguments.rounds + 1):
            for name, program in (("bare loop", BARE_LOOP), ("stage, its work", STAGE), ("stage, as a command", None)):
                taken, _ = run_python(["-m", "stages.cache"] if program is None else ["-c", program, *words], folder)
                if program is not None:
                    taken = float((folder / "seconds.txt").read_text(encoding="utf-8"))
                if i:  # the first round reads the posters from the disk, the others from memory
                    seconds[name].append(taken)
    print(f"\n{machine()}: {posters} posters to {arguments.height} x {arguments.width}, {arguments.rounds} rounds")
    print(f"\n| on {os.cpu_count()} cores, the bare loop on one | posters/s | against the bare loop |\n| --- | --- | --- |")
    for name, values in seconds.items():
        ratio = statistics.median(bare / one for bare, one in zip(seconds["bare loop"], values, strict=True))
        print(f"| {name} | {posters / statistics.median(values):.0f} | {ratio:.2f} x |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"posters": posters} | seconds, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
