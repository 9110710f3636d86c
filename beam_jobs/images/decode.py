"""From the bytes of an image file to upright pixels in sRGB.

Pillow reads all headers, and the pixels of all formats but two: libjpeg-turbo (through simplejpeg) decodes JPEG, which
is faster and tells of damage, and OpenCV decodes PNG and TIFF with 16-bit colours, of which Pillow keeps only 8 bits.

Both of the first decode a JPEG at 1/2, 1/4 or 1/8 of its sides where this leaves twice the pixels that are stored
(`Geometry.reduction`): they leave out the high frequencies of its blocks.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from beam_jobs.images.files import png
from beam_jobs.images.files.depth import has_more_bits
from beam_jobs.images.files.jpeg import decode_jpeg
from beam_jobs.images.files.opencv import decode_rle4, is_rle4, opencv
from beam_jobs.images.files.rasters.raster import Raster, chosen
from beam_jobs.images.files.rasters.read import is_read_alone, read_raster
from beam_jobs.images.files.tiff import colours_of_palette, has_more_bands, is_misread, is_negative
from beam_jobs.images.files.work import check_exif, check_file, check_image
from beam_jobs.images.geometry import Geometry, plan_geometry, reduced, turned
from beam_jobs.images.pixels.colour import keeps_colours, srgb_pixels, to_srgb
from beam_jobs.images.pixels.rgbx import colours_of, rgbx_below
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import BadInput, Pixels
from shard_reader.printable import printable

__all__ = [
    "Decoded",
    "check_size",
    "decode",
    "decoding",
    "ignore_image_warnings",
    "image_formats",
    "orientation_of",
    "pages_of",
    "to_8_bits",
]

_ORIENTATION = 0x0112
_DEEP_COLOURS = re.compile("(LA|RGB|RGBX|RGBA|RGBa);16.*")
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF", "MPO", "JPEG2000", "PPM", "ICO", "PSD"),
    *("DDS", "DIB", "ICNS", "PCX", "QOI", "SGI", "XBM", "XPM"),
    "TGA",  # last: it has no magic number, and files of other formats can look like it
)
_PAGED = {"TIFF": "pages", **dict.fromkeys(("GIF", "WEBP", "PNG", "MPO", "AVIF", "HEIF"), "frames")}
_XMP = ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp")
_LARGEST_PROFILE = 1 << 24  # bytes: profiles of printers have three million


class Decoded(NamedTuple):
    """The pixels of a file.

    `pixels` are upright, uint8, uint16 or float32, `[height, width, channels]`: grey, RGB, or RGB with transparency;
    or with `bands` 1 to 16 channels, none of which is a transparency. They can be
    reduced by the decoder. `stored` are the width and the height of the whole image, as it lies in the file.
    `orientation` is the Exif orientation of the file. `clean` is True for a JPEG file that every decoder reads alike:
    it is undamaged, and its colours are grey, or YCbCr, in sRGB. `changes` are kinds of `CHANGES`, for parts that
    were left out of the file, or converted. `suspect` is the complaint of the decoder, or "".
    """

    pixels: Pixels
    stored: tuple[int, int]
    orientation: int = 1
    clean: bool = False
    changes: tuple[str, ...] = ()
    suspect: str = ""
    bands: bool = False


def ignore_image_warnings() -> None:
    """Silence the warnings of Pillow in this process."""
    # After a warning, Pillow either reads the image all the same or raises an error.
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", module="pydicom")
    for name in ("PIL.TiffImagePlugin", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def check_size(width: int, height: int, options: ImageOptions) -> None:
    """Check the number of pixels of an image.

    Raises:
        BadInput: the image has too many pixels.
    """
    if width * height > options.max_pixels:
        raise BadInput("too-large", f"{width}x{height} pixels are more than the limit of {options.max_pixels}")


def decode(data: bytes, options: ImageOptions) -> Decoded:
    """The pixels of an image file in any format of Pillow, or of a raster; of an animation the first frame.

    A JPEG that is far larger than the options ask for is reduced by its decoder.

    Colours become sRGB by the ICC profile in the file. A profile that is broken, or of another colour space than the
    pixels, is ignored. 16-bit pixels keep their depth, unless a profile changes their colours: these become 8-bit.
    Broken parts that no pixel needs are ignored. HEIC is read if pillow-heif is installed.

    Raises:
        BadInput: the file is not an image, is damaged or too large, or has a mode without a meaning in RGB.
    """
    try:
        return _decoded(data, options)
    except BadInput as error:
        if not data.startswith(png.SIGNATURE) or error.reason not in ("damaged", "not-an-image"):
            raise
        first = error
    for simpler in png.simpler(data):
        with contextlib.suppress(BadInput):
            decoded = _decoded(simpler, options)
            return decoded._replace(changes=(*decoded.changes, "metadata"))
    raise first


def _decoded(data: bytes, options: ImageOptions) -> Decoded:
    with decoding(data, options):
        decoded = None if is_read_alone(data) else _by_pillow(data, options)
        if decoded is None:
            decoded = _of_raster(read_raster(data, options), options)
        check_size(decoded.pixels.shape[1], decoded.pixels.shape[0], options)
        return decoded


@contextlib.contextmanager
def decoding(data: bytes, options: ImageOptions) -> Iterator[None]:
    """Check a file before it is decoded, and turn the errors of its decoders into rejects.

    Raises:
        BadInput: the file is empty, too large or damaged, or takes too much work.
    """
    if not data:
        raise BadInput("empty", "the file has no bytes")
    if len(data) > options.max_bytes:
        raise BadInput("too-large", f"{len(data)} bytes are more than the limit of {options.max_bytes}")
    check_file(data, options.max_work)
    if Image.MAX_IMAGE_PIXELS is not None and options.max_pixels > Image.MAX_IMAGE_PIXELS:
        # Pillow's own limit has to allow the same. It stays in force for sizes that a header does not tell.
        Image.MAX_IMAGE_PIXELS = options.max_pixels
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput("too-large", str(error)) from error
    except (MemoryError, BadInput):
        raise
    # Decoders raise errors of many classes for damaged files. The bytes are in memory, so none is of a disk.
    except Exception as error:
        said = printable(" ".join(str(error).split()))  # it may quote the file
        raise BadInput("damaged", said or type(error).__name__) from error


def _by_pillow(data: bytes, options: ImageOptions) -> Decoded | None:
    """The pixels of a file; None if Pillow cannot read the file, or would misread it."""
    try:
        image = Image.open(io.BytesIO(data), formats=image_formats())
    except UnidentifiedImageError:
        return None
    with image:
        check_size(*image.size, options)
        check_image(image, options.max_work)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and is_misread(image, keep=options.channels == "keep"):
            return None
        return _decode(image, data, options)


def _of_raster(raster: Raster, options: ImageOptions) -> Decoded:
    pixels, bands, changes = chosen(raster, options)
    converted: tuple[str, ...] = ()
    if raster.profile and not bands and pixels.shape[2] >= 3:
        pixels, converted = _in_srgb(pixels, raster.profile, grey=False)
    upright = np.ascontiguousarray(turned(pixels, raster.orientation))
    size = pixels.shape[1], pixels.shape[0]
    return Decoded(upright, size, raster.orientation, changes=(*changes, *converted), bands=bands)


@functools.cache
def image_formats() -> tuple[str, ...]:
    """The formats to read, as far as this Pillow has them."""
    # A list of formats leaves out those that would run another program on untrusted bytes, as EPS runs Ghostscript.
    Image.init()
    with contextlib.suppress(ImportError):
        heif = importlib.import_module("pillow_heif")
        heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode(image: Image.Image, data: bytes, options: ImageOptions) -> Decoded:
    profile = image.info.get("icc_profile")
    if profile and len(profile) > _LARGEST_PROFILE:
        raise BadInput("too-large", f"its colour profile has {len(profile):,} bytes, more than {_LARGEST_PROFILE:,}")
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB", "CMYK"):
        return _decode_jpeg(image, data, profile, options)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow and OpenCV turn a TIFF upright when they load it, and Pillow then reports an orientation of 1: the
        # original one is read before.
        orientation, broken = orientation_of(image)
        bands = ("bands",) if has_more_bands(image) else ()
        pixels, converted = _decode_other(image, data, profile)
        size = pixels.shape[:2] if orientation in range(5, 9) else pixels.shape[1::-1]
        return Decoded(pixels, size, orientation or 1, changes=(*converted, *broken, *bands, *pages_of(image)))
    pixels, converted = _decode_other(image, data, profile)
    orientation, broken = orientation_of(image)
    changes = (*converted, *broken, *pages_of(image))
    return Decoded(_upright(pixels, orientation or 1), pixels.shape[1::-1], orientation or 1, changes=changes)


def _decode_jpeg(image: Image.Image, data: bytes, profile: bytes | None, options: ImageOptions) -> Decoded:
    stored, (orientation, broken) = image.size, orientation_of(image)
    geometry = plan_geometry(*stored, orientation or 1, options)
    # "nearest" asks for single pixels of the file.
    scale = 1 if options.exact_decode or options.filter == "nearest" else geometry.reduction
    decoded, complaint = _by_libjpeg(data, image.mode, geometry, scale)
    if decoded is None or image.mode == "CMYK":
        clean = False
        image.draft(None, (stored[0] // scale, stored[1] // scale))
        pixels, converted = _decode_other(image, data, profile)
    else:
        clean = image.format == "JPEG" and not complaint and _is_grey_or_ycc(data)
        clean = clean and keeps_colours(image.mode, profile)
        pixels, converted = _in_srgb(decoded, profile, grey=image.mode == "L")
    upright = _upright(pixels, orientation or 1)
    return Decoded(upright, stored, orientation or 1, clean, (*converted, *broken, *pages_of(image)), complaint)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    whole = rgbx_below(pixels)
    if whole is None:
        return np.ascontiguousarray(turned(pixels, orientation))
    if orientation not in range(2, 9):
        return pixels
    # A pixel as one number: NumPy copies it much faster than its bytes.
    numbers = turned(whole.view(np.uint32), orientation)
    upright = np.empty((*numbers.shape[:2], 4), np.uint8)
    upright.view(np.uint32)[:] = numbers
    return colours_of(upright)


def orientation_of(image: Image.Image) -> tuple[int | None, tuple[str, ...]]:
    """The Exif orientation of an image, None without one, and the change "metadata" if its Exif cannot be read."""
    # Pillow would take an orientation in XMP, which other programs do not turn images by.
    for name in _XMP:
        image.info.pop(name, None)
    try:
        check_exif(image.info.get("exif") or b"")  # None in a HEIC file without it
        return image.getexif().get(_ORIENTATION), ()
    except Exception:  # the parsers of Pillow raise errors of many classes
        return None, ("metadata",)


def pages_of(image: Image.Image) -> tuple[str, ...]:
    """The kind of change for further pages or frames, of which none is read. Call this after the image is loaded."""
    kind = _PAGED.get(image.format or "")
    try:
        # Not the number of frames, for which Pillow goes through all of them.
        return (kind,) if kind and getattr(image, "is_animated", False) else ()
    except Exception:  # the headers of further pages can be damaged: there are such pages
        return (kind,) if kind else ()


def _by_libjpeg(data: bytes, mode: str, geometry: Geometry, scale: int) -> tuple[Pixels | None, str]:
    """The pixels of a JPEG by libjpeg-turbo and the complaint about them; None if only Pillow can read the file."""
    # The resizer takes pixels of four bytes as they are.
    four = mode == "RGB" and geometry.resizes
    least = reduced(geometry.stored, scale)
    try:
        pixels, complaint = decode_jpeg(data, "GRAY" if mode == "L" else "RGBX" if four else mode, least)
    except ValueError:
        return None, ""
    if pixels.shape[1::-1] != least:  # the two parsers of its header disagree
        raise BadInput("damaged", f"states {geometry.stored[0]}x{geometry.stored[1]} pixels, and has others")
    return colours_of(pixels) if four else pixels, complaint


def _is_grey_or_ycc(data: bytes) -> bool:
    """Whether a JPEG file is grey or YCbCr. Some decoders take the rare RGB ones for YCbCr."""
    try:
        return simplejpeg.decode_jpeg_header(data)[2] in ("Gray", "YCbCr")
    except KeyError:  # simplejpeg has no name for its subsampling, as for 4:4:1
        return False


def _decode_other(image: Image.Image, data: bytes, profile: bytes | None) -> tuple[Pixels, tuple[str, ...]]:
    """The pixels of an image in sRGB, and the kinds of changes that this was."""
    layout, deep = _layout(image), has_more_bits(image, data)
    rle = is_rle4(image)
    image.load()
    if image.mode in ("CMYK", "LAB"):
        return _array(to_srgb(image, profile)), ("profile",) if profile else ()
    grey = layout.startswith("LA;16") or image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16")
    deep = deep or _DEEP_COLOURS.fullmatch(layout) is not None
    pixels = _decode_deep_colours(image, data, layout) if _DEEP_COLOURS.fullmatch(layout) else None
    if rle:
        pixels = decode_rle4(data)
    if pixels is None:
        pixels = _deep_grey(image, layout) if image.mode.startswith(("I", "F")) else colours_of_palette(image)
    pixels = _array(image) if pixels is None else pixels
    lost = ("bits",) if deep and pixels.dtype == np.uint8 else ()
    converted, changes = _in_srgb(pixels, profile, grey=grey)
    return converted, (*changes, *lost)


def _layout(image: Image.Image) -> str:
    """Pillow's "raw mode", the layout of pixels in the file. Call this before the image is loaded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles and image.format in ("PNG", "TIFF") else None
    layout = arguments[0] if isinstance(arguments, tuple) else arguments
    return layout if isinstance(layout, str) else ""


