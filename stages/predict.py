"""Predict the most likely genres of any poster: `python -m stages.predict poster.jpg [more.jpg folder ...]`.

In: models/model.pt and the given posters; with --random also data/movies.csv and the posters of `dataset`. Out: text.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from poster_genres import errors
from poster_genres.architectures import needs_objects
from poster_genres.dataset import POSTER_SUFFIXES, read_bytes
from poster_genres.errors import InputError
from poster_genres.movies import genres_of, read_movies
from poster_genres.objects import PosterDetections, parse_objects
from poster_genres.parameters import JoinParameters, read_parameters
from poster_genres.posters import Unreadable, load_poster

if TYPE_CHECKING:
    from poster_genres.model import Model

BATCH = 256
EXPLAINED = 5

# A poster's name for output, and its location as (folder, zip archive or "", path).
Poster = tuple[str, tuple[Path, str, str]]


def find_posters(paths: list[Path]) -> list[Poster]:
    """The posters given on the command line; a folder stands for all posters in it, at any depth.

    Raises
    ------
    InputError
        A path does not exist, or a folder contains no posters.
    """
    posters: list[Poster] = []
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in POSTER_SUFFIXES and file.is_file())
            if not files:
                raise InputError(
                    f"{path}: no posters in this folder; files that end in {', '.join(POSTER_SUFFIXES)} are looked for"
                )
        elif path.is_file():
            files = [path]
        else:
            raise InputError(f"{path}: no such file or folder")
        posters += [(str(file), (file.parent, "", file.name)) for file in files]
    return posters


def random_poster() -> tuple[Poster, str]:
    """A random poster of the test split, and a line with its ID, title, year and true genres."""
    movies = read_movies(Path("data/movies.csv"))
    movie = movies[movies["split"] == "test"].sample(1).iloc[0]
    dataset = Path(read_parameters().used_by(JoinParameters).dataset)
    location = (dataset, movie["archive"], movie["poster"])
    genres = ", ".join(genre for genre in genres_of(movies) if movie[genre])
    title = f" {movie['title']}" if movie["title"] else ""
    year = f" ({movie['year']})" if movie["year"] else ""
    return (str(dataset / movie["archive"] / movie["poster"]), location), f"{movie['id']}{title}{year}: {genres}"


def load(poster: Poster, model: "Model") -> np.ndarray | str:
    """A poster at the model's input size, uint8 (height, width, 3), or why it cannot be read."""
    try:
        return load_poster(*poster[1], model.height, model.width, model.interpolation)
    except Unreadable as error:
        return str(error)


