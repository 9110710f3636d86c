"""The order of all images, from their ids and the seed alone.

```
ids, each with h = blake2b(seed, id), sorted by (h, id)     one global order
|---------------- train ------------------|------ val ------|   for each split, by `splits.py`, a part of it
|-- shard 0 --|-- shard 1 --|-- shard 2 --|...                  cut into shards at floor(n * s / S)
```

The result depends neither on the order of the listing nor on the number of workers or buckets. The sizes of a split's
shards differ by at most one. Memory holds one bucket of references at a time; the order itself is in files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.options import SplitRule
from beam_jobs.plan.schema.catalog import Catalog, Schema
from beam_jobs.plan.schema.entry_json import entry_json, reference_json, unsigned_json
from beam_jobs.plan.splits import split_names, splitter, train_among
from beam_jobs.sources.files.interface import DROPPED, Entry, Problem, Reference, Reject, Source
from shard_reader.storage.open import is_url

__all__ = [
    "Duplicate",
    "Grouped",
    "Inputs",
    "Ordered",
    "OrderedWriter",
    "PlannedInputs",
    "plan_inputs",
    "references_of",
    "scan",
    "statistics_split",
]

LISTING_REJECTS_NAME = "rejects.jsonl"
_SAME_ID = "another input has the same id; give each image one row, with lists of its values"
_ALL = "all-inputs"  # not a possible name of a split
_DESCRIBED = slice(2, 7)  # the values of an entry beside id and size, without its problem and its payloads
_ID_AND_SIZE_ONLY = Entry("")[_DESCRIBED]  # those of an entry that has only an id and a size
_PIECE = 1 << 16  # bytes of lines that are parsed, and of plan files that are written, together


@dataclass(frozen=True, slots=True)
class Inputs:
    """The number of inputs of a listing, and a fingerprint of their entries in any order.

    `excluded` is the number of those that are left out, which `count` has not. `unknown` are ids to be left out that no
    input has.
    """

    count: int
    fingerprint: str
    excluded: int = 0
    unknown: frozenset[str] = frozenset()


def scan(
    source: Source,
    seed: int,
    catalog: Catalog,
    spill: Spill | None,
    on_entry: Callable[[], None],
    exclude: frozenset[str] = frozenset(),
) -> Inputs:
    """List INPUT into `catalog`, and into `spill` unless it is None, without the ids in `exclude`.

    Calls `on_entry` after each input.
    """
    # The fingerprint is a sum of one SHA-256 for each input. A sum needs no order, so that a single pass over the
    # listing is enough, and sources may list in any order.
    count = total = excluded = 0
    found = set[str]()
    for entry in source.entries():
        count += 1
        is_excluded = entry.id in exclude
        if is_excluded:
            excluded += 1
            found.add(entry.id)
        elif entry.problem is None:
            catalog.add(entry)
        name = entry.id.encode("utf-8", "surrogateescape")
        try:
            line = entry_json(entry)
        except TypeError as error:
            raise UsageError(f"{entry.id}: what the source says of it is no JSON: {error}") from error
        more = line.encode() if entry[_DESCRIBED] != _ID_AND_SIZE_ONLY or entry.payloads else b""
        # Signed URLs have another signature and expiry on every run: they do not count.
        if isinstance(entry.place, str) and is_url(entry.place):
            more = unsigned_json(entry).encode()
        total += int.from_bytes(hashlib.sha256(b"%s\0%d\n%s" % (name, entry.size, more)).digest())
        if spill is not None and not is_excluded:
            # The slash ends the seed, so that no other seed and id give the same text.
            key = hashlib.blake2b(b"%d/%s" % (seed, name), digest_size=8).digest()
            spill.add_line(key, f"{key.hex()} {line}".encode())
        on_entry()
    digest = hashlib.sha256(b"%d %d" % (count, total % (1 << 256))).hexdigest()
    return Inputs(count - excluded, digest, excluded, exclude - found)


@dataclass(frozen=True, slots=True)
class Ordered:
    """References in their final order, in two files: one with a line for each, one with the ends of the lines."""

    path: Path
    records: int

    @property
    def ends(self) -> Path:
        """The second file: the offset of the end of each line, uint64, little-endian."""
        return self.path.with_suffix(".ends")

    def starts(self, ranks: Sequence[int]) -> list[int]:
        """The offset at which each of the references begins. The rank after the last one gives the end."""
        with open(self.ends, "rb", buffering=0) as file:
            return [self._end(file, rank - 1) if rank else 0 for rank in ranks]

    def _end(self, file: RawIOBase, rank: int) -> int:
        file.seek(8 * rank)
        return int.from_bytes(file.read(8) or b"", "little")


@dataclass(frozen=True, slots=True)
class PlannedInputs:
    """All of INPUT in order: the references of each split, and the rejects.

    `dropped` of the rejects are duplicates that the user wants dropped. The others are defects.
    """

    ordered: dict[str, Ordered]
    rejects: Path
    rejected: int
    dropped: int
    first_rejects: tuple[Reject, ...]

    @property
    def planned(self) -> int:
        """Number of references in all splits."""
        return sum(ordered.records for ordered in self.ordered.values())


def plan_inputs(
    spill: Spill,
    source: Source,
    schema: Schema,
    rule: SplitRule,
    seed: int,
    directory: Path,
    dropped: Iterable[Duplicate] = (),
    grouped: Iterable[Grouped] = (),
    *,
    skipped: Iterable[int] = (),
    splits: Collection[str] | None = None,
    together: bool = False,
    on_reference: Callable[[str, Reference], None] | None = None,
) -> PlannedInputs:
    """Write every input that `scan` has spilled to plan files in `directory`, in the final order.

    Of several inputs with the same id, all but the first are rejected.

    Args:
        spill: the inputs.
        source: the source that listed them.
        schema: the fields of their records.
        rule: the rule of the splits.
        seed: the seed of the order.
        directory: the folder of the plan files.
        dropped: the references to leave out, with rising ranks. It is iterated over several times.
        grouped: the references whose split is that of a group, with rising ranks. It is iterated over several times.
        skipped: the references that are passed over, with rising ranks. Ranks in `dropped` and `grouped` are of the
            others. It is iterated over several times.
        splits: the splits of a dataset to add to, of which any may get no image; None for a new dataset.
        together: whether all inputs get one order, as if there were no splits.
        on_reference: called with each reference and its split.

    Raises:
        UsageError: the rule does not fit INPUT, or a split would have no image.
    """
    resolved = _Resolved(spill, source, schema, dropped, grouped, skipped)
    names = (_ALL,) if together else split_names(rule, schema)
    split_of = (lambda *_: _ALL) if together else splitter(rule, schema, seed, resolved.references)
    writers = {name: OrderedWriter(directory / f"{name}.jsonl") for name in names}
    rejects = directory / LISTING_REJECTS_NAME
    rejected, duplicates, first = 0, 0, list[Reject]()
    with open(rejects, "wb") as file:
        for key, forced, entry, found in resolved:
            if isinstance(found, Problem):
                reject = Reject(entry.id, source.uri(entry), "list", *found)
                rejected += 1
                duplicates += found.reason in DROPPED
                if found.reason not in DROPPED:
                    first = [*first, reject][:3]
                file.write(reject.to_line())
            else:
                reference, own = found
                split = split_of(key, reference, own)
                if forced in writers:
                    split = forced
                writers[split].write(reference)
                if on_reference is not None:
                    on_reference(split, reference)
    ordered = {name: writer.close() for name, writer in writers.items()}
    if splits is not None:
        ordered = {name: one for name, one in ordered.items() if one.records}
    inputs = PlannedInputs(ordered, rejects, rejected, duplicates, tuple(first))
    if inputs.planned and not together and splits is None:
        _check_filled(inputs, rule)
    return inputs


def references_of(spill: Spill, source: Source, schema: Schema) -> Iterator[tuple[int, Reference]]:
    """The references of all inputs without a problem, each with its hash, in the final order."""
    for key, _, _, found in _Resolved(spill, source, schema):
        if not isinstance(found, Problem):
            yield key, found[0]


class _Resolved:
    """Every input in the final order, each with its reference and split, or its problem."""

    def __init__(
        self,
        spill: Spill,
        source: Source,
        schema: Schema,
        dropped: Iterable[Duplicate] = (),
        grouped: Iterable[Grouped] = (),
        skipped: Iterable[int] = (),
    ) -> None:
        self._spill, self._source, self._schema = spill, source, schema
        self._dropped, self._grouped, self._skipped = dropped, grouped, skipped

    def __iter__(self) -> Iterator[tuple[int, str | None, Entry, tuple[Reference, str | None] | Problem]]:
        last, rank, dropped, grouped = None, 0, iter(self._dropped), iter(self._grouped)
        next_dropped, next_grouped = next(dropped, None), next(grouped, None)
        usable, skipped = 0, iter(self._skipped)
        next_skipped = next(skipped, None)
        # Lines of equal ids have equal hashes, and so come one after the other.
        for key, entry in self._entries():
            found = self._find(entry) if entry.id != last else Problem("duplicate-id", _SAME_ID)
            last, forced = entry.id, None
            if not isinstance(found, Problem):
                usable += 1
                if next_skipped == usable - 1:
                    next_skipped = next(skipped, None)
                    continue
                if next_dropped is not None and next_dropped.rank == rank:
                    found = next_dropped.problem()
                    next_dropped = next(dropped, None)
                if next_grouped is not None and next_grouped.rank == rank:
                    key, forced = next_grouped.key, next_grouped.split
                    next_grouped = next(grouped, None)
                rank += 1
            yield key, forced, entry, found

    def references(self) -> Iterator[tuple[Reference, str | None]]:
        """The references without problems, with their splits in INPUT."""
        return (found for _, _, _, found in self if not isinstance(found, Problem))

    def _entries(self) -> Iterator[tuple[int, Entry]]:
        """Every entry in the final order, with its hash."""
        # A line is its hash in 16 hexadecimal digits, a space, and the entry as JSON. A call of `json.loads` costs ten
        # times what it costs to parse an entry: so some are parsed together.
        for lines in _pieces(self._spill.lines()):
            found = json.loads(b"[%s]" % b",".join([line[17:] for line in lines]))
            for line, values in zip(lines, found, strict=True):
                entry = Entry(*values)
                if entry.problem is not None:
                    entry = entry._replace(problem=Problem(*entry.problem))
                yield int(line[:16], 16), entry

    def _find(self, entry: Entry) -> tuple[Reference, str | None] | Problem:
        resolved = self._source.resolve(entry)
        return resolved if isinstance(resolved, Problem) else self._schema.reference(resolved)


def _pieces(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lines, some together: of long ones fewer, so that memory holds no more than a little beyond `_PIECE`."""
    piece, size = list[bytes](), 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size > _PIECE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


