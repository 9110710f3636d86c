"""The values of a raster, and the channels of them that the options ask for."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import BadInput, Pixels
from shard_reader.format.image_codecs.table import IMAGE_CODECS

__all__ = ["MOST_BANDS", "Raster", "check_bytes", "check_shape", "chosen", "needs_floats"]

MOST_BANDS: Final = 16
_PIXEL_BYTES: Final = 8  # of the largest pixel of other files
_LARGEST_HALF: Final = float(np.finfo(np.float16).max)
_KEEP_VALUES: Final = ("none", "dataset", "per-image")  # the normalizations that need no known range


class Raster(NamedTuple):
    """The values of a file.

    `pixels` are uint8, uint16 or float32, `[height, width, channels]`, as they lie in the file; `orientation` is that
    of Exif. The first three are colours if `is_rgb`, with the ICC profile `profile`, and the last one is opacity if
    `has_opacity`. `what` names the file in messages.
    """

    pixels: Pixels
    what: str
    is_rgb: bool = False
    has_opacity: bool = False
    orientation: int = 1
    profile: bytes | None = None
    changes: tuple[str, ...] = ()


def chosen(raster: Raster, options: ImageOptions) -> tuple[Pixels, bool, tuple[str, ...]]:
    """The channels that are asked for, whether they are bands rather than colours and opacity, and kinds of changes.

    Raises:
        BadInput: the options cannot hold the values.
    """
    pixels, changes = raster.pixels, raster.changes
    count = pixels.shape[2]
    if pixels.dtype == np.float32:
        _check_floats(raster, options)
    usual = 3 if raster.is_rgb else 1
    if count == usual or (raster.has_opacity and count == usual + 1 == 4):
        return pixels, False, changes
    if options.channels == "keep":
        codec = IMAGE_CODECS[options.encoding]
        if count in (1, 3) and count in codec.channels:
            return pixels, False, changes
        if not codec.is_raw:
            raise BadInput(
                "unsupported-mode",
                f"{raster.what}: {codec.label} cannot hold its bands; --encoding raw keeps them, --channels rgb takes"
                " the first three",
            )
        return pixels, True, changes
    wanted = 3 if raster.is_rgb or (options.channels == "rgb" and count >= 3) else 1
    dropped = ("bands",) if wanted < count else ()
    return np.ascontiguousarray(pixels[..., :wanted]), False, (*changes, *dropped)


def needs_floats(what: str, options: ImageOptions) -> BadInput | None:
    """The reject of a file of floats, or of signed or 32-bit numbers, that the options cannot hold; None otherwise."""
    if not options.dtype.startswith("float"):
        remedy = "--dtype float32 --encoding raw stores them as they are, or scale them to unsigned integers"
        return BadInput("unsupported-mode", f"{what}: pixels have no known range; {remedy}")
    if options.normalize not in _KEEP_VALUES:
        remedy = "give --normalize none, dataset or per-image"
        return BadInput("unsupported-mode", f"{what}: --normalize {options.normalize} needs a known range; {remedy}")
    return None


def _check_floats(raster: Raster, options: ImageOptions) -> None:
    problem = needs_floats(raster.what, options)
    if problem is not None:
        raise problem
    finite = np.abs(raster.pixels[np.isfinite(raster.pixels)])
    largest = float(finite.max(initial=0))
    if options.dtype == "float16" and options.normalize == "none" and largest > _LARGEST_HALF:
        raise BadInput(
            "unsupported-mode", f"{raster.what}: values up to {largest:g} are beyond float16; give --dtype float32"
        )


def check_shape(height: int, width: int, bands: int, itemsize: int, options: ImageOptions) -> None:
    """Check the size of a raster before memory is taken for it.

    Raises:
        BadInput: it has no pixel, too many of them, too many bands, or too many bytes.
    """
    if min(height, width, bands) < 1:
        raise BadInput("damaged", f"{width}x{height} pixels of {bands} bands: there is no image")
    if bands > MOST_BANDS:
        raise BadInput("unsupported-mode", f"{bands} bands: an image has at most {MOST_BANDS}; leave some out")
    if width * height > options.max_pixels:
        raise BadInput("too-large", f"{width}x{height} pixels are more than the limit of {options.max_pixels}")
    check_bytes(f"{width}x{height} pixels of {bands} bands", width * height * bands * itemsize, options)


def check_bytes(what: str, size: int, options: ImageOptions) -> None:
    """Check that values take no more memory than the largest image of other files.

    Raises:
        BadInput: they do.
    """
    most = _PIXEL_BYTES * options.max_pixels
    if size > most:
        raise BadInput(
            "too-large",
            f"{what} take {size:,} bytes, more than the {most:,} of --max-pixels {options.max_pixels} in 16-bit colours"
            " with opacity",
        )
