"""A survey of another program's TFRecords of `tf.train.Example`: features, types and sizes of images.

It covers every record, so that the inferred fields hold for all of them. Of an image, only the header is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError, UsageError
from beam_jobs.sources.files.tf_examples import choose_image, framed, is_tensor, pixel_type, size_features
from beam_jobs.tools.foreign.images_seen import FurtherImages, ImagesSeen
from shard_reader.format.fields import MAX_VALUES
from shard_reader.format.image_codecs.codec import ImageHeader
from shard_reader.format.image_codecs.raw import Raw
from shard_reader.format.image_codecs.table import encoded_labels, encoding_of, read_header
from shard_reader.format.shard_formats import example, tfrecord
from shard_reader.storage.open import directory
from shard_reader.system.memory_map import map_file

__all__ = ["FeatureSeen", "Keys", "Survey", "find_keys", "survey"]

_IDS = ("id", "image/filename", "filename", "file_name", "image/file_name", "image/source_id", "key", "__key__")
_KIND_NAMES = {example.BYTES: "bytes", example.FLOATS: "floats", example.INTEGERS: "integers"}


@dataclass(frozen=True, slots=True)
class Keys:
    """The features with a special meaning: the image, a possible id, and the size of raw pixels.

    `shape` is the shape of all raw images; if it is None, `height`, `width` and possibly `channels` name features.
    """

    image: str
    id: str | None = None
    shape: tuple[int, int, int] | None = None
    height: str | None = None
    width: str | None = None
    channels: str | None = None

    @property
    def is_raw(self) -> bool:
        """Whether images are bytes of pixels."""
        return self.shape is not None or self.height is not None


@dataclass(slots=True)
class FeatureSeen:
    """The values of one feature: their kinds, the number of records with it, and the numbers of values in a record.

    `further` are the images among them; None where a record has several values, or values that are no bytes.
    """

    kinds: set[int] = field(default_factory=set)
    records: int = 0
    least: int = 1 << 62
    most: int = 0
    is_text: bool = True
    divisor: int = 0
    """The greatest common divisor of the numbers of values."""
    further: FurtherImages | None = field(default_factory=FurtherImages)

    def see(self, kind: int, count: int, is_text: bool) -> None:
        """Add the values of one record."""
        self.records += 1
        self.least, self.most = min(self.least, count), max(self.most, count)
        self.divisor = math.gcd(self.divisor, count)
        if count:
            self.kinds.add(kind)
            self.is_text &= is_text
        if (kind, count) != (example.BYTES, 1):
            self.further = None

    def merge(self, other: FeatureSeen) -> None:
        """Add the values of another file."""
        self.kinds |= other.kinds
        self.records += other.records
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)
        self.divisor = math.gcd(self.divisor, other.divisor)
        self.is_text &= other.is_text
        if self.further is None or other.further is None:
            self.further = None
        else:
            self.further.merge(other.further)


@dataclass(slots=True)
class Survey:
    """The survey of one file, or of several together.

    `images` are those of the feature of the image. `ids` are 128 bits of each id, `[n, 2]`.
    """

    records: int = 0
    features: dict[str, FeatureSeen] = field(default_factory=dict)
    images: ImagesSeen = field(default_factory=ImagesSeen)
    ids: NDArray[np.uint64] = field(default_factory=lambda: np.empty((0, 2), np.uint64))

    def merge(self, other: Survey) -> None:
        """Add the survey of another file, without its ids."""
        self.records += other.records
        for name, seen in other.features.items():
            self.features.setdefault(name, FeatureSeen()).merge(seen)
        self.images.merge(other.images)


def find_keys(path: Path, image: str | None, id: str | None, raw: tuple[int, int, int] | None) -> Keys | None:
    """The features of image and id in a file's first record; None if the file has no record.

    Args:
        path: the file.
        image: the name of the image's feature, or None to recognise it.
        id: the name of the id's feature, or None to recognise it; "none" for no id.
        raw: height, width and channels of images that are bytes of pixels.

    Raises:
        UsageError: the file is not a TFRecord of Examples, or has no feature with an image.
    """
    for start, payload in framed(directory(str(path.parent)), path.name, str(path)):
        with _explained(path, f"{path}: record 0, at byte {start}"):
            return _find_keys(path, payload, image, id, raw)
    return None


def _find_keys(
    path: Path, payload: NDArray[np.uint8], image: str | None, id: str | None, raw: tuple[int, int, int] | None
) -> Keys:
    features = example.features(payload)
    name = _image_key(payload, features, image, raw is not None, path)
    if id not in (None, "none") and id not in features:
        raise UsageError(f"--id-key {id}: {path} has no such feature; it has {_listed(features)}")
    known = next((key for key in _IDS if key in features and features[key].kind == example.BYTES), None)
    own = None if id == "none" else id or known
    part = _image(payload, features, name, str(path))
    if is_tensor(payload, part):
        raise UsageError(f"{path}: the images in {name} are serialized tensors: `image-shards prepare` reads them")
    if raw is not None or encoding_of(payload[part]) is not None:
        return Keys(name, own, raw)
    sizes = size_features(features)
    if not {"height", "width"} <= sizes.keys():
        raise UsageError(
            f"{path}: the images in {name} are no {encoded_labels()}; if they are bytes of pixels, say their"
            " height, width and channels, as --raw 32x32x3; otherwise name others with --image-key"
        )
    return Keys(name, own, None, **sizes)


def survey(path: Path, keys: Keys) -> Survey:
    """Survey every record of a file.

    Raises:
        UsageError: the file is compressed or cut off.
        CorruptionError: the file is damaged.
        JobError: a record is not an Example, or has no image.
    """
    found = Survey()
    ids = list[bytes]()
    for start, payload in framed(directory(str(path.parent)), path.name, str(path)):
        place = f"{path}: record {found.records}, at byte {start:,}"
        with _explained(path, place):
            features = example.features(payload)
            found.images.see(_header(payload, features, keys, place), place)
            for name, feature in features.items():
                if name != keys.image:
                    _see(found.features.setdefault(name, FeatureSeen()), payload, feature, place)
            if keys.id is not None:
                ids.append(_id(payload, features, keys.id))
        found.records += 1
    if ids and all(ids):
        found.ids = np.frombuffer(b"".join(ids), np.uint64).reshape(-1, 2)
    return found


@contextlib.contextmanager
def _explained(path: Path, place: str) -> Iterator[None]:
    """Find the cause of an error in a record.

    Raises:
        CorruptionError: a record of the file is damaged.
        JobError: all records are whole, but this one cannot be indexed.
    """
    # The survey leaves the checksums of records to the second pass. Only after an error does it check them all, to tell
    # damage from a record of another kind.
    try:
        yield
    except (JobError, ValueError) as error:
        for _ in tfrecord.read_records(map_file(path), str(path)):
            pass
        if isinstance(error, JobError):
            raise
        raise JobError(f"{place}: is no tf.train.Example ({error}), which is what can be indexed") from error


def _header(payload: NDArray[np.uint8], features: Mapping[str, example.Feature], keys: Keys, place: str) -> ImageHeader:
    """The header of a record's image."""
    image = payload[_image(payload, features, keys.image, place)]
    try:
        return _raw_header(payload, features, keys, image.size) if keys.is_raw else read_header(image)
    except ValueError as error:
        raise JobError(
            f"{place}: the image in {keys.image} {error}; `image-shards prepare` makes a dataset of the others"
        ) from error


