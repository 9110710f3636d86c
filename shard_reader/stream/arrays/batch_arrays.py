"""The arrays of batches: images, lists and numbers of records that have been looked up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import IMAGE, Field, size_columns
from shard_reader.mixing import MIXING
from shard_reader.order.batches import BatchOrder
from shard_reader.shards.source import RecordSource
from shard_reader.stream.arrays import lists
from shard_reader.stream.arrays.chains import Chains
from shard_reader.stream.arrays.images import BatchImages, FurtherImages
from shard_reader.stream.arrays.joint import Joint
from shard_reader.stream.arrays.lookup import Lookup, Payloads, PendingBatch
from shard_reader.stream.arrays.objects import Objects, moving_fields
from shard_reader.stream.arrays.options import ReadOptions
from shard_reader.stream.arrays.threads import Threads
from shard_reader.system.buffers import Buffers

__all__ = ["Batch", "BatchArrays", "ProbedImages", "Spec"]

Batch = dict[str, NDArray[Any]]
ProbedImages = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


class Spec(NamedTuple):
    """Dtype and shape of one record in a batch: "string" for `bytes`, "list" for lists of any length."""

    dtype: str
    shape: tuple[int | None, ...]


class BatchArrays:
    """Makes the arrays of batches whose images go through the same transforms.

    Args:
        data: the records.
        order: the records of each batch.
        fields: the fields of a batch.
        chains: the transforms.
        seed: the seed of random transforms.
        threads: the threads of the stream.
        is_seeded: whether global generators are seeded for the transforms.

    Attributes:
        is_gathered: whether the thread of the loop copies all images, as they are, if they are in memory.
        has_images: whether there are images.
        sizes: the columns of image sizes that transforms need.
    """

    def __init__(
        self,
        data: RecordSource,
        order: BatchOrder,
        fields: Mapping[str, Field],
        chains: Chains,
        seed: int,
        options: ReadOptions,
        threads: Threads,
        *,
        is_seeded: bool,
    ) -> None:
        self._data, self._order, self._fields, self._options = data, order, fields, options
        self._values = {name: field for name, field in fields.items() if not (field.is_image or field.in_index)}
        first, joint, transforms = chains.first, chains.joint, chains.images
        if is_seeded:
            transforms = {name: transform.seeded() for name, transform in transforms.items()}
        self._stored = dict[str, lists.StoredImages]()
        if not options.decode:
            self._stored = {
                name: lists.StoredImages(name, fields[name], given, seed) for name, given in chains.given.items()
            }
            transforms = {}
        self._images: dict[str, BatchImages] = {}
        for name, transform in transforms.items():
            kind = BatchImages if name == IMAGE else FurtherImages
            joined = name in chains.together
            self._images[name] = kind(data, order, name, transform, seed, options, threads, is_joined=joined)
        self.has_images, self.is_gathered = bool(self._images), all(one.is_gathered for one in self._images.values())
        self._joint = None if joint is None else Joint(fields, chains.together, joint, len(first.steps), seed)
        moves = not first.keeps_places and bool(moving_fields(fields))
        self._objects = Objects(fields, first, seed) if moves else None
        # Further images, boxes and points move as the record's first image does, by its size.
        self.sizes = size_columns(IMAGE) if moves or any(name != IMAGE for name in transforms) else ()

    @property
    def specs(self) -> dict[str, Spec]:
        """Each array of a batch, in order; after `probe_joined`."""
        specs = {}
        for name, field in self._fields.items():
            ragged = self._options.ragged
            if name in self._stored:
                specs[name] = Spec("string", ())
                if self._stored[name].has_parts:
                    specs |= {f"{name}/box": Spec("int32", (4,)), f"{name}/flip": Spec("bool", ())}
            elif field.is_image:
                specs[name] = Spec(self._images[name].dtype.name, self._images[name].array_shape)
            elif field.is_fixed:
                specs[name] = Spec("string" if field.dtype == "bytes" else field.dtype, field.shape)
            elif ragged == "list":
                specs[name] = Spec("list", ())
            else:
                size = None if ragged == "pad" else ragged
                specs[name] = Spec(field.dtype, (size, *field.shape[1:]))
                specs[f"{name}/mask"] = Spec("bool", (size,))
        if self._options.mixing:
            specs[MIXING] = Spec("float32", (6,))
        return specs | {"weight": Spec("float32", ())}

    @property
    def probed_images(self) -> ProbedImages:
        """Shape and dtype of each image that was made since only a transform's result shows them."""
        return {name: images.probed for name, images in self._images.items() if images.probed is not None}

    @probed_images.setter
    def probed_images(self, found: ProbedImages) -> None:
        for name, probed in found.items():
            self._images[name].probed = probed

    @property
    def fixed_bytes(self) -> dict[str, int]:
        """The bytes of each array of numbers in a batch, where every batch has the same; after `probe_joined`."""
        return {
            name: self._order.most * math.prod(size or 0 for size in spec.shape) * np.dtype(spec.dtype).itemsize
            for name, spec in self.specs.items()
            if spec.dtype not in ("string", "list") and None not in spec.shape
        }

    def payloads(self, lookup: Lookup) -> dict[str, Payloads]:
        """The payloads of the images of a lookup, whose shards are in memory maps."""
        return {name: images.payloads(lookup) for name, images in self._images.items()}

    def begin(self, pending: PendingBatch, *, cold: bool) -> None:
        """Have threads make a batch. `cold`: announce the batch's bytes to the kernel first."""
        for images in self._images.values():
            images.begin(pending, cold=cold)

    def finish(self, pending: PendingBatch) -> Batch:
        """The arrays of a batch, without its weights, when they are done. Damage is noted in `pending`."""
        batch: Batch = {}
        values = self._moved(pending) if self._values or self._joint is not None else {}
        for name, field in self._fields.items():
            if name in self._images:
                batch[name] = self._images[name].finish(pending)
            elif name in self._stored:
                began = time.perf_counter()
                batch |= self._stored[name].finish(pending)
                pending.counters.add(read_seconds=time.perf_counter() - began)
            elif name in values:
                batch |= lists.as_batch(pending, name, field, values[name], self._options.ragged)
            else:
                batch[name] = lists.fixed(pending, name, field)
        if not (self._images or self._stored):
            pending.fail_where_closed()
        return batch

    def take_memory_of(self, buffers: Mapping[str, Buffers]) -> None:
        """Have image fields of batches lie in such memory."""
        for name in buffers.keys() & self._images.keys():
            self._images[name].take_memory_of(buffers[name])

    def close(self) -> None:
        """Free the buffers that nobody holds."""
        for images in self._images.values():
            images.close()

    def _moved(self, pending: PendingBatch) -> dict[str, NDArray[Any]]:
        """The values of fields that are not in the index, moved with their images."""
        began = time.perf_counter()
        values = {name: lists.values(pending, name, field) for name, field in self._values.items()}
        pending.counters.add(read_seconds=time.perf_counter() - began)
        if self._objects is None and self._joint is None:
            return values
        if self._joint is not None:
            pending.finish_work()  # which counts for itself
        began = time.perf_counter()
        if self._objects is not None:
            self._objects.move(pending, values)
        if self._joint is not None:
            for name, images in self._joint.run(pending, values).items():
                self._images[name].take_joined(pending, images)
        pending.counters.add(transform_seconds=time.perf_counter() - began)
        return values

    def probe_joined(self, pending_of: Callable[[int], PendingBatch]) -> None:
        """Have a record show shape and dtype of the images that another library makes of it: the first sound one.

        Args:
            pending_of: gives a batch of one record by its number, not begun.
        """
        if self._joint is None or all(self._images[name].probed is not None for name in self._joint.images):
            return
        for record in range(len(self._data)):
            pending = pending_of(record)
            self.begin(pending, cold=False)
            try:
                pending.wait()
                values = {name: lists.values(pending, name, field) for name, field in self._values.items()}
                if self._objects is not None:
                    self._objects.move(pending, values)
                results = self._joint.run(pending, values)
            except BaseException:
                pending.cancel()
                raise
            errors = [error for _, error in pending.take_failures()]
            skips = self._options.on_error == "skip"
            is_skipped = skips and all(isinstance(error, CorruptionError) for error in errors)
            if errors and (not is_skipped or record == len(self._data) - 1):
                raise errors[0]
            if not errors:
                for name, images in results.items():
                    self._images[name].probe_joined(images[0])
                return
