"""Datasets of many small shards, of every kind of field, and what batches of them hold, in a word."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from support.servers import Servers, Store
from support.stored import write_manifest

from beam_jobs.shards.write import store
from shard_reader import Flip, RandomResizedCrop
from shard_reader.format import Field, Shard, index_name, shard_name
from shard_reader.system.file_locks import FileLocks

__all__ = [
    "ALL_FIELDS",
    "FORMATS",
    "MANY",
    "OTHER_FIELDS",
    "SIZES",
    "bytes_in",
    "digest",
    "digests",
    "file_of",
    "options_of",
    "small_shards",
    "write_dataset",
]

FORMATS = ("tfrecord", "hdf5")
SIZES = (7, 5, 6, 0, 9, 4, 7, 1, 8, 6, 5, 7, 6, 4)
"""Records of each shard: 75 in 14, one of which is empty."""
MANY = tuple(5 + number % 3 for number in range(24))
"""Records of each of 24 small shards."""
ALL_FIELDS = ("image", "label", "id", "note", "tags", "scores", "objects/bbox")
OTHER_FIELDS = {
    "label": Field(dtype="int64"),
    "id": Field(dtype="string"),
    "height": Field(dtype="int64"),
    "width": Field(dtype="int64"),
    "note": Field(dtype="string"),
    "tags": Field(dtype="string", shape=(None,)),
    "scores": Field(dtype="int64", shape=(None,)),
    "objects/bbox": Field(dtype="float32", shape=(None, 4)),
}
"""Every kind of field beside the image."""
_SIZE = (12, 16, 3)


def small_shards(servers: Servers, folder: Path) -> tuple[Path, Store]:
    """A dataset of many small shards on a disk, and in a store at `raw`."""
    local, store = write_dataset(folder / "raw", MANY, formats=("tfrecord",)), servers.store("moto")
    store.copy(local, "raw")
    return local, store


def write_dataset(
    path: Path,
    sizes: Sequence[int] = SIZES,
    *,
    encoding: Literal["raw", "jpeg"] = "raw",
    formats: Sequence[str] = FORMATS,
    size: tuple[int, int, int] = _SIZE,
    seed: int = 0,
) -> Path:
    """A dataset with shards of so many records, each with strings and lists. JPEGs are of several sizes."""
    path.mkdir(parents=True, exist_ok=True)
    fields = {
        "image": Field(dtype="uint8", shape=size if encoding == "raw" else (None, None, 3), encoding=encoding),
        **OTHER_FIELDS,
    }
    shards, first = [], 0
    for number, count in enumerate(sizes):
        rows = [_record(first + row, encoding, size, seed) for row in range(count)]
        names = {format: path / shard_name("train", number, len(sizes), format) for format in formats}
        shards.append(Shard(records=count, files=store(rows, names, fields).files))
        first += count
    return write_manifest(path, fields, shards, formats=formats, seed=seed)


def _record(number: int, encoding: str, size: tuple[int, int, int], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, number])
    height, width, channels = size if encoding == "raw" else (16 + number % 5, 16 + number % 7, 3)
    pixels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    content = io.BytesIO()
    if encoding == "jpeg":
        Image.fromarray(pixels).save(content, "jpeg", quality=90)
    return {
        "image": content.getvalue() or pixels.tobytes(),
        "label": number % 5,
        "id": f"größe/{number:05d}",
        "height": height,
        "width": width,
        "note": "" if number % 11 == 0 else f"note {number}",
        "tags": [f"tag {n}" for n in range(number % 4)],
        "scores": rng.integers(-9, 9, number % 3),
        "objects/bbox": rng.random((number % 3, 4)).astype(np.float32),
    }


def options_of(encoding: str) -> dict[str, Any]:
    """What a stream of such a dataset needs, with all fields, and the most that can be asked of its images."""
    crop = [RandomResizedCrop(14), Flip()] if encoding == "jpeg" else None
    return {"batch_size": 8, "fields": ALL_FIELDS, "image": crop}


def file_of(path: Path, number: int, format: str = "tfrecord", *, index: bool = False) -> Path:
    """The file of a shard in a local copy of a dataset."""
    name = next(one.name for one in sorted(path.iterdir()) if one.name.startswith(f"train-{number:05d}-of-"))
    name = name.partition(".")[0] + (".h5" if format == "hdf5" else ".tfrecord")
    return path / (index_name(name) if index else name)


def digest(batch: Mapping[str, NDArray[Any]]) -> str:
    """A batch in a word: every name, type, shape and value in it."""
    found = hashlib.sha256()
    for name, array in batch.items():
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(repr(list(map(_plain, array))).encode() if array.dtype == object else array.tobytes())
    return found.hexdigest()[:12]


def _plain(value: Any) -> Any:
    return (value.dtype.str, value.tolist()) if isinstance(value, np.ndarray) else value


def bytes_in(cache: Path) -> int:
    """What is in a cache's directory at one moment: while this looks, nobody may add something."""
    room, sizes = FileLocks(cache / "locks"), {}
    while not room.take(0):
        time.sleep(0.0005)
    for one in os.scandir(cache):
        with contextlib.suppress(FileNotFoundError):  # removing needs no leave
            status = one.stat()
            if one.name != "locks":
                sizes[status.st_ino] = status.st_size  # one that gets its name may be seen twice
    return sum(sizes.values())


def digests(batches: Iterable[Mapping[str, NDArray[Any]]]) -> list[str]:
    """Those of several batches, none of which is kept."""
    return [digest(batch) for batch in batches]
