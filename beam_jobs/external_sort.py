"""Sorting more lines than memory holds: into buckets by how they begin, spilled to disk, sorted one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["Spill"]


class Spill:
    """Lines on their way into order. Which order that is, the lines alone decide.

    Args:
        directory: where the buckets spill to; it is there, and its owner removes it.
        buckets: into how many.
        memory: how many bytes of lines to hold before they spill.
    """

    def __init__(self, directory: Path, buckets: int = 1024, memory: int = 1 << 26) -> None:
        self._directory, self._memory = directory, memory
        self._buffers = [bytearray() for _ in range(buckets)]
        self._held = 0

    def add(self, key: bytes, line: bytes) -> None:
        """Add a line, which has no line break and begins with the hexadecimal digits of `key`.

        Args:
            key: at least two bytes, spread evenly; the first two choose the bucket.
            line: at least the key in hexadecimal.
        """
        buffer = self._buffers[(key[0] << 8 | key[1]) * len(self._buffers) >> 16]
        buffer += line
        buffer += b"\n"
        self._held += len(line) + 1
        if self._held > self._memory:
            self._spill()

    def lines(self) -> Iterator[bytes]:
        """Every line, in the order of their bytes."""
        for number, buffer in enumerate(self._buffers):
            path = self._path(number)
            data = path.read_bytes() + buffer if path.exists() else bytes(buffer)
            lines = data.split(b"\n")
            lines.pop()  # behind the last line break
            lines.sort()
            yield from lines

    def _spill(self) -> None:
        for number, buffer in enumerate(self._buffers):
            if buffer:
                with open(self._path(number), "ab") as file:  # open for a moment: there are more than may be open
                    file.write(buffer)
                buffer.clear()
        self._held = 0

    def _path(self, number: int) -> Path:
        return self._directory / f"bucket-{number:05d}"
