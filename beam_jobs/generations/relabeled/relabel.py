"""`image-shards relabel`: a generation with new labels or fields, by id. No image and no shard is touched.

Each shard with a changed record gets a new index, which has the new values. The table is matched with the records by
the hashes of their ids, in buckets on disk, and each shard is then a task of its own.
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs.external_sort import Spill, add_hashes
from beam_jobs.generations.growth import Growth, changed_fingerprint, grown
from beam_jobs.generations.relabeled.changed_rows import ChangedRows
from beam_jobs.generations.relabeled.match import Changes, Types, match
from beam_jobs.generations.relabeled.shard import ShardOf, ShardPlan, relabel_shard
from beam_jobs.generations.relabeled.table import ChangeTable, RelabelOptions, id_hash
from beam_jobs.generations.tables import each_id
from beam_jobs.metadata.parquet import added_columns, change_rows
from beam_jobs.processes import in_parallel
from beam_jobs.terminal import counted
from beam_jobs.tools.dataset_files import remaining_of
from shard_reader.format.manifest import PARQUET_NAME, Generation, Manifest, Shard, ShardTable, Split, index_name
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory

__all__ = ["RelabelOptions", "RelabelResult", "relabel", "shards_of", "unique_names"]

_SHOWN = 10  # classes in the summary

Show = Callable[[str], None]
"""Shows a text about the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelabelResult:
    """The result of `relabel`. `generation` is None if no record changed, and nothing was written.

    `fields` has the number of records in which each field changed, and `unknown` is that of ids without a record.
    """

    generation: Generation | None
    records: int
    shards: int
    fields: Mapping[str, int]
    new_classes: tuple[str, ...]
    unknown: int

    def describe(self, place: str) -> str:
        """The summary, in lines."""
        lines = [f"{counted(self.unknown, 'id')} of the table without a record"] if self.unknown else []
        if self.generation is None:
            return "\n".join([*lines, f"{place}: has these values already; nothing is written"])
        if self.new_classes:
            more = ", ..." if len(self.new_classes) > _SHOWN else ""
            names = ", ".join(map(printable, self.new_classes[:_SHOWN]))
            lines.append(f"{counted(len(self.new_classes), 'new class')} after the others: {names}{more}")
        fields = ", ".join(f"{printable(name)} of {count:,}" for name, count in self.fields.items())
        changed = f"{counted(self.records, 'record')} in {counted(self.shards, 'shard')} changed"
        return "\n".join([*lines, f"{place}: generation {self.generation.number}: {changed} ({fields})"])


def relabel(options: RelabelOptions, workers: int, show: Show = lambda _: None) -> RelabelResult:
    """Make a generation with the values of a table.

    Args:
        options: the dataset, the table, and its columns.
        workers: the number of processes.
        show: shows a text about the progress.

    Raises:
        UsageError: the table does not fit the dataset, or another job holds it.
        JobError: the dataset is damaged.
        CorruptionError: a shard is damaged.
    """
    with grown(options.place) as growth:
        table = ChangeTable(options, growth.manifest)
        folder = growth.new_folder()
        is_published = False
        try:
            # On the dataset's disk, in the folder that is removed after a kill.
            with tempfile.TemporaryDirectory(dir=growth.files.local and growth.files.local / folder) as scratch:
                found = _Relabeling(growth, table, folder, Path(scratch), workers, show).run()
            if found.records or found.types.new_fields:
                manifest = growth.publish(found.manifest(growth.manifest), "relabel", folder)
                is_published = True
                return found.result(manifest.history[-1])
            return found.result(None)
        finally:
            if not is_published:
                growth.files.delete_folder(folder)


