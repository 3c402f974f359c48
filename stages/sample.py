"""Generate the project's sample data set, so that everything runs without a download.

Synthetic posters whose colours, shapes, layout and lettering depend on their genres, with noise; and metadata in both
formats of the real data set, with its irregularities. Scores on it mean nothing.

In: nothing. Out: data/sample. Run: `python -m stages.sample`, or `dvc repro sample`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from poster_genres import errors

# Fixed: if the sample depended on `seed`, runs with different seeds would train on different data.
SEED = 20171023
MOVIES = 640
WIDTH, HEIGHT = 200, 300
YEARS = (1994, 1999, 2004, 2009, 2014)
UNKNOWN = "N/A"

# Per genre: relative frequency, and the colours of sky, ground and accent.
GENRES: dict[str, tuple[float, str, str, str]] = {
    "Action": (0.24, "#401008", "#c8481c", "#ffc24a"),
    "Comedy": (0.38, "#fff3c4", "#ffd23f", "#ee4266"),
    "Crime": (0.16, "#1b1b1e", "#3a3a40", "#b3001b"),
    "Drama": (0.45, "#8a9ba8", "#5c6b73", "#e0d8c8"),
    "Horror": (0.14, "#050505", "#1a0505", "#7d0a0a"),
    "Romance": (0.20, "#ffd9e0", "#f59ab5", "#c2185b"),
    "Sci-Fi": (0.12, "#020824", "#0b3d91", "#5ef2ff"),
    "Western": (0.05, "#f2c078", "#a05a2c", "#4a2511"),
}
WORDS = (
    "Last",
    "Lost",
    "Dark",
    "Golden",
    "Silent",
    "Road",
    "House",
    "River",
    "Night",
    "Summer",
    "Heart",
    "Stranger",
    "City",
    "Moon",
)

Color = tuple[int, int, int]


def choose_genres(random: np.random.Generator) -> list[str]:
    """One to three genres, sampled by their relative frequency."""
    names = list(GENRES)
    weights = np.array([GENRES[name][0] for name in names])
    number = int(random.choice([1, 2, 3], p=[0.35, 0.45, 0.2]))
    return sorted(random.choice(names, number, replace=False, p=weights / weights.sum()).tolist())


def draw_poster(genres: list[str], title: str, random: np.random.Generator) -> Image.Image:
    """Draw a poster of WIDTH x HEIGHT pixels: a random one of the genres sets the scene, and each adds its shapes."""
    order = random.permutation(genres).tolist()
    _, sky, ground, accent = GENRES[order[0]]
    horizon = int(HEIGHT * random.uniform(0.5, 0.75))
    image = Image.new("RGB", (WIDTH, HEIGHT), _shade(sky, random))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, horizon, WIDTH, HEIGHT), _shade(ground, random))
    for _ in range(int(random.integers(2, 7))):  # clutter, independent of the genres
        x, y, size = (random.uniform([0, 0, 8], [WIDTH, HEIGHT, 40])).tolist()
        draw.ellipse((x, y, x + size, y + size * random.uniform(0.5, 1.5)), tuple(random.integers(0, 256, 3).tolist()))
    for genre in order:
        for _ in range(int(random.integers(1, 4))):
            center = random.uniform(30, WIDTH - 30), random.uniform(40, horizon)
            _draw_mark(draw, genre, center, random.uniform(14, 38), _shade(GENRES[genre][3], random))
    font = ImageFont.load_default(size=int(random.integers(16, 30)))
    top = HEIGHT - 50 if order[0] in ("Drama", "Romance", "Crime", "Horror") else 14
    draw.text((WIDTH / 2, top), title, _shade(accent, random), font, anchor="ma")
    pixels = np.asarray(image, np.float32)
    noise = random.normal(0, random.uniform(4, 24), pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _shade(color: str, random: np.random.Generator) -> Color:
    """The colour `#rrggbb` with Gaussian noise."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) + random.normal(0, 22, 3)
    red, green, blue = np.clip(channels, 0, 255).astype(int).tolist()
    return red, green, blue


