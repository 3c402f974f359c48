"""What features from inside objects' bounding boxes add to a frozen network's features of whole real posters.

Run: `python -m benchmarks.boxes [DATASET] [--detector FILE.onnx] [--seeds 0 1 2]`, by default on ../shared with its YOLOX-Nano. The
network is efficientnet_lite0 at 240 x 168; its feature maps are averaged over whole posters, the largest person's box, all boxes
of objects, and the rest. Logistic regressions on concatenated features (a region that a poster lacks has the training mean),
with weight decay chosen on validation, are scored on validation and test posters; differences from whole posters alone are paired,
with their standard errors over posters. Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from benchmarks.paired import HEADER, row, score_resampled
from benchmarks.parts import DETECTOR
from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters
from poster_genres.devices import prepare
from poster_genres.logistic import fit_logistic
from poster_genres.model import Model
from poster_genres.movies import genres_of, labels_of, read_movies
from poster_genres.network import find_architecture
from poster_genres.objects import Detection, read_detections
from poster_genres.tensor_cache import read_cache

IMAGE, HEIGHT, WIDTH = "efficientnet_lite0", 240, 168
REGIONS = ("whole", "largest person", "all boxes", "rest")
CHOICES = {
    "whole poster": ("whole",),
    "and the largest person": ("whole", "largest person"),
    "and all boxes": ("whole", "all boxes"),
    "and the rest": ("whole", "rest"),
    "and all of these": REGIONS,
}
DECAYS = (0.1, 0.3, 1.0, 3.0)
BATCH = 32


def masks(objects: list[Detection], rows: int, columns: int) -> np.ndarray:
    """Masks of REGIONS on a feature map: float32 (regions, rows, columns), 0 or 1."""
    found = np.zeros((len(REGIONS), rows, columns), np.float32)
    found[0] = 1
    boxes = [one for one in objects if not one.text]
    persons = sorted((one for one in boxes if one.label == "person"), key=lambda one: -one.width * one.height)
    for region, chosen in ((1, persons[:1]), (2, boxes)):
        for one in chosen:
            top, left = int(one.top * rows), int(one.left * columns)
            bottom, right = round((one.top + one.height) * rows), round((one.left + one.width) * columns)
            found[region, top : max(bottom, top + 1), left : max(right, left + 1)] = 1
    found[3] = 1 - found[2] if boxes else 0
    return found


def region_features(folder: Path) -> tuple[list[str], np.ndarray]:
    """IDs of all movies, and float32 (movies, regions, features), NaN for regions that a poster lacks."""
    posters, movies = read_cache(folder / "data" / "cache")
    detected = read_detections(folder / "data" / "detections", list(movies["id"])).posters
    architecture = find_architecture(IMAGE)
    network, preprocessing = architecture.build(1, HEIGHT, WIDTH).eval(), architecture.preprocessing
    assert architecture.load_pretrained is not None
    architecture.load_pretrained(network)
    model = Model(IMAGE, [""], HEIGHT, WIDTH, list(preprocessing.mean), list(preprocessing.std), [network], [0.5])
    features = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(movies), BATCH), desc="features", unit=" batches", disable=None):
            rows = np.arange(start, min(start + BATCH, len(movies)))
            maps = network.maps(model.normalise(torch.from_numpy(posters[rows])))
            pooled = []
            for one in maps:
                size = one.shape[2:]
                regions = torch.from_numpy(np.stack([masks(detected[row].objects, *size) for row in rows]))
                total = torch.einsum("nchw,nrhw->nrc", one, regions)
                pooled.append(total / regions.sum(dim=(2, 3))[:, :, None])
            features.append(torch.cat(pooled, dim=2).numpy())
    return list(movies["id"]), np.concatenate(features)


def fit(features: torch.Tensor, labels: torch.Tensor, splits: np.ndarray) -> np.ndarray:
    """Logits (posters, genres) of logistic regressions on training posters, with the weight decay that is best on validation."""
    train, validation = torch.from_numpy(splits == "train"), torch.from_numpy(splits == "validation")
    logits = []
    for decay in DECAYS:
        weight, bias = fit_logistic(features[train], labels[train], decay)
        logits.append(features @ weight.T + bias)
    losses = [float(binary_cross_entropy_with_logits(each[validation], labels[validation])) for each in logits]
    return logits[int(np.argmin(losses))].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description="What features inside objects' boxes add to a frozen network.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--detector", type=Path, default=DETECTOR, help="a detector in an ONNX file")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    runs: dict[str, list[np.ndarray]] = {}
    prepare()
    with project_copy() as folder:
        (folder / "data" / "detectors").mkdir(parents=True)
        shutil.copy(arguments.detector, folder / "data" / "detectors")
        chosen = {"detectors": [f"onnx/data/detectors/{arguments.detector.name}"], "architecture": f"two_stream/{IMAGE}"}
        set_parameters(folder, dataset=str(arguments.dataset.resolve()), image_height=HEIGHT, image_width=WIDTH, **chosen)
        for stage in ("join", "cache", "detect"):
            run_python(["-m", f"stages.{stage}"], folder)
        ids, everything = region_features(folder)
        # Seeds change only the split, so the features are computed once.
        rows_of = {movie: i for i, movie in enumerate(ids)}
        for seed in arguments.seeds:
            set_parameters(folder, dataset=str(arguments.dataset.resolve()), seed=seed)
            run_python(["-m", "stages.join"], folder)
            movies = read_movies(folder / "data" / "movies.csv")
            splits, labels, genres = movies["split"].to_numpy(str), labels_of(movies), genres_of(movies)
            features = everything[[rows_of[movie] for movie in movies["id"]]]
            means = np.nanmean(features[splits == "train"], axis=0)
            features = np.where(np.isnan(features), means, features)
            for name, regions in CHOICES.items():
                seen = torch.from_numpy(features[:, [REGIONS.index(region) for region in regions]].reshape(len(movies), -1))
                logits = fit(seen, torch.from_numpy(labels), splits)
                for split in ("validation", "test"):
                    rows = splits == split
                    runs.setdefault(f"{split}: {name}", []).append(score_resampled(labels[rows], logits[rows], genres, seed))
    print(f"\n{machine()}; {IMAGE} at {HEIGHT} x {WIDTH}; seeds {arguments.seeds}")
    for split in ("validation", "test"):
        print(f"\n| {split} | {HEADER}")
        for name in CHOICES:
            print(row(name, runs[f"{split}: {name}"], runs[f"{split}: whole poster"]))


if __name__ == "__main__":
    main()
