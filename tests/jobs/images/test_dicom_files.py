"""DICOM files of many kinds: transfer syntaxes, windows by the standard, damage, and its words."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.pictures import OPTIONS

from beam_jobs.images.decode import Decoded
from beam_jobs.images.decode import decode as decode_file
from beam_jobs.images.files.rasters.dicom_frame import _fits
from beam_jobs.options import ImageOptions
from beam_jobs.sources import BadInput

pydicom = pytest.importorskip("pydicom")
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")

DEEP = replace(OPTIONS, fit="none", channels="keep", dtype="uint16")
EIGHT, FLOATS = replace(DEEP, dtype="uint8"), replace(DEEP, dtype="float32")
WINDOW = replace(EIGHT, dicom_window="default")
VALUES = np.random.default_rng(0).integers(0, 4096, (20, 24), np.uint16)


def file(values: NDArray[Any], *, bare: bool = False, frames: int = 1, **elements: Any) -> bytes:
    """A DICOM file of values, with the name of a patient."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.PatientName = "1.2.840.10008.5.1.4.1.1.2", "Doe^Jane"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored = 12 if values.dtype == np.uint16 else dataset.BitsAllocated
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(values.dtype.kind == "i")
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.PixelData = values.tobytes() * frames
    for name, value in elements.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    if bare:
        pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
        return buffer.getvalue()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, "1.2"
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def example(name: str) -> bytes:
    return Path(pydicom.data.get_testdata_file(name, download=False)).read_bytes()


def read(data: bytes, options: ImageOptions = DEEP) -> Decoded:
    return decode_file(data, options)


def problem(data: bytes, options: ImageOptions = DEEP) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read(data, options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_file_that_begins_as_a_tiff_is_dicom() -> None:
    assert np.array_equal(read(b"II*\0" + file(VALUES)[4:]).pixels[..., 0], VALUES)


@pytest.mark.parametrize(("dtype", "peak"), [("uint8", 255), ("uint16", 65_535)])
def test_a_window_is_linear_as_the_standard_says(dtype: str, peak: int) -> None:
    values = VALUES * 1.0 - 1024
    expected = np.rint((((values - 39.5) / 399) + 0.5).clip(0, 1) * peak)
    words = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    own = read(file(VALUES, **words, WindowCenter=40, WindowWidth=400), replace(WINDOW, dtype=dtype))
    given = read(file(VALUES, **words), replace(EIGHT, dtype=dtype, dicom_window="40,400"))
    for found in (own, given):
        assert found.pixels.dtype == dtype and np.array_equal(found.pixels[..., 0], expected)
    inverted = file(VALUES, **words, WindowCenter=40, WindowWidth=400, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read(inverted, replace(WINDOW, dtype=dtype)).pixels[..., 0], peak - expected)


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
def test_other_transfer_syntaxes_give_the_same_values(name: str) -> None:
    plain = read(example("MR_small.dcm"), FLOATS).pixels
    assert np.array_equal(read(example(name), FLOATS).pixels, plain)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (file(VALUES), EIGHT, "--dicom-window default or CENTER,WIDTH .* --dtype uint16"),
        (file(VALUES.astype(np.int16)), DEEP, "--dtype float32 --encoding raw stores its rescaled values"),
        (file(VALUES.astype(np.uint32)), DEEP, "--dtype float32"),
        (file(VALUES), WINDOW, "without a window of its own; give --dicom-window CENTER,WIDTH"),
        (file(VALUES), replace(FLOATS, normalize="unit"), "needs a known range"),
        (file(VALUES, WindowCenter=40, WindowWidth=0), WINDOW, "a window of width 0"),
        (file(VALUES, Rows=65_535, Columns=65_535), DEEP, "65535x65535 pixels are more than the limit"),
        (file(VALUES)[:-200], DEEP, "less than expected"),
        (example("rtplan.dcm"), DEEP, "a DICOM file without pixels"),
        (example("image_dfl.dcm"), DEEP, "without pixels|deflated"),
        (bytes(128) + b"DICM" + bytes(9), DEEP, "without pixels"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_reject_says_what_to_do(data: bytes, options: ImageOptions, words: str) -> None:
    import re

    assert re.search(words, str(problem(data, options)))


def test_texts_of_a_file_stay_in_one_line() -> None:
    data = file(VALUES).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.\n0008.1.2.1\0")
    assert "which is not read" in str(problem(data))


def test_elements_and_runs_are_counted_before_they_are_parsed() -> None:
    assert problem(file(VALUES, ImageComments="x" * 9000), replace(DEEP, max_work=100_000)).reason == "too-much-work"
    head = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56)
    assert _fits(head + b"\x81\0" * 8, 1024) and not _fits(head + b"\x81\0" * 9, 1024)
