"""Colours: what an ICC profile says, turned into sRGB."""

from __future__ import annotations

import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

__all__ = ["keeps_colours", "to_srgb"]

_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
_SAME = 2  # levels: what rounding alone does to colours that are sRGB already


class _Effect(NamedTuple):
    """What a profile does to colours: nothing without a `transform`, which is not `known` where it makes no sense."""

    known: bool
    transform: ImageCms.ImageCmsTransform | None = None


def keeps_colours(mode: str, profile: bytes | None) -> bool:
    """Whether pixels of a mode ("L", "RGB") with this profile, or with none, are sRGB as they are."""
    return not profile or _effect(mode, profile) == _Effect(True)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of mode "L", "RGB", "CMYK" or "LAB" in sRGB: "L", or "RGB".

    A profile that is broken or is for other modes than the image's is ignored, as one that is sRGB in effect.
    """
    lab = image.mode == "LAB"
    transform = _effect(image.mode, b"" if lab else profile).transform if lab or profile else None
    if transform is None:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    converted = transform.apply(image)
    return converted.convert("L") if image.mode == "L" else converted


@functools.lru_cache(maxsize=32)
def _effect(mode: str, profile: bytes | None) -> _Effect:
    """Found once for each profile: photos of one camera have the same."""
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
    if mode in ("L", "RGB"):
        colours = _some_colours().convert(mode)
        change = np.asarray(transform.apply(colours)).astype(int) - np.asarray(colours.convert("RGB"))
        if np.abs(change).max() <= _SAME:
            return _Effect(True)
    return _Effect(True, transform)


def _some_colours() -> Image.Image:
    """A cube of 17 levels a side."""
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(17, -1, 3))
