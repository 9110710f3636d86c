"""The split of an input: given by INPUT itself, or chosen by its id, its group or its class.

The default is stable: a split is a range of the hash of (seed, id). An image stays in its split when others come or
go, and the sizes of the parts vary by chance. Groups (`--group-by`) are ranges of the hash of (seed, value). Stratified
splits (`--stratify`) take the records of each class in the order of their hashes: each part of a class is exact to one
record, and an image may change its split when others come or go.
"""

from __future__ import annotations

import hashlib
import posixpath
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.options import SplitRule
from beam_jobs.plan.schema.catalog import Schema
from beam_jobs.sources.files.interface import Reference

__all__ = ["FOLDER", "TRAIN", "Splitter", "group_key", "split_names", "splitter", "train_among"]

FOLDER = "folder"
"""The value of `--group-by` for the folder of an image, where no field has that name."""
TRAIN = ("train", "training")
"""Names of a split to train on, in lower case."""
_KEYS = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: its multiples, modulo 2^64, are spread evenly

Splitter = Callable[[int, Reference, str | None], str]
"""Chooses a split from the hash of an input's id, its reference, and its split in INPUT, if it has one."""


def train_among(splits: Sequence[str]) -> str:
    """The split to train on: by its name, or else the first one."""
    return next((name for want in TRAIN for name in splits if name.lower() == want), splits[0])


def split_names(rule: SplitRule, schema: Schema) -> tuple[str, ...]:
    """The names of the splits of the dataset.

    Raises:
        UsageError: the rule does not fit INPUT.
    """
    _check(rule, schema)
    parts = tuple(name for name, _ in rule.parts or (("train", "1"),))
    if not schema.splits:
        return parts
    return (*(parts if rule.parts else ()), *(name for name in schema.splits if name != _divided(rule, schema)))


def splitter(
    rule: SplitRule, schema: Schema, seed: int, references: Callable[[], Iterable[tuple[Reference, str | None]]]
) -> Splitter:
    """A function that chooses the split of each reference. Call it in the final order.

    Args:
        rule: the user's rule, which fits `schema`.
        schema: the schema of INPUT.
        seed: the seed of the hashes.
        references: gives all references with their splits in INPUT; stratified splits count them beforehand.
    """
    if schema.splits and not rule.parts:
        return lambda key, reference, own: str(own)
    inner = _inner(rule, schema, seed, references)
    if not schema.splits:
        return inner
    divided = _divided(rule, schema)
    return lambda key, reference, own: inner(key, reference, own) if own == divided else str(own)


def _inner(
    rule: SplitRule, schema: Schema, seed: int, references: Callable[[], Iterable[tuple[Reference, str | None]]]
) -> Splitter:
    """A function that chooses the split of inputs without one in INPUT."""
    parts = rule.parts or (("train", "1"),)
    if rule.stratify:
        divided = _divided(rule, schema)
        return _Stratified(parts, Counter(r.values["label"] for r, own in references() if own == divided))
    # A key is below 2^64, the end of the last part. The key depends on the id alone, and so does the split.
    ends = [int(_KEYS * fraction) for fraction in _cumulated(parts)]
    names = [name for name, _ in parts]
    if rule.group_by is None:
        return lambda key, reference, own: names[bisect_right(ends, key)]
    group_by, of_folder = rule.group_by, rule.group_by not in schema.fields

    def by_group(key: int, reference: Reference, own: str | None) -> str:
        # The place is a path in most sources; an id can come from a column of a table.
        path = reference.place if isinstance(reference.place, str) else reference.id
        group = posixpath.dirname(path) if of_folder else reference.values[group_by]
        return names[bisect_right(ends, group_key(seed, group))]

    return by_group


class _Stratified:
    """Cuts each class into parts: its first records go to the first split, the next to the second, and so on."""

    def __init__(self, parts: tuple[tuple[str, str], ...], counts: Mapping[int, int]) -> None:
        self._names = [name for name, _ in parts]
        self._taken: Counter[int] = Counter()
        fractions = _cumulated(parts)
        self._ends: dict[int, list[int]] = {}
        for label, count in counts.items():
            # With the same rounding for all classes, a small split would get no record of small classes at all. Each
            # class has an offset of its own instead, spread evenly over the classes.
            offset = Fraction(label * _GOLDEN % _KEYS, _KEYS)
            self._ends[label] = [int(count * fraction + offset) for fraction in fractions[:-1]] + [count]

    def __call__(self, key: int, reference: Reference, own: str | None) -> str:
        label = reference.values["label"]
        place = self._taken[label]
        self._taken[label] += 1
        return self._names[bisect_right(self._ends[label], place)]


def _cumulated(parts: tuple[tuple[str, str], ...]) -> list[Fraction]:
    """The end of each part. The last one is exactly 1, since fractions do not round."""
    ends, end = [], Fraction(0)
    for _, fraction in parts:
        end += Fraction(fraction)
        ends.append(end)
    return ends


def group_key(seed: int, group: Any) -> int:
    """The number of 64 bits that chooses the split of a group."""
    text = f"{seed}/group/{group}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _divided(rule: SplitRule, schema: Schema) -> str | None:
    """INPUT's split that `--split` divides: train, or the only one. None if INPUT has no splits."""
    if not rule.parts or not schema.splits:
        return None
    return train_among(schema.splits)


def _check(rule: SplitRule, schema: Schema) -> None:
    if schema.splits and rule.parts:
        divided = _divided(rule, schema)
        others = [name for name in schema.splits if name != divided]
        both = [name for name, _ in rule.parts if name in others]
        if both or (others and str(divided).lower() not in TRAIN):
            raise UsageError(
                f"--split: INPUT already has splits ({', '.join(schema.splits)}); leave it out, or divide train into"
                " parts of other names"
            )
    if rule.stratify:
        label = schema.fields.get("label")
        if label is None or label.shape:
            has = "has no labels" if label is None else "has several labels for an image"
            raise UsageError(f"--stratify: needs one label for each image, and INPUT {has}; leave it out")
    group = schema.fields.get(rule.group_by or FOLDER)
    if rule.group_by is None or (rule.group_by == FOLDER and group is None):
        return
    if group is None or group.shape:
        known = [name for name, field in schema.fields.items() if not field.shape]
        what = "is a list" if group else "is no field of INPUT"
        raise UsageError(f"--group-by {rule.group_by}: {what}; give one of {', '.join([*known, FOLDER])}")
