"""Predict the genres of any poster: `python -m stages.predict poster.jpg [more.jpg folder ...]`.

In: models/model.pt, or before the first training models/real_posters.pt, and the given posters; with --random also data/movies.csv
and the posters of `dataset`. Out: text, and the files that --csv, --json and --explain name.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from poster_genres import errors
from poster_genres.dataset import POSTER_SUFFIXES, read_bytes
from poster_genres.errors import InputError, printable
from poster_genres.files import repository, sha256
from poster_genres.texts import some

if TYPE_CHECKING:
    from tqdm import tqdm

    from poster_genres.objects import Detection
    from poster_genres.prediction import Prediction, Predictor
    from poster_genres.progress import Lines

EXPLAINED = 5
# A larger file is no poster; in a data set `max_poster_megabytes` says it.
MAX_BYTES = 100_000_000


@dataclass(frozen=True)
class Poster:
    """A poster on the command line.

    Attributes
    ----------
    name : its path or address
    size : in bytes
    content : reads it; see `read_poster`
    """

    name: str
    size: int
    content: Callable[[], bytes]


def find_posters(names: list[str]) -> list[Poster]:
    """The posters given on the command line; a folder stands for all posters in it, at any depth.

    Raises
    ------
    InputError
        A path does not exist, a folder contains no posters, or an address cannot be read.
    """
    posters: list[Poster] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            paths = sorted(file for file in path.rglob("*") if file.suffix.lower() in POSTER_SUFFIXES and file.is_file())
            # Not the hidden ones, as macOS leaves beside each file that it copies.
            files = [file for file in paths if not any(part.startswith(".") for part in file.relative_to(path).parts)]
            if not files:
                raise InputError(
                    f"{path}: no posters in this folder; files that end in {', '.join(POSTER_SUFFIXES)} are looked for"
                )
        elif path.is_file():
            files = [path]
        elif "://" in name:
            from poster_genres.addresses import find

            posters += [Poster(*found) for found in find(name)]
            continue
        else:
            raise InputError(f"{path}: no such file or folder")
        posters += [Poster(str(file), file.stat().st_size, file.read_bytes) for file in files]
    return posters


def random_poster() -> tuple[Poster, str, list[str]]:
    """A random poster of the test split; a line with its ID, title and year; and its true genres."""
    from poster_genres.movies import genres_of, read_movies
    from poster_genres.parameters import JoinParameters, read_parameters

    movies = read_movies(Path("data/movies.csv"))
    movie = movies[movies["split"] == "test"].sample(1).iloc[0]
    dataset = Path(read_parameters().used_by(JoinParameters).dataset)
    content = partial(read_bytes, dataset, movie["archive"], movie["poster"])
    genres = [genre for genre in genres_of(movies) if movie[genre]]
    title = f" {movie['title']}" if movie["title"] else ""
    year = f" ({movie['year']})" if movie["year"] else ""
    # `join` left out those that are too large.
    return Poster(str(dataset / movie["archive"] / movie["poster"]), 0, content), f"{movie['id']}{title}{year}", genres


def read_poster(poster: Poster) -> bytes:
    """A poster's file; empty where it cannot be read, which is then said of it. Raises InputError if nothing can be read."""
    from poster_genres.dataset import NOT_READ

    with suppress(*NOT_READ):
        return poster.content()
    return b""


def number(probability: float) -> str:
    """A probability with three significant digits, never in scientific notation: `0.728`, `0.0000123`; `0.00` below a millionth."""
    return f"{Decimal(f'{probability if probability >= 1e-6 else 0:#.3g}'):f}"


def format_genres(genres: list[str], probabilities: np.ndarray, top: int, verdict: list[str]) -> str:
    """The `top` most likely genres, one per line, like `Comedy (0.728)`; those of the verdict are marked by `*`."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return "\n".join(f"{genres[i]} ({number(probabilities[i])}){' *' if genres[i] in verdict else ''}" for i in order)


def as_utf8(name: str) -> str:
    """A poster's name without the bytes that are not UTF-8, which are written out, as `caf\\udce9.jpg`."""
    return name.encode(errors="backslashreplace").decode()