def _image(payload: NDArray[np.uint8], features: Mapping[str, example.Feature], name: str, place: str) -> slice:
    """The place of the image in an Example."""
    feature = features.get(name)
    if feature is None:
        raise JobError(f"{place}: has no feature {name}, which has the images; its features are {_listed(features)}")
    values = example.values(payload, feature)
    if len(values) != 1 or not isinstance(values[0], slice):
        raise JobError(
            f"{place}: {name} has {len(values)} {_KIND_NAMES[feature.kind]}, not the bytes of one image;"
            " name the feature that has them with --image-key"
        )
    return values[0]


def _image_key(
    payload: NDArray[np.uint8], features: Mapping[str, example.Feature], said: str | None, is_raw: bool, path: Path
) -> str:
    """The feature with the image: the one of the option, one with a usual name, or the only one with an image."""
    if said is not None:
        if said not in features:
            raise UsageError(f"--image-key {said}: {path} has no such feature; it has {_listed(features)}")
        return said
    # Only of the few values that an image or its size has: a list may be as long as the record.
    short = {name: feature for name, feature in features.items() if example.count(payload, feature) <= MAX_VALUES}
    choice = choose_image({name: example.values(payload, feature) for name, feature in short.items()}, payload, is_raw)
    if choice is None:
        raise UsageError(f"{path}: which feature has the images? name it with --image-key: {_listed(features)}")
    return choice


def _raw_header(
    payload: NDArray[np.uint8], features: Mapping[str, example.Feature], keys: Keys, size: int
) -> ImageHeader:
    """The shape of an image that is bytes of pixels.

    Raises:
        ValueError: the image has more or fewer bytes than its size needs.
    """
    if keys.shape is not None:
        dtype, shape = pixel_type(size, *keys.shape)
        return ImageHeader(Raw.name, *shape, dtype)
    names = {"height": keys.height, "width": keys.width, "channels": keys.channels}
    sizes = {size: _integer(payload, features, name) for size, name in names.items() if name is not None}
    dtype, shape = pixel_type(size, **sizes)
    return ImageHeader(Raw.name, *shape, dtype)


def _integer(payload: NDArray[np.uint8], features: Mapping[str, example.Feature], name: str) -> int:
    values = example.values(payload, features[name]) if name in features else []
    if len(values) != 1 or not isinstance(values[0], int):
        raise ValueError(f"has no whole number in {name}, which says its size")
    return values[0]


def _see(seen: FeatureSeen, payload: NDArray[np.uint8], feature: example.Feature, place: str) -> None:
    values = example.values(payload, feature) if feature.kind == example.BYTES else []
    is_text = feature.kind == example.BYTES and all(isinstance(v, slice) and _is_text(payload[v]) for v in values)
    seen.see(feature.kind, example.count(payload, feature), is_text)
    if seen.further is not None and len(values) == 1 and isinstance(values[0], slice):
        seen.further.see(payload[values[0]], place)


def _is_text(data: NDArray[np.uint8]) -> bool:
    try:
        data.tobytes().decode()
    except UnicodeDecodeError:
        return False
    return True


def _id(payload: NDArray[np.uint8], features: Mapping[str, example.Feature], name: str) -> bytes:
    """128 bits of an id; empty if the value is not an id."""
    feature = features.get(name)
    values = example.values(payload, feature) if feature is not None and feature.kind == example.BYTES else []
    if len(values) != 1 or not isinstance(values[0], slice):
        return b""
    return hashlib.blake2b(payload[values[0]].tobytes(), digest_size=16).digest()


def _listed(features: Mapping[str, example.Feature]) -> str:
    return ", ".join(f"{name} ({_KIND_NAMES[feature.kind]})" for name, feature in sorted(features.items())) or "none"
