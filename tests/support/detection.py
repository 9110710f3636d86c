"""The same objects in the formats of COCO, YOLO, Ultralytics' NDJSON and Pascal VOC, written by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

__all__ = ["Photo", "Thing", "as_coco", "as_ndjson", "as_voc", "as_yolo"]


class Thing(NamedTuple):
    """An object: its class, and its box in whole pixels: left, top, right, bottom."""

    name: str
    box: tuple[int, int, int, int]


class Photo(NamedTuple):
    """An image file, by its path below the root, its size as it is stored, its objects, and its split."""

    path: str
    width: int
    height: int
    things: Sequence[Thing]
    split: str = "train"


def classes(photos: Sequence[Photo]) -> list[str]:
    return sorted({thing.name for photo in photos for thing in photo.things})


def as_coco(photos: Sequence[Photo], root: Path, into: Path) -> list[object]:
    """A file of instances; the arguments of the command."""
    names = classes(photos)
    images, annotations = [], []
    for number, photo in enumerate(photos, 1):
        images.append({"id": number, "file_name": photo.path, "width": photo.width, "height": photo.height})
        for name, (left, top, right, bottom) in photo.things:
            box = [left, top, right - left, bottom - top]
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": names.index(name) + 1, "bbox": box}
            annotations.append(one)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    into.mkdir(parents=True, exist_ok=True)
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (into / "instances.json").write_text(json.dumps(whole))
    return [into / "instances.json", "--root", root]


def as_yolo(photos: Sequence[Photo], root: Path, into: Path) -> list[object]:
    """A `data.yaml` with links to the images, and label files."""
    names = classes(photos)
    for photo in photos:
        _link(root / photo.path, into / "images" / photo.split / photo.path)
        labels = (into / "labels" / photo.split / photo.path).with_suffix(".txt")
        labels.parent.mkdir(parents=True, exist_ok=True)
        rows = [" ".join(map(repr, _row(photo, thing, names))) + "\n" for thing in photo.things]
        if rows:
            labels.write_text("".join(rows))
    splits = dict.fromkeys(photo.split for photo in photos)
    lines = ["path: .", *(f"{split}: images/{split}" for split in splits), "names:"]
    lines += [f"  {number}: {json.dumps(name)}" for number, name in enumerate(names)]
    (into / "data.yaml").write_text("\n".join(lines) + "\n")
    return [into]


def as_ndjson(photos: Sequence[Photo], root: Path, into: Path) -> list[object]:
    """A file with a line for each image."""
    names = classes(photos)
    lines: list[dict[str, object]] = [
        {"type": "dataset", "task": "detect", "name": "photos", "class_names": dict(enumerate(names))}
    ]
    for photo in photos:
        boxes = [_row(photo, thing, names) for thing in photo.things]
        line = {"type": "image", "file": photo.path, "url": f"https://example.com/{photo.path}", "width": photo.width}
        line |= {"height": photo.height, "split": photo.split, "annotations": {"boxes": boxes}}
        lines.append(line)
    into.mkdir(parents=True, exist_ok=True)
    (into / "photos.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [into / "photos.ndjson", "--root", root]


def as_voc(photos: Sequence[Photo], root: Path, into: Path) -> list[object]:
    """The layout of the challenge, with links to the images, whose names are used once each."""
    sets: dict[str, list[str]] = {}
    (into / "Annotations").mkdir(parents=True)
    for photo in photos:
        path = Path(photo.path)
        _link(root / path, into / "JPEGImages" / path.name)
        objects = "".join(_voc_object(thing) for thing in photo.things)
        text = f"<annotation><filename>{path.name}</filename><size><width>{photo.width}</width>"
        text += f"<height>{photo.height}</height><depth>3</depth></size>{objects}</annotation>\n"
        (into / "Annotations" / f"{path.stem}.xml").write_text(text)
        sets.setdefault(photo.split, []).append(path.stem)
    (into / "ImageSets/Main").mkdir(parents=True)
    for split, stems in sets.items():
        (into / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems) + "\n")
    return [into]


def _row(photo: Photo, thing: Thing, names: list[str]) -> list[float]:
    """The row of an object: its class, and its center and size as parts of the image."""
    left, top, right, bottom = thing.box
    x, y = (left + right) / 2 / photo.width, (top + bottom) / 2 / photo.height
    return [names.index(thing.name), x, y, (right - left) / photo.width, (bottom - top) / photo.height]


def _voc_object(thing: Thing) -> str:
    left, top, right, bottom = thing.box  # VOC counts pixels from 1, and the last one is a part of the box
    sides = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
    box = "".join(f"<{name}>{value}</{name}>" for name, value in sides.items())
    more = "<pose>Left</pose><truncated>1</truncated><difficult>0</difficult>"
    return f"<object><name>{escape(thing.name)}</name>{more}<bndbox>{box}</bndbox></object>"


def _link(image: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.symlink_to(image)
