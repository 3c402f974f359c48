"""Near-duplicate posters: of another compression or size, or slightly different in colour."""

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn

from poster_genres.tensor_cache import Posters

BATCH = 256
# Different posters hardly ever differ in so few of the 64 bits: none of 8 million pairs in the real data does.
MAX_DISTANCE = 6


def perceptual_hashes(posters: Posters) -> np.ndarray:
    """A hash that hardly changes when a poster is compressed or resized: whether each of its 64 lowest frequencies is above their
    median (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2).

    Parameters
    ----------
    posters : uint8 (N, height, width, 3)

    Returns
    -------
    uint16 (N, 4): 64 bits
    """
    hashes = np.empty((len(posters), 4), np.uint16)
    for start in range(0, len(posters), BATCH):
        images = [Image.fromarray(poster).convert("L").resize((32, 32)) for poster in posters[start : start + BATCH]]
        frequencies = dctn(np.stack([np.asarray(image, np.float32) for image in images]), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
        bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
        hashes[start : start + BATCH] = np.packbits(bits, axis=1).view(np.uint16)
    return hashes


def find_duplicates(hashes: np.ndarray, splits: np.ndarray) -> pd.DataFrame:
    """Posters that differ from one in another split in at most MAX_DISTANCE of the 64 bits, each with the nearest such poster.

    Only posters that agree in one of the four quarters of the hash are compared, so that the work grows with their number, and with
    its square only where very many are alike. Those that differ in at most three bits always agree in one quarter; of those that
    differ in more, some are not found. Of posters with the same hash in one split, only the first is compared; each other is paired
    with the same poster as that.

    Parameters
    ----------
    hashes : uint16 (N, 4)
    splits : (N,), text

    Returns
    -------
    Columns first, second (their rows, first < second) and distance, in bits; each pair once.
    """
    codes = pd.factorize(splits)[0]
    table = pd.DataFrame(hashes).assign(split=codes, row=np.arange(len(hashes)))
    first = table.groupby([0, 1, 2, 3, "split"])["row"].transform("min").to_numpy()
    rows = np.flatnonzero(first == np.arange(len(hashes)))
    bits = np.ascontiguousarray(hashes).view(np.uint64)[:, 0]
    found = []
    for quarter in range(4):
        order = rows[np.argsort(hashes[rows, quarter], kind="stable")]
        for alike in np.split(order, np.flatnonzero(np.diff(hashes[order, quarter])) + 1):
            if len(alike) > 1 and (codes[alike] != codes[alike[0]]).any():
                found += _nearest(bits, codes, alike)
    nearest = pd.DataFrame(found, columns=["first", "second", "distance"], dtype=int).sort_values(["first", "distance", "second"])
    nearest = nearest.drop_duplicates("first").set_index("first").reindex(first).dropna().astype(int)
    partners = nearest.set_axis(np.flatnonzero(np.isin(first, nearest.index))).rename_axis("first").reset_index()
    ends = np.sort(partners[["first", "second"]], axis=1)
    pairs = pd.DataFrame({"first": ends[:, 0], "second": ends[:, 1], "distance": partners["distance"]}).drop_duplicates()
    return pairs.sort_values(["distance", "first", "second"], ignore_index=True)


def _nearest(bits: np.ndarray, splits: np.ndarray, rows: np.ndarray) -> list[tuple[int, int, int]]:
    """Of some rows of hashes, uint64 (N,), those that are near one of another split, int (N,): each with the nearest of these and
    their distance."""
    found: list[tuple[int, int, int]] = []
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        distance = np.bitwise_count(bits[some, None] ^ bits[None, rows])
        distance[splits[some, None] == splits[None, rows]] = 64
        best = distance.argmin(axis=1)
        least = distance[np.arange(len(some)), best]
        near = np.flatnonzero(least <= MAX_DISTANCE)
        found += zip(some[near].tolist(), rows[best[near]].tolist(), least[near].tolist(), strict=True)
    return found
