"""The further images, the bytes and the annotations of a record, moved as its image is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beam_jobs.images.geometry import Geometry
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.images.process import Payload
from beam_jobs.images.targets.further import Further, empty_payload, further_payload, mask_payload
from beam_jobs.images.targets.objects import Frame, move_objects
from beam_jobs.images.targets.segments import Outlines
from beam_jobs.shards.job import Job
from beam_jobs.sources.files.interface import (
    INSTANCES,
    TEXT_SEGMENTS,
    BadInput,
    Pixels,
    Reference,
    of_field,
)
from shard_reader.format.fields import OUTLINES

__all__ = ["further_of", "objects_of"]


def further_of(
    others: Mapping[str, bytes | Pixels], payload: Payload, job: Job, statistics: ChannelSums | None
) -> dict[str, Further]:
    """The payloads of further images and bytes; empty ones in place of those that an input lacks.

    Raises:
        BadInput: an image cannot be used, or is missing.
    """
    further = dict[str, Further]()
    for name in job.payloads:
        if name == job.segments:
            continue
        with of_field(name):
            if name in others:
                further[name] = further_payload(
                    others[name],
                    job.fields[name],
                    payload.geometry,
                    job.image,
                    statistics,
                    is_upright=job.source.boxes_are_upright,
                )
            elif name in (job.source.allow_missing or ()):
                further[name] = empty_payload(job.fields[name], payload.geometry, job.image, payload.channels)
            else:
                raise BadInput("missing", f"INPUT has none; --allow-missing {name} stores an empty one")
    return further


def objects_of(reference: Reference, geometry: Geometry, job: Job) -> tuple[Mapping[str, Any], int, dict[str, Further]]:
    """The values with all that moves with the pixels, the number of dropped boxes, and the masks of outlines.

    Raises:
        BadInput: annotations are for an image of another size, or have another form.
    """
    frame = Frame(geometry, reference.frame, job.source.boxes_are_upright)
    keypoints = {name: field.shape[1] or 1 for name, field in job.fields.items() if field.role == "keypoints"}
    moved, kept = move_objects(reference.values, job.boxes, job.points, frame, keypoints)
    dropped = 0 if kept is None else int((~kept).sum())
    if job.segments is None:
        return moved, dropped, {}
    with of_field("segments"):
        is_relative = any(form.startswith("rel-") for form in job.boxes.values())
        segments = reference.payloads.get("segments") or []
        found = Outlines(segments, geometry, upright=frame.is_upright(), is_relative=is_relative)
        if kept is not None and len(found) != len(kept):
            raise BadInput("bad-objects", f"{len(found)} outlines for {len(kept)} objects")
        if kept is not None:
            found.select(kept)
        if job.segments in TEXT_SEGMENTS:
            return {**moved, OUTLINES: found.texts(job.segments)}, dropped, {}
        classes = moved.get("objects/label")
        if job.segments == "instances":
            numbers = list(range(1, len(found) + 1))
            moved = {**moved, INSTANCES: numbers}
        else:
            numbers = [1] * len(found) if classes is None else [int(one) + 1 for one in classes]
        field = job.fields[job.segments]
        values = found.labelled(numbers, field.dtype)
        orientation = 1 if frame.is_upright() else geometry.orientation
        mask = mask_payload(values, field, geometry, job.image, (orientation,))
    return moved, dropped, {job.segments: mask}
