"""`image-shards verify`: a check of every byte, index and count of a dataset.

A task is one shard in all of its formats. The manifest has the SHA-256 of each file and of its index. If they match,
the index is made again from the shard and must be the same, which checks the framing and the checksum of every record.
If they do not match, the damage is located.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.external_sort import find_equal_hashes
from beam_jobs.processes import in_parallel
from beam_jobs.terminal import counted, size_text
from beam_jobs.tools.damage import dali_damage, damage, decoding_damage
from beam_jobs.tools.dataset_files import (
    copy_to_disk,
    data_files,
    label_counts,
    manifest_at,
    need_image_packages,
    need_shard_packages,
    other_files,
    printable_id,
    record_ids,
    shard_on_disk,
)
from shard_reader import Dataset, open_dataset
from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.checksum import crc32c, sha256_file
from shard_reader.format.fields import Field, extent_columns
from shard_reader.format.manifest import MANIFEST_NAME, Manifest, Shard, ShardFile
from shard_reader.system.memory_map import map_file

__all__ = ["Verification"]

_REMEDY = "; restore it from a copy, or make the dataset again"


@dataclass(frozen=True, slots=True)
class _Task:
    """One shard to check. `first` is the number of its first record in the split."""

    path: Path
    fields: Mapping[str, Field]
    split: str
    shard: Shard
    first: int
    decode: bool
    remote: str | None = None  # the URL of a remote dataset, whose files are copied to `path` while they are checked


class _Found(NamedTuple):
    """The result of one shard: its problems, 128 bits of each id, and the number of records or objects by label."""

    problems: list[str]
    ids: NDArray[np.uint64]
    labels: Counter[int]


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
        self._place, self._names = place.rstrip("/"), files.names()
        self._scratch = None if files.local is not None else tempfile.TemporaryDirectory(prefix="image-shards-")
        self.path = files.local or Path(self._scratch.name if self._scratch is not None else "")
        self._remote = place if self._scratch is not None else None
        need_shard_packages(self.manifest)
        need_image_packages(self.manifest, decode=decode)
        if self._remote is not None:
            for name in (MANIFEST_NAME, *self.manifest.files):
                copy_to_disk(files, name, self.path)
        self.tasks = list(_tasks(self.path, self.manifest, decode, self._remote))
        self.done = self.problems = 0

    def run(self, workers: int, note: Callable[[str], None], progress: Callable[[], None]) -> None:
        """Check all shards.

        Args:
            workers: the number of processes.
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
            for task, found in zip(self.tasks, in_parallel(_look, self.tasks, workers), strict=True):
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
        for problem in _count_problems(
            self.path, self.manifest, {split: found for split, found in labels.items() if split not in damaged}
        ):
            count(problem)

    def summary(self) -> Iterator[str]:
        """The number of problems, the size of the dataset, and the files in it that it does not know."""
        shown = self._shown(str(self.path))
        if others := other_files(self._names, self.manifest):
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

    def _row(self, ends: NDArray[np.uint64], place: int) -> tuple[_Task, int]:
        """The shard and the row of a record, by its number in the dataset."""
        number = int(np.searchsorted(ends, place, "right"))
        return self.tasks[number], place - int(ends[number - 1] if number else 0)

    def _duplicate(self, first: tuple[_Task, int], second: tuple[_Task, int]) -> str:
        task, row = second
        with shard_on_disk(task.remote, task.shard, task.path, task.fields):
            return self._duplicate_at(task, row, first)

    def _duplicate_at(self, task: _Task, row: int, first: tuple[_Task, int]) -> str:
        format = self.manifest.formats[0]
        file, other = task.shard.files[format], first[0].shard.files[format]
        rows = _stored_index(task.path, file, task.shard.records, task.fields)
        if rows is None:
            rows = index.build(task.path / file.path, format, task.fields)
        (id,) = record_ids(file, map_file(task.path / file.path), rows, True, [row])
        return (
            f"{task.path / file.path}: row {row}: the id {printable_id(id)} is that of row {first[1]} of {other.path},"
            " too: ids must be unique; make the dataset again from inputs with different ids"
        )


