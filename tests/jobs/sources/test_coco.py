"""The instances of COCO: what they become, in any order of the file, and what of them cannot be used."""

from __future__ import annotations

import json
import random
import resource
from pathlib import Path
from typing import Any

import fsspec
import pytest

from beam_jobs.errors import UsageError
from beam_jobs.sources import Entry, Layout, LeftOut, Reference
from beam_jobs.sources.detection.coco import Coco
from beam_jobs.sources.files.annotations.outlines import NO_SEGMENTS
from beam_jobs.sources.files.interface import SourceOptions
from shard_reader.format import Field

IMAGES = [
    {"id": 7, "file_name": "b.jpg", "width": 40, "height": 30},
    {"id": 3, "file_name": "a.jpg", "width": 20, "height": 10},
    {"id": 5, "file_name": "empty.jpg"},
]
ANNOTATIONS = [
    {"id": 12, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3.5, 4], "area": 9.5, "iscrowd": 1},
    {"id": 11, "image_id": 7, "category_id": 2, "bbox": [0, 0, 40, 30], "segmentation": [[1, 2, 3]]},
    {"id": 1, "image_id": 3, "category_id": 2, "bbox": [5, 5, 0, 2], "area": 3, "iscrowd": 0},
]
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 2, "name": "bicycle", "keypoints": ["x"]}]
INSTANCES: dict[str, Any] = {"info": {}, "images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES}


def listed(path: Path | str, root: str | None = None) -> tuple[list[Entry], Layout]:
    source = Coco(SourceOptions(input=str(path), root=root))
    entries = sorted(source.entries(), key=lambda entry: entry.id)
    return entries, source.layout()


def written(folder: Path, value: Any = INSTANCES, name: str = "instances.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / name).write_text(text)
    return folder / name


def instances(**changed: Any) -> dict[str, Any]:
    return INSTANCES | changed


def problems(path: Path) -> list[tuple[str, str, str]]:
    return [(entry.id, *entry.problem) for entry in listed(path)[0] if entry.problem]


def test_images_with_their_boxes(tmp_path: Path) -> None:
    entries, layout = listed(written(tmp_path))
    assert entries == [
        Entry(
            "a.jpg",
            place="a.jpg",
            frame=(20, 10),
            fields={
                "image_id": 3,
                "objects/bbox": [[5.0, 5.0, 0.0, 2.0]],
                "objects/label": [0],
                "objects/is_crowd": [0],
                "objects/id": [1],
                "objects/area": [3.0],
                "objects/category_id": [2],
            },
        ),
        Entry(
            "b.jpg",
            place="b.jpg",
            frame=(40, 30),
            fields={
                "image_id": 7,
                "objects/bbox": [[0.0, 0.0, 40.0, 30.0], [1.0, 2.0, 3.5, 4.0]],
                "objects/label": [0, 1],
                "objects/is_crowd": [0, 1],
                "objects/id": [11, 12],
                "objects/area": [1200.0, 9.5],
                "objects/category_id": [2, 90],
            },
        ),
        Entry(
            "empty.jpg",
            place="empty.jpg",
            fields={
                "image_id": 5,
                "objects/bbox": [],
                "objects/label": [],
                "objects/is_crowd": [],
                "objects/id": [],
                "objects/area": [],
                "objects/category_id": [],
            },
        ),
    ]
    assert layout == Layout(
        left_out=(LeftOut(what="segmentation of annotations", why=NO_SEGMENTS),),
        text=f"COCO instances of 3 images with 3 objects in 2 classes; images in {tmp_path}",
        class_names=("bicycle", "toothbrush"),
        fields={
            "image_id": Field(dtype="int64"),
            "objects/bbox": Field(dtype="float32", shape=(None, 4)),
            "objects/label": Field(dtype="int64", shape=(None,)),
            "objects/is_crowd": Field(dtype="int64", shape=(None,)),
            "objects/id": Field(dtype="int64", shape=(None,)),
            "objects/area": Field(dtype="float32", shape=(None,)),
            "objects/category_id": Field(dtype="int64", shape=(None,)),
        },
        boxes={"objects/bbox": "xywh"},
    )


def test_the_order_of_the_file_changes_nothing(tmp_path: Path) -> None:
    expected = listed(written(tmp_path))
    backwards = {name: INSTANCES[name][::-1] for name in ("categories", "annotations", "images")}
    assert listed(written(tmp_path, backwards)) == expected
    assert listed(written(tmp_path, "\ufeff" + json.dumps(INSTANCES))) == expected


def test_ids_that_are_texts(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "images": [{"id": "n1", "file_name": "a.jpg"}],
            "annotations": [{"id": "x", "image_id": "n1", "category_id": "c", "bbox": [0, 0, 1, 1]}],
            "categories": [{"id": "c", "name": "cat"}],
        },
    )
    [entry], layout = listed(path)
    assert (entry.fields["image_id"], entry.fields["objects/id"]) == ("n1", ["x"])
    assert layout.fields["image_id"] == Field(dtype="string")
    assert layout.fields["objects/category_id"] == Field(dtype="string", shape=(None,))


def test_ids_that_pandas_made_floats_of(tmp_path: Path) -> None:
    annotations = [ANNOTATIONS[2] | {"image_id": 3.0, "category_id": 2.0}]
    entries, _ = listed(written(tmp_path, instances(annotations=annotations)))
    assert entries[0].fields["objects/category_id"] == [2]


def test_an_empty_list_of_annotations(tmp_path: Path) -> None:
    assert len(listed(written(tmp_path, instances(annotations=[])))[0]) == 3


@pytest.mark.parametrize("images", ["val2017", "annotations/val2017", "annotations"])
def test_the_folder_of_images(tmp_path: Path, images: str) -> None:
    path = written(tmp_path / "annotations", name="instances_val2017.json")
    (tmp_path / images).mkdir(exist_ok=True)
    (tmp_path / images / "a.jpg").write_bytes(b"123")
    entries, layout = listed(path)
    found = layout.text.rpartition("images in ")[2]
    assert Path(found).samefile(tmp_path / images)
    worker = Coco(SourceOptions(input=str(path)))
    a, b = (Reference(entry.id, entry.size, entry.place) for entry in entries[:2])
    assert worker.read(a) == b"123"
    assert Path(worker.uri(a)).samefile(tmp_path / images / "a.jpg")
    with pytest.raises(FileNotFoundError):
        worker.read(b)
    assert worker.answers(b)


def test_a_root_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"123")
    root = str(tmp_path / "photos")
    entries, layout = listed(written(tmp_path / "x", name="instances_photos.json"), root)
    assert layout.text.endswith(f"; images in {root}")
    worker = Coco(SourceOptions(input=str(tmp_path / "x/instances_photos.json"), root=root))
    assert worker.read(Reference("a.jpg", -1, entries[0].place)) == b"123"


