"""The table of sources, and the recognition of INPUT's kind."""

from __future__ import annotations

import importlib
import os
import posixpath
import sys
from dataclasses import replace

from beam_jobs.errors import UsageError
from beam_jobs.sources.archive import is_archive
from beam_jobs.sources.files.file_names import SPLIT_NAMES, TABLES, is_ignored, is_records, split_place
from beam_jobs.sources.files.interface import Source, SourceOptions
from beam_jobs.sources.tabular.arrow_schema import column_of_images, is_arrow
from beam_jobs.sources.tabular.metadata_files import metadata_of
from shard_reader.format.fields import FORMAT_NAME
from shard_reader.format.manifest import MANIFEST_NAME
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory, local_path

__all__ = ["open_source", "recognised"]

# Each in a module of its own, imported when it is needed: most workers need one.
_CLASSES = {
    "folder": ("folder", "Folder"),
    "imagefolder": ("tabular.image_folder", "ImageFolder"),
    "table": ("tabular.table", "Table"),
    "arrow": ("tabular.arrow", "ArrowFiles"),
    "coco": ("detection.coco", "Coco"),
    "yolo": ("detection.yolo", "Yolo"),
    "ndjson": ("detection.ndjson", "Ndjson"),
    "voc": ("detection.voc", "Voc"),
    "archive": ("archive", "Archive"),
    "records": ("records", "RecordFiles"),
}

