"""Where images come from: a source lists references to them, and opens one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Listing", "Reference", "Reject"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Everything that was found in INPUT: each file is a reference, a reject, or ignored."""

    layout: str
    references: list[Reference]
    rejects: list[Reject] = field(default_factory=list)
    ignored: int = 0
    class_names: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
