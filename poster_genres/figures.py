"""A run's figures, as PNG files that are readable without DVC."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from poster_genres.captions import caption, cut, how_many, is_read, most_confident, place_captions
from poster_genres.files import whole_file
from poster_genres.objects import Detection

MODEL, PRIOR, TRAIN = "#1f6f8b", "#b8b8b8", "#e07a3f"
OBJECT, WORDS = "#ffd54a", "#7fe3ff"
# Of captions on posters: font size in points, and margin around the text in shares of it.
CAPTION, PAD = 7.5, 0.2
# Words and objects are drawn with a genre if they add so much to its logit; the strongest so many.
COUNTS, MOST = 0.1, 5


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as temporary:
        # Without version and date in the file, the same run gives the same bytes.
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None}, bbox_inches="tight")


def _plain(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def draw_curves(history: pd.DataFrame, prior_loss: float, path: Path) -> None:
    """Loss, accuracy and macro average precision by epoch, training and validation, from metrics/history.csv."""
    figure = Figure(figsize=(13, 3.6))
    panels = figure.subplots(1, 3)
    names = {"loss": "Binary cross-entropy", "accuracy": "Accuracy", "macro_average_precision": "Macro average precision"}
    marker = "o" if len(history) < 20 else ""  # a single epoch draws no line
    for axes, (column, name) in zip(panels, names.items(), strict=True):
        for split, color, label in (("train", TRAIN, "training"), ("validation", MODEL, "validation")):
            axes.plot(history["epoch"], history[f"{split}_{column}"], color=color, label=label, marker=marker, markersize=4)
        if column == "loss":
            axes.axhline(prior_loss, color=PRIOR, linestyle="--", label="prior (validation)")
        _plain(axes, name, "epoch", "")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_genres(table: pd.DataFrame, path: Path) -> None:
    """The average precision of each genre, of model and prior, from `evaluation.score_genres`."""
    table = table.dropna(subset=["average_precision"]).sort_values("average_precision")
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(table)))
    axes = figure.subplots()
    labels = [f"{row.genre} ({row.positives})" for row in table.itertuples()]
    reach = [table["average_precision"] - table["low"], table["high"] - table["average_precision"]]
    bars = {"ecolor": "#12303d", "elinewidth": 1, "capsize": 2}
    axes.barh(labels, table["average_precision"], xerr=np.maximum(reach, 0), error_kw=bars, color=MODEL, label="model, 95 %")
    axes.barh(labels, table["prior_average_precision"], color=PRIOR, height=0.4, label="prior")
    _plain(axes, "Average precision by genre (test posters)", "average precision", "")
    axes.set_xlim(0, 1)
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def draw_precision_recall(model: pd.DataFrame, prior: pd.DataFrame, path: Path) -> None:
    """Precision against recall over all poster-genre pairs; both tables have the columns `recall` and `precision`."""
    figure = Figure(figsize=(5.2, 4.2))
    axes = figure.subplots()
    # In steps, as average precision sums them: it does not interpolate between thresholds, of which the prior has few.
    axes.step(model["recall"], model["precision"], where="pre", color=MODEL, label="model")
    axes.step(prior["recall"], prior["precision"], where="pre", color=PRIOR, label="prior")
    _plain(axes, "Precision and recall (test posters, all genres)", "recall", "precision")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.legend(frameon=False)
    _save(figure, path)


def draw_reliability(before: pd.DataFrame, after: pd.DataFrame, path: Path) -> None:
    """The reliability diagram before and after the fit on validation posters, from `evaluation.reliability`."""
    figure = Figure(figsize=(5.2, 4.2))
    axes = figure.subplots()
    top = 1.05 * max(table[column].max() for table in (before, after) for column in ("probability", "share"))
    axes.plot([0, top], [0, top], color=PRIOR, linestyle="--", label="perfect calibration")
    axes.plot(before["probability"], before["share"], color=TRAIN, marker="o", markersize=4, label="before the fit on validation")
    axes.plot(after["probability"], after["share"], color=MODEL, marker="o", markersize=4, label="after the fit")
    _plain(axes, "Reliability (test posters, all genres)", "probability", "share of positives")
    axes.set(xlim=(0, top), ylim=(0, top))
    axes.legend(frameon=False)
    _save(figure, path)


def draw_confusions(table: pd.DataFrame, genres: list[str], path: Path) -> None:
    """Of the posters on which a genre was missed, the share with each wrongly predicted one, from `evaluation.confusions`."""
    shares = np.zeros((len(genres), len(genres)))
    for row in table.itertuples():
        shares[genres.index(row.missed), genres.index(row.said)] = row.share
    figure = Figure(figsize=(2 + 0.32 * len(genres), 1.6 + 0.28 * len(genres)))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=max(0.01, shares.max()), aspect="auto")
    axes.set_xticks(range(len(genres)), genres, rotation=90, fontsize=8)
    axes.set_yticks(range(len(genres)), genres, fontsize=8)
    axes.set_title("Genres predicted wrongly (columns) where another was missed (rows)", loc="left", fontsize=11)
    figure.colorbar(image, ax=axes, label="share of the posters on which it was missed")
    _save(figure, path)


def _draw_detections(axes: Axes, detections: list[Detection], captions: list[str], height: int, width: int) -> None:
    """Draw the boxes of detections on a poster of (height, width) pixels, with their captions."""
    label = {"boxstyle": f"square,pad={PAD}", "facecolor": "black", "edgecolor": "none", "alpha": 0.72}
    font: dict[str, Any] = {"color": "white", "fontsize": CAPTION, "ha": "left", "va": "top", "zorder": 4, "parse_math": False}
    with warnings.catch_warnings():
        # For characters that the font lacks, matplotlib draws a placeholder and warns.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        texts = [axes.text(0, 0, text, bbox=label, **font) for text in captions]
        axes.apply_aspect()
        frame = axes.get_window_extent()
        margin = 2 * PAD * CAPTION * axes.figure.dpi / 72
        extents = [text.get_window_extent() for text in texts]
    sizes = np.array([((extent.width + margin) / frame.width, (extent.height + margin) / frame.height) for extent in extents])
    margins = np.array([margin / 2 / frame.width, margin / 2 / frame.height])
    places = place_captions(detections, sizes.reshape(-1, 2)) + margins
    for detection, text, position in zip(detections, texts, places, strict=True):
        color, line = (WORDS, 1.0) if is_read(detection) else (OBJECT, 2.0)
        # Pixel centres are at whole numbers, so the poster's edge is at -0.5.
        corner = (detection.left * width - 0.5, detection.top * height - 0.5)
        size = (detection.width * width, detection.height * height)
        box = Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=line, clip_on=False)
        box.set_path_effects([withStroke(linewidth=line + 1.5, foreground="black", alpha=0.6)])  # visible on any colour
        axes.add_patch(box)
        text.set_position(position * (width, height) - 0.5)


def draw_explanation(
    poster: np.ndarray,
    detections: list[Detection],
    genres: list[str],
    probabilities: np.ndarray,
    maps: np.ndarray,
    logits: np.ndarray,
    path: Path,
) -> None:
    """Draw a poster with its detections and, beside it, what speaks for each genre: regions, and the words and objects that count.

    Parameters
    ----------
    poster : uint8 (height, width, 3)
    detections : on the poster; with any, it is drawn twice as large, to keep their captions readable
    genres, probabilities : (n,)
    maps : float32 (n, height, width), from `explanations.explain`; all are drawn on one scale
    logits : float32 (detections, n), what each detection adds to the logits
    """
    # Two rows of genres beside a poster with detections, else one row.
    rows = 2 if detections else 1
    columns = (len(genres) + rows - 1) // rows
    figure = Figure(figsize=(2.4 * (rows + columns) + 0.9, 3.9 * rows - 0.4 * (rows - 1)))
    grid = figure.add_gridspec(rows, rows + columns + 1, hspace=0.1, wspace=0.1, width_ratios=[*[1] * (rows + columns), 0.08])
    panels = [figure.add_subplot(grid[i // columns, rows + i % columns]) for i in range(len(genres))]
    whole = figure.add_subplot(grid[:, :rows])
    shown = most_confident(detections)
    whole.imshow(poster)
    whole.set_title(how_many(detections), fontsize=11)
    _draw_detections(whole, shown, [caption(detection) for detection in shown], *poster.shape[:2])
    gray = poster.mean(axis=2)
    top = max(float(maps.max(initial=0)), 1e-12)
    for axes, genre, probability, strength, added in zip(panels, genres, probabilities, maps, logits.T, strict=True):
        axes.imshow(gray, cmap="gray", vmin=0, vmax=255)
        axes.imshow(strength, cmap="inferno", vmin=0, vmax=top, alpha=0.15 + 0.6 * strength / top)
        counting = [i for i in np.argsort(-added, kind="stable") if added[i] >= COUNTS][:MOST]
        words = [f"{cut(detections[i].text or detections[i].label, 14)} +{added[i]:.1f}" for i in counting]
        _draw_detections(axes, [detections[i] for i in counting], words, *poster.shape[:2])
        axes.set_title(f"{genre} ({probability:.3f})", fontsize=11)
    for axes in (whole, *panels):
        axes.set_axis_off()
    bar = figure.colorbar(ScalarMappable(Normalize(0, top), "inferno"), cax=figure.add_subplot(grid[:, -1]))
    bar.set_label("evidence in the picture: logits, were all of it like this")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # as above
        _save(figure, path)
