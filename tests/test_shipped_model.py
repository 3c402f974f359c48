"""The model that comes with the project: models/README.md."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from poster_genres.dataset import read_bytes
from poster_genres.model import load_model
from poster_genres.movies import read_movies
from poster_genres.prediction import SHIPPED, Prediction, Predictor
from tests.conftest import ROOT, copy_project, set_parameters, stage

CPU = torch.device("cpu")


def test_it_is_small_and_holds_no_backbone() -> None:
    path = ROOT / SHIPPED
    assert path.stat().st_size < 1_600_000
    content = torch.load(path, weights_only=True)
    assert list(content["probe"]) == ["head.1.weight", "head.1.bias"]
    assert content["networks"] == []
    assert zipfile.ZipFile(path).testzip() is None
    assert len(load_model(path, CPU).genres) == 24


def test_a_newcomer_predicts_with_it(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    Image.new("RGB", (200, 300), (90, 20, 20)).save(project / "poster.png")
    done = stage("predict", "poster.png", cwd=project)
    assert done.stderr.splitlines()[-1] == (
        "models/model.pt: not trained yet; predicting with models/real_posters.pt, which was trained on real posters"
    )
    assert len(done.stdout.splitlines()) == 11


def test_it_knows_comedies_that_it_has_not_seen(tmp_path: Path, real_posters: Path) -> None:
    project = copy_project(tmp_path / "project")
    set_parameters(project, dataset=str(real_posters))
    stage("join", cwd=project)
    movies = read_movies(project / "data" / "movies.csv")
    unseen = movies[movies["split"] == "test"]
    chosen = pd.concat([unseen[unseen["Comedy"] == 1].head(20), unseen[unseen["Comedy"] == 0].head(20)])
    predictor = Predictor(ROOT / SHIPPED, CPU)
    results = list(predictor.predict(read_bytes(real_posters, row.archive, row.poster) for row in chosen.itertuples()))
    comedy = predictor.model.genres.index("Comedy")
    probabilities = np.array([result.probabilities[comedy] for result in results if isinstance(result, Prediction)])
    # Guesses would reach 0.7 in one of seventy such samples.
    assert roc_auc_score(chosen["Comedy"], probabilities) > 0.7


def test_bytes_that_are_no_image_are_said_and_the_rest_goes_on() -> None:
    predictor = Predictor(ROOT / SHIPPED, CPU)
    buffer = io.BytesIO()
    Image.new("RGB", (200, 300), (90, 20, 20)).save(buffer, "PNG")
    first, second, third = predictor.predict([buffer.getvalue(), b"text", buffer.getvalue()])
    assert second == "not an image"
    assert isinstance(first, Prediction)
    assert isinstance(third, Prediction)
    assert np.array_equal(first.probabilities, third.probabilities)
