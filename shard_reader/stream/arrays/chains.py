"""The transforms of each field of a stream, and the shape of their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shard_reader.format.fields import IMAGE, OUTLINES, Field
from shard_reader.printable import printable
from shard_reader.shards.source import RecordSource
from shard_reader.stream.arrays.objects import moving_fields
from shard_reader.transforms.compose import ComposedTransform, Transforms, compose
from shard_reader.transforms.libraries.library import LibraryTransform

__all__ = ["Chains", "chains", "image_shape"]


@dataclass(frozen=True, slots=True)
class Chains:
    """The transforms of a stream.

    Attributes:
        given: those of each image field, as they were given.
        images: those that each image field goes through by itself.
        first: those of the first image, which boxes and points follow.
        joint: the last transform, which takes the image, and all that follows it, in one call; None without.
        together: the image fields that it takes; empty without one.
        following: the fields that follow the first image.
    """

    given: dict[str, ComposedTransform]
    images: dict[str, ComposedTransform]
    first: ComposedTransform
    joint: LibraryTransform | None
    together: tuple[str, ...]
    following: tuple[str, ...]


def chains(
    data: RecordSource, fields: Mapping[str, Field], image: Transforms, transform: Mapping[str, Transforms] | None
) -> Chains:
    """The transforms of a stream with these fields.

    Args:
        image, transform: as in `Records.stream`.

    Raises:
        ValueError: there is no such image, or transforms do not say how they move pixels, and a field follows them.
        TypeError: a value is not a transform.
    """
    own = {name: compose(value) for name, value in (transform or {}).items()}
    for name in own:
        if name not in data.fields or not data.fields[name].is_image:
            known = printable(", ".join(name for name, field in data.fields.items() if field.is_image))
            raise ValueError(f"transform={list(own)!r}: {name!r} is not one of the images {known}")
    whole = own.get(IMAGE) or compose(image)
    moving = moving_fields(fields)
    images = tuple(name for name, field in fields.items() if field.is_image and name not in own and name != IMAGE)
    following = (*images, *moving)
    first, joint = whole.split() if whole.joins and following else (whole, None)
    if joint is not None:
        _check_joint(joint, following, fields)
    for name in moving:
        first.check_moves(name)
    if OUTLINES in fields and not whole.keeps_places:
        raise ValueError(
            f"{OUTLINES!r} has outlines in the stored image, which transforms do not move: leave it out of fields=, and"
            " store masks (--segments mask) to move them; data.column reads the outlines"
        )
    given = {name: own.get(name, whole) for name, field in fields.items() if field.is_image}
    found = {}
    for name in given:
        found[name] = chain = own.get(name, first)
        if name == IMAGE:
            found[name] = first
        elif not fields[name].is_filtered:
            if name in images:
                chain.check_moves(name)
            found[name] = chain.by_nearest(keeps_values=name in images)
    return Chains(given, found, first, joint, () if joint is None else (IMAGE, *images), following)


def _check_joint(joint: LibraryTransform, following: tuple[str, ...], fields: Mapping[str, Field]) -> None:
    if IMAGE not in fields:
        raise ValueError(
            f"{joint!r} takes {following[0]!r} together with the image: fields={[IMAGE, *fields]!r} gives both"
        )
    roles = moving_fields(fields)
    boxes = [name for name in following if roles.get(name) == "boxes"]
    points = [name for name in following if roles.get(name) in ("points", "keypoints")]
    joint.check_joined(boxes[0] if boxes else None, points[0] if points else None)


def image_shape(data: RecordSource, name: str, shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    """The shape of every image in a batch; None where only a transform's result shows it.

    Raises:
        ValueError: they may differ, and are no array.
    """
    if shape is None:
        return None
    images = "the images" if name == IMAGE else f"the images {printable(name)!r}"
    if shape[2] is None:
        raise ValueError(
            f"{images} of {data.name} may differ in channels (--channels keep) and then are no array: read"
            " them one by one, or prepare them with --channels rgb or grey"
        )
    if None in shape:
        raise ValueError(
            f"{images} of {data.name} may differ in size (--fit cover, inside or none) and then are no array: pass"
            " image=CenterCrop(n), or prepare them with --fit crop, pad or stretch"
        )
    return tuple(size or 0 for size in shape)
