"""The stages in order: sample, resolve, join, cache, detect, train, evaluate; and the other commands."""

import gc
import os
import sys
from importlib.util import find_spec

# In a new terminal the environment is not active, and then each import would be a traceback.
if find_spec("numpy") is None:
    sys.exit(f"error: {sys.executable} lacks the project's packages; `. .venv/bin/activate` first, or install them as README tells")

# Short commands spend most of their time on imports, and a quarter of that on garbage collection, which finds nothing.
gc.set_threshold(100_000)

# How often a thread of torch's that waits for another looks before it gives its core away. By default it does so 300,000 times, and
# beside other programs that keeps the other from coming: a training step took three times as long and more (benchmarks/busy.py).
# libgomp reads it when torch is imported, and takes 100 itself where it knows that cores are too few:
# https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
os.environ.setdefault("GOMP_SPINCOUNT", "4000")

# NumPy's and SciPy's matrix products are small here, and slower on two cores than on one: logistic regressions on words took 39
# seconds instead of 14. torch has threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# How many compiled operations torch's oneDNN keeps. Each shape of text or of cropped maps has some of its own, and of the 1,024
# that it keeps by default most never come again: training took 320 MB more, and no less time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "300")
