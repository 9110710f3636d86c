"""Members of tars and zips that are unusual, damaged or no files, and archives that are broken."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from support.sources import FILES, found_archive, make, make_tar, make_zip

from beam_jobs.errors import UsageError
from beam_jobs.sources import BadInput
from beam_jobs.sources.archive import Archive
from beam_jobs.sources.files.interface import SourceOptions


def test_links_devices_and_holes_in_a_tar_are_rejected(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in [
            ("cat/0.jpg", tarfile.REGTYPE),
            ("cat/1.jpg", tarfile.SYMTYPE),
            ("cat/2.jpg", tarfile.LNKTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, {"1": "cat/5.jpg", "2": "cat/0.jpg"}.get(kind.decode(), "")
            tar.addfile(info)
        info = tarfile.TarInfo("cat/3.jpg")
        info.type = tarfile.FIFOTYPE
        tar.addfile(info)
        info = tarfile.TarInfo("cat/4.jpg")
        info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "512", "GNU.sparse.name": "cat/4.jpg"}
        tar.addfile(info)
    assert found_archive(tmp_path / "a.tar").rejects == {
        "cat/1.jpg": ("not-a-file", "is a link to cat/0.jpg; add the file itself to the archive"),
        "cat/2.jpg": ("not-a-file", "is a link to cat/5.jpg, which is not before it"),
        "cat/3.jpg": ("not-a-file", "is a pipe, a device or something unknown"),
        "cat/4.jpg": ("sparse", "is stored with holes; make the archive without --sparse"),
    }


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format_of_tar(tmp_path: Path, format: int) -> None:
    names = ["dog/short.jpg", f"cät/{'n' * 90}.jpg", f"{'k' * 80}/{'n' * 60}.jpg"]
    archive = found_archive(make_tar(tmp_path / "a.tar", {name: name.encode() for name in names}, format))
    assert {id: archive.read(id) for id in archive.entries} == {name: name.encode() for name in names}


def test_a_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    archive = found_archive(make_tar(tmp_path / "a.tar", {"cat/\udcff.jpg": b"", "cat/1.jpg": b""}))
    assert archive.rejects == {"cat/\udcff.jpg": ("file-name", "the name is not UTF-8")}


def test_zips_from_windows_and_with_something_before_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("cat/1.jpg")
        info.create_system, info.filename = 0, "cat\\1.jpg"
        archive.writestr(info, b"one")
    (tmp_path / "b.zip").write_bytes(b"#!/bin/sh\n" + (tmp_path / "a.zip").read_bytes())
    for name in ("a.zip", "b.zip"):
        zipped = found_archive(tmp_path / name)
        assert zipped.labels == {"cat/1.jpg": ("cat", None)}
        assert zipped.read("cat/1.jpg") == b"one"


def test_a_zip_with_64_bit_places(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(70_000):
            archive.writestr(zipfile.ZipInfo(f"cat/{number:05d}.jpg"), b"%d" % number)
        with archive.open(zipfile.ZipInfo("cat/large.jpg"), "w", force_zip64=True) as file:
            file.write(b"large")
    zipped = found_archive(tmp_path / "a.zip")
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
    assert found_archive(tmp_path / "a.zip").rejects == {
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
        found_archive(path).read("cat/1.jpg")
    assert caught.value.reason == "damaged"
    path.write_bytes(b"\0" + data)
    archive = found_archive(path)
    path.write_bytes(data)  # another archive since it was listed
    with pytest.raises(BadInput, match="the archive has no member at byte 1"):
        archive.read("cat/1.jpg")


def test_a_member_of_a_tar_that_has_become_shorter(tmp_path: Path) -> None:
    archive = found_archive(make_tar(tmp_path / "a.tar", FILES))
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
        found_archive(path)
    assert str(caught.value) == f"INPUT {path}: {message}"


def test_a_tar_with_a_damaged_header(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", FILES)
    data = bytearray(path.read_bytes())
    data[2048] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"the header at byte 2,048, after the member cat/1\.jpg, is damaged"):
        found_archive(path)


def test_a_tar_whose_member_has_a_negative_size(tmp_path: Path) -> None:
    info = tarfile.TarInfo("cat/1.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 8 + struct.pack(">i", -512)
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(10_240))
    with pytest.raises(UsageError, match=r"the header at byte .* is damaged|is no tar archive"):
        found_archive(tmp_path / "a.tar")


def test_concatenated_tars_are_refused(tmp_path: Path) -> None:
    data = make_tar(tmp_path / "a.tar", {"cat/1.jpg": b"1"}).read_bytes()
    (tmp_path / "a.tar").write_bytes(data + data)
    with pytest.raises(UsageError, match=r"goes on at byte 10,240, after its end, after the member cat/1\.jpg, as"):
        found_archive(tmp_path / "a.tar")


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
        found_archive(path)
    assert str(caught.value) == f"INPUT {path}: {message}"
    if not name.endswith(".jpg"):
        with pytest.raises(UsageError) as caught:
            found_archive(tmp_path)
        assert str(caught.value) == f"INPUT {path}: {message}"


def test_zips_that_are_broken(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", FILES)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(UsageError, match=r"a\.zip: is no zip archive, or was cut off"):
        found_archive(path)
    path.write_bytes(data[100:])
    with pytest.raises(UsageError, match=r"a\.zip: the zip archive lacks 100 bytes; copy it again"):
        found_archive(path)
    path.write_bytes(data.replace(b"PK\1\2", b"PK\1\3"))
    with pytest.raises(UsageError, match=r"a\.zip: the list of members is damaged at byte \d+; make or copy it again"):
        found_archive(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"cat/1.jpg": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        found_archive(path)
    assert str(caught.value) == (
        f"INPUT {path}: the member cat/1.jpg is encrypted; unpack the archive with its password"
        " (7z x FILE -pPASSWORD), and give the folder"
    )


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.size, info.linkname, info.type = len(data), link, tarfile.LNKTYPE if link else tarfile.REGTYPE
    tar.addfile(info, io.BytesIO(data))


def test_of_members_with_one_path_the_last_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in [("cat/0.jpg", b"old"), ("dog/1.jpg", b"dog"), ("./cat/0.jpg", b"new")]:
            add(tar, name, data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for name, data in [("cat/0.jpg", b"old"), ("dog/1.jpg", b"dog"), ("cat/0.jpg", b"new")]:
            archive.writestr(name, data)
    for suffix in ("tar", "zip"):
        found = found_archive(tmp_path / f"a.{suffix}")
        assert {id: found.read(id) for id in found.entries} == {"cat/0.jpg": b"new", "dog/1.jpg": b"dog"}
        assert found.ignored == 1
        assert "a later one has the same path" in found.layout.left_out[0].why


def test_a_hard_link_has_the_bytes_of_the_file_before_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "cat/0.jpg", b"first")
        add(tar, "dog/1.jpg", link="cat/0.jpg")
        add(tar, "cat/0.jpg", b"second")
        add(tar, "dog/2.jpg", link="./cat/0.jpg")
        add(tar, "dog/1.jpg.jpg", link="later.jpg")
        add(tar, "later.jpg", b"later")
    found = found_archive(tmp_path / "a.tar")
    read = {id: found.read(id) for id in found.entries}
    assert read == {"cat/0.jpg": b"second", "dog/1.jpg": b"first", "dog/2.jpg": b"second"}
    assert found.rejects["dog/1.jpg.jpg"] == ("not-a-file", "is a link to later.jpg, which is not before it")


def test_names_of_a_zip_are_those_that_unzip_gives(tmp_path: Path) -> None:
    names = ["\u00e9t\u00e9/0.jpg", "\u732b/1.jpg"]
    plain = {f"{n:0{len(name.encode())}d}".encode(): name.encode() for n, name in enumerate(names)}
    path = make_zip(tmp_path / "a.zip", {stand_in.decode(): b"1" for stand_in in plain})
    data = path.read_bytes()
    for stand_in, name in plain.items():  # as the archiver of macOS writes them: UTF-8, without the flag
        data = data.replace(stand_in, name)
    path.write_bytes(data)
    assert sorted(found_archive(path).entries) == names
    with zipfile.ZipFile(path, "w") as archive:
        for stand_in, name in plain.items():
            info = zipfile.ZipInfo(stand_in.decode())
            crc = zlib.crc32(stand_in)
            info.extra = struct.pack("<2HBL", 0x7075, 5 + len(name), 1, crc) + name
            archive.writestr(info, b"1")
    assert sorted(found_archive(path).entries) == names
