"""What to write beside the boxes of what detectors found, and where, so that one can read it."""

import numpy as np

from poster_genres.objects import Detection

# More boxes than these hide the poster.
SHOWN = 20
NAME, WORDS = 24, 120


def cut(text: str, length: int) -> str:
    """A text in one line, of `length` characters at most."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def is_read(one: Detection) -> bool:
    """Whether it is lettering of which words were read."""
    return bool(one.text.strip())


def caption(one: Detection) -> str:
    """`person 0.94`; or the words, where it is lettering."""
    return cut(one.text, NAME) if is_read(one) else f"{cut(one.label, NAME)} {one.confidence:.2f}"


def words_of(objects: list[Detection]) -> str:
    """All words that were read, in a line of `WORDS` characters at most."""
    return cut(" · ".join(one.text for one in objects if is_read(one)), WORDS)


def most_confident(objects: list[Detection]) -> list[Detection]:
    """The objects whose boxes are shown, the surest first."""
    return sorted(objects, key=lambda one: -one.confidence)[:SHOWN]


def how_many(objects: list[Detection]) -> str:
    """`20 of 31 shown`, or nothing where all are."""
    return f"{SHOWN} of {len(objects)} shown" if len(objects) > SHOWN else ""


def _overlaps(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that each of (n, 4) rectangles has in common with each of (m, 4): (n, m). Left, top, width, height."""
    a, b = ones[:, None], others[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(np.maximum(sides, 0).prod(axis=2))


def place_captions(objects: list[Detection], sizes: np.ndarray) -> np.ndarray:
    """Where captions stand, so that they cover each other as little as they can, and few of the boxes.

    Each is inside of its box or just above, below or beside it, and within the poster. Those of the first objects choose first.

    Parameters
    ----------
    objects : whose captions they are
    sizes : (objects, 2), width and height of each caption, in shares of the poster's size

    Returns
    -------
    float64 (objects, 2), the left and top edge of each, in [0, 1].
    """
    boxes = np.array([one[2:6] for one in objects], float).reshape(-1, 4)
    placed = np.zeros((0, 4))
    for (left, top, width, height), (broad, high) in zip(boxes, sizes, strict=True):
        within = np.arange(top, top + height - high, high)[:SHOWN]
        tops = (top - high, top + height, top + height - high, *within)
        lefts = (left, left + width - broad, left + (width - broad) / 2)
        # Moved into the poster, these would leave their box.
        sides = [x for x in (left + width, left - broad) if 0 <= x <= 1 - broad]
        beside = [(x, y) for x in sides for y in (top, top + height - high)]
        places = np.array([(x, y, broad, high) for x, y in [(x, y) for y in tops for x in lefts] + beside])
        places[:, :2] = np.clip(places[:, :2], 0, np.maximum(1 - places[:, 2:], 0))
        # Large boxes are easy to see whatever stands on them.
        hidden = (_overlaps(places, boxes) / np.maximum(boxes[:, 2] * boxes[:, 3], 1e-6)).sum(axis=1)
        # Rounded, as captions that touch cover nothing.
        best = np.lexsort((hidden.round(6), _overlaps(places, placed).sum(axis=1).round(6)))[0]
        placed = np.vstack([placed, places[best]])
    return placed[:, :2]
