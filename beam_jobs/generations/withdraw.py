"""`image-shards withdraw`: a generation without some records, of which no shard is written again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.generations.growth import Growth, changed_fingerprint, grown
from beam_jobs.generations.tables import each_id, measured_statistics, write_table
from beam_jobs.plan.duplicates import LABELS
from beam_jobs.plan.order import statistics_split
from beam_jobs.terminal import counted
from beam_jobs.tools.dataset_files import remaining_of
from shard_reader import Dataset, open_dataset
from shard_reader.format.manifest import PARQUET_NAME, PIXELS_NAME, Manifest, Split, Withdrawn
from shard_reader.format.shard_table import withdrawn_to_bytes
from shard_reader.printable import printable

__all__ = ["Withdrawal", "withdraw", "without"]

_SHOWN = 3  # ids in an error
_NO_SUMS = "the statistics are those of before records were withdrawn: the dataset has no sums of single records"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The result of `withdraw`.

    Attributes:
        manifest: the manifest of the newest generation.
        withdrawn: the number of records that were withdrawn.
        earlier: the number of ids that had been withdrawn before.
        unknown: the number of ids that no record has.
    """

    manifest: Manifest
    withdrawn: int
    earlier: int
    unknown: int


def withdraw(place: str, ids: Collection[str], *, ignore_unknown: bool = False) -> Withdrawal:
    """Make a generation without some records. Without any, the dataset stays as it is.

    Args:
        place: the dataset.
        ids: the ids of the records.
        ignore_unknown: whether ids that no record has are counted, and no error.

    Raises:
        UsageError: there is no such dataset, a job holds it, or a record is unknown.
        JobError: the dataset is damaged.
        ShardsError: the dataset is damaged.
    """
    wanted = frozenset(ids)
    with grown(place) as growth:
        gone, found = dict[str, list[int]](), set[str]()
        for split, first, block in each_id(growth):
            if not wanted.isdisjoint(block):
                some = [row for row, id in enumerate(block) if id in wanted]
                gone.setdefault(split, []).extend(first + row for row in some)
                found.update(block[row] for row in some)
        missing = wanted - found
        earlier = _withdrawn_before(growth, missing) if missing else set()
        _check_known(place, missing - earlier, ignore_unknown=ignore_unknown)
        manifest = growth.manifest
        if gone:
            folder = growth.new_folder()
            numbers = {split: np.array(rows, np.int64) for split, rows in gone.items()}
            digest = hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()
            manifest = without(growth, manifest, folder, numbers)
            manifest = replace(manifest, fingerprint=changed_fingerprint(manifest.fingerprint, "withdraw", digest))
            manifest = growth.publish(manifest, "withdraw", folder)
        return Withdrawal(manifest, len(found), len(earlier), len(missing - earlier))


def without(growth: Growth, manifest: Manifest, folder: str, gone: Mapping[str, NDArray[np.int64]]) -> Manifest:
    """A manifest without some records of the dataset as it is. Its new files are written to a folder.

    The fingerprint stays that of the manifest, and so do the generations.

    Args:
        growth: the dataset.
        manifest: the manifest of its newest generation, or one with further records after those.
        folder: the folder of the new generation.
        gone: for each split the numbers of the records, among those that count, rising, int64 `[n]`.
    """
    earlier, files = growth.manifest, growth.files
    before, splits = remaining_of(files, earlier), dict(manifest.splits)
    replaced, lists = set[str](), dict[str, str]()
    for name, numbers in gone.items():
        stored = np.sort(np.concatenate([before[name].withdrawn, before[name].numbers(numbers)]))
        path, data = f"{folder}/withdrawn-{name}.npy", withdrawn_to_bytes(stored)
        files.write(path, [data])
        lists[path] = hashlib.sha256(data).hexdigest()
        if (old := splits[name].withdrawn) is not None:
            replaced.add(old.path)
        splits[name] = replace(
            splits[name],
            records=splits[name].records - len(numbers),
            classes=_fewer(growth, name, splits[name], numbers),
            withdrawn=Withdrawn(records=len(stored), path=path),
        )
    # Of further records, the folder has a table already. The rows of earlier ones come before.
    table = f"{folder}/{PARQUET_NAME}"
    table = f"{folder}/1-{PARQUET_NAME}" if table in manifest.files else table
    if write_table(growth, table, gone):
        replaced |= {*earlier.lists(PARQUET_NAME)}
        lists[table] = files.sha256(table)
    kept = {path: sha256 for path, sha256 in manifest.files.items() if path not in replaced}
    old_files = {path: sha256 for path, sha256 in kept.items() if path in earlier.files}
    manifest = replace(manifest, splits=splits, files={**old_files, **lists, **kept})
    manifest = replace(manifest, counts=replace(manifest.counts, written=manifest.records))
    measured = statistics_split(list(splits))
    return _measured(growth, manifest, measured) if measured in gone else manifest


def _measured(growth: Growth, manifest: Manifest, split: str) -> Manifest:
    """A manifest with the statistics of the records that count."""
    if not manifest.lists(PIXELS_NAME):
        has_warned = manifest.statistics is None or _NO_SUMS in manifest.warnings
        return manifest if has_warned else replace(manifest, warnings=(*manifest.warnings, _NO_SUMS))
    return replace(manifest, statistics=measured_statistics(growth.files, manifest, split))


def _fewer(growth: Growth, name: str, split: Split, gone: NDArray[np.int64]) -> Mapping[str, int] | None:
    """The number of records of each class of a split, without some records."""
    if split.classes is None:
        return None
    with closing(open_dataset(growth.place, name, generation=growth.manifest.generation)) as data:
        names, labels = data.class_names, Counter(_labels(data, gone))
    counts = dict(split.classes)
    for label, number in labels.items():
        key = names[label] if names is not None and 0 <= label < len(names) else str(label)
        counts[key] = counts.get(key, 0) - number
    # Classes with names stay, also without a record; numbers without names are those of records.
    return {key: number for key, number in counts.items() if number or names is not None}


def _labels(data: Dataset, numbers: NDArray[np.int64]) -> list[int]:
    """The labels of some records, or of their objects."""
    name = next((name for name in LABELS if name in data.fields), None)
    if name is None:
        return []
    values = data.column(name, numbers)
    return [int(label) for value in values for label in np.atleast_1d(value)]


def _withdrawn_before(growth: Growth, ids: Collection[str]) -> set[str]:
    """Those of some ids that withdrawn records have."""
    found = set[str]()
    for split, remaining in remaining_of(growth.files, growth.manifest).items():
        if not len(remaining.withdrawn):
            continue
        with closing(open_dataset(growth.place, split, generation=growth.manifest.generation)) as data:
            found.update(id.decode() for id in data.stored_ids(remaining.withdrawn))
    return found & set(ids)


def _check_known(place: str, unknown: Collection[str], *, ignore_unknown: bool) -> None:
    if unknown and not ignore_unknown:
        first = ", ".join(map(printable, sorted(unknown)[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
        raise UsageError(
            f"{place}: {counted(len(unknown), 'id')} that no record has: {first}; correct the file, or leave them out"
            " with --ignore-unknown"
        )
