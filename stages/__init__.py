"""The stages in order: sample, resolve, join, cache, detect, train, evaluate; and the other commands."""

import gc
import sys
from importlib.util import find_spec

# In a new terminal the environment is not active, and then each import would be a traceback.
if find_spec("numpy") is None:
    sys.exit(f"error: {sys.executable} lacks the project's packages; `. .venv/bin/activate` first, or install them as README tells")

# Short commands spend most of their time on imports, and a quarter of that on garbage collection, which finds nothing.
gc.set_threshold(100_000)
