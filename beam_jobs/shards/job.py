"""The values that all shards of a job have in common, and the watcher of their progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from beam_jobs.options import ImageOptions
from beam_jobs.shards.output import Work
from beam_jobs.sources.files.interface import Reject, SourceOptions
from shard_reader.format.fields import Field

__all__ = ["Job", "Watcher"]


class Watcher:
    """Hears how a shard comes along. This one does nothing with it, for workers that nobody watches."""

    def begins(self, position: int) -> None:
        """The image at this place of the shard is being made."""

    def ends(self, position: int) -> None:
        """It is no longer."""

    def counts(self, images: int, reject: Reject | None = None) -> None:
        """So many more images are done; `reject` if it was one that cannot be used."""

    def keeps(self, images: int, rejected: int) -> None:
        """So many images, so many of them rejected, were done before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every shard of a job has in common.

    `staging` is a folder on the worker's disk for what is then uploaded; None for the system's own. `crashers`
    are ids of images that ended a worker process, each with what it ended with. `threads` read a shard's images at the
    same time, and `decoders` of them work on what they have read: images wait as the files they are, not as pixels.
    `boxes` and `points` are the fields that move with the pixels, each with what its numbers are.
    """

    source: SourceOptions
    output: str
    work: Work
    image: ImageOptions
    formats: tuple[str, ...]
    fields: Mapping[str, Field]
    boxes: Mapping[str, str]
    points: Mapping[str, str]
    count_classes: bool
    threads: int
    decoders: int = 1
    staging: str | None = None
    crashers: Mapping[str, str] = field(default_factory=dict)
