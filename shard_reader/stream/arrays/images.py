"""The images of a batch: gathered, copied or decoded, by their size and encoding in the shards."""

# Small images are gathered in the loop's own thread, when their batch is asked for, into fresh memory. Handing a task
# to a thread takes as long as gathering a batch, a single thread uses all of the memory's bandwidth, and a fancy index
# cannot write into existing memory without a second copy. Large images are copied, and encoded ones decoded, by
# threads, in parts of a batch, into leased memory.

from __future__ import annotations

import functools
import math
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import IMAGE, extent_columns, size_columns
from shard_reader.format.image_codecs.codec import Scratch
from shard_reader.format.image_codecs.table import decode_image, is_pixel_array
from shard_reader.order.batches import BatchOrder
from shard_reader.order.shuffle import key
from shard_reader.shards.source import RecordSource
from shard_reader.stream.arrays.chains import image_shape
from shard_reader.stream.arrays.lookup import MISMATCH, Lookup, Payloads, PendingBatch, error_of_transform
from shard_reader.stream.arrays.options import ReadOptions
from shard_reader.stream.arrays.threads import Threads
from shard_reader.system.buffers import BufferPool, Buffers
from shard_reader.system.memory_map import Window, announce
from shard_reader.transforms.compose import ComposedTransform, put
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.part import Part
from shard_reader.transforms.resize import resize

__all__ = ["BatchImages", "FurtherImages"]

_GATHERED = 1 << 14  # bytes: images up to this size are gathered together, larger ones copied one by one
_TASK_RECORDS = 32  # the most records that a thread copies or decodes at a time
_HELD = 8  # batches that frameworks hold at a time; memory for more would be mapped again for each batch


