"""The number of this process, without a system call."""

from __future__ import annotations

import os

__all__ = ["process_number"]

_number = os.getpid()


def process_number() -> int:
    """`os.getpid()`, kept: small raw images ask several times for every batch, and each call costs a microsecond."""
    return _number


def _note() -> None:
    global _number
    _number = os.getpid()


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=_note)
