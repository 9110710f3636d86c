"""Folders as people have them: recognised, listed once, and what is none of it counted or named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.sources import found_archive, make_tar

from beam_jobs.errors import UsageError
from beam_jobs.plan.schema.catalog import Catalog
from beam_jobs.sources import Problem, Reference
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.folder import Folder


class Found:
    """Everything that a folder lists, in the order of ids."""

    def __init__(self, path: str, nested_classes: bool = False) -> None:
        source, catalog = Folder(SourceOptions(input=path, nested_classes=nested_classes)), Catalog()
        entries = sorted(source.entries(), key=lambda entry: entry.id)
        schema = catalog.close(source.layout())
        self.layout = source.layout()
        self.text, self.ignored = self.layout.text, self.layout.ignored
        self.class_names, self.splits = self.layout.class_names, self.layout.splits
        self.references: list[tuple[Reference, str | None]] = []
        self.rejects: list[tuple[str, str]] = []
        for entry in entries:
            resolved = source.resolve(entry)
            found = resolved if isinstance(resolved, Problem) else schema.reference(resolved)
            if isinstance(found, Problem):
                self.rejects.append((entry.id, found.reason))
            else:
                self.references.append(found)


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"123")
    return root


def listed(found: Found) -> dict[str, tuple[int | None, str | None]]:
    return {reference.id: (reference.values.get("label"), split) for reference, split in found.references}


def test_class_folders(tmp_path: Path) -> None:
    found = Found(str(folder(tmp_path, "dog/2.png", "cat/1.jpg", "cat/deep/er/3.JPG")))
    assert found.text == "2 class folders"
    assert found.class_names == ("cat", "dog")
    assert listed(found) == {"cat/1.jpg": (0, None), "cat/deep/er/3.JPG": (0, None), "dog/2.png": (1, None)}
    assert found.references[0][0].size == 3


def test_nested_class_folders(tmp_path: Path) -> None:
    names = ["pet/dog/2.png", "pet/cat/1.jpg", "wild/3.jpg"]
    assert Found(str(folder(tmp_path / "in", *names))).class_names == ("pet", "wild")
    found = Found(str(tmp_path / "in"), nested_classes=True)
    assert found.class_names == ("pet/cat", "pet/dog", "wild")
    assert [label for label, _ in listed(found).values()] == [0, 1, 2]
    found = Found(str(folder(tmp_path / "splits", *(f"train/{name}" for name in names))), nested_classes=True)
    assert found.class_names == ("pet/cat", "pet/dog", "wild")
    assert listed(found)["train/wild/3.jpg"] == (2, "train")


def test_split_folders(tmp_path: Path) -> None:
    found = Found(str(folder(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg", "val/dog/3.jpg")))
    assert found.text == "split folders (train, val) of 2 class folders"
    assert found.splits == ("train", "val")
    assert found.class_names == ("cat", "dog")
    assert listed(found) == {
        "train/cat/1.jpg": (0, "train"),
        "val/cat/2.jpg": (0, "val"),
        "val/dog/3.jpg": (1, "val"),
    }


def test_folders_that_everything_is_in_mean_nothing(tmp_path: Path) -> None:
    found = Found(str(folder(tmp_path / "a", "data/v1/cat/1.jpg", "data/v1/dog/2.jpg", "data/v1/dog/more/3.jpg")))
    assert (found.text, found.class_names) == ("2 class folders inside data/v1", ("cat", "dog"))
    assert listed(found)["data/v1/dog/more/3.jpg"] == (1, None)
    found = Found(str(folder(tmp_path / "b", "data/train/cat/1.jpg", "data/test/cat/2.jpg")))
    assert (found.splits, found.class_names) == (("train", "test"), ("cat",))
    assert found.text == "split folders (test, train) of 1 class folder, cat inside data"
    found = Found(str(folder(tmp_path / "c", "cat/1.jpg", "cat/2.jpg")))  # one class is one class
    assert (found.text, found.class_names) == ("1 class folder, cat", ("cat",))
    found = Found(str(folder(tmp_path / "d", "data/cat/1.jpg", "data/2.jpg", "data/dog/3.jpg")))
    assert (found.class_names, found.rejects) == (("cat", "dog"), [("data/2.jpg", "no-class")])
    found = Found(str(folder(tmp_path / "f", "images/train/1.jpg", "images/val/2.jpg")))  # as YOLO has it
    assert (found.splits, found.class_names) == (("train", "val"), None)
    assert listed(found) == {"images/train/1.jpg": (None, "train"), "images/val/2.jpg": (None, "val")}
    found = Found(str(folder(tmp_path / "e", "train/cat/1.jpg", "train/dog/2.jpg")))
    assert (found.splits, found.class_names) == (("train",), ("cat", "dog"))


def test_split_folders_in_any_case(tmp_path: Path) -> None:
    found = Found(str(folder(tmp_path, "Train/cat/1.jpg", "TESTING/cat/2.jpg", "dev/cat/3.jpg")))
    assert found.splits == ("train", "dev", "testing")
    assert listed(found)["TESTING/cat/2.jpg"] == (0, "testing")


def test_split_folders_without_classes(tmp_path: Path) -> None:
    found = Found(str(folder(tmp_path, "train/1.jpg", "test/2.jpg", "3.jpg")))
    assert found.text == "split folders (test, train) of images without classes"
    assert listed(found) == {"test/2.jpg": (None, "test"), "train/1.jpg": (None, "train")}
    assert found.rejects == [("3.jpg", "no-split")]


def test_a_flat_folder(tmp_path: Path) -> None:
    found = Found(str(folder(tmp_path, "2.png", "1.jpg", "no_suffix")))
    assert found.text == "a flat folder without classes"
    assert found.class_names is None
    assert listed(found) == {name: (None, None) for name in ("1.jpg", "2.png", "no_suffix")}


def test_a_folder_named_like_a_split_beside_others_is_a_class(tmp_path: Path) -> None:
    found = Found(str(folder(tmp_path, "train/1.jpg", "car/2.jpg")))
    assert found.class_names == ("car", "train")
    assert found.text == "2 class folders, train among them"
    assert found.splits is None


def test_what_lies_beside_images_is_ignored_and_counted(tmp_path: Path) -> None:
    others = [".DS_Store", "cat/.hidden.jpg", ".git/x.jpg", "cat/Thumbs.db", "cat/1.xml", "labels.CSV", "README.md"]
    found = Found(str(folder(tmp_path, "cat/1.jpg", *others)))
    assert listed(found) == {"cat/1.jpg": (0, None)}
    assert found.ignored == len(others)
    assert found.rejects == []


def test_an_image_beside_the_class_folders_is_rejected(tmp_path: Path) -> None:
    found = Found(str(folder(tmp_path, "cat/1.jpg", "stray.jpg")))
    assert found.rejects == [("stray.jpg", "no-class")]


def test_a_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    folder(tmp_path, "cat/1.jpg")
    with open(os.fsencode(tmp_path) + b"/cat/\xff.jpg", "wb"):
        pass
    found = Found(str(tmp_path))
    assert listed(found) == {"cat/1.jpg": (0, None)}
    assert found.rejects == [("cat/\udcff.jpg", "file-name")]


def test_links_are_followed_once(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", "1.jpg")
    folder(tmp_path / "images", "cat/2.jpg")
    (tmp_path / "images/dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/cat/loop").symlink_to(tmp_path / "images")
    (tmp_path / "images/cat/gone.jpg").symlink_to(tmp_path / "nowhere")
    found = Found(str(tmp_path / "images"))
    assert set(listed(found)) == {"cat/2.jpg", "dog/1.jpg"}
    assert found.rejects == [("cat/gone.jpg", "not-a-file")]


def test_a_linked_class_is_a_class(tmp_path: Path) -> None:
    (folder(tmp_path, "cat/1.jpg") / "kitty").symlink_to(tmp_path / "cat")
    found = Found(str(tmp_path))
    assert listed(found) == {"cat/1.jpg": (0, None), "kitty/1.jpg": (1, None)}


def test_a_link_to_itself_is_rejected(tmp_path: Path) -> None:
    (folder(tmp_path, "cat/1.jpg") / "cat/loop.jpg").symlink_to(tmp_path / "cat/loop.jpg")
    assert Found(str(tmp_path)).rejects == [("cat/loop.jpg", "not-a-file")]


def test_a_pipe_is_rejected_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(folder(tmp_path, "cat/1.jpg") / "cat/pipe.jpg")
    assert Found(str(tmp_path)).rejects == [("cat/pipe.jpg", "not-a-file")]


def test_a_class_with_a_line_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the class 'c\\nt' has a line break in its name"):
        Found(str(folder(tmp_path, "c\nt/1.jpg")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "does not exist"),
        ("file", "is a file of a kind"),
        ("empty", "holds no images"),
    ],
)
def test_an_input_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=f"INPUT .*{name}: {message}"):
        Found(str(tmp_path / name))


def test_a_folder_of_other_files_says_how_many(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no images \(2 other files\)"):
        Found(str(folder(tmp_path, "a.csv", "b.txt")))


def test_a_folder_of_nothing_usable_says_why(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"holds no images \(1 other files; gone\.jpg: is a link to nowhere"):
        Found(str(tmp_path))


def test_real_folders(photos: Path, cifar10: Path, odd: Path) -> None:
    assert len(Found(str(photos)).class_names or ()) == 300
    assert Found(str(cifar10)).splits == ("train", "test")
    assert Found(str(odd)).text == "a flat folder without classes"


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (["car/1.jpg", "train/2.jpg", "car/3.jpg"], "took train for a class, by the name a split or a part of"),
        (["test1/1.jpg", "dog/1.jpg", "images/3.jpg"], "took images, test1 for classes, by the names a split or"),
        (["a/1.jpg", "b/2.jpg", "c/3.jpg"], "found 3 classes of one image each: if the folders are not classes, give"),
        (["train/cat/1.jpg", "val/cat/2.jpg"], "took cat for the only class, and so all labels are equal: for images"),
        (["train/cat.0.jpg", "train/cat.1.jpg", "train/dog.0.jpg", "train/dog.1.jpg"], "begin with cat, dog: if these"),
    ],
)
def test_folders_that_may_be_something_else_are_a_warning(tmp_path: Path, names: list[str], warning: str) -> None:
    for found in (
        Found(str(folder(tmp_path / "in", *names))).layout,
        found_archive(make_tar(tmp_path / "a.tar", dict.fromkeys(names, b""))).layout,
    ):
        assert warning in found.warnings[0]


@pytest.mark.parametrize(
    ("odd", "warns"),
    [(["mask"], 0), (["Train"], 0), (["images"], 1), (["test1"], 1), (["val"], 1), (["mask", "train"], 1)],
)
def test_one_of_many_classes_may_be_a_thing_of_such_a_name(tmp_path: Path, odd: list[str], warns: int) -> None:
    names = [f"{name}/{number}.jpg" for name in (*odd, *(f"thing {n}" for n in range(30))) for number in (1, 2)]
    assert len(Found(str(folder(tmp_path, *names))).layout.warnings) == warns


@pytest.mark.parametrize(
    "names", [["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], ["IMG_1.jpg", "IMG_2.jpg"], ["train/a/1.jpg", "test/b/2.jpg"]]
)
def test_plain_folders_give_no_warning(tmp_path: Path, names: list[str]) -> None:
    assert Found(str(folder(tmp_path, *names))).layout.warnings == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/1.jpg", "gt/1.jpg"], "gt, images would be classes, and are images and what belongs to them"),
        (["train/images/1.jpg", "train/gt/1.jpg"], "gt, images would be classes"),
        (["train/train/cat.0.jpg", "train/train/dog.0.jpg"], "train would be classes, and are named like splits"),
        (["train/train/cat.0.jpg", "test1/test1/1.jpg"], "test1, train would be classes, and are named like splits"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Found(str(folder(tmp_path / "in", *names)))
    with pytest.raises(UsageError, match=message):
        found_archive(make_tar(tmp_path / "a.tar", dict.fromkeys(names, b"")))


def test_files_that_look_like_labels_are_named_with_what_reads_them(tmp_path: Path) -> None:
    place = folder(tmp_path, "cat/1.jpg", "cat/1.xml", "labels.csv", "README.md", "a.json", "classes.txt", "cat/2.txt")
    (place / "cat/2.txt").write_text("0 0.5 0.5 0.25 0.125\n1 .5 .5 1 9.5e-05\n")
    (place / "cat/1.xml").write_text("<annotation verified='yes'>")
    reasons = {one.what: one.why for one in Found(str(place)).layout.left_out}
    assert reasons == {
        "1 .csv file, as labels.csv": "not images; if it has labels, as a table with a path in each row:"
        f" image-shards prepare {place}/labels.csv OUTPUT --root {place}",
        "1 .json file, as a.json": "not images; if it has annotations of COCO:"
        f" image-shards prepare {place}/a.json OUTPUT --root {place}",
        "1 .md file, as README.md": "not images",
        "2 .txt files, as cat/2.txt": f"not images; boxes of YOLO: image-shards prepare {place} OUTPUT --source yolo",
        "1 .xml file, as cat/1.xml": f"not images; boxes of Pascal VOC: image-shards prepare {place} OUTPUT --source"
        " voc",
    }
    (place / "cat/2.txt").write_text("a note about 5 cats\n")
    (place / "cat/1.xml").write_text("<kml/>")
    assert {"2 .txt files, as cat/2.txt", "1 .xml file, as cat/1.xml"} <= {
        one.what for one in Found(str(place)).layout.left_out if one.why == "not images"
    }