def format_genres(genres: list[str], probabilities: np.ndarray, top: int) -> str:
    """The `top` most likely genres, one per line, like `Comedy (0.728)`, with three significant digits."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    # Via Decimal, because "#.3g" alone writes 0.0000123 as 1.23e-05.
    return "\n".join(f"{genres[i]} ({Decimal(f'{probabilities[i]:#.3g}'):f})" for i in order)


def find_contents(model: "Model", posters: list[Poster], table: Path | None) -> list[PosterDetections] | None:
    """The detections on each of some readable posters, from the CSV `table` or the model's detectors; None if it uses none.

    Raises
    ------
    InputError
        The model's detectors are not installed; or the model was trained on a table of objects, and no `table` is given.
    """
    if not needs_objects(model.architecture):
        return None
    if table is not None:
        from poster_genres.sentences import with_sentences

        by_id = parse_objects(table.read_bytes(), str(table))
        return with_sentences([by_id.get(PurePosixPath(path).stem, []) for _, (_, _, path) in posters])
    if not model.detectors:
        raise InputError("the model was trained on objects from a table; give such a table of these posters with --detections")
    from poster_genres.detection import detect_for

    return detect_for(model.architecture, model.detectors, [read_bytes(*location) for _, location in posters])


def predict(
    model_path: Path, posters: list[Poster], table: Path | None = None
) -> Iterator[tuple[str, list[str], np.ndarray | str]]:
    """Yield each poster's name, the model's genres, and float32 (genres,) probabilities or why it cannot be read."""
    from poster_genres.devices import choose_device
    from poster_genres.model import load_model, predict_probabilities

    device = choose_device()
    model = load_model(model_path, device)
    parallel = Parallel(n_jobs=-1, backend="threading")
    remaining = iter(posters)
    while batch := list(islice(remaining, BATCH)):
        loaded = parallel(delayed(load)(poster, model) for poster in batch)
        images = [pixels for pixels in loaded if isinstance(pixels, np.ndarray)]
        probabilities: Iterator[np.ndarray] = iter(())
        if images:
            readable = [poster for poster, pixels in zip(batch, loaded, strict=True) if isinstance(pixels, np.ndarray)]
            contents = find_contents(model, readable, table)
            probabilities = iter(predict_probabilities(model, np.stack(images), device, detected=contents))
        for (name, _), pixels in zip(batch, loaded, strict=True):
            yield name, model.genres, pixels if isinstance(pixels, str) else next(probabilities)


def explain_poster(model_path: Path, poster: Poster, path: Path, table: Path | None = None) -> None:
    """Draw into a PNG what on a poster is evidence for each of its most likely genres.

    Raises
    ------
    InputError
        The poster cannot be read.
    """
    from poster_genres.devices import choose_device
    from poster_genres.explanations import explain
    from poster_genres.figures import draw_explanation
    from poster_genres.model import load_model, predict_probabilities

    device = choose_device()
    model = load_model(model_path, device)
    pixels = load(poster, model)
    if isinstance(pixels, str):
        raise InputError(f"{poster[0]}: {pixels}; JPEG, PNG, GIF, WebP, BMP and TIFF can be read")
    contents = find_contents(model, [poster], table)
    (probabilities,) = predict_probabilities(model, pixels[None], device, detected=contents)
    likeliest = np.argsort(-probabilities, kind="stable")[:EXPLAINED]
    maps = explain(model, pixels, likeliest.tolist(), device, None if contents is None else contents[0])
    detections = [] if contents is None else contents[0].objects
    draw_explanation(pixels, detections, [model.genres[i] for i in likeliest], probabilities[likeliest], maps, path)
    print(f"{path}: the evidence for the {len(likeliest)} most likely genres", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description="Predict movies' genres from their posters.")
    parser.add_argument("posters", nargs="*", type=Path, metavar="poster", help="an image, or a folder of images")
    parser.add_argument("--random", action="store_true", help="take a random test poster, and print its true genres too")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many genres to print (10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per poster, with every genre")
    parser.add_argument("--model", type=Path, default=Path("models/model.pt"), help="the model file (models/model.pt)")
    parser.add_argument("--explain", type=Path, metavar="PNG", help="also draw the evidence for the poster's most likely genres")
    parser.add_argument("--detections", type=Path, metavar="CSV", help="a table of the posters' objects, instead of the detectors")
    arguments = parser.parse_args()
    if arguments.random == bool(arguments.posters):
        parser.error("name posters or folders, or give --random")
    if arguments.top < 1:
        parser.error("--top takes a number from 1")

    truth = ""
    if arguments.random:
        poster, truth = random_poster()
        posters = [poster]
    else:
        posters = find_posters(arguments.posters)
    if arguments.explain:
        if len(posters) > 1 or arguments.explain.suffix.lower() != ".png":
            parser.error("--explain draws one poster, into a file whose name ends in .png")
        explain_poster(arguments.model, posters[0], arguments.explain, arguments.detections)
    unreadable = 0
    predictions = predict(arguments.model, posters, arguments.detections)
    # Show the progress bar only for many posters whose predictions go to a file.
    show = len(posters) > BATCH and not sys.stdout.isatty()
    for name, genres, result in tqdm(predictions, total=len(posters), unit=" posters", disable=None if show else True):
        if isinstance(result, str):
            unreadable += 1
            print(f"{name}: left out: {result}", file=sys.stderr)
        elif arguments.json:
            order = np.argsort(-result, kind="stable")
            print(json.dumps({"poster": name, "genres": {genres[i]: float(f"{result[i]:.6g}") for i in order}}))
        else:
            if len(posters) > 1 or truth:
                print(truth or name)
            print(format_genres(genres, result, arguments.top))
            if len(posters) > 1:
                print()
    if unreadable:
        raise InputError(f"{unreadable} of {len(posters)} posters could not be read; JPEG, PNG, GIF, WebP, BMP and TIFF can be")


if __name__ == "__main__":
    errors.run(main)