class Output:
    """A file of predictions, to which each is appended as it comes, so that an interrupted run can go on.

    Parameters
    ----------
    path : ends in .csv, or in .json or .jsonl for one JSON object per line
    model : the first digits of the SHA-256 of the model's file
    genres : the model's

    Raises
    ------
    InputError
        The file exists, and not as a file of predictions by this model.
    """

    def __init__(self, path: Path, model: str, genres: list[str]) -> None:
        self.path, self.model, self.genres = path, model, genres
        self.csv = path.suffix.lower() == ".csv"
        self.header = ["poster", "model", "verdict", *genres]
        content = path.read_bytes() if path.is_file() else b""
        # An interrupted run may have left half a line.
        end = content.rfind(b"\n") + 1
        whole = content[:end]
        self.done = self._posters(whole, content[end:])
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: IO[str] = path.open("r+" if content else "w", encoding="utf-8", newline="")
        self.file.truncate(end)
        self.file.seek(0, io.SEEK_END)
        if self.csv and not whole:
            self._write(self.header)

    def _posters(self, whole: bytes, rest: bytes) -> set[str]:
        """The names of the posters in the whole lines of the file; `rest` is what is left behind these."""
        first = io.StringIO()
        csv.writer(first).writerow(self.header)
        begins = (first.getvalue() if self.csv else '{"poster": "').encode()
        try:
            text = whole.decode()
            if not whole and not rest.startswith(begins) and not begins.startswith(rest):
                raise ValueError("the file of another program")
            if self.csv:
                header, *rows = csv.reader(io.StringIO(text)) if text else [self.header]
                if not all(len(row) == len(header) for row in rows):
                    raise ValueError("cells are missing")
                # By position: a genre may be named as another column is.
                known = [{"poster": row[0], "model": row[1]} for row in rows]
                right = header == self.header
            else:
                known = [json.loads(line) for line in text.split("\n")[:-1]]
                right = all(sorted(row["genres"]) == sorted(self.genres) for row in known)
            if right and all(row["model"] == self.model for row in known):
                return {str(row["poster"]) for row in known}
        except (ValueError, KeyError, TypeError, csv.Error):
            raise InputError(f"{self.path}: is not a file of predictions; name another") from None
        raise InputError(f"{self.path}: has the predictions of another model; name another file, or remove it")

    def add(self, name: str, verdict: list[str], probabilities: np.ndarray) -> None:
        if self.csv:
            self._write([as_utf8(name), self.model, ", ".join(verdict), *(number(probability) for probability in probabilities)])
        else:
            self.file.write(json_line(name, self.model, verdict, self.genres, probabilities) + "\n")
        self.file.flush()

    def _write(self, row: list[str]) -> None:
        csv.writer(self.file, lineterminator="\n").writerow(row)


def json_line(name: str, model: str, verdict: list[str], genres: list[str], probabilities: np.ndarray) -> str:
    """A prediction as a JSON object on one line, its genres by decreasing probability."""
    order = np.argsort(-probabilities, kind="stable")
    numbers = {genres[i]: float(f"{probabilities[i]:.6g}") for i in order}
    return json.dumps({"poster": as_utf8(name), "model": model, "verdict": verdict, "genres": numbers}, ensure_ascii=False)


def draw_evidence(predictor: "Predictor", prediction: "Prediction", path: Path) -> None:
    """Draw what speaks for a poster's likeliest genres into a PNG."""
    from poster_genres.explanations import explain, logits_by_object
    from poster_genres.figures import draw_explanation

    model, content = predictor.model, prediction.content
    likeliest = np.argsort(-prediction.probabilities, kind="stable")[:EXPLAINED].tolist()
    maps = explain(model, prediction.pixels, likeliest, predictor.device)
    detections = [] if content is None else content.objects
    logits = np.zeros((0, len(likeliest)), np.float32) if content is None else logits_by_object(model, content)[:, likeliest]
    genres = [model.genres[i] for i in likeliest]
    draw_explanation(prediction.pixels, detections, genres, prediction.probabilities[likeliest], maps, logits, path)
    print(f"{path}: what speaks for its {len(likeliest)} likeliest genres", file=sys.stderr)


def parse() -> argparse.Namespace:
    """The command line. Raises InputError where it is not valid."""
    parser = errors.Parser(prog="python -m stages.predict", description="Predict movies' genres from their posters.")
    parser.add_argument("posters", nargs="*", metavar="poster", help="an image or a folder of images, or its address, s3://…")
    parser.add_argument("--random", action="store_true", help="take a random test poster, and print its true genres too")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many genres to print (10)")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write one row per poster; the same command goes on where it stopped"
    )
    lines = "print one JSON object per poster, or write them to a FILE; the same command goes on where it stopped"
    parser.add_argument("--json", nargs="?", type=Path, const=Path("-"), metavar="FILE", help=lines)
    parser.add_argument(
        "--model",
        type=Path,
        help="the model file, or models:/… in MLflow (models/model.pt, before the first training models/real_posters.pt)",
    )
    parser.add_argument("--explain", type=Path, metavar="PNG", help="also draw what speaks for the poster's most likely genres")
    parser.add_argument("--detections", type=Path, metavar="CSV", help="a table of the posters' objects, instead of the detectors")
    arguments = parser.parse_args()
    # Before all else, as `--json poster.jpg` would otherwise name a poster as the file to write to.
    if arguments.json and arguments.json != Path("-") and arguments.json.suffix.lower() not in (".json", ".jsonl"):
        parser.error(f"--json {arguments.json}: write to a file whose name ends in .jsonl, and name posters before --json")
    if arguments.csv and arguments.csv.suffix.lower() != ".csv":
        parser.error(f"--csv {arguments.csv}: write to a file whose name ends in .csv, and name posters before --csv")
    if arguments.explain and arguments.explain.suffix.lower() != ".png":
        parser.error("--explain draws one poster, into a file whose name ends in .png")
    if arguments.csv and arguments.json:
        parser.error("give --csv or --json, not both")
    if arguments.random == bool(arguments.posters):
        parser.error("name posters or folders, or give --random")
    if arguments.top < 1:
        parser.error("--top takes a number from 1")
    return arguments


