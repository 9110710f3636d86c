"""A finished dataset on a disk: its manifest, its files, and the ids of its records."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError, UsageError
from beam_jobs.lock import LOCK_NAME
from beam_jobs.tfds import METADATA_NAMES
from shard_reader import example
from shard_reader.errors import DatasetError, ManifestError
from shard_reader.format import DUPLICATES_NAME, MANIFEST_NAME, REJECTS_NAME, Field, Manifest, ShardFile, index_name
from shard_reader.storage import local_path

__all__ = [
    "data_files",
    "label_counts",
    "line_count",
    "local_directory",
    "need_packages",
    "other_files",
    "printable_id",
    "read_manifest",
    "record_ids",
]


def local_directory(place: str) -> Path:
    """The directory at a path.

    Raises:
        UsageError: it is elsewhere, not there, or no directory.
    """
    try:
        path = local_path(place)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from error
    if path is None:
        raise UsageError(f"{place}: is in an object store; copy it to a disk first")
    if not path.is_dir():
        raise UsageError(f"{place}: {'is a file, not a directory' if path.exists() else 'does not exist'}")
    return path


def read_manifest(place: str) -> tuple[Path, Manifest]:
    """The directory of a dataset, and its manifest.

    Raises:
        UsageError: no dataset is there, or one of another version.
        JobError: its manifest is damaged.
    """
    path = local_directory(place)
    try:
        return path, Manifest.from_json((path / MANIFEST_NAME).read_text("utf-8"))
    except FileNotFoundError:
        if (path / LOCK_NAME).exists():
            raise UsageError(
                f"{place}: is not finished, it has no {MANIFEST_NAME}; the `image-shards prepare` that began it goes on"
            ) from None
        hint = "; `image-shards index` makes one of TFRecords" if any(path.glob("*.tfrecord*")) else ""
        raise UsageError(f"{place}: is no dataset, it has no {MANIFEST_NAME}{hint}") from None
    except (ManifestError, UnicodeDecodeError) as error:
        raise JobError(f"{place}: {error}; restore {MANIFEST_NAME} from a copy, or make the dataset again") from error
    except DatasetError as error:
        raise UsageError(f"{place}: {error}") from error


def data_files(manifest: Manifest) -> Iterator[ShardFile]:
    """Every shard file of every format."""
    for split in manifest.splits.values():
        for shard in split.shards:
            yield from shard.files.values()


def other_files(path: Path, manifest: Manifest) -> list[str]:
    """The names of what lies in a dataset's directory and belongs to no dataset."""
    known = {MANIFEST_NAME, REJECTS_NAME, DUPLICATES_NAME, *METADATA_NAMES}
    for file in data_files(manifest):
        known |= {file.path, index_name(file.path)}
    return sorted(entry.name for entry in path.iterdir() if entry.name not in known)


def line_count(path: Path) -> int:
    """How many lines a file has; 0 if it is not there."""
    try:
        with open(path, "rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0


def record_ids(
    file: ShardFile, data: NDArray[np.uint8], rows: NDArray[np.void], has_ids: bool, numbers: Iterable[int]
) -> Iterator[bytes]:
    """The ids of some rows of a shard: their own, or their places if the dataset has none."""
    for number in numbers:
        start = int(rows["id_offset"][number])
        stop = start + int(rows["id_length"][number])
        yield data[start:stop].tobytes() if has_ids else f"{file.path}:{number}".encode()


def label_counts(
    format: str, data: NDArray[np.uint8], rows: NDArray[np.void], fields: Mapping[str, Field]
) -> Counter[int]:
    """How often each label is one, of records or of their objects."""
    name = next((name for name in ("label", "objects/label") if name in fields), None)
    if name is None or fields[name].dtype != "int64":
        return Counter()
    if fields[name].in_index:
        labels, counts = np.unique(rows[name], return_counts=True)
        return Counter(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
    found = Counter[int]()
    for start, length in zip(rows[f"{name}_offset"].tolist(), rows[f"{name}_length"].tolist(), strict=True):
        stored = data[start : start + length]
        if format == "hdf5":
            found.update(np.frombuffer(stored, "<i8").tolist())
        else:
            found.update(example.values(stored, example.Feature(example.INTEGERS, slice(0, length))))  # type: ignore[arg-type]
    return found


def printable_id(id: bytes) -> str:
    """An id on one line of a terminal, whatever its bytes are."""
    return repr(id.decode("utf-8", "backslashreplace"))


def need_packages(extra: str, *names: str) -> None:
    """Refuse to begin without packages that will be needed.

    Raises:
        UsageError: one is not installed; the message names the extra that has it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"needs {name}: pip install 'image-shards[{extra}]'")
