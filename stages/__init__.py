"""The pipeline's stages, in order of flow: sample, join, cache, train, evaluate. `predict`, `sweep` and `track` are commands."""
