"""From a table of images with bounding boxes to HDF5, to a Keras model, and to predictions that are in order.

    python examples/keras_sequence_hdf5.py IMAGES [DIRECTORY]

IMAGES is a folder of class folders, or of train/ and test/ with them. A table gets a row for each image: path, class,
split, and a made-up box. Twice it becomes HDF5: by a loop that resizes and writes one image after the other, as
tutorials have it, and by `image-shards prepare`, which moves the boxes along. A small network is trained from the
shards, by a Sequence of batches by number, and normalises with the statistics in the manifest.

Then it predicts. Of a Sequence that shuffles its row numbers when it is made, the predictions are in that order and not
in the order of the file. Of `shuffle="none"`, row i is that of record i, and gets its id; checked with images alone.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages of TensorFlow,
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nor the one about oneDNN

import h5py
import keras
import numpy as np
from PIL import Image, ImageOps

from shard_reader import Dataset, open_dataset
from shard_reader.keras import ShardSequence, normalization

WIDTH, HEIGHT, BATCH = 48, 32, 32
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def main(images: Path, directory: Path) -> None:
    """Write table, HDF5, model and predictions.csv into `directory`, and check them."""
    table, start = write_table(images, directory / "table.csv"), time.perf_counter()
    rows = [row for row in table.values() if row["split"] == "test"]
    write_in_a_loop(images, rows, directory / "loop.h5")
    print(f"loop: {len(rows)} test images to HDF5 in {time.perf_counter() - start:.1f} s", flush=True)

    shards, start = directory / "shards", time.perf_counter()
    command = [sys.executable, "-m", "beam_jobs", "prepare", str(directory / "table.csv"), str(shards)]
    options = f"--source table --boxes {','.join(CORNERS)} --box-frame upright --format hdf5 --encoding raw"
    size = ["--size", f"{WIDTH}x{HEIGHT}"]
    done = subprocess.run([*command, *options.split(), *size, "--root", str(images)])
    check(done.returncode == 0, "image-shards prepare failed")
    print(f"prepare: {len(table)} images to HDF5 in {time.perf_counter() - start:.1f} s, start of the command included")

    train, test = open_dataset(shards, "train"), open_dataset(shards, "test")
    records = len(train) + len(test)
    check(records == len(table), f"{len(table)} rows of the table became {records} records")
    compare_boxes(images, table, test.select(range(min(len(test), 200))))
    show_file(shards, test)

    model = small_network(train)
    model.fit(ShardSequence(train.stream(batch_size=BATCH, seed=0)), epochs=3, verbose=2)
    model.save(directory / "model.keras")

    with h5py.File(directory / "loop.h5") as file:
        predictions = model.predict(ShuffledSequence(file), verbose=0)
        same, picks = in_order(model, predictions, lambda row: file["images"][row])
    print(f"loop, shuffled:   {same} of {picks} predictions are in the row of their image")
    stream = test.stream(batch_size=BATCH, shuffle="none")
    predictions = model.predict(ShardSequence(stream, targets=None), verbose=0)
    ids = [id.decode() for id in test.ids()]
    check(len(predictions) == len(ids) == len(set(ids)), f"{len(predictions)} predictions for {len(set(ids))} ids")
    same, picks = in_order(model, predictions, lambda number: test[number]["image"])
    print(f"shards, in order: {same} of {picks} predictions are in the row of their image")
    check(same == picks, "predictions are not in the order of the records")
    shifted, _ = in_order(model, np.roll(predictions, 1, axis=0), lambda number: test[number]["image"])
    check(shifted < picks, "the model predicts the same for all images, so that their order cannot be checked")
    write_predictions(directory / "predictions.csv", test, table, dict(zip(ids, predictions, strict=True)))


def write_table(images: Path, path: Path) -> dict[str, dict[str, Any]]:
    """Write a row for each image, with a box around the middle of it; the rows by their paths."""
    split_folders = (images / "train").is_dir() and (images / "test").is_dir()
    pictures = sorted(each for each in images.rglob("*") if each.suffix.lower() in (".jpg", ".jpeg", ".png"))
    check(len(pictures) > 1, f"{images}: has no images")
    table = {}
    for number, picture in enumerate(pictures):
        place = picture.relative_to(images)
        split = place.parts[0] if split_folders else ("test" if number % 5 == 0 else "train")
        with Image.open(picture) as image:
            size = np.array(ImageOps.exif_transpose(image).size * 2)
        parts = np.random.default_rng(number).uniform([0, 0, 0.6, 0.6], [0.4, 0.4, 1, 1])
        box = dict(zip(CORNERS, np.round(size * parts).astype(int).tolist(), strict=True))
        table[place.as_posix()] = {"path": place.as_posix(), "label": picture.parent.name, "split": split, **box}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split", *CORNERS])
        writer.writeheader()
        writer.writerows(table.values())
    return table


def write_in_a_loop(images: Path, rows: list[dict[str, Any]], path: Path) -> None:
    """Resize one image after the other into an HDF5 file. The boxes stay those of the original images."""
    classes = sorted({row["label"] for row in rows})
    with h5py.File(path, "w") as file:
        pixels = file.create_dataset("images", (len(rows), HEIGHT, WIDTH, 3), np.uint8)
        file["labels"] = [classes.index(row["label"]) for row in rows]
        for number, row in enumerate(rows):
            pixels[number] = np.asarray(fitted(images / row["path"]))


def fitted(path: Path) -> Image.Image:
    """The middle of an image in the size of the shards, by Pillow."""
    with Image.open(path) as image:
        return ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (WIDTH, HEIGHT), Image.Resampling.LANCZOS)


class ShuffledSequence(keras.utils.PyDataset):
    """Batches of an HDF5 file in the usual way: by a list of row numbers, shuffled now and after each epoch."""

    def __init__(self, file: h5py.File) -> None:
        super().__init__()
        self.file, self.rows, self.random = file, np.arange(len(file["labels"])), np.random.default_rng(0)
        self.on_epoch_end()

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.rows) // BATCH)

    def __getitem__(self, step: int) -> tuple[Any, Any]:
        """A batch of the epoch."""
        rows = np.sort(self.rows[step * BATCH : (step + 1) * BATCH])  # h5py takes them in ascending order alone
        return self.file["images"][rows], self.file["labels"][rows]

    def on_epoch_end(self) -> None:
        """Change the order. Keras calls this."""
        self.random.shuffle(self.rows)


def in_order(model: keras.Model, predictions: Any, image: Callable[[int], Any]) -> tuple[int, int]:
    """The number of rows that equal the prediction of their image alone, and the number of rows that were compared."""
    picks = np.random.default_rng(0).permutation(len(predictions))[:40].tolist()
    alone = [model.predict_on_batch(image(row)[None])[0] for row in picks]
    return sum(map(partial(np.allclose, rtol=1e-3, atol=1e-4), predictions[picks], alone)), len(picks)


def compare_boxes(images: Path, table: dict[str, dict[str, Any]], data: Dataset) -> None:
    """Hold the boxes of records against masks of the same boxes, which Pillow resizes as images."""
    worst = 0.0
    for record in data:
        row = table[record["id"]]
        with Image.open(images / row["path"]) as image:
            mask = Image.new("L", ImageOps.exif_transpose(image).size)
        mask.paste(255, tuple(row[corner] for corner in CORNERS))
        resized = ImageOps.fit(mask, (WIDTH, HEIGHT)).point(lambda value: 255 * (value > 127))
        left, top, right, bottom = resized.getbbox()
        (box,) = record["objects/bbox"] * [HEIGHT, WIDTH, HEIGHT, WIDTH]  # from parts of the stored image to its pixels
        worst = max(worst, *np.abs(box - [top, left, bottom, right]))
    check(worst < 1, f"a box is {worst:.1f} pixels from where the pixels went")
    print(f"boxes: those of {len(data)} records are at most {worst:.2f} pixels from where the pixels went")


def show_file(shards: Path, data: Dataset) -> None:
    """The first record of a shard with h5py alone, which has to be the first of the split."""
    with h5py.File(min(shards.glob("test-*.h5"))) as file:
        image, id, box = file["image"][0], file["id"][0].decode(), file["objects/bbox"][0]
        print(f"h5py: {', '.join(f'{name} {file[name].shape} {file[name].dtype}' for name in ('image', 'label'))}")
    print(f"      row 0 is {id}, with the box {np.round(box, 2)} (ymin, xmin, ymax, xmax)\n")
    check(id == data[0]["id"] and np.array_equal(image, data[0]["image"]), "h5py reads another record")


def small_network(data: Dataset) -> keras.Model:
    """Normalisation, two convolutions and a classifier."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((HEIGHT, WIDTH, 3)),
            normalization(data),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(len(data.class_names)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, weighted_metrics=["accuracy"])
    return model


def write_predictions(path: Path, data: Dataset, table: dict[str, dict[str, Any]], by_id: dict[str, Any]) -> None:
    """Write a line for each record: its class in the table, and the predicted class."""
    names = data.class_names
    lines = [(id, table[id]["label"], names[int(np.argmax(logits))]) for id, logits in by_id.items()]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "label", "predicted"), *lines])
    right = sum(label == predicted for _, label, predicted in lines)
    print(f"{path}: {len(lines)} predictions, {right / len(lines):.1%} right, of {len(names)} classes")


def check(holds: bool, otherwise: str) -> None:
    """End with the message `otherwise`, unless the condition holds."""
    if not holds:
        sys.exit(otherwise)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    where = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="image-shards-hdf5-"))
    if where.exists() and any(where.iterdir()):
        sys.exit(f"{where}: is not empty; give a new directory")
    main(Path(sys.argv[1]), where)
