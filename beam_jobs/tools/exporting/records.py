"""The records of a dataset as image files, with their values as those of JSON."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError, UsageError
from shard_reader import Dataset
from shard_reader.format.fields import FIELD_DTYPES, IMAGE, INPUT_FIELDS, Field, point_role
from shard_reader.format.image_codecs.table import IMAGE_CODECS, codec_of
from shard_reader.printable import printable

__all__ = [
    "BOXES",
    "FILE_NAME",
    "KEYPOINTS",
    "OBJECT_LABELS",
    "POINTS",
    "ExportedRecord",
    "Exporter",
    "Payload",
    "file_name",
    "folder_names",
]

BOXES: Final = "objects/bbox"
POINTS: Final = "objects/point"
KEYPOINTS: Final = "objects/keypoints"
OBJECT_LABELS: Final = "objects/label"
FILE_NAME: Final = "file_name"
"""The end of the names of columns of files, as Hugging Face expects it."""
_TAKEN: Final = (FILE_NAME, "image", "id", "label", "objects")  # columns that are no fields
_ROWS: Final = 256  # whose values are read together
_LONGEST_NAME: Final = 120  # bytes, to which a number and a suffix are added: file systems allow 255
# Letters and digits of any language, spaces, and the other characters that every file system has.
_UNSAFE: Final = re.compile(r"[^\w .()+=@,~-]|^[. ]+|[. ]+$")


_BYTES_SUFFIX: Final = ".bin"
_UNUSUAL: Final = re.compile(r"[^\w-]")  # characters that a field's name may have, and a part of a file's name not


@dataclass(frozen=True, slots=True)
class Payload:
    """A further image, or bytes, of each record, as a file.

    `column` is the name of its column, `file_column` that of one with names of files, `part` the name inside of names
    of files, `folder` that of its folder. The files have the suffix `suffix`. An image that is stored as pixels
    `encodes` them.
    """

    column: str
    file_column: str
    part: str
    folder: str
    suffix: str
    is_image: bool
    encodes: bool = False


@dataclass(frozen=True, slots=True)
class ExportedRecord:
    """A record to export.

    `number` is its number in its split. `image` are the bytes of an image file with the suffix `suffix`. `label` is the
    number of its class, a list of several, or None. `values` are its further fields, as in JSON: boxes are x, y, width
    and height in pixels, points x and y in pixels, keypoints x, y and their visibility. `files` are the bytes of its
    further images, and those of other fields of bytes.
    """

    number: int
    id: str
    image: bytes
    suffix: str
    label: int | list[int] | None
    values: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


class Exporter:
    """Turns the records of a split into those to export.

    Raises:
        UsageError: no image file holds such pixels.
    """

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.class_names = data.class_names
        self.class_folders = folder_names(data.class_names or ())
        """The folder of each class."""
        known = {*FIELD_DTYPES, *INPUT_FIELDS}
        self.fields: dict[str, Field] = {n: f for n, f in data.fields.items() if not f.is_payload and n not in known}
        """The fields beside images, bytes, the id and the label."""
        further = [name for name, field in data.fields.items() if field.is_payload and name != IMAGE]
        self.columns = _column_names([*self.fields, *further])
        """The names of the columns of these fields, and of further images and of bytes."""
        self.has_label = "label" in data.fields
        self.suffix, self._encodes = _file_type(data, IMAGE)
        self.payloads = dict(zip(further, self._payloads(further), strict=True))
        """The further images and the fields of bytes."""

    def records(self, start: int, stop: int) -> Iterator[ExportedRecord]:
        """The records from `start` to `stop`, in stored order.

        Raises:
            CorruptionError: a record is damaged.
            JobError: a label has no class.
        """
        for first in range(start, stop, _ROWS):
            yield from self._block(range(first, min(stop, first + _ROWS)))

    def flat_values(self, record: ExportedRecord) -> dict[str, Any]:
        """The fields of a record with the names of their columns: boxes are `bbox`, and points `point`.

        Labels of objects are the names of their classes, where classes have names.
        """
        values = dict(record.values)
        if OBJECT_LABELS in values:
            values[OBJECT_LABELS] = self.named(values[OBJECT_LABELS])
        return {self.columns[name]: value for name, value in values.items()}

    def named(self, label: int | list[int] | None) -> int | str | list[int] | list[str] | None:
        """A label with the name of its class, where classes have names."""
        if label is None or self.class_names is None:
            return label
        if isinstance(label, list):
            return [self.class_names[one] for one in label]
        return self.class_names[label]

    def _payloads(self, names: list[str]) -> Iterator[Payload]:
        folders = folder_names([*self.class_folders, *names])[len(self.class_folders) :]
        parts = _different(_UNUSUAL.sub("_", name) for name in names)
        for name, folder, part in zip(names, folders, parts, strict=True):
            column = self.columns[name]
            if not self.data.fields[name].is_image:
                yield Payload(column, column, part, folder, _BYTES_SUFFIX, is_image=False)
                continue
            suffix, encodes = _file_type(self.data, name)
            file_column = f"{column}_{FILE_NAME}"
            while file_column in self.columns.values():
                file_column = f"_{file_column}"
            yield Payload(column, file_column, part, folder, suffix, is_image=True, encodes=encodes)

    def _block(self, numbers: range) -> Iterator[ExportedRecord]:
        data = self.data
        ids = data.ids(numbers)
        sizes = [data.column(name, numbers) for name in ("height", "width")]
        labels = data.column("label", numbers) if self.has_label else [None] * len(numbers)
        columns = {name: data.column(name, numbers) for name in self.fields}
        others = {name: data.column(name, numbers) for name, payload in self.payloads.items() if not payload.is_image}
        for place, number in enumerate(numbers):
            height, width = (int(column[place]) for column in sizes)
            values = {n: self._value(n, column[place], height, width) for n, column in columns.items()}
            # -1 stands for a record without a label.
            label = None if labels[place] is None or plain(labels[place]) == -1 else plain(labels[place])
            self._check_label(number, label)
            self._check_label(number, values.get(OBJECT_LABELS))
            yield ExportedRecord(
                number=number,
                id=bytes(ids[place]).decode("utf-8", "backslashreplace"),
                image=self._file(number, IMAGE, self.suffix if self._encodes else None),
                suffix=self.suffix,
                label=label,
                values=values,
                files={
                    name: bytes(others[name][place])
                    if name in others
                    else self._file(number, name, payload.suffix if payload.encodes else None)
                    for name, payload in self.payloads.items()
                },
            )

    def _check_label(self, number: int, label: Any) -> None:
        """Refuse a label without a class.

        Raises:
            JobError: there is no such class.
        """
        for one in label if isinstance(label, list) else [label]:
            if self.class_names is not None and isinstance(one, int) and not 0 <= one < len(self.class_names):
                classes = f"the {len(self.class_names)} classes have the numbers from 0 on"
                raise JobError(f"{self.data.describe(number)}: has the label {one}, and {classes}")

    def _file(self, number: int, name: str, suffix: str | None) -> bytes:
        """An image as a file: its stored bytes, or its pixels in the encoding of a suffix."""
        if suffix is None:
            return self.data.payload(number, name).tobytes()
        pixels = self.data.image(number, name)
        codec = next(codec for codec in IMAGE_CODECS.values() if codec.suffix == suffix)
        return codec.encode(np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1)), None)

    def _value(self, name: str, value: Any, height: int, width: int) -> Any:
        found, role, shape = plain(value), point_role(name, self.fields[name]), self.fields[name].shape
        if name == BOXES or role == "boxes":
            return boxes_in_pixels(np.asarray(value, np.float64).reshape(-1, 4), height, width)
        if name == POINTS or role == "points":
            return (np.asarray(value, np.float64).reshape(-1, 2) * [height, width])[:, ::-1].tolist()
        if role == "keypoints":
            points = np.asarray(value, np.float64).reshape(-1, *(side or 1 for side in shape[1:]))
            return (points * [height, width, 1])[..., [1, 0, 2]].tolist()
        # Lists of rows are stored flat.
        if len(shape) > 1 and isinstance(found, list) and found and not isinstance(found[0], list):
            return np.asarray(found).reshape(-1, *(side or 1 for side in shape[1:])).tolist()
        return found


def _column_names(fields: Iterable[str]) -> dict[str, str]:
    """The names of columns for fields, each different: a field `bbox` beside boxes is `bbox_`."""
    special = {BOXES: "bbox", POINTS: "point", KEYPOINTS: "keypoints"}
    columns = {name: special[name] for name in fields if name in special}
    for name in fields:
        column = name
        while column in {*_TAKEN, *columns.values()} and name not in special:
            column += "_"
        columns.setdefault(name, column)
    return columns


def boxes_in_pixels(boxes: NDArray[np.float64], height: int, width: int) -> list[list[float]]:
    """Boxes `[n, 4]` (ymin, xmin, ymax, xmax), in parts of the image, as x, y, width and height in pixels."""
    # In 64 bits: the way back gives the same numbers of 32 bits.
    corners = boxes * [height, width, height, width]
    ymin, xmin, ymax, xmax = corners.T
    return np.stack([xmin, ymin, xmax - xmin, ymax - ymin], 1).tolist()  # type: ignore[no-any-return]


def plain(value: Any) -> Any:
    """A value of a column as JSON has it. A number that is no number is a missing value."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _file_type(data: Dataset, name: str) -> tuple[str, bool]:
    """The suffix of image files, and whether the stored bytes have to be encoded for them."""
    image = data.fields[name]
    codec = codec_of(image)
    if codec.suffix is not None:
        return codec.suffix, False
    channels = image.shape[2]
    for other in IMAGE_CODECS.values():
        lossless = other.suffix is not None and other.quality is None
        if lossless and image.dtype in other.dtypes and (channels is None or channels in other.channels):
            assert other.suffix is not None
            return other.suffix, True
    colours = "" if channels is None else f" and {channels} channels"
    what = "its images are" if name == IMAGE else f"its images {printable(name)!r} are"
    raise UsageError(
        f"{data.name}: {what} of {image.dtype}{colours}, and no image file holds those; read them with"
        " shard_reader, and save arrays"
    )


