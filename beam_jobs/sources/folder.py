"""A folder of images: class folders, split folders that hold class folders, or flat.

```
INPUT/cat/1.jpg          class folders: the label is the first folder, sorted by name
INPUT/train/cat/1.jpg    split folders, recognised by their names
INPUT/1.jpg              flat: no labels
```

An id is the file's path relative to INPUT, with forward slashes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from beam_jobs.errors import UsageError
from beam_jobs.sources import Listing, Reference, Reject, printable

__all__ = ["list_folder", "read_image"]

SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")
MAX_BYTES = 1 << 29  # a file is read whole
# What lies beside images and is none: annotations, readmes, and what file managers leave.
IGNORED_SUFFIXES = frozenset(
    {".cff", ".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".mat", ".md", ".parquet", ".tsv", ".txt", ".xml"}
    | {".yaml", ".yml"}
)


class _File(NamedTuple):
    id: str
    size: int
    regular: bool

    @property
    def folders(self) -> tuple[str, ...]:
        return PurePosixPath(self.id).parts[:-1]


def list_folder(path: str) -> Listing:
    """Every file below `path`, as a reference, a reject, or counted as ignored.

    Raises:
        UsageError: `path` is missing, no folder, or holds no image; or a class has an impossible name.
    """
    root = _check_root(path)
    files: list[_File] = []
    ignored = 0
    for file in _walk(root):
        if _is_ignored(file.id):
            ignored += 1
        else:
            files.append(file)
    files.sort()
    bad = {file: problem for file in files if (problem := _problem(file))}
    rejects = [_reject(path, file, *problem) for file, problem in bad.items()]
    files = [file for file in files if file not in bad]
    if not files:
        why = f"; {printable(rejects[0].id)}: {rejects[0].message}" if rejects else ""
        raise UsageError(f"INPUT {path}: holds no images ({ignored + len(rejects)} other files{why})")
    return _label(path, files, rejects, ignored)


def read_image(root: str, id: str) -> bytes:
    """The bytes of one image.

    Raises:
        OSError: it cannot be read.
    """
    with open(os.path.join(root, id), "rb") as file:
        return file.read()


def _check_root(path: str) -> Path:
    root = Path(path)
    if not root.exists():
        raise UsageError(f"INPUT {path}: does not exist")
    if not root.is_dir():
        raise UsageError(f"INPUT {path}: is a file; give the folder that holds the images")
    return root


def _walk(root: Path) -> Iterator[_File]:
    """Every file below `root`. Links are followed, but not into a folder that they lie in."""
    folders = [(str(root), "", frozenset[tuple[int, int]]())]
    while folders:
        folder, prefix, above = folders.pop()
        status = os.stat(folder)
        place = (status.st_dev, status.st_ino)
        if place in above:
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is(entry, os.DirEntry.is_dir):
                    folders.append((entry.path, f"{prefix}{entry.name}/", above | {place}))
                else:
                    regular = _is(entry, os.DirEntry.is_file)
                    yield _File(prefix + entry.name, entry.stat().st_size if regular else 0, regular)


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link that leads to itself
        return False


def _is_ignored(id: str) -> bool:
    path = PurePosixPath(id)
    hidden = any(part.startswith(".") for part in path.parts)
    return hidden or path.suffix.lower() in IGNORED_SUFFIXES


def _problem(file: _File) -> tuple[str, str] | None:
    """Reason and message where a file cannot be an input."""
    if file.size > MAX_BYTES:
        return "too-large", f"has {file.size} bytes, more than {MAX_BYTES}"
    if not file.regular:
        return "not-a-file", "is a link to nowhere, a pipe or a device"
    try:
        file.id.encode()
    except UnicodeEncodeError:
        return "file-name", "the name is not UTF-8"
    return None


def _reject(path: str, file: _File, reason: str, message: str) -> Reject:
    return Reject(file.id, os.path.join(os.path.abspath(path), file.id), "list", reason, message)


def _label(path: str, files: list[_File], rejects: list[Reject], ignored: int) -> Listing:
    """Recognise the layout from where the files lie, and give each file its label and split."""
    tops = {file.folders[0] for file in files if file.folders}
    has_splits = bool(tops) and tops <= set(SPLIT_FOLDERS)
    depth = 1 if has_splits else 0  # how many folders come before the class
    in_classes = [file for file in files if len(file.folders) > depth]
    stray = [file for file in files if len(file.folders) <= depth]
    if not in_classes and not has_splits:
        references = [Reference(file.id, file.size, None, None) for file in files]
        return Listing(layout="a flat folder without classes", references=references, rejects=rejects, ignored=ignored)
    if in_classes:
        message = f"lies beside the {'class' if depth == 0 else 'split or class'} folders, in none of them"
        rejects += [_reject(path, file, "no-class", message) for file in stray]
    else:  # split folders of images without classes
        rejects += [_reject(path, f, "no-split", "lies beside the split folders") for f in stray if not f.folders]
    class_names = tuple(sorted({file.folders[depth] for file in in_classes})) if in_classes else None
    for name in class_names or ():
        if len(name.splitlines()) != 1:
            raise UsageError(f"INPUT {path}: the class folder {name!r} has a line break in its name; rename it")
    labels = {name: number for number, name in enumerate(class_names or ())}
    references = [
        Reference(f.id, f.size, labels[f.folders[depth]] if labels else None, f.folders[0] if has_splits else None)
        for f in (in_classes or [f for f in stray if f.folders])
    ]
    layout = f"{len(labels)} class folders" if labels else "images without classes"
    if not has_splits and tops & set(SPLIT_FOLDERS):
        layout += f", {' and '.join(sorted(tops & set(SPLIT_FOLDERS)))} among them"
    return Listing(
        layout=f"split folders ({', '.join(sorted(tops))}) of {layout}" if has_splits else layout,
        references=references,
        rejects=rejects,
        ignored=ignored,
        class_names=class_names,
        splits=tuple(name for name in SPLIT_FOLDERS if name in tops) if has_splits else None,
    )
