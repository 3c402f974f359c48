"""Movies' metadata, in the layouts in which people meet it: a CSV table, or the data set's authors' `groundtruth` files.

Both become a table with a row a movie, in the order of the files: `id`, `title`, `year` (text, empty where not known) and
`genres`, a tuple of names. `N/A` says that the genres are unknown; it is no genre, and such a movie's tuple is empty.
"""

import ast
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from poster_genres.dataset import File, check_id, read_bytes
from poster_genres.errors import InputError

UNKNOWN = "N/A"
# Of a table, rows that are read at a time.
ROWS = 5000
# Tables that lie in a data set and say something else than its movies' genres.
OTHER_TABLES = ("detections.csv",)
_OBJECT_ID = re.compile(r'("_id"\s*:\s*)ObjectId\(\s*("[^"]*")\s*\)')
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Metadata:
    """The table, a row a movie, and what was counted while it was read."""

    movies: pd.DataFrame
    source: str
    rows: int
    repeats: int
    conflicts: int


def read_metadata(dataset: Path, files: list[File], choice: str = "auto") -> Metadata:
    """Read a data set's metadata.

    Where a CSV and groundtruth are both there, the CSV says which movies, in which order, with which genres, and groundtruth
    adds title and year; `choice`, one of "auto", "csv" and "groundtruth", can leave one of them out.

    Raises
    ------
    InputError
        There is no metadata of the chosen kind, or it is wrong; the message names file and row.
    """
    tables = [file for file in files if file.suffix == ".csv" and PurePosixPath(file.path).name not in OTHER_TABLES]
    truths = [file for file in files if file.suffix == ".txt"]
    table = truth = None
    if choice in ("auto", "csv") and tables:
        if len(tables) > 1:
            names = ", ".join(file.name for file in tables)
            raise InputError(f"{dataset}: {len(tables)} CSV files ({names}); keep the one that says the movies' genres")
        table = _read_csv(_text(dataset, tables[0]).encode("utf-8"), f"{dataset}/{tables[0].name}")
    if choice in ("auto", "groundtruth"):
        parts = [_read_groundtruth(text, f"{dataset}/{file.name}") for file in truths if (text := _groundtruth_text(dataset, file))]
        truth = pd.concat(parts, ignore_index=True) if parts else None
    if table is None and truth is None:
        wanted = {"csv": "a CSV", "groundtruth": "groundtruth/*.txt"}.get(
            choice, "a CSV (columns Id and Genre) or groundtruth/*.txt"
        )
        raise InputError(f"{dataset}: no metadata found; {wanted} is needed beside the posters")
    chosen = truth if table is None else table
    assert chosen is not None
    # A repeat is exact where the same genres stand again, in whatever order; titles and years may be spelled anew.
    key = chosen["genres"].map(cache(frozenset))
    first = key.groupby(chosen["id"]).transform("first")
    again = chosen["id"].duplicated()
    conflicts = int((again & (key != first)).sum())
    movies = chosen[~again].reset_index(drop=True)
    if table is not None and truth is not None:
        known = truth.drop_duplicates("id").set_index("id")
        for column in ("title", "year"):
            movies[column] = movies["id"].map(known[column]).fillna("")
    source = "csv" if truth is None else "groundtruth" if table is None else "csv and groundtruth"
    return Metadata(movies, source, len(chosen), int(again.sum()) - conflicts, conflicts)


def _text(dataset: Path, file: File) -> str:
    """A file's text: UTF-8, or UTF-16 with a byte-order mark or with the NULs that UTF-16 puts into ASCII."""
    data = read_bytes(dataset, file.archive, file.path)
    encoding = "utf-8-sig"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif data[:1] and b"\0" in data[:2]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{dataset}/{file.name}: not readable as {encoding} text at byte {error.start}; save it as UTF-8"
        ) from None


