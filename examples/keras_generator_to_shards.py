"""Keras on more images than fit in memory: a Python generator in `tf.data`, and shards in its place.

    python examples/keras_generator_to_shards.py IMAGES [DIRECTORY]

IMAGES is a folder of class folders, or has them in `train/`. The usual way is a generator that opens and resizes file
after file, wrapped in `Dataset.from_generator`: in each epoch again, and one after the other. With shards it is done
once, and the network normalises the bytes. Both train the same small network, with checkpoints. Then it is checked
that the shards gave each image once an epoch, and that a training which goes on from a checkpoint and a position in
the middle of an epoch ends with the weights of the one that was not cut off.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages of TensorFlow,
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nor the one about oneDNN

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from shard_reader import Dataset, Stream, open_dataset
from shard_reader.keras import normalization
from shard_reader.tf_data import as_dataset

SIZE, BATCH, EPOCHS = 32, 64, 3
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def main(images: Path, directory: Path) -> None:
    """Train both ways, and check the promises of the second one."""
    root = images / "train" if (images / "train").is_dir() else images
    paths = sorted(path for path in root.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if len(paths) <= BATCH:
        sys.exit(f"{root}: holds {len(paths)} images in class folders; more than {BATCH} are needed")
    command = [sys.executable, "-m", "beam_jobs", "prepare", str(root), str(directory / "shards")]
    status = subprocess.run([*command, *f"--size {SIZE}x{SIZE} --fit stretch --encoding raw".split()]).returncode
    if status:
        sys.exit(status)  # the command has said why
    data = open_dataset(directory / "shards")
    check_ids(data, Counter((f"{path.parent.name}/{path.name}", path.parent.name) for path in paths))

    stream = data.stream(batch_size=BATCH, seed=0)
    every = EPOCHS * len(stream) - len(stream) // 2  # one checkpoint, in the middle of the last epoch
    position = Position(stream, directory / "shards.json", every)
    scaled = keras.layers.Rescaling(255)  # of the generator's 0 to 1
    models = {"generator": network(data, scaled, normalization(data)), "shards": network(data, normalization(data))}
    batches = {"generator": generated(paths), "shards": as_dataset(stream, inputs="image", targets="label")}
    print(f"\n{'images/s':12} {'feeding':>9} {'training':>9} {'accuracy':>9}")
    for way, model in models.items():
        checkpoint = keras.callbacks.ModelCheckpoint(directory / f"{way}.keras", save_freq=every)
        callbacks = [checkpoint, position] if way == "shards" else [checkpoint]
        seconds, accuracy = train(model, batches[way], callbacks)
        fed = statistics.median(feed(batches[way]) for _ in range(3))
        print(f"{way:12} {len(paths) / fed:9,.0f} {len(paths) / seconds:9,.0f} {accuracy:9.1%}")

    if position.whole != [True] * EPOCHS:
        sys.exit(f"which epochs of the training gave each record once: {position.whole}")
    print(f"\ncoverage: each of {len(data)} records once in each of {EPOCHS} epochs of training")
    go_on(data, directory / "shards.keras", directory / "shards.json", models["shards"])


def check_ids(data: Dataset, expected: Counter[tuple[str, str]]) -> None:
    """Each file once in an epoch, by its id, with the name of its folder as its class."""
    seen: Counter[tuple[str, str]] = Counter()
    for batch in as_dataset(data.stream(batch_size=BATCH, seed=0, fields=("id", "label"))).as_numpy_iterator():
        rows = zip(batch["id"], batch["label"], batch["weight"], strict=True)
        seen.update((id.decode(), data.class_names[label]) for id, label, weight in rows if weight)
    if seen != expected:
        wrong = sorted({name for name, _ in (seen - expected) + (expected - seen)})
        sys.exit(f"not once in an epoch, with its class: {', '.join(wrong[:5])}; {len(wrong)} in all")
    print(f"\nids: each of {len(expected)} files once in an epoch, with its class")


def preprocess(path: Path) -> np.ndarray:
    """One file as a network takes it: opened, resized, from 0 to 1."""
    with Image.open(path) as image:
        pixels = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(pixels, np.float32) / 255


def generated(paths: list[Path]) -> tf.data.Dataset:
    """The usual way: batches from a generator over files, in another order each epoch."""
    classes = sorted({path.parent.name for path in paths})
    rng = np.random.default_rng(0)

    def examples() -> Iterator[tuple[np.ndarray, int]]:
        for number in rng.permutation(len(paths)):
            yield preprocess(paths[number]), classes.index(paths[number].parent.name)

    signature = tf.TensorSpec((SIZE, SIZE, 3), tf.float32), tf.TensorSpec((), tf.int64)
    batches = tf.data.Dataset.from_generator(examples, output_signature=signature).batch(BATCH).prefetch(2)
    return batches.apply(tf.data.experimental.assert_cardinality(-(-len(paths) // BATCH)))


def network(data: Dataset, *first: keras.Layer) -> keras.Model:
    """Two convolutions and a classifier after the layers `first`, with the same weights each time."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    convolutions = [layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(32, 3, strides=2)]
    last = [layers.ReLU(), layers.Flatten(), layers.Dense(len(data.class_names))]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *first, *convolutions, *last])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, weighted_metrics=["accuracy"])
    return model


class Position(keras.callbacks.Callback):
    """Saves the position of the stream beside the model's checkpoint, and notes whether epochs gave each record once.

    Keras asks for batches before it trains on them, so the saved position is the one after the last finished step.
    """

    def __init__(self, stream: Stream, path: Path, every: int) -> None:
        super().__init__()
        self.stream, self.path, self.every = stream, path, every
        self.steps, self.whole = 0, []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps % self.every == 0:
            self.path.write_text(json.dumps(self.stream.state_at(batch + 1, self.epoch)))

    def on_epoch_end(self, epoch, logs=None):
        self.whole.append(self.stream.coverage().covers(self.stream.data.coverage()))


def train(model: keras.Model, batches: tf.data.Dataset, callbacks: list[keras.callbacks.Callback]) -> tuple[float, ...]:
    """The seconds of an epoch, without the first one, in which TensorFlow compiles; and the accuracy in the last."""
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    history = model.fit(batches, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[*callbacks, clock])
    return statistics.median(np.diff(ends)), history.history["accuracy"][-1]


def feed(batches: tf.data.Dataset) -> float:
    """The seconds of reading one epoch, without training."""
    began = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - began


def go_on(data: Dataset, checkpoint: Path, position: Path, expected: keras.Model) -> None:
    """Train from checkpoint and position to the end of the epoch, in a custom loop. The weights have to be the same."""
    model, stream = keras.models.load_model(checkpoint), data.stream(batch_size=BATCH, seed=0)
    stream.load_state_dict(json.loads(position.read_text()))
    where = f"epoch {stream.epoch}, step {stream.step}, {stream.remaining} steps to the end"
    for images, labels, weights in as_dataset(stream, inputs="image", targets="label"):
        model.train_on_batch(images, labels, sample_weight=weights)
    pairs = zip(model.get_weights(), expected.get_weights(), strict=True)
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    if difference > 1e-4 or not stream.coverage().covers(data.coverage()):
        sys.exit(f"resumed at {where}: weights differ by {difference:.1e}; {stream.coverage()} of {data.coverage()}")
    print(f"resumed: at {where}; weights differ by at most {difference:.1e}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/keras_generator_to_shards.py IMAGES [DIRECTORY]")
    where = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="image-shards-generator-"))
    if where.exists() and any(where.iterdir()):
        sys.exit(f"{where}: is not empty; give a new directory")
    main(Path(sys.argv[1]), where)
