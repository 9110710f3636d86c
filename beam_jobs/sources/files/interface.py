"""The interface of a source: it lists its inputs, describes them, and reads one.

A custom source is a class with `entries` and `read`; `examples/custom_source.py` is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from shard_reader.format.fields import IMAGE_ROLES, Field
from shard_reader.format.manifest import LeftOut
from shard_reader.storage.secrets import host_of, without_secrets

__all__ = [
    "BOX_FORMATS",
    "DOWNLOADS",
    "DROPPED",
    "INSTANCES",
    "ROLES",
    "SEGMENTS",
    "SOURCES",
    "TEXT_SEGMENTS",
    "BadInput",
    "Entry",
    "Label",
    "Layout",
    "LeftOut",
    "Pixels",
    "Problem",
    "Reading",
    "Reference",
    "Reject",
    "Source",
    "SourceOptions",
    "Suspect",
    "Thumbnail",
    "of_field",
    "refuse_options",
]

BOX_FORMATS = ("xyxy", "xywh", "yxyx", "rel-xyxy", "rel-xywh", "rel-yxyx")
ROLES = (*IMAGE_ROLES, "bytes")
"""The roles of what a record has beside its first image: a further image, or bytes that are stored as they are."""
SEGMENTS = ("mask", "instances", "rle", "polygons")
"""The forms in which the outlines of objects are stored."""
TEXT_SEGMENTS = ("rle", "polygons")
"""Those of SEGMENTS that are texts, one for each object."""
INSTANCES = "objects/instance"
"""The field with the value of each object in the mask of instances: a crop may drop objects."""
SOURCES = ("folder", "imagefolder", "table", "arrow", "coco", "yolo", "ndjson", "voc", "archive", "records")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """The place of the images, and how to read them. None stands for a value that is recognised, or missing.

    `kind` is one of SOURCES or "module:Class". Columns are the columns of a table, the keys of a WebDataset's JSON, or
    the features or arrays of records. `boxes` and `points` name columns: one with lists, or one for each coordinate.
    `box_format` is the form of a box's four numbers, in pixels, or with "rel-" in parts of the image; points are in the
    same unit. `box_frame` is "stored" for annotations of the stored image, "upright" for those of the shown image; None
    stands for the usual one of the source. `class_pattern` is a regular expression of the names of images, whose group
    `label` is the class.
    `image_columns` are the columns of images, of which the first is the record's image; each may end with a colon and
    its role. `mask_column` is one more, whose field is `mask`. `allow_missing` names fields that an input may lack.
    `segments` is one of SEGMENTS, for the outlines of objects; None leaves them out.
    With `no_urls` no path of a table may be a URL, and with `below` all have to lead below that place. DOWNLOADS are
    about images by URL.
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
    box_frame: str | None = None
    image_key: str | None = None
    image_columns: tuple[str, ...] | None = None
    mask_column: str | None = None
    segments: str | None = None
    allow_missing: tuple[str, ...] | None = None
    record: str | None = None
    nested_classes: bool = False
    class_pattern: str | None = None
    no_urls: bool = False
    below: str | None = None
    user_agent: str | None = None
    requests_per_host: int = 8
    download_seconds: int = 60
    ignore_opt_out: bool = False
    respect_robots: bool = False

    @property
    def boxes_are_upright(self) -> bool:
        """Whether annotations are of the image as it is shown, with its orientation applied."""
        # The library that YOLO's files are for measures and shows images upright.
        return self.box_frame == "upright" or (self.box_frame is None and self.kind == "yolo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The bounds within which the workers of a job read, and the places that they share.

    `max_bytes` is the size of the largest file to read, and `requests_per_host` the most requests at a time to a host,
    of all processes that share `turns`. `turns` is a folder of this machine where its processes take
    turns at asking hosts; None for the threads of one process. `robots` is the place of the robots.txt files of hosts.
    """

    max_bytes: int = 1 << 29
    requests_per_host: int = 8
    turns: str | None = None
    robots: str | None = None


DOWNLOADS = ("user_agent", "requests_per_host", "download_seconds", "ignore_opt_out", "respect_robots")
"""The options of images by URL."""

Label = str | int | list[str] | list[int]
"""The name of a class, its number, or several of either."""

Pixels = NDArray[Any]
"""`[height, width]` or `[height, width, channels]`, with 1 (grey), 3 (RGB) or 4 (RGBA) channels, uint8 or uint16.

Those of a raster may be float32, or have other numbers of channels.
"""


def refuse_options(options: SourceOptions, what: str, *, taken: Collection[str]) -> None:
    """Refuse every option that a source does not take. `what` describes INPUT in the message.

    Raises:
        UsageError: an option was given that has no meaning for this source.
    """
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        if value == option.default or option.name in ("input", "kind", *taken):
            continue
        text = "" if value is True else f" {','.join(value)}" if isinstance(value, tuple) else f" {value}"
        name = option.name.replace("_", "-")
        raise UsageError(f"--{name}{text}: has no meaning where INPUT is {what}; leave it out")


class BadInput(Exception):
    """An input that can never become a record. `reason` is a short class, such as "damaged"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextlib.contextmanager
def of_field(name: str) -> Iterator[None]:
    """Name the field in the message of a reject."""
    try:
        yield
    except BadInput as error:
        raise BadInput(error.reason, f"{name}: {error}") from error


class Problem(NamedTuple):
    """The defect of an input: a short class, and a sentence."""

    reason: str
    message: str


class Entry(NamedTuple):
    """One input of a listing.

    `id` is unique. `size` is in bytes, -1 if it is not known before reading. `place` is the information that `read`
    needs beside the id. `fields` are the other values of its record: numbers, texts, and lists of either; None is a
    missing value. `frame` is the width and height that boxes and points in `fields` refer to, if known: an image of
    another size is rejected. `payloads` has what `read_payload` needs for each of `Layout.payloads` that the input has,
    and under "segments" the outlines of its objects, one for each: a list of polygons, each a flat list of x and y in
    pixels, or an RLE of COCO, `{"size": [height, width], "counts": ...}`. `place`, `label`, `fields` and `payloads`
    survive JSON unchanged.
    """

    id: str
    size: int = -1
    place: Any = None
    label: Label | None = None
    split: str | None = None
    fields: Mapping[str, Any] = {}
    frame: tuple[int, int] | None = None
    problem: Problem | None = None
    payloads: Mapping[str, Any] = {}


class Reference(NamedTuple):
    """One input to read: the values of its record's fields, and the places of further images and of bytes."""

    id: str
    size: int
    place: Any = None
    values: Mapping[str, Any] = {}
    frame: tuple[int, int] | None = None
    payloads: Mapping[str, Any] = {}


DROPPED = ("duplicate", "near-duplicate")
"""The reasons of rejects that were dropped because another input has the same bytes, or looks alike."""


class Reject(NamedTuple):
    """One input that is not in the dataset: a line of `rejects.jsonl`."""

    id: str
    uri: str
    stage: str
    reason: str
    message: str

    def to_line(self) -> bytes:
        """The line, without credentials of URLs. A name that is not UTF-8 is written with JSON's escapes."""
        return json.dumps({name: without_secrets(text) for name, text in self._asdict().items()}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Reject:
        """The inverse of `to_line`."""
        return cls(**json.loads(line))


class Suspect(NamedTuple):
    """One record whose image a decoder read with a complaint: a line of `suspects.jsonl`."""

    id: str
    split: str
    message: str

    def to_line(self) -> bytes:
        """The line, without credentials of URLs."""
        return json.dumps({name: without_secrets(text) for name, text in self._asdict().items()}).encode() + b"\n"


class Thumbnail(NamedTuple):
    """A line of `thumbnails.jsonl`.

    `group` is "reject", "suspect", "change" or "usual"; `reason` is that of the reject, or the kind of change. `before`
    and `after` are JPEG files in base64. `split` is None for a reject.
    """

    id: str
    split: str | None
    group: str
    reason: str
    before: str | None
    after: str | None

    def to_line(self) -> bytes:
        """The line, as JSON."""
        return json.dumps(self._asdict() | {"id": without_secrets(self.id)}).encode() + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """INPUT in words, and facts about all entries together.

    `class_names` and `splits` are declared in their order, even if no entry has them; None takes the ones of the
    entries. `fields` are known types; the other types are inferred. `boxes` maps fields with boxes (lists of four
    numbers) to one of BOX_FORMATS, and `points` maps fields with points (lists of two numbers) to "xy", "yx", "rel-xy"
    or "rel-yx". Fields that begin with "objects/" are lists with an element for each object: an object whose box has
    left the image is removed from all of them. Of `points`, a field whose role is keypoints has lists of x, y (or y, x)
    and visibility. `payloads` has the role of each field with a further image or with bytes, one of ROLES. `segments`
    is the form in which the outlines of objects are stored, one of SEGMENTS. `untyped` is True if all values are texts:
    a field becomes one of numbers if all its texts can be read as numbers. In the splits of `unlabelled`, inputs may
    have no label: -1 is stored. A declared "objects/label" may hold names where `class_names` is None. `left_out` names
    everything beside the images that is not read, with the reason. `warnings` say how INPUT was understood, and what to
    type if it is something else. `reached` has the number of paths for each host, or folder of this machine, that a
    table names.
    """

    text: str
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)
    boxes: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, str] = field(default_factory=dict)
    payloads: Mapping[str, str] = field(default_factory=dict)
    segments: str | None = None
    untyped: bool = False
    unlabelled: frozenset[str] = frozenset()
    reached: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def ignored(self) -> int:
        """The number of files that are not read."""
        return sum(one.files for one in self.left_out)


