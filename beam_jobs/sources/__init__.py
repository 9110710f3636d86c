"""Where images come from: a source lists references to them, and opens one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Listing", "Reference", "Reject", "printable"]


def printable(name: str) -> str:
    """A file's name on one line of a terminal: line breaks and bytes that are no text are escaped."""
    return repr(name)[1:-1]


class Reference(NamedTuple):
    """One input: its id, its size in bytes, and what its place in INPUT says about it."""

    id: str
    size: int
    label: int | None
    split: str | None


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
class Listing:
    """Everything that was found in INPUT: each file is a reference, a reject, or ignored."""

    layout: str
    references: list[Reference]
    rejects: list[Reject] = field(default_factory=list)
    ignored: int = 0
    class_names: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
