"""From positions to batches: records are looked up, their images checked, and damaged ones skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import IMAGE
from shard_reader.mixing import MIXING, as_mixings, mixing_of
from shard_reader.order.batches import BatchOrder
from shard_reader.order.coverage import Coverage
from shard_reader.order.record_set import RecordSet
from shard_reader.order.shuffle import key
from shard_reader.printable import printable
from shard_reader.shards.cache_schedule import CacheSchedule
from shard_reader.shards.fetch import Fetch, fetch, needed_bytes
from shard_reader.shards.shard import MOST_LOOKED_UP
from shard_reader.shards.source import RecordSource
from shard_reader.stream.arrays.batch_arrays import Batch, BatchArrays, ProbedImages, Spec
from shard_reader.stream.arrays.chains import Chains, chains
from shard_reader.stream.arrays.lookup import Lookup, PendingBatch
from shard_reader.stream.arrays.options import ReadOptions, Workers, chosen_workers
from shard_reader.stream.arrays.threads import CallingThread, Threads
from shard_reader.system.buffers import Buffers
from shard_reader.system.stats import Counters
from shard_reader.transforms.draws import Draws

__all__ = ["Batch", "BatchReader", "Made", "Skipped", "Spec"]

# Records that are looked up at a time. The arithmetic in NumPy costs as much for 256 positions as for 4,096, so a
# lookup spans many batches; memory is not free, so it does not span more than that takes.
_LOOKUP_RECORDS = 1 << 13


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
        counters: the work of this process, and of its worker processes.
    """

    def __init__(
        self, data: RecordSource, order: BatchOrder, seed: int, options: ReadOptions, *, readers: int = 1
    ) -> None:
        self._data, self._order, self.options = data, order, options
        self._prefetch_bytes = data.prefetch_bytes // readers
        self.counters, self._seed, self._mixings = Counters(), seed, as_mixings(options.mixing)
        self.fields = _check_fields(data, options.fields)
        self._check_names()
        if self._mixings and IMAGE not in self.fields:
            raise ValueError(f"mixing={options.mixing!r}: mixes {IMAGE!r}, which is not among fields={self.fields!r}")
        self._fields = fields = {name: data.fields[name] for name in self.fields}
        found = [
            chains(data, fields, image, transform) for image, transform in options.transforms_of(data.bucket_sizes)
        ]
        kinds = [chosen_workers(options.workers, one.given, one.following) for one in found]
        self.workers: Workers = "processes" if "processes" in kinds else "threads"
        self._threads = CallingThread() if self.workers == "processes" else Threads(options.threads)
        self._arrays = tuple(self._arrays_of(one, seed) for one in found)
        self._columns = {name: field for name, field in fields.items() if field.is_image or field.in_index}
        self._columns |= {name: data.fields[name] for arrays in self._arrays for name in arrays.sizes}
        # The images that were checked, where once is enough: a damaged record that is skipped is found in each epoch.
        once = (
            any(field.is_image for field in fields.values())
            and options.verify in (None, "first-epoch")
            and options.on_error == "raise"
        )
        self._checked = RecordSet(len(data)) if once else None

    @property
    def most_records(self) -> int:
        """The most records to look up at a time."""
        # Each record may be in a shard of its own, and two lookups are in use at a time.
        return _LOOKUP_RECORDS if self._data.shard_count <= MOST_LOOKED_UP else MOST_LOOKED_UP

    @property
    def specs(self) -> dict[str, Spec]:
        """Each array of a batch, in order. A side of images that differs between batches is None."""
        first, *others = (arrays.specs for arrays in self._probed())
        for other in others:
            first = {name: _common(spec, other[name]) for name, spec in first.items()}
        return first

    @property
    def probed_images(self) -> list[ProbedImages]:
        """Shape and dtype of each image that was made since only a transform's result shows them, for each size."""
        return [arrays.probed_images for arrays in self._arrays]

    @probed_images.setter
    def probed_images(self, found: Sequence[ProbedImages]) -> None:
        for arrays, probed in zip(self._arrays, found, strict=False):
            arrays.probed_images = probed

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
        pending = PendingBatch(lookup, places, self._verifies(lookup, places), self.counters, is_cold=cold)
        self._arrays_for(pending).begin(pending, cold=cold)
        return pending

    def finish(self, pending: PendingBatch) -> tuple[Batch, list[Skipped]]:
        """The batch, when it is done, and the damaged records in it.

        Raises:
            CorruptionError: a record is damaged, and damaged records are not skipped.
            StoreError: the store does not answer.
        """
        try:
            if stalled := pending.wait():
                self.counters.add(stalled_seconds=stalled)
            return self._finished(pending)
        except BaseException:
            # Also after Ctrl-C: a thread that waits for the batch's bytes would keep Python from exiting.
            pending.cancel()
            raise

    def _finished(self, pending: PendingBatch) -> tuple[Batch, list[Skipped]]:
        arrays = self._arrays_for(pending)
        arrays.probe_joined(self._pending_of)
        batch = arrays.finish(pending)
        weights = pending.lookup.weights[pending.places.start : pending.places.stop].copy()
        skipped = self._skip_damaged(pending, weights)
        if pending.verify and self._checked is not None:
            self._checked.add(pending.lookup.records[pending.places.start : pending.places.stop])
        if self._mixings:
            batch[MIXING] = self._mixing(pending, batch, weights)
        return batch | {"weight": weights}, skipped

    def _mixing(self, pending: PendingBatch, batch: Batch, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """The numbers by which the records of a batch are mixed: those of its step, the same for all ranks."""
        lookup, place = pending.lookup, pending.places.start
        step = int(lookup.positions[place]) // self._order.batch_size if len(weights) else 0
        draws = Draws(key(self._seed, lookup.epoch, MIXING), step)
        height, width = batch[IMAGE].shape[1:3]
        return mixing_of(self._mixings, draws, height, width, weights)

    @property
    def is_remote(self) -> bool:
        """Whether some of the data is remote."""
        return bool(self._data.remote_shards)

    @property
    def worker_threads(self) -> int:
        """The number of threads that make batches; 0 where the thread of the loop does."""
        # Remote images are copied one by one, by threads.
        is_pool = any(arrays.has_images and (self.is_remote or not arrays.is_gathered) for arrays in self._arrays)
        return self._threads.count if is_pool and self.workers == "threads" else 0

    @property
    def fixed_bytes(self) -> dict[str, int]:
        """The most bytes of each array of numbers in a batch, where lengths of lists do not change them."""
        first, *others = (arrays.fixed_bytes for arrays in self._probed())
        return {name: max([size, *(other[name] for other in others)]) for name, size in first.items()}

    def take_memory_of(self, buffers: Mapping[str, Buffers]) -> None:
        """Have image fields of batches lie in such memory."""
        for arrays in self._arrays:
            arrays.take_memory_of(buffers)

    def close(self) -> None:
        """Stop the threads and free the buffers that nobody holds."""
        self._threads.close()
        for arrays in self._arrays:
            arrays.close()

    def _arrays_of(self, found: Chains, seed: int) -> BatchArrays:
        return BatchArrays(
            self._data,
            self._order,
            self._fields,
            found,
            seed,
            self.options,
            self._threads,
            is_seeded=self.workers == "processes",
        )

    def _probed(self) -> tuple[BatchArrays, ...]:
        """The makers of all sizes, when the images that other libraries make are known."""
        # They hold no reader that they could ask: in a circle, a stream would keep its shards until Python collects it.
        for arrays in self._arrays:
            arrays.probe_joined(self._pending_of)
        return self._arrays

    def _pending_of(self, record: int) -> PendingBatch:
        """A batch of one record, not begun."""
        lookup = self.lookup_records(np.array([record]), 0)
        return PendingBatch(lookup, range(1), self._verifies(lookup, range(1)), self.counters)

    def _arrays_for(self, pending: PendingBatch) -> BatchArrays:
        """The maker of a batch, by the image size of its records.

        Raises:
            ValueError: they are of several sizes.
        """
        if len(self._arrays) == 1 or len(pending.places) == 0:
            return self._arrays[0]
        records = pending.lookup.records[pending.places.start : pending.places.stop]
        sizes = self._data.buckets_of(records)
        other = np.flatnonzero(sizes != sizes[0])
        if len(other):
            raise ValueError(
                f"records {records[0]} and {records[other[0]]} of {self._data.name} have images of different sizes, and"
                " are no batch: take those of one size"
            )
        return self._arrays[int(sizes[0])]

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
            weights=self._order.weights(epoch, positions),
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
        mapped = self._arrays[0].payloads(found)
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
        reserved |= {MIXING} if self._mixings else set()
        reserved |= set() if self.options.decode else {f"{IMAGE}/box", f"{IMAGE}/flip"}
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


def _common(one: Spec, other: Spec) -> Spec:
    """The spec of arrays of either: sides that differ are None."""
    shape = tuple(size if size == another else None for size, another in zip(one.shape, other.shape, strict=True))
    return Spec(one.dtype, shape)