@dataclass(kw_only=True)
class _Found:
    """The shards after the change, and what changed in them."""

    types: Types
    shards: dict[str, dict[int, Shard]]
    fields: Counter[str] = field(default_factory=Counter)
    classes: Mapping[str, Counter[int]] = field(default_factory=dict)
    records: int = 0
    digest: int = 0
    parquet: tuple[str, str] | None = None

    def result(self, generation: Generation | None) -> RelabelResult:
        return RelabelResult(
            generation=generation,
            records=self.records,
            shards=sum(map(len, self.shards.values())),
            fields=dict(self.fields),
            new_classes=self.types.new_classes,
            unknown=self.types.unknown,
        )

    def manifest(self, before: Manifest) -> Manifest:
        """The manifest of the new generation, without its history."""
        files = dict(before.files)
        if self.parquet is not None:
            files = {name: sha for name, sha in files.items() if name not in before.lists(PARQUET_NAME)}
            files[self.parquet[0]] = self.parquet[1]
        # The values have numbers of classes: the same number may have another name.
        what = [f"{self.digest:032x}", self.types.new_classes]
        return replace(
            before,
            fields=self.types.fields,
            class_names=self.types.class_names,
            splits={name: self._split(name, split) for name, split in before.splits.items()},
            files=files,
            fingerprint=changed_fingerprint(before.fingerprint, "relabel", what),
        )

    def _split(self, name: str, split: Split) -> Split:
        changed = self.shards[name]
        shards = split.shards
        if changed:
            shards = ShardTable.of(changed.get(number, shard) for number, shard in enumerate(split.shards))
        return replace(split, shards=shards, classes=self._classes(split, self.classes[name]))

    def _classes(self, split: Split, changes: Counter[int]) -> Mapping[str, int] | None:
        names = self.types.class_names
        if split.classes is None and not any(changes.values()):
            return None
        if split.classes is None and "label" not in self.types.new_fields:
            return None  # of so many numbers that nobody counts them
        counts = Counter(dict(split.classes or {}))
        for number, change in changes.items():
            counts[names[number] if names is not None and 0 <= number < len(names) else str(number)] += change
        if names is not None:
            return {name: counts[name] for name in names}
        return {name: counts[name] for name in sorted(counts, key=int) if counts[name]}


class _Relabeling:
    """One run: the ids of all records, the match with the table, and the new indexes."""

    def __init__(
        self, growth: Growth, table: ChangeTable, folder: str, scratch: Path, workers: int, show: Show
    ) -> None:
        self._growth, self._table, self._folder, self._scratch = growth, table, folder, scratch
        self._workers, self._show = workers, show
        self._manifest = growth.manifest
        found = list(shards_of(growth.files, growth.manifest, folder))
        self._tasks, self._numbers = [task for _, task in found], [number for number, _ in found]

    def run(self) -> _Found:
        changes, types = self._matched()
        splits = self._manifest.splits
        parts = self._scratch / "parts"
        parts.mkdir()
        has_table = bool(self._manifest.lists(PARQUET_NAME))
        plan = ShardPlan(
            place=self._growth.place,
            manifest=replace(self._manifest, splits={}, files={}, generations=()),
            types=types,
            table=self._table.place,
            names=self._table.names,
            parts=parts if has_table else None,
        )
        found = _Found(types=types, shards={name: {} for name in splits}, classes={name: Counter() for name in splits})
        by_split = self._relabel(found, plan, changes)
        if has_table and found.records:
            found.parquet = self._write_table(types, by_split)
        return found

    def _matched(self) -> tuple[Changes, Types]:
        """The record of each row of the table."""
        folders = [self._scratch / name for name in ("rows", "ids")]
        for folder in folders:
            folder.mkdir()
        rows, ids = map(Spill, folders)
        self._table.add_to(rows)
        splits = self._manifest.splits
        starts = dict(zip(splits, np.cumsum([0, *(split.records for split in splits.values())]).tolist(), strict=False))
        for split, first, block in each_id(self._growth):
            digests = b"".join(id_hash(id.encode()) for id in block)
            add_hashes(ids, np.frombuffer(digests, np.uint64).reshape(-1, 2), starts[split] + first)
            self._show(f"{starts[split] + first + len(block):,} of {self._manifest.records:,} ids")
        changes = Changes(self._scratch / "changes", len(self._tasks))
        ends = np.cumsum([task.records for task in self._tasks], dtype=np.int64)
        return changes, match(self._table, rows, ids, ends, self._manifest, changes)

    def _relabel(self, found: _Found, plan: ShardPlan, changes: Changes) -> dict[str, list[Path]]:
        """Relabel every shard with changes. Returns the files with the new values of each split, in order."""
        chosen = np.flatnonzero(changes.touched).tolist()
        if plan.types.new_fields:
            chosen = list(range(len(self._tasks)))
        items = _Items(self._tasks, chosen, changes)
        results = in_parallel(functools.partial(relabel_shard, plan), items, self._workers)
        by_split: dict[str, list[Path]] = {}
        for done, (number, one) in enumerate(zip(chosen, results, strict=True), 1):
            split = self._tasks[number].split
            if one.shard is not None:
                found.shards[split][self._numbers[number]] = one.shard
            found.records += one.records
            found.fields.update(one.fields)
            found.classes[split].update(one.classes)
            found.digest = (found.digest + one.digest) % (1 << 128)
            if one.part is not None:
                by_split.setdefault(split, []).append(one.part)
            self._show(f"{done}/{len(chosen)} shards")
        return by_split

    def _write_table(self, types: Types, by_split: Mapping[str, list[Path]]) -> tuple[str, str]:
        """Write one table of all records in place of those of earlier generations. Its name, and its SHA-256."""
        files, before = self._growth.files, self._manifest
        split = added_columns(before.fields, before.class_names is not None)["split"]
        path, name = self._scratch / PARQUET_NAME, f"{self._folder}/{PARQUET_NAME}"
        tables = map(files.open, before.lists(PARQUET_NAME))
        changes = {one: ChangedRows(paths).take for one, paths in by_split.items()}
        change_rows(path, tables, split, types.fields, types.class_names, changes)
        files.put(path, name)
        return name, files.sha256(name)


