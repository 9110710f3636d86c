"""The inputs with the id of a record in the dataset that they are added to: the same ones, and others."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.plan.listing import Listing
from beam_jobs.plan.order import Ordered, OrderedWriter, PlannedInputs, references_of
from beam_jobs.plan.schema.base import Base
from beam_jobs.plan.schema.earlier import KNOWN, REPLACED_NAME, known_records, spilled_by_id
from beam_jobs.plan.tasks import KNOWN_TASKS_NAME, plan_shards, read_tasks
from beam_jobs.runners.jobs import job_of, robots_in
from beam_jobs.runners.run import add_hashing
from beam_jobs.shards.output import PLAN, Output, Work
from beam_jobs.shards.write import hashes_of
from beam_jobs.steps.planner import Run
from beam_jobs.steps.summary import Progress
from beam_jobs.steps.tasks import Step, run_tasks
from beam_jobs.terminal import counted, print_status
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory

__all__ = ["Known", "find_known", "same_ids"]

_NAME = "known-inputs"  # not a possible name of a split
_HASHED_TOGETHER = 4096  # inputs of one task
_FOUND = np.dtype([("rank", "<u8"), *KNOWN.descr])
_BLOCK = 1 << 14
_SHOWN = 3  # ids in an error


@dataclass(frozen=True, slots=True)
class Known:
    """The inputs that are in the dataset already, by a file of their rising ranks, and their number.

    `replaced` has two numbers for each record that an input replaces: that of its split and its own, uint64 `[n, 2]`.
    """

    path: Path
    skipped: int
    replaced: NDArray[np.uint64]

    def __iter__(self) -> Iterator[int]:
        with open(self.path, "rb") as file:
            while data := file.read(8 * _BLOCK):
                yield from np.frombuffer(data, "<u8").tolist()


@dataclass(frozen=True, slots=True)
class _Matched:
    """The inputs with the id of a record, in order: their references, and a row of `_FOUND` for each in a file."""

    ordered: Ordered
    rows: Path


def same_ids(run: Run, listing: Listing, base: Base) -> Known:
    """The inputs with the id of a record, none of which is read."""
    matched, path = _match(run, listing, base), run.scratch / "skipped.u8"
    with open(path, "wb") as file:
        for rows in _rows(matched):
            file.write(rows["rank"].tobytes())
    return Known(path, matched.ordered.records, np.empty((0, 2), np.uint64))


def find_known(run: Run, listing: Listing, base: Base, output: Output) -> Known:
    """Read and hash each input with the id of a record.

    Raises:
        UsageError: some have other bytes, labels or fields than their records, and are not to replace them.
    """
    matched, path = _match(run, listing, base), run.scratch / "skipped.u8"
    replaced_path = run.scratch / REPLACED_NAME
    if not matched.ordered.records:
        path.write_bytes(b"")
        replaced_path.write_bytes(b"")
        output.install([replaced_path])
        return Known(path, 0, np.empty((0, 2), np.uint64))
    blocks = _hashed(run, listing, matched.ordered, output)
    skipped, others, replaced = 0, list[str](), list[NDArray[np.uint64]]()
    changed = rank = 0
    with open(path, "wb") as file:
        rows = _rows(matched)
        waiting = np.empty(0, _FOUND)
        for block in blocks:
            while len(waiting) < len(block):
                waiting = np.concatenate([waiting, next(rows)])
            own, waiting = waiting[: len(block)], waiting[len(block) :]
            hashes = block.view(np.int64)
            same_bytes, same_values = own["content"] == hashes[:, 0], own["values"] == hashes[:, 1]
            same = same_bytes & same_values
            file.write(own["rank"][same].tobytes())
            skipped += int(same.sum())
            changed += int((~same).sum())
            replaced.append(np.stack([own["split"], own["number"]], 1)[~same].astype(np.uint64))
            for place in np.flatnonzero(~same)[: _SHOWN - len(others)].tolist():
                why = "cannot be read" if not hashes[place].any() else "other bytes"
                why = why if not same_bytes[place] else "other labels or fields"
                others.append(f"{_id(output.files, matched.ordered, rank + place)} ({why})")
            rank += len(block)
    if changed and not base.replaces:
        every = listing.inputs.count
        # Of an array or a file of records without ids, the rows are counted.
        hint = "; of rows that are only counted, give the folder of their file, whose name is then a part of the ids"
        raise UsageError(
            f"--append: {changed} of {counted(every, 'input')} have the id of a record in {base.place}, and are not"
            f" the same: {', '.join(others)}{', ...' if changed > _SHOWN else ''}. Give --replace, with which the new"
            f" ones count, or leave them out with --exclude{hint if changed == every > 1 else ''}"
        )
    pairs = np.concatenate([np.empty((0, 2), np.uint64), *replaced])
    replaced_path.write_bytes(pairs.astype("<u8").tobytes())
    output.install([replaced_path])
    return Known(path, skipped, pairs)


def _id(files: Directory, ordered: Ordered, rank: int) -> str:
    start, end = ordered.starts([rank, rank + 1])
    return printable(str(json.loads(files.read(PLAN + ordered.path.name, start, end))[0]))


def _match(run: Run, listing: Listing, base: Base) -> _Matched:
    """Find the inputs with the id of a record, by merging both in the order of the hashes of their ids."""
    folder = run.scratch / "known"
    folder.mkdir(exist_ok=True)
    writer, path = OrderedWriter(run.scratch / f"{_NAME}.jsonl"), run.scratch / "known.rows"
    records = known_records(base.place, base.manifest, run.options.seed, folder)
    buckets = _Buckets(spilled_by_id(records, folder))
    with open(path, "wb") as file:
        references = references_of(listing.everything(), listing.source, listing.schema)
        for rank, (key, reference) in enumerate(references):
            row = buckets.find(key, reference.id)
            if row is not None:
                found = np.zeros(1, _FOUND)
                found["rank"] = rank
                for name in KNOWN.names or ():
                    found[name] = row[name]
                file.write(found.tobytes())
                writer.write(reference)
    return _Matched(writer.close(), path)


class _Buckets:
    """Looks up records by their ids, in the order of their hashes: in memory is one bucket."""

    def __init__(self, spill: Spill) -> None:
        self._buckets = enumerate(spill.buckets())
        self._number = -1
        self._rows = np.empty(0, KNOWN)
        self._keys: dict[int, int] = {}

    def find(self, key: int, id: str) -> np.void | None:
        """The record with an id, of which the hash is given; None if there is no such record."""
        while self._number < key >> 54:
            self._number, data = next(self._buckets)
            if self._number == key >> 54:
                self._rows = np.frombuffer(data, KNOWN)
                self._keys = {found: place for place, found in enumerate(self._rows["key"].tolist())}
        place = self._keys.get(key)
        if place is None:
            return None
        row: np.void = self._rows[place]
        return row if int(row["check"]) == _check(id) else None


def _check(id: str) -> int:
    return int(xxhash.xxh3_64_intdigest(id.encode()))


def _rows(matched: _Matched) -> Iterator[NDArray[np.void]]:
    with open(matched.rows, "rb") as file:
        while data := file.read(_BLOCK * _FOUND.itemsize):
            yield np.frombuffer(data, _FOUND)


def _hashed(run: Run, listing: Listing, ordered: Ordered, output: Output) -> Iterator[NDArray[np.uint64]]:
    """The hashes of some inputs, uint64 `[n, 2]`, each of which is read."""
    count = -(-ordered.records // _HASHED_TOGETHER)
    tasks = plan_shards({_NAME: ordered}, {_NAME: count}, run.scratch, PLAN, KNOWN_TASKS_NAME)
    output.install([ordered.path, run.scratch / KNOWN_TASKS_NAME, *robots_in(run.scratch)])
    job = job_of(run.options, listing, run.options.output, Work(listing.fingerprint.digest), run.shared)
    job = replace(job, hash_values=True, image=replace(job.image, normalize="none"))
    print_status(f"HashInputs: reads {counted(ordered.records, 'image')}, to compare them with records of the same id")
    none = PlannedInputs({}, ordered.path, 0, 0, ())
    progress = Progress(ordered.records, ordered.records, none, run.options.max_rejects)
    step = Step("HashInputs", "parts", tasks, output.hashed)
    run_tasks(run, output.lock, functools.partial(add_hashing, job), step, progress)
    parts = list(read_tasks(output.files, PLAN + KNOWN_TASKS_NAME))
    return (hashes_of(task, job, output.files) for task in parts)
