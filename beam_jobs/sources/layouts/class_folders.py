"""Classes and splits from the folders and the names of images."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.class_names import NamedClasses
from beam_jobs.sources.files.file_names import SPLIT_NAMES
from beam_jobs.sources.files.interface import Problem
from shard_reader.printable import printable

__all__ = ["PICTURES", "ClassFolders"]

PICTURES = frozenset({"images", "image", "imgs", "img", "jpegimages", "rgb", "leftimg8bit"})
"""The names of folders of images, in lower case."""

_TARGETS = frozenset({"masks", "mask", "labels", "label", "annotations", "gt", "depth", "gtfine", "gtcoarse"}) | {
    "segmentationclass",
    "segmentationobject",
}
_LIKE_SPLITS = re.compile(rf"({'|'.join(SPLIT_NAMES)})(\d+|[-_ ].*)?", re.IGNORECASE)
_NUMBERED = re.compile(r"([^\W\d_][^\d.]*?)[-._ ]?\d+\.\w+")  # cat.0.jpg
# Such names of which one may be a thing among so many classes: ImageNet has a class of masks, CIFAR-100 one of trains.
_THINGS, _MANY_CLASSES = frozenset({"mask", "train"}), 20
_MAX_WORDS = 1000  # words before numbers that are kept


class ClassFolders:
    """Classes and splits from the folders of images, known after the last path.

    Folders that contain everything, of which archives often have one, are skipped: classes are below them.
    """

    def __init__(self, nested: bool = False, pattern: str | None = None) -> None:
        """With `nested`, a class is a whole path of folders; otherwise it is the first folder, or found by `pattern`.

        Raises:
            UsageError: the pattern cannot be used.
        """
        if nested and pattern is not None:
            raise UsageError("--class-pattern: does not go with --nested-classes; leave one out")
        self._nested, self._named = nested, NamedClasses(pattern)
        # The common folders of all paths are known after the last one, and paths are not kept. So names are collected
        # at every depth that may turn out to be the first.
        self._common: list[str] | None = None
        self._levels = [_Level(nested)]
        self._images = 0
        self._folder: str | None = None  # of the last path
        self._words: set[str] | None = set()  # before the numbers in all names; None if some names are not so

    def add(self, path: str) -> None:
        """Take note of the path of an image."""
        folder, _, name = path.rpartition("/")
        self._images += 1
        if self._words is not None:
            self._add_words(name)
        self._named.add(path)
        if folder == self._folder:
            return  # the levels have it
        self._folder, folders = folder, folder.split("/") if folder else []
        if self._common is None:
            self._common = folders
            self._levels = [_Level(self._nested) for _ in range(len(folders) + 1)]
        elif folders[: len(self._common)] != self._common:
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(folders, self._common, strict=False)))
            del self._common[same:], self._levels[same + 1 :]
        for depth, level in enumerate(self._levels):
            level.add(folders[depth:])

    def _add_words(self, name: str) -> None:
        words, numbered = self._words or set(), _NUMBERED.fullmatch(name)
        self._words = words if numbered and len(words) < _MAX_WORDS else None
        if numbered:
            words.add(numbered[1])

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The sorted classes; None if there are no folders, or only splits, and no classes in names."""
        return self._named.names() if self._by_name else self._level.class_names

    @property
    def splits(self) -> tuple[str, ...] | None:
        """The names of splits in lower case; None if the first folders are not splits, and names have none."""
        return (self._named.splits() if self._by_name else None) or self._level.splits

    @functools.cached_property
    def unlabelled(self) -> frozenset[str]:
        """The splits in whose names no image has a class, where others have."""
        if not self._by_name:
            return frozenset()
        return frozenset(split for split in self.splits or () if not self._named.has_label(split))

    @functools.cached_property
    def _by_name(self) -> bool:
        """Whether classes are in the names of images."""
        if self._named.pattern is not None:
            return True
        return not self._level.class_names and self._named.recognised(self._level.splits or ())

    def _inside(self, path: str) -> list[str]:
        """The folders of a path, without those that contain everything."""
        return path.split("/")[self._depth : -1]

    def warnings(self, called: str) -> tuple[str, ...]:
        """What the folders may be instead of classes. `called` names INPUT in messages.

        Raises:
            UsageError: the folders are certainly not classes.
        """
        if self._by_name:
            self._named.check(called)
            return ()
        names = self.class_names or ()
        self._refuse(names, called)
        found = [self._flat(self._words or set())] if not names else [*self._roles(names), *self._few(names)]
        return tuple(f"{called}: {warning}" for warning in found if warning)

    def _refuse(self, names: tuple[str, ...], called: str) -> None:
        lower = {name.lower() for name in names}
        if lower & PICTURES and lower & _TARGETS and lower <= PICTURES | _TARGETS:
            raise UsageError(
                f"{called}: {_listed(names)} would be classes, and are images and what belongs to them: give the"
                " folder of the images alone, or a table with their paths; unpack an archive, and give the folder, in"
                " which masks are found"
            )
        if lower & set(SPLIT_NAMES) and all(map(_LIKE_SPLITS.fullmatch, lower)):
            raise UsageError(
                f"{called}: {_listed(names)} would be classes, and are named like splits: give one of these folders,"
                " or rename them so that each is a split (train, val, test) right below INPUT, with a folder for each"
                " class inside; or give a table with the path and the label of each image"
            )

    def _roles(self, names: tuple[str, ...]) -> Iterator[str]:
        like = [name for name in names if name.lower() in PICTURES | _TARGETS or _LIKE_SPLITS.fullmatch(name)]
        is_thing = len(names) >= _MANY_CLASSES and len(like) == 1 and like[0].lower() in _THINGS
        if like and not is_thing:
            yield (
                f"took {_listed(like)} for {'a class' if len(like) == 1 else 'classes'}, by the"
                f" {'name' if len(like) == 1 else 'names'} a split or a part of a dataset: if so, give the folder"
                " inside, or rename splits to train, val and test"
            )

    def _few(self, names: tuple[str, ...]) -> Iterator[str]:
        if len(names) == 1:
            yield (
                f"took {names[0]} for the only class, and so all labels are equal: for images without labels, give"
                " that folder; for classes from somewhere else, a table with the path and the label of each image"
            )
        if 2 < len(names) == self._images:
            yield (
                f"found {len(names):,} classes of one image each: if the folders are not classes, give a table with"
                " the path and the label of each image"
            )

    def _flat(self, words: set[str]) -> str:
        if not 2 <= len(words) <= self._images // 2:
            return ""
        return (
            f"has no class folders, but names that begin with {_listed(sorted(words)[:3])}: if these are classes, give"
            r" --class-pattern '(?P<label>\D+?)[-._ ]?\d+\.\w+'"
        )

    @property
    def text(self) -> str:
        """The folders in words."""
        inside = f" inside {'/'.join((self._common or [])[: self._depth])}" if self._depth else ""
        if not self._by_name:
            return self._level.text + inside
        names, splits = self._named.names(), self._level.splits
        what = f"images with {'1 class' if len(names) == 1 else f'{len(names)} classes'} in their names"
        if self._named.pattern is None:
            what += f", as {names[0]}.0.jpg"
        if self.unlabelled:
            what += f", none in {', '.join(sorted(self.unlabelled))}"
        split_folders = f"split folders ({', '.join(sorted(splits))}) of " if splits else ""
        return f"{split_folders}{what}{inside}"

    def label(self, path: str) -> tuple[str | None, str | None] | Problem:
        """The class and the split of an image, each None if there are none."""
        if not self._by_name:
            return self._level.label(self._inside(path))
        label, split = found if (found := self._named.find(path)) is not None else (None, None)
        if split is None:
            split = self._level.split(self._inside(path))
            if split is None and self._level.splits:
                return Problem("no-split", "lies beside the split folders")
        if found is None and split not in self.unlabelled:
            how = f"--class-pattern {self._named.pattern}" if self._named.pattern else "that of a class and a number"
            return Problem("no-class", f"its name does not match {how}")
        return label, split

    @functools.cached_property
    def _depth(self) -> int:
        """Number of folders to skip: folders that contain everything, have folders inside, and are not splits."""
        common = self._common or []
        depth = sum(1 for _ in takewhile(lambda name: name.lower() not in SPLIT_NAMES, common))
        level = self._levels[depth]
        return depth if level.class_names or level.splits else max(0, depth - 1)

    @functools.cached_property
    def _level(self) -> _Level:
        return self._levels[self._depth]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(printable, names))


