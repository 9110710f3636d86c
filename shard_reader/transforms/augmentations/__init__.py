"""Augmentations with the names, parameters and definitions of `torchvision.transforms.v2`, on arrays of NumPy."""

from shard_reader.transforms.augmentations.auto_augment import RandAugment, TrivialAugment, TrivialAugmentWide
from shard_reader.transforms.augmentations.erasing import RandomErasing
from shard_reader.transforms.augmentations.filters import GaussianBlur
from shard_reader.transforms.augmentations.geometric import RandomAffine, RandomRotation
from shard_reader.transforms.augmentations.jitter import ColorJitter, Grayscale, RandomGrayscale

__all__ = [
    "ColorJitter",
    "GaussianBlur",
    "Grayscale",
    "RandAugment",
    "RandomAffine",
    "RandomErasing",
    "RandomGrayscale",
    "RandomRotation",
    "TrivialAugment",
    "TrivialAugmentWide",
]
