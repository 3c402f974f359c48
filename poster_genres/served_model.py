"""The model as served by MLflow: posters in, as paths or base64; one probability per genre out.

MLflow copies this file and the package into the logged model and runs it when the model is loaded.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

from poster_genres.devices import choose_device
from poster_genres.prediction import Predictor


class PosterModel(PythonModel):
    """`predict` takes a table with a text column `poster` and returns a table with one row per poster and one column per genre."""

    predictor: Predictor

    def load_context(self, context: Any) -> None:
        self.predictor = Predictor(Path(context.artifacts["model"]), choose_device())

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        rows = []
        posters = [self._read(text, i) for i, text in enumerate(model_input["poster"])]
        for i, result in enumerate(self.predictor.predict(posters)):
            if isinstance(result, str):
                raise refusal(i, result)
            rows.append(result.probabilities.astype(float))
        genres = self.predictor.model.genres
        return pd.DataFrame(np.reshape(rows, (-1, len(genres))), columns=genres)

    def _read(self, text: str, row: int) -> bytes:
        """A poster's bytes. A text that is not an existing file's path, of at most 4,096 characters, is base64."""
        try:
            if len(text) <= 4096 and Path(text).is_file():
                return Path(text).read_bytes()
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise refusal(row, str(error)) from None


def refusal(row: int, reason: str) -> mlflow.MlflowException:
    message = f"poster {row}: {reason}; give an image file's path on the server, or the file's content in base64"
    return mlflow.MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(PosterModel())