def _read_csv(data: bytes, name: str) -> pd.DataFrame:
    """Read a table in UTF-8 with the columns `Id` and `Genre` (a Python list or names between commas), and perhaps one-hot
    columns."""
    ids: list[str] = []
    genres: list[tuple[str, ...]] = []
    known: dict[str, tuple[str, ...]] = {}
    for part in _parts(data, name):
        # The header is line 1, so that row i is line i + 2 where no cell has line breaks in it.
        ids += [check_id(movie.strip(), f"{name}, row {i + 2}") for i, movie in part["Id"].items()]
        for i, cell in part["Genre"].items():
            if cell not in known:
                known[cell] = _parse_genres(cell, f"{name}, row {i + 2}")
            genres.append(known[cell])
    # Which columns are named like genres is known only now.
    names = {genre for row in known.values() for genre in row}
    for part in _parts(data, name):
        _check_one_hot(part, genres[part.index.start : part.index.stop], names, name)
    return pd.DataFrame({"id": ids, "title": "", "year": "", "genres": pd.Series([_known_genres(g) for g in genres], dtype=object)})


def _parts(data: bytes, name: str) -> Iterator[pd.DataFrame]:
    """The table as text, some thousand rows at a time, as `read_movies` does; its columns `Id` and `Genre` are there."""
    try:
        for part in pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, na_filter=False, chunksize=ROWS):
            for column in ("Id", "Genre"):
                if column not in part:
                    raise InputError(f"{name}: no column {column!r}; its columns are {', '.join(map(repr, part.columns[:8]))}")
            yield part
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{name}: not readable as CSV: {' '.join(str(error).split())}") from None


def _parse_genres(cell: str, where: str) -> tuple[str, ...]:
    """`['Comedy', 'Drama']` or `Comedy, Drama`, with `N/A` still in it."""
    if cell.lstrip().startswith("["):
        try:
            names = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{where}: Genre is {cell[:60]!r}; a list looks like ['Comedy', 'Drama']")
    else:
        names = cell.split(",")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _known_genres(genres: tuple[str, ...]) -> tuple[str, ...]:
    # The same tuple for all movies of the same genres, where nothing is to be left out.
    return tuple(genre for genre in genres if genre != UNKNOWN) if UNKNOWN in genres else genres


def _check_one_hot(part: pd.DataFrame, genres: list[tuple[str, ...]], names: set[str], name: str) -> None:
    """The columns that are named like genres hold 0 or 1, and say the same as `Genre`."""
    for column in part.columns.intersection(list(names)):
        cells = part[column]
        listed = np.array([column in row for row in genres], bool)
        for i in part.index[~cells.isin(["0", "1"])]:
            raise InputError(f"{name}, row {i + 2}: column {column!r} holds {cells[i]!r}; 0 or 1 is right")
        for i in part.index[(cells == "1") != listed]:
            raise InputError(f"{name}, row {i + 2}: Genre is {part['Genre'][i]!r}, but column {column!r} holds {cells[i]}")


def _groundtruth_text(dataset: Path, file: File) -> str:
    """The text of a file of Mongo-shell objects; empty for any other text, a README or a license."""
    text = _text(dataset, file).lstrip()
    return text if text.startswith("{") else ""


def _read_groundtruth(text: str, name: str) -> pd.DataFrame:
    """Read objects as the Mongo shell prints them: JSON, one after the other, but for `"_id" : ObjectId("…")`."""
    text = _OBJECT_ID.sub(r"\1\2", text)
    decoder = json.JSONDecoder(strict=False)
    folder_year = PurePosixPath(name).stem
    rows: list[dict[str, Any]] = []
    position = 0
    while position < len(text):
        where = f"{name}, record {len(rows) + 1}"
        try:
            record, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: not a JSON object ({error})") from None
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if not isinstance(record, dict) or not isinstance(record.get("imdbID"), str):
            raise InputError(f'{where}: no "imdbID"; a record looks like {{"imdbID": "tt0081562", "Genre": "Comedy, Crime"}}')
        genre = record.get("Genre") or UNKNOWN
        if not isinstance(genre, str):
            raise InputError(f"{where}: Genre is {genre!r}; names between commas are right")
        year = folder_year if re.fullmatch(r"\d{4}", folder_year) else str(record.get("Released", ""))[-4:]
        rows.append(
            {
                "id": check_id(record["imdbID"].strip(), where),
                "title": " ".join(str(record.get("Title") or "").split()),
                "year": year if re.fullmatch(r"\d{4}", year) else "",
                "genres": _known_genres(_parse_genres(genre, where)),
            }
        )
    return pd.DataFrame(rows, columns=["id", "title", "year", "genres"])
