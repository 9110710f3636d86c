"""Ultralytics' NDJSON: its lines, and those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.sources import Found

from beam_jobs.errors import UsageError
from beam_jobs.sources.detection.ndjson import Ndjson
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.known import recognised

HEADER = {"type": "dataset", "task": "detect", "name": "pets", "class_names": {"0": "cat", "1": "dog"}}
IMAGE = {"type": "image", "file": "1.jpg", "url": "https://host/a/1.jpg?sig=x", "width": 40, "height": 30}
BOXES = {"boxes": [[1, 0.5, 0.5, 0.25, 0.5]]}


def made(root: Path, *lines: object, header: object = HEADER) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in (header, *lines)]
    (root / "pets.ndjson").write_text("\n".join(texts) + "\n")
    return root / "pets.ndjson"


def found(path: Path, **options: Any) -> Found:
    return Found(Ndjson(SourceOptions(input=str(path), kind="ndjson", **options)))


def test_images_with_their_boxes(tmp_path: Path) -> None:
    lines = [IMAGE | {"split": "train", "annotations": BOXES}, IMAGE | {"split": "val"}]
    source = found(made(tmp_path, *lines))
    assert source.text == (
        "Ultralytics' NDJSON of 2 images with 1 object in 2 classes, 1 image without objects; images by their URLs"
    )
    one, two = source.entries["train/1.jpg"], source.entries["val/1.jpg"]
    assert one.fields == {"objects/bbox": [[0.375, 0.25, 0.625, 0.75]], "objects/label": [1]}
    assert (one.split, one.frame, one.place) == ("train", (40, 30), IMAGE["url"])
    assert two.fields == {"objects/bbox": [], "objects/label": []} and two.split == "val"
    assert source.layout.class_names == ("cat", "dog") and source.layout.reached == {"https://host": 2}


@pytest.mark.parametrize("option", ["root", "no_urls"])
def test_images_are_files_where_no_url_is_wanted(option: str, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"one")
    value: Any = str(tmp_path) if option == "root" else True
    source = found(made(tmp_path, IMAGE | {"annotations": BOXES}), **{option: value})
    assert source.entries["1.jpg"].place == "1.jpg" and source.read("1.jpg") == b"one"
    assert source.text.endswith("images by their files")


@pytest.mark.parametrize(
    ("annotations", "box", "left_out"),
    [
        ({"segments": [[0, 0.1, 0.2, 0.5, 0.1, 0.3, 0.9]]}, [0.1, 0.1, 0.5, 0.9], ["polygons of 1 object"]),
        ({"pose": [[0, 0.5, 0.5, 0.25, 0.5, 0.1, 0.2, 2]]}, [0.375, 0.25, 0.625, 0.75], ["keypoints of 1 object"]),
        ({"obb": [[0, 0.1, 0.3, 0.3, 0.1, 0.5, 0.3, 0.3, 0.5]]}, [0.1, 0.1, 0.5, 0.5], ["polygons of 1 object"]),
        ({**BOXES, "segments": [[1, 0, 0, 1, 0, 1, 1]]}, [0.375, 0.25, 0.625, 0.75], ["segments of annotations"]),
    ],
    ids=["segments", "pose", "obb", "both"],
)
def test_other_kinds_of_objects(
    annotations: dict[str, Any], box: list[float], left_out: list[str], tmp_path: Path
) -> None:
    source = found(made(tmp_path, IMAGE | {"annotations": annotations}))
    assert source.entries["1.jpg"].fields["objects/bbox"] == [box]
    assert [one.what for one in source.layout.left_out] == left_out


def test_classes_of_images(tmp_path: Path) -> None:
    header = HEADER | {"task": "classify"}
    lines = [
        IMAGE | {"file": f"{n}.jpg", "annotations": {"classification": c}} for n, c in enumerate(([1], [0, 1], []))
    ]
    source = found(made(tmp_path, *lines, header=header))
    assert [entry.label for entry in source.entries.values()] == ["dog", ["cat", "dog"], None]
    assert source.layout.fields == {} and source.text.startswith("Ultralytics' NDJSON of 3 images in 2 classes")


def test_values_that_are_not_read_are_named(tmp_path: Path) -> None:
    header = HEADER | {"skeleton": [1, 2]}
    line = IMAGE | {"weather": "sun", "hash": "0", "annotations": {**BOXES, "depth": {"url": "x"}}}
    source = found(made(tmp_path, line, header=header))
    assert {one.what for one in source.layout.left_out} == {
        "skeleton of the dataset",
        "weather of images",
        "depth of annotations",
    }


def test_an_image_without_a_size_is_a_warning(tmp_path: Path) -> None:
    path = made(tmp_path, {"type": "image", "file": "1.jpg", "annotations": BOXES})
    (warning,) = found(path).layout.warnings
    assert (
        "1 image without width and height: boxes are taken for those of the stored image; give --box-frame" in warning
    )
    assert found(path, box_frame="upright").layout.warnings == ()


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        ("{", "bad-row", "is no JSON"),
        ("[1]", "bad-row", "is no JSON object"),
        ('{"x": ' + "[" * 1000, "bad-row", "nests lists and objects too deeply"),
        ({"type": "image"}, "no-path", 'is to be {"type": "image", "file": ...}'),
        ({"type": "video", "file": "1.mp4"}, "no-path", "is to be"),
        (IMAGE | {"split": "../x"}, "no-split", "split is '../x': expected a name such as train"),
        (IMAGE | {"annotations": [1]}, "bad-annotation", "annotations is [1]: expected lists by their kind"),
        (IMAGE | {"annotations": {"boxes": [1]}}, "bad-annotation", "boxes is [1]: expected a list of lists"),
        (IMAGE | {"annotations": {"boxes": [[]]}}, "bad-annotation", "boxes 1: begins with None"),
        (IMAGE | {"annotations": {"boxes": [[True, 0, 0, 1, 1]]}}, "bad-annotation", "boxes 1: begins with True"),
        (IMAGE | {"annotations": {"boxes": [[0, 0, 1, 1]]}}, "bad-annotation", "boxes 1: has 4 numbers"),
        (IMAGE | {"annotations": {"boxes": [[0, 10**400, 0, 1, 1]]}}, "bad-box", "boxes 1: "),
        (IMAGE | {"annotations": {"segments": [[0, 0, 0, 1, 0, 1, 10**400]]}}, "bad-box", "segments 1: "),
        (IMAGE | {"annotations": {"boxes": [[7, 0, 0, 1, 1]]}}, "unknown-class", "boxes 1: is of the class 7"),
        (IMAGE | {"annotations": {"boxes": [[0, 0, 0, 1, 9]]}}, "bad-box", "boxes 1: has 9: coordinates are parts"),
        (IMAGE | {"annotations": {"boxes": [[0, 0, 0, 1, "1"]]}}, "bad-box", "boxes 1: has '1', which is no number"),
        ('{"file": "2.jpg", "annotations": {"boxes": [[0, NaN, 0, 1, 1]]}}', "bad-box", "boxes 1: has nan"),
        ('{"file": "2.jpg", "annotations": {"boxes": [[1e999, 0, 0, 1, 1]]}}', "bad-annotation", "begins with inf"),
        (IMAGE | {"url": "ssh://host/1.jpg"}, "unsupported-url", "is of ssh://"),
    ],
)
def test_a_line_that_cannot_be_used_is_a_reject(line: object, reason: str, message: str, tmp_path: Path) -> None:
    source = found(made(tmp_path, line, IMAGE | {"file": "good.jpg"}))
    assert list(source.entries) == ["good.jpg"]
    ((found_reason, text),) = source.rejects.values()
    assert found_reason == reason and text.startswith("pets.ndjson line 2: ") and message in text


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"file": "1.jpg"}, "is no NDJSON of Ultralytics: its first line"),
        ("{", "is no NDJSON of Ultralytics"),
        (HEADER | {"class_names": {}}, "class_names is []: expected the names of classes"),
        (HEADER | {"class_names": {"1": "cat", "2": "dog"}}, "class_names has other numbers than 0 to 1"),
        (HEADER | {"class_names": ["cat", "cat"]}, "class_names has 'cat' twice"),
        (HEADER | {"class_names": [1]}, "class_names is [1]"),
    ],
)
def test_a_file_that_cannot_be_used(header: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        found(made(tmp_path, IMAGE, header=header))
    assert message in str(caught.value)
    for name in ("nowhere.ndjson", ""):
        with pytest.raises(UsageError, match=r"does not exist|is no file"):
            found(tmp_path / name)


def test_a_file_is_recognised_by_its_first_line(tmp_path: Path) -> None:
    options, why = recognised(SourceOptions(input=str(made(tmp_path, IMAGE))))
    assert (options.kind, why) == ("ndjson", "from its first line")
    table = made(tmp_path, IMAGE, header={"path": "1.jpg", "type": "image", "of": "dataset"})
    assert recognised(SourceOptions(input=str(table)))[0].kind == "table"
