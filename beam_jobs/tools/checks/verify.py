"""`image-shards verify`: a check of every byte, index and count of a dataset.

A task is one shard in all of its formats. The manifest has the SHA-256 of each file and of its index. If they match,
the index is made again from the shard and must be the same, which checks the framing and the checksum of every record.
If they do not match, the damage is located.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beam_jobs.external_sort import find_equal_hashes
from beam_jobs.processes import ParallelMap, in_parallel
from beam_jobs.terminal import counted, size_text
from beam_jobs.tools.checks.history import History
from beam_jobs.tools.checks.shard import REMEDY, ShardTask, check_shard, stored_index
from beam_jobs.tools.dataset_files import (
    copy_to_disk,
    data_files,
    manifest_at,
    need_image_packages,
    need_shard_packages,
    printable_id,
    record_ids,
    remaining_of,
    shard_on_disk,
)
from shard_reader.format import index
from shard_reader.format.checksum import sha256_file
from shard_reader.format.manifest import MANIFEST_NAME, Manifest
from shard_reader.order.remaining import Remaining
from shard_reader.storage.directory import Directory
from shard_reader.system.memory_map import map_file

__all__ = ["Verification"]


class Verification:
    """Checks a whole dataset.

    Args:
        place: the directory of the dataset.
        decode: whether to decode every image, too.

    Raises:
        UsageError: the place has no dataset, or a package is missing.
        JobError: the manifest is damaged.
    """

    def __init__(self, place: str, *, decode: bool) -> None:
        files, self.manifest = manifest_at(place)
        self._place, self._files = place.rstrip("/"), files
        self._scratch = None if files.local is not None else tempfile.TemporaryDirectory(prefix="image-shards-")
        # A folder below the scratch, since shards of a join lie beside the dataset.
        self.path = files.local or Path(self._scratch.name if self._scratch is not None else "") / "dataset"
        self._remote = place if self._scratch is not None else None
        need_shard_packages(self.manifest)
        need_image_packages(self.manifest, decode=decode)
        if self._remote is not None:
            for name in (MANIFEST_NAME, *self.manifest.files):
                copy_to_disk(files, name, self.path)
        self.history = History.of(self._place, files, self.manifest)
        remaining = remaining_of(files, self.manifest)
        self.tasks = list(_tasks(self.path, self.manifest, remaining, decode, self._remote))
        self.done = self.problems = 0

    def run(self, workers: int | ParallelMap, note: Callable[[str], None], progress: Callable[[], None]) -> None:
        """Check all shards.

        Args:
            workers: the number of processes, or another way to check shards.
            note: called with a line for each problem, as soon as it is found.
            progress: called after each shard.
        """

        def count(problem: str) -> None:
            self.problems += 1
            note(self._shown(problem))

        labels = {split: Counter[int]() for split in self.manifest.splits}
        damaged = set[str]()
        sizes = list[int]()

        def ids() -> Iterator[NDArray[np.uint64]]:
            for task, found in zip(self.tasks, in_parallel(check_shard, self.tasks, workers), strict=True):
                labels[task.split].update(found.labels)
                sizes.append(len(found.ids))
                for problem in found.problems:
                    damaged.add(task.split)
                    count(problem)
                self.done += 1
                progress()
                yield found.ids

        # Ids must be unique in the whole dataset, and may not fit into memory: their hashes are sorted on disk.
        with tempfile.TemporaryDirectory() as scratch:
            again = find_equal_hashes(ids(), Path(scratch))
        ends = np.cumsum(sizes, dtype=np.uint64)
        for place, first in zip(again.places.tolist(), again.firsts.tolist(), strict=True):
            count(self._duplicate(*(self._row(ends, number) for number in (first, place))))
        for problem in (*self.history.problems, *_own_problems(self._files, self.history.own)):
            count(problem)
        for problem in _count_problems(
            self.path, self.manifest, {split: found for split, found in labels.items() if split not in damaged}
        ):
            count(problem)

    def summary(self) -> Iterator[str]:
        """The number of problems, the size of the dataset, and the files in it that it does not know."""
        shown = self._shown(str(self.path))
        if waiting := self.history.still_waiting(self._files):
            yield f"{shown}: {counted(waiting, 'replaced file')} to be removed by `compact --in-place`"
        if others := self.history.unknown(self._files):
            names = ", ".join(map(repr, others[:5])) + (", ..." if len(others) > 5 else "")
            yield f"{shown}: {counted(len(others), 'file')} that the dataset does not know: {names}"
        records = sum(split.records for split in self.manifest.splits.values())
        size = sum(file.bytes for file in data_files(self.manifest))
        yield (
            f"{shown}: {counted(self.problems, 'problem') if self.problems else 'whole'};"
            f" {counted(records, 'record')} in {counted(len(self.tasks), 'shard')} of"
            f" {' and '.join(self.manifest.formats)}, {size_text(size)}, looked at"
        )

    def close(self) -> None:
        """Remove the files that were copied from a store."""
        if self._scratch is not None:
            self._scratch.cleanup()

    def _shown(self, text: str) -> str:
        """A text with the user's URL in place of the temporary folder."""
        return text if self._remote is None else text.replace(str(self.path), self._place)

    def _row(self, ends: NDArray[np.uint64], place: int) -> tuple[ShardTask, int]:
        """The shard and the row of a record, by its number in the dataset."""
        number = int(np.searchsorted(ends, place, "right"))
        task = self.tasks[number]
        return task, int(task.rows[place - int(ends[number - 1] if number else 0)])

    def _duplicate(self, first: tuple[ShardTask, int], second: tuple[ShardTask, int]) -> str:
        task, row = second
        with shard_on_disk(task.remote, task.shard, task.path, task.fields):
            return self._duplicate_at(task, row, first)

    def _duplicate_at(self, task: ShardTask, row: int, first: tuple[ShardTask, int]) -> str:
        format = self.manifest.formats[0]
        file, other = task.shard.files[format], first[0].shard.files[format]
        rows = stored_index(task.path, file, task.shard.records, task.fields)
        if rows is None:
            rows = index.build(task.path / file.path, format, task.fields)
        (id,) = record_ids(file, map_file(task.path / file.path), rows, True, [row])
        return (
            f"{task.path / file.path}: row {row}: the id {printable_id(id)} is that of row {first[1]} of {other.path},"
            " too: ids must be unique; make the dataset again from inputs with different ids"
        )


