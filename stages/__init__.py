"""The stages, in order of flow: sample, resolve, join, cache, detect, train, evaluate; and the commands predict, sweep, track."""

import gc

# Most of a short command's time goes into imports, and a quarter of that into looking for garbage, of which there is none then.
gc.set_threshold(100_000)
