"""The records that count, in the order that one `prepare` over them has, and the lines of lists about them.

Records, the lines about them and withdrawn ids are sorted together by the hashes of ids, in memory of a bucket.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from beam_jobs.errors import JobError
from beam_jobs.external_sort import Spill
from beam_jobs.generations.checks.mentions import mentions_in_parts
from beam_jobs.generations.growth import Growth
from beam_jobs.generations.tables import each_id
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.plan.order import LISTING_REJECTS_NAME, Ordered, OrderedWriter, statistics_split
from beam_jobs.shards.records.copied import PIXELS, SUSPECT
from beam_jobs.shards.thumbnails import chosen, id_key
from beam_jobs.sources.files.interface import Reference, Thumbnail
from beam_jobs.tools.dataset_files import remaining_of
from shard_reader import open_dataset
from shard_reader.format.manifest import PIXELS_NAME, REJECTS_NAME, SUSPECTS_NAME, THUMBNAILS_NAME, Manifest, ShardTable
from shard_reader.storage.directory import Directory

__all__ = ["Listed", "list_records", "withdrawn_ids"]

_BLOCK: Final = 1 << 12  # withdrawn records whose ids are read together
_LINES: Final = 4096  # of a list, in which ids are looked for together


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The records that count, in the files of a plan.

    `rejected` is the number of lines that stay in `rejects.jsonl`, and `read` that of inputs among them that were
    planned, and rejected when they were read. `pixels_split` is the split of whose records the sums over pixels are
    known. `warnings` are those that mention no withdrawn id.
    """

    ordered: dict[str, Ordered]
    rejects: Path
    thumbnails: Path
    rejected: int
    read: int
    pixels_split: str | None
    warnings: tuple[str, ...]


def list_records(growth: Growth, scratch: Path, on_records: Callable[[int], None]) -> Listed:
    """List the records that count, and the lines of lists that mention no withdrawn id.

    Args:
        growth: the dataset.
        scratch: a folder for the files of the plan, and for data larger than memory.
        on_records: called with the number of records of each block.

    Raises:
        CorruptionError: a shard or a table is damaged.
        JobError: a list is no list, or has not the lines that it should have.
    """
    files, manifest = growth.files, growth.manifest
    spill, pixels = Spill(scratch), _Pixels(files, manifest)
    _spill_records(spill, growth, pixels, on_records)
    for id in withdrawn_ids(growth):
        _add(spill, manifest.seed, id.decode(), {"a": "withdrawn", "line": {"id": id.decode()}})
    for kind, list_name in (("suspect", SUSPECTS_NAME), ("thumbnail", THUMBNAILS_NAME)):
        for name in manifest.lists(list_name):
            for line in files.lines(name):
                found = _object(line, files.uri(name))
                _add(spill, manifest.seed, found["id"], {"a": kind, "folder": _folder(name), "line": found})
    withdrawn = scratch / "withdrawn.jsonl"
    ordered = _write_plan(spill, manifest, scratch, withdrawn)
    roots = [str(manifest.options.get("input") or "")]
    rejects = _kept_rejects(files, manifest, scratch, withdrawn, roots)
    return Listed(
        ordered=ordered,
        rejects=scratch / LISTING_REJECTS_NAME,
        thumbnails=scratch / THUMBNAILS_NAME,
        rejected=rejects[0],
        read=rejects[1],
        pixels_split=pixels.split,
        warnings=tuple(_kept_texts(manifest.warnings, withdrawn, roots)),
    )


def withdrawn_ids(growth: Growth) -> Iterator[bytes]:
    """The ids of the withdrawn records of all splits. A record that counts may have the id of one."""
    for split, remaining in remaining_of(growth.files, growth.manifest).items():
        numbers = remaining.withdrawn
        if len(numbers):
            with closing(open_dataset(growth.place, split, generation=growth.manifest.generation)) as data:
                for start in range(0, len(numbers), _BLOCK):
                    yield from data.stored_ids(numbers[start : start + _BLOCK])


