"""Join a data set's metadata and posters by ID, and split the movies into training, validation and test sets.

In: the folder that `dataset` names. Out: data/movies.csv, metrics/join.json. Run: `python -m stages.join`, or `dvc repro join`.
"""

import hashlib
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from poster_genres import errors
from poster_genres.dataset import POSTER_SUFFIXES, File, list_files, read_bytes
from poster_genres.errors import InputError
from poster_genres.files import write_json
from poster_genres.metadata import Metadata, read_metadata
from poster_genres.movies import COLUMNS, SPLITS, choose_validation, in_test, write_movies
from poster_genres.parameters import JoinParameters, read_parameters


def find_posters(files: list[File]) -> tuple[pd.DataFrame, int]:
    """The posters, one per ID (the first by name), and how many were dropped because another has their ID.

    Returns
    -------
    A table with the columns id, archive, poster (path within it) and size (bytes), one row per poster, by name; and the number.
    """
    images = [file for file in files if file.suffix in POSTER_SUFFIXES]
    columns = {"id": "stem", "archive": "archive", "poster": "path", "size": "size"}
    posters = pd.DataFrame({column: [getattr(image, name) for image in images] for column, name in columns.items()})
    repeats = posters["id"].duplicated()
    return posters[~repeats].reset_index(drop=True), int(repeats.sum())


def group_identical(dataset: Path, posters: pd.DataFrame) -> dict[str, str]:
    """Group posters with identical bytes: from the ID of each poster to the smallest ID in its group, if that is another one.

    Only posters of equal size can be identical, so only those are read.

    Parameters
    ----------
    posters : a table with the columns of `find_posters`
    """
    same_size = posters.loc[posters["size"].duplicated(keep=False), ["size", "id", "archive", "poster"]].sort_values(["size", "id"])
    groups: dict[str, str] = {}
    for _, rows in groupby(same_size.itertuples(), attrgetter("size")):
        first: dict[bytes, str] = {}
        for row in rows:
            try:
                data = read_bytes(dataset, row.archive, row.poster)
            except Exception:  # unreadable for any reason: the stage `cache` leaves it out and reports why
                continue
            if data and (group := first.setdefault(hashlib.sha256(data).digest(), row.id)) != row.id:
                groups[row.id] = group
    return groups


def join(metadata: Metadata, posters: pd.DataFrame, parameters: JoinParameters) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join metadata and posters, and split the movies.

    Returns
    -------
    The table described in `poster_genres.movies`, in the metadata's order, and the counts for metrics/join.json.

    Raises
    ------
    InputError
        Metadata and posters share no ID, all genres are unknown, one is named like a column, or a split has too few movies.
    """
    dataset = parameters.dataset
    table = metadata.movies
    if posters.empty:
        raise InputError(f"{dataset}: no posters found; files like tt0081562.jpg are needed, in folders or zip archives")
    has_poster = table["id"].isin(posters["id"])
    matched = int(has_poster.sum())
    if not matched:
        examples = f"metadata has {', '.join(table['id'][:3])}; posters are {', '.join(posters['id'][:3])}"
        raise InputError(f"{dataset}: no ID of the metadata is the file name of a poster: {examples}")
    movies = table[has_poster & (table["genres"].map(len) > 0)].merge(posters, on="id")
    if movies.empty:
        raise InputError(f"{dataset}: all {matched} movies with a poster have unknown genres")
    genres = sorted({genre for row in movies["genres"] for genre in row})
    if clash := set(genres) & set(COLUMNS):
        raise InputError(f"{dataset}: genre {min(clash)!r} has the name of a column of data/movies.csv; write it in another case")

    groups = group_identical(Path(dataset), movies)
    movies["group"] = [groups.get(movie, movie) for movie in movies["id"]]
    test = movies["group"].map(lambda group: in_test(group, parameters.test)).to_numpy(bool)
    if not test.any():
        raise InputError(f"{dataset}: none of the {len(movies)} movies falls into the test set; raise `test` or add movies")
    rest = np.flatnonzero(~test)
    if len(rest) < parameters.limit:
        print(f"limit: {parameters.limit} is more than the {len(rest)} movies beside the test set; all of them are used")
    unknown_genres, beyond_limit = matched - len(movies), rest[parameters.limit :]
    movies, test = movies.drop(index=beyond_limit, columns="size").reset_index(drop=True), np.delete(test, beyond_limit)
    rest = np.flatnonzero(~test)
    labels = np.empty((len(movies), len(genres)), np.uint8)
    for column, genre in enumerate(genres):
        labels[:, column] = [genre in row for row in movies["genres"]]
    group_codes = movies["group"].factorize()[0]
    try:
        validation = choose_validation(labels[rest], group_codes[rest], parameters.validation, parameters.seed)
    except ValueError:
        raise InputError(
            f"params.yaml: limit: {len(rest)} movie(s) are too few to set {parameters.validation:g} of them aside for validation"
            " and train on the rest; raise `limit`, or add movies"
        ) from None
    split = np.where(test, "test", "train").astype(object)
    split[rest[validation]] = "validation"
    joined = pd.concat([movies.assign(split=split)[COLUMNS], pd.DataFrame(labels, columns=genres)], axis=1)
    counts = {
        "dataset": dataset,
        "metadata": metadata.source,
        "rows": metadata.rows,
        "repeated_rows_dropped": metadata.repeats,
        "conflicting_rows_dropped": metadata.conflicts,
        "posters": len(posters),
        "posters_without_metadata": len(posters) - matched,
        "rows_without_poster": len(table) - matched,
        "matched": matched,
        "unknown_genres": unknown_genres,
        "identical_posters": len(groups),
        "beyond_limit": len(beyond_limit),
        "movies": {name: int((split == name).sum()) for name in SPLITS},
        "genres": {genre: {name: int(labels[split == name, i].sum()) for name in SPLITS} for i, genre in enumerate(genres)},
    }
    return joined, counts


def main() -> None:
    parameters = read_parameters().used_by(JoinParameters)
    dataset = Path(parameters.dataset)
    files = list_files(dataset)
    posters, poster_repeats = find_posters(files)
    metadata = read_metadata(dataset, [file for file in files if file.suffix not in POSTER_SUFFIXES], parameters.metadata)
    movies, counts = join(metadata, posters, parameters)
    counts["repeated_posters_dropped"] = poster_repeats
    write_movies(movies, Path("data/movies.csv"))
    write_json(Path("metrics/join.json"), counts)
    sizes = ", ".join(f"{number} {name}" for name, number in counts["movies"].items())
    print(f"{counts['matched']} of {counts['rows']} rows have a poster; {sizes}; {len(counts['genres'])} genres")


if __name__ == "__main__":
    errors.run(main)
