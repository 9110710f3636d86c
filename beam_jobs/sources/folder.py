"""A folder of images: class folders, split folders that hold class folders, or flat.

```
INPUT/cat/1.jpg          class folders: the label is the first folder, sorted by name
INPUT/pet/cat/1.jpg      nested ones (--nested-classes): the label is "pet/cat"
INPUT/train/cat/1.jpg    split folders, recognised by their names
INPUT/1.jpg              flat: no labels
INPUT/train/cat.0.jpg    classes in names (--class-pattern), recognised where INPUT/test/1.jpg has none
```

Masks and depth maps beside images are recognised (`layouts/masks_beside.py`): INPUT/images/1.jpg, INPUT/masks/1.png.

An id is the path of the file relative to INPUT, with forward slashes.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.payloads import read_file
from beam_jobs.sources.files.file_names import LeftOutFiles, file_problem, is_ignored
from beam_jobs.sources.files.interface import Entry, Layout, Problem, Reference, Source, SourceOptions, refuse_options
from beam_jobs.sources.layouts.class_folders import ClassFolders
from beam_jobs.sources.layouts.masks_beside import MasksBeside, masks_beside
from shard_reader.printable import printable
from shard_reader.storage.directory import Stored
from shard_reader.storage.open import directory

__all__ = ["Folder"]

_HEAD = 4096  # bytes of a file that tell its kind


class Folder(Source):
    """The images below a folder, on a disk or in an object store."""

    def __init__(self, options: SourceOptions) -> None:
        super().__init__(options)
        refuse_options(options, "a folder", taken=("nested_classes", "class_pattern", "allow_missing", "box_frame"))
        try:
            self._directory = directory(options.input)
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(f"INPUT {options.input}: {error}") from error
        self._folders = ClassFolders(options.nested_classes, options.class_pattern)
        self._usable = self._unusable = 0
        self._left_out = LeftOutFiles()
        self._first: str | None = None
        self._masks: MasksBeside | None = None
        self._with: dict[str, int] = {}  # the number of images with each further field

    def entries(self) -> Iterator[Entry]:
        """Every file below the folder that is not ignored.

        Raises:
            UsageError: INPUT is missing, or not a folder.
        """
        self._check()
        self._masks = masks_beside(self._directory, f"INPUT {self.options.input}")
        for found in self._entries(self._directory.walk()):
            if isinstance(found, str):
                self._leave_out(found)
                continue
            if found.problem is None:
                self._usable += 1
                self._folders.add(self._inside(found.id))
                for name in found.payloads:
                    self._with[name] = self._with.get(name, 0) + 1
            else:
                self._unusable += 1
                # The smallest name, since files come in any order and the message should not depend on it.
                message = f"{printable(found.id)}: {found.problem.message}"
                self._first = min(self._first or f"{chr(0x10FFFF)}", message)
            yield found

    def _entries(self, files: Iterable[Stored]) -> Iterator[Entry | str]:
        """An entry for each image, and the names of files that are not read."""
        if self._masks is not None:
            yield from self._masks.entries(files)
            return
        for file in files:
            yield file.name if is_ignored(file.name) else Entry(file.name, file.size, problem=file_problem(file))

    def _leave_out(self, name: str) -> None:
        why = "" if is_ignored(name) or self._masks is None else "beside the folders of images and of masks"
        self._left_out.add(name, why)

    def _inside(self, path: str) -> str:
        """The path whose folders are splits and classes."""
        return path if self._masks is None else self._masks.inside(path)

    def layout(self) -> Layout:
        """The classes and splits of the folders.

        Raises:
            UsageError: INPUT has no image.
        """
        if not self._usable:
            why = f"; {self._first}" if self._first else ""
            others = self._left_out.files + self._unusable
            raise UsageError(f"INPUT {self.options.input}: holds no images ({others} other files{why})")
        if self.options.box_frame is not None and not self._with:
            refuse_options(self.options, "a folder without masks", taken=("nested_classes", "class_pattern"))
        folders = self._folders
        beside = f", with {self._masks.text}" if self._masks else ""
        roles = self._masks.roles if self._masks else {}
        return Layout(
            text=f"{folders.text}{beside}",
            left_out=self._left_out.named(self._command, self._head, self._boxes),
            warnings=folders.warnings(f"INPUT {self.options.input}"),
            class_names=folders.class_names,
            splits=folders.splits,
            unlabelled=folders.unlabelled,
            payloads={name: role for name, role in roles.items() if name in self._with},
        )

    def resolve(self, entry: Entry) -> Entry | Problem:
        """The entry, completed with its class and its split."""
        if entry.problem is not None:
            return entry.problem
        found = self._folders.label(self._inside(entry.id))
        if isinstance(found, Problem):
            return found
        return Entry(entry.id, entry.size, None, *found, payloads=entry.payloads)

    def uri(self, entry: Entry | Reference) -> str:
        """The address of a file."""
        return self._directory.uri(entry.id)

    def read(self, reference: Reference) -> bytes:
        """The bytes of a file."""
        return self._directory.read(reference.id)

    def read_payload(self, reference: Reference, name: str) -> bytes:
        """The bytes of the file of a mask or of a depth map."""
        return read_file(self._directory, reference.payloads[name][0], self.reading)

    def answers(self, reference: Reference) -> bool:
        """Whether the folder of a missing file, or INPUT, can be reached."""
        return self._directory.answers(reference.id)

    def _command(self, name: str) -> str:
        """The command that reads a file of annotations."""
        place = self.options.input.rstrip("/")
        return f"image-shards prepare {shlex.quote(f'{place}/{name}')} OUTPUT --root {shlex.quote(place)}"

    def _boxes(self, source: str) -> str:
        """The command that reads the folder as a source of boxes."""
        return f"image-shards prepare {shlex.quote(self.options.input)} OUTPUT --source {source}"

    def _head(self, name: str) -> bytes:
        try:
            return self._directory.read(name, 0, _HEAD)
        except OSError:
            return b""  # the file is not read anyway

    def _check(self) -> None:
        if self._directory.exists():
            return
        local = self._directory.local
        if local is not None and local.exists():
            raise UsageError(
                f"INPUT {self.options.input}: is a file of a kind that its name does not tell: give a folder of"
                " images, or a file that ends as .csv, .tar or .tfrecord, or say with --record what binary records hold"
            )
        raise UsageError(f"INPUT {self.options.input}: does not exist{self._directory.missing()}")