def _tasks(
    path: Path, manifest: Manifest, remaining: Mapping[str, Remaining], decode: bool, remote: str | None
) -> Iterator[ShardTask]:
    for name, split in manifest.splits.items():
        first, first_counting, gone = 0, 0, remaining[name].withdrawn
        for shard in split.shards:
            # A task is pickled, and a split may have millions of withdrawn records.
            start, end = np.searchsorted(gone, (first, first + shard.records)).tolist()
            here = Remaining(gone[start:end].copy())
            yield ShardTask(path, manifest.fields, name, shard, first, decode, here, first_counting, remote)
            first += shard.records
            first_counting += shard.records - (end - start)


def _own_problems(files: Directory, own: Mapping[str, str]) -> Iterator[str]:
    """The files that earlier generations alone name, and that are not as they were written."""
    for name, sha256 in own.items():
        try:
            if files.sha256(name) != sha256:
                yield f"{files.uri(name)}: an earlier generation has it, and it is damaged (SHA-256 mismatch){REMEDY}"
        except FileNotFoundError:
            yield f"{files.uri(name)}: an earlier generation has it, and it is missing{REMEDY}"


def _count_problems(path: Path, manifest: Manifest, labels: Mapping[str, Counter[int]]) -> Iterator[str]:
    """The counts of the manifest that differ from the files. `labels` has the splits without damage."""
    remedy = f"restore {MANIFEST_NAME} from a copy, or make the dataset again"
    held = sum(split.records for split in manifest.splits.values())
    yield from _file_problems(path, manifest.files)
    if manifest.counts.written != held:
        yield f"{path / MANIFEST_NAME}: counts.written is {manifest.counts.written}, its splits hold {held}; {remedy}"
    for split, found in labels.items():
        for label, number in _class_counts(manifest, split, found):
            said = (manifest.splits[split].classes or {}).get(label, 0)
            yield f"{path / MANIFEST_NAME}: split {split} has {number} of class {label!r}, not {said}; {remedy}"


def _file_problems(path: Path, files: Mapping[str, str]) -> Iterator[str]:
    """The files beside the shards that are not as they were written."""
    for name, sha256 in files.items():
        if not (path / name).is_file():
            yield f"{path / name}: is missing{REMEDY}"
        elif sha256_file(path / name) != sha256:
            yield f"{path / name}: was changed, or is damaged: its SHA-256 is not that of the manifest{REMEDY}"


def _class_counts(manifest: Manifest, split: str, found: Counter[int]) -> Iterator[tuple[str, int]]:
    """The classes whose count in the manifest is wrong, with the right count."""
    names, said = manifest.class_names, manifest.splits[split].classes
    if said is None:
        return
    counted = Counter[str]()
    for label, number in found.items():
        known = names is not None and 0 <= label < len(names)
        counted[names[label] if names is not None and known else str(label)] += number
    for name in sorted(said.keys() | counted.keys()):
        if said.get(name, 0) != counted[name]:
            yield name, counted[name]
