"""One call of another library for all that moves in a record: its images, masks, boxes and points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import IMAGE, Field
from shard_reader.order.shuffle import key
from shard_reader.shards.shard import OpenShard
from shard_reader.stream.arrays.lookup import PendingBatch
from shard_reader.stream.arrays.objects import AREA, ObjectLists, moving_fields
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.libraries.library import JointRecord, LibraryTransform
from shard_reader.transforms.moves.move import swapped

__all__ = ["Joint"]

_GRID = 4  # rows and columns of triangles
_SIDE = 1 / 8  # of a triangle, as a part of the image


class Joint:
    """Has a library transform the images of a batch, and the lists that move with them.

    Args:
        fields: the fields of the batch.
        images: the names of the images that it takes. In a pending batch they are objects `[n]`, arrays of any size.
        transform: the transform.
        number: its number among the transforms of `image`.
        seed: the seed of random transforms.

    Attributes:
        images: as given.
    """

    def __init__(
        self, fields: Mapping[str, Field], images: tuple[str, ...], transform: LibraryTransform, number: int, seed: int
    ) -> None:
        self._fields, self.images, self._transform = fields, images, transform
        self._number, self._seed = number, seed
        self._roles = moving_fields(fields)
        self._lists = ObjectLists(fields)
        swaps = any(fields[name].flip_pairs for name in self._roles)
        # Triangles that travel along show whether the result is mirrored, and how large it is.
        self._is_tracked = (swaps or AREA in fields) and transform.takes_points
        self._has_points = self._is_tracked or any(role != "boxes" for role in self._roles.values())

    def run(self, pending: PendingBatch, values: Mapping[str, NDArray[Any]]) -> dict[str, list[NDArray[Any] | None]]:
        """Move the lists of each record, objects `[n]`, in their arrays.

        Returns:
            The new images `[height, width, channels]` of each field; None where a record has failed. An error of the
            library is noted.
        """
        pending.finish_work()
        seed = key(self._seed, pending.lookup.epoch, "draws")
        results: dict[str, list[NDArray[Any] | None]] = {name: [None] * len(pending.places) for name in self.images}
        failed = {place for place, _ in list(pending.failures)}
        for number, place in enumerate(pending.places):
            if place in failed or not isinstance(pending.shard(place)[0], OpenShard):
                continue
            images = {name: pending.images[name][number] for name in self.images}
            lists = {name: values[name][number] for name in self._lists.names}
            draws = Draws(seed, int(pending.lookup.positions[place])).child(self._number)
            try:
                pixels, moved = self._joined(images, lists, draws)
            except Exception as error:
                pending.fail_transform(place, error)
                continue
            for name, image in pixels.items():
                results[name][number] = image
            for name, value in moved.items():
                values[name][number] = value
        return results

    def _joined(
        self, images: Mapping[str, NDArray[Any]], lists: Mapping[str, Any], draws: Draws
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The images and the lists of one record after the call."""
        height, width = images[IMAGE].shape[:2]
        for name, image in images.items():
            if image.shape[:2] != (height, width):
                raise ValueError(
                    f"is {width}x{height}, and {name!r} {image.shape[1]}x{image.shape[0]}: {self._transform!r} takes"
                    " them together, in one size"
                )
        flat = [name for name in images if not self._fields[name].is_filtered]
        given = _Flat.of(lists, self._roles, height, width, is_tracked=self._is_tracked)
        found = self._transform.joined(
            JointRecord(
                image=images[IMAGE],
                photos={name: image for name, image in images.items() if name != IMAGE and name not in flat},
                masks={name: images[name][..., 0] for name in flat},
                boxes=given.boxes[given.rows] if "boxes" in self._roles.values() else None,
                rows=given.rows,
                points=given.points if self._has_points else None,
            ),
            draws,
        )
        masks = {name: mask[..., np.newaxis] for name, mask in found.masks.items()}
        return {IMAGE: found.image, **found.photos, **masks}, self._moved(lists, given, found)

    def _moved(self, lists: Mapping[str, Any], given: _Flat, found: JointRecord) -> dict[str, Any]:
        """The lists of one record, from the boxes and points of the result."""
        moved, (height, width) = dict(lists), found.image.shape[:2]
        # A box that the library has dropped has no area, and is dropped with its elements in all lists.
        boxes = np.zeros_like(given.boxes)
        if found.boxes is not None:
            boxes[found.rows] = (found.boxes / (width, height, width, height)).clip(0, 1)
        points = given.points
        if found.points is not None:
            points = found.points / (width, height)
        growth, is_mirrored = self._tracked(found, points, given)
        first_box, first_point = 0, 0
        for name, role in self._roles.items():
            field, value = self._fields[name], np.array(lists[name], np.float64)
            if role == "boxes":
                count = value.size // 4
                own = slice(first_box, first_box + count)
                first_box, value = first_box + count, boxes[own][:, [1, 0, 3, 2]].reshape(value.shape)
                if name in self._lists.boxes[:1] and not isinstance(growth, float):
                    growth = growth[own]
            else:
                is_somewhere = value[..., 2] != 0 if role == "keypoints" else np.ones(value.shape[:-1], np.bool_)
                count = int(np.count_nonzero(is_somewhere))
                value[is_somewhere, :2] = points[first_point : first_point + count, ::-1]
                first_point += count
                if role == "keypoints" and is_mirrored:
                    value = swapped(value, field.flip_pairs)
            moved[name] = value.astype(field.dtype)
        return self._lists.left(moved, growth, height, width)

    def _tracked(
        self, found: JointRecord, points: NDArray[np.float64], given: _Flat
    ) -> tuple[NDArray[np.float64] | float, bool]:
        """How much larger an area of pixels has become, and whether the result is mirrored."""
        if not self._is_tracked:
            return given.growth(found), False
        height, width = found.image.shape[:2]
        corner, right, below = (points[-3 * _GRID**2 :] * (width, height)).reshape(-1, 3, 2).swapaxes(0, 1)
        (right, below), side = (right - corner, below - corner), (given.width * given.height) * _SIDE**2
        grown = (right[:, 0] * below[:, 1] - right[:, 1] * below[:, 0]) / side
        if not np.any(grown):
            raise ValueError(
                f"has all its points on its edges after {self._transform!r}, which hides whether it is mirrored: leave"
                " ClampKeyPoints out"
            )
        return float(np.median(np.abs(grown))), bool(np.sign(grown).sum() < 0)


