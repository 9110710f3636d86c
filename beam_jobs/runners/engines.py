"""Running the pipeline on an engine: Dataflow, Flink, Spark, Prism. Submitting, waiting, cancelling, progress."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from beam_jobs.errors import JobError, LostJobError, UsageError
from beam_jobs.runners.inline import inline_calls
from beam_jobs.runners.local import AddSteps, make_pipeline, temporary_files_in
from beam_jobs.terminal import is_verbose, print_status
from shard_reader.storage.open import is_url

__all__ = ["check_engine", "check_places", "run_on_engine"]

_POLL_SECONDS = 0.5
_CANCEL_SECONDS = 30.0
_DO_NOT_WAIT = ("no_wait_until_finish", "template_location", "output_executable_path")
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_PROGRESS_SECONDS = 30.0


def check_places(beam_options: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Check that the workers of an engine can see the places. Keys are their names on the command line.

    Raises:
        UsageError: a place is local, and the workers are on other machines.
    """
    runner = beam_options["runner"]
    if not _workers_are_elsewhere(beam_options):
        return
    for name, place in places.items():
        if not is_url(place) or (runner == "DataflowRunner" and place.startswith("file:")):
            shared = "" if runner == "DataflowRunner" else ", or file://... if every worker sees the same path"
            raise UsageError(
                f"{name} {place}: is local, and the workers of {runner} are elsewhere;"
                f" give a URL as gs://bucket/path{shared}"
            )


def check_engine(beam_options: Mapping[str, Any]) -> dict[str, Any]:
    """Beam's options, completed for the engine.

    Raises:
        UsageError: an option is missing, or does not fit a command that waits for its job.
    """
    for name in (*_DO_NOT_WAIT, "dry_run", "update", "streaming"):
        if beam_options.get(name):
            raise UsageError(f"--{name}: this command waits for the job that it starts; leave it out")
    # Pickling the main module is for notebooks: all code of this job is in packages that the workers have.
    options = {"save_main_session": False, **beam_options}
    return _for_dataflow(options) if options["runner"] == "DataflowRunner" else options


def _workers_are_elsewhere(beam_options: Mapping[str, Any]) -> bool:
    """Whether the workers may run on other machines, which cannot see this machine's disks."""
    if beam_options.get("environment_type") == "LOOPBACK":
        return False
    if beam_options["runner"] == "DataflowRunner" or beam_options.get("environment_type"):
        return True
    if beam_options.get("job_endpoint"):
        return not beam_options["job_endpoint"].startswith(("localhost:", "127."))
    master = beam_options.get("flink_master") or beam_options.get("spark_master_url") or "[local]"
    return not master.startswith(("[", "local"))


def _for_dataflow(options: dict[str, Any]) -> dict[str, Any]:
    missing = [f"--{name}" for name in ("project", "region", "temp_location") if not options.get(name)]
    if missing:
        raise UsageError(f"--runner=DataflowRunner: needs {', '.join(missing)}")
    brings_source = options.get("setup_file") and options.get("requirements_file")
    if not (options.get("sdk_container_image") or brings_source):
        raise UsageError(
            "--runner=DataflowRunner: its workers have nothing of this project; give --sdk_container_image,"
            " or --setup_file=./setup.py and --requirements_file=requirements.lock"
        )
    _check_credentials(options)
    return {
        # Beam's default name contains the user's name.
        "job_name": time.strftime("image-shards-%Y%m%d-%H%M%S"),
        **options,
        # Otherwise Beam sends Google a list of the packages installed here, with the paths of editable ones.
        "experiments": [*(options.get("experiments") or []), "disable_logging_submission_environment"],
        "setup_file": _with_directory(options.get("setup_file")),
    }


def _check_credentials(options: Mapping[str, Any]) -> None:
    """Check for credentials at once. Beam would retry for minutes."""
    try:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError
    except ImportError as error:
        raise UsageError("--runner=DataflowRunner: pip install 'image-shards[dataflow]'") from error
    if not options.get("no_auth"):
        try:
            google.auth.default()
        except DefaultCredentialsError as error:
            raise UsageError("no credentials for Google Cloud: gcloud auth application-default login") from error


def _with_directory(path: str | None) -> str | None:
    # Beam changes to the directory part of the path, and fails where that is empty.
    return path if path is None or os.path.dirname(path) else f"./{path}"


