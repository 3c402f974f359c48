"""A trained model and all that its predictions for new posters need: what the command `predict`, the page of `demo` and the model
that MLflow serves have in common."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path

import numpy as np
import torch

from poster_genres.architectures import needs_objects
from poster_genres.detection import check_detectors, detect, with_embeddings
from poster_genres.errors import InputError
from poster_genres.found import Store
from poster_genres.model import load_model, predict_probabilities
from poster_genres.mpnet import mpnet
from poster_genres.objects import SENTENCE_LENGTH, Detection, PosterDetections
from poster_genres.old_model import OldWords
from poster_genres.parameters import SAMPLE
from poster_genres.posters import Unreadable, decode
from poster_genres.spread import spread
from poster_genres.tracking import RUN

TRAINED = Path("models/model.pt")
# Part of the project: models/README.md.
SHIPPED = Path("models/real_posters.pt")
READABLE = "JPEG, PNG, GIF, WebP, BMP and TIFF can be read"
# How many posters a detector that uses all cores sees at a time: few, so that results come soon.
DETECTED = 2
# How many posters the networks see at a time: on a CPU one, on a core of its own.
SEEN, SEEN_BY_A_CORE = 16, 1


@dataclass(frozen=True)
class Prediction:
    """What a model says of one poster.

    Attributes
    ----------
    pixels : what the networks saw, uint8 (height, width, 3)
    content : what was read and found on it; None if the model uses pixels only
    probabilities : float32 (genres,), in [0, 1]
    """

    pixels: np.ndarray
    content: PosterDetections | None
    probabilities: np.ndarray


def choose_model(named: Path | None) -> Path:
    """The model to use: the one that is named, else the project's own, else the bundled one. Says which, unless named.

    `models:/…` names one in MLflow's registry. Raises InputError where it is not there.
    """
    if named is not None and named.parts[:1] == ("models:",):
        from poster_genres.registry import model_file

        return model_file(named.as_posix())
    if named is not None:
        return named
    if TRAINED.is_file() or not SHIPPED.is_file():
        dataset = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            dataset = str(json.loads(RUN.read_text(encoding="utf-8"))["parameters"]["dataset"])
        if Path(dataset) == SAMPLE:
            print(f"{TRAINED}: trained on synthetic posters; --model {SHIPPED} knows real ones", file=sys.stderr)
        elif dataset:
            print(f"{TRAINED}: trained on {dataset}", file=sys.stderr)
        return TRAINED
    print(f"{TRAINED}: not trained yet; predicting with {SHIPPED}, which was trained on real posters", file=sys.stderr)
    return SHIPPED


class Predictor:
    """A model on a device.

    Parameters
    ----------
    path : of the model's file
    given : whether `predict` will be given what is on the posters, so that the model's detectors are not needed
    store : what was found on posters before; see `detect`
    dask_scheduler : of a cluster to look for detections on; see `spread`

    Raises
    ------
    InputError
        The model cannot be read; or its detectors are not installed in the versions that it was trained with, or it was trained on
        objects from a table and none are given.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device,
        given: bool = False,
        store: Store | None = None,
        dask_scheduler: str | None = None,
    ) -> None:
        self.device = device
        self.model = load_model(path, device)
        self.given, self.store, self.dask_scheduler = given, store, dask_scheduler
        if needs_objects(self.model.architecture) and not given:
            if not self.model.detectors:
                raise InputError(
                    "the model was trained on objects from a table; give such a table of these posters with --detections"
                )
            check_detectors(self.model.detectors)

    def predict(self, posters: Iterable[bytes], objects: Iterable[list[Detection]] | None = None) -> Iterator[Prediction | str]:
        """Predict image files from their contents, of which only few are read ahead.

        Parameters
        ----------
        objects : the detections on each poster, where the predictor was told that they are given

        Yields
        ------
        For each poster the prediction, or why it cannot be read.
        """
        detectors = self.model.detectors if needs_objects(self.model.architecture) and not self.given else {}
        files, *copies = tee(posters, 1 + len(detectors))
        found: list[Iterable[list[Detection] | str]] = [
            detect(name, copy, self.store, self.dask_scheduler, DETECTED) for name, copy in zip(detectors, copies, strict=True)
        ]
        if objects is not None:
            found.append(objects)
        pairs: Iterator[tuple[bytes, PosterDetections | None]] = ((data, None) for data in files)
        if needs_objects(self.model.architecture):
            pairs = zip(files, self._contents(found), strict=True)
        cpu = self.device.type == "cpu"
        batches = iter(lambda: list(islice(pairs, SEEN_BY_A_CORE if cpu else SEEN)), [])
        for results in spread(self._predict_batch, batches, cores=None if cpu else 1):
            yield from results

    def _contents(self, found: list[Iterable[list[Detection] | str]]) -> Iterator[PosterDetections]:
        """What is on each poster, given what each detector found; nothing on one that cannot be read."""
        objects = (
            [detection for part in parts if not isinstance(part, str) for detection in part] for parts in zip(*found, strict=True)
        )
        if not self.embeds:
            return (PosterDetections(one, *np.zeros((2, SENTENCE_LENGTH), np.float32)) for one in objects)
        return with_embeddings(objects, self.store, self.dask_scheduler)

    @property
    def embeds(self) -> bool:
        """Whether the model uses what `mpnet` makes of words."""
        return self.model.words is not None and not isinstance(self.model.words, OldWords)

    def prepare(self) -> None:
        """Load, and at first download, what would otherwise be loaded at the first poster with words. Raises InputError."""
        if self.embeds:
            mpnet()

    def _predict_batch(self, batch: list[tuple[bytes, PosterDetections | None]]) -> list[Prediction | str]:
        """Predict posters, each given by its file's content and what is on it; by one core, as others have other posters."""
        torch.set_num_threads(1)
        model = self.model
        results: list[np.ndarray | str] = []
        for data, _ in batch:
            try:
                results.append(decode(data, model.height, model.width, model.interpolation))
            except Unreadable as error:
                results.append(str(error))
        pixels = [result for result in results if isinstance(result, np.ndarray)]
        known = zip(batch, results, strict=True)
        contents = [content for (_, content), result in known if content is not None and not isinstance(result, str)]
        probabilities = iter(
            predict_probabilities(model, np.stack(pixels), self.device, detected=contents or None) if pixels else ()
        )
        return [
            result if isinstance(result, str) else Prediction(result, content, next(probabilities))
            for (_, content), result in zip(batch, results, strict=True)
        ]

    def verdict(self, prediction: Prediction) -> list[str]:
        """The genres whose probability is at least their threshold, the most probable first."""
        chosen = np.flatnonzero(prediction.probabilities >= np.array(self.model.thresholds))
        return [self.model.genres[i] for i in chosen[np.argsort(-prediction.probabilities[chosen], kind="stable")]]
