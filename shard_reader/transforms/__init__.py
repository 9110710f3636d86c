"""From a decoded image to one of the batch's size: standard and custom transforms."""

from shard_reader.transforms.base import Shape, Transform, qualified_name
from shard_reader.transforms.libraries.pillow import OfPil
from shard_reader.transforms.move import Move
from shard_reader.transforms.part import Part
from shard_reader.transforms.standard import CenterCrop, Flip, RandomResizedCrop, Resize

__all__ = [
    "CenterCrop",
    "Flip",
    "Move",
    "OfPil",
    "Part",
    "RandomResizedCrop",
    "Resize",
    "Shape",
    "Transform",
    "qualified_name",
]
