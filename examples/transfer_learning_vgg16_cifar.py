"""Transfer learning from a table of images: ImageDataGenerator.flow_from_dataframe and VGG16, on shards.

    python examples/transfer_learning_vgg16_cifar.py IMAGES [DIRECTORY] [--weights none] [--epochs 2]

IMAGES has class folders, or train/ and test/ with class folders in them. The table is made of them: a CSV file of
path and class, the usual form of a data frame. The steps of the usual tutorial, and their replacements here:

    flow_from_dataframe(frame, x_col, y_col, target_size)   image-shards prepare frame.csv, once: sizes, splits, classes
    rescale, shear_range, zoom_range, horizontal_flip       layers of the model, on the device, active in fit alone
    class_mode="categorical"                                ShardSequence(stream, one_hot=True)
    fit(generator, steps_per_epoch=n // batch_size)         fit(sequence): each record once an epoch, on after a stop
    predict(generator with shuffle=False), filenames        a stream with shuffle="none": rows as in data.ids()

Writes DIRECTORY/predictions.csv, and compares the speeds of augmentation: where there is no GPU, layers take their time
from the CPUs, and the stream's transforms are an alternative. `--weights none` is for machines that cannot download
VGG16's weights: then the frozen base is random, and the accuracy means nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages of TensorFlow,
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nor the one about oneDNN

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers
from keras.applications import vgg16

from shard_reader import Dataset, Flip, RandomResizedCrop, open_dataset
from shard_reader.keras import ResumeCallback, ShardSequence

SIZE, BATCH = 32, 64


def main(images: Path, directory: Path, weights: str | None, epochs: int) -> None:
    """Run the whole way in `directory`."""
    new_model(weights, classes=2)  # weights that cannot be had are noticed here, before any work
    frame = table_of(images)
    train, val, test = prepare(frame, images, directory)
    for until in sorted({1, epochs}):  # stops after the first epoch; a new model goes on from the checkpoint
        model = new_model(weights, len(train.class_names))
        fit(model, train, val, directory / "checkpoint", until)

    evaluated, batches = sequence(test, "none")
    loss, accuracy = model.evaluate(evaluated, verbose=0)
    check_each_once("evaluation", set().union(*batches.values()), test)
    table, cross_entropy = predict(model, test, frame)
    table.to_csv(directory / "predictions.csv", index=False)
    hits = int((table["class"] == table["predicted class"]).sum())
    check(abs(hits - accuracy * len(test)) <= len(test) / 200, f"evaluate says {accuracy:.4f}, predict {hits} hits")
    check(np.isclose(loss, cross_entropy, rtol=0.01, atol=1e-3), f"evaluate's loss {loss}, predict's {cross_entropy}")

    print(f"\nevaluated {len(test)} records of the test split, each once: loss {loss:.3f}")
    if weights:
        print(f"accuracy: {accuracy:.1%}, and {hits} of {len(table)} predictions are right")
    else:
        print("accuracy: not given, since the base is random (--weights none)")
    print(f"predictions: {len(table)} rows, in the order of their ids: {directory / 'predictions.csv'}\n")
    compare_speeds(train, frame[frame["path"].isin(ids_of(train))], images)


def table_of(images: Path) -> pd.DataFrame:
    """The data frame: path below `images` and class; with train/ and test/, the split as well."""
    has_splits = (images / "train").is_dir()
    paths = [path.relative_to(images) for path in sorted(images.glob("*/*/*" if has_splits else "*/*"))]
    frame = pd.DataFrame({"path": [path.as_posix() for path in paths], "class": [path.parent.name for path in paths]})
    return frame.assign(split=[path.parts[0] for path in paths]) if has_splits else frame


def prepare(frame: pd.DataFrame, images: Path, directory: Path) -> list[Dataset]:
    """Write the table, and the shards with the command that a user types; their train, val and test splits."""
    directory.mkdir(parents=True, exist_ok=True)
    frame.to_csv(directory / "table.csv", index=False)
    split = "train=0.9,val=0.1" if "split" in frame else "train=0.8,val=0.1,test=0.1"  # the first divides "train" alone
    options = f"--source table --path-column path --label-column class --size {SIZE}x{SIZE} --encoding raw"
    command = [sys.executable, "-m", "beam_jobs", "prepare", str(directory / "table.csv"), str(directory / "shards")]
    status = subprocess.run(
        [*command, "--root", str(images), *options.split(), "--split", split, "--stratify"]
    ).returncode
    if status:
        sys.exit(status)  # the command has said why
    return [open_dataset(directory / "shards", name) for name in ("train", "val", "test")]


def new_model(weights: str | None, classes: int) -> keras.Model:
    """Augmentation, VGG16's own normalisation, its frozen convolutions, and a new head, compiled."""
    keras.utils.set_random_seed(0)
    try:
        base = vgg16.VGG16(weights=weights, include_top=False, input_shape=(SIZE, SIZE, 3))
    except Exception as error:  # keras.utils.get_file raises no narrower one
        reason = " ".join(str(error).split())
        sys.exit(f"weights {weights!r} of VGG16 cannot be loaded ({reason}): go on without them with --weights none")
    base.trainable = False
    inputs = keras.Input((SIZE, SIZE, 3))
    x = vgg16.preprocess_input(augmentation()(inputs))  # from RGB of 0..255 to BGR less ImageNet's mean
    x = layers.Flatten()(base(x))
    x = layers.Dropout(0.5)(layers.Dense(256, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))
    model.compile("adam", keras.losses.CategoricalCrossentropy(), weighted_metrics=["accuracy"])
    return model


