"""Which image goes into which shard, at which place: decided from ids and the seed alone.

```
ids, each with h = blake2b(seed, id), sorted by (h, id)     one global order
|---------------- train = 0.9 ----------------|-- val --|   cut into splits at floor(N * fraction)
|-- shard 0 --|-- shard 1 --|-- shard 2 --|...              cut into shards at floor(n * s / S)
```

Neither the order of the listing nor the number of workers or buckets plays a part, and the sizes of a
split's shards differ by at most one. INPUT's own split folders are splits before they are sorted.

The references pass through in memory of one bucket, into files; a shard's task says which bytes are its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import RawIOBase
from itertools import islice, pairwise
from pathlib import Path

from beam_jobs.errors import UsageError
from beam_jobs.options import ShardRule
from beam_jobs.sources import Entry, Problem, Reference, Reject, Source
from beam_jobs.spill import Spill
from shard_reader.storage import Directory

__all__ = [
    "Arrangement",
    "Inputs",
    "Ordered",
    "Part",
    "ShardTask",
    "arrange",
    "cut",
    "first_references",
    "plan_shards",
    "read_references",
    "read_tasks",
    "reference_at",
    "scan",
    "shard_count",
    "statistics_split",
]

TASKS_NAME = "shards.jsonl"
LISTING_REJECTS_NAME = "rejects.jsonl"
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


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a listing found: how many inputs, and a fingerprint of their ids and sizes, in any order."""

    count: int
    fingerprint: str


def scan(source: Source, seed: int, spill: Spill | None, on_entry: Callable[[], None]) -> Inputs:
    """List INPUT, into `spill` if there is one; `on_entry` is called after each input.

    The fingerprint is the sum of a SHA-256 for each input, which is the same for any order of theirs.
    """
    count = total = 0
    for entry in source.entries():
        count += 1
        name = entry.id.encode("utf-8", "surrogateescape")
        total += int.from_bytes(hashlib.sha256(b"%s\0%d\n" % (name, entry.size)).digest())
        if spill is not None:
            # An id of its own length cannot run into the seed: the separator is no part of a number.
            key = hashlib.blake2b(b"%d/%s" % (seed, name), digest_size=8)
            spill.add(key.digest(), f"{key.hexdigest()} {json.dumps(entry)}".encode())
        on_entry()
    return Inputs(count, hashlib.sha256(b"%d %d" % (count, total % (1 << 256))).hexdigest())


@dataclass(frozen=True, slots=True)
class Ordered:
    """References in their final order, on disk: a line for each, and in a second file where each line ends."""

    path: Path
    records: int

    @property
    def ends(self) -> Path:
        """The second file: the byte that each line ends at, uint64."""
        return self.path.with_suffix(".ends")

    def starts(self, ranks: Sequence[int]) -> list[int]:
        """The byte that each of the references begins at; for the rank behind the last one, the end."""
        with open(self.ends, "rb", buffering=0) as file:
            return [self._end(file, rank - 1) if rank else 0 for rank in ranks]

    def _end(self, file: RawIOBase, rank: int) -> int:
        file.seek(8 * rank)
        return int.from_bytes(file.read(8) or b"", "little")


@dataclass(frozen=True, slots=True)
class Arrangement:
    """All of INPUT in order: the references of each of its own splits (or of "" alone), and its rejects."""

    ordered: dict[str, Ordered]
    rejects: Path
    rejected: int
    first_rejects: tuple[Reject, ...]

    @property
    def planned(self) -> int:
        """How many references there are."""
        return sum(ordered.records for ordered in self.ordered.values())


def arrange(spill: Spill, source: Source, splits: Sequence[str] | None, directory: Path) -> Arrangement:
    """Write every input that `scan` has spilled to plan files in `directory`, in the final order.

    Equal ids come one after the other: all but the first are rejects.
    """
    writers = {name: _OrderedWriter(directory / f"{name or 'all'}.jsonl") for name in splits or ("",)}
    rejects = directory / LISTING_REJECTS_NAME
    rejected, first, last = 0, list[Reject](), None
    with open(rejects, "wb") as file:
        for line in spill.lines():
            id, size, problem = json.loads(line[17:])
            entry = Entry(id, size, Problem(*problem) if problem else None)
            found = Problem("duplicate", "another input has the same id") if id == last else source.resolve(entry)
            last = id
            if isinstance(found, Problem):
                reject = Reject(id, source.uri(id), "list", *found)
                rejected += 1
                first = [*first, reject][:3]
                file.write(reject.to_line())
            else:
                reference, split = found
                writers[split or ""].write(reference)
    return Arrangement({name: writer.close() for name, writer in writers.items()}, rejects, rejected, tuple(first))


