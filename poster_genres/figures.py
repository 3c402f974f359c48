"""A run's figures: as PNG files, for MLflow, and as SVG, which the report's style colours in either theme."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from poster_genres.captions import COUNTS, caption, cut, cut_middle, how_many, is_read, most_confident, place_captions
from poster_genres.files import whole_file
from poster_genres.objects import Detection

# Each colour in the light theme, which is that of PNG files, and in the dark one. Model and second are colours that colour-blind
# people tell apart (Okabe and Ito 2008, "Color Universal Design"), darker on white; tests/test_report.py measures the contrasts.
COLORS = {
    "page": ("#ffffff", "#12181b"),
    "ink": ("#1b262b", "#e4ebee"),
    "quiet": ("#5a676d", "#9fadb4"),
    "line": ("#d3dbdf", "#333f45"),
    "model": ("#0072b2", "#56b4e9"),
    "second": ("#b34700", "#f5894a"),
}
PAGE, INK, QUIET, LINE, MODEL, SECOND = (light for light, _ in COLORS.values())
# A phone's width in inches: there and on a wide screen, the report shows figures in this size, so that all text stays readable.
WIDTH = 3.7
OBJECT, WORDS = "#ffd54a", "#7fe3ff"
# Of captions on posters: font size in points, and margin around the text in shares of it.
CAPTION, PAD = 7.5, 0.2
# So many of the words and objects that speak for a genre are drawn with it, the strongest.
MOST = 5
# Rows of a table in the report.
LISTED = 10


@contextmanager
def missing_glyphs_allowed() -> Iterator[None]:
    """For characters that the font lacks, matplotlib draws a placeholder and warns; here it does not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def unreadable(names: list[str]) -> list[str]:
    """The names with signs that the font of the PNG files lacks."""
    known = get_font(findfont(FontProperties())).get_charmap()
    return [name for name in names if not all(ord(sign) in known for sign in name)]


