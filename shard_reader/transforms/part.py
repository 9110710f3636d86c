"""The part of an image that a transform uses, and the scale at which it may be decoded."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SCALES", "Part", "scale_for"]

SCALES = (8, 4, 2)
"""The numbers by which a decoder can divide the sides of a JPEG: its blocks have sides of 8."""

_LEFT = 2  # times the size that is wanted: with fewer pixels, a decoder's filter would be seen


class Part(NamedTuple):
    """A part of an image, in pixels of the whole image.

    `scale` is 1, 2, 4 or 8: a decoder may give 1/scale of the pixels in each direction, rounded up. `top` and `left`
    are multiples of it.
    """

    top: int
    left: int
    height: int
    width: int
    scale: int = 1

    @property
    def rows(self) -> slice:
        """Its rows in the whole image."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Its columns in the whole image."""
        return slice(self.left, self.left + self.width)


def scale_for(height: float, width: float, shape: tuple[int, int]) -> int:
    """The largest scale at which pixels are still twice as many as those of `shape`, in each direction; 1 if none is.

    The job and streams have the same rule.
    """
    most = min(height / (_LEFT * shape[0]), width / (_LEFT * shape[1]))
    return next((scale for scale in SCALES if scale <= most), 1)
