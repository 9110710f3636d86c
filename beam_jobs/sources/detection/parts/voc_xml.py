"""An annotation file of Pascal VOC: XML, of which only the values of VOC are kept.

Entities are refused with the declaration that they need, and no other file is read. Source: the development kit of
the VOC challenge, host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from beam_jobs.sources.files.interface import BadInput
from shard_reader.printable import excerpt

__all__ = ["MOST_BYTES", "Annotation", "Object", "parse_annotation"]

MOST_BYTES = 1 << 22
"""The largest annotation file, about a thousand times the usual size."""
_DEEPEST = 50
_MOST_UNREAD = 100
_LONGEST_TEXT = 1000
_SIZE = ("width", "height")
_SIDES = ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
_OF_OBJECT = {"name", "pose", "truncated", "difficult", "occluded", *_SIDES}
_SILENT = {"annotation", "folder", "filename", "path", "source", "owner", "segmented", "size", "object", "bndbox"}


@dataclass(frozen=True, slots=True)
class Object:
    """One object: its class, its box as the file has it (xmin, ymin, xmax, ymax), and what VOC says of it."""

    name: str
    box: tuple[float, float, float, float]
    pose: str
    is_truncated: int
    is_difficult: int
    is_occluded: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """The annotation of an image: its width and height if they are given, its objects, and names of other values."""

    size: tuple[int, int] | None
    objects: tuple[Object, ...]
    unread: frozenset[str]


def parse_annotation(data: bytes) -> Annotation:
    """The annotation in a file.

    Raises:
        BadInput: the file is no such XML, or an object in it cannot be used; the message has the line.
    """
    reader = _Reader()
    reader.parse(data)
    size = [_whole(reader.size.get(side, "")) for side in _SIZE]
    width, height = size
    known = (width, height) if width and height else None
    objects = tuple(_object(number, line, values, known) for number, (line, values) in enumerate(reader.objects, 1))
    return Annotation(known, objects, frozenset(reader.unread))


@dataclass
class _Reader:
    """Keeps the values of an annotation, and of no other element."""

    size: dict[str, str] = field(default_factory=dict)
    objects: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    _path: list[str] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)

    def parse(self, data: bytes) -> None:
        parser = self._parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            text = expat.errors.messages.get(error.code, expat.ErrorString(error.code))
            raise BadInput("bad-annotation", f"line {error.lineno}: is no XML ({text})") from error
        except (ValueError, LookupError) as error:  # an encoding that Python does not have
            raise BadInput("bad-annotation", f"is no XML ({error})") from error

    def _refuse_doctype(self, *_: object) -> None:
        line = self._parser.CurrentLineNumber
        raise BadInput("bad-annotation", f"line {line}: has a DOCTYPE, whose entities no annotation needs; remove it")

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        if not self._path and name != "annotation":
            raise BadInput("bad-annotation", f"line {line}: begins with <{name[:40]}>, and not with <annotation>")
        self._path.append(name)
        if len(self._path) > _DEEPEST:
            raise BadInput("bad-annotation", f"line {line}: nests elements more than {_DEEPEST} levels deep")
        self._texts.clear()
        if self._path[1:] == ["object"]:
            self.objects.append((line, {}))
        inner = "/".join(self._path[2:])
        is_known = inner in _OF_OBJECT if self._path[1:2] == ["object"] and inner else name in _SILENT
        is_known = is_known or inner == "bndbox" or self._path[1:2] in (["size"], ["source"], ["owner"])
        if not is_known and len(self._path) <= 3 and len(self.unread) < _MOST_UNREAD:
            self.unread.add(" of ".join(reversed(self._path[1:]))[:80])

    def _text(self, text: str) -> None:
        # Only so much that a message can show it: a value is short.
        if len(self._path) in (3, 4) and len(self._texts) < _LONGEST_TEXT:
            self._texts.append(text[:_LONGEST_TEXT])

    def _end(self, name: str) -> None:
        inner, text = "/".join(self._path[2:]), "".join(self._texts).strip()
        if self._path[1:2] == ["object"] and inner in _OF_OBJECT:
            self.objects[-1][1].setdefault(inner, text)
        elif self._path[1:2] == ["size"] and inner in _SIZE:
            self.size.setdefault(inner, text)
        self._texts.clear()
        self._path.pop()


def _object(number: int, line: int, values: Mapping[str, str], size: tuple[int, int] | None) -> Object:
    name = values.get("name", "")
    where = f"line {line}: object {number}{f' ({excerpt(name)})' if name else ''}"
    if not name:
        raise BadInput("bad-annotation", f"{where} has no name")
    sides = [_side(values.get(side), where, side.removeprefix("bndbox/")) for side in _SIDES]
    left, top, right, bottom = sides
    if right < left or bottom < top:
        text = ", ".join(f"{side:g}" for side in sides)
        raise BadInput("bad-box", f"{where} has the box {text}: xmin is to be below xmax, and ymin below ymax")
    if size is not None and (left > size[0] or top > size[1] or right < 0 or bottom < 0):
        text = ", ".join(f"{side:g}" for side in sides)
        raise BadInput("bad-box", f"{where} has the box {text}, outside of the image of {size[0]}x{size[1]}")
    return Object(
        name=name,
        box=(left, top, right, bottom),
        pose=values.get("pose") or "Unspecified",
        is_truncated=_flag(values.get("truncated")),
        is_difficult=_flag(values.get("difficult")),
        is_occluded=_flag(values.get("occluded")),
    )


def _side(text: str | None, where: str, name: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput("bad-box", f"{where} has {excerpt(text) if text else 'nothing'} for {name}, and no number")
    return number


def _flag(text: str | None) -> int:
    return int((text or "").strip().lower() in ("1", "true", "yes"))


def _whole(text: str) -> int:
    """A whole number above 0; 0 for another text."""
    try:
        number = float(text)
    except ValueError:
        return 0
    return int(number) if math.isfinite(number) and number > 0 else 0