def test_a_bucket() -> None:
    url = "memory://coco-bucket/annotations/instances_val.json"
    fsspec.filesystem("memory").pipe({url: json.dumps(INSTANCES).encode(), "memory://coco-bucket/val/a.jpg": b"123"})
    entries, layout = listed(url)
    assert layout.text.endswith("; images in memory://coco-bucket/val")
    worker = Coco(SourceOptions(input=url))
    reference = Reference(entries[0].id, -1, entries[0].place)
    assert worker.uri(reference) == "memory://coco-bucket/val/a.jpg"
    assert worker.read(reference) == b"123"
    missing = Reference(entries[1].id, -1, entries[1].place)
    with pytest.raises(FileNotFoundError):
        worker.read(missing)
    assert worker.answers(missing)


def annotated(**changed: Any) -> dict[str, Any]:
    return instances(annotations=[ANNOTATIONS[2] | changed])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (annotated(bbox=[1, 2, -3, 4]), ("a.jpg", "bad-box", "image 3: annotation 1: the box [1.0, 2.0, -3.0, 4.0]"
            " (xywh) has a negative width or height")),
        (annotated(bbox=[1, 2, 3]), ("a.jpg", "bad-box", "image 3: annotation 1 is to have a bbox of four numbers,"
            " here is [1, 2, 3]")),
        (annotated(bbox=[1, 2, 3, None]), ("a.jpg", "bad-box", "image 3: annotation 1: the box [1, 2, 3, None] is not"
            " four numbers")),
        (annotated(bbox=[[1, 2, 3, 4]] * 4), ("a.jpg", "bad-box", "image 3: annotation 1 is to have a bbox of four"
            " numbers, here is [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]")),
        (annotated(bbox=None), ("a.jpg", "bad-box", "image 3: annotation 1 is to have a bbox of four numbers, here is"
            " None")),
        (annotated(category_id=5), ("a.jpg", "unknown-category", "image 3: annotation 1 is of the category 5, which"
            " is not there")),
        (annotated(id=None), ("a.jpg", "bad-annotation", "image 3: annotation number 1 is to have an id, a number or"
            " a text")),
        (annotated(image_id=99), ("annotations/1", "unknown-image", "annotation 1 is of the image 99, which is not"
            " there")),
        (instances(images=[*IMAGES, {"id": 8}]), ("images/8", "no-path",
            'image 8 has no "file_name" and no "coco_url"')),
    ],
)  # fmt: skip
def test_what_cannot_be_used(tmp_path: Path, value: Any, problem: tuple[str, str, str]) -> None:
    id, reason, message = problem
    assert problems(written(tmp_path, value)) == [(id, reason, f"instances.json: {message}")]


