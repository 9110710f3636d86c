"""Archives as people have them: the same as the folder they hold, and WebDataset as its own writer writes it."""

from __future__ import annotations

import gc
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import webdataset

from beam_jobs.errors import UsageError
from beam_jobs.sources import BadInput, Entry, Problem, Reference, Source
from beam_jobs.sources.archive import Archive
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.folder import Folder

FILES = {"cat/1.jpg": b"one" * 500, "cat/deep/2.PNG": b"two", "dog/3.webp": b"three" * 9}
LISTED = {"cat/1.jpg": ("cat", None), "cat/deep/2.PNG": ("cat", None), "dog/3.webp": ("dog", None)}


class Found:
    """Everything that a source lists, by id, and what its workers read."""

    def __init__(self, source: Source) -> None:
        entries = sorted(source.entries(), key=lambda entry: entry.id)
        self.layout = source.layout()
        self.text, self.ignored = self.layout.text, self.layout.ignored
        self.entries: dict[str, Entry] = {}
        self.rejects: dict[str, tuple[str, str]] = {}
        for entry in entries:
            found = source.resolve(entry)
            if isinstance(found, Problem):
                self.rejects[entry.id] = tuple(found)
            else:
                self.entries[found.id] = found
        self._worker = type(source)(source.options)

    @property
    def labels(self) -> dict[str, tuple[Any, str | None]]:
        return {id: (entry.label, entry.split) for id, entry in self.entries.items()}

    def read(self, id: str) -> Any:
        entry = self.entries[id]
        return self._worker.read(Reference(id, entry.size, entry.place))


def found(path: object, **options: Any) -> Found:
    return Found(Archive(SourceOptions(input=str(path), **options)))


def make_tar(path: Path, files: dict[str, bytes], format: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    return (make_zip if path.suffix == ".zip" else make_tar)(path, files)


@pytest.fixture
def bucket() -> Iterator[str]:
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def upload(path: Path, url: str) -> str:
    fsspec.filesystem("memory").put_file(str(path), url)
    return url


def test_photos_are_the_same_as_folder_tar_and_zip(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, ".")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in photos.rglob("*"):
            archive.write(path, path.relative_to(photos))
    folder = Found(Folder(SourceOptions(input=str(photos))))
    for name in ("photos.tar", "photos.zip"):
        archived = found(tmp_path / name)
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
        archive = found(place)
        assert archive.labels == LISTED
        assert {id: archive.read(id) for id in FILES} == FILES
        assert archive.text == f"a {suffix} archive of 2 class folders"


def test_nested_classes(tmp_path: Path) -> None:
    archive = found(make_tar(tmp_path / "a.tar", FILES), nested_classes=True)
    assert archive.layout.class_names == ("cat", "cat/deep", "dog")
    assert archive.entries["cat/deep/2.PNG"].label == "cat/deep"


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_split_folders_in_an_archive(tmp_path: Path, suffix: str) -> None:
    files = {"./train/cat/1.jpg": b"1", "./val/cat/2.jpg": b"2", "./3.jpg": b"3"}
    archive = found(make(tmp_path / f"a.{suffix}", files))
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
    archives = found(place)
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
    archives = found(tmp_path)
    assert archives.labels == {f"{names[0]}/cat/1.jpg": ("cat", "train"), f"{names[1]}/cat/1.jpg": ("cat", val)}
    assert archives.layout.splits == ("train", val)
    assert archives.text == text


def test_archives_of_which_some_have_a_split_in_their_names(tmp_path: Path) -> None:
    for name in ("a.tar", "Test.tar"):
        make_tar(tmp_path / name, {"cat/1.jpg": b"1"})
    archives = found(tmp_path)
    assert archives.labels == {"Test.tar/cat/1.jpg": ("cat", "test"), "a.tar/cat/1.jpg": ("cat", "train")}
    assert archives.layout.splits == ("train", "test")
    assert archives.text.startswith(
        "split files (test, train; train are those without a split in their names) of 2 tar"
    )
    make_tar(tmp_path / "train.tar", {"cat/1.jpg": b"1"})
    assert found(tmp_path).layout.splits is None


def test_an_archive_beside_split_folders_is_rejected(tmp_path: Path) -> None:
    make_tar(tmp_path / "train/a.tar", {"cat/1.jpg": b"1"})
    make_tar(tmp_path / "b.tar", {"cat/2.jpg": b"1"})
    assert found(tmp_path).rejects == {"b.tar/cat/2.jpg": ("no-split", "its file lies beside the split folders")}


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
    archive = found(path)
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
    )
    archive = found(path)
    assert archive.labels == {"1.jpg": ("cat", None), "2.jpg": (-3, None), "4.jpg": (None, None)}
    assert archive.rejects == {"3.jpg": ("bad-label", "its .cls is empty")}


