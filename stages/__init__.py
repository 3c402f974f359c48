"""The pipeline's stages, in order of flow: sample, join, cache, detect, train, evaluate; and the commands predict, sweep, track."""

import gc
import os

# Most of a short command's time goes into imports, and a quarter of that into looking for garbage, of which there is none then.
gc.set_threshold(100_000)
# The texts of pandas' tables come from Arrow, whose own allocator keeps what was freed: 35 MB of what joining 100,000 movies takes.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
