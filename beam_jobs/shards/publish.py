"""Making a dataset of finished shards: they get their final names, and the manifest is written last."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from beam_jobs.errors import JobError
from beam_jobs.images.changes import CHANGES
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.metadata.card import Card
from beam_jobs.metadata.papers import name_of, write_papers
from beam_jobs.metadata.parquet import join_parts
from beam_jobs.metadata.pictures import pictures
from beam_jobs.metadata.tfds import metadata_files
from beam_jobs.options import MaxRejects, PrepareOptions
from beam_jobs.plan.duplicates import list_duplicates, list_near_duplicates
from beam_jobs.plan.listing import Listing
from beam_jobs.plan.order import LISTING_REJECTS_NAME, PlannedInputs, statistics_split
from beam_jobs.shards.job import Job
from beam_jobs.shards.output import PLAN, Work
from beam_jobs.shards.record import common_shape
from beam_jobs.shards.thumbnails import chosen
from beam_jobs.shards.written_shard import WrittenShard, hosts_of, rejects_of, suspects_of, thumbnails_of
from beam_jobs.sources.files.interface import DROPPED, Layout, Reject, Suspect, Thumbnail
from shard_reader.errors import ShardsError
from shard_reader.format.fields import Field
from shard_reader.format.manifest import (
    DUPLICATES_NAME,
    MANIFEST_NAME,
    PARQUET_NAME,
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

__all__ = ["Publication", "check_rejects", "publication_of", "publish"]

_HOSTS, _COUNTED_HOSTS = 1000, 100_000  # in the manifest, and in memory
_OTHERS = "..."
_PIECE = 1 << 20  # bytes of a file that are written together


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The values of the manifest that are not in any shard."""

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


def publication_of(
    options: PrepareOptions, listing: Listing, inputs: PlannedInputs, shards: Mapping[str, int], tasks: int, job: Job
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
        shards=tasks,
        listing_rejected=inputs.rejected,
        listing_dropped=inputs.dropped,
        max_rejects=options.max_rejects,
        card=options.card,
    )


def publish(written: Sequence[WrittenShard], publication: Publication) -> None:
    """Make a dataset of every finished shard. Can be called again after an interruption.

    Raises:
        JobError: too many images were rejected, or all of them, or a shard or its files are missing.
    """
    order = {name: number for number, name in enumerate(publication.splits)}
    # An engine may have done a task twice: one result for each shard.
    by_name = {shard.task.name: shard for shard in written}
    shards = sorted(by_name.values(), key=lambda shard: (order[shard.task.split], shard.task.number))
    if len(shards) != publication.shards:
        raise JobError(f"of {publication.shards} shards, {len(shards)} were written; run the command again")
    output = directory(publication.output)
    rejected = publication.listing_rejected + sum(shard.rejected for shard in shards)
    inputs = publication.planned + publication.listing_rejected
    defects = (reject for reject in _rejects(shards, publication, output) if reject.reason not in DROPPED)
    check_rejects(rejected - publication.listing_dropped, defects, inputs, publication.max_rejects)
    if not any(shard.shard.records for shard in shards):
        first = "".join(f"\n  {_named(reject)}" for reject in islice(_rejects(shards, publication, output), 3))
        raise JobError(f"none of {inputs} images can be used, and a dataset has a record. The first:{first}")
    if output.local is not None:
        for shard in shards:
            _rename(shard, output.local, publication.work)
    manifest = replace(_manifest(shards, rejected, publication), hosts=_hosts(shards, publication.work, output))
    manifest = _with_files(manifest, shards, publication, output)
    # A dataset is visible when its manifest is. After a power cut, a manifest on disk must imply the names of the
    # shards on disk, and a removed `_work` the manifest: so the directory is synced before and after.
    text = manifest.to_json().encode()
    write_papers(output, manifest, text, publication.card)
    if output.local is not None:
        sync(output.local)
    output.write(MANIFEST_NAME, [text])
    if output.local is not None:
        sync(output.local)


