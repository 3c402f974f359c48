"""The model as served by MLflow: posters in; for each, the verdict and one probability per genre out, or why it cannot be read.

MLflow copies this file and the package into the logged model and runs it when the model is loaded.
"""

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from poster_genres.devices import choose_device
from poster_genres.posters import Unreadable
from poster_genres.prediction import READABLE, Predictor

MAX_BYTES = 20_000_000
ADVICE = f"send a file of at most {MAX_BYTES // 1_000_000} MB in base64; {READABLE}"


class PosterModel(PythonModel):
    """`predict` takes a table with a column `poster`, and returns one with a row per poster and three columns.

    These are `verdict`, the genres above their thresholds; `probabilities`, by genre; and `error`, None or why this poster cannot
    be read, in which case the others are empty. A text is a file's content in base64 and never a path, as it may come over HTTP.
    In Python, a poster may also be `bytes`, a file's content, or a `pathlib.Path`, neither of which any request can make.
    """

    predictor: Predictor

    def load_context(self, context: Any) -> None:
        self.predictor = Predictor(Path(context.artifacts["model"]), choose_device())
        self.predictor.prepare()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        posters = list(model_input["poster"])
        refused: dict[int, str] = {}

        def contents() -> Iterator[bytes]:
            for i, poster in enumerate(posters):
                try:
                    yield read(poster)
                except Unreadable as error:
                    refused[i] = str(error)
                    yield b""

        rows: list[tuple[list[str], dict[str, float], str | None]] = []
        for i, result in enumerate(self.predictor.predict(contents())):
            if isinstance(result, str):
                rows.append(([], {}, f"{refused.get(i, result)}; {ADVICE}"))
            else:
                probabilities = zip(self.predictor.model.genres, result.probabilities.tolist(), strict=True)
                rows.append((self.predictor.verdict(result), dict(probabilities), None))
        return pd.DataFrame(rows, columns=["verdict", "probabilities", "error"], dtype=object)


def read(poster: object) -> bytes:
    """A poster's bytes. Raises Unreadable."""
    if isinstance(poster, Path):
        try:
            with poster.open("rb") as file:
                poster = file.read(MAX_BYTES + 1)
        except OSError:
            raise Unreadable("cannot be read") from None
    elif isinstance(poster, str):
        # Four letters hold three bytes; `base64` breaks lines.
        if len(poster) > MAX_BYTES * 3 // 2:
            raise Unreadable("too large")
        try:
            poster = base64.b64decode("".join(poster.split()), validate=True)
        except (binascii.Error, ValueError):
            raise Unreadable("not base64") from None
    if not isinstance(poster, bytes):
        raise Unreadable("not a text in base64")
    if len(poster) > MAX_BYTES:
        raise Unreadable("too large")
    return poster


set_model(PosterModel())
