"""Transforms of Albumentations, which have generators of their own since version 2."""

from __future__ import annotations

import copy
import random
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.base import Transform
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.libraries.functions import draws_globally
from shard_reader.transforms.libraries.library import JointRecord, LibraryTransform
from shard_reader.transforms.libraries.pixels import as_array

__all__ = ["Albumentations", "is_albumentations"]

_BASES = ("BasicTransform", "BaseCompose")

# Transforms that draw nothing if they are always applied.
_FIXED = frozenset(
    {
        *("CenterCrop", "Crop", "LongestMaxSize", "NoOp", "Normalize", "Resize", "SmallestMaxSize", "ToFloat"),
        *("Compose", "FromFloat", "HorizontalFlip", "Sequential", "ToGray", "ToTensorV2", "Transpose", "VerticalFlip"),
    }
)


class Albumentations(LibraryTransform):
    """A transform or a Compose: it gets an array `[height, width, channels]` as `image=`.

    Each thread has a copy, whose generators are seeded for each image. Earlier versions draw from those of the process.
    """

    library = "albumentations"
    joins = True

    def __init__(self, original: Any) -> None:
        parts = list(_parts(original))
        is_random = not all(_is_fixed(part) for part in parts)
        # Code of the user may draw from generators of the process.
        code = [function for part in parts for function in _functions(part)]
        is_global = any(draws_globally(one, lambda value: False) for one in code)
        self._has_generators = hasattr(original, "set_random_state")
        super().__init__(
            original,
            is_random=is_random,
            draws_globally=is_random and (is_global or not self._has_generators),
            code=code,
        )
        self._copies = threading.local()

    def called(self, image: NDArray[Any], draws: Draws | None) -> Any:
        return self._given({"image": image}, {}, draws)["image"]

    def of_masks(self) -> Transform:
        return _OfMasks(self.original)

    def check_joined(self, boxes: str | None, points: str | None) -> None:
        if boxes is not None and self._params("bboxes") is None:
            raise ValueError(
                f"{self!r} has no bbox_params, and {boxes!r} has to follow: declare them, as A.Compose([...],"
                f" bbox_params=A.BboxParams(format='pascal_voc')); or leave {boxes!r} out of fields="
            )
        if points is None:
            return
        if self._params("keypoints") is None:
            raise ValueError(
                f"{self!r} has no keypoint_params, and {points!r} has to follow: declare them, as A.Compose([...],"
                " keypoint_params=A.KeypointParams(format='xy', remove_invisible=False));"
                f" or leave {points!r} out of fields="
            )
        if self._params("keypoints").remove_invisible:
            raise ValueError(
                f"{self!r} drops points that leave the image, and {points!r} has the same number in every object:"
                " declare keypoint_params=A.KeypointParams(..., remove_invisible=False)"
            )

    @property
    def takes_points(self) -> bool:
        params = self._params("keypoints")
        return params is not None and not params.remove_invisible

    def joined(self, record: JointRecord, draws: Draws | None) -> JointRecord:
        height, width = record.image.shape[:2]
        further = {f"photo {name}": "image" for name in record.photos} | {
            f"mask {name}": "mask" for name in record.masks
        }
        data: dict[str, Any] = {"image": record.image}
        data |= {f"photo {name}": _own(photo) for name, photo in record.photos.items()}
        data |= {f"mask {name}": _own(_wide(mask)) for name, mask in record.masks.items()}
        if record.boxes is not None:
            data |= self._labelled("bboxes", _as_format(record.boxes, self._params("bboxes").format, height, width))
        if record.points is not None:
            # Albumentations mirrors a point as if it were a pixel: 0 becomes width - 1.
            data |= self._labelled("keypoints", _as_keypoints(record.points - 0.5, self._params("keypoints").format))
        with self.seeding(draws):
            found = self._given(data, further, draws)
        image = as_array(found["image"])
        masks = {name: as_array(found[f"mask {name}"])[..., 0] for name in record.masks}
        boxes, rows, points = None, record.rows, None
        if record.boxes is not None:
            boxes, left = self._unlabelled("bboxes", found)
            rows, boxes = rows[left], _as_corners(boxes, self._params("bboxes").format, *image.shape[:2])
        if record.points is not None:
            keypoints, left = self._unlabelled("keypoints", found)
            if not np.array_equal(left, np.arange(len(record.points))):
                raise ValueError(f"has {len(left)} of {len(record.points)} points after {self!r}: none may be dropped")
            columns = [1, 0] if self._params("keypoints").format == "yx" else [0, 1]
            points = keypoints[:, columns].astype(np.float64) + 0.5
        return JointRecord(
            image=image,
            photos={name: as_array(found[f"photo {name}"]) for name in record.photos},
            masks={name: mask.astype(record.masks[name].dtype) for name, mask in masks.items()},
            boxes=boxes,
            rows=rows,
            points=points,
        )

    def _params(self, kind: str) -> Any:
        """The parameters that a Compose declares for boxes or points; None without."""
        processor = getattr(self.original, "processors", {}).get(kind)
        return None if processor is None else processor.params

    def _labelled(self, kind: str, values: NDArray[np.float32]) -> dict[str, Any]:
        """Boxes or points with their numbers: in the last column, and in the fields of labels that are declared."""
        numbers = np.arange(len(values))
        fields = self._params(kind).label_fields or ()
        numbered = np.concatenate([values, numbers[:, np.newaxis].astype(np.float32)], axis=1)
        return {kind: numbered, **{name: numbers.tolist() for name in fields}}

    def _unlabelled(self, kind: str, found: dict[str, Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Boxes or points, and their numbers."""
        values = np.asarray(found[kind], np.float32)
        if not len(values):
            return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        return values[:, :-1], values[:, -1].astype(np.int64)

    def _given(self, data: dict[str, Any], further: dict[str, str], draws: Draws | None) -> dict[str, Any]:
        """What the library gives for its named arguments, of which some are further images and masks."""
        data = data | {"image": _own(data["image"])}
        transform = self._copy()
        if further:
            transform.add_targets(further)  # the same ones again change nothing
        for kind, empty in (("bboxes", np.zeros((0, 4), np.float32)), ("keypoints", np.zeros((0, 2), np.float32))):
            # A Compose that declares labels expects them in every call.
            if kind not in data and self._params(kind) is not None:
                data |= {kind: empty, **{name: [] for name in self._params(kind).label_fields or ()}}
        if draws is not None and self._has_generators:
            # Not `set_random_seed`: it gives each transform a generator of its own with the same seed, so that an image
            # that is flipped one way is flipped the other way, too.
            seed = draws.integer(1 << 64)
            transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        with self.refusing():
            found: dict[str, Any] = transform(**data)
        return found

    def _copy(self) -> Any:
        """The copy of this thread."""
        if not hasattr(self._copies, "transform"):
            self._copies.transform = copy.deepcopy(self.original)
        return self._copies.transform


class _OfMasks(Albumentations):
    """One for masks alone: it gets them as `mask=`, beside a black image."""

    def called(self, image: NDArray[Any], draws: Draws | None) -> Any:
        black = np.zeros((*image.shape[:2], 3), np.uint8)
        found = as_array(self._given({"image": black, "mask": _own(_wide(image))}, {}, draws)["mask"])
        return found.astype(image.dtype)


def is_albumentations(value: Any) -> bool:
    """Whether an object is a transform or a container of Albumentations, or of a subclass."""
    return any(_is_of_library(kind) and kind.__name__ in _BASES for kind in type(value).__mro__)


def _parts(value: Any) -> Iterator[Any]:
    """A transform, and those in it."""
    yield value
    for child in getattr(value, "transforms", None) or ():
        yield from _parts(child)


def _functions(part: Any) -> list[Any]:
    """The functions of the user that a transform calls: its methods, or those that it was given."""
    if _is_of_library(type(part)):
        return list(getattr(part, "custom_apply_fns", {}).values())
    return [one for one in vars(type(part)).values() if isinstance(one, types.FunctionType)]


def _is_fixed(part: Any) -> bool:
    return _is_of_library(type(part)) and type(part).__name__ in _FIXED and getattr(part, "p", 0) >= 1


def _is_of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("albumentations", "albumentationsx")


def _wide(mask: NDArray[Any]) -> NDArray[Any]:
    """A mask of a dtype that OpenCV has."""
    return mask.astype(np.float32) if mask.dtype == np.float16 else mask


def _own(image: NDArray[Any]) -> NDArray[Any]:
    """An image that may be written to, in the byte order of this machine."""
    is_own = image.flags.writeable and image.dtype.isnative
    return image if is_own else np.array(image, image.dtype.newbyteorder("="))


def _as_format(corners: NDArray[np.float64], format: str, height: int, width: int) -> NDArray[np.float32]:
    """Boxes as corners in pixels, in a format of Albumentations."""
    found = corners / (1 if format in ("coco", "pascal_voc") else (width, height, width, height))
    if format in ("coco", "yolo"):
        found[:, 2:] -= found[:, :2]
    if format == "yolo":
        found[:, :2] += found[:, 2:] / 2
    return found.astype(np.float32)


def _as_corners(boxes: NDArray[Any], format: str, height: int, width: int) -> NDArray[np.float64]:
    """Boxes in a format of Albumentations as corners in pixels, float64 `[n, 4]`."""
    found = boxes[:, :4].astype(np.float64)
    if format == "yolo":
        found[:, :2] -= found[:, 2:] / 2
    if format in ("coco", "yolo"):
        found[:, 2:] += found[:, :2]
    return found * (1 if format in ("coco", "pascal_voc") else (width, height, width, height))


def _as_keypoints(points: NDArray[np.float64], format: str) -> NDArray[np.float32]:
    """Points in a format of Albumentations: with an angle of 0 and a scale of 1, where it has such columns."""
    columns = {"x": points[:, 0], "y": points[:, 1], "s": np.ones(len(points))}
    found = [columns.get(letter, np.zeros(len(points))) for letter in format]
    return np.stack(found, axis=1).astype(np.float32)
