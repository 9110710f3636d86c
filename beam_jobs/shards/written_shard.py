"""A finished shard in words: `written.json` in its folder, which the manifest is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypedDict

from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.meter import STAGES
from beam_jobs.plan.tasks import ShardTask
from beam_jobs.shards.output import Work
from beam_jobs.shards.record import Shape
from beam_jobs.sources.files.interface import Reject, Suspect, Thumbnail
from shard_reader.format.manifest import Shard, ShardFile
from shard_reader.storage.directory import Directory

__all__ = [
    "WRITTEN_NAME",
    "Listed",
    "ShardMetrics",
    "WrittenShard",
    "hosts_of",
    "rejects_of",
    "suspects_of",
    "thumbnails_of",
]

WRITTEN_NAME: Final = "written.json"


class Listed(TypedDict):
    """The lists of a shard. They stay in its file, since those of all shards may be larger than memory.

    `hosts` has the number of images and of bytes of each web server, and `thumbnails` come with their keys.
    """

    rejects: Sequence[Reject]
    suspects: Sequence[Suspect]
    hosts: Mapping[str, Sequence[int]]
    thumbnails: Sequence[tuple[int, Thumbnail]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMetrics:
    """The cost of the attempt that finished a shard. No part of the dataset: no two runs have the same.

    `run_id` is the run of the command that wrote the shard. `seconds` is the time of the attempt, `cpu` and `wall` are
    seconds by stage, summed over its threads. `rejects` are counts by reason.
    """

    run_id: str
    seconds: float
    bytes_read: int
    cpu: Mapping[str, float]
    wall: Mapping[str, float]
    rejects: Mapping[str, int]

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> ShardMetrics:
        """The inverse of `dataclasses.asdict`. Only numbers are taken: the file may be from another program."""
        return cls(
            run_id=str(body["run_id"]),
            seconds=float(body["seconds"]),
            bytes_read=int(body["bytes_read"]),
            cpu={stage: float(body["cpu"][stage]) for stage in STAGES},
            wall={stage: float(body["wall"][stage]) for stage in STAGES},
            rejects={str(reason): int(count) for reason, count in body["rejects"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenShard:
    """A finished shard: its entry in the manifest, and the counts and sums that are added up over all shards.

    `beside` has the SHA-256 of the files beside it that are not in the manifest, by their names.
    """

    task: ShardTask
    shard: Shard
    rejected: int
    suspects: int
    shape: Shape | None
    sums: ChannelSums
    classes: Mapping[int, int]
    changed: Mapping[str, int]
    hosts: int
    thumbnails: int
    beside: Mapping[str, str]
    metrics: ShardMetrics = field(compare=False)

    @property
    def size(self) -> int:
        """The size of the shard's files, in bytes, without their indexes."""
        return sum(file.bytes for file in self.shard.files.values())

    def to_json(self, listed: Listed) -> bytes:
        """JSON of all fields but the task, and of the lists that only publishing needs."""
        body = {name: value for name, value in asdict(self).items() if name != "task"}
        return json.dumps(body | {"listed": listed}).encode()

    @classmethod
    def from_json(cls, task: ShardTask, data: bytes) -> WrittenShard:
        """The inverse of `to_json`."""
        body = json.loads(data)
        files = {format: ShardFile(**file) for format, file in body["shard"]["files"].items()}
        shard = Shard(records=body["shard"]["records"], files=files)
        return cls(
            task=task,
            shard=shard,
            rejected=body["rejected"],
            suspects=body["suspects"],
            shape=None if body["shape"] is None else tuple(body["shape"]),
            sums=ChannelSums.from_json(body["sums"]),
            classes={int(label): count for label, count in body["classes"].items()},
            changed=body["changed"],
            hosts=body["hosts"],
            thumbnails=body["thumbnails"],
            beside=body["beside"],
            metrics=ShardMetrics.from_json(body["metrics"]),
        )


def rejects_of(task: ShardTask, work: Work, output: Directory) -> list[Reject]:
    """The rejected images of a finished shard."""
    return [Reject(*values) for values in _listed(task, work, output)["rejects"]]


def suspects_of(task: ShardTask, work: Work, output: Directory) -> list[Suspect]:
    """The records of a finished shard whose images may be damaged."""
    return [Suspect(*values) for values in _listed(task, work, output)["suspects"]]


def hosts_of(task: ShardTask, work: Work, output: Directory) -> dict[str, tuple[int, int]]:
    """The web servers that the records of a finished shard come from, each with its images and their bytes."""
    return {host: (images, size) for host, (images, size) in _listed(task, work, output)["hosts"].items()}


def thumbnails_of(task: ShardTask, work: Work, output: Directory) -> list[tuple[int, Thumbnail]]:
    """The thumbnails of a finished shard, with their keys."""
    return [(key, Thumbnail(*values)) for key, values in _listed(task, work, output)["thumbnails"]]


def _listed(task: ShardTask, work: Work, output: Directory) -> dict[str, Any]:
    listed: dict[str, Any] = json.loads(output.read(f"{work.shards}/{task.name}/{WRITTEN_NAME}"))["listed"]
    return listed
