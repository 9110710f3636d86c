"""The steps of `image-shards prepare`, one after the other: list, plan, write, report."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from beam_jobs.errors import Interrupted, JobError, LostJobError, UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.options import PrepareOptions
from beam_jobs.plan.deduplicate import Deduplicated, deduplicate
from beam_jobs.plan.fingerprint import check_same, identity
from beam_jobs.plan.listing import Listing, list_input
from beam_jobs.plan.order import PlannedInputs, plan_inputs, statistics_split
from beam_jobs.plan.tasks import HASH_TASKS_NAME, TASKS_NAME, first_references, plan_shards, read_tasks, shard_count
from beam_jobs.runners.engines import check_engine, check_places
from beam_jobs.runners.inline import inline_calls
from beam_jobs.runners.jobs import job_of, robots_in, with_threads
from beam_jobs.runners.local import AddSteps, import_beam_meanwhile, is_local
from beam_jobs.runners.run import add_hashing, add_writing, run_pipeline
from beam_jobs.runners.workers import Workers
from beam_jobs.shards.job import Watcher
from beam_jobs.shards.lock import Lock
from beam_jobs.shards.output import PLAN, Output, Work, claimed, output_directory
from beam_jobs.shards.publish import check_rejects, publication_of
from beam_jobs.shards.thumbnails import share_of
from beam_jobs.shards.write import Sample, hashes_of, sample_shard
from beam_jobs.sources.files.interface import Source
from beam_jobs.sources.known import open_source, recognised
from beam_jobs.summary import Progress, dry_run_text, output_state, reached_lines, summary
from beam_jobs.terminal import counted, print_status, print_warning
from shard_reader.format.manifest import Manifest
from shard_reader.storage.open import is_url, local_path

__all__ = ["prepare"]

_HASHED_TOGETHER = 4096  # inputs of one task of the pre-pass
_SAMPLE = 32  # images that estimate the size of a record
_RECORD_OVERHEAD = 128  # bytes of framing and other fields, roughly
_NOTHING_FOUND = Deduplicated()
_IN_PROCESS = ("memory:",)  # places that only this process sees


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the command: its options, a folder for data larger than memory, and its worker processes.

    `workers` is None if this process alone sees INPUT or OUTPUT.
    """

    options: PrepareOptions
    scratch: Path
    workers: Workers | None

    @property
    def shared(self) -> str | None:
        """A folder that its processes share."""
        return None if self.workers is None else str(self.scratch.absolute())


@dataclass(frozen=True, slots=True)
class _Plan:
    """The plan of a job, with its files in the scratch folder. `sample` is None if no number of shards needs it."""

    listing: Listing
    inputs: PlannedInputs
    shards: dict[str, int]
    tasks: int
    sample: Sample | None

    @property
    def files(self) -> list[Path]:
        """The files of the plan."""
        ordered = [ordered.path for ordered in self.inputs.ordered.values()]
        return [*ordered, ordered[0].with_name(TASKS_NAME), self.inputs.rejects, *robots_in(ordered[0].parent)]


@dataclass(slots=True)
class _Reached:
    """The changes that a run has made to OUTPUT, for the message of an error."""

    removed: bool = False  # the dataset that was there
    begun: bool = False


