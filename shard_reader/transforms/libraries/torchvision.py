"""Transforms of torchvision, in both versions, and those of timm, which are made of them."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.base import Transform
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.libraries.library import JointRecord, LibraryTransform, of_batches
from shard_reader.transforms.libraries.pixels import as_array, as_pil, as_tensor

__all__ = [
    "Torchvision",
    "TorchvisionFunction",
    "TorchvisionV2",
    "is_torchvision",
    "is_torchvision_function",
    "is_torchvision_v2",
]

_V2 = "torchvision.transforms.v2"
_MODULES = ("torchvision.", "timm.data.")

# Transforms that draw nothing. Every other one counts as random: a process too many is slower, a thread too many wrong.
_FIXED = frozenset(
    {
        *("CenterCrop", "Grayscale", "Identity", "LinearTransformation", "Normalize", "Pad", "RGB", "Resize"),
        *("ConvertImageDtype", "PILToTensor", "ToDtype", "ToImage", "ToPILImage", "ToPureTensor", "ToTensor"),
        *("ClampBoundingBoxes", "ClampKeyPoints", "ConvertBoundingBoxFormat", "SetClampingMode"),
        *("SanitizeBoundingBoxes", "SanitizeKeyPoints"),
        *("ImageClassification", "SemanticSegmentation", "ObjectDetection"),  # of the weights of a model
        *("CenterCropOrPad", "MaybePILToTensor", "MaybeToTensor", "ToNumpy", "TrimBorder"),  # of timm
    }
)
# Transforms that mix the images and the labels of a batch.
_OF_BATCHES = frozenset({"CutMix", "MixUp", "Mixup", "FastCollateMixup"})
_FIXED_CONTAINERS = frozenset({"Compose", "Sequential", "ModuleList"})

# Transforms that turn an image of Pillow into a tensor. ToTensor scales it to 0..1, but passes a tensor on as it is.
_FROM_PIL = frozenset({"ToImage", "PILToTensor", "ToTensor", "MaybePILToTensor", "MaybeToTensor", "ToNumpy"})
_SCALES_PIL = frozenset({"ToTensor", "MaybeToTensor", "ToNumpy"})
# Transforms that take no image of Pillow.
_FUNCTIONS = ("torchvision.transforms.functional.", f"{_V2}.functional.")
_FUNCTIONS_OF_PIL = frozenset({"pil_to_tensor", "to_tensor"})
_OF_TENSORS = frozenset({"ConvertImageDtype", "LinearTransformation", "Normalize", "RandomErasing", "ToPILImage"})


class Torchvision(LibraryTransform):
    """One of version 1: it gets an image of Pillow, as ImageFolder gives, or a tensor where one is needed.

    Raises:
        ValueError: it transforms batches.
    """

    library = "torchvision"

    def __init__(self, original: Any) -> None:
        leaves = list(_leaves(original))
        is_random = _is_random(original)
        code = [getattr(leaf, "lambd", leaf) for leaf in leaves if not _is_known(leaf) or hasattr(leaf, "lambd")]
        super().__init__(original, is_random=is_random, draws_globally=is_random, code=code)
        self._names = [type(leaf).__name__ for leaf in leaves]
        if not _OF_BATCHES.isdisjoint(self._names):
            raise of_batches(original)
        self._takes_pil = self._wants_pil(self._names)
        self._changes_input = any(getattr(leaf, "inplace", False) for leaf in leaves)
        # timm's ToNumpy gives arrays of torch's order.
        self._gives_channels_first = bool(leaves) and _is_known(leaves[-1]) and type(leaves[-1]).__name__ == "ToNumpy"

    def called(self, image: NDArray[Any], draws: Draws | None) -> Any:
        given = self.image(image)
        with self.refusing():
            result = self.original(given)
        return result.transpose(1, 2, 0) if self._gives_channels_first else result

    def image(self, image: NDArray[Any]) -> Any:
        """What the transform expects for an image `[height, width, channels]`."""
        return as_pil(image) if self._takes_pil else as_tensor(image, is_copied=self._changes_input)

    def _wants_pil(self, names: list[str]) -> bool:
        """Whether transforms of these names, in order, expect an image of Pillow."""
        for name in names:
            if name in _OF_TENSORS or name in _FROM_PIL:
                return name in _FROM_PIL
        return True


class TorchvisionFunction(LibraryTransform):
    """A function of torchvision, or a partial one, which draws nothing: it gets a tensor, or what it converts."""

    library = "torchvision"

    def __init__(self, original: Any) -> None:
        super().__init__(original, is_random=False, draws_globally=False, code=())
        self._takes_pil = _function_of(original).__name__ in _FUNCTIONS_OF_PIL

    def called(self, image: NDArray[Any], draws: Draws | None) -> Any:
        given = as_pil(image) if self._takes_pil else as_tensor(image, is_copied=True)
        with self.refusing():
            return self.original(given)


class TorchvisionV2(Torchvision):
    """One of version 2: it gets a `tv_tensors.Image`, or an image of Pillow where it converts one later."""

    joins = True

    def called(self, image: NDArray[Any], draws: Draws | None) -> Any:
        if not self._wants_boxes:
            return super().called(image, draws)
        sample = {"image": self.image(image), **self._boxes(np.zeros((0, 4)), image.shape[:2])}
        with self.refusing():
            return self.original(sample)["image"]

    def image(self, image: NDArray[Any]) -> Any:
        found = super().image(image)
        return found if self._takes_pil else _tv_tensors().Image(found)

    @property
    def takes_points(self) -> bool:
        return hasattr(_tv_tensors(), "KeyPoints")

    def check_joined(self, boxes: str | None, points: str | None) -> None:
        if points is not None and not self.takes_points:
            raise ValueError(f"{points!r} has to follow {self!r}: points need torchvision 0.23 or newer")
        if points is not None and "SanitizeKeyPoints" in self._names:
            raise ValueError(
                f"{self!r} drops points, and {points!r} has the same number in every object: leave SanitizeKeyPoints"
                f" out, since points outside have coordinates below 0 or above 1; or leave {points!r} out of fields="
            )
        if boxes is not None and {"ConvertBoundingBoxFormat", "ToPureTensor"} <= set(self._names):
            raise ValueError(
                f"{self!r} drops the format of its boxes: leave ConvertBoundingBoxFormat or ToPureTensor out, since"
                f" {boxes!r} stays as it is stored, in parts of the image"
            )

    def joined(self, record: JointRecord, draws: Draws | None) -> JointRecord:
        torch, tv, size = importlib.import_module("torch"), _tv_tensors(), record.image.shape[:2]
        count = 0 if record.boxes is None else len(record.boxes)
        sample: dict[str, Any] = {"image": self.image(record.image)}
        sample["photos"] = {name: self.image(photo) for name, photo in record.photos.items()}
        sample["masks"] = {name: self._mask(mask, count) for name, mask in record.masks.items()}
        if record.boxes is not None or self._wants_boxes:
            sample |= self._boxes(np.zeros((0, 4)) if record.boxes is None else record.boxes, size)
        if record.points is not None:
            # torchvision mirrors a point as if it were a pixel: 0 becomes width - 1.
            points = torch.from_numpy((record.points - 0.5).astype(np.float32))
            sample["keypoints"] = tv.KeyPoints(points, canvas_size=size)
        with self.seeding(draws), self.refusing():
            found = self.original(sample)
        masks = {name: as_array(mask[0])[..., 0] for name, mask in found["masks"].items()}
        return JointRecord(
            image=as_array(found["image"]),
            photos={name: as_array(photo) for name, photo in found["photos"].items()},
            masks={name: mask.astype(record.masks[name].dtype) for name, mask in masks.items()},
            boxes=None if record.boxes is None else _corners(found["boxes"]),
            rows=record.rows if record.boxes is None else self._rows(record, found),
            points=None if record.points is None else found["keypoints"].numpy().astype(np.float64) + 0.5,
        )

    def of_masks(self) -> Transform:
        return _OfMasks(self.original)

    @property
    def _wants_boxes(self) -> bool:
        """Whether it is an error to call it without boxes, also for the images alone of a dataset of boxes."""
        return not {"RandomIoUCrop", "SanitizeBoundingBoxes"}.isdisjoint(self._names)

    def _boxes(self, boxes: NDArray[np.float64], size: tuple[int, ...]) -> dict[str, Any]:
        torch = importlib.import_module("torch")
        corners = torch.from_numpy(boxes.astype(np.float32))
        return {
            "boxes": _tv_tensors().BoundingBoxes(corners, format="XYXY", canvas_size=size),
            "labels": torch.arange(len(boxes)),  # by their name, SanitizeBoundingBoxes drops them with their boxes
        }

    def _mask(self, mask: NDArray[Any], boxes: int) -> Any:
        """A `tv_tensors.Mask` `[copies, height, width]`, the first of which counts."""
        # Half of PyTorch's functions know no uint16.
        pixels = as_tensor((mask.astype(np.int32) if mask.dtype == np.uint16 else mask)[..., np.newaxis])
        # SanitizeBoundingBoxes takes a mask whose first size is the number of boxes for one mask of each box, and drops
        # parts of it. So that size has to be another number, also for a second SanitizeBoundingBoxes, which gets fewer.
        times = self._names.count("SanitizeBoundingBoxes")
        copies = 1 if times == 0 or (times == 1 and boxes != 1) else boxes + 1
        return _tv_tensors().Mask(pixels.expand(copies, -1, -1))

    def _rows(self, record: JointRecord, found: dict[str, Any]) -> NDArray[np.int64]:
        """The numbers of the boxes that are left."""
        labels = found["labels"].numpy()
        if len(labels) != len(found["boxes"]):
            raise ValueError(
                f"has {len(found['boxes'])} boxes and {len(labels)} labels after {self!r}: SanitizeBoundingBoxes has to"
                " drop the labels as well, as with labels_getter='default'"
            )
        left: NDArray[np.int64] = record.rows[labels]
        return left

    def _wants_pil(self, names: list[str]) -> bool:
        for number, name in enumerate(names):
            if name in _OF_TENSORS or name in _FROM_PIL:
                return name in _SCALES_PIL or (name in _FROM_PIL and number > 0)
        return False


class _OfMasks(TorchvisionV2):
    """One for masks alone, which it gets as `tv_tensors.Mask`."""

    def called(self, image: NDArray[Any], draws: Draws | None) -> Any:
        masks = [self.original(self._mask(image[..., number], 0)) for number in range(image.shape[2])]
        return np.concatenate([as_array(mask[0]) for mask in masks], axis=2).astype(image.dtype)


def is_torchvision_function(value: Any) -> bool:
    """Whether an object is a function of `torchvision.transforms.functional` or `v2.functional`, or a partial one."""
    function = _function_of(value)
    return inspect.isfunction(function) and f"{function.__module__}.".startswith(_FUNCTIONS)


def is_torchvision(value: Any) -> bool:
    """Whether an object is a transform of torchvision or timm, or a `torch.nn.Sequential` of such."""
    if _is_sequential(value):
        return any(is_torchvision(child) for child in value)
    return any(_is_of(kind, ("torchvision.transforms.", *_MODULES[1:])) for kind in type(value).__mro__)


def is_torchvision_v2(value: Any) -> bool:
    """Whether an object is a transform of torchvision's version 2."""
    return any(_is_of(kind, (f"{_V2}.",)) for kind in type(value).__mro__)


