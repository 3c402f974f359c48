"""EfficientNet-Lite0."""

from poster_genres.efficientnet import efficientnet_lite

ARCHITECTURE = efficientnet_lite("efficientnet_lite0")
