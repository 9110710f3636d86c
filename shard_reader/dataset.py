"""Random access to the records of a split."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shard_reader import example, index
from shard_reader.checksum import crc32c
from shard_reader.decode import CenterCrop, decode_image
from shard_reader.errors import CorruptionError, DatasetError
from shard_reader.format import MANIFEST_NAME, Field, Manifest, Shard, ShardFile
from shard_reader.order import Order, Remainder, Shuffle
from shard_reader.storage import map_file
from shard_reader.stream import Stream

__all__ = ["Dataset", "open_dataset"]

_MOST_OPEN_SHARDS = 4096  # two maps each, of the 65,530 that the kernel allows a process


def open_dataset(path: str | os.PathLike[str], split: str = "train", *, format: str | None = None) -> Dataset:
    """Open one split of a dataset. Reads `dataset.json` and nothing else.

    Args:
        path: the directory that `image-shards prepare` wrote.
        split: its name.
        format: "tfrecord" or "hdf5"; by default the first that the dataset has. Both hold the same.

    Raises:
        DatasetError: no dataset is there, or one of another version.
        ManifestError: its manifest has problems.
        ValueError: it has no such split or format.

    >>> data = open_dataset("shards", split="train")  # doctest: +SKIP
    >>> data[0]["image"].shape  # doctest: +SKIP
    (256, 341, 3)
    """
    directory = Path(path)
    try:
        text = (directory / MANIFEST_NAME).read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(_why_not_a_dataset(directory)) from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{directory / MANIFEST_NAME}: is not UTF-8 text ({error.reason})") from None
    manifest = Manifest.from_json(text)
    format = _choose("format", format or manifest.formats[0], manifest.formats)
    _choose("split", split, tuple(manifest.splits))
    return Dataset(directory, manifest, split, format)


class Dataset:
    """The records of one split, by number. Made by `open_dataset`; safe to share between threads.

    `len(data)` is the number of records, `data[i]` is record `i` as a dictionary.
    """

    def __init__(self, path: Path, manifest: Manifest, split: str, format: str) -> None:
        self.path = path
        self.manifest = manifest
        self.split = split
        self.format = format
        shards = manifest.splits[split].shards
        self._ends = np.cumsum([shard.records for shard in shards], dtype=np.int64)
        self._shards = _OpenShards(path, shards, manifest.fields, format)

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, split={self.split!r}, format={self.format!r}, {len(self)} records)"

    def __len__(self) -> int:
        return self.manifest.splits[self.split].records

    def __getitem__(self, record: int) -> dict[str, Any]:
        """One record: `image` (`[height, width, channels]`), `id` (str), `label`, if there are any, and the
        fields that the inputs brought along: numbers, str, arrays, and lists of str.

        Raises:
            IndexError: there is no such record.
            TypeError: `record` is not an integer.
            CorruptionError: the record is damaged.
        """
        record = operator.index(record)
        number = record + len(self) if record < 0 else record
        if not 0 <= number < len(self):
            raise IndexError(f"record {record} of {len(self)} in split {self.split!r} of {self.path}")
        numbers = np.array([number])
        values = {
            name: _as_python(self.column(name, numbers)[0])
            for name in self.fields
            if name not in ("image", "id", "height", "width", "content_hash")
        }
        return {"image": np.array(self.image(number)), **values, "id": self.ids(numbers)[0].decode()}

    @property
    def fields(self) -> Mapping[str, Field]:
        """The type of each field of a record."""
        return self.manifest.fields

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each label, or None where the inputs had no classes."""
        return self.manifest.class_names

    @property
    def fingerprint(self) -> str:
        """What this split is made of: the same for both formats, another for other inputs or options."""
        return f"{self.manifest.fingerprint.digest}/{self.split}"

    def stream(
        self,
        *,
        batch_size: int,
        shuffle: Shuffle = "full",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        image: CenterCrop | None = None,
        remainder: Remainder = "pad",
        on_error: Literal["raise"] = "raise",
        fields: Sequence[str] | None = None,
        threads: int | None = None,
        prefetch: int = 2,
    ) -> Stream:
        """Batches in an order that (seed, epoch, position) decide. See `Stream`.

        Args:
            batch_size: of the global batch, over all ranks; `world_size` must divide it.
            shuffle: "full" for a new permutation of the whole split in each epoch, "none" for stored order.
            seed: decides the permutations.
            rank, world_size: this process's share of each global batch.
            image: a crop that makes all images one size; needed where they differ in size.
            remainder: the last batch of an epoch: "pad" with records of weight 0, "drop" or "keep" it.
            on_error: "raise", the only choice so far: a damaged record ends the loop with its error.
            fields: what a batch holds; by default `image` and, if there is one, `label`.
            threads: how many decode; by default one for each CPU that this process may use.
            prefetch: how many batches are made ahead of the one that is asked for.

        Raises:
            ValueError: a value is out of range, or images differ in size and `image` is not given.
        """
        _choose("on_error", on_error, ("raise",))
        order = Order(
            records=len(self),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            remainder=remainder,
        )
        return Stream(self, order, image=image, fields=fields, threads=threads, prefetch=prefetch)

    def image(self, record: int) -> NDArray[Any]:
        """The pixels of one record, `[height, width, channels]`; raw ones as a read-only view of the map.

        Raises:
            CorruptionError: they are damaged.
        """
        shard, row = self._locate(record)
        extent = shard.rows[row]
        start = int(extent["offset"])
        payload = shard.data[start : start + int(extent["length"])]
        if crc32c(payload) != extent["crc32c"]:
            raise CorruptionError(f"{self.describe(record)}: the image is damaged (CRC mismatch)")
        try:
            return decode_image(payload, self.fields["image"], int(extent["height"]), int(extent["width"]))
        except (ValueError, OSError) as error:
            raise CorruptionError(f"{self.describe(record)}: the image {error}") from error

    def column(self, name: str, records: NDArray[np.int64]) -> NDArray[Any]:
        """A field of several records.

        Fields of a fixed shape are int64 or float32 `[n, *shape]`. Others are objects, `[n]`: strings as UTF-8
        `bytes`, lists of numbers as arrays, lists of strings as lists of `bytes`.
        """
        field = self.fields[name]
        if field.in_index:
            values = np.empty((len(records), *(size or 0 for size in field.shape)), field.dtype)
            for shard, rows, places in self._by_shard(records):
                values[places] = shard.rows[name][rows]
            return values
        values = np.empty(len(records), object)
        for shard, rows, places in self._by_shard(records):
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                start = int(shard.rows[f"{name}_offset"][row])
                data = shard.data[start : start + int(shard.rows[f"{name}_length"][row])]
                values[place] = self._value(data, field)
        return values

    def ids(self, records: NDArray[np.int64]) -> NDArray[np.object_]:
        """The ids of several records, as UTF-8 `bytes`, `[n]`."""
        return self.column("id", records)

    def describe(self, record: int) -> str:
        """Where a record is, for error messages: dataset, shard, row and id."""
        shard, row = self._locate(record)
        name = self.ids(np.array([record]))[0].decode("utf-8", "backslashreplace")
        return f"{self.path / shard.file.path}: row {row}, id {name!r}"

    def _value(self, data: NDArray[np.uint8], field: Field) -> Any:
        """A string or a list from its bytes, which the two formats have in their own ways."""
        if not field.shape:
            return data.tobytes()
        shape = (-1, *(size or 0 for size in field.shape[1:]))
        if self.format == "hdf5":
            if field.dtype == "string":
                return [text.encode() for text in json.loads(data.tobytes() or b"[]")]
            return np.frombuffer(data, np.dtype(field.dtype).newbyteorder("<")).reshape(shape).copy()
        values = example.values(data, example.Feature(example.KINDS[field.dtype], slice(0, len(data))))
        if field.dtype == "string":
            return [data[span].tobytes() for span in values]  # type: ignore[index]
        return np.array(values, field.dtype).reshape(shape)

    def _locate(self, record: int) -> tuple[_OpenShard, int]:
        number = int(np.searchsorted(self._ends, record, "right"))
        shard = self._shards.get(number)
        return shard, record - int(self._ends[number]) + len(shard.rows)

    def _by_shard(self, records: NDArray[np.int64]) -> list[tuple[_OpenShard, NDArray[np.int64], NDArray[np.intp]]]:
        """Each shard that holds some of `records`, their rows in it, and their places in `records`."""
        numbers = np.searchsorted(self._ends, records, "right")
        groups = []
        for number in np.unique(numbers).tolist():
            shard = self._shards.get(number)
            places = np.flatnonzero(numbers == number)
            groups.append((shard, records[places] - self._ends[number] + len(shard.rows), places))
        return groups


