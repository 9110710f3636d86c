"""Records by number: random access to them, and streams of them."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import record_numbers
from shard_reader.dataset.columns.values import as_python, column, flat
from shard_reader.dataset.shown.notebook import InNotebooks
from shard_reader.errors import CorruptionError
from shard_reader.format.fields import IMAGE, INPUT_FIELDS, Field
from shard_reader.format.manifest import Generation
from shard_reader.mixing import Mixings
from shard_reader.order.batches import BatchOrder, local_ranks
from shard_reader.order.coverage import Coverage
from shard_reader.order.record_order import OrderOptions, RecordOrder, Remainder, Shuffle
from shard_reader.shards.located import Located
from shard_reader.shards.remote_shards import RemoteShards
from shard_reader.shards.shard import OpenShard
from shard_reader.shards.source import Shards
from shard_reader.stream.arrays.options import OnError, ReadOptions, Verify, Workers
from shard_reader.stream.stream import Stream
from shard_reader.system.stats import Stats
from shard_reader.transforms.compose import Transforms

__all__ = ["Records"]

_LEFT_OUT = ("id", "height", "width", *INPUT_FIELDS)  # of the values of `data[i]`, which has an id of its own
_PART = 1 << 20  # records of a column that are looked up together


class Records(InNotebooks, ABC):
    """Records by number: a split, some of its records, or a mixture. Safe to share between threads."""

    @property
    @abstractmethod
    def fields(self) -> Mapping[str, Field]:
        """The type of each field of a record."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each label, or None where the inputs had no classes."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """The identity of the records: the same for both formats, another for other inputs, options or subsets."""

    @property
    def generation(self) -> int | None:
        """The number of the dataset's generation; None where the records are not of one dataset."""
        return None

    def generation_of(self, fingerprint: str) -> Generation | None:
        """The generation of this dataset whose records have a fingerprint; None if no generation has it."""
        return None

    @property
    def bucket_sizes(self) -> tuple[tuple[int, int], ...] | None:
        """The image sizes, (height, width) in pixels, of which each batch has one; None where all are the same."""
        return None

    def buckets_of(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the image size of each record, int64 `[n]`."""
        return np.zeros_like(records)

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the records in messages."""

    @property
    @abstractmethod
    def shard_count(self) -> int:
        """The number of shards that hold the records."""

    @property
    @abstractmethod
    def remote_shards(self) -> set[RemoteShards]:
        """The shards in stores."""

    @abstractmethod
    def shards_of(self, records: NDArray[np.int64]) -> list[tuple[Shards, NDArray[np.int64], NDArray[np.int64]]]:
        """The shard of each record, by its number among those of a split, and the record's place among `records`."""

    @property
    @abstractmethod
    def prefetch_bytes(self) -> int:
        """The bytes of remote records that may be in memory before they are used."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of records."""

    @abstractmethod
    def locate(self, records: NDArray[np.int64]) -> Located:
        """The places of records, int64 `[n]`.

        Raises:
            IndexError: there is no such record.
        """

    @abstractmethod
    def close(self) -> None:
        """Drop the memory maps; the next read opens them again."""

    @abstractmethod
    def record_order(self, options: OrderOptions) -> RecordOrder:
        """The order of the records in each epoch."""

    def shard_records(self) -> NDArray[np.int64]:
        """The number of records of each shard, in order, int64 `[shard_count]`.

        Raises:
            ValueError: the records are not in stored order.
        """
        raise ValueError(f"{self.name}: its records are not in stored order, which windows of shards need")

    @abstractmethod
    def _check_room(self, shuffle: Shuffle, batch_size: int, lanes: int, window: int) -> None:
        """Check that the shards which an order needs at a time have room on this machine.

        Raises:
            ValueError: there is too little room.
        """

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, record: int) -> dict[str, Any]:
        """One record: `image` (`[height, width, channels]`), further images (those of masks `[height, width]`), `id`
        (str), `label` if the inputs had classes, and the fields that the inputs brought along: numbers, str, arrays,
        lists of str, and bytes.

        Raises:
            IndexError: there is no such record.
            TypeError: `record` is not an integer.
            CorruptionError: the record is damaged.
        """
        shard, row = self._find(record)
        shard = shard.holding(row, self.fields)
        try:
            names = [name for name, field in self.fields.items() if not field.is_image and name not in _LEFT_OUT]
            values = {name: as_python(shard.value(name, row), self.fields[name]) for name in names}
            images = {name: np.array(shard.image(row, name)) for name, field in self.fields.items() if field.is_image}
            images = {name: flat(pixels, self.fields[name]) for name, pixels in images.items()}
            return {**images, **values, "id": shard.id(row).decode()}
        except UnicodeDecodeError as error:
            raise CorruptionError(f"{shard.describe(row)}: a text is no UTF-8 ({error.reason})") from error

    def image(self, record: int, field: str = IMAGE) -> NDArray[Any]:
        """The pixels of one record, `[height, width, channels]`, or `[height, width]` of a mask.

        Raw pixels are a read-only view of the memory map.

        Args:
            field: the name of the image, for records that have several.

        Raises:
            IndexError: there is no such record.
            KeyError: there is no such field.
            ValueError: the field is no image.
            CorruptionError: the image is damaged.
        """
        image = self._image_field(field)
        shard, row = self._find(record)
        return flat(shard.image(row, field), image)

    def payload(self, record: int, field: str = IMAGE) -> NDArray[np.uint8]:
        """The stored bytes of one image, `[n]`, checked: an encoded file, or raw pixels.

        Args:
            field: the name of the image, for records that have several.

        Raises:
            IndexError: there is no such record.
            KeyError: there is no such field.
            ValueError: the field is no image.
            CorruptionError: the image is damaged.
        """
        self._image_field(field)
        shard, row = self._find(record)
        return shard.payload(row, field)

    def _image_field(self, name: str) -> Field:
        if (field := self.fields[name]).is_image:
            return field
        raise ValueError(f"field={name!r}: is no image; read it with data.column({name!r}, numbers)")

    def column(self, name: str, records: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray[Any]:
        """A field of several records, by default of all.

        Fields of a fixed shape are int64 or float32 `[n, *shape]`. Others are objects, `[n]`: strings as UTF-8
        `bytes`, lists of numbers as arrays, lists of strings as lists of `bytes`.

        Raises:
            KeyError: there is no such field.
            ValueError: the field is an image.
            IndexError: there is no such record.
            CorruptionError: a shard or a value is damaged.
        """
        field = self.fields[name]
        if field.is_image:
            raise ValueError("images are no column: read them with data.image(number), or a stream")
        if records is not None:
            return self._column(name, record_numbers(records))
        # By parts: a manifest may say any number of records, and the first shard then shows that it is not true.
        starts = range(0, max(1, len(self)), _PART)
        parts = [self._column(name, np.arange(start, min(start + _PART, len(self)))) for start in starts]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _column(self, name: str, records: NDArray[np.int64]) -> NDArray[Any]:
        return column(self.locate(records), name, self.fields[name])

    def ids(self, records: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray[np.object_]:
        """The ids of several records, by default of all, as UTF-8 `bytes`, `[n]`."""
        return self.column("id", records)

    def fetched(self) -> Stats:
        """The requests and bytes of this process for these records."""
        return sum((shards.fetched() for shards in self.remote_shards), Stats())

    def describe(self, record: int) -> str:
        """The place of a record, for error messages: dataset, shard, row and id."""
        shard, row = self._find(record)
        return shard.describe(row)

    def coverage(self, epoch: int = 0) -> Coverage:
        """The coverage of each record once, to compare that of any epoch of a stream with."""
        del epoch
        return Coverage.of_all(len(self))

    def stream(
        self,
        *,
        batch_size: int,
        shuffle: Shuffle = "full",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        remainder: Remainder = "pad",
        lanes: int = 8,
        window: int = 4,
        image: Transforms = None,
        transform: Mapping[str, Transforms] | None = None,
        mixing: Mixings = None,
        fields: Iterable[str] | None = None,
        ragged: Literal["list", "pad"] | int = "list",
        fast: bool = False,
        verify: Verify | None = None,
        on_error: OnError = "raise",
        workers: Workers | None = None,
        threads: int | None = None,
        prefetch: int = 2,
        report: bool = False,
        decode: bool = True,
    ) -> Stream:
        """Batches in an order that (seed, epoch, position) decide. See `Stream`.

        Args:
            batch_size: size of the global batch, over all ranks; `world_size` must divide it.
            shuffle: "full" for a new permutation of all records in each epoch, "none" for stored order, "window"
                for a permutation of shards, and of records inside windows of shards: for remote storage.
            seed: decides the permutations, and the draws of random transforms.
            rank: number of this process, whose share of each global batch the stream gives.
            world_size: number of all processes.
            remainder: the last batch of an epoch: "pad" with records of weight 0, "drop" or "keep" it.
            lanes: for "window", the number of places that are read side by side; `world_size` must divide it. At any
                time all ranks together need `lanes * (window + 1)` shards.
            window: for "window", the length of a window, in shards.
            image: a transform or several, which bring images to one size and augment them:
                `CenterCrop(224)`, `[RandomResizedCrop(224), Flip()]`, functions from an image to an image, or
                transforms of torchvision, Albumentations, Keras and Pillow. They move all fields of a record together,
                by one draw: masks and depth maps by the nearest pixels, boxes, points and keypoints by arithmetic. An
                object without a part of its box in the result is dropped from all `objects/` lists of the batch.
            transform: in place of `image`, transforms by the names of image fields, as
                `{"image": [RandomResizedCrop(224), Flip()], "mask": [RandomResizedCrop(56), Flip()]}`. A field that is
                not named, boxes and points follow "image". Each list draws from the same numbers.
            mixing: `MixUp`, `CutMix` or several, of which each batch draws one. Batches then have an array `mixing`,
                float32 `[n, 6]`, by which `shard_reader.mixing.mixed` mixes images and labels.
            fields: the fields of a batch; by default `image` and, if there is one, `label`. Other fields are not
                read or fetched, and damage in them is not noticed.
            ragged: the form of fields whose length differs: "list" gives objects `[n]`; "pad" gives arrays padded with
                zeros to the longest of the batch, and NAME/mask, bool, true at values; a number pads to that length.
            fast: decode JPEGs with a faster, less exact DCT and chroma upsampling.
            verify: check images against their CRC-32C "always", "never", or "first-epoch": the first time that this
                stream reads them. By default the first time, with on_error="skip" always. Each rank checks the images
                that it reads: where ranks have copies of their own, only "always" checks all of each. Strings and lists
                are always checked.
            on_error: "raise" ends the loop with the error of a damaged record; "skip" gives it weight 0, and pixels
                of 0 in the damaged image, and lists it in `stream.skipped`.
            workers: what decodes and transforms: "threads", or "processes" for transforms that draw from the global
                generators of a process or hold Python's lock. By default processes where a transform needs them.
            threads: number of threads, or of processes; by default one for each CPU that this process may use, shared
                among the ranks of this machine.
            prefetch: number of batches that are made in advance. Small raw images are an exception: they are copied
                when their batch is asked for.
            decode: False gives encoded images as they are stored, `bytes` objects `[n]`, for a decoder on a device.
                With `image` of a crop and flips, `image/box` int32 `[n, 4]` (top, left, height, width) is the part of
                each image that the stream draws, in pixels, and `image/flip` bool `[n]` whether it is then mirrored.
            report: at the end of each epoch, write to stderr what its loop waited for: `Stats.explain`.

        Raises:
            ValueError: a value is out of range, images differ in size and `image` is not given, or a mask, boxes or
                points would have to follow a transform that does not say how it moves pixels.
            TypeError: a value is of another type.
        """
        wanted = OrderOptions(
            shuffle=shuffle, seed=seed, lanes=lanes, window=window, batch_size=batch_size, remainder=remainder
        )
        order = BatchOrder.of(self.record_order(wanted), wanted, rank, world_size)
        # The ranks of this machine use its cache together. An order without lanes gives each of them every shard.
        part = local_ranks(order.world_size) / order.world_size if order.record_order.lanes else 1
        self._check_room(shuffle, order.batch_size, math.ceil(lanes * part), window)
        options = ReadOptions(
            fields=fields,
            image=image,
            transform=transform,
            mixing=mixing,
            ragged=ragged,
            fast=fast,
            verify=verify,
            on_error=on_error,
            workers=workers,
            threads=threads,
            prefetch=prefetch,
            report=report,
            decode=decode,
        )
        return Stream(self, order, wanted.seed, options)

    def _check_numbers(self, records: NDArray[np.int64]) -> None:
        if len(records) and not 0 <= int(records.min()) <= int(records.max()) < len(self):
            wrong = records[(records < 0) | (records >= len(self))][0]
            raise IndexError(f"record {wrong} of {len(self)} in {self.name}")

    def _find(self, record: int) -> tuple[OpenShard, int]:
        try:
            record = operator.index(record)
        except TypeError:
            raise TypeError(f"record {record!r}: must be an integer; for several, data.select([...])") from None
        number = record + len(self) if record < 0 else record
        if not 0 <= number < len(self):
            raise IndexError(f"record {record} of {len(self)} in {self.name}")
        return self._locate_one(number)

    def _locate_one(self, number: int) -> tuple[OpenShard, int]:
        return self.locate(np.array([number])).shard(0)
