"""The pipeline's stages, in order of flow: sample, join, cache, train, evaluate. `predict` uses what they made."""
