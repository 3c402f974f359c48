"""Movies' metadata, in either of its two layouts: a CSV table, or the data set's authors' `groundtruth` files.

Both become a table with one row per movie, in the order of the files: `id`, `title`, `year` (text, empty if unknown) and `genres`,
a tuple of names. `N/A` is not a genre; it means that the genres are unknown, and such a movie's tuple is empty.
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
# Rows of a CSV file that are read at a time.
ROWS = 5000
# CSV files in a data set that are not metadata.
OTHER_TABLES = ("detections.csv",)
_OBJECT_ID = re.compile(r'("_id"\s*:\s*)ObjectId\(\s*("[^"]*")\s*\)')
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Metadata:
    """The table, one row per movie, and counts of the rows that were read."""

    movies: pd.DataFrame
    source: str
    rows: int
    repeats: int
    conflicts: int


def read_metadata(dataset: Path, files: list[File], choice: str = "auto") -> Metadata:
    """Read a data set's metadata.

    If there are a CSV and groundtruth, the CSV gives the movies, their order and their genres, and groundtruth adds title and year;
    `choice`, one of "auto", "csv" and "groundtruth", can leave one of them out.

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
        years = [_read_groundtruth(text, f"{dataset}/{file.name}") for file in truths if (text := _groundtruth_text(dataset, file))]
        truth = pd.concat(years, ignore_index=True) if years else None
    if table is None and truth is None:
        wanted = {"csv": "a CSV", "groundtruth": "groundtruth/*.txt"}.get(
            choice, "a CSV (columns Id and Genre) or groundtruth/*.txt"
        )
        raise InputError(f"{dataset}: no metadata found; {wanted} is needed beside the posters")
    chosen = truth if table is None else table
    assert chosen is not None
    # A repeat with the same genres, in any order, is no conflict; titles and years may differ.
    key = chosen["genres"].map(cache(frozenset))
    first = key.groupby(chosen["id"]).transform("first")
    repeated = chosen["id"].duplicated()
    conflicts = int((repeated & (key != first)).sum())
    movies = chosen[~repeated].reset_index(drop=True)
    if table is not None and truth is not None:
        details = truth.drop_duplicates("id").set_index("id")
        for column in ("title", "year"):
            movies[column] = movies["id"].map(details[column]).fillna("")
    source = "csv" if truth is None else "groundtruth" if table is None else "csv and groundtruth"
    return Metadata(movies, source, len(chosen), int(repeated.sum()) - conflicts, conflicts)


def _text(dataset: Path, file: File) -> str:
    """A file's text: UTF-8, or UTF-16, which a byte-order mark or the NULs of its ASCII characters show."""
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
    """Read a table in UTF-8 with the columns `Id` and `Genre` (a Python list, or names separated by commas), and perhaps one-hot
    columns."""
    ids: list[str] = []
    genres: list[tuple[str, ...]] = []
    parsed: dict[str, tuple[str, ...]] = {}
    for chunk in _chunks(data, name):
        # The header is line 1, so row i is line i + 2 where no cell contains line breaks.
        ids += [check_id(movie.strip(), f"{name}, row {i + 2}") for i, movie in chunk["Id"].items()]
        for i, cell in chunk["Genre"].items():
            if cell not in parsed:
                parsed[cell] = _parse_genres(cell, f"{name}, row {i + 2}")
            genres.append(parsed[cell])
    # One-hot columns are those named like genres, which are complete only now.
    names = {genre for row in parsed.values() for genre in row}
    for chunk in _chunks(data, name):
        _check_one_hot(chunk, genres[chunk.index.start : chunk.index.stop], names, name)
    return pd.DataFrame({"id": ids, "title": "", "year": "", "genres": pd.Series([_drop_unknown(g) for g in genres], dtype=object)})


def _chunks(data: bytes, name: str) -> Iterator[pd.DataFrame]:
    """The table as text, ROWS rows at a time; it has the columns `Id` and `Genre`."""
    try:
        for chunk in pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, na_filter=False, chunksize=ROWS):
            for column in ("Id", "Genre"):
                if column not in chunk:
                    raise InputError(f"{name}: no column {column!r}; its columns are {', '.join(map(repr, chunk.columns[:8]))}")
            yield chunk
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{name}: not readable as CSV: {' '.join(str(error).split())}") from None


def _parse_genres(cell: str, where: str) -> tuple[str, ...]:
    """`['Comedy', 'Drama']` or `Comedy, Drama`; `N/A` is kept."""
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


def _drop_unknown(genres: tuple[str, ...]) -> tuple[str, ...]:
    # Unchanged where possible, so that movies of the same genres share one tuple.
    return tuple(genre for genre in genres if genre != UNKNOWN) if UNKNOWN in genres else genres


def _check_one_hot(chunk: pd.DataFrame, genres: list[tuple[str, ...]], names: set[str], name: str) -> None:
    """Check that the columns named like genres hold 0 or 1 and agree with `Genre`."""
    for column in chunk.columns.intersection(list(names)):
        cells = chunk[column]
        listed = np.array([column in row for row in genres], bool)
        for i in chunk.index[~cells.isin(["0", "1"])]:
            raise InputError(f"{name}, row {i + 2}: column {column!r} holds {cells[i]!r}; 0 or 1 is right")
        for i in chunk.index[(cells == "1") != listed]:
            raise InputError(f"{name}, row {i + 2}: Genre is {chunk['Genre'][i]!r}, but column {column!r} holds {cells[i]}")


def _groundtruth_text(dataset: Path, file: File) -> str:
    """The text of a file of Mongo shell objects; empty for any other text, such as a README or a license."""
    text = _text(dataset, file).lstrip()
    return text if text.startswith("{") else ""


def _read_groundtruth(text: str, name: str) -> pd.DataFrame:
    """Read objects as the Mongo shell prints them: JSON, one after the other, except for `"_id" : ObjectId("…")`."""
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
                "genres": _drop_unknown(_parse_genres(genre, where)),
            }
        )
    return pd.DataFrame(rows, columns=["id", "title", "year", "genres"])