class Duplicate(NamedTuple):
    """A reference whose input has the bytes of another one, or looks like it: its rank among all, and the other's id.

    `contradicts` is True if they have other labels. `near` is True if the bytes are not the same.
    """

    rank: int
    first_id: str
    contradicts: bool = False
    near: bool = False

    def problem(self) -> Problem:
        """The reason to leave it out."""
        label = ", under another label" if self.contradicts else ""
        likeness = "looks like" if self.near else "has the same bytes as"
        return Problem(DROPPED[self.near], f"{likeness} {self.first_id}{label}")


class Grouped(NamedTuple):
    """A reference whose split is chosen by the key of a group, or is that of records which look like it.

    It has its rank among all, the key, and the split; None where the key decides.
    """

    rank: int
    key: int
    split: str | None = None


def _check_filled(inputs: PlannedInputs, rule: SplitRule) -> None:
    fractions = dict(rule.parts or ())
    groups = f" (--group-by {rule.group_by} keeps groups whole)" if rule.group_by else ""
    for name, ordered in inputs.ordered.items():
        if not ordered.records:
            part = f"--split: {name}={fractions[name]} of" if name in fractions else f"the split {name} of"
            raise UsageError(
                f"{part} {inputs.planned} images gives no image; give it a larger part, or another --seed{groups}"
                if name in fractions
                else f"{part} INPUT has no image that can be used; remove it"
            )


class OrderedWriter:
    """Writes the two files of an `Ordered`."""

    def __init__(self, path: Path) -> None:
        self._ordered = Ordered(path, 0)
        self._files = open(path, "wb"), open(self._ordered.ends, "wb")  # noqa: SIM115  # by close()
        self._records = self._end = self._written = 0
        self._lines, self._ends = list[str](), list[int]()  # that are not written yet

    def write(self, reference: Reference) -> None:
        line = reference_json(reference)
        self._records += 1
        self._end += len(line) + 1  # JSON is in ASCII
        self._lines.append(line)
        self._ends.append(self._end)
        if self._end - self._written > _PIECE:
            self._flush()

    def close(self) -> Ordered:
        self._flush()
        for file in self._files:
            file.close()
        return Ordered(self._ordered.path, self._records)

    def _flush(self) -> None:
        lines, ends = self._files
        lines.write("".join([f"{line}\n" for line in self._lines]).encode())
        ends.write(np.array(self._ends, "<u8").tobytes())
        self._lines, self._ends, self._written = [], [], self._end


def statistics_split(splits: Sequence[str]) -> str:
    """The split whose pixels are measured."""
    # Statistics of evaluation images would leak into training.
    return train_among(splits)
