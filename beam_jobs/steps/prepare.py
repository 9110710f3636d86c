"""The steps of `image-shards prepare`, one after the other: list, plan, write, report."""

from __future__ import annotations

import functools
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from beam_jobs.errors import JobError, UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.metadata.papers import foreign_papers, write_papers
from beam_jobs.meter import Meter
from beam_jobs.options import JobOptions
from beam_jobs.plan.duplicates import Records
from beam_jobs.plan.fingerprint import check_same, identity
from beam_jobs.plan.listing import Listing, list_input
from beam_jobs.plan.order import statistics_split
from beam_jobs.plan.schema.base import Base
from beam_jobs.plan.schema.earlier import earlier_part
from beam_jobs.report.report import make_report, need_report_packages
from beam_jobs.runners.engines import check_engine, check_places
from beam_jobs.runners.jobs import job_of, with_threads
from beam_jobs.runners.local import import_beam_meanwhile, is_local
from beam_jobs.runners.run import add_writing
from beam_jobs.runners.shard_log import ShardLog, log_file
from beam_jobs.shards.output import Output, Work, claimed
from beam_jobs.shards.publish import publication_of
from beam_jobs.shards.thumbnails import share_of
from beam_jobs.sources.files.interface import Source
from beam_jobs.sources.known import open_source, recognised
from beam_jobs.steps.dry_run import DryRun, dry_run
from beam_jobs.steps.failures import explained, in_words
from beam_jobs.steps.known import Known, find_known
from beam_jobs.steps.planner import Plan, Run, make_plan, worker_processes
from beam_jobs.steps.result import OnProgress, PrepareResult
from beam_jobs.steps.summary import Progress, summary
from beam_jobs.steps.tasks import Step, find_duplicates, run_tasks
from beam_jobs.terminal import counted, print_status, print_warning
from beam_jobs.tools.dataset_files import REPORT_NAME
from shard_reader.errors import ShardsError
from shard_reader.format.manifest import MANIFEST_NAME, PAPER_NAMES, Manifest
from shard_reader.storage.open import local_path

__all__ = ["plan", "prepare"]


def plan(options: JobOptions, base: Base | None = None) -> DryRun:
    """The plan of a job, of which nothing is written.

    Raises:
        UsageError: INPUT, OUTPUT or an option does not allow the job.
        Interrupted: the user pressed Ctrl-C.
        JobError: the listing alone rejects too many images, or the sample cannot be taken.
    """
    _check_places(options)
    with in_words(options.source.input, options.output):
        found, why = recognised(options.source)
        return dry_run(options, open_source(found), why, base)


def prepare(options: JobOptions, on_progress: OnProgress | None = None, base: Base | None = None) -> PrepareResult:
    """Make the dataset.

    Args:
        options: the options of the job.
        on_progress: called with the progress whenever it has changed, at most ten times a second. Its error ends the
            job.
        base: the dataset that this one is a part of, if it is; it does not change.

    Raises:
        NothingToAdd: `base` has all inputs already.
        UsageError: INPUT, OUTPUT or an option does not allow it.
        Interrupted: the user pressed Ctrl-C; the message names the work that is kept.
        JobError: the job failed; the message names the work that is kept.
    """
    began = time.monotonic()
    _check_places(options)
    if options.report:
        need_report_packages()
    with in_words(options.source.input, options.output):
        found, why = recognised(options.source)
        source = open_source(found)
        if not is_local(options.beam):
            options = replace(options, beam=check_engine(options.beam))
        with claimed(options.output, overwrite=options.overwrite) as output:
            finished = output.manifest()
            if finished is not None and not options.overwrite:
                return _nothing_to_do(options, source, why, finished, output, base)
            with log_file(options.log_json) as log:
                manifest, spent = _make_dataset(options, source, why, output, finished, log, on_progress, base)
            _name_foreign_papers(output)
            seconds = time.monotonic() - began
            text = summary(manifest, options.output, seconds, spent)
            return _result(options, output, manifest, text, seconds, was_finished=False)


def _check_places(options: JobOptions) -> None:
    """Refuse places that no job could use, before any of them is read."""
    input = options.source.input
    source, target = local_path(input), local_path(options.output)
    inside = f"{options.output}/".startswith(f"{input}/")
    if source is not None and target is not None:
        inside = target.resolve().is_relative_to(source.resolve())
    if inside:
        raise UsageError(f"OUTPUT {options.output}: lies inside INPUT {input}")
    if options.log_json is not None:
        log = Path(options.log_json).resolve()
        for name, place, path in (("INPUT", input, source), ("OUTPUT", options.output, target)):
            if path is not None and log.is_relative_to(path.resolve()):
                raise UsageError(f"--log-json {options.log_json}: lies inside {name} {place}")
    if is_local(options.beam):
        return
    if options.reject_crashers:
        raise UsageError(f"--reject-crashers: is for this machine's processes, not for {options.beam['runner']}")
    more = {"--root": options.source.root, "--below": options.source.below}
    given = {name: place for name, place in more.items() if place is not None}
    check_places(options.beam, {"INPUT": input, "OUTPUT": options.output, **given})


def _nothing_to_do(
    options: JobOptions, source: Source, why: str, finished: Manifest, output: Output, base: Base | None
) -> PrepareResult:
    """The result for a finished dataset, after a check that the same inputs and options made it.

    With a card, its papers are written again.
    """
    if options.dali_index and not finished.options.get("dali_index"):
        raise UsageError(
            f"--dali-index: {options.output} was finished without it; `image-shards index --dali` adds the indexes"
        )
    here = identity(list_input(options, source, why, None, base).fingerprint, options.deciding())
    # Later generations are of other commands.
    check_same(identity(finished.history[0].fingerprint, finished.options), here, options.output)
    counts = f"{counted(finished.counts.written, 'image')}, {finished.counts.rejected} rejected"
    text = f"{options.output}: is finished, nothing to do ({counts})"
    if options.card:
        write_papers(output.files, finished, output.files.read(MANIFEST_NAME), options.card)
        _name_foreign_papers(output)
        text = f"{options.output}: is finished ({counts}); {' and '.join(PAPER_NAMES)} are written with the new facts"
    return _result(options, output, finished, text, 0.0, was_finished=True)


