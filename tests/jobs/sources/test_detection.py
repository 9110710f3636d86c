"""The same objects in every format: the same boxes and labels of the same photos."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import prepared
from support.detection import Photo, Thing, as_coco, as_ndjson, as_voc, as_yolo

from shard_reader import open_dataset
from shard_reader.format.manifest import MANIFEST_NAME, Manifest

Writer = Callable[[list[Photo], Path, Path], list[object]]
# YOLO's files are of upright images; those of these tests are of stored ones, as COCO's are.
FORMS: list[tuple[Writer, list[str]]] = [(as_yolo, ["--box-frame", "stored"]), (as_ndjson, []), (as_voc, [])]


def objects(output: Path) -> dict[str, tuple[bytes, list[str], bytes]]:
    """The boxes, the names of the classes and the pixels of every record, by the name of its file."""
    found: dict[str, tuple[bytes, list[str], bytes]] = {}
    for split in Manifest.from_json((output / MANIFEST_NAME).read_text()).splits:
        with open_dataset(output, split) as data:
            for record in (data[number] for number in range(len(data))):
                names = [(data.class_names or ())[label] for label in record["objects/label"]]
                boxes = np.asarray(record["objects/bbox"])
                assert boxes.dtype == np.float32 and boxes.shape == (len(names), 4)
                found[Path(record["id"]).name] = boxes.tobytes(), names, record["image"].tobytes()
    return found


def with_boxes(paths: list[Path], root: Path) -> list[Photo]:
    """Photos with boxes from a generator, some of them at the edges."""
    rng, photos = random.Random(7), []
    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
        things = []
        for _ in range(rng.randrange(4)):
            left, top = rng.choice([0, rng.randrange(width)]), rng.choice([0, rng.randrange(height)])
            right, bottom = rng.randint(left + 1, width), rng.choice([height, rng.randint(top + 1, height)])
            things.append(Thing(rng.choice(["cat", "dog", "no"]), (left, top, right, bottom)))
        photos.append(Photo(str(path.relative_to(root)), width, height, things, rng.choice(["train", "val"])))
    return photos


def drawn(root: Path) -> list[Photo]:
    """Small images, each with a rectangle of one colour for each of its boxes."""
    sizes, photos = [(37, 23), (40, 20), (19, 31), (33, 33), (28, 21)], []
    for number, (width, height) in enumerate(sizes):
        pixels = np.zeros((height, width, 3), np.uint8)
        things = [Thing("red", (0, 0, 7, 9)), Thing("green", (11, 10, width, height))][: number % 3]
        for thing, colour in zip(things, ([255, 0, 0], [0, 255, 0]), strict=False):
            left, top, right, bottom = thing.box
            pixels[top:bottom, left:right] = colour
        root.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / f"{number}.png")
        photos.append(Photo(f"{number}.png", width, height, things, "val" if number == 4 else "train"))
    return photos


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Photo], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("drawn")
    photos = drawn(folder / "images")
    arguments = as_coco(photos, folder / "images", folder / "coco")
    return folder / "images", photos, objects(prepared(arguments[0], folder / "out", *arguments[1:], *OPTIONS))


OPTIONS = ["--size", "48x48", "--fit", "pad", "--encoding", "png", "--filter", "nearest", "--workers", 1]


@pytest.mark.parametrize(("write", "more"), FORMS, ids=[write.__name__ for write, _ in FORMS])
def test_every_format_gives_the_boxes_and_labels_of_coco(
    write: Writer, more: list[str], small: tuple[Path, list[Photo], dict[str, Any]], tmp_path: Path
) -> None:
    root, photos, expected = small
    source, *arguments = write(photos, root, tmp_path / "in")
    output = prepared(source, tmp_path / "out", *arguments, *more, *OPTIONS)
    assert objects(output) == expected
    assert sum(len(names) for _, names, _ in expected.values()) == 4
    with open_dataset(output, "train") as data:
        colours = {"red": [255, 0, 0], "green": [0, 255, 0]}
        for record in (data[number] for number in range(len(data))):
            for box, label in zip(record["objects/bbox"], record["objects/label"], strict=True):
                top, left, bottom, right = np.round(box * 48).astype(int)
                inside = record["image"][top + 1 : bottom - 1, left + 1 : right - 1].reshape(-1, 3)
                assert (inside == colours[(data.class_names or ())[label]]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("write", "more"), FORMS, ids=[write.__name__ for write, _ in FORMS])
def test_300_photos_have_the_same_boxes_in_every_format(
    write: Writer, more: list[str], photos: Path, tmp_path: Path
) -> None:
    drawn_up = with_boxes(sorted(path for path in photos.rglob("*") if path.is_file()), photos)
    options = ["--size", "64x64", "--fit", "crop", "--encoding", "png"]
    found = []
    for name, form, given in (("coco", as_coco, []), ("other", write, more)):
        source, *arguments = form(drawn_up, photos, tmp_path / name)
        found.append(objects(prepared(source, tmp_path / f"{name}-out", *arguments, *given, *options)))
    assert len(found[0]) == 300 and found[0] == found[1]


def test_boxes_of_yolo_are_of_the_image_as_it_is_shown(tmp_path: Path) -> None:
    """The library of YOLO turns a photo by its Exif orientation before it looks at its boxes."""
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :10] = [255, 0, 0]  # turned by 90 degrees (orientation 6), this is the top
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in/images").mkdir(parents=True)
    (tmp_path / "in/labels").mkdir()
    Image.fromarray(stored).save(tmp_path / "in/images/a.png", exif=exif)
    (tmp_path / "in/labels/a.txt").write_text("0 0.5 0.125 1 0.25\n")
    (tmp_path / "in/classes.txt").write_text("red\n")
    output = prepared(tmp_path / "in", tmp_path / "out", "--fit", "none", "--encoding", "png")
    with open_dataset(output) as data:
        assert np.array_equal(data[0]["objects/bbox"], [[0, 0, 0.25, 1]]) and data.class_names == ("red",)
        assert (data[0]["image"][:10] == [255, 0, 0]).all() and not data[0]["image"][10:].any()
