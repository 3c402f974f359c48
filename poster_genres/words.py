"""What the words on a poster say of its genres."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from poster_genres.objects import PosterDetections, text_of

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

# Of the penalty, inverse. On validation, words alone do as well with 10, but are then too sure of themselves beside the image.
STRENGTH = 3.0
SENTENCE_STRENGTH = 1.0
# Parts of words, as short as "war" and as long as "ghost", that are on so many training posters at least. Parts, as a reader of
# posters' lettering now and then takes one letter for another.
LENGTHS = (3, 5)
LEAST = 3
# Of the words that a table shows.
WORD = re.compile(r"[^\W\d_]{3,}")
COMMON = 6
SHOWN = 10
ARRAYS = ("frequencies", "weights", "sentence_weights", "offset", "sentence_offset")


@dataclass
class Words:
    """Logistic regressions on the parts of the words of a poster and, beside them, on what the words mean; one of each a genre.

    Attributes
    ----------
    vocabulary : the parts of words, n of them
    frequencies : float32 (n,), the logarithm of how rare each is (inverse document frequency)
    weights : float32 (n, genres)
    sentence_weights : float32 (`sentences.LENGTH`, genres)
    offset, sentence_offset : float32 (genres,), what each says of training posters with words on average
    """

    vocabulary: list[str]
    frequencies: np.ndarray
    weights: np.ndarray
    sentence_weights: np.ndarray
    offset: np.ndarray
    sentence_offset: np.ndarray

    def vectorizer(self) -> "TfidfVectorizer":
        vectorizer = new_vectorizer(vocabulary={part: i for i, part in enumerate(self.vocabulary)})
        vectorizer.idf_ = self.frequencies
        return vectorizer

    def logits(self, found: list[PosterDetections]) -> tuple[np.ndarray, np.ndarray]:
        """What the letters of the words, and what their meaning adds to each genre's logit, float32 (posters, genres) each.

        0 for posters without words, and on average over training posters with words.
        """
        texts = [text_of(detected.objects) for detected in found]
        present = np.array([bool(text.strip()) for text in texts])[:, None]
        spoken = np.asarray(self.vectorizer().transform(texts) @ self.weights) - self.offset
        meant = np.stack([detected.sentence for detected in found]) @ self.sentence_weights - self.sentence_offset
        return np.asarray(present * spoken, np.float32), np.asarray(present * meant, np.float32)

    def by_object(self, detected: PosterDetections) -> tuple[np.ndarray, np.ndarray]:
        """What each object adds to each genre's logit by its letters and by its meaning, float32 (objects, genres) each: less the
        offsets they add up to `logits`.

        A part of a word that stands on several pieces of lettering is shared by them; what all words together mean is, by the
        number of their letters.
        """
        objects = detected.objects
        if not objects:
            nothing = np.zeros((0, self.weights.shape[1]), np.float32)
            return nothing, nothing
        vectorizer = self.vectorizer()
        whole = vectorizer.transform([text_of(objects)])
        present = (vectorizer.transform([one.text for one in objects]) > 0).astype(np.float32)
        sharing = np.maximum(np.asarray(present.sum(axis=0)).ravel(), 1)
        values = whole.toarray()[0] / sharing
        letters = np.array([len(one.text) for one in objects])
        meant = np.outer(letters / max(1, letters.sum()), detected.sentence @ self.sentence_weights)
        return np.asarray(present.multiply(values[None]).tocsr() @ self.weights, np.float32), np.asarray(meant, np.float32)

    def most_indicative(self, found: list[PosterDetections], genres: list[str]) -> pd.DataFrame:
        """The words that speak most for each genre, of those that are on at least `COMMON` of some posters.

        Returns
        -------
        A row a word: genre, word, log_odds (what its parts add where it stands alone) and posters (how many it is on); by genre,
        the strongest first.
        """
        on = Counter(word for detected in found for word in set(WORD.findall(text_of(detected.objects).lower())))
        words = sorted(word for word, number in on.items() if number >= COMMON)
        columns = ["genre", "word", "log_odds", "posters"]
        if not words:
            return pd.DataFrame(columns=columns)
        strength = self.vectorizer().transform(words) @ self.weights
        rows = []
        for k, genre in enumerate(genres):
            for i in np.argsort(-strength[:, k], kind="stable")[:SHOWN]:
                if strength[i, k] > 0:
                    rows.append((genre, words[i], float(strength[i, k]), on[words[i]]))
        return pd.DataFrame(rows, columns=columns)

    def state(self) -> dict[str, Any]:
        """As plain values and tensors, for the model's file; `Words.load` reads it."""
        import torch

        return {"vocabulary": self.vocabulary} | {name: torch.from_numpy(getattr(self, name)) for name in ARRAYS}

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Words":
        return cls(state["vocabulary"], *(state[name].numpy() for name in ARRAYS))


def new_vectorizer(**options: Any) -> "TfidfVectorizer":
    # Here, as most models have no words.
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer="char_wb", ngram_range=LENGTHS, strip_accents="unicode", sublinear_tf=True, dtype=np.float32, **options
    )


def fit_words(found: list[PosterDetections], labels: np.ndarray) -> Words | None:
    """Learn what words say, from training posters.

    Parameters
    ----------
    found : of each poster
    labels : float32 (posters, genres), 0 or 1

    Returns
    -------
    None where there are hardly any words.
    """
    from sklearn.linear_model import LogisticRegression

    vectorizer = new_vectorizer(min_df=LEAST)
    texts = [text_of(detected.objects) for detected in found]
    try:
        parts = vectorizer.fit_transform(texts)
    except ValueError:  # no part of a word is on LEAST posters
        return None
    # The vocabulary has the order of its columns in the table.
    vocabulary = vectorizer.get_feature_names_out().tolist()
    sentences = np.stack([detected.sentence for detected in found])
    weights = np.zeros((len(vocabulary), labels.shape[1]), np.float32)
    sentence_weights = np.zeros((sentences.shape[1], labels.shape[1]), np.float32)
    for genre, truth in enumerate(labels.T):
        if 0 < truth.sum() < len(truth):
            weights[:, genre] = LogisticRegression(C=STRENGTH, solver="liblinear").fit(parts, truth).coef_[0]
            sentence_weights[:, genre] = LogisticRegression(C=SENTENCE_STRENGTH, max_iter=1000).fit(sentences, truth).coef_[0]
    written = np.array([bool(text.strip()) for text in texts])
    offset, sentence_offset = (
        np.asarray(parts @ weights)[written].mean(axis=0),
        (sentences @ sentence_weights)[written].mean(axis=0),
    )
    return Words(vocabulary, vectorizer.idf_.astype(np.float32), weights, sentence_weights, offset, sentence_offset)
