"""One image, as the job would have stored it: for a model that serves what it was trained on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.images.process import Payload, codec_versions, prepare_image
from beam_jobs.images.targets.further import further_payload
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import of_field
from shard_reader import Dataset
from shard_reader.format.fields import IMAGE, Field
from shard_reader.format.image_codecs.table import decode_image
from shard_reader.format.manifest import MANIFEST_NAME, Manifest
from shard_reader.storage.open import directory
from shard_reader.transforms.compose import ComposedTransform, Transforms, compose

__all__ = ["preprocess"]

_told = set[str]()  # digests of the codecs that a warning was given about


@dataclass(frozen=True, slots=True)
class _Statistics:
    """Mean and deviation of the dataset, as its manifest has them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.mean, self.std


Given = bytes | str | os.PathLike[str] | NDArray[Any]
"""An image: the bytes of its file, its path, or its pixels."""


@overload
def preprocess(
    image: Given, dataset: Dataset | Manifest | str | os.PathLike[str], transform: Transforms = None
) -> NDArray[Any]: ...


@overload
def preprocess(
    image: Mapping[str, Given], dataset: Dataset | Manifest | str | os.PathLike[str], transform: Transforms = None
) -> dict[str, NDArray[Any]]: ...


def preprocess(
    image: Given | Mapping[str, Given],
    dataset: Dataset | Manifest | str | os.PathLike[str],
    transform: Transforms = None,
) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The pixels that a stream of the dataset would give for an image: no skew between training and serving.

    The image is decoded, resized, converted, normalized and encoded by the options in the manifest, and decoded as the
    reader does it. So the losses of a lossy encoding are in the result, too.

    Args:
        image: the bytes of an image file, its path, or pixels: uint8 or uint16, `[height, width]` or `[height, width,
            channels]`, upright, with 1 (grey), 3 (RGB) or 4 (RGB and opacity) channels. Or several images of a record
            by their fields, `{"image": ..., "mask": ...}`, of which the others follow `image`.
        dataset: a dataset, its manifest, or its place. A service keeps an open dataset: then no file is read.
        transform: the transforms of the stream's `image=`, without random ones.

    Returns:
        `[height, width, channels]` of the dataset's dtype, or the result of the transform. Of several images a
        dictionary; masks are `[height, width]`, and take the nearest pixels.

    Raises:
        BadInput: the image is not an image, or is damaged or too large (`beam_jobs.sources.BadInput`).
        UsageError: the dataset was not made by `prepare`, has no such field, or the transform is random.
    """
    manifest = _manifest(dataset)
    options = _image_options(manifest)
    steps = compose(transform)
    if steps.is_random:
        raise UsageError(f"transform={steps!r}: is random; give the transforms of the evaluation, as CenterCrop(224)")
    images = image if isinstance(image, Mapping) else {IMAGE: image}
    _check_fields(images, manifest)
    first = prepare_image(_data(images[IMAGE]), options, _statistics(manifest))
    found = {IMAGE: _decoded(first.data, manifest.fields[IMAGE], first, steps, options)}
    for name in images.keys() - {IMAGE}:
        field = manifest.fields[name]
        if not field.is_filtered:
            _check_moves(steps, name)
        with of_field(name):
            further = further_payload(_data(images[name]), field, first.geometry, options, _statistics(manifest))
        own = steps if field.is_filtered else steps.by_nearest(keeps_values=True)
        pixels = _decoded(further.data, field, first, own, options)
        found[name] = pixels[..., 0] if field.is_flat else pixels
    return {name: found[name] for name in images} if isinstance(image, Mapping) else found[IMAGE]


def _check_fields(images: Mapping[str, Given], manifest: Manifest) -> None:
    known = [name for name, field in manifest.fields.items() if field.is_image]
    unknown = [name for name in images if name not in known]
    if unknown:
        raise UsageError(f"image={list(images)}: {unknown[0]!r} is no image of the dataset; it has {', '.join(known)}")
    if IMAGE not in images:
        raise UsageError(f"image={list(images)}: needs {IMAGE!r}, whose geometry the others follow")


def _check_moves(steps: ComposedTransform, name: str) -> None:
    try:
        steps.check_moves(name)
    except ValueError as error:
        raise UsageError(f"transform={steps!r}: {error}") from error


def _data(image: Given) -> bytes | NDArray[Any]:
    return Path(image).read_bytes() if isinstance(image, str | os.PathLike) else image


def _decoded(
    data: bytes, field: Field, first: Payload, steps: ComposedTransform, options: ImageOptions
) -> NDArray[Any]:
    """The pixels of a payload, transformed as in a stream."""
    payload, height, width = np.frombuffer(data, np.uint8), first.height, first.width
    part = steps.part(height, width, None)
    pixels = decode_image(payload, field, height, width, max_pixels=options.max_pixels, part=part)
    return np.array(steps(pixels) if part is None else steps.of_part(pixels))


def _statistics(manifest: Manifest) -> _Statistics | None:
    found = manifest.statistics
    return None if found is None else _Statistics(tuple(found.mean), tuple(found.std))


def _manifest(dataset: Dataset | Manifest | str | os.PathLike[str]) -> Manifest:
    if isinstance(dataset, Manifest):
        return dataset
    if isinstance(dataset, Dataset):
        return dataset.manifest
    place = directory(os.fspath(dataset))
    try:
        return Manifest.from_json(place.read(MANIFEST_NAME).decode())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"dataset={os.fspath(dataset)}: there is no dataset; it would have a {MANIFEST_NAME}"
        ) from None


def _image_options(manifest: Manifest) -> ImageOptions:
    """The options that made the images of a dataset.

    Raises:
        UsageError: there are none.
    """
    values = manifest.options.get("image")
    if not isinstance(values, Mapping):
        raise UsageError("the dataset was not made by `prepare`: its manifest has no options of images")
    known = {one.name for one in fields(ImageOptions)}
    if unknown := sorted(values.keys() - known):
        raise UsageError(f"a newer version made the dataset: this one has no option {', '.join(unknown)}")
    _compare(manifest.fingerprint.codecs)
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return ImageOptions(**given)


def _compare(stored: Mapping[str, str]) -> None:
    """Warn once of other versions of the libraries that decide the pixels."""
    here = codec_versions()
    # A library that is not installed raises an error for the images that need it. HDF5 holds images, and changes none.
    other = {n: v for n, v in stored.items() if n in here and here[n] != v and n != "h5py"}
    text = ", ".join(f"{name} {here[name]} (the dataset: {version})" for name, version in other.items())
    if text and text not in _told:
        _told.add(text)
        warnings.warn(f"pixels may differ from those of the dataset: here is {text}", stacklevel=4)