def without_large(posters: list[Poster], say: Callable[[str, IO[str]], None]) -> list[Poster]:
    """The posters without those of more than `MAX_BYTES`, which are said."""
    kept = []
    for poster in posters:
        if poster.size <= MAX_BYTES:
            kept.append(poster)
        else:
            say(f"{printable(poster.name)}: left out: more than {MAX_BYTES // 1_000_000} MB", sys.stderr)
    return kept


def without_done(
    posters: list[Poster], output: Output, bar: "tqdm[Any] | Lines", say: Callable[[str, IO[str]], None]
) -> list[Poster]:
    """The posters without those that the output has, whose number is said."""
    from poster_genres.progress import resume

    remaining = [poster for poster in posters if as_utf8(poster.name) not in output.done]
    done = len(posters) - len(remaining)
    say(f"{output.path}: {done} of {len(posters)} posters are there already", sys.stderr)
    resume(bar, done)
    return remaining


def objects_of(table: dict[str, list["Detection"]], posters: list[Poster], path: Path) -> Iterator[list["Detection"]]:
    """The objects of each poster in a table, in which its file's name stands with its ending or without; warns where none does."""
    names = [PurePosixPath(poster.name) for poster in posters]
    if posters and table and not any(name.name in table or name.stem in table for name in names):
        ids = some(map(printable, table))
        print(f"warning: {path}: has no objects on {printable(names[0].stem)} or others given; its IDs are {ids}", file=sys.stderr)
    return (table.get(name.stem) or table.get(name.name, []) for name in names)


def predict(arguments: argparse.Namespace, posters: list[Poster], truth: str, bar: "tqdm[Any] | Lines") -> None:
    """Predict posters, and print or write each prediction as it comes. Raises InputError."""
    from poster_genres.addresses import READ_AT_ONCE
    from poster_genres.detection import open_store
    from poster_genres.devices import prepare
    from poster_genres.objects import parse_objects
    from poster_genres.parameters import DetectParameters, read_parameters
    from poster_genres.prediction import READABLE, Predictor, choose_model
    from poster_genres.spread import spread

    def say(text: str, file: IO[str] = sys.stdout) -> None:
        bar.write(text, file=file)  # above the bar, if there is one
        file.flush()

    many = len(posters) > 1
    path = choose_model(arguments.model)
    scheduler = read_parameters().used_by(DetectParameters).dask_scheduler if many else None
    table = None if arguments.detections is None else parse_objects(arguments.detections.read_bytes(), str(arguments.detections))
    predictor = Predictor(path, prepare(), table is not None, open_store(repository()), scheduler)
    genres, digest = predictor.model.genres, sha256(path)[:16]
    target = arguments.csv or (arguments.json if arguments.json != Path("-") else None)
    output = None if target is None else Output(target, digest, genres)
    if output is not None and output.done:
        posters = without_done(posters, output, bar, say)
    total = len(posters)
    posters = without_large(posters, say)
    unreadable = total - len(posters)
    bar.update(unreadable)
    given = None if table is None else objects_of(table, posters, arguments.detections)
    # Of files on this machine few are held at a time, as they may be large.
    contents = spread(read_poster, posters, cores=READ_AT_ONCE if any("://" in name for name in arguments.posters) else 1)
    if truth and (output is not None or arguments.json):
        say(truth.strip(), sys.stderr)
    for name, result in zip([poster.name for poster in posters], predictor.predict(contents, given), strict=True):
        bar.update()
        if isinstance(result, str):
            unreadable += 1
            say(f"{printable(name)}: left out: {result}", sys.stderr)
            continue
        verdict = predictor.verdict(result)
        if output is not None:
            output.add(name, verdict, result.probabilities)
        elif arguments.json:
            say(json_line(name, digest, verdict, genres, result.probabilities))
        else:
            heading = (f"{printable(name)}: " if many else truth) + (", ".join(verdict) or "no genre reaches its threshold")
            lines = format_genres(genres, result.probabilities, arguments.top, verdict)
            say(f"{heading}\n{lines}" + ("\n" if many else ""))
        if arguments.explain:
            draw_evidence(predictor, result, arguments.explain)
    if target is not None:
        added = total - unreadable
        say(f"{target}: {added} more poster{'s' * (added != 1)}", sys.stderr)
    if unreadable:
        raise InputError(f"{unreadable} of {total} posters could not be read; {READABLE}")


def main() -> None:
    from poster_genres.progress import progress

    arguments = parse()
    truth = ""
    if arguments.random:
        poster, title, true_genres = random_poster()
        posters, truth = [poster], f"{title}; true genres: {', '.join(true_genres) or 'none'}\n"
    else:
        posters = find_posters(arguments.posters)
    if arguments.explain and len(posters) > 1:
        raise InputError(f"--explain draws one poster, not {len(posters)}; name one")
    # Before the model is loaded, which takes seconds.
    with progress("predict", len(posters)) as bar:
        predict(arguments, posters, truth, bar)


if __name__ == "__main__":
    errors.run(main)
