"""YOLO: images, and beside them a text file with the objects of each.

```
INPUT = data.yaml, or its folder
  path: .                    the folder of the dataset, by default that of the file
  train: images/train        a folder, a list of paths (.txt), or several; also val and test
  names: {0: cat, 1: dog}
images/train/1.jpg
labels/train/1.txt           the same path with "labels" for the last "images"; `rows.py` has its lines
```

An image without a label file, or with an empty one, has no objects. Without a `data.yaml`, INPUT is a folder with
`images` and `labels` in it, with splits by their names, and perhaps a `classes.txt`. An id is the path of the image
below the folder of the dataset. Source: docs.ultralytics.com/datasets/detect.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.parallel import in_order, readers_of
from beam_jobs.sources.detection.annotated import (
    OF_PATHS,
    Annotated,
    SplitFolders,
    object_fields,
    objects_text,
    splits_text,
)
from beam_jobs.sources.detection.parts.yolo_yaml import DataYaml, is_data_yaml, read_data_yaml
from beam_jobs.sources.detection.rows import BOX_FORM, Rows, parse_number
from beam_jobs.sources.detection.yolo_files import Part, YoloFiles, YoloImage
from beam_jobs.sources.files.annotations.outlines import ListedOutlines
from beam_jobs.sources.files.file_names import LeftOutFiles, is_yolo, split_place
from beam_jobs.sources.files.interface import BadInput, Entry, Layout, LeftOut, Problem, Reading, SourceOptions
from beam_jobs.sources.paths import UNREACHED
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory, is_url

__all__ = ["Yolo", "has_labels", "yaml_in"]

_USUAL = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_CLASS_FILES = ("classes.txt", "labels/classes.txt")
_YAML = (".yaml", ".yml")
_HEAD = 4096
_LABEL_FILES = Reading(max_bytes=1 << 22)  # about a hundred thousand boxes


def yaml_in(folder: Directory, names: list[str]) -> str | None:
    """The description of a dataset among the files of a folder: one with a usual name, or the only one.

    Raises:
        UsageError: there are several.
    """
    found = [name for name in sorted(names) if is_data_yaml(folder, name)]
    usual = [name for name in _USUAL if name in found]
    if len(found) > 1 and not usual:
        raise UsageError(f"INPUT {folder.uri('')}: which of {', '.join(map(printable, found[:5]))}? give the file")
    return next(iter(usual or found), None)


def has_labels(folder: Directory, below: str = "") -> bool:
    """Whether a folder `labels` in a place, which ends with a slash, has label files in it, or in its first folder."""
    place = f"{below}labels/"
    names = sorted(name for name in folder.names(place) if not name.startswith((".", "classes.")))
    for inside in (place, f"{place}{names[0]}/") if names else ():
        first = min((name for name in folder.names(inside) if name.lower().endswith(".txt")), default=None)
        if first is not None:
            try:
                return is_yolo(folder.read(inside + first, 0, _HEAD) or b"0 0 0 0 0")
            except OSError:
                return False
    return False


class Yolo(Annotated):
    """The images of a YOLO dataset, with their boxes."""

    def __init__(self, options: SourceOptions) -> None:
        folder, self._yaml = options.input, ""
        if options.input.lower().endswith(_YAML):
            folder, self._yaml = split_place(options.input)
        super().__init__(options, "a YOLO dataset", folder, (*OF_PATHS, "segments", "allow_missing"))
        self._place, self._folder = options.root or folder, directory(folder)
        self._found: DataYaml | None = None
        self._names: tuple[str, ...] | None = None
        self._rows = Rows(outlines=ListedOutlines() if options.segments else None)
        self._prefix = ""  # of the folder of the dataset, relative to the root of `_paths`
        self._images = self._empty = self._labelled = 0
        self._left_out = LeftOutFiles()
        self._folders = SplitFolders()
        self._warnings: list[str] = []

    def entries(self) -> Iterator[Entry]:
        """An entry for each image, and for each label file without an image.

        Raises:
            UsageError: INPUT is missing, or not such a dataset.
        """
        self._check_root()
        if not self._folder.exists():
            raise self._refused(f"does not exist{self._folder.missing()}")
        parts = self._parts()
        self._rows.classes = self._found.classes if self._found else len(self._names) if self._names else None
        files = YoloFiles(self._paths, self._place, self._prefix, self._left_out)
        threads = readers_of(self._paths.folder(""))
        for image, data in in_order(self._with_labels, files.images(parts), threads):
            yield from self._counted(self._entry(image, data))

    def layout(self) -> Layout:
        """The fields of boxes, the classes and the splits.

        Raises:
            UsageError: INPUT has no image.
        """
        self._check_usable()
        warnings = [f"INPUT {self.options.input}: {warning}" for warning in self._warnings]
        if not self._labelled:
            warnings.append(
                f"INPUT {self.options.input}: no image has a label file: that of images/1.jpg is labels/1.txt"
            )
        if self._names is None:
            warnings.append(
                f"INPUT {self.options.input}: has no names of classes, and they stay numbers: give a file of names with"
                " --classes"
            )
        splits = tuple(self._found.splits) if self._found else self._folders.splits
        text = objects_text(self._images, self._rows.objects, len(self._names) if self._names else None, self._empty)
        return Layout(
            text=f"a YOLO dataset of {text}{splits_text(splits)}",
            left_out=(*self._left_out.named(), *self._rows.left_out(), *self._of_description()),
            warnings=(*warnings, *self._outlines()),
            class_names=self._names,
            splits=splits,
            fields=object_fields() | (self._found.pose.keypoints.types if self._found else {}),
            boxes={"objects/bbox": BOX_FORM},
            points=self._found.pose.keypoints.forms("rel-xy") if self._found else {},
            segments=self.options.segments,
            reached=self._paths.reached,
        )

    def _of_description(self) -> tuple[LeftOut, ...]:
        return (*self._found.left_out, *self._found.pose.left_out) if self._found else ()

    def _outlines(self) -> tuple[str, ...]:
        """What is to be said of outlines."""
        if self._rows.outlines is None:
            return ()
        self._rows.outlines.check(str(self.options.segments))
        return self._rows.outlines.warnings()

    def resolve(self, entry: Entry) -> Entry | Problem:
        """The entry; without a description, with its split by the names of folders."""
        if entry.problem is not None or self._found is not None:
            return entry.problem or entry
        split = self._folders.of(_without_images(entry.id))
        return split if isinstance(split, Problem) else entry._replace(split=split)

    def _parts(self) -> list[Part]:
        """The places of images, with what the description says of classes."""
        self._yaml = self._yaml or yaml_in(self._folder, self._folder.names()) or ""
        if not self._yaml:
            self._names = self._class_file()
            return [Part(None, "")]
        self._found = found = read_data_yaml(self._folder, self._yaml, f"INPUT {self._folder.uri(self._yaml)}")
        self._names, self._rows.shape = found.names, found.pose.shape
        if found.names is None and found.classes is not None:
            self._warnings.append(f"{self._yaml} has the number of classes, and no names")
        first = next(iter(found.splits.values()))[0]
        known = [prefix for prefix in self._prefixes(found.path) if self._find(prefix, first) is not None]
        self._prefix = next(iter(known), "")
        if not known and found.path and self.options.root is None and self._find("", first) is not None:
            self._warnings.append(
                f"{self._yaml} has the path {printable(found.path)}, which has no such images: took its own folder"
            )
        parts = list[Part]()
        for split, places in found.splits.items():
            of_split = [self._part(split, place) for place in places]
            if {part.place for part in of_split} <= {part.place for part in parts}:
                self._warnings.append(
                    f"{split} has the images of {parts[0].split}, which an image is in once: {split} is left out;"
                    f" divide {parts[0].split} by --split"
                )
            else:
                parts += of_split
        kept = {part.split for part in parts}
        self._found = replace(found, splits={name: found.splits[name] for name in found.splits if name in kept})
        return parts

    def _prefixes(self, path: str) -> list[str]:
        """The folders that a description may mean by its path, which is often one of another machine."""
        if self.options.root is not None or not path:
            return [""]
        path = f"{path.rstrip('/')}/"
        if path.startswith("/") or is_url(path):
            return [path]
        path = f"{posixpath.normpath(path)}/" if posixpath.normpath(path) != "." else ""
        return [path, "", f"../{path}"]

    def _find(self, prefix: str, place: str) -> str | None:
        """The place of a folder or a list, if it is there: below the prefix, or as if without a leading "../"."""
        files = YoloFiles(self._paths, self._place, prefix, self._left_out)
        outside = place.startswith("/") or is_url(place)
        for name in (place,) if outside else (place, place.removeprefix("../")):
            name = name if name.lower().endswith(".txt") else f"{name.rstrip('/')}/"
            full = name if outside else prefix + posixpath.normpath(name) + "/" * name.endswith("/")
            full = "" if full == "./" else full.removesuffix("./")
            try:
                if files.exists(full):
                    return full
            except BadInput as bad:
                raise self._refused(str(bad)) from bad
        return None

    def _part(self, split: str, place: str) -> Part:
        found = self._find(self._prefix, place)
        if found is None:
            below = self.options.root or self._paths.folder(self._prefix).uri("")
            raise self._refused(
                f"{split} is {printable(place)}, which is not in {below}: give the folder of the dataset with --root,"
                f" or remove {split} from {self._yaml}"
            )
        return Part(split, found)

    def _class_file(self) -> tuple[str, ...] | None:
        """The names in a `classes.txt`, as LabelImg and Label Studio write it."""
        for name in _CLASS_FILES:
            try:
                text = self._folder.read(name, most=1 << 20).decode("utf-8-sig")
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise self._refused(f"{name}: {error}") from error
            names = tuple(line.strip() for line in text.splitlines() if line.strip())
            if len(set(names)) != len(names):
                raise self._refused(f"{name} has a class twice")
            return names or None
        return None

    def _with_labels(self, image: YoloImage) -> tuple[YoloImage, bytes | BadInput | None]:
        """The bytes of the label file of an image; None if it has none."""
        if not image.labels or image.problem is not None:
            return image, None
        try:
            self._paths.allow(image.place or image.labels)
            self._paths.allow(image.labels)
            return image, self._paths.read(image.labels, _LABEL_FILES)
        except FileNotFoundError:
            return image, None
        except BadInput as bad:
            return image, BadInput(bad.reason, f"{image.labels}: {bad}")
        except PermissionError as error:
            return image, BadInput("unreadable", f"{image.labels}: {error.strerror or error}")

    def _entry(self, image: YoloImage, data: bytes | BadInput | None) -> Iterator[Entry]:
        id = image.place.removeprefix(self._prefix)
        if not image.place and image.problem is None:
            yield from self._without_image(image.labels, data)
            return
        if image.problem is not None:
            place = image.place or None
            yield Entry(id or image.where, image.size, place, split=image.split, problem=image.problem)
            return
        try:
            self._paths.check(image.place)
            if isinstance(data, BadInput):
                raise data
            fields, payloads = self._values(image.labels, data or b"")
        except BadInput as bad:
            where = f"{image.where}: " if image.where and bad.reason in UNREACHED else ""
            known = image.place if bad.reason not in UNREACHED else None
            yield Entry(id, image.size, known, split=image.split, problem=Problem(bad.reason, f"{where}{bad}"))
            return
        self._images += 1
        self._labelled += data is not None
        self._empty += not fields["objects/label"]
        if self._found is None:
            self._folders.add(_without_images(id))
        yield Entry(id, image.size, image.place, split=image.split, fields=fields, payloads=payloads)

    def _without_image(self, labels: str, data: bytes | BadInput | None) -> Iterator[Entry]:
        """A reject for a label file without an image. Other texts are left out."""
        name = labels.removeprefix(self._prefix)
        if not isinstance(data, bytes) or not is_yolo(data):
            self._left_out.add(name)
            return
        message = f"{name} is the label file of an image that is not there"
        yield Entry(name, place=labels, problem=Problem("unknown-image", message))

    def _values(self, labels: str, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of the objects of an image, and its outlines."""
        name = labels.removeprefix(self._prefix)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadInput("bad-annotation", f"{name} is not UTF-8 at byte {error.start}") from error
        lines = ((number, line.split()) for number, line in enumerate(io.StringIO(text), 1))
        return self._rows.read(
            (f"{name} line {number}", self._kind(len(words)), [parse_number(word) for word in words])
            for number, words in lines
            if words
        )

    def _kind(self, numbers: int) -> str:
        """The kind of a line, by its length: the description says whether lines have keypoints."""
        if self._rows.shape is not None:
            return "pose" if numbers > 5 else "boxes"
        return "segments" if numbers > 6 and numbers % 2 else "boxes"


def _without_images(path: str) -> str:
    """A path without its folder named `images`: train/images/1.jpg and images/train/1.jpg are both train/1.jpg."""
    head, found, tail = f"/{path}".rpartition("/images/")
    return f"{head}/{tail}"[1:] if found else path
