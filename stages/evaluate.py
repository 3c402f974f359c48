"""Score the trained model on validation and test posters, and for comparison the prior: the genres' frequencies in training.

In: models/model.pt, data/cache, data/detections, metrics/history.csv. Out, in metrics/: evaluation.json (the headline), scores.csv
(all scores, with 95 % intervals), genres_*.csv (one row per genre), precision_recall.csv, reliability.csv, confusions.csv (which
genres are mistaken for which), decades.csv, duplicates.csv (near-duplicate posters in different splits), words.csv (the words that
indicate each genre), figures/ and report.html, the report. All are also logged to the MLflow run of models/run.json. Run:
`python -m stages.evaluate`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from sklearn.metrics import precision_recall_curve

from poster_genres import errors, evaluation, figures, finished_run
from poster_genres.devices import prepare
from poster_genres.duplicates import find_duplicates, perceptual_hashes
from poster_genres.files import whole_file, write_json
from poster_genres.fusion import equal_weights, out_of_fold_logits
from poster_genres.model import Model, predict_evidence
from poster_genres.movies import SPLITS, genres_of, labels_of
from poster_genres.objects import PosterDetections
from poster_genres.parameters import EvaluateParameters, read_parameters
from poster_genres.report import choose_examples, describe_poster, write_report
from poster_genres.scores import MIN_POSITIVES, binary_cross_entropy, tune_thresholds
from poster_genres.tensor_cache import Posters
from poster_genres.tracking import caveat

METRICS = Path("metrics")
FIGURES = METRICS / "figures"
# The few scores that fit in `dvc metrics show` and `dvc exp show`; metrics/scores.csv has all.
HEADLINE = {
    "test": ("test model", ("macro_average_precision", "micro_average_precision", "macro_f1", "micro_f1")),
    "prior": ("test prior", ("macro_average_precision",)),
    "validation": ("validation model", ("macro_average_precision",)),
}
CURVE_POINTS = 200


def precision_recall(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The micro-averaged precision-recall curve, by increasing recall, thinned to about CURVE_POINTS points."""
    precision, recall, _ = precision_recall_curve(labels.ravel(), probabilities.ravel())
    points = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).astype(int))[::-1]
    return pd.DataFrame({"recall": recall[points], "precision": precision[points]})


def write_table(table: pd.DataFrame, path: Path) -> None:
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def decades_of(movies: pd.DataFrame) -> np.ndarray:
    """`1980s` for 1987; empty if the year is unknown."""
    return np.array([f"{year[:3]}0s" if year else "" for year in movies["year"]])


def duplicates_between_splits(posters: Posters, movies: pd.DataFrame) -> pd.DataFrame:
    """Pairs of near-duplicate posters in different splits, by movie ID."""
    splits = movies["split"].to_numpy(str)
    pairs = find_duplicates(perceptual_hashes(posters), splits)
    ids = movies["id"].to_numpy(str)
    table = pd.DataFrame(index=pairs.index)
    for side in ("first", "second"):
        table[side], table[f"{side}_split"] = ids[pairs[side]], splits[pairs[side]]
    return table.assign(distance=pairs["distance"])


class Predictions(NamedTuple):
    """One split's labels (posters, genres), each part's logits, the model's probabilities and the prior's; float32."""

    labels: np.ndarray
    evidence: dict[str, np.ndarray]
    probabilities: np.ndarray
    prior: np.ndarray


def predict_splits(
    model: Model, posters: Posters, movies: pd.DataFrame, contents: list[PosterDetections] | None, device: torch.device
) -> dict[str, Predictions]:
    """Predict validation and test posters."""
    assert model.fusion is not None
    labels, splits = labels_of(movies), movies["split"].to_numpy(str)
    predictions = {}
    for split in ("validation", "test"):
        rows = np.flatnonzero(splits == split)
        evidence = predict_evidence(model, posters, device, rows, contents)
        # The fusion's weights are fitted on validation posters, so their own logits must be out of fold.
        logits = out_of_fold_logits(evidence, labels[rows]) if split == "validation" else model.fusion.logits(evidence)
        prior = np.tile(np.array(model.prior, np.float32), (len(rows), 1))
        predictions[split] = Predictions(labels[rows], evidence, expit(logits), prior)
    return predictions


