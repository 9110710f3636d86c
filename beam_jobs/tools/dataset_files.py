"""A finished dataset on a disk: its manifest, its files, and the ids of its records."""

from __future__ import annotations

import contextlib
import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError, UsageError
from shard_reader.errors import CorruptionError, DatasetError, ManifestError
from shard_reader.format import index
from shard_reader.format.fields import IMAGE, Field
from shard_reader.format.image_codecs.table import codec_of
from shard_reader.format.manifest import (
    LOCK_NAME,
    MANIFEST_NAME,
    MOST_BYTES,
    PAPER_NAMES,
    Manifest,
    Shard,
    ShardFile,
    dali_name,
    generation_manifest,
    index_name,
)
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.format.shard_table import withdrawn_from_bytes
from shard_reader.order.remaining import Remaining
from shard_reader.storage.directory import Directory
from shard_reader.storage.local import LocalDirectory
from shard_reader.storage.open import directory, local_path
from shard_reader.system.regular_files import read_regular

__all__ = [
    "REMOVALS_NAME",
    "REPORT_NAME",
    "copy_to_disk",
    "data_files",
    "known_files",
    "label_counts",
    "local_directory",
    "manifest_at",
    "need_image_packages",
    "need_packages",
    "printable_id",
    "read_manifest",
    "record_ids",
    "remaining_of",
    "shard_on_disk",
]

REPORT_NAME: Final = "report.html"
"""The report of `prepare --report`, beside the manifest, which does not name it."""
REMOVALS_NAME: Final = "removals.json"
"""The list of files that `compact --in-place` has replaced, and that wait to be removed."""
_PIECE = 1 << 23
_MOST_HEADER = 128  # bytes before the numbers of withdrawn records


def local_directory(place: str) -> Path:
    """The local directory at a path.

    Raises:
        UsageError: the place is remote, missing, or not a directory.
    """
    try:
        path = local_path(place)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from error
    if path is None:
        raise UsageError(f"{place}: is in an object store, where nothing is changed; copy it to a disk first")
    if not path.is_dir():
        raise UsageError(f"{place}: {'is a file, not a directory' if path.exists() else 'does not exist'}")
    return path


def read_manifest(place: str) -> tuple[Path, Manifest]:
    """The directory of a local dataset, and its manifest.

    Raises:
        UsageError: the place has no dataset, or one of another version.
        JobError: the manifest is damaged.
    """
    path = local_directory(place)
    return path, _read_manifest(place, LocalDirectory(path))


def manifest_at(place: str) -> tuple[Directory, Manifest]:
    """The directory of a dataset at a path or a URL, and its manifest.

    Raises:
        UsageError: the place has no dataset, or one of another version.
        JobError: the manifest is damaged.
    """
    try:
        files = directory(place)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{place}: {error}") from error
    if files.local is not None:
        local_directory(place)
    return files, _read_manifest(place, files)


def copy_to_disk(files: Directory, name: str, folder: Path, expected: int | None = None) -> None:
    """Copy a file of a remote dataset into a folder. A missing file is skipped.

    Args:
        expected: its size; of a larger file one byte more is copied, which shows that it is another file.
    """
    (folder / name).parent.mkdir(parents=True, exist_ok=True)  # of a generation, or of a dataset beside this one
    with contextlib.suppress(FileNotFoundError), open(folder / name, "wb") as file:
        try:
            size = files.size(name) if expected is None else min(files.size(name), expected + 1)
            for start in range(0, size, _PIECE):
                file.write(files.read(name, start, min(size, start + _PIECE)))
        except BaseException:
            (folder / name).unlink()  # half a copy would look like a damaged file
            raise


@contextlib.contextmanager
def shard_on_disk(remote: str | None, shard: Shard, folder: Path, fields: Mapping[str, Field]) -> Iterator[None]:
    """Keep copies of all files of a shard in a folder, if the dataset is remote, at the URL `remote`."""
    # One shard at a time for each process: a remote dataset may be larger than the disk.
    if remote is None:
        yield
        return
    files = directory(remote)
    sizes = {file.path: file.bytes for file in shard.files.values()}
    sizes |= {file.index: index.size(file, shard.records, fields) for file in shard.files.values()}
    try:
        for name, size in sizes.items():
            copy_to_disk(files, name, folder, size)
        yield
    finally:
        for name in sizes:
            (folder / name).unlink(missing_ok=True)


def _read_manifest(place: str, files: Directory) -> Manifest:
    try:
        local = files.local
        data = files.read(MANIFEST_NAME) if local is None else read_regular(local / MANIFEST_NAME, MOST_BYTES)
        return Manifest.from_json(data.decode("utf-8"))
    except FileNotFoundError as error:
        names = files.names()
        if not names and (error.strerror or "").startswith("there is no"):  # such bucket
            raise UsageError(f"{place}: {error.strerror}") from None
        if LOCK_NAME in names:
            raise UsageError(
                f"{place}: is not finished, it has no {MANIFEST_NAME}; the `image-shards prepare` that began it goes on"
            ) from None
        hint = "; `image-shards index` makes one of TFRecords" if any(".tfrecord" in name for name in names) else ""
        raise UsageError(f"{place}: is no dataset, it has no {MANIFEST_NAME}{hint}") from None
    except (ManifestError, UnicodeDecodeError) as error:
        raise JobError(f"{place}: {error}; restore {MANIFEST_NAME} from a copy, or make the dataset again") from error
    except DatasetError as error:
        raise UsageError(f"{place}: {error}") from error