def _tv_tensors() -> Any:
    return importlib.import_module("torchvision.tv_tensors")


def _corners(boxes: Any) -> NDArray[np.float64]:
    """Boxes in any format of torchvision as corners, float64 `[n, 4]`."""
    if getattr(boxes, "format", None) is not None and boxes.format.value != "XYXY":
        functional = importlib.import_module(f"{_V2}.functional")
        boxes = functional.convert_bounding_box_format(boxes, new_format="XYXY")
    corners: NDArray[np.float64] = boxes.numpy().astype(np.float64)
    return corners


def _function_of(value: Any) -> Any:
    """What a partial function calls, or the object itself."""
    while isinstance(value, functools.partial):
        value = value.func
    return value


def _is_random(value: Any) -> bool:
    if not _is_known(value):
        return True
    name = type(value).__name__
    if name in _FIXED_CONTAINERS:
        return any(_is_random(child) for child in _children(value))
    return name not in _FIXED


def _is_known(value: Any) -> bool:
    """Whether a class is the library's own: a subclass may do anything."""
    return _is_of(type(value), _MODULES) or _is_sequential(value)


def _leaves(value: Any) -> Iterator[Any]:
    """The transforms in a transform, in order."""
    children = _children(value)
    if children is None:
        yield value
    else:
        for child in children:
            yield from _leaves(child)


def _children(value: Any) -> Any:
    """The transforms that a container calls; None of another object."""
    if _is_sequential(value):
        return list(value)
    found = getattr(value, "transforms", None)
    return found if isinstance(found, list | tuple) or _is_sequential(found) else None


def _is_sequential(value: Any) -> bool:
    return type(value).__module__ == "torch.nn.modules.container" and type(value).__name__ in _FIXED_CONTAINERS


def _is_of(kind: type, modules: tuple[str, ...]) -> bool:
    return f"{kind.__module__}.".startswith(modules)