def augmentation() -> keras.Sequential:
    """The tutorial's augmentation, as layers on the model's device instead of a generator on the CPU."""
    return keras.Sequential(
        [layers.RandomFlip("horizontal"), layers.RandomZoom(0.2), layers.RandomShear(0.2)], name="augmentation"
    )


def fit(model: keras.Model, train: Dataset, val: Dataset, checkpoint: Path, until: int) -> None:
    """Train to the end of epoch `until`, from the checkpoint on if there is one."""
    given, batches = sequence(train, "full")
    resume = ResumeCallback(given, checkpoint)
    first = resume.initial_epoch
    validation = sequence(val, "none")[0]
    model.fit(given, validation_data=validation, initial_epoch=first, epochs=until, callbacks=[resume], verbose=2)
    check(int(model.optimizer.iterations) == until * len(given), f"{model.optimizer.iterations} steps were trained")
    for epoch in range(first, until):
        check_each_once(f"epoch {epoch + 1}", batches[epoch], train)
        print(f"epoch {epoch + 1}: {len(batches[epoch])} batches, {len(train)} records, each once")


def sequence(data: Dataset, shuffle: Any) -> tuple[ShardSequence, dict[int, set[tuple[bytes, ...]]]]:
    """Batches of (image, one-hot label, weight), and the ids in those that were given, by epoch."""
    batches = defaultdict(set)  # sets, since Keras looks at the first batches once more to know their shapes

    def weight(batch: Any) -> Any:
        batches[given.epoch].add(tuple(batch["id"][batch["weight"] > 0]))
        return batch["weight"]

    stream = data.stream(batch_size=BATCH, shuffle=shuffle, fields=("image", "label", "id"))
    given = ShardSequence(stream, inputs="image", targets="label", weight=weight, one_hot=True)
    return given, batches


