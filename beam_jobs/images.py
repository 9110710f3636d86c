"""Pixels: from the bytes of an image file to the payload that is stored. Pure functions, no Beam.

Pillow reads the header and every format but the common JPEG; libjpeg-turbo (through simplejpeg) decodes
and encodes JPEG, and cykooz-resizer resamples, with the filters of Pillow. See benchmarks/README.md for what
that gains over Pillow alone.
"""

from __future__ import annotations

import functools
import io
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import cykooz_resizer as cykooz
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from beam_jobs.options import MAX_SIDE, ImageOptions

__all__ = [
    "BadImage",
    "ChannelSums",
    "Payload",
    "codec_versions",
    "decode",
    "fit",
    "ignore_image_warnings",
    "prepare_image",
]

Pixels = NDArray[np.uint8]

_RESAMPLING = {
    "lanczos": cykooz.ResizeAlg.convolution(cykooz.FilterType.lanczos3),
    "bicubic": cykooz.ResizeAlg.convolution(cykooz.FilterType.catmull_rom),
    "bilinear": cykooz.ResizeAlg.convolution(cykooz.FilterType.bilinear),
    "area": cykooz.ResizeAlg.convolution(cykooz.FilterType.box),
    "nearest": cykooz.ResizeAlg.nearest(),
}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ORIENTATION = 0x0112
# Raised whenever the same file and options give other pixels than before.
_PIXELS_VERSION = "1"
_MAX_PIXELS = 178_956_970  # where Pillow, too, takes an image for a decompression bomb
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "MPO", "JPEG2000", "PPM", "TGA", "ICO", "PSD"),
    *("DDS", "DIB", "ICNS", "PCX", "QOI", "SGI", "XBM", "XPM"),
)
_thread = threading.local()


class BadImage(Exception):
    """An input that cannot become a record, whenever it is tried: `reason` is a short class."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ChannelSums:
    """Exact sums over pixels, which add up to the same whatever their order.

    `total` and `squares` are the sums of 8-bit values and of their squares, for each channel.
    """

    pixels: int = 0
    total: tuple[int, ...] = (0, 0, 0)
    squares: tuple[int, ...] = (0, 0, 0)

    @classmethod
    def of(cls, pixels: Pixels) -> ChannelSums:
        """The sums over one image, `[height, width, 3]`."""
        rows = pixels.reshape(pixels.shape[0], -1)
        # Down the columns first, in the narrowest integers that cannot overflow (at most 65,500 rows).
        squared = rows.astype(np.uint16)
        squared *= squared
        total, squares = (
            np.add.reduce(values, 0, np.uint32).reshape(-1, 3).sum(0, np.uint64).tolist() for values in (rows, squared)
        )
        return cls(pixels.shape[0] * pixels.shape[1], tuple(total), tuple(squares))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ChannelSums:
        """From the fields by name, with lists for tuples."""
        return cls(value["pixels"], tuple(value["total"]), tuple(value["squares"]))

    def __add__(self, other: ChannelSums) -> ChannelSums:
        total = tuple(a + b for a, b in zip(self.total, other.total, strict=True))
        squares = tuple(a + b for a, b in zip(self.squares, other.squares, strict=True))
        return ChannelSums(self.pixels + other.pixels, total, squares)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and (population) standard deviation of each channel, of pixels scaled to 0..1."""
        n = max(1, self.pixels)
        mean = tuple(total / n / 255 for total in self.total)
        # In integers up to the division: a difference of large floats would lose the result.
        variances = ((n * sq - t * t) / (n * n) for t, sq in zip(self.total, self.squares, strict=True))
        return mean, tuple(variance**0.5 / 255 for variance in variances)


@dataclass(frozen=True, slots=True)
class Payload:
    """What is stored of one image, and what it adds to the statistics."""

    data: bytes
    height: int
    width: int
    sums: ChannelSums


def ignore_image_warnings() -> None:
    """Silence Pillow, for this process: what it warns of it then reads, or refuses with an error."""
    warnings.filterwarnings("ignore", module="PIL")


def codec_versions() -> dict[str, str]:
    """What decides the bytes beside the options: this module's results, and libraries, by version."""
    names = ("cykooz-resizer", "h5py", "numpy", "pillow", "simplejpeg")
    return {"pixels": _PIXELS_VERSION} | {name: version(name) for name in names}


def prepare_image(data: bytes, options: ImageOptions, statistics: ChannelSums | None = None) -> Payload:
    """The payload for an image file's bytes.

    Args:
        data: the file.
        options: what to make of it.
        statistics: of the dataset; needed for `normalize="dataset"`.

    Raises:
        BadImage: the file is no image, damaged, or too large.
    """
    pixels = fit(decode(data), options)
    height, width = pixels.shape[:2]
    return Payload(_encode(pixels, options, statistics), height, width, ChannelSums.of(pixels))