class _Flat(NamedTuple):
    """The boxes and points of all lists of a record, in a row, in pixels.

    Attributes:
        boxes: float64 `[n, 4]`: x and y of two corners.
        rows: the numbers of those that have an area, int64.
        points: float64 `[k, 2]`: x, y. The last ones may be those of triangles.
    """

    boxes: NDArray[np.float64]
    rows: NDArray[np.int64]
    points: NDArray[np.float64]
    height: int
    width: int

    @classmethod
    def of(
        cls, lists: Mapping[str, Any], roles: Mapping[str, str], height: int, width: int, *, is_tracked: bool
    ) -> _Flat:
        boxes, points = [np.zeros((0, 4))], [np.zeros((0, 2))]
        for name, role in roles.items():
            value = np.array(lists[name], np.float64)
            if role == "boxes":
                # Libraries take boxes in the image alone. The others of this package clip them, too.
                boxes.append(value.reshape(-1, 4)[:, [1, 0, 3, 2]].clip(0, 1) * (width, height, width, height))
                continue
            if role == "keypoints":  # those of visibility 0 are nowhere
                value = value[value[..., 2] != 0]
            points.append(value[..., 1::-1].reshape(-1, 2) * (width, height))
        if is_tracked:
            points.append(_triangles() * (width, height))
        corners = np.concatenate(boxes)
        rows = np.flatnonzero(np.all(corners[:, 2:] > corners[:, :2], axis=1))
        return cls(corners, rows, np.concatenate(points), height, width)

    def growth(self, found: JointRecord) -> NDArray[np.float64] | float:
        """How much larger each box has become, `[n]`: a guess, where nothing else shows it."""
        if found.boxes is None:
            return 1.0
        grown = np.ones(len(self.boxes))
        before = self.boxes[found.rows]
        sides = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1), np.prod(before[:, 2:] - before[:, :2], axis=1)
        grown[found.rows] = sides[0] / sides[1]
        return grown


def _triangles() -> NDArray[np.float64]:
    """Points of triangles all over an image, `[3 * n, 2]`: x, y as parts of it."""
    middles = (np.arange(_GRID) + 0.5) / _GRID
    corners = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 1, 2)
    sides = np.array([(0, 0), (_SIDE, 0), (0, _SIDE)])
    found: NDArray[np.float64] = (corners + sides).reshape(-1, 2)
    return found
