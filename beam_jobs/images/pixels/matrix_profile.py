"""ICC profiles of a matrix and three curves, as cameras and screens have them: to sRGB by lookups in NumPy.

LittleCMS tells the curves: no byte of a profile is parsed here. Each channel alone, in all of its 256 levels, is
converted to a grey of 16 bits whose curve is a cube root, so that dark levels are far apart. Their cubes are the curve
of the channel, times its part of the luminance. The result is compared with LittleCMS itself, and is used if both agree
within a level in some thousands of colours. For the profiles in use they then agree within one in all 16.7 million; for
odd ones, made for no device, a colour in 100,000 may be two levels off.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from beam_jobs.images.pixels.rgbx import colours_of, rgbx_below

__all__ = ["MatrixProfile", "some_colours"]

_BLOCK = 1 << 14  # pixels, whose numbers stay in the cache of a core
_PEAK = (1 << 16) - 1
_NEAR = 1  # level of difference to LittleCMS
_WIDEST = 4.0  # of the range of linear values, 1 for sRGB, 3.1 for ProPhoto; 16 bits are too coarse for more

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MatrixProfile:
    """The conversion of RGB pixels to sRGB.

    `parts`, uint64 `[3, 256]`, have for each level of each channel its parts of linear red, green and blue, in 16 bits
    each. Their sums over the channels, which do not overflow, are indices of `levels`, uint8 `[65536]`.
    """

    # One lookup and one addition do the work of three: there are three parts in one number.

    parts: NDArray[np.uint64]
    levels: NDArray[np.uint8]

    @classmethod
    def of(cls, profile: ImageCms.ImageCmsProfile, transform: ImageCms.ImageCmsTransform) -> MatrixProfile | None:
        """The conversion by a profile; None if `transform`, LittleCMS's to 8-bit sRGB, is another one."""
        if not profile.profile.is_matrix_shaper:
            return None
        curves = _curves(profile)
        to_xyz, of_srgb = _colorants(profile), _colorants(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")))
        inverse = None if of_srgb is None else _inverse(of_srgb)
        if curves is None or to_xyz is None or inverse is None:
            return None
        # Sums of products one by one: no library for matrices, which could round in another way on another machine.
        matrix = (inverse[:, :, None] * to_xyz[None, :, :]).sum(1)
        parts = matrix[:, :, None] * curves
        if _range(parts) > _WIDEST:
            return None
        found = cls(*_tables(parts))
        probe = _probe()
        change = np.abs(found.to_srgb(probe).astype(int) - np.asarray(transform.apply(Image.fromarray(probe))))
        return found if change.max() <= _NEAR else None

    def to_srgb(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels, uint8 `[height, width, 3]`, in sRGB; in four bytes a pixel if they are (`rgbx.py`)."""
        height, width, _ = pixels.shape
        converted = np.empty((height, width, 3 if rgbx_below(pixels) is None else 4), np.uint8)
        source, target = pixels.reshape(-1, 3), converted.reshape(height * width, -1)
        part = np.empty(min(_BLOCK, len(source)), np.uint64)
        for start in range(0, len(source), _BLOCK):
            block = source[start : start + _BLOCK]
            # Every index is in range: "clip" spares a copy of the result, which "raise" needs.
            linear = self.parts[0].take(block[:, 0], mode="clip")
            for channel in (1, 2):
                linear += self.parts[channel].take(block[:, channel], out=part[: len(block)], mode="clip")
            fields = linear.view(np.uint16).reshape(-1, 4)
            for channel, field in enumerate(_FIELDS):
                target[start : start + _BLOCK, channel] = self.levels.take(fields[:, field], mode="clip")
        return colours_of(converted)


_FIELDS: Final = tuple(np.array([0 | 1 << 16 | 2 << 32], np.uint64).view(np.uint16).tolist().index(i) for i in range(3))
"""The place of each channel among the four 16-bit numbers of a part, in the byte order of this machine."""


def some_colours() -> NDArray[np.uint8]:
    """All colours of 17 levels of each channel, `[17, 289, 3]`."""
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), -1).reshape(17, -1, 3)


def _probe() -> NDArray[np.uint8]:
    """Colours to compare by, `[1, n, 3]`: some of all, the dark ones among them, and each channel and grey in full."""
    cube, ramp = some_colours().reshape(-1, 3), np.arange(256, dtype=np.uint8)[:, None]
    masks = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.uint8)
    return np.concatenate([cube, cube // 8, *(ramp * mask for mask in masks)])[None]


def _curves(profile: ImageCms.ImageCmsProfile) -> Matrix | None:
    """The linear value of each level of each channel, `[3, 256]`, up to 1; None if a channel has no luminance."""
    ramps = np.zeros((3, 256, 3), np.uint8)
    for channel in range(3):
        ramps[channel, :, channel] = np.arange(256)
    grey = ImageCms.ImageCmsProfile(io.BytesIO(_cube_root_grey()))
    exact = ImageCms.Flags.NOOPTIMIZE  # no table in between
    try:
        transform = ImageCms.buildTransform(profile, grey, "RGB", "I;16", flags=exact)
    except ImageCms.PyCMSError:  # a profile for sRGB alone, as a link of two devices is
        return None
    roots = np.asarray(transform.apply(Image.fromarray(ramps))).astype(np.float64) / _PEAK
    luminance = roots * roots * roots
    full = luminance[:, -1:]
    return luminance / full if (full > 0).all() else None


def _colorants(profile: ImageCms.ImageCmsProfile) -> Matrix | None:
    """The matrix from linear RGB to XYZ."""
    found = [profile.profile.red_colorant, profile.profile.green_colorant, profile.profile.blue_colorant]
    columns = [one[0] for one in found if one is not None]
    return np.array(columns, np.float64).T if len(columns) == 3 else None


def _inverse(matrix: Matrix) -> Matrix | None:
    """The inverse of a matrix of 3 x 3, by its cofactors; None if it has none."""
    rows = [np.cross(matrix[:, (i + 1) % 3], matrix[:, (i + 2) % 3]) for i in range(3)]
    determinant = float((matrix[:, 0] * rows[0]).sum())
    return np.array(rows) / determinant if determinant else None


def _range(parts: NDArray[np.float64]) -> float:
    """From the lowest to the highest sum of parts, `[to, from, level]`, at least 1: all that 16 bits must hold."""
    return max(1.0, float(parts.max(2).sum(1).max() - parts.min(2).sum(1).min()))


def _tables(parts: NDArray[np.float64]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """`parts` and `levels` of a profile, from `[to, from, level]`: what a level of a channel adds to linear RGB."""
    lowest = parts.min(2)
    below = -lowest.sum(1)
    # Four roundings add up to two at most.
    scale = (_PEAK - 2) / _range(parts)
    # Moved to 0 and up, so that no sum borrows from the next field.
    moved = np.rint((parts - lowest[..., None]) * scale).astype(np.uint64)
    black = float(below.max()) * scale
    moved[:, 0] += np.rint(black - below * scale).astype(np.uint64)[:, None]
    packed = moved[0] | moved[1] << np.uint64(16) | moved[2] << np.uint64(32)
    linear = (np.arange(_PEAK + 1) - black) / scale
    return packed, np.searchsorted(np.array(list(_thresholds())), linear, "right").astype(np.uint8)


def _thresholds() -> Iterator[float]:
    """The linear values at which the levels 1 to 255 of sRGB begin (IEC 61966-2-1)."""
    for level in range(1, 256):
        value = (level - 0.5) / 255
        yield value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _cube_root_grey() -> bytes:
    """An ICC profile of version 2: grey levels that are cube roots of the luminance (ICC.1:2001-04, section 6)."""
    white = struct.pack(">4s4x3i", b"XYZ ", 63_190, 65_536, 54_061)  # D50, in 65,536ths
    curve = struct.pack(">4s4xIH2x", b"curv", 1, 3 << 8)  # one number: a gamma of 3, in 256ths
    tags = {b"wtpt": white, b"kTRC": curve}
    start = 128 + 4 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    for name, value in tags.items():
        table += struct.pack(">4sII", name, start, len(value))
        start += len(value)
    header = struct.pack(">I4xI4s4s4s12x4s", start, 0x0240_0000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    return header.ljust(68, b"\0") + white[8:] + bytes(48) + table + white + curve
