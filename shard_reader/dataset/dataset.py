"""The records of a split, and subsets of them."""

from __future__ import annotations

import hashlib
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.dataset.columns.conditions import as_text, tests_of
from shard_reader.dataset.manifests import read_manifest
from shard_reader.dataset.sampling.stored import StoredRecords
from shard_reader.dataset.shown.display import Gallery, overview
from shard_reader.errors import ShardsError
from shard_reader.format.fields import MAX_PIXELS, Field
from shard_reader.format.manifest import Generation, Manifest, ShardTable, Split
from shard_reader.order.record_order import Shuffle
from shard_reader.order.remaining import Remaining
from shard_reader.remote.client import StoreClient
from shard_reader.shards.local_shards import LocalShards
from shard_reader.shards.located import Located
from shard_reader.shards.remote_shards import RemoteShards
from shard_reader.shards.shard import MOST_OPEN, OpenShard
from shard_reader.shards.source import Shards

__all__ = ["Dataset", "shards_of_split"]

_BLOCK = 1 << 16  # records that `where` tests together


class Dataset(StoredRecords):
    """The records of one split, by number. Made by `open_dataset`; safe to share between threads.

    `len(data)` is the number of records, `data[i]` is record `i` as a dictionary.
    """

    def __init__(
        self,
        path: str | Path,
        manifest: Manifest,
        split: str,
        format: str,
        shards: LocalShards | RemoteShards,
        prefetch_bytes: int,
        withdrawn: NDArray[np.int64] | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.split = split
        self.format = format
        self._fields = {**manifest.fields, "id": Field(dtype="string")}
        self._ends = np.cumsum(manifest.splits[split].shards.records)
        self._starts = np.concatenate([np.zeros(1, np.int64), self._ends])  # of each shard, and the end of the last
        self._shards, self._prefetch_bytes = shards, prefetch_bytes
        self.remaining = Remaining(np.empty(0, np.int64) if withdrawn is None else withdrawn)
        self._remaining = self.remaining if len(self.remaining.withdrawn) else None
        self._chosen: NDArray[np.int64] | None = None  # after `select`: each record's number among those that remain
        self._whole: Dataset | None = None  # after `select`: the whole split
        self._choices: tuple[str, ...] = ()  # after `select`: the calls, for people

    @cached_property
    def _end_list(self) -> list[int]:
        # As a list, since a single record is found in it in a twentieth of the time that NumPy takes.
        return self._ends.tolist()  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """Plain values that any later version can read."""
        # A subset refers to its whole dataset, so that subsets pickled together share shards and cache in the copy,
        # too.
        if self._whole is not None:
            return {"whole": self._whole, "chosen": self._chosen, "choices": self._choices}
        remote = self._shards if isinstance(self._shards, RemoteShards) else None
        return {
            "path": self.path,
            "manifest": self.manifest.to_json(),
            "split": self.split,
            "format": self.format,
            "store": None if remote is None else (remote.store.place, remote.store.retry_for),
            "cache": None if remote is None else remote.cache_options,
            "prefetch_bytes": self._prefetch_bytes,
            "max_pixels": self._shards.max_pixels,
            "withdrawn": None if self._remaining is None else self._remaining.withdrawn,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "whole" in state:
            self._choose(state["whole"], state["chosen"], tuple(state.get("choices", ())))
            return
        path, split, format = state["path"], state["split"], state["format"]
        if "_shards" in state:  # see `old_pickles.py`
            manifest, shards, prefetch_bytes = state["manifest"], state["_shards"], state["_ahead_bytes"]
            tables = {name: ShardTable.of(split.shards) for name, split in manifest.splits.items()}
            splits = {
                name: Split(records=split.records, shards=tables[name], classes=split.classes)
                for name, split in manifest.splits.items()
            }
            # Not `replace`, which needs the attributes that came later.
            object.__setattr__(manifest, "splits", splits)
            object.__setattr__(manifest, "generations", ())
        else:
            manifest, prefetch_bytes = Manifest.from_json(state["manifest"], checked=False), state["prefetch_bytes"]
            store = None if state["store"] is None else StoreClient(*state["store"])
            most = state.get("max_pixels", MAX_PIXELS)
            shards = shards_of_split(path, manifest, split, format, store, state["cache"], most)
        withdrawn = state.get("withdrawn")
        self.__init__(path, manifest, split, format, shards, prefetch_bytes, withdrawn)  # type: ignore[misc]
        if state.get("_chosen") is not None:
            whole = Dataset(path, manifest, split, format, shards, prefetch_bytes)
            self._choose(whole, state["_chosen"], ())

    def __repr__(self) -> str:
        if self._whole is not None:
            choices = "".join(f", {choice}" for choice in self._choices)
            return f"Subset({len(self)} records of {self._whole!r}{choices})"
        return f"Dataset({self._shown!r}, split={self.split!r}, format={self.format!r}, {len(self)} records)"

    def _repr_html_(self) -> str:
        return overview(self, self.manifest.splits, self.split if self._whole is None else "", self.manifest.formats)

    def __len__(self) -> int:
        return self.manifest.splits[self.split].records if self._chosen is None else len(self._chosen)

    @property
    def _shown(self) -> str:
        """Its path, or its URL without secrets."""
        return self._shards.store.uri("") if isinstance(self._shards, RemoteShards) else str(self.path)

    @property
    def remote_shards(self) -> set[RemoteShards]:
        """Its shards, if they are in a store."""
        return {self._shards} if isinstance(self._shards, RemoteShards) else set()

    def shards_of(self, records: NDArray[np.int64]) -> list[tuple[Shards, NDArray[np.int64], NDArray[np.int64]]]:
        in_shard = np.searchsorted(self._ends, self._stored(records), "right")
        return [(self._shards, in_shard, np.arange(len(records)))]

    def stored_ids(self, numbers: NDArray[np.int64]) -> list[bytes]:
        """The ids of records by their numbers in the shards of the split, int64 `[n]`, also of withdrawn ones."""
        in_shard = np.searchsorted(self._ends, numbers, "right")
        located = self._shards.locate(in_shard, numbers - self._starts[in_shard])
        return [shard.holding(row, ["id"]).id(row) for shard, row in map(located.shard, range(len(numbers)))]

    def _stored(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of records in the shards of the split, both int64 `[n]`."""
        numbers = records if self._chosen is None else self._chosen[records]
        return numbers if self._remaining is None else self._remaining.numbers(numbers)

    @property
    def prefetch_bytes(self) -> int:
        """The bytes of remote records that may be in memory before they are used."""
        return self._prefetch_bytes

    @property
    def fields(self) -> Mapping[str, Field]:
        """The type of each field of a record. There is always an `id`: FILE:ROW where no ids are stored."""
        return self._fields

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each label, or None where the inputs had no classes."""
        return self.manifest.class_names

    @property
    def fingerprint(self) -> str:
        """The identity of these records: the same for both formats, another for other inputs, options or subsets."""
        whole = f"{self.manifest.fingerprint.digest}/{self.split}"
        if self._chosen is None:
            return whole
        return f"{whole}/{hashlib.sha256(self._chosen.astype('<i8').tobytes()).hexdigest()[:16]}"

    @property
    def generation(self) -> int:
        """The number of the dataset's generation, from 1."""
        return self.manifest.generation

    def generation_of(self, fingerprint: str) -> Generation | None:
        """The generation of this dataset whose records have a fingerprint; None if no generation has it."""
        try:
            found = self.generations()
        except (ShardsError, OSError):  # the dataset is gone: its own manifest is known
            found = self.manifest.history
        digest = fingerprint.partition("/")[0]
        return next((one for one in found if one.fingerprint.digest == digest), None)

    def generations(self) -> tuple[Generation, ...]:
        """All generations that the dataset has now, the newest last. Reads `dataset.json` again.

        Raises:
            DatasetError: the dataset is gone.
            StoreError: the store does not answer.

        Examples:
            >>> [(one.number, one.made, one.records) for one in data.generations()]  # doctest: +SKIP
            [(1, 'prepare', 270), (2, 'append', 290)]
        """
        store = self._shards.store if isinstance(self._shards, RemoteShards) else None
        return read_manifest(self._shown, None if store else Path(self.path), store).history

    @property
    def shard_count(self) -> int:
        """The number of shards in the split."""
        return len(self._ends)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"split {self.split!r} of {self._shown}"

    def select(self, records: Iterable[int] | NDArray[Any]) -> Dataset:
        """A dataset of some of the records.

        Args:
            records: their numbers, in the order of the new dataset, or a mask, bool `[len(data)]`.

        Raises:
            IndexError: there is no such record.
            TypeError: `records` are neither integers nor bools.
            ValueError: the mask has another length, or there is more than one dimension.

        Examples:
            >>> small = data.select(range(1000))  # doctest: +SKIP
        """
        return self._subset(records, "selected")

    def _subset(self, records: Iterable[int] | NDArray[Any], choice: str) -> Dataset:
        """As `select`, with words for the choice."""
        numbers = np.asarray(records if isinstance(records, np.ndarray | Sequence) else list(records))
        if numbers.ndim != 1:
            raise ValueError(f"records has the shape {numbers.shape}: pass numbers, or a mask of {len(self)}")
        if numbers.dtype == bool:
            if len(numbers) != len(self):
                raise ValueError(f"the mask has {len(numbers)} values for {len(self)} records of {self.name}")
            numbers = np.flatnonzero(numbers)
        elif len(numbers) and not np.issubdtype(numbers.dtype, np.integer):
            raise TypeError(f"records has the type {numbers.dtype}: pass numbers, or a mask of bools")
        wrong = numbers[(numbers < -len(self)) | (numbers >= len(self))]
        if len(wrong):
            raise IndexError(f"record {wrong[0]} of {len(self)} in {self.name}")
        numbers = numbers.astype(np.int64)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        other = Dataset.__new__(Dataset)
        whole = self if self._whole is None else self._whole
        choices = self._choices if choice in self._choices[-1:] else (*self._choices, choice)
        other._choose(whole, numbers if self._chosen is None else self._chosen[numbers], choices)
        return other

    def where(self, **conditions: Any) -> Dataset:
        """A dataset of the records whose fields have these values, in stored order.

        Args:
            conditions: for each field a value, several values of which one must match, or a function from the
                field's values, `[n]` (texts are `bytes`), to a mask. A label may be the name of its class.

        Raises:
            ValueError: there is no such field or class, or the field is not a single value.

        Examples:
            >>> pets = data.where(label=["cat", "dog"], width=lambda width: width >= 256)  # doctest: +SKIP
        """
        return self._subset(self._matches(conditions), as_text(conditions))

    def _matches(self, conditions: Mapping[str, Any]) -> NDArray[np.int64]:
        """The numbers of the records that pass all conditions, int64 `[n]`."""
        tests = tests_of(conditions, self.fields, self.class_names, self._shown)
        found = []
        for start in range(0, len(self), _BLOCK):
            numbers = np.arange(start, min(start + _BLOCK, len(self)), dtype=np.int64)
            for name, test in tests.items():
                numbers = numbers[test(self.column(name, numbers))] if len(numbers) else numbers
            found.append(numbers)
        return np.concatenate([np.empty(0, np.int64), *found])

    def show(self, n: int = 12, *, where: Mapping[str, Any] | None = None, seed: int = 0) -> Gallery:
        """Some records with their pictures, for a notebook; in a terminal, a line for each.

        Labels are under the pictures; mask, boxes and keypoints are drawn on them. A damaged record shows its damage.

        Args:
            n: number of records, at most 200; all, if there are fewer.
            where: conditions on the records, by the names of fields, as `data.where` takes them.
            seed: decides which records.

        Raises:
            ValueError: a value is out of range, or there is no such field or class.
            TypeError: a value is not an integer.

        Examples:
            >>> data.show(20, where={"label": "cat"})  # doctest: +SKIP
        """
        if not where:
            return self._gallery(n, seed)
        numbers = self._matches(where)
        return self._gallery(n, seed, self._subset(numbers, as_text(where)), numbers)

    def locate(self, records: NDArray[np.int64]) -> Located:
        # Numbers are checked here and nowhere later: images are gathered by address, from the memory that they name.
        self._check_numbers(records)
        numbers = self._stored(records)
        in_shard = np.searchsorted(self._ends, numbers, "right")
        return self._shards.locate(in_shard, numbers - self._starts[in_shard])

    def close(self) -> None:
        self._shards.close()

    def shard_records(self) -> NDArray[np.int64]:
        """The number of records of each shard, of those that this dataset gives, in order, int64 `[shard_count]`.

        Raises:
            ValueError: the records are not in stored order.
        """
        ends = self._ends if self._remaining is None else self._remaining.ends(self._ends)
        if self._chosen is not None:
            if np.any(self._chosen[1:] < self._chosen[:-1]):
                raise ValueError('shuffle="window" needs records in stored order: sort the numbers for select')
            ends = np.searchsorted(self._chosen, ends)
        return np.diff(ends, prepend=0)

    def _check_room(self, shuffle: Shuffle, batch_size: int, lanes: int, window: int) -> None:
        if not isinstance(self._shards, RemoteShards):
            if shuffle == "full" and self.shard_count > MOST_OPEN:
                warnings.warn(
                    f'shuffle="full" over {self.shard_count:,} shards, of which {MOST_OPEN:,} stay open, opens a shard'
                    ' for nearly every record, which takes longer than to read a raw image: take shuffle="window", or'
                    " make larger shards (--shard-bytes)",
                    RuntimeWarning,
                    stacklevel=3,
                )
            return
        # A lane uses the shards of one window, and of the next one while its records are fetched in advance.
        if shuffle == "window":
            what = f'shuffle="window" with {lanes} lanes here, of windows over {window} shards,'
            needed, mixed = lanes * (window + 1), lanes * window
        elif shuffle == "full":
            what, needed, mixed = 'shuffle="full"', self.shard_count, self.shard_count
        else:
            # The shards of a batch, and one more, since a batch may begin in the middle of a shard.
            what, mixed = 'shuffle="none"', 0
            needed = 1 + -(-batch_size * self.shard_count // max(1, len(self)))
        self._shards.check_room(what, needed, self._prefetch_bytes, mixed)

    def _locate_one(self, number: int) -> tuple[OpenShard, int]:
        """As `locate`, faster."""
        number = number if self._chosen is None else int(self._chosen[number])
        number = number if self._remaining is None else self._remaining.number(number)
        shard = bisect_right(self._end_list, number)
        row = number - int(self._starts[shard])
        return self._shards.record(shard, row), row

    def _choose(self, whole: Dataset, chosen: NDArray[np.int64], choices: tuple[str, ...]) -> None:
        """Become some records of a split, by their numbers in it."""
        self.__dict__.update(whole.__dict__)
        self._whole, self._chosen, self._choices = whole, chosen, choices


def shards_of_split(
    path: str | Path,
    manifest: Manifest,
    split: str,
    format: str,
    store: StoreClient | None,
    cache: tuple[Path, int | None] | None,
    max_pixels: int = MAX_PIXELS,
) -> LocalShards | RemoteShards:
    """The shards of a split: files below `path` or, with `store`, files in a store.

    Args:
        cache: a directory on a local disk, and its maximum size in bytes.
        max_pixels: the most pixels of an encoded image.
    """
    shards = manifest.splits[split].shards
    if store is None:
        return LocalShards(Path(path), shards, manifest.fields, format, max_pixels)
    return RemoteShards(store, shards, manifest.fields, format, cache, max_pixels)
