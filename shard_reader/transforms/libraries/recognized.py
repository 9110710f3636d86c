"""Recognizes the transforms of other libraries, by the modules of their classes: nothing is imported for that."""

from __future__ import annotations

from typing import Any

from shard_reader.transforms.libraries.albumentations import Albumentations, is_albumentations
from shard_reader.transforms.libraries.keras import Keras, is_keras
from shard_reader.transforms.libraries.library import LibraryTransform
from shard_reader.transforms.libraries.pillow import OfPil, is_of_pillow
from shard_reader.transforms.libraries.torchvision import (
    Torchvision,
    TorchvisionFunction,
    TorchvisionV2,
    is_torchvision,
    is_torchvision_function,
    is_torchvision_v2,
)

__all__ = ["is_random_transform", "library_transform"]

# In this order: layers of Keras are modules of PyTorch with that backend.
_LIBRARIES = (
    (is_keras, Keras),
    (is_albumentations, Albumentations),
    (is_torchvision_v2, TorchvisionV2),
    (is_torchvision, Torchvision),
    (is_torchvision_function, TorchvisionFunction),
    (is_of_pillow, OfPil),
)


def library_transform(value: Any) -> LibraryTransform | None:
    """The transform of another library, as one of a stream; None of an object that is not recognized.

    Raises:
        TypeError, ValueError: it cannot transform images of a stream.
    """
    for is_one, kind in _LIBRARIES:
        if is_one(value):
            return kind(value)
    return None


def is_random_transform(value: Any) -> bool:
    """Whether an object is a transform of another library that draws from generators of the process."""
    return is_torchvision(value) and Torchvision(value).draws_globally
