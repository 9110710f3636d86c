"""`image-shards prepare`: list, plan, run the pipeline, report."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import Interrupted, JobError, LostJobError, UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.options import PrepareOptions
from beam_jobs.plan.duplicates import find
from beam_jobs.plan.fingerprint import check_same, identity
from beam_jobs.plan.listing import Listing, list_input
from beam_jobs.plan.order import Arrangement, Duplicate, arrange, statistics_split
from beam_jobs.plan.tasks import (
    HASH_TASKS_NAME,
    TASKS_NAME,
    ShardTask,
    first_references,
    plan_shards,
    read_tasks,
    shard_count,
)
from beam_jobs.runners.engines import check_engine, run_on_engine, workers_are_elsewhere
from beam_jobs.runners.local import Steps, import_beam_meanwhile, is_local, run_here
from beam_jobs.runners.workers import Workers
from beam_jobs.shards.job import Job, Watcher
from beam_jobs.shards.output import PLAN, Output, Work, claimed, output_directory
from beam_jobs.shards.publish import Publication, check_rejects
from beam_jobs.shards.record import image_fields
from beam_jobs.shards.write import Sample, sample_shard
from beam_jobs.sources.files.interface import Source
from beam_jobs.sources.known import open_source, recognised
from beam_jobs.summary import Progress, dry_run_text, summary
from beam_jobs.terminal import counted, say
from shard_reader.format.manifest import Fingerprint
from shard_reader.storage.open import is_url, local_path

__all__ = ["prepare"]

_HASHED_TOGETHER = 4096  # inputs of one task of the pre-pass
_SAMPLE = 32  # images that tell how large a record will be
_RECORD_OVERHEAD = 128  # bytes of framing and other fields, roughly
_REMOTE_THREADS = 32  # to wait for an object store with: at 50 ms for each image, they keep two CPUs busy
_IN_PROCESS = ("memory:",)  # what only this process sees


def prepare(options: PrepareOptions) -> str:
    """Make the dataset, and return the text that says what was made.

    Raises:
        UsageError: INPUT, OUTPUT or an option does not allow it.
        Interrupted: by Ctrl-C; the message says what is kept.
        JobError: it failed; the message says what is kept.
    """
    began = time.monotonic()
    _check_places(options)
    try:
        found, why = recognised(options.source)
        source = open_source(found)
        if options.dry_run:
            return _dry_run(options, source, why)
        if not is_local(options.beam):
            options = replace(options, beam=check_engine(options.beam))
        with claimed(options.output, overwrite=options.overwrite) as output:
            return _prepare(options, source, why, output, began)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command says what is there, and goes on") from None
    except (JobError, OSError):
        raise
    except Exception as error:
        if is_url(options.source.input) or is_url(options.output):  # each store's library has errors of its own
            raise JobError(f"{type(error).__name__}: {error}") from error
        raise


def _prepare(options: PrepareOptions, source: Source, why: str, output: Output, began: float) -> str:
    finished = output.manifest()
    if finished is not None and not options.overwrite:
        here = identity(list_input(options, source, why, None).fingerprint, options.deciding())
        check_same(identity(finished.fingerprint, finished.options), here, options.output)
        counts = f"{counted(finished.counts.written, 'image')}, {finished.counts.rejected} rejected"
        return f"{options.output}: is finished, nothing to do ({counts})"
    as_it_was, began_anew = "OUTPUT is as it was", False
    try:
        with output.scratch() as scratch, _workers(options) as workers:
            import_beam_meanwhile()
            listing = list_input(options, source, why, Spill(scratch))
            if not options.overwrite:
                left = output.job()
                if left is not None and output.finished():
                    check_same(left, identity(listing.fingerprint, options.deciding()), options.output)
            planned = _plan(options, listing, scratch, workers)
            if options.drop_duplicates:  # beside what is to be overwritten: more may be found to be wrong
                output.begin(identity(listing.fingerprint, options.deciding()))
                dropped = _dropped(options, listing, output, workers, scratch)
                planned = _plan(options, listing, scratch, workers, dropped, planned.sample)
            if options.overwrite:  # whatever could be wrong with what is asked for has been found
                if finished is not None:
                    as_it_was = "the dataset that was in OUTPUT is removed, as --overwrite says"
                output.discard()
            began_anew = True
            output.begin(identity(listing.fingerprint, options.deciding()))
            output.install(planned.files)
            _make(options, planned, output, workers, scratch)
    except (JobError, OSError, KeyboardInterrupt) as error:
        if not isinstance(error, KeyboardInterrupt) or not began_anew or output.manifest() is None:
            _explain(
                error, output, as_it_was, options.overwrite
            )  # an interrupt may come too late: then everything is there
    manifest = output.manifest()
    if manifest is None:
        raise JobError(f"{options.output}: the pipeline ended without a manifest")
    return summary(manifest, options.output, time.monotonic() - began)


def _explain(error: BaseException, output: Output, as_it_was: str, overwrite: bool) -> NoReturn:
    """Raise an error again, with what is kept."""
    if isinstance(error, (UsageError, LostJobError)):
        raise error
    kept = ""
    with contextlib.suppress(Exception):  # a store that is away
        kept = _kept(output, overwrite)
    if isinstance(error, OSError):
        error = JobError(f"{error.filename or output.place}: {error.strerror or error}")
    if isinstance(error, JobError):
        raise JobError(f"{error}\n{kept}".strip()) from error
    raise Interrupted(f"interrupted; {kept or as_it_was}") from None


def _kept(output: Output, overwrite: bool) -> str:
    if output.manifest() is not None:  # of a dataset that is as it was: the work goes
        return ""
    finished, measured, hashed = output.finished(), output.measured(), output.hashed()
    if not finished and not measured and not hashed:
        return ""
    shards = output.planned()
    of = f" of {counted(shards, 'shard')}" if shards else " shards"
    what = f"{finished}{of} finished" if finished else f"{measured}{of} measured"
    if not finished and not measured:
        what = f"{counted(hashed, 'part')} of the inputs hashed"
    command = "the same command without --overwrite" if overwrite else "the same command"
    return f"{what} and kept: {command} goes on from there"


@dataclass(frozen=True, slots=True)
class _Planned:
    """All that is known before anything is written: the plan files are in a folder for what is larger than memory."""

    listing: Listing
    arrangement: Arrangement
    shards: dict[str, int]
    tasks: int
    sample: Callable[[], Sample]

    @property
    def files(self) -> list[Path]:
        """The files of the plan."""
        ordered = [ordered.path for ordered in self.arrangement.ordered.values()]
        return [*ordered, ordered[0].with_name(TASKS_NAME), self.arrangement.rejects]


def _plan(
    options: PrepareOptions,
    listing: Listing,
    scratch: Path,
    workers: Workers | None,
    dropped: Callable[[], Iterator[Duplicate]] = lambda: iter(()),
    sampled: Callable[[], Sample] | None = None,
) -> _Planned:
    """Decide which image goes where; nothing is written but to `scratch`. `sampled` is a sample that was taken before.

    Raises:
        UsageError: an option does not fit INPUT.
        JobError: the listing alone rejects too many, or the sample cannot be taken.
    """
    arrangement = arrange(
        listing.everything(), listing.source, listing.schema, options.split, options.seed, scratch, dropped
    )
    rejected = arrangement.rejected - arrangement.dropped
    check_rejects(rejected, arrangement.first_rejects, listing.inputs.count, options.max_rejects)
    job = _job(options, listing, str(scratch), Work(""))
    split, largest = max(arrangement.ordered.items(), key=lambda item: item[1].records)

    @functools.cache  # one sample for all splits
    def take_sample() -> Sample:
        # Of the images that come first in the order: the same on every run.
        return _sample(first_references(split, largest, _SAMPLE, ""), job, workers)

    sample = sampled or take_sample

    shards = {
        name: shard_count(
            ordered.records, options.shards, largest.records, lambda: sample().record_bytes + _RECORD_OVERHEAD
        )
        for name, ordered in arrangement.ordered.items()
    }
    tasks = plan_shards(arrangement.ordered, shards, scratch, PLAN)
    return _Planned(listing=listing, arrangement=arrangement, shards=shards, tasks=tasks, sample=sample)


def _check_places(options: PrepareOptions) -> None:
    input = options.source.input
    source, target = local_path(input), local_path(options.output)  # paths, or file URLs
    inside = f"{options.output}/".startswith(f"{input}/")
    if source is not None and target is not None:
        inside = target.resolve().is_relative_to(source.resolve())
    if inside:
        raise UsageError(f"OUTPUT {options.output}: lies inside INPUT {input}")
    if is_local(options.beam):
        return
    runner = options.beam["runner"]
    if options.reject_crashers:
        raise UsageError(f"--reject-crashers: is for this machine's processes, not for {runner}")
    if not workers_are_elsewhere(options.beam):
        return
    root = [("--root", options.source.root)] if options.source.root is not None else []
    for name, place in (("INPUT", input), ("OUTPUT", options.output), *root):
        if not is_url(place) or (runner == "DataflowRunner" and place.startswith("file:")):
            shared = "" if runner == "DataflowRunner" else ", or file://... if every worker sees the same path"
            raise UsageError(
                f"{name} {place}: is local, and the workers of {runner} are elsewhere;"
                f" give a URL as gs://bucket/path{shared}"
            )


def _dropped(
    options: PrepareOptions, listing: Listing, output: Output, workers: Workers | None, scratch: Path
) -> Callable[[], Iterator[Duplicate]]:
    """Read and hash every input, and find those to leave out: each that has the bytes of one before it."""
    everything = arrange(
        listing.everything(), listing.source, listing.schema, options.split, options.seed, scratch, together=True
    )
    (ordered,) = everything.ordered.values()
    tasks = max(1, -(-ordered.records // _HASHED_TOGETHER))
    plan_shards(everything.ordered, dict.fromkeys(everything.ordered, tasks), scratch, PLAN, HASH_TASKS_NAME)
    output.install([ordered.path, scratch / HASH_TASKS_NAME])
    job = _job(options, listing, _anywhere(options.output), Work(listing.fingerprint.digest))

    def hash_inputs(pipeline: Any, run: str) -> None:
        from beam_jobs.runners.pipeline import build_hashing

        build_hashing(pipeline, job, run)

    say(f"HashInputs: reads {counted(ordered.records, 'image')}, to find duplicates")
    progress = _progress(options, listing, everything, ordered.records)
    _run(
        options,
        hash_inputs,
        workers,
        tasks,
        progress,
        lambda: f"HashInputs: {output.hashed()} of {tasks} parts done",
        scratch,
    )
    names = [task.name for task in read_tasks(output.files, PLAN + HASH_TASKS_NAME)]
    blocks = (_hashes_in(output.files.read(f"{job.work.hashed}/{name}")) for name in names)
    found = find(blocks, scratch)
    say(f"HashInputs: {counted(len(found.places), 'duplicate')} will be left out")

    def id_at(rank: int) -> str:
        start, end = ordered.starts([rank, rank + 1])
        id: str = json.loads(output.files.read(PLAN + ordered.path.name, start, end))[0]
        return id

    def duplicates() -> Iterator[Duplicate]:
        for place, first in zip(found.places.tolist(), found.firsts.tolist(), strict=True):
            yield Duplicate(place, id_at(first))

    return duplicates


def _hashes_in(data: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)


def _make(options: PrepareOptions, planned: _Planned, output: Output, workers: Workers | None, scratch: Path) -> None:
    """Write the shards of the plan that is in OUTPUT, and publish them."""
    listing = planned.listing
    job = _job(options, listing, _anywhere(options.output), Work(listing.fingerprint.digest))
    publication = _publication(options, planned, job)
    if finished := output.finished():
        say(f"{finished} of {counted(planned.tasks, 'shard')} are finished: they are checked and kept")
    steps = planned.arrangement.planned
    if options.image.normalize == "dataset":
        steps += planned.arrangement.ordered[statistics_split(list(planned.shards))].records

    def write(pipeline: Any, run: str) -> None:
        from beam_jobs.runners.pipeline import build

        build(pipeline, replace(job, threads=threads, decoders=decoders, staging=staging), publication, run)

    threads, decoders = job.threads, job.decoders
    with _staging(output) as staging:
        if is_local(options.beam):
            # More than one thread for each process, so that the last shards still keep every CPU busy.
            processes = min(options.workers, planned.tasks)
            decoders = 1 if options.workers == 1 else max(2, -(-options.workers // processes))
            threads = max(job.threads, decoders)
        _run(
            options,
            write,
            workers,
            planned.tasks,
            _progress(options, listing, planned.arrangement, steps),
            lambda: f"{output.finished()} of {planned.tasks} shards finished",
            scratch,
        )


def _run(
    options: PrepareOptions,
    steps: Steps,
    workers: Workers | None,
    tasks: int,
    progress: Callable[[], Progress],
    how_far: Callable[[], str],
    scratch: Path,
) -> None:
    """Run a pipeline of so many tasks, here or on an engine."""
    if not is_local(options.beam):
        if workers is not None:
            workers.end()
        run_on_engine(steps, options.beam, how_far)
        return
    shown = progress()
    try:
        if workers is not None:
            workers.watcher, workers.count = shown, min(options.workers, tasks)
            workers.start()  # while Beam is being imported
        run_here(steps, options.beam, workers, shown, scratch)
    finally:
        shown.close()


@contextlib.contextmanager
def _workers(options: PrepareOptions) -> Iterator[Workers | None]:
    """The processes of this machine, of which the first starts now, and takes the sample."""
    if _in_process(options):
        yield None
        return
    with Workers(1, Watcher(), options.reject_crashers) as workers:
        workers.start()
        yield workers


def _in_process(options: PrepareOptions) -> bool:
    return options.source.input.startswith(_IN_PROCESS) or options.output.startswith(_IN_PROCESS)


@contextlib.contextmanager
def _staging(output: Output) -> Iterator[str | None]:
    """Where shards are built that are then uploaded: removed at the end, even where processes were killed."""
    if output.files.local is not None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
        yield folder


def _anywhere(place: str) -> str:
    """A place as it can be found from another directory, too."""
    return place if is_url(place) else os.path.abspath(place)


def _job(options: PrepareOptions, listing: Listing, output: str, work: Work) -> Job:
    source, schema = listing.source.options, listing.schema
    root = _anywhere(source.root) if source.root is not None else None
    return Job(
        source=replace(source, input=_anywhere(source.input), root=root),
        output=output,
        work=work,
        image=options.image,
        formats=options.formats,
        fields=image_fields(options.image, schema.fields),
        boxes=schema.boxes,
        points=schema.points,
        count_classes=schema.count_classes,
        threads=_REMOTE_THREADS if is_url(source.input) else 1,
        decoders=2 if is_url(source.input) else 1,
    )


def _publication(options: PrepareOptions, planned: _Planned, job: Job) -> Publication:
    listing = planned.listing
    return Publication(
        output=job.output,
        work=job.work,
        fields=dict(job.fields),
        formats=options.formats,
        splits=tuple(planned.shards),
        class_names=listing.schema.class_names,
        count_classes=job.count_classes,
        seed=options.seed,
        options={**options.to_json(), "kind": job.source.kind, "shard_counts": planned.shards},
        fingerprint=listing.fingerprint,
        ignored=listing.layout.ignored,
        planned=planned.arrangement.planned,
        shards=planned.tasks,
        listing_rejected=planned.arrangement.rejected,
        listing_dropped=planned.arrangement.dropped,
        max_rejects=options.max_rejects,
    )


def _sample(task: ShardTask, job: Job, workers: Workers | None) -> Sample:
    """What some images become, without statistics: in a process of their own, which they may end."""
    plain = replace(job, image=replace(job.image, normalize="none"))
    if workers is None:
        return sample_shard(task, plain, None, Watcher())
    (sample,) = workers.do(sample_shard, [task], plain)
    return sample  # type: ignore[no-any-return]


def _progress(
    options: PrepareOptions, listing: Listing, arrangement: Arrangement, steps: int
) -> Callable[[], Progress]:
    """How to show the progress of so many images, from when it begins."""
    rejected = arrangement.rejected - arrangement.dropped
    return lambda: Progress(steps, listing.inputs.count, rejected, arrangement.first_rejects, options.max_rejects)


def _dry_run(options: PrepareOptions, source: Source, why: str) -> str:
    """The plan, made somewhere else, in words."""
    output = Output(options.output, output_directory(options.output))
    with tempfile.TemporaryDirectory(prefix="image-shards-") as folder, _workers(options) as workers:
        listing = list_input(options, source, why, Spill(Path(folder)))
        planned = _plan(options, listing, Path(folder), workers)
        planned.sample()
    state = _state(output, listing.fingerprint)
    return dry_run_text(options, state, planned.arrangement, planned.shards, listing.schema, planned.sample())


def _state(output: Output, fingerprint: Fingerprint) -> str:
    """What is in OUTPUT now."""
    if output.files.local is not None and output.files.local.is_file():
        return "is a file: nothing could be written there"
    manifest, left = output.manifest(), output.job()
    if manifest is not None:
        same = manifest.fingerprint == fingerprint
        return "holds this dataset, finished" if same else "holds another dataset: --overwrite would replace it"
    if left is not None and output.finished():
        return f"holds {counted(output.finished(), 'finished shard')} of " + (
            "this job, which would be kept"
            if left["fingerprint"] == asdict(fingerprint)
            else "another job: --overwrite would remove them"
        )
    return "is not empty: nothing could be written there" if output.files.names() else "is empty, or not there"
