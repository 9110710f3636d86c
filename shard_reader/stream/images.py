"""The images of a batch: gathered, copied or decoded, by their size and encoding in the shards."""

# Small images are gathered in the loop's own thread, when their batch is asked for, into fresh memory. Handing a task
# to a thread takes as long as gathering a batch, a single thread uses all of the memory's bandwidth, and a fancy index
# cannot write into existing memory without a second copy. Large images are copied, and encoded ones decoded, by
# threads, in parts of a batch, into leased memory.

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.checksum import crc32c
from shard_reader.format.image_codecs.codec import Scratch
from shard_reader.format.image_codecs.table import decode_image, is_pixel_array
from shard_reader.order.batches import BatchOrder
from shard_reader.order.shuffle import key
from shard_reader.shards.source import RecordSource
from shard_reader.stream.lookup import PendingBatch
from shard_reader.stream.options import ReadOptions
from shard_reader.system.buffers import BufferPool
from shard_reader.system.cpus import available_cpus
from shard_reader.system.memory_map import Window, announce
from shard_reader.transforms.compose import ComposedTransform, compose
from shard_reader.transforms.draws import Draws

__all__ = ["BatchImages"]

_GATHERED = 1 << 14  # bytes: images up to this size are gathered together, larger ones copied one by one
_TASK_RECORDS = 32  # the most records that a thread copies or decodes at a time
_HELD = 8  # batches that frameworks hold at a time; memory for more would be mapped again for each batch
_MISMATCH = "is damaged (CRC mismatch)"


