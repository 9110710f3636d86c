"""Shards of a part with other numbers for their classes: a new index for each, and the rows of the part's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.generations.joining.parts import LABELS
from beam_jobs.generations.joining.places import joined_path
from beam_jobs.generations.relabeled.indexes import write_index
from beam_jobs.generations.relabeled.shard import ShardOf, dataset_of
from shard_reader.format.fields import Field
from shard_reader.format.manifest import Manifest, Shard
from shard_reader.storage.open import directory

__all__ = ["Renumbering", "moved", "renumber_shard", "renumbered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Renumbering:
    """The values that all shards of a part have in common.

    Attributes:
        place: the place of the part, and `path` its path from `out`.
        manifest: its manifest, without its splits.
        fields: the fields of the new dataset.
        numbers: the new number of each class, int64 `[n]`; None where they stay.
    """

    place: str
    path: str
    out: str
    manifest: Manifest
    fields: Mapping[str, Field]
    numbers: NDArray[np.int64] | None


def moved(path: str, shard: Shard) -> Shard:
    """A shard of a part, with its paths from the new dataset."""
    files = {
        format: replace(
            file,
            path=joined_path(path, file.path),
            replaced_index=file.replaced_index and joined_path(path, file.replaced_index),
        )
        for format, file in shard.files.items()
    }
    return replace(shard, files=files)


def renumber_shard(plan: Renumbering, task: ShardOf) -> Shard:
    """Write the indexes of a shard with the new numbers. Returns it with its paths from the new dataset.

    Raises:
        CorruptionError: the shard, or its index, is damaged.
    """
    # Withdrawn records, too: their rows stay in the index.
    whole = replace(task, withdrawn=task.withdrawn[:0])
    changes: dict[str, dict[int, Any]] = {}
    if plan.numbers is not None:
        data = dataset_of(plan.place, plan.manifest, whole)
        for name in (name for name in LABELS if name in plan.fields and plan.fields[name].dtype == "int64"):
            olds = data.column(name, np.arange(len(data)))
            news = [renumbered(old, plan.numbers, is_sorted=name == "label") for old in olds]
            pairs = enumerate(zip(olds, news, strict=True))
            changes[name] = {row: new for row, (old, new) in pairs if not np.array_equal(old, new)}
    stored, target, both = directory(plan.place), directory(plan.out), (plan.manifest.fields, plan.fields)
    files = {}
    for format, file in task.shard.files.items():
        name = task.indexes[format]
        made = write_index(stored, target, name, file, task.shard.records, both, format, changes)
        files[format] = replace(made, path=joined_path(plan.path, file.path))
    return replace(task.shard, files=files)


def renumbered(labels: Any, numbers: NDArray[np.int64], *, is_sorted: bool) -> NDArray[np.int64]:
    """Labels with the new numbers of their classes, int64 of any shape. A number of no class stays.

    Args:
        labels: the labels.
        numbers: the new number of each class, int64 `[n]`.
        is_sorted: whether several labels of a record are in the order of their numbers.
    """
    old = np.asarray(labels, np.int64)
    is_known = (old >= 0) & (old < len(numbers))
    new = np.where(is_known, numbers[np.where(is_known, old, 0)], old) if len(numbers) else old
    return np.sort(new) if is_sorted and new.ndim else new