def remaining_of(files: Directory, manifest: Manifest) -> dict[str, Remaining]:
    """The records of each split that count.

    Raises:
        JobError: a file of withdrawn records is missing, or damaged.
    """
    found = {}
    for name, split in manifest.splits.items():
        numbers = np.empty(0, np.int64)
        if split.withdrawn is not None:
            path, count = split.withdrawn.path, split.withdrawn.records
            try:
                data = files.read(path, most=_MOST_HEADER + 8 * count)
                numbers = withdrawn_from_bytes(data, count, split.shards, manifest.files[path])
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                raise JobError(f"{files.uri(path)}: {why}; restore it from a copy") from error
        found[name] = Remaining(numbers)
    return found


def data_files(manifest: Manifest) -> Iterator[ShardFile]:
    """Every shard file of every format."""
    for shard in manifest.shards():
        yield from shard.files.values()


def known_files(manifest: Manifest) -> set[str]:
    """The names of all files of a dataset, with those of its earlier generations that are named by its history."""
    known = {MANIFEST_NAME, REPORT_NAME, REMOVALS_NAME, *PAPER_NAMES, *manifest.files}
    for file in data_files(manifest):
        known |= {file.path, index_name(file.path), file.index, dali_name(file.path)}
    for one in manifest.history[:-1]:
        known.add(generation_manifest(one.number))
    for one in manifest.history:
        if one.folder and not one.is_removed:
            # The folder of an append or a compaction is a dataset of its own.
            known |= {f"{one.folder}/{name}" for name in (MANIFEST_NAME, REPORT_NAME, *PAPER_NAMES)}
    return known


def record_ids(
    file: ShardFile,
    data: NDArray[np.uint8] | index.ShardBytes,
    rows: NDArray[np.void],
    has_ids: bool,
    numbers: Iterable[int],
) -> Iterator[bytes]:
    """The ids of some rows of a shard. In a dataset without ids, they are FILE:ROW."""
    for number in numbers:
        start = int(rows["id_offset"][number])
        stop = start + int(rows["id_length"][number])
        yield data[start:stop].tobytes() if has_ids else f"{file.path}:{number}".encode()


def label_counts(
    format: str, data: NDArray[np.uint8] | index.ShardBytes, rows: NDArray[np.void], fields: Mapping[str, Field]
) -> Counter[int]:
    """Number of records, or of their objects, by label.

    Raises:
        CorruptionError: the labels of a record are no list of numbers.
    """
    name = next((name for name in ("label", "objects/label") if name in fields), None)
    if name is None or fields[name].dtype != "int64":
        return Counter()
    if fields[name].in_index:
        labels, counts = np.unique(rows[name], return_counts=True)
        return Counter(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
    # Labels of objects are lists, which are in the records and not in the index.
    found = Counter[int]()
    extents = zip(rows[f"{name}_offset"].tolist(), rows[f"{name}_length"].tolist(), strict=True)
    for row, (start, length) in enumerate(extents):
        try:
            found.update(SHARD_FORMATS[format].value(data[start : start + length], fields[name]).ravel().tolist())
        except ValueError as error:
            raise CorruptionError(f"row {row}: {name!r} is no list of numbers ({error})") from error
    return found


def printable_id(id: bytes) -> str:
    """An id as printable text on one line."""
    return repr(id.decode("utf-8", "backslashreplace"))


def need_shard_packages(manifest: Manifest) -> None:
    """Refuse to begin without the packages that read a dataset's formats.

    Raises:
        UsageError: a package is not installed; the message names the extra that has it.
    """
    for name in manifest.formats:
        format = SHARD_FORMATS[name]
        if format.extra is not None and format.package is not None:
            need_packages(format.extra, format.package)


def need_image_packages(manifest: Manifest, *, decode: bool) -> None:
    """Refuse to begin without the packages that make the indexes of a dataset, and those that decode its images.

    Args:
        decode: whether images are decoded.

    Raises:
        UsageError: a package is not installed; the message names the extra that has it.
    """
    # An index has the sizes in the headers of further images, and of the images of other programs.
    for name, field in manifest.fields.items():
        if field.is_image and (decode or name != IMAGE or field.feature is not None):
            need_packages("decode", *codec_of(field).packages_for(field))


def need_packages(extra: str, *names: str) -> None:
    """Refuse to begin without packages that will be needed.

    Raises:
        UsageError: a package is not installed; the message names the extra that has it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"needs {name}: pip install 'image-shards[{extra}]'")