def _with_files(
    manifest: Manifest, shards: Sequence[WrittenShard], publication: Publication, output: Directory
) -> Manifest:
    """Write the files beside the shards. Returns the manifest with their checksums, and the counts of duplicates."""
    output.write(REJECTS_NAME, map(Reject.to_line, _rejects(shards, publication, output)))
    output.write(SUSPECTS_NAME, map(Suspect.to_line, _suspects(shards, publication.work, output)))
    output.write(THUMBNAILS_NAME, map(Thumbnail.to_line, chosen(_thumbnails(shards, publication.work, output))))
    manifest = _with_duplicates(manifest, output, publication)
    _write_parquet(shards, publication, output)
    others = {**metadata_files(manifest, name_of(output.uri(""))), **_pictures(manifest, publication.output)}
    for name, data in others.items():
        output.write(name, [data])
    names = (REJECTS_NAME, SUSPECTS_NAME, DUPLICATES_NAME, THUMBNAILS_NAME, PARQUET_NAME, *others)
    return replace(manifest, files={name: output.sha256(name) for name in names})


def check_rejects(count: int, first: Iterable[Reject], inputs: int, limit: MaxRejects) -> None:
    """Check the number of rejects against the limit.

    Raises:
        JobError: there are too many; the message names the first few.
    """
    bound = limit.of(inputs)
    if count > bound:
        named = "".join(f"\n  {_named(reject)}" for reject in islice(first, 3))
        raise JobError(
            f"of {inputs} images, at least {count} cannot be used; --max-rejects allows {bound}. The first:{named}\n"
            "Repair or remove them, or allow more; with --max-rejects 1.0, rejects.jsonl will list them all."
        )


def _named(reject: Reject) -> str:
    return f"{printable(reject.uri)}: {reject.reason}: {printable(reject.message)}"


def _rename(shard: WrittenShard, output: Path, work: Work) -> None:
    """Give the files of a shard their final names, unless an earlier call has done so."""
    names = [name for file in shard.shard.files.values() for name in (file.path, index_name(file.path))]
    for name in (*names, *(name for name in shard.beside if name != PARQUET_NAME)):
        source = output / work.shards / shard.task.name / name
        if source.exists():
            os.replace(source, output / name)
        elif not (output / name).exists():
            raise JobError(f"{source}: is gone; run the command again")


def _rejects(shards: Iterable[WrittenShard], publication: Publication, output: Directory) -> Iterator[Reject]:
    yield from map(Reject.from_line, output.lines(PLAN + LISTING_REJECTS_NAME))
    for shard in shards:
        if shard.rejected:
            yield from rejects_of(shard.task, publication.work, output)


def _suspects(shards: Iterable[WrittenShard], work: Work, output: Directory) -> Iterator[Suspect]:
    for shard in shards:
        if shard.suspects:
            yield from suspects_of(shard.task, work, output)


def _thumbnails(shards: Iterable[WrittenShard], work: Work, output: Directory) -> Iterator[tuple[int, Thumbnail]]:
    for shard in shards:
        if shard.thumbnails:
            yield from thumbnails_of(shard.task, work, output)


