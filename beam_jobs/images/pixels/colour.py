"""Colours: from an ICC profile's to sRGB, by LittleCMS, and by NumPy for the profiles of cameras and screens."""

from __future__ import annotations

import functools
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from beam_jobs.images.pixels.matrix_profile import MatrixProfile, some_colours
from beam_jobs.images.pixels.rgbx import packed

__all__ = ["image_of", "keeps_colours", "srgb_pixels", "to_srgb"]

_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
_SAME = 2  # levels of difference, which rounding alone causes in a profile that is sRGB


class _Effect(NamedTuple):
    """The effect of a profile on colours: none if `transform` is None. `known` is False for an unusable profile.

    `matrix` does the same as `transform` in a third of the time; None if the profile is of another kind.
    """

    known: bool
    transform: ImageCms.ImageCmsTransform | None = None
    matrix: MatrixProfile | None = None


def keeps_colours(mode: str, profile: bytes | None) -> bool:
    """Whether pixels of a mode ("L", "RGB") with this profile, or without one, are sRGB already."""
    return not profile or _effect(mode, profile) == _Effect(True)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of mode "L", "RGB", "CMYK" or "LAB" in sRGB: "L", or "RGB".

    A profile is ignored if it is broken, is for another mode than the image's, or is sRGB in effect.
    """
    lab = image.mode == "LAB"
    transform = _effect(image.mode, b"" if lab else profile).transform if lab or profile else None
    if transform is None:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    converted = transform.apply(image)
    return converted.convert("L") if image.mode == "L" else converted


def srgb_pixels(pixels: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8] | None:
    """Grey or RGB pixels, uint8 `[height, width, 1 or 3]`, in sRGB; None if they stay as they are.

    A profile is ignored if it is broken, is for other colours than the pixels, or is sRGB in effect.
    """
    matrix = _effect("RGB", profile).matrix if profile and pixels.shape[2] == 3 else None
    if matrix is not None:
        return matrix.to_srgb(pixels)
    original = image_of(pixels)
    converted = to_srgb(original, profile)
    return None if converted is original else np.atleast_3d(np.asarray(converted))


def image_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """A Pillow image of `[height, width, channels]`."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else packed(pixels))


@functools.lru_cache(maxsize=32)
def _effect(mode: str, profile: bytes | None) -> _Effect:
    """The effect of a profile, cached: the photos of one camera have the same."""
    try:
        source: ImageCms.ImageCmsProfile
        if mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif profile and profile[16:20] == _SPACES.get(mode):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            return _Effect(False)
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return _Effect(False)
    # Most profiles are sRGB under one of many names. The effect on a cube of colours tells, and saves the conversion of
    # all pixels; without it, a JPEG with such a profile could not keep its bytes.
    if mode in ("L", "RGB"):
        colours = Image.fromarray(some_colours()).convert(mode)
        change = np.asarray(transform.apply(colours)).astype(int) - np.asarray(colours.convert("RGB"))
        if np.abs(change).max() <= _SAME:
            return _Effect(True)
    return _Effect(True, transform, MatrixProfile.of(source, transform) if mode == "RGB" else None)
