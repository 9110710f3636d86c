"""`image-shards prepare`, as functions of Python."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from beam_jobs import terminal
from beam_jobs.cli.prepare import parse
from beam_jobs.errors import Interrupted, UsageError
from beam_jobs.generations.append import append, plan_append
from beam_jobs.images.decode import ignore_image_warnings
from beam_jobs.options import JobOptions
from beam_jobs.prepare_options import PrepareOptions, is_list
from beam_jobs.steps import prepare as steps
from beam_jobs.steps.dry_run import DryRun
from beam_jobs.steps.result import OnProgress, PrepareResult

__all__ = ["dry_run", "prepare"]

# A job sets the output, the filters of warnings and the folder of temporary files of its process.
_turn = threading.RLock()


def prepare(
    options: PrepareOptions, *, on_progress: OnProgress | None = None, quiet: bool | None = None
) -> PrepareResult:
    """Turn images into shards, as the command does. It may be called from a script, a notebook or a service.

    An unfinished dataset of the same options is continued; a finished one is left as it is. Worker processes import
    no main module: a script needs no guard. Of several threads, one at a time runs a job; the others wait.

    Args:
        options: the options of the command.
        on_progress: called with a `ProgressReport` whenever the progress has changed, in the thread of the caller, on
            an engine in another one. Its error ends the job; the next call goes on.
        quiet: print no status lines to standard error; by default, print none where there is an `on_progress`.
            Warnings are always printed.

    Raises:
        UsageError: INPUT, OUTPUT or an option does not allow the job; the message names the option of the command line.
        JobError: the job failed; the message names the work that is kept.
        KeyboardInterrupt: the user pressed Ctrl-C; the message names the work that is kept.
    """
    job = _job_options(options)
    if options.price is not None:
        raise UsageError("price: is for `dry_run`; leave it out")
    with _as_guest(on_progress is not None if quiet is None else quiet):
        return append(job, on_progress) if job.append else steps.prepare(job, on_progress)


def dry_run(options: PrepareOptions, *, quiet: bool = True) -> DryRun:
    """The plan of a job, with estimates of its time and size, as `--dry-run` prints it. Nothing is written.

    Args:
        options: the options of the command.
        quiet: print no status lines to standard error.

    Raises:
        UsageError: INPUT, OUTPUT or an option does not allow the job.
        JobError: the listing alone rejects too many images, or the sample cannot be taken.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    job = _job_options(options, ["--dry-run"])
    with _as_guest(quiet):
        return plan_append(job) if job.append else steps.plan(job)


@contextlib.contextmanager
def _as_guest(quiet: bool) -> Iterator[None]:
    """Leave the process of the caller as it was: its output, its filters of warnings, and its interrupts."""
    with _turn, terminal.output_of(terminal.QUIET if quiet else terminal.NORMAL), warnings.catch_warnings():
        ignore_image_warnings()
        try:
            yield
        except Interrupted as error:
            # A caller who goes on after a failed job does not mean to go on after Ctrl-C.
            raise KeyboardInterrupt(str(error)) from None


def _job_options(options: PrepareOptions, words: Sequence[str] = ()) -> JobOptions:
    job = parse(["prepare", *options.to_words(), *words])
    given: dict[str, Any] = {}
    if is_list(options.classes):
        given["classes"] = tuple(_names(options.classes, "classes"))
    if is_list(options.exclude):
        given["exclude"] = frozenset(_names(options.exclude, "exclude"))
    return replace(job, **given)


def _names(values: Any, name: str) -> list[str]:
    names = list(values)
    wrong = next((one for one in names if not isinstance(one, str) or not one), None)
    if not names or wrong is not None:
        raise UsageError(f"{name}: {'is an empty list' if not names else f'{wrong!r:.80} is no name'}")
    if len(set(names)) < len(names):
        raise UsageError(f"{name}: {next(one for one in names if names.count(one) > 1)!r} is there twice")
    return names
