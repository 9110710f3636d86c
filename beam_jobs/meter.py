"""Where the time of a shard goes: seconds by stage, measured in the thread that does the work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, Protocol

__all__ = ["STAGES", "Meter", "Spent", "shares"]

STAGES: Final = ("read", "decode", "resize", "encode", "thumbnails", "write", "other")
"""The stages of an image. "write" is the record, the index, the checksums and an upload; "other" hashes and sums."""


class Spent(Protocol):
    """The sums of a meter."""

    @property
    def cpu(self) -> Mapping[str, float]: ...

    @property
    def wall(self) -> Mapping[str, float]: ...

    @property
    def bytes_read(self) -> int: ...


class Meter:
    """Seconds by stage, and the bytes that were read. For one thread; `add` sums up several.

    Attributes:
        cpu: seconds of the CPU by stage.
        wall: seconds by the clock by stage, with the time that a thread waits.
        bytes_read: size of the inputs in bytes, as they are stored or, for arrays, of their pixels.
    """

    # Two clocks for each stage of an image: some 15 microseconds for an image, whose work takes milliseconds.

    def __init__(self) -> None:
        self.cpu, self.wall = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
        self.bytes_read = 0
        self.restart()

    def restart(self) -> None:
        """Begin a stage now. The time since the last one counts nowhere."""
        self._cpu, self._wall = time.thread_time(), time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage now. The next one begins."""
        cpu, wall = self._cpu, self._wall
        self.restart()
        self.cpu[stage] += self._cpu - cpu
        self.wall[stage] += self._wall - wall

    def add(self, other: Spent) -> None:
        """Add the sums of another meter, or of a shard."""
        for stage in STAGES:
            self.cpu[stage] += other.cpu[stage]
            self.wall[stage] += other.wall[stage]
        self.bytes_read += other.bytes_read


def shares(seconds: Mapping[str, float]) -> str:
    """The stages with their parts of the whole: `read 3 %, decode 61 %`. A part below half a percent is left out."""
    whole = sum(seconds.values())
    parts = {stage: round(100 * seconds[stage] / whole) for stage in STAGES} if whole else {}
    return ", ".join(f"{stage} {part} %" for stage, part in parts.items() if part)