def predict(model: keras.Model, data: Dataset, frame: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """A row for each record of the split (id, class, predicted class, its probability), and their cross-entropy."""
    stream = data.stream(batch_size=BATCH, shuffle="none")
    found = model.predict(ShardSequence(stream, targets=None), verbose=0)
    check(len(found) == len(data), f"{len(found)} predictions for {len(data)} records")
    names, ids = np.array(data.class_names), ids_of(data)
    classes = frame.set_index("path")["class"].loc[ids].to_numpy()  # the table's own: ids lead back to it
    labels = data.column("label")
    check((names[labels] == classes).all(), "labels are not the classes of the table")
    for row in np.linspace(0, len(data) - 1, 8).astype(int):  # some again, each by itself
        alone = model.predict_on_batch(data[row]["image"][None])[0]
        check(np.allclose(alone, found[row], atol=1e-3), f"row {row} of the predictions is not that of {ids[row]}")
    columns = {"id": ids, "class": classes, "predicted class": names[found.argmax(1)], "probability": found.max(1)}
    cross_entropy = -np.log(np.maximum(found[np.arange(len(data)), labels], 1e-7)).mean()
    return pd.DataFrame(columns), float(cross_entropy)


def compare_speeds(data: Dataset, frame: pd.DataFrame, images: Path) -> None:
    """Print images/s of augmentation, by layers and by the stream, and of reading with it, here and in the tutorial."""
    plain = data.stream(batch_size=BATCH, remainder="keep")
    augmented = data.stream(batch_size=BATCH, remainder="keep", image=[RandomResizedCrop(SIZE), Flip()])
    in_memory, augment = [batch["image"] for batch in plain], augmentation()
    on_device = tf.function(lambda batch: tf.reduce_mean(augment(batch, training=True)), reduce_retracing=True)
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255,
        shear_range=11,
        zoom_range=0.2,
        horizontal_flip=True,  # shear_range is in degrees
    )
    files = generator.flow_from_dataframe(frame, images, "path", "class", target_size=(SIZE, SIZE), batch_size=BATCH)

    reading, both = seconds(lambda: plain), seconds(lambda: augmented)
    rows = {
        f"augmentation alone, Keras layers on {keras.distribution.list_devices()[0]}": seconds(
            lambda: (float(on_device(batch)) for batch in in_memory)
        ),
        "augmentation alone, RandomResizedCrop and Flip of the stream": max(both - reading, 1e-9),
        "reading the shards, with RandomResizedCrop and Flip": both,
        "reading the image files, with ImageDataGenerator": seconds(lambda: (files[n] for n in range(len(files)))),
    }
    print(f"\n{len(data)} images of {SIZE}x{SIZE}, the fastest of several epochs:")
    for name, duration in rows.items():
        print(f"  {name:64}{len(data) / duration:10,.0f} images/s")


def seconds(epoch: Callable[[], Iterable[Any]]) -> float:
    """The time of an epoch: the fastest of those of half a second, after one that is not counted."""
    deque(epoch(), maxlen=0)
    times: list[float] = []
    while sum(times) < 0.5:
        start = time.perf_counter()
        deque(epoch(), maxlen=0)
        times.append(time.perf_counter() - start)
    return min(times)


def ids_of(data: Dataset) -> list[str]:
    """The ids in stored order; those of a table's images are their paths."""
    return [id.decode() for id in data.ids()]


def check_each_once(what: str, batches: Iterable[tuple[bytes, ...]], data: Dataset) -> None:
    """End the script if the batches do not hold each record of the split exactly once."""
    counts = Counter(id.decode() for batch in batches for id in batch)
    lost, doubled = len(set(ids_of(data)) - set(counts)), sum(count > 1 for count in counts.values())
    check(counts == Counter(ids_of(data)), f"{what}: {lost} records were lost, {doubled} came more than once")


def check(holds: bool, message: str) -> None:
    """End the script if a claim does not hold."""
    if not holds:
        sys.exit(f"wrong: {message}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("directory", type=Path, nargs="?", help="where to write (default: a new temporary one)")
    parser.add_argument("--weights", default="imagenet", help="imagenet, a file, or none (default: imagenet)")
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    where = given.directory or Path(tempfile.mkdtemp(prefix="image-shards-transfer-"))
    if where.exists() and any(where.iterdir()):
        sys.exit(f"{where}: is not empty; give a new directory")
    if given.epochs < 1:
        sys.exit(f"--epochs {given.epochs}: must be at least 1")
    main(given.images, where, None if given.weights == "none" else given.weights, given.epochs)
