"""The table of joined movies: one row per movie, with its poster's location, its split and a 0/1 column per genre."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from poster_genres.errors import InputError
from poster_genres.files import whole_file

SPLITS = ("train", "validation", "test")
COLUMNS = ["id", "archive", "poster", "title", "year", "split"]


def write_movies(movies: pd.DataFrame, path: Path) -> None:
    """Write the table as UTF-8 CSV."""
    with whole_file(path) as temporary:
        movies.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def read_movies(path: Path) -> pd.DataFrame:
    """Read the table: text columns `COLUMNS` (empty text for missing values), then uint8 genre columns."""
    try:
        genres = genres_of(pd.read_csv(path, nrows=0, encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not there yet; `dvc repro` makes it") from None
    types = dict.fromkeys(COLUMNS, "str") | dict.fromkeys(genres, "uint8")
    movies: pd.DataFrame = pd.read_csv(path, dtype=types, keep_default_na=False, na_filter=False, encoding="utf-8")
    return movies


def genres_of(movies: pd.DataFrame) -> list[str]:
    """The genres' names, in the order of their columns."""
    return list(movies.columns[len(COLUMNS) :])


def labels_of(movies: pd.DataFrame) -> np.ndarray:
    """The genres as float32 (movies, genres), 0 or 1."""
    return movies[genres_of(movies)].to_numpy(np.float32)


def in_test(movie: str, share: float) -> bool:
    """Whether a movie belongs to the test set: its ID's SHA-256, as a number in [0, 1), is below `share`.

    It depends on nothing else, so more data or another `limit` never moves a movie in or out. But movies with an identical poster
    all follow the one whose ID comes first, so that adding a copy under a smaller ID may.
    """
    number = int.from_bytes(hashlib.sha256(movie.encode()).digest()[:8], "big")
    return number / 2**64 < share


def choose_validation(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose movies for validation, stratified over the genres (Sechidis et al. 2011, iterative stratification).

    Parameters
    ----------
    labels : (movies, genres), 0 or 1
    groups : (movies,) integers; movies of one group stay in one split
    share : of the movies, in (0, 1); as near to it as whole groups allow
    seed : of the random choice

    Returns
    -------
    (movies,) bool

    Raises
    ------
    ValueError
        One of the splits would be empty.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    wanted = round(share * len(labels))
    _, first, members = np.unique(groups, return_index=True, return_inverse=True)
    if not 0 < wanted < len(labels) or len(first) < 2:
        raise ValueError(f"{len(labels)} movies cannot be split")
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    _, chosen = next(splitter.split(first, labels[first]))
    mask = np.isin(members, chosen)
    # Iterative stratification only comes near the wanted number; movies alone in their group make up the difference.
    surplus = int(mask.sum()) - wanted
    alone = np.bincount(members)[members] == 1
    movable = np.flatnonzero(alone & (mask if surplus > 0 else ~mask))
    moved = np.random.default_rng(seed).permutation(movable)[: abs(surplus)]
    mask[moved] = surplus < 0
    if mask.all() or not mask.any():
        raise ValueError(f"{len(labels)} movies cannot be split")
    return mask
