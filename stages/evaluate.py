"""Score the trained model on validation and test posters, and for comparison the prior: the genres' frequencies in training.

In: models/, data/cache, data/detections, metrics/history.csv. Out, in metrics/: evaluation.json (the headline), scores.csv (all
scores, with 95 % intervals), genres_*.csv (one row per genre), predictions.csv (one row per poster, for `stages.compare`),
precision_recall.csv, reliability.csv, confusions.csv (which genres are mistaken for which, beyond chance), decades.csv,
duplicates.csv (near-duplicate posters in different splits), words.csv (the words that indicate a genre, beyond chance), figures/
and report.html, the report. All are also logged to the MLflow run of models/run.json. Run: `python -m stages.evaluate`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.special import expit
from sklearn.metrics import precision_recall_curve

from poster_genres import errors, evaluation, figures, finished_run
from poster_genres.devices import prepare
from poster_genres.duplicates import find_duplicates, perceptual_hashes
from poster_genres.errors import InputError
from poster_genres.files import whole_file, whole_folder, write_json
from poster_genres.fusion import equal_weights
from poster_genres.model import Model, predict_evidence
from poster_genres.movies import labels_of
from poster_genres.objects import PosterDetections
from poster_genres.parameters import EvaluateParameters, read_parameters
from poster_genres.report import choose_examples, describe_poster, write_report
from poster_genres.scores import scored_genres, tune_thresholds
from poster_genres.tensor_cache import Posters
from poster_genres.tracking import caveat

METRICS = Path("metrics")
VALIDATION = Path("models/validation.npy")
FIGURES = METRICS / "figures"
# The few scores that fit in `dvc exp show`, the one that decides first, under short names; metrics/scores.csv has all.
HEADLINE = {
    "validation": ("validation model", {"macro_AP": "macro_average_precision"}),
    "test": ("test model", {"macro_AP": "macro_average_precision", "micro_AP": "micro_average_precision"}),
    "prior": ("test prior", {"macro_AP": "macro_average_precision"}),
}
CURVE_POINTS = 200
# With fewer test posters, a caveat stands beside the scores.
FEW = 50
# The report's pictures, in words for those who do not see them.
ABOUT = {
    "curves": "Curves by epoch: macro average precision and cross-entropy on validation posters, beside the prior; training loss",
    "genres": "Average precision of each genre with its interval, beside the prior; the table has the same numbers",
    "precision_recall": "Curves of precision against recall over all genres, of the model and of the prior",
    "reliability": "Predicted probability against the share of posters with the genre, before and after the fit",
    "confusions": "How often a genre is wrongly predicted where another was missed, and elsewhere; the table has the same numbers",
}


def precision_recall(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The micro-averaged precision-recall curve, by increasing recall, thinned to about CURVE_POINTS points."""
    precision, recall, _ = precision_recall_curve(labels.ravel(), probabilities.ravel())
    points = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).astype(int))[::-1]
    return pd.DataFrame({"recall": recall[points], "precision": precision[points]})


def write_table(table: pd.DataFrame, path: Path, float_format: str = "%.6g") -> None:
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n")


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
    """One split's labels (posters, genres), the model's probabilities and the prior's; float32."""

    labels: np.ndarray
    probabilities: np.ndarray
    prior: np.ndarray


