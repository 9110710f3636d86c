"""The inputs that are left out, or stay together, because others have the same bytes or look alike."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

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
    Records,
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
    earlier: Records | None = None,
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
        earlier: the records of the dataset that the inputs are added to. They stay, each in its split.

    Raises:
        JobError: inputs with the same bytes have several labels, and no option says which to keep.
    """
    known = EarlierInputs.of(earlier, hashes, scratch) if earlier is not None and options.drop_duplicates else None
    equal = _equal(hashes, options, scratch)
    if known is not None:
        is_new = ~np.isin(equal.places, known.ranks)
        equal = EqualHashes(equal.places[is_new], equal.firsts[is_new])
    inputs = HashedInputs(equal, ordered, files, name, class_names is not None)
    dropped: Iterable[Duplicate] = (own := dropped_inputs(inputs, options.duplicate_labels, class_names))
    gone = own.equal.places
    if known is not None and earlier is not None:
        dropped = _Merged(own, DroppedEarlier.of(inputs, known, earlier, options.duplicate_labels, class_names))
        gone = np.union1d(gone, known.ranks)
    texts = [f"{counted(len(gone), 'duplicate')} will be left out"] * options.drop_duplicates
    if options.near_distance is None or not options.acts_on_near_duplicates:
        return Deduplicated(dropped, text=", ".join(texts))
    before = () if earlier is None else earlier.hashes("phash", "dhash")
    start = 0 if earlier is None else earlier.starts[-1]
    near = find_near_duplicates(chain(before, _of_pixels(hashes, gone)), options.near_distance, scratch).since(start)
    found = NearInputs(inputs, earlier, near, start)
    warnings = crowd_lines(near, found.id)
    if options.near_duplicates == "group":
        grouped = GroupedNear.of(found, options.seed)
        texts.append(f"{counted(len(grouped.ranks), 'near-duplicate')} will stay together")
        return Deduplicated(dropped, grouped, ", ".join(texts), warnings)
    nearly = DroppedNear.of(found, _pixels(hashes, found))
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


def _pixels(hashes: Hashes, near: NearInputs) -> dict[int, int]:
    """The number of pixels of each member of a group."""
    places, sizes, start = np.sort(near.near.places) - near.start, dict[int, int](), 0
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


@dataclass(frozen=True, slots=True)
class EarlierInputs:
    """The inputs with the bytes of a record of the dataset that they are added to, by rising ranks, and its place."""

    ranks: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, earlier: Records, hashes: Hashes, scratch: Path) -> EarlierInputs:
        """Find them. Records have the first 64 bits of the hash of their bytes."""
        blocks = (np.stack([block[:, 0], block[:, :2].any(1).astype(np.uint64)], 1) for block in hashes())
        found = find_equal_hashes(chain(earlier.hashes("content_hash"), blocks), scratch)
        start = earlier.starts[-1]
        is_known = (found.places >= start) & (found.firsts < start)
        return cls(found.places[is_known].astype(np.int64) - start, found.firsts[is_known].astype(np.int64))


@dataclass(frozen=True, slots=True)
class DroppedEarlier:
    """The inputs to leave out for the bytes of a record, in order. Can be iterated over several times."""

    inputs: HashedInputs
    known: EarlierInputs
    earlier: Records

    @classmethod
    def of(
        cls,
        inputs: HashedInputs,
        known: EarlierInputs,
        earlier: Records,
        rule: str | None,
        class_names: Sequence[str] | None,
    ) -> DroppedEarlier:
        """Check their labels: records stay, whatever the rule is.

        Raises:
            JobError: one has other labels than the record, and there is no rule.
        """
        dropped = cls(inputs, known, earlier)
        wrong = next((one for one in dropped if one.contradicts), None) if rule is None else None
        if wrong is not None:
            raise JobError(
                f"--drop-duplicates: {printable(inputs.id(wrong.rank))} has the bytes of {printable(wrong.first_id)} in"
                " the dataset, and other labels: correct INPUT, or leave it out with --exclude"
            )
        return dropped

    def __iter__(self) -> Iterator[Duplicate]:
        for rank, place in zip(self.known.ranks.tolist(), self.known.places.tolist(), strict=True):
            record, labels = self.earlier.at(place), self.inputs.labels(rank)
            yield Duplicate(rank, record.id, bool(labels and record.labels) and labels != record.labels)


@dataclass(frozen=True, slots=True)
class NearInputs:
    """Inputs that look alike, or like records of the dataset that they are added to. These come before `start`."""

    inputs: HashedInputs
    earlier: Records | None
    near: NearDuplicates
    start: int

    def groups(self) -> Iterator[NDArray[np.int64]]:
        """The places of each group that is acted on."""
        return (group for group in self.near.groups() if len(group) <= MOST_IN_GROUP)

    def id(self, place: int) -> str:
        """The id at a place."""
        return self._at(place).id

    def labels(self, place: int) -> Labels:
        """The labels at a place, sorted."""
        return self._at(place).labels

    def split(self, place: int) -> str | None:
        """The split of a record; None for an input."""
        return self.earlier.at(place).split if self.earlier is not None and place < self.start else None

    def _at(self, place: int) -> _Named:
        if self.earlier is not None and place < self.start:
            record = self.earlier.at(place)
            return _Named(record.id, record.labels)
        return _Named(self.inputs.id(place - self.start), self.inputs.labels(place - self.start))


class _Named(NamedTuple):
    id: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class DroppedNear:
    """The inputs to leave out, each with the place of the one of its group that is kept.

    That is a record, or the largest input, and of several the first.
    """

    found: NearInputs
    ranks: NDArray[np.int64]
    kept: NDArray[np.int64]

    @classmethod
    def of(cls, found: NearInputs, sizes: dict[int, int]) -> DroppedNear:
        pairs, start = list[tuple[int, int]](), found.start
        for group in found.groups():
            places = group[group >= start].tolist()
            kept = int(group[0])
            if kept >= start:
                kept = max(places, key=lambda place: (sizes[place - start], -place))
            pairs += ((place - start, kept) for place in places if place != kept)
        both = np.array(sorted(pairs), np.int64).reshape(-1, 2)
        return cls(found, both[:, 0], both[:, 1])

    def __iter__(self) -> Iterator[Duplicate]:
        for rank, kept in zip(self.ranks.tolist(), self.kept.tolist(), strict=True):
            contradicts = self.found.labels(rank + self.found.start) != self.found.labels(kept)
            yield Duplicate(rank, self.found.id(kept), contradicts, near=True)


@dataclass(frozen=True, slots=True)
class GroupedNear:
    """The inputs of groups, each with the key of its group, or with the split of the first record in it."""

    ranks: NDArray[np.int64]
    keys: NDArray[np.uint64]
    splits: Sequence[str | None]

    @classmethod
    def of(cls, found: NearInputs, seed: int) -> GroupedNear:
        members = list[Grouped]()
        for group in found.groups():
            first = int(group[0])
            key, split = group_key(seed, found.id(first)), found.split(first)
            members += (Grouped(place - found.start, key, split) for place in group.tolist() if place >= found.start)
        members.sort()
        return cls(
            np.array([one.rank for one in members], np.int64),
            np.array([one.key for one in members], np.uint64),
            [one.split for one in members],
        )

    def __iter__(self) -> Iterator[Grouped]:
        return map(Grouped, self.ranks.tolist(), self.keys.tolist(), self.splits)
