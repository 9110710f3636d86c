"""Changes to the values of an image that a dataset reports: each kind, and its sentence in the summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["CHANGES", "change_lines"]

CHANGES: Final[Mapping[str, str]] = {
    "depth": "from 16 to 8 bits; --dtype uint16 keeps them",
    "bits": "with more than 8 bits a colour, of which their decoder keeps 8",
    "transparency": "with transparency, drawn over --background; --channels keep keeps it, with png, webp, avif or raw",
    "colours": "from colour to grey, as --channels grey says",
    "bands": "with further bands than are stored; --channels keep keeps them, with raw",
    "nodata": "with pixels without data: NaN in floats, and their own number in integers",
    "pages": "with further pages, of which the first is stored",
    "frames": "with further frames, of which the first is stored",
    "profile": "converted to sRGB by their colour profile",
    "orientation": "turned upright by their Exif orientation",
    "enlarged": "enlarged; --only-shrink leaves them small",
    "metadata": "with broken metadata, which is dropped; the pixels are read",
    "lossy": "with a mask or a depth map in a lossy file, as JPEG, whose values are not exact; save them as PNG",
    "missing": "without an image or bytes that --allow-missing allows to be missing; empty ones are stored",
    "boxes": "boxes dropped, of which nothing is left in the image",
}
"""The kinds of changes in the order of the summary. Each counts images, `boxes` the boxes themselves."""


def change_lines(changed: Mapping[str, int]) -> list[str]:
    """A line of the summary for each kind of change, in the order of `CHANGES`."""
    known = [kind for kind in CHANGES if changed.get(kind)]
    return [f"{changed[kind]} {CHANGES[kind]}" for kind in known]
