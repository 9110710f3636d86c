"""Boxes, points and keypoints, which move with the pixels of their record's image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import Field, point_role
from shard_reader.order.shuffle import key
from shard_reader.shards.shard import OpenShard
from shard_reader.stream.arrays.lookup import PendingBatch
from shard_reader.transforms.compose import ComposedTransform
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.moves.move import Move, moved_boxes, moved_keypoints, moved_points

__all__ = ["AREA", "ObjectLists", "Objects", "moving_fields"]

_GROUP = "objects/"  # lists with an element for each object
AREA = "objects/area"  # in pixels of the image, as COCO has it


def moving_fields(fields: Mapping[str, Field]) -> dict[str, str]:
    """The fields that move with the pixels, and their roles."""
    return {name: role for name, field in fields.items() if (role := point_role(name, field)) is not None}


class ObjectLists:
    """The lists with an element for each object of an image.

    Attributes:
        names: the fields that change when an image moves.
        boxes: the fields with the boxes of the objects.
    """

    def __init__(self, fields: Mapping[str, Field]) -> None:
        roles = moving_fields(fields)
        self.boxes = [name for name, role in roles.items() if role == "boxes" and name.startswith(_GROUP)]
        self._lists = [name for name, field in fields.items() if name.startswith(_GROUP) and field.kind == "list"]
        self.names = tuple(dict.fromkeys((*roles, *self._lists)))

    def left(
        self, moved: dict[str, Any], growth: NDArray[np.float64] | float, height: int, width: int
    ) -> dict[str, Any]:
        """The lists of one record without the objects that have left the image.

        Args:
            moved: the lists, with boxes and points of the new image.
            growth: how much larger an area in pixels has become, for all objects or each of them.
            height, width: the size of the new image, in pixels.
        """
        if not self.boxes:
            return moved
        if AREA in moved and len(moved[AREA]) == len(moved[self.boxes[0]]):
            moved[AREA] = _areas(moved[AREA], moved[self.boxes[0]], growth, height * width)
        return self._without_dropped(moved)

    def _without_dropped(self, moved: dict[str, Any]) -> dict[str, Any]:
        kept: NDArray[np.bool_] | None = None
        for name in self.boxes:
            inside = _have_area(moved[name])
            if kept is not None and len(kept) != len(inside):
                raise ValueError(f"has {len(inside)} boxes in {name!r} and {len(kept)} in {self.boxes[0]!r}")
            kept = inside if kept is None else kept & inside
        if kept is None or kept.all():
            return moved
        for name in self._lists:
            value = moved[name]
            if len(value) != len(kept):
                raise ValueError(
                    f"has {len(value)} elements in {name!r} for {len(kept)} boxes, of which the transform drops some:"
                    f" leave {name!r} out of fields="
                )
            moved[name] = value[kept] if isinstance(value, np.ndarray) else _chosen(value, kept)
        return moved


class Objects:
    """Moves the lists of a batch as the transforms move the images of its records.

    A box that has no area left is dropped, and its element in every list of objects, as the job does.

    Args:
        fields: the fields of the batch.
        transform: the transforms of `image`.
        seed: the seed of its draws.
    """

    def __init__(self, fields: Mapping[str, Field], transform: ComposedTransform, seed: int) -> None:
        self._fields, self._transform, self._seed = fields, transform, seed
        self._roles, self._lists = moving_fields(fields), ObjectLists(fields)

    def move(self, pending: PendingBatch, values: Mapping[str, NDArray[Any]]) -> None:
        """Move the lists of each record, objects `[n]`, in their arrays. An error of a transform is noted."""
        seed = key(self._seed, pending.lookup.epoch, "draws")
        # A damaged list is empty, and fits no other one.
        failed = {place for place, _ in list(pending.failures)}
        for number, place in enumerate(pending.places):
            if place not in failed and isinstance(pending.shard(place)[0], OpenShard):
                height, width = pending.lookup.image_size(place)
                try:
                    moves = self._transform.moves(height, width, Draws(seed, int(pending.lookup.positions[place])))
                    record = {name: values[name][number] for name in self._lists.names}
                    for name, value in self._moved(record, height, width, moves).items():
                        values[name][number] = value
                except Exception as error:
                    pending.fail_transform(place, error)

    def _moved(self, record: Mapping[str, Any], height: int, width: int, moves: list[Move]) -> dict[str, Any]:
        """The lists of one record after the moves of its image."""
        moved = dict(record)
        for name, role in self._roles.items():
            field = self._fields[name]
            if role == "boxes":
                moved[name] = moved_boxes(record[name], height, width, moves)
            elif role == "points":
                moved[name] = moved_points(record[name], height, width, moves)
            else:
                moved[name] = moved_keypoints(record[name], height, width, moves, field.flip_pairs)
            moved[name] = moved[name].astype(field.dtype)
        if not moves:
            return self._lists.left(moved, 1.0, height, width)
        growth = 1.0
        for move in moves:
            growth *= move.growth
        return self._lists.left(moved, growth, moves[-1].height, moves[-1].width)


def _have_area(boxes: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each box, of `[n, ..., 4]`, has an area, bool `[n]`."""
    found = np.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    have: NDArray[np.bool_] = np.any(found, axis=tuple(range(1, found.ndim)))
    return have


def _areas(areas: NDArray[Any], boxes: NDArray[Any], growth: NDArray[np.float64] | float, pixels: int) -> NDArray[Any]:
    """Areas in pixels of the result: scaled with the image, and no larger than the part of the box that is left."""
    if boxes.ndim != 2 or areas.ndim != 1:
        return areas
    left = np.prod(boxes[:, 2:].astype(np.float64) - boxes[:, :2], axis=1) * pixels
    found = np.minimum(areas * growth, left)
    as_stored: Callable[[NDArray[Any]], NDArray[Any]] = np.rint if areas.dtype.kind == "i" else np.asarray
    return as_stored(found).astype(areas.dtype)


def _chosen(values: list[Any], kept: NDArray[np.bool_]) -> list[Any]:
    return [value for value, stays in zip(values, kept.tolist(), strict=True) if stays]
