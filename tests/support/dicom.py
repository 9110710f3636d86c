"""DICOM files as pydicom writes them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from numpy.typing import NDArray

pydicom = pytest.importorskip("pydicom")

PATIENT = "Doe^Jane"


def dicom(values: NDArray[Any], *, syntax: str = "ExplicitVRLittleEndian", frames: int = 1, **elements: Any) -> bytes:
    """A file of values: `[rows, columns]` of grey, or with 3 colours; `[frames, rows, columns]` of several frames."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = pydicom.dataset.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.PatientBirthDate = PATIENT, "SECRET-1", "19700101"
    shape = values.shape[1:] if frames > 1 else values.shape
    data.Rows, data.Columns, data.SamplesPerPixel = shape[0], shape[1], shape[2] if len(shape) > 2 else 1
    data.PhotometricInterpretation = "RGB" if len(shape) > 2 else "MONOCHROME2"
    if len(shape) > 2:
        data.PlanarConfiguration = 0
    if frames > 1:
        data.NumberOfFrames = frames
    bits = values.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    is_little = syntax != "ExplicitVRBigEndian"
    data.PixelData = values.astype(values.dtype.newbyteorder("<" if is_little else ">")).tobytes()
    data["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in elements.items():
        setattr(data, name, value)
    return written(data)


def written(data: Any) -> bytes:
    """The bytes of a data set, as a file."""
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(values: NDArray[Any], frame: bytes, syntax: str, **elements: Any) -> bytes:
    """A file with one compressed frame, which stands for the values."""
    data = pydicom.dcmread(io.BytesIO(dicom(values, **elements)))
    data.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    data.PixelData = pydicom.encaps.encapsulate([frame])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return written(data)


def rle(values: NDArray[Any], **elements: Any) -> bytes:
    """A file of values compressed by runs."""
    data = pydicom.dcmread(io.BytesIO(dicom(values, **elements)))
    data.compress(pydicom.uid.RLELossless, encoding_plugin="pydicom")
    return written(data)