def _tasks(path: Path, manifest: Manifest, decode: bool, remote: str | None) -> Iterator[_Task]:
    for name, split in manifest.splits.items():
        first = 0
        for shard in split.shards:
            yield _Task(path, manifest.fields, name, shard, first, decode, remote)
            first += shard.records


def _look(task: _Task) -> _Found:
    """Check one shard in all of its formats, copied to the disk first if it is remote."""
    with shard_on_disk(task.remote, task.shard, task.path, task.fields):
        return _look_here(task)


def _look_here(task: _Task) -> _Found:
    problems = list[str]()
    held = dict[str, NDArray[np.void]]()
    ids = dict[str, NDArray[np.uint64]]()
    labels = Counter[int]()
    # One format after the other, and the index rows of all of them in memory, for the comparison at the end.
    for format, file in task.shard.files.items():
        found, rows = _look_at_file(task, format, file)
        problems += [f"{task.path}/{problem}" for problem in found]
        if rows is None:
            continue
        data = map_file(task.path / file.path)
        held[format], ids[format] = rows, _hashes(file, data, rows, "id" in task.fields)
        try:
            labels = labels or label_counts(format, data, rows, task.fields)
        except CorruptionError as error:
            problems.append(f"{task.path}/{file.path}: {error}; make the dataset again")
    problems += [f"{task.path}/{problem}" for problem in _differences(task, held, ids)]
    none = np.empty((0, 2), np.uint64)
    return _Found(problems, next(iter(ids.values()), none) if "id" in task.fields else none, labels)


def _look_at_file(task: _Task, format: str, file: ShardFile) -> tuple[list[str], NDArray[np.void] | None]:
    """The problems of a file and its index, each beginning with a file name; and its rows, if the file is whole."""
    path = task.path / file.path
    stored = _stored_index(task.path, file, task.shard.records, task.fields)
    problems = list(_index_damage(task.path, file))
    if not path.exists():
        return [*problems, f"{file.path}: is missing{_REMEDY}"], None
    # Damage is located by the stored index, if that is whole: an index made from a damaged file would be wrong, too.
    if sha256_file(path) != file.sha256:
        data = map_file(path)
        name = functools.partial(_name_row, task, file, data, stored)
        lines = damage(data, format, task.fields, file.bytes, stored, name)
        return problems + [f"{file.path}: {line}{_REMEDY}" for line in lines], None
    if path.stat().st_size != file.bytes:
        size = path.stat().st_size
        problems.append(f"{file.path}: has {size:,} bytes, the manifest says {file.bytes:,}; restore dataset.json")
    try:
        rows = index.build(path, format, task.fields)
    except (CorruptionError, OSError) as error:
        text = str(error).removeprefix(f"{path}: ")
        return [*problems, f"{file.path}: is not as the manifest says: {text}; make the dataset again"], None
    problems += [*_index_problems(task, file, stored, rows), *dali_damage(path)]
    if task.decode and not problems:
        problems += _decoding_problems(task, format)
    return problems, rows


def _stored_index(path: Path, file: ShardFile, records: int, fields: Mapping[str, Field]) -> NDArray[np.void] | None:
    """The index beside a shard; None if it is not the one in the manifest."""
    try:
        return index.load(path, file, records, fields)
    except CorruptionError:
        return None


def _index_damage(path: Path, file: ShardFile) -> Iterator[str]:
    name = file.index
    if not (path / name).exists():
        yield f"{name}: is missing; `image-shards index {path}` makes it again"
    elif sha256_file(path / name) != file.index_sha256:
        yield f"{name}: is damaged (SHA-256 mismatch); `image-shards index {path}` makes it again"


def _name_row(task: _Task, file: ShardFile, data: NDArray[np.uint8], rows: NDArray[np.void] | None, row: int) -> str:
    if rows is None or row >= len(rows) or "id" not in task.fields:
        return f"row {row}"
    (id,) = record_ids(file, data, rows, True, [row])
    if crc32c(id) != rows["id_crc32c"][row]:
        return f"row {row}"  # the id is damaged or lost, too
    return f"row {row}, id {printable_id(id)}"


