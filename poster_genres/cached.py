"""Reading the tensor cache that `stages/cache.py` writes."""

from pathlib import Path

import numpy as np
import pandas as pd

from poster_genres.errors import InputError
from poster_genres.movies import read_movies


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