def save_png(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure to a file; one of `as_svg` in the layout that it has."""
    box = "tight" if figure.get_layout_engine() is None else None
    with whole_file(path) as temporary, missing_glyphs_allowed():
        # Without version and date in the file, the same run gives the same bytes.
        figure.savefig(temporary, dpi=dpi, format="png", metadata={"Software": None}, bbox_inches=box)


def as_svg(figure: Figure, about: str) -> str:
    """The figure as an SVG element for an HTML page that defines COLORS as variables, with a text for those who do not see it."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": about}), missing_glyphs_allowed():
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    figure.set_layout_engine("none")  # to lay it out takes as long as to draw it
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    # A style for the whole page, and names of groups that are the same in each figure.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    for name, (light, _) in COLORS.items():
        text = text.replace(light, f"var(--{name})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(about)}" ', 1)


def _plain(axes: Axes, title: str, x: str, y: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=9, labelcolor=INK, color=LINE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(LINE)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(figure: Figure, axes: Axes) -> None:
    """What the signs in `axes` are, below the figure: never on the data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=9, labelcolor=INK)


def draw_curves(history: pd.DataFrame, prior: dict[str, float]) -> Figure:
    """The model's scores by epoch on training and validation posters, beside the prior's, from metrics/history.csv.

    Parameters
    ----------
    history : the table
    prior : its loss and macro_average_precision on validation posters
    """
    names = {"macro_average_precision": "Macro average precision", "loss": "Cross-entropy (low is good)"}
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    style: dict[str, Any] = {"marker": "o" if len(history) < 20 else "", "markersize": 3.5}  # a single epoch draws no line
    kept = history["validation_loss"].argmin()
    for axes, (score, title) in zip(panels, names.items(), strict=True):
        values = history[f"validation_{score}"]
        axes.plot(history["epoch"], values, color=MODEL, label="validation", **style)
        axes.plot(history["epoch"], history[f"train_{score}"], color=SECOND, label="training", **style)
        axes.axhline(prior[score], color=QUIET, linestyle="--", label="prior")
        circle = {"markerfacecolor": PAGE, "markeredgecolor": MODEL, "markeredgewidth": 1.5, "linestyle": "", "label": "epoch kept"}
        axes.plot(history["epoch"].iloc[kept], values.iloc[kept], "o", markersize=7, **circle)
        _plain(axes, title, "epoch" if axes is panels[-1] else "")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, panels[0])
    return figure


def _draw_intervals(title: str, x: str, names: list[str], table: pd.DataFrame, value: str, other: str, label: str) -> Figure:
    """One row per name: a value with its interval, in the table's columns `value`, low and high, and another for comparison."""
    lines = 1 + max((name.count("\n") for name in names), default=0)
    # Without rows the axes still need a height.
    figure = Figure(figsize=(WIDTH, max(1.7, 1.3 + (0.08 + 0.16 * lines) * len(names))), layout="constrained")
    axes = figure.subplots()
    y = np.arange(len(names))
    axes.hlines(y, table["low"], table["high"], color=MODEL, linewidth=2, label="95 % interval")
    axes.plot(table[value], y, "o", color=MODEL, markersize=5, label="model", clip_on=False)
    other_style: dict[str, Any] = {"markerfacecolor": PAGE, "markeredgecolor": QUIET, "markeredgewidth": 1.3}
    axes.plot(table[other], y, "D", markersize=4.5, label=label, clip_on=False, **other_style)
    _plain(axes, "", x)
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, color=INK)
    axes.grid(visible=False, axis="y")
    axes.tick_params(left=False)
    # As they are: a dollar sign is no formula.
    axes.set_yticks(y, names, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    for row, number in enumerate(table[value]):
        axes.text(1.03, row, f"{number:.2f}", transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=INK)
    _legend(figure, axes)
    return figure


def draw_genres(table: pd.DataFrame) -> Figure:
    """The average precision of each genre, of model and prior, from `evaluation.score_genres`."""
    table = table.dropna(subset=["average_precision"]).sort_values("average_precision", ascending=False)
    names = [f"{cut_middle(row.genre, 18)} ({row.positives})" for row in table.itertuples()]
    title = "Average precision by genre (test posters)"
    return _draw_intervals(title, "average precision", names, table, "average_precision", "prior_average_precision", "prior")


def draw_precision_recall(model: pd.DataFrame, prior: pd.DataFrame) -> Figure:
    """Precision against recall over all poster-genre pairs; both tables have the columns `recall` and `precision`."""
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = figure.subplots()
    # In steps, as average precision sums them: it does not interpolate between thresholds, of which the prior has few.
    axes.step(model["recall"], model["precision"], where="pre", color=MODEL, label="model")
    axes.step(prior["recall"], prior["precision"], where="pre", color=QUIET, linestyle="--", label="prior")
    _plain(axes, "Precision and recall (test, all genres)", "recall", "precision")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_yticks(np.linspace(0, 1, 6))
    _legend(figure, axes)
    return figure


def draw_reliability(before: pd.DataFrame, after: pd.DataFrame) -> Figure:
    """The reliability diagram before and after the parts' weights are fitted, from `evaluation.reliability`."""
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = figure.subplots()
    top = 1.05 * max(table[column].max() for table in (before, after) for column in ("probability", "share"))
    axes.plot([0, top], [0, top], color=QUIET, linestyle="--", linewidth=1, label="perfect")
    axes.plot(before["probability"], before["share"], color=SECOND, marker="s", markersize=4, label="before the fit")
    axes.plot(after["probability"], after["share"], color=MODEL, marker="o", markersize=4, label="model")
    _plain(axes, "Reliability (test, all genres)", "probability", "share of posters")
    axes.set(xlim=(0, top), ylim=(0, top))
    _legend(figure, axes)
    return figure


def draw_confusions(table: pd.DataFrame, shown: bool = True) -> Figure:
    """The surest of `evaluation.confusions`, at most LISTED: how often a genre is wrongly predicted where another was missed. Where
    the posters are too few or synthetic, so that nothing is `shown`, it says so."""
    table = table.head(LISTED)
    names = [f"{cut_middle(row.missed, 18)} missed,\n{cut_middle(row.predicted, 18)} predicted" for row in table.itertuples()]
    title = "Genres predicted for others (test posters)" if names else "No genre is predicted for another more than by chance"
    if not shown:
        title = "Genres predicted for others: not tested, as the\ntest posters are too few or synthetic"
    return _draw_intervals(title, "share where it was missed", names, table, "share", "elsewhere", "elsewhere")


def _draw_detections(axes: Axes, detections: list[Detection], captions: list[str], height: int, width: int) -> None:
    """Draw the boxes of detections on a poster of (height, width) pixels, with their captions."""
    label = {"boxstyle": f"square,pad={PAD}", "facecolor": "black", "edgecolor": "none", "alpha": 0.72}
    font: dict[str, Any] = {"color": "white", "fontsize": CAPTION, "ha": "left", "va": "top", "zorder": 4, "parse_math": False}
    with missing_glyphs_allowed():
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
        axes.set_title(f"{cut_middle(genre, 18)} ({probability:.3f})", fontsize=11, parse_math=False)
    for axes in (whole, *panels):
        axes.set_axis_off()
    bar = figure.colorbar(ScalarMappable(Normalize(0, top), "inferno"), cax=figure.add_subplot(grid[:, -1]))
    bar.set_label("what regions add to the logit, per whole poster")
    save_png(figure, path, 110)
