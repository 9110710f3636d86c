"""The manifest of a dataset after new records: of all shards, with the counts and the statistics of all that counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace

from beam_jobs.generations.growth import changed_fingerprint
from beam_jobs.images.measures.statistics import ChannelSums, statistics_of
from shard_reader.format.fields import Field
from shard_reader.format.manifest import Counts, Host, LeftOut, Manifest, Split, Statistics
from shard_reader.format.shard_table import FileColumns, ShardTable

__all__ = ["combined"]

_MOST_HOSTS = 1000


def combined(before: Manifest, added: Manifest, folder: str) -> Manifest:
    """The manifest of a dataset and of the records in a folder of it. Statistics that need all records are left out.

    Args:
        before: the manifest of the dataset.
        added: the manifest in the folder.
        folder: the name of the folder.
    """
    names = before.class_names if added.class_names is None else added.class_names
    splits = {
        name: _split(split, added.splits.get(name), folder, names, before.class_names)
        for name, split in before.splits.items()
    }
    what = asdict(added.fingerprint)
    return replace(
        before,
        fields={name: _common(field, added.fields[name]) for name, field in before.fields.items()},
        splits=splits,
        class_names=names,
        statistics=_added_statistics(before.statistics, added),
        counts=_counts(before.counts, added.counts),
        fingerprint=changed_fingerprint(before.fingerprint, "append", what, added.fingerprint.codecs),
        left_out=_left_out(before, added),
        warnings=(*before.warnings, *(one for one in added.warnings if one not in before.warnings)),
        files={**before.files, **{f"{folder}/{name}": sha256 for name, sha256 in added.files.items()}},
        hosts=_hosts(before.hosts, added.hosts),
    )


def _split(
    before: Split, added: Split | None, folder: str, names: tuple[str, ...] | None, old: tuple[str, ...] | None
) -> Split:
    classes = before.classes
    if classes is not None and names is not None:
        classes = {name: classes.get(name, 0) for name in names}
    if added is None:
        return replace(before, classes=classes)
    return replace(
        before,
        records=before.records + added.records,
        shards=_table(before.shards, added.shards, folder),
        classes=_classes(classes, added.classes, names),
    )


def _classes(
    one: Mapping[str, int] | None, other: Mapping[str, int] | None, names: tuple[str, ...] | None
) -> dict[str, int] | None:
    if names is None and (one is None or other is None):
        return None  # too many different numbers to count them
    if one is None and other is None:
        return None
    both = [one or {}, other or {}]
    order = list(names) if names is not None else sorted({*both[0], *both[1]}, key=int)
    return {name: sum(counts.get(name, 0) for counts in both) for name in order}


def _table(before: ShardTable, added: ShardTable, folder: str) -> ShardTable:
    records = [*before.records.tolist(), *added.records.tolist()]
    if not len(before):
        return ShardTable(records, {format: _moved(columns, folder) for format, columns in added.files.items()})
    files = {format: _joined(columns, _moved(added.files[format], folder)) for format, columns in before.files.items()}
    return ShardTable(records, files)


def _moved(columns: FileColumns, folder: str) -> FileColumns:
    return replace(columns, path=[f"{folder}/{path}" for path in columns.path])


def _joined(one: FileColumns, other: FileColumns) -> FileColumns:
    """The columns of the files of two tables."""
    checksums = None
    if one.index_crc32c is not None and other.index_crc32c is not None:
        checksums = [*one.index_crc32c, *other.index_crc32c]
    is_replaced, count = one.replaced_index is not None, len(other.path)
    return FileColumns(
        path=[*one.path, *other.path],
        bytes=[*one.bytes, *other.bytes],
        sha256=one.sha256 + other.sha256,
        index_sha256=one.index_sha256 + other.index_sha256,
        index_crc32c=checksums,
        replaced_index=[*(one.replaced_index or ()), *[""] * count] if is_replaced else None,
        index_values=[*(one.index_values or ()), *[0] * count] if is_replaced else None,
    )


def _common(one: Field, other: Field) -> Field:
    """A field whose sizes are those that all its images have."""
    if not one.is_image:
        return one
    return replace(one, shape=tuple(a if a == b else None for a, b in zip(one.shape, other.shape, strict=True)))


def _added_statistics(before: Statistics | None, added: Manifest) -> Statistics | None:
    """The statistics of both, from their sums; None if these are not known."""
    if before is None or before.sums is None:
        return None
    if before.split not in added.splits or not added.splits[before.split].records:
        return before
    here = added.statistics
    if here is None or here.sums is None:
        return None
    sums = (
        ChannelSums(one.pixels, one.sums.total, one.sums.squares, one.sums.peak)
        for one in (before, here)
        if one.sums is not None
    )
    return statistics_of(before.split, sum(sums, ChannelSums()))


def _counts(one: Counts, other: Counts) -> Counts:
    """The sums of all numbers."""
    total = {
        found.name: getattr(one, found.name) + getattr(other, found.name)
        for found in fields(Counts)
        if found.name != "changed"
    }
    kinds = {*one.changed, *other.changed}
    order = sorted(kinds, key=[*one.changed, *other.changed].index)
    return Counts(**total, changed={kind: one.changed.get(kind, 0) + other.changed.get(kind, 0) for kind in order})


def _left_out(before: Manifest, added: Manifest) -> tuple[LeftOut, ...]:
    files: dict[tuple[str, str], int] = {}
    for one in (*before.left_out, *added.left_out):
        files[one.what, one.why] = files.get((one.what, one.why), 0) + one.files
    return tuple(LeftOut(what=what, why=why, files=count) for (what, why), count in files.items())


def _hosts(one: Mapping[str, Host], other: Mapping[str, Host]) -> dict[str, Host]:
    """The hosts with the most images, and the others together as "..."."""
    found = dict(one)
    for name, host in other.items():
        seen = found.get(name, Host(images=0, bytes=0))
        found[name] = Host(images=seen.images + host.images, bytes=seen.bytes + host.bytes)
    ordered = sorted((name for name in found if name != "..."), key=lambda name: (-found[name].images, name))
    rest = [found[name] for name in [*ordered[_MOST_HOSTS:], *found.keys() & {"..."}]]
    others = {"...": Host(images=sum(h.images for h in rest), bytes=sum(h.bytes for h in rest))} if rest else {}
    return {name: found[name] for name in ordered[:_MOST_HOSTS]} | others
