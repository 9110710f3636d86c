"""The geometry of a transform, and the masks, boxes and points that move with an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.moves.affine import AffineMap
from shard_reader.transforms.part import Part

__all__ = ["Move", "moved_boxes", "moved_keypoints", "moved_points", "swapped"]

Points = NDArray[Any]


class Move(NamedTuple):
    """The geometry of a transform on one image: it takes a part, scales that to a size, and may mirror the result.

    Or it maps the whole image by an affine map.

    Attributes:
        part: the part, in pixels of the image that the transform is given. Its `scale` does not matter.
        height, width: the size of the result, in pixels.
        is_mirrored: whether the result is mirrored, left to right.
        affine: the place in the image that each place of the result shows. Then `part` is the whole image, and
            `is_mirrored` False.
        mask_fill: the value of masks and depth maps where an affine map shows no place of the image.
    """

    part: Part
    height: int
    width: int
    is_mirrored: bool = False
    affine: AffineMap | None = None
    mask_fill: float = 0

    @classmethod
    def whole(cls, height: int, width: int, *, is_mirrored: bool = False) -> Move:
        """That of a transform which keeps the size, and maybe mirrors the image."""
        return cls(Part(0, 0, height, width), height, width, is_mirrored)

    @classmethod
    def by_map(
        cls, height: int, width: int, affine: AffineMap, shape: tuple[int, int] | None = None, mask_fill: float = 0
    ) -> Move:
        """That of an affine map of an image, to a result of its size, or of another `shape`."""
        return cls(Part(0, 0, height, width), *(shape or (height, width)), affine=affine, mask_fill=mask_fill)

    @property
    def growth(self) -> float:
        """How much larger an area in pixels becomes."""
        if self.affine is not None:
            return 1 / abs(self.affine.determinant)
        return self.height * self.width / (self.part.height * self.part.width)

    @property
    def mirrors(self) -> bool:
        """Whether the result is a mirror image, so that left and right change places."""
        return self.is_mirrored if self.affine is None else self.affine.determinant < 0

    def check(self, height: int, width: int) -> None:
        """Check that the part lies in an image of this size.

        Raises:
            ValueError: it does not, or the affine map has no inverse. The message continues "the image".
        """
        if self.affine is not None:
            if self.part[:4] != (0, 0, height, width) or self.is_mirrored or min(self.height, self.width) < 1:
                raise ValueError(
                    f"is {width}x{height}, and {self} is no move of it: an affine map is one of the whole image"
                )
            if not self.affine.is_invertible:
                raise ValueError(f"has no inverse of {self.affine}, which boxes and points have to follow")
            return
        top, left, tall, wide, _ = self.part
        is_inside = 0 <= top < top + tall <= height and 0 <= left < left + wide <= width
        if not (is_inside and self.height > 0 and self.width > 0):
            raise ValueError(f"is {width}x{height}, and {self} is no move of it: its part must lie in the image")


def moved_points(points: Points, height: int, width: int, moves: list[Move]) -> NDArray[np.float64]:
    """Points after the moves of an image.

    Args:
        points: `[..., 2]`: y, x as parts of an image.
        height, width: the size of that image, in pixels.

    Returns:
        float64 `[..., 2]`, as parts of the result. A coordinate below 0 or above 1 is outside of it.
    """
    found = np.array(points, np.float64)
    for move in moves:
        part = move.part
        found *= (height, width)
        if move.affine is not None:
            found = move.affine.moved(found) / (move.height, move.width)
            height, width = move.height, move.width
            continue
        found -= (part.top, part.left)
        found /= (part.height, part.width)
        if move.is_mirrored:
            found[..., 1] = 1 - found[..., 1]
        height, width = move.height, move.width
    return found


def moved_boxes(boxes: Points, height: int, width: int, moves: list[Move]) -> NDArray[np.float64]:
    """Boxes after the moves of an image, clipped to the result.

    After an affine map, a box is that of its four moved corners, with sides that are parallel to the image's, clipped
    to the result of each map: as torchvision has it.

    Args:
        boxes: `[..., 4]`: ymin, xmin, ymax, xmax as parts of an image.
        height, width: the size of that image, in pixels.

    Returns:
        float64 `[..., 4]`. A box without a part in the result has no area.
    """
    found, waiting = np.array(boxes, np.float64), list[Move]()
    for move in moves:
        if move.affine is not None:
            found = _clipped(found, height, width, waiting)
            if waiting:
                height, width = waiting[-1].height, waiting[-1].width
            waiting, found = [], _around(found, height, width, move)
            height, width = move.height, move.width
        else:
            waiting.append(move)
    return _clipped(found, height, width, waiting)


def _clipped(boxes: Points, height: int, width: int, moves: list[Move]) -> NDArray[np.float64]:
    """Boxes after moves without an affine map."""
    corners = moved_points(np.reshape(boxes, (*boxes.shape[:-1], 2, 2)), height, width, moves)
    found: NDArray[np.float64] = corners.reshape(boxes.shape).clip(0, 1)
    return found[..., [0, 3, 2, 1]] if _is_mirrored(moves) else found


def _around(boxes: NDArray[np.float64], height: int, width: int, move: Move) -> NDArray[np.float64]:
    """The boxes of the corners that an affine map moves. A box without an area becomes a point, and stays without."""
    has_area = np.all(boxes[..., 2:] > boxes[..., :2], axis=-1)[..., np.newaxis]
    boxes = np.where(has_area, boxes, boxes[..., [0, 1, 0, 1]])
    corners = moved_points(boxes[..., [[0, 1], [0, 3], [2, 3], [2, 1]]], height, width, [move])
    found: NDArray[np.float64] = np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)
    return found


def moved_keypoints(
    keypoints: Points, height: int, width: int, moves: list[Move], flip_pairs: tuple[tuple[int, int], ...]
) -> NDArray[np.float64]:
    """Keypoints after the moves of an image. Those of visibility 0, which are nowhere, stay as they are.

    Args:
        keypoints: `[..., 3]`, or `[..., k, 3]` where there are pairs: y, x as parts of an image, visibility.
        height, width: the size of that image, in pixels.
        flip_pairs: the numbers of keypoints that change places in a mirrored image.

    Returns:
        float64 of the same shape. A keypoint outside of the result has a coordinate below 0 or above 1.
    """
    found = np.array(keypoints, np.float64)
    is_somewhere = found[..., 2] != 0
    found[..., :2] = np.where(
        is_somewhere[..., np.newaxis], moved_points(found[..., :2], height, width, moves), found[..., :2]
    )
    return swapped(found, flip_pairs) if _is_mirrored(moves) else found


def swapped(keypoints: Points, flip_pairs: tuple[tuple[int, int], ...]) -> Points:
    """Keypoints `[..., k, 3]` where those of each pair have changed places, as in a mirrored image."""
    if not flip_pairs:
        return keypoints
    order = np.arange(keypoints.shape[-2])
    for left, right in flip_pairs:
        order[[left, right]] = right, left
    return keypoints[..., order, :]


def _is_mirrored(moves: list[Move]) -> bool:
    """Whether the image is mirrored after all moves: two mirrors undo each other."""
    return bool(sum(move.mirrors for move in moves) % 2)
