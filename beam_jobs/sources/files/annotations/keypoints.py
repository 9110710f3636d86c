"""Keypoints of objects: their names, the pairs that a mirrored image swaps, and their numbers.

```
[x, y, v, x, y, v, ...]    COCO; v is 0 for a point that is not labelled, 1 for a hidden one, 2 for a visible one
```

Source: cocodataset.org/#format-data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from beam_jobs.sources.files.annotations.objects import is_number
from beam_jobs.sources.files.interface import BadInput, LeftOut
from shard_reader.format.fields import Field
from shard_reader.printable import printable

__all__ = [
    "KEYPOINTS",
    "MOST_KEYPOINTS",
    "Keypoints",
    "bounded_points",
    "checked_points",
    "flip_pairs",
    "swapped_pairs",
]

KEYPOINTS = "objects/keypoints"
"""The field of keypoints."""
MOST_KEYPOINTS = 1000
"""The most keypoints of an object; meshes of faces have 478."""
_VISIBILITIES = (0, 1, 2)
_SIDES = re.compile(r"left|right|(?<![^_\W])[lr](?=[_\W\d])|(?<=[_\W])[lr](?![^_\W])", re.IGNORECASE)
_SWAPPED = {"left": "right", "right": "left", "l": "r", "r": "l"}


class Keypoints:
    """The keypoints of a dataset: one list of names for all objects that have any. Others are left out, and named."""

    def __init__(self, names: Sequence[str] = (), count: int = 0, pairs: Sequence[tuple[int, int]] = ()) -> None:
        """Known names, the number of keypoints, and the pairs that a mirrored image swaps."""
        self._names, self._count = tuple(names), count
        self._pairs = tuple(pairs) or flip_pairs(self._names)
        self._lists: dict[tuple[str, ...], list[str]] = {}  # the categories of each list of names
        self._lengths: set[int] = set()  # of objects without such a list

    def see_category(self, category: str, names: Any) -> None:
        """Take note of the keypoints that a category declares."""
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            self._lists.setdefault(tuple(names[:MOST_KEYPOINTS]), []).append(category)

    def see(self, numbers: Any) -> None:
        """Take note of the keypoints of an object."""
        if isinstance(numbers, list) and numbers and len(self._lengths) < 2:
            self._lengths.add(len(numbers) // 3)

    def close(self) -> None:
        """Decide, after the last object."""
        if not self._lengths:
            return
        if len(self._lists) == 1:
            self._names = next(iter(self._lists))
            self._count, self._pairs = len(self._names), flip_pairs(self._names)
        elif not self._lists and len(self._lengths) == 1:
            self._count = next(iter(self._lengths))

    @property
    def types(self) -> dict[str, Field]:
        """The type of the field; empty without keypoints."""
        if not self._count:
            return {}
        shape = (None, self._count, 3)
        return {
            KEYPOINTS: Field(dtype="float32", shape=shape, role="keypoints", names=self._names, flip_pairs=self._pairs)
        }

    def forms(self, form: str) -> dict[str, str]:
        """The field with the form of its points, one of "xy", "yx", "rel-xy" and "rel-yx"."""
        return dict.fromkeys(self.types, form)

    def left_out(self) -> tuple[LeftOut, ...]:
        """The keypoints of objects with several lists of them."""
        if self._count or not self._lengths:
            return ()
        if self._lists:
            named = " and ".join(printable(categories[0]) for categories in list(self._lists.values())[:2])
            why = f"{named} have other keypoints, and a field has those of one list: make a file for each"
        else:
            why = "objects have several numbers of them, and no category names them"
        return (LeftOut(what="keypoints of annotations", why=why),)

    def of_object(self, numbers: Any) -> list[list[float]]:
        """The keypoints of an object: x, y and visibility of each; zeros without keypoints.

        Raises:
            BadInput: they cannot be used.
        """
        if numbers is None or numbers == []:
            return [[0.0, 0.0, 0.0] for _ in range(self._count)]
        if not isinstance(numbers, list) or len(numbers) != 3 * self._count:
            found = f"{len(numbers):,} numbers" if isinstance(numbers, list) else f"{numbers!r:.60}"
            raise BadInput(
                "bad-keypoints", f"has the keypoints {found}: expected x, y, visibility of {self._count} points"
            )
        return checked_points([numbers[start : start + 3] for start in range(0, len(numbers), 3)])


def swapped_pairs(order: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The pairs that change places in a mirrored image, given the number that each keypoint gets there.

    Raises:
        ValueError: a keypoint does not change places with another one, or with itself.
    """
    if sorted(order) != list(range(len(order))) or any(order[other] != number for number, other in enumerate(order)):
        raise ValueError("no order in which pairs change places")
    return tuple((number, other) for number, other in enumerate(order) if number < other)


def bounded_points(numbers: Any) -> Any:
    """The numbers of keypoints, of which not many more are kept than an object may have."""
    return numbers[: 3 * MOST_KEYPOINTS + 1] if isinstance(numbers, list) else numbers


def checked_points(points: Sequence[Sequence[Any]]) -> list[list[float]]:
    """Keypoints whose numbers are finite, and whose visibility is 0, 1 or 2. Points that are not labelled are zeros.

    Raises:
        BadInput: a number is no such one.
    """
    found = []
    for number, point in enumerate(points):
        for value in point:
            if not is_number(value):
                raise BadInput("bad-keypoints", f"keypoint {number} has {value!r:.60}, which is no number")
        x, y, visibility = point
        if visibility not in _VISIBILITIES:
            raise BadInput("bad-keypoints", f"keypoint {number} has the visibility {visibility:g}: expected 0, 1 or 2")
        found.append([float(x), float(y), float(visibility)] if visibility else [0.0, 0.0, 0.0])
    return found


def flip_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The pairs of numbers of names that differ in left and right alone, the left one first."""
    numbers = {name.lower(): number for number, name in enumerate(names)}
    pairs = []
    for name, number in numbers.items():
        match = _SIDES.search(name)
        if match is None or match[0] not in ("left", "l"):
            continue
        other = numbers.get(name[: match.start()] + _SWAPPED[match[0]] + name[match.end() :])
        if other is not None:
            pairs.append((number, other))
    return tuple(sorted(pairs))
