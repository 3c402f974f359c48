"""Reading the tensor cache that `stages/cache.py` writes."""

import mmap
from pathlib import Path

import numpy as np
import pandas as pd

from poster_genres.errors import InputError
from poster_genres.movies import read_movies


def take_posters(posters: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Copy some posters out of the mapped tensor: uint8 (rows, height, width, 3).

    What the system had to map for that is given back at once, so that memory stays the same for any number of posters. The file
    stays in the system's page cache, where the next epoch finds it.
    """
    taken = posters[rows]
    if isinstance(posters.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        posters.base.madvise(mmap.MADV_DONTNEED)
    return taken


def read_cache(folder: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Read the cached posters and their movies.

    Returns
    -------
    uint8 (movies, height, width, 3), read-only and mapped from its file, so that only what is used is in memory; and the table
    of `poster_genres.movies`, a row a poster in the same order.

    Raises
    ------
    InputError
        They are not there, or do not belong together.
    """
    movies = read_movies(folder / "movies.csv")
    path = folder / "posters.npy"
    try:
        posters = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: not there yet; `dvc repro` makes it") from None
    except (ValueError, OSError):
        raise InputError(f"{path}: damaged; remove it, and `dvc repro` makes it anew") from None
    if posters.dtype != np.uint8 or posters.ndim != 4 or len(posters) != len(movies):
        raise InputError(f"{path}: does not belong to {folder / 'movies.csv'}; remove both, and `dvc repro` makes them anew")
    return posters, movies