def test_where_what_has_no_file_is(tmp_path: Path) -> None:
    path = written(tmp_path, annotated(image_id=99))
    source = Coco(SourceOptions(input=str(path)))
    [entry] = [entry for entry in source.entries() if entry.problem]
    assert source.uri(entry) == f"{path}#annotations/1"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "ends at byte 0, in the middle of its JSON; copy it again, whole"),
        (json.dumps(INSTANCES)[:200], "ends at byte 200, in the middle of its JSON; copy it again, whole"),
        ('{"images": [{"id": 1,}]}', "is no JSON: byte 22 cannot be there"),
        ("id,path\n", "is no JSON: byte 1 cannot be there"),
        ("[]", 'is no COCO file of instances: it has no "images" and no "annotations" and no "categories"; it has no'
            " keys; a list of records is a table: --source table"),
        ({"images": IMAGES, "info": 1}, 'is no COCO file of instances: it has no "annotations" and no "categories";'
            ' it has "images", "info"'),
        (instances(images=[*IMAGES, IMAGES[1]]), '"images": the id 3 is there 2 times'),
        (instances(images=[{"file_name": "a.jpg"}]), '"images": element 1 has no "id" that is a number or a text'),
        (annotated(image_id=None), '"annotations": element 1 has no "image_id" that is a number or a text'),
        (instances(images=["a.jpg"]), "\"images\": element 1 is no object: 'a.jpg'"),
        (instances(categories=[{"id": 1}]), '"categories": {"id": 1} is to have an "id" and a "name"'),
        (instances(categories=[{"id": 1, "name": "a"}] * 2), '"categories": the id 1 is there twice'),
        (instances(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]),
            '"categories": the name "a" is there twice'),
        (instances(images=[], annotations=[]), "has no image that can be used"),
        (instances(images=[{"id": 1}], annotations=[]), 'has no image that can be used; instances.json: image 1 has no'
            ' "file_name" and no "coco_url"'),
    ],
)  # fmt: skip
def test_an_input_that_cannot_be(tmp_path: Path, value: Any, message: str) -> None:
    path = written(tmp_path, value)
    with pytest.raises(UsageError) as error:
        listed(path)
    assert str(error.value) == f"INPUT {path}: {message}"


