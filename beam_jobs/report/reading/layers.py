"""What a record has beside its image: masks in colours, boxes, keypoints and further images, for its picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_jobs.metadata.pictures import coloured, mask_numbers
from beam_jobs.report.reading.pictures import SIDE, Picture, picture_of, picture_without_loss
from shard_reader.dataset.dataset import Dataset
from shard_reader.dataset.shown.shown_pixels import shown_pixels
from shard_reader.errors import ShardsError
from shard_reader.format.fields import Field, further_images, point_role, size_columns

__all__ = ["Box", "Further", "Mask", "Point", "boxes_of", "further_of", "labels_of", "mask_of", "name_of", "points_of"]

_MOST_POINTS = 400  # of a picture
_MOST_FURTHER = 3  # images beside a picture
_MOST_PIXELS = 1 << 26  # of one that is shown
_MOST_NUMBERS = 6  # of a mask, with their colours
_COLOURS = 8  # of boxes and points
_OUTSIDE: Final = "it is larger than a report shows"


class Box(NamedTuple):
    """A box in parts of 1,000 of a picture's width and height, the name of its class, and the number of the class."""

    x: float
    y: float
    width: float
    height: float
    name: str
    number: int


class Point(NamedTuple):
    """A point in parts of 1,000 of a picture's width and height, the number of its colour, and whether it is hidden."""

    x: float
    y: float
    number: int
    is_hidden: bool


class Mask(NamedTuple):
    """A mask over a picture, of the same size, its name, and its largest areas: their numbers and colours."""

    name: str
    picture: Picture
    numbers: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Further:
    """A further image beside a picture.

    Attributes:
        name: the name of its field.
        picture: None if it cannot be read, or there is no room.
        note: how its values were changed to be shown, or why it is not.
    """

    name: str
    picture: Picture | None = None
    note: str = ""


def labels_of(values: Mapping[str, Any]) -> list[int]:
    """The labels of a record, or of its objects."""
    found = values.get("label", values.get("objects/label"))
    numbers = np.ravel(np.asarray([] if found is None else found))
    return [int(number) for number in numbers] if np.issubdtype(numbers.dtype, np.integer) else []


def name_of(label: int, names: Sequence[str] | None) -> str:
    """The name of a class, or its number."""
    return names[label] if names is not None and 0 <= label < len(names) else str(label)


def boxes_of(values: Mapping[str, Any], fields: Mapping[str, Field], names: Sequence[str] | None) -> tuple[Box, ...]:
    """The boxes of a record: ymin, xmin, ymax, xmax as parts of the image."""
    name = next((name for name, field in fields.items() if point_role(name, field) == "boxes"), "")
    found = values.get(name)
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.shape[1] != 4:
        return ()
    corners: NDArray[np.float64] = np.clip(np.nan_to_num(found.astype(np.float64)), 0, 1) * 1000
    labels = _object_labels(values, len(corners))
    return tuple(
        Box(round(left, 1), round(top, 1), round(max(0.0, right - left), 1), round(max(0.0, bottom - top), 1),
            "" if label is None else name_of(label, names), 0 if label is None else label % _COLOURS)
        for (top, left, bottom, right), label in zip(corners.tolist(), labels, strict=True)
    )  # fmt: skip


def points_of(values: Mapping[str, Any], fields: Mapping[str, Field]) -> tuple[Point, ...]:
    """The points and keypoints of a record that lie in its image, those of one object in one colour."""
    found = list[Point]()
    for name, field in fields.items():
        points = values.get(name)
        role = point_role(name, field)
        if role not in ("points", "keypoints") or not isinstance(points, np.ndarray) or points.ndim < 2:
            continue
        objects = points.reshape(len(points), -1, points.shape[-1])
        labels = _object_labels(values, len(objects))
        for number, (one, label) in enumerate(zip(objects[:_MOST_POINTS].tolist(), labels, strict=False)):
            colour = (number if label is None else label) % _COLOURS
            for y, x, *seen in one:
                if (seen or [2])[0] > 0 and 0 <= x <= 1 and 0 <= y <= 1:
                    found.append(Point(round(1000 * x, 1), round(1000 * y, 1), colour, bool(seen) and seen[0] < 2))
        if len(found) > _MOST_POINTS:
            break
    return tuple(found[:_MOST_POINTS])


def mask_of(data: Dataset, number: int, picture: Picture) -> Mask | None:
    """The first mask of a record, to lie over its picture; None without one, or where it cannot be read."""
    name = next((name for name, field in data.fields.items() if field.role == "mask"), None)
    if name is None or _pixels(data, number, name) > _MOST_PIXELS:
        return None
    try:
        pixels = data.image(number, name)
    except (ShardsError, OSError):
        return None  # `verify` names damaged records
    small = _nearest(pixels, picture.height, picture.width)
    return Mask(name, picture_without_loss(coloured(small)), _numbers(small))


def further_of(data: Dataset, number: int) -> Iterator[Further]:
    """The further images of a record beside its first mask; no more than a few."""
    first = next((name for name, field in data.fields.items() if field.role == "mask"), None)
    for name in [name for name in further_images(data.fields) if name != first][:_MOST_FURTHER]:
        if _pixels(data, number, name) > _MOST_PIXELS:
            yield Further(name, note=_OUTSIDE)
            continue
        try:
            pixels = data.image(number, name)
        except (ShardsError, OSError):
            yield Further(name, note="cannot be read")
            continue
        if data.fields[name].role == "mask":
            yield Further(name, picture_without_loss(coloured(_within(pixels))))
        else:
            shown, note = shown_pixels(pixels)
            yield Further(name, picture_of(shown), note)


def _object_labels(values: Mapping[str, Any], count: int) -> list[int | None]:
    found = values.get("objects/label")
    if isinstance(found, np.ndarray) and found.shape == (count,) and np.issubdtype(found.dtype, np.integer):
        return [int(label) for label in found]
    return [None] * count


def _pixels(data: Dataset, number: int, name: str) -> int:
    """The pixels of an image by its index, which takes no memory."""
    try:
        shard, row = data.locate(np.array([number])).shard(0)
        height, width = (int(shard.rows[column][row]) for column in size_columns(name))
    except (ShardsError, OSError):
        return 0  # reading it says why
    return height * width


def _within(mask: NDArray[Any]) -> NDArray[Any]:
    """A mask of the size of a picture."""
    picture = Image.new("1", (mask.shape[1], mask.shape[0]))
    picture.thumbnail((SIDE, SIDE))
    return _nearest(mask, picture.height, picture.width)


def _nearest(mask: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """A mask of another size: its nearest pixels."""
    rows, columns = (
        (np.arange(new) * 2 + 1) * own // (2 * new) for new, own in zip((height, width), mask.shape, strict=False)
    )
    small: NDArray[Any] = mask[rows][:, columns]
    return small


def _numbers(mask: NDArray[Any]) -> tuple[tuple[int, str], ...]:
    """The numbers of the largest areas of a mask but 0, and their colours."""
    numbers, counts = np.unique(mask_numbers(mask), return_counts=True)
    order = [int(number) for number in numbers[np.argsort(-counts, kind="stable")] if number][:_MOST_NUMBERS]
    colours = coloured(np.array([order], np.int64))[0, :, :3].tolist() if order else []
    return tuple((number, "#{:02x}{:02x}{:02x}".format(*colour)) for number, colour in zip(order, colours, strict=True))