def run_on_engine(add_steps: AddSteps, beam_options: Mapping[str, Any], progress: Callable[[], str]) -> None:
    """Run a pipeline on an engine, and wait for it. Ctrl-C cancels the job there.

    Afterwards no process, thread or file of an engine is left on this machine. Call this from the main thread: Beam
    sets signal handlers.

    Args:
        add_steps: adds the steps to the pipeline.
        beam_options: the result of `check_engine`.
        progress: returns a text about the progress of the job.

    Raises:
        JobError: the job failed there.
        LostJobError: the job can no longer be reached, and may still run; or another job has taken OUTPUT.
    """
    name, result = beam_options["runner"], None
    lost: list[LostJobError] = []
    with contextlib.ExitStack() as stack:
        tell = stack.enter_context(_unheard())
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="image-shards-", ignore_cleanup_errors=True))
        stack.enter_context(temporary_files_in(place))
        runner = stack.enter_context(_runner(name))
        inline_calls.allow()
        try:
            pipeline = make_pipeline(add_steps, _ending_with_this_process(beam_options, place), "", runner)
            result, interrupted = _submit(pipeline, name)
            if interrupted:
                raise KeyboardInterrupt
            tell(f"submitted {_where(result, beam_options)}")
            lost = stack.enter_context(_regularly(lambda: tell(progress()), result.cancel))
            result.wait_until_finish()
            if lost:
                raise lost[0]
        except KeyboardInterrupt:
            inline_calls.stop()
            if result is not None:
                tell(f"cancelling {_where(result, beam_options)}")
                _cancel(result, beam_options)
            elif _workers_are_elsewhere(beam_options) and name != "DataflowRunner":
                raise LostJobError(
                    f"interrupted while the job was submitted to {name}; it may be running:"
                    " see that it is cancelled before you run the command again"
                ) from None
            raise
        except LostJobError:
            inline_calls.stop()
            raise
        except Exception as error:
            inline_calls.stop()
            if lost:  # an engine may call a job that was cancelled one that failed
                raise lost[0] from error
            if result is None:  # submitting it has failed
                raise JobError(f"{name} failed: {_said(error)}") from error
            # An error of waiting is not an error of the job: with the network away for a moment, it still runs.
            if _workers_are_elsewhere(beam_options) and not _surely_ended(result):
                raise _lost(_where(result, beam_options), error) from error
            raise JobError(f"{_where(result, beam_options)} failed: {_said(error)}") from error


def _submit(pipeline: Any, name: str) -> tuple[Any, bool]:
    """Start the job. Returns its handle, and whether Ctrl-C came before the handle was known."""
    # Dataflow jobs run on without this process. They are submitted in a thread, which no interrupt reaches: otherwise
    # a job could have started whose id is not known, and could not be cancelled.
    if name == "DataflowRunner":
        with ThreadPoolExecutor(1) as thread:
            submitted = thread.submit(pipeline.run)
            try:
                return submitted.result(), False
            except KeyboardInterrupt:
                return submitted.result(), True
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        return pipeline.run(), False
    finally:
        # Beam's handler ends the job server, but not the job.
        signal.signal(signal.SIGINT, interrupt)


def _cancel(result: Any, beam_options: Mapping[str, Any]) -> None:
    """Cancel a job, and return when none of its workers can write any more.

    Raises:
        LostJobError: the job may still be running.
    """
    elsewhere = _workers_are_elsewhere(beam_options)
    # Dataflow takes minutes to cancel, and reports its state all the while. An engine on this machine ends with this
    # process in any case.
    patience = float("inf") if beam_options["runner"] == "DataflowRunner" else _CANCEL_SECONDS
    deadline = time.monotonic() + patience
    try:
        result.cancel()
        while not _ended(result):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not cancelled in {patience:.0f} s")
            time.sleep(_POLL_SECONDS)
    except Exception as error:
        if elsewhere:
            raise _lost(_where(result, beam_options), error) from error


@contextlib.contextmanager
def _runner(name: str) -> Iterator[Any]:
    """A runner whose job server ends with this context. Beam would let it live until this process ends."""
    from apache_beam.runners.portability.portable_runner import PortableRunner
    from apache_beam.runners.runner import create_runner

    runner = create_runner(name)
    with contextlib.ExitStack() as stack:
        if isinstance(runner, PortableRunner):
            make = runner.default_job_server

            def make_and_stop_later(options: Any) -> Any:
                server = make(options)
                stack.callback(server.stop)
                return server

            runner.default_job_server = make_and_stop_later
        yield runner


