"""The cached posters: shards of one tensor, posters-000.npy and so on, and movies.csv with a row per poster in the same order."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from poster_genres.errors import InputError
from poster_genres.files import whole_file
from poster_genres.movies import read_movies


def shard_name(number: int) -> str:
    """The file of a shard; the names sort as the numbers do."""
    return f"posters-{number:03}.npy"


def write_shard(path: Path, posters: Iterable[np.ndarray], most: int, height: int, width: int) -> None:
    """Write posters as they come to a file in numpy's format, version 1.0, which appears when it is whole.

    Parameters
    ----------
    posters : uint8 (height, width, 3) each
    most : how many they may be
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        _write_header(file, (most, height, width, 3))
        number = 0
        for number, poster in enumerate(posters, start=1):  # noqa: B007  # how many they were
            file.write(poster.data)
        # The header has the same length for any number of posters: it is padded.
        file.seek(0)
        _write_header(file, (number, height, width, 3))


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


class CachedPosters:
    """The cached posters as one array uint8 (N, height, width, 3), of which only what is asked for is read.

    `posters[rows]` copies one poster, a slice or an array of rows, as it does for an array of numpy's. The files are read, not
    mapped: what is mapped counts as the process's memory. They stay in the system's page cache, where the next epoch finds them.

    Raises
    ------
    InputError
        A shard is damaged, or is not like the others.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._files = [path.open("rb", buffering=0) for path in paths]
        lengths: list[int] = []
        for path, file in zip(paths, self._files, strict=True):
            try:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError("of another version")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            except ValueError:
                raise InputError(f"{path}: damaged; remove it, and `dvc repro` makes it anew") from None
            self._start = file.tell()
            size = int(np.prod(shape))
            if dtype != np.uint8 or len(shape) != 4 or path.stat().st_size != self._start + size:
                raise InputError(f"{path}: damaged; remove it, and `dvc repro` makes it anew")
            if lengths and shape[1:] != self.shape[1:]:
                raise InputError(f"{path}: of another size than {paths[0]}; remove both, and `dvc repro` makes them anew")
            self.shape: tuple[int, ...] = shape
            lengths.append(shape[0])
        self._ends = np.cumsum(lengths)
        self.shape = (int(self._ends[-1]), *self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            rows = range(*rows.indices(len(self)))
        if np.ndim(rows) == 0:
            return self[[rows]][0]
        taken = np.empty((len(rows), *self.shape[1:]), np.uint8)
        shards = np.searchsorted(self._ends, rows, side="right")
        for one, row, shard in zip(taken, rows, shards, strict=True):
            first = self._ends[shard - 1] if shard else 0
            self._files[shard].seek(self._start + int(row - first) * one.size)
            self._files[shard].readinto(one.data)
        return taken


Posters = np.ndarray | CachedPosters
"""uint8 (N, height, width, 3), in memory or in the cache; both give `posters[rows]` as an array of numpy's, and have `shape`."""


def read_cache(folder: Path) -> tuple[CachedPosters, pd.DataFrame]:
    """Read the cached posters and their movies.

    Returns
    -------
    The posters, uint8 (movies, height, width, 3), of which only what is used is in memory; and the table of
    `poster_genres.movies`, a row a poster in the same order.

    Raises
    ------
    InputError
        They are not there, or do not belong together.
    """
    paths = sorted(folder.glob("posters-*.npy"))
    if not paths:
        raise InputError(f"{folder}/posters-000.npy: not there yet; `dvc repro` makes it")
    posters, movies = CachedPosters(paths), read_movies(folder / "movies.csv")
    if len(posters) != len(movies):
        raise InputError(f"{folder}: its posters do not belong to its movies.csv; remove it, and `dvc repro` makes it anew")
    return posters, movies