class BatchImages:
    """Makes one image field of a stream's batches.

    Args:
        name: the field.
        transform: the transforms of its images.
        seed: the seed of random transforms.
        threads: the threads of the stream.
        is_joined: whether the transforms leave images of any size, objects `[n]` in a pending batch, of which another
            transform makes those of the batch.

    Attributes:
        is_gathered: whether the thread of the loop copies all images of a batch together, as they are.
        probed: shape and dtype of an image, where only a transform's result shows them; None until one was made.
    """

    def __init__(
        self,
        data: RecordSource,
        order: BatchOrder,
        name: str,
        transform: ComposedTransform,
        seed: int,
        options: ReadOptions,
        threads: Threads,
        *,
        is_joined: bool = False,
    ) -> None:
        self._data, self._order, self._name, self._transform = data, order, name, transform
        self._is_joined = is_joined
        self._seed, self._threads, self._fast = seed, threads, options.fast
        self._prefetch, self._on_error = options.prefetch, options.on_error
        self._field = field = data.fields[name]
        self._offset, self._length, self._crc32c = extent_columns(name)
        self._is_flat = field.is_flat
        self._shape = None if is_joined else self._known_shape()
        self.probed: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._buffers: Buffers | None = None
        # Shards are little-endian. Pixels that need no decoding, transform or swapping are copied as bytes.
        native = sys.byteorder == "little" or field.dtype == "uint8"
        self._is_raw = is_pixel_array(field) and not (transform.steps or is_joined) and native
        size = math.prod(self.shape) * np.dtype(field.dtype).itemsize if self._is_raw else 0
        self.is_gathered, self._row = 0 < size <= _GATHERED, np.dtype((np.void, size))

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of the images in a batch."""
        return self._probe()[0] if self._shape is None else self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the pixels in a batch."""
        return self._probe()[1] if self._shape is None else np.dtype(self._field.dtype)

    @property
    def array_shape(self) -> tuple[int, ...]:
        """`shape`, without the single channel of masks."""
        return self.shape[:2] if self._is_flat and self.shape[2:] == (1,) else self.shape

    def payloads(self, lookup: Lookup) -> Payloads:
        """The payloads of the images of a lookup, whose shards are in memory maps. Those outside become empty."""
        columns, located = lookup.columns, lookup.located
        outside = located.outside(columns, self._name)
        if outside is not None:
            columns[self._offset][outside] = columns[self._length][outside] = 0
        addresses = located.addresses(columns, self._name)
        is_sound = self.is_gathered and bool((columns[self._length] == self._row.itemsize).all())
        return Payloads(addresses, Window(addresses, self._row) if self.is_gathered else None, is_sound, outside)

    def begin(self, pending: PendingBatch, *, cold: bool) -> None:
        """Have threads make the images of a batch. `cold`: announce the batch's bytes to the kernel first."""
        if cold:
            announce(pending.lookup.extents(pending.places, self._name))
        # Remote images lie in many small buffers, not in maps, so that even small ones are copied one by one.
        if not self.is_gathered or pending.lookup.fetch is not None:
            count = len(pending.places)
            images = np.empty(count, object) if self._is_joined else self._buffer(count)
            pending.images[self._name] = images
            fill = self._copy if self._is_raw else self._decode
            # Two tasks for each thread, so that none is left waiting for the slowest part of the batch.
            size = max(1, min(_TASK_RECORDS, -(-count // (2 * self._threads.count))))
            for start in range(0, count, size):
                task = functools.partial(fill, pending, images, pending.places[start : start + size])
                pending.work.append(self._threads.submit(task))

    def finish(self, pending: PendingBatch) -> NDArray[Any]:
        """The images, `[n, *array_shape]`, when they are done. An unreadable image is 0, and noted."""
        pending.finish_work()
        images = pending.images.get(self._name)
        if images is None:
            began = time.perf_counter()
            images = self._gather(pending)
            pending.gather_seconds += time.perf_counter() - began
        return images.reshape(len(images), *self.array_shape) if self._is_flat else images

    def take_joined(self, pending: PendingBatch, results: list[NDArray[Any] | None]) -> None:
        """Put the images that a joint transform has made, `[height, width, channels]` each, into the batch."""
        images = pending.images[self._name] = self._buffer(len(results))
        for place, image, target in zip(pending.places, results, images, strict=True):
            try:
                target[...] = 0
                if image is not None:
                    put(image, target)
            except ValueError as error:
                pending.fail_transform(place, error, self._name)

    def probe_joined(self, image: NDArray[Any] | None) -> None:
        """Have an image of a joint transform show the shape and dtype of all of them."""
        if image is not None:
            self.probed = image.shape, image.dtype.newbyteorder("=")

    def take_memory_of(self, buffers: Buffers) -> None:
        """Have the images of a batch lie in such memory."""
        self._buffers = buffers

    def close(self) -> None:
        """Free the buffers that nobody holds."""
        if self._buffers is not None:
            self._buffers.close()
        self._buffers = None

    def _known_shape(self) -> tuple[int, ...] | None:
        """The shape of every image in a batch; None where only a transform's result shows it."""
        return image_shape(self._data, self._name, self._transform.output_shape(self._field.shape))

    def _part(self, lookup: Lookup, place: int, size: tuple[int, int], draws: Draws | None) -> Part | None:
        """The part of an image of this height and width to decode; None for all of it."""
        del lookup, place
        return self._transform.part(*size, draws)

    def _put(
        self, lookup: Lookup, place: int, pixels: NDArray[Any], draws: Draws | None, target: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Transform the pixels of the part."""
        del lookup, place
        return self._transform.of_part(pixels, draws, target)

    def _probe(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of a transform's result, where only a call shows them."""
        if self.probed is None:
            record, image = self._first_image()
            try:
                result = self._transform(image, Draws(0, 0))
            except Exception as error:
                located = self._data.locate(np.array([record]))
                shard, row = located.shards[located.which[0]], int(located.rows[0])
                raise error_of_transform(error, shard, row, self._name)  # noqa: B904  # it has its cause
            if not isinstance(result, np.ndarray) or result.dtype.hasobject:
                raise ValueError(
                    f"{self._transform!r} gives {type(result).__qualname__}: transforms give arrays of numbers"
                )
            self.probed = result.shape, result.dtype.newbyteorder("=")
        return self.probed

    def _first_image(self) -> tuple[int, NDArray[Any]]:
        """The first image, and its record; where damaged records are skipped, those of the first sound one."""
        for record in range(len(self._data)):
            try:
                pixels = self._data.image(record, self._name)
                return record, pixels[..., np.newaxis] if self._is_flat else pixels
            except CorruptionError:
                if self._on_error == "raise" or record == len(self._data) - 1:
                    raise
        raise ValueError(f"{self._data.name} has no record that could show what {self._transform!r} gives")

    def _buffer(self, records: int) -> NDArray[Any]:
        """Memory for a batch."""
        size = math.prod(self.shape) * self.dtype.itemsize
        most = self._order.most
        if records > most:  # only `Stream.take` asks for that many, and too rarely to keep memory for it
            return np.empty((records, *self.shape), self.dtype)
        if self._buffers is None:
            self._buffers = BufferPool(most * max(1, size), self._prefetch + _HELD)
        return self._buffers.array((records, *self.shape), self.dtype)

    def _gather(self, pending: PendingBatch) -> NDArray[Any]:
        """Small images, copied together."""
        mapped, row, count = pending.lookup.mapped.get(self._name), self._row, len(pending.places)
        places, window = slice(pending.places.start, pending.places.stop), None if mapped is None else mapped.window
        if mapped is not None and window is not None and mapped.is_sound:
            rows, bad = window[places], []
        else:
            columns = pending.lookup.columns
            lengths = columns[self._length][places] if window is not None else np.zeros(count, np.int64)
            good = np.flatnonzero(lengths == row.itemsize)
            bad, rows = np.flatnonzero(lengths != row.itemsize).tolist(), np.zeros(count, row)
            if window is not None:
                rows[good] = window[places.start + good]
        images = rows.view(np.uint8).view(self.dtype).reshape(count, *self.shape)
        for place in bad:
            self._fail_length(pending, places.start + place)
        if pending.verify:
            self._verify(pending, images, set(bad))
        return images

    def _verify(self, pending: PendingBatch, images: NDArray[Any], but: set[int]) -> None:
        """Check gathered images against their checksums."""
        for number, place in enumerate(pending.places):
            if number not in but and crc32c(images[number]) != pending.lookup.columns[self._crc32c][place]:
                found = pending.refetched(place, self._name)
                images[number] = 0 if found is None else found.view(self.dtype).reshape(self.shape)
                if found is None:
                    pending.fail(place, MISMATCH, self._name)

    def _copy(self, pending: PendingBatch, images: NDArray[Any], part: range) -> None:
        """Copy images one by one."""
        began, origin = time.perf_counter(), pending.places.start
        targets = images.reshape(len(images), -1).view(np.uint8)
        size = targets.shape[1]
        for place, shard, start, length, checksum, _, _ in pending.lookup.payloads(part, self._name):
            target = targets[place - origin]
            if shard is None or length != size:
                target[...] = 0
                self._fail_length(pending, place)
                continue
            try:
                target[:] = shard.stored(start, length)
            except CorruptionError as error:
                target[...] = 0
                pending.fail(place, error, self._name)
                continue
            if pending.verify and crc32c(target) != checksum:
                found = shard.refetched(start, length, checksum)
                target[...] = 0 if found is None else found
                if found is None:
                    pending.fail(place, MISMATCH, self._name)
        pending.counters.add(read_seconds=time.perf_counter() - began)

    def _decode(self, pending: PendingBatch, images: NDArray[Any], part: range) -> None:
        """Decode images, and transform them, into their places."""
        seed = key(self._seed, pending.lookup.epoch, "draws")
        lookup, origin, name = pending.lookup, pending.places.start, self._name
        scratch = None if self._transform.keeps_image or self._is_joined else Scratch()
        is_timed = pending.is_cold or not is_pixel_array(self._field)  # a clock for each small array would be seen
        clock, read, decode, transform = time.perf_counter, 0.0, 0.0, 0.0
        last = clock()
        for place, shard, start, length, checksum, height, width in lookup.payloads(part, name):
            number, wanted = place - origin, None
            draws = Draws(seed, int(lookup.positions[place])) if self._transform.is_random else None
            try:
                if shard is not None:
                    wanted = self._part(lookup, place, (height, width), draws)
            except Exception as error:
                images[number] = 0
                pending.fail_transform(place, error, self._name)
                continue
            try:
                if shard is None:
                    raise ValueError("is in a shard that is not open")
                payload = pending.stored(shard, start, length, checksum)
                if is_timed:
                    now = clock()
                    read, last = read + now - last, now
                pixels = decode_image(
                    payload,
                    shard.fields[name],
                    height,
                    width,
                    fast=self._fast,
                    scratch=scratch,
                    max_pixels=shard.max_pixels,
                    part=wanted,
                )
                if is_timed:
                    now = clock()
                    decode, last = decode + now - last, now
            except (CorruptionError, ValueError, OSError) as error:
                images[number] = 0
                pending.fail(place, error, self._name)
                continue
            try:
                # Of several sizes, each image is an array of its own.
                result = self._put(lookup, place, pixels, draws, None if self._is_joined else images[number])
                if self._is_joined:
                    images[number] = result
            except Exception as error:
                images[number] = 0
                pending.fail_transform(place, error, self._name)
            if is_timed:
                now = clock()
                transform, last = transform + now - last, now
        if not is_timed:
            transform = clock() - last
        pending.counters.add(read_seconds=read, decode_seconds=decode, transform_seconds=transform)

    def _fail_length(self, pending: PendingBatch, place: int) -> None:
        length = pending.lookup.columns[self._length][place] if self._length in pending.lookup.columns else 0
        pending.fail(place, f"has {length} bytes, not the pixels of {self.shape}", self._name)


class FurtherImages(BatchImages):
    """Makes a further image of each record, which moves with the first one, `image`.

    Where the first one has another size, the further image is scaled to it before its transforms: a photo by area,
    masks and depth maps by nearest.
    """

    def _known_shape(self) -> tuple[int, ...] | None:
        shape = self._field.shape
        if self._transform.steps:
            shape = (*self._data.fields[IMAGE].shape[:2], shape[2])
        return image_shape(self._data, self._name, self._transform.output_shape(shape))

    def _first_image(self) -> tuple[int, NDArray[Any]]:
        record, pixels = super()._first_image()
        fields = {name: self._data.fields[name] for name in size_columns(IMAGE)}
        height, width = (int(values[0]) for values in self._data.locate(np.array([record])).columns(fields).values())
        return record, self._scaled(pixels, (height, width))

    def _scaled(self, pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        """Pixels at the size of the record's first image."""
        if pixels.shape[:2] == size:
            return pixels
        return resize(pixels, size, "area" if self._field.is_filtered else "nearest", None)

    def _part(self, lookup: Lookup, place: int, size: tuple[int, int], draws: Draws | None) -> Part | None:
        return self._transform.part(*size, draws) if lookup.image_size(place) == size else None

    def _put(
        self, lookup: Lookup, place: int, pixels: NDArray[Any], draws: Draws | None, target: NDArray[Any] | None
    ) -> NDArray[Any]:
        # The index says whether `pixels` are those of a part, or of the whole image.
        own = tuple(int(lookup.columns[column][place]) for column in size_columns(self._name))
        size = lookup.image_size(place)
        if own == size or not (self._transform.steps or self._is_joined):
            return self._transform.of_part(pixels, draws, target)
        return self._transform(self._scaled(pixels, size), draws, target)
