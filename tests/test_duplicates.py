"""Posters that are nearly the same are found, in time that grows with their number."""

import io
import tracemalloc

import numpy as np
from PIL import Image

from poster_genres.duplicates import MAX_DISTANCE, find_duplicates, perceptual_hashes


def posters(number: int) -> np.ndarray:
    """Smooth random pictures, all different."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (number, 9, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((60, 90), Image.Resampling.BICUBIC)) for one in small])


def compressed(poster: np.ndarray) -> np.ndarray:
    """The poster after it was made smaller, stored badly, and made larger again."""
    buffer = io.BytesIO()
    Image.fromarray(poster).resize((40, 60)).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer).resize((60, 90)))


def test_a_copy_is_found_across_splits_only() -> None:
    originals = posters(300)
    copies = np.stack([compressed(originals[7]), compressed(originals[8])])
    splits = np.array(["train"] * 300 + ["test", "train"])
    found = find_duplicates(perceptual_hashes(np.concatenate([originals, copies])), splits)
    assert found[["first", "second"]].to_numpy().tolist() == [[7, 300]]
    assert (found["distance"] <= MAX_DISTANCE).all()


def test_thousands_of_one_placeholder_are_each_in_one_pair() -> None:
    hashes = np.tile(np.array([[1, 2, 3, 4]], np.uint16), (20_000, 1))
    splits = np.array(["train", "test"] * 10_000)
    found = find_duplicates(hashes, splits)
    assert len(found) == 19_999
    assert set(found["first"]) | set(found["second"]) == set(range(20_000))
    assert (splits[found["first"]] != splits[found["second"]]).all()
    assert (found["distance"] == 0).all()


def test_every_copy_of_a_training_poster_is_named() -> None:
    # One poster in training and its copies in the test, a second training poster that differs by a bit, and one like no other.
    hashes = np.array([[1, 2, 3, 4]] * 5 + [[1, 2, 3, 5]] + [[900, 901, 902, 903]], np.uint16)
    splits = np.array(["test", "train", "test", "validation", "test", "train", "train"])
    found = find_duplicates(hashes, splits).to_numpy().tolist()
    # Each with the nearest of another split, and each pair once; 0, 2 and 4 are equal, so 2 and 4 are paired as 0 is.
    assert found == [[0, 1, 0], [0, 3, 0], [1, 2, 0], [1, 4, 0], [0, 5, 1]]


def test_forms_of_one_layout_take_no_more_memory_than_one_block() -> None:
    """Thousands of images that are all alike, each a few bits from every other."""
    random = np.random.default_rng(0)
    hashes = np.tile(np.array([[1, 2, 3, 4]], np.uint16), (4000, 1))
    hashes[:, 3] = random.permutation(1 << 12)[:4000]
    splits = np.array(["train", "train", "train", "test"] * 1000)
    tracemalloc.start()
    found = find_duplicates(hashes, splits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000
    assert set(found["first"]) | set(found["second"]) == set(range(4000))
    assert len(found) <= 4000


def test_nothing_alike() -> None:
    assert find_duplicates(perceptual_hashes(posters(100)), np.array(["train", "test"] * 50)).empty
