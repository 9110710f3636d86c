"""The common part of sources of annotated images: files at the paths that annotations name, and fields of objects."""

from __future__ import annotations

from collections.abc import Iterator

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import SPLIT_NAMES
from beam_jobs.sources.files.interface import (
    DOWNLOADS,
    Entry,
    Problem,
    Reference,
    Source,
    SourceOptions,
    refuse_options,
)
from beam_jobs.sources.paths import Paths
from beam_jobs.terminal import counted
from shard_reader.format.fields import Field

__all__ = ["BBOX", "LABEL", "OF_PATHS", "Annotated", "SplitFolders", "object_fields", "objects_text", "splits_text"]

BBOX, LABEL = "objects/bbox", "objects/label"
"""The fields of all sources of objects: boxes, and the class of each."""
OF_PATHS = ("root", "box_frame", "no_urls", "below", *DOWNLOADS)
"""The options of paths."""


def object_fields() -> dict[str, Field]:
    """The types of the fields that all sources of objects have."""
    return {BBOX: Field(dtype="float32", shape=(None, 4)), LABEL: Field(dtype="int64", shape=(None,))}


def objects_text(images: int, objects: int, classes: int | None = None, empty: int = 0) -> str:
    """The numbers of a listing in words: `3 images with 5 objects in 2 classes, 1 image without objects`."""
    of_classes = "" if classes is None else " in 1 class" if classes == 1 else f" in {classes} classes"
    without = f", {counted(empty, 'image')} without objects" if empty else ""
    return f"{counted(images, 'image')} with {counted(objects, 'object')}{of_classes}{without}"


def splits_text(splits: tuple[str, ...] | None) -> str:
    """The splits of a listing in words; empty for none."""
    return f", in splits ({', '.join(splits)})" if splits else ""


class SplitFolders:
    """Splits by the first folders of paths, if all of them are named so: known after the last path."""

    def __init__(self) -> None:
        self._names: set[str] | None = set()  # None: not splits

    def add(self, path: str) -> None:
        """Take note of the path of an image."""
        top, slash, _ = path.partition("/")
        if self._names is not None and slash:
            self._names = self._names | {top.lower()} if top.lower() in SPLIT_NAMES else None

    @property
    def splits(self) -> tuple[str, ...] | None:
        """The names of the splits in lower case; None if there are none."""
        return tuple(name for name in SPLIT_NAMES if name in (self._names or ())) or None

    def of(self, path: str) -> str | Problem | None:
        """The split of an image."""
        top, slash, _ = path.partition("/")
        if self.splits and not slash:
            return Problem("no-split", "lies beside the split folders")
        return top.lower() if self.splits else None


class Annotated(Source):
    """A source whose entries have the path of an image as their place, or no place."""

    def __init__(self, options: SourceOptions, what: str, folder: str, taken: tuple[str, ...] = OF_PATHS) -> None:
        """Nothing is read yet.

        Args:
            options: the options of the source.
            what: INPUT in messages about options without a meaning.
            folder: the folder that paths are relative to where `--root` names none.
            taken: the options that the source has.

        Raises:
            UsageError: an option does not fit the source, or its root cannot be read.
        """
        super().__init__(options)
        refuse_options(options, what, taken=taken)
        self._paths = Paths(options.root or folder, options, "--root" if options.root else "INPUT")
        self._usable = 0
        self._first = ""  # problem

    def read(self, reference: Reference) -> bytes:
        """The bytes of a file."""
        return self._paths.read(str(reference.place), self.reading)

    def host(self, reference: Reference) -> str:
        """The web server of a file; empty for another place."""
        return self._paths.host(str(reference.place))

    def size(self, reference: Reference) -> int:
        """The number of bytes of a file that was listed, or is on a disk; otherwise -1."""
        return reference.size if reference.size >= 0 else self._paths.size(str(reference.place))

    def uri(self, entry: Entry | Reference) -> str:
        """The address of a file; for an entry without a file, its place in INPUT."""
        return f"{self.options.input}#{entry.id}" if entry.place is None else self._paths.uri(str(entry.place))

    def answers(self, reference: Reference) -> bool:
        """Whether the folder of images can be reached."""
        return self._paths.answers(str(reference.place))

    def _counted(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """The entries, with a count of those without a problem."""
        for entry in entries:
            self._usable += entry.problem is None
            if entry.problem is not None and not self._first:
                self._first = entry.problem.message
            yield entry

    def _check_root(self) -> None:
        if self.options.root is not None or self.options.below is not None:
            self._paths.check_root()

    def _check_usable(self) -> None:
        if not self._usable:
            raise self._refused(f"has no image that can be used{self._first and '; '}{self._first}")

    def _refused(self, message: str) -> UsageError:
        return UsageError(f"INPUT {self.options.input}: {message}")
