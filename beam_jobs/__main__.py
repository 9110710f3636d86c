"""The command `image-shards`, also `python -m beam_jobs`."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from beam_jobs.cli.commands import choose
from beam_jobs.errors import JobError
from shard_reader.storage.secrets import without_secrets

__all__ = ["command", "main"]

# Batch systems and closed terminals send the others.
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command() -> NoReturn:
    """The process `image-shards`: runs its command line, and ends without taking Beam apart, which takes a while."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status is 0, 1 for a failure, 2 for wrong use, 130 for Ctrl-C."""
    for number in _INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)  # before anything was begun


def _interrupt(number: int, frame: object) -> NoReturn:
    """End as for Ctrl-C, once: a second signal must not cut off the clearing up."""
    del number, frame
    for other in _INTERRUPTS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(arguments: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of class names in a terminal that knows ASCII only
    try:
        command, words = choose(arguments)
        try:
            run = command.load()
        except ModuleNotFoundError as error:
            return _fail(f"needs {error.name}: pip install 'image-shards[beam]'", 2)
        return run(words)
    except JobError as error:
        return _fail(str(error), error.exit_status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)


def _fail(message: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody listens: the status says it
        print(f"image-shards: error: {without_secrets(message)}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    command()
