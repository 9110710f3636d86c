"""The images of a YOLO dataset, each with its label file: of folders, joined on disk, and of lists of paths."""

from __future__ import annotations

import hashlib
import itertools
import json
import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.sources.files.file_names import LeftOutFiles, file_problem, is_ignored
from beam_jobs.sources.files.interface import Problem
from beam_jobs.sources.paths import Paths, with_slashes
from shard_reader.storage.directory import Stored
from shard_reader.storage.open import is_url

__all__ = ["Part", "YoloFiles", "YoloImage", "label_place"]

_LONGEST_LINE = 1 << 14  # bytes of a path in a list
_SUFFIX = ".txt"  # of label files, and of lists of paths


class Part(NamedTuple):
    """The images of a split in one place: a folder, which ends with a slash ("" is the root), or a list of paths."""

    split: str | None
    place: str


class YoloImage(NamedTuple):
    """An image, and the place of its label file: "" if it has none. `where` is the line of its path in a list.

    A label file without an image has no `place`.
    """

    split: str | None
    place: str
    labels: str
    size: int = -1
    problem: Problem | None = None
    where: str = ""


def label_place(place: str, root: str = "") -> str:
    """The place of the label file of an image, or of those of a folder, which ends with a slash.

    It has "labels" in place of the last "images". Where the root is such a folder, labels are beside it.
    """
    stem = place if place.endswith("/") or not place else f"{posixpath.splitext(place)[0]}{_SUFFIX}"
    is_absolute = place.startswith("/") or is_url(place)
    head, images, tail = (stem if is_absolute else f"/{stem}").rpartition("/images/")
    if images:
        return f"{head}/labels/{tail}".removeprefix("" if is_absolute else "/")
    is_inside = not is_absolute and root.rstrip("/").endswith("/images")
    return f"../labels/{stem}" if is_inside else stem


class YoloFiles:
    """Finds the images of parts, and pairs them with their label files.

    Args:
        paths: the files.
        root: the root of these paths, in words.
        prefix: the folder of the dataset, relative to it.
        left_out: takes note of the files that are neither.
    """

    def __init__(self, paths: Paths, root: str, prefix: str, left_out: LeftOutFiles) -> None:
        self._paths, self._root, self._prefix, self._left_out = paths, root, prefix, left_out

    def exists(self, place: str) -> bool:
        """Whether there is a folder, whose place ends with a slash or is empty, or a list.

        Raises:
            BadInput: the place may not be read.
        """
        self._paths.allow(f"{place}-")
        if place.endswith("/") or not place:
            return self._paths.folder(place).exists()
        folder, slash, name = place.rpartition("/")
        return name in self._paths.folder(folder + slash).names()

    def images(self, parts: Iterable[Part]) -> Iterator[YoloImage]:
        """Every image of every part, and every label file of folders that has no image.

        Raises:
            UsageError: a list cannot be read.
        """
        parts = list(parts)
        for part in parts:
            if part.place.lower().endswith(_SUFFIX):
                yield from self._of_list(part)
        folders = [part for part in parts if not part.place.lower().endswith(_SUFFIX)]
        with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
            spill = Spill(Path(folder))
            for number, part in enumerate(folders):
                self._spill(spill, number, part)
            # The first 32 digits of a line are the hash of the label file without its suffix.
            for _, lines in itertools.groupby(spill.lines(), lambda line: line[:32]):
                yield from self._paired([json.loads(line[32:]) for line in lines], folders)

    def _spill(self, spill: Spill, number: int, part: Part) -> None:
        """Sort the files of a part by the hash of their label file, so that an image and its labels lie together."""
        for place, file in self._walk(part.place):
            is_label = place.lower().endswith(_SUFFIX)
            if is_ignored(file.name) and not is_label:
                self._left_out.add(file.name)
            else:
                self._add(spill, number, is_label, place, file)
        labels = label_place(part.place, self._root)
        if labels == part.place:
            return
        for place, file in self._walk(labels):
            if place.lower().endswith(_SUFFIX):
                self._add(spill, number, True, place, file)
            else:
                self._left_out.add(file.name, "lies among label files")

    def _walk(self, place: str) -> Iterator[tuple[str, Stored]]:
        folder = self._paths.folder(place)
        if folder.exists():
            yield from ((place + file.name, file) for file in folder.walk())

    def _add(self, spill: Spill, number: int, is_label: bool, place: str, file: Stored) -> None:
        labels = place if is_label else label_place(place, self._root)
        stem = f"{number} {posixpath.splitext(labels)[0]}"
        key = hashlib.blake2b(stem.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        problem = None if is_label else file_problem(file)
        line = json.dumps([number, is_label, place, file.size, problem, labels], separators=(",", ":"))
        spill.add_line(key, key.hex().encode() + line.encode())

    def _paired(self, found: list[Any], parts: list[Part]) -> Iterator[YoloImage]:
        labels = next((place for _, is_label, place, *_ in found if is_label), "")
        images = [one for one in found if not one[1]]
        for number, _, place, size, problem, _ in images:
            yield YoloImage(parts[number].split, place, labels, size, Problem(*problem) if problem else None)
        if not images:
            yield YoloImage(parts[found[0][0]].split, "", labels)

    def _of_list(self, part: Part) -> Iterator[YoloImage]:
        """The images of a list. A path that begins with "./" is relative to it, another one to the dataset."""
        folder, slash, name = part.place.rpartition("/")
        place = self._paths.folder(folder + slash)
        try:
            for number, line in enumerate(place.lines(name), 1):
                where = f"{name} line {number}"
                if len(line) > _LONGEST_LINE:
                    raise UsageError(
                        f"{place.uri(name)}: line {number}: has {len(line):,} bytes; is it a list of paths?"
                    )
                if not line.strip():
                    continue
                try:
                    path = with_slashes(line.decode("utf-8-sig").strip())
                except UnicodeDecodeError:
                    problem = Problem("bad-path", f"{where}: is not UTF-8")
                    yield YoloImage(part.split, "", "", problem=problem, where=where)
                    continue
                if path.startswith("./"):
                    path = folder + slash + path[2:]
                elif not path.startswith("/") and not is_url(path):
                    path = self._prefix + path
                yield YoloImage(part.split, path, label_place(path, self._root), where=where)
        except OSError as error:
            raise UsageError(f"{place.uri(name)}: {error.strerror or error}") from error
