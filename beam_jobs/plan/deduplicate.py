"""The inputs that are left out, or stay together, because others have the same bytes or look alike."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError
from beam_jobs.external_sort import EqualHashes, find_equal_hashes
from beam_jobs.options import JobOptions
from beam_jobs.plan.duplicates import (
    LABELS,
    MOST_IN_GROUP,
    Contradictions,
    Labels,
    crowd_lines,
    named_labels,
    sorted_labels,
)
from beam_jobs.plan.near_duplicates import NearDuplicates, find_near_duplicates
from beam_jobs.plan.order import Duplicate, Grouped, Ordered
from beam_jobs.plan.splits import group_key
from beam_jobs.sources.files.interface import Reference
from beam_jobs.terminal import counted
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory

__all__ = ["Deduplicated", "Hashes", "deduplicate"]

Hashes = Callable[[], Iterable[NDArray[np.uint64]]]
"""Gives the hashes of all inputs, in blocks: uint64 `[n, 2]`, or `[n, 5]` with `phash`, `dhash` and pixels."""


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """The inputs to leave out, and those whose split is that of a group, each with rising ranks.

    Both can be iterated over several times. `text` says how many there are, and `warnings` name what is left as it is.
    """

    dropped: Iterable[Duplicate] = ()
    grouped: Iterable[Grouped] = ()
    text: str = ""
    warnings: Sequence[str] = ()


def deduplicate(
    hashes: Hashes,
    ordered: Ordered,
    files: Directory,
    name: str,
    options: JobOptions,
    class_names: Sequence[str] | None,
    scratch: Path,
) -> Deduplicated:
    """Decide about duplicates as the options say.

    Args:
        hashes: the hashes of all inputs, in their order.
        ordered: all inputs, in one order.
        files: a directory with a copy of the file of that order.
        name: the name of that copy.
        options: the options of the command.
        class_names: the names of labels, for a message.
        scratch: a folder for temporary files.

    Raises:
        JobError: inputs with the same bytes have several labels, and no option says which to keep.
    """
    inputs = HashedInputs(_equal(hashes, options, scratch), ordered, files, name, class_names is not None)
    dropped = dropped_inputs(inputs, options.duplicate_labels, class_names)
    texts = [f"{counted(len(dropped.equal.places), 'duplicate')} will be left out"] * options.drop_duplicates
    if options.near_distance is None or not options.acts_on_near_duplicates:
        return Deduplicated(dropped, text=", ".join(texts))
    near = find_near_duplicates(_of_pixels(hashes, dropped.equal.places), options.near_distance, scratch)
    warnings = crowd_lines(near, inputs.id)
    if options.near_duplicates == "group":
        grouped = _GroupedNear.of(inputs, near, options.seed)
        texts.append(f"{counted(len(grouped.ranks), 'near-duplicate')} will stay together")
        return Deduplicated(dropped, grouped, ", ".join(texts), warnings)
    nearly = _DroppedNear.of(inputs, near, _pixels(hashes, near))
    texts.append(f"{counted(len(nearly.ranks), 'near-duplicate')} will be left out")
    return Deduplicated(_Merged(dropped, nearly), (), ", ".join(texts), warnings)


def _equal(hashes: Hashes, options: JobOptions, scratch: Path) -> EqualHashes:
    if not options.drop_duplicates:
        return EqualHashes(np.empty(0, np.uint64), np.empty(0, np.uint64))
    return find_equal_hashes((block[:, :2] for block in hashes()), scratch)


def _of_pixels(hashes: Hashes, gone: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
    """`phash` and `dhash` of all inputs; zeros for those that are left out already."""
    start = 0
    for block in hashes():
        first, last = np.searchsorted(gone, (start, start + len(block)))
        pixels = block[:, 2:4].copy()
        pixels[gone[first:last].astype(np.int64) - start] = 0
        yield pixels
        start += len(block)


def _pixels(hashes: Hashes, near: NearDuplicates) -> dict[int, int]:
    """The number of pixels of each member of a group."""
    places, sizes, start = np.sort(near.places), dict[int, int](), 0
    for block in hashes():
        first, last = np.searchsorted(places, (start, start + len(block)))
        own = places[first:last]
        sizes.update(zip(own.tolist(), block[own - start, 4].tolist(), strict=True))
        start += len(block)
    return sizes


@dataclass(frozen=True, slots=True)
class _Merged:
    """The inputs to leave out of two kinds, by rising ranks."""

    one: Iterable[Duplicate]
    other: Iterable[Duplicate]

    def __iter__(self) -> Iterator[Duplicate]:
        return heapq.merge(self.one, self.other)


@dataclass(frozen=True, slots=True)
class _DroppedNear:
    """The inputs to leave out, each with the one of its group that is kept: the largest, and of several the first."""

    inputs: HashedInputs
    ranks: NDArray[np.int64]
    kept: NDArray[np.int64]

    @classmethod
    def of(cls, inputs: HashedInputs, near: NearDuplicates, sizes: dict[int, int]) -> _DroppedNear:
        pairs = list[tuple[int, int]]()
        for group in near.groups():
            if len(group) <= MOST_IN_GROUP:
                kept = max(group.tolist(), key=lambda rank: (sizes[rank], -rank))
                pairs += ((rank, kept) for rank in group.tolist() if rank != kept)
        both = np.array(sorted(pairs), np.int64).reshape(-1, 2)
        return cls(inputs, both[:, 0], both[:, 1])

    def __iter__(self) -> Iterator[Duplicate]:
        for rank, kept in zip(self.ranks.tolist(), self.kept.tolist(), strict=True):
            contradicts = self.inputs.labels(rank) != self.inputs.labels(kept)
            yield Duplicate(rank, self.inputs.id(kept), contradicts, near=True)


@dataclass(frozen=True, slots=True)
class _GroupedNear:
    """The inputs of groups, each with the key of its group."""

    ranks: NDArray[np.int64]
    keys: NDArray[np.uint64]

    @classmethod
    def of(cls, inputs: HashedInputs, near: NearDuplicates, seed: int) -> _GroupedNear:
        groups = [group for group in near.groups() if len(group) <= MOST_IN_GROUP]
        keys = np.array([group_key(seed, inputs.id(int(group[0]))) for group in groups], np.uint64)
        ranks = np.concatenate([np.empty(0, np.int64), *groups])
        order = np.argsort(ranks)
        return cls(ranks[order], np.repeat(keys, [len(group) for group in groups])[order])

    def __iter__(self) -> Iterator[Grouped]:
        return map(Grouped, self.ranks.tolist(), self.keys.tolist())


@dataclass(frozen=True, slots=True)
class HashedInputs:
    """All inputs in one order, some with the bytes of an earlier one.

    Args:
        equal: the ranks of inputs with equal hashes.
        ordered: all inputs, in one order.
        files: a directory with a copy of the file of that order.
        name: the name of that copy.
        named: whether labels have names.
    """

    equal: EqualHashes
    ordered: Ordered
    files: Directory
    name: str
    named: bool = False

    def contradicting(self) -> NDArray[np.bool_]:
        """Which of the inputs with the bytes of an earlier one have other labels."""
        contradictions = Contradictions()
        pairs = zip(self.equal.places.tolist(), self.equal.firsts.tolist(), strict=True)
        found = (contradictions.has(first, self.labels(first), self.labels(place)) for place, first in pairs)
        return np.fromiter(found, bool, len(self.equal.places))

    def id(self, rank: int) -> str:
        """The id of an input."""
        return self._reference(rank).id

    def labels(self, rank: int) -> Labels:
        """The labels of an input, sorted."""
        values = self._reference(rank).values
        return sorted_labels((values.get(name) for name in LABELS), named=self.named)

    def _reference(self, rank: int) -> Reference:
        start, end = self.ordered.starts([rank, rank + 1])
        return Reference(*json.loads(self.files.read(self.name, start, end)))


@dataclass(frozen=True, slots=True)
class DroppedInputs:
    """The inputs to leave out, in order. Can be iterated over several times.

    Args:
        inputs: all inputs.
        equal: the ranks of the inputs to leave out, each with that of another input of the same bytes.
        contradicting: which of them are left out of bytes with several labels.
    """

    inputs: HashedInputs
    equal: EqualHashes
    contradicting: NDArray[np.bool_]

    def __iter__(self) -> Iterator[Duplicate]:
        ranks = zip(self.equal.places.tolist(), self.equal.firsts.tolist(), self.contradicting.tolist(), strict=True)
        for rank, other, contradicts in ranks:
            yield Duplicate(rank, self.inputs.id(other), contradicts)


def dropped_inputs(inputs: HashedInputs, rule: str | None, class_names: Sequence[str] | None) -> DroppedInputs:
    """The inputs to leave out, so that one of each remains.

    Args:
        inputs: all inputs.
        rule: of inputs with the same bytes and other labels: "first" keeps the first one, "drop" none.
        class_names: the names of labels, for a message.

    Raises:
        JobError: there are such inputs, and no rule.
    """
    equal, contradicting = inputs.equal, inputs.contradicting()
    if rule is None and contradicting.any():
        raise JobError(_contradiction_text(inputs, contradicting, class_names))
    if rule == "drop":
        groups, where = np.unique(equal.firsts[contradicting], return_index=True)
        places = np.concatenate([equal.places, groups])
        others = np.concatenate([equal.firsts, equal.places[contradicting][where]])
        contradicting = np.concatenate([np.isin(equal.firsts, groups), np.ones(len(groups), bool)])
        order = np.argsort(places)
        equal, contradicting = EqualHashes(places[order], others[order]), contradicting[order]
    return DroppedInputs(inputs, equal, contradicting)


def _contradiction_text(
    inputs: HashedInputs, contradicting: NDArray[np.bool_], class_names: Sequence[str] | None
) -> str:
    place = int(np.flatnonzero(contradicting)[0])
    pair = (int(inputs.equal.firsts[place]), int(inputs.equal.places[place]))
    labels = (", ".join(map(str, named_labels(inputs.labels(rank), class_names))) or "no label" for rank in pair)
    first, second = (f"{printable(inputs.id(rank))} ({text})" for rank, text in zip(pair, labels, strict=True))
    return (
        f"--drop-duplicates: {contradicting.sum()} of {len(contradicting)} duplicates have another label than an"
        f" earlier input with the same bytes, as {first} and {second}: correct INPUT, or"
        " give --duplicate-labels first, to keep the first of each, or --duplicate-labels drop, to keep none of these"
    )
