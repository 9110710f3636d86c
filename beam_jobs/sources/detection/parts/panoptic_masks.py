"""The masks of a panoptic file of COCO: one PNG for each image, and its segments as objects.

```
annotations/panoptic_val2017.json
  annotations  [{"image_id": 139, "file_name": "000000000139.png", "segments_info": [{"id": 3226956, ...}, ...]}, ...]
annotations/panoptic_val2017/000000000139.png     or a folder of this name one up
```
"""

from __future__ import annotations

from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.panoptic import panoptic_mask
from beam_jobs.sources.files.interface import (
    INSTANCES,
    TEXT_SEGMENTS,
    BadInput,
    LeftOut,
    Pixels,
    Reading,
    Reference,
    SourceOptions,
)
from beam_jobs.sources.paths import Paths, with_slashes
from shard_reader.format.fields import Field
from shard_reader.storage.directory import Directory

__all__ = ["PANOPTIC", "PanopticMasks"]

PANOPTIC = ("file_name", "segments_info")
"""The values of an annotation that are read."""


class PanopticMasks:
    """Finds and reads the masks of a panoptic file."""

    def __init__(self, options: SourceOptions, folder: Directory, name: str) -> None:
        """Nothing is read yet.

        Raises:
            UsageError: the outlines are to become texts.
        """
        if options.segments in TEXT_SEGMENTS:
            raise UsageError(
                f"--segments {options.segments}: INPUT {options.input} has panoptic masks; give mask or instances"
            )
        self._form = options.segments
        self.objects = 0
        """The number of segments of the images that were opened."""
        self._paths = Paths(folder.uri(""), options, "INPUT")
        stem = name.rpartition(".")[0] or name
        places = (f"{stem}/", f"../{stem}/")
        self.folder = next((place for place in places if self._paths.folder(place).exists()), places[0])
        """The folder of masks, relative to that of the file."""

    @property
    def payloads(self) -> dict[str, str]:
        """The role of the field of masks."""
        return {self._form: "mask"} if self._form is not None else {}

    @property
    def types(self) -> dict[str, Field]:
        """The field that tells which pixels are those of an object, since objects may leave the image."""
        return {INSTANCES: Field(dtype="int64", shape=(None,))} if self._form == "instances" else {}

    def left_out(self) -> tuple[LeftOut, ...]:
        """The masks, where the option does not ask for them."""
        if self._form is not None:
            return ()
        return (LeftOut(what="panoptic masks", why="--segments stores them: as mask (of classes) or instances"),)

    def opened(self, annotations: list[tuple[int, Any]]) -> tuple[str | None, list[tuple[int, Any]]]:
        """The path of the mask of an image, and its segments as annotations.

        Raises:
            BadInput: the image has several annotations, or a value is wrong.
        """
        if not annotations:
            return None, []
        if len(annotations) > 1:
            raise BadInput(
                "bad-annotation", f"has {len(annotations)} panoptic annotations, and one mask for each image"
            )
        number, item = annotations[0]
        path, segments = item["file_name"], item["segments_info"]
        if not isinstance(path, str) or not path:
            raise BadInput("bad-annotation", f"annotation number {number} has no file_name of its mask")
        if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
            raise BadInput("bad-annotation", f"annotation number {number} has segments_info that are no objects")
        path = with_slashes(path)
        place = path if path.startswith("/") or "://" in path else self.folder + path
        self._paths.check(place)
        self.objects += len(segments)
        return place, [(number, segment) for segment in segments]

    def payloads_of(self, place: str | None, fields: dict[str, Any]) -> dict[str, Any]:
        """The place of the mask of an image, and the value of each of its segments."""
        if self._form is None or place is None:
            if self._form == "instances":
                fields[INSTANCES] = []
            return {}
        ids = fields["objects/id"]
        if not all(type(id) is int and 0 < id < 1 << 24 for id in ids):
            raise BadInput("bad-annotation", "a segment has an id that no colour has: expected 1 to 16,777,215")
        numbers = list(range(1, len(ids) + 1))
        if self._form == "instances":
            fields[INSTANCES] = numbers
        values = numbers if self._form == "instances" else [label + 1 for label in fields["objects/label"]]
        return {self._form: [place, [list(pair) for pair in zip(ids, values, strict=True)]]}

    def read(self, reference: Reference, name: str, reading: Reading) -> Pixels:
        """A mask.

        Raises:
            BadInput: it cannot be used.
            OSError: it cannot be read.
        """
        place, values = reference.payloads[name]
        data = self._paths.read(place, reading)
        return panoptic_mask(data, dict(values), reference.frame)
