"""Predict a poster's genres with onnxruntime, numpy and Pillow alone: `python predict.py poster.jpg`.

`python predict.py poster.jpg "The words on it" "The title"` also uses these, if the model does; that needs the package tokenizers.
Give them as a reader of text found them, a line for each: first all lines, then those of .6 of the tallest one's height or more.
"""

import json
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent
network = onnxruntime.InferenceSession(FOLDER / "model.onnx")
about = json.loads(network.get_modelmeta().custom_metadata_map["about"])


def pixels(path: str) -> np.ndarray:
    """A poster as the network takes it: uint8 (1, height, width, 3)."""
    with Image.open(path) as image:
        image.draft("RGB", (4 * about["width"], 4 * about["height"]))
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            # 16 and 32 bits per pixel: Pillow's own conversion clips at 255 instead of scaling.
            values = np.asarray(upright, np.float64)
            top = 65535.0 if upright.mode.startswith("I;16") else values.max(initial=1, where=np.isfinite(values))
            if upright.mode == "I":
                top = next((most for most in (255.0, 65535.0) if top <= most), top)
            upright = Image.fromarray((np.clip(np.nan_to_num(values / top), 0, 1) * 255).astype(np.uint8))
        upright = upright.convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    resized = opaque.resize((about["width"], about["height"]), Image.Resampling[about["interpolation"].upper()])
    return np.asarray(resized)[None]


def words_logits(text: str, title: str = "") -> np.ndarray:
    """What all words and those of the title say: float32 (1, genres)."""
    if not text.strip() or not (FOLDER / "words.npz").is_file():
        return np.zeros((1, len(about["genres"])), np.float32)
    from tokenizers import Tokenizer

    weights = np.load(FOLDER / "words.npz")
    # TF-IDF of the parts of three to five letters of each word and its borders, without accents, as scikit-learn's char_wb does.
    lower = unicodedata.normalize("NFKD", text.lower())
    padded = [f" {word} " for word in "".join(c for c in lower if not unicodedata.combining(c)).split()]
    parts = Counter(word[i : i + n] for word in padded for n in (3, 4, 5) for i in range(len(word) - n + 1))
    known = {part: i for i, part in enumerate(weights["vocabulary"].tolist())}
    rows = {known[part]: count for part, count in parts.items() if part in known}
    values = np.array([(1 + np.log(count)) * weights["frequencies"][row] for row, count in rows.items()])
    values /= np.linalg.norm(values) or 1
    letters = values @ weights["letters"][list(rows)] - weights["letters_offset"]
    # The embeddings of texts, each as one sentence.
    logits = letters
    sentence = ("sentence.onnx", "tokenizer.json")
    models = {"meaning": (text, *sentence), "title": (title, *sentence), "text": (text, "text.onnx", "text_tokenizer.json")}
    for part, (words, model, tokenizer) in models.items():
        if part in weights and words.strip():
            tokens = np.array(Tokenizer.from_file(str(FOLDER / tokenizer)).encode(" ".join(words.split())).ids)
            (embedding,) = onnxruntime.InferenceSession(FOLDER / model).run(None, {"tokens": tokens})
            logits = logits + embedding @ weights[part] - weights[f"{part}_offset"]
    return logits[None].astype(np.float32)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f'name a poster: python {sys.argv[0]} poster.jpg ["The words on it" ["The title"]]')
    try:
        poster = pixels(sys.argv[1])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: cannot be read: {error}")
    words = words_logits(*sys.argv[2:4] or [""])
    (probabilities,) = network.run(None, {"posters": poster, "words": words})[0]
    for i in np.argsort(-probabilities, kind="stable"):
        mark = " *" if probabilities[i] >= about["thresholds"][i] else ""
        print(f"{about['genres'][i]} ({probabilities[i]:.6f}){mark}")
