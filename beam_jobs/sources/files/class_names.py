"""Files of class names or ids, one a line; and one-hot vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import split_place
from shard_reader.storage.open import directory

__all__ = ["one_hot", "read_class_names", "read_ids"]


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


def read_ids(path: str) -> frozenset[str]:
    """The ids in the file of `--exclude`. Empty lines count for nothing.

    Raises:
        UsageError: the file cannot be read, or has no id.
    """
    # Only line breaks end a line: an id may have any other character, and spaces at its end.
    ids = frozenset(line.removesuffix("\r") for line in _read(path, "--exclude").split("\n")) - {""}
    if not ids:
        raise UsageError(f"--exclude {path}: has no id; give the ids of inputs, one a line")
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