def _index_problems(
    task: _Task, file: ShardFile, stored: NDArray[np.void] | None, rows: NDArray[np.void]
) -> Iterator[str]:
    """The differences between the index in the manifest and the index made from a shard."""
    if len(rows) != task.shard.records:
        yield f"{file.path}: has {len(rows)} records, the manifest says {task.shard.records}; restore dataset.json"
        return
    has_checksums = file.index_crc32c is not None
    if hashlib.sha256(index.to_bytes(rows, has_checksums=has_checksums)).hexdigest() == file.index_sha256:
        if has_checksums and index.checksums_crc32c(rows) != file.index_crc32c:
            yield f"{file.path}: the manifest's index_crc32c is not that of its index; restore dataset.json from a copy"
        return
    if stored is None:
        yield (
            f"{file.path}: the manifest's index_sha256 is not that of the index that the shard gives;"
            " restore dataset.json from a copy"
        )
        return
    data = map_file(task.path / file.path)
    for row in np.flatnonzero(_differing(stored, rows)).tolist():
        names = [name for name in rows.dtype.names or () if stored[name][row].tobytes() != rows[name][row].tobytes()]
        yield (
            f"{file.index}: {_name_row(task, file, data, rows, row)}: {', '.join(names)}"
            f" {'is' if len(names) == 1 else 'are'} not what the shard says; make the dataset again"
        )


def _differing(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """A mask of the rows that differ."""
    # Bytes are compared, since a NaN is not equal to itself.
    if not len(one):
        return np.zeros(0, np.bool_)
    both = (np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), -1) for rows in (one, other))
    return np.asarray(np.not_equal(*both).any(1))


def _differences(
    task: _Task, held: Mapping[str, NDArray[np.void]], ids: Mapping[str, NDArray[np.uint64]]
) -> Iterator[str]:
    """The differences between the formats of a shard, as far as their files are whole."""
    if not held:
        return
    (first, *others) = held
    for format in others:
        rows, again = held[first], held[format]
        if len(rows) != len(again):
            continue  # reported already: one of them does not match the manifest
        different = {"id": _differing(ids[first], ids[format])}
        different |= {
            name: _differing(rows[column], again[column]) for name, column in _comparable(task.fields).items()
        }
        for row in np.flatnonzero(np.logical_or.reduce(list(different.values()))).tolist():
            names = ", ".join(name for name, found in different.items() if found[row])
            yield (
                f"{task.shard.files[format].path}: row {row}: not the same as in {task.shard.files[first].path}:"
                f" {names}; make the dataset again"
            )


def _comparable(fields: Mapping[str, Field]) -> dict[str, str]:
    """The column of the index for each field that is the same in all formats."""
    # Lists are stored in other bytes by each format, and so their checksums differ.
    columns = {name: name for name, field in fields.items() if field.in_index}
    texts = [name for name, field in fields.items() if field.dtype == "string" and not field.shape and name != "id"]
    same = [*texts, *(name for name, field in fields.items() if field.is_payload)]
    return columns | {name: extent_columns(name)[2] for name in same}


def _decoding_problems(task: _Task, format: str) -> Iterator[str]:
    """The images that the reader cannot decode, or whose size is not that of the index."""
    # By the reader itself, so that every check that training would make is made.
    data = _opened(task.path, task.split, format)
    for record in range(task.first, task.first + task.shard.records):
        for problem in decoding_damage(data, record):
            yield problem.removeprefix(f"{task.path}/") + "; make the dataset again"


@functools.lru_cache(8)
def _opened(path: Path, split: str, format: str) -> Dataset:
    return open_dataset(path, split, format=format)  # cached, since it parses the whole manifest


def _hashes(file: ShardFile, data: NDArray[np.uint8], rows: NDArray[np.void], has_ids: bool) -> NDArray[np.uint64]:
    """128 bits of each id, `[n, 2]`."""
    if not has_ids:
        return np.zeros((len(rows), 2), np.uint64)
    ids = record_ids(file, data, rows, True, range(len(rows)))
    digests = b"".join(hashlib.blake2b(id, digest_size=16).digest() for id in ids)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


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
            yield f"{path / name}: is missing{_REMEDY}"
        elif sha256_file(path / name) != sha256:
            yield f"{path / name}: was changed, or is damaged: its SHA-256 is not that of the manifest{_REMEDY}"


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
