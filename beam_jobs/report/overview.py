"""The head of the report: what the dataset is, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from beam_jobs.report.classes import Classes
from beam_jobs.report.origin import prepare_command, recognised, without_places
from beam_jobs.terminal import counted, size_text
from shard_reader.format.fields import Field
from shard_reader.format.manifest import Manifest

__all__ = ["Overview", "overview"]

_MOST = 30  # fields, splits, and things left out that are listed


@dataclass(frozen=True, slots=True)
class Overview:
    """The head.

    Attributes:
        title: the dataset in a few words.
        numbers: numbers, each with its noun and the section about it.
        facts: further facts, each with its name.
        command: the command that makes it again, or "".
        splits: for each split its name, records, shards and bytes.
        left_out: everything beside the images that was not read, with the reason.
    """

    title: str
    numbers: tuple[tuple[str, str, str], ...]
    facts: tuple[tuple[str, str], ...]
    command: str
    splits: tuple[tuple[str, int, int, int], ...]
    left_out: tuple[tuple[str, str], ...]


def overview(manifest: Manifest, classes: Classes | None, empty: Mapping[str, int]) -> Overview:
    """The head of the report about a dataset.

    Args:
        empty: the number of records without a value, for each field that may have none.
    """
    records = sum(split.records for split in manifest.splits.values())
    title = f"{records:,} image{'' if records == 1 else 's'}"
    if classes is not None:
        title += f" in {classes.count:,} class{'' if classes.count == 1 else 'es'}"
    return Overview(
        title=title,
        numbers=tuple(_numbers(manifest, classes, records)),
        facts=tuple((name, text) for name, text in [*_facts(manifest), ("Without a value", _empty(empty))] if text),
        command=prepare_command(manifest),
        splits=tuple(
            (name, split.records, len(split.shards), _bytes(manifest, name))
            for name, split in islice(manifest.splits.items(), _MOST)
        ),
        left_out=tuple(
            (without_places(manifest, one.what), without_places(manifest, one.why)) for one in manifest.left_out[:_MOST]
        ),
    )


def _numbers(manifest: Manifest, classes: Classes | None, records: int) -> Iterator[tuple[str, str, str]]:
    counts = manifest.counts
    yield f"{records:,}", "images", "gallery"
    if classes is not None:
        yield f"{classes.count:,}", "classes", "classes"
    yield f"{len(manifest.splits):,}", "splits", "classes"
    yield size_text(sum(_bytes(manifest, name) for name in manifest.splits)), "stored", "sizes"
    yield f"{counts.rejected:,}", "rejected", "rejects"
    yield f"{counts.suspects:,}", "suspects", "rejects"
    yield f"{counts.duplicates:,}", "duplicates", "duplicates"
    if manifest.options.get("near_duplicates"):
        yield f"{counts.near_duplicates:,}", "look alike", "duplicates"


def _bytes(manifest: Manifest, split: str) -> int:
    return sum(map(manifest.splits[split].shards.bytes, manifest.formats))


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "Made by", f"image-shards {manifest.options.get('command', 'prepare')}"
    yield "Source", without_places(manifest, recognised(manifest))
    yield "Layout", without_places(manifest, str(manifest.options.get("layout") or ""))
    yield "Formats", " and ".join(manifest.formats)
    shown = islice(manifest.fields.items(), _MOST)
    more = f" and {len(manifest.fields) - _MOST} more" if len(manifest.fields) > _MOST else ""
    yield "Fields", ", ".join(f"{name} ({_type(field)})" for name, field in shown) + more
    if (found := manifest.statistics) is not None:
        mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (found.mean, found.std))
        unit = "as 0 to 1" if found.scaled else "as they are"
        yield "Pixels", f"mean {mean}, standard deviation {std}, of {found.split}, {unit}"
    if manifest.counts.excluded:
        yield "Excluded", f"{counted(manifest.counts.excluded, 'input')}, as --exclude says"
    if manifest.hosts:
        hosts = ", ".join(f"{name} {host.images:,}" for name, host in islice(manifest.hosts.items(), 10))
        yield "Images from", hosts + (", ..." if len(manifest.hosts) > 10 else "")
    yield "Seed", str(manifest.seed)
    yield "Fingerprint", manifest.fingerprint.digest


def _empty(empty: Mapping[str, int]) -> str:
    lacking = {name: count for name, count in empty.items() if count}
    return ", ".join(f"{name} in {counted(count, 'record')}" for name, count in islice(lacking.items(), _MOST))


def _type(field: Field) -> str:
    shape = f" [{', '.join('*' if size is None else str(size) for size in field.shape)}]" if field.shape else ""
    return ", ".join([f"{field.dtype}{shape}", *filter(None, (field.encoding, field.role))])
