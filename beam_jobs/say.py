"""Saying something to the user while a job runs."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO

from shard_reader.secret import without_secrets

__all__ = ["say"]


def say(line: str, to: TextIO | None = None) -> None:
    """One line about how things go, apart from the result on standard output; `to` is for another place."""
    with contextlib.suppress(OSError):  # nobody listens, which is no reason to stop the job
        print(without_secrets(line), file=to or sys.stderr, flush=True)