class _OrderedWriter:
    """Writes the two files of an `Ordered`."""

    def __init__(self, path: Path) -> None:
        self._ordered = Ordered(path, 0)
        self._lines, self._ends = open(path, "wb"), open(self._ordered.ends, "wb")  # noqa: SIM115  # by close()
        self._records = self._end = 0

    def write(self, reference: Reference) -> None:
        line = json.dumps(reference).encode() + b"\n"
        self._records += 1
        self._end += len(line)
        self._lines.write(line)
        self._ends.write(self._end.to_bytes(8, "little"))

    def close(self) -> Ordered:
        self._lines.close()
        self._ends.close()
        return Ordered(self._ordered.path, self._records)


@dataclass(frozen=True, slots=True)
class Part:
    """One split: the references of `ordered` from rank `first` to `end`."""

    split: str
    ordered: Ordered
    first: int
    end: int

    @property
    def records(self) -> int:
        """How many there are."""
        return self.end - self.first


def cut(arrangement: Arrangement, split: Sequence[tuple[str, str]] | None) -> list[Part]:
    """The splits: those of INPUT, or parts of the one order.

    Raises:
        UsageError: both INPUT and `split` name splits, or a split would have no image.
    """
    if "" not in arrangement.ordered:
        if split:
            names = ", ".join(arrangement.ordered)
            raise UsageError(f"--split: INPUT already has split folders ({names}); leave it out")
        return [Part(name, ordered, 0, ordered.records) for name, ordered in arrangement.ordered.items()]
    ordered = arrangement.ordered[""]
    parts: list[Part] = []
    first, covered = 0, Fraction(0)
    for name, fraction in split or (("train", "1"),):
        covered += Fraction(fraction)  # the parts sum to exactly 1
        end = int(ordered.records * covered)
        if end == first:
            raise UsageError(f"--split: {name}={fraction} of {ordered.records} images is none; give it a larger part")
        parts.append(Part(name, ordered, first, end))
        first = end
    return parts


def shard_count(records: int, rule: ShardRule, largest: int, record_bytes: Callable[[], float]) -> int:
    """How many shards a split of so many records gets; `largest` is the size of the largest split.

    Raises:
        UsageError: there are fewer records than shards, or more shards than any engine is good for.
    """
    if rule.by == "shards" and rule.value > largest:
        raise UsageError(f"--shards {rule.value}: the largest split has only {largest} images")
    size = {
        "shards": lambda: Fraction(largest, rule.value),
        "records": lambda: Fraction(rule.value),
        "bytes": lambda: max(Fraction(1), Fraction(rule.value) / Fraction(max(1.0, record_bytes()))),
    }[rule.by]()
    count = max(1, -(-records // size))
    if count > MAX_SHARDS:
        raise UsageError(f"--shard-{rule.by} {rule.value}: would make {count} shards, more than {MAX_SHARDS}")
    return count


def first_references(part: Part, count: int, prefix: str) -> ShardTask:
    """The references that come first, as if they were a shard; `prefix` is where the plan files are."""
    return _tasks(Part(part.split, part.ordered, part.first, min(part.end, part.first + count)), 1, prefix)[0]


def plan_shards(parts: Sequence[Part], shards: dict[str, int], directory: Path, prefix: str) -> int:
    """Cut every split into shards, write a task for each to a file in `directory`, and count them."""
    written = 0
    with open(directory / TASKS_NAME, "w", encoding="utf-8") as file:
        for part in parts:
            for task in _tasks(part, shards[part.split], prefix):
                fields = (task.split, task.number, task.count, task.records, task.plan, task.start, task.end)
                file.write(json.dumps(fields) + "\n")
                written += 1
    return written


def _tasks(part: Part, count: int, prefix: str) -> list[ShardTask]:
    bounds = [part.first + part.records * number // count for number in range(count + 1)]
    places = part.ordered.starts(bounds)
    return [
        ShardTask(
            split=part.split,
            number=number,
            count=count,
            records=bounds[number + 1] - bounds[number],
            plan=prefix + part.ordered.path.name,
            start=start,
            end=end,
        )
        for number, (start, end) in enumerate(pairwise(places))
    ]


def read_tasks(directory: Directory, prefix: str) -> Iterator[ShardTask]:
    """The tasks that `plan_shards` wrote, from where the plan files are now."""
    for line in directory.read(prefix + TASKS_NAME).splitlines():
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


def statistics_split(splits: Sequence[str]) -> str:
    """The split whose pixels are measured: what a model is evaluated on must not shape it."""
    return "train" if "train" in splits else splits[0]
