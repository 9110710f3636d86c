"""Which split an input is in: said by INPUT itself, or decided by its id, its group or its class.

The default is stable: a split is a range of the hash of (seed, id), so an image stays in its split when others
come or go, and the parts are as exact as chance makes them. Groups (`--group-by`) are ranges of the hash of
(seed, value). Stratified splits (`--stratify`) take, of each class, the records of lowest hash in turn: each
part of a class is within one record of exact, and no image's split is stable.
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
from beam_jobs.plan.catalog import Schema
from beam_jobs.sources.files.interface import Reference

__all__ = ["FOLDER", "TRAIN", "Splitter", "split_names", "splitter", "train_among"]

FOLDER = "folder"
"""What `--group-by` takes for the folder that an image is in, where there is no such field."""
TRAIN = ("train", "training")
"""What a split to train on is called, in any case."""
_KEYS = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: its multiples are spread evenly

Splitter = Callable[[int, Reference, str | None], str]
"""The split of an input, from the hash of its id, itself, and its own split, if it has one."""


def train_among(splits: Sequence[str]) -> str:
    """The split to train on; the first one, if none is called so."""
    return next((name for want in TRAIN for name in splits if name.lower() == want), splits[0])


def split_names(rule: SplitRule, schema: Schema) -> tuple[str, ...]:
    """The splits that there will be.

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
    """How to find the split of each reference, asked for in the final order.

    Args:
        rule: what the user asks for, which fits `schema`.
        schema: what INPUT has.
        seed: decides hashes.
        references: gives all of them with their own splits, for what needs to know them beforehand.
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
    """How to find the split of what INPUT does not say it of."""
    parts = rule.parts or (("train", "1"),)
    if rule.stratify:
        divided = _divided(rule, schema)
        return _Stratified(parts, Counter(r.values["label"] for r, own in references() if own == divided))
    ends = [int(_KEYS * fraction) for fraction in _cumulated(parts)]
    names = [name for name, _ in parts]
    if rule.group_by is None:
        return lambda key, reference, own: names[bisect_right(ends, key)]
    group_by, of_folder = rule.group_by, rule.group_by not in schema.fields

    def by_group(key: int, reference: Reference, own: str | None) -> str:
        # The place, where it is a path: an id may be of a table's own.
        path = reference.place if isinstance(reference.place, str) else reference.id
        group = posixpath.dirname(path) if of_folder else reference.values[group_by]
        return names[bisect_right(ends, _hashed(seed, group))]

    return by_group


class _Stratified:
    """Gives of each class, in the order that it is asked in, the first part to the first split, and so on."""

    def __init__(self, parts: tuple[tuple[str, str], ...], counts: Mapping[int, int]) -> None:
        self._names = [name for name, _ in parts]
        self._taken: Counter[int] = Counter()
        fractions = _cumulated(parts)
        self._ends: dict[int, list[int]] = {}
        for label, count in counts.items():
            # All classes rounded the same way would starve a split of classes of one record.
            offset = Fraction(label * _GOLDEN % _KEYS, _KEYS)
            self._ends[label] = [int(count * fraction + offset) for fraction in fractions[:-1]] + [count]

    def __call__(self, key: int, reference: Reference, own: str | None) -> str:
        label = reference.values["label"]
        place = self._taken[label]
        self._taken[label] += 1
        return self._names[bisect_right(self._ends[label], place)]


def _cumulated(parts: tuple[tuple[str, str], ...]) -> list[Fraction]:
    """The end of each part; the last is exactly 1."""
    ends, end = [], Fraction(0)
    for _, fraction in parts:
        end += Fraction(fraction)
        ends.append(end)
    return ends


def _hashed(seed: int, group: Any) -> int:
    text = f"{seed}/group/{group}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _divided(rule: SplitRule, schema: Schema) -> str | None:
    """Which of INPUT's own splits `--split` divides: train, or the only one; None where INPUT has no splits."""
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
