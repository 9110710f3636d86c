"""`image-shards join`: one dataset over the shards of several, which stay where they are.

Paths of shards are relative to OUT, so that all of it can be moved together. Shards of a part whose classes have other
numbers get new indexes in OUT.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import LostJobError, UsageError
from beam_jobs.external_sort import find_equal_hashes
from beam_jobs.generations.growth import Growth, is_left, put_manifest
from beam_jobs.generations.joining.parts import (
    LABELS,
    Classes,
    Part,
    common_fields,
    joined_manifest,
    measured_split,
    merged_classes,
)
from beam_jobs.generations.joining.places import place_in
from beam_jobs.generations.joining.renumber import Renumbering, moved, renumber_shard, renumbered
from beam_jobs.generations.relabeled.relabel import shards_of, unique_names
from beam_jobs.generations.relabeled.shard import ShardOf
from beam_jobs.generations.relabeled.table import id_hash
from beam_jobs.generations.tables import each_id
from beam_jobs.metadata.card import Card
from beam_jobs.metadata.papers import card_of, write_papers
from beam_jobs.metadata.parquet import added_columns, join_tables
from beam_jobs.processes import in_parallel
from beam_jobs.shards.lock import Lock, locked
from beam_jobs.terminal import counted
from beam_jobs.tools.dataset_files import manifest_at
from shard_reader.errors import ManifestError
from shard_reader.format.fields import Field
from shard_reader.format.manifest import (
    LOCK_NAME,
    MANIFEST_NAME,
    PAPER_NAMES,
    PARQUET_NAME,
    PIXELS_NAME,
    Manifest,
    Shard,
    ShardTable,
    Split,
    Withdrawn,
    generation_folder,
)
from shard_reader.format.shard_table import withdrawn_to_bytes
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory
from shard_reader.storage.local import sync
from shard_reader.storage.open import directory, local_path
from shard_reader.storage.secrets import without_secrets

__all__ = ["JoinResult", "join"]

_FOLDER = generation_folder(1)
_SHOWN = 3  # ids in an error

Show = Callable[[str], None]
"""Shows a text about the progress."""


@dataclass(frozen=True, slots=True)
class JoinResult:
    """The result of `join`: the new manifest, and the number of shards that got new indexes."""

    manifest: Manifest
    replaced: int

    def describe(self, place: str) -> str:
        """The summary, in a line."""
        shards = sum(len(split.shards) for split in self.manifest.splits.values())
        text = f"{place}: {counted(self.manifest.records, 'record')} in {counted(shards, 'shard')}, where they are"
        if self.replaced:
            text += f"; new indexes with other numbers of classes for {counted(self.replaced, 'shard')}"
        return text


def join(places: Sequence[str], out: str, workers: int, show: Show = lambda _: None) -> JoinResult:
    """Make one dataset of several, without a copy of their shards.

    Args:
        places: the datasets, in order.
        out: the new dataset.
        workers: the number of processes.
        show: shows a text about the progress.

    Raises:
        UsageError: the datasets do not fit together, or OUT is not new.
        JobError: a dataset is damaged.
        CorruptionError: a shard is damaged.
    """
    if len(places) < 2:
        raise UsageError("give two datasets or more, and then OUT")
    parts = [_part(place, out) for place in places]
    for part, place in zip(parts, places, strict=True):
        if [one.path for one in parts].count(part.path) > 1:
            raise UsageError(f"{without_secrets(place)}: is given twice")
    fields, classes = common_fields(parts), merged_classes(parts)
    files = directory(out)
    _check_new(out, files)
    local = local_path(out)
    if local is not None:
        local.mkdir(exist_ok=True)
    with locked(out, files) as lock:
        _check_new(out, files)
        files.delete_folder(_FOLDER)  # of a job that was killed
        if local is not None:
            (local / _FOLDER).mkdir()
        try:
            with tempfile.TemporaryDirectory(dir=local and local / _FOLDER) as scratch:
                _check_ids(parts, Path(scratch), show)
                made = _Join(parts, out, files, fields, classes, workers, show)
                manifest = made.manifest(Path(scratch))
            _publish(files, lock, manifest, parts)
        except BaseException:
            if MANIFEST_NAME not in files.names():
                files.delete_folder(_FOLDER)
            raise
        finally:
            with contextlib.suppress(LostJobError):
                lock.check()
                lock.remove()
        return JoinResult(manifest, made.replaced)


def _part(place: str, out: str) -> Part:
    path = place_in(out, place)
    files, manifest = manifest_at(place)
    if manifest.fields["image"].feature is not None:
        raise UsageError(f"{place}: holds TFRecords that others wrote, indexed where they are; prepare them first")
    return Part(place, path, files, manifest)


def _check_new(out: str, files: Directory) -> None:
    found = set(files.names()) - {LOCK_NAME, *PAPER_NAMES}
    if all(is_left(f"{_FOLDER}/{name}") for name in files.names(_FOLDER)):  # of a job that was killed
        found.discard(_FOLDER)
    if found:
        raise UsageError(f"OUT {without_secrets(out)}: has files, as {printable(min(found))}: give a new directory")


def _check_ids(parts: Sequence[Part], scratch: Path, show: Show) -> None:
    """Check that no id occurs twice.

    Raises:
        UsageError: one does. The message names the first few.
    """
    records = sum(part.manifest.records for part in parts)

    def blocks() -> Iterator[NDArray[np.uint64]]:
        done = 0
        for _, ids in _ids(parts):
            done += len(ids)
            show(f"{done:,} of {records:,} ids")
            yield np.frombuffer(b"".join(id_hash(id.encode()) for id in ids), np.uint64).reshape(-1, 2)

    again = find_equal_hashes(blocks(), scratch)
    if not len(again.places):
        return
    wanted = dict.fromkeys([*again.places[:_SHOWN].tolist(), *again.firsts[:_SHOWN].tolist()], ("", ""))
    first = 0
    for part, ids in _ids(parts):
        for place in wanted:
            if first <= place < first + len(ids):
                wanted[place] = ids[place - first], part.shown
        first += len(ids)
    pairs = zip(again.places[:_SHOWN].tolist(), again.firsts[:_SHOWN].tolist(), strict=True)
    shown = [f"{printable(wanted[one][0])!r} of {wanted[other][1]} and {wanted[one][1]}" for one, other in pairs]
    more = ", ..." if len(again.places) > _SHOWN else ""
    raise UsageError(
        f"{counted(len(again.places), 'id')} occur twice, as {', '.join(shown)}{more}: ids are unique in a dataset;"
        " withdraw the records from one of them"
    )


def _ids(parts: Sequence[Part]) -> Iterator[tuple[Part, list[str]]]:
    for part in parts:
        for _, _, ids in each_id(Growth(part.place, part.files, Lock(), part.manifest, b"")):
            yield part, ids


class _Join:
    """The splits and the files of the new dataset."""

    def __init__(
        self,
        parts: Sequence[Part],
        out: str,
        files: Directory,
        fields: Mapping[str, Field],
        classes: Classes,
        workers: int,
        show: Show,
    ) -> None:
        self._parts, self._out, self._files, self._fields, self._classes = parts, out, files, fields, classes
        self._workers, self._show = workers, show
        self._written: dict[str, str] = {}
        self.replaced = 0

    def manifest(self, scratch: Path) -> Manifest:
        """The manifest of the new dataset, after its files are written."""
        splits = self._splits()
        self._write_table(scratch / PARQUET_NAME)
        self._write_pixels()
        made = joined_manifest(self._parts, self._fields, self._classes.names, splits, self._written, _FOLDER)
        try:
            return Manifest.from_json(made.to_json())  # reading it checks the names of directories
        except ManifestError as error:
            raise UsageError(f"the manifest of these datasets could not be read: {error}") from error

    def _splits(self) -> dict[str, Split]:
        shards: dict[str, list[Shard]] = {}
        withdrawn: dict[str, list[NDArray[np.int64]]] = {}
        records: dict[str, int] = {}
        names = unique_names()
        for part, numbers in zip(self._parts, self._classes.numbers, strict=True):
            found = list(shards_of(part.files, part.manifest, _FOLDER, names))
            is_changed = numbers is not None or list(part.manifest.fields) != list(self._fields)
            moved_shards = iter(self._renumbered(part, numbers, [task for _, task in found]) if is_changed else ())
            for _, task in found:
                of_split = shards.setdefault(task.split, [])
                first = records.get(task.split, 0)
                of_split.append(next(moved_shards) if is_changed else moved(part.path, task.shard))
                withdrawn.setdefault(task.split, []).append(task.withdrawn + first)
                records[task.split] = first + task.shard.records
            for split in part.manifest.splits:
                shards.setdefault(split, [])
        return {split: self._split(split, found, withdrawn.get(split, [])) for split, found in shards.items()}

    def _renumbered(self, part: Part, numbers: NDArray[np.int64] | None, tasks: Sequence[ShardOf]) -> Iterator[Shard]:
        plan = Renumbering(
            place=part.place,
            path=part.path,
            out=self._out,
            manifest=replace(part.manifest, splits={}, files={}, generations=()),
            fields=self._fields,
            numbers=numbers,
        )
        for done, shard in enumerate(in_parallel(functools.partial(renumber_shard, plan), tasks, self._workers), 1):
            self.replaced += 1
            self._show(f"{part.shown}: {done}/{len(tasks)} indexes")
            yield shard

    def _split(self, name: str, shards: Sequence[Shard], withdrawn: Sequence[NDArray[np.int64]]) -> Split:
        held = sum(shard.records for shard in shards)
        gone = np.concatenate([np.empty(0, np.int64), *withdrawn])
        if not len(gone):
            return Split(records=held, shards=ShardTable.of(shards))
        path, data = f"{_FOLDER}/withdrawn-{name}.npy", withdrawn_to_bytes(gone)
        self._write(path, [data])
        found = Withdrawn(records=len(gone), path=path)
        return Split(records=held - len(gone), shards=ShardTable.of(shards), withdrawn=found)

    def _write_table(self, path: Path) -> None:
        """Write one table of all records, if each part has one."""
        if not all(part.manifest.lists(PARQUET_NAME) for part in self._parts):
            return
        tables = [
            (
                map(part.files.open, part.manifest.lists(PARQUET_NAME)),
                added_columns(part.manifest.fields, part.manifest.class_names is not None)["split"],
                None if numbers is None else functools.partial(_renumbered_column, numbers),
            )
            for part, numbers in zip(self._parts, self._classes.numbers, strict=True)
        ]
        join_tables(path, tables, self._fields, self._classes.names)
        name = f"{_FOLDER}/{PARQUET_NAME}"
        self._files.put(path, name)
        self._written[name] = self._files.sha256(name)

    def _write_pixels(self) -> None:
        """Join the sums of the records of the measured split, if each part has them."""
        manifests = [part.manifest for part in self._parts]
        split = measured_split(manifests)
        measured = [part for part in self._parts if split in part.manifest.splits]
        lists = [(part.files, part.manifest.lists(PIXELS_NAME)) for part in measured]
        has_other = any(measured_split([part.manifest]) != split for part in measured)
        if has_other or not all(names for _, names in lists):
            return
        self._write(
            f"{_FOLDER}/{PIXELS_NAME}", (line for files, names in lists for name in names for line in files.lines(name))
        )

    def _write(self, name: str, chunks: Iterator[bytes] | Sequence[bytes]) -> None:
        self._files.write(name, chunks)
        self._written[name] = self._files.sha256(name)


def _renumbered_column(numbers: NDArray[np.int64], name: str, values: Sequence[object]) -> list[object]:
    """The labels of some records of a table."""
    if name not in LABELS:
        return list(values)
    return [renumbered(value, numbers, is_sorted=name == "label").tolist() for value in values]


def _publish(files: Directory, lock: Lock, manifest: Manifest, parts: Sequence[Part]) -> None:
    """Write the papers, and the manifest last."""
    text = manifest.to_json().encode()
    cards = [card_of(part.files, part.manifest) for part in parts]
    lock.renew()
    write_papers(files, manifest, text, cards[0] if cards.count(cards[0]) == len(cards) else Card())
    if files.local is not None:
        sync(files.local / _FOLDER)
        sync(files.local)
    lock.renew()
    put_manifest(files, text)
