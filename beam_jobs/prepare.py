"""`image-shards prepare`: list, plan, run the pipeline, report."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from beam_jobs import plan
from beam_jobs.commit import Publication, check_rejects
from beam_jobs.engines import check_engine, run_on_engine, workers_are_elsewhere
from beam_jobs.errors import Interrupted, JobError, LostJobError, UsageError
from beam_jobs.identity import check_same, fingerprint_of, identity
from beam_jobs.options import PrepareOptions
from beam_jobs.output import PLAN, Output, Work, claimed, output_directory
from beam_jobs.pool import Workers
from beam_jobs.report import Progress, counted, dry_run_text, summary
from beam_jobs.run import import_beam_meanwhile, is_local, run_here
from beam_jobs.say import say
from beam_jobs.sources import Layout, Source
from beam_jobs.sources.folder import Folder
from beam_jobs.spill import Spill
from beam_jobs.write import Job, Sample, Watcher, image_fields, sample_shard
from shard_reader.format import Fingerprint
from shard_reader.storage import is_url, local_path

__all__ = ["prepare"]

_SAMPLE = 32  # images that tell how large a record will be
_RECORD_OVERHEAD = 128  # bytes of framing and other fields, roughly
_REMOTE_THREADS = 16  # to wait for an object store with
_LISTING_SECONDS = 10.0
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
        source = Folder(options.input)
        if options.dry_run:
            return _dry_run(options, source)
        if not is_local(options.beam):
            options = replace(options, beam=check_engine(options.beam))
        with claimed(options.output, overwrite=options.overwrite) as output:
            return _prepare(options, source, output, began)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command says what is there, and goes on") from None
    except (JobError, OSError):
        raise
    except Exception as error:
        if is_url(options.input) or is_url(options.output):  # each store's library has errors of its own
            raise JobError(f"{type(error).__name__}: {error}") from error
        raise


def _prepare(options: PrepareOptions, source: Source, output: Output, began: float) -> str:
    finished = output.manifest()
    if finished is not None and not options.overwrite:
        inputs, _ = _list(options, source, None)
        here = identity(fingerprint_of(options, inputs), options.deciding())
        check_same(identity(finished.fingerprint, finished.options), here, options.output)
        counts = f"{counted(finished.counts.written, 'image')}, {finished.counts.rejected} rejected"
        return f"{options.output}: is finished, nothing to do ({counts})"
    as_it_was, began_anew = "OUTPUT is as it was", False
    try:
        with output.scratch() as scratch, _workers(options) as workers:
            import_beam_meanwhile()
            planned = _plan(options, source, scratch, workers, output)
            if options.overwrite:  # whatever could be wrong with what is asked for has been found
                if finished is not None:
                    as_it_was = "the dataset that was in OUTPUT is removed, as --overwrite says"
                output.discard()
            began_anew = True
            output.begin(identity(planned.fingerprint, options.deciding()))
            output.install([*{part.ordered.path for part in planned.parts}, *planned.others])
            _make(options, planned, output, workers, scratch)
    except (JobError, OSError, KeyboardInterrupt) as error:
        if not isinstance(error, KeyboardInterrupt) or not began_anew or output.manifest() is None:
            _explain(error, output, as_it_was)  # an interrupt may come too late: then everything is there
    manifest = output.manifest()
    if manifest is None:
        raise JobError(f"{options.output}: the pipeline ended without a manifest")
    return summary(manifest, options.output, time.monotonic() - began)


def _explain(error: BaseException, output: Output, as_it_was: str) -> NoReturn:
    """Raise an error again, with what is kept."""
    if isinstance(error, (UsageError, LostJobError)):
        raise error
    kept = ""
    with contextlib.suppress(Exception):  # a store that is away
        kept = _kept(output)
    if isinstance(error, OSError):
        error = JobError(f"{error.filename or output.place}: {error.strerror or error}")
    if isinstance(error, JobError):
        raise JobError(f"{error}\n{kept}".strip()) from error
    raise Interrupted(f"interrupted; {kept or as_it_was}") from None


def _kept(output: Output) -> str:
    finished, measured = output.finished(), output.measured()
    if not finished and not measured:
        return ""
    shards = output.planned()
    of = f" of {counted(shards, 'shard')}" if shards else " shards"
    what = f"{finished}{of} finished" if finished else f"{measured}{of} measured"
    return f"{what} and kept: the same command goes on from there"


@dataclass(frozen=True, slots=True)
class _Planned:
    """All that is known before anything is written: the plan files are in a folder for what is larger than memory."""

    inputs: plan.Inputs
    layout: Layout
    arrangement: plan.Arrangement
    parts: list[plan.Part]
    shards: dict[str, int]
    tasks: int
    others: tuple[Path, ...]
    fingerprint: Fingerprint
    sample: Callable[[], Sample]


def _plan(
    options: PrepareOptions, source: Source, scratch: Path, workers: Workers | None, output: Output | None
) -> _Planned:
    """List INPUT and decide which image goes where; nothing is written but to `scratch`.

    Raises:
        UsageError: an option does not fit INPUT, or what is in `output` is of another job.
        JobError: the listing alone rejects too many, or the sample cannot be taken.
    """
    spill = Spill(scratch)
    inputs, layout = _list(options, source, spill)
    fingerprint = fingerprint_of(options, inputs)
    if output is not None and not options.overwrite:
        left = output.job()
        if left is not None and output.finished():
            check_same(left, identity(fingerprint, options.deciding()), options.output)
    arrangement = plan.arrange(spill, source, layout.splits, scratch)
    check_rejects(arrangement.rejected, arrangement.first_rejects, inputs.count, options.max_rejects)
    parts = plan.cut(arrangement, options.split)
    job = _job(options, layout, str(scratch), Work(""))
    largest = max(parts, key=lambda part: part.records)

    @functools.cache  # one sample for all splits
    def sample() -> Sample:
        # Of the images that come first in the order: the same on every run.
        return _sample(plan.first_references(largest, _SAMPLE, ""), job, workers)

    shards = {
        part.split: plan.shard_count(
            part.records, options.shards, largest.records, lambda: sample().record_bytes + _RECORD_OVERHEAD
        )
        for part in parts
    }
    tasks = plan.plan_shards(parts, shards, scratch, PLAN)
    return _Planned(
        inputs=inputs,
        layout=layout,
        arrangement=arrangement,
        parts=parts,
        shards=shards,
        tasks=tasks,
        others=(scratch / plan.TASKS_NAME, arrangement.rejects),
        fingerprint=fingerprint,
        sample=sample,
    )


def _check_places(options: PrepareOptions) -> None:
    source, target = local_path(options.input), local_path(options.output)  # paths, or file URLs
    inside = f"{options.output}/".startswith(f"{options.input}/")
    if source is not None and target is not None:
        inside = target.resolve().is_relative_to(source.resolve())
    if inside:
        raise UsageError(f"OUTPUT {options.output}: lies inside INPUT {options.input}")
    if is_local(options.beam):
        return
    runner = options.beam["runner"]
    if options.reject_crashers:
        raise UsageError(f"--reject-crashers: is for this machine's processes, not for {runner}")
    if not workers_are_elsewhere(options.beam):
        return
    for name, place in (("INPUT", options.input), ("OUTPUT", options.output)):
        if not is_url(place) or (runner == "DataflowRunner" and place.startswith("file:")):
            shared = "" if runner == "DataflowRunner" else ", or file://... if every worker sees the same path"
            raise UsageError(
                f"{name} {place}: is local, and the workers of {runner} are elsewhere;"
                f" give a URL as gs://bucket/path{shared}"
            )


def _list(options: PrepareOptions, source: Source, spill: Spill | None) -> tuple[plan.Inputs, Layout]:
    """List INPUT, say what it is, and now and then how far the listing is."""
    last, number = time.monotonic(), 0

    def on_entry() -> None:
        nonlocal last, number
        number += 1
        if number % 1000 == 0 and time.monotonic() - last >= _LISTING_SECONDS:
            last = time.monotonic()
            say(f"{options.input}: {number} files found so far")

    inputs = plan.scan(source, options.seed, spill, on_entry)
    layout = source.layout()
    ignored = f"{counted(layout.ignored, 'file')} ignored"
    say(f"{options.input}: {layout.text}, {counted(inputs.count, 'image')}, {ignored}")
    return inputs, layout


def _make(options: PrepareOptions, planned: _Planned, output: Output, workers: Workers | None, scratch: Path) -> None:
    """Write the shards of the plan that is in OUTPUT, and publish them."""
    job = _job(options, planned.layout, _anywhere(options.output), Work(planned.fingerprint.digest))
    publication = _publication(options, planned, job)
    if finished := output.finished():
        say(f"{finished} of {counted(planned.tasks, 'shard')} are finished: they are checked and kept")
    if not is_local(options.beam):
        if workers is not None:
            workers.end()
        run_on_engine(job, publication, options.beam, lambda: f"{output.finished()} of {planned.tasks} shards finished")
        return
    processes = min(options.workers, planned.tasks)
    # More than one thread for each process, so that the last shards still keep every CPU busy.
    threads = 1 if options.workers == 1 else max(2, -(-options.workers // processes))
    with _progress(options, planned) as progress, _staging(output) as staging:
        if workers is not None:
            workers.watcher, workers.count = progress, processes
            workers.start()  # while Beam is being imported
        job = replace(job, threads=max(threads, job.threads), staging=staging)
        run_here(job, publication, options.beam, workers, progress, scratch)


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
    return options.input.startswith(_IN_PROCESS) or options.output.startswith(_IN_PROCESS)


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


def _job(options: PrepareOptions, layout: Layout, output: str, work: Work) -> Job:
    return Job(
        input=_anywhere(options.input),
        output=output,
        work=work,
        image=options.image,
        formats=options.formats,
        fields=image_fields(options.image, layout.class_names is not None),
        threads=_REMOTE_THREADS if is_url(options.input) else 1,
    )


def _publication(options: PrepareOptions, planned: _Planned, job: Job) -> Publication:
    return Publication(
        output=job.output,
        work=job.work,
        fields=dict(job.fields),
        formats=options.formats,
        splits=tuple(planned.shards),
        class_names=planned.layout.class_names,
        seed=options.seed,
        options={**options.to_json(), "shard_counts": planned.shards},
        fingerprint=planned.fingerprint,
        ignored=planned.layout.ignored,
        planned=planned.arrangement.planned,
        shards=planned.tasks,
        listing_rejected=planned.arrangement.rejected,
        max_rejects=options.max_rejects,
    )


def _sample(task: plan.ShardTask, job: Job, workers: Workers | None) -> Sample:
    """What some images become, without statistics: in a process of their own, which they may end."""
    plain = replace(job, image=replace(job.image, normalize="none"))
    if workers is None:
        return sample_shard(task, plain, None, Watcher())
    (sample,) = workers.do(sample_shard, [task], plain)
    return sample  # type: ignore[no-any-return]


@contextlib.contextmanager
def _progress(options: PrepareOptions, planned: _Planned) -> Iterator[Progress]:
    arrangement = planned.arrangement
    steps = arrangement.planned
    if options.image.normalize == "dataset":
        split = plan.statistics_split([part.split for part in planned.parts])
        steps += sum(part.records for part in planned.parts if part.split == split)
    progress = Progress(
        steps, planned.inputs.count, arrangement.rejected, arrangement.first_rejects, options.max_rejects
    )
    try:
        yield progress
    finally:
        progress.close()


def _dry_run(options: PrepareOptions, source: Source) -> str:
    """The plan, made somewhere else, in words."""
    output = Output(options.output, output_directory(options.output))
    with tempfile.TemporaryDirectory(prefix="image-shards-") as folder, _workers(options) as workers:
        planned = _plan(options, source, Path(folder), workers, None)
        planned.sample()
    state = _state(output, planned.fingerprint)
    rejected, sample = planned.arrangement.rejected, planned.sample()
    return dry_run_text(options, state, planned.parts, planned.shards, planned.layout, rejected, sample)


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
