"""Colours: from an ICC profile's to sRGB."""

from __future__ import annotations

import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

__all__ = ["keeps_colours", "to_srgb"]

_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
_SAME = 2  # levels of difference, which rounding alone causes in a profile that is sRGB


class _Effect(NamedTuple):
    """The effect of a profile on colours: none if `transform` is None. `known` is False for an unusable profile."""

    known: bool
    transform: ImageCms.ImageCmsTransform | None = None


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
        colours = _some_colours().convert(mode)
        change = np.asarray(transform.apply(colours)).astype(int) - np.asarray(colours.convert("RGB"))
        if np.abs(change).max() <= _SAME:
            return _Effect(True)
    return _Effect(True, transform)


def _some_colours() -> Image.Image:
    """An image of all colours of 17 levels of each channel."""
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(17, -1, 3))
