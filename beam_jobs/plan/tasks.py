"""From ordered inputs to shard tasks: the number of shards, and the bytes of a plan file for each of them."""

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
    "KNOWN_TASKS_NAME",
    "TASKS_NAME",
    "ShardTask",
    "first_references",
    "plan_shards",
    "read_references",
    "read_tasks",
    "reference_at",
    "shard_count",
    "task_name",
]

TASKS_NAME = "shards.jsonl"
HASH_TASKS_NAME = "hashed.jsonl"
KNOWN_TASKS_NAME = "known.jsonl"
MAX_SHARDS = 99_999
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard to write: its number among the shards of its split, and its references.

    The references are the `records` lines from byte `start` to byte `end` of the plan file `plan`.
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
        """The name of the shard, which is the same on every run."""
        return task_name(self.split, self.number, self.count)


def task_name(split: str, number: int, count: int) -> str:
    """The name of the task of a shard: `train-00003-of-00012`."""
    return f"{split}-{number:05d}-of-{count:05d}"


def shard_count(records: int, rule: ShardRule, largest: int, record_bytes: float) -> int:
    """The number of shards of a split.

    Args:
        records: the number of records of the split.
        rule: the rule for all splits.
        largest: the number of records of the largest split.
        record_bytes: the mean size of a record, for a rule of bytes.

    Raises:
        UsageError: there are more shards than records, or more than `MAX_SHARDS`.
    """
    if rule.by == "shards" and rule.value > largest:
        raise UsageError(f"--shards {rule.value}: the largest split has only {largest} images")
    # Fractions: with floats, the number of shards could depend on rounding, and with it every name of a file.
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
    """A task with the first references of a split. `prefix` is the folder of the plan files."""
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
    # In integers: sizes differ by at most one, and rounding is the same on every machine.
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
    """The tasks of a file that `plan_shards` wrote."""
    for line in directory.read(path).splitlines():
        split, number, count, records, plan, start, end = json.loads(line)
        yield ShardTask(split=split, number=number, count=count, records=records, plan=plan, start=start, end=end)


def read_references(directory: Directory, task: ShardTask) -> Iterator[Reference]:
    """The references of one shard, in order, in memory of a few thousand of them."""
    position, rest = task.start, b""
    while position < task.end:
        piece = directory.read(task.plan, position, min(task.end, position + _PIECE))
        # Without this, a plan file that was cut off would be asked for bytes for ever.
        if not piece:
            raise OSError(f"{directory.uri(task.plan)}: ends before byte {task.end}; run the command again")
        position += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield Reference(*json.loads(line))


def reference_at(directory: Directory, task: ShardTask, position: int) -> Reference:
    """The reference at a position of a shard."""
    return next(islice(read_references(directory, task), position, None))
