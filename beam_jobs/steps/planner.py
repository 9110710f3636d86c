"""The plan of a job: the order of its inputs, a sample of them, and the shards. It is made in a scratch folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from beam_jobs.options import JobOptions
from beam_jobs.plan.deduplicate import Deduplicated
from beam_jobs.plan.listing import Listing
from beam_jobs.plan.order import PlannedInputs, plan_inputs
from beam_jobs.plan.schema.base import NothingToAdd
from beam_jobs.plan.tasks import TASKS_NAME, first_references, plan_shards, shard_count
from beam_jobs.runners.inline import inline_calls
from beam_jobs.runners.jobs import job_of, robots_in
from beam_jobs.runners.workers import Workers
from beam_jobs.shards.job import Watcher
from beam_jobs.shards.output import PLAN, Work
from beam_jobs.shards.publish import check_rejects, named
from beam_jobs.shards.thumbnails import share_of
from beam_jobs.sources.files.interface import Reference
from beam_jobs.steps.result import OnProgress
from beam_jobs.steps.sample import Sample, sample_shard

__all__ = ["Plan", "Run", "make_plan", "take_sample", "worker_processes"]

_SAMPLE = 32  # images that decide the number of shards
_RECORD_OVERHEAD = 128  # bytes of framing and other fields, roughly
_NOTHING_FOUND = Deduplicated()
_IN_PROCESS = ("memory:",)  # places that only this process sees


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job: its options, a folder for data larger than memory, and its worker processes.

    `workers` is None if this process alone sees INPUT or OUTPUT. `on_progress` is called with the progress.
    """

    options: JobOptions
    scratch: Path
    workers: Workers | None
    on_progress: OnProgress | None = None

    @property
    def shared(self) -> str | None:
        """A folder that its processes share."""
        return None if self.workers is None else str(self.scratch.absolute())


@dataclass(frozen=True, slots=True)
class Plan:
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


def make_plan(
    run: Run,
    listing: Listing,
    found: Deduplicated = _NOTHING_FOUND,
    sample: Sample | None = None,
    on_reference: Callable[[str, Reference], None] | None = None,
    skipped: Iterable[int] = (),
) -> Plan:
    """Decide which image goes where. Writes to the scratch folder alone.

    Args:
        run: the run of the command.
        listing: the listing of INPUT.
        found: the inputs to leave out, and those that stay together.
        sample: the sample of an earlier plan.
        on_reference: called with the split and each of its references.
        skipped: the ranks of inputs that are in the dataset already.

    Raises:
        NothingToAdd: all inputs are in the dataset already.
        UsageError: an option does not fit INPUT.
        JobError: the listing alone rejects too many images, or the sample cannot be taken.
    """
    options = run.options
    spill, source, schema = listing.everything(), listing.source, listing.schema
    inputs = plan_inputs(
        spill,
        source,
        schema,
        options.split,
        options.seed,
        run.scratch,
        found.dropped,
        found.grouped,
        skipped=skipped,
        splits=None if listing.base is None else listing.base.manifest.splits,
        on_reference=on_reference,
    )
    if listing.base is not None and not inputs.planned:
        first = next(iter(inputs.first_rejects), None)
        raise NothingToAdd(inputs.rejected - inputs.dropped, "" if first is None else named(first))
    rejected = inputs.rejected - inputs.dropped
    check_rejects(rejected, inputs.first_rejects, listing.inputs.count, options.max_rejects)
    if sample is None and options.shards.by == "bytes":
        sample = take_sample(run, listing, inputs)
    record_bytes = sample.record_bytes + _RECORD_OVERHEAD if sample else 0.0
    largest = max(ordered.records for ordered in inputs.ordered.values())
    shards = {
        name: shard_count(ordered.records, options.shards, largest, record_bytes)
        for name, ordered in inputs.ordered.items()
    }
    tasks = plan_shards(inputs.ordered, shards, run.scratch, PLAN)
    return Plan(listing=listing, inputs=inputs, shards=shards, tasks=tasks, sample=sample)


def take_sample(run: Run, listing: Listing, inputs: PlannedInputs, images: int = _SAMPLE) -> Sample:
    """Prepare the first images of the largest split, which are the same on every run."""
    # In a worker process: an image may end the process that decodes it.
    split, largest = max(inputs.ordered.items(), key=lambda item: item[1].records)
    task = first_references(split, largest, images, "")
    job = job_of(run.options, listing, str(run.scratch), Work(""), run.shared)
    # Statistics are not known yet.
    job = replace(job, image=replace(job.image, normalize="none"), thumbnail_share=share_of(inputs.planned))
    if run.workers is None:
        return inline_calls.do(sample_shard, task, job, None)  # type: ignore[no-any-return]
    (sample,) = run.workers.do(sample_shard, [task], job)
    return sample  # type: ignore[no-any-return]


@contextlib.contextmanager
def worker_processes(options: JobOptions) -> Iterator[Workers | None]:
    """The processes of this machine. The first one starts at once, for the sample."""
    if _in_process(options):
        yield None
        return
    with Workers(1, Watcher(), options.reject_crashers) as workers:
        workers.start()
        yield workers


def _in_process(options: JobOptions) -> bool:
    return options.source.input.startswith(_IN_PROCESS) or options.output.startswith(_IN_PROCESS)
