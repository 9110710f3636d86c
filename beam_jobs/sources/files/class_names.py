"""Classes in files of names, one a line, in one-hot vectors, and in the names of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import SPLIT_NAMES, split_place
from shard_reader.printable import printable
from shard_reader.storage.open import directory

__all__ = ["NamedClasses", "one_hot", "read_class_names", "read_ids"]

_WORD_AND_NUMBER = re.compile(r"(?P<label>[^\W\d_]+)\.\d+\.\w+")  # cat.0.jpg, as in Kaggle's "Dogs vs. Cats"
_NUMBER = re.compile(r"\d+\.\w+")
_TRAIN = ("train", "training")
_MOST_CLASSES = 1_000_000
_MOST_WORDS = 1000


def read_class_names(path: str) -> tuple[str, ...]:
    """The class names in the file of `--classes`.

    Raises:
        UsageError: the file cannot be read, or a line is empty or repeated.
    """
    names = tuple(line.rstrip() for line in _read(path, "--classes").rstrip().splitlines())
    seen = set[str]()
    for number, line in enumerate(names, 1):
        if not line:
            raise UsageError(f"--classes {path}: line {number} is empty")
        if line in seen:
            raise UsageError(f"--classes {path}: line {number} is {line!r} again")
        seen.add(line)
    if not names:
        raise UsageError(f"--classes {path}: is empty")
    return names


def read_ids(path: str, option: str = "--exclude") -> frozenset[str]:
    """The ids in the file of an option, one a line. Empty lines count for nothing.

    Raises:
        UsageError: the file cannot be read, or has no id.
    """
    # Only line breaks end a line: an id may have any other character, and spaces at its end.
    ids = frozenset(line.removesuffix("\r") for line in _read(path, option).split("\n")) - {""}
    if not ids:
        raise UsageError(f"{option} {path}: has no id; give ids, one a line")
    return ids


def _read(path: str, option: str) -> str:
    place, name = split_place(path)
    try:
        return directory(place).read(name).decode("utf-8-sig")  # Windows editors begin files with a byte order mark
    except UnicodeDecodeError as error:
        raise UsageError(f"{option} {path}: is not UTF-8 at byte {error.start}") from error
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from error


def one_hot(values: Sequence[Any]) -> int | None:
    """The class of a one-hot vector; None for another list, such as one of several classes."""
    # Two whole numbers, 0 and 1, can be two classes. More of them would have a class twice.
    is_vector = len(values) > 2 or (len(values) == 2 and all(type(value) is float for value in values))
    is_hot = is_vector and all(type(value) in (int, float) and value in (0, 1) for value in values)
    return list(values).index(1) if is_hot and sum(values) == 1 else None


@dataclass
class _Names:
    """The names in a split: the number of all, of those of a word and a number, and of numbers alone."""

    images: int = 0
    named: int = 0
    numbered: int = 0
    words: set[str] = field(default_factory=set)
    labelled: bool = False


class NamedClasses:
    """Classes in the names of images, known after the last one: by a pattern, or recognised.

    Without a pattern, only the names of "Dogs vs. Cats" are recognised: in `train`, each is a word and a number, as
    cat.0.jpg, and in another split all are numbers. Other names with words and numbers are often those of frames,
    cameras or layers, and not of classes.
    """

    def __init__(self, pattern: str | None) -> None:
        """`pattern` is a regular expression with the group `label`, and perhaps the group `split`.

        A whole name has to match it, or, if it has a slash, a whole path.

        Raises:
            UsageError: it is not one.
        """
        self.pattern = pattern
        self._expression = None if pattern is None else _compiled(pattern)
        self._of_path = pattern is not None and "/" in pattern
        self._parts: dict[str, _Names] = {}  # by the first folder of a path that is named like a split, or ""
        self._labels: set[str] = set()
        self._splits: set[str] = set()
        self._example = ""

    def add(self, path: str) -> None:
        """Take note of the path of an image.

        Raises:
            UsageError: there are too many classes.
        """
        *folders, name = path.split("/")
        split = next((lower for folder in folders if (lower := folder.lower()) in SPLIT_NAMES), "")
        self._example = min(self._example or path, path)
        if self._expression is not None:
            self._add_found(split, path)
            return
        names = self._parts.setdefault(split, _Names())
        names.images += 1
        if len(names.words) <= _MOST_WORDS:
            found = _WORD_AND_NUMBER.fullmatch(name)
            names.named += found is not None
            names.numbered += _NUMBER.fullmatch(name) is not None
            if found is not None:
                names.words.add(found["label"])

    def _add_found(self, folder: str, path: str) -> None:
        label, split = self.find(path) or (None, None)
        self._parts.setdefault(split or folder, _Names()).labelled |= label is not None
        if label is not None:
            self._labels.add(label)
            if len(self._labels) > _MOST_CLASSES:
                raise UsageError(f"--class-pattern {self.pattern}: finds more than {_MOST_CLASSES:,} classes")
        if split is not None:
            self._splits.add(split)

    def find(self, path: str) -> tuple[str | None, str | None] | None:
        """The class and the split in a name, each None if it is not in there; None for a name that does not match."""
        expression = self._expression or _WORD_AND_NUMBER
        found = expression.fullmatch(path if self._of_path else path.rpartition("/")[2])
        if found is None:
            return None
        groups = found.groupdict()
        return groups["label"] or None, groups.get("split") or None

    def recognised(self, splits: Sequence[str]) -> bool:
        """Whether names have classes without a pattern, given the splits of folders."""
        kinds = {split: self._parts[split] for split in splits if split in self._parts}
        train = next((kinds[split] for split in _TRAIN if split in kinds), None)
        if train is None or train.named < train.images or not 2 <= len(train.words) <= train.images // 2:
            return False
        others = [names for names in kinds.values() if names is not train]
        return any(names.numbered == names.images for names in others) and all(
            names.numbered == names.images or (names.named == names.images and names.words <= train.words)
            for names in others
        )

    def check(self, called: str) -> None:
        """Check that a pattern finds a class.

        Raises:
            UsageError: it matches no name.
        """
        if self._expression is not None and not self._labels:
            what = "path" if self._of_path else "name"
            example = printable(self._example if self._of_path else self._example.rpartition("/")[2])
            raise UsageError(
                f"--class-pattern {self.pattern}: {called} has no {what} that it finds a class in: {example}"
            )

    def names(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted(self._labels.union(*(names.words for names in self._parts.values()))))

    def splits(self) -> tuple[str, ...] | None:
        """The splits that a pattern finds; None without a group for them."""
        found = self._expression is not None and "split" in self._expression.groupindex
        known = [name for name in SPLIT_NAMES if name in self._splits]
        return (*known, *sorted(self._splits - set(known))) if found else None

    def has_label(self, split: str) -> bool:
        """Whether the name of any image of a split has a class."""
        names = self._parts.get(split)
        return names is not None and (names.labelled or names.named > 0)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"--class-pattern {pattern}: is no regular expression ({error})") from error
    if "label" not in expression.groupindex:
        raise UsageError(
            f"--class-pattern {pattern}: has no group named label, as '(?P<label>\\w+)\\.\\d+\\.jpg' has for cat.0.jpg"
        )
    return expression