def _name_foreign_papers(output: Output) -> None:
    """Name the papers that are the user's own, which stay."""
    for name in foreign_papers(output.files):
        print_warning(
            f"warning: {output.files.uri(name)}: was edited, or is not of image-shards; left as it is. Without it, the"
            " same command writes it again"
        )


def _result(
    options: JobOptions, output: Output, manifest: Manifest, text: str, seconds: float, *, was_finished: bool
) -> PrepareResult:
    """The result of a job, with the report, if there is to be one, and the last line of the summary about it."""
    report = None
    if options.report:
        try:
            made = make_report(options.output)
        except ShardsError as error:
            raise JobError(f"the dataset is whole, but its report cannot be made: {error}") from error
        report = output.files.uri(REPORT_NAME)
        output.files.write(REPORT_NAME, [made.html])
        text += f"\nreport:\n  {made.describe(report)}"
    return PrepareResult(
        output=options.output,
        manifest=manifest,
        seconds=seconds,
        was_finished=was_finished,
        report=report,
        text=text,
    )


def _make_dataset(
    options: JobOptions,
    source: Source,
    why: str,
    output: Output,
    finished: Manifest | None,
    log: IO[bytes] | None,
    on_progress: OnProgress | None,
    base: Base | None,
) -> tuple[Manifest, Meter]:
    """List, plan and write. Returns the manifest, and the time of all workers."""
    # Nothing is removed before every defect of options and INPUT is found: the plan is made in scratch, then moved.
    with (
        explained(output, overwrite=options.overwrite) as reached,
        output.scratch() as scratch,
        worker_processes(options) as workers,
    ):
        run = Run(options, scratch, workers, on_progress)
        import_beam_meanwhile()  # in a thread, while this one lists
        listing = list_input(options, source, why, Spill(scratch), base)
        job = identity(listing.fingerprint, options.deciding())
        _check_left(options, output, job)
        output.copy_robots(scratch)
        known, earlier = _known(run, listing, output, job)
        plan = make_plan(run, listing, skipped=known or ())
        # Beside a dataset to be overwritten: the second plan may still raise, as for a split without images.
        if options.drop_duplicates or options.acts_on_near_duplicates:
            output.begin(job)
            found = find_duplicates(run, listing, output, known or (), earlier)
            plan = make_plan(run, listing, found, plan.sample, skipped=known or ())
        if options.overwrite:
            reached.removed = finished is not None
            output.discard()
        reached.begun = True
        output.begin(job)
        output.install(plan.files)
        shards = ShardLog(output.files, Work(listing.fingerprint.digest), uuid.uuid4().hex, log)
        _write(run, plan, output, shards, 0 if known is None else known.skipped)
    manifest = output.manifest()
    if manifest is None:
        raise JobError(f"{options.output}: the pipeline ended without a manifest")
    shards.close()  # here, since an interrupt may have come after the manifest
    return manifest, shards.total


def _known(run: Run, listing: Listing, output: Output, job: dict[str, Any]) -> tuple[Known | None, Records | None]:
    """The inputs that the dataset has already to which they are added, and its records that stay."""
    base = listing.base
    if base is None:
        return None, None
    output.begin(job)
    known = find_known(run, listing, base, output)
    acts = run.options.drop_duplicates or run.options.acts_on_near_duplicates
    return known, Records([earlier_part(base.place, known.replaced.astype("<u8").tobytes())]) if acts else None


def _check_left(options: JobOptions, output: Output, job: dict[str, Any]) -> None:
    """Refuse to resume if the finished shards in OUTPUT are of another job."""
    if options.overwrite:
        return
    left = output.job()
    if left is not None and output.finished():
        check_same(left, job, options.output)


def _write(run: Run, plan: Plan, output: Output, log: ShardLog, skipped: int) -> None:
    """Write the shards of the plan that is in OUTPUT, log and publish them."""
    options, listing = run.options, plan.listing
    job = job_of(options, listing, options.output, Work(listing.fingerprint.digest), run.shared)
    split = statistics_split(list(plan.shards)) if listing.base is None else listing.base.statistics_split
    job = replace(with_threads(job, options, plan.tasks), run_id=log.run_id, statistics_split=split)
    publication = publication_of(options, listing, plan.inputs, plan.shards, plan.tasks, job)
    publication = replace(publication, skipped=skipped)
    if finished := output.finished():
        print_status(f"{finished} of {counted(plan.tasks, 'shard')} are finished: they are checked and kept")
    steps = plan.inputs.planned + _measured(options, plan)
    progress = Progress(steps, listing.inputs.count, plan.inputs, options.max_rejects)

    def check() -> None:
        output.lock.check()
        log.update()

    with output.staging() as staging:
        job = replace(job, staging=staging, thumbnail_share=share_of(plan.inputs.planned))
        add = functools.partial(add_writing, job, publication)
        run_tasks(run, output.lock, add, Step("WriteShards", "shards", plan.tasks, output.finished), progress, check)


def _measured(options: JobOptions, plan: Plan) -> int:
    """Number of images that are read a second time, for the statistics."""
    if options.image.normalize != "dataset" or plan.listing.base is not None:
        return 0
    return plan.inputs.ordered[statistics_split(list(plan.shards))].records
