"""Compare two experiments on the same posters: `python -m stages.compare A B`.

A and B are experiments, branches, tags or commits; without B, the workspace is compared with A. Differences are those of
validation posters: who looks at the test while choosing, chooses by it. `--split test` is for the end.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from poster_genres import errors
from poster_genres.errors import InputError
from poster_genres.evaluation import describe_scored, paired_differences
from poster_genres.movies import genres_of, labels_of, read_movies
from poster_genres.scores import scored_genres

WORKSPACE = "workspace"
MOVIES, PREDICTIONS = Path("data/movies.csv"), Path("metrics/predictions.csv")
SPLITS = ("validation", "test")


def read_experiment(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The movies and the predictions of an experiment, or of the workspace.

    Raises
    ------
    InputError
        There is no such experiment, or it has not finished.
    """
    if not name.strip():
        raise InputError(f"name an experiment, branch, tag or commit, or {WORKSPACE}, not {name!r}")
    if name == WORKSPACE:
        return read_tables(Path(), name)
    # DVC is imported here, where it takes a second.
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    with tempfile.TemporaryDirectory() as folder:
        try:
            files = DVCFileSystem(rev=name)
            for path in (MOVIES, PREDICTIONS):
                Path(folder, path).parent.mkdir()
                files.get_file(path.as_posix(), str(Path(folder, path)))
        except (SCMError, AttributeError):  # AttributeError: a name of Git's for a file or folder, not for a commit
            raise InputError(f"{name}: no experiment, branch, tag or commit of that name; `dvc exp show` lists them") from None
        except (DvcException, OSError):
            raise InputError(
                f"{name}: has no {PREDICTIONS}, or it is not in DVC's cache; was it run to its end, and dvc.lock committed?"
            ) from None
        return read_tables(Path(folder), name)


def read_tables(folder: Path, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of an experiment in a folder. Raises InputError."""
    if not (folder / PREDICTIONS).is_file():
        raise InputError(f"{name}: has no {PREDICTIONS}; `dvc repro` makes it")
    try:
        predictions = pd.read_csv(
            folder / PREDICTIONS, dtype={"id": "str", "split": "str"}, keep_default_na=False, encoding="utf-8"
        )
        return read_movies(folder / MOVIES), predictions
    except ValueError as error:  # of pandas, which has many
        said = " ".join(str(error).split())[:150]
        raise InputError(f"{name}: {PREDICTIONS} or {MOVIES} is damaged ({said}); remove it, and `dvc repro` makes it") from None


def labels_and_probabilities(movies: pd.DataFrame, predictions: pd.DataFrame, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the posters of a split, float32 and float64 (posters, genres)."""
    rows = predictions[predictions["split"] == split]
    known = movies.set_index("id").loc[rows["id"]].reset_index()
    return labels_of(known[movies.columns]), rows.iloc[:, 2:].to_numpy(np.float64)


def compare(names: tuple[str, str], split: str) -> tuple[pd.DataFrame, int, list[str], list[str]]:
    """Two experiments on the same posters of a split.

    Returns
    -------
    The table of `paired_differences`; the number of posters; the genres that macro scores average over; and all genres.

    Raises
    ------
    InputError
        See `read_experiment`; or they are about different genres, posters or labels.
    """
    (movies, first), (other_movies, second) = map(read_experiment, names)
    if list(first.columns) != list(second.columns):
        raise InputError(f"{names[0]} and {names[1]}: about different genres, which cannot be compared")
    keys, genres = ["id", "split"], genres_of(movies)
    if not first[keys].equals(second[keys]) or not movies[genres].equals(other_movies[genres]):
        raise InputError(f"{names[0]} and {names[1]}: other posters or labels; only runs on one data set, limit and seed compare")
    columns = scored_genres(*(labels_and_probabilities(movies, first, each)[0] for each in SPLITS))
    (labels, of_first), (_, of_second) = (labels_and_probabilities(movies, table, split) for table in (first, second))
    return paired_differences(labels, of_first, of_second, columns), len(labels), [genres[i] for i in columns], genres


def main() -> None:
    parser = errors.Parser(prog="python -m stages.compare", description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("first", metavar="A", help="an experiment, branch, tag or commit")
    parser.add_argument("second", metavar="B", nargs="?", default=WORKSPACE, help=f"another ({WORKSPACE})")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help=f"the posters to compare on ({SPLITS[0]})")
    arguments = parser.parse_args()
    names = (arguments.first, arguments.second)
    table, posters, scored, genres = compare(names, arguments.split)
    print_differences(table, names, f"{posters} {arguments.split} posters")
    if line := describe_scored(scored, genres):
        print(line)


def print_differences(table: pd.DataFrame, names: tuple[str, str], posters: str) -> None:
    """Print one row per score, and below them whether the difference is beyond chance."""
    width = max(len(name) for name in (*names, "0.0000"))
    print(f"{posters:28}{names[0]:>{width}}  {names[1]:>{width}}  difference   95 % interval")
    for row in table.itertuples():
        interval = "none" if np.isnan(row.low) else f"{row.low:+.4f} to {row.high:+.4f}"
        scores = f"{row.first:{width}.4f}  {row.second:{width}.4f}     {row.difference:+.4f}"
        print(f"{row.score.replace('_', ' '):28}{scores}   {interval}")
    headline = table.iloc[0]
    if not table[["difference", "error"]].any(axis=None):
        print("they score the same: there is no difference")
    elif np.isnan(headline["low"]):
        print("by macro average precision nothing can be said: some genres are on too few of these posters")
    elif headline["low"] > 0 or headline["high"] < 0:
        print(f"by macro average precision {names[int(headline['low'] > 0)]} is better, beyond chance on these posters")
    else:
        print("by macro average precision the difference is within chance on these posters")


if __name__ == "__main__":
    errors.run(main)