def read_validation(shape: tuple[int, ...]) -> np.ndarray:
    """The model's logits for validation posters, float32 (posters, genres), out of fold, as `train` wrote them.

    Raises
    ------
    InputError
        They are not there, damaged, or not of this shape.
    """
    try:
        logits = np.load(VALIDATION, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{VALIDATION}: not there yet; `dvc repro` makes it") from None
    except (ValueError, OSError, EOFError):
        raise InputError(f"{VALIDATION}: damaged; remove it, and `dvc repro` makes it again") from None
    if logits.shape != shape:
        raise InputError(f"{VALIDATION}: of other posters or genres than data/cache; `dvc repro` makes it again")
    return np.asarray(logits, np.float32)


def predict_splits(
    model: Model, posters: Posters, movies: pd.DataFrame, contents: list[PosterDetections] | None, device: torch.device
) -> tuple[dict[str, Predictions], np.ndarray]:
    """Predict test posters; what the model says of validation posters, `train` has written.

    Returns
    -------
    The predictions by split, and the test posters' probabilities with the parts' initial weights, before any fit.
    """
    assert model.fusion is not None
    labels, splits = labels_of(movies), movies["split"].to_numpy(str)
    of_split = {split: np.flatnonzero(splits == split) for split in ("validation", "test")}
    evidence = predict_evidence(model, posters, device, of_split["test"], contents)
    logits = {"validation": read_validation(labels[of_split["validation"]].shape), "test": model.fusion.logits(evidence)}
    predictions = {}
    for split, rows in of_split.items():
        prior = np.tile(np.array(model.prior, np.float32), (len(rows), 1))
        predictions[split] = Predictions(labels[rows], expit(logits[split]), prior)
    return predictions, expit(equal_weights(list(evidence), len(model.genres)).logits(evidence))


def table_of_predictions(genres: list[str], movies: pd.DataFrame, predictions: dict[str, Predictions]) -> pd.DataFrame:
    """One row per validation and test poster: id, split and the probability of each genre, those of validation out of fold."""
    tables = []
    for split, predicted in predictions.items():
        rows = movies.loc[movies["split"] == split, ["id", "split"]].reset_index(drop=True)
        tables.append(pd.concat([rows, pd.DataFrame(predicted.probabilities, columns=genres)], axis=1))
    return pd.concat(tables)


def score_splits(
    model: Model, predictions: dict[str, Predictions], seed: int
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], dict[str, dict[str, float | None]]]:
    """Score the model and the prior on each split.

    Returns
    -------
    The table of metrics/scores.csv; the tables of metrics/genres_*.csv, by split; and the content of metrics/evaluation.json.
    """
    thresholds = np.array(model.thresholds)
    # Also tuned on validation. The prior's F1 is highest when it predicts every genre, which shrunk thresholds would prevent.
    prior_thresholds = tune_thresholds(predictions["validation"].labels, predictions["validation"].prior, shrinkage=0)
    columns = scored_genres(*(split.labels for split in predictions.values()))
    rows: list[dict[str, Any]] = []
    scores: dict[str, dict[str, float]] = {}
    by_genre = {}
    for split, (labels, probabilities, prior) in predictions.items():
        model_scores = evaluation.score(labels, probabilities, model.threshold, thresholds, columns)
        prior_scores = evaluation.score(labels, prior, *prior_thresholds, columns)
        intervals, genre_intervals = evaluation.bootstrap(labels, probabilities, model.threshold, thresholds, columns, seed)
        for name, value in model_scores.items():
            low, high = intervals.get(name, (np.nan, np.nan))
            rows.append({"split": split, "score": name, "model": value, "prior": prior_scores[name], "low": low, "high": high})
        scores |= {f"{split} model": model_scores, f"{split} prior": prior_scores}
        by_genre[split] = evaluation.score_genres(model.genres, labels, probabilities, prior, thresholds, columns)
        by_genre[split][["low", "high"]] = genre_intervals
    # With as many digits as the tables, from which MLflow has its numbers.
    headline = {
        key: {short: rounded(scores[scored][name]) for short, name in names.items()} for key, (scored, names) in HEADLINE.items()
    }
    return pd.DataFrame(rows), by_genre, headline


def rounded(value: float) -> float | None:
    """A score with six digits; None, which JSON has, where it is NaN."""
    return None if np.isnan(value) else float(f"{value:.6g}")


