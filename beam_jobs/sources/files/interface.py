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
from shard_reader.format.fields import Field
from shard_reader.storage.secrets import without_secrets

__all__ = [
    "BOX_FORMATS",
    "SOURCES",
    "BadInput",
    "Entry",
    "Label",
    "Layout",
    "Pixels",
    "Problem",
    "Reference",
    "Reject",
    "Source",
    "SourceOptions",
    "refuse_options",
]

BOX_FORMATS = ("xyxy", "xywh", "yxyx", "rel-xyxy", "rel-xywh", "rel-yxyx")
SOURCES = ("folder", "table", "coco", "archive", "records")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Where the images are, and how to read it. What is None is recognised, or not there.

    `kind` is one of SOURCES or "module:Class". Columns are those of a table, the keys of a WebDataset's JSON and the
    features or arrays of records. `boxes` and `points` are columns of them: one that holds lists, or one for each
    coordinate. `box_format` says what a box's four numbers are: pixels, or with "rel-" parts of the image,
    as points then are, too; `box_frame`, whether of the image as it is stored, or as it is shown, upright.
    """

    input: str
    kind: str | None = None
    root: str | None = None
    path_column: str | None = None
    path_suffix: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    split_column: str | None = None
    fields: tuple[str, ...] | None = None
    boxes: tuple[str, ...] | None = None
    points: tuple[str, ...] | None = None
    box_format: str = "xyxy"
    box_frame: str = "stored"
    image_key: str | None = None
    record: str | None = None
    nested_classes: bool = False


Label = str | int | list[str] | list[int]
"""The name of a class, its number, or several of either."""

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""`[height, width]` or `[height, width, channels]`, with 1 (grey), 3 (RGB) or 4 (RGBA) channels."""


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
