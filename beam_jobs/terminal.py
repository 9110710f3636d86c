"""Text for people: status lines, progress, and numbers in words."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from shard_reader.printable import printable, printable_lines
from shard_reader.storage.secrets import without_secrets

__all__ = [
    "NORMAL",
    "QUIET",
    "VERBOSE",
    "ProgressLine",
    "counted",
    "is_verbose",
    "output_of",
    "print_status",
    "print_warning",
    "progress_bar",
    "progress_text",
    "rate_text",
    "set_output",
    "size_text",
]

QUIET, NORMAL, VERBOSE = range(3)
_TERMINAL_SECONDS = 0.2
# What these log, they raise as errors, too.
_STORES = ("adlfs", "aiobotocore", "aiohttp", "asyncio", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs")


class _LogFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class _Output:
    """How much this process prints."""

    level = NORMAL


_output = _Output()


def set_output(level: int) -> None:
    """Set how much this process prints: QUIET, NORMAL or VERBOSE."""
    _output.level = level
    for name in _STORES:
        logging.getLogger(name).setLevel(logging.NOTSET if level == VERBOSE else logging.CRITICAL)
    if level == VERBOSE:
        handler = logging.StreamHandler()
        handler.setFormatter(_LogFormatter("%(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])


@contextlib.contextmanager
def output_of(level: int) -> Iterator[None]:
    """Set how much this process prints, and its loggers, for the time of a call."""
    loggers = [logging.getLogger(name) for name in (*_STORES, "apache_beam")]
    before, levels = _output.level, [logger.level for logger in loggers]
    set_output(level)
    try:
        yield
    finally:
        _output.level = before
        for logger, kept in zip(loggers, levels, strict=True):
            logger.setLevel(kept)


def is_verbose() -> bool:
    """Whether tracebacks and logs are wanted."""
    return _output.level == VERBOSE


def print_status(line: str, to: TextIO | None = None) -> None:
    """Print a status line to standard error, or to the stream `to`, unless the output is to be quiet."""
    if _output.level != QUIET:
        print_warning(line, to)


def print_warning(line: str, to: TextIO | None = None) -> None:
    """Print a line to standard error, or to the stream `to`, even where the output is to be quiet."""
    with contextlib.suppress(OSError):  # a closed terminal is no reason to stop the job
        print(printable_lines(without_secrets(line)), file=to or sys.stderr, flush=True)


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`, `3 classes`, `4 boxes`."""
    plural = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def size_text(count: int) -> str:
    """A number of bytes as text: `1.5 GB`, `8.3 MB`, `0.7 kB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


class ProgressLine:
    """Progress in the last line of a terminal; where there is no terminal, in a line now and then.

    Args:
        seconds: time between two lines where there is no terminal; None prints no lines there.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.is_on_terminal = sys.stderr.isatty() and _output.level != QUIET
        self._shown = ""
        self._seconds = _TERMINAL_SECONDS if self.is_on_terminal else seconds
        self._last = 0.0 if self.is_on_terminal else time.monotonic()

    def show(self, text: str) -> None:
        """Replace the text, unless the last one was shown a moment ago."""
        if self._seconds is not None and time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            self._print(text, "")

    def leave(self, text: str) -> None:
        """Show a final text, which stays."""
        if self._seconds is not None:
            self._print(text, "\n")

    def clear(self) -> None:
        """Empty the line of the terminal."""
        if self.is_on_terminal:
            self._print("", "")

    def _print(self, text: str, end: str) -> None:
        if not self.is_on_terminal:
            print_status(text)
            return
        columns = _columns()
        text = printable(text)[: columns - 1]
        # A terminal that was made narrower has wrapped the last text into several lines.
        above = max(0, len(self._shown) - 1) // columns
        self._shown = text
        with contextlib.suppress(OSError):
            # "\x1b[K" clears the line, since the last text may have been longer, "\x1b[A" goes up.
            sys.stderr.write("\r\x1b[K" + above * "\x1b[A\x1b[K" + f"{text}{end}")
            sys.stderr.flush()


def _columns() -> int:
    """The width of the terminal; 80 for one that reports none."""
    # `shutil.get_terminal_size` asks the terminal of standard output, which may be a pipe.
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def progress_text(done: int, total: int, unit: str, seconds: float, note: str, kept: int = 0) -> str:
    """Progress in words: `60/300 images, 120 images/s, 0 rejected, 0:02 left`.

    Before the first unit is done there is neither a rate nor a time.

    Args:
        done: the number of units that are done.
        total: the number of all units.
        unit: the noun of the units.
        seconds: the time since the beginning.
        note: a further remark.
        kept: the number of units that an earlier run has done.
    """
    # Units of an earlier run took no time in this one: with them, the rate would be far too high.
    if done == kept and done < total:
        return f"{done}/{total} {unit}, {note}"
    rate = (done - kept) / max(1e-6, seconds)
    minutes, rest = divmod(round((total - done) / rate if rate else 0), 60)
    return f"{done}/{total} {unit}, {rate_text(rate)} {unit}/s, {note}, {minutes}:{rest:02d} left"


def rate_text(rate: float) -> str:
    """A number for each second as text: `120`, `0.4`."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def progress_bar(done: int, total: int, unit: str, seconds: float, note: str, kept: int = 0) -> str:
    """Progress as a bar of the terminal's width. The arguments are those of `progress_text`."""
    from tqdm import tqdm  # imported here: it comes with Beam, which not every command needs

    ascii = not (sys.stderr.encoding or "").lower().startswith("utf")
    text: str = tqdm.format_meter(
        done, total, seconds, ncols=_columns() - 1, ascii=ascii, unit=f" {unit}", postfix=note, initial=kept
    )
    return text
