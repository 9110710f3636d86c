"""The keypoints of a dataset of poses in the format of Ultralytics: their number, their names, and their pairs.

```
kpt_shape: [17, 3]             the number of keypoints, and of their numbers: x, y, or x, y, visibility
flip_idx: [0, 2, 1, ...]       the number of each in a mirrored image
kpt_names: {0: [nose, ...]}    their names, of each class
```

Source: docs.ultralytics.com/datasets/pose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.keypoints import MOST_KEYPOINTS, Keypoints, swapped_pairs
from beam_jobs.sources.files.interface import LeftOut
from shard_reader.printable import excerpt

__all__ = ["POSE_KEYS", "Pose", "pose_of"]

POSE_KEYS = ("kpt_shape", "flip_idx", "kpt_names")
"""The keys of a description that are about keypoints."""


@dataclass(frozen=True, slots=True)
class Pose:
    """The keypoints that a description has, the shape that its rows have, and the values that are not read."""

    keypoints: Keypoints
    shape: tuple[int, int] | None = None
    left_out: tuple[LeftOut, ...] = ()


def pose_of(found: Mapping[str, Any], called: str) -> Pose:
    """The keypoints in a description. `called` names it in messages. Numbers may be texts.

    Raises:
        UsageError: a value is no such one.
    """
    if not found.get("kpt_shape"):
        return Pose(Keypoints())
    shape = _numbers(found["kpt_shape"])
    if shape is None or len(shape) != 2 or not 0 < shape[0] <= MOST_KEYPOINTS or shape[1] not in (2, 3):
        raise UsageError(
            f"{called}: kpt_shape is {excerpt(found['kpt_shape'])}: expected the number of keypoints, up to"
            f" {MOST_KEYPOINTS:,}, and 2 or 3, as [17, 3]"
        )
    count, dimensions = shape
    pairs: tuple[tuple[int, int], ...] = ()
    if found.get("flip_idx"):
        order = _numbers(found["flip_idx"])
        try:
            if order is None or len(order) != count:
                raise ValueError
            pairs = swapped_pairs(order)
        except ValueError:
            raise UsageError(
                f"{called}: flip_idx is {excerpt(found['flip_idx'])}: expected the numbers 0 to {count - 1}, in which"
                " pairs have changed places"
            ) from None
    names = _names(found.get("kpt_names"), count)
    why = f"expected one list of {count} names for all classes"
    left_out = (LeftOut(what="kpt_names", why=why),) if names is None else ()
    return Pose(Keypoints(names or (), count, pairs), (count, dimensions), left_out)


def _numbers(value: Any) -> list[int] | None:
    if not isinstance(value, list):
        return None
    try:
        return [int(number) for number in value if not isinstance(number, (list, dict, float))]
    except (TypeError, ValueError):
        return None


def _names(value: Any, count: int) -> tuple[str, ...] | None:
    """The names of keypoints; none if they are not given, None if they are other ones for some class."""
    if not value:
        return ()
    lists = list(value.values()) if isinstance(value, dict) else [value]
    first = lists[0]
    is_list = isinstance(first, list) and len(first) == count and all(isinstance(name, str) for name in first)
    return tuple(first) if is_list and len(set(first)) == count and all(one == first for one in lists) else None
