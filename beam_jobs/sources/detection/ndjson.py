"""Ultralytics' NDJSON: a file with a line about the dataset, and a line for each image.

```
{"type": "dataset", "task": "detect", "name": "pets", "class_names": {"0": "cat", "1": "dog"}}
{"type": "image", "file": "1.jpg", "url": "https://...", "width": 640, "height": 480, "split": "train",
 "annotations": {"boxes": [[0, 0.5, 0.5, 0.2, 0.1]]}}
```

Annotations are rows as in `rows.py`: boxes, segments, pose and obb; or the classes of an image: `classification`.
Images are read by their URL, or with `--root` or `--no-urls` by their file. An id is the split and the file: a name may
be in several splits. The file is read line by line. Source: docs.ultralytics.com/datasets/detect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from beam_jobs.sources.detection.annotated import OF_PATHS, Annotated, object_fields, objects_text
from beam_jobs.sources.detection.parts.pose_shape import POSE_KEYS, pose_of
from beam_jobs.sources.detection.rows import BOX_FORM, KINDS, Rows
from beam_jobs.sources.files.annotations.outlines import ListedOutlines
from beam_jobs.sources.files.file_names import split_place
from beam_jobs.sources.files.interface import BadInput, Entry, Layout, LeftOut, Problem, SourceOptions
from beam_jobs.sources.files.tables.rows import json_objects
from beam_jobs.sources.paths import UNREACHED, with_slashes
from beam_jobs.terminal import counted
from shard_reader.printable import excerpt, printable
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory

__all__ = ["Ndjson", "is_ndjson"]

_HEAD = 1 << 16
_DATASET = re.compile(rb'\s*\{[^\n]*"type"\s*:\s*"dataset"')
_OF_IMAGE = "image"  # the type of a line
_LINES = (_OF_IMAGE,)
_READ = {"type", "file", "url", "width", "height", "split", "annotations"}
_SILENT = {"id", "hash", "bytes", "size"}  # nobody misses them
_HEADER = {"type", "task", "class_names", "name", "description", "version", "license", "url", "bytes", "created_at"}
_MOST_KEYS = 100  # of values that are not read


def is_ndjson(folder: Directory, name: str) -> bool:
    """Whether a file is in this format, by its first line."""
    try:
        return _DATASET.match(folder.read(name, 0, _HEAD)) is not None
    except OSError:
        return False


class Ndjson(Annotated):
    """The images of a file in Ultralytics' NDJSON."""

    def __init__(self, options: SourceOptions) -> None:
        folder, self._name = split_place(options.input)
        super().__init__(options, "Ultralytics' NDJSON", folder, (*OF_PATHS, "segments", "allow_missing"))
        self._folder = directory(folder)
        self._names: tuple[str, ...] = ()
        self._is_classes = False  # images have classes, and no objects
        self._rows, self._pose = Rows(outlines=ListedOutlines() if options.segments else None), pose_of({}, "")
        self._images = self._empty = self._unsized = 0
        self._unread: dict[str, set[str]] = {"annotations": set(), "images": set(), "the dataset": set()}
        self._by_file = options.root is not None or options.no_urls

    def entries(self) -> Iterator[Entry]:
        """An entry for each line about an image.

        Raises:
            UsageError: INPUT is missing, or not in this format.
        """
        self._check_root()
        try:
            lines = json_objects(self._folder, self._name)
            first = next(lines, None)
            self._read_header(first[1] if first else None)
            yield from self._counted(self._entry(number, value) for number, value in lines)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise self._refused("is no file" if isinstance(error, IsADirectoryError) else "does not exist") from error
        except PermissionError as error:
            raise self._refused("may not be read") from error

    def layout(self) -> Layout:
        """The fields of boxes, or the labels, and the names of the classes.

        Raises:
            UsageError: INPUT has no image.
        """
        self._check_usable()
        if self._is_classes:
            found = f"{counted(self._images, 'image')} in {counted(len(self._names), 'class')}"
        else:
            found = objects_text(self._images, self._rows.objects, len(self._names), self._empty)
        return Layout(
            text=f"Ultralytics' NDJSON of {found}; images by their {'files' if self._by_file else 'URLs'}",
            left_out=(*self._rows.left_out(), *self._pose.left_out, *self._left_out()),
            warnings=(*self._unsized_warning(), *self._outlines()),
            class_names=self._names,
            fields={} if self._is_classes else object_fields() | self._pose.keypoints.types,
            boxes={} if self._is_classes else {"objects/bbox": BOX_FORM},
            points={} if self._is_classes else self._pose.keypoints.forms("rel-xy"),
            segments=self.options.segments,
            reached=self._paths.reached,
        )

    def _left_out(self) -> tuple[LeftOut, ...]:
        return tuple(
            LeftOut(what=f"{', '.join(sorted(map(printable, keys)))} of {what}", why="no such values are read")
            for what, keys in self._unread.items()
            if keys
        )

    def _outlines(self) -> tuple[str, ...]:
        """What is to be said of outlines."""
        if self._rows.outlines is None:
            return ()
        self._rows.outlines.check(str(self.options.segments))
        return self._rows.outlines.warnings()

    def _unsized_warning(self) -> tuple[str, ...]:
        if not self._unsized or self._is_classes or self.options.box_frame is not None:
            return ()
        return (
            f"INPUT {self.options.input}: {counted(self._unsized, 'image')} without width and height: boxes are taken"
            " for those of the stored image; give --box-frame upright if they are of the image as it is shown",
        )

    def _read_header(self, value: Any) -> None:
        if not isinstance(value, dict) or value.get("type") != "dataset":
            raise self._refused(
                'is no NDJSON of Ultralytics: its first line is to be {"type": "dataset", "class_names": ...}; read a'
                " table of other lines with --source table"
            )
        names = value.get("class_names", value.get("names"))
        if isinstance(names, dict):
            numbers = [str(number) for number in range(len(names))]
            if set(names) != set(numbers):
                raise self._refused(f"line 1: class_names has other numbers than 0 to {len(names) - 1}, each once")
            names = [names[number] for number in numbers]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise self._refused(f"line 1: class_names is {excerpt(names)}: expected the names of classes")
        if len(set(names)) != len(names):
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise self._refused(f"line 1: class_names has {excerpt(twice)} twice")
        self._names = tuple(names)
        self._rows.classes = len(names)
        self._is_classes = value.get("task") == "classify"
        if self._is_classes and self.options.segments is not None:
            raise self._refused(f"--segments {self.options.segments}: its images have classes, and no objects")
        self._pose = pose_of(value, f"INPUT {self.options.input}: line 1")
        self._rows.shape = self._pose.shape
        self._unread["the dataset"] |= set(list(value.keys() - _HEADER - {"names", *POSE_KEYS})[:_MOST_KEYS])

    def _entry(self, number: int, value: dict[str, Any] | BadInput) -> Entry:
        where = f"{self._name} line {number}"
        if isinstance(value, BadInput):
            return Entry(f"line-{number}", problem=Problem(value.reason, f"{where}: {value}"))
        file, split = value.get("file"), value.get("split")
        if value.get("type", _OF_IMAGE) not in _LINES or not isinstance(file, str) or not file:
            message = f'{where}: is to be {{"type": "image", "file": ...}}'
            return Entry(f"line-{number}", problem=Problem("no-path", message))
        if split is not None and (not isinstance(split, str) or not re.fullmatch(r"[A-Za-z0-9_]+", split)):
            message = f"{where}: split is {excerpt(split)}: expected a name such as train"
            return Entry(f"line-{number}", problem=Problem("no-split", message))
        id = f"{split}/{file}" if split else file
        place = with_slashes(file)
        if not self._by_file and isinstance(value.get("url"), str) and value["url"]:
            place = value["url"]
        self._note(value.keys() - _READ - _SILENT, "images")
        try:
            self._paths.check(place)
            fields, payloads, label = self._values(value.get("annotations"))
        except BadInput as bad:
            known = place if bad.reason not in UNREACHED else None
            return Entry(id, place=known, problem=Problem(bad.reason, f"{where}: {bad}"))
        self._images += 1
        self._empty += not self._is_classes and not fields["objects/label"]
        frame = _frame(value)
        self._unsized += frame is None
        return Entry(id, place=place, label=label, split=split, fields=fields, frame=frame, payloads=payloads)

    def _values(self, annotations: Any) -> tuple[dict[str, Any], dict[str, Any], list[str] | str | None]:
        """The fields of objects, their outlines, and the label of an image with classes."""
        if annotations is None:
            annotations = {}
        if not isinstance(annotations, dict):
            raise BadInput("bad-annotation", f"annotations is {excerpt(annotations)}: expected lists by their kind")
        known = ("classification",) if self._is_classes else KINDS
        self._note({kind for kind in annotations if kind not in known}, "annotations")
        for kind in known:
            rows = annotations.get(kind, [])
            if not isinstance(rows, list) or not (self._is_classes or all(isinstance(row, list) for row in rows)):
                raise BadInput("bad-annotation", f"{kind} is {excerpt(rows)}: expected a list of lists of numbers")
        if self._is_classes:
            return {}, {}, self._label(annotations.get("classification", []))
        # Of a turned box or a box with keypoints, a file may have the plain box, too: one kind counts.
        kind = next((kind for kind in KINDS if annotations.get(kind)), "boxes")
        self._note({other for other in KINDS if other != kind and annotations.get(other)}, "annotations")
        rows = [(f"{kind} {number}", kind, row) for number, row in enumerate(annotations.get(kind, []), 1)]
        return (*self._rows.read(rows), None)

    def _label(self, numbers: list[Any]) -> list[str] | str | None:
        for number in numbers:
            if type(number) is not int or not 0 <= number < len(self._names):
                raise BadInput(
                    "unknown-class", f"is of the class {excerpt(number)}, and not 0 to {len(self._names) - 1}"
                )
        names = [self._names[number] for number in numbers]
        return names if len(names) > 1 else next(iter(names), None)

    def _note(self, keys: set[str], what: str) -> None:
        if keys and len(self._unread[what]) < _MOST_KEYS:
            self._unread[what] |= keys


def _frame(value: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = value.get("width"), value.get("height")
    if type(width) is int and type(height) is int and width > 0 and height > 0:
        return width, height
    return None
