"""Pictures to prepare, as files of every kind, and their pixels after it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from beam_jobs.images.geometry import plan_geometry
from beam_jobs.images.process import fit as fit_geometry
from beam_jobs.images.process import prepare_image
from beam_jobs.options import ImageOptions
from beam_jobs.sources import BadInput

OPTIONS = ImageOptions(
    width=64, height=48, fit="crop", filter="lanczos", encoding="raw", quality=None, dtype="uint8", normalize="none"
)

PILLOW_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """A smooth picture with an edge: what photographs are made of."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / max(1, width - 1), 255 * y / max(1, height - 1)
    blue = np.where(x + y < (width + height) / 2, 30, 220)
    return Image.fromarray(np.stack([red, green, blue], -1).round().astype(np.uint8))


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def raw_pixels(data: bytes | np.ndarray, **changes: Any) -> np.ndarray:
    """The raw pixels of an image as it is, but for what the options say."""
    options = replace(OPTIONS, **{"fit": "none", **changes})
    payload = prepare_image(data, options)
    return np.frombuffer(payload.data, np.dtype(options.dtype).newbyteorder("<")).reshape(
        payload.height, payload.width, payload.channels
    )


def decode(data: bytes) -> np.ndarray:
    return raw_pixels(data)


def fit(pixels: np.ndarray, options: ImageOptions) -> np.ndarray:
    return fit_geometry(pixels, plan_geometry(pixels.shape[1], pixels.shape[0], 1, options), options)


def refused(data: bytes | np.ndarray, **changes: Any) -> str:
    """The reason why an image is no record."""
    with pytest.raises(BadInput) as caught:
        raw_pixels(data, **changes)
    assert str(caught.value)
    return caught.value.reason


def pixels_of(payload: bytes, height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    return np.frombuffer(payload, np.dtype(dtype).newbyteorder("<")).reshape(height, width, 3)


SAVED = [
    *[(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    *[(mode, "TIFF") for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "I;16", "I;16B")],
    *[(mode, "JPEG") for mode in ("L", "RGB", "CMYK")],
    *[(mode, "WEBP") for mode in ("RGB", "RGBA")],
    *[(mode, "AVIF") for mode in ("RGB", "RGBA") if features.check("avif")],
]


def in_mode(mode: str) -> Image.Image:
    """The picture in any mode, with transparency that changes where there is any."""
    if mode.startswith("I;16"):
        values = np.asarray(picture().convert("L")).astype(np.uint16) * 257
        return Image.frombytes(mode, (40, 30), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    image = picture()
    if mode in ("LA", "PA", "RGBA"):
        image.putalpha(image.getchannel("R"))
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


def png(pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16-bit grey and opacity, RGB or RGBA, with other chunks before its pixels."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels))
    result = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), *chunks, (b"IDAT", lines), (b"IEND", b"")):
        result += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return result


def tiff(pixels: np.ndarray, *, order: str = "<", bits: int = 16, data: bytes | None = None, **tags: int) -> bytes:
    """An uncompressed TIFF of 16-bit numbers, in any byte order."""
    height, width, channels = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes() if data is None else data
    where = 8 + 2 + 12 * 16 + 4  # of what is too long for the directory of at most sixteen entries
    depths = [bits] * max(4, channels)
    entries = {256: width, 257: height, 259: 1, 262: 2 if channels > 1 else 1, 277: channels, 278: height}
    entries |= {279: len(data), 273: where + 2 * len(depths), 258: bits if channels == 1 else where}
    numbers = {"orientation": 274, "planes": 284, "extra": 338, "photometric": 262, "sample_format": 339}
    numbers |= {"compression": 259}
    entries |= {numbers[name]: value for name, value in tags.items()}
    directory = b""
    for tag, value in sorted(entries.items()):
        short = tag in (258, 259, 262, 274, 277, 284, 338, 339) and not (tag == 258 and channels > 1)
        count = channels if tag == 258 else 1
        field = struct.pack(f"{order}H2x" if short else f"{order}I", value)
        directory += struct.pack(f"{order}HHI", tag, 3 if short or tag == 258 else 4, count) + field
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    head = start + struct.pack(f"{order}H", len(entries)) + directory + bytes(4)
    return head.ljust(where, b"\0") + struct.pack(f"{order}{len(depths)}H", *depths) + data


def numbers(channels: int, height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 65_536, (height, width, channels), dtype=np.uint16)


def eight(values: np.ndarray) -> np.ndarray:
    """16 bits scaled to 8: the formula."""
    return np.round(values.astype(float) * 255 / 65_535).astype(np.uint8)


DEEP = {
    "png": png(numbers(3)),
    "tiff": tiff(numbers(3)),
    "big-endian-tiff": tiff(numbers(3), order=">"),
    "tiff-with-a-fourth-channel": tiff(np.dstack([numbers(3), numbers(1)]), extra=0),
}


PROPHOTO = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def gamma_curve(gamma: float) -> bytes:
    """The curve of a profile: a gamma."""
    return b"curv" + bytes(4) + struct.pack(">IH2x", 1, round(gamma * 256))


def table_curve(values: np.ndarray) -> bytes:
    """The curve of a profile: a table of values from 0 to 1."""
    numbers = (np.asarray(values) * 65_535).round().astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(numbers)) + numbers.tobytes()


def srgb_curve() -> bytes:
    """The curve of a profile: sRGB's, and Display P3's, as a formula."""
    numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para" + bytes(4) + struct.pack(">H2x5i", 3, *(round(number * 65_536) for number in numbers))


def profile(
    *,
    gamma: float = 1.8,
    space: bytes = b"RGB ",
    primaries: Sequence[Sequence[float]] = PROPHOTO,
    curves: Sequence[bytes] | None = None,
    more: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """An ICC profile of version 2: a wide gamut (ProPhoto's), or grey, with a gamma; `more` are its further tags."""
    curve = gamma_curve(gamma)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)
    fixed = lambda *v: b"XYZ " + bytes(4) + struct.pack(">3i", *(round(x * 65_536) for x in v))  # noqa: E731
    tags = {b"desc": text, b"cprt": b"text" + bytes(8), b"wtpt": fixed(0.9642, 1, 0.8249)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {name + b"XYZ": fixed(*xyz) for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=True)}
        tags |= {name + b"TRC": one for name, one in zip((b"r", b"g", b"b"), curves or [curve] * 3, strict=True)}
    tags |= more or {}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value.ljust(-(-len(value) // 4) * 4, b"\0")
    header = struct.pack(">I4sI4s4s4s12x4s", start + len(body), bytes(4), 0x02100000, b"mntr", space, b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63_190, 65_536, 54_061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
