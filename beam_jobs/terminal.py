"""Text for people: status lines, progress, and numbers in words."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO

from shard_reader.storage.secrets import without_secrets

__all__ = ["counted", "say", "size_text"]


def say(line: str, to: TextIO | None = None) -> None:
    """One line about how things go, apart from the result on standard output; `to` is for another place."""
    with contextlib.suppress(OSError):  # nobody listens, which is no reason to stop the job
        print(without_secrets(line), file=to or sys.stderr, flush=True)


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_text(count: int) -> str:
    """So many bytes: `1.5 GB`, `8.3 MB`, `0.7 kB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
