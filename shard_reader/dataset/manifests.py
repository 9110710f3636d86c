"""The manifests of a dataset's generations, and the numbers of its withdrawn records, as a reader finds them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError, DatasetError
from shard_reader.format.manifest import MANIFEST_NAME, MOST_BYTES, Manifest, checksum_of, generation_manifest
from shard_reader.format.shard_table import withdrawn_from_bytes
from shard_reader.remote.client import StoreClient
from shard_reader.storage.secrets import without_secrets
from shard_reader.storage.store_errors import explain
from shard_reader.system.regular_files import NotRegularError, read_regular

__all__ = ["read_manifest", "read_withdrawn"]

_HEADER = 128  # the most bytes before the numbers of withdrawn records


def read_manifest(place: str, local: Path | None, store: StoreClient | None, generation: int | None = None) -> Manifest:
    """The manifest of a generation of the dataset at a place, by default the newest.

    Args:
        place: the path or URL of the dataset, for messages.
        local: its path, where there is no `store`.
        store: the store that it is read from.
        generation: the number of the generation.

    Raises:
        DatasetError: there is no dataset, or one of another version.
        ManifestError: the manifest has problems.
        StoreError: the store does not answer.
        ValueError: the dataset has no such generation.
    """
    newest = Manifest.from_json(_text(place, local, store, MANIFEST_NAME))
    if generation is None or generation == newest.generation:
        return newest
    found = next((one for one in newest.history if one.number == generation), None)
    if found is None:
        there = ", ".join(f"{one.number} ({one.made})" for one in newest.history)
        raise ValueError(f"generation={generation}: {without_secrets(place)} has the generations {there}")
    if found.is_removed:
        raise ValueError(f"generation={generation}: `compact` has removed it; the newest is {newest.generation}")
    name = generation_manifest(generation)
    text = _text(place, local, store, name)
    if checksum_of(text) != found.checksum:
        raise DatasetError(f"{without_secrets(place)}/{name}: is not the manifest that {MANIFEST_NAME} names")
    return Manifest.from_json(text)


def read_withdrawn(
    place: str, local: Path | None, store: StoreClient | None, manifest: Manifest, split: str
) -> NDArray[np.int64] | None:
    """The numbers of the withdrawn records of a split, rising, int64 `[n]`; None if no record is withdrawn.

    Raises:
        CorruptionError: the file is missing, or damaged.
        StoreError: the store does not answer.
    """
    found = manifest.splits[split]
    if found.withdrawn is None:
        return None
    path, count, sha256 = found.withdrawn.path, found.withdrawn.records, manifest.files[found.withdrawn.path]
    name = f"{without_secrets(place)}/{path}"
    try:
        if store is None:
            data = read_regular(Path(local or "") / path, _HEADER + 8 * count)
        else:
            data = bytes(store.read(path, is_sound=lambda data: hashlib.sha256(data).hexdigest() == sha256))
        return withdrawn_from_bytes(data, count, found.shards, sha256)
    except FileNotFoundError:
        raise CorruptionError(f"{name}: is missing") from None
    except NotRegularError as error:
        raise CorruptionError(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise CorruptionError(f"{name}: {error}") from None


def _text(place: str, local: Path | None, store: StoreClient | None, name: str) -> str:
    """The text of a manifest."""
    try:
        if store is None:
            return read_regular(Path(local or "") / name, MOST_BYTES).decode()
        return bytes(store.read(name, is_sound=_is_whole)).decode()
    except (FileNotFoundError, NotADirectoryError) as error:
        if name != MANIFEST_NAME:
            raise DatasetError(f"{without_secrets(place)}/{name}: is missing") from None
        raise DatasetError(_why_not_a_dataset(local, place, error)) from None
    except NotRegularError as error:
        raise DatasetError(f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{without_secrets(place)}/{name}: is not UTF-8 text ({error.reason})") from error


def _is_whole(manifest: bytes | memoryview) -> bool:
    """Whether the manifest can be parsed."""
    # It has no checksum; but an answer that was cut short is not valid JSON, and is fetched again.
    try:
        Manifest.from_json(bytes(manifest).decode())
    except (DatasetError, UnicodeDecodeError):
        return False
    return True


def _why_not_a_dataset(directory: Path | None, place: str, error: OSError) -> str:
    if directory is None:
        if (said := explain(error, place)).startswith("there is no"):
            return f"{without_secrets(place)}: {said}"
        return f"{without_secrets(place)}: is no dataset: there is no {MANIFEST_NAME} (an unfinished job leaves none)"
    if not directory.exists():
        return f"{directory}: does not exist"
    if not directory.is_dir():
        return f"{directory}: is a file; a dataset is a directory with a {MANIFEST_NAME}"
    return f"{directory}: is no dataset: it has no {MANIFEST_NAME} (an unfinished job leaves none)"
