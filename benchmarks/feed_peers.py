"""Other ways to feed a framework, for benchmarks/feed.py: its own best way on the same shards, and on the images.

    PYTHON benchmarks/feed_peers.py PEER {crop,raw} DATASET WRITTEN [--seconds 3] [--window]

DATASET is a dataset of this project. WRITTEN is the same, or for Grain the same records as ArrayRecord, or the folder
that DATASET was made of. It prints JSON: images/s after an unmeasured epoch, seconds of CPU for an image, and versions;
or the missing package. "crop" is the middle 224x224 of a JPEG with a short side of 256, "raw" is pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import read_peers
from feed_ours import JAX, KERAS, TENSORFLOW, TORCH, arrived, as_fit_takes, augmentations, colour_augmentations, ready
from feed_timing import measure
from read_data import Records
from read_decode import BATCH, SIZE, WORKERS
from read_timing import Epoch, Reader


def tf_data(task: str, dataset: str, written: str) -> Epoch:
    """tf.data as read.py tunes it by hand."""
    epoch = read_peers.tf_data(task, dataset, written)
    return lambda: arrived(epoch())


def tf_data_autotune(task: str, dataset: str, written: str) -> Epoch:
    """tf.data as in its guide: AUTOTUNE everywhere, shuffled in a buffer of 1,024 records."""
    import tensorflow as tf

    records = Records(dataset)
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def one(record: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_single_example(record, features)
        if task == "raw":
            return tf.reshape(tf.io.decode_raw(parsed["image"], tf.uint8), records.shape), parsed["label"]
        shape = tf.io.extract_jpeg_shape(parsed["image"])
        window = [(shape[0] - SIZE) // 2, (shape[1] - SIZE) // 2, SIZE, SIZE]
        image = tf.io.decode_and_crop_jpeg(parsed["image"], window, channels=3)
        return tf.ensure_shape(image, (SIZE, SIZE, 3)), parsed["label"]

    files = tf.data.Dataset.from_tensor_slices(records.files).shuffle(len(records.files))
    data = files.interleave(tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    data = data.shuffle(1024).map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    data = data.batch(BATCH).prefetch(tf.data.AUTOTUNE)
    return lambda: arrived(data)


def keras_folder(task: str, dataset: str, written: str) -> Epoch:
    """`image_dataset_from_directory` with its defaults: float32, resized without keeping the aspect ratio."""
    import keras

    data = keras.utils.image_dataset_from_directory(written, image_size=(SIZE, SIZE), batch_size=BATCH, verbose=False)
    return lambda: arrived(data)


def keras_generator(task: str, dataset: str, written: str) -> Epoch:
    """`ImageDataGenerator` without augmentation, as `fit` takes it, with two threads: float32, resized."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    flow = ImageDataGenerator().flow_from_directory(
        written, target_size=(SIZE, SIZE), batch_size=BATCH, class_mode="sparse"
    )
    flow._workers = WORKERS
    return as_fit_takes(flow)


def loader(data: Any, workers: int = WORKERS, prefetch: int = 4) -> Epoch:
    """PyTorch's DataLoader, shuffled, with worker processes that stay."""
    from torch.utils.data import DataLoader

    batches = DataLoader(
        data, BATCH, shuffle=True, num_workers=workers, persistent_workers=True, prefetch_factor=prefetch
    )
    return lambda: arrived(batches)


