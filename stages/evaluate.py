"""Score the trained model on validation and test posters, beside the prior: the genres' frequencies in training.

In: models/model.pt, data/cache, data/detections, metrics/history.csv. Out, in metrics/: evaluation.json (the headline), scores.csv
(all scores, with intervals), genres_*.csv (a row a genre), precision_recall.csv, reliability.csv, confusions.csv (which genres are
taken for which), decades.csv, duplicates.csv (posters that are nearly the same in two splits), words.csv (which words speak for
which genre), figures/ and report.html, the page to read; and all that in the MLflow run of models/run.json. Run:
`python -m stages.evaluate`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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

METRICS = Path("metrics")
FIGURES = METRICS / "figures"
# Of the many scores, those that `dvc metrics show` and `dvc exp show` have room for. All are in metrics/scores.csv.
HEADLINE = {
    "test": ("test model", ("macro_average_precision", "micro_average_precision", "macro_f1", "micro_f1")),
    "prior": ("test prior", ("macro_average_precision",)),
    "validation": ("validation model", ("macro_average_precision",)),
}
CURVE_POINTS = 200


def precision_recall(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The micro precision-recall curve, by rising recall, thinned to about CURVE_POINTS points."""
    precision, recall, _ = precision_recall_curve(labels.ravel(), probabilities.ravel())
    chosen = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).astype(int))[::-1]
    return pd.DataFrame({"recall": recall[chosen], "precision": precision[chosen]})


def write_table(table: pd.DataFrame, path: Path) -> None:
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def decades_of(movies: pd.DataFrame) -> np.ndarray:
    """`1980s` for 1987; empty where the year is not known."""
    return np.array([f"{year[:3]}0s" if year else "" for year in movies["year"]])


def duplicates_between_splits(posters: Posters, movies: pd.DataFrame) -> pd.DataFrame:
    """Pairs of nearly the same poster in different splits, by the movies' IDs."""
    splits = movies["split"].to_numpy(str)
    pairs = find_duplicates(perceptual_hashes(posters), splits)
    ids = movies["id"].to_numpy(str)
    table = pd.DataFrame(index=pairs.index)
    for side in ("first", "second"):
        table[side], table[f"{side}_split"] = ids[pairs[side]], splits[pairs[side]]
    return table.assign(distance=pairs["distance"])


def score_splits(
    model: Model, truth: dict[str, np.ndarray], probabilities: dict[str, np.ndarray], priors: dict[str, np.ndarray], seed: int
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], dict[str, dict[str, float]]]:
    """All scores, from float32 (posters, genres) labels, probabilities and the prior's probabilities of each split.

    Returns
    -------
    The tables of metrics/scores.csv and, by split, of metrics/genres_*.csv; and the content of metrics/evaluation.json.
    """
    thresholds = np.array(model.thresholds)
    # The prior's are tuned on validation too. It does best by saying yes to all, which a threshold drawn elsewhere would spoil.
    prior_thresholds = tune_thresholds(truth["validation"], priors["validation"], shrinkage=0)
    scored: list[dict[str, Any]] = []
    found: dict[str, dict[str, float]] = {}
    by_genre = {}
    for split, labels in truth.items():
        of_model = evaluation.score(labels, probabilities[split], model.threshold, thresholds)
        of_prior = evaluation.score(labels, priors[split], *prior_thresholds)
        intervals, of_genres = evaluation.bootstrap(labels, probabilities[split], model.threshold, thresholds, seed)
        for name, value in of_model.items():
            low, high = intervals.get(name, (np.nan, np.nan))
            scored.append({"split": split, "score": name, "model": value, "prior": of_prior[name], "low": low, "high": high})
        found |= {f"{split} model": of_model, f"{split} prior": of_prior}
        by_genre[split] = evaluation.score_genres(model.genres, labels, probabilities[split], priors[split], thresholds)
        by_genre[split][["low", "high"]] = of_genres
    headline = {key: {name: round(found[who][name], 4) for name in names} for key, (who, names) in HEADLINE.items()}
    return pd.DataFrame(scored), by_genre, headline


def indicative_words(model: Model, found: list[PosterDetections] | None, train: np.ndarray) -> pd.DataFrame:
    """The words on training posters that speak most for each genre; see `Words.most_indicative`. Empty if the model reads none."""
    if model.words is None or found is None:
        return pd.DataFrame(columns=["genre", "word", "log_odds", "posters"])
    return model.words.most_indicative([found[row] for row in np.flatnonzero(train)], model.genres)


def choose_gallery(
    posters: Posters,
    movies: pd.DataFrame,
    found: list[PosterDetections] | None,
    labels: np.ndarray,
    probabilities: np.ndarray,
    seed: int,
) -> dict[str, list[dict[str, Any]]]:
    """Test posters for the report's page under a heading each, from the (test posters, genres) labels and probabilities.

    `found` is what is on each poster, for two streams.
    """
    rows = np.flatnonzero(movies["split"] == "test")
    genres = genres_of(movies)

    def describe(i: int) -> dict[str, Any]:
        objects = None if found is None else found[rows[i]].objects
        return describe_poster(posters[rows[i]], movies.iloc[rows[i]], genres, probabilities[i], objects)

    return {
        heading.capitalize(): [describe(i) for i in chosen]
        for heading, chosen in choose_examples(labels, probabilities, seed).items()
    }