def test_damage_behind_the_first_piece(tmp_path: Path) -> None:
    text = json.dumps(instances(info="x" * 200_000))
    path = written(tmp_path, text[:-1] + "]")
    with pytest.raises(UsageError, match=f"is no JSON: byte {len(text)} cannot be there"):
        listed(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"INPUT .*/x\.json: does not exist"):
        listed(tmp_path / "x.json")
    with pytest.raises(UsageError, match=r"INPUT .*: is a folder; give the JSON file"):
        listed(tmp_path)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A file of 18 MB, whose annotations take 80 MB as objects of Python."""
    numbers = list(range(30_000))
    random.Random(0).shuffle(numbers)
    with open(tmp_path / "big.json", "w") as file:
        mask = json.dumps([[round(1.5 * n, 1) for n in range(90)]])
        file.write('{"annotations": [')
        for n in numbers:
            file.write(f'{{"id":{n},"image_id":{n // 2},"category_id":1,"bbox":[1,2,3,4],"segmentation":{mask}}},')
        file.write('{"id":-1,"image_id":0,"category_id":1,"bbox":[1,2,3,4]}], "images": [')
        file.write(",".join(f'{{"id":{n},"file_name":"{n}.jpg"}}' for n in range(15_000)))
        file.write('], "categories": [{"id": 1, "name": "a"}]}')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    objects = sum(len(entry.fields["objects/id"]) for entry in Coco(SourceOptions(input=str(file.name))).entries())
    assert objects == 30_001
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kB


def test_nan_and_infinity_count_as_missing(tmp_path: Path) -> None:
    images = [*IMAGES, {"id": 9, "file_name": 'x/NaN \\"Infinity, NaN.jpg', "width": float("nan"), "height": 3}]
    changed = [ANNOTATIONS[0] | {"area": float("nan")}, ANNOTATIONS[2] | {"bbox": [1, 2, float("-inf"), 4]}]
    for padding in (0, *range((1 << 16) - 230, 1 << 16, 3)):  # the ends of pieces lie in every part
        path = written(tmp_path, json.dumps({"info": "x" * padding} | instances(images=images, annotations=changed)))
        entries, layout = listed(path)
        assert [entry.id for entry in entries] == ["a.jpg", "b.jpg", "empty.jpg", 'x/NaN \\"Infinity, NaN.jpg']
        assert entries[3].frame is None
        assert entries[0].problem is not None and entries[0].problem.reason == "bad-box"
        assert entries[1].fields["objects/area"] == [14.0]
        assert layout.warnings == (
            "instances.json holds 3 NaN or infinite values, which count as missing; the area of such an object is that"
            " of its box",
        )


def test_paths_of_windows(tmp_path: Path) -> None:
    entries, _ = listed(written(tmp_path, instances(images=[IMAGES[0] | {"file_name": "imgs\\b.jpg"}], annotations=[])))
    assert (entries[0].id, entries[0].place) == ("imgs/b.jpg", "imgs/b.jpg")


def test_images_without_annotations(tmp_path: Path) -> None:
    entries, layout = listed(written(tmp_path, {"images": IMAGES, "categories": CATEGORIES}))
    assert [entry.fields["objects/label"] for entry in entries] == [[], [], []]
    assert layout.warnings == ('instances.json has no "annotations": all images are stored without objects',)


@pytest.mark.parametrize("prefix", ["", "../"])
def test_urls_of_lvis(tmp_path: Path, prefix: str) -> None:
    path = written(
        tmp_path / "annotations",
        instances(images=[{"id": 7, "coco_url": "http://x.org/train2017/07.jpg"}], annotations=ANNOTATIONS[:2]),
        "lvis_v1_val.json",
    )
    (path.parent / prefix / "train2017").mkdir()
    entries, layout = listed(path)
    assert (entries[0].id, entries[0].place) == ("train2017/07.jpg", f"{prefix}train2017/07.jpg")
    assert [one.what for one in layout.left_out] == ["segmentation of annotations"]
    entries, _ = listed(path, root=str(tmp_path))
    assert entries[0].place == "train2017/07.jpg"
