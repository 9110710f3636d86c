"""DICOM images, by pydicom: the pixels of the first frame, and nothing else of a file.

No name, date or other text of a patient is read: of the data set only the elements that describe pixels are kept
(DICOM PS3.3, sections C.7.6.3, C.11.1 and C.11.2). Texts that are drawn into the pixels stay there.
"""

from __future__ import annotations

import io
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from beam_jobs.images.files.packages import required
from beam_jobs.images.files.rasters.dicom_frame import check_frame
from beam_jobs.images.files.rasters.raster import Raster, check_shape, needs_floats
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import BadInput, Pixels
from shard_reader.printable import excerpt

__all__ = ["is_dicom", "read_dicom"]

_PREFIX: Final = slice(128, 132)
_FIRST_ELEMENTS: Final = (b"\x02\x00\x00\x00", b"\x02\x00\x10\x00", b"\x08\x00\x00\x00", b"\x08\x00\x05\x00",
                          b"\x08\x00\x08\x00", b"\x08\x00\x12\x00", b"\x08\x00\x16\x00")  # fmt: skip
_PIXEL_DATA: Final = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10", b"\xe0\x7f\x08\x00", b"\xe0\x7f\x09\x00")
_ITEM: Final = b"\xfe\xff\x00\xe0"
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_META_BYTES: Final = 4096  # in which the elements about the file are
_ELEMENT: Final = 1000  # pixels, whose decoding takes the time of an element
_ELEMENT_BYTES: Final = 8  # the least of an element
_TAGS: Final = [
    *(0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011),  # samples, colours, planes, frames, size
    *(0x00280100, 0x00280101, 0x00280102, 0x00280103),  # bits, and their sign
    *(0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056, 0x00283000, 0x00283010),  # window and rescale
    *(0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203),  # palette
    *(0x00281221, 0x00281222, 0x00281223),  # the same in segments
    *(0x52009229, 0x52009230),  # shared and other groups of functions, which may have window and rescale
    *(0x7FE00001, 0x7FE00002, 0x7FE00008, 0x7FE00009, 0x7FE00010),
]
_FUNCTIONS: Final = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
_GREYS: Final = ("MONOCHROME1", "MONOCHROME2")
_DECODERS: Final = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or python-gdcm"


def is_dicom(data: bytes, *, bare: bool = False) -> bool:
    """Whether a file is DICOM: by its prefix, or, if `bare`, by a first element that such files without it have."""
    if data[_PREFIX] == b"DICM":
        return True
    return bare and data.startswith(_FIRST_ELEMENTS) and any(tag in data for tag in _PIXEL_DATA)


def read_dicom(data: bytes, options: ImageOptions) -> Raster:
    """The pixels of the first frame.

    Colours are RGB. Grey is windowed if the options say so. Otherwise unsigned numbers are as they are stored, with
    0 as black; with a dtype of floats, all numbers of more than 8 bits are as their rescale slope and intercept say.

    Raises:
        BadInput: the file has no pixels, is of a kind that is not read, the options cannot hold it, it is too large, or
            a package is missing.
        Exception: of many kinds, for a damaged file.
    """
    pydicom = required("pydicom", "dicom", "DICOM images")
    required("pydicom.pixels", "dicom", "DICOM images")
    dataset = _dataset(pydicom, data, options)
    bits, is_signed = int(dataset.get("BitsStored", 0)), int(dataset.get("PixelRepresentation", 0)) == 1
    colours = str(dataset.get("PhotometricInterpretation", ""))
    is_grey, is_float = colours in _GREYS, "PixelData" not in dataset
    sign = "signed " if is_signed else ""
    kind = "floats" if is_float else f"{sign}{bits}-bit {'grey' if is_grey else excerpt(colours)}"
    what = f"a DICOM of {kind}"
    is_measured = is_signed or is_float or bits > 16
    if is_grey and options.dicom_window is None:  # before anything is decoded
        _check_options(what, bits, is_measured, options)
    frames = _check_size(dataset, what, options)
    values = _decoded(pydicom, dataset, what, frames, options)
    changes = ("frames",) if frames > 1 else ()
    if not is_grey:
        return Raster(_colours(pydicom, dataset, values, colours, what), what, is_rgb=True, changes=changes)
    values = values[..., None]
    if not is_signed and not is_float:
        values = values & ((1 << bits) - 1)  # overlays lie in higher bits
    if options.dicom_window is not None:
        pixels = _windowed(pydicom, dataset, values, options)
        return Raster(np.iinfo(pixels.dtype).max - pixels if colours == _GREYS[0] else pixels, what, changes=changes)
    is_rescaled = _rescale(dataset) != (1.0, 0.0) or "ModalityLUTSequence" in dataset
    if is_measured or (options.dtype.startswith("float") and (bits > 8 or is_rescaled)):
        problem = needs_floats(what, options)
        if problem is not None:
            raise problem
        return Raster(_rescaled(pydicom, dataset, values).astype(np.float32), what, changes=changes)
    stored = values.astype(np.uint8 if bits <= 8 else np.uint16)
    return Raster((1 << bits) - 1 - stored if colours == _GREYS[0] else stored, what, changes=changes)