class _Items(Sequence[tuple[int, ShardOf, list[tuple[int, bytes]]]]):
    """Some tasks with their changes, which are read when they are asked for."""

    def __init__(self, tasks: Sequence[ShardOf], chosen: Sequence[int], changes: Changes) -> None:
        self._tasks, self._chosen, self._changes = tasks, chosen, changes

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, place: Any) -> Any:
        number = self._chosen[place]
        return number, self._tasks[number], self._changes[number]


def shards_of(
    files: Directory, manifest: Manifest, folder: str, names: Callable[[str], str] | None = None
) -> Iterator[tuple[int, ShardOf]]:
    """Each shard of each split: its number in the split, its withdrawn rows, and the names of its new indexes.

    Args:
        files: the directory of the dataset.
        manifest: its manifest.
        folder: the folder of new indexes.
        names: gives each path a name in the folder, as `unique_names` does.
    """
    names = names or unique_names()
    for split, remaining in remaining_of(files, manifest).items():
        ends = np.cumsum(manifest.splits[split].shards.records)
        starts = np.concatenate([np.zeros(1, np.int64), ends])
        counted_before = remaining.ends(starts).tolist()
        for number, shard in enumerate(manifest.splits[split].shards):
            start, stop = np.searchsorted(remaining.withdrawn, starts[number : number + 2])
            indexes = {format: f"{folder}/{names(index_name(file.path))}" for format, file in shard.files.items()}
            yield (
                number,
                ShardOf(
                    split=split,
                    shard=shard,
                    first=counted_before[number],
                    withdrawn=remaining.withdrawn[start:stop] - starts[number],
                    indexes=indexes,
                ),
            )


def unique_names() -> Callable[[str], str]:
    """A function that gives each path a name in one folder: its last part, or, where that is taken, more of it."""
    taken = set[str]()

    def name(path: str) -> str:
        last = path.rpartition("/")[2]
        found, number = last, 1
        # Shards of two generations, or of two datasets of a join, may have one name.
        while found in taken:
            number += 1
            found = f"{number}-{last}"
        taken.add(found)
        return found

    return name