class BatchImages:
    """Makes the images of a stream's batches.

    Args:
        seed: the seed of random transforms.

    Attributes:
        probed: shape and dtype of an image, where only a transform's result shows them; None until one was made.
    """

    def __init__(self, data: RecordSource, order: BatchOrder, seed: int, options: ReadOptions) -> None:
        self._data, self._order, self._seed, self._fast = data, order, seed, options.fast
        self._prefetch, self._on_error = options.prefetch, options.on_error
        self._threads = available_cpus() if options.threads is None else options.threads
        self._transform = compose(options.image)
        self._shape = _image_shape(data, self._transform)
        self.probed: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._buffers: BufferPool | None = None
        image = data.fields["image"]
        # Shards are little-endian. Pixels that need no decoding, transform or swapping are copied as bytes.
        native = sys.byteorder == "little" or image.dtype == "uint8"
        self._is_raw = is_pixel_array(image) and not self._transform.steps and native
        size = math.prod(self.shape) * np.dtype(image.dtype).itemsize if self._is_raw else 0
        self._is_gathered, self._row = 0 < size <= _GATHERED, np.dtype((np.void, size))

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of the images in a batch."""
        return self._probe()[0] if self._shape is None else self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the pixels in a batch."""
        return self._probe()[1] if self._shape is None else np.dtype(self._data.fields["image"].dtype)

    def window(self, addresses: NDArray[np.int64]) -> Window | None:
        """The window through which images at these addresses are gathered; None if they are not gathered."""
        return Window(addresses, self._row) if self._is_gathered else None

    def are_sound(self, lengths: NDArray[np.uint64]) -> bool:
        """Whether images are gathered, and payloads of these lengths all have the right one."""
        return self._is_gathered and bool((lengths == self._row.itemsize).all())

    def begin(self, pending: PendingBatch, *, cold: bool) -> None:
        """Have threads make the images of a batch. `cold`: announce the batch's bytes to the kernel first."""
        if cold:
            announce(pending.lookup.extents(pending.places))
        # Remote images lie in many small buffers, not in maps, so that even small ones are copied one by one.
        if not self._is_gathered or pending.lookup.fetch is not None:
            count = len(pending.places)
            pending.images = self._buffer(count)
            fill = self._copy if self._is_raw else self._decode
            # Two tasks for each thread, so that none is left waiting for the slowest part of the batch.
            size = max(1, min(_TASK_RECORDS, -(-count // (2 * self._threads))))
            tasks = (pending.places[start : start + size] for start in range(0, count, size))
            pending.work = [self._submit(fill, pending, part) for part in tasks]

    def finish(self, pending: PendingBatch) -> NDArray[Any]:
        """The images, `[n, *shape]`, when they are done. An unreadable image is 0, and noted."""
        for part in pending.work:
            part.result()
        return self._gather(pending) if pending.images is None else pending.images

    def close(self) -> None:
        """Stop the threads and free the buffers that nobody holds."""
        # After a fork the pool's threads are the parent's: a shutdown would wait for a lock that they may hold.
        if self._pool is not None and self._pool[0] == os.getpid():
            self._pool[1].shutdown(wait=False, cancel_futures=True)
        if self._buffers is not None:
            self._buffers.close()
        self._pool = self._buffers = None

    def _probe(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of a transform's result, where only a call shows them."""
        if self.probed is None:
            result = self._transform(self._first_image(), Draws(0, 0))
            if not isinstance(result, np.ndarray) or result.dtype.hasobject:
                raise ValueError(
                    f"{self._transform!r} gives {type(result).__qualname__}: transforms give arrays of numbers"
                )
            self.probed = result.shape, result.dtype.newbyteorder("=")
        return self.probed

    def _first_image(self) -> NDArray[Any]:
        """The first image; where damaged records are skipped, the first sound one."""
        for record in range(len(self._data)):
            try:
                return self._data.image(record)
            except CorruptionError:
                if self._on_error == "raise" or record == len(self._data) - 1:
                    raise
        raise ValueError(f"{self._data.name} has no record that could show what {self._transform!r} gives")

    def _buffer(self, records: int) -> NDArray[Any]:
        """Memory for a batch."""
        size = math.prod(self.shape) * self.dtype.itemsize
        most = min(self._order.share, self._order.records) if self._order.remainder == "keep" else self._order.share
        if records > most:  # only `Stream.take` asks for that many, and too rarely to keep memory for it
            return np.empty((records, *self.shape), self.dtype)
        if self._buffers is None:
            self._buffers = BufferPool(most * max(1, size), self._prefetch + _HELD)
        return self._buffers.array((records, *self.shape), self.dtype)

    def _thread_pool(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = (os.getpid(), ThreadPoolExecutor(self._threads, "shard_reader"))
        return self._pool[1]

    def _submit(self, fill: Callable[[PendingBatch, range], None], pending: PendingBatch, part: range) -> Future[None]:
        try:
            return self._thread_pool().submit(fill, pending, part)
        except RuntimeError:
            # Python is at its end, and its pools take no more tasks. A thread that is still in a loop, which Python
            # waits for, does them by itself: otherwise it would lose its batches, and the process end with status 0.
            done: Future[None] = Future()
            fill(pending, part)
            done.set_result(None)
            return done

    def _gather(self, pending: PendingBatch) -> NDArray[Any]:
        """Small images, copied together."""
        lookup, row, count = pending.lookup, self._row, len(pending.places)
        places = slice(pending.places.start, pending.places.stop)
        if lookup.window is not None and lookup.is_sound:
            rows, bad = lookup.window[places], []
        else:
            lengths = lookup.columns["length"][places] if lookup.window is not None else np.zeros(count, np.int64)
            good = np.flatnonzero(lengths == row.itemsize)
            bad, rows = np.flatnonzero(lengths != row.itemsize).tolist(), np.zeros(count, row)
            if lookup.window is not None:
                rows[good] = lookup.window[places.start + good]
        images = rows.view(np.uint8).view(self.dtype).reshape(count, *self.shape)
        for place in bad:
            self._fail_length(pending, places.start + place)
        if pending.verify:
            self._verify(pending, images, set(bad))
        return images

    def _verify(self, pending: PendingBatch, images: NDArray[Any], but: set[int]) -> None:
        """Check gathered images against their checksums."""
        for number, place in enumerate(pending.places):
            if number not in but and crc32c(images[number]) != pending.lookup.columns["crc32c"][place]:
                found = pending.refetched(place)
                images[number] = 0 if found is None else found.view(self.dtype).reshape(self.shape)
                if found is None:
                    pending.fail(place, _MISMATCH)

    def _copy(self, pending: PendingBatch, part: range) -> None:
        """Copy images one by one."""
        assert pending.images is not None
        origin = pending.places.start
        targets = pending.images.reshape(len(pending.images), -1).view(np.uint8)
        size = targets.shape[1]
        for place, shard, start, length, checksum, _, _ in pending.lookup.payloads(part):
            target = targets[place - origin]
            if shard is None or length != size:
                target[...] = 0
                self._fail_length(pending, place)
                continue
            try:
                target[:] = shard.stored(start, length)
            except CorruptionError as error:
                target[...] = 0
                pending.fail(place, error)
                continue
            if pending.verify and crc32c(target) != checksum:
                found = shard.refetched(start, length, checksum)
                target[...] = 0 if found is None else found
                if found is None:
                    pending.fail(place, _MISMATCH)

    def _decode(self, pending: PendingBatch, part: range) -> None:
        """Decode images, and transform them, into their places."""
        assert pending.images is not None
        seed = key(self._seed, pending.lookup.epoch, "draws")
        positions, origin = pending.lookup.positions, pending.places.start
        scratch = None if self._transform.keeps_image else Scratch()
        for place, shard, start, length, checksum, height, width in pending.lookup.payloads(part):
            target, wanted = pending.images[place - origin], None
            draws = Draws(seed, int(positions[place])) if self._transform.is_random else None
            try:
                if shard is not None:
                    wanted = self._transform.part(height, width, draws)
            except Exception as error:
                target[...] = 0
                pending.fail_transform(place, error)
                continue
            try:
                if shard is None:
                    raise ValueError("is in a shard that is not open")
                payload = shard.stored(start, length)
                if pending.verify and crc32c(payload) != checksum:
                    found = shard.refetched(start, length, checksum)
                    if found is None:
                        raise ValueError(_MISMATCH)
                    payload = found
                pixels = decode_image(
                    payload,
                    shard.fields["image"],
                    height,
                    width,
                    fast=self._fast,
                    scratch=scratch,
                    max_pixels=shard.max_pixels,
                    part=wanted,
                )
            except (CorruptionError, ValueError, OSError) as error:
                target[...] = 0
                pending.fail(place, error)
                continue
            try:
                self._transform.of_part(pixels, draws, target)
            except Exception as error:
                target[...] = 0
                pending.fail_transform(place, error)

    def _fail_length(self, pending: PendingBatch, place: int) -> None:
        length = pending.lookup.columns["length"][place] if "length" in pending.lookup.columns else 0
        pending.fail(place, f"has {length} bytes, not the pixels of {self.shape}")


def _image_shape(data: RecordSource, transform: ComposedTransform) -> tuple[int, ...] | None:
    """The shape of every image in a batch; None where only a transform's result shows it."""
    shape = transform.output_shape(data.fields["image"].shape)
    if shape is None:
        return None
    if shape[2] is None:
        raise ValueError(
            f"the images of {data.name} may differ in channels (--channels keep) and then are no array: read"
            " them one by one, or prepare them with --channels rgb or grey"
        )
    if None in shape:
        raise ValueError(
            f"the images of {data.name} may differ in size (--fit cover, inside or none) and then are no array: pass"
            " image=CenterCrop(n), or prepare them with --fit crop, pad or stretch"
        )
    return tuple(size or 0 for size in shape)
