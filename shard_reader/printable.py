"""Text that is safe to print."""

from __future__ import annotations

__all__ = ["printable"]


def printable(name: str) -> str:
    """A file's name on one line of a terminal: line breaks and undecodable bytes are escaped."""
    return repr(name)[1:-1]
