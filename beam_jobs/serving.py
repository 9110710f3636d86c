"""One image, as the job would have stored it: for a model that serves what it was trained on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.images.process import codec_versions, prepare_image
from beam_jobs.options import ImageOptions
from shard_reader import Dataset
from shard_reader.format.image_codecs.table import decode_image
from shard_reader.format.manifest import MANIFEST_NAME, Manifest
from shard_reader.storage.open import directory
from shard_reader.transforms.compose import Transforms, compose

__all__ = ["preprocess"]

_told = set[str]()  # digests of the codecs that a warning was given about


@dataclass(frozen=True, slots=True)
class _Statistics:
    """Mean and deviation of the dataset, as its manifest has them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.mean, self.std


def preprocess(
    image: bytes | str | os.PathLike[str] | NDArray[Any],
    dataset: Dataset | Manifest | str | os.PathLike[str],
    transform: Transforms = None,
) -> NDArray[Any]:
    """The pixels that a stream of the dataset would give for an image: no skew between training and serving.

    The image is decoded, resized, converted, normalized and encoded by the options in the manifest, and decoded as the
    reader does it. So the losses of a lossy encoding are in the result, too.

    Args:
        image: the bytes of an image file, its path, or pixels: uint8 or uint16, `[height, width]` or `[height, width,
            channels]`, upright, with 1 (grey), 3 (RGB) or 4 (RGB and opacity) channels.
        dataset: a dataset, its manifest, or its place. A service keeps an open dataset: then no file is read.
        transform: the transforms of the stream's `image=`, without random ones.

    Returns:
        `[height, width, channels]` of the dataset's dtype, or the result of the transform.

    Raises:
        BadInput: the image is not an image, or is damaged or too large (`beam_jobs.sources.BadInput`).
        UsageError: the dataset was not made by `prepare`, or the transform is random.
    """
    manifest = _manifest(dataset)
    options = _image_options(manifest)
    steps = compose(transform)
    if steps.is_random:
        raise UsageError(f"transform={steps!r}: is random; give the transforms of the evaluation, as CenterCrop(224)")
    data = Path(image).read_bytes() if isinstance(image, str | os.PathLike) else image
    found = prepare_image(data, options, _statistics(manifest))
    payload, field = np.frombuffer(found.data, np.uint8), manifest.fields["image"]
    part = steps.part(found.height, found.width, None)
    pixels = decode_image(payload, field, found.height, found.width, max_pixels=options.max_pixels, part=part)
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
