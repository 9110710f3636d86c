"""Opening a dataset: from a path or a URL to one of its splits."""

from __future__ import annotations

import math
import os
from pathlib import Path

from shard_reader.arguments import as_bytes, at_least_one, one_of
from shard_reader.dataset.dataset import Dataset, shards_of_split
from shard_reader.dataset.manifests import read_manifest, read_withdrawn
from shard_reader.errors import ManifestError
from shard_reader.format.fields import MAX_PIXELS
from shard_reader.format.image_codecs.table import codec_of
from shard_reader.format.manifest import Manifest
from shard_reader.printable import printable
from shard_reader.remote.client import StoreClient
from shard_reader.storage.open import is_url, local_path

__all__ = ["open_dataset"]


def open_dataset(
    path: str | os.PathLike[str],
    split: str = "train",
    *,
    format: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_bytes: int | str | None = None,
    ahead_bytes: int | str = "256MB",
    retry_for: float = 60.0,
    max_pixels: int = MAX_PIXELS,
    generation: int | None = None,
) -> Dataset:
    """Open one split of a dataset. Reads `dataset.json`, and the numbers of withdrawn records, if there are any.

    Args:
        path: the directory that `image-shards prepare` wrote, or its URL (`s3://bucket/shards`, `gs://`, `az://`,
            `https://`). The library for a store is an extra: `pip install "image-shards[s3]"`.
        split: name of the split.
        format: "tfrecord" or "hdf5"; by default the first that the dataset has. Both hold the same records.
        cache: a directory on a local disk, into which whole shards are fetched before they are needed. All processes
            of a machine may share it, and it outlasts them. Without a cache, records are read by ranges of bytes.
        cache_bytes: the maximum size of the cache, as a number or as "50GB"; the least recently used shards are
            removed. By default a twentieth of the disk stays free, at most 10 GiB.
        ahead_bytes: the most bytes of records read by ranges that may be in memory before they are used. More bytes
            take fewer requests.
        retry_for: the seconds for which a request is retried after a temporary error.
        max_pixels: the most pixels of an encoded image. A larger one is damaged: a few hundred bytes can claim
            billions of pixels.
        generation: the number of a state of the dataset, from 1; by default the newest. See `data.generations()`.

    Raises:
        DatasetError: there is no dataset, or one of another version.
        ManifestError: the manifest has problems.
        StoreError: the store does not answer, or refuses.
        ImportError: the package that reads such URLs is missing.
        ValueError: the dataset has no such split, format or generation.
        CorruptionError: the file with the numbers of withdrawn records is damaged.

    Examples:
        >>> data = open_dataset("shards", split="train")  # doctest: +SKIP
        >>> data[0]["image"].shape  # doctest: +SKIP
        (256, 341, 3)
    """
    place = os.fspath(path)
    if not isinstance(place, str):
        raise TypeError(f"path={path!r}: must be text, or a pathlib.Path")
    if not isinstance(retry_for, int | float) or not 0 <= retry_for < math.inf:
        raise ValueError(f"retry_for={retry_for!r}: must be a number of seconds")
    max_pixels = at_least_one("max_pixels", max_pixels)
    generation = None if generation is None else at_least_one("generation", generation)
    prefetch_bytes = as_bytes("ahead_bytes", ahead_bytes)
    if cache is None and cache_bytes is not None:
        raise ValueError(f"cache_bytes={cache_bytes!r}: there is no cache; pass cache=DIR, too")
    if cache is not None and (not os.fspath(cache) or is_url(os.fspath(cache))):
        raise ValueError(f"cache={os.fspath(cache)!r}: must be a directory on a local disk")
    most = None if cache_bytes is None else as_bytes("cache_bytes", cache_bytes)
    try:
        local = local_path(place)
    except ValueError as error:
        raise ValueError(f"path={place!r}: {error}") from None
    # With a cache, a local path is read like a store, too: it may be a network disk.
    store = StoreClient(place, float(retry_for)) if local is None or cache is not None else None
    manifest = read_manifest(place, local, store, generation)
    _check_pixels(manifest, max_pixels)
    format = format or manifest.formats[0]
    one_of("format", format, manifest.formats)
    one_of("split", split, tuple(manifest.splits))
    opened = place if local is None else local
    options = None if cache is None else (Path(cache).expanduser().absolute(), most)
    shards = shards_of_split(opened, manifest, split, format, store, options, max_pixels)
    withdrawn = read_withdrawn(place, local, store, manifest, split)
    return Dataset(opened, manifest, split, format, shards, prefetch_bytes, withdrawn)


def _check_pixels(manifest: Manifest, max_pixels: int) -> None:
    """Check that a batch's memory for images follows from no absurd size.

    Raises:
        ManifestError: the images of the dataset are larger than `max_pixels`.
    """
    problems = []
    for name, field in manifest.fields.items():
        if field.is_image:
            height, width = (size or 1 for size in field.shape[:2])
            if height * width > max_pixels and not codec_of(field).is_raw:
                problems.append(
                    f"$.fields.{printable(name)}.shape: {width}x{height} pixels are more than max_pixels={max_pixels}:"
                    " pass a larger number to open_dataset if you trust the dataset"
                )
    if problems:
        raise ManifestError(problems)
