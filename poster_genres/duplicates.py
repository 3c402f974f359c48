"""Posters that are nearly the same: another compression, another size, a slight change of colour."""

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn

from poster_genres.tensor_cache import Posters

BATCH = 256
# Of 64 bits, those in which two different posters differ are hardly ever so few: none of 8 million pairs in the real data.
MAX_DISTANCE = 6


def perceptual_hashes(posters: Posters) -> np.ndarray:
    """A hash that stays nearly the same when a poster is compressed or resized: the signs of its 64 lowest frequencies, against
    their median (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2).

    Parameters
    ----------
    posters : uint8 (N, height, width, 3)

    Returns
    -------
    uint16 (N, 4): 64 bits
    """
    hashes = np.empty((len(posters), 4), np.uint16)
    for start in range(0, len(posters), BATCH):
        small = [Image.fromarray(one).convert("L").resize((32, 32)) for one in posters[start : start + BATCH]]
        frequencies = dctn(np.stack([np.asarray(one, np.float32) for one in small]), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
        bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
        hashes[start : start + BATCH] = np.packbits(bits, axis=1).view(np.uint16)
    return hashes


def find_duplicates(hashes: np.ndarray, splits: np.ndarray) -> pd.DataFrame:
    """Pairs of posters in different splits that differ in at most MAX_DISTANCE of the 64 bits.

    Only posters that agree in one of four quarters are compared, so that the work grows with their number and not with its square.
    All pairs that differ in three bits or fewer agree in one.

    Parameters
    ----------
    hashes : uint16 (N, 4)
    splits : (N,), text

    Returns
    -------
    Columns first, second (their rows, first < second) and distance, in bits.
    """
    pairs: set[tuple[int, int]] = set()
    # Of posters with the same hash in one split the first stands for all: of a placeholder there may be thousands.
    table = pd.DataFrame(hashes).assign(split=splits, row=np.arange(len(hashes))).drop_duplicates([0, 1, 2, 3, "split"])
    for quarter in range(4):
        table["key"] = table[quarter]
        both = table[["key", "row"]].merge(table[["key", "row"]], on="key")
        found = both[(both["row_x"] < both["row_y"]) & (splits[both["row_x"]] != splits[both["row_y"]])]
        pairs |= set(zip(found["row_x"], found["row_y"], strict=True))
    result = pd.DataFrame(sorted(pairs), columns=["first", "second"], dtype=int)
    differing = hashes[result["first"]] ^ hashes[result["second"]]
    result["distance"] = np.bitwise_count(differing).sum(axis=1, dtype=int)
    return result[result["distance"] <= MAX_DISTANCE].sort_values(["distance", "first", "second"], ignore_index=True)