def test_webdataset_labels_and_fields_from_json(tmp_path: Path) -> None:
    values = {"label": "cat", "breed": "tabby", "width": 4, "score": 0.5}
    path = write_webdataset(tmp_path / "a.tar", {"__key__": "1", "png": b"1", "json": values})
    archive = found(path)
    assert archive.text == "a tar archive in WebDataset layout (labels from label in .json)"
    assert archive.entries["1.png"].label == "cat"
    assert archive.entries["1.png"].fields == {"breed": "tabby", "score": 0.5}
    archive = found(path, label_column="breed", fields=("width",))
    assert archive.entries["1.png"].label == "tabby"
    assert archive.entries["1.png"].fields == {"width": 4}
    with pytest.raises(UsageError, match=r"--fields colour: INPUT .*a\.tar has no such values; it has breed, label, s"):
        found(path, fields=("colour",))
    with pytest.raises(UsageError, match=r"--label-column kind: INPUT .*a\.tar has no such values"):
        found(path, label_column="kind")


def test_webdataset_without_labels_has_those_of_its_folders(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"cat/1.jpg": b"", "cat/1.txt": b"x", "dog/1.jpg": b"", "dog/1.json": b"{}"})
    archive = found(path)
    assert archive.labels == {"cat/1.jpg": ("cat", None), "dog/1.jpg": ("dog", None)}
    assert archive.text == "a tar archive in WebDataset layout of 2 class folders"


def test_webdataset_in_a_zip_and_a_bucket(tmp_path: Path, bucket: str) -> None:
    files = {"1.jpg": b"one", "1.cls": b"5", "2.jpg": b"two", "2.cls": b"6"}
    for name in ("a.tar", "a.zip"):
        archive = found(upload(make(tmp_path / name, files), f"{bucket}/{name}"))
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
    archive = found(make_tar(tmp_path / "a.tar", files))
    assert {id: entry.label for id, entry in archive.entries.items()} == {
        "1.jpg": 0,
        "7.jpg": 1,
        "9.jpg": None,
    }
    assert archive.ignored == 1  # the mask
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
    archive = found(path)
    assert archive.labels == {"2.jpg": (8, None)}
    assert archive.rejects == {
        "1": ("several-images", "has the images .jpg and .png; choose with --image-key jpg"),
    }
    archive = found(path, image_key="jpg")
    assert archive.labels == {"1.jpg": (7, None), "2.jpg": (8, None)}
    assert archive.text == "a tar archive in WebDataset layout (images in .jpg, labels from .cls)"
    assert archive.ignored == 2
    archive = found(path, image_key=".seg.png")
    assert archive.read("1.seg.png") == b"s1"
    assert archive.rejects == {"2": ("no-image", "none of cls, jpg is .seg.png, which --image-key names")}
    with pytest.raises(UsageError) as caught:
        found(path, image_key="webp")
    assert str(caught.value) == (
        f"INPUT {path}: holds no images (2 other files; 1: none of cls, jpg, png, seg.png is .webp, which --image-key"
        " names)"
    )


def test_webdataset_of_inputs_and_outputs(tmp_path: Path) -> None:
    files = {f"{n}.{kind}": data for n in range(3) for kind, data in (("input.jpg", b"%d" % n), ("output.cls", b"4"))}
    archive = found(make_tar(tmp_path / "a.tar", files), image_key="input.jpg")
    assert archive.text == "a tar archive in WebDataset layout (images in .input.jpg, labels from .output.cls)"
    assert archive.labels == {f"{n}.input.jpg": (4, None) for n in range(3)}
    assert archive.read("2.input.jpg") == b"2"
    more = {name.replace("output", "other"): data for name, data in files.items() if name.endswith("cls")}
    archive = found(make_tar(tmp_path / "b.tar", dict(sorted((files | more).items()))), image_key="input.jpg")
    assert archive.text.endswith(" in WebDataset layout (images in .input.jpg) of images without classes")


