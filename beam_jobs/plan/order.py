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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.options import SplitRule
from beam_jobs.plan.schema.catalog import Catalog, Schema
from beam_jobs.plan.splits import split_names, splitter, train_among
from beam_jobs.sources.files.interface import DROPPED, Entry, Problem, Reference, Reject, Source
from shard_reader.storage.open import is_url
from shard_reader.storage.secrets import unsigned

__all__ = [
    "Duplicate",
    "Grouped",
    "Inputs",
    "Ordered",
    "PlannedInputs",
    "plan_inputs",
    "scan",
    "statistics_split",
]

LISTING_REJECTS_NAME = "rejects.jsonl"
_SAME_ID = "another input has the same id; give each image one row, with lists of its values"
_ALL = "all-inputs"  # not a possible name of a split
_DESCRIBED = slice(2, 7)  # the values of an entry beside id and size, without its problem and its payloads
_ID_AND_SIZE_ONLY = Entry("")[_DESCRIBED]  # those of an entry that has only an id and a size
_PIECE = 1 << 16  # bytes of lines that are parsed, and of plan files that are written, together
_FEW = 8  # values of an object: of more, `json.dumps` is the faster one


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
            line = _entry_json(entry)
        except TypeError as error:
            raise UsageError(f"{entry.id}: what the source says of it is no JSON: {error}") from error
        more = line.encode() if entry[_DESCRIBED] != _ID_AND_SIZE_ONLY or entry.payloads else b""
        # Signed URLs have another signature and expiry on every run: they do not count.
        if isinstance(entry.place, str) and is_url(entry.place):
            more = _unsigned_json(entry).encode()
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
        together: whether all inputs get one order, as if there were no splits.
        on_reference: called with each reference and its split.

    Raises:
        UsageError: the rule does not fit INPUT, or a split would have no image.
    """
    resolved = _Resolved(spill, source, schema, dropped, grouped)
    names = (_ALL,) if together else split_names(rule, schema)
    split_of = (lambda *_: _ALL) if together else splitter(rule, schema, seed, resolved.references)
    writers = {name: _OrderedWriter(directory / f"{name}.jsonl") for name in names}
    rejects = directory / LISTING_REJECTS_NAME
    rejected, duplicates, first = 0, 0, list[Reject]()
    with open(rejects, "wb") as file:
        for key, entry, found in resolved:
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
                writers[split].write(reference)
                if on_reference is not None:
                    on_reference(split, reference)
    ordered = {name: writer.close() for name, writer in writers.items()}
    inputs = PlannedInputs(ordered, rejects, rejected, duplicates, tuple(first))
    if inputs.planned and not together:
        _check_filled(inputs, rule)
    return inputs


class _Resolved:
    """Every input in the final order, each with its reference and split, or its problem."""

    def __init__(
        self, spill: Spill, source: Source, schema: Schema, dropped: Iterable[Duplicate], grouped: Iterable[Grouped]
    ) -> None:
        self._spill, self._source, self._schema = spill, source, schema
        self._dropped, self._grouped = dropped, grouped

    def __iter__(self) -> Iterator[tuple[int, Entry, tuple[Reference, str | None] | Problem]]:
        last, rank, dropped, grouped = None, 0, iter(self._dropped), iter(self._grouped)
        next_dropped, next_grouped = next(dropped, None), next(grouped, None)
        # Lines of equal ids have equal hashes, and so come one after the other.
        for key, entry in self._entries():
            found = self._find(entry) if entry.id != last else Problem("duplicate-id", _SAME_ID)
            last = entry.id
            if not isinstance(found, Problem):
                if next_dropped is not None and next_dropped.rank == rank:
                    found = next_dropped.problem()
                    next_dropped = next(dropped, None)
                if next_grouped is not None and next_grouped.rank == rank:
                    key = next_grouped.key
                    next_grouped = next(grouped, None)
                rank += 1
            yield key, entry, found

    def references(self) -> Iterator[tuple[Reference, str | None]]:
        """The references without problems, with their splits in INPUT."""
        return (found for _, _, found in self if not isinstance(found, Problem))

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


# The text of `json.dumps`, which makes an encoder for each call: that takes five times as long as the text itself.
_text_json = json.JSONEncoder().encode


def _entry_json(entry: Entry) -> str:
    id, size, place, label, split, fields, frame, problem, payloads = entry
    more = f", {json.dumps(payloads)}" if payloads else ""
    return (
        f"[{_text_json(id)}, {_json(size)}, {_json(place)}, {_json(label)}, {_json(split)}, {_object_json(fields)},"
        f" {_json(frame)}, {_json(problem)}{more}]"
    )


def _unsigned_json(entry: Entry) -> str:
    """An entry whose places are URLs, as JSON, without their signatures."""
    payloads = {n: unsigned(p) if isinstance(p, str) and is_url(p) else p for n, p in entry.payloads.items()}
    values = entry._replace(place=unsigned(entry.place), payloads=payloads)
    return json.dumps(values if payloads else values[:-1])


def _reference_json(reference: Reference) -> str:
    id, size, place, values, frame, payloads = reference
    more = f", {json.dumps(payloads)}" if payloads else ""
    return f"[{_text_json(id)}, {_json(size)}, {_json(place)}, {_object_json(values)}, {_json(frame)}{more}]"


def _object_json(values: Mapping[str, Any]) -> str:
    if not values or len(values) > _FEW or type(values) is not dict:
        return "{}" if values == {} else json.dumps(values)
    return f"{{{', '.join([f'{_text_json(name)}: {_json(value)}' for name, value in values.items()])}}}"


def _json(value: Any) -> str:
    if value is None:
        return "null"
    kind = type(value)
    return str(value) if kind is int else _text_json(value) if kind is str else json.dumps(value)


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
    """A reference whose split is chosen by the key of a group: its rank among all, and that key."""

    rank: int
    key: int


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


class _OrderedWriter:
    """Writes the two files of an `Ordered`."""

    def __init__(self, path: Path) -> None:
        self._ordered = Ordered(path, 0)
        self._files = open(path, "wb"), open(self._ordered.ends, "wb")  # noqa: SIM115  # by close()
        self._records = self._end = self._written = 0
        self._lines, self._ends = list[str](), list[int]()  # that are not written yet

    def write(self, reference: Reference) -> None:
        line = _reference_json(reference)
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
