"""Arrays whose headers claim more than there is: one line, or rejects, before a row is read."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.limits import limited_command


def npy(shape: str, descr: str = "'|u1'", data: bytes = b"", header: str | None = None) -> bytes:
    text = header or f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text.encode() + data


def refused(path: Path, output: Path, *more: object) -> str:
    """The line of an error."""
    result = limited_command("prepare", path, output, *more)
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "error:" in line]
    assert f"error: INPUT {path}" in line
    return line


NPY = {
    "negative": (npy("(-2, 4, 4)", data=bytes(64)), "has the shape [-2, 4, 4], which no array has"),
    "negative-inside": (npy("(2, -4, -4)", data=bytes(64)), "has the shape [2, -4, -4], which no array has"),
    "not-whole": (npy("(2, 4.5, 4)", data=bytes(64)), "is no array of NumPy's"),
    "rows-without-bytes": (npy(f"({2**62}, 0, 4)"), "its images have no pixels"),
    "rows-beyond-the-file": (npy(f"({2**62}, 4, 4)", data=bytes(64)), "was cut off"),
    "a-header-of-gigabytes": (b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(64), "is no array of NumPy's"),
    "nested": (npy("", header="(" * 5000), "is no array of NumPy's"),
    "a-type-of-gigabytes": (npy("(2, 4, 4)", "'|S99999999999999999999'"), "is no array of NumPy's"),
    "no-type": (npy("(2, 4, 4)", "[('a', [('b', 3)])]"), "is no array of NumPy's"),
}


@pytest.mark.parametrize("name", NPY)
def test_headers_of_npy_that_lie(name: str, tmp_path: Path) -> None:
    data, message = NPY[name]
    (tmp_path / "in.npy").write_bytes(data)
    assert message in refused(tmp_path / "in.npy", tmp_path / "out")


def test_a_member_of_npz_that_claims_more_than_the_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as archive:
        archive.writestr("images\x1b[31m.npy", npy("(100000, 300, 300)", data=bytes(64)))
    data = bytearray((tmp_path / "in.npz").read_bytes())
    central = data.index(b"PK\1\2")
    data[central + 24 : central + 28] = b"\xf0\xff\xff\xff"  # its size, of which NumPy's reader would believe all
    (tmp_path / "in.npz").write_bytes(data)
    line = refused(tmp_path / "in.npz", tmp_path / "out")
    assert "images\\x1b[31m" in line and "was cut off" in line


def sparse(path: Path, head: bytes, size: int) -> None:
    """A file of a size that takes no room on a disk."""
    path.write_bytes(head)
    os.truncate(path, size)


def test_rows_beyond_max_pixels_are_rejects_and_are_not_read(tmp_path: Path) -> None:
    sparse(tmp_path / "in.npy", npy("(3, 20000, 20000)"), 2 << 30)
    result = limited_command("prepare", tmp_path / "in.npy", tmp_path / "out", "--max-rejects", "1.0", "--workers", 1)
    assert result.returncode == 1
    assert "none of 3 images can be used" in result.stderr
    assert "too-large: 20000x20000 pixels are more than the limit of 178956970" in result.stderr


def test_a_type_of_values_that_would_fill_the_memory(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/images.npy").write_bytes(npy("(20, 4, 4)", data=bytes(320)))
    sparse(tmp_path / "in/labels.npy", npy("(20,)", "'|S100000000'"), 3 << 30)
    assert "a value has at most 1,048,576 bytes" in refused(tmp_path / "in", tmp_path / "out")


def hdf5(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], **options: object) -> None:
    """A file of some kilobytes: an array whose chunks are packed, and written as zeros."""
    with h5py.File(path, "w") as file:
        array = file.create_dataset("images", shape, np.uint8, chunks=chunks, compression="gzip", **options)
        for place in np.ndindex(*(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))):
            array[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunks, strict=True))] = 0


def test_hdf5_of_chunks_that_would_fill_the_memory(tmp_path: Path) -> None:
    hdf5(tmp_path / "in.h5", (300, 1000, 1000), (300, 1000, 1000))
    assert os.path.getsize(tmp_path / "in.h5") < 1 << 20
    assert "the array images is in chunks of 300,000,000 bytes" in refused(tmp_path / "in.h5", tmp_path / "out")


@pytest.mark.slow
def test_hdf5_rows_beyond_max_pixels_are_rejects(tmp_path: Path) -> None:
    hdf5(tmp_path / "in.h5", (2, 20_000, 20_000), (1, 10_000, 10_000))
    result = limited_command("prepare", tmp_path / "in.h5", tmp_path / "out", "--max-rejects", "1.0", "--workers", 1)
    assert result.returncode == 1
    assert "too-large: 20000x20000 pixels are more than the limit of 178956970" in result.stderr


def test_hdf5_rows_without_pixels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("images", (2**60, 0, 4), np.uint8)
    assert "its images have no pixels" in refused(tmp_path / "in.h5", tmp_path / "out")


@pytest.mark.parametrize("kind", ["external", "virtual", "link"])
def test_hdf5_that_names_other_files(kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(range(32)))
    with h5py.File(tmp_path / "in.h5", "w") as file:
        if kind == "external":
            file.create_dataset("images", (2, 4, 4), np.uint8, external=[(str(tmp_path / "secret"), 0, 32)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((2, 4, 4), np.uint8)
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret"), "x", (2, 4, 4))
            file.create_virtual_dataset("images", layout)
        else:
            file["images"] = h5py.ExternalLink(str(tmp_path / "secret"), "x")
    assert f"{tmp_path}/secret" in refused(tmp_path / "in.h5", tmp_path / "out")


def test_a_buffer_is_no_array() -> None:
    """The maker of headers above makes what NumPy reads."""
    assert np.load(io.BytesIO(npy("(2, 2)", data=bytes(4)))).shape == (2, 2)