def _array(image: Image.Image) -> Pixels:
    """The 8-bit pixels of an image of any mode but the deep ones."""
    mode = "RGBA" if image.has_transparency_data else "L" if image.mode in ("1", "L") else "RGB"
    return np.atleast_3d(np.asarray(image if image.mode == mode else image.convert(mode)))


def _deep_grey(image: Image.Image, layout: str) -> Pixels:
    """16-bit grey pixels, or RGBA if one value is transparent."""
    # Pillow scales a PPM of mode "I" to a peak of 65,535. Other 32-bit and float pixels could have any range.
    if not (image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")):
        raise BadInput("unsupported-mode", f"pixels of mode {image.mode!r} have no known range")
    values = np.asarray(image).astype(np.uint16)[..., None]
    peak = 4_095 if layout == "I;12" else 65_535
    values = peak - values if is_negative(image) else values
    transparent = image.info.get("transparency")
    if transparent is not None:
        opaque = np.where(values == transparent, 0, 65_535).astype(np.uint16)
        return np.concatenate([values, values, values, opaque], 2)
    if layout == "I;12":
        return (values.astype(np.uint32) * 65_535 // 4_095).astype(np.uint16)
    return values


def _decode_deep_colours(image: Image.Image, data: bytes, layout: str) -> Pixels | None:
    """16-bit RGB or RGBA pixels, or None if only Pillow can read the file."""
    # Pillow has loaded the file before, and found it undamaged: OpenCV would not tell.
    cv2 = opencv("16-bit colours")
    if image.format == "PNG":
        data = png.without_animation(data)  # of an animation, OpenCV reads the first frame, which need not be the image
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        return None
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != image.size[::-1] or pixels.ndim != 3:
        return None
    if layout.startswith("RGBX"):
        pixels = pixels[..., :3]
    deep: Pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return _unmultiplied(deep) if layout.startswith("RGBa") else deep


def _unmultiplied(pixels: Pixels) -> Pixels:
    """16-bit colours, divided by the opacity that they were multiplied by."""
    colours, opacity = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
    colours = (colours * 65_535 + opacity // 2) // np.maximum(opacity, 1)
    return np.concatenate([colours.clip(0, 65_535).astype(np.uint16), pixels[..., 3:]], 2)


def _in_srgb(pixels: Pixels, profile: bytes | None, *, grey: bool) -> tuple[Pixels, tuple[str, ...]]:
    """Pixels in sRGB, by the profile of their colours (of their first channel, if `grey`), and the kinds of changes."""
    if keeps_colours("L" if grey else "RGB", profile):
        return pixels, ()
    # No copy of pixels that lie in four bytes each.
    colours = pixels if pixels.shape[2] == (1 if grey else 3) else pixels[..., : 1 if grey else 3]
    converted = srgb_pixels(to_8_bits(colours), profile)
    if converted is None:
        return pixels, ()
    changes = ("profile", "depth") if pixels.dtype == np.uint16 else ("profile",)
    if converted.shape == pixels.shape:
        return converted, changes
    opacity = to_8_bits(pixels[..., 3:])
    shape = (*pixels.shape[:2], pixels.shape[2] - opacity.shape[2])
    return np.concatenate([np.broadcast_to(converted, shape), opacity], 2), changes


def to_8_bits(pixels: Pixels) -> NDArray[np.uint8]:
    """16-bit pixels scaled to 8 bits, rounded; 8-bit pixels unchanged."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
