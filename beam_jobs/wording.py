"""Numbers in words, the same in everything that is said."""

from __future__ import annotations

__all__ = ["counted", "size_text"]


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_text(count: int) -> str:
    """So many bytes: `1.5 GB`, `8.3 MB`, `0.7 kB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
