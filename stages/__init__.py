"""The stages in order: sample, resolve, join, cache, detect, train, evaluate; and the commands predict, sweep and track."""

import gc

# Short commands spend most of their time on imports, and a quarter of that on garbage collection, which finds nothing.
gc.set_threshold(100_000)
