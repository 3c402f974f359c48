"""Draw the project's sample data set, so that everything runs without a download.

Few, small synthetic posters, so that all stages take a minute together. Their colours, shapes and titles depend on their genres,
with noise, so that each part of the model has something to learn. And metadata in both formats of the real data set, with its
irregularities. Scores on it mean nothing.

In: nothing. Out: data/sample. Run: `python -m stages.sample`, or `dvc repro sample`.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from poster_genres import errors
from poster_genres.files import whole_folder

FOLDER = Path("data/sample")
# Fixed: if the sample depended on `seed`, runs with different seeds would train on different data.
SEED = 20171023
MOVIES = 120
WIDTH, HEIGHT = 112, 160
YEARS = (1994, 1999, 2004, 2009, 2014)
UNKNOWN = "N/A"

# Per genre: the colours of sky, ground and accent, and words of its titles.
GENRES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "Comedy": ("#fff3c4", "#ffd23f", "#ee4266", ("Funny", "Party", "Crazy", "Happy")),
    "Horror": ("#050505", "#1a0505", "#7d0a0a", ("Blood", "Grave", "Scream", "Haunted")),
    "Romance": ("#ffd9e0", "#f59ab5", "#c2185b", ("Love", "Kiss", "Wedding", "Sweet")),
    "Sci-Fi": ("#020824", "#0b3d91", "#5ef2ff", ("Robot", "Galaxy", "Planet", "Alien")),
}
# Of titles' second word, which tells nothing.
WORDS = ("Night", "House", "Road", "Summer", "City", "Story")

Color = tuple[int, int, int]


def choose_genres(random: np.random.Generator) -> list[str]:
    """One to three genres."""
    number = int(random.choice([1, 2, 3], p=[0.35, 0.5, 0.15]))
    return sorted(random.choice(list(GENRES), number, replace=False).tolist())


def draw_poster(genres: list[str], title: str, random: np.random.Generator) -> Image.Image:
    """Draw a poster of WIDTH x HEIGHT pixels: a random one of the genres sets the scene, and each adds its shapes. The title stands
    below, a word a line."""
    order = random.permutation(genres).tolist()
    sky, ground, _, _ = GENRES[order[0]]
    horizon = int(HEIGHT * random.uniform(0.5, 0.7))
    image = Image.new("RGB", (WIDTH, HEIGHT), _shade(sky, random))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, horizon, WIDTH, HEIGHT), _shade(ground, random))
    for _ in range(int(random.integers(2, 6))):  # clutter, independent of the genres
        x, y, size = (random.uniform([0, 0, 4], [WIDTH, HEIGHT, 22])).tolist()
        draw.ellipse((x, y, x + size, y + size * random.uniform(0.5, 1.5)), tuple(random.integers(0, 256, 3).tolist()))
    for genre in order:
        for _ in range(int(random.integers(1, 4))):
            center = random.uniform(16, WIDTH - 16), random.uniform(22, horizon)
            _draw_mark(draw, genre, center, random.uniform(8, 20), _shade(GENRES[genre][2], random))
    font = ImageFont.load_default(size=int(random.integers(18, 22)))
    top = HEIGHT - 54
    # On a plain ground, as titles mostly are.
    draw.rectangle((0, top - 2, WIDTH, HEIGHT), _shade(ground, random))
    bright = sum(image.getpixel((2, HEIGHT - 2))) > 380  # type: ignore[arg-type]
    for i, word in enumerate(title.upper().split()):
        draw.text((WIDTH / 2, top + 24 * i), word, "#101010" if bright else "#f4f4f4", font, anchor="ma")
    pixels = np.asarray(image, np.float32)
    noise = random.normal(0, random.uniform(4, 16), pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _shade(color: str, random: np.random.Generator) -> Color:
    """The colour `#rrggbb` with Gaussian noise."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) + random.normal(0, 22, 3)
    red, green, blue = np.clip(channels, 0, 255).astype(int).tolist()
    return red, green, blue


