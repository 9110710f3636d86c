"""Where images come from: a source lists what it has, says what that means, and reads one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

__all__ = ["Entry", "Layout", "Problem", "Reference", "Reject", "Source", "printable"]


def printable(name: str) -> str:
    """A file's name on one line of a terminal: line breaks and bytes that are no text are escaped."""
    return repr(name)[1:-1]


class Problem(NamedTuple):
    """Why an input cannot be used: a short class, and a sentence."""

    reason: str
    message: str


class Entry(NamedTuple):
    """One input as it was found: its id, its size in bytes, and what is wrong with it, if anything is."""

    id: str
    size: int
    problem: Problem | None = None


class Reference(NamedTuple):
    """One input that will be read: its id, its size in bytes, and the index of its class, if it has one."""

    id: str
    size: int
    label: int | None = None


class Reject(NamedTuple):
    """One input that is not in the dataset: a line of `rejects.jsonl`."""

    id: str
    uri: str
    stage: str
    reason: str
    message: str

    def to_line(self) -> bytes:
        """The line. A name that is not UTF-8 is written with JSON's escapes."""
        return json.dumps(self._asdict()).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Reject:
        """What `to_line` wrote."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What INPUT was recognised as: in words, with its classes and its own splits, if it has any."""

    text: str
    ignored: int
    class_names: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None


class Source(Protocol):
    """INPUT. The number of inputs has no bound: nothing of one entry is kept when the next is there."""

    def entries(self) -> Iterator[Entry]:
        """Everything that may be an image, in any order.

        Raises:
            UsageError: INPUT cannot be listed.
        """

    def layout(self) -> Layout:
        """What it all is, known when `entries` has come to its end.

        Raises:
            UsageError: it is nothing to make a dataset of.
        """

    def resolve(self, entry: Entry) -> tuple[Reference, str | None] | Problem:
        """What an entry stands for: a reference and the name of its split, if INPUT has splits."""

    def uri(self, id: str) -> str:
        """Where an input is, for people."""

    def read(self, id: str) -> bytes:
        """The bytes of one input.

        Raises:
            FileNotFoundError, PermissionError: it is gone, or may not be read.
            OSError: it cannot be read now, and could not for some seconds.
        """

    def answers(self, id: str) -> bool:
        """Whether INPUT is there at all, asked where an input is missing or may not be read."""