def choose_gallery(
    posters: Posters, movies: pd.DataFrame, contents: list[PosterDetections] | None, model: Model, test: Predictions, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """The report's test posters, from `choose_examples`. `contents` holds the detections on every poster, for two_stream/…."""
    rows = np.flatnonzero(movies["split"] == "test")
    thresholds = np.array(model.thresholds)

    def describe(i: int) -> dict[str, Any]:
        detections = None if contents is None else contents[rows[i]].objects
        return describe_poster(posters[rows[i]], movies.iloc[rows[i]], model.genres, test.probabilities[i], thresholds, detections)

    chosen = choose_examples(test.labels, test.probabilities, seed)
    return {name: [describe(i) for i in examples] for name, examples in chosen.items()}


def print_scores(test_scores: pd.DataFrame, by_genre: pd.DataFrame, posters: int, note: str) -> None:
    """Print the test scores of model and prior, over which genres the macro averages are, and a note on the data set."""
    print(f"{f'{posters} test posters':33}   model   prior   95 % interval")
    for row in test_scores.itertuples():
        interval = "" if np.isnan(row.low) else f"  {row.low:6.4f} to {row.high:6.4f}"
        of_model, of_prior = ("      " if np.isnan(value) else f"{value:6.4f}" for value in (row.model, row.prior))
        print(f"{row.score.replace('_', ' '):33}  {of_model}  {of_prior}{interval}")
    for line in (evaluation.describe_scored(list(by_genre.loc[by_genre["scored"], "genre"]), list(by_genre["genre"])), note):
        if line:
            print(line)


def tables_of_test(
    model: Model, posters: Posters, movies: pd.DataFrame, contents: list[PosterDetections] | None, test: Predictions, seed: int
) -> dict[str, pd.DataFrame]:
    """The tables in metrics/ that the report shows beside the scores, by name."""
    splits = movies["split"].to_numpy(str)
    contents = contents or []
    train = np.flatnonzero(splits[: len(contents)] == "train")
    predicted = test.probabilities >= np.array(model.thresholds)
    decades = decades_of(movies[splits == "test"])
    return {
        "precision_recall": precision_recall(test.labels, test.probabilities),
        "reliability": evaluation.reliability(test.labels, test.probabilities),
        "confusions": evaluation.confusions(model.genres, test.labels, predicted),
        "decades": evaluation.score_slices(decades, test.labels, test.probabilities, test.prior, seed),
        "duplicates": duplicates_between_splits(posters, movies),
        "words": evaluation.indicative_words([contents[row] for row in train], labels_of(movies)[train], model.genres),
    }


def draw_figures(
    model: Model,
    history: pd.DataFrame,
    scores: pd.DataFrame,
    by_genre: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    test: Predictions,
    unfitted: np.ndarray,
    doubt: str,
) -> dict[str, Figure]:
    """The figures of the report and of MLflow, by name. `unfitted` holds the test posters' probabilities before the fit; with any
    `doubt`, confusions are not shown."""
    prior = scores[scores["split"] == "validation"].set_index("score")["prior"]
    of_validation = {"loss": prior["binary_cross_entropy"], "macro_average_precision": prior["macro_average_precision"]}
    prior_curve = precision_recall(test.labels, test.prior)
    return {
        "curves": figures.draw_curves(history, of_validation),
        "genres": figures.draw_genres(by_genre),
        "precision_recall": figures.draw_precision_recall(tables["precision_recall"], prior_curve),
        "reliability": figures.draw_reliability(evaluation.reliability(test.labels, unfitted), tables["reliability"]),
        "confusions": figures.draw_confusions(tables["confusions"], shown=not doubt),
    }


def describe_run(
    model: Model, history: pd.DataFrame, movies: pd.DataFrame, parameters: EvaluateParameters, doubt: str
) -> dict[str, Any]:
    """What the report says before the scores: of the model, its training and its run, and what is to be doubted."""
    run = finished_run.read_run()
    tags = run["tags"]
    experiment = tags.get("dvc.experiment")
    architecture = f"{model.architecture}, posters of {model.height} x {model.width} pixels"
    kept = history["epoch"][history["validation_loss"].argmin()]
    how = {
        "Trained": f"{tags.get('trained', 'unknown')}, from commit {tags.get('commit', 'unknown: no Git')}",
        "Data set": f"{parameters.dataset}, hash {tags.get('dvc.data', 'unknown: without dvc repro')}",
        "Seed": str(parameters.seed),
        "Command": f"dvc exp apply {experiment} && dvc repro" if experiment else "dvc repro",
        "MLflow run": f"{run['name']}; tags.training = '{tags['training']}'",
        "Network": f"{architecture}, epoch {kept} of {history['epoch'].max()}",
        "Parts and their mean weights": str(model.fusion),
    }
    if model.classes:
        how["Detectors"] = ", ".join(f"{name} ({version})" for name, version in model.detectors.items()) or "detections.csv"
    return {
        "architecture": model.architecture,
        "dataset": parameters.dataset,
        "posters": movies["split"].value_counts().to_dict(),
        "caveat": doubt,
        "how": how,
        "parameters": run["parameters"],
    }


def few(movies: pd.DataFrame) -> str:
    """What to say of scores on very few test posters."""
    posters = int((movies["split"] == "test").sum())
    return f"only {posters} test poster{'s' * (posters != 1)}: scores say little" if posters < FEW else ""


def main() -> None:
    parameters = read_parameters().used_by(EvaluateParameters)
    seed = parameters.seed
    device = prepare()
    inputs = finished_run.read_inputs(device)
    model, posters, movies, contents = inputs
    predictions, unfitted = predict_splits(model, posters, movies, contents, device)
    test = predictions["test"]
    scores, by_genre, headline = score_splits(model, predictions, seed)
    tables = tables_of_test(model, posters, movies, contents, test, seed)
    synthetic = caveat(parameters.dataset)
    doubt = synthetic or few(movies)
    # Beyond chance or not: what synthetic or very few posters say of genres is no finding. Words are those of training posters.
    no_findings = (["confusions"] if doubt else []) + (["words"] if synthetic else [])
    tables |= {name: tables[name].head(0) for name in no_findings}
    genre_tables = {f"genres_{split}": table for split, table in by_genre.items()}
    for name, table in {"scores": scores, **genre_tables, **tables}.items():
        write_table(table, METRICS / f"{name}.csv")
    write_table(table_of_predictions(model.genres, movies, predictions), METRICS / "predictions.csv", "%.9g")
    write_json(METRICS / "evaluation.json", headline)

    history = pd.read_csv(METRICS / "history.csv")
    drawn = draw_figures(model, history, scores, by_genre["test"], tables, test, unfitted, doubt)
    charts = {name: figures.as_svg(figure, ABOUT[name]) for name, figure in drawn.items()}
    with whole_folder(FIGURES) as folder:
        for name, figure in drawn.items():
            figures.save_png(figure, folder / f"{name}.png", 180)
    about = describe_run(model, history, movies, parameters, doubt)
    if len(history) == 1:
        del charts["curves"]  # one point is no curve
    test_scores = scores[scores["split"] == "test"]
    gallery = choose_gallery(posters, movies, contents, model, test, seed)
    write_report(METRICS / "report.html", about, test_scores, by_genre["test"], tables, charts, gallery)
    logged = finished_run.complete(inputs)
    print_scores(test_scores, by_genre["test"], len(test.labels), doubt)
    if len(tables["duplicates"]):
        print(f"{len(tables['duplicates'])} pair(s) of nearly the same poster in two splits: metrics/duplicates.csv")
    boxes = figures.unreadable(model.genres)
    if boxes:
        print(f"{FIGURES}: the font lacks signs of {len(boxes)} labels, as {boxes[0]}, and has boxes for them; the report has them")
    if logged is not None:
        print(logged)
    print("the page to read: metrics/report.html")


if __name__ == "__main__":
    errors.run_stage(main)