def decode(data: bytes) -> Pixels:
    """Upright 8-bit RGB pixels, `[height, width, 3]`, of any image file Pillow knows.

    EXIF orientation is applied, 16-bit grey is scaled, transparency goes over white, of an animation
    the first frame is taken.

    Raises:
        BadImage: the file is no image, damaged, too large, or of a mode without a meaning in RGB.
    """
    if not data:
        raise BadImage("empty", "the file has no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            if image.format == "JPEG" and image.mode in ("L", "RGB"):
                pixels = _decode_jpeg(data)
                if pixels is not None:
                    return _turn(pixels, image.getexif().get(_ORIENTATION, 1))
            image.load()  # turns a TIFF, and then says that it is upright
            return _turn(np.asarray(_to_rgb(image)), image.getexif().get(_ORIENTATION, 1))
    except UnidentifiedImageError:
        raise BadImage("not-an-image", "no image format that Pillow knows") from None
    except Image.DecompressionBombError as error:
        raise BadImage("too-large", str(error)) from error
    except (MemoryError, BadImage):
        raise
    except Exception as error:  # the bytes are in memory: whatever a decoder raises is about them
        raise BadImage("damaged", str(error) or type(error).__name__) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats of pixels that Pillow reads by itself: not EPS, for which it runs Ghostscript."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode_jpeg(data: bytes) -> Pixels | None:
    """Pixels, or None where libjpeg has a complaint: then Pillow, more patient, has the last word."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert() would clip at 255
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage("unsupported-mode", f"pixels of mode {image.mode!r} have no known range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (Exif 2.32, section 4.6.4): 5 to 8 are 1 to 4 transposed."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def fit(pixels: Pixels, options: ImageOptions) -> Pixels:
    """Bring an image to the size that the options ask for, as Pillow's `ImageOps` does.

    "cover" is `ImageOps.cover`, "crop" is `ImageOps.fit`, "pad" is `ImageOps.pad`.

    Raises:
        BadImage: an image so long and thin that it would become too large.
    """
    height, width = pixels.shape[:2]
    target = (options.width, options.height)
    if options.fit == "pad":
        inside = _resize(pixels, _scaled(width, height, target, covering=False), options.filter)
        return _padded(inside, target)
    if options.fit == "cover":
        return _resize(pixels, _scaled(width, height, target, covering=True), options.filter)
    if options.fit == "crop":
        box = cykooz.CropBox.get_crop_box_to_fit_dst_size((width, height), target)
        return _resize(pixels, target, options.filter, box)
    return _resize(pixels, target, options.filter)


def _scaled(width: int, height: int, target: tuple[int, int], *, covering: bool) -> tuple[int, int]:
    """The size of the same aspect ratio that just covers `target`, or just fits into it."""
    wider = width * target[1] > height * target[0]
    if wider == covering:  # the heights are equal
        return max(1, round(width / height * target[1])), target[1]
    return target[0], max(1, round(height / width * target[0]))


def _padded(pixels: Pixels, target: tuple[int, int]) -> Pixels:
    height, width = pixels.shape[:2]
    top, left = round((target[1] - height) / 2), round((target[0] - width) / 2)
    result = np.zeros((target[1], target[0], 3), np.uint8)
    result[top : top + height, left : left + width] = pixels
    return result


def _resize(pixels: Pixels, size: tuple[int, int], filter: str, box: cykooz.CropBox | None = None) -> Pixels:
    height, width = pixels.shape[:2]
    if max(size) > MAX_SIDE or size[0] * size[1] > _MAX_PIXELS:
        raise BadImage("too-large", f"{width}x{height} would become {size[0]}x{size[1]} pixels; try --fit crop or pad")
    if (width, height) == size:
        return pixels
    source = cykooz.ImageData(width, height, cykooz.PixelType.U8x3, pixels.tobytes())
    result = cykooz.ImageData(*size, cykooz.PixelType.U8x3)
    if not hasattr(_thread, "resizer"):
        _thread.resizer = cykooz.Resizer()  # holds buffers: one for each thread
    _thread.resizer.resize(source, result, cykooz.ResizeOptions(_RESAMPLING[filter], crop_box=box))
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(size[1], size[0], 3)


def _encode(pixels: Pixels, options: ImageOptions, statistics: ChannelSums | None) -> bytes:
    if options.encoding == "jpeg":
        encoded: bytes = simplejpeg.encode_jpeg(pixels, options.quality or 90, "RGB", "420")
        return encoded
    if options.encoding == "png":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()
    if options.dtype == "uint8":
        return pixels.tobytes()
    values = _normalized(pixels, options.normalize, statistics)
    return values.astype(np.dtype(options.dtype).newbyteorder("<")).tobytes()


def _normalized(pixels: Pixels, how: str, statistics: ChannelSums | None) -> NDArray[np.float32]:
    values = pixels.astype(np.float32)
    if how == "none":
        return values
    values /= 255
    if how == "unit":
        return values
    mean, std = _center_and_scale(pixels, how, statistics)
    values -= np.asarray(mean, np.float32)
    values /= np.asarray(std, np.float32)
    return values


def _center_and_scale(
    pixels: Pixels, how: str, statistics: ChannelSums | None
) -> tuple[Sequence[float], Sequence[float]]:
    if how == "symmetric":
        return (0.5,), (0.5,)
    if how == "imagenet":
        return _IMAGENET_MEAN, _IMAGENET_STD
    if how == "dataset" and statistics is None:
        raise ValueError('normalize="dataset" needs the statistics of the dataset')
    mean, std = (statistics if how == "dataset" and statistics else ChannelSums.of(pixels)).mean_std()
    return mean, [value or 1.0 for value in std]  # one colour everywhere: nothing to scale
