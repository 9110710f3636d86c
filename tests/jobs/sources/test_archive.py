"""Archives as people have them: the same as the folder they hold."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.sources import FILES, Found, found_archive, make, make_tar, make_zip, upload

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.folder import Folder

LISTED = {"cat/1.jpg": ("cat", None), "cat/deep/2.PNG": ("cat", None), "dog/3.webp": ("dog", None)}


def test_photos_are_the_same_as_folder_tar_and_zip(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, ".")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in photos.rglob("*"):
            archive.write(path, path.relative_to(photos))
    folder = Found(Folder(SourceOptions(input=str(photos))))
    for name in ("photos.tar", "photos.zip"):
        archived = found_archive(tmp_path / name)
        assert archived.labels == folder.labels
        assert archived.text == f"a {name[-3:]} archive of 300 class folders"
        assert archived.layout.class_names == folder.layout.class_names
        assert archived.rejects == {}
        assert archived.ignored == 0
        for id in folder.entries:
            assert archived.entries[id].size == folder.entries[id].size
            assert archived.read(id) == folder.read(id)


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_class_folders(tmp_path: Path, suffix: str, bucket: str) -> None:
    path = make(tmp_path / f"a.{suffix}", FILES)
    for place in (path, upload(path, f"{bucket}/a.{suffix}")):
        archive = found_archive(place)
        assert archive.labels == LISTED
        assert {id: archive.read(id) for id in FILES} == FILES
        assert archive.text == f"a {suffix} archive of 2 class folders"


def test_nested_classes(tmp_path: Path) -> None:
    archive = found_archive(make_tar(tmp_path / "a.tar", FILES), nested_classes=True)
    assert archive.layout.class_names == ("cat", "cat/deep", "dog")
    assert archive.entries["cat/deep/2.PNG"].label == "cat/deep"


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_split_folders_in_an_archive(tmp_path: Path, suffix: str) -> None:
    files = {"./train/cat/1.jpg": b"1", "./val/cat/2.jpg": b"2", "./3.jpg": b"3"}
    archive = found_archive(make(tmp_path / f"a.{suffix}", files))
    assert archive.labels == {"train/cat/1.jpg": ("cat", "train"), "val/cat/2.jpg": ("cat", "val")}
    assert archive.layout.splits == ("train", "val")
    assert archive.rejects["3.jpg"] == ("no-class", "lies beside the split or class folders, in none of them")
    assert archive.text == f"a {suffix} archive of split folders (train, val) of 1 class folder, cat"


@pytest.mark.parametrize("where", ["local", "url"])
def test_a_folder_of_archives(tmp_path: Path, where: str, bucket: str) -> None:
    make_tar(tmp_path / "a.tar", {"cat/1.jpg": b"1"})
    make_zip(tmp_path / "more/b.zip", {"dog/1.jpg": b"2"})
    (tmp_path / "README.md").write_bytes(b"")
    (tmp_path / "stray.jpg").write_bytes(b"3")
    place: object = tmp_path
    if where == "url":
        place = bucket
        for name in ("a.tar", "more/b.zip", "README.md", "stray.jpg"):
            upload(tmp_path / name, f"{bucket}/{name}")
    archives = found_archive(place)
    assert archives.labels == {"a.tar/cat/1.jpg": ("cat", None), "more/b.zip/dog/1.jpg": ("dog", None)}
    assert [archives.read(id) for id in archives.entries] == [b"1", b"2"]
    assert archives.text == "2 archives of 2 class folders"
    assert archives.rejects == {"stray.jpg": ("other-file", "is another kind of file than INPUT's")}
    assert archives.ignored == 1


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("train/0.tar", "val/0.tar"), "split folders (train, val) of 2 tar archives of 1 class folder, cat"),
        (
            ("Train/0.tar", "VALIDATION/0.tar"),
            "split folders (train, validation) of 2 tar archives of 1 class folder, cat",
        ),
        (("pets-train-0.tar", "pets-val-0.tar"), "split files (train, val) of 2 tar archives of 1 class folder, cat"),
    ],
)
def test_archives_of_splits(tmp_path: Path, names: tuple[str, str], text: str) -> None:
    for name in names:
        make_tar(tmp_path / name, {"cat/1.jpg": b"1"})
    val = "validation" if "VALIDATION/0.tar" in names else "val"
    archives = found_archive(tmp_path)
    assert archives.labels == {f"{names[0]}/cat/1.jpg": ("cat", "train"), f"{names[1]}/cat/1.jpg": ("cat", val)}
    assert archives.layout.splits == ("train", val)
    assert archives.text == text


def test_archives_of_which_some_have_a_split_in_their_names(tmp_path: Path) -> None:
    for name in ("a.tar", "Test.tar"):
        make_tar(tmp_path / name, {"cat/1.jpg": b"1"})
    archives = found_archive(tmp_path)
    assert archives.labels == {"Test.tar/cat/1.jpg": ("cat", "test"), "a.tar/cat/1.jpg": ("cat", "train")}
    assert archives.layout.splits == ("train", "test")
    assert archives.text.startswith(
        "split files (test, train; train are those without a split in their names) of 2 tar"
    )
    make_tar(tmp_path / "train.tar", {"cat/1.jpg": b"1"})
    assert found_archive(tmp_path).layout.splits is None


def test_an_archive_beside_split_folders_is_rejected(tmp_path: Path) -> None:
    make_tar(tmp_path / "train/a.tar", {"cat/1.jpg": b"1"})
    make_tar(tmp_path / "b.tar", {"cat/2.jpg": b"1"})
    assert found_archive(tmp_path).rejects == {
        "b.tar/cat/2.jpg": ("no-split", "its file lies beside the split folders")
    }


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_what_is_no_image_is_ignored_and_counted(tmp_path: Path, suffix: str) -> None:
    others = ["__MACOSX/cat/._1.jpg", "cat/.DS_Store", ".git/x.jpg", "README.md", "cat/x.csv"]
    archive = found_archive(make(tmp_path / f"a.{suffix}", {**FILES, **dict.fromkeys(others, b"")}))
    assert archive.labels == LISTED
    assert archive.ignored == len(others)
    assert archive.rejects == {}


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_paths_that_lead_elsewhere_are_only_ids(tmp_path: Path, suffix: str) -> None:
    names = ["../cat/1.jpg", "/cat/2.jpg", "/../dog/./3.jpg"]
    archive = found_archive(make(tmp_path / f"a.{suffix}", dict.fromkeys(names, b"1")))
    assert {id: entry.label for id, entry in archive.entries.items()} == dict(
        zip(names, ["cat", "cat", "dog"], strict=True)
    )
    assert [archive.read(name) for name in names] == [b"1"] * 3
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


def test_inputs_that_hold_nothing(tmp_path: Path, bucket: str) -> None:
    make_tar(tmp_path / "a.tar", {"README.md": b""})
    with pytest.raises(UsageError, match=r"INPUT .*a\.tar: holds no images \(1 other files\)"):
        found_archive(tmp_path / "a.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"INPUT .*empty: holds no tar or zip archive"):
        found_archive(tmp_path / "empty")
    for place in (tmp_path / "gone.tar", f"{bucket}/gone.tar"):
        with pytest.raises(UsageError, match=r"INPUT .*gone\.tar: does not exist"):
            found_archive(place)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--path-column x: has no meaning where INPUT is an archive; leave it out"):
        found_archive(tmp_path, path_column="x")


def test_archives_without_values_do_not_decide_for_the_others(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"1.png": b"1"})
    make_tar(tmp_path / "b.tar", {"2.png": b"2", "2.cls": b"dog"})
    archives = found_archive(tmp_path)
    assert "WebDataset layout (labels from .cls)" in archives.text
    assert archives.entries["b.tar/2.png"].label == "dog"
    assert archives.entries["a.tar/1.png"].label is None  # which becomes a reject: the others have one
