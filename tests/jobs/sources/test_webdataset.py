"""WebDataset as its own writer writes it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from support.sources import found_archive, make, make_tar, upload

from beam_jobs.errors import UsageError


def write_webdataset(path: Path, *samples: dict[str, Any]) -> Path:
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its file open
def test_webdataset(tmp_path: Path) -> None:
    samples = [
        {"__key__": f"deep/{n:04d}", "jpg": b"%d" % n, "cls": n % 3, "json": {"size": n / 2, "tags": ["a", "b"]}}
        | {"txt": f"Nummer {n} ü", "npy": np.ones(1)}
        for n in range(2000)
    ]
    path = write_webdataset(tmp_path / "a.tar", *({**sample} for sample in samples))
    archive = found_archive(path)
    assert archive.text == "a tar archive in WebDataset layout (labels from .cls)"
    assert archive.ignored == 2000  # the npy
    assert len(archive.entries) == 2000
    entry = archive.entries["deep/0007.jpg"]
    assert (entry.label, entry.split) == (1, None)
    assert entry.fields == {"size": 3.5, "tags": ["a", "b"], "txt": "Nummer 7 ü"}
    assert archive.read("deep/1234.jpg") == b"1234"
    ours = [archive.entries[f"deep/{n:04d}.jpg"].label for n in range(2000)]
    theirs = webdataset.WebDataset(str(path), shardshuffle=False).decode().to_tuple("cls")
    assert ours == [label for (label,) in theirs]
    del theirs
    gc.collect()


def test_webdataset_names_are_labels(tmp_path: Path) -> None:
    path = write_webdataset(
        tmp_path / "a.tar",
        {"__key__": "1", "jpg": b"1", "cls": "cat\n"},
        {"__key__": "2", "jpg": b"2", "cls": "-3"},
        {"__key__": "3", "jpg": b"3", "cls": " "},
        {"__key__": "4", "jpg": b"3"},
        {"__key__": "5", "jpg": b"3", "cls": "0.0"},
    )
    archive = found_archive(path)
    labels = {"1.jpg": ("cat", None), "2.jpg": (-3, None), "4.jpg": (None, None), "5.jpg": (0, None)}
    assert archive.labels == labels
    assert archive.rejects == {"3.jpg": ("bad-label", "its .cls is empty")}


def test_webdataset_labels_and_fields_from_json(tmp_path: Path) -> None:
    values = {"label": "cat", "breed": "tabby", "width": 4, "score": 0.5}
    path = write_webdataset(tmp_path / "a.tar", {"__key__": "1", "png": b"1", "json": values})
    archive = found_archive(path)
    assert archive.text == "a tar archive in WebDataset layout (labels from label in .json)"
    assert archive.entries["1.png"].label == "cat"
    assert archive.entries["1.png"].fields == {"breed": "tabby", "score": 0.5}
    archive = found_archive(path, label_column="breed", fields=("width",))
    assert archive.entries["1.png"].label == "tabby"
    assert archive.entries["1.png"].fields == {"width": 4}
    with pytest.raises(UsageError, match=r"--fields colour: INPUT .*a\.tar has no such values; it has breed, label, s"):
        found_archive(path, fields=("colour",))
    with pytest.raises(UsageError, match=r"--label-column kind: INPUT .*a\.tar has no such values"):
        found_archive(path, label_column="kind")


def test_webdataset_without_labels_has_those_of_its_folders(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"cat/1.jpg": b"", "cat/1.txt": b"x", "dog/1.jpg": b"", "dog/1.json": b"{}"})
    archive = found_archive(path)
    assert archive.labels == {"cat/1.jpg": ("cat", None), "dog/1.jpg": ("dog", None)}
    assert archive.text == "a tar archive in WebDataset layout of 2 class folders"


def test_webdataset_in_a_zip_and_a_bucket(tmp_path: Path, bucket: str) -> None:
    files = {"1.jpg": b"one", "1.cls": b"5", "2.jpg": b"two", "2.cls": b"6"}
    for name in ("a.tar", "a.zip"):
        archive = found_archive(upload(make(tmp_path / name, files), f"{bucket}/{name}"))
        assert archive.labels == {"1.jpg": (5, None), "2.jpg": (6, None)}
        assert archive.read("2.jpg") == b"two"


def test_what_is_wrong_with_a_webdataset_sample(tmp_path: Path) -> None:
    texts = {
        "1.cls": "0",
        "2.cls": "1",
        "3.json": "{",
        "4.json": '{"a": {"b": 1}}',
        "5.json": "[1]",
        "6.txt": "\udcff",
        "7.mask.png": "",
        "7.cls": "1",
        "8.json": '{"label": 0.5}',
    }
    images = {f"{number}.jpg": "" for number in (1, 3, 4, 5, 6, 7, 8, 9)}
    files = {name: text.encode(errors="surrogateescape") for name, text in sorted((images | texts).items())}
    archive = found_archive(make_tar(tmp_path / "a.tar", files))
    assert {id: entry.label for id, entry in archive.entries.items()} == {
        "1.jpg": 0,
        "7.jpg": 1,
        "9.jpg": None,
    }
    assert archive.ignored == 0  # the mask is read
    assert archive.rejects == {
        "2": ("no-image", "none of cls is an image"),
        "3.jpg": (
            "bad-json",
            "its .json is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        ),
        "4.jpg": (
            "bad-json",
            "its .json has a nested: values are numbers, texts, and lists of them; leave it out with --fields",
        ),
        "5.jpg": ("bad-json", "its .json is no object but '[1]'"),
        "6.jpg": ("bad-txt", "its .txt is not UTF-8 at byte 0"),
        "8.jpg": ("bad-label", "label is 0.5: a label is a name, a whole number, or a list of either"),
    }


def test_webdataset_with_several_images_of_a_key(tmp_path: Path) -> None:
    files = {"1.jpg": b"j1", "1.png": b"p1", "1.seg.png": b"s1", "1.cls": b"7", "2.jpg": b"j2", "2.cls": b"8"}
    path = make_tar(tmp_path / "a.tar", files)
    archive = found_archive(path)
    assert archive.labels == {"2.jpg": (8, None)}
    assert archive.rejects == {
        "1": (
            "several-images",
            "has the images .jpg and .png; choose with --image-key jpg, or take all with --image-columns jpg,png",
        ),
    }
    archive = found_archive(path, image_key="jpg")
    assert archive.labels == {"1.jpg": (7, None), "2.jpg": (8, None)}
    text = "a tar archive in WebDataset layout (images in .jpg, labels from .cls), with seg (mask)"
    assert archive.text == text
    assert archive.ignored == 1
    archive = found_archive(path, image_key=".seg.png")
    assert archive.read("1.seg.png") == b"s1"
    assert archive.rejects == {"2": ("no-image", "none of cls, jpg is .seg.png, which --image-key names")}
    with pytest.raises(UsageError) as caught:
        found_archive(path, image_key="webp")
    assert str(caught.value) == (
        f"INPUT {path}: holds no images (2 other files; 1: none of cls, jpg, png, seg.png is .webp, which --image-key"
        " names)"
    )


def test_webdataset_of_inputs_and_outputs(tmp_path: Path) -> None:
    files = {f"{n}.{kind}": data for n in range(3) for kind, data in (("input.jpg", b"%d" % n), ("output.cls", b"4"))}
    archive = found_archive(make_tar(tmp_path / "a.tar", files), image_key="input.jpg")
    assert archive.text == "a tar archive in WebDataset layout (images in .input.jpg, labels from .output.cls)"
    assert archive.labels == {f"{n}.input.jpg": (4, None) for n in range(3)}
    assert archive.read("2.input.jpg") == b"2"
    more = {name.replace("output", "other"): data for name, data in files.items() if name.endswith("cls")}
    archive = found_archive(make_tar(tmp_path / "b.tar", dict(sorted((files | more).items()))), image_key="input.jpg")
    assert archive.text.endswith(" in WebDataset layout (images in .input.jpg) of images without classes")


def test_webdataset_nested_json_that_nobody_asks_for(tmp_path: Path) -> None:
    files = {"1.jpg": b"", "1.json": b'{"label": 3, "who": {"name": "x"}, "score": 1}'}
    path = make_tar(tmp_path / "a.tar", files)
    with pytest.raises(UsageError) as caught:
        found_archive(path)
    assert str(caught.value) == (
        f"INPUT {path}: holds no images (1 other files; 1.jpg: its .json has who nested: values are numbers, texts, and"
        " lists of them; leave it out with --fields)"
    )
    archive = found_archive(path, fields=("score",))
    assert archive.labels == {"1.jpg": (3, None)}
    assert archive.entries["1.jpg"].fields == {"score": 1}


def test_a_key_of_very_many_members_is_refused(tmp_path: Path) -> None:
    files = {"a.jpg": b"", "a.cls": b"1", "film.json": b"{}"} | {f"film.{n:04d}.jpg": b"" for n in range(1001)}
    with pytest.raises(UsageError, match=r"a\.tar: more than 1,000 members have the key 'film', their path up to"):
        found_archive(make_tar(tmp_path / "a.tar", files))


def test_components_with_a_suffix_of_an_image_are_no_images_of_their_own(tmp_path: Path) -> None:
    files = {"1.input.png": b"1", "1.seg.png": b"2", "1.json": b'{"label": "dog"}'}
    with pytest.raises(
        UsageError, match=r"holds no images .*none of input\.png, json, seg\.png is an image; choose .* input\.png"
    ):
        found_archive(make_tar(tmp_path / "a.tar", files))
    archives = found_archive(tmp_path / "a.tar", image_key="input.png")
    assert [entry.label for entry in archives.entries.values()] == ["dog"]


def test_samples_are_joined_wherever_their_members_lie(tmp_path: Path) -> None:
    images = {f"{n}.jpg": b"%d" % n for n in range(1500)}  # more than a look at the first members would see
    values = {f"./{n}.json": b'{"label": %d}' % n for n in reversed(range(1500))}
    archive = found_archive(make_tar(tmp_path / "a.tar", images | values))
    assert archive.labels == {f"{n}.jpg": (n, None) for n in range(1500)}
    assert archive.ignored == 0


REMEDY = "another image of its record; --image-columns left.jpg,right.jpg stores it"


def test_another_image_of_a_sample_is_left_out_by_name(tmp_path: Path) -> None:
    files = {"1.left.jpg": b"", "1.right.jpg": b"", "1.cls": b"0"}
    path = make_tar(tmp_path / "a.tar", files)
    with pytest.raises(
        UsageError, match=r"--image-key left\.jpg, or take all with --image-columns left\.jpg,right\.jpg"
    ):
        found_archive(path)
    (left_out,) = found_archive(path, image_key="left.jpg").layout.left_out
    assert (left_out.what, left_out.why) == ("1 .jpg file, as 1.right.jpg", REMEDY)


def test_boxes_points_and_ids_are_in_the_json(tmp_path: Path) -> None:
    texts = [
        '{"key": "x/1", "bbox": [[1, 2, 3, 4]], "spots": [5, 6], "objects/kind": ["a"], "age": 3}',
        '{"key": "x/2", "bbox": [1, 2, 3, 4, 5, 6, 7, 8], "spots": [[1, 2], [3, 4]]}',
        '{"key": "x/3"}',
        '{"key": "x/4", "bbox": [[1, 2, 3]]}',
        '{"key": "x/5", "bbox": [[1, 2, 3, 4]], "spots": [1, 2, 3, 4]}',
        '{"bbox": []}',
    ]
    files = {f"{n}.jpg": b"" for n in range(6)} | {f"{n}.json": text.encode() for n, text in enumerate(texts)}
    path = make_tar(tmp_path / "a.tar", files)
    archive = found_archive(path, boxes=("bbox",), points=("spots",), box_format="xywh", id_column="key")
    one, two, three = (archive.entries[f"x/{n}"].fields for n in (1, 2, 3))
    assert (one["objects/bbox"], one["objects/point"], one["age"]) == ([[1, 2, 3, 4]], [[5, 6]], 3)
    assert (two["objects/bbox"], two["objects/point"]) == ([[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2], [3, 4]])
    assert (three["objects/bbox"], three["objects/point"]) == ([], [])
    assert archive.layout.boxes == {"objects/bbox": "xywh"} and archive.layout.points == {"objects/point": "xy"}
    assert archive.rejects == {
        "x/4": ("bad-box", "the box [1, 2, 3] is not four numbers"),
        "x/5": (
            "bad-box",
            "as many elements as objects are to be in each of them, here are 1 in objects/bbox, 2 in objects/point",
        ),
        "5.jpg": ("no-id", "key is None, no text and no number"),
    }


def test_ids_of_a_column_leave_folders_and_messages_their_paths(tmp_path: Path) -> None:
    files = {"train/1.jpg": b"one", "train/1.json": b'{"key": "x", "label": 3}'}
    archive = found_archive(make_tar(tmp_path / "a.tar", files), id_column="key")
    assert archive.labels == {"x": (3, "train")}
    assert archive.read("x") == b"one"
    with pytest.raises(UsageError, match=r"--boxes box: INPUT .* has no such values; it has key, label"):
        found_archive(tmp_path / "a.tar", boxes=("box",))
