"""Genre logits from the objects on posters."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from poster_genres.objects import MEASURES, PosterDetections, object_vectors

# The number of training posters that a class must be on; rarer classes would be overfitted.
LEAST = 20
# Candidates for the weight decay, chosen by cross-validation on training posters.
DECAYS = (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass
class ObjectModel:
    """One logistic regression per genre on the feature vectors of detections.

    Attributes
    ----------
    classes : the classes that the feature vectors describe
    mean : float32 (inputs,), the training posters' mean feature vector; see `objects.object_vectors`
    weights : float32 (inputs, genres)
    """

    classes: list[str]
    mean: np.ndarray
    weights: np.ndarray

    def logits(self, contents: list[PosterDetections]) -> np.ndarray:
        """The logits of each poster, float32 (posters, genres); their mean over training posters is 0."""
        return (object_vectors(contents, self.classes) - self.mean) @ self.weights

    def by_object(self, content: PosterDetections) -> np.ndarray:
        """Each detection's contribution to the logits, float32 (objects, genres), relative to a poster without detections.

        The detections of a class share its contribution equally.
        """
        counts = Counter(detection.label for detection in content.objects)
        vector = object_vectors([content], self.classes)[0]
        by_class = np.einsum("cm,cmg->cg", vector.reshape(-1, len(MEASURES)), self.weights.reshape(-1, len(MEASURES), self.genres))
        logits = np.zeros((len(content.objects), self.genres), np.float32)
        for i, detection in enumerate(content.objects):
            if detection.label in self.classes:
                logits[i] = by_class[self.classes.index(detection.label)] / counts[detection.label]
        return logits

    @property
    def genres(self) -> int:
        return int(self.weights.shape[1])

    def state(self) -> dict[str, Any]:
        """Plain values and tensors for the model's file; `ObjectModel.load` reads them."""
        import torch

        return {"classes": self.classes, "mean": torch.from_numpy(self.mean), "weights": torch.from_numpy(self.weights)}

    @classmethod
    def load(cls, state: dict[str, Any]) -> "ObjectModel":
        """The model of a file's values and tensors. Raises ValueError where they do not fit each other."""
        model = cls(state["classes"], state["mean"].numpy(), state["weights"].numpy())
        inputs = len(model.classes) * len(MEASURES)
        if model.mean.shape != (inputs,) or model.weights.ndim != 2 or len(model.weights) != inputs:
            raise ValueError("its objects do not fit each other")
        return model


def count_classes(contents: list[PosterDetections], classes: list[str]) -> dict[str, int]:
    """The number of posters that each class is on, without the classes that carry text: those are left to `words`."""
    counts = Counter(label for content in contents for label in {detection.label for detection in content.objects})
    with_text = {detection.label for content in contents for detection in content.objects if detection.text}
    return {label: counts[label] for label in classes if label not in with_text}


def fit_objects(contents: list[PosterDetections], labels: np.ndarray, classes: list[str]) -> ObjectModel | None:
    """Fit the logistic regressions on training posters.

    Parameters
    ----------
    contents : the detections on each poster
    labels : float32 (posters, genres), 0 or 1
    classes : of the detectors; those on fewer than LEAST posters are not used

    Returns
    -------
    None if no class is on LEAST posters.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from poster_genres.fusion import folds
    from poster_genres.logistic import fit_logistic

    used = [label for label, posters in count_classes(contents, classes).items() if posters >= LEAST]
    if not used:
        return None
    vectors, truth = torch.from_numpy(object_vectors(contents, used)), torch.from_numpy(labels)
    losses = []
    for decay in DECAYS:
        logits = torch.empty_like(truth)
        for train, test in folds(len(labels)):
            weight, bias = fit_logistic(vectors[train], truth[train], decay)
            logits[test] = vectors[test] @ weight.T + bias
        losses.append(float(binary_cross_entropy_with_logits(logits, truth)))
    weight, _ = fit_logistic(vectors, truth, DECAYS[int(np.argmin(losses))])
    return ObjectModel(used, vectors.mean(dim=0).numpy(), weight.T.contiguous().numpy())
