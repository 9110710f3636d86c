"""From a survey of another program's TFRecords to the fields of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from beam_jobs.errors import JobError, UsageError
from beam_jobs.sources.files.annotations.payloads import role_of_name
from beam_jobs.sources.files.tf_examples import LABELS
from beam_jobs.tools.foreign.survey import FeatureSeen, Keys, Survey
from shard_reader.format.fields import (
    BASE_COLUMNS,
    IMAGE,
    INDEX_DTYPES,
    INPUT_FIELDS,
    RESERVED_NAMES,
    Field,
    size_columns,
)
from shard_reader.format.image_codecs.table import IMAGE_CODECS
from shard_reader.format.shard_formats import example
from shard_reader.printable import printable

__all__ = ["ForeignFields", "image_words", "infer"]

_OWN_NAMES = RESERVED_NAMES.union(BASE_COLUMNS)
_OWN_ENDS = ("_offset", "_length", "_crc32c", "/mask")  # ends of columns of the index, and of a batch
_MOST_VALUES = 64  # of an array in the index; larger arrays are read from the records
_PREPARE = "`image-shards prepare` reads such files"
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


def infer(found: Survey, keys: Keys, label: str | None, has_ids: bool, bytes_keys: Sequence[str] = ()) -> ForeignFields:
    """Infer the fields of a dataset.

    Args:
        found: the survey of all files together.
        keys: the features of image and id.
        label: the name of the label's feature; "none" for no label; None for the first usual name that is there.
        has_ids: whether the feature of the ids is unique.
        bytes_keys: features whose values are kept as bytes.

    Raises:
        UsageError: there is no feature `label`, or its values are not whole numbers; or one of `bytes_keys` has not one
            value of bytes in each record.
        JobError: the images have several encodings.
    """
    label = _label(found, label)
    _check_bytes(found, bytes_keys)
    left_out = dict[str, str]()
    image = _image_field(found, keys)
    fields = {IMAGE: image}
    names = {keys.image: IMAGE, **({label: "label"} if label else {})}
    if has_ids and keys.id is not None:
        names[keys.id] = "id"
    # Features of height and width are often those of the original image: sizes come from the headers of the images,
    # and only for raw pixels, which have none, from features.
    sizes = {"height": keys.height or keys.image, "width": keys.width or keys.image}
    for name, feature in sizes.items():
        fields[name] = Field(dtype="int64", feature=feature)
    types, why_not = _types(found, bytes_keys)
    taken = {column for feature, field in types.items() if field.is_image for column in size_columns(feature)}
    for feature in sorted(found.features, key=lambda name: (name not in names, name)):
        why = why_not.get(feature) or (feature in ("height", "width") and "is known from the images")
        if why:
            left_out[feature] = why
        elif feature not in sizes.values():
            name = names.get(feature) or _name(feature, types[feature])
            # Columns of the index have the size of a further image.
            fields[f"source/{name}" if name in taken else name] = types[feature]
    order = [name for name in (IMAGE, "label", "id", "height", "width") if name in fields]
    return ForeignFields(
        {name: fields[name] for name in [*order, *fields]}, label, left_out, found.images.has_grey_and_rgb
    )


def _check_bytes(found: Survey, bytes_keys: Sequence[str]) -> None:
    for name in bytes_keys:
        seen = found.features.get(name)
        if seen is None:
            there = ", ".join(sorted(found.features)) or "none"
            raise UsageError(f"--bytes-key {name}: there is no such feature beside the image; there are: {there}")
        if (seen.kinds, seen.records, seen.least, seen.most) != ({example.BYTES}, found.records, 1, 1):
            raise UsageError(f"--bytes-key {name}: has not one value of bytes in every record, which a field needs")


def _types(found: Survey, bytes_keys: Sequence[str]) -> tuple[dict[str, Field], dict[str, str]]:
    """The field of each feature, or the reason that it has none."""
    fields, why_not = dict[str, Field](), dict[str, str]()
    for feature, seen in found.features.items():
        if feature in bytes_keys:
            fields[feature] = Field(dtype="bytes", feature=feature)
        elif seen.kinds == {example.BYTES} and seen.further is not None and seen.further.is_every:
            image = _further_image(feature, seen, found.records)
            if isinstance(image, Field):
                fields[feature] = image
            else:
                why_not[feature] = image
        elif why := _why_not(feature, seen, found.records):
            why_not[feature] = why
        else:
            fields[feature] = _field(feature, seen, found.records)
    return fields, why_not


def _further_image(feature: str, seen: FeatureSeen, records: int) -> Field | str:
    """The field of a feature whose values are images, or the reason that it has none."""
    assert seen.further is not None  # as the caller knows
    images = seen.further.images
    if seen.further.unread:
        return f"is images that a reader does not decode ({seen.further.unread}); {_PREPARE}"
    if seen.records < records:
        return f"is an image that {records - seen.records} of {records} records lack; {_PREPARE}"
    if len(images.types) > 1:
        return f"is images of several encodings ({', '.join(' '.join(kind) for kind in images.types)}); {_PREPARE}"
    ((encoding, _),) = images.types
    role = role_of_name(feature)
    # An encoding with a loss keeps no numbers.
    role = role if IMAGE_CODECS[encoding].quality is None else "photo"
    if role != "photo" and seen.further.is_narrow:
        return f"is a {role} of PNG files with less than 8 bits a value, which decoders scale; {_PREPARE}"
    return images.field(feature, role)


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
    if len(found.images.types) > 1:
        (first, place), (second, other) = list(found.images.types.items())[:2]
        raise JobError(
            f"{other}: the image is {' '.join(second)}, that of {place} is {' '.join(first)}: a dataset has one"
            " encoding; `image-shards prepare` makes one of both"
        )
    return found.images.field(keys.image)


def _why_not(feature: str, seen: FeatureSeen, records: int) -> str | None:
    """The reason that a feature cannot be a field; None if it can."""
    if not seen.kinds:
        return "has no value in any record"
    if len(seen.kinds) > 1:
        return "has values of several types"
    if seen.is_text or seen.kinds != {example.BYTES}:
        return None
    can_be_bytes = (seen.records, seen.least, seen.most) == (records, 1, 1)
    return "is bytes that are no text" + (f"; --bytes-key {printable(feature)} keeps them" if can_be_bytes else "")


def _name(feature: str, field: Field) -> str:
    """The name of a field: the name of its feature, with "source/" in front if that name has another meaning here."""
    if feature in INPUT_FIELDS and field == Field(dtype="int64", feature=feature):
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


def image_words(field: Field) -> str:
    """The type of an image field: dtype, shape, encoding and role."""
    shape = ", ".join("*" if size is None else str(size) for size in field.shape)
    return f"{field.dtype} [{shape}], {field.encoding}" + (f", {field.role}" if field.role else "")
