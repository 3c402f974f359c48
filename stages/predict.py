"""Read the likeliest genres of any poster: `python -m stages.predict poster.jpg [more.jpg folder ...]`.

In: models/model.pt and the posters named; with --random also data/movies.csv and the posters of `dataset`. Out: text.
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

# A poster: what to call it, and where it is, as (folder, zip archive or "", path).
Poster = tuple[str, tuple[Path, str, str]]


def find_posters(paths: list[Path]) -> list[Poster]:
    """The posters that the command line names; a folder stands for all posters at any depth in it.

    Raises
    ------
    InputError
        A path does not exist, or a folder has no posters in it.
    """
    posters: list[Poster] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in POSTER_SUFFIXES and file.is_file())
            if not found:
                raise InputError(
                    f"{path}: no posters in this folder; files that end in {', '.join(POSTER_SUFFIXES)} are looked for"
                )
        elif path.is_file():
            found = [path]
        else:
            raise InputError(f"{path}: no such file or folder")
        posters += [(str(file), (file.parent, "", file.name)) for file in found]
    return posters


def random_poster() -> tuple[Poster, str]:
    """A random poster of the test split, and its title with its true genres."""
    movies = read_movies(Path("data/movies.csv"))
    movie = movies[movies["split"] == "test"].sample(1).iloc[0]
    dataset = Path(read_parameters().used_by(JoinParameters).dataset)
    place = (dataset, movie["archive"], movie["poster"])
    genres = ", ".join(genre for genre in genres_of(movies) if movie[genre])
    title = f" {movie['title']}" if movie["title"] else ""
    year = f" ({movie['year']})" if movie["year"] else ""
    return (str(dataset / movie["archive"] / movie["poster"]), place), f"{movie['id']}{title}{year}: {genres}"


def load(poster: Poster, model: "Model") -> np.ndarray | str:
    """A poster's pixels as the model takes them, or why it cannot be read."""
    try:
        return load_poster(*poster[1], model.height, model.width, model.interpolation)
    except Unreadable as error:
        return str(error)


def format_genres(genres: list[str], probabilities: np.ndarray, top: int) -> str:
    """The `top` likeliest genres, a line each, like `Comedy (0.728)`: three significant digits."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    # By way of Decimal, as "#.3g" alone writes 0.0000123 as 1.23e-05.
    return "\n".join(f"{genres[i]} ({Decimal(f'{probabilities[i]:#.3g}'):f})" for i in order)


def find_objects(model: "Model", posters: list[Poster], detections: Path | None) -> list[PosterDetections] | None:
    """What is on each of some posters that can be read; None where the model sees none.

    Raises
    ------
    InputError
        The model's detectors are not here; or it was trained on objects from a table, and there is no such table of these posters.
    """
    if not needs_objects(model.architecture):
        return None
    if detections is not None:
        from poster_genres.sentences import with_sentences

        given = parse_objects(detections.read_bytes(), str(detections))
        return with_sentences([given.get(PurePosixPath(path).stem, []) for _, (_, _, path) in posters])
    if not model.detectors:
        raise InputError("the model was trained on objects from a table; give such a table of these posters with --detections")
    from poster_genres.detection import detect_for

    return detect_for(model.architecture, model.detectors, [read_bytes(*place) for _, place in posters])


def predict(
    model_path: Path, posters: list[Poster], detections: Path | None = None
) -> Iterator[tuple[str, list[str], np.ndarray | str]]:
    """For each poster in turn its name, the genres, and float32 (genres,) probabilities, or why it cannot be read."""
    from poster_genres.devices import choose_device
    from poster_genres.model import load_model, predict_probabilities

    device = choose_device()
    model = load_model(model_path, device)
    parallel = Parallel(n_jobs=-1, backend="threading")
    rest = iter(posters)
    while batch := list(islice(rest, BATCH)):
        loaded = parallel(delayed(load)(poster, model) for poster in batch)
        readable = [pixels for pixels in loaded if isinstance(pixels, np.ndarray)]
        probabilities: Iterator[np.ndarray] = iter(())
        if readable:
            good = [poster for poster, pixels in zip(batch, loaded, strict=True) if isinstance(pixels, np.ndarray)]
            found = find_objects(model, good, detections)
            probabilities = iter(predict_probabilities(model, np.stack(readable), device, detected=found))
        for (name, _), pixels in zip(batch, loaded, strict=True):
            yield name, model.genres, pixels if isinstance(pixels, str) else next(probabilities)


def explain_poster(model_path: Path, poster: Poster, path: Path, detections: Path | None = None) -> None:
    """Write a picture of what speaks for each of the likeliest genres of a poster.

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
    found = find_objects(model, [poster], detections)
    (probabilities,) = predict_probabilities(model, pixels[None], device, detected=found)
    likeliest = np.argsort(-probabilities, kind="stable")[:EXPLAINED]
    maps = explain(model, pixels, likeliest.tolist(), device, None if found is None else found[0])
    objects = [] if found is None else found[0].objects
    draw_explanation(pixels, objects, [model.genres[i] for i in likeliest], probabilities[likeliest], maps, path)
    print(f"{path}: what speaks for its {len(likeliest)} likeliest genres", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description="Tell movies' genres from their posters.")
    parser.add_argument("posters", nargs="*", type=Path, metavar="poster", help="an image, or a folder of images")
    parser.add_argument("--random", action="store_true", help="take a random poster of the test split, and say its true genres")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many genres to print (10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a poster, with every genre")
    parser.add_argument("--model", type=Path, default=Path("models/model.pt"), help="the model file (models/model.pt)")
    parser.add_argument("--explain", type=Path, metavar="PNG", help="also draw what on the poster speaks for its likeliest genres")
    parser.add_argument("--detections", type=Path, metavar="CSV", help="what is on the posters, instead of the model's detectors")
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
    # The bar is for many posters whose results go to a file.
    show = len(posters) > BATCH and not sys.stdout.isatty()
    for name, genres, result in tqdm(predictions, total=len(posters), unit=" posters", disable=None if show else True):
        if isinstance(result, str):
            unreadable += 1
            print(f"{name}: left out: {result}", file=sys.stderr)
        elif arguments.json:
            likeliest_first = np.argsort(-result, kind="stable")
            print(json.dumps({"poster": name, "genres": {genres[i]: float(f"{result[i]:.6g}") for i in likeliest_first}}))
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
