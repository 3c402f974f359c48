"""Time and peak memory of join, cache and one epoch of training, by the number of posters.

Run: `python -m benchmarks.scale [DATASET] [--sizes 3000 30000 100000] [--height 96] [--width 64]`, by default with the posters of
../shared/movie-posters, or of the sample if that does not exist, repeated under new IDs. Each copy has its ID appended to the image
file, where decoders ignore it: `join` groups posters with the same bytes, and would otherwise split only a few thousand groups
for any number of posters. 100,000 real posters take 3.5 GB in the temporary folder, and the tensor 2 GB.

The network is `residual`, and `limit` includes all posters: 60 % train, 15 % validate, 25 % test. Linux and macOS.
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters

# Each with the modules that it always imports, at its start or later.
STAGES = {"join": "stages.join, iterstrat.ml_stratifiers", "cache": "stages.cache", "train": "stages.train, mlflow"}
# In its own process, because a process's peak memory is at least that of the process which started it.
REPEAT = """
import sys
from pathlib import Path
import pandas as pd
from poster_genres.dataset import POSTER_SUFFIXES, list_files, read_bytes
from poster_genres.matching import Posters
from poster_genres.metadata import read_metadata

source, target, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
files = list_files(source)
posters = Posters(str(source), [file for file in files if file.suffix in POSTER_SUFFIXES])
movies = read_metadata(source, files, posters).movies
numbers, _ = posters.match(list(movies["id"]), list(movies["table"]))
found = [(posters.files[number], names) for number, names in zip(numbers, movies["genres"]) if number is not None]
rows = []
for i in range(size):
    file, names = found[i % len(found)]
    name = f"m{i:07}"
    folder = target / f"{i // 1000:04}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}{file.suffix}").write_bytes(read_bytes(source, file.archive, file.path) + name.encode())
    rows.append((name, list(names) or ["N/A"]))
table = pd.DataFrame(rows, columns=["Id", "Genre"])
for genre in sorted({genre for row in table["Genre"] for genre in row}):
    table[genre] = [int(genre in row) for row in table["Genre"]]
table.to_csv(target / "train.csv", index=False)
"""

Cost = dict[str, float]


def measure(folder: Path, size: int) -> Cost:
    """Seconds and peak memory in MB of each stage, on the data set in `folder`; `epoch s` are the epoch's seconds alone."""
    cost: Cost = {"posters": size}
    for stage in STAGES:
        cost[f"{stage} s"], cost[f"{stage} MB"] = run_python(["-m", f"stages.{stage}"], folder)
    with (folder / "metrics" / "history.csv").open(encoding="utf-8") as file:
        cost["epoch s"] = float(next(csv.DictReader(file))["seconds"])
    return cost


def print_table(costs: list[Cost]) -> None:
    """Print a Markdown table; its last row shows whether costs grow linearly with the number of posters."""
    print("\n| posters | join s | MB | cache s | MB | posters/s | epoch s | train MB |\n|" + " --- |" * 8)
    start, smallest, largest = costs[0], costs[1], costs[-1]
    for cost in costs:
        seconds = cost["cache s"] - start["cache s"]
        speed, epoch = (f"{cost['posters'] / seconds:.0f}", f"{cost['epoch s']:.1f}") if cost["posters"] else ("", "")
        join, cache = (f"{cost[f'{stage} s']:.1f} | {cost[f'{stage} MB']:.0f}" for stage in ("join", "cache"))
        name = f"{cost['posters']:,}" if cost["posters"] else "0: start-up"
        print(f"| {name} | {join} | {cache} | {speed} | {epoch} | {cost['train MB']:.0f} |")

    def per_poster(name: str) -> str:
        """The cost per additional poster between the two largest sizes, over that between the two smallest; start-up cancels."""
        at_end, at_start = (
            (larger[name] - smaller[name]) / (larger["posters"] - smaller["posters"])
            for smaller, larger in (costs[-2:], costs[1:3])
        )
        return f"x {at_end / at_start:.2f}"

    join, cache, train = (f"x {largest[f'{stage} MB'] / smallest[f'{stage} MB']:.2f}" for stage in STAGES)
    print(f"| growth: a poster more, memory | {per_poster('join s')} | {join} | {per_poster('cache s')} | {cache} | ", end="")
    print(f"| {per_poster('epoch s')} | {train} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory by the number of posters.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET if DATASET.is_dir() else None)
    parser.add_argument("--sizes", nargs="+", type=int, default=[3000, 30000, 100000], help="three or more (3000 30000 100000)")
    parser.add_argument("--height", type=int, default=96, help="of the cached posters (96)")
    parser.add_argument("--width", type=int, default=64, help="(64)")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    if len(set(arguments.sizes)) < 3:
        parser.error("--sizes: give at least three different sizes")
    with project_copy() as folder:
        if arguments.dataset is None:
            run_python(["-m", "stages.sample"], folder)
        source = folder / "data" / "sample" if arguments.dataset is None else arguments.dataset.resolve()
        costs: list[Cost] = [{"posters": 0, "epoch s": 0.0}]
        for stage, modules in STAGES.items():
            # The minimum of three, because it is subtracted from the others, and the first run reads from disk.
            costs[0][f"{stage} s"], costs[0][f"{stage} MB"] = min(run_python(["-c", f"import {modules}"], folder) for _ in range(3))
        for size in sorted(set(arguments.sizes)):
            image = {"image_height": arguments.height, "image_width": arguments.width}
            set_parameters(folder, dataset="data/posters", limit=size, architecture="residual", epochs=1, **image)
            run_python(["-c", REPEAT, str(source), "data/posters", str(size)], folder)
            costs.append(measure(folder, size))
            shutil.rmtree(folder / "data" / "posters")
            # After each size, because the large ones take long.
            if arguments.json:
                arguments.json.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")
    print(f"\n{machine()}: residual at {arguments.height} x {arguments.width}, one epoch")
    print_table(costs)


if __name__ == "__main__":
    main()