def torch_folder(task: str, dataset: str, written: str) -> Epoch:
    """`ImageFolder` with the transforms of torchvision's examples, and two worker processes."""
    from torchvision import datasets, transforms

    steps = [transforms.Resize(256), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    return loader(datasets.ImageFolder(written, transforms.Compose(steps)))


def torchvision_folder(task: str, dataset: str, written: str) -> Epoch:
    """`ImageFolder` with the transforms of `torchvision-workers`.

    Images of Pillow become tensors before the crop, which is faster than after it.
    """
    from torchvision import datasets
    from torchvision.transforms import v2

    return loader(datasets.ImageFolder(written, v2.Compose([v2.ToImage(), *augmentations()])), prefetch=2)


def augmented_folder(task: str, dataset: str, written: str) -> Epoch:
    """`ImageFolder` with the transforms of `augmented-workers`, as `torchvision_folder`."""
    from torchvision import datasets
    from torchvision.transforms import v2

    return loader(datasets.ImageFolder(written, v2.Compose([v2.ToImage(), *colour_augmentations()])), prefetch=2)


def torch_records(task: str, dataset: str, written: str) -> Epoch:
    """Our `RecordDataset` in worker processes."""
    from read_ours import transforms

    from shard_reader import open_dataset
    from shard_reader.torch import RecordDataset

    data = open_dataset(dataset, split="train")
    return loader(RecordDataset(data, image=transforms(task), threads=1, inputs="image", targets="label"))


class H5Images:
    """Our HDF5 files, as people write a map-style dataset of such: files are opened in the worker process."""

    def __init__(self, dataset: str, task: str) -> None:
        import h5py

        self.paths, self.task = sorted(Path(dataset).glob("train-*.h5")), task
        self.labels = [h5py.File(path)["label"][:] for path in self.paths]
        self.ends = np.cumsum([len(labels) for labels in self.labels])
        self.images: list[Any] | None = None

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> tuple[Any, int]:
        import torch

        image, label = self.row(number)
        if self.task == "raw":
            return torch.from_numpy(image).permute(2, 0, 1), label
        from torchvision.io import ImageReadMode, decode_jpeg
        from torchvision.transforms.v2.functional import center_crop

        return center_crop(decode_jpeg(torch.from_numpy(image), ImageReadMode.RGB), [SIZE, SIZE]), label

    def row(self, number: int) -> tuple[np.ndarray, int]:
        """The stored bytes or pixels of an image, and its label."""
        import h5py

        if self.images is None:
            self.images = [h5py.File(path)["image"] for path in self.paths]
        file = int(np.searchsorted(self.ends, number, "right"))
        row = number - int(self.ends[file]) + len(self.labels[file])
        return self.images[file][row], int(self.labels[file][row])


def torch_h5py(task: str, dataset: str, written: str) -> Epoch:
    """h5py in worker processes, JPEGs decoded by torchvision."""
    return loader(H5Images(dataset, task))


def jax_h5py(task: str, dataset: str, written: str) -> Epoch:
    """Raw pixels of random rows by h5py, and `device_put`; labels are in memory.

    Rows are read one by one: h5py's own selection of many takes several times as long for large ones.
    """
    import jax

    images = H5Images(dataset, task)
    generator = np.random.default_rng(0)

    def epoch() -> Iterator[tuple[Any, Any]]:
        order = generator.permutation(len(images))
        for begin in range(0, len(order), BATCH):
            rows = [images.row(int(number)) for number in order[begin : begin + BATCH]]
            pixels, labels = zip(*rows, strict=True)
            yield jax.device_put((np.stack(pixels), np.array(labels, np.int32)))

    return lambda: ready(epoch())


def jax_grain(task: str, dataset: str, written: str) -> Epoch:
    """Grain on ArrayRecord, as read.py has it, and `device_put`."""
    import jax

    epoch = read_peers.grain(task, dataset, written)
    return lambda: ready(jax.device_put((images, labels.astype(np.int32))) for images, labels in epoch())


NUMPY = ("numpy", "h5py")
GRAIN = ("grain", "array-record", *JAX, "numpy", "simplejpeg")
READERS = {
    "tf.data": Reader(tf_data, TENSORFLOW),
    "tf.data-autotune": Reader(tf_data_autotune, TENSORFLOW),
    "keras-folder": Reader(keras_folder, (*TENSORFLOW, *KERAS)),
    "keras-generator": Reader(keras_generator, (*TENSORFLOW, *KERAS, "pillow", "scipy")),
    "torch-folder": Reader(torch_folder, (*TORCH, "torchvision", "pillow")),
    "torchvision-folder": Reader(torchvision_folder, (*TORCH, "torchvision", "pillow")),
    "augmented-folder": Reader(augmented_folder, (*TORCH, "torchvision", "pillow")),
    "torch-records": Reader(torch_records, TORCH),
    "torch-h5py": Reader(torch_h5py, (*TORCH, "torchvision", *NUMPY)),
    "jax-h5py": Reader(jax_h5py, (*JAX, *NUMPY)),
    "jax-grain": Reader(jax_grain, GRAIN),
}

if __name__ == "__main__":
    measure(__doc__, READERS)