# Of datasets by Hugging Face, on the Hub or saved to a disk.
_DATASET_FILES = frozenset({"README.md", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"})
_DATASET_FOLDERS = frozenset({*SPLIT_NAMES, "data", "default"})
_MOST_FOLDERS = 20
_HEAD = 200  # bytes of a manifest, in which its format stands
_WHY = {"folder": "the default", "yolo": "from its data.yaml or label files", "voc": "from its XML files of objects"}


def open_source(options: SourceOptions) -> Source:
    """Open the source of a kind.

    Raises:
        UsageError: a class of the user's cannot be imported, or an option does not fit the source.
    """
    kind = options.kind or "folder"
    if ":" in kind:
        return _own(kind)(options)
    module, name = _CLASSES[kind]
    source: Source = getattr(importlib.import_module(f"beam_jobs.sources.{module}"), name)(options)
    return source


def recognised(options: SourceOptions) -> tuple[SourceOptions, str]:
    """The options with the kind of source for INPUT, and the reason for that kind, in words.

    Raises:
        UsageError: INPUT cannot be opened.
    """
    if options.kind is not None:
        return options, "as --source says"
    if options.record is not None:
        return replace(options, kind="records"), "from --record"
    name = posixpath.basename(options.input)
    local = local_path(options.input)
    kind = _kind_of_file(name)
    if local and local.exists() and not (local.is_file() or local.is_dir()):
        raise UsageError(f"INPUT {options.input}: is a pipe, a device or a socket; give a file or a folder")
    try:
        if kind and (local.is_file() if local and local.exists() else True):
            if name.lower().endswith(".ndjson") and _is_ndjson(options.input):
                return replace(options, kind="ndjson"), "from its first line"
            return _with_images(options, "", kind) or (replace(options, kind=kind), f"from the name {name}")
        place = directory(options.input)
        if (metadata := metadata_of(place)) is not None:
            return replace(options, kind="imagefolder"), f"from {metadata}, which names images"
        kind = _kind_of_folder(place)
        if kind == "folder":
            _refuse_dataset(options.input, place)
        file = _arrow_file(place) if kind in ("folder", "table") else None
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"INPUT {options.input}: {error}") from error
    if file is not None and (found := _with_images(options, file, kind)) is not None:
        return found
    return replace(options, kind=kind), _WHY.get(kind, "from the files in it")


def _refuse_dataset(input: str, place: Directory) -> None:
    """Refuse the folder of a dataset: its pictures for people would be the images.

    Raises:
        UsageError: it is one.
    """
    names = place.names("")
    if MANIFEST_NAME in names and f'"format": "{FORMAT_NAME}"'.encode() in place.read(MANIFEST_NAME, 0, _HEAD):
        shard = next((name for name in sorted(names) if is_records(name)), "a shard")
        raise UsageError(
            f"INPUT {input}: is a dataset of image-shards; give one of its shards, as {shard}, or write its images to"
            f" files with `image-shards export {input} DIR --to folder`"
        )


def _with_images(options: SourceOptions, name: str, kind: str) -> tuple[SourceOptions, str] | None:
    """The options for a file of INPUT with images in it, and the reason; None for another file."""
    shown = name or posixpath.basename(options.input)
    if kind not in ("table", "folder", "arrow") or not is_arrow(shown) or options.path_column is not None:
        return None
    try:
        column = column_of_images(directory(options.input), name)
    except (UsageError, OSError, ValueError, ImportError):
        return None  # the source says why
    if column is None:
        return None
    return replace(options, kind="arrow"), f'from the column "{column}" of {shown}, which has images'


def _arrow_file(place: Directory, folder: str = "", depth: int = 3) -> str | None:
    """The first file of Parquet or Arrow of a folder without images, or of the folders of a dataset in it."""
    names = sorted(name for name in place.names(folder) if not name.startswith("."))
    files = [name for name in names if is_arrow(name)]
    others = [name for name in names if not is_ignored(name) and not is_arrow(name)]
    if files:
        return None if others else f"{folder}{files[0]}"
    # No more folders than these are looked into: listing those of classes takes a while in a store.
    is_dataset = _DATASET_FILES & set(names) or len(others) == 1 or {n.lower() for n in others} <= _DATASET_FOLDERS
    if not depth or not is_dataset or len(others) > _MOST_FOLDERS:
        return None
    found = (_arrow_file(place, f"{folder}{name}/", depth - 1) for name in others)
    return next((name for name in found if name is not None), None)


def _kind_of_file(name: str) -> str | None:
    lower = name.lower()
    if lower.endswith(".arrow"):
        return "arrow"
    if lower.endswith(TABLES):
        return "table"
    if lower.endswith(".json"):
        return "coco"
    if lower.endswith((".yaml", ".yml")):
        return "yolo"
    if is_archive(name):
        return "archive"
    return "records" if is_records(name) else None


def _kind_of_folder(place: Directory, folder: str = "") -> str:
    """The kind of a folder by its files: archives, records or parts of a table; otherwise a folder of images."""
    names = [name for name in place.names(folder) if not name.startswith(".") and not name.endswith(".index.npy")]
    kinds = {_kind_of_file(name) for name in names if not is_ignored(name)}
    if not folder and kinds == {None} and {name.lower() for name in names} <= set(SPLIT_NAMES):
        kinds = {_kind_of_folder(place, name) for name in names}
    elif not kinds:
        kinds = {_kind_of_file(name) for name in names if name.endswith(".parquet")}
    # Files of several kinds, such as a table beside images, are a folder of images with other files.
    (kind,) = kinds if len(kinds) == 1 else (None,)
    return kind or _kind_of_images(place, names, f"{folder}/" if folder else "")


def _kind_of_images(place: Directory, names: list[str], below: str) -> str:
    """The kind of a folder of images by the annotations in it."""
    from beam_jobs.sources.detection.voc import is_voc
    from beam_jobs.sources.detection.yolo import has_labels, yaml_in

    if not below and yaml_in(place, names) is not None:
        return "yolo"
    if {"images", "labels"} <= set(names) and has_labels(place, below):
        return "yolo"
    return "voc" if is_voc(place, names, below) else "folder"


def _is_ndjson(place: str) -> bool:
    from beam_jobs.sources.detection.ndjson import is_ndjson

    folder, name = split_place(place)
    return is_ndjson(directory(folder), name)


def _own(name: str) -> type[Source]:
    """A class of the user's, from a module on Python's path or in the current folder."""
    module, _, attribute = name.partition(":")
    # The console script has its own folder on the path, and not the current one as `python -m` has.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--source {name}: {error}; give module:Class of a module that Python can import") from error
    if not (isinstance(found, type) and issubclass(found, Source)):
        raise UsageError(f"--source {name}: {attribute} is no subclass of beam_jobs.sources.Source")
    return found