def _spill_records(spill: Spill, growth: Growth, pixels: _Pixels, on_records: Callable[[int], None]) -> None:
    """Spill each record that counts, with its number in its split."""
    manifest, remaining = growth.manifest, remaining_of(growth.files, growth.manifest)
    tables = {split: found.shards for split, found in manifest.splits.items()}
    ends = {split: np.cumsum(table.records) for split, table in tables.items()}
    folders = {split: _folders(table) for split, table in tables.items()}
    for split, first, ids in each_id(growth):
        numbers = np.arange(first, first + len(ids))
        stored = remaining[split].numbers(numbers)
        shards = np.searchsorted(ends[split], stored, "right")
        rows = zip(ids, numbers.tolist(), stored.tolist(), shards.tolist(), strict=True)
        for id, number, place, shard in rows:
            _add(spill, manifest.seed, id, [id, split, number, folders[split][shard], pixels.at(split, place)])
        on_records(len(ids))


def _folders(table: ShardTable) -> list[str]:
    """The folder of each shard."""
    return [_folder(path) for path in next(iter(table.files.values())).path] if len(table) else []


def _add(spill: Spill, seed: int, id: str, value: Any) -> None:
    """Spill a value under the hash of an id: that of `beam_jobs.plan.order.scan`, whose order this is."""
    key = hashlib.blake2b(b"%d/%s" % (seed, id.encode()), digest_size=8).digest()
    # "[" is before "{": a record is before the lines about it.
    spill.add_line(key, f"{key.hex()} {json.dumps(value)}".encode())


def _write_plan(spill: Spill, manifest: Manifest, scratch: Path, withdrawn: Path) -> dict[str, Ordered]:
    """Write the references of each split, the thumbnails that stay, and a line for each id that no record has."""
    writers = {split: OrderedWriter(scratch / f"{split}.jsonl") for split in manifest.splits}

    def candidates() -> Iterator[tuple[int, Thumbnail]]:
        with withdrawn.open("wb") as gone:
            for _, lines in groupby(spill.lines(), lambda line: line[:16]):
                for id, record, about in _by_id([json.loads(line[17:]) for line in lines]):
                    found = [one["line"] for one in about if one["a"] == "suspect" and _is_about(one, record)]
                    if record is not None:
                        _, split, number, _, line = record
                        values = {} if line is None else {PIXELS: line}
                        if found:
                            values[SUSPECT] = str(found[-1]["message"])
                        writers[split].write(Reference(id, -1, [split, number], values))
                    is_gone = record is None and any(one["a"] == "withdrawn" for one in about)
                    if is_gone:
                        gone.write(json.dumps(id).encode() + b"\n")
                    for one in about:
                        if one["a"] == "thumbnail" and not is_gone:
                            thumbnail = Thumbnail(**{name: one["line"].get(name) for name in Thumbnail._fields})
                            if thumbnail.group == "reject" or _is_about(one, record):
                                yield id_key(id), thumbnail

    # The references are written on the way: one pass over all lines gives both.
    with (scratch / THUMBNAILS_NAME).open("wb") as file:
        file.writelines(map(Thumbnail.to_line, chosen(candidates())))
    return {split: writer.close() for split, writer in writers.items()}


def _by_id(values: Sequence[Any]) -> Iterator[tuple[str, list[Any] | None, list[dict[str, Any]]]]:
    """The record of each id, in their order, and the lines about it. Several ids may have one hash."""
    records = {value[0]: value for value in values if isinstance(value, list)}
    about: dict[str, list[dict[str, Any]]] = {id: [] for id in records}
    for value in values:
        if isinstance(value, dict):
            about.setdefault(value["line"]["id"], []).append(value)
    return ((id, records.get(id), lines) for id, lines in about.items())


def _is_about(line: Mapping[str, Any], record: list[Any] | None) -> bool:
    """Whether a line is about a record, and not about one that it has replaced: they are of the same folder."""
    return record is not None and line["folder"] == record[3]


