"""The pipelines of a job, each of one step, with their progress; and the pre-pass that finds duplicates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from beam_jobs.plan.deduplicate import Deduplicated, deduplicate
from beam_jobs.plan.duplicates import Records
from beam_jobs.plan.listing import Listing
from beam_jobs.plan.order import plan_inputs
from beam_jobs.plan.tasks import HASH_TASKS_NAME, plan_shards, read_tasks
from beam_jobs.runners.jobs import job_of, robots_in, with_threads
from beam_jobs.runners.local import AddSteps, is_local
from beam_jobs.runners.run import add_hashing, run_pipeline
from beam_jobs.shards.lock import Lock
from beam_jobs.shards.output import PLAN, Output, Work
from beam_jobs.shards.write import hashes_of
from beam_jobs.steps.planner import Run
from beam_jobs.steps.summary import Progress
from beam_jobs.terminal import counted, print_status, print_warning

__all__ = ["Step", "find_duplicates", "run_tasks"]

_HASHED_TOGETHER = 4096  # inputs of one task of the pre-pass


def find_duplicates(
    run: Run, listing: Listing, output: Output, skipped: Iterable[int] = (), earlier: Records | None = None
) -> Deduplicated:
    """Read and hash every input, and decide about those with the same bytes, and those that look alike.

    Args:
        run: the run of the command.
        listing: the listing of INPUT.
        output: OUTPUT.
        skipped: the ranks of inputs that are in the dataset already.
        earlier: the records of the dataset that inputs are added to.
    """
    options, source, schema = run.options, listing.source, listing.schema
    inputs = plan_inputs(
        listing.everything(),
        source,
        schema,
        options.split,
        options.seed,
        run.scratch,
        skipped=skipped,
        together=True,
    )
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
    step = Step("HashInputs", "parts", tasks, output.hashed)
    run_tasks(run, output.lock, add, step, progress)
    parts = list(read_tasks(output.files, PLAN + HASH_TASKS_NAME))
    found = deduplicate(
        lambda: (hashes_of(task, job, output.files) for task in parts),
        ordered,
        output.files,
        PLAN + ordered.path.name,
        options,
        schema.class_names,
        run.scratch,
        earlier,
    )
    print_status(f"HashInputs: {found.text}")
    for line in found.warnings:
        print_warning(line)
    return found


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the pipeline: the noun and the number of its tasks, and a function that counts the finished ones."""

    name: str
    unit: str
    tasks: int
    finished: Callable[[], int]

    def text(self) -> str:
        """The finished tasks in words."""
        return f"{self.name}: {self.finished()} of {self.tasks} {self.unit} finished"


def run_tasks(
    run: Run,
    lock: Lock,
    add: AddSteps,
    step: Step,
    progress: Progress,
    check: Callable[[], None] | None = None,
) -> None:
    """Run a pipeline of one step, as long as this job has the lock of OUTPUT. `check` may end it, too."""
    options, workers = run.options, run.workers
    if workers is not None:
        workers.watcher, workers.count = progress, min(options.workers, step.tasks)
        workers.before_publishing = lock.renew
        progress.in_work = workers.in_work
    report = _Reporter(run, step, progress)

    def checked() -> None:
        (check or lock.check)()
        report()

    run_pipeline(
        add,
        options.beam,
        workers,
        progress=progress.text,
        tasks_done=step.text,
        check=checked,
        scratch=run.scratch,
    )
    report()


class _Reporter:
    """Calls `on_progress` of a run if the progress has changed."""

    def __init__(self, run: Run, step: Step, progress: Progress) -> None:
        self._run, self._step, self._progress = run, step, progress
        self._last: tuple[int, int] | None = None

    def __call__(self) -> None:
        if self._run.on_progress is None:
            return
        report = self._progress.report(self._step.name)
        # No engine tells the images that its workers have finished.
        if not is_local(self._run.options.beam):
            step = self._step
            report = replace(report, done=step.finished(), total=step.tasks, unit=step.unit)
        if self._last != (report.done, report.rejected):
            self._last = report.done, report.rejected
            self._run.on_progress(report)
