"""`image-shards verify --withdrawn`: whether anything of withdrawn records is left in a dataset.

Shards hold nothing but their records, whose ids are read; lists and tables mention none of the ids; and every file is
one that the newest manifest names. Any other file may hold bytes of a withdrawn record, and is named.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.generations.checks.mentions import Mentions, mentions_in_parts
from beam_jobs.generations.compaction.removals import read_waiting
from beam_jobs.metadata.papers import foreign_papers
from beam_jobs.processes import ParallelMap, in_parallel
from beam_jobs.sources.files.file_names import split_place
from beam_jobs.terminal import counted
from beam_jobs.tools.dataset_files import (
    REMOVALS_NAME,
    REPORT_NAME,
    known_files,
    manifest_at,
    need_image_packages,
    need_shard_packages,
    printable_id,
    record_ids,
    shard_on_disk,
)
from shard_reader.dataset.manifests import read_manifest
from shard_reader.errors import CorruptionError, ShardsError
from shard_reader.format import index
from shard_reader.format.checksum import sha256_file
from shard_reader.format.fields import Field
from shard_reader.format.manifest import MANIFEST_NAME, PARQUET_NAME, Manifest, Shard, generation_manifest
from shard_reader.printable import printable
from shard_reader.remote.client import StoreClient
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory
from shard_reader.system.memory_map import map_file

__all__ = ["Traces", "ids_in"]

_LINES: Final = 4096  # that are looked at together
_ROWS: Final = 1 << 14
_RETRY_SECONDS: Final = 60.0
_PICTURES: Final = ("before", "after")  # of a thumbnail, in base64
_WRITTEN: Final = ("warnings", "left_out", "options")  # the texts of a manifest that inputs decide


def ids_in(place: str) -> Iterator[bytes]:
    """The ids in a file, one a line, in UTF-8. Empty lines count for nothing.

    Raises:
        UsageError: the file cannot be read, or is no UTF-8.
    """
    folder, name = split_place(place)
    number = 0
    try:
        for number, line in enumerate(directory(folder).lines(name), 1):
            id = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if id := id.removesuffix(b"\n").removesuffix(b"\r"):
                id.decode()
                yield id
    except UnicodeDecodeError:
        raise UsageError(f"--withdrawn {place}: line {number} is not UTF-8") from None
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"--withdrawn {place}: {getattr(error, 'strerror', None) or error}") from error


class Traces:
    """Looks for traces of ids in a whole dataset.

    Args:
        place: the path or URL of the dataset.

    Raises:
        UsageError: there is no dataset, or a package is missing.
        JobError: the manifest is damaged.
    """

    def __init__(self, place: str) -> None:
        self._place = place.rstrip("/")
        self._files, self._manifest = manifest_at(place)
        need_shard_packages(self._manifest)
        need_image_packages(self._manifest, decode=False)
        self.traces = self.looked_at = self.records = 0
        self.shards = 0

    def run(
        self,
        ids: Callable[[], Iterable[bytes]],
        workers: int | ParallelMap,
        note: Callable[[str], None],
        progress: Callable[[], None],
    ) -> None:
        """Look for some ids.

        Args:
            ids: gives the ids.
            workers: the number of processes, or another way to look at shards.
            note: called with a line for each trace, as soon as it is found.
            progress: called after each shard.

        Raises:
            UsageError: there is no id.
        """

        def count(trace: str) -> None:
            self.traces += 1
            note(trace)

        is_first = True
        for mentions in mentions_in_parts(ids(), [str(self._manifest.options.get("input") or "")]):
            manifests = self._manifests(count if is_first else _ignore)
            if is_first:
                self._look_at_names(manifests, count)
            self._look_at_shards(manifests, mentions, workers, count, progress, is_first=is_first)
            self._look_at_lists(manifests, mentions, count)
            is_first = False
        if is_first:
            raise UsageError("--withdrawn: the file has no id; give ids, one a line")

    def summary(self) -> str:
        """The result in words."""
        found = counted(self.traces, "trace") if self.traces else "no trace of the withdrawn records"
        return (
            f"{self._place}: {found}; {counted(self.records, 'record')} and {counted(self.looked_at, 'file')} looked at"
        )

    def _manifests(self, note: Callable[[str], None]) -> dict[str, Manifest]:
        """The manifests of all generations that are not removed, by the names of their files."""
        found = {MANIFEST_NAME: self._manifest}
        store = None if self._files.local is not None else StoreClient(self._place, _RETRY_SECONDS)
        for one in self._manifest.history[:-1]:
            if not one.is_removed:
                try:
                    manifest = read_manifest(self._place, self._files.local, store, one.number)
                    found[generation_manifest(one.number)] = manifest
                except ShardsError as error:
                    note(str(error))
        return found

    def _look_at_names(self, manifests: Mapping[str, Manifest], note: Callable[[str], None]) -> None:
        """Name each file that the newest manifest does not account for."""
        waiting = {name: one.after for one in read_waiting(self._files) for name in one.files}
        known = known_files(self._manifest) | {REMOVALS_NAME}
        for manifest in manifests.values():
            known |= known_files(manifest)
        for name in sorted(file.name for file in self._files.walk()):
            self.looked_at += 1
            if name in known and name != REPORT_NAME and name not in waiting:
                continue
            where = self._address(name)
            if name in waiting:
                when = datetime.fromtimestamp(waiting[name], UTC).strftime("%Y-%m-%d %H:%M UTC")
                note(f"{where}: is replaced, and may hold bytes until {when}; `compact --in-place` removes it then")
            elif name.rpartition("/")[2] == REPORT_NAME:
                note(f"{where}: has pictures of records, and may hold bytes of withdrawn ones; remove it")
            else:
                note(f"{where}: is not of the dataset, and may hold bytes of withdrawn records; remove it if it does")

    def _look_at_shards(
        self,
        manifests: Mapping[str, Manifest],
        mentions: Mentions,
        workers: int | ParallelMap,
        note: Callable[[str], None],
        progress: Callable[[], None],
        *,
        is_first: bool,
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="image-shards-") as scratch:
            path, remote = self._files.local or Path(scratch), None if self._files.local is not None else self._place
            tasks = list(_tasks(path, remote, manifests.values()))
            self.shards = len(tasks)
            for task, found in zip(tasks, in_parallel(_look, tasks, workers), strict=True):
                self.records += task.shard.records * is_first
                for problem in found.problems * is_first:
                    note(self._shown(path, problem))
                for row in np.flatnonzero(mentions.contain(found.ids)).tolist():
                    with shard_on_disk(remote, task.shard, path, task.fields):
                        note(self._shown(path, _trace(task, row)))
                progress()

    def _look_at_lists(
        self, manifests: Mapping[str, Manifest], mentions: Mentions, note: Callable[[str], None]
    ) -> None:
        """Look for ids in the texts of lists, tables, manifests, and pages that their user has edited."""
        names = {name for manifest in manifests.values() for name in manifest.files if not name.startswith("../")}
        for name in sorted(names):
            try:
                if name.endswith(".jsonl"):
                    self._find(mentions, name, _texts_of_lines(self._files.lines(name)), note)
                elif name.endswith(PARQUET_NAME):
                    self._find(mentions, name, _texts_of_table(self._files, name), note)
            except FileNotFoundError:
                note(f"{self._address(name)}: is missing; restore it from a copy")
            except (OSError, ValueError, pa.ArrowException) as error:
                why = printable(str(getattr(error, "strerror", None) or error))
                note(f"{self._address(name)}: cannot be read ({why:.200}); restore it from a copy")
        for name, manifest in manifests.items():
            body = json.loads(manifest.to_json())
            texts = [text for key in _WRITTEN for text in _strings(body.get(key))]
            self._find(mentions, name, (("", text) for text in texts), note)
        for name in foreign_papers(self._files):
            lines = (line.decode("utf-8", "replace") for line in self._files.lines(name))
            self._find(mentions, name, ((f"line {number}", line) for number, line in enumerate(lines, 1)), note)

    def _find(
        self, mentions: Mentions, name: str, texts: Iterable[tuple[str, str]], note: Callable[[str], None]
    ) -> None:
        left, told = iter(texts), ("", b"")
        while block := list(islice(left, _LINES)):
            encoded = [text.encode("utf-8", "surrogateescape") for _, text in block]
            for number, id in mentions.find(encoded):
                where = f": {block[number][0]}" if block[number][0] else ""
                if (where, id) != told:
                    note(f"{self._address(name)}{where}: mentions the id {printable_id(id)}")
                told = where, id

    def _address(self, name: str) -> str:
        """A file as the user would write it."""
        local = self._files.local
        return self._files.uri(printable(name)) if local is None else printable(str(local / name))

    def _shown(self, path: Path, text: str) -> str:
        """A text with the user's URL in place of the temporary folder."""
        return text if self._files.local is not None else text.replace(str(path), self._place)


