"""Masks and depth maps beside images, recognised by the names of folders and files.

```
INPUT/images/1.jpg, INPUT/masks/1.png, INPUT/depth/1.png      folders beside a folder of images
INPUT/train/images/1.jpg, INPUT/train/masks/1.png             in each split folder
INPUT/images/train/1.jpg, INPUT/masks/train/1_mask.png        or split folders in each
INPUT/images/1.jpg, INPUT/annotations/trimaps/1.png           or among annotations of other kinds
INPUT/1.jpg, INPUT/1_mask.png, INPUT/1_depth.png              or files beside an image
```

An image and its mask have one path, without the folder, the suffix, and the word at the end of the name. Folders that
often have annotations of another kind, as `labels` and `annotations`, are of masks if their first file is a PNG.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import posixpath
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.sources.files.file_names import SPLIT_NAMES, file_problem, is_ignored
from beam_jobs.sources.files.interface import Entry, Problem
from beam_jobs.sources.layouts.class_folders import PICTURES
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory, Stored

__all__ = ["MasksBeside", "masks_beside"]

_FOLDERS: Mapping[str, str] = {
    **dict.fromkeys(("masks", "mask", "segmentation", "segmentations", "segmentationclass"), "mask"),
    **dict.fromkeys(("instances", "segmentationobject"), "instances"),
    **dict.fromkeys(("depth", "depths", "depth_maps"), "depth"),
}
_MAYBE = frozenset({"labels", "label", "labels_png", "annotations", "annotation", "gt"})  # fields of masks, if PNG
_INNER = frozenset({"trimaps", "masks"})  # folders of masks in those, as in the pets of Oxford
_ROLES = {"mask": "mask", "instances": "mask", "depth": "depth"}
_WORDS = {"_mask": "mask", "_depth": "depth"}  # at the end of a name without its suffix
_DEEPEST = 3  # folders that contain everything


@dataclass(frozen=True, slots=True)
class MasksBeside:
    """The folders of images, and those of masks and depth maps; or files of both in the same folders.

    Attributes:
        below: the folder that contains everything, "" or ending with a slash.
        pictures: the names of folders of images; none if masks lie beside their images.
        fields: the field of each other folder.
    """

    below: str = ""
    pictures: frozenset[str] = frozenset()
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def roles(self) -> dict[str, str]:
        """The role of each field that a file may have."""
        return {name: _ROLES[name] for name in (self.fields or _WORDS).values()}

    @property
    def text(self) -> str:
        """The places of masks in words."""
        if not self.fields:
            return "masks and depth maps in files beside them, as 1_mask.png"
        names: dict[str, list[str]] = {}
        for folder, name in sorted(self.fields.items()):
            names.setdefault(name, []).append(folder)
        return ", ".join(f"{name} in {' and '.join(folders)}" for name, folders in names.items())

    def inside(self, path: str) -> str:
        """The path of an image without its folder of images: train/images/cat/1.jpg is train/cat/1.jpg."""
        return self._parted(path)[1] if self.pictures else path

    def entries(self, files: Iterable[Stored]) -> Iterator[Entry | str]:
        """An entry for each image, with its masks; one with a problem for each mask without an image.

        Files that are neither come as their names. Files are joined on disk.
        """
        with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
            spill = Spill(Path(folder))
            for file in files:
                if is_ignored(file.name) or (self.pictures and self._parted(file.name)[0] is None):
                    yield file.name
                    continue
                stem = _without_word(self._stem(file.name)).encode("utf-8", "surrogateescape")
                key = hashlib.blake2b(stem, digest_size=16).digest()
                spill.add_line(
                    key, key.hex().encode() + json.dumps([file.name, file.size, file_problem(file)]).encode()
                )
            # The first 32 digits of a line are the hash of the path without folder, word and suffix.
            for _, lines in itertools.groupby(spill.lines(), lambda line: line[:32]):
                found = [json.loads(line[32:]) for line in lines]
                yield from self._joined([_File(name, size, Problem(*p) if p else None) for name, size, p in found])

    def _parted(self, path: str) -> tuple[str | None, str]:
        """The folder of images or masks that a path is in, None without one, and the path without it."""
        parts = path.removeprefix(self.below).split("/") if path.startswith(self.below) else [path]
        place = 1 if parts[0].lower() in SPLIT_NAMES and len(parts) > 2 else 0
        for end in (place + 2, place + 1):
            name = "/".join(parts[place:end])
            if len(parts) > end and (name in self.pictures or name in self.fields):
                return name, "/".join([*parts[:place], *parts[end:]])
        return None, path

    def _stem(self, path: str) -> str:
        """The path that an image shares with its masks, but for the word at their ends."""
        return posixpath.splitext(self.inside(path))[0]

    def _field(self, path: str) -> str | None:
        """The field that a file belongs to; None for an image."""
        if not self.pictures:
            return next((field for word, field in _WORDS.items() if self._stem(path).endswith(word)), None)
        folder = self._parted(path)[0]
        return self.fields.get(folder or "")

    def _joined(self, found: list[_File]) -> Iterator[Entry]:
        """The entries of the files of one key."""
        images: dict[str, list[_File]] = {}
        of_stem: dict[str, list[tuple[str, _File]]] = {}
        alone: list[tuple[str, _File]] = []
        for file in found:
            if self._field(file.name) is None:
                images.setdefault(self._stem(file.name), []).append(file)
        for file in found:
            name, stem = self._field(file.name), self._stem(file.name)
            if name is not None:
                # The mask of a_mask.jpg may be a_mask.png, and is then not that of a.jpg.
                own = stem if stem in images else _without_word(stem)
                (of_stem.setdefault(own, []) if own in images else alone).append((name, file))
        for stem, files in images.items():
            for file in files:
                yield _filled(file, of_stem.get(stem, []))
        for name, file in alone:
            problem = file.problem or Problem("unknown-image", f"is the {name} of an image that is not there")
            yield Entry(file.name, file.size, problem=problem)


class _File(NamedTuple):
    name: str
    size: int
    problem: Problem | None


def _filled(image: _File, others: list[tuple[str, _File]]) -> Entry:
    """The entry of an image with its masks. Of a mask that is no file, the image has none."""
    entry = Entry(image.name, image.size, problem=image.problem)
    payloads: dict[str, list[object]] = {}
    for name, file in others:
        if name in payloads and entry.problem is None:
            named = " and ".join(sorted((printable(str(payloads[name][0])), printable(file.name))))
            return entry._replace(problem=Problem("several-masks", f"has two files for {name}: {named}; keep one"))
        if file.problem is not None:
            return entry._replace(problem=Problem(file.problem.reason, f"its {name} {file.problem.message}"))
        payloads[name] = [file.name, file.size]
    return entry._replace(payloads=payloads)


def masks_beside(place: Directory, called: str) -> MasksBeside | None:
    """The layout of a folder with masks or depth maps beside its images; None for another folder.

    Only the first folders are looked at. `called` names the folder in messages.

    Raises:
        UsageError: two folders would be the same field.
    """
    below, holds_all = "", True
    for _ in range(_DEEPEST):
        names = [name for name in place.names(below) if not is_ignored(name)]
        if holds_all:
            found = _folders(place, below, names, called) or _in_splits(place, below, names, called)
            if found is not None:
                return found
        if _are_beside(names):
            return MasksBeside()
        # Of folders of classes or splits, the first one tells.
        first = min((name for name in names if "." not in name), default=None)
        if first is None:
            break
        holds_all = holds_all and len(names) == 1
        below = f"{below}{first}/"
    return None


def _in_splits(place: Directory, below: str, names: list[str], called: str) -> MasksBeside | None:
    """The folders in folders of splits, if there is nothing else."""
    if not all(name.lower() in SPLIT_NAMES for name in names):
        return None
    found = [_folders(place, f"{below}{name}/", place.names(f"{below}{name}"), called) for name in sorted(names)]
    those = [one for one in found if one is not None]
    pictures = frozenset[str]().union(*(one.pictures for one in those))
    fields = {name: field for one in those for name, field in one.fields.items()}
    return MasksBeside(below, pictures, fields) if those else None


def _folders(place: Directory, below: str, names: list[str], called: str) -> MasksBeside | None:
    """The folders of images and of masks among the names in a folder."""
    pictures = frozenset(name for name in names if name.lower() in PICTURES)
    if not pictures:
        return None
    fields = {name: _FOLDERS[name.lower()] for name in sorted(names) if name.lower() in _FOLDERS}
    maybe = [name for name in sorted(names) if name.lower() in _MAYBE]
    if "mask" not in fields.values():
        maybe = [inner for name in maybe for inner in _inner(place, below, name)]
        fields |= {name: "mask" for name in maybe if _first_file(place, f"{below}{name}").endswith(".png")}
    for name in set(fields.values()):
        several = [folder for folder, field in fields.items() if field == name]
        if len(several) > 1:
            raise UsageError(
                f"{called}: {' and '.join(map(printable, several))} would both be {name}; move one of them away, or"
                " give a table with the paths of images and masks (--mask-column)"
            )
    return MasksBeside(below, pictures, fields) if fields else None


def _inner(place: Directory, below: str, name: str) -> list[str]:
    """The folders of masks in a folder of annotations of several kinds; the folder itself, if there are none."""
    found = [inner for inner in sorted(place.names(f"{below}{name}")) if inner.lower() in _INNER]
    return [f"{name}/{inner}" for inner in found] or [name]


def _first_file(place: Directory, folder: str) -> str:
    """The first name in a folder, or in its first folder; "" for an empty one."""
    first = ""
    for _ in range(2):
        first = min((name for name in place.names(folder) if not name.startswith(".")), default="")
        if "." in first or not first:
            break
        folder = f"{folder}/{first}"
    return first.lower()


def _are_beside(names: list[str]) -> bool:
    """Whether files have masks beside them: most images do, and most files that are named so have their image."""
    stems = {posixpath.splitext(name)[0] for name in names if "." in name}
    with_word = {stem for stem in stems if stem.endswith(tuple(_WORDS))}
    images = stems - with_word
    paired = {_without_word(stem) for stem in with_word} & images
    return bool(paired) and 2 * len(paired) >= max(len(images), len({_without_word(stem) for stem in with_word}))


def _without_word(stem: str) -> str:
    return next((stem.removesuffix(word) for word in _WORDS if stem.endswith(word)), stem)
