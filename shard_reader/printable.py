"""Text that is safe to show."""

from __future__ import annotations

__all__ = ["printable"]


def printable(name: str) -> str:
    """A file's name on one line of a terminal: line breaks and bytes that are no text are escaped."""
    return repr(name)[1:-1]