@dataclass(frozen=True, slots=True)
class _Task:
    """A shard to look at, as `beam_jobs.tools.checks.shard.ShardTask`."""

    path: Path
    fields: Mapping[str, Field]
    shard: Shard
    remote: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    """The problems of a shard, and the hashes of the ids in its files, uint64 `[n]`, one file after the other."""

    problems: list[str]
    ids: NDArray[np.uint64]


def _ignore(trace: str) -> None:
    del trace


def _tasks(path: Path, remote: str | None, manifests: Iterable[Manifest]) -> Iterator[_Task]:
    """Each shard of all generations once. Those of other directories are not of this dataset."""
    seen = set[str]()
    for manifest in manifests:
        for shard in manifest.shards():
            names = {file.path for file in shard.files.values()}
            if not names <= seen and not any(name.startswith("../") for name in names):
                seen |= names
                yield _Task(path, manifest.fields, shard, remote)


def _look(task: _Task) -> _Found:
    """Read the ids of a shard, from its bytes and not from its index, and check that it holds nothing else."""
    problems, hashes = list[str](), list[NDArray[np.uint64]]()
    with shard_on_disk(task.remote, task.shard, task.path, task.fields):
        for format, file in task.shard.files.items():
            path = task.path / file.path
            try:
                # A file of HDF5 may have room that no dataset uses: it is the one that was written with its records.
                if not path.is_file() or sha256_file(path) != file.sha256:
                    why = "is damaged (SHA-256 mismatch)" if path.is_file() else "is missing"
                    problems.append(f"{path}: {why}: it is not known what it holds; restore it from a copy")
                    continue
                rows = index.build(path, format, task.fields)
                if len(rows) != task.shard.records:
                    problems.append(f"{path}: has {len(rows)} records, the manifest says {task.shard.records}")
                ids = record_ids(file, map_file(path), rows, "id" in task.fields, range(len(rows)))
                hashes.append(np.array([xxhash.xxh3_64_intdigest(id) for id in ids], np.uint64))
            except (CorruptionError, OSError) as error:
                problems.append(f"{path}: it is not known what it holds: {error}")
    return _Found(problems, np.concatenate([np.empty(0, np.uint64), *hashes]))


