"""Where images come from: a source lists what it has, says what that means, and reads one.

A source of your own is a class with `entries` and `read`; `examples/custom_source.py` is one.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.options import SourceOptions
from shard_reader.format import Field
from shard_reader.secret import without_secrets

__all__ = [
    "BadInput",
    "Entry",
    "Label",
    "Layout",
    "Pixels",
    "Problem",
    "Reference",
    "Reject",
    "Source",
    "printable",
    "refuse_options",
]

Label = str | int | list[str] | list[int]
"""The name of a class, its number, or several of either."""
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""`[height, width]` or `[height, width, channels]`, with 1 (grey), 3 (RGB) or 4 (RGBA) channels."""


def printable(name: str) -> str:
    """A file's name on one line of a terminal: line breaks and bytes that are no text are escaped."""
    return repr(name)[1:-1]


def refuse_options(options: SourceOptions, what: str, *, taken: Collection[str]) -> None:
    """Refuse every option but those that a source takes; `what` says what INPUT is.

    Raises:
        UsageError: one that has no meaning there was given.
    """
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        if value == option.default or option.name in ("input", "kind", *taken):
            continue
        text = "" if value is True else f" {','.join(value)}" if isinstance(value, tuple) else f" {value}"
        name = option.name.replace("_", "-")
        raise UsageError(f"--{name}{text}: has no meaning where INPUT is {what}; leave it out")


class BadInput(Exception):
    """An input that cannot become a record, whenever it is tried: `reason` is a short class."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Problem(NamedTuple):
    """Why an input cannot be used: a short class, and a sentence."""

    reason: str
    message: str


class Entry(NamedTuple):
    """One input as it was found.

    `id` is unique; `size` is in bytes, -1 if it is not known before it is read. `place` is whatever `read` needs
    to find it beside its id. `fields` are the other values of its record: numbers, texts, and lists of either; None is
    a missing value. `frame` is the width and height that boxes and points in `fields` refer to, if that is
    known: an image of another size is rejected. `place`, `label` and `fields` survive JSON as they are.
    """

    id: str
    size: int = -1
    place: Any = None
    label: Label | None = None
    split: str | None = None
    fields: Mapping[str, Any] = {}
    frame: tuple[int, int] | None = None
    problem: Problem | None = None


class Reference(NamedTuple):
    """One input that will be read, with the values of all fields of its record but the image."""

    id: str
    size: int
    place: Any = None
    values: Mapping[str, Any] = {}
    frame: tuple[int, int] | None = None


class Reject(NamedTuple):
    """One input that is not in the dataset: a line of `rejects.jsonl`."""

    id: str
    uri: str
    stage: str
    reason: str
    message: str

    def to_line(self) -> bytes:
        """The line, without what lets one in. A name that is not UTF-8 is written with JSON's escapes."""
        return json.dumps({name: without_secrets(text) for name, text in self._asdict().items()}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Reject:
        """What `to_line` wrote."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What INPUT was recognised as: in words, and what is known of it beside its entries.

    `class_names` and `splits` are those that no entry need have, in their order; without them, they are what the
    entries have. `fields` are types that are known; the others are inferred. `boxes` (lists of four
    numbers) names the fields that are boxes, each with one of BOX_FORMATS, `points` (lists of two numbers) those that
    are points, each with "xy", "yx", "rel-xy" or "rel-yx". Fields that begin with "objects/" are lists
    with an element for each object: an object whose box has left the image is removed from all of them.
    `untyped` says that all values are texts, which are numbers where all of a field look like it.
    """

    text: str
    ignored: int = 0
    class_names: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)
    boxes: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, str] = field(default_factory=dict)
    untyped: bool = False


class Source(ABC):
    """INPUT. The number of inputs has no bound: nothing of one entry is kept when the next is there.

    The launcher lists; the workers make a source of their own from the same options, and read.
    """

    def __init__(self, options: SourceOptions) -> None:
        """Keep the options. Nothing is read yet.

        Raises:
            UsageError: nothing here can read such a place, or an option does not fit.
        """
        self.options = options

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Everything that may be an image, in any order.

        Raises:
            UsageError: INPUT cannot be listed.
        """

    @abstractmethod
    def read(self, reference: Reference) -> bytes | Pixels:
        """One input: the bytes of an image file, or pixels.

        Raises:
            BadInput: it is damaged.
            FileNotFoundError, PermissionError: it is gone, or may not be read.
            OSError: it cannot be read now, and could not for some seconds.
        """

    def layout(self) -> Layout:
        """What it all is, known when `entries` has come to its end.

        Raises:
            UsageError: it is nothing to make a dataset of.
        """
        return Layout(text=type(self).__name__)

    def resolve(self, entry: Entry) -> Entry | Problem:
        """An entry again, with what only `layout` could tell."""
        return entry.problem or entry

    def size(self, reference: Reference) -> int:
        """How many bytes `read` would give, asked before it is called; -1 if that is not known."""
        return reference.size

    def uri(self, entry: Entry | Reference) -> str:
        """Where an input is, for people."""
        return f"{self.options.input}/{entry.id}"

    def answers(self, reference: Reference) -> bool:
        """Whether INPUT is there at all, asked where an input is missing or may not be read."""
        return True
