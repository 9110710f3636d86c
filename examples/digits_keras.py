"""From a folder of images to a trained model: scikit-learn's digits as PNG files, shards, Keras.

    python examples/digits_keras.py [DIRECTORY]

Writes 1,797 real images of handwritten digits as class folders, prepares them with the command a user
would type, trains a small network from the shards, and prints its accuracy on images it has not seen.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages of TensorFlow,
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nor the one about oneDNN

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from shard_reader import open_dataset
from shard_reader.tf_data import as_dataset


def main(directory: Path) -> float:
    """Run the whole way in `directory`; the accuracy on the "val" split."""
    images, shards = directory / "images", directory / "shards"
    write_images(images)
    options = "--size 16x16 --encoding raw --format tfrecord --format hdf5 --split train=0.8,val=0.2"
    command = [sys.executable, "-m", "beam_jobs", "prepare", str(images), str(shards), *options.split()]
    status = subprocess.run(command).returncode
    if status:
        sys.exit(status)  # the command has said why

    train, val = open_dataset(shards, "train"), open_dataset(shards, "val")
    model = small_network(len(train.class_names))
    model.fit(batches(train, "full"), epochs=15, shuffle=False, verbose=2)
    _, accuracy = model.evaluate(batches(val, "none"), verbose=0)
    model.save(directory / "model.keras")

    print(f"\naccuracy on {len(val)} images of the val split: {accuracy:.1%}")
    print(f"images: {images}\nshards: {shards}\nmodel:  {directory / 'model.keras'}")
    return accuracy


def write_images(directory: Path) -> None:
    """Write each digit as DIRECTORY/<class>/<number>.png, 8x8 pixels, grey."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = directory / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(path)


def batches(data, shuffle):
    """The batches of a split as a tf.data.Dataset of (image, label, weight)."""
    stream = data.stream(batch_size=64, shuffle=shuffle, seed=0)
    return as_dataset(stream, inputs="image", targets="label")


def small_network(classes: int) -> keras.Model:
    """Two convolutions and a classifier."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, weighted_metrics=["accuracy"])
    return model


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="image-shards-demo-"))
    if where.exists() and any(where.iterdir()):
        sys.exit(f"{where}: is not empty; give a new directory")
    if main(where) < 0.95:
        sys.exit("the accuracy is below 95 %: something is wrong")
