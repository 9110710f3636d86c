"""Names of files and folders: splits, files that are not images, files of records, and the folder of a file."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable

from beam_jobs.sources.files.interface import Problem
from shard_reader.format.manifest import LeftOut
from shard_reader.storage.directory import Stored
from shard_reader.storage.open import is_url

__all__ = [
    "SPLIT_NAMES",
    "TABLES",
    "LeftOutFiles",
    "file_problem",
    "is_ignored",
    "is_records",
    "is_voc_xml",
    "is_yolo",
    "records_kind",
    "split_place",
]

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing")
"""The names of splits, in lower case, and in the order that a dataset lists them in."""

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz")
"""The suffixes of tables."""

# Files that lie beside images: annotations, readmes, and the files of file managers.
_IGNORED_SUFFIXES = frozenset(
    {".cff", ".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".mat", ".md", ".parquet", ".tsv", ".txt", ".xml"}
    | {".yaml", ".yml"}
)
_WHY = {".mat": "not images; nothing reads files of MATLAB"}
_YOLO = re.compile(rb"\d+( -?[\d.]+([eE][-+]?\d+)?){4,}")  # a line: a class, and a box or a polygon
_VOC = re.compile(rb"<annotation[\s>]")
_EXAMPLES = 4  # names to keep of each kind
_SHARD = re.compile(r"-\d+-of-\d+$")


def is_ignored(path: str) -> bool:
    """Whether a file is hidden, or has a suffix of files that commonly lie beside images."""
    # Only these: any other file that is not an image is rejected, since it may be an image that was damaged.
    hidden = path.startswith(".") or "/." in path
    return hidden or path[path.rfind(".") :].lower() in _IGNORED_SUFFIXES


class LeftOutFiles:
    """The files that a source leaves out, by their suffix and reason: their number, and the smallest names of each."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], tuple[int, list[str]]] = {}

    @property
    def files(self) -> int:
        """The number of files."""
        return sum(count for count, _ in self._kinds.values())

    def add(self, path: str, why: str = "") -> None:
        """Take note of a file. Without `why`, its name and its content tell the reason."""
        hidden = path.startswith(".") or "/." in path
        kind = ("hidden" if hidden else posixpath.splitext(path)[1].lower(), why)
        count, names = self._kinds.get(kind, (0, []))
        self._kinds[kind] = (count + 1, sorted([*names, path])[:_EXAMPLES])

    def named(
        self,
        command: Callable[[str], str] | None = None,
        head: Callable[[str], bytes] = lambda _: b"",
        boxes: Callable[[str], str] | None = None,
    ) -> tuple[LeftOut, ...]:
        """Each kind of file, with the reason.

        Args:
            command: gives the command that reads a file of annotations, if there is one.
            head: gives the first bytes of a file.
            boxes: gives the command that reads INPUT as a source of boxes, by its name.
        """
        return tuple(
            LeftOut(
                what=f"{count:,} {kind or 'other'} {'file' if count == 1 else 'files'}, as {names[0]}",
                why=why or _why(kind, names, command, head, boxes),
                files=count,
            )
            for (kind, why), (count, names) in sorted(self._kinds.items())
        )


def _why(
    kind: str,
    names: list[str],
    command: Callable[[str], str] | None,
    head: Callable[[str], bytes],
    boxes: Callable[[str], str] | None,
) -> str:
    if kind in TABLES:
        how = command(names[0]) if command else "unpack the images, and give the table as INPUT"
        return f"not images; if it has labels, as a table with a path in each row: {how}"
    if kind == ".json" and command:
        return f"not images; if it has annotations of COCO: {command(names[0])}"
    for suffix, is_kind, called, source in (
        (".txt", is_yolo, "YOLO", "yolo"),
        (".xml", is_voc_xml, "Pascal VOC", "voc"),
    ):
        if kind == suffix and any(is_kind(head(name)) for name in names):
            how = boxes(source) if boxes else f"unpack the images, and give the folder with --source {source}"
            return f"not images; boxes of {called}: {how}"
    return _WHY.get(kind, "not images")


def is_yolo(head: bytes) -> bool:
    """Whether a file has boxes in each line, given its first bytes."""
    lines = head[: head.rfind(b"\n") + 1 or None].splitlines()
    return bool(lines) and all(_YOLO.fullmatch(line.strip()) for line in lines)


def is_voc_xml(head: bytes) -> bool:
    """Whether a file is an annotation of Pascal VOC, given its first bytes."""
    return _VOC.search(head) is not None


def file_problem(file: Stored) -> Problem | None:
    """The defect of a file that cannot be an input."""
    if not file.regular:
        return Problem("not-a-file", "is a link to nowhere, a pipe or a device")
    try:
        file.name.encode()
    except UnicodeEncodeError:
        return Problem("file-name", "the name is not UTF-8")
    return None


def is_records(name: str) -> bool:
    """Whether a file is, by its name, a known form of records."""
    return records_kind(name) is not None


def records_kind(name: str) -> str | None:
    """The form of a file of records, by its name: "TFRecord", "HDF5", "npz" or "npy"."""
    lower = name.lower()
    if lower.endswith(".index.npy"):  # the index of a shard
        return None
    if ".tfrecord" in lower:
        return "TFRecord"
    kinds = {".h5": "HDF5", ".hdf5": "HDF5", ".npz": "npz", ".npy": "npy"}
    return kinds.get(posixpath.splitext(lower)[1], "TFRecord" if _SHARD.search(lower) else None)


def split_place(place: str) -> tuple[str, str]:
    """The folder and the name of a file, given by its path or URL."""
    if not is_url(place):
        folder, name = os.path.split(place)
        return folder or ".", name
    scheme, _, rest = place.partition("://")
    folder, _, name = rest.rpartition("/")
    return f"{scheme}://{folder}", name
