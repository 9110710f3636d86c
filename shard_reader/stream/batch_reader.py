"""From positions to batches: records are looked up, and their fields become arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import IMAGE, size_columns
from shard_reader.order.batches import BatchOrder
from shard_reader.order.coverage import Coverage
from shard_reader.order.record_set import RecordSet
from shard_reader.printable import printable
from shard_reader.remote.stats import Counters, Stats
from shard_reader.shards.cache_schedule import CacheSchedule
from shard_reader.shards.fetch import Fetch, fetch, needed_bytes
from shard_reader.shards.shard import MOST_LOOKED_UP
from shard_reader.shards.source import RecordSource
from shard_reader.stream.arrays import lists
from shard_reader.stream.arrays.chains import chains
from shard_reader.stream.arrays.joint import Joint
from shard_reader.stream.arrays.lookup import Lookup, PendingBatch
from shard_reader.stream.arrays.objects import Objects, moving_fields
from shard_reader.stream.arrays.threads import CallingThread, Threads
from shard_reader.stream.images import batch_images
from shard_reader.stream.options import ReadOptions, chosen_workers
from shard_reader.system.buffers import Buffers

__all__ = ["Batch", "BatchReader", "Made", "Skipped", "Spec"]

Batch = dict[str, NDArray[Any]]

# Records that are looked up at a time. The arithmetic in NumPy costs as much for 256 positions as for 4,096, so a
# lookup spans many batches; memory is not free, so it does not span more than that takes.
_LOOKUP_RECORDS = 1 << 13


class Spec(NamedTuple):
    """Dtype and shape of one record in a batch: "string" for `bytes`, "list" for lists of any length."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A damaged record with weight 0: its number, and the damage."""

    record: int
    reason: str


class Made(NamedTuple):
    """A batch that is made: its step in the epoch, the coverage of its records, and the damaged ones in it."""

    step: int
    coverage: Coverage
    batch: Batch
    skipped: list[Skipped]