def print_scores(test_scores: pd.DataFrame, by_genre: pd.DataFrame, posters: int) -> None:
    """Print the scores of the test split, the prior's beside them, and which genres they leave out."""
    print(f"{posters} test posters{'':17}   model   prior   95 % interval")
    for row in test_scores.itertuples():
        interval = "" if np.isnan(row.low) else f"  {row.low:6.4f} to {row.high:6.4f}"
        print(f"{row.score.replace('_', ' '):32}  {row.model:6.4f}  {row.prior:6.4f}{interval}")
    left_out = by_genre[~by_genre["scored"]]
    if len(left_out):
        names = ", ".join(f"{row.genre} ({row.positives})" for row in left_out.itertuples())
        print(f"macro scores leave out the genres with fewer than {MIN_POSITIVES} test posters: {names}")


def main() -> None:
    seed = read_parameters().used_by(EvaluateParameters).seed
    device = prepare()
    model, posters, movies, found = finished_run.read_inputs(device)
    genres, labels, splits = genres_of(movies), labels_of(movies), movies["split"].to_numpy(str)

    evidence, priors = {}, {}
    for split in ("validation", "test"):
        rows = np.flatnonzero(splits == split)
        evidence[split] = predict_evidence(model, posters, device, rows, found)
        priors[split] = np.tile(np.array(model.prior, np.float32), (len(rows), 1))
    truth = {split: labels[splits == split] for split in evidence}
    assert model.fusion is not None
    # Validation chose how the parts are added up, so that its own scores are out of fold.
    logits = {"validation": out_of_fold_logits(evidence["validation"], truth["validation"])}
    logits["test"] = model.fusion.logits(evidence["test"])
    probabilities = {split: expit(values) for split, values in logits.items()}
    all_scores, by_genre, headline = score_splits(model, truth, probabilities, priors, seed)
    write_table(all_scores, METRICS / "scores.csv")
    for split, table in by_genre.items():
        write_table(table, METRICS / f"genres_{split}.csv")
    write_json(METRICS / "evaluation.json", headline)

    test = truth["test"]
    curve = precision_recall(test, probabilities["test"])
    bins = evaluation.reliability(test, probabilities["test"])
    confused = evaluation.confusions(genres, test, probabilities["test"] >= np.array(model.thresholds))
    decades = evaluation.score_slices(decades_of(movies[splits == "test"]), test, probabilities["test"], priors["test"])
    duplicates = duplicates_between_splits(posters, movies)
    words = indicative_words(model, found, splits == "train")
    tables = {"precision_recall": curve, "reliability": bins, "confusions": confused, "decades": decades, "duplicates": duplicates}
    tables["words"] = words
    for name, table in tables.items():
        write_table(table, METRICS / f"{name}.csv")

    history = pd.read_csv(METRICS / "history.csv")
    prior_loss = binary_cross_entropy(truth["validation"], priors["validation"])
    figures.draw_curves(history, prior_loss, FIGURES / "curves.png")
    figures.draw_genres(by_genre["test"], FIGURES / "genres.png")
    figures.draw_precision_recall(curve, precision_recall(test, priors["test"]), FIGURES / "precision_recall.png")
    plain = equal_weights(model.fusion.parts, len(genres)).logits(evidence["test"])
    figures.draw_reliability(evaluation.reliability(test, expit(plain)), bins, FIGURES / "reliability.png")
    figures.draw_confusions(confused, genres, FIGURES / "confusions.png")

    about = {
        "architecture": model.architecture,
        "input": f"{model.height} x {model.width}",
        "epochs": str(history["epoch"].max()),
        "posters": ", ".join(f"{(splits == split).sum():,} {split}" for split in SPLITS),
        "weights": ", ".join(f"{part} {weight:.2f}" for part, weight in zip(model.fusion.parts, model.fusion.weights, strict=True)),
    }
    if model.classes:
        about["objects"] = ", ".join(f"{name} ({version})" for name, version in model.detectors.items()) or "detections.csv"
    test_scores = all_scores[all_scores["split"] == "test"]
    gallery = choose_gallery(posters, movies, found, test, probabilities["test"], seed)
    write_report(
        METRICS / "report.html", about, test_scores, by_genre["test"], confused, decades, duplicates, words, FIGURES, gallery
    )
    finished_run.complete()
    print_scores(test_scores, by_genre["test"], len(test))
    if len(duplicates):
        print(f"{len(duplicates)} pairs of nearly the same poster are in two splits: metrics/duplicates.csv")
    print("the page to read: metrics/report.html")


if __name__ == "__main__":
    errors.run(main)
