"""From an image file, or from pixels, to the payload that is stored. Pure functions, no Beam.

`decode.py` reads files, `geometry.py` computes sizes, `pixels/` resamples with the filters of Pillow.
benchmarks/README.md compares their speed with Pillow's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_jobs.images.changes import CHANGES
from beam_jobs.images.decode import Decoded, check_size, decode, to_8_bits
from beam_jobs.images.encode import encode, to_16_bits
from beam_jobs.images.geometry import Geometry, followed, plan_geometry
from beam_jobs.images.measures.perceptual_hash import PerceptualHashes, perceptual_hashes
from beam_jobs.images.measures.statistics import ChannelSums, MeanStd
from beam_jobs.images.pixels.resample import resampled
from beam_jobs.images.pixels.viewable import viewable
from beam_jobs.meter import Meter
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import BadInput, Pixels
from shard_reader.format.fields import MAX_PIXELS
from shard_reader.format.image_codecs.table import IMAGE_CODECS

__all__ = ["Observer", "Payload", "codec_versions", "fit", "prepare_image"]


_LUMA = (19_595, 38_470, 7_471)  # of 65,536: ITU-R 601-2, as Pillow has it

# To be raised with every change that gives other pixels for the same file and options: it is part of the fingerprint.
_PIXELS_VERSION = "5"
# OpenCV comes by four names, and is an extra, as pillow-heif is.
_OPENCV = [f"opencv-{kind}" for kind in ("python-headless", "python", "contrib-python-headless", "contrib-python")]
_LIBRARIES = ["cykooz-resizer", "h5py", "numpy", *_OPENCV, "pillow", "simplejpeg", "pillow-heif"]
_LIBRARIES += ["imagecodecs", "tifffile", "pydicom", "python-gdcm", "pycocotools"]
_LIBRARIES += ["pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"]  # they decode for pydicom


@dataclass(frozen=True, slots=True)
class Payload:
    """The stored bytes of one image, its sums for the statistics, and its geometry for boxes and points.

    `changes` are the kinds of `CHANGES` that apply. `suspect` is the complaint of the decoder, or "".
    """

    data: bytes
    height: int
    width: int
    channels: int
    sums: ChannelSums
    geometry: Geometry
    hashes: PerceptualHashes
    changes: tuple[str, ...] = ()
    suspect: str = ""


Observer = Callable[[tuple[str, ...], str, Pixels, Pixels], None]
"""Is shown an image: the changes to it, its decoder's complaint, its upright pixels, and the pixels to be stored."""


def codec_versions() -> dict[str, str]:
    """The versions of this module's results and of all libraries that decide the stored bytes."""
    versions = {"pixels": _PIXELS_VERSION}
    for name in _LIBRARIES:
        # A library that is missing decides, too: the images that need it are rejects.
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def prepare_image(
    data: bytes | Pixels,
    options: ImageOptions,
    statistics: MeanStd | None = None,
    observer: Observer | None = None,
    meter: Meter | None = None,
    first: Geometry | None = None,
) -> Payload:
    """The payload for an image.

    A JPEG file that needs no change keeps its bytes, unless a `quality` is given.

    Args:
        data: the bytes of a file, or pixels: uint8 or uint16 `[height, width]` or `[height, width, channels]`,
            upright, with 1 (grey), 3 (RGB) or 4 (RGB and opacity) channels.
        options: size, colours and encoding.
        statistics: the sums of the dataset, needed for `normalize="dataset"`.
        observer: is shown the image before and after.
        meter: takes the time of the stages.
        first: the geometry of the record's first image, if this is a further one: its steps are taken in proportion.

    Raises:
        BadInput: the file is not an image, or is damaged or too large; or the pixels have another dtype or shape; or
            the image has other proportions than the first one.
    """
    meter = meter or Meter()
    decoded = decode(data, options) if isinstance(data, bytes) else _checked(data, options)
    meter.lap("decode")
    if decoded.suspect and options.reject_suspects:
        raise BadInput("suspect", decoded.suspect)
    geometry = _geometry(decoded, options, first)
    bands = decoded.bands
    kept = _with_depth(decoded.pixels, options)
    kept = kept if bands else _with_channels(kept, options)
    # Decoders may return rows in any layout; encoders need them one after the other.
    pixels: NDArray[Any] = np.ascontiguousarray(fit(kept, geometry, options, bands=bands))
    meter.lap("resize")
    same = decoded.clean and not geometry.changes and kept.shape == decoded.pixels.shape
    codec = IMAGE_CODECS[options.encoding]
    # Encoding a JPEG again would lose quality and time.
    if isinstance(data, bytes) and same and codec.keeps_files and options.quality is None:
        encoded = data
    else:
        encoded = encode(pixels, options, statistics)
    meter.lap("encode")
    height, width, channels = pixels.shape
    changes = _changes(decoded, kept, geometry, options)
    if observer is not None:
        observer(changes, decoded.suspect, viewable(decoded.pixels, bands=bands), viewable(pixels, bands=bands))
        meter.lap("thumbnails")
    hashes = perceptual_hashes(viewable(_without_border(pixels, geometry), bands=bands))
    return Payload(encoded, height, width, channels, ChannelSums.of(pixels), geometry, hashes, changes, decoded.suspect)


def _geometry(decoded: Decoded, options: ImageOptions, first: Geometry | None) -> Geometry:
    if first is None:
        return plan_geometry(*decoded.stored, decoded.orientation, options)
    orientation = decoded.orientation if decoded.orientation in range(1, 9) else 1
    return followed(first, decoded.stored, (orientation,))