def _trace(task: _Task, number: int) -> str:
    """A record of a shard in words, by its number over all of the shard's files."""
    for format, file in task.shard.files.items():
        path = task.path / file.path
        rows = index.build(path, format, task.fields)
        if number < len(rows):
            (id,) = record_ids(file, map_file(path), rows, "id" in task.fields, [number])
            return f"{path}: row {number}: holds the record {printable_id(id)}; `compact` rewrites what remains"
        number -= len(rows)
    raise AssertionError(number)


def _texts_of_lines(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """The texts of a list of JSON, each with its line."""
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = line.decode("utf-8", "replace")
        if isinstance(found, dict):
            found = {name: value for name, value in found.items() if name not in _PICTURES}
        yield from ((f"line {number}", text) for text in _strings(found))


def _texts_of_table(files: Directory, name: str) -> Iterator[tuple[str, str]]:
    """The texts of a table of Parquet, each with its column."""
    with files.open(name) as opened, pq.ParquetFile(opened) as table:
        columns = [field.name for field in table.schema_arrow if _has_texts(field.type)]
        # The split and the names of classes are no texts of a record.
        for batch in table.iter_batches(_ROWS, columns=columns, use_threads=False):
            for column in columns:
                for value in batch.column(column).to_pylist():
                    yield from ((f"column {printable(column)}", text) for text in _strings(value))


def _has_texts(type: pa.DataType) -> bool:
    while pa.types.is_list(type):
        type = type.value_type
    return bool(pa.types.is_string(type))


def _strings(value: Any) -> Iterator[str]:
    """The texts in a value of JSON, at any depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
