"""Which image goes into which shard, at which place: decided from ids and the seed alone.

```
ids, each with h = blake2b(seed, id), sorted by (h, id)     one global order
|---------------- train = 0.9 ----------------|-- val --|   cut into splits at floor(N * fraction)
|-- shard 0 --|-- shard 1 --|-- shard 2 --|...              cut into shards at floor(n * s / S)
```

Neither the order of the listing nor the number of workers plays a part, and the sizes of a split's
shards differ by at most one. INPUT's own split folders are splits before they are sorted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from beam_jobs.errors import UsageError
from beam_jobs.options import ShardRule
from beam_jobs.sources import Listing, Reference

__all__ = [
    "Plan",
    "ShardTask",
    "fingerprint",
    "measured_tasks",
    "plan_shards",
    "read_task",
    "split_references",
    "statistics_split",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard to write: its place among the shards of its split, and where its references are.

    The references are `records` lines of the plan file from byte `offset` on.
    """

    split: str
    number: int
    count: int
    records: int
    plan: str
    offset: int

    @property
    def name(self) -> str:
        """A name for it, the same on every run."""
        return f"{self.split}-{self.number:05d}-of-{self.count:05d}"


def statistics_split(splits: Sequence[str]) -> str:
    """The split whose pixels are measured: what a model is evaluated on must not shape it."""
    return "train" if "train" in splits else splits[0]


def measured_tasks(tasks: Sequence[ShardTask]) -> list[ShardTask]:
    """The shards of that split."""
    split = statistics_split([task.split for task in tasks])
    return [task for task in tasks if task.split == split]


Plan = dict[str, list[Reference]]
"""The references of each split, in the order of their records."""


def split_references(listing: Listing, split: Sequence[tuple[str, str]] | None, seed: int) -> Plan:
    """The references of each split, in their final order.

    Raises:
        UsageError: both INPUT and `split` name splits, or a split would have no image.
    """
    if listing.splits:
        if split:
            names = ", ".join(listing.splits)
            raise UsageError(f"--split: INPUT already has split folders ({names}); leave it out")
        groups: Plan = {name: [] for name in listing.splits}
        for reference in listing.references:
            groups[reference.split or ""].append(reference)
        return {name: _ordered(group, seed) for name, group in groups.items()}
    return _cut(_ordered(listing.references, seed), split or (("train", "1"),))


def shard_count(records: int, rule: ShardRule, largest: int, record_bytes: Callable[[], float]) -> int:
    """How many shards a split of so many records gets; `largest` is the size of the largest split.

    Raises:
        UsageError: there are fewer records than shards.
    """
    if rule.by == "shards" and rule.value > largest:
        raise UsageError(f"--shards {rule.value}: the largest split has only {largest} images")
    size = {
        "shards": lambda: Fraction(largest, rule.value),
        "records": lambda: Fraction(rule.value),
        "bytes": lambda: max(Fraction(1), Fraction(rule.value) / Fraction(max(1.0, record_bytes()))),
    }[rule.by]()
    return max(1, -(-records // size))


def plan_shards(plan: Plan, shards: dict[str, int], directory: Path) -> list[ShardTask]:
    """Write the plan files, one for each split, and cut them into shards."""
    tasks: list[ShardTask] = []
    for split, references in plan.items():
        path = directory / f"{split}.jsonl"
        starts = _write_references(path, references)
        count = shards[split]
        bounds = [len(references) * number // count for number in range(count + 1)]
        for number, (first, end) in enumerate(pairwise(bounds)):
            tasks.append(
                ShardTask(
                    split=split,
                    number=number,
                    count=count,
                    records=end - first,
                    plan=str(path),
                    offset=starts[first],
                )
            )
    return tasks


def read_task(task: ShardTask) -> Iterator[Reference]:
    """The references of one shard, in order."""
    with open(task.plan, "rb") as file:
        file.seek(task.offset)
        for _ in range(task.records):
            yield Reference(*json.loads(file.readline()))


def fingerprint(listing: Listing) -> str:
    """The SHA-256 of a listing: ids and sizes in the order of ids, then the ids of rejects."""
    digest = hashlib.sha256()
    for reference in sorted(listing.references):
        digest.update(f"{reference.id}\0{reference.size}\n".encode())
    for id in sorted(reject.id for reject in listing.rejects):
        digest.update(f"{id}\0\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _ordered(references: Iterable[Reference], seed: int) -> list[Reference]:
    # An id of its own length cannot run into the seed: the separator is no part of a number.
    keyed = ((hashlib.blake2b(f"{seed}/{r.id}".encode(), digest_size=8).digest(), r) for r in references)
    return [reference for _, reference in sorted(keyed)]


def _cut(references: list[Reference], split: Sequence[tuple[str, str]]) -> Plan:
    plan: Plan = {}
    first, covered = 0, Fraction(0)
    for name, fraction in split:
        covered += Fraction(fraction)  # the parts sum to exactly 1
        end = int(len(references) * covered)
        if end == first:
            raise UsageError(f"--split: {name}={fraction} of {len(references)} images is none; give it a larger part")
        plan[name], first = references[first:end], end
    return plan


def _write_references(path: Path, references: Sequence[Reference]) -> list[int]:
    """Write a line for each reference; the byte each starts at, and the end."""
    starts = [0]
    with open(path, "wb") as file:
        for reference in references:
            line = json.dumps(reference).encode() + b"\n"
            file.write(line)
            starts.append(starts[-1] + len(line))
    return starts
