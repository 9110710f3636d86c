"""Records to look at: their pictures, boxes and measures, read in threads, in a bounded number of pixels and bytes."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from beam_jobs.report.reading.choice import Place, is_number
from beam_jobs.report.reading.layers import (
    Box,
    Further,
    Mask,
    Point,
    boxes_of,
    further_of,
    labels_of,
    mask_of,
    name_of,
    points_of,
)
from beam_jobs.report.reading.pictures import Measures, Picture, measure, picture_of
from shard_reader.dataset.dataset import Dataset
from shard_reader.dataset.shown.shown_pixels import shown_pixels
from shard_reader.errors import ShardsError
from shard_reader.format.fields import point_role

__all__ = ["Preview", "Previews"]

_MOST_BYTES: Final = 3_700_000  # of all pictures as text: with it, a report has less than 5 MB
_MOST_PIXELS: Final = 1 << 29  # that are decoded for the sample
_MOST_BOXES = 20
_THREADS = 4
_TOGETHER = 256  # records that are read before any of their pictures is counted
_MOST_LABELS = 20
_NO_ROOM = "left out, for want of room"
_LABELS = ("label", "objects/label")  # fields that a picture shows, beside those that move with it


@dataclass(frozen=True, slots=True)
class Preview:
    """A record to look at.

    Attributes:
        split: the name of its split.
        id: its id.
        labels: the names of its labels, each once, those of objects in order of their first.
        height, width: pixels of the stored image.
        original: height and width of the image before it was resized, if they are known.
        picture: None if there is no room for it, or it cannot be read.
        boxes: the first boxes.
        objects: the number of all boxes.
        points: keypoints and other points.
        mask: the mask that lies over the picture.
        further: further images.
        note: how the values of the pixels were changed to be shown.
        problem: the reason why the image cannot be read, or "".
    """

    split: str
    id: str
    labels: tuple[str, ...] = ()
    height: int = 0
    width: int = 0
    original: tuple[int, int] | None = None
    picture: Picture | None = None
    boxes: tuple[Box, ...] = ()
    objects: int = 0
    points: tuple[Point, ...] = ()
    mask: Mask | None = None
    further: tuple[Further, ...] = ()
    note: str = ""
    problem: str = ""

    @property
    def keys(self) -> dict[str, int]:
        """The number of the colour of each class with a box."""
        return {box.name: box.number for box in self.boxes if box.name}


class Previews:
    """Reads records.

    Args:
        splits: the dataset, a part for each split.
        hide: texts that are left out of messages: the places of the dataset on this machine.
    """

    def __init__(self, splits: Sequence[Dataset], hide: Iterable[str]) -> None:
        self._splits, self._hide = splits, tuple(hide)
        self._seen: dict[Place, Preview] = {}
        self._bytes = 0
        self.left_out = 0
        """The number of pictures that had no room."""

    def add(self, places: Iterable[Place]) -> None:
        """Read records, unless they have been read."""
        missing = [place for place in dict.fromkeys(places) if place not in self._seen]
        with ThreadPoolExecutor(_THREADS) as threads:
            for start in range(0, len(missing), _TOGETHER):
                some = missing[start : start + _TOGETHER]
                # Counted in order, so that the same pictures are there whichever was read first.
                for place, preview in zip(some, threads.map(self._preview, some), strict=True):
                    self._seen[place] = self.within(preview)

    def within(self, preview: Preview) -> Preview:
        """A preview with its pictures as far as there is room for them."""
        if preview.picture is None:
            return preview
        if not self.has_room(preview.picture):
            return replace(preview, picture=None, mask=None, further=(), problem=_NO_ROOM)
        mask = preview.mask if preview.mask is not None and self.has_room(preview.mask.picture) else None
        further = tuple(
            one if one.picture is None or self.has_room(one.picture) else Further(one.name, note=_NO_ROOM)
            for one in preview.further
        )
        return replace(preview, mask=mask, further=further)

    def has_room(self, picture: Picture) -> bool:
        """Count a picture, and say whether there is room for it."""
        if self._bytes + len(picture.uri) > _MOST_BYTES:
            self.left_out += 1
            return False
        self._bytes += len(picture.uri)
        return True

    def of(self, places: Iterable[Place]) -> list[Preview]:
        """The looks at records, in order."""
        places = list(places)
        self.add(places)
        return [self._seen[place] for place in places]

    def of_lists(self, places: Sequence[Place], most: int) -> dict[int, list[Place]]:
        """For each label of lists, a few of the records that have it; each record once, those of rare labels first."""
        labels = {place: set(labels_of({"label": value})) for place, value in self._lists(places)}
        counts = Counter(label for some in labels.values() for label in some)
        found: dict[int, list[Place]] = {}
        for place, some in labels.items():
            wanted = [label for label in some if len(found.get(label, ())) < most]
            if wanted:
                found.setdefault(min(wanted, key=lambda label: (counts[label], label)), []).append(place)
        return found

    def measured(self, places: Sequence[Place]) -> list[tuple[Place, Measures]]:
        """The measures of records, of as many as a bound of pixels allows; those that cannot be read are left out."""
        with ThreadPoolExecutor(_THREADS) as threads:
            found = threads.map(self._measure, self._bounded(places))
            return [(place, measures) for place, measures in zip(places, found, strict=False) if measures is not None]

    def message(self, text: object) -> str:
        """A message without the places of the dataset on this machine."""
        message = str(text)
        for place in self._hide:
            message = message.replace(place, "")
        return message

    def _lists(self, places: Sequence[Place]) -> Iterator[tuple[Place, Any]]:
        """The lists of labels of records."""
        for number, data in enumerate(self._splits):
            name = next((name for name in ("label", "objects/label") if name in data.fields), None)
            some = [place for place in places if place.split == number]
            if name is None or not some or data.fields[name].dtype != "int64":
                continue
            with contextlib.suppress(ShardsError, OSError):  # `verify` names what is damaged
                yield from zip(some, data.column(name, [place.number for place in some]), strict=True)

    def _bounded(self, places: Sequence[Place]) -> list[Place]:
        pixels, some = 0, list[Place]()
        for place in places:
            data = self._splits[place.split]
            height, width = (int(data.column(name, [place.number])[0]) for name in ("height", "width"))
            pixels += height * width
            if some and pixels > _MOST_PIXELS:
                break
            some.append(place)
        return some

    def _measure(self, place: Place) -> Measures | None:
        try:
            return measure(shown_pixels(self._splits[place.split].image(place.number))[0])
        except (ShardsError, OSError):
            return None  # `verify` names damaged records; a sample of measures does without them

    def _preview(self, place: Place) -> Preview:
        data = self._splits[place.split]
        shown = [name for name, field in data.fields.items() if name in _LABELS or point_role(name, field)]
        try:
            pixels, note = shown_pixels(data.image(place.number))
            values = {name: data.column(name, [place.number])[0] for name in shown}
        except (ShardsError, OSError) as error:
            return Preview(data.split, self._id(data, place), problem=self.message(error))
        names = data.class_names
        labels = [name_of(label, names) for label in labels_of(values)]
        boxes, picture = boxes_of(values, data.fields, names), picture_of(pixels)
        return Preview(
            split=data.split,
            id=self._id(data, place),
            labels=tuple(dict.fromkeys(labels))[:_MOST_LABELS],
            height=pixels.shape[0],
            width=pixels.shape[1],
            original=_original(data, place.number),
            picture=picture,
            boxes=boxes[:_MOST_BOXES],
            objects=len(boxes),
            points=points_of(values, data.fields),
            mask=mask_of(data, place.number, picture),
            further=tuple(further_of(data, place.number)),
            note=note,
        )

    def _id(self, data: Dataset, place: Place) -> str:
        try:
            return bytes(data.ids([place.number])[0]).decode("utf-8", "backslashreplace")
        except (ShardsError, OSError):
            return f"record {place.number}"


def _original(data: Dataset, number: int) -> tuple[int, int] | None:
    names = ("original_height", "original_width")
    if not all(is_number(data.fields, name) for name in names):
        return None
    height, width = (int(data.column(name, [number])[0]) for name in names)
    return height, width