def _ending_with_this_process(beam_options: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Beam's options, changed so that the kernel ends the servers that Beam starts when this process ends."""
    options = dict(beam_options)
    # A job server is ended by a signal, and leaves its temporary files then: they go to a folder of this job.
    properties = options.get("job_server_jvm_properties") or []
    options["job_server_jvm_properties"] = [*properties, f"-Djava.io.tmpdir={place}"]
    options["job_server_java_launcher"] = _mortal(options.get("job_server_java_launcher") or "java", place)
    # Otherwise Prism would reuse the server of an earlier pipeline of this process.
    if options["runner"] == "PrismRunner":
        options["experiments"] = [*(options.get("experiments") or []), "disable_prism_server_singleton"]
    if os.path.isfile(options.get("prism_location") or ""):
        options["prism_location"] = _mortal(options["prism_location"], place)
    return options


def _mortal(command: str, place: str) -> str:
    """Path of a script that runs a command and ends with the thread that has started it (Linux: prctl(2))."""
    if sys.platform != "linux":
        return command
    # The kernel's signal reaches the server even where this process is killed and can clear up nothing.
    path = os.path.join(place, f"mortal-{os.path.basename(command)}")
    code = f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)});"
    code += " os.execvp(sys.argv[1], sys.argv[1:])"
    words = shlex.join([sys.executable, "-I", "-S", "-c", code, command])
    Path(path).write_text(f'#!/bin/sh\nexec {words} "$@"\n', "utf-8")
    os.chmod(path, 0o700)
    return path


@contextlib.contextmanager
def _unheard() -> Iterator[Callable[[str], None]]:
    """Suppress the output of Beam and its servers: errors are raised. The yielded function still prints a line.

    Nothing is suppressed where the output is to be verbose.
    """
    if is_verbose():
        yield print_status
        return
    stderr = sys.stderr

    def tell(line: str) -> None:
        print_status(line, stderr)

    disabled_level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
            yield tell
    finally:
        logging.disable(disabled_level)


@contextlib.contextmanager
def _regularly(show: Callable[[], None], cancel: Callable[[], object]) -> Iterator[list[LostJobError]]:
    """Show the progress now and then. A job that has lost OUTPUT is cancelled, and its error is in the list."""
    ended, lost = threading.Event(), list[LostJobError]()

    def run() -> None:
        while not ended.wait(_PROGRESS_SECONDS):
            try:
                show()
            except LostJobError as error:
                lost[:] = [error]
                with contextlib.suppress(Exception):  # without a network, the next turn cancels it
                    cancel()
                    return
            except Exception:  # the store may be unreachable for a moment
                continue

    threading.Thread(target=run, daemon=True).start()
    try:
        yield lost
    finally:
        ended.set()


def _said(error: BaseException) -> str:
    """The text of an error, for this project's errors without the tracebacks and remarks that Beam adds."""
    found = re.findall(r"JobError: (.*?)(?: \[while running|\n\n|\Z)", str(error), re.DOTALL)
    return found[-1].strip() if found else (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _lost(where: str, error: Exception) -> LostJobError:
    return LostJobError(
        f"{where}: lost sight of it ({_said(error)}); it may still be running:"
        " see that it is cancelled before you run the command again"
    )


def _ended(result: Any) -> bool:
    """Whether a job has ended, asked of the engine."""
    from apache_beam.runners.runner import PipelineState

    return bool(PipelineState.is_terminal(result.state))


def _surely_ended(result: Any) -> bool:
    try:
        return _ended(result)
    except Exception:  # the engine does not answer
        return False


def _where(result: Any, beam_options: Mapping[str, Any]) -> str:
    """The name of a job, with a link to its page where there is one."""
    if beam_options["runner"] != "DataflowRunner":
        return f"the job on {beam_options['runner']}"
    project, region, job = beam_options["project"], beam_options["region"], result.job_id()
    return f"Dataflow job {job}, https://console.cloud.google.com/dataflow/jobs/{region}/{job}?project={project}"