def prepare(options: PrepareOptions) -> str:
    """Make the dataset, and return the text about it.

    Raises:
        UsageError: INPUT, OUTPUT or an option does not allow it.
        Interrupted: the user pressed Ctrl-C; the message names the work that is kept.
        JobError: the job failed; the message names the work that is kept.
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
            finished = output.manifest()
            if finished is not None and not options.overwrite:
                return _nothing_to_do(options, source, why, finished)
            manifest = _make_dataset(options, source, why, output, finished)
            return summary(manifest, options.output, time.monotonic() - began)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command says how much is finished, and goes on") from None
    except (JobError, OSError):
        raise
    except Exception as error:
        # The libraries of stores have error classes of their own. On a disk, any other error is a bug.
        if is_url(options.source.input) or is_url(options.output):
            raise JobError(f"{type(error).__name__}: {error}") from error
        raise


def _check_places(options: PrepareOptions) -> None:
    """Refuse places that no job could use, before any of them is read."""
    input = options.source.input
    source, target = local_path(input), local_path(options.output)
    inside = f"{options.output}/".startswith(f"{input}/")
    if source is not None and target is not None:
        inside = target.resolve().is_relative_to(source.resolve())
    if inside:
        raise UsageError(f"OUTPUT {options.output}: lies inside INPUT {input}")
    if is_local(options.beam):
        return
    if options.reject_crashers:
        raise UsageError(f"--reject-crashers: is for this machine's processes, not for {options.beam['runner']}")
    more = {"--root": options.source.root, "--below": options.source.below}
    given = {name: place for name, place in more.items() if place is not None}
    check_places(options.beam, {"INPUT": input, "OUTPUT": options.output, **given})


def _nothing_to_do(options: PrepareOptions, source: Source, why: str, finished: Manifest) -> str:
    """The text about a finished dataset, after a check that the same inputs and options made it."""
    here = identity(list_input(options, source, why, None).fingerprint, options.deciding())
    check_same(identity(finished.fingerprint, finished.options), here, options.output)
    counts = f"{counted(finished.counts.written, 'image')}, {finished.counts.rejected} rejected"
    return f"{options.output}: is finished, nothing to do ({counts})"


def _make_dataset(
    options: PrepareOptions, source: Source, why: str, output: Output, finished: Manifest | None
) -> Manifest:
    """List, plan and write."""
    # Nothing is removed before every defect of options and INPUT is found: the plan is made in scratch, then moved.
    with _explained(output, options) as reached, output.scratch() as scratch, _workers(options) as workers:
        run = _Run(options, scratch, workers)
        import_beam_meanwhile()  # in a thread, while this one lists
        listing = list_input(options, source, why, Spill(scratch))
        job = identity(listing.fingerprint, options.deciding())
        _check_left(options, output, job)
        output.copy_robots(scratch)
        plan = _plan(run, listing)
        # Beside a dataset to be overwritten: the second plan may still raise, as for a split without images.
        if options.drop_duplicates or options.acts_on_near_duplicates:
            output.begin(job)
            plan = _plan(run, listing, _find_duplicates(run, listing, output), plan.sample)
        if options.overwrite:
            reached.removed = finished is not None
            output.discard()
        reached.begun = True
        output.begin(job)
        output.install(plan.files)
        _write(run, plan, output)
    manifest = output.manifest()
    if manifest is None:
        raise JobError(f"{options.output}: the pipeline ended without a manifest")
    return manifest


@contextlib.contextmanager
def _explained(output: Output, options: PrepareOptions) -> Iterator[_Reached]:
    """Add the work that is kept to the messages of errors."""
    reached = _Reached()
    try:
        yield reached
    except (JobError, OSError, KeyboardInterrupt) as error:
        # An interrupt may come after the manifest was written: then the dataset is finished.
        if not isinstance(error, KeyboardInterrupt) or not reached.begun or output.manifest() is None:
            _explain(error, output, reached, options.overwrite)


def _explain(error: BaseException, output: Output, reached: _Reached, overwrite: bool) -> NoReturn:
    """Raise an error again, with the work that is kept."""
    if isinstance(error, (UsageError, LostJobError)):
        raise error
    kept = ""
    with contextlib.suppress(Exception):  # the store may be unreachable, which may be the error itself
        kept = output.kept(overwrite)
    if isinstance(error, OSError):
        error = JobError(f"{error.filename or output.place}: {error.strerror or error}")
    if isinstance(error, JobError):
        raise JobError(f"{error}\n{kept}".strip()) from error
    removed = "the dataset that was in OUTPUT is removed, as --overwrite says"
    raise Interrupted(f"interrupted; {kept or (removed if reached.removed else 'OUTPUT is as it was')}") from None


def _check_left(options: PrepareOptions, output: Output, job: dict[str, Any]) -> None:
    """Refuse to resume if the finished shards in OUTPUT are of another job."""
    if options.overwrite:
        return
    left = output.job()
    if left is not None and output.finished():
        check_same(left, job, options.output)


def _plan(
    run: _Run,
    listing: Listing,
    found: Deduplicated = _NOTHING_FOUND,
    sample: Sample | None = None,
) -> _Plan:
    """Decide which image goes where. Writes to the scratch folder alone.

    Args:
        run: the run of the command.
        listing: the listing of INPUT.
        found: the inputs to leave out, and those that stay together.
        sample: the sample of an earlier plan.

    Raises:
        UsageError: an option does not fit INPUT.
        JobError: the listing alone rejects too many images, or the sample cannot be taken.
    """
    options = run.options
    spill, source, schema = listing.everything(), listing.source, listing.schema
    inputs = plan_inputs(spill, source, schema, options.split, options.seed, run.scratch, found.dropped, found.grouped)
    rejected = inputs.rejected - inputs.dropped
    check_rejects(rejected, inputs.first_rejects, listing.inputs.count, options.max_rejects)
    if sample is None and options.shards.by == "bytes":
        sample = _take_sample(run, listing, inputs)
    record_bytes = sample.record_bytes + _RECORD_OVERHEAD if sample else 0.0
    largest = max(ordered.records for ordered in inputs.ordered.values())
    shards = {
        name: shard_count(ordered.records, options.shards, largest, record_bytes)
        for name, ordered in inputs.ordered.items()
    }
    tasks = plan_shards(inputs.ordered, shards, run.scratch, PLAN)
    return _Plan(listing=listing, inputs=inputs, shards=shards, tasks=tasks, sample=sample)


def _take_sample(run: _Run, listing: Listing, inputs: PlannedInputs) -> Sample:
    """Prepare the first images of the largest split, which are the same on every run."""
    # In a worker process: an image may end the process that decodes it.
    split, largest = max(inputs.ordered.items(), key=lambda item: item[1].records)
    task = first_references(split, largest, _SAMPLE, "")
    job = job_of(run.options, listing, str(run.scratch), Work(""), run.shared)
    job = replace(job, image=replace(job.image, normalize="none"))  # statistics are not known yet
    if run.workers is None:
        return inline_calls.do(sample_shard, task, job, None)  # type: ignore[no-any-return]
    (sample,) = run.workers.do(sample_shard, [task], job)
    return sample  # type: ignore[no-any-return]


def _find_duplicates(run: _Run, listing: Listing, output: Output) -> Deduplicated:
    """Read and hash every input, and decide about those with the same bytes, and those that look alike."""
    options, source, schema = run.options, listing.source, listing.schema
    inputs = plan_inputs(listing.everything(), source, schema, options.split, options.seed, run.scratch, together=True)
    ((split, ordered),) = inputs.ordered.items()
    count = max(1, -(-ordered.records // _HASHED_TOGETHER))
    tasks = plan_shards(inputs.ordered, {split: count}, run.scratch, PLAN, HASH_TASKS_NAME)
    output.install([ordered.path, run.scratch / HASH_TASKS_NAME, *robots_in(run.scratch)])
    job = job_of(options, listing, options.output, Work(listing.fingerprint.digest), run.shared)
    job = replace(job, hash_pixels=options.acts_on_near_duplicates, image=replace(job.image, normalize="none"))
    reads = "decodes" if job.hash_pixels else "reads"
    print_status(f"HashInputs: {reads} {counted(ordered.records, 'image')}, to find duplicates")
    progress = Progress(ordered.records, listing.inputs.count, inputs, options.max_rejects)
    add = functools.partial(add_hashing, with_threads(job, options, tasks) if job.hash_pixels else job)
    _run_tasks(run, output.lock, add, tasks, progress, functools.partial(_hashed, output, tasks))
    files = list(read_tasks(output.files, PLAN + HASH_TASKS_NAME))
    found = deduplicate(
        lambda: (hashes_of(task, job.work, output.files) for task in files),
        ordered,
        output.files,
        PLAN + ordered.path.name,
        options,
        schema.class_names,
        run.scratch,
    )
    print_status(f"HashInputs: {found.text}")
    for line in found.warnings:
        print_warning(line)
    return found


def _hashed(output: Output, tasks: int) -> str:
    return f"HashInputs: {output.hashed()} of {tasks} parts done"


def _write(run: _Run, plan: _Plan, output: Output) -> None:
    """Write the shards of the plan that is in OUTPUT, and publish them."""
    options, listing = run.options, plan.listing
    job = job_of(options, listing, options.output, Work(listing.fingerprint.digest), run.shared)
    job = with_threads(job, options, plan.tasks)
    publication = publication_of(options, listing, plan.inputs, plan.shards, plan.tasks, job)
    if finished := output.finished():
        print_status(f"{finished} of {counted(plan.tasks, 'shard')} are finished: they are checked and kept")
    steps = plan.inputs.planned + _measured(options, plan)
    progress = Progress(steps, listing.inputs.count, plan.inputs, options.max_rejects)
    with output.staging() as staging:
        job = replace(job, staging=staging, thumbnail_share=share_of(plan.inputs.planned))
        add = functools.partial(add_writing, job, publication)
        _run_tasks(run, output.lock, add, plan.tasks, progress, functools.partial(_finished, output, plan.tasks))


def _finished(output: Output, tasks: int) -> str:
    return f"{output.finished()} of {tasks} shards finished"


def _measured(options: PrepareOptions, plan: _Plan) -> int:
    """Number of images that are read a second time, for the statistics."""
    if options.image.normalize != "dataset":
        return 0
    return plan.inputs.ordered[statistics_split(list(plan.shards))].records


def _run_tasks(
    run: _Run, lock: Lock, add: AddSteps, tasks: int, progress: Progress, tasks_done: Callable[[], str]
) -> None:
    """Run a pipeline of `tasks` tasks, as long as this job has the lock of OUTPUT."""
    options, workers = run.options, run.workers
    if workers is not None:
        workers.watcher, workers.count, workers.before_publishing = progress, min(options.workers, tasks), lock.renew
        progress.in_work = workers.in_work
    run_pipeline(
        add, options.beam, workers, progress=progress.text, tasks_done=tasks_done, check=lock.check, scratch=run.scratch
    )


@contextlib.contextmanager
def _workers(options: PrepareOptions) -> Iterator[Workers | None]:
    """The processes of this machine. The first one starts at once, for the sample."""
    if _in_process(options):
        yield None
        return
    with Workers(1, Watcher(), options.reject_crashers) as workers:
        workers.start()
        yield workers


def _in_process(options: PrepareOptions) -> bool:
    return options.source.input.startswith(_IN_PROCESS) or options.output.startswith(_IN_PROCESS)


def _dry_run(options: PrepareOptions, source: Source, why: str) -> str:
    """The text about the plan, which is made in a temporary folder."""
    output = Output(options.output, output_directory(options.output))
    with tempfile.TemporaryDirectory(prefix="image-shards-") as folder, _workers(options) as workers:
        run = _Run(options, Path(folder), workers)
        listing = list_input(options, source, why, Spill(run.scratch))
        plan = _plan(run, listing)
        sample = plan.sample or _take_sample(run, listing, plan.inputs)
    state = output_state(output, listing.fingerprint)
    text = dry_run_text(options, state, plan.inputs, plan.shards, listing.schema, sample)
    return "\n".join([text, *reached_lines(listing.layout.reached)])
