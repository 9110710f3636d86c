"""A folder of images: class folders, split folders that hold class folders, or flat.

```
INPUT/cat/1.jpg          class folders: the label is the first folder, sorted by name
INPUT/train/cat/1.jpg    split folders, recognised by their names
INPUT/1.jpg              flat: no labels
```

An id is the file's path relative to INPUT, with forward slashes.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Iterator

from beam_jobs.errors import UsageError
from beam_jobs.sources import Entry, Layout, Problem, Reference, printable
from shard_reader.storage import Stored, directory

__all__ = ["Folder"]

SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")
MAX_BYTES = 1 << 29  # a file is read whole
# What lies beside images and is none: annotations, readmes, and what file managers leave.
IGNORED_SUFFIXES = frozenset(
    {".cff", ".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".mat", ".md", ".parquet", ".tsv", ".txt", ".xml"}
    | {".yaml", ".yml"}
)


class Folder:
    """The images below a folder, on a disk or in an object store."""

    def __init__(self, place: str) -> None:
        """`place` is a local path or a URL.

        Raises:
            UsageError: nothing here can read it.
        """
        self._place = place
        try:
            self._directory = directory(place)
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(f"INPUT {place}: {error}") from error
        self._tops: set[str] = set()  # the first folder of every usable file, and the second
        self._seconds: set[str] = set()
        self._usable = self._unusable = self._ignored = 0
        self._first: str | None = None

    def entries(self) -> Iterator[Entry]:
        """Everything below the folder that is not ignored.

        Raises:
            UsageError: it is missing, or no folder.
        """
        self._check()
        for file in self._directory.walk():
            if _is_ignored(file.name):
                self._ignored += 1
                continue
            problem = _problem(file)
            if problem is None:
                self._usable += 1
                folders = file.name.split("/", 2)[:-1]
                if folders:
                    self._tops.add(folders[0])
                    if folders[0] in SPLIT_FOLDERS:  # otherwise there may be any number of them
                        self._seconds.update(folders[1:])
            else:
                self._unusable += 1
                self._first = min(self._first or f"{chr(0x10FFFF)}", f"{printable(file.name)}: {problem.message}")
            yield Entry(file.name, file.size, problem)

    def layout(self) -> Layout:
        """What the folders mean.

        Raises:
            UsageError: there is no image, or a class has an impossible name.
        """
        if not self._usable:
            why = f"; {self._first}" if self._first else ""
            raise UsageError(
                f"INPUT {self._place}: holds no images ({self._ignored + self._unusable} other files{why})"
            )
        names = self._class_names
        for name in names or ():
            if len(name.splitlines()) != 1:
                raise UsageError(
                    f"INPUT {self._place}: the class folder {name!r} has a line break in its name; rename it"
                )
        text = f"{len(names)} class folders" if names else "images without classes"
        if not names and not self._has_splits:
            text = "a flat folder without classes"
        among = sorted(self._tops & set(SPLIT_FOLDERS))
        if self._has_splits:
            text = f"split folders ({', '.join(sorted(self._tops))}) of {text}"
        elif among:
            text += f", {' and '.join(among)} among them"
        return Layout(
            text=text,
            ignored=self._ignored,
            class_names=names,
            splits=tuple(name for name in SPLIT_FOLDERS if name in self._tops) if self._has_splits else None,
        )

    def resolve(self, entry: Entry) -> tuple[Reference, str | None] | Problem:
        """The reference that a file is, and its split."""
        if entry.problem is not None:
            return entry.problem
        folders = entry.id.split("/", 2)[:-1]
        split = folders.pop(0) if self._has_splits and folders else None
        if self._has_splits and split is None:
            beside = "the split or class folders, in none of them" if self._labels else "the split folders"
            return Problem("no-class" if self._labels else "no-split", f"lies beside {beside}")
        if not self._labels:
            return Reference(entry.id, entry.size), split
        if not folders:
            beside = "the split or class folders" if self._has_splits else "the class folders"
            return Problem("no-class", f"lies beside {beside}, in none of them")
        return Reference(entry.id, entry.size, self._labels[folders[0]]), split

    def uri(self, id: str) -> str:
        """Where a file is."""
        return self._directory.uri(id)

    def read(self, id: str) -> bytes:
        """The bytes of a file."""
        return self._directory.read(id)

    def answers(self, id: str) -> bool:
        """Whether INPUT is there, as seen from where a file is missing."""
        return self._directory.answers(id)

    def _check(self) -> None:
        if self._directory.exists():
            return
        local = self._directory.local
        if local is not None and local.exists():
            raise UsageError(f"INPUT {self._place}: is a file; give the folder that holds the images")
        raise UsageError(f"INPUT {self._place}: does not exist")

    @functools.cached_property
    def _has_splits(self) -> bool:
        return bool(self._tops) and self._tops <= set(SPLIT_FOLDERS)

    @functools.cached_property
    def _class_names(self) -> tuple[str, ...] | None:
        return tuple(sorted(self._seconds if self._has_splits else self._tops)) or None

    @functools.cached_property
    def _labels(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._class_names or ())}


def _is_ignored(id: str) -> bool:
    hidden = id.startswith(".") or "/." in id
    return hidden or posixpath.splitext(id)[1].lower() in IGNORED_SUFFIXES


def _problem(file: Stored) -> Problem | None:
    """What is wrong where a file cannot be an input."""
    if file.size > MAX_BYTES:
        return Problem("too-large", f"has {file.size} bytes, more than {MAX_BYTES}")
    if not file.regular:
        return Problem("not-a-file", "is a link to nowhere, a pipe or a device")
    try:
        file.name.encode()
    except UnicodeEncodeError:
        return Problem("file-name", "the name is not UTF-8")
    return None
