"""The moves of transforms on masks and depth maps, whose values are never mixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shard_reader.transforms.base import Image, Shape, Transform, moves_of
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.moves.move import Move
from shard_reader.transforms.moves.warp import warp
from shard_reader.transforms.resize import flip, resize

__all__ = ["Nearest"]


@dataclass(frozen=True, slots=True, repr=False)
class Nearest(Transform):
    """Another transform's move, with the pixel whose centre is nearest in place of its filter."""

    keeps_image = False

    step: Transform

    @property
    def is_random(self) -> bool:  # type: ignore[override]  # that of the step
        """Whether the step uses its draws."""
        return self.step.is_random

    @property
    def in_place(self) -> bool:  # type: ignore[override]  # that of the step
        """Whether the step keeps the shape."""
        return self.step.in_place

    def output_shape(self, shape: Shape) -> Shape | None:
        return self.step.output_shape(shape)

    def __call__(self, image: Image, draws: Draws, out: Image | None = None) -> Image:
        """The moved pixels, `[h, w, channels]` of the same dtype: a view where nothing is scaled, mirrored or mapped.

        Raises:
            ValueError: the step cannot take an image of this size, or the dtype does not have the value that fills
                what an affine map shows outside. The message continues "the image".
        """
        height, width = image.shape[:2]
        for move in moves_of(self.step, height, width, draws):
            image = _moved(image, move, out)
        return image

    def __repr__(self) -> str:
        return repr(self.step)


def _moved(image: Image, move: Move, out: Image | None) -> Image:
    move.check(*image.shape[:2])
    if move.affine is not None:
        return warp(image, move.affine, (move.height, move.width), "nearest", move.mask_fill, out)
    found = image[move.part.rows, move.part.columns]
    if found.shape[:2] != (move.height, move.width):
        if out is not None and np.may_share_memory(found, out):
            found = found.copy()
        found = resize(found, (move.height, move.width), "nearest", None if move.is_mirrored else out)
    return flip(found, out) if move.is_mirrored else found
