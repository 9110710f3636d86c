"""A finished dataset that gets its next generation: held by a lock, and published by its manifest.

```
OUT/dataset.json          the manifest of the newest generation, which names all earlier ones by their checksums
OUT/dataset.g0001.json    the manifest of an earlier generation, as it was
OUT/g0002/                files that a generation has added
```

The manifest of a generation is complete: a reader needs no other one. Files of earlier generations are never written
again. The name of a folder is that of the generation for which it was begun, or of a later one, if another command was
finished before.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from beam_jobs.errors import JobError, LostJobError, UsageError
from beam_jobs.metadata.card import Card
from beam_jobs.metadata.papers import card_of, write_papers
from beam_jobs.shards.lock import Lock, locked
from beam_jobs.shards.owned_files import is_name_of_dataset
from beam_jobs.tools.dataset_files import REMOVALS_NAME, manifest_at
from shard_reader.errors import ManifestError
from shard_reader.format.manifest import (
    LOCK_NAME,
    MANIFEST_NAME,
    PAPER_NAMES,
    Fingerprint,
    Generation,
    Manifest,
    canonical_json,
    checksum_of,
    generation_folder,
    generation_manifest,
)
from shard_reader.storage.directory import Directory
from shard_reader.storage.local import sync

__all__ = ["Growth", "changed_fingerprint", "grown", "is_left", "put_manifest"]

_FOLDER = re.compile("g[0-9]{4,9}")
# The names of temporary files of `write_whole`, for the files that a generation writes beside its folder.
_WRITTEN = "|".join(map(re.escape, (MANIFEST_NAME, REMOVALS_NAME, *PAPER_NAMES)))
_TEMPORARY = re.compile(rf"\.({_WRITTEN}|dataset\.g[0-9]{{4,9}}\.json)\.[0-9a-f]{{32}}")
# The names of other files that a command which was killed leaves in its folder, and of folders for what it sorts.
_LEFT = re.compile(r".+\.index\.npy|\..+\.[0-9a-f]{32}|tmp\w+")
_UNFINISHED = (LOCK_NAME, "_work", MANIFEST_NAME)  # names in the folder of a generation that a command may go on with


@dataclass(frozen=True, slots=True)
class Growth:
    """A dataset that this process holds, to add a generation to it.

    Attributes:
        place: its path or URL.
        files: its directory.
        lock: the lock.
        manifest: the manifest of the newest generation.
        text: the bytes of that manifest's file.
        tag: the tag of that file, where the store has tags.
    """

    place: str
    files: Directory
    lock: Lock
    manifest: Manifest
    text: bytes
    tag: str | None = field(default=None, repr=False)

    @property
    def number(self) -> int:
        """The number of the next generation."""
        return self.manifest.generation + 1

    def unfinished(self) -> list[str]:
        """The folders of commands that were not published, and that a command may go on with."""
        folders = self._unpublished()
        return [name for name in folders if not set(_UNFINISHED).isdisjoint(self.files.names(name))]

    def new_folder(self) -> str:
        """The name of a folder for the next generation, which does not exist.

        The folder of a command that was killed, and that no command goes on with, is removed. One with any other file
        is its user's.
        """
        unfinished = self.unfinished()
        for name in self._unpublished():
            if name not in unfinished and all(is_left(f"{name}/{one}") for one in self.files.names(name)):
                self.files.delete_folder(name)
        known = [*unfinished, *(one.folder for one in self.manifest.history if one.folder)]
        first, there = max([self.number, *(int(name[1:]) + 1 for name in known)]), set(self.files.names())
        # Its user may have a file or a folder of such a name.
        folder = next(name for name in map(generation_folder, count(first)) if name not in there)
        if self.files.local is not None:
            (self.files.local / folder).mkdir()
        return folder

    def publish(
        self, manifest: Manifest, made: str, folder: str, card: Card | None = None, *, removes: bool = False
    ) -> Manifest:
        """Make a manifest the next generation. Its files have to be there. Can be called again after an interruption.

        Args:
            manifest: the manifest, whose `generations` are set here.
            made: the command, one of `GENERATION_KINDS`.
            folder: the folder with the new files.
            card: the facts that the dataset's author gives; by default those that were given before.
            removes: whether the files of all earlier generations are to be removed.

        Returns:
            The manifest as it was written.

        Raises:
            LostJobError: another job has taken the lock, or has written a generation.
            JobError: no reader would read the manifest.
        """
        checksum = checksum_of(self.text.decode())
        earlier = (*self.manifest.history[:-1], replace(self.manifest.history[-1], checksum=checksum))
        earlier = tuple(replace(one, is_removed=one.is_removed or removes) for one in earlier)
        own = Generation(
            number=self.number,
            made=made,
            records=manifest.records,
            fingerprint=manifest.fingerprint,
            folder=folder,
        )
        manifest = replace(manifest, generations=(*earlier, own))
        text = manifest.to_json().encode()
        self._check_readable(text)
        self.lock.renew()
        self.files.write(generation_manifest(self.manifest.generation), [self.text])
        write_papers(self.files, manifest, text, card or card_of(self.files, self.manifest))
        if self.files.local is not None:
            sync(self.files.local)
        self.lock.renew()
        put_manifest(self.files, text, self.text, self.tag)
        return manifest

    def _unpublished(self) -> list[str]:
        """Folders of generations that were not published, in order."""
        known = {one.folder for one in self.manifest.history}
        found = {name for name in self.files.names() if _FOLDER.fullmatch(name)} - known
        if (local := self.files.local) is not None:
            found = {name for name in found if (local / name).is_dir() and not (local / name).is_symlink()}
        return sorted(found, key=lambda name: int(name[1:]))

    def _check_readable(self, text: bytes) -> None:
        """Refuse to publish a manifest that no reader would read, such as one too large."""
        try:
            Manifest.from_json(text.decode())
        except ManifestError as error:
            raise JobError(f"{self.place}: the manifest of its next generation could not be read: {error}") from error


def put_manifest(files: Directory, text: bytes, replaced: bytes | None = None, tag: str | None = None) -> None:
    """Write `dataset.json` in place of the one that was read, unless another job has written one meanwhile.

    Args:
        files: the directory of the dataset.
        text: the bytes of the file.
        replaced: the bytes of the file that was read; None where there was no file.
        tag: the tag of that file, where the store has tags.

    Raises:
        LostJobError: another job has written the file.
    """
    lost = LostJobError(f"{files.uri(MANIFEST_NAME)}: was written by another job or program; run the command again")
    if files.local is not None:
        if replaced is not None and files.read(MANIFEST_NAME) != replaced:
            raise lost
        files.write(MANIFEST_NAME, [text])
        sync(files.local)
        return
    if replaced is not None and tag is None:  # a store without tags, where the lock alone keeps others off
        files.write(MANIFEST_NAME, [text])
        return
    try:
        is_written = files.put_if(MANIFEST_NAME, text, tag) is not None
    except NotImplementedError:  # or without conditions
        files.write(MANIFEST_NAME, [text])
        return
    # The answer of a write may be lost, and its second try is then refused.
    if not is_written and files.read(MANIFEST_NAME) != text:
        raise lost


def is_left(name: str) -> bool:
    """Whether a command that was killed may have left a file of that name."""
    return is_name_of_dataset(name) or _LEFT.fullmatch(name.rpartition("/")[2]) is not None


@contextlib.contextmanager
def grown(place: str) -> Iterator[Growth]:
    """Hold a finished dataset, to add a generation to it.

    Raises:
        UsageError: there is no such dataset, other programs wrote its shards, or another job holds it.
        JobError: the manifest is damaged.
    """
    files, manifest = manifest_at(place)
    if manifest.fields["image"].feature is not None:
        raise UsageError(f"{place}: holds TFRecords that others wrote, indexed where they are; prepare them first")
    with locked(place, files) as lock:
        # Again, under the lock: another job may have ended in between. The tag first, so that it is never too new.
        tag = None if files.local is not None else files.tag(MANIFEST_NAME)
        files, manifest = manifest_at(place)
        # Of a command that was killed. The lock says that nobody writes them.
        files.delete_all([name for name in files.names() if _TEMPORARY.fullmatch(name)])
        try:
            yield Growth(place, files, lock, manifest, files.read(MANIFEST_NAME), tag)
        finally:
            with contextlib.suppress(LostJobError):
                lock.check()
                lock.remove()


def changed_fingerprint(before: Fingerprint, made: str, what: Any, codecs: Any = None) -> Fingerprint:
    """The fingerprint of a generation: that of the one before, changed by a command.

    Args:
        before: the fingerprint of the generation before.
        made: the command.
        what: values of JSON that decide the change, such as the ids of withdrawn records.
        codecs: the versions of the codecs, if shards were written; by default those of before.
    """
    text = canonical_json([before.inputs, made, what])
    inputs = hashlib.sha256(text.encode()).hexdigest()
    return Fingerprint(inputs=inputs, options=before.options, codecs=before.codecs if codecs is None else codecs)