def test_webdataset_nested_json_that_nobody_asks_for(tmp_path: Path) -> None:
    files = {"1.jpg": b"", "1.json": b'{"label": 3, "who": {"name": "x"}, "score": 1}'}
    path = make_tar(tmp_path / "a.tar", files)
    with pytest.raises(UsageError) as caught:
        found(path)
    assert str(caught.value) == (
        f"INPUT {path}: holds no images (1 other files; 1.jpg: its .json has who nested: values are numbers, texts, and"
        " lists of them; leave it out with --fields)"
    )
    archive = found(path, fields=("score",))
    assert archive.labels == {"1.jpg": (3, None)}
    assert archive.entries["1.jpg"].fields == {"score": 1}


def test_a_key_of_very_many_members_is_refused(tmp_path: Path) -> None:
    files = {"a.jpg": b"", "a.cls": b"1", "film.json": b"{}"} | {f"film.{n:04d}.jpg": b"" for n in range(1001)}
    with pytest.raises(UsageError, match=r"a\.tar: more than 1,000 members have the key 'film', their path up to"):
        found(make_tar(tmp_path / "a.tar", files))


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_what_is_no_image_is_ignored_and_counted(tmp_path: Path, suffix: str) -> None:
    others = ["__MACOSX/cat/._1.jpg", "cat/.DS_Store", ".git/x.jpg", "README.md", "cat/x.csv"]
    archive = found(make(tmp_path / f"a.{suffix}", {**FILES, **dict.fromkeys(others, b"")}))
    assert archive.labels == LISTED
    assert archive.ignored == len(others)
    assert archive.rejects == {}


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_paths_that_lead_elsewhere_are_only_ids(tmp_path: Path, suffix: str) -> None:
    names = ["../cat/1.jpg", "/cat/2.jpg", "/../dog/./3.jpg"]
    archive = found(make(tmp_path / f"a.{suffix}", dict.fromkeys(names, b"1")))
    assert {id: entry.label for id, entry in archive.entries.items()} == dict(
        zip(names, ["cat", "cat", "dog"], strict=True)
    )
    assert [archive.read(name) for name in names] == [b"1"] * 3
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