def _draw_mark(draw: ImageDraw.ImageDraw, genre: str, center: tuple[float, float], r: float, color: Color) -> None:
    """Draw a genre's shape with a radius of `r` pixels."""
    x, y = center
    if genre == "Action":  # a burst
        angles = np.arange(16) * np.pi / 8
        draw.polygon([(x + s * np.cos(a), y + s * np.sin(a)) for a, s in zip(angles, [r, r / 2.5] * 8, strict=True)], color)
    elif genre == "Comedy":  # a smile
        draw.ellipse((x - r, y - r, x + r, y + r), outline=color, width=4)
        draw.arc((x - r / 2, y - r / 2, x + r / 2, y + r / 2), 20, 160, color, 5)
    elif genre == "Crime":  # bars
        for step in range(-2, 3):
            draw.line((x + step * r / 2, y - r, x + step * r / 2, y + r), color, 4)
    elif genre == "Drama":  # a head and shoulders
        draw.ellipse((x - r / 2, y - r, x + r / 2, y), color)
        draw.pieslice((x - r, y, x + r, y + 2 * r), 180, 360, color)
    elif genre == "Horror":  # drips
        for step in range(-3, 4):
            draw.polygon([(x + step * r / 3 - 4, 0), (x + step * r / 3 + 4, 0), (x + step * r / 3, r * (2 + step % 3))], color)
    elif genre == "Romance":  # a heart
        draw.ellipse((x - r, y - r, x, y), color)
        draw.ellipse((x, y - r, x + r, y), color)
        draw.polygon([(x - r * 0.95, y - r * 0.3), (x + r * 0.95, y - r * 0.3), (x, y + r)], color)
    elif genre == "Sci-Fi":  # a planet with a ring
        draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), color)
        draw.ellipse((x - r, y - r / 4, x + r, y + r / 4), outline=color, width=3)
    else:  # Western: a cactus
        draw.line((x, y - r, x, y + r), color, 8)
        draw.line((x - r / 2, y - r / 3, x - r / 2, y, x + r / 2, y, x + r / 2, y - r / 2), color, 6)


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


def main() -> None:
    random = np.random.default_rng(SEED)
    folder = Path("data/sample")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "groundtruth").mkdir(parents=True)
    ids = [f"sample{number:04d}" for number in random.permutation(MOVIES)]
    genres = [choose_genres(random) for _ in ids]
    records: dict[int, list[dict[str, str]]] = {year: [] for year in YEARS}
    for i, movie in enumerate(tqdm(ids, "sample", unit=" posters", disable=None)):
        title = " ".join(random.choice(WORDS, 2, replace=False).tolist())
        year = int(random.choice(YEARS))
        # One poster in ten is drawn from random genres: label noise, as on real posters.
        shown = choose_genres(random) if random.random() < 0.1 else genres[i]
        if i % 40 == 7:
            genres[i] = [UNKNOWN]
        if i % 50 != 3:  # the others have no poster
            (folder / "posters" / str(year)).mkdir(parents=True, exist_ok=True)
            draw_poster(shown, title, random).save(folder / "posters" / str(year) / f"{movie}.jpg", quality=85)
        records[year].append({"imdbID": movie, "Title": title, "Released": f"1 Jan {year}", "Genre": ", ".join(genres[i])})
    # In another order than the posters, without the last 12, and with 4 repeated rows.
    order = random.permutation(MOVIES - 12).tolist()
    order += order[:4]
    write_table([ids[i] for i in order], [genres[i] for i in order], folder / "train.csv")
    for year, rows in records.items():
        write_groundtruth(rows, folder / "groundtruth" / f"{year}.txt")
    print(f"{folder}: {sum(1 for _ in folder.glob('posters/*/*.jpg'))} synthetic posters")


if __name__ == "__main__":
    errors.run(main)