class Source(ABC):
    """Base class of sources.

    The launcher lists the inputs. The workers make sources of their own from the same options, and read. The number
    of inputs has no bound: a source keeps no entry in memory.
    """

    reading = Reading()
    """Set before `read` is called. `read` may leave larger files unread, with the reason "too-large"."""

    def __init__(self, options: SourceOptions) -> None:
        """Keep the options. Nothing is read yet.

        Raises:
            UsageError: no installed package can read such a place, or an option does not fit.
        """
        self.options = options

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """The listing of INPUT: every possible image, in any order.

        Raises:
            UsageError: INPUT cannot be listed.
        """

    @abstractmethod
    def read(self, reference: Reference) -> bytes | Pixels:
        """One input: the bytes of an image file, or pixels.

        Raises:
            BadInput: the input is damaged.
            FileNotFoundError, PermissionError: the input is gone, or may not be read.
            OSError: the input cannot be read now, after retries for some seconds.
        """

    def read_payload(self, reference: Reference, name: str) -> bytes | Pixels:
        """A further image of an input, as `read` gives the first one; or the bytes of a field. Raises as `read` does.

        Called for the fields of `Layout.payloads` that `reference.payloads` has.
        """
        raise NotImplementedError(f"{type(self).__name__} has no {name}")

    def layout(self) -> Layout:
        """The layout of INPUT. Called after the last entry.

        Raises:
            UsageError: no dataset can be made of INPUT.
        """
        return Layout(text=type(self).__name__)

    def resolve(self, entry: Entry) -> Entry | Problem:
        """An entry, completed with facts that are known only after the last entry, such as its class."""
        # A folder is a class or a split depending on all others: a first pass lists, and this completes a second one.
        return entry.problem or entry

    def size(self, reference: Reference) -> int:
        """The number of bytes that `read` would return, or -1 if it is not known."""
        return reference.size

    def pixels(self, reference: Reference) -> tuple[int, int]:
        """Width and height of the pixels that `read` would return; 0, 0 if they are not known before, or of a file."""
        return 0, 0

    def uri(self, entry: Entry | Reference) -> str:
        """The address of an input, for messages."""
        return f"{self.options.input}/{entry.id}"

    def host(self, reference: Reference) -> str:
        """The web server that an input comes from; empty for another place."""
        is_web = self.options.input.startswith(("http://", "https://"))
        return host_of(self.options.input) if is_web else ""

    def answers(self, reference: Reference) -> bool:
        """Whether INPUT can be reached at all. Called after an input was missing or unreadable."""
        # It tells an input that is gone, which is rejected, from a disk that is not mounted, which fails the job.
        return True
