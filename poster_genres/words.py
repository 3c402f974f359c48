"""What the words on a poster say of its genres."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from poster_genres.objects import Detected, text_of

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

# Of the penalty, inverse. On validation, words alone do as well with 10, but are then too sure of themselves beside the image.
STRENGTH = 3.0
SENTENCE_STRENGTH = 1.0
# Both regressions hear of the same words, so that what they say is not added in full.
SHARE = 0.7
# Parts of words, as short as "war" and as long as "ghost", that are on so many training posters at least. Parts, as a reader of
# posters' lettering now and then takes one letter for another.
LENGTHS = (3, 5)
LEAST = 3
# Of the words that a table shows.
WORD = re.compile(r"[^\W\d_]{3,}")
COMMON = 6
SHOWN = 10
ARRAYS = ("frequencies", "weights", "sentence_weights", "offset")


@dataclass
class Words:
    """Logistic regressions on the parts of the words of a poster and, beside them, on what the words mean; one of each a genre.

    Attributes
    ----------
    vocabulary : the parts of words, n of them
    frequencies : float32 (n,), the logarithm of how rare each is (inverse document frequency)
    weights : float32 (n, genres)
    sentence_weights : float32 (`sentences.LENGTH`, genres)
    offset : float32 (genres,), what both say of training posters on average
    """

    vocabulary: list[str]
    frequencies: np.ndarray
    weights: np.ndarray
    sentence_weights: np.ndarray
    offset: np.ndarray

    def vectorizer(self) -> "TfidfVectorizer":
        vectorizer = new_vectorizer(vocabulary={part: i for i, part in enumerate(self.vocabulary)})
        vectorizer.idf_ = self.frequencies
        return vectorizer

    def logits(self, found: list[Detected]) -> np.ndarray:
        """What the words add to each genre's logit, float32 (posters, genres); 0 on average.

        An image's logit and this are added as if, given the genre, the words did not depend on the picture (naive Bayes).
        """
        spoken = self.vectorizer().transform([text_of(detected.objects) for detected in found]) @ self.weights
        meant = np.stack([detected.sentence for detected in found]) @ self.sentence_weights
        return np.asarray(spoken + meant - self.offset, np.float32)

    def by_object(self, detected: Detected) -> np.ndarray:
        """What each object adds to each genre's logit, float32 (objects, genres): with the offset they add up to `logits`.

        A part of a word that stands on several pieces of lettering is shared by them; what all words together mean is, by the
        number of their letters.
        """
        objects = detected.objects
        if not objects:
            return np.zeros((0, self.weights.shape[1]), np.float32)
        vectorizer = self.vectorizer()
        whole = vectorizer.transform([text_of(objects)])
        present = (vectorizer.transform([one.text for one in objects]) > 0).astype(np.float32)
        sharing = np.maximum(np.asarray(present.sum(axis=0)).ravel(), 1)
        values = whole.toarray()[0] / sharing
        letters = np.array([len(one.text) for one in objects])
        meant = np.outer(letters / max(1, letters.sum()), detected.sentence @ self.sentence_weights)
        return np.asarray(present.multiply(values[None]).tocsr() @ self.weights + meant, np.float32)

    def telling(self, found: list[Detected], genres: list[str]) -> pd.DataFrame:
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


def fit_words(found: list[Detected], labels: np.ndarray) -> Words | None:
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
    try:
        parts = vectorizer.fit_transform([text_of(detected.objects) for detected in found])
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
    weights, sentence_weights = SHARE * weights, SHARE * sentence_weights
    offset = (np.asarray(parts @ weights) + sentences @ sentence_weights).mean(axis=0)
    return Words(vocabulary, vectorizer.idf_.astype(np.float32), weights, sentence_weights, offset)