class _Level:
    """Classes and splits, as paths of folders have them from some depth on."""

    def __init__(self, nested: bool) -> None:
        self._nested = nested
        self._tops: set[str] = set()  # the first folder of every path
        self._classes: set[str] = set()
        self._split_classes: set[str] = set()  # below folders that are named like splits

    def add(self, folders: list[str]) -> None:
        if not folders:
            return
        self._tops.add(folders[0])
        self._classes.add(self._class(folders))
        if folders[0].lower() in SPLIT_NAMES and folders[1:]:
            self._split_classes.add(self._class(folders[1:]))

    @functools.cached_property
    def class_names(self) -> tuple[str, ...] | None:
        return tuple(sorted(self._split_classes if self._has_splits else self._classes)) or None

    @property
    def splits(self) -> tuple[str, ...] | None:
        there = {name.lower() for name in self._tops}
        return tuple(name for name in SPLIT_NAMES if name in there) if self._has_splits else None

    @property
    def text(self) -> str:
        names = self.class_names
        text = "images without classes"
        if names:
            text = f"{len(names)} class folders" if len(names) > 1 else f"1 class folder, {names[0]}"
        if not names and not self._has_splits:
            text = "a flat folder without classes"
        among = sorted(name for name in self._tops if name.lower() in SPLIT_NAMES)
        if self._has_splits:
            return f"split folders ({', '.join(sorted(self._tops))}) of {text}"
        return f"{text}, {' and '.join(among)} among them" if among else text

    def split(self, folders: list[str]) -> str | None:
        return folders[0].lower() if self._has_splits and folders else None

    def label(self, folders: list[str]) -> tuple[str | None, str | None] | Problem:
        # The first folders are splits only if all of them are named so: "train" among classes may be a vehicle.
        split = self.split(folders)
        folders = folders[1:] if split else folders
        if self._has_splits and split is None:
            beside = "the split or class folders, in none of them" if self.class_names else "the split folders"
            return Problem("no-class" if self.class_names else "no-split", f"lies beside {beside}")
        if not self.class_names:
            return None, split
        if not folders:
            beside = "the split or class folders" if self._has_splits else "the class folders"
            return Problem("no-class", f"lies beside {beside}, in none of them")
        return self._class(folders), split

    def _class(self, folders: list[str]) -> str:
        return "/".join(folders) if self._nested else folders[0]

    @functools.cached_property
    def _has_splits(self) -> bool:
        return bool(self._tops) and {name.lower() for name in self._tops} <= set(SPLIT_NAMES)
