"""Files of a dataset that `compact --in-place` has replaced, and that wait until no reader needs them.

`removals.json` in the dataset lists them:

```
{"format": "image-shards-removals", "version": 1, "waiting": [
 {"generation": 5, "after": 1767225600.0, "files": {"train-00000-of-00002.tfrecord": 123456}}]}
```

The files of an entry may go when the generation is there, all earlier ones are marked as removed, and the time `after`
(in seconds since 1970) has come. `files` has the size of each: a file of another size is left.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from beam_jobs.errors import JobError
from beam_jobs.metadata.papers import foreign_papers
from beam_jobs.shards.owned_files import METADATA, is_name_of_dataset
from beam_jobs.terminal import print_warning
from beam_jobs.tools.dataset_files import REMOVALS_NAME
from shard_reader.dataset.manifests import read_manifest
from shard_reader.errors import ShardsError
from shard_reader.format.manifest import (
    MANIFEST_NAME,
    PAPER_NAMES,
    Manifest,
    dali_name,
    generation_manifest,
    index_name,
)
from shard_reader.remote.client import StoreClient
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory

__all__ = ["Removed", "Waiting", "add_waiting", "read_waiting", "remove_due", "replaced_files"]

_FORMAT: Final = "image-shards-removals"
_MOST_BYTES: Final = 1 << 28
_FOLDER: Final = re.compile("g[0-9]{4,9}")
_OTHERS: Final = re.compile(r"withdrawn-\w+\.npy|dataset(\.g[0-9]{4,9})?\.json|pixels\.jsonl")
_LATEST: Final = 2.0e11  # seconds since 1970, before the year 9999
_RETRY_SECONDS: Final = 60.0
_TOGETHER: Final = 1000  # files that are deleted together


@dataclass(frozen=True, slots=True)
class Waiting:
    """The files that a generation has replaced, by their sizes, and the time from which they may go."""

    generation: int
    after: float
    files: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Removed:
    """The number of files that were removed, those left since they may be other files, and the entries that wait."""

    files: int
    left: tuple[str, ...]
    waiting: tuple[Waiting, ...]


def replaced_files(files: Directory, place: str, before: Manifest, folder: str) -> dict[str, int]:
    """The files of a dataset that no generation needs once one in a folder of its own is published.

    They are named by the manifests of all generations, never found by a pattern.

    Args:
        files: the directory of the dataset.
        place: its path or URL.
        before: the manifest of the newest generation that is to be replaced.
        folder: the folder of the new one, from which nothing goes.
    """
    named = set[str]()
    for manifest in (before, *_earlier(files, place, before)):
        named |= _named_by(manifest)
    named |= {generation_manifest(one.number) for one in before.history}
    for inner in sorted({one.folder for one in before.history if one.folder}):
        named |= {f"{inner}/{name}" for name in (MANIFEST_NAME, *METADATA)}
        named -= {f"{inner}/{name}" for name in foreign_papers(directory(f"{place}/{inner}"))}
    # The pages of the dataset itself are written again for the new generation.
    named |= set(METADATA) - set(PAPER_NAMES)
    named = {name for name in named if _may_go(name) and name != MANIFEST_NAME and not name.startswith(f"{folder}/")}
    return {file.name: file.size for file in files.walk() if file.name in named} | {
        generation_manifest(before.generation): -1  # it is written when the new one is published
    }


def add_waiting(files: Directory, manifest: Manifest, waiting: Waiting) -> None:
    """Write down files that are replaced by a generation, before it is published.

    Entries of generations that never came are forgotten: their time would count once this one is there.

    Args:
        files: the directory of the dataset, which this process holds.
        manifest: the manifest of its newest generation.
        waiting: the entry.
    """
    _write(files, [*(one for one in read_waiting(files) if _is_published(one, manifest)), waiting])


def read_waiting(files: Directory) -> list[Waiting]:
    """The entries of `removals.json`; none without the file.

    Raises:
        JobError: it is no such file.
    """
    try:
        data = files.read(REMOVALS_NAME, most=_MOST_BYTES)
    except FileNotFoundError:
        return []
    try:
        found = json.loads(data)
        if found["format"] != _FORMAT or found["version"] != 1:
            raise ValueError("another format")
        return [_entry(one) for one in found["waiting"]]
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise JobError(
            f"{files.uri(REMOVALS_NAME)}: is no list of files to remove ({error!r:.80}); restore it from a copy, or"
            " remove it and the files that `verify` names"
        ) from None


def remove_due(files: Directory, manifest: Manifest, now: float) -> Removed:
    """Remove the files whose time has come, and forget entries of generations that never came.

    Args:
        files: the directory of the dataset, which this process holds.
        manifest: the manifest of its newest generation, of which nothing goes.
        now: the time, in seconds since 1970.
    """
    found = read_waiting(files)
    if not found:
        return Removed(0, (), ())
    valid = [one for one in found if _is_published(one, manifest)]
    due = [one for one in valid if one.after <= now]
    needed = _named_by(manifest) | {MANIFEST_NAME, REMOVALS_NAME, *PAPER_NAMES}
    wanted = {name: size for one in due for name, size in one.files.items() if name not in needed}
    sizes = {file.name: file.size for file in files.walk() if file.name in wanted} if wanted else {}
    linked = _linked(files, sizes)
    gone = [name for name, size in sizes.items() if wanted[name] in (size, -1) and name not in linked]
    for start in range(0, len(gone), _TOGETHER):
        files.delete_all(gone[start : start + _TOGETHER])
    _remove_empty(files, {name.partition("/")[0] for name in wanted if "/" in name})
    waiting = [one for one in valid if one not in due]
    _write(files, waiting)
    return Removed(len(gone), tuple(sorted(sizes.keys() - set(gone))), tuple(waiting))


def _earlier(files: Directory, place: str, newest: Manifest) -> Iterator[Manifest]:
    """The manifests of earlier generations whose files are still there."""
    store = None if files.local is not None else StoreClient(place, _RETRY_SECONDS)
    for one in newest.history[:-1]:
        if not one.is_removed:
            try:
                yield read_manifest(place, files.local, store, one.number)
            except ShardsError as error:
                print_warning(f"warning: {error}; files that it alone names stay")


def _named_by(manifest: Manifest) -> set[str]:
    """The names of the files of a generation in its dataset, without those of other directories."""
    shards = [file for shard in manifest.shards() for file in shard.files.values()]
    names = {name for file in shards for name in (file.path, index_name(file.path), file.index, dali_name(file.path))}
    return {name for name in (*names, *manifest.files) if not name.startswith("../")}


def _may_go(name: str) -> bool:
    """Whether a file of a dataset may have that name: a manifest is data from elsewhere, and may name any file."""
    folder, _, last = name.rpartition("/")
    if folder and not _FOLDER.fullmatch(folder):
        return False
    return is_name_of_dataset(last) or _OTHERS.fullmatch(last) is not None


def _is_published(waiting: Waiting, manifest: Manifest) -> bool:
    earlier = [one for one in manifest.history if one.number < waiting.generation]
    return manifest.generation >= waiting.generation and bool(earlier) and all(one.is_removed for one in earlier)


def _entry(value: Any) -> Waiting:
    files = {str(name): int(size) for name, size in value["files"].items()}
    wrong = next((name for name in files if not _may_go(name)), None)
    if wrong is not None:
        raise ValueError(f"no file of a dataset: {wrong!r}")
    after = float(value["after"])
    if not abs(after) <= _LATEST:
        raise ValueError(f"no time: {after}")
    return Waiting(int(value["generation"]), after, files)


def _write(files: Directory, waiting: Sequence[Waiting]) -> None:
    if not waiting:
        files.delete(REMOVALS_NAME)
        return
    body = {"format": _FORMAT, "version": 1, "waiting": [asdict(one) for one in waiting]}
    files.write(REMOVALS_NAME, [json.dumps(body, indent=1).encode() + b"\n"])


def _linked(files: Directory, names: Iterable[str]) -> set[str]:
    """Names of files in folders that are links: these may be of another dataset."""
    if files.local is None:
        return set()
    folders = {name: name.rpartition("/")[0] for name in names}
    links = {folder for folder in set(folders.values()) if folder and (files.local / folder).is_symlink()}
    return {name for name, folder in folders.items() if folder in links}


def _remove_empty(files: Directory, folders: Iterable[str]) -> None:
    """Remove the folders in which nothing is left. A store has no folders."""
    if files.local is not None:
        for name in folders:
            with contextlib.suppress(OSError):  # a file of its user is in it
                (files.local / name).rmdir()
