"""The values that all shards of a job have in common, and the watcher of their progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from beam_jobs.errors import JobError
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.options import MAX_SECONDS, ImageOptions
from beam_jobs.shards.output import Work
from beam_jobs.sources.files.interface import Reading, Reject, SourceOptions
from shard_reader.format.fields import Field
from shard_reader.printable import printable

__all__ = ["CLOCK_SECONDS", "Copies", "Job", "Watcher", "too_slow"]

CLOCK_SECONDS = 0.5
"""The time between two looks at how long images are decoded."""


class Watcher:
    """Receives the progress of a shard. This class ignores it: it serves calls without a display."""

    def begins(self, position: int) -> None:
        """The image at this position of the shard is being processed."""

    def decodes(self, position: int) -> None:
        """The image at this position has been read, and is being decoded."""

    def ends(self, position: int) -> None:
        """The image at this position is finished."""

    def counts(self, images: int, reject: Reject | None = None) -> None:
        """`images` more images are done. `reject` is given if the image cannot be used."""

    def keeps(self, images: int, rejected: int) -> None:
        """An earlier run has done `images` images, and rejected `rejected` of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """A generation of another dataset, whose records are copied from the shards of one format."""

    place: str
    generation: int
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The values that all shards of a job share.

    `staging` is a folder on the worker's disk for shards before their upload; None for the system's temporary folder.
    `crashers` maps the ids of images that ended a worker process to the cause of its death. `threads` threads read a
    shard's images at the same time; at most `decoders` of them decode and encode. `boxes` and `points` are the fields
    that move with the pixels, each with the form of its numbers. `payloads` are the fields with further images or with
    bytes, each with its role, and `segments` is the form of outlines. `reading` is for sources. An image that is
    decoded for more than `max_seconds` fails the job. `thumbnail_share` is the bound on `id_key` of the candidates for
    thumbnails. `hash_pixels` is True if the pre-pass decodes the inputs, for their perceptual hashes. `dali_index`
    writes an index for DALI beside each TFRecord file. Of the records in `statistics_split`, the sums are listed.
    `copies` is the dataset whose records are copied as they are; None where images are prepared. `normalization` are
    the sums that normalize the pixels of a dataset that is added to. `hash_values` is True if the pre-pass compares
    inputs with records of the same ids. `run_id` is the run of the command.
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
    # Threads wait for a disk or a network, decoders for a CPU. Images queue between them as encoded files, since
    # decoded pixels would take many times the memory.
    threads: int
    decoders: int = 1
    reading: Reading = field(default_factory=Reading)
    staging: str | None = None
    crashers: Mapping[str, str] = field(default_factory=dict)
    max_seconds: float = MAX_SECONDS
    thumbnail_share: int = 0
    hash_pixels: bool = False
    dali_index: bool = False
    run_id: str = ""
    payloads: Mapping[str, str] = field(default_factory=dict)
    segments: str | None = None
    copies: Copies | None = None
    class_names: tuple[str, ...] | None = None
    statistics_split: str | None = None
    normalization: ChannelSums | None = None
    hash_values: bool = False


def too_slow(id: str, seconds: float) -> JobError:
    """The error about an image that took too long."""
    # A clock never rejects: it is not the same twice, and two runs of a job would make two datasets.
    return JobError(
        f"{printable(id)}: is not decoded after --max-seconds {seconds:g}; leave it out with --exclude FILE, a file of"
        " such ids, one a line, or allow more"
    )
