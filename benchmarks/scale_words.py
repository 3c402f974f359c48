"""Time and peak memory of detect and predict by the number of posters, and of predict from a bucket.

Run: `python -m benchmarks.scale_words [--sizes 300 3000 30000] [--bucket 10000]`. Posters are drawn, 60 x 90 pixels, each with two
words of its own, so that reading one takes a tenth of what a real one takes. `detect` begins with an empty store; `predict` then
finds the words of all posters in it, and `predict new` does not. The bucket, for which the packages of the tests are needed, is one
of moto's S3 server on this machine. Linux and macOS.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.pipeline import free_port, machine, project_copy, run_python, set_parameters

# In processes of their own, because a process's peak memory is at least that of the process which started it.
DRAW = """
import random, sys
from pathlib import Path
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

target, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
target.mkdir(parents=True, exist_ok=True)
font = ImageFont.load_default(11)
rows = []
for i in range(last):
    moments = random.Random(i)
    words = [moments.choice(["LOVE", "BLOOD", "GUNS", "MOON", "HOUSE"]), f"{moments.choice('ABCDEFG')}{i}"]
    if i >= first:
        image = Image.new("RGB", (60, 90), tuple(moments.randrange(90) for _ in "rgb"))
        for y, word in zip((30, 60), words):
            ImageDraw.Draw(image).text((30, y), word, fill="white", font=font, anchor="ma")
        image.save(target / f"m{i:06}.png")
    rows.append((f"m{i:06}", {"LOVE": "Romance", "BLOOD": "Horror"}.get(words[0], "Drama")))
pd.DataFrame(rows, columns=["id", "genres"]).to_csv(target / "movies.csv", index=False)
"""
UPLOAD = """
import sys
import fsspec
files = fsspec.filesystem("s3")
files.mkdir("posters")
files.put(sorted(sys.argv[1:]), "posters/", recursive=False)
"""
SIZE = {"image_height": 48, "image_width": 32}
MODEL = "models/kept.pt"
Cost = dict[str, float]


def forget(folder: Path) -> None:
    """Remove what was found on posters: in the store, and what would fill it."""
    for name in (".dvc/tmp/detections.db", "data/sources.json"):
        (folder / name).unlink(missing_ok=True)


def measure(folder: Path, size: int) -> Cost:
    """Seconds and peak memory in MB of what a number of posters costs."""
    cost: Cost = {"posters": size}
    run_python(["-m", "stages.join"], folder)
    forget(folder)
    cost["detect s"], cost["detect MB"] = run_python(["-m", "stages.detect"], folder)
    if not (folder / MODEL).is_file():
        for name in ("cache", "train"):
            run_python(["-m", f"stages.{name}"], folder)
        (folder / "models" / "model.pt").rename(folder / MODEL)
    for name in ("predict", "predict new"):
        command = ["-m", "stages.predict", "data/posters", "--csv", f"{name}{size}.csv", "--model", MODEL]
        cost[f"{name} s"], cost[f"{name} MB"] = run_python(command, folder)
        forget(folder)
    same = (folder / f"predict{size}.csv").read_bytes() == (folder / f"predict new{size}.csv").read_bytes()
    if not same:
        sys.exit(f"{size} posters: predictions differ with words that were read before")
    return cost


@contextmanager
def s3_server() -> Iterator[None]:
    """An empty S3 server on loopback, which programs find by the environment."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys | {"AWS_ENDPOINT_URL": address})
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/moto-api/", timeout=2).close()
                break
            if server.poll() is not None:
                sys.exit("the S3 server does not start: pip install -r requirements-test.txt")
            time.sleep(0.3)
        yield
    finally:
        server.kill()
        server.wait()


def from_bucket(folder: Path, size: int) -> None:
    """What predict costs on posters in a bucket, and on the same files here."""
    posters = [str(path) for path in sorted((folder / "data" / "posters").glob("*.png"))[:size]]
    with s3_server():
        run_python(["-c", UPLOAD, *posters], folder)
        for name, where in (("this disk", posters), ("a bucket", ["s3://posters"])):
            forget(folder)
            command = ["-m", "stages.predict", *where, "--csv", "bucket.csv", "--model", MODEL]
            seconds, memory = run_python(command, folder)
            rows = (folder / "bucket.csv").read_text(encoding="utf-8").count("\n") - 1
            print(f"predict --csv on {rows} posters, from {name}: {seconds:.0f} s, {memory:.0f} MB", flush=True)
            (folder / "bucket.csv").unlink()


def print_table(costs: list[Cost]) -> None:
    """Print a Markdown table; its last row shows whether costs grow linearly with the number of posters."""
    names = ("detect", "predict", "predict new")
    print(f"\n{machine()}\n| posters | {' | '.join(f'{name} s | MB' for name in names)} |\n|" + " --- |" * 7)
    for cost in costs:
        cells = " | ".join(f"{cost[f'{name} s']:.1f} | {cost[f'{name} MB']:.0f}" for name in names)
        print(f"| {cost['posters']:,.0f} | {cells} |")

    def a_poster_more(name: str, smaller: Cost, larger: Cost) -> float:
        return (larger[f"{name} s"] - smaller[f"{name} s"]) / (larger["posters"] - smaller["posters"])

    growth = " | ".join(
        f"x {a_poster_more(name, *costs[-2:]) / a_poster_more(name, *costs[:2]):.2f} | "
        f"x {costs[-1][f'{name} MB'] / costs[0][f'{name} MB']:.2f}"
        for name in names
    )
    print(f"| growth: a poster more, memory | {growth} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of detect and predict by the number of posters.")
    parser.add_argument("--sizes", nargs="+", type=int, default=[300, 3000, 30000], help="three or more (300 3000 30000)")
    parser.add_argument("--bucket", type=int, default=10000, help="posters in the bucket (10000)")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    if len(set(arguments.sizes)) < 3:
        parser.error("--sizes: give at least three different sizes")
    os.environ["MLFLOW_TRACKING_URI"] = ""
    with project_copy() as folder:
        (folder / ".dvc" / "tmp").mkdir(parents=True, exist_ok=True)
        costs: list[Cost] = []
        drawn = 0
        for size in sorted(set(arguments.sizes)):
            set_parameters(folder, dataset="data/posters", limit=size, architecture="two_stream/residual", epochs=1, **SIZE)
            run_python(["-c", DRAW, "data/posters", str(drawn), str(size)], folder)
            drawn = size
            costs.append(measure(folder, size))
            print(json.dumps(costs[-1]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")
        print_table(costs)
        run_python(["-c", DRAW, "data/posters", str(drawn), str(arguments.bucket)], folder)
        from_bucket(folder, arguments.bucket)


if __name__ == "__main__":
    main()
