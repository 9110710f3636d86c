"""From a decoded image to one of the batch's size: standard and custom transforms, and augmentations."""

from shard_reader.transforms.augmentations import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandAugment,
    RandomAffine,
    RandomErasing,
    RandomGrayscale,
    RandomRotation,
    TrivialAugment,
    TrivialAugmentWide,
)
from shard_reader.transforms.base import Shape, Transform, qualified_name
from shard_reader.transforms.libraries.pillow import OfPil
from shard_reader.transforms.moves.affine import AffineMap
from shard_reader.transforms.moves.move import Move
from shard_reader.transforms.part import Part
from shard_reader.transforms.standard import CenterCrop, Flip, RandomResizedCrop, Resize

__all__ = [
    "AffineMap",
    "CenterCrop",
    "ColorJitter",
    "Flip",
    "GaussianBlur",
    "Grayscale",
    "Move",
    "OfPil",
    "Part",
    "RandAugment",
    "RandomAffine",
    "RandomErasing",
    "RandomGrayscale",
    "RandomResizedCrop",
    "RandomRotation",
    "Resize",
    "Shape",
    "Transform",
    "TrivialAugment",
    "TrivialAugmentWide",
    "qualified_name",
]
