"""What wrong pixel normalisation costs a pretrained network: EfficientNet-Lite with its authors' constants and with ImageNet's.

Run: `python -m benchmarks.pixels [DATASET] [--variants efficientnet_lite1 …] [--size H W] [--seeds 0 1 2]`, by default on
../shared at 320 x 224. Linear probes on the features of all blocks, with weight decay chosen on validation; differences are
paired, with their standard errors over posters. Works in a temporary copy of the project; Linux and macOS.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.paired import HEADER, row, score_resampled
from benchmarks.pipeline import DATASET, machine, project_copy, run_python, set_parameters
from poster_genres.devices import prepare
from poster_genres.inputs import Inputs
from poster_genres.logistic import fit_logistic
from poster_genres.model import Model
from poster_genres.movies import genres_of, labels_of, read_movies
from poster_genres.network import STANDARD, Preprocessing, find_architecture
from poster_genres.tensor_cache import Posters, read_cache
from poster_genres.training import DECAYS


def features_of(variant: str, preprocessing: Preprocessing, posters: Posters) -> torch.Tensor:
    """float32 (posters, features) of a frozen variant with this preprocessing."""
    _, height, width, _ = posters.shape
    architecture = find_architecture(variant)
    network = architecture.build(1, height, width)
    assert architecture.load_pretrained is not None
    architecture.load_pretrained(network)
    model = Model(variant, [""], height, width, list(preprocessing.mean), list(preprocessing.std), [network], [0.5])
    return Inputs(model, posters, prepare(), frozen_blocks=0).features(np.arange(len(posters)), with_maps=False).mean(dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="What wrong pixel normalisation costs.")
    parser.add_argument("dataset", nargs="?", type=Path, default=DATASET)
    parser.add_argument("--variants", nargs="+", default=["efficientnet_lite1"])
    parser.add_argument("--size", nargs=2, type=int, default=[320, 224], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    height, width = arguments.size
    with project_copy() as folder:
        chosen = {"architecture": "efficientnet_lite1", "image_height": height, "image_width": width}
        set_parameters(folder, dataset=str(arguments.dataset.resolve()), **chosen)
        for stage in ("join", "cache"):
            run_python(["-m", f"stages.{stage}"], folder)
        posters, movies = read_cache(folder / "data" / "cache")
        rows_of = {movie: i for i, movie in enumerate(movies["id"])}
        tables = []
        for seed in arguments.seeds:
            set_parameters(folder, seed=seed, dataset=str(arguments.dataset.resolve()), **chosen)
            run_python(["-m", "stages.join"], folder)
            tables.append(read_movies(folder / "data" / "movies.csv"))
        print(f"{machine()}; {height} x {width}; seeds {arguments.seeds}")
        for variant in arguments.variants:
            right = find_architecture(variant).preprocessing
            runs: dict[str, list[np.ndarray]] = {}
            for name, preprocessing in (("ImageNet's", STANDARD), ("its authors'", right)):
                features = features_of(variant, preprocessing, posters)
                for seed, table in zip(arguments.seeds, tables, strict=True):
                    seen = features[[rows_of[movie] for movie in table["id"]]]
                    splits, genres, labels = table["split"].to_numpy(str), genres_of(table), torch.from_numpy(labels_of(table))
                    rows = {split: torch.from_numpy(splits == split) for split in ("train", "validation", "test")}
                    fits = [fit_logistic(seen[rows["train"]], labels[rows["train"]], decay) for decay in DECAYS]
                    losses = [
                        float(binary_cross_entropy_with_logits(seen[rows["validation"]] @ w.T + b, labels[rows["validation"]]))
                        for w, b in fits
                    ]
                    weight, bias = fits[int(np.argmin(losses))]
                    for split in ("validation", "test"):
                        truth = labels[rows[split]].numpy()
                        logits = (seen[rows[split]] @ weight.T + bias).numpy()
                        runs.setdefault(f"{split}: {name}", []).append(score_resampled(truth, logits, genres, seed))
            print(f"\n| {variant}, mean and deviation | {HEADER}")
            for split in ("validation", "test"):
                for name in ("ImageNet's", "its authors'"):
                    print(row(f"{split}: {name}", runs[f"{split}: {name}"], runs[f"{split}: ImageNet's"]), flush=True)


if __name__ == "__main__":
    main()
