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

from poster_genres.detection import check_detectors, detect_for
from poster_genres.devices import choose_device
from poster_genres.model import Model, load_model, predict_probabilities
from poster_genres.posters import Unreadable, decode


class PosterModel(PythonModel):
    """`predict` takes a table with a text column `poster` and returns a table with one row per poster and one column per genre."""

    model: Model

    def load_context(self, context: Any) -> None:
        self.model = load_model(Path(context.artifacts["model"]), choose_device())
        check_detectors(self.model.detectors)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        posters = [self._read(text, i) for i, text in enumerate(model_input["poster"])]
        pixels = np.stack([array for _, array in posters])
        contents = detect_for(self.model.architecture, self.model.detectors, [data for data, _ in posters])
        probabilities = predict_probabilities(self.model, pixels, choose_device(), detected=contents)
        return pd.DataFrame(probabilities.astype(float), columns=self.model.genres)

    def _read(self, text: str, row: int) -> tuple[bytes, np.ndarray]:
        """A poster's bytes and pixels. A text that is not an existing file's path, of at most 4,096 characters, is base64."""
        try:
            data = Path(text).read_bytes() if len(text) <= 4096 and Path(text).is_file() else base64.b64decode(text, validate=True)
            return data, decode(data, self.model.height, self.model.width, self.model.interpolation)
        except (binascii.Error, ValueError, Unreadable) as error:
            raise mlflow.MlflowException.invalid_parameter_value(
                f"poster {row}: {error}; give an image file's path on the server, or the file's content in base64"
            ) from None


mlflow.models.set_model(PosterModel())