def _dataset(pydicom: Any, data: bytes, options: ImageOptions) -> Any:
    """The elements of a file that describe pixels.

    Raises:
        BadInput: it has no pixels, or too many elements.
    """
    # The rest of such a file shows no element.
    if _DEFLATED in data[:_META_BYTES]:
        raise BadInput("unsupported-mode", "a DICOM file that is deflated as a whole; save it without, as with dcmconv")
    places = [place for place in map(data.find, _PIXEL_DATA) if place >= 0]
    if not places:
        raise BadInput("not-an-image", "a DICOM file without pixels, as of a report or a plan; leave it out")
    # Items are parsed one by one, wherever they are; frames are items, too.
    _check_work(min(places) // _ELEMENT_BYTES + data.count(_ITEM), options)
    elements = 0

    def count(*_: Any) -> bool:
        nonlocal elements
        elements += 1
        _check_work(elements, options)
        return False

    read = required("pydicom.filereader", "dicom", "DICOM images").read_partial
    dataset = read(io.BytesIO(data), stop_when=count, force=True, specific_tags=_TAGS)
    pixels = any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
    if not pixels or "Rows" not in dataset:
        raise BadInput("not-an-image", "a DICOM file without pixels, as of a report or a plan; leave it out")
    if dataset.file_meta.get("TransferSyntaxUID") is None:
        is_implicit, is_little = dataset.original_encoding
        names = ("ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "ExplicitVRBigEndian")
        name = names[2] if not is_little else names[0] if is_implicit else names[1]
        dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, name)
    return dataset


def _check_work(elements: int, options: ImageOptions) -> None:
    if elements * _ELEMENT > options.max_work:
        raise BadInput(
            "too-much-work",
            f"{elements:,} elements or more: decoding goes over {elements * _ELEMENT:,} pixels, more than --max-work"
            f" {options.max_work:,}; save it again, or allow more",
        )


def _check_options(what: str, bits: int, is_floats: bool, options: ImageOptions) -> None:
    """Check that the options hold grey values without a window.

    Raises:
        BadInput: they do not; the message names those that do.
    """
    window = "--dicom-window default or CENTER,WIDTH makes 8 bits of its window"
    if is_floats and not options.dtype.startswith("float"):
        raise BadInput(
            "unsupported-mode", f"{what}: {window}; --dtype float32 --encoding raw stores its rescaled values"
        )
    if bits > 8 and options.dtype == "uint8":
        raise BadInput(
            "unsupported-mode", f"{what}: {window}; --dtype uint16 with --encoding raw or png keeps its values"
        )


def _check_size(dataset: Any, what: str, options: ImageOptions) -> int:
    """The number of frames, where a frame is of a size that the options allow.

    Raises:
        BadInput: it is not.
    """
    rows, columns = int(dataset.get("Rows", 0)), int(dataset.get("Columns", 0))
    samples, bits = int(dataset.get("SamplesPerPixel", 1)), int(dataset.get("BitsAllocated", 0))
    if samples not in (1, 3) or bits not in (1, 8, 16, 32, 64):
        raise BadInput("unsupported-mode", f"{what}, {samples} samples of {bits} bits, which is not read; convert it")
    check_shape(rows, columns, samples, max(1, bits // 8), options)
    return max(1, int(dataset.get("NumberOfFrames", 1) or 1))


def _decoded(pydicom: Any, dataset: Any, what: str, frames: int, options: ImageOptions) -> NDArray[Any]:
    """The first frame, `[rows, columns]` or `[rows, columns, 3]`, its colours as RGB.

    Raises:
        BadInput: its compression is not read, or a decoder is missing; or the frame claims another size.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        raise BadInput(
            "unsupported-mode", f"{what}, in {excerpt(syntax.name)}, which is not read; convert it"
        ) from None
    if not syntax.is_encapsulated:
        frame: NDArray[Any] = pydicom.pixels.pixel_array(dataset, index=0)
        return frame
    if not decoder.is_available:
        raise BadInput("missing-package", f"{what}, in {excerpt(syntax.name)}: it needs a decoder: {_DECODERS}")
    check_frame(pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=frames), syntax, dataset, options)
    try:
        frame = pydicom.pixels.pixel_array(dataset, index=0)
    except (RuntimeError, NotImplementedError) as error:
        more = f"; another decoder may read it: {_DECODERS}" if decoder.missing_dependencies else ""
        said = " ".join(str(error).split())
        raise BadInput("damaged", f"{what}, in {excerpt(syntax.name)}: {said}{more}") from error
    return frame


def _colours(pydicom: Any, dataset: Any, values: NDArray[Any], colours: str, what: str) -> Pixels:
    if colours == "PALETTE COLOR":
        values = pydicom.pixels.apply_color_lut(values, dataset)[..., :3]
    if values.ndim != 3 or values.shape[2] != 3 or values.dtype not in (np.uint8, np.uint16):
        raise BadInput("unsupported-mode", f"{what}: its colours are not unsigned 8- or 16-bit ones; convert it")
    return np.ascontiguousarray(values)


def _element(dataset: Any, name: str) -> Any:
    """The value of an element of the data set, or of the functions of its first frame."""
    if name in dataset:
        return dataset[name].value
    for group in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        items = dataset.get(group) or []
        for function in _FUNCTIONS:
            inner = items[0].get(function) if len(items) else None
            if inner and name in inner[0]:
                return inner[0][name].value
    return None


def _number(value: Any, default: float) -> float:
    """The first number of a value.

    Raises:
        ValueError: it is not finite.
    """
    if value is None or value == "":
        return default
    number = float(value if isinstance(value, (int, float, str)) else value[0])
    if not math.isfinite(number):
        raise ValueError("a window or a rescale is not a finite number")
    return number


def _rescale(dataset: Any) -> tuple[float, float]:
    """Slope and intercept."""
    slope, intercept = _element(dataset, "RescaleSlope"), _element(dataset, "RescaleIntercept")
    return _number(slope, 1.0), _number(intercept, 0.0)


def _rescaled(pydicom: Any, dataset: Any, values: NDArray[Any]) -> NDArray[np.float64]:
    """The values that stored ones stand for, as Hounsfield units."""
    if "ModalityLUTSequence" in dataset:
        found: NDArray[np.float64] = pydicom.pixels.apply_modality_lut(values, dataset).astype(np.float64)
        return found
    slope, intercept = _rescale(dataset)
    return values.astype(np.float64) * slope + intercept


def _windowed(pydicom: Any, dataset: Any, values: NDArray[Any], options: ImageOptions) -> Pixels:
    """Values through a window, or the first table of the file, as 8 or 16 bits (PS3.3, section C.11.2.1).

    Raises:
        BadInput: the file has no window of its own.
    """
    values = _rescaled(pydicom, dataset, values)
    dtype = np.uint8 if options.dtype == "uint8" else np.uint16
    if options.dicom_window == "default":
        center, width = _element(dataset, "WindowCenter"), _element(dataset, "WindowWidth")
        tables = dataset.get("VOILUTSequence")
        if tables:
            table = pydicom.pixels.apply_voi(np.rint(values).astype(np.int64), dataset)
            shown = table / ((1 << int(tables[0].LUTDescriptor[2])) - 1)
            return _levels(shown, dtype)
        if center is None or width is None:
            raise BadInput("unsupported-mode", "a DICOM without a window of its own; give --dicom-window CENTER,WIDTH")
        middle, size = _number(center, 0.0), _number(width, 0.0)
        function = str(_element(dataset, "VOILUTFunction") or "LINEAR")
    else:
        middle, size = map(float, str(options.dicom_window).split(","))
        function = "LINEAR"
    if size <= 0:
        raise BadInput("damaged", f"a window of width {size:g}; give --dicom-window CENTER,WIDTH")
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            shown = 1 / (1 + np.exp(-4 * (values - middle) / size))
    elif function == "LINEAR_EXACT" or size <= 1:
        shown = (values - middle) / size + 0.5
    else:
        shown = (values - (middle - 0.5)) / (size - 1) + 0.5
    return _levels(shown, dtype)


def _levels(shown: NDArray[np.float64], dtype: type[np.uint8] | type[np.uint16]) -> Pixels:
    """Values from 0 to 1 as integers of their whole range."""
    levels: Pixels = np.rint(shown.clip(0, 1) * np.iinfo(dtype).max).astype(dtype)
    return levels
