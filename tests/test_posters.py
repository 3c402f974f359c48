"""Every kind of image becomes RGB pixels, or one short reason why not."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from poster_genres.posters import Unreadable, decode, load_poster
from tests.conftest import jpeg


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mean_color(data: bytes) -> list[int]:
    pixels = decode(data, 30, 20, "bicubic")
    assert (pixels.shape, pixels.dtype) == ((30, 20, 3), np.uint8)
    return [round(channel) for channel in pixels.mean(axis=(0, 1)).tolist()]


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.full((40, 40), 200 * 257, np.uint16))


ORANGE = Image.new("RGB", (40, 60), (200, 100, 50))


@pytest.mark.parametrize(
    ("data", "color"),
    [
        (encode(ORANGE, "PNG"), [200, 100, 50]),
        (encode(ORANGE, "BMP"), [200, 100, 50]),
        (encode(ORANGE, "WEBP", lossless=True), [200, 100, 50]),
        (encode(ORANGE, "TIFF"), [200, 100, 50]),
        (encode(ORANGE.quantize(8), "PNG"), [200, 100, 50]),
        (encode(ORANGE.convert("CMYK"), "TIFF"), [200, 100, 50]),
        (encode(ORANGE.convert("CMYK"), "JPEG", quality=95), [200, 100, 50]),
        (encode(Image.new("L", (40, 60), 120), "PNG"), [120, 120, 120]),
        (encode(Image.new("1", (40, 60), 1), "PNG"), [255, 255, 255]),
        # What some cameras write: two pictures in a JPEG.
        (encode(ORANGE, "MPO", save_all=True, append_images=[ORANGE]), [200, 100, 50]),
        (encode(sixteen_bit(), "PNG"), [200, 200, 200]),
        (encode(sixteen_bit(), "TIFF"), [200, 200, 200]),
        # 8 bits in 32, and shares with an infinite one among them.
        (encode(Image.fromarray(np.full((40, 40), 200, np.int32)), "TIFF"), [200, 200, 200]),
        (encode(Image.fromarray(np.array([[0.5] * 40] * 39 + [[1.0] * 39 + [np.inf]], np.float32)), "TIFF"), [130, 130, 130]),
        (encode(Image.fromarray(np.full((9, 9), 51000, np.int32)), "TIFF"), [198, 198, 198]),
        (encode(Image.fromarray(np.full((9, 9), 1.0, np.float32)), "TIFF"), [255, 255, 255]),
        # Half of red over white.
        (encode(Image.new("RGBA", (40, 60), (255, 0, 0, 128)), "PNG"), [255, 127, 127]),
        (encode(Image.new("LA", (40, 60), (0, 0)), "PNG"), [255, 255, 255]),
        (encode(ORANGE.quantize(8), "PNG", transparency=0), [255, 255, 255]),
        # An animation that begins with orange.
        (encode(ORANGE, "GIF", save_all=True, append_images=[Image.new("RGB", (40, 60), "blue")]), [200, 100, 50]),
    ],
)
def test_every_colour_mode_becomes_rgb(data: bytes, color: list[int]) -> None:
    assert np.abs(np.array(mean_color(data)) - color).max() <= 3


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_large_grey_posters_take_little_memory(kind: type[np.generic]) -> None:
    pixels = np.linspace(0, 1, 9_000_000).reshape(3000, 3000)
    data = encode(Image.fromarray((pixels * 65535).astype(kind)), "TIFF")
    tracemalloc.start()
    decoded = decode(data, 30, 20, "bicubic")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The file, its pixels, which Pillow hands over as bytes, and those of 8 bits; numbers of 64 bits would be 72 MB each time.
    assert most < 4.2 * len(data)
    assert np.abs(decoded[:, 10, 0] - np.linspace(4, 251, 30)).max() < 2


def test_exif_rotation_is_applied() -> None:
    pixels = np.zeros((60, 40, 3), np.uint8)
    pixels[:30] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright = decode(encode(Image.fromarray(pixels), "PNG"), 60, 40, "bicubic")
    turned = decode(encode(Image.fromarray(pixels), "JPEG", exif=exif, quality=95), 60, 40, "bicubic")
    assert upright[:20].mean() > 250
    assert turned[:20].mean() < 5
    assert turned[-20:].mean() > 250


@pytest.mark.parametrize(
    "other", [b"", struct.pack("<HHI4s", 0x0128, 2, 2, b"2\0\0\0")], ids=["alone", "beside a tag of a wrong type"]
)
def test_every_orientation_is_turned_upright(other: bytes) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(3, 2) * 40  # no two corners are alike
    # What each value of the tag means: the sides of the picture that its first row and column are (CIPA DC-008, 4.6.5).
    stored = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.T, 6: pixels.T[::-1], 7: pixels.T[::-1, ::-1], 8: pixels.T[:, ::-1],
    }  # fmt: skip
    for orientation, turned in stored.items():
        large = np.kron(np.ascontiguousarray(turned), np.ones((16, 16), np.uint8))
        image = encode(Image.fromarray(large), "JPEG", quality=100)
        tags = struct.pack("<HHI4s", 0x0112, 3, 1, bytes([orientation, 0, 0, 0])) + other
        exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags) // 12) + tags + bytes(4)
        data = image[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + image[2:]
        upright = decode(data, 48, 32, "bicubic")[8::16, 8::16, 0]
        assert np.abs(upright.astype(int) - pixels).max() <= 3, orientation


def huge_png(side: int) -> bytes:
    """A valid black PNG of side x side pixels, small on disk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 1)
    rows = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"This is a text, though its name ends in .jpg", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (jpeg((9, 9, 9))[:-200], "truncated"),
        (encode(ORANGE.resize((400, 600)), "PNG")[:150], "truncated"),
        (huge_png(30_000), "more than 50 million pixels"),
        (huge_png(8_000), "more than 50 million pixels"),
    ],
    ids=["empty", "text", "eps", "truncated jpeg", "truncated png", "30,000 x 30,000", "8,000 x 8,000"],
)
def test_what_cannot_be_used_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        decode(data, 30, 20, "bicubic")


def test_damaged_files_never_raise_anything_else() -> None:
    random = np.random.default_rng(0)
    files = [encode(ORANGE, "PNG"), encode(ORANGE, "GIF"), encode(ORANGE, "TIFF"), encode(ORANGE, "WEBP"), jpeg((200, 9, 9))]
    outcomes = set()
    for i in range(600):
        data = bytearray(files[i % len(files)])
        for position in random.integers(0, len(data), 5):
            data[position] = random.integers(256)
        try:
            decode(bytes(data), 8, 8, "bicubic")
            outcomes.add("read")
        except Unreadable:
            outcomes.add("unreadable")
    assert outcomes == {"read", "unreadable"}


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="missing file"):
        load_poster(tmp_path, "", "m001.jpg", 8, 8, "bicubic")