def score_splits(
    model: Model, predictions: dict[str, Predictions], seed: int
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], dict[str, dict[str, float]]]:
    """Score the model and the prior on each split.

    Returns
    -------
    The table of metrics/scores.csv; the tables of metrics/genres_*.csv, by split; and the content of metrics/evaluation.json.
    """
    thresholds = np.array(model.thresholds)
    # Also tuned on validation. The prior's F1 is highest when it predicts every genre, which shrunk thresholds would prevent.
    prior_thresholds = tune_thresholds(predictions["validation"].labels, predictions["validation"].prior, shrinkage=0)
    rows: list[dict[str, Any]] = []
    scores: dict[str, dict[str, float]] = {}
    by_genre = {}
    for split, (labels, _, probabilities, prior) in predictions.items():
        model_scores = evaluation.score(labels, probabilities, model.threshold, thresholds)
        prior_scores = evaluation.score(labels, prior, *prior_thresholds)
        intervals, genre_intervals = evaluation.bootstrap(labels, probabilities, model.threshold, thresholds, seed)
        for name, value in model_scores.items():
            low, high = intervals.get(name, (np.nan, np.nan))
            rows.append({"split": split, "score": name, "model": value, "prior": prior_scores[name], "low": low, "high": high})
        scores |= {f"{split} model": model_scores, f"{split} prior": prior_scores}
        by_genre[split] = evaluation.score_genres(model.genres, labels, probabilities, prior, thresholds)
        by_genre[split][["low", "high"]] = genre_intervals
    headline = {key: {name: round(scores[scored][name], 4) for name in names} for key, (scored, names) in HEADLINE.items()}
    return pd.DataFrame(rows), by_genre, headline


def indicative_words(model: Model, contents: list[PosterDetections] | None, train: np.ndarray) -> pd.DataFrame:
    """The words on training posters that most indicate each genre (`Words.most_indicative`); empty if the model uses no words."""
    if model.words is None or contents is None:
        return pd.DataFrame(columns=["genre", "word", "log_odds", "posters"])
    return model.words.most_indicative([contents[row] for row in np.flatnonzero(train)], model.genres)


def choose_gallery(
    posters: Posters,
    movies: pd.DataFrame,
    contents: list[PosterDetections] | None,
    labels: np.ndarray,
    probabilities: np.ndarray,
    seed: int,
) -> dict[str, list[dict[str, Any]]]:
    """Test posters for the report's gallery, by heading, from (test posters, genres) labels and probabilities.

    `contents` holds the detections on every poster, for two_stream/… architectures.
    """
    rows = np.flatnonzero(movies["split"] == "test")
    genres = genres_of(movies)

    def describe(i: int) -> dict[str, Any]:
        detections = None if contents is None else contents[rows[i]].objects
        return describe_poster(posters[rows[i]], movies.iloc[rows[i]], genres, probabilities[i], detections)

    return {
        heading.capitalize(): [describe(i) for i in chosen]
        for heading, chosen in choose_examples(labels, probabilities, seed).items()
    }


def print_scores(test_scores: pd.DataFrame, by_genre: pd.DataFrame, posters: int, note: str) -> None:
    """Print the test scores of model and prior, which genres the macro averages leave out, and a note on the data set."""
    print(f"{posters} test posters{'':17}   model   prior   95 % interval")
    for row in test_scores.itertuples():
        interval = "" if np.isnan(row.low) else f"  {row.low:6.4f} to {row.high:6.4f}"
        print(f"{row.score.replace('_', ' '):32}  {row.model:6.4f}  {row.prior:6.4f}{interval}")
    left_out = by_genre[~by_genre["scored"]]
    if len(left_out):
        names = ", ".join(f"{row.genre} ({row.positives})" for row in left_out.itertuples())
        print(f"macro scores leave out the genres with fewer than {MIN_POSITIVES} test posters: {names}")
    if note:
        print(note)