def _hosts(shards: Iterable[WrittenShard], work: Work, output: Directory) -> dict[str, Host]:
    """The web servers with the most images, and the others together as "..."."""
    found: dict[str, tuple[int, int]] = {}
    for shard in shards:
        for host, (images, size) in hosts_of(shard.task, work, output).items() if shard.hosts else ():
            before = found.get(host, (0, 0))
            found[host] = before[0] + images, before[1] + size
        if len(found) > _COUNTED_HOSTS:
            found = _largest(found, _COUNTED_HOSTS // 2)
    return {host: Host(images=images, bytes=size) for host, (images, size) in _largest(found, _HOSTS).items()}


def _largest(hosts: Mapping[str, tuple[int, int]], count: int) -> dict[str, tuple[int, int]]:
    """The hosts with the most images, sorted by that, and the sum of the others."""
    ordered = sorted((host for host in hosts if host != _OTHERS), key=lambda host: (-hosts[host][0], host))
    others = [hosts[host] for host in [*ordered[count:], *hosts.keys() & {_OTHERS}]]
    rest = {_OTHERS: (sum(images for images, _ in others), sum(size for _, size in others))} if others else {}
    return {host: hosts[host] for host in ordered[:count]} | rest


def _with_duplicates(manifest: Manifest, output: Directory, publication: Publication) -> Manifest:
    """List the records with the same bytes, and those that look alike. Returns the manifest with their counts."""
    counts, warnings = Counter[str](), list[str]()

    def lines(scratch: Path) -> Iterator[bytes]:
        found = list_duplicates(manifest, output, scratch)
        if publication.near_distance is not None:
            near = list_near_duplicates(manifest, output, scratch, publication.near_distance, warnings.append)
            found = chain(found, near)
        for line in found:
            kind = "near_" if line["near"] else ""
            counts[f"{kind}duplicates"] += 1
            counts[f"{kind}leaks"] += line["leak"]
            counts[f"{kind}contradictions"] += line["contradiction"]
            yield json.dumps(line).encode() + b"\n"

    with _scratch(output, publication.work) as scratch:
        output.write(DUPLICATES_NAME, lines(scratch))
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


def _write_parquet(shards: Sequence[WrittenShard], publication: Publication, output: Directory) -> None:
    """Join the rows of all shards to one table."""
    with _scratch(output, publication.work) as scratch:
        parts = _parts(shards, publication.work, output, scratch)
        joined = scratch / PARQUET_NAME
        join_parts(joined, parts, publication.fields, publication.class_names)
        with joined.open("rb") as file:
            output.write(PARQUET_NAME, iter(functools.partial(file.read, _PIECE), b""))


def _pictures(manifest: Manifest, place: str) -> dict[str, bytes]:
    try:
        return pictures(manifest, place)
    except ShardsError as error:  # between the writing and the reading, a disk or a store failed
        raise JobError(f"{error}; run the command again") from error


def _parts(shards: Iterable[WrittenShard], work: Work, output: Directory, scratch: Path) -> Iterator[tuple[str, Path]]:
    """The split and the rows of each shard: those of a store are copied, one after the other."""
    for shard in shards:
        name = f"{work.shards}/{shard.task.name}/{PARQUET_NAME}"
        if output.local is not None:
            yield shard.task.split, output.local / name
        else:
            (scratch / "part").write_bytes(output.read(name))
            yield shard.task.split, scratch / "part"


@contextlib.contextmanager
def _scratch(output: Directory, work: Work) -> Iterator[Path]:
    # On OUTPUT's disk, where `_work` goes with all that a process that is killed leaves in it.
    with tempfile.TemporaryDirectory(dir=output.local and output.local / work.attempts) as scratch:
        yield Path(scratch)


def _classes(shards: Sequence[WrittenShard], class_names: tuple[str, ...] | None) -> dict[str, int] | None:
    """Number of records of each class."""
    counts = sum((Counter(shard.classes) for shard in shards), Counter[int]())
    if class_names is not None:
        return {name: counts[number] for number, name in enumerate(class_names)}
    return {str(number): counts[number] for number in sorted(counts)} or None


def _manifest(shards: Sequence[WrittenShard], rejected: int, publication: Publication) -> Manifest:
    splits = {}
    for name in publication.splits:
        own = [shard for shard in shards if shard.task.split == name]
        splits[name] = Split(
            records=sum(shard.shard.records for shard in own),
            shards=ShardTable.of(shard.shard for shard in own),
            classes=_classes(own, publication.class_names) if publication.count_classes else None,
        )
    return Manifest(
        fields=_seen_fields(shards, publication.fields),
        formats=publication.formats,
        splits=splits,
        class_names=publication.class_names,
        statistics=_statistics(shards, publication.splits),
        counts=Counts(
            ignored=publication.layout.ignored,
            planned=publication.planned,
            written=sum(split.records for split in splits.values()),
            rejected=rejected,
            suspects=sum(shard.suspects for shard in shards),
            excluded=publication.excluded,
            changed=_changed(shards),
        ),
        seed=publication.seed,
        options=publication.options,
        fingerprint=publication.fingerprint,
        left_out=publication.layout.left_out,
        warnings=publication.layout.warnings,
    )


def _seen_fields(shards: Iterable[WrittenShard], fields: dict[str, Field]) -> dict[str, Field]:
    """The fields, with the shape that all images have: what was seen decides, and not an option."""
    seen = functools.reduce(common_shape, (shard.shape for shard in shards))
    return fields if seen is None else fields | {"image": replace(fields["image"], shape=seen)}


def _changed(shards: Iterable[WrittenShard]) -> dict[str, int]:
    changed = sum((Counter(shard.changed) for shard in shards), Counter[str]())
    return {kind: changed[kind] for kind in CHANGES if changed[kind]}


def _statistics(shards: Iterable[WrittenShard], splits: Sequence[str]) -> Statistics | None:
    split = statistics_split(splits)
    sums = sum((shard.sums for shard in shards if shard.task.split == split), ChannelSums())
    if sums.pixels == 0 or sums.mixed:
        return None
    mean, std = sums.mean_std()
    return Statistics(split=split, pixels=sums.pixels, mean=mean, std=std)
