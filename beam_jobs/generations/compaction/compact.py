"""The steps of `image-shards compact`, one after the other: list the records that count, plan, copy, publish.

It is the machinery of `prepare`, with the records of a dataset in place of inputs: the same order, work that is kept
after an interruption, lock and publication. No image is decoded.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from beam_jobs.errors import JobError, UsageError
from beam_jobs.generations.compaction.listing import Listed, list_records
from beam_jobs.generations.growth import Growth, changed_fingerprint
from beam_jobs.metadata.papers import card_of
from beam_jobs.options import ImageOptions, JobOptions, MaxRejects, ShardRule, SplitRule
from beam_jobs.plan.fingerprint import check_same, identity
from beam_jobs.plan.near_duplicates import MOST_DISTANCE
from beam_jobs.plan.order import PlannedInputs
from beam_jobs.plan.tasks import first_references, plan_shards, shard_count
from beam_jobs.runners.engines import check_engine, check_places
from beam_jobs.runners.inline import inline_calls
from beam_jobs.runners.jobs import with_threads
from beam_jobs.runners.local import import_beam_meanwhile, is_local
from beam_jobs.runners.run import add_writing
from beam_jobs.shards.job import Copies, Job
from beam_jobs.shards.lock import Lock
from beam_jobs.shards.output import PLAN, Output, Work, claimed
from beam_jobs.shards.publish import Carried, Publication
from beam_jobs.sources.files.interface import Layout, SourceOptions
from beam_jobs.steps.failures import explained, in_words
from beam_jobs.steps.planner import Run, worker_processes
from beam_jobs.steps.sample import sample_shard
from beam_jobs.steps.summary import Progress
from beam_jobs.steps.tasks import Step, run_tasks
from beam_jobs.terminal import counted, print_status
from beam_jobs.tools.dataset_files import manifest_at
from shard_reader.errors import ShardsError
from shard_reader.format.fields import IMAGE, Field
from shard_reader.format.manifest import Fingerprint, Manifest
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import is_url, local_path

__all__ = ["CompactOptions", "Compacting", "compact_to", "copy_records", "fingerprint_of_compaction"]

COMPACTED: Final = "compacted"
"""The option of a manifest with the number of the generation whose records were copied."""
_SAMPLE: Final = 32  # records that decide the number of shards, as in `prepare`
_RECORD_OVERHEAD: Final = 128
_REMOTE_THREADS: Final = 32
_UNSIZED: Final = ("cover", "inside", "none")  # values of --fit with which images differ in size
_LISTING_SECONDS: Final = 10.0
_TASKS_NAME: Final = "shards.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactOptions:
    """The options of `compact`. `shards` is None for the rule by which the dataset was made."""

    place: str
    workers: int
    shards: ShardRule | None = None
    beam: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compacting:
    """A dataset whose records are to be copied: its place, its directory and the manifest of its newest generation."""

    place: str
    files: Directory
    manifest: Manifest

    def as_growth(self) -> Growth:
        """The dataset, to read it only: there is no lock."""
        return Growth(self.place, self.files, Lock(), self.manifest, b"")

    def rule(self, options: CompactOptions) -> ShardRule:
        """The rule for the number of shards."""
        if options.shards is not None:
            return options.shards
        found = self.manifest.options.get("shards")
        if isinstance(found, Mapping) and found.get("by") in ("shards", "records", "bytes"):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                return ShardRule(by=found["by"], value=max(1, int(found["value"])))
        return ShardRule(by="bytes", value=128_000_000)


def compact_to(options: CompactOptions, target: str) -> str:
    """Make a dataset of the records that count. Returns a line about it.

    Raises:
        UsageError: there is no such dataset, or `target` or an option does not allow it.
        Interrupted: the user pressed Ctrl-C; the message names the work that is kept.
        JobError: the job failed; the message names the work that is kept.
    """
    options = _checked(options, target)
    with in_words(options.place, target):
        files, manifest = manifest_at(options.place)
        dataset = Compacting(options.place, files, manifest)
        check_own(dataset)
        with claimed(target) as output:
            finished = output.manifest()
            if finished is not None:
                here = _identity(dataset, options)
                check_same(identity(finished.fingerprint, finished.options), here, target)
                return f"{target}: is finished, nothing to do ({counted(finished.records, 'record')})"
            began = time.monotonic()
            made = copy_records(dataset, options, output)
            return f"{described(made, target)} in {time.monotonic() - began:.1f} s"


def described(made: Manifest, place: str) -> str:
    """A dataset in words."""
    shards = sum(len(split.shards) for split in made.splits.values())
    return f"{place}: {counted(made.records, 'record')} in {counted(shards, 'shard')}"


def check_own(dataset: Compacting) -> None:
    """Refuse the records of other programs.

    Raises:
        UsageError: other programs wrote the shards.
    """
    if any(field.feature is not None for field in dataset.manifest.fields.values()):
        raise UsageError(f"{dataset.place}: holds TFRecords that others wrote, indexed where they are; prepare them")


def fingerprint_of_compaction(dataset: Compacting, options: CompactOptions) -> Fingerprint:
    """The fingerprint of the dataset that `compact` makes. Its images were encoded by the codecs of before."""
    return changed_fingerprint(dataset.manifest.fingerprint, "compact", asdict(dataset.rule(options)))


def copy_records(dataset: Compacting, options: CompactOptions, output: Output) -> Manifest:
    """Copy the records that count into a place that this process holds, and publish them there.

    Raises:
        Interrupted, JobError: the message names the work that is kept.
    """
    job_options = _job_options(dataset, options, output.place)
    here = _identity(dataset, options)
    with explained(output) as reached, output.scratch() as scratch, worker_processes(job_options) as workers:
        left = output.job()
        if left is not None and output.finished():
            check_same(left, here, output.place)
        import_beam_meanwhile()
        run = Run(job_options, scratch, workers)
        listed = _list(dataset, scratch)
        work = Work(fingerprint_of_compaction(dataset, options).digest)
        job = _job(dataset, job_options, output.place, work, listed)
        shards = _shard_counts(run, listed, dataset.rule(options), job, is_asked=options.shards is not None)
        tasks = plan_shards(listed.ordered, shards, scratch, PLAN)
        reached.begun = True
        output.begin(here)
        ordered = [one.path for one in listed.ordered.values()]
        output.install([*ordered, scratch / _TASKS_NAME, listed.rejects, listed.thumbnails])
        publication = _publication(dataset, options, listed, job, shards, tasks)
        _copy(run, replace(with_threads(job, job_options, tasks), run_id=uuid.uuid4().hex), publication, output)
    manifest = output.manifest()
    if manifest is None:
        raise JobError(f"{output.place}: the pipeline ended without a manifest")
    return manifest


def _checked(options: CompactOptions, target: str) -> CompactOptions:
    """The options, completed for an engine.

    Raises:
        UsageError: the places do not fit each other, or the engine.
    """
    source, inside = local_path(options.place), f"{target}/".startswith(f"{options.place}/")
    if source is not None and (path := local_path(target)) is not None:
        inside = path.resolve().is_relative_to(source.resolve())
    if inside:
        raise UsageError(f"NEW {target}: lies inside of {options.place}; give another place, or --in-place")
    return checked_engine(options, {"OUT": options.place, "NEW": target})


def checked_engine(options: CompactOptions, places: Mapping[str, str]) -> CompactOptions:
    """The options, completed for an engine.

    Raises:
        UsageError: the workers of the engine do not see a place, or an option does not fit.
    """
    if is_local(options.beam):
        return options
    check_places(options.beam, places)
    return replace(options, beam=check_engine(options.beam))


def _identity(dataset: Compacting, options: CompactOptions) -> dict[str, Any]:
    # The options only explain a difference: the fingerprint has all that decides.
    rule = asdict(dataset.rule(options))
    return identity(fingerprint_of_compaction(dataset, options), {"command": "compact", "shards": rule})


def _list(dataset: Compacting, scratch: Path) -> Listed:
    manifest, found, last = dataset.manifest, 0, time.monotonic()

    def on_records(count: int) -> None:
        nonlocal found, last
        found += count
        if time.monotonic() - last >= _LISTING_SECONDS:
            last = time.monotonic()
            print_status(f"{dataset.place}: {found} records found so far")

    try:
        listed = list_records(dataset.as_growth(), scratch, on_records)
    except ShardsError as error:
        raise JobError(f"{error}; `verify` says more") from error
    gone = sum(split.withdrawn.records for split in manifest.splits.values() if split.withdrawn is not None)
    print_status(
        f"{dataset.place}: {counted(manifest.records, 'record')} of generation {manifest.generation}, {gone} withdrawn"
    )
    if not manifest.records:
        raise UsageError(f"{dataset.place}: all records are withdrawn, and a dataset has a record; remove it")
    return listed


def _shard_counts(run: Run, listed: Listed, rule: ShardRule, job: Job, *, is_asked: bool) -> dict[str, int]:
    """The number of shards of each split, as `prepare` would choose it for the same records."""
    split, largest = max(listed.ordered.items(), key=lambda item: item[1].records)
    if rule.by == "shards" and not is_asked:  # of the dataset as it was, of which fewer records may be left
        rule = replace(rule, value=min(rule.value, largest.records))
    record_bytes = 0.0
    if rule.by == "bytes":
        task = first_references(split, largest, _SAMPLE, "")
        sampled = replace(job, output=str(run.scratch.absolute()), work=Work(""))
        if run.workers is None:
            sample = inline_calls.do(sample_shard, task, sampled, None)
        else:
            (sample,) = run.workers.do(sample_shard, [task], sampled)
        record_bytes = sample.record_bytes + _RECORD_OVERHEAD
    return {name: shard_count(one.records, rule, largest.records, record_bytes) for name, one in listed.ordered.items()}


def _copy(run: Run, job: Job, publication: Publication, output: Output) -> None:
    """Copy the shards of the plan that is in the output, and publish them."""
    tasks, records = publication.shards, publication.planned
    if finished := output.finished():
        print_status(f"{finished} of {counted(tasks, 'shard')} are finished: they are checked and kept")
    planned = PlannedInputs({}, Path(), 0, 0, ())
    progress = Progress(records, records, planned, publication.max_rejects)

    with output.staging() as staging:
        add = functools.partial(add_writing, replace(job, staging=staging), publication)
        run_tasks(run, output.lock, add, Step("CopyShards", "shards", tasks, output.finished), progress)


def _job_options(dataset: Compacting, options: CompactOptions, output: str) -> JobOptions:
    """The options of a job of `prepare`, as far as its machinery asks for them."""
    image = dataset.manifest.fields[IMAGE]
    return JobOptions(
        source=SourceOptions(input=dataset.place, kind="records"),
        output=output,
        image=ImageOptions(
            width=1,
            height=1,
            fit="none",
            filter="lanczos",
            encoding=str(image.encoding),
            quality=None,
            dtype=image.dtype,
            normalize="none",
        ),
        formats=dataset.manifest.formats,
        split=SplitRule(),
        shards=dataset.rule(options),
        seed=dataset.manifest.seed,
        workers=options.workers,
        max_rejects=MaxRejects(fraction="1"),
        beam=dict(options.beam),
        dali_index=bool(dataset.manifest.options.get("dali_index")),
    )


def _job(dataset: Compacting, options: JobOptions, output: str, work: Work, listed: Listed) -> Job:
    manifest, is_remote = dataset.manifest, is_url(dataset.place)
    return Job(
        source=options.source,
        output=_anywhere(output),
        work=work,
        image=options.image,
        formats=manifest.formats,
        fields=_fields(manifest),
        boxes={},
        points={},
        count_classes=any(split.classes is not None for split in manifest.splits.values()),
        threads=_REMOTE_THREADS if is_remote else 1,
        decoders=2 if is_remote else 1,
        dali_index=options.dali_index,
        statistics_split=listed.pixels_split,
        copies=Copies(place=_anywhere(dataset.place), generation=manifest.generation, format=manifest.formats[0]),
    )


def _fields(manifest: Manifest) -> dict[str, Field]:
    """The fields of the records, as `prepare` declares them before it has seen the shapes of all images."""
    # A shard of HDF5 depends on them, and the shapes of what remains may be alike where those of all were not.
    image = manifest.options.get("image")
    image = image if isinstance(image, Mapping) else {}
    is_unsized, is_any = str(image.get("fit")) in _UNSIZED, image.get("channels", "rgb") == "keep"

    def declared(field: Field) -> Field:
        if not field.is_image:
            return field
        height, width, channels = field.shape
        sides = (None, None) if is_unsized else (height, width)
        return replace(field, shape=(*sides, None if is_any and field.is_filtered else channels))

    return {name: declared(field) for name, field in manifest.fields.items()}


def _publication(
    dataset: Compacting, options: CompactOptions, listed: Listed, job: Job, shards: Mapping[str, int], tasks: int
) -> Publication:
    manifest = dataset.manifest
    near = manifest.options.get("near_distance")
    layout = Layout(text=str(manifest.options.get("layout", "")), left_out=manifest.left_out, warnings=listed.warnings)
    rule = asdict(dataset.rule(options))
    return Publication(
        output=job.output,
        work=job.work,
        fields=dict(job.fields),
        formats=manifest.formats,
        splits=tuple(manifest.splits),
        class_names=manifest.class_names,
        count_classes=job.count_classes,
        seed=manifest.seed,
        options={**manifest.options, "shards": rule, "shard_counts": dict(shards), COMPACTED: manifest.generation},
        fingerprint=fingerprint_of_compaction(dataset, options),
        layout=layout,
        planned=manifest.records,
        shards=tasks,
        listing_rejected=listed.rejected,
        listing_dropped=listed.rejected,
        max_rejects=MaxRejects(fraction="1"),
        excluded=manifest.counts.excluded,
        card=card_of(dataset.files, manifest),
        # A manifest is data from elsewhere, and the work rises with the distance.
        near_distance=near if isinstance(near, int) and 0 <= near <= MOST_DISTANCE else None,
        statistics_split=listed.pixels_split,
        carried=Carried(
            changed=manifest.counts.changed,
            hosts=manifest.hosts,
            statistics=manifest.statistics if listed.pixels_split is None else None,
            planned=manifest.records + listed.read,
            ignored=manifest.counts.ignored,
        ),
    )


def _anywhere(place: str) -> str:
    """A place as a URL or an absolute path."""
    return place if is_url(place) else os.path.abspath(place)
