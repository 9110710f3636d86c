"""The TFRecord files of a directory and their splits, by the names of files.

```
train-00000-of-00010                    validation-00000-of-00128.tfrecord     numbered files of a split
cifar10-train.tfrecord-00000-of-00001                                          TensorFlow Datasets
flowers_val.tfrecords  test.tfrecord                                           a split's name among other words
pictures.tfrecord                                                              train
```
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import SPLIT_NAMES

__all__ = ["missing_numbers", "split_files"]

_SUFFIX = re.compile(r"\.tfrecords?(?![A-Za-z0-9])", re.IGNORECASE)
_PLAIN = re.compile(r"[\w-][\w.-]*")  # names that a manifest allows
_NUMBERED = re.compile(r"[-_](\d{1,9})-of-(\d{1,9})")
_MOST_MISSING = 100_000  # files to name: a single name may say that it is one of billions


def split_files(names: Iterable[str], patterns: Sequence[tuple[str, str]]) -> Mapping[str, list[str]]:
    """The names of the files of each split, in order.

    Args:
        names: the names of all files of the directory.
        patterns: for each split, its name and a pattern of file names; without patterns, splits are recognised.

    Raises:
        UsageError: a pattern matches no file, or a file belongs to two splits.
    """
    there = sorted(name for name in names if not name.startswith((".", "_")) and not name.endswith(".index.npy"))
    found = _by_pattern(there, patterns) if patterns else _by_name(there)
    for name in (name for files in found.values() for name in files):
        if not _PLAIN.fullmatch(name):
            raise UsageError(f"{name!r}: names of shards have letters, digits and _.- only; rename it")
    order = {split: number for number, split in enumerate(SPLIT_NAMES)}
    return {split: found[split] for split in sorted(found, key=lambda split: (order.get(split, len(order)), split))}


def missing_numbers(names: Sequence[str]) -> list[str]:
    """The missing files of numbered sets: `train-00003-of-00010`, if others of the ten are there."""
    missing = []
    groups: dict[tuple[str, str, str], set[str]] = {}
    for name in names:
        if match := _NUMBERED.search(name):
            groups.setdefault((name[: match.start(1)], match[2], name[match.end() :]), set()).add(match[1])
    # Sets are told apart by the text around the number: a directory has one for each split.
    for (start, count, end), numbers in groups.items():
        width = len(next(iter(numbers)))
        expected = (f"{number:0{width}d}" for number in range(min(int(count), len(numbers) + _MOST_MISSING)))
        missing += [f"{start}{number}-of-{count}{end}" for number in expected if number not in numbers]
    return missing


def _by_name(names: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        if _SUFFIX.search(name) or _NUMBERED.search(name):
            found.setdefault(_split_of(name), []).append(name)
    return found


def _by_pattern(names: Sequence[str], patterns: Sequence[tuple[str, str]]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    taken: dict[str, str] = {}
    for split, pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            raise UsageError(f"--split {split}={pattern}: no file has such a name; there are {', '.join(names[:5])}")
        for name in matching:
            if taken.setdefault(name, split) != split:
                raise UsageError(f"--split: {name} is of {taken[name]} and of {split}; give patterns that differ")
        found[split] = sorted({*found.get(split, []), *matching})
    return found


def _split_of(name: str) -> str:
    # A name with two names of splits, as "train-test.tfrecord", says neither.
    cut = min(match.start() for match in (_SUFFIX.search(name), _NUMBERED.search(name)) if match)
    base = name[:cut]
    words = [word.lower() for word in re.split(r"[-_.]", base)]
    known = [split for split in SPLIT_NAMES if split in words]
    if len(known) == 1:
        return known[0]
    is_tfds = re.search(r"\.tfrecord-\d+-of-\d+", name, re.IGNORECASE) is not None
    return base.rpartition("-")[2] if is_tfds and "-" in base else "train"
