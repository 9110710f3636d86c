"""Text for people: status lines, progress, and numbers in words."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from typing import TextIO

from shard_reader.storage.secrets import without_secrets

__all__ = ["ProgressLine", "counted", "print_status", "progress_bar", "progress_text", "size_text"]

_TERMINAL_SECONDS = 0.2


def print_status(line: str, to: TextIO | None = None) -> None:
    """Print a status line to standard error, or to the stream `to`."""
    with contextlib.suppress(OSError):  # a closed terminal is no reason to stop the job
        print(without_secrets(line), file=to or sys.stderr, flush=True)


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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
        self.is_on_terminal = sys.stderr.isatty()
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
        with contextlib.suppress(OSError):
            # "\x1b[K" clears the line: the last text may have been longer.
            sys.stderr.write(f"\r\x1b[K{text}{end}")
            sys.stderr.flush()


def progress_text(done: int, total: int, unit: str, seconds: float, note: str, kept: int = 0) -> str:
    """Progress in words: `60/300 images, 120 images/s, 0 rejected, 0:02 left`.

    Args:
        done: the number of units that are done.
        total: the number of all units.
        unit: the noun of the units.
        seconds: the time since the beginning.
        note: a further remark.
        kept: the number of units that an earlier run has done.
    """
    # Units of an earlier run took no time in this one: with them, the rate would be far too high.
    rate = (done - kept) / max(1e-6, seconds)
    minutes, rest = divmod(round((total - done) / rate if rate else 0), 60)
    return f"{done}/{total} {unit}, {rate:.0f} {unit}/s, {note}, {minutes}:{rest:02d} left"


def progress_bar(done: int, total: int, unit: str, seconds: float, note: str, kept: int = 0) -> str:
    """Progress as a bar of the terminal's width. The arguments are those of `progress_text`."""
    from tqdm import tqdm  # imported here: it comes with Beam, which not every command needs

    columns, _ = shutil.get_terminal_size()  # 80 columns for a terminal that reports none
    ascii = not (sys.stderr.encoding or "").lower().startswith("utf")
    text: str = tqdm.format_meter(
        done, total, seconds, ncols=columns - 1, ascii=ascii, unit=f" {unit}", postfix=note, initial=kept
    )
    return text
