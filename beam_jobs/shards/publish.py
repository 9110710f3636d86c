"""Making a dataset of finished shards: they get their final names, and the manifest is written last."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from beam_jobs.errors import JobError
from beam_jobs.images.changes import CHANGES
from beam_jobs.images.measures.statistics import ChannelSums, statistics_of
from beam_jobs.metadata.card import Card
from beam_jobs.metadata.papers import name_of, write_papers
from beam_jobs.metadata.parquet import PART_NAME, join_parts
from beam_jobs.metadata.pictures import pictures
from beam_jobs.metadata.tfds import metadata_files
from beam_jobs.options import JobOptions, MaxRejects
from beam_jobs.parallel import in_order, readers_of
from beam_jobs.plan.duplicates import Part, Records, list_duplicates, list_near_duplicates
from beam_jobs.plan.listing import Listing
from beam_jobs.plan.order import LISTING_REJECTS_NAME, PlannedInputs
from beam_jobs.plan.schema.base import NothingToAdd
from beam_jobs.plan.schema.earlier import REPLACED_NAME, earlier_part
from beam_jobs.plan.tasks import TASKS_NAME, ShardTask, read_tasks, task_name
from beam_jobs.shards.job import Job
from beam_jobs.shards.output import PLAN, Work
from beam_jobs.shards.written_shard import AllShards, each_written, part_path
from beam_jobs.sources.files.interface import Layout, Reject, Thumbnail
from shard_reader.errors import ShardsError
from shard_reader.format.fields import Field
from shard_reader.format.manifest import (
    DUPLICATES_NAME,
    MANIFEST_NAME,
    PARQUET_NAME,
    PIXELS_NAME,
    REJECTS_NAME,
    SUSPECTS_NAME,
    THUMBNAILS_NAME,
    Counts,
    Fingerprint,
    Host,
    Manifest,
    ShardTable,
    Split,
    Statistics,
    index_name,
)
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory
from shard_reader.storage.local import sync
from shard_reader.storage.open import directory

__all__ = ["Carried", "Publication", "check_rejects", "named", "publication_of", "publish"]

_PIECE = 1 << 20  # bytes of a file that are written together


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Values of another dataset, whose records are copied: no image tells them again.

    Its thumbnails are in the plan. `statistics` are those where the sums of each image are not known. `planned` and
    `ignored` are counts of the manifest.
    """

    changed: Mapping[str, int]
    hosts: Mapping[str, Host]
    statistics: Statistics | None
    planned: int
    ignored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The values of the manifest that are not in any shard. `base` is the dataset that they are added to, if any."""

    output: str
    work: Work
    fields: dict[str, Field]
    formats: tuple[str, ...]
    splits: tuple[str, ...]
    class_names: tuple[str, ...] | None
    count_classes: bool
    seed: int
    options: dict[str, Any]
    fingerprint: Fingerprint
    layout: Layout
    planned: int
    shards: int
    listing_rejected: int
    listing_dropped: int
    max_rejects: MaxRejects
    card: Card = field(default_factory=Card)
    excluded: int = 0
    near_distance: int | None = None
    carried: Carried | None = None
    statistics_split: str | None = None
    base: str | None = None
    skipped: int = 0


def publication_of(
    options: JobOptions, listing: Listing, inputs: PlannedInputs, shards: Mapping[str, int], tasks: int, job: Job
) -> Publication:
    """The values of the manifest that are known before the first shard.

    Args:
        options: the options of the command.
        listing: the listing of INPUT.
        inputs: the inputs of the plan.
        shards: the number of shards of each split.
        tasks: the number of all shards.
        job: the job that writes them.
    """
    return Publication(
        output=job.output,
        work=job.work,
        fields=dict(job.fields),
        formats=options.formats,
        splits=tuple(shards),
        class_names=listing.schema.class_names,
        count_classes=job.count_classes,
        seed=options.seed,
        options={
            **options.to_json(),
            "kind": job.source.kind,
            "why": listing.why,
            "layout": listing.layout.text,
            "shard_counts": shards,
        },
        fingerprint=listing.fingerprint,
        layout=listing.layout,
        planned=inputs.planned,
        excluded=listing.inputs.excluded,
        near_distance=options.near_distance,
        statistics_split=job.statistics_split,
        base=None if listing.base is None else job.output.rpartition("/")[0],
        shards=tasks,
        listing_rejected=inputs.rejected,
        listing_dropped=inputs.dropped,
        max_rejects=options.max_rejects,
        card=options.card,
    )


def publish(publication: Publication) -> None:
    """Make a dataset of the finished shards of the plan in OUTPUT. Can be called again after an interruption.

    Raises:
        JobError: too many images were rejected, or all of them, or a shard or its files are missing.
    """
    output = directory(publication.output)
    with _scratch(output, publication.work) as scratch:
        # The descriptions of all shards are in OUTPUT, and not in memory: the class counts alone may be gigabytes.
        shards = AllShards(
            each_written(read_tasks(output, PLAN + TASKS_NAME), publication.work, output),
            publication.splits,
            output.lines(PLAN + LISTING_REJECTS_NAME),
            scratch,
        )
        _check(shards, publication)
        if output.local is not None:
            _rename(shards, publication, output.local)
        manifest = _with_files(_manifest(shards, publication), shards, publication, output, scratch)
    # A dataset is visible when its manifest is. After a power cut, a manifest on disk must imply the names of the
    # shards on disk, and a removed `_work` the manifest: so the directory is synced before and after.
    text = manifest.to_json().encode()
    write_papers(output, manifest, text, publication.card)
    if output.local is not None:
        sync(output.local)
    output.write(MANIFEST_NAME, [text])
    if output.local is not None:
        sync(output.local)


def _check(shards: AllShards, publication: Publication) -> None:
    """Check that there are enough shards, images and usable inputs, before anything gets its name."""
    found = sum(map(len, shards.shards.values()))
    if found != publication.shards:
        raise JobError(f"of {publication.shards} shards, {found} were written; run the command again")
    rejected = publication.listing_rejected + shards.rejected
    inputs = publication.planned + publication.listing_rejected
    check_rejects(rejected - publication.listing_dropped, shards.first_defects, inputs, publication.max_rejects)
    if not any(shard.records for split in shards.shards.values() for shard in split):
        if publication.base is not None:
            raise NothingToAdd(rejected - publication.listing_dropped, "".join(map(named, shards.first_defects[:1])))
        first = "".join(f"\n  {named(reject)}" for reject in shards.first)
        raise JobError(f"none of {inputs} images can be used, and a dataset has a record. The first:{first}")


def _with_files(
    manifest: Manifest, shards: AllShards, publication: Publication, output: Directory, scratch: Path
) -> Manifest:
    """Write the files beside the shards. Returns the manifest with their checksums, and the counts of duplicates."""
    for path in shards.lists:
        output.write(path.name, _pieces(path))
    lines = map(Thumbnail.to_line, shards.thumbnails)
    output.write(THUMBNAILS_NAME, lines if publication.carried is None else output.lines(PLAN + THUMBNAILS_NAME))
    manifest = _with_duplicates(manifest, output, publication, scratch)
    _write_parquet(publication, output, scratch)
    _write_pixels(publication, output)
    others = {**metadata_files(manifest, name_of(output.uri(""))), **_pictures(manifest, publication.output)}
    for name, data in others.items():
        output.write(name, [data])
    names = [REJECTS_NAME, SUSPECTS_NAME, DUPLICATES_NAME, THUMBNAILS_NAME, PARQUET_NAME, *others]
    names += [PIXELS_NAME] if publication.statistics_split is not None else []
    return replace(manifest, files={name: output.sha256(name) for name in names})


def check_rejects(count: int, first: Iterable[Reject], inputs: int, limit: MaxRejects) -> None:
    """Check the number of rejects against the limit.

    Raises:
        JobError: there are too many; the message names the first few.
    """
    bound = limit.of(inputs)
    if count > bound:
        shown = "".join(f"\n  {named(reject)}" for reject in islice(first, 3))
        raise JobError(
            f"of {inputs} images, at least {count} cannot be used; --max-rejects allows {bound}. The first:{shown}\n"
            "Repair or remove them, or allow more; with --max-rejects 1.0, rejects.jsonl will list them all."
        )


def named(reject: Reject) -> str:
    """An input that cannot be used, with the reason."""
    return f"{printable(reject.uri)}: {reject.reason}: {printable(reject.message)}"


def _rename(shards: AllShards, publication: Publication, output: Path) -> None:
    """Give the files of all shards their final names, unless an earlier call has done so."""
    finished = f"{output}/{publication.work.shards}"
    for split, found in shards.shards.items():
        for number, (shard, beside) in enumerate(zip(found, shards.beside[split], strict=True)):
            folder = f"{finished}/{task_name(split, number, len(found))}"
            for name in (
                *(name for file in shard.files.values() for name in (file.path, index_name(file.path))),
                *beside,
            ):
                try:
                    os.replace(f"{folder}/{name}", f"{output}/{name}")
                except FileNotFoundError:
                    if not os.path.exists(f"{output}/{name}"):
                        raise JobError(f"{folder}/{name}: is gone; run the command again") from None


def _with_duplicates(manifest: Manifest, output: Directory, publication: Publication, scratch: Path) -> Manifest:
    """List the records with the same bytes, and those that look alike. Returns the manifest with their counts."""
    counts, warnings = Counter[str](), list[str]()

    def lines() -> Iterator[bytes]:
        records = Records([*_earlier(publication, output), Part(manifest, output, {})])
        first = records.starts[-2]
        found = list_duplicates(records, scratch, first)
        if publication.near_distance is not None:
            near = list_near_duplicates(records, scratch, publication.near_distance, warnings.append, first)
            found = chain(found, near)
        for line in found:
            kind = "near_" if line["near"] else ""
            counts[f"{kind}duplicates"] += 1
            counts[f"{kind}leaks"] += line["leak"]
            counts[f"{kind}contradictions"] += line["contradiction"]
            yield json.dumps(line).encode() + b"\n"

    output.write(DUPLICATES_NAME, lines())
    found = replace(
        manifest.counts,
        duplicates=counts["duplicates"],
        leaks=counts["leaks"],
        contradictions=counts["contradictions"],
        near_duplicates=counts["near_duplicates"],
        near_leaks=counts["near_leaks"],
        near_contradictions=counts["near_contradictions"],
    )
    return replace(manifest, counts=found, warnings=(*manifest.warnings, *warnings))


def _earlier(publication: Publication, output: Directory) -> list[Part]:
    """The records of the dataset that the new ones are added to."""
    if publication.base is None:
        return []
    return [earlier_part(publication.base, output.read(PLAN + REPLACED_NAME))]


def _write_parquet(publication: Publication, output: Directory, scratch: Path) -> None:
    """Join the rows of all shards to one table."""
    joined = scratch / PARQUET_NAME

    def read(task: ShardTask) -> tuple[str, bytes]:
        return task.split, output.read(part_path(PART_NAME, task, publication.work, output))

    parts = in_order(read, read_tasks(output, PLAN + TASKS_NAME), readers_of(output))
    join_parts(joined, parts, publication.fields, publication.class_names)
    output.write(PARQUET_NAME, _pieces(joined))


def _write_pixels(publication: Publication, output: Directory) -> None:
    """Join the sums of the records of all shards to one list."""
    split = publication.statistics_split
    if split is None:  # records that are copied, whose sums are not known
        return

    def read(task: ShardTask) -> bytes:
        return output.read(part_path(PIXELS_NAME, task, publication.work, output))

    tasks = (task for task in read_tasks(output, PLAN + TASKS_NAME) if task.split == split)
    output.write(PIXELS_NAME, in_order(read, tasks, readers_of(output)))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(functools.partial(file.read, _PIECE), b"")


def _pictures(manifest: Manifest, place: str) -> dict[str, bytes]:
    try:
        return pictures(manifest, place)
    except ShardsError as error:  # between the writing and the reading, a disk or a store failed
        raise JobError(f"{error}; run the command again") from error


@contextlib.contextmanager
def _scratch(output: Directory, work: Work) -> Iterator[Path]:
    # On OUTPUT's disk, where `_work` goes with all that a process that is killed leaves in it.
    with tempfile.TemporaryDirectory(dir=output.local and output.local / work.attempts) as scratch:
        yield Path(scratch)


def _classes(counts: Mapping[int, int], class_names: tuple[str, ...] | None) -> dict[str, int] | None:
    """Number of records of each class, by its name, from those by its number; None for a split without labels."""
    if class_names is not None and counts and all(number < 0 for number in counts):
        return None
    if class_names is not None:
        return {name: counts.get(number, 0) for number, name in enumerate(class_names)}
    return {str(number): count for number, count in counts.items()} or None


def _manifest(shards: AllShards, publication: Publication) -> Manifest:
    classes = shards.classes
    splits = {
        name: Split(
            records=sum(shard.records for shard in found),
            shards=ShardTable.of(found),
            classes=_classes(classes[name], publication.class_names) if publication.count_classes else None,
        )
        for name, found in shards.shards.items()
    }
    fields = publication.fields
    # The shape that all images have: what was seen decides, and not an option.
    fields = {**fields, **{name: replace(fields[name], shape=shape) for name, shape in shards.shapes.items()}}
    carried = publication.carried or Carried(
        changed=shards.changed,
        hosts=shards.hosts,
        statistics=None,
        planned=publication.planned,
        ignored=publication.layout.ignored,
    )
    split = publication.statistics_split
    measured = None if split is None else statistics_of(split, shards.sums.get(split, ChannelSums()))
    return Manifest(
        fields=fields,
        formats=publication.formats,
        splits=splits,
        class_names=publication.class_names,
        statistics=measured or carried.statistics,
        counts=Counts(
            ignored=carried.ignored,
            planned=carried.planned,
            written=sum(split.records for split in splits.values()),
            rejected=publication.listing_rejected + shards.rejected,
            suspects=shards.suspects,
            excluded=publication.excluded,
            skipped=publication.skipped,
            changed={kind: carried.changed[kind] for kind in CHANGES if carried.changed.get(kind)},
        ),
        seed=publication.seed,
        options={**publication.options, **_normalization(publication, shards)},
        fingerprint=publication.fingerprint,
        left_out=publication.layout.left_out,
        warnings=publication.layout.warnings,
        hosts=carried.hosts,
    )


def _normalization(publication: Publication, shards: AllShards) -> dict[str, Any]:
    """The sums with whose mean and deviation pixels are normalized: those of a later generation may be others."""
    if publication.carried is not None:
        return {}
    if publication.options.get("image", {}).get("normalize") != "dataset" or publication.statistics_split is None:
        return {}
    return {"normalization": asdict(shards.sums[publication.statistics_split])}