def test_links_devices_and_holes_in_a_tar_are_rejected(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in [
            ("cat/0.jpg", tarfile.REGTYPE),
            ("cat/1.jpg", tarfile.SYMTYPE),
            ("cat/2.jpg", tarfile.LNKTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "cat/0.jpg" if kind != tarfile.REGTYPE else ""
            tar.addfile(info)
        info = tarfile.TarInfo("cat/3.jpg")
        info.type = tarfile.FIFOTYPE
        tar.addfile(info)
        info = tarfile.TarInfo("cat/4.jpg")
        info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "512", "GNU.sparse.name": "cat/4.jpg"}
        tar.addfile(info)
    assert found(tmp_path / "a.tar").rejects == {
        "cat/1.jpg": ("not-a-file", "is a link to cat/0.jpg; add the file itself to the archive"),
        "cat/2.jpg": ("not-a-file", "is a link to cat/0.jpg; add the file itself to the archive"),
        "cat/3.jpg": ("not-a-file", "is a pipe, a device or something unknown"),
        "cat/4.jpg": ("sparse", "is stored with holes; make the archive without --sparse"),
    }


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format_of_tar(tmp_path: Path, format: int) -> None:
    names = ["dog/short.jpg", f"cät/{'n' * 90}.jpg", f"{'k' * 80}/{'n' * 60}.jpg"]
    archive = found(make_tar(tmp_path / "a.tar", {name: name.encode() for name in names}, format))
    assert {id: archive.read(id) for id in archive.entries} == {name: name.encode() for name in names}


def test_a_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    archive = found(make_tar(tmp_path / "a.tar", {"cat/\udcff.jpg": b"", "cat/1.jpg": b""}))
    assert archive.rejects == {"cat/\udcff.jpg": ("file-name", "the name is not UTF-8")}


def test_zips_from_windows_and_with_something_before_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("cat/1.jpg")
        info.create_system, info.filename = 0, "cat\\1.jpg"
        archive.writestr(info, b"one")
    (tmp_path / "b.zip").write_bytes(b"#!/bin/sh\n" + (tmp_path / "a.zip").read_bytes())
    for name in ("a.zip", "b.zip"):
        zipped = found(tmp_path / name)
        assert zipped.labels == {"cat/1.jpg": ("cat", None)}
        assert zipped.read("cat/1.jpg") == b"one"


def test_a_zip_with_64_bit_places(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(70_000):
            archive.writestr(zipfile.ZipInfo(f"cat/{number:05d}.jpg"), b"%d" % number)
        with archive.open(zipfile.ZipInfo("cat/large.jpg"), "w", force_zip64=True) as file:
            file.write(b"large")
    zipped = found(tmp_path / "a.zip")
    assert len(zipped.entries) == 70_001
    assert zipped.read("cat/69999.jpg") == b"69999"
    assert zipped.read("cat/large.jpg") == b"large"


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_listing_keeps_nothing_of_a_member(tmp_path: Path, suffix: str) -> None:
    path = make(tmp_path / f"a.{suffix}", {f"cat/{number:05d}.jpg": b"" for number in range(5000)})
    source = Archive(SourceOptions(input=str(path)))
    entries = source.entries()
    next(entries)
    tracemalloc.start()
    assert sum(1 for _ in entries) == 4999
    assert tracemalloc.get_traced_memory()[0] < 300_000
    tracemalloc.stop()


def test_methods_that_cannot_be_read_are_rejected(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cat/1.jpg", b"1", zipfile.ZIP_LZMA)
        archive.writestr("cat/2.jpg", b"1")
        link = zipfile.ZipInfo("cat/3.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "2.jpg")
    assert found(tmp_path / "a.zip").rejects == {
        "cat/1.jpg": ("compression", "is compressed by LZMA; make the archive with deflate or none: zip -0"),
        "cat/3.jpg": ("not-a-file", "is a link; add the file itself to the archive"),
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_a_zip_is_found(tmp_path: Path, method: int) -> None:
    path = make_zip(tmp_path / "a.zip", {"cat/1.jpg": os.urandom(1000)}, method)
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="its bytes in the archive are damaged") as caught:
        found(path).read("cat/1.jpg")
    assert caught.value.reason == "damaged"
    path.write_bytes(b"\0" + data)
    archive = found(path)
    path.write_bytes(data)  # another archive since it was listed
    with pytest.raises(BadInput, match="the archive has no member at byte 1"):
        archive.read("cat/1.jpg")


def test_a_member_of_a_tar_that_has_become_shorter(tmp_path: Path) -> None:
    archive = found(make_tar(tmp_path / "a.tar", FILES))
    os.truncate(tmp_path / "a.tar", 1000)
    with pytest.raises(BadInput, match="the archive ends 1012 bytes before its end"):
        archive.read("cat/1.jpg")
    (tmp_path / "a.tar").unlink()
    with pytest.raises(FileNotFoundError):
        archive.read("cat/1.jpg")


TAR_END = 512 + 1536 + 512 + 512 + 512 + 512


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "is empty; make or copy it again"),
        (100, "is no tar archive; make or copy it again"),
        (1000, "was cut off at byte 1,000, in the member cat/1.jpg; copy it again"),
        (2048, "ends at byte 2,048, after the member cat/1.jpg, without the end of a tar; copy it again"),
        (2100, "the header at byte 2,048, after the member cat/1.jpg, was cut off; make or copy it again"),
        (TAR_END, f"ends at byte {TAR_END:,}, after the member dog/3.webp, without the end of a tar; copy it again"),
    ],
)
def test_a_tar_that_was_cut_off(tmp_path: Path, size: int, message: str) -> None:
    path = make_tar(tmp_path / "a.tar", FILES)
    os.truncate(path, size)
    with pytest.raises(UsageError) as caught:
        found(path)
    assert str(caught.value) == f"INPUT {path}: {message}"


def test_a_tar_with_a_damaged_header(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", FILES)
    data = bytearray(path.read_bytes())
    data[2048] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"the header at byte 2,048, after the member cat/1\.jpg, is damaged"):
        found(path)


def test_a_tar_whose_member_has_a_negative_size(tmp_path: Path) -> None:
    info = tarfile.TarInfo("cat/1.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 8 + struct.pack(">i", -512)
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(10_240))
    with pytest.raises(UsageError, match=r"the header at byte .* is damaged|is no tar archive"):
        found(tmp_path / "a.tar")


def test_concatenated_tars_are_refused(tmp_path: Path) -> None:
    data = make_tar(tmp_path / "a.tar", {"cat/1.jpg": b"1"}).read_bytes()
    (tmp_path / "a.tar").write_bytes(data + data)
    with pytest.raises(UsageError, match=r"goes on at byte 10,240, after its end, after the member cat/1\.jpg, as"):
        found(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.tar.gz", "is compressed as a whole, without random access; unpack it first: gunzip DIR/a.tar.gz"),
        ("a.TGZ", "is compressed as a whole, without random access; unpack it first: gunzip DIR/a.TGZ"),
        ("a.tar.bz2", "is compressed as a whole, without random access; unpack it first: bzip2 -d DIR/a.tar.bz2"),
        ("a.tar.xz", "is compressed as a whole, without random access; unpack it first: xz -d DIR/a.tar.xz"),
        ("a.tar.zst", "is compressed as a whole, without random access; unpack it first: zstd -d DIR/a.tar.zst"),
        ("a.rar", "is an archive without random access; unpack it, and give the folder"),
        (
            "a.tar",
            "is compressed by gzip, without random access; unpack it first: gzip -dc DIR/a.tar > DIR/a.plain.tar",
        ),
        ("a.zip", "is no zip archive, or was cut off: the list of members at its end is missing; copy it again"),
        ("a.jpg", "is no tar or zip archive (.tar, .zip)"),
    ],
)
def test_files_that_are_no_archives(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    message = message.replace("DIR", str(tmp_path))
    with tarfile.open(path, "w:gz") as tar:
        tar.add(__file__, "x.py")
    with pytest.raises(UsageError) as caught:
        found(path)
    assert str(caught.value) == f"INPUT {path}: {message}"
    if not name.endswith(".jpg"):
        with pytest.raises(UsageError) as caught:
            found(tmp_path)
        assert str(caught.value) == f"INPUT {path}: {message}"


def test_zips_that_are_broken(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", FILES)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(UsageError, match=r"a\.zip: is no zip archive, or was cut off"):
        found(path)
    path.write_bytes(data[100:])
    with pytest.raises(UsageError, match=r"a\.zip: the zip archive lacks 100 bytes; copy it again"):
        found(path)
    path.write_bytes(data.replace(b"PK\1\2", b"PK\1\3"))
    with pytest.raises(UsageError, match=r"a\.zip: the list of members is damaged at byte \d+; make or copy it again"):
        found(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"cat/1.jpg": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        found(path)
    assert str(caught.value) == (
        f"INPUT {path}: the member cat/1.jpg is encrypted; unpack the archive with its password"
        " (7z x FILE -pPASSWORD), and give the folder"
    )


def test_inputs_that_hold_nothing(tmp_path: Path, bucket: str) -> None:
    make_tar(tmp_path / "a.tar", {"README.md": b""})
    with pytest.raises(UsageError, match=r"INPUT .*a\.tar: holds no images \(1 other files\)"):
        found(tmp_path / "a.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"INPUT .*empty: holds no tar or zip archive"):
        found(tmp_path / "empty")
    for place in (tmp_path / "gone.tar", f"{bucket}/gone.tar"):
        with pytest.raises(UsageError, match=r"INPUT .*gone\.tar: does not exist"):
            found(place)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--boxes x,y: has no meaning where INPUT is an archive; leave it out"):
        found(tmp_path, boxes=("x", "y"))


def test_archives_without_values_do_not_decide_for_the_others(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"1.png": b"1"})
    make_tar(tmp_path / "b.tar", {"2.png": b"2", "2.cls": b"dog"})
    archives = found(tmp_path)
    assert "WebDataset layout (labels from .cls)" in archives.text
    assert archives.entries["b.tar/2.png"].label == "dog"
    assert archives.entries["a.tar/1.png"].label is None  # which becomes a reject: the others have one


def test_components_with_a_suffix_of_an_image_are_no_images_of_their_own(tmp_path: Path) -> None:
    files = {"1.input.png": b"1", "1.seg.png": b"2", "1.json": b'{"label": "dog"}'}
    with pytest.raises(UsageError, match=r"holds no images .*none of input\.png, json, seg\.png is an image"):
        found(make_tar(tmp_path / "a.tar", files))
    archives = found(tmp_path / "a.tar", image_key="input.png")
    assert [entry.label for entry in archives.entries.values()] == ["dog"]
