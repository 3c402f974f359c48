"""Genre logits from the text on posters."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from poster_genres.objects import SENTENCE_LENGTH, PosterDetections, is_title, text_of

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

# Inverse regularisation strengths, scikit-learn's C. With LETTERS_C = 10, text alone scores as well on validation, but is
# overconfident when combined with the image.
LETTERS_C = 3.0
MEANING_C = 1.0
# Character n-grams, as text recognition often confuses single letters; and the number of training posters each must be on.
NGRAM_RANGE = (3, 5)
MIN_DF = 3
# The parts of a model whose logits `Words` gives.
WORDS = ("letters", "meaning", "title")
ARRAYS = ("frequencies", "levels", "scales", "sentence_weights", "title_weights", "offset", "sentence_offset", "title_offset")


@dataclass
class Words:
    """Three logistic regressions per genre: on TF-IDF of the text's character n-grams, on its sentence embedding, and on that of
    its largest lines, which mostly are the title.

    Attributes
    ----------
    vocabulary : the n character n-grams
    frequencies : float32 (n,), their inverse document frequencies
    levels, scales : int8 (n, genres) and float32 (n,), whose product are the n-grams' weights; a fourth of the size of float32
    sentence_weights, title_weights : float32 (`sentence_length`, genres) and (SENTENCE_LENGTH, genres)
    offset, sentence_offset, title_offset : float32 (genres,), the mean logits of training posters with text
    """

    vocabulary: list[str]
    frequencies: np.ndarray
    levels: np.ndarray
    scales: np.ndarray
    sentence_weights: np.ndarray
    title_weights: np.ndarray
    offset: np.ndarray
    sentence_offset: np.ndarray
    title_offset: np.ndarray

    sentence_length: ClassVar[int] = SENTENCE_LENGTH

    @property
    def genres(self) -> int:
        return len(self.offset)

    @property
    def weights(self) -> np.ndarray:
        """The n-grams' weights, float32 (n, genres)."""
        return self.levels * self.scales[:, None]

    @cached_property
    def vectorizer(self) -> "TfidfVectorizer":
        """What turns texts into TF-IDF; kept, as its dictionary has tens of thousands of n-grams."""
        vectorizer = new_vectorizer(vocabulary={ngram: i for i, ngram in enumerate(self.vocabulary)})
        vectorizer.idf_ = self.frequencies
        return vectorizer

    def sentences(self, contents: list[PosterDetections]) -> np.ndarray:
        """The sentence embedding of each poster's text, float32 (posters, `sentence_length`); zeros without text."""
        return np.stack([content.sentence for content in contents])

    def logits(self, contents: list[PosterDetections]) -> dict[str, np.ndarray]:
        """The logits from the n-grams, `letters`, and from the embeddings, `meaning` and `title`: float32 (posters, genres) each.

        0 for posters without text; the mean over training posters with text is 0, too.
        """
        texts = [text_of(content.objects) for content in contents]
        has_text = np.array([bool(text.strip()) for text in texts])[:, None]
        letters = np.asarray(self.vectorizer.transform(texts) @ self.weights) - self.offset
        meaning = self.sentences(contents) @ self.sentence_weights - self.sentence_offset
        title = np.stack([content.title for content in contents]) @ self.title_weights - self.title_offset
        parts = {"letters": letters, "meaning": meaning, "title": title}
        return {part: np.asarray(has_text * logits, np.float32) for part, logits in parts.items()}

    def by_object(self, content: PosterDetections) -> dict[str, np.ndarray]:
        """Each detection's contribution to `logits`, float32 (objects, genres) each; their sums minus the offsets are the logits.

        Detections that share an n-gram share its contribution equally; an embedding's is divided in proportion to text length,
        among the lines that it is of.
        """
        detections = content.objects
        if not detections:
            return dict.fromkeys(WORDS, np.zeros((0, self.levels.shape[1]), np.float32))
        vectorizer = self.vectorizer
        tfidf = vectorizer.transform([text_of(detections)]).toarray()[0]
        present = (vectorizer.transform([detection.text for detection in detections]) > 0).astype(np.float32)
        values = tfidf / np.maximum(np.asarray(present.sum(axis=0)).ravel(), 1)
        lengths = np.array([len(detection.text) for detection in detections])
        in_title = lengths * is_title(detections)
        parts = {
            "letters": present.multiply(values[None]).tocsr() @ self.weights,
            "meaning": np.outer(lengths / max(1, lengths.sum()), self.sentences([content])[0] @ self.sentence_weights),
            "title": np.outer(in_title / max(1, in_title.sum()), content.title @ self.title_weights),
        }
        return {part: np.asarray(logits, np.float32) for part, logits in parts.items()}

    def state(self) -> dict[str, Any]:
        """Plain values and tensors for the model's file; `Words.load` reads them."""
        import torch

        # No n-gram has a line break, as the vectorizer takes it for a space.
        return {"vocabulary": "\n".join(self.vocabulary)} | {name: torch.from_numpy(getattr(self, name)) for name in ARRAYS}

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        """The model of a file's values and tensors. Raises ValueError where they do not fit each other."""
        words = cls(state["vocabulary"].split("\n"), *(state[name].numpy() for name in ARRAYS))
        n, genres = len(words.vocabulary), words.genres
        embeddings = (cls.sentence_length, genres), (SENTENCE_LENGTH, genres)
        shapes = ((n,), (n, genres), (n,), *embeddings, (genres,), (genres,), (genres,))
        if tuple(getattr(words, name).shape for name in ARRAYS) != shapes or len(set(words.vocabulary)) != n:
            raise ValueError("its words do not fit each other")
        return words


