"""From a survey of another program's TFRecords to the fields of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from beam_jobs.errors import JobError, UsageError
from beam_jobs.sources.files.tf_examples import LABELS
from beam_jobs.tools.foreign.survey import FeatureSeen, Keys, Survey
from shard_reader.format.fields import BASE_COLUMNS, INDEX_DTYPES, INPUT_FIELDS, RESERVED_NAMES, Field
from shard_reader.format.image_codecs.table import IMAGE_CODECS
from shard_reader.format.shard_formats import example

__all__ = ["ForeignFields", "infer"]

_OWN_NAMES = RESERVED_NAMES.union(BASE_COLUMNS)
_OWN_ENDS = ("_offset", "_length", "_crc32c", "/mask")  # ends of columns of the index, and of a batch
_MOST_VALUES = 64  # of an array in the index; larger arrays are read from the records
_DTYPES = {example.KINDS[dtype]: dtype for dtype in ("string", *INDEX_DTYPES)}


@dataclass(frozen=True, slots=True)
class ForeignFields:
    """The fields of a dataset of another program's TFRecords.

    `label` is the feature of the labels. `left_out` has the reason for each feature that is not a field. `grey_as_rgb`
    is True if some images are grey and others colour: all are then read as colour.
    """

    fields: Mapping[str, Field]
    label: str | None
    left_out: Mapping[str, str]
    grey_as_rgb: bool


def infer(found: Survey, keys: Keys, label: str | None, has_ids: bool) -> ForeignFields:
    """Infer the fields of a dataset.

    Args:
        found: the survey of all files together.
        keys: the features of image and id.
        label: the name of the label's feature; "none" for no label; None for the first usual name that is there.
        has_ids: whether the feature of the ids is unique.

    Raises:
        UsageError: there is no feature `label`, or its values are not whole numbers.
        JobError: the images have several encodings.
    """
    label = _label(found, label)
    left_out = dict[str, str]()
    image = _image_field(found, keys)
    fields = {"image": image}
    names = {keys.image: "image", **({label: "label"} if label else {})}
    if has_ids and keys.id is not None:
        names[keys.id] = "id"
    # Features of height and width are often those of the original image: sizes come from the headers of the images,
    # and only for raw pixels, which have none, from features.
    sizes = {"height": keys.height or keys.image, "width": keys.width or keys.image}
    for name, feature in sizes.items():
        fields[name] = Field(dtype="int64", feature=feature)
    for feature in sorted(found.features, key=lambda name: (name not in names, name)):
        seen = found.features[feature]
        why = _why_not(seen) or (feature in ("height", "width") and "is known from the images")
        if why:
            left_out[feature] = why
        elif feature not in sizes.values():
            name = names.get(feature) or _name(feature, seen, found.records)
            fields[name] = _field(feature, seen, found.records)
    order = [name for name in ("image", "label", "id", "height", "width") if name in fields]
    return ForeignFields({name: fields[name] for name in [*order, *fields]}, label, left_out, _has_grey_and_rgb(found))


def _label(found: Survey, asked: str | None) -> str | None:
    if asked == "none":
        return None
    if asked is None:
        return next((name for name in LABELS if _is_integers(found.features.get(name))), None)
    if asked not in found.features:
        there = ", ".join(sorted(found.features)) or "none"
        raise UsageError(f"--label-key {asked}: there is no such feature beside the image; there are: {there}")
    if not _is_integers(found.features[asked]):
        raise UsageError(
            f"--label-key {asked}: holds no whole numbers, which labels are; `image-shards prepare --label-column"
            f" {asked}` makes classes of texts"
        )
    return asked


def _is_integers(seen: FeatureSeen | None) -> bool:
    return seen is not None and seen.kinds == {example.INTEGERS}


def _image_field(found: Survey, keys: Keys) -> Field:
    if len(found.types) > 1:
        (first, place), (second, other) = list(found.types.items())[:2]
        raise JobError(
            f"{other}: the image is {' '.join(second)}, that of {place} is {' '.join(first)}: a dataset has one"
            " encoding; `image-shards prepare` makes one of both"
        )
    ((encoding, dtype),) = found.types
    shape = tuple(sizes.copy().pop() if len(sizes) == 1 else None for sizes in (found.heights, found.widths))
    channels = found.channels.copy().pop() if len(found.channels) == 1 else 3 if _has_grey_and_rgb(found) else None
    return Field(dtype=dtype, shape=(*shape, channels), encoding=encoding, feature=keys.image)


def _has_grey_and_rgb(found: Survey) -> bool:
    """Whether some encoded images are grey and others colour, as in ImageNet. The reader decodes all as colour."""
    return found.channels == {1, 3} and not any(IMAGE_CODECS[encoding].is_raw for encoding, _ in found.types)


def _why_not(seen: FeatureSeen) -> str | None:
    """The reason that a feature cannot be a field; None if it can."""
    if not seen.kinds:
        return "has no value in any record"
    if len(seen.kinds) > 1:
        return "has values of several types"
    return "is bytes that are no text" if seen.kinds == {example.BYTES} and not seen.is_text else None


def _name(feature: str, seen: FeatureSeen, records: int) -> str:
    """The name of a field: the name of its feature, with "source/" in front if that name has another meaning here."""
    if feature in INPUT_FIELDS and _field(feature, seen, records) == Field(dtype="int64", feature=feature):
        return feature
    return f"source/{feature}" if feature in _OWN_NAMES or feature.endswith(_OWN_ENDS) else feature


def _field(feature: str, seen: FeatureSeen, records: int) -> Field:
    (kind,) = seen.kinds
    is_same = seen.least == seen.most and seen.records == records
    shape: tuple[int | None, ...] = (None,)
    if is_same and seen.most == 1:
        shape = ()
    elif feature == "objects/bbox" and kind == example.FLOATS and seen.divisor % 4 == 0:
        shape = (None, 4)
    elif is_same and kind != example.BYTES and seen.most <= _MOST_VALUES:
        shape = (seen.most,)
    return Field(dtype=_DTYPES[kind], shape=shape, feature=feature)
