"""The tutorial's Keras program, as people write it; `python -m benchmarks.against_keras` runs and measures it.

Run: `python keras_tutorial.py DATASET [--epochs 10] [--limit 3000]`, with TensorFlow, pandas and Pillow installed; it needs nothing
of this project. DATASET has train.csv and posters named by their movies' IDs. It has no functions, so that as in a notebook the
list of posters stays in memory beside the array. The last line printed is JSON: seconds of each step.
"""

import time

start = time.perf_counter()

# The imports are timed too.
# ruff: noqa: E402
import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorflow.keras.callbacks import Callback
from tensorflow.keras.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from tensorflow.keras.models import Sequential
from tensorflow.keras.preprocessing import image

seconds: dict[str, Any] = {"import": time.perf_counter() - start}

parser = argparse.ArgumentParser(description="The tutorial's Keras program.")
parser.add_argument("dataset", type=Path)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--limit", type=int, default=3000, help="movies to train and validate on (3000)")
arguments = parser.parse_args()

began = time.perf_counter()
paths = {path.stem: path for path in arguments.dataset.rglob("*.jpg")}
table = pd.read_csv(arguments.dataset / "train.csv")
table = table[table["Id"].isin(paths)].head(arguments.limit).reset_index(drop=True)
genres = table.columns[2:]
images = []
for i in range(len(table)):
    poster = image.load_img(paths[table["Id"][i]], target_size=(200, 200, 3))
    images.append(image.img_to_array(poster) / 255)
x = np.array(images)
y = np.array(table.drop(columns=["Id", "Genre"]))
train = len(x) * 4 // 5
x_train, x_validation, y_train, y_validation = x[:train], x[train:], y[:train], y[train:]
seconds["loading"] = time.perf_counter() - began

model = Sequential()
model.add(Input((200, 200, 3)))
model.add(Conv2D(16, (5, 5), activation="relu"))
model.add(BatchNormalization())
model.add(MaxPooling2D((2, 2)))
model.add(Dropout(0.2))
for filters in (32, 64, 64):
    model.add(Conv2D(filters, (5, 5), activation="relu"))
    model.add(MaxPooling2D((2, 2)))
    model.add(BatchNormalization())
    model.add(Dropout(0.2))
model.add(Flatten())
model.add(Dense(128, activation="relu"))
model.add(Dropout(0.5))
model.add(Dense(64, activation="relu"))
model.add(Dropout(0.5))
model.add(Dense(len(genres), activation="sigmoid"))
model.summary()
model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])


class Clock(Callback):
    """The seconds of each epoch, validation included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.seconds.append(time.perf_counter() - self.began)


clock = Clock()
model.fit(
    x_train,
    y_train,
    epochs=arguments.epochs,
    batch_size=64,
    validation_data=(x_validation, y_validation),
    callbacks=[clock],
)
seconds["epochs"] = clock.seconds

poster = image.load_img(paths[table["Id"].iloc[-1]], target_size=(200, 200, 3))
probabilities = model.predict(np.expand_dims(image.img_to_array(poster) / 255, 0))[0]
for genre in np.argsort(probabilities)[:-11:-1]:
    print(f"{genres[genre]} ({probabilities[genre]:.3f})")
seconds["whole"] = time.perf_counter() - start
print(json.dumps({"posters": len(x), **seconds}))
