"""The instances of COCO: one JSON file of images, annotations and categories, beside folders of images.

```
INPUT = annotations/instances_val2017.json
  images       [{"id": 139, "file_name": "000000000139.jpg", "width": 640, "height": 426}, ...]
  annotations  [{"id": 25, "image_id": 139, "category_id": 64, "bbox": [x, y, w, h], "area": 531.8, "iscrowd": 0}, ...]
  categories   [{"id": 64, "name": "potted plant"}, ...]
```

The values above are read, and `keypoints`, whose names categories have; with `--segments`, `segmentation`, too.
Captions are not. A panoptic file has `segments_info` in its annotations, and PNG masks in a folder named like the file:
`--segments mask` and `--segments instances` read them. Images may have `coco_url` instead of `file_name`, as
those of LVIS: `val2017/000000000139.jpg`, below the folder of the file or one up. Annotations may be missing. Classes
are the categories in the order of their ids.
The file can be larger than memory, with its parts in any order: images and annotations are joined on disk.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beam_jobs.external_sort import Spill
from beam_jobs.sources.detection.annotated import OF_PATHS, Annotated, object_fields, objects_text
from beam_jobs.sources.detection.parts.panoptic_masks import PANOPTIC, PanopticMasks
from beam_jobs.sources.files.annotations.keypoints import KEYPOINTS, Keypoints, bounded_points
from beam_jobs.sources.files.annotations.objects import boxes
from beam_jobs.sources.files.annotations.outlines import NO_SEGMENTS, ListedOutlines, bounded_outline
from beam_jobs.sources.files.file_names import split_place
from beam_jobs.sources.files.interface import (
    BadInput,
    Entry,
    Layout,
    LeftOut,
    Pixels,
    Problem,
    Reference,
    SourceOptions,
)
from beam_jobs.sources.files.tables.json_lists import JsonLists
from beam_jobs.sources.paths import UNREACHED, with_slashes
from shard_reader.format.fields import Field
from shard_reader.printable import printable
from shard_reader.storage.open import directory

__all__ = ["Coco"]

_SECTIONS = ("images", "annotations", "categories")
_OUTLINES = {"segmentation"}
_UNREAD_SILENTLY = {"date_captured", "flickr_url", "license", "num_keypoints"}  # nobody misses them
# Fields of ids, with their shapes.
_IDS: Mapping[str, tuple[int | None, ...]] = {"image_id": (), "objects/id": (None,), "objects/category_id": (None,)}


class Coco(Annotated):
    """The images of a JSON file in the format of COCO, with their boxes."""

    def __init__(self, options: SourceOptions) -> None:
        folder, self._name = split_place(options.input)
        super().__init__(options, "COCO instances", folder, (*OF_PATHS, "segments", "allow_missing"))
        self._folder = directory(folder)
        self._root = ""  # the folder of images, relative to the root of `_paths`
        self._categories: dict[int | str, str] = {}
        self._labels: dict[int | str, int] = {}
        self._text_ids: set[str] = set()
        self._images = self._objects = 0
        self._lists = JsonLists(self._folder, self._name)
        self._unread: dict[str, set[str]] = {name: set() for name in _SECTIONS}  # keys
        self._warnings: list[str] = []
        self._prefixes: dict[str, str] = {}  # of the folders of URLs
        self._keypoints, self._outlines = Keypoints(), ListedOutlines()
        self._masks: PanopticMasks | None = None  # of a panoptic file

    def entries(self) -> Iterator[Entry]:
        """An entry for each image, and for each annotation of an unknown image.

        Raises:
            UsageError: INPUT is missing, or not in this format.
        """
        self._check_root()
        with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
            spill = Spill(Path(folder))
            try:
                self._spill(spill)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                what = "is a folder; give the JSON file" if isinstance(error, IsADirectoryError) else "does not exist"
                raise self._refused(what) from error
            except PermissionError as error:
                raise self._refused("may not be read") from error
            self._root = self._find_root()
            self._number_categories()
            self._keypoints.close()
            # The first 32 digits of a line are the hash of the image's id.
            for _, lines in itertools.groupby(spill.lines(), lambda line: line[:32]):
                yield from self._counted(self._join([json.loads(line[32:]) for line in lines]))

    def layout(self) -> Layout:
        """The fields of boxes, and the names of the categories.

        Raises:
            UsageError: INPUT has no image.
        """
        self._check_usable()
        fields = object_fields() | {"objects/is_crowd": Field(dtype="int64", shape=(None,))}
        fields["objects/area"] = Field(dtype="float32", shape=(None,))
        for name, shape in _IDS.items():
            fields[name] = Field(dtype="string" if name in self._text_ids else "int64", shape=shape)
        fields |= self._keypoints.types
        if self._masks is not None:
            fields |= self._masks.types
        if self._masks is None and self.options.segments is not None:
            self._outlines.check(self.options.segments)
        objects = self._masks.objects if self._masks is not None else self._objects
        found = objects_text(self._images, objects, len(self._categories))
        return Layout(
            text=f"COCO instances of {found}; images in {self._where()}",
            left_out=self._left_out(),
            warnings=(*self._warnings, *self._outlines.warnings()),
            class_names=tuple(self._categories[number] for number in self._labels),
            fields=fields,
            boxes={"objects/bbox": "xywh"},
            points=self._keypoints.forms("xy"),
            payloads=self._masks.payloads if self._masks else {},
            segments=None if self._masks else self.options.segments,
            reached=self._paths.reached,
        )

    def _left_out(self) -> tuple[LeftOut, ...]:
        """The values of images and annotations that are not read."""
        outlines = self._unread["annotations"] & _OUTLINES
        found = [
            LeftOut(what=f"{', '.join(sorted(keys - outlines))} of {section}", why="a COCO source reads no such values")
            for section, keys in self._unread.items()
            if keys - outlines
        ]
        if outlines:
            found.append(LeftOut(what="segmentation of annotations", why=NO_SEGMENTS))
        if self._masks is not None:
            found += self._masks.left_out()
        return (*found, *self._keypoints.left_out())

    def uri(self, entry: Entry | Reference) -> str:
        """The address of a file; for an entry without a file, its place in the JSON file."""
        return f"{self._folder.uri(self._name)}#{entry.id}" if entry.place is None else super().uri(entry)

    def _find_root(self) -> str:
        """The folder named like the end of the file's name, here or one folder up, or ""."""
        # COCO's own layout: annotations/instances_val2017.json, and val2017/ beside the folder of annotations.
        if self.options.root is not None:
            return ""
        name = self._name.rpartition(".")[0].rpartition("_")[2]
        for prefix in (f"{name}/", f"../{name}/") if name else ():
            if self._masks is not None and prefix == self._masks.folder:
                continue
            if self._paths.folder(prefix).exists():
                return prefix
        return ""

    def _where(self) -> str:
        return self.options.root or self._paths.folder(self._root).uri("")

    def _spill(self, spill: Spill) -> None:
        """Sort images and annotations by the hash of the image's id, so that those of one image lie side by side."""
        counts = dict.fromkeys(_SECTIONS, 0)
        for section, item in self._items():
            counts[section] += 1
            if not isinstance(item, dict):
                raise self._refused(f'"{section}": element {counts[section]} is no object: {item!r:.80}')
            if section == "categories":
                self._add_category(item)
                continue
            number = counts[section]
            name = "id" if section == "images" else "image_id"
            image = _id(item.get(name))
            if image is None:
                raise self._refused(f'"{section}": element {number} has no "{name}" that is a number or a text')
            kept = _image(item) if section == "images" else self._annotation(item)
            key = hashlib.blake2b(json.dumps(image).encode(), digest_size=16).digest()
            self._unread[section].update(item.keys() - kept.keys() - {name} - _UNREAD_SILENTLY)
            line = json.dumps([section == "annotations", image, number, kept], separators=(",", ":"))
            spill.add_line(key, key.hex().encode() + line.encode())
        if self._lists.nans:
            self._warnings.append(
                f"{self._name} holds {self._lists.nans:,} NaN or infinite values, which count as missing; the area of"
                " such an object is that of its box"
            )
        self._images, self._objects = counts["images"], counts["annotations"]
        if not all(counts.values()):
            self._check_sections()

    def _items(self) -> Iterator[tuple[str, Any]]:
        """Every element of the three lists, with the name of its list."""
        try:
            yield from self._lists.items(*_SECTIONS)
        except ValueError as error:
            raise self._refused(str(error)) from error

    def _check_sections(self) -> None:
        """Refuse a file that lacks one of the lists. Empty lists are allowed, and images without annotations."""
        there = self._lists.keys()
        missing = [f'"{name}"' for name in _SECTIONS if name not in there]
        if missing and missing != ['"annotations"']:
            has = (
                ", ".join(f'"{printable(name)}"' for name in there[:20])
                or "no keys; a list of records is a table: --source table"
            )
            raise self._refused(f"is no COCO file of instances: it has no {' and no '.join(missing)}; it has {has}")
        if missing:
            self._warnings.append(f'{self._name} has no "annotations": all images are stored without objects')

    def _add_category(self, item: Mapping[str, Any]) -> None:
        number, name = _id(item.get("id")), item.get("name")
        self._keypoints.see_category(str(name), item.get("keypoints"))
        if number is None or not isinstance(name, str) or not name:
            raise self._refused(f'"categories": {json.dumps(item)!s:.80} is to have an "id" and a "name"')
        if number in self._categories:
            raise self._refused(f'"categories": the id {json.dumps(number)} is there twice')
        if name in self._categories.values():
            raise self._refused(f'"categories": the name "{printable(name)}" is there twice')
        self._categories[number] = name

    def _number_categories(self) -> None:
        ordered = sorted(self._categories, key=_order)
        self._labels = {number: label for label, number in enumerate(ordered)}

    def _join(self, found: list[Any]) -> Iterator[Entry]:
        """The entry of one image; or, if the image is missing, one with a problem for each of its annotations."""
        image = found[0][1]
        images = [item for is_annotation, _, _, item in found if not is_annotation]
        annotations = [(number, item) for is_annotation, _, number, item in found if is_annotation]
        if len(images) > 1:
            raise self._refused(f'"images": the id {json.dumps(image)} is there {len(images)} times')
        if images:
            yield self._entry(image, images[0], annotations)
            return
        for number, item in annotations:
            message = f"{self._name}: {_named(number, item)} is of the image {json.dumps(image)}, which is not there"
            id = _id(item.get("id"))
            name = f"element-{number}" if id is None else id
            yield Entry(f"annotations/{name}", problem=Problem("unknown-image", message))

    def _entry(self, image: int | str, item: Mapping[str, Any], annotations: list[tuple[int, Any]]) -> Entry:
        path, root = item.get("file_name"), self._root
        if not path and isinstance(item.get("coco_url"), str):
            path, root = self._path_of_url(item["coco_url"])
        if not isinstance(path, str) or not path:
            message = f'{self._name}: image {json.dumps(image)} has no "file_name" and no "coco_url"'
            return Entry(f"images/{image}", problem=Problem("no-path", message))
        path = with_slashes(path)
        place = path if path.startswith("/") or "://" in path else root + path
        try:
            self._paths.check(place)
            frame, mask = _frame(item), None
            if self._masks is not None:
                mask, annotations = self._masks.opened(annotations)
            fields = self._fields(image, annotations)
            payloads = self._payloads(mask, annotations, fields, frame)
        except BadInput as bad:
            message = f"{self._name}: image {json.dumps(image)}: {bad}"
            known = place if bad.reason not in UNREACHED else None
            return Entry(path, place=known, problem=Problem(bad.reason, message))
        return Entry(path, place=place, fields=fields, frame=frame, payloads=payloads)

    def _payloads(
        self,
        mask: str | None,
        annotations: list[tuple[int, Any]],
        fields: dict[str, Any],
        frame: tuple[int, int] | None,
    ) -> dict[str, Any]:
        """The outlines of the objects of an image, or its panoptic mask."""
        if self._masks is not None:
            return self._masks.payloads_of(mask, fields)
        if self.options.segments is None:
            return {}
        outlines = [(_named(number, item), item.get("segmentation")) for number, item in annotations]
        return {"segments": self._outlines.of_objects(outlines, frame)}

    def _path_of_url(self, url: str) -> tuple[str, str]:
        """The last two parts of a URL, as val2017/000000000139.jpg, and their folder relative to the root."""
        # LVIS has images of train2017 in its validation, and names files by their URL alone.
        path = "/".join(url.split("/")[-2:])
        if self.options.root is not None:
            return path, ""
        split = path.partition("/")[0]
        if split not in self._prefixes:
            there = (prefix for prefix in ("", "../") if self._paths.folder(f"{prefix}{split}/").exists())
            self._prefixes[split] = next(there, "")
        return path, self._prefixes[split]

    def _fields(self, image: int | str, annotations: list[tuple[int, Any]]) -> dict[str, Any]:
        for number, item in annotations:
            self._check(number, item)
        annotations.sort(key=lambda pair: _order(pair[1]["id"]))
        items = [item for _, item in annotations]
        fields: dict[str, Any] = {"image_id": image}
        fields["objects/bbox"] = [item["bbox"] for item in items]
        fields["objects/label"] = [self._labels[item["category_id"]] for item in items]
        fields["objects/is_crowd"] = [int(bool(item.get("iscrowd"))) for item in items]
        fields["objects/id"] = [item["id"] for item in items]
        fields["objects/area"] = [_area(item) for item in items]
        fields["objects/category_id"] = [item["category_id"] for item in items]
        if self._keypoints.types:
            fields[KEYPOINTS] = [self._points(number, item) for number, item in annotations]
        for name in _IDS.keys() - self._text_ids:
            values = fields[name] if isinstance(fields[name], list) else [fields[name]]
            if any(isinstance(value, str) for value in values):
                self._text_ids.add(name)
        return fields

    def _points(self, number: int, item: Mapping[str, Any]) -> list[list[float]]:
        try:
            return self._keypoints.of_object(item.get("keypoints"))
        except BadInput as bad:
            raise BadInput(bad.reason, f"{_named(number, item)} {bad}") from bad

    def _annotation(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The values of an annotation that are read."""
        if "segments_info" in item:
            self._masks = self._masks or PanopticMasks(self.options, self._folder, self._name)
            return {name: item.get(name) for name in PANOPTIC}
        if self._masks is not None:
            raise self._refused('"annotations": some have segments_info, as panoptic ones have, and others have not')
        kept = {name: item.get(name) for name in ("id", "category_id", "bbox", "area", "iscrowd")}
        if "keypoints" in item:
            self._keypoints.see(item["keypoints"])
            kept["keypoints"] = bounded_points(item["keypoints"])
        if self.options.segments is not None and "segmentation" in item:
            kept["segmentation"] = bounded_outline(item["segmentation"])
        return kept

    def read_payload(self, reference: Reference, name: str) -> Pixels:
        """The mask of a panoptic file."""
        self._masks = self._masks or PanopticMasks(self.options, self._folder, self._name)
        return self._masks.read(reference, name, self.reading)

    def _check(self, number: int, item: dict[str, Any]) -> None:
        """Check an annotation, and normalize its ids and its box.

        Raises:
            BadInput: the annotation cannot be used.
        """
        name = _named(number, item)
        item["id"], item["category_id"] = _id(item.get("id")), _id(item.get("category_id"))
        if item["id"] is None:
            raise BadInput("bad-annotation", f"{name} is to have an id, a number or a text")
        if item["category_id"] not in self._labels:
            category = json.dumps(item["category_id"])
            raise BadInput("unknown-category", f"{name} is of the category {category}, which is not there")
        box = item.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or any(isinstance(number, list) for number in box):
            raise BadInput("bad-box", f"{name} is to have a bbox of four numbers, here is {box!r:.80}")
        try:
            [item["bbox"]] = boxes([box], "xywh")
        except BadInput as error:
            raise BadInput("bad-box", f"{name}: {error}") from error


def _image(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item.get(name) for name in ("file_name", "coco_url", "width", "height")}


def _id(value: Any) -> int | str | None:
    """A value as an id; None if it is not one."""
    # Pandas writes whole numbers as floats where some are missing.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) and value != "" else None


def _order(value: int | str) -> tuple[bool, int | str]:
    return isinstance(value, str), value


def _named(number: int, item: Mapping[str, Any]) -> str:
    id = _id(item.get("id"))
    return f"annotation number {number}" if id is None else f"annotation {json.dumps(id)}"


def _area(item: Mapping[str, Any]) -> float:
    """The area of the mask; if it is not given, the area of the box."""
    area = item.get("area")
    if isinstance(area, (int, float)) and not isinstance(area, bool):
        return float(area)
    return float(math.prod(item["bbox"][2:]))


def _frame(item: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = _id(item.get("width")), _id(item.get("height"))
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None
