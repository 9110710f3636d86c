"""The description of a YOLO dataset: `data.yaml`, its splits and its classes. Its `download` is never run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from beam_jobs.errors import UsageError
from beam_jobs.safe_yaml import load_yaml
from beam_jobs.sources.detection.parts.pose_shape import POSE_KEYS, Pose, pose_of
from beam_jobs.sources.files.interface import LeftOut
from shard_reader.printable import excerpt, printable
from shard_reader.storage.directory import Directory

__all__ = ["DataYaml", "is_data_yaml", "read_data_yaml"]

_MOST_BYTES: Final = 1 << 20
_SPLITS: Final = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_SILENT: Final = {"path", "names", "nc", "channels", *POSE_KEYS, "author", "license", "licence", "version", "url"}
_HEAD = 1 << 16
_KEYS = tuple(re.compile(pattern, re.MULTILINE) for pattern in (rb"^(train|val)\s*:", rb"^(names|nc)\s*:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataYaml:
    """A description.

    Attributes:
        path: the folder of the dataset, or "".
        splits: the places of the images of each split: folders, and lists that end in ".txt".
        names: the classes; None if the file has only their number, or neither.
        classes: the number of classes; None if it is not given.
        pose: the keypoints of objects.
        left_out: the keys that are not read.
    """

    path: str
    splits: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...] | None
    classes: int | None
    pose: Pose
    left_out: tuple[LeftOut, ...]


def is_data_yaml(folder: Directory, name: str) -> bool:
    """Whether a file is a YAML file that names splits and classes, by its beginning."""
    if not name.lower().endswith((".yaml", ".yml")):
        return False
    try:
        head = folder.read(name, 0, _HEAD)
    except OSError:
        return False
    return all(key.search(head) for key in _KEYS)


def read_data_yaml(folder: Directory, name: str, called: str) -> DataYaml:
    """The description in a file. `called` names it in messages.

    Raises:
        UsageError: the file cannot be read, is no YAML, or lacks splits or classes.
    """
    found = _mapping(folder, name, called)
    splits = dict[str, tuple[str, ...]]()
    for key, split in _SPLITS.items():
        places = _places(found.get(key), key, called)
        if places:
            splits[split] = places
    if not splits:
        keys = ", ".join(map(printable, list(found)[:20])) or "no keys"
        raise UsageError(
            f"{called}: names no images: expected train, val or test, with folders or lists; it has {keys}"
        )
    names = _names(found.get("names"), called)
    classes = len(names) if names is not None else _count(found.get("nc"), called)
    if names is not None and _count(found.get("nc"), called) not in (None, classes):
        raise UsageError(f"{called}: nc is {printable(str(found['nc']))}, and names has {classes} classes")
    path = found.get("path") or ""
    if not isinstance(path, str):
        raise UsageError(f"{called}: path is {excerpt(path)}, and not the folder of the dataset")
    return DataYaml(
        path=path,
        splits=splits,
        names=names,
        classes=classes,
        pose=pose_of(found, called),
        left_out=_left_out(found),
    )


def _mapping(folder: Directory, name: str, called: str) -> dict[str, Any]:
    try:
        text = folder.read(name, most=_MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{called}: is not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise UsageError(f"{called}: {error.strerror or error}") from error
    # A class may be named "no".
    found = load_yaml(text, called, as_texts=True)
    if not isinstance(found, dict):
        raise UsageError(f"{called}: is no description of a dataset: expected keys such as train and names")
    return {key: None if value in ("", "null", "~", "Null", "NULL") else value for key, value in found.items()}


def _places(value: Any, key: str, called: str) -> tuple[str, ...]:
    places = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(place, str) and place for place in places):
        raise UsageError(f"{called}: {key} is {excerpt(value)}: expected a folder, a list (.txt), or several")
    return tuple(places)


def _names(value: Any, called: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        numbers = [str(number) for number in range(len(value))]
        if set(value) != set(numbers):
            wrong = next(key for key in value if key not in numbers)
            raise UsageError(
                f"{called}: names has the number {excerpt(wrong)}: expected 0 to {len(value) - 1}, each once"
            )
        value = [value[number] for number in numbers]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise UsageError(f"{called}: names is {excerpt(value)}: expected the names of classes")
    seen = set[str]()
    for name in value:
        if name in seen:
            raise UsageError(f"{called}: names has {excerpt(name)} twice")
        seen.add(name)
    return tuple(value)


def _count(value: Any, called: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[1-9][0-9]{0,6}", value):
        raise UsageError(f"{called}: nc is {excerpt(value)}: expected the number of classes")
    return int(value)


def _left_out(found: Mapping[str, Any]) -> tuple[LeftOut, ...]:
    others = sorted(map(str, found.keys() - _SILENT - _SPLITS.keys() - {"download"}))
    left_out = []
    if found.get("download") is not None:
        left_out.append(LeftOut(what="download of the description", why="nothing that it names is run or fetched"))
    if others:
        named = ", ".join(map(printable, others[:20]))
        left_out.append(LeftOut(what=f"{named} of the description", why="a YOLO source reads no such values"))
    return tuple(left_out)