@dataclass(frozen=True, slots=True)
class _OpenShard:
    file: ShardFile
    data: NDArray[np.uint8]
    rows: NDArray[np.void]


class _OpenShards:
    """The memory maps of the shards in use, each checked when it is opened.

    No lock, which a fork could leave locked: two threads may both map a shard, and one map is dropped.
    """

    def __init__(self, path: Path, shards: Sequence[Shard], fields: Mapping[str, Field], format: str) -> None:
        self._path, self._shards, self._fields, self._format = path, shards, fields, format
        self._limit = _open_limit()
        self._open: dict[int, _OpenShard] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # maps stay in their process

    def get(self, number: int) -> _OpenShard:
        shard = self._open.get(number)
        if shard is None:
            shard = self._open[number] = self._map(self._shards[number])
            for oldest in list(self._open)[: -self._limit]:
                self._open.pop(oldest, None)  # a view of the map keeps it alive
        return shard

    def _map(self, shard: Shard) -> _OpenShard:
        file = shard.files[self._format]
        path = self._path / file.path
        try:
            data = map_file(path)
        except FileNotFoundError:
            raise CorruptionError(f"{path}: is missing") from None
        if data.size != file.bytes:
            raise CorruptionError(f"{path}: has {data.size} bytes, the manifest says {file.bytes}")
        return _OpenShard(file, data, index.load(self._path, file, shard.records, self._fields))


def _as_python(value: Any) -> Any:
    """One value of a column as a person writes it: int, float, str; arrays stay."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [text.decode() for text in value]
    return value.item() if isinstance(value, np.generic) else value


def _open_limit() -> int:
    """How many shards to keep open: each takes two maps, and Python keeps a file open for each map.

    A quarter of the files that the process may have open, so that a few data sets can be open at a time.
    """
    try:
        import resource
    except ModuleNotFoundError:  # not Unix
        return 64
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MOST_OPEN_SHARDS
    return max(1, min(_MOST_OPEN_SHARDS, files // 8))


def _choose(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(choices)}")
    return value


def _why_not_a_dataset(directory: Path) -> str:
    if not directory.exists():
        return f"{directory}: does not exist"
    if not directory.is_dir():
        return f"{directory}: is a file; a dataset is a directory with a {MANIFEST_NAME}"
    return f"{directory}: is no dataset: it has no {MANIFEST_NAME} (an unfinished job leaves none)"