def _different(names: Iterable[str]) -> list[str]:
    """The names, with "_" at the end of those that an earlier one has."""
    found = list[str]()
    for name in names:
        while name.lower() in (other.lower() for other in found):
            name += "_"
        found.append(name)
    return found


def folder_names(names: Sequence[str]) -> list[str]:
    """The folders of classes or splits, each different: the names, with "_" for characters that file systems lack."""
    safe = [_safe(name) for name in names]
    counts = Counter(name.lower() for name in safe)
    folders, taken = list[str](), {name for name, count in counts.items() if count == 1}
    for number, name in enumerate(safe):
        folder = name
        if counts[name.lower()] > 1:
            folder = f"{name}_{number}"
            while folder.lower() in taken:
                folder += "_"
        taken.add(folder.lower())
        folders.append(folder)
    return folders


def file_name(record: ExportedRecord, suffix: str | None = None) -> str:
    """The name of an image's file: the end of its id, and its number in the split, which no other file has.

    Args:
        suffix: that of a further image, or of bytes; None for that of the image.
    """
    stem = re.sub(r"\.\w{1,5}$", "", record.id.rstrip("/").rpartition("/")[2])
    return f"{_safe(stem)}_{record.number:08d}{record.suffix if suffix is None else suffix}"


def _safe(name: str) -> str:
    safe = _UNSAFE.sub("_", name) or "_"
    return safe.encode()[:_LONGEST_NAME].decode("utf-8", "ignore")
