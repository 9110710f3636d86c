"""The earlier generations of a dataset: their manifests, the files that they alone name, and those that wait to go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from beam_jobs.tools.dataset_files import REMOVALS_NAME, data_files, known_files
from shard_reader.dataset.manifests import read_manifest
from shard_reader.errors import ShardsError
from shard_reader.format.manifest import Manifest
from shard_reader.remote.client import StoreClient
from shard_reader.storage.directory import Directory

__all__ = ["History"]

_MOST_BYTES = 1 << 28  # of the list of files that wait
_RETRY_SECONDS = 60.0


@dataclass(slots=True)
class History:
    """The files of all generations of a dataset.

    Attributes:
        files: the names of those that a generation knows.
        own: for each file that an earlier generation alone names, its SHA-256.
        waiting: the names of those that `compact --in-place` has replaced.
        problems: a line for each manifest that is missing, or is not the one that its successors name.
    """

    files: set[str]
    own: dict[str, str] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, place: str, files: Directory, newest: Manifest) -> History:
        """Read the manifests of the generations that are not removed, one at a time."""
        found = cls(known_files(newest), waiting=_waiting(files))
        named = {name for name, _ in _checksums(newest)}
        store = None if files.local is not None else StoreClient(place, _RETRY_SECONDS)
        for one in newest.history[:-1]:
            if one.is_removed:
                continue
            try:
                earlier = read_manifest(place, files.local, store, one.number)
            except ShardsError as error:
                found.problems.append(f"{error}; restore it from a copy, or read generation {one.number} no more")
                continue
            own = ((name, sha256) for name, sha256 in _checksums(earlier) if not name.startswith("../"))
            found.own |= {name: sha256 for name, sha256 in own if name not in named}
            found.files |= known_files(earlier)
        return found

    def unknown(self, files: Directory) -> list[str]:
        """The names in the dataset's directory, and in the folders of its generations, that no generation knows."""
        folders = {name.partition("/")[0] for name in self.files | self.waiting if "/" in name} - {".."}
        names = [name for name in files.names() if name not in folders]
        names += [f"{folder}/{name}" for folder in sorted(folders) for name in files.names(folder)]
        return sorted(name for name in names if name not in self.files and name not in self.waiting)

    def still_waiting(self, files: Directory) -> int:
        """The number of replaced files that are still there."""
        folders = {name.rpartition("/")[0] for name in self.waiting}
        return sum(len(self.waiting & _names_in(files, folder)) for folder in folders)


def _checksums(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The files of a generation beside its shards, with their SHA-256."""
    yield from manifest.files.items()
    for file in data_files(manifest):
        yield file.index, file.index_sha256


def _names_in(files: Directory, folder: str) -> set[str]:
    return {f"{folder}/{name}" if folder else name for name in files.names(folder)}


def _waiting(files: Directory) -> set[str]:
    """The files in the list of those that wait. `compact` refuses a list that it has not written."""
    try:
        found = json.loads(files.read(REMOVALS_NAME, most=_MOST_BYTES))
        return {str(name) for one in found["waiting"] for name in one["files"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()