class BatchReader:
    """Makes the batches of a stream.

    Args:
        data: the records.
        order: the records of each batch.
        seed: the seed of random transforms.
        readers: number of readers, in as many processes, that share the memory for remote bytes.

    Attributes:
        workers: the kind of workers that make the batches of a loop. With processes, this reader works in the thread
            that calls it.
    """

    def __init__(
        self, data: RecordSource, order: BatchOrder, seed: int, options: ReadOptions, *, readers: int = 1
    ) -> None:
        self._data, self._order, self.options = data, order, options
        self._prefetch_bytes = data.prefetch_bytes // readers
        self._counters = Counters()
        self.fields = _check_fields(data, options.fields)
        self._check_names()
        self._fields = fields = {name: data.fields[name] for name in self.fields}
        self._values = {name: field for name, field in fields.items() if not (field.is_image or field.in_index)}
        found = chains(data, fields, options.image, options.transform)
        first, joint, transforms = found.first, found.joint, found.images
        self.workers = chosen_workers(options.workers, found.given, found.following)
        if self.workers == "processes":
            transforms = {name: transform.seeded() for name, transform in transforms.items()}
        self._threads = CallingThread() if self.workers == "processes" else Threads(options.threads)
        self._images = batch_images(data, order, transforms, seed, options, self._threads, joined=found.together)
        self._joint = None if joint is None else Joint(fields, found.together, joint, len(first.steps), seed)
        moves = not first.keeps_places and bool(moving_fields(fields))
        self._objects = Objects(fields, first, seed) if moves else None
        # Further images, boxes and points move as the record's first image does, by its size.
        sizes = size_columns(IMAGE) if moves or any(name != IMAGE for name in transforms) else ()
        self._columns = {name: field for name, field in fields.items() if field.is_image or field.in_index}
        self._columns |= {name: data.fields[name] for name in sizes}
        # The images that were checked, where once is enough: a damaged record that is skipped is found in each epoch.
        once = bool(self._images) and options.verify in (None, "first-epoch") and options.on_error == "raise"
        self._checked = RecordSet(len(data)) if once else None

    @property
    def most_records(self) -> int:
        """The most records to look up at a time."""
        # Each record may be in a shard of its own, and two lookups are in use at a time.
        return _LOOKUP_RECORDS if self._data.shard_count <= MOST_LOOKED_UP else MOST_LOOKED_UP

    @property
    def specs(self) -> dict[str, Spec]:
        """Each array of a batch, in order."""
        self._probe_joined()
        specs = {}
        for name in self.fields:
            field, ragged = self._data.fields[name], self.options.ragged
            if field.is_image:
                specs[name] = Spec(self._images[name].dtype.name, self._images[name].array_shape)
            elif field.is_fixed:
                specs[name] = Spec("string" if field.dtype == "bytes" else field.dtype, field.shape)
            elif ragged == "list":
                specs[name] = Spec("list", ())
            else:
                size = None if ragged == "pad" else ragged
                specs[name] = Spec(field.dtype, (size, *field.shape[1:]))
                specs[f"{name}/mask"] = Spec("bool", (size,))
        return specs | {"weight": Spec("float32", ())}

    @property
    def probed_images(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of each image that was made since only a transform's result shows them."""
        return {name: images.probed for name, images in self._images.items() if images.probed is not None}

    @probed_images.setter
    def probed_images(self, found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        for name, probed in found.items():
            self._images[name].probed = probed

    def lookup(self, epoch: int, first: int, stop: int) -> Lookup:
        """Look up the batches of steps `first` to `stop`, without it."""
        return self._filled(self._located(epoch, first, stop))

    def prefetch_lookup(
        self, epoch: int, first: int, stop: int, wanted_steps: range, previous: Fetch | None
    ) -> tuple[Lookup, int]:
        """As `lookup`, shortened where the remote bytes would exceed the memory for them; and the step after it.

        Args:
            wanted_steps: the steps whose batches are made. For other steps nothing is fetched.
            previous: requests that are under way for the previous lookup.
        """
        found, share = self._located(epoch, first, stop), self._order.share
        wanted = _are_wanted(first, stop, wanted_steps).repeat(share)[: len(found.records)]
        needed = np.cumsum(needed_bytes(found.located, self.fields) * wanted)
        # Half of the budget, since two lookups are in memory at a time. A single step always fits: else none would
        # come.
        most = int(np.searchsorted(needed, self._prefetch_bytes // 2, "right")) // share
        if 0 < most < stop - first or (most == 0 and stop - first > 1):
            stop = first + max(1, most)
            end = (stop - first) * share
            found, wanted = found.up_to(end), wanted[:end]
        return self._filled(found, None if wanted.all() else wanted, previous), stop

    def records_in_budget(self, lookup: Lookup) -> int:
        """The number of records, of the size of those in a lookup, that may be in memory before they are used."""
        needed = int(needed_bytes(lookup.located, self.fields).sum())
        return max(self._order.share, len(lookup.records) * (self._prefetch_bytes // 2) // max(1, needed))

    def cache_schedule(self, epoch: int, wanted_steps: range) -> CacheSchedule | None:
        """The schedule by which the shards of some steps come into the cache; None without a cache."""
        if all(shards.cache is None for shards in self._data.remote_shards):
            return None
        return CacheSchedule(self._data, self._order, epoch, wanted_steps.start, wanted_steps.step)

    def lookup_records(self, records: NDArray[np.int64], epoch: int) -> Lookup:
        """Look up records by number, `[n]`. Their numbers stand for their positions."""
        weights, located = np.ones(len(records), np.float32), self._data.locate(records)
        found = Lookup(epoch=epoch, first=0, positions=records, records=records, weights=weights, located=located)
        return self._filled(found)

    def places(self, lookup: Lookup, step: int) -> range:
        """The places of the records of a step in a lookup."""
        share, end = self._order.share, len(lookup.records)
        return range(min(end, (step - lookup.first) * share), min(end, (step - lookup.first + 1) * share))

    @property
    def has_checked_all(self) -> bool:
        """Whether every image was checked, and is not checked again."""
        return self._checked is not None and self._checked.is_full

    @has_checked_all.setter
    def has_checked_all(self, is_known: bool) -> None:
        if is_known and self._checked is not None:
            self._checked.add_all()

    def note_checked(self, epoch: int, step: int) -> None:
        """Note that another process has made a batch, and checked its images."""
        if self._checked is not None and not self._checked.is_full:
            self._checked.add(self._order.records_of(epoch, step, step + 1))

    def begin(self, lookup: Lookup, places: range, *, cold: bool) -> PendingBatch:
        """Have threads make a batch of the records at these places of the lookup.

        Args:
            cold: announce the batch's bytes to the kernel.
        """
        pending = PendingBatch(lookup, places, self._verifies(lookup, places))
        for images in self._images.values():
            images.begin(pending, cold=cold)
        return pending

    def finish(self, pending: PendingBatch) -> tuple[Batch, list[Skipped]]:
        """The batch, when it is done, and the damaged records in it.

        Raises:
            CorruptionError: a record is damaged, and damaged records are not skipped.
            StoreError: the store does not answer.
        """
        try:
            self.stalled(pending.wait())
            return self._finished(pending)
        except BaseException:
            # Also after Ctrl-C: a thread that waits for the batch's bytes would keep Python from exiting.
            pending.cancel()
            raise

    def _finished(self, pending: PendingBatch) -> tuple[Batch, list[Skipped]]:
        batch: Batch = {}
        values = {name: lists.values(pending, name, field) for name, field in self._values.items()}
        if self._objects is not None:
            self._objects.move(pending, values)
        if self._joint is not None:
            self._probe_joined()
            for name, images in self._joint.run(pending, values).items():
                self._images[name].take_joined(pending, images)
        for name, field in self._fields.items():
            if name in self._images:
                batch[name] = self._images[name].finish(pending)
            elif name in values:
                batch |= lists.as_batch(pending, name, field, values[name], self.options.ragged)
            else:
                batch[name] = lists.fixed(pending, name, field)
        if not self._images:
            pending.fail_where_closed()
        weights = pending.lookup.weights[pending.places.start : pending.places.stop].copy()
        skipped = self._skip_damaged(pending, weights)
        if pending.verify and self._checked is not None:
            self._checked.add(pending.lookup.records[pending.places.start : pending.places.stop])
        return batch | {"weight": weights}, skipped

    def _probe_joined(self) -> None:
        """Have a record show shape and dtype of the images that another library makes of it: the first sound one."""
        if self._joint is None or all(self._images[name].probed is not None for name in self._joint.images):
            return
        for record in range(len(self._data)):
            pending = self.begin(self.lookup_records(np.array([record]), 0), range(1), cold=False)
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
            is_skipped = self.options.on_error == "skip" and all(isinstance(error, CorruptionError) for error in errors)
            if errors and (not is_skipped or record == len(self._data) - 1):
                raise errors[0]
            if not errors:
                for name, images in results.items():
                    self._images[name].probe_joined(images[0])
                return

    @property
    def is_remote(self) -> bool:
        """Whether some of the data is remote."""
        return bool(self._data.remote_shards)

    def stalled(self, seconds: float) -> None:
        """Count the time for which a loop has waited for bytes."""
        if seconds:
            self._counters.add(stalled_seconds=seconds)

    def count(self, more: Stats) -> None:
        """Count what another process fetched for this reader."""
        self._counters.add(**{one.name: getattr(more, one.name) for one in dataclasses.fields(more)})

    @property
    def counted(self) -> Stats:
        """The time for which loops of this process have waited for bytes, and what other processes have fetched."""
        return self._counters.total

    @property
    def fixed_bytes(self) -> dict[str, int]:
        """The bytes of each array of numbers in a batch, where every batch has the same."""
        return {
            name: self._order.most * math.prod(size or 0 for size in spec.shape) * np.dtype(spec.dtype).itemsize
            for name, spec in self.specs.items()
            if spec.dtype not in ("string", "list") and None not in spec.shape
        }

    def take_memory_of(self, buffers: Mapping[str, Buffers]) -> None:
        """Have image fields of batches lie in such memory."""
        for name in buffers.keys() & self._images.keys():
            self._images[name].take_memory_of(buffers[name])

    def close(self) -> None:
        """Stop the threads and free the buffers that nobody holds."""
        self._threads.close()
        for images in self._images.values():
            images.close()

    def _verifies(self, lookup: Lookup, places: range) -> bool:
        """Whether the images at some places are checked against their checksums."""
        if self._checked is None:
            return self.options.verify == "always" or self.options.on_error == "skip"
        return not self._checked.is_full and bool(self._checked.lacks(lookup.records[places.start : places.stop]).any())

    def _located(self, epoch: int, first: int, stop: int) -> Lookup:
        """The records of some steps, and their places in the shards."""
        positions = self._order.positions(first, stop)
        records = self._order.record_order.at(epoch, positions)
        return Lookup(
            epoch=epoch,
            first=first,
            positions=positions,
            records=records,
            weights=self._order.weights(positions),
            located=self._data.locate(records),
        )

    def _filled(self, found: Lookup, wanted: NDArray[np.bool_] | None = None, previous: Fetch | None = None) -> Lookup:
        """A lookup with the values from the indexes, and with requests under way for its remote bytes."""
        most = self._prefetch_bytes // 2
        located, fetching = found.located, None
        if self.is_remote:
            located, fetching = fetch(located, self.fields, wanted=wanted, previous=previous, most_bytes=most)
        columns = located.columns(self._columns)
        found = replace(found, located=located, columns=columns, fetch=fetching)
        if fetching is not None or not columns:
            return found
        mapped = {name: images.payloads(found) for name, images in self._images.items()}
        return replace(found, mapped=mapped) if mapped else found

    def _skip_damaged(self, pending: PendingBatch, weights: NDArray[np.float32]) -> list[Skipped]:
        """The skipped records of a batch; their weights become 0."""
        skipped = []
        for place, error in pending.take_failures():
            if self.options.on_error == "raise" or not isinstance(error, CorruptionError):
                raise error
            # A record that pads the batch has weight 0 already, and is reported where it is not padding.
            if weights[place - pending.places.start]:
                weights[place - pending.places.start] = 0
                skipped.append(Skipped(int(pending.lookup.records[place]), str(error)))
        return skipped

    def _check_names(self) -> None:
        """Check that no field has the name of another array of the batch."""
        padded = () if self.options.ragged == "list" else self.fields
        reserved = {"weight", *(f"{name}/mask" for name in padded if not self._data.fields[name].is_fixed)}
        for name in self.fields:
            if name in reserved:
                raise ValueError(
                    f"fields={list(self.fields)!r}: {name!r} is a name of the batch itself; read the field with"
                    f" data.column({name!r}, numbers)"
                )


def _are_wanted(first: int, stop: int, wanted_steps: range) -> NDArray[np.bool_]:
    """Whether the batch of each step from `first` to `stop` is made."""
    wanted: NDArray[np.bool_] = (np.arange(first, stop) - wanted_steps.start) % wanted_steps.step == 0
    return wanted


def _check_fields(data: RecordSource, fields: Iterable[str] | None) -> tuple[str, ...]:
    if fields is None:
        return (IMAGE, "label") if "label" in data.fields else (IMAGE,)
    names = tuple(dict.fromkeys(fields))
    for name in names:
        if name not in data.fields:
            raise ValueError(f"fields={list(names)!r}: {name!r} is not one of {printable(', '.join(data.fields))}")
    return names
