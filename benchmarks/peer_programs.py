"""What people write in an evening to train a network on posters, with torchvision or fastai; `benchmarks.against_peers` runs it.

Run: `python -m benchmarks.peer_programs torchvision|fastai TABLE EPOCHS OUTPUT`, with fastai, scikit-learn and pandas installed.
TABLE has the columns `image` (a path) and `split`, and a column of 0 and 1 for each genre. The network is this project's
`residual`; all else is as these libraries' own examples have it. OUTPUT gets the probabilities of validation and test. The last
line is JSON: the seconds of each epoch, validation included.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from poster_genres.networks.residual import residual

HEIGHT, WIDTH, BATCH = 160, 112, 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
Probabilities = dict[str, np.ndarray]
Trained = tuple[Probabilities, list[float]]


class Posters(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """A poster and its genres, decoded anew in each epoch."""

    def __init__(self, table: pd.DataFrame, genres: list[str], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths = table["image"].tolist()
        self.labels = torch.tensor(table[genres].to_numpy(np.float32))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(Image.open(self.paths[i]).convert("RGB")), self.labels[i]


def with_torchvision(table: pd.DataFrame, genres: list[str], epochs: int) -> Trained:
    """A dataset, a loader with a worker for each core, Adam, and a loop."""
    from sklearn.metrics import average_precision_score
    from torchvision import transforms

    plain = [transforms.Resize((HEIGHT, WIDTH)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    loaders = {}
    for split, rows in table.groupby("split"):
        train = split == "train"
        transform = transforms.Compose([transforms.RandomHorizontalFlip(), *plain] if train else plain)
        dataset = Posters(rows, genres, transform)
        loaders[split] = torch.utils.data.DataLoader(dataset, BATCH, shuffle=train, num_workers=2, persistent_workers=True)
    network = residual(len(genres), HEIGHT, WIDTH)
    loss_function = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def predict(split: str) -> np.ndarray:
        network.eval()
        with torch.no_grad():
            return torch.cat([torch.sigmoid(network(images)) for images, _ in loaders[split]]).numpy()

    labels = table.loc[table["split"] == "validation", genres].to_numpy()
    seconds = []
    for epoch in range(epochs):
        start = time.perf_counter()
        network.train()
        for images, targets in loaders["train"]:
            optimizer.zero_grad()
            loss = loss_function(network(images), targets)
            loss.backward()
            optimizer.step()
        score = average_precision_score(labels, predict("validation"), average="micro")
        seconds.append(time.perf_counter() - start)
        print(f"epoch {epoch + 1}: train loss {loss.item():.4f}, validation micro AP {score:.4f}", flush=True)
    return {split: predict(split) for split in ("validation", "test")}, seconds


def with_fastai(table: pd.DataFrame, genres: list[str], epochs: int) -> Trained:
    """Data blocks, a learner with fastai's augmentations, and `fit_one_cycle`."""
    import fastai.vision.all as fastai

    class Clock(fastai.Callback):
        seconds: list[float] = []  # noqa: RUF012

        def before_epoch(self) -> None:
            self.began = time.perf_counter()

        def after_epoch(self) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    used = table[table["split"] != "test"].reset_index(drop=True)
    used["is_valid"] = used["split"] == "validation"
    block = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.MultiCategoryBlock(encoded=True, vocab=genres)),
        get_x=fastai.ColReader("image"),
        get_y=fastai.ColReader(genres),
        splitter=fastai.ColSplitter(),
        item_tfms=fastai.Resize((HEIGHT, WIDTH), method="squish"),
        batch_tfms=[*fastai.aug_transforms(), fastai.Normalize.from_stats(MEAN, STD)],
    )
    loaders = block.dataloaders(used, bs=BATCH, num_workers=2)
    learner = fastai.Learner(
        loaders,
        residual(len(genres), HEIGHT, WIDTH),
        loss_func=fastai.BCEWithLogitsLossFlat(),
        metrics=[fastai.APScoreMulti(average="micro")],
    )
    clock = Clock()
    learner.fit_one_cycle(epochs, cbs=clock)
    probabilities = {}
    for split in ("validation", "test"):
        of_split = loaders.test_dl(table[table["split"] == split].reset_index(drop=True))
        probabilities[split] = learner.get_preds(dl=of_split)[0].numpy()
    return probabilities, clock.seconds


PROGRAMS: dict[str, Callable[[pd.DataFrame, list[str], int], Trained]] = {"torchvision": with_torchvision, "fastai": with_fastai}


def main() -> None:
    parser = argparse.ArgumentParser(description="What people write in an evening to train a network on posters.")
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("table", type=Path)
    parser.add_argument("epochs", type=int)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.table)
    genres = [column for column in table.columns if column not in ("image", "split")]
    torch.manual_seed(arguments.seed)
    probabilities, seconds = PROGRAMS[arguments.program](table, genres, arguments.epochs)
    saved: dict[str, Any] = probabilities
    np.savez(arguments.output, **saved)
    print(json.dumps({"epochs": seconds}))


if __name__ == "__main__":
    main()