def tables_of_test(
    model: Model, posters: Posters, movies: pd.DataFrame, contents: list[PosterDetections] | None, test: Predictions
) -> dict[str, pd.DataFrame]:
    """The tables in metrics/ that the report shows beside the scores, by name."""
    splits = movies["split"].to_numpy(str)
    predicted = test.probabilities >= np.array(model.thresholds)
    decades = decades_of(movies[splits == "test"])
    return {
        "precision_recall": precision_recall(test.labels, test.probabilities),
        "reliability": evaluation.reliability(test.labels, test.probabilities),
        "confusions": evaluation.confusions(model.genres, test.labels, predicted),
        "decades": evaluation.score_slices(decades, test.labels, test.probabilities, test.prior),
        "duplicates": duplicates_between_splits(posters, movies),
        "words": indicative_words(model, contents, splits == "train"),
    }


def draw_figures(
    model: Model,
    history: pd.DataFrame,
    by_genre: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    predictions: dict[str, Predictions],
) -> None:
    """Draw the figures of the report and of MLflow."""
    validation, test = predictions["validation"], predictions["test"]
    figures.draw_curves(history, binary_cross_entropy(validation.labels, validation.prior), FIGURES / "curves.png")
    figures.draw_genres(by_genre, FIGURES / "genres.png")
    prior_curve = precision_recall(test.labels, test.prior)
    figures.draw_precision_recall(tables["precision_recall"], prior_curve, FIGURES / "precision_recall.png")
    unfitted = expit(equal_weights(list(test.evidence), len(model.genres)).logits(test.evidence))
    figures.draw_reliability(evaluation.reliability(test.labels, unfitted), tables["reliability"], FIGURES / "reliability.png")
    figures.draw_confusions(tables["confusions"], model.genres, FIGURES / "confusions.png")


def describe_model(model: Model, history: pd.DataFrame, movies: pd.DataFrame) -> dict[str, str]:
    """What the report says of the model before its scores."""
    assert model.fusion is not None
    numbers = movies["split"].value_counts()
    about = {
        "architecture": model.architecture,
        "input": f"{model.height} x {model.width}",
        "epochs": str(history["epoch"].max()),
        "posters": ", ".join(f"{numbers[split]:,} {split}" for split in SPLITS),
        "weights": ", ".join(f"{part} {weight:.2f}" for part, weight in zip(model.fusion.parts, model.fusion.weights, strict=True)),
    }
    if model.classes:
        about["objects"] = ", ".join(f"{name} ({version})" for name, version in model.detectors.items()) or "detections.csv"
    return about


def main() -> None:
    parameters = read_parameters().used_by(EvaluateParameters)
    seed = parameters.seed
    device = prepare()
    inputs = finished_run.read_inputs(device)
    model, posters, movies, contents = inputs
    predictions = predict_splits(model, posters, movies, contents, device)
    test = predictions["test"]
    scores, by_genre, headline = score_splits(model, predictions, seed)
    tables = tables_of_test(model, posters, movies, contents, test)
    genre_tables = {f"genres_{split}": table for split, table in by_genre.items()}
    for name, table in {"scores": scores, **genre_tables, **tables}.items():
        write_table(table, METRICS / f"{name}.csv")
    write_json(METRICS / "evaluation.json", headline)

    history = pd.read_csv(METRICS / "history.csv")
    draw_figures(model, history, by_genre["test"], tables, predictions)
    test_scores = scores[scores["split"] == "test"]
    gallery = choose_gallery(posters, movies, contents, test.labels, test.probabilities, seed)
    about = describe_model(model, history, movies)
    confusions, decades, duplicates, words = (tables[name] for name in ("confusions", "decades", "duplicates", "words"))
    write_report(
        METRICS / "report.html", about, test_scores, by_genre["test"], confusions, decades, duplicates, words, FIGURES, gallery
    )
    finished_run.complete(inputs)
    print_scores(test_scores, by_genre["test"], len(test.labels), caveat(parameters.dataset))
    if len(duplicates):
        print(f"{len(duplicates)} pairs of nearly the same poster are in two splits: metrics/duplicates.csv")
    print("the page to read: metrics/report.html")


if __name__ == "__main__":
    errors.run(main)
