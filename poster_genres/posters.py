"""Posters' bytes as pixels, and pixels as bytes."""

import base64
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from poster_genres.dataset import NOT_READ, open_file, read_bytes
from poster_genres.errors import check_interrupt
from poster_genres.tensor_cache import write_shard

# The common formats only, as some of Pillow's others start programs. The last two are imported, as Pillow registers only the
# first four by itself.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format)
MAX_PIXELS = 50_000_000
PIXELS_AT_ONCE = 1_000_000
# How to turn a picture upright, by the EXIF tag Orientation (CIPA DC-008, 4.6.5).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow warns of large and odd images, which are read here, or refused with a reason.
warnings.filterwarnings("ignore", module="PIL")


class Unreadable(Exception):
    """A poster cannot be used; the message is a short reason, the same for all posters with this fault."""


def decode(data: bytes, height: int, width: int, interpolation: str) -> np.ndarray:
    """Decode a poster of any colour mode and resize it.

    The whole poster is kept and its aspect ratio changed: nearly all are 2:3. EXIF rotation is applied, an animation's first
    frame is used, transparent parts become white.

    Parameters
    ----------
    data : the file's content, in one of `FORMATS`
    height, width : of the result, in pixels
    interpolation : bilinear, bicubic or lanczos, by Pillow: when it shrinks a poster, it averages over all pixels (antialiasing)

    Returns
    -------
    uint8 (height, width, 3), RGB

    Raises
    ------
    Unreadable
        The data is empty, not an image, truncated, damaged, or has more than `MAX_PIXELS` pixels.
    """
    # A large JPEG is decoded at a fraction of its size, but at least four times the result's.
    return np.asarray(upright(data, (4 * width, 4 * height)).resize((width, height), Image.Resampling[interpolation.upper()]))


def upright(data: bytes, min_size: tuple[int, int]) -> Image.Image:
    """Decode a poster to RGB; for what it raises, see `decode`.

    Parameters
    ----------
    min_size : width and height; a large JPEG may be decoded at a fraction of its size that is no smaller
    """
    if not data:
        raise Unreadable("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(f"more than {MAX_PIXELS // 1_000_000} million pixels")
            image.draft("RGB", min_size)
            image.load()
            # By hand, as Pillow's `exif_transpose` also writes the tags anew, and stops at one that is out of order.
            turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            turned = image if turn is None else image.transpose(turn)
            # Most posters are RGB already; they are not copied.
            return turned if turned.mode == "RGB" and "transparency" not in turned.info else _to_rgb(turned)
    except UnidentifiedImageError:
        raise Unreadable("not an image") from None
    except Image.DecompressionBombError:
        raise Unreadable(f"more than {MAX_PIXELS // 1_000_000} million pixels") from None
    except OSError as error:
        raise Unreadable("truncated" if "truncated" in str(error) else "damaged") from None
    except (ValueError, SyntaxError, EOFError, IndexError, TypeError, OverflowError, KeyError, zlib.error, struct.error):
        # Errors that Pillow's decoders raise on damaged files.
        raise Unreadable("damaged") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # 16 and 32 bits per pixel: Pillow's own conversion clips at 255 instead of scaling.
        values = np.asarray(image)
        top = 65535.0 if image.mode.startswith("I;16") else float(values.max(initial=1, where=np.isfinite(values)))
        if image.mode == "I":  # of 32 bits, which hold 8 or 16 where no value needs more
            top = next((most for most in (255.0, 65535.0) if top <= most), top)
        gray = np.empty(values.shape, np.uint8)
        # Some rows at a time, as numbers of 64 bits take eight times the memory of the pixels.
        step = max(1, PIXELS_AT_ONCE // image.width)
        for start in range(0, image.height, step):
            rows = slice(start, start + step)
            gray[rows] = np.clip(np.nan_to_num(np.divide(values[rows], top, dtype=np.float64)), 0, 1) * 255
        return Image.fromarray(gray).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", transparent.size, "white"), transparent).convert("RGB")
    return image.convert("RGB")


def size_of(dataset: Path, archive: str, path: str) -> tuple[int, int]:
    """The height and width of a poster, upright, from the head of its file. Raises Unreadable."""
    try:
        with open_file(dataset, archive, path) as file, Image.open(cast(BinaryIO, file), formats=FORMATS) as image:
            # A TIFF's size is that of the upright picture already.
            turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # of any kind that Pillow's decoders raise on damaged files
        raise Unreadable(str(error)) from None


def data_url(image: Image.Image, kind: str) -> str:
    """An image as an address that holds it, for a page: `data:image/png;base64,…` where `kind` is png."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def load_poster(dataset: Path, archive: str, path: str, height: int, width: int, interpolation: str) -> np.ndarray:
    """Read and decode one poster of a data set; see `decode`."""
    try:
        data = read_bytes(dataset, archive, path)
    except FileNotFoundError:
        raise Unreadable("missing file") from None
    except NOT_READ:
        raise Unreadable("cannot be read") from None
    return decode(data, height, width, interpolation)


def decode_shard(
    dataset: Path, height: int, width: int, interpolation: str, shard: tuple[list[tuple[str, str]], Path]
) -> list[str]:
    """Load posters and write those that can be read to a shard of the tensor cache, in their order.

    Parameters
    ----------
    shard : archive and path of each poster in the data set, and the file to write

    Returns
    -------
    For each poster "", or the reason why it cannot be read.
    """
    places, path = shard
    reasons = []

    def readable() -> Iterator[np.ndarray]:
        for archive, poster in places:
            check_interrupt()  # as a program ends when its threads have
            try:
                yield load_poster(dataset, archive, poster, height, width, interpolation)
                reasons.append("")
            except Unreadable as error:
                reasons.append(str(error))

    write_shard(path, readable(), len(places), height, width)
    return reasons
