"""The values that all shards of a job share, from the options and the listing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from beam_jobs.options import JobOptions
from beam_jobs.plan.listing import Listing
from beam_jobs.runners.local import is_local
from beam_jobs.shards.job import Job
from beam_jobs.shards.output import PLAN, Work
from beam_jobs.shards.records.record import image_fields
from beam_jobs.sources.files.interface import Reading
from shard_reader.storage.open import is_url

__all__ = ["job_of", "robots_in", "with_threads", "worker_count"]

_REMOTE_THREADS = 32  # of a process: at 50 ms for each image of a store, they keep two CPUs busy
_COUNTS = ("max_num_workers", "num_workers", "parallelism")  # options of engines


def job_of(options: JobOptions, listing: Listing, output: str, work: Work, shared: str | None) -> Job:
    """The values of a job.

    Args:
        options: all options.
        listing: the listing of INPUT.
        output: the place of the plan.
        work: the paths in it; without a digest for a sample.
        shared: a folder that the processes of this machine share.
    """
    source, schema = listing.source.options, listing.schema
    root = _anywhere(source.root) if source.root is not None else None
    below = _anywhere(source.below) if source.below is not None else None
    output = _anywhere(output)
    # Those of a sample are moved to the plan.
    robots = f"{output}/{PLAN.rstrip('/')}" if work.digest else output
    return Job(
        source=replace(
            source,
            input=_anywhere(source.input),
            root=root,
            below=below,
        ),
        output=output,
        work=work,
        image=options.image,
        formats=options.formats,
        fields=image_fields(options.image, schema.fields, schema.payloads),
        boxes=schema.boxes,
        points=schema.points,
        payloads=schema.payloads,
        segments=schema.segments,
        count_classes=schema.count_classes,
        class_names=schema.class_names,
        threads=_REMOTE_THREADS if is_url(source.input) else 1,
        decoders=2 if is_url(source.input) else 1,
        max_seconds=options.max_seconds,
        normalization=None if listing.base is None else listing.base.normalization,
        dali_index=options.dali_index,
        reading=Reading(
            max_bytes=options.image.max_bytes,
            requests_per_host=_requests(options),
            turns=shared if is_local(options.beam) else None,
            robots=robots if source.respect_robots else None,
        ),
    )


def with_threads(job: Job, options: JobOptions, tasks: int) -> Job:
    """The job with its threads and decoders for this machine."""
    # With several decoders in each process, the last few shards of a job still keep every CPU busy.
    if not is_local(options.beam):
        return job
    processes = min(options.workers, tasks)
    decoders = 1 if options.workers == 1 else max(2, -(-options.workers // processes))
    return replace(job, threads=max(job.threads, decoders), decoders=decoders)


def robots_in(folder: Path) -> list[Path]:
    """Each robots.txt that the sample of a plan needed."""
    return sorted(folder.glob("robots-*.txt"))


def _requests(options: JobOptions) -> int:
    """The most requests to a host of one worker. The processes of this machine share theirs."""
    if is_local(options.beam):
        return options.source.requests_per_host
    # Workers of an engine know nothing of each other: each has its part.
    return max(1, options.source.requests_per_host // (worker_count(options.beam) or 1))


def worker_count(beam_options: Mapping[str, Any]) -> int | None:
    """The most workers that an engine is to have; None if Beam's options do not say it."""
    counts = (beam_options.get(name) for name in _COUNTS)
    return next((count for count in counts if isinstance(count, int) and count > 0), None)


def _anywhere(place: str) -> str:
    """A place as a URL or an absolute path."""
    return place if is_url(place) else os.path.abspath(place)