def new_vectorizer(**options: Any) -> "TfidfVectorizer":
    # Imported only for models that use text.
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer="char_wb", ngram_range=NGRAM_RANGE, strip_accents="unicode", sublinear_tf=True, dtype=np.float32, **options
    )


def fit_words(contents: list[PosterDetections], labels: np.ndarray) -> Words | None:
    """Fit the logistic regressions on training posters.

    Parameters
    ----------
    contents : the detections on each poster
    labels : float32 (posters, genres), 0 or 1

    Returns
    -------
    None if no n-gram is on MIN_DF posters.
    """
    vectorizer = new_vectorizer(min_df=MIN_DF)
    texts = [text_of(content.objects) for content in contents]
    try:
        tfidf = vectorizer.fit_transform(texts)
    except ValueError:  # the vocabulary is empty
        return None
    vocabulary = vectorizer.get_feature_names_out().tolist()  # in the order of the columns
    sentences, titles = (np.stack(rows) for rows in zip(*((content.sentence, content.title) for content in contents), strict=True))
    weights = fit_regressions(tfidf, labels, C=LETTERS_C, solver="liblinear")
    sentence_weights, title_weights = (fit_meaning(embeddings, labels) for embeddings in (sentences, titles))
    has_text = np.array([bool(text.strip()) for text in texts])
    levels, scales = quantise(weights)
    offset = np.asarray(tfidf @ (levels * scales[:, None]))[has_text].mean(axis=0)
    sentence_offset, title_offset = (
        (embeddings @ matrix)[has_text].mean(axis=0)
        for embeddings, matrix in ((sentences, sentence_weights), (titles, title_weights))
    )
    frequencies = vectorizer.idf_.astype(np.float32)
    offsets = (offset, sentence_offset, title_offset)
    return Words(vocabulary, frequencies, levels, scales, sentence_weights, title_weights, *offsets)


def fit_meaning(sentences: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The weights, float32 (length, genres), of logistic regressions on sentence embeddings, float32 (posters, length)."""
    return fit_regressions(sentences, labels, C=MEANING_C, max_iter=1000)


def fit_regressions(features: Any, labels: np.ndarray, **options: Any) -> np.ndarray:
    """The weights, float32 (n, genres), of a logistic regression per genre on features, (posters, n), dense or sparse; 0 for genres
    of all posters or none. `options` are scikit-learn's."""
    from sklearn.linear_model import LogisticRegression

    weights = np.zeros((features.shape[1], labels.shape[1]), np.float32)
    for genre, truth in enumerate(labels.T):
        if 0 < truth.sum() < len(truth):
            weights[:, genre] = LogisticRegression(**options).fit(features, truth).coef_[0]
    return weights


def quantise(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels, int8 (n, genres), and scales, float32 (n,), whose product is nearest to weights, float32 (n, genres).

    Of n-grams: on 600 validation posters no probability changed by more than 0.0008, and no average precision by more than 0.0002.
    """
    scales = np.maximum(np.abs(weights).max(axis=1) / 127, 1e-12).astype(np.float32)
    return np.round(weights / scales[:, None]).astype(np.int8), scales
