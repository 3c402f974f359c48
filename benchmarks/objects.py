"""What each kind of object adds to the image stream on real posters: faces, boxes of lettering, its words, and planted objects
that reveal genres.

Run: `python -m benchmarks.objects [DATASET] [--seeds 0 1 2]`, by default on ../shared/movie-posters. The image stream is the frozen
efficientnet_lite0 at 240 x 168 (`epochs: 0`), so that a row takes a minute; but reading all words takes ten. Faces are OpenCV's
(Viola and Jones 2001, frontal). Planted objects mark a random half of each movie's genres, one object per genre; shuffled, the same
objects are moved to other movies' posters. All are given as the data set's `detections.csv`. Works in a temporary
copy of the project and of the data set; Linux and macOS.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters
from benchmarks.real_posters import RARE
from poster_genres.movies import genres_of, read_movies
from poster_genres.objects import COLUMNS
from poster_genres.posters import load_poster

IMAGE = "efficientnet_lite0"
SIZE = {"image_height": 240, "image_width": 168}
SHOWN = ("macro_average_precision", "micro_average_precision")


def find_faces(dataset: Path, movies: pd.DataFrame) -> pd.DataFrame:
    """The faces on each poster, as a table of objects."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))
    height, width = 480, 320
    rows = []
    for movie in tqdm(movies.itertuples(), desc="faces", total=len(movies), unit=" posters", disable=None):
        gray = cv2.cvtColor(load_poster(dataset, movie.archive, movie.poster, height, width, "bilinear"), cv2.COLOR_RGB2GRAY)
        boxes, _, weights = cascade.detectMultiScale3(gray, 1.1, 5, minSize=(20, 20), outputRejectLevels=True)
        for (left, top, across, down), weight in zip(boxes, np.ravel(weights), strict=True):
            confidence = 1 / (1 + np.exp(-weight / 5))
            rows.append((movie.id, "face", confidence, left / width, top / height, across / width, down / height, ""))
    return pd.DataFrame(rows, columns=COLUMNS)


def plant(movies: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A table of objects that mark a random half of the movies' genres."""
    rng = np.random.default_rng(seed)
    rows = []
    for movie in movies.to_dict("records"):
        for genre in genres_of(movies):
            if movie[genre] and rng.random() < 0.5:
                rows.append((movie["id"], f"object of {genre}", rng.uniform(0.5, 1), *rng.uniform(0, 0.5, 4), ""))
    return pd.DataFrame(rows, columns=COLUMNS)


def shuffle(objects: pd.DataFrame, movies: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Move each movie's objects to another movie's poster."""
    others = np.random.default_rng(seed).permutation(movies["id"])
    return objects.assign(id=objects["id"].map(dict(zip(movies["id"], others, strict=True))))


def score(folder: Path) -> dict[str, float]:
    """Train and evaluate, and return the scores, macro AP also over the genres that are not RARE."""
    for stage in ("detect", "train", "evaluate"):
        run_python(["-m", f"stages.{stage}"], folder)
    table = pd.read_csv(folder / "metrics" / "scores.csv").set_index(["split", "score"])["model"]
    found = {}
    for split in ("validation", "test"):
        genres = pd.read_csv(folder / "metrics" / f"genres_{split}.csv")
        genres = genres[~genres["genre"].isin(RARE) & (genres["positives"] > 0)]
        found[f"{split} macro AP, {len(genres)} genres"] = float(genres["average_precision"].mean())
        found |= {f"{split} {name.replace('_', ' ')}": float(table[split, name]) for name in SHOWN}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What objects on posters contribute.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {}
    with project_copy() as folder:
        dataset = shutil.copytree(arguments.dataset, folder / "data" / "posters")
        given = dataset / "detections.csv"
        given.unlink(missing_ok=True)
        chosen = {"dataset": "data/posters", "architecture": f"two_stream/{IMAGE}", "epochs": 0, **SIZE}
        set_parameters(folder, **chosen)
        for stage in ("join", "detect"):
            run_python(["-m", f"stages.{stage}"], folder)
        movies = read_movies(folder / "data" / "movies.csv")
        lettering = pd.read_csv(folder / "data" / "detections" / "objects.csv", keep_default_na=False)
        faces, planted = find_faces(dataset, movies), plant(movies)
        tables = {
            "what the poster looks like": None,
            "and faces": faces,
            "and lettering: where and how large": lettering.assign(text=""),
            "and both": pd.concat([faces, lettering.assign(text="")]),
            "and lettering, and what it says": lettering,
            "and planted objects": planted,
            "and planted objects, shuffled": shuffle(planted, movies),
        }
        for seed in arguments.seeds:
            for i, (name, objects) in enumerate(tables.items()):
                given.unlink(missing_ok=True)
                if objects is not None:
                    objects.to_csv(given, index=False)
                architecture = IMAGE if objects is None else f"two_stream/{IMAGE}"
                set_parameters(folder, **chosen | {"architecture": architecture, "seed": seed})
                if i == 0:  # the seed chooses the validation posters
                    for stage in ("join", "cache"):
                        run_python(["-m", f"stages.{stage}"], folder)
                results.setdefault(name, []).append(score(folder))
                if arguments.json:
                    arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    columns = list(next(iter(results.values()))[0])
    print(f"\n{machine()}: {len(faces)} faces on {faces['id'].nunique()} of {len(movies)} posters; seeds {arguments.seeds}")
    print("\n| | " + " | ".join(columns) + " |\n| --- |" + " --- |" * len(columns))
    for name, runs in results.items():
        cells = []
        for column in columns:
            values = [run[column] for run in runs]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
