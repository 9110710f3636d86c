"""Features and arrays with further images and with bytes, beside the images of records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.payloads import PayloadColumns, role_of_name
from beam_jobs.sources.files.arrays import hdf5, plain
from beam_jobs.sources.files.arrays.plain import Array, describe
from beam_jobs.sources.files.interface import BadInput, SourceOptions
from beam_jobs.sources.files.many_images import split_of, without_split
from beam_jobs.sources.files.tf_examples import Images
from beam_jobs.sources.records.own_dataset import own_payloads
from shard_reader.format.fields import RESERVED_NAMES, Field
from shard_reader.format.image_codecs.table import encoding_of
from shard_reader.format.shard_formats.example import Values
from shard_reader.printable import printable

__all__ = ["Further"]

Place = Callable[[int], list[Any]]


class Further:
    """Chooses features or arrays: those of the options, of a dataset by image-shards, and masks by their names."""

    def __init__(self, options: SourceOptions, fields: Mapping[str, Field]) -> None:
        """`fields` are those of the dataset that the files are of, as far as they are known."""
        self._columns = PayloadColumns.of(options)
        self._named = {column: field for field, column in self._columns.columns.items()}
        # Named fields are all fields: what is not among them has to be asked for, too.
        self._by_name = self._columns.image is None and options.fields is None
        self._own = own_payloads(fields) if self._by_name else {}
        self._types = fields
        self._images: dict[str, Images] = {}
        self._seen: set[str] = set()
        self._there: set[str] = set()
        self.roles: dict[str, str] = {}
        """The role of each field that was found."""

    def key(self, given: str | None) -> str | None:
        """The feature or array of the first image, of the options.

        Raises:
            UsageError: two options name different ones.
        """
        return self._columns.image_or("--image-key", given)

    def check(self, called: str) -> None:
        """Check that some record had every name of the options. `called` names INPUT in messages.

        Raises:
            UsageError: no record had one.
        """
        for option, name in self._columns.options:
            if name in self._named and name not in self._seen:
                listed = ", ".join(sorted(map(printable, self._there))) or "none"
                raise UsageError(f"{option} {name}: {called} has no such image or bytes; it has {listed}")

    def of_features(
        self, features: dict[str, Values], payload: NDArray[np.uint8], file: str, start: int
    ) -> dict[str, Any]:
        """The places of the payloads of one record, whose features are taken out of `features`.

        Args:
            features: those of a record, without its first image.
            payload: the bytes of the record.
            file: its file.
            start: its first byte there.

        Raises:
            BadInput: a feature has no image.
        """
        found = dict[str, Any]()
        self._there.update(features)
        for name in list(features):
            values = features[name]
            field = self._field(name, values, payload)
            if field is None:
                continue
            self._seen.add(name)
            del features[name]
            if not values:
                continue
            part, pixels = self._found(name, field, values, payload, features)
            place = [file, start + part.start, part.stop - part.start]
            found[field] = ["pixels", *place, *pixels] if pixels else ["bytes", *place]
        return found

    def _field(self, name: str, values: Values, payload: NDArray[np.uint8]) -> str | None:
        """The field of a feature; None for one that is no payload."""
        if name in self._named:
            field, role = self._named[name], self._columns.roles[self._named[name]]
        elif name in self._own:
            field, role = name, self._own[name]
        else:
            field, role = name, role_of_name(name)
            single = values[0] if len(values) == 1 and isinstance(values[0], slice) else None
            is_mask = role != "photo" and single is not None and encoding_of(payload[single]) is not None
            if not self._by_name or not (is_mask or field in self.roles):
                return None
        field = own_name(field, role)
        self.roles[field] = role
        return field

    def _found(
        self, name: str, field: str, values: Values, payload: NDArray[np.uint8], features: Mapping[str, Values]
    ) -> tuple[slice, list[Any]]:
        """The place of a payload in a record, and the dtype and the shape of pixels."""
        part = values[0]
        if len(values) != 1 or not isinstance(part, slice):
            raise BadInput("bad-record", f"{name} has {len(values)} values: expected the bytes of one image or file")
        own = self._types.get(name)
        if self.roles[field] == "bytes":
            return part, []
        if own is not None and own.encoding is not None and own.encoding != "raw":
            return part, []
        if own is not None and own.encoding == "raw" and own.dtype in ("float16", "float32"):
            return part, self._floats(name, own, part, features)
        images = self._images.setdefault(name, Images(name))
        return images.find({**features, name: values}, payload)

    def _floats(self, name: str, own: Field, part: slice, features: Mapping[str, Values]) -> list[Any]:
        """The dtype and the shape of pixels that are floats."""
        size = [features.get(side, [0])[0] for side in ("height", "width")]
        channels = own.shape[2] if len(own.shape) == 3 else None
        shape = [side for side in (*size, channels or 1) if isinstance(side, int)]
        if len(shape) != 3:
            raise BadInput("bad-record", f"{name} is floats of a record without height and width")
        if part.stop - part.start != math.prod(shape) * np.dtype(own.dtype).itemsize:
            raise BadInput(
                "bad-record", f"{name} has {part.stop - part.start:,} bytes, which are no {shape} {own.dtype}"
            )
        return [np.dtype(own.dtype).str, shape]

    def of_arrays(
        self, found: Mapping[str, Array], image: str, called: str, file_of: Callable[[str], str], in_splits: bool
    ) -> tuple[dict[str, Place], set[str]]:
        """The places of the payloads of each row, by their fields, and the names of all arrays of payloads.

        Args:
            found: the arrays of a file.
            image: the array of images.
            called: the file in messages.
            file_of: gives the file of an array.
            in_splits: whether the arrays of splits are in one file.

        Raises:
            UsageError: an array that an option names holds no images, or has another number of rows.
        """
        places, names = dict[str, Place](), set[str]()
        self._there.update(found)
        for name, array in found.items():
            short = without_split(name) if in_splits else name
            named = next((one for one in (name, short) if one in self._named), None)
            if name == image or not (named or short in self._own or self._is_mask(short, array, found[image])):
                continue
            names.add(name)
            if in_splits and split_of(name) not in (None, split_of(image)):
                continue
            field = self._named[named] if named else short
            role = self._columns.roles[field] if named else self._own.get(short) or role_of_name(short)
            _check(array, role, name, found[image].shape[0], called)
            hdf5.check_stored(array, name, called)
            field = own_name(field, role)
            if field in places:
                raise UsageError(f"{called}: several arrays would be {field} of {image}; name one with --image-columns")
            self._seen.add(named or short)
            self.roles[field] = role
            places[field] = plain.placing(array, name, file_of(name))[0]
        return places, names

    def _is_mask(self, name: str, array: Array, images: Array) -> bool:
        """Whether an array is one of masks or of depth maps, by its name and its shape."""
        if not self._by_name or role_of_name(name) == "photo" or array.shape[0] != images.shape[0]:
            return False
        return plain.is_files(array) or (len(array.shape) in (3, 4) and _is_of_numbers(array))


def own_name(name: str, role: str) -> str:
    """The name of a field: that of a feature, or of its role where the name begins as one of every record does."""
    return role if name.partition("/")[0] in RESERVED_NAMES else name


def _is_of_numbers(array: Array) -> bool:
    return array.dtype.kind in "buif" and (len(array.shape) == 3 or array.shape[3] == 1 or array.shape[1] == 1)


def _check(array: Array, role: str, name: str, rows: int, called: str) -> None:
    if array.shape[0] != rows:
        raise UsageError(f"{called}: the array {printable(name)} is {describe(array)}: expected {rows:,} rows")
    if plain.is_files(array):
        return
    if role == "bytes":
        raise UsageError(f"{called}: the array {printable(name)} is {describe(array)}: expected bytes of any length")
    if role == "photo":
        plain.check_images(array, name, called)
    elif 0 in array.shape[1:] or len(array.shape) not in (3, 4) or not _is_of_numbers(array):
        raise UsageError(
            f"{called}: the array {printable(name)} is {describe(array)}: expected numbers of [n, height, width] or"
            f" [n, height, width, 1] for a {role}"
        )
