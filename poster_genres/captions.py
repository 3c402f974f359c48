"""Captions of bounding boxes: their text, and their positions on the poster."""

from itertools import accumulate
from unicodedata import east_asian_width

import numpy as np

from poster_genres.objects import Detection

MAX_BOXES = 20  # more would hide the poster
CAPTION_LENGTH, TEXT_LENGTH = 24, 120  # at most, in characters
# Words and objects are drawn with a genre if they add so much to its logit.
COUNTS = 0.1


def cut(text: str, length: int) -> str:
    """A text on one line, of at most `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def cut_middle(text: str, width: int) -> str:
    """A text on one line, at most `width` Latin letters wide: without its middle, as labels of a hierarchy begin alike."""
    text = " ".join(text.split())
    # As in a terminal, the signs of Chinese, Japanese and Korean are twice as wide.
    wide = [2 if east_asian_width(sign) in "WF" else 1 for sign in text]
    if sum(wide) <= width:
        return text
    half = (width - 1) // 2
    first = sum(total <= half for total in accumulate(wide))
    last = sum(total <= width - 1 - half for total in accumulate(reversed(wide)))
    return f"{text[:first].rstrip()}…{text[-last:].lstrip()}"


def is_read(detection: Detection) -> bool:
    """Whether text was recognised in the box."""
    return bool(detection.text.strip())


def caption(detection: Detection) -> str:
    """The recognised text, or else class and confidence, as `person 0.94`."""
    label, text = cut(detection.label, CAPTION_LENGTH), cut(detection.text, CAPTION_LENGTH)
    return text if is_read(detection) else f"{label} {detection.confidence:.2f}"


def words_of(detections: list[Detection]) -> str:
    """All recognised text on one line, of at most `TEXT_LENGTH` characters."""
    return cut(" · ".join(detection.text for detection in detections if is_read(detection)), TEXT_LENGTH)


def most_confident(detections: list[Detection]) -> list[Detection]:
    """The at most `MAX_BOXES` detections to show, most confident first."""
    return sorted(detections, key=lambda detection: -detection.confidence)[:MAX_BOXES]


def how_many(detections: list[Detection]) -> str:
    """`20 of 31 shown`; empty if all are shown."""
    return f"{MAX_BOXES} of {len(detections)} shown" if len(detections) > MAX_BOXES else ""


def _intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The areas of intersection of boxes (n, 4) and (m, 4), as (n, m). A box is left, top, width, height."""
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(np.maximum(sides, 0).prod(axis=2))


def place_captions(detections: list[Detection], sizes: np.ndarray) -> np.ndarray:
    """Place captions greedily, in the order of the detections, to minimise overlap with each other, then with the boxes.

    Each caption lies on the poster: inside its box, or directly above, below or beside it.

    Parameters
    ----------
    detections : to be captioned
    sizes : (detections, 2), each caption's width and height, as fractions of the poster's size

    Returns
    -------
    float64 (detections, 2), each caption's left and top, in [0, 1].
    """
    boxes = np.array([detection[2:6] for detection in detections], float).reshape(-1, 4)
    placed = np.zeros((0, 4))
    for (left, top, box_width, box_height), (width, height) in zip(boxes, sizes, strict=True):
        inside = np.arange(top, top + box_height - height, height)[:MAX_BOXES]
        tops = (top - height, top + box_height, top + box_height - height, *inside)
        lefts = (left, left + box_width - width, left + (box_width - width) / 2)
        # Beside the box only where there is room: clipped to the poster, the caption would cover the box.
        sides = [x for x in (left + box_width, left - width) if 0 <= x <= 1 - width]
        beside = [(x, y) for x in sides for y in (top, top + box_height - height)]
        candidates = np.array([(x, y, width, height) for x, y in [(x, y) for y in tops for x in lefts] + beside])
        candidates[:, :2] = np.clip(candidates[:, :2], 0, np.maximum(1 - candidates[:, 2:], 0))
        # Relative to each box's area, as a large box stays visible under a caption.
        hidden = (_intersections(candidates, boxes) / np.maximum(boxes[:, 2] * boxes[:, 3], 1e-6)).sum(axis=1)
        # Rounded, so that captions that only touch do not overlap.
        best = np.lexsort((hidden.round(6), _intersections(candidates, placed).sum(axis=1).round(6)))[0]
        placed = np.vstack([placed, candidates[best]])
    return placed[:, :2]
