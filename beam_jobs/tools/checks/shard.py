"""The checks of one shard in all of its formats.

The manifest has the SHA-256 of each file and of its index. If they match, the index is made again from the shard and
must be the same, which checks the framing and the checksum of every record. If not, the damage is located.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.tools.checks.damage import dali_damage, damage, decoding_damage
from beam_jobs.tools.dataset_files import (
    copy_to_disk,
    label_counts,
    manifest_at,
    printable_id,
    record_ids,
    shard_on_disk,
)
from shard_reader import Dataset, open_dataset
from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.checksum import crc32c, sha256_file
from shard_reader.format.fields import Field, extent_columns, extent_fields, kept_fields
from shard_reader.format.manifest import MANIFEST_NAME, Shard, ShardFile
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.order.remaining import Remaining
from shard_reader.system.memory_map import map_file

__all__ = ["REMEDY", "ShardFound", "ShardTask", "check_shard", "stored_index"]

REMEDY = "; restore it from a copy, or make the dataset again"


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to check. `first` is the number of its first record in the split."""

    path: Path
    fields: Mapping[str, Field]
    split: str
    shard: Shard
    first: int
    decode: bool
    remaining: Remaining  # those of the withdrawn records of the split that are in this shard
    first_counting: int  # the number of the first record that counts, among all that count
    remote: str | None = None  # the URL of a remote dataset, whose files are copied to `path` while they are checked

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows of the records that count, int64 `[n]`."""
        return self.remaining.rows(self.first, self.shard.records)

    def counting(self, values: NDArray[Any]) -> NDArray[Any]:
        """The values of the records that count, of a value for each record. Those of a damaged shard stay all."""
        return values[self.rows] if len(values) == self.shard.records else values


class ShardFound(NamedTuple):
    """The result of one shard: its problems, 128 bits of each id, and the number of records or objects by label."""

    problems: list[str]
    ids: NDArray[np.uint64]
    labels: Counter[int]


def check_shard(task: ShardTask) -> ShardFound:
    """Check one shard in all of its formats, copied to the disk first if it is remote."""
    with _on_this_machine(task) as here, shard_on_disk(here.remote, here.shard, here.path, here.fields):
        found = _check_here(here)
    shown = [problem.replace(str(here.path), str(task.path)) for problem in found.problems]
    return found._replace(problems=shown)


@contextlib.contextmanager
def _on_this_machine(task: ShardTask) -> Iterator[ShardTask]:
    """The task, with a folder of this machine for its files where the command runs on another one."""
    if task.remote is None or task.path.is_dir():
        yield task
        return
    with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
        if task.decode:
            files, manifest = manifest_at(task.remote)
            lists = [split.withdrawn.path for split in manifest.splits.values() if split.withdrawn is not None]
            for name in (MANIFEST_NAME, *lists):
                copy_to_disk(files, name, Path(folder))
        yield replace(task, path=Path(folder))


def _check_here(task: ShardTask) -> ShardFound:
    problems = list[str]()
    held = dict[str, NDArray[np.void]]()
    ids = dict[str, NDArray[np.uint64]]()
    labels = Counter[int]()
    # One format after the other, and the index rows of all of them in memory, for the comparison at the end.
    for format, file in task.shard.files.items():
        found, rows = _check_file(task, format, file)
        problems += [f"{task.path}/{problem}" for problem in found]
        if rows is None:
            continue
        data = index.ShardBytes.of(task.path, file)
        held[format], ids[format] = rows, _hashes(file, data, rows, "id" in task.fields)
        try:
            labels = labels or label_counts(format, data, task.counting(rows), task.fields)
        except CorruptionError as error:
            problems.append(f"{task.path}/{file.path}: {error}; make the dataset again")
    problems += [f"{task.path}/{problem}" for problem in _differences(task, held, ids)]
    of_records = next(iter(ids.values()), np.empty((0, 2), np.uint64))
    return ShardFound(problems, task.counting(of_records) if "id" in task.fields else of_records[:0], labels)


def _check_file(task: ShardTask, format: str, file: ShardFile) -> tuple[list[str], NDArray[np.void] | None]:
    """The problems of a file and its index, each beginning with a file name; and its rows, if the file is whole."""
    path = task.path / file.path
    stored = stored_index(task.path, file, task.shard.records, task.fields)
    problems = list(_index_damage(task.path, file))
    if not path.exists():
        return [*problems, f"{file.path}: is missing{REMEDY}"], None
    # Damage is located by the stored index, if that is whole: an index made from a damaged file would be wrong, too.
    if sha256_file(path) != file.sha256:
        data = map_file(path)
        name = functools.partial(_name_row, task, file, data, stored)
        lines = damage(data, format, task.fields, file.bytes, stored, name)
        return problems + [f"{file.path}: {line}{REMEDY}" for line in lines], None
    if path.stat().st_size != file.bytes:
        size = path.stat().st_size
        problems.append(f"{file.path}: has {size:,} bytes, the manifest says {file.bytes:,}; restore dataset.json")
    # A field that `relabel` added is in no shard, and one that it changed has another value there.
    fields = kept_fields(task.fields) if file.replaced_index else task.fields
    try:
        rows = index.build(path, format, fields)
    except (CorruptionError, OSError) as error:
        text = str(error).removeprefix(f"{path}: ")
        return [*problems, f"{file.path}: is not as the manifest says: {text}; make the dataset again"], None
    if file.replaced_index:
        problems += [*_replaced_problems(task, format, file, stored, rows), *dali_damage(path)]
        if stored is None:
            return problems, None
        rows = stored
    else:
        problems += [*_index_problems(task, file, stored, rows), *dali_damage(path)]
    if task.decode and not problems:
        problems += _decoding_problems(task, format)
    return problems, rows


def stored_index(path: Path, file: ShardFile, records: int, fields: Mapping[str, Field]) -> NDArray[np.void] | None:
    """The index beside a shard; None if it is not the one in the manifest."""
    try:
        return index.load(path, file, records, fields)
    except CorruptionError:
        return None


def _index_damage(path: Path, file: ShardFile) -> Iterator[str]:
    name = file.index
    remedy = f"`image-shards index {path}` makes it again"
    if file.replaced_index:
        remedy = "restore it from a copy, or relabel again"
    if not (path / name).exists():
        yield f"{name}: is missing; {remedy}"
    elif sha256_file(path / name) != file.index_sha256:
        yield f"{name}: is damaged (SHA-256 mismatch); {remedy}"


def _name_row(
    task: ShardTask, file: ShardFile, data: NDArray[np.uint8], rows: NDArray[np.void] | None, row: int
) -> str:
    if rows is None or row >= len(rows) or "id" not in task.fields:
        return f"row {row}"
    (id,) = record_ids(file, data, rows, True, [row])
    if crc32c(id) != rows["id_crc32c"][row]:
        return f"row {row}"  # the id is damaged or lost, too
    return f"row {row}, id {printable_id(id)}"


def _index_problems(
    task: ShardTask, file: ShardFile, stored: NDArray[np.void] | None, rows: NDArray[np.void]
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


def _replaced_problems(
    task: ShardTask, format: str, file: ShardFile, stored: NDArray[np.void] | None, rows: NDArray[np.void]
) -> Iterator[str]:
    """The defects of an index that `relabel` made. `rows` has the columns that no `relabel` changes."""
    if len(rows) != task.shard.records:
        yield f"{file.path}: has {len(rows)} records, the manifest says {task.shard.records}; restore dataset.json"
        return
    if stored is None:
        return  # reported already
    if file.index_crc32c is not None and index.checksums_crc32c(stored) != file.index_crc32c:
        yield f"{file.path}: the manifest's index_crc32c is not that of its index; restore dataset.json from a copy"
    data = index.ShardBytes.of(task.path, file)
    wrong = {name: _differing(stored[name], rows[name]) for name in rows.dtype.names or ()}
    for name in (name for name in extent_fields(task.fields) if index.has_values(name, task.fields)):
        wrong[name] = np.array([not _is_value(data, format, row, task.fields[name]) for row in _extents(stored, name)])
    for row in np.flatnonzero(np.logical_or.reduce(list(wrong.values()))).tolist():
        names = ", ".join(name for name, found in wrong.items() if found[row])
        where = _name_row(task, file, map_file(task.path / file.path), stored, row)
        yield f"{file.index}: {where}: {names} not what the shard says, or damaged; relabel it again"


def _extents(rows: NDArray[np.void], name: str) -> Iterator[tuple[int, int, int]]:
    return zip(*(rows[column].tolist() for column in extent_columns(name)), strict=True)


def _is_value(data: index.ShardBytes, format: str, extent: tuple[int, int, int], field: Field) -> bool:
    """Whether a string or a list is whole, and of its type."""
    start, length, checksum = extent
    found = data[start : start + length]
    try:
        texts = [found.tobytes()] if not field.shape else SHARD_FORMATS[format].value(found, field)
        if field.dtype == "string":
            for text in texts:
                text.decode()
    except ValueError:
        return False
    return crc32c(found) == checksum


def _differing(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """A mask of the rows that differ."""
    # Bytes are compared, since a NaN is not equal to itself.
    if not len(one):
        return np.zeros(0, np.bool_)
    both = (np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), -1) for rows in (one, other))
    return np.asarray(np.not_equal(*both).any(1))


def _differences(
    task: ShardTask, held: Mapping[str, NDArray[np.void]], ids: Mapping[str, NDArray[np.uint64]]
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


def _decoding_problems(task: ShardTask, format: str) -> Iterator[str]:
    """The images that the reader cannot decode, or whose size is not that of the index."""
    # By the reader itself, so that every check that training would make is made.
    data = _opened(task.path, task.split, format)
    for record in range(task.first_counting, task.first_counting + len(task.rows)):
        for problem in decoding_damage(data, record):
            yield problem.removeprefix(f"{task.path}/") + "; make the dataset again"


@functools.lru_cache(8)
def _opened(path: Path, split: str, format: str) -> Dataset:
    return open_dataset(path, split, format=format)  # cached, since it parses the whole manifest


def _hashes(file: ShardFile, data: index.ShardBytes, rows: NDArray[np.void], has_ids: bool) -> NDArray[np.uint64]:
    """128 bits of each id, `[n, 2]`."""
    if not has_ids:
        return np.zeros((len(rows), 2), np.uint64)
    ids = record_ids(file, data, rows, True, range(len(rows)))
    digests = b"".join(hashlib.blake2b(id, digest_size=16).digest() for id in ids)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)