def _without_border(pixels: Pixels, geometry: Geometry) -> Pixels:
    # Borders are alike in all images, and would make their hashes alike.
    (left, top), (width, height) = geometry.offset, geometry.scaled
    return pixels[top : top + height, left : left + width] if geometry.pads else pixels


def _changes(decoded: Decoded, kept: Pixels, geometry: Geometry, options: ImageOptions) -> tuple[str, ...]:
    """The kinds of `CHANGES` that apply to an image."""
    before, after = decoded.pixels.shape[2], kept.shape[2]
    applies = {
        "depth": decoded.pixels.dtype == np.uint16 and options.dtype == "uint8",
        "transparency": before == 4 and after < 4,
        "colours": before > 1 and after == 1,
        "orientation": geometry.orientation != 1,
        "enlarged": geometry.enlarges,
    }
    return tuple(kind for kind in CHANGES if applies.get(kind) or kind in decoded.changes)


def _checked(pixels: Pixels, options: ImageOptions) -> Decoded:
    """Pixels of a source after a check, `[height, width, channels]`, in this machine's byte order."""
    shape = (*pixels.shape, 1) if pixels.ndim == 2 else pixels.shape
    native = pixels.dtype.newbyteorder("=")
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape or native not in (np.uint8, np.uint16):
        raise BadInput("bad-array", f"expected uint8 or uint16 [height, width] or [height, width, 1, 3 or 4],"
            f" got {pixels.dtype} {list(pixels.shape)}")  # fmt: skip
    check_size(shape[1], shape[0], options)
    checked: Pixels = np.ascontiguousarray(pixels, native).reshape(shape)
    return Decoded(checked, shape[1::-1])


def _with_depth(pixels: Pixels, options: ImageOptions) -> Pixels:
    return to_8_bits(pixels) if options.dtype == "uint8" else pixels


def _with_channels(pixels: Pixels, options: ImageOptions) -> Pixels:
    """Pixels with the channels that the options ask for and the encoding supports."""
    keep = options.channels == "keep"
    if pixels.shape[2] == 4 and not (keep and 4 in IMAGE_CODECS[options.encoding].channels):
        pixels = _over(pixels, options.background)
    if options.channels == "grey" and pixels.shape[2] == 3:
        return _grey(pixels)
    if options.channels == "rgb" and pixels.shape[2] == 1:
        pixels = np.concatenate([pixels] * 3, 2)
    return pixels


def _over(pixels: Pixels, background: tuple[int, int, int]) -> Pixels:
    """RGB pixels: pixels with opacity, drawn over a colour."""
    if pixels.dtype == np.uint8:
        rgba = Image.fromarray(pixels)
        over = Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
        return np.asarray(over.convert("RGB"))
    opacity, below = pixels[..., 3:].astype(np.uint32), np.array(background, np.uint32) * 257
    # 65,535 times 65,535, plus the half for rounding, is below 2 to the 32: no overflow.
    mixed = pixels[..., :3] * opacity + below * (65_535 - opacity)
    return ((mixed + 32_767) // 65_535).astype(np.uint16)


def _grey(pixels: Pixels) -> Pixels:
    """The luma of RGB pixels, as Pillow's "L": `[height, width, 1]`."""
    if pixels.dtype == np.float32:
        parts = (pixels[..., i : i + 1] * np.float32(weight / 65_536) for i, weight in enumerate(_LUMA))
        return next(parts) + next(parts) + next(parts)
    red, green, blue = (pixels[..., i : i + 1].astype(np.uint32) * weight for i, weight in enumerate(_LUMA))
    grey: NDArray[Any] = ((red + green + blue + 0x8000) >> 16).astype(pixels.dtype)
    return grey


def fit(pixels: Pixels, geometry: Geometry, options: ImageOptions, *, bands: bool = False) -> Pixels:
    """Crop, resize and pad upright pixels, `[height, width, channels]`, that a decoder may have reduced.

    With `bands`, no channel is opacity.

    Raises:
        BadInput: the result would be too large, as for a very long and thin image.
    """
    width, height = geometry.size
    limit = IMAGE_CODECS[options.encoding].max_side
    if max(width, height) > limit or width * height > max(MAX_PIXELS, options.max_pixels):
        was = f"{geometry.upright[0]}x{geometry.upright[1]}"
        raise BadInput("too-large", f"{was} would become {width}x{height} pixels; try --fit crop or pad")
    if geometry.resizes:
        box = geometry.box_in(pixels.shape[1], pixels.shape[0])
        pixels = resampled(pixels, box, geometry.scaled, options.filter, bands)
    return _padded(pixels, geometry, options.pad_color, bands=bands) if geometry.pads else pixels


def _padded(pixels: Pixels, geometry: Geometry, color: tuple[int, int, int], *, bands: bool) -> Pixels:
    height, width, channels = pixels.shape
    border: Pixels = np.array([[color]], np.uint8)
    if channels == 1 or bands:
        border = _grey(border)
    elif channels == 4:
        border = np.array([[[*color, 255]]], np.uint8)
    (left, top), size = geometry.offset, geometry.size
    border = to_16_bits(border) if pixels.dtype == np.uint16 else border.astype(pixels.dtype)
    result: NDArray[Any] = np.broadcast_to(border, (size[1], size[0], channels)).copy()
    result[top : top + height, left : left + width] = pixels
    return result
