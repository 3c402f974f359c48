"""Score the trained model on validation and test posters, beside the prior: the genres' frequencies in training.

In: models/model.pt, data/cache, metrics/history.csv. Out: metrics/evaluation.json (headline), metrics/scores.csv (all scores),
metrics/genres_*.csv (a row a genre), metrics/precision_recall.csv, metrics/figures; and all that in the MLflow run of
models/run.json. Run: `python -m stages.evaluate`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import precision_recall_curve

from poster_genres import errors, figures, scores, tracking
from poster_genres.cached import read_cache
from poster_genres.errors import InputError
from poster_genres.files import whole_file, write_json
from poster_genres.model import choose_device, load_model, predict_probabilities
from poster_genres.movies import genres_of, labels_of

METRICS = Path("metrics")
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


def main() -> None:
    posters, movies = read_cache(Path("data/cache"))
    device = choose_device()
    torch.use_deterministic_algorithms(device.type == "cpu")
    model = load_model(Path("models/model.pt"), device)
    genres, labels, splits = genres_of(movies), labels_of(movies), movies["split"].to_numpy(str)
    if model.genres != genres or posters.shape[1:3] != (model.height, model.width):
        raise InputError("models/model.pt: trained on other genres or another poster size than data/cache; `dvc repro` trains anew")

    probabilities, priors = {}, {}
    for split in ("validation", "test"):
        rows = np.flatnonzero(splits == split)
        probabilities[split] = predict_probabilities(model, posters, device, rows)
        priors[split] = np.tile(np.array(model.prior, np.float32), (len(rows), 1))
    # The prior gets its thresholds in the same way as the model: on validation.
    prior_thresholds = scores.tune_thresholds(labels[splits == "validation"], priors["validation"])

    scored: list[dict[str, Any]] = []
    headline: dict[str, dict[str, float]] = {}
    for split in ("validation", "test"):
        truth = labels[splits == split]
        of_model = scores.score(truth, probabilities[split], model.threshold, np.array(model.thresholds))
        of_prior = scores.score(truth, priors[split], *prior_thresholds)
        scored += [{"split": split, "score": name, "model": of_model[name], "prior": of_prior[name]} for name in of_model]
        headline |= {f"{split} model": of_model, f"{split} prior": of_prior}
        by_genre = scores.score_genres(genres, truth, probabilities[split], priors[split], np.array(model.thresholds))
        write_table(by_genre, METRICS / f"genres_{split}.csv")
    all_scores = pd.DataFrame(scored)
    write_table(all_scores, METRICS / "scores.csv")
    write_json(
        METRICS / "evaluation.json",
        {key: {name: round(headline[who][name], 4) for name in names} for key, (who, names) in HEADLINE.items()},
    )

    test = labels[splits == "test"]
    curve = precision_recall(test, probabilities["test"])
    write_table(curve, METRICS / "precision_recall.csv")
    history = pd.read_csv(METRICS / "history.csv")
    prior_loss = scores.binary_cross_entropy(labels[splits == "validation"], priors["validation"])
    figures.draw_curves(history, prior_loss, METRICS / "figures" / "curves.png")
    figures.draw_genres(by_genre, METRICS / "figures" / "genres.png")
    figures.draw_precision_recall(curve, precision_recall(test, priors["test"]), METRICS / "figures" / "precision_recall.png")

    tracking.complete()
    print(f"{len(test)} test posters{'':17}   model   prior")
    for row in all_scores[all_scores["split"] == "test"].itertuples():
        print(f"{row.score.replace('_', ' '):32}  {row.model:6.4f}  {row.prior:6.4f}")
    left_out = by_genre[~by_genre["scored"]]
    if len(left_out):
        names = ", ".join(f"{row.genre} ({row.positives})" for row in left_out.itertuples())
        print(f"macro scores leave out the genres with fewer than {scores.MIN_POSITIVES} test posters: {names}")


if __name__ == "__main__":
    errors.run(main)
