"""From ordered inputs to shard tasks: how many shards, and which bytes of a plan file are a shard's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

from beam_jobs.errors import UsageError
from beam_jobs.options import ShardRule
from beam_jobs.plan.order import Ordered
from beam_jobs.sources.files.interface import Reference
from shard_reader.storage.directory import Directory

__all__ = [
    "HASH_TASKS_NAME",
    "TASKS_NAME",
    "ShardTask",
    "first_references",
    "plan_shards",
    "read_references",
    "read_tasks",
    "reference_at",
    "shard_count",
]

TASKS_NAME = "shards.jsonl"
HASH_TASKS_NAME = "hashed.jsonl"
MAX_SHARDS = 99_999
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard to write: its place among the shards of its split, and where its references are.

    They are the bytes from `start` to `end` of the plan file `plan`, `records` lines.
    """

    split: str
    number: int
    count: int
    records: int
    plan: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """A name for it, the same on every run."""
        return f"{self.split}-{self.number:05d}-of-{self.count:05d}"


def shard_count(records: int, rule: ShardRule, largest: int, record_bytes: float) -> int:
    """How many shards a split of so many records gets.

    Args:
        records: of the split.
        rule: of all splits.
        largest: how many records the largest split has.
        record_bytes: the mean size of a record, for a rule of bytes.

    Raises:
        UsageError: there are fewer records than shards, or more shards than any engine is good for.
    """
    if rule.by == "shards" and rule.value > largest:
        raise UsageError(f"--shards {rule.value}: the largest split has only {largest} images")
    size = {
        "shards": Fraction(largest, rule.value),
        "records": Fraction(rule.value),
        "bytes": max(Fraction(1), Fraction(rule.value) / Fraction(max(1.0, record_bytes))),
    }[rule.by]
    count = max(1, -(-records // size))
    if count > MAX_SHARDS:
        raise UsageError(f"--shard-{rule.by} {rule.value}: would make {count} shards, more than {MAX_SHARDS}")
    return count


def first_references(split: str, ordered: Ordered, count: int, prefix: str) -> ShardTask:
    """The references that come first, as if they were a shard; `prefix` is where the plan files are."""
    return _tasks(split, Ordered(ordered.path, min(ordered.records, count)), 1, prefix)[0]


def plan_shards(
    ordered: Mapping[str, Ordered], shards: Mapping[str, int], directory: Path, prefix: str, name: str = TASKS_NAME
) -> int:
    """Cut every split into shards, write a task for each to the file `name` in `directory`, and count them."""
    written = 0
    with open(directory / name, "w", encoding="utf-8") as file:
        for split, references in ordered.items():
            for task in _tasks(split, references, shards[split], prefix):
                fields = (task.split, task.number, task.count, task.records, task.plan, task.start, task.end)
                file.write(json.dumps(fields) + "\n")
                written += 1
    return written


def _tasks(split: str, ordered: Ordered, count: int, prefix: str) -> list[ShardTask]:
    bounds = [ordered.records * number // count for number in range(count + 1)]
    places = ordered.starts(bounds)
    return [
        ShardTask(
            split=split,
            number=number,
            count=count,
            records=bounds[number + 1] - bounds[number],
            plan=prefix + ordered.path.name,
            start=start,
            end=end,
        )
        for number, (start, end) in enumerate(pairwise(places))
    ]


def read_tasks(directory: Directory, path: str) -> Iterator[ShardTask]:
    """The tasks that `plan_shards` wrote to a file, from where that is now."""
    for line in directory.read(path).splitlines():
        split, number, count, records, plan, start, end = json.loads(line)
        yield ShardTask(split=split, number=number, count=count, records=records, plan=plan, start=start, end=end)


def read_references(directory: Directory, task: ShardTask) -> Iterator[Reference]:
    """The references of one shard, in order, in memory of some thousand."""
    position, rest = task.start, b""
    while position < task.end:
        piece = directory.read(task.plan, position, min(task.end, position + _PIECE))
        if not piece:
            raise OSError(f"{directory.uri(task.plan)}: ends before byte {task.end}; run the command again")
        position += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield Reference(*json.loads(line))


def reference_at(directory: Directory, task: ShardTask, position: int) -> Reference:
    """One of the references of a shard."""
    return next(islice(read_references(directory, task), position, None))
