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
    """Pairs of posters in different splits that differ in at most MAX_DISTANCE of the 64 bits.

    Only posters that agree in one of the four quarters of the hash are compared, so the work grows with their number, not with its
    square. Pairs that differ in at most three bits always agree in one; of those that differ in more, some are not found.

    Of posters with the same hash in one split, only the first is compared; each other is paired with the same poster as that, so
    that all that are in two splits are named, though not in all pairs: there may be thousands of one placeholder.

    Parameters
    ----------
    hashes : uint16 (N, 4)
    splits : (N,), text

    Returns
    -------
    Columns first, second (their rows, first < second) and distance, in bits.
    """
    pairs: set[tuple[int, int]] = set()
    everything = pd.DataFrame(hashes).assign(split=splits, row=np.arange(len(hashes)))
    everything["first"] = everything.groupby([0, 1, 2, 3, "split"])["row"].transform("min")
    table = everything[everything["row"] == everything["first"]].copy()
    for quarter in range(4):
        table["key"] = table[quarter]
        merged = table[["key", "row"]].merge(table[["key", "row"]], on="key")
        candidates = merged[(merged["row_x"] < merged["row_y"]) & (splits[merged["row_x"]] != splits[merged["row_y"]])]
        pairs |= set(zip(candidates["row_x"], candidates["row_y"], strict=True))
    duplicates = pd.DataFrame(sorted(pairs), columns=["first", "second"], dtype=int)
    differing = hashes[duplicates["first"]] ^ hashes[duplicates["second"]]
    duplicates["distance"] = np.bitwise_count(differing).sum(axis=1, dtype=int)
    duplicates = duplicates[duplicates["distance"] <= MAX_DISTANCE]
    others = everything[everything["row"] != everything["first"]].groupby("first")["row"].apply(list)
    more = [
        (*sorted((other, partner)), distance)
        for a, b, distance in duplicates.itertuples(index=False)
        for first, partner in ((a, b), (b, a))
        for other in others.get(first, [])
    ]
    duplicates = pd.concat([duplicates, pd.DataFrame(more, columns=duplicates.columns, dtype=int)])
    return duplicates.sort_values(["distance", "first", "second"], ignore_index=True)