def _kept_rejects(
    files: Directory, manifest: Manifest, scratch: Path, withdrawn: Path, roots: Sequence[str]
) -> tuple[int, int]:
    """Write the rejects that mention no withdrawn id. Returns their number, and that of rejects that were read."""
    count, read = 0, 0

    def texts(line: bytes) -> list[str]:
        found = _object(line, REJECTS_NAME)
        return [str(found["id"]), str(found.get("message"))]

    lines = chain.from_iterable(files.lines(name) for name in manifest.lists(REJECTS_NAME))
    with (scratch / LISTING_REJECTS_NAME).open("wb") as file:
        for line in _kept_lines(lines, texts, withdrawn, roots, scratch):
            count, read = count + 1, read + (_object(line, REJECTS_NAME).get("stage") == "read")
            file.write(line)
    return count, read


def _kept_lines(
    lines: Iterable[bytes],
    texts: Callable[[bytes], list[str]],
    withdrawn: Path,
    roots: Sequence[str],
    scratch: Path,
) -> Iterator[bytes]:
    """The lines none of whose texts mentions a withdrawn id."""
    # A file for each part of the ids: memory holds a part of them, and no line is looked at twice for the same part.
    for number, mentions in enumerate(mentions_in_parts(_ids(withdrawn), roots)):
        path, left = scratch / f"kept-{number}.jsonl", iter(lines)
        with path.open("wb") as file:
            while block := list(islice(left, _LINES)):
                numbered = [
                    (place, text.encode("utf-8", "surrogateescape"))
                    for place, line in enumerate(block)
                    for text in texts(line)
                ]
                found = mentions.find([text for _, text in numbered])
                mentioned = {numbered[place][0] for place, _ in found}
                file.writelines(line for place, line in enumerate(block) if place not in mentioned)
        lines = _lines_of(path)
    yield from lines


def _kept_texts(texts: Sequence[str], withdrawn: Path, roots: Sequence[str]) -> Iterator[str]:
    gone = set[int]()
    for mentions in mentions_in_parts(_ids(withdrawn), roots):
        gone |= {number for number, _ in mentions.find([text.encode() for text in texts])}
    return (text for number, text in enumerate(texts) if number not in gone)


def _ids(withdrawn: Path) -> Iterator[bytes]:
    return (json.loads(line).encode() for line in _lines_of(withdrawn))


def _lines_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


class _Pixels:
    """The lines of `pixels.jsonl`, one for each record of the shards of the split that is measured."""

    def __init__(self, files: Directory, manifest: Manifest) -> None:
        names, statistics = manifest.lists(PIXELS_NAME), manifest.statistics
        measured = statistics_split(list(manifest.splits)) if statistics is None else statistics.split
        self.split = measured if names else None
        self._name, self._next = names[0] if names else PIXELS_NAME, 0
        self._lines = chain.from_iterable(files.lines(name) for name in names)

    def at(self, split: str, number: int) -> Any:
        """The line of a record by its number in the shards of its split; None if that is not measured.

        Numbers rise from call to call.

        Raises:
            JobError: there is no such line.
        """
        if split != self.split:
            return None
        line = next(islice(self._lines, number - self._next, None), None)
        self._next = number + 1
        if line is None:
            raise JobError(f"{self._name}: has fewer lines than the split {split} has records; restore it from a copy")
        try:
            sums = ChannelSums.from_line(line)
        except (ValueError, RecursionError) as error:
            raise JobError(f"{self._name}: {error}; restore it from a copy") from error
        return [sums.pixels, sums.peak, sums.total, sums.squares]


def _folder(name: str) -> str:
    """The folder of a file, in which a generation has its shards and its lists."""
    return name.rpartition("/")[0]


def _object(line: bytes, name: str) -> dict[str, Any]:
    """A line of a list about an id."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(line)
        if isinstance(found, dict) and isinstance(found.get("id"), str):
            return found
    raise JobError(f"{name}: has a line that is no object with an id; restore it from a copy")
