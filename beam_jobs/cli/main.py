"""The whole command line: from words to an exit status."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Sequence

from beam_jobs import terminal
from beam_jobs.cli.commands import choose
from beam_jobs.errors import JobError
from shard_reader.printable import printable, printable_lines
from shard_reader.storage.secrets import without_secrets

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line. Returns the exit status: 0, 1 for a failure, 2 for wrong use, 130 for Ctrl-C."""
    try:
        with terminal.output_of(terminal.NORMAL):
            return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)  # before a job had begun: `prepare` turns later ones into `Interrupted`


def _run(arguments: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of classes and files may have characters that the terminal cannot show.
            stream.reconfigure(errors="backslashreplace")
    try:
        command, words = choose(arguments)
        try:
            run = command.load()
        except ModuleNotFoundError as error:
            return _fail(f"needs {error.name}: pip install 'image-shards[beam]'", 2)
        return run(words)
    except ModuleNotFoundError as error:
        if "pip install" not in str(error):
            raise
        return _fail(str(error), 2)
    except JobError as error:
        return _fail(str(error), error.exit_status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(printable(f"{where}{error.strerror or error}"), 1)


def _fail(message: str, status: int) -> int:
    if terminal.is_verbose():
        terminal.print_status(traceback.format_exc())
    with contextlib.suppress(OSError):  # on a closed terminal, the exit status remains
        print(printable_lines(f"image-shards: error: {without_secrets(message)}"), file=sys.stderr)  # noqa: T201
    return status