def _draw_mark(draw: ImageDraw.ImageDraw, genre: str, center: tuple[float, float], r: float, color: Color) -> None:
    """Draw a genre's shape with a radius of `r` pixels."""
    x, y = center
    if genre == "Comedy":  # a smile
        draw.ellipse((x - r, y - r, x + r, y + r), outline=color, width=3)
        draw.arc((x - r / 2, y - r / 2, x + r / 2, y + r / 2), 20, 160, color, 3)
    elif genre == "Horror":  # drips
        for step in range(-3, 4):
            draw.polygon([(x + step * r / 3 - 3, 0), (x + step * r / 3 + 3, 0), (x + step * r / 3, r * (2 + step % 3))], color)
    elif genre == "Romance":  # a heart
        draw.ellipse((x - r, y - r, x, y), color)
        draw.ellipse((x, y - r, x + r, y), color)
        draw.polygon([(x - r * 0.95, y - r * 0.3), (x + r * 0.95, y - r * 0.3), (x, y + r)], color)
    else:  # Sci-Fi: a planet with a ring
        draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), color)
        draw.ellipse((x - r, y - r / 4, x + r, y + r / 4), outline=color, width=2)


def write_table(ids: list[str], genres: list[list[str]], path: Path) -> None:
    """Write the metadata as the CSV that most tutorials use: `Id`, `Genre` as a Python list, one 0/1 column per genre."""
    table = pd.DataFrame({"Id": ids, "Genre": [repr(row) for row in genres]})
    for genre in sorted([*GENRES, UNKNOWN]):
        table[genre] = [int(genre in row) for row in genres]
    table.to_csv(path, index=False, encoding="utf-8", lineterminator="\n")


def write_groundtruth(records: list[dict[str, str]], path: Path) -> None:
    """Write the metadata in the format of the real data set's authors: UTF-16, objects as the Mongo shell prints them."""
    objects = []
    for i, record in enumerate(records):
        text = json.dumps(record, indent=2, ensure_ascii=False)
        objects.append(text.replace("{", f'{{\n  "_id" : ObjectId("{i:024x}"),', 1))
    path.write_text("\r\n".join(objects) + "\r\n", encoding="utf-16", newline="")


def draw_sample(folder: Path) -> int:
    """Write the data set into an empty folder; returns the number of posters."""
    (folder / "groundtruth").mkdir()
    random = np.random.default_rng(SEED)
    ids = [f"sample{number:04d}" for number in random.permutation(MOVIES)]
    genres = [choose_genres(random) for _ in ids]
    records: dict[int, list[dict[str, str]]] = {year: [] for year in YEARS}
    for i, movie in enumerate(tqdm(ids, "sample", unit=" posters", disable=None)):
        year = int(random.choice(YEARS))
        # One poster in ten is drawn from random genres: label noise, as on real posters.
        shown = choose_genres(random) if random.random() < 0.1 else genres[i]
        title = f"{random.choice(GENRES[random.choice(shown)][3])} {random.choice(WORDS)}"
        if i % 40 == 7:
            genres[i] = [UNKNOWN]
        if i % 50 != 3:  # the others have no poster
            (folder / "posters" / str(year)).mkdir(parents=True, exist_ok=True)
            draw_poster(shown, title, random).save(folder / "posters" / str(year) / f"{movie}.jpg", quality=85)
        records[year].append({"imdbID": movie, "Title": title, "Released": f"1 Jan {year}", "Genre": ", ".join(genres[i])})
    # In another order than the posters, without the last four, and with 4 repeated rows.
    order = random.permutation(MOVIES - 4).tolist()
    order += order[:4]
    write_table([ids[i] for i in order], [genres[i] for i in order], folder / "train.csv")
    for year, rows in records.items():
        write_groundtruth(rows, folder / "groundtruth" / f"{year}.txt")
    return sum(1 for _ in folder.glob("posters/*/*.jpg"))


def main() -> None:
    with whole_folder(FOLDER) as folder:
        posters = draw_sample(folder)
    print(f"{FOLDER}: {posters} synthetic posters")


if __name__ == "__main__":
    errors.run_stage(main)
