"""Transforms of Albumentations, which have generators of their own since version 2."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.draws import Draws
from shard_reader.transforms.libraries.functions import draws_globally
from shard_reader.transforms.libraries.library import LibraryTransform

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
        # A class of the user may draw from generators of the process.
        own = [part for part in parts if not _is_of_library(type(part))]
        is_global = any(draws_globally(part, lambda value: False) for part in own)
        self._has_generators = hasattr(original, "set_random_state")
        super().__init__(
            original,
            is_random=is_random,
            draws_globally=is_random and (is_global or not self._has_generators),
            keeps_image=bool(own),
        )
        self._copies = threading.local()

    def called(self, image: NDArray[Any], draws: Draws | None) -> Any:
        return self.given({"image": image}, draws)["image"]

    def given(self, data: dict[str, Any], draws: Draws | None) -> dict[str, Any]:
        """What the library gives for its named arguments."""
        data = data | {"image": _own(data["image"])}
        transform = self._copy()
        if draws is not None and self._has_generators:
            # Not `set_random_seed`: it gives each transform a generator of its own with the same seed, so that an image
            # that is flipped one way is flipped the other way, too.
            seed = draws.integer(1 << 64)
            transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        found: dict[str, Any] = transform(**data)
        return found

    def _copy(self) -> Any:
        """The copy of this thread."""
        if not hasattr(self._copies, "transform"):
            self._copies.transform = copy.deepcopy(self.original)
        return self._copies.transform


def is_albumentations(value: Any) -> bool:
    """Whether an object is a transform or a container of Albumentations, or of a subclass."""
    return any(_is_of_library(kind) and kind.__name__ in _BASES for kind in type(value).__mro__)


def _parts(value: Any) -> Iterator[Any]:
    """A transform, and those in it."""
    yield value
    for child in getattr(value, "transforms", None) or ():
        yield from _parts(child)


def _is_fixed(part: Any) -> bool:
    return _is_of_library(type(part)) and type(part).__name__ in _FIXED and getattr(part, "p", 0) >= 1


def _is_of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("albumentations", "albumentationsx")


def _own(image: NDArray[Any]) -> NDArray[Any]:
    """An image that may be written to, in the byte order of this machine."""
    is_own = image.flags.writeable and image.dtype.isnative
    return image if is_own else np.array(image, image.dtype.newbyteorder("="))
