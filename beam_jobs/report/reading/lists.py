"""The lists beside the shards, one JSON object a line: rejects, suspects, duplicates and thumbnails."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final

from beam_jobs.sources.files.interface import Thumbnail
from shard_reader.format.checksum import crc32c
from shard_reader.format.manifest import DUPLICATES_NAME, REJECTS_NAME, SUSPECTS_NAME, THUMBNAILS_NAME, Manifest
from shard_reader.storage.directory import Directory

__all__ = ["Lists", "read_lists"]

PAIRS: Final = 24
"""Pairs of duplicates that are shown."""
_LINES = 64  # of rejects and of suspects that are shown
_MOST_LINES = 2_000_000  # of each file
_LONGEST = 1 << 22  # bytes of a line
_REASONS = 100  # that are counted each for itself
_THUMBNAILS = 128
_BATCH = 1 << 20


@dataclass(slots=True)
class Lists:
    """The lists of a dataset, the first lines of each.

    Attributes:
        rejects, suspects: lines, chosen by the lowest hash of their ids.
        reasons: the number of rejects of each reason.
        duplicates: pairs: those with other labels first, then those in other splits.
        thumbnails: the pictures that `prepare` kept; None if there is no such file.
        problems: sentences about lists that cannot be read.
    """

    rejects: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    suspects: list[dict[str, Any]] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    thumbnails: list[Thumbnail] | None = None
    problems: list[str] = field(default_factory=list)


def read_lists(files: Directory, manifest: Manifest, gone: Mapping[str, Set[str]]) -> Lists:
    """The lists that the manifest names, of all generations.

    Args:
        files: the directory of the dataset.
        manifest: its manifest.
        gone: the ids of the withdrawn records of each split, whose lines are left out.
    """
    found = Lists()

    def lines(name: str) -> Iterator[dict[str, Any]]:
        for file in manifest.lists(name):
            for line in _lines(files, file, found.problems):
                if not _is_gone(line, gone):
                    yield line

    found.rejects = _best(_counted(lines(REJECTS_NAME), found.reasons), _LINES, _by_hash)
    found.suspects = _best(lines(SUSPECTS_NAME), _LINES, _by_hash)
    found.duplicates = _best(lines(DUPLICATES_NAME), PAIRS, _by_weight)
    if manifest.lists(THUMBNAILS_NAME):
        found.thumbnails = list(filter(None, map(_thumbnail, _first(lines(THUMBNAILS_NAME), _THUMBNAILS))))
    return found


def _is_gone(line: Mapping[str, Any], gone: Mapping[str, Set[str]]) -> bool:
    """Whether a line names a withdrawn record."""
    named = [(line.get(id), line.get(split)) for id, split in (("id", "split"), ("first_id", "first_split"))]
    return any(isinstance(id, str) and isinstance(split, str) and id in gone.get(split, ()) for id, split in named)


def _lines(files: Directory, name: str, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The objects of a file, up to a bound."""
    try:
        with files.open(name) as file:
            for number in range(_MOST_LINES):
                line = file.readline(_LONGEST)
                if not line:
                    return
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError):
                    found = None
                if not isinstance(found, dict) or not isinstance(found.get("id"), str):
                    problems.append(f"{name}: line {number + 1} cannot be read; lines after it are left out")
                    return
                yield found
            problems.append(f"{name}: lines after the first {_MOST_LINES:,} are left out")
    except FileNotFoundError:
        problems.append(f"{name}: is missing")
    except OSError as error:
        problems.append(f"{name}: {error.strerror or error}")


def _counted(lines: Iterator[dict[str, Any]], reasons: Counter[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        reason = str(line.get("reason", ""))[:100]
        reasons[reason if reason in reasons or len(reasons) < _REASONS else "other"] += 1
        yield line


def _best(
    lines: Iterator[dict[str, Any]], most: int, key: Callable[[Mapping[str, Any]], tuple[int, ...]]
) -> list[dict[str, Any]]:
    """The lines with the lowest keys."""
    kept: list[dict[str, Any]] = []
    for line in lines:
        kept.append(line)
        if len(kept) >= 64 * most:
            kept = sorted(kept, key=key)[:most]
    return sorted(kept, key=key)[:most]


def _by_hash(line: Mapping[str, Any]) -> tuple[int, ...]:
    return (crc32c(line["id"].encode("utf-8", "replace")),)


def _by_weight(line: Mapping[str, Any]) -> tuple[int, ...]:
    """Contradictions first, then leaks; exact duplicates before near ones."""
    return not line.get("contradiction"), not line.get("leak"), bool(line.get("near")), *_by_hash(line)


def _first(lines: Iterator[dict[str, Any]], most: int) -> Iterator[dict[str, Any]]:
    for _, line in zip(range(most), lines, strict=False):
        yield line


def _thumbnail(line: Mapping[str, Any]) -> Thumbnail | None:
    texts = {name: line.get(name) for name in Thumbnail._fields}
    if any(text is not None and not isinstance(text, str) for text in texts.values()):
        return None
    return Thumbnail(**{**texts, "group": texts["group"] or "", "reason": texts["reason"] or ""})  # type: ignore[arg-type]
