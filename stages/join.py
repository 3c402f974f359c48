"""Join a data set's metadata and posters by ID, and split the movies into training, validation and test.

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
    """The posters, and how many more posters have an ID that another already has; the first by name is kept.

    Returns
    -------
    A table with the columns id, archive, poster (its path there) and size (in bytes), a row a poster, by name; and the number.
    """
    found = [file for file in files if file.suffix in POSTER_SUFFIXES]
    columns = {"id": "stem", "archive": "archive", "poster": "path", "size": "size"}
    posters = pd.DataFrame({column: [getattr(file, name) for file in found] for column, name in columns.items()})
    repeats = posters["id"].duplicated()
    return posters[~repeats].reset_index(drop=True), int(repeats.sum())


def group_identical(dataset: Path, posters: pd.DataFrame) -> dict[str, str]:
    """Posters with the same bytes are one group, named by its smallest ID: that of each of these posters which has another one.

    Only posters of equal size can be identical, so only those are read.

    Parameters
    ----------
    posters : some of `find_posters`
    """
    same = posters.loc[posters["size"].duplicated(keep=False), ["size", "id", "archive", "poster"]].sort_values(["size", "id"])
    groups: dict[str, str] = {}
    for _, rows in groupby(same.itertuples(), attrgetter("size")):
        first: dict[bytes, str] = {}
        for row in rows:
            try:
                data = read_bytes(dataset, row.archive, row.poster)
            except Exception:  # unreadable in whatever way: the cache stage leaves it out and says why
                continue
            if data and (group := first.setdefault(hashlib.sha256(data).digest(), row.id)) != row.id:
                groups[row.id] = group
    return groups


def join(metadata: Metadata, posters: pd.DataFrame, parameters: JoinParameters) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join metadata and posters, and split the movies.

    Returns
    -------
    The table of `poster_genres.movies`, in the metadata's order, and the counts for metrics/join.json.

    Raises
    ------
    InputError
        No ID is on both sides, or too few movies remain for a split.
    """
    dataset = parameters.dataset
    table = metadata.movies
    if posters.empty:
        raise InputError(f"{dataset}: no posters found; files like tt0081562.jpg are needed, in folders or zip archives")
    has_poster = table["id"].isin(posters["id"])
    matched = int(has_poster.sum())
    if not matched:
        some = f"metadata has {', '.join(table['id'][:3])}; posters are {', '.join(posters['id'][:3])}"
        raise InputError(f"{dataset}: no ID of the metadata is the file name of a poster: {some}")
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
    others = np.flatnonzero(~test)
    if len(others) < parameters.limit:
        print(f"limit: {parameters.limit} is more than the {len(others)} movies beside the test set; all of them are used")
    unknown, beyond = matched - len(movies), others[parameters.limit :]
    movies, test = movies.drop(index=beyond, columns="size").reset_index(drop=True), np.delete(test, beyond)
    others = np.flatnonzero(~test)
    labels = np.empty((len(movies), len(genres)), np.uint8)
    for column, genre in enumerate(genres):
        labels[:, column] = [genre in row for row in movies["genres"]]
    numbers = movies["group"].factorize()[0]
    try:
        validation = choose_validation(labels[others], numbers[others], parameters.validation, parameters.seed)
    except ValueError:
        raise InputError(
            f"params.yaml: limit: {len(others)} movie(s) are too few to set {parameters.validation:g} of them aside for validation"
            " and train on the rest; raise `limit`, or add movies"
        ) from None
    split = np.where(test, "test", "train").astype(object)
    split[others[validation]] = "validation"
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
        "unknown_genres": unknown,
        "identical_posters": len(groups),
        "beyond_limit": len(beyond),
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
