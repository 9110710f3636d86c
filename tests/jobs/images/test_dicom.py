"""DICOM: stored values, rescaled values and windows, as pydicom gives them; colours; and nothing of a patient."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.command import command, prepared
from support.dicom import PATIENT, compressed, dicom, pydicom, rle, written
from support.images import write_image
from support.pictures import OPTIONS, raw_pixels

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import UsageError
from beam_jobs.images.decode import decode
from beam_jobs.images.files import packages
from beam_jobs.images.process import prepare_image
from beam_jobs.sources import BadInput
from shard_reader import open_dataset

FLOATS = {"dtype": "float32", "channels": "keep"}


def values(dtype: str, shape: tuple[int, ...] = (12, 16)) -> NDArray[Any]:
    bounds = np.iinfo(dtype)
    return np.random.default_rng(3).integers(bounds.min, bounds.max, shape, dtype, endpoint=True)


def grey(data: bytes, **options: Any) -> NDArray[Any]:
    pixels = raw_pixels(data, **{"channels": "grey", **options})
    assert pixels.shape[2] == 1
    return pixels[..., 0]


def problem(data: bytes, **options: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        prepare_image(data, replace(OPTIONS, **{"fit": "none", **options}))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("syntax", ["ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "ExplicitVRBigEndian"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_unsigned_values_are_as_they_are_stored(dtype: str, syntax: str) -> None:
    stored = values(dtype)
    np.testing.assert_array_equal(grey(dicom(stored, syntax=syntax), dtype=dtype), stored)


def test_a_file_without_its_prefix_is_read() -> None:
    stored = values("uint8")
    data = dicom(stored)
    bare = data[data.index(b"\x08\x00\x16\x00") :]
    np.testing.assert_array_equal(grey(bare), stored)


def test_zero_is_black_in_either_kind_of_grey() -> None:
    for dtype, bits in (("uint8", 8), ("uint16", 16), ("uint16", 12)):
        stored = values(dtype) & ((1 << bits) - 1)
        data = dicom(stored, PhotometricInterpretation="MONOCHROME1", BitsStored=bits, HighBit=bits - 1)
        np.testing.assert_array_equal(grey(data, dtype=dtype), (1 << bits) - 1 - stored)


def test_overlays_in_higher_bits_are_no_values() -> None:
    stored = values("uint16")
    data = dicom(stored, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(grey(data, dtype="uint16"), stored & 4095)


def test_floats_are_rescaled_values() -> None:
    stored = values("int16") // 20
    data = dicom(stored, RescaleSlope="2", RescaleIntercept="-1024")
    np.testing.assert_array_equal(grey(data, **FLOATS), stored.astype(np.float32) * 2 - 1024)


@given(st.integers(-2000, 2000), st.integers(2, 4000))
def test_a_window_is_that_of_pydicom(center: int, width: int) -> None:
    stored = np.arange(-1500, 1572, 16, np.int16).reshape(12, 16)
    data = dicom(stored, RescaleSlope="1", RescaleIntercept="-24", WindowCenter=str(center), WindowWidth=str(width))
    dataset = pydicom.dcmread(io.BytesIO(data))
    hounsfield = pydicom.pixels.apply_modality_lut(stored, dataset)
    shown = pydicom.pixels.apply_voi_lut(hounsfield, dataset)  # over the range of the rescaled values
    low, high = -(2**15) - 24, 2**15 - 1 - 24
    expected = np.rint((shown - low) / (high - low) * 255)
    for window in ("default", f"{center},{width}"):
        assert np.abs(grey(data, dicom_window=window) - expected).max() <= 1
    deep = grey(data, dicom_window="default", dtype="uint16").astype(float)
    assert np.abs(deep - (shown - low) / (high - low) * 65535).max() <= 2


def test_a_window_of_an_inverted_image_is_inverted() -> None:
    stored = values("uint16")
    window = {"WindowCenter": "30000", "WindowWidth": "40000"}
    one, other = (
        grey(dicom(stored, PhotometricInterpretation=kind, **window), dicom_window="default")
        for kind in ("MONOCHROME1", "MONOCHROME2")
    )
    np.testing.assert_array_equal(one, 255 - other)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_colours_are_rgb(dtype: str) -> None:
    stored = values(dtype, (12, 16, 3))
    np.testing.assert_array_equal(raw_pixels(dicom(stored), dtype=dtype), stored)
    planes = dicom(stored, PlanarConfiguration=1, PixelData=np.moveaxis(stored, 2, 0).tobytes())
    np.testing.assert_array_equal(raw_pixels(planes, dtype=dtype), stored)


def test_a_palette_becomes_colours() -> None:
    stored, table = values("uint8") % 4, np.array([0, 257 * 80, 257 * 160, 65535], np.uint16)
    entries = {}
    for place, name in enumerate(("Red", "Green", "Blue")):
        entries[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        entries[f"{name}PaletteColorLookupTableData"] = np.roll(table, place).tobytes()
    found = raw_pixels(dicom(stored, PhotometricInterpretation="PALETTE COLOR", **entries), dtype="uint16")
    np.testing.assert_array_equal(found, np.stack([np.roll(table, place)[stored] for place in range(3)], 2))


def test_frames_compressed_by_runs_and_as_jpeg() -> None:
    deep, colours = values("uint16"), values("uint8", (12, 16, 3))
    np.testing.assert_array_equal(grey(rle(deep), dtype="uint16"), deep)
    np.testing.assert_array_equal(raw_pixels(rle(colours)), colours)
    smooth, buffer = np.add.outer(np.arange(0, 96, 8), np.arange(0, 128, 8)).astype(np.uint8), io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=95)
    found = grey(compressed(smooth, buffer.getvalue(), "JPEGBaseline8Bit"))
    assert np.abs(found.astype(int) - smooth).max() <= 6


def test_the_first_frame_counts_and_the_others_are_told() -> None:
    frames = values("uint8", (3, 12, 16))
    decoded = decode(dicom(frames, frames=3), replace(OPTIONS, fit="none"))
    np.testing.assert_array_equal(decoded.pixels[..., 0], frames[0])
    assert decoded.changes == ("frames",)


def test_values_that_the_options_cannot_hold_name_those_that_do() -> None:
    window = "--dicom-window default or CENTER,WIDTH makes 8 bits of its window"
    assert str(problem(dicom(values("uint16")))) == (
        f"a DICOM of 16-bit grey: {window}; --dtype uint16 with --encoding raw or png keeps its values"
    )
    assert str(problem(dicom(values("int16")), dtype="uint16")) == (
        f"a DICOM of signed 16-bit grey: {window}; --dtype float32 --encoding raw stores its rescaled values"
    )
    assert "--normalize unit needs a known range" in str(problem(dicom(values("int16")), **FLOATS, normalize="unit"))
    assert "give --dicom-window CENTER,WIDTH" in str(problem(dicom(values("int16")), dicom_window="default"))


def test_files_without_pixels_are_told() -> None:
    data = pydicom.dcmread(io.BytesIO(dicom(values("uint8"))))
    del data.PixelData
    found = problem(written(data))
    assert (found.reason, str(found)) == (
        "not-an-image",
        "a DICOM file without pixels, as of a report or a plan; leave it out",
    )
    assert "deflated as a whole" in str(problem(dicom(values("uint8"), syntax="DeflatedExplicitVRLittleEndian")))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(packages.importlib, "import_module", fail)
    found = problem(dicom(values("uint8")))
    assert str(found) == "DICOM images need pydicom: pip install 'image-shards[dicom]'"


def test_a_decoder_that_is_missing_is_named() -> None:
    found = problem(compressed(values("uint16"), b"\xff\xd8\xff\xc3", "JPEGLossless"), dtype="uint16")
    assert found.reason in ("missing-package", "unsupported-mode")
    assert "pylibjpeg" in str(found) or "is not that of a JPEG" in str(found)


@pytest.mark.parametrize(
    "data",
    [
        dicom(values("uint8"), Rows=65_535, Columns=65_535),
        dicom(values("uint8"), Rows=0),
        dicom(values("uint8"), BitsAllocated=13),
        dicom(values("uint8"))[:-50],
        dicom(values("uint8"), PixelData=b""),
        dicom(values("uint16"), RescaleSlope="1e999", WindowCenter="1", WindowWidth="2"),
        compressed(values("uint8"), b"\x01\0\0\0\x40" + bytes(59) + b"\x81\0" * 5000, "RLELossless"),
        b"\0" * 128 + b"DICM",
        b"\0" * 128 + b"DICM" + b"\xe0\x7f\x10\x00" * 50,
    ],
    ids=["size", "no-rows", "bits", "cut-off", "empty", "infinite", "runs", "prefix", "tags"],
)
def test_a_damaged_file_is_a_reject(data: bytes) -> None:
    found = problem(data, dicom_window="default")
    assert found.reason in ("damaged", "too-large", "unsupported-mode", "not-an-image")


@given(st.binary(max_size=60), st.integers(0, 900))
def test_a_changed_file_is_a_reject_or_an_image(part: bytes, start: int) -> None:
    data = bytearray(dicom(values("uint8"), WindowCenter="1", WindowWidth="2"))
    data[start : start + len(part)] = part
    try:
        prepare_image(bytes(data), replace(OPTIONS, fit="none", dicom_window="default"))
    except BadInput as bad:
        assert "\n" not in str(bad)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("default", "default"), ("40,400", "40,400"), ("-600,1500.0", "-600,1500"), ("0.5,1", "0.5,1")],
)
def test_the_option_has_one_spelling(text: str, expected: str) -> None:
    assert parse(["prepare", "in", "out", f"--dicom-window={text}"]).image.dicom_window == expected


@pytest.mark.parametrize("text", ["", "40", "40,0", "40,-1", "a,b", "nan,1", "1e3,1", "Default"])
def test_another_window_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected default, or CENTER,WIDTH as 40,400, with a width above 0"):
        parse(["prepare", "in", "out", f"--dicom-window={text}"])


def test_nothing_of_a_patient_is_stored(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"in/{'ab'[number % 2]}").mkdir(parents=True, exist_ok=True)
        data = dicom(values("int16", (40, 50 + number)), RescaleSlope="1", RescaleIntercept="-1024")
        (tmp_path / f"in/{'ab'[number % 2]}/{number}.dcm").write_bytes(data)
    write_image(tmp_path / "in/a/photo.png")
    output = prepared(tmp_path / "in", tmp_path / "out", "--size", 16, "--dicom-window", "40,400", "--report")
    assert len(open_dataset(output)) == 4
    for path in (path for path in tmp_path.joinpath("out").rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not [text for text in (PATIENT, "Doe", "SECRET-1", "19700101") if text.encode() in content], path
    shown = command("inspect", output).stdout
    assert PATIENT not in shown


def test_a_line_break_in_a_file_is_none_in_its_message() -> None:
    assert "Unknown" in str(problem(dicom(values("uint8")).replace(b"MONOCHROME2", b"\nONOCHROME2")))
