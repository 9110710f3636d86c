"""Recognizes the transforms of other libraries, by the modules of their classes: nothing is imported for that."""

from __future__ import annotations

from typing import Any

from shard_reader.transforms.libraries.library import LibraryTransform
from shard_reader.transforms.libraries.torchvision import (
    Torchvision,
    TorchvisionV2,
    is_torchvision,
    is_torchvision_v2,
)

__all__ = ["is_random_transform", "library_transform"]


def library_transform(value: Any) -> LibraryTransform | None:
    """The transform of another library, as one of a stream; None of an object that is not recognized."""
    if is_torchvision_v2(value):
        return TorchvisionV2(value)
    if is_torchvision(value):
        return Torchvision(value)
    return None


def is_random_transform(value: Any) -> bool:
    """Whether an object is a transform of another library that draws from generators of the process."""
    found = None if isinstance(value, type) else library_transform(value)
    return found is not None and found.draws_globally
