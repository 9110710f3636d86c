"""This project's reader in benchmarks/read.py, with each of its settings, and plain NumPy and h5py for comparison.

    python benchmarks/read_ours.py READER {crop,rrc,raw,random} DATASET WRITTEN [--seconds 3] [--cold]

It prints JSON: images/s, seconds of CPU for an image, and versions. Settings without a part in a reader's name have
their defaults, with two threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from read_data import Records
from read_timing import Epoch, Reader, measure

BATCH = 256
SIZE = 224
THREADS = 2


def ours(task: str, dataset: str, written: str, format: str = "tfrecord", **settings: Any) -> Epoch:
    """Batches of a stream, shuffled over all records."""
    from shard_reader import open_dataset

    data = open_dataset(dataset, split="train", format=format)
    options = {"batch_size": BATCH, "shuffle": "full", "seed": 0, "threads": THREADS, "prefetch": 2}
    stream = data.stream(**options | {"image": transforms(task)} | settings)
    return lambda: ((batch["image"], batch["label"]) for batch in stream)


def transforms(task: str) -> Any:
    """The argument `image` of `stream`."""
    import shard_reader

    if task == "crop":
        return shard_reader.CenterCrop(SIZE)
    if task == "rrc":
        return [shard_reader.RandomResizedCrop(SIZE), shard_reader.Flip()]
    return None


def access(dataset: str, written: str, format: str = "tfrecord") -> Callable[[int], Any]:
    """One record."""
    from shard_reader import open_dataset

    data = open_dataset(dataset, split="train", format=format)
    return lambda number: data[number]["image"]


def memmap(task: str, dataset: str, written: str) -> Epoch:
    """A memory map of all pixels and its fancy index, in a random order, by one thread; it must be raw."""
    images = np.load(written, mmap_mode="r")
    labels = np.array([record.label for record in Records(dataset)])
    generator = np.random.default_rng(0)

    def epoch() -> Iterator[tuple[Any, Any]]:
        order = generator.permutation(len(images))
        for begin in range(0, len(order), BATCH):
            numbers = order[begin : begin + BATCH]
            yield images[numbers], labels[numbers]

    return epoch


def memmap_access(dataset: str, written: str) -> Callable[[int], Any]:
    """One image, copied."""
    images = np.load(written, mmap_mode="r")
    return lambda number: np.array(images[number])


def h5py_access(dataset: str, written: str) -> Callable[[int], Any]:
    """One image of our HDF5 files, as h5py reads it."""
    from pathlib import Path

    import h5py

    files = [h5py.File(path) for path in sorted(Path(dataset).glob("train-*.h5"))]
    images = [file["image"] for file in files]
    ends = np.cumsum([len(part) for part in images])

    def one(number: int) -> Any:
        file = int(np.searchsorted(ends, number, "right"))
        return images[file][number - ends[file] + len(images[file])]

    return one


PACKAGES = ("numpy", "simplejpeg", "google-crc32c", "h5py")


def setting(**settings: Any) -> Reader:
    """Our reader with these."""
    return Reader(partial(ours, **settings), PACKAGES)


READERS = {
    "ours": Reader(ours, PACKAGES, access),
    "hdf5": Reader(partial(ours, format="hdf5"), PACKAGES, partial(access, format="hdf5")),
    "fast": setting(fast=True),
    "verify-always": setting(verify="always"),
    "verify-first-epoch": setting(verify="first-epoch"),
    "verify-never": setting(verify="never"),
    "threads-1": setting(threads=1),
    "threads-2": setting(threads=2),
    "threads-4": setting(threads=4),
    "memmap": Reader(memmap, PACKAGES, memmap_access),
    "h5py": Reader(None, PACKAGES, h5py_access),
}

if __name__ == "__main__":
    measure(__doc__, READERS)
