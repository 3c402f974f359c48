"""What the objects on a poster say of its genres."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from poster_genres.objects import MEASURES, PosterDetections, object_vectors

# Training posters that a class must be on: what is seen on fewer is learned by heart.
LEAST = 20
# Strengths of the weights' decay, of which training posters out of fold choose.
DECAYS = (0.03, 0.1, 0.3, 1.0, 3.0)
FOLDS = 5


@dataclass
class ObjectModel:
    """Logistic regressions on the vectors of objects, one a genre.

    Attributes
    ----------
    classes : the labels that count
    mean : float32 (inputs,), of the training posters' vectors; see `objects.object_vectors`
    weights : float32 (inputs, genres)
    """

    classes: list[str]
    mean: np.ndarray
    weights: np.ndarray

    def logits(self, detected: list[PosterDetections]) -> np.ndarray:
        """What the objects add to each genre's logit, float32 (posters, genres); 0 on average over training posters."""
        return (object_vectors(detected, self.classes) - self.mean) @ self.weights

    def by_object(self, detected: PosterDetections) -> np.ndarray:
        """What each object adds to each genre's logit, float32 (objects, genres), compared with a poster that has none.

        The objects of one class share in what they add together.
        """
        numbers = Counter(one.label for one in detected.objects)
        vector = object_vectors([detected], self.classes)[0]
        by_class = np.einsum("cm,cmg->cg", vector.reshape(-1, len(MEASURES)), self.weights.reshape(-1, len(MEASURES), self.genres))
        added = np.zeros((len(detected.objects), self.genres), np.float32)
        for i, one in enumerate(detected.objects):
            if one.label in self.classes:
                added[i] = by_class[self.classes.index(one.label)] / numbers[one.label]
        return added

    @property
    def genres(self) -> int:
        return int(self.weights.shape[1])

    def state(self) -> dict[str, Any]:
        """As plain values and tensors, for the model's file; `ObjectModel.load` reads it."""
        import torch

        return {"classes": self.classes, "mean": torch.from_numpy(self.mean), "weights": torch.from_numpy(self.weights)}

    @classmethod
    def load(cls, state: dict[str, Any]) -> "ObjectModel":
        return cls(state["classes"], state["mean"].numpy(), state["weights"].numpy())


def count_classes(detected: list[PosterDetections], classes: list[str]) -> dict[str, int]:
    """On how many posters each class is, but for those that are read: lettering is left to the words."""
    on = Counter(label for one in detected for label in {found.label for found in one.objects})
    read = {found.label for one in detected for found in one.objects if found.text}
    return {label: on[label] for label in classes if label not in read}


def fit_objects(detected: list[PosterDetections], labels: np.ndarray, classes: list[str]) -> ObjectModel | None:
    """Learn what objects say, from training posters.

    Parameters
    ----------
    detected : of each poster
    labels : float32 (posters, genres), 0 or 1
    classes : that the detectors know; those on fewer than LEAST posters are not used

    Returns
    -------
    None where no class is on enough posters.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from poster_genres.logistic import fit_logistic

    used = [label for label, posters in count_classes(detected, classes).items() if posters >= LEAST]
    if not used:
        return None
    vectors, truth = torch.from_numpy(object_vectors(detected, used)), torch.from_numpy(labels)
    folds = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    losses = []
    for decay in DECAYS:
        logits = torch.empty_like(truth)
        for fold in range(FOLDS):
            kept, left_out = torch.from_numpy(folds != fold), torch.from_numpy(folds == fold)
            weight, bias = fit_logistic(vectors[kept], truth[kept], decay)
            logits[left_out] = vectors[left_out] @ weight.T + bias
        losses.append(float(binary_cross_entropy_with_logits(logits, truth)))
    weight, _ = fit_logistic(vectors, truth, DECAYS[int(np.argmin(losses))])
    return ObjectModel(used, vectors.mean(dim=0).numpy(), weight.T.contiguous().numpy())
