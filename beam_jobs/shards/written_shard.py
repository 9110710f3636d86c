"""Finished shards in words: `written.json` in the folder of each, and the sums of all for the manifest."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.metadata.parquet import PART_NAME
from beam_jobs.meter import STAGES
from beam_jobs.parallel import in_order, readers_of
from beam_jobs.plan.tasks import ShardTask
from beam_jobs.shards.output import Work
from beam_jobs.shards.records.record import Shape, common_shapes
from beam_jobs.shards.thumbnails import chosen
from beam_jobs.sources.files.interface import DROPPED, Reject, Suspect, Thumbnail
from shard_reader.format.manifest import PIXELS_NAME, REJECTS_NAME, SUSPECTS_NAME, Host, Shard, ShardFile
from shard_reader.storage.directory import Directory

__all__ = [
    "PART_NAMES",
    "UNREADABLE",
    "WRITTEN_NAME",
    "AllShards",
    "Listed",
    "ShardMetrics",
    "WrittenShard",
    "each_written",
    "part_path",
    "read_written",
]

WRITTEN_NAME: Final = "written.json"
PART_NAMES: Final = (PART_NAME, PIXELS_NAME)
"""The files of a shard that are parts of those of the dataset."""
UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""The errors of a description that is damaged, of an earlier version, or of another program."""
_SHOWN = 3  # rejects in an error
_HELD = 1 << 16  # counts of labels that are summed together
_HOSTS, _COUNTED_HOSTS = 1000, 100_000  # in the manifest, and in memory
_OTHERS = "..."


class Listed(TypedDict):
    """The lists of a shard. They stay in its file, since those of all shards may be larger than memory.

    `classes` has the labels and the number of records of each, int64 `[2, n]`. `hosts` has the number of images and of
    bytes of each web server, and `thumbnails` come with their keys.
    """

    rejects: Sequence[Reject]
    suspects: Sequence[Suspect]
    classes: NDArray[np.int64]
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
    shapes: Mapping[str, Shape]
    sums: ChannelSums
    changed: Mapping[str, int]
    beside: Mapping[str, str]
    metrics: ShardMetrics = field(compare=False)

    @property
    def size(self) -> int:
        """The size of the shard's files, in bytes, without their indexes."""
        return sum(file.bytes for file in self.shard.files.values())

    def to_json(self, listed: Listed) -> bytes:
        """JSON of all fields but the task, and of the lists that only publishing needs."""
        body = {name: value for name, value in asdict(self).items() if name != "task"}
        return json.dumps(body | {"listed": {**listed, "classes": _packed(listed["classes"])}}).encode()

    @classmethod
    def from_json(cls, task: ShardTask, body: Mapping[str, Any]) -> WrittenShard:
        """The inverse of `to_json`, without the lists."""
        files = {format: ShardFile(**file) for format, file in body["shard"]["files"].items()}
        if any(file.index_crc32c is None for file in files.values()):
            raise ValueError("an earlier version wrote the index")
        shard = Shard(records=body["shard"]["records"], files=files)
        return cls(
            task=task,
            shard=shard,
            rejected=body["rejected"],
            suspects=body["suspects"],
            shapes={name: tuple(shape) for name, shape in body["shapes"].items()},
            sums=ChannelSums.from_json(body["sums"]),
            changed=body["changed"],
            beside=body["beside"],
            metrics=ShardMetrics.from_json(body["metrics"]),
        )


def part_path(name: str, task: ShardTask, work: Work, output: Directory) -> str:
    """The path of one of PART_NAMES of a shard."""
    # A store has no folders of its own: the first file in a shard's folder would say that the shard is finished.
    folder = work.shards if output.local is not None else f"{work.shards}-parts"
    return f"{folder}/{task.name}/{name}"


def read_written(task: ShardTask, work: Work, output: Directory) -> tuple[WrittenShard, Listed]:
    """The description of a finished shard, and its lists.

    Raises:
        FileNotFoundError: it is not finished.
        UNREADABLE: this is no description of this version.
    """
    body = json.loads(output.read(f"{work.shards}/{task.name}/{WRITTEN_NAME}"))
    listed = body["listed"]
    lists = Listed(
        rejects=[Reject(*values) for values in listed["rejects"]],
        suspects=[Suspect(*values) for values in listed["suspects"]],
        classes=_unpacked(*listed["classes"]),
        hosts=listed["hosts"],
        thumbnails=[(key, Thumbnail(*values)) for key, values in listed["thumbnails"]],
    )
    return WrittenShard.from_json(task, body), lists


def _packed(counts: NDArray[np.int64]) -> tuple[str, str]:
    """The type and the bytes of counts, in base64: of a thousand they are read twenty times faster than from JSON."""
    is_small = not counts.size or (counts.min() >= 0 and counts.max() < 1 << 16)
    dtype = "<u2" if is_small else "<i8"
    return dtype, base64.b64encode(counts.astype(dtype).tobytes()).decode()


def _unpacked(dtype: str, data: str) -> NDArray[np.int64]:
    return np.frombuffer(base64.b64decode(data), dtype).reshape(2, -1).astype(np.int64)


def each_written(tasks: Iterable[ShardTask], work: Work, output: Directory) -> Iterator[tuple[WrittenShard, Listed]]:
    """The descriptions of finished shards, in the order of their tasks, in memory of a few of them.

    Raises:
        JobError: one is missing, or is no description.
    """

    def read(task: ShardTask) -> tuple[WrittenShard, Listed]:
        try:
            return read_written(task, work, output)
        except (FileNotFoundError, *UNREADABLE) as error:
            place = output.uri(f"{work.shards}/{task.name}/{WRITTEN_NAME}")
            why = "is gone" if isinstance(error, FileNotFoundError) else f"cannot be read ({error!r:.80})"
            raise JobError(f"{place}: {why}; run the command again") from error

    return in_order(read, tasks, readers_of(output))


class AllShards:
    """The sums and the lists of all finished shards, of which each description is read once.

    Args:
        shards: the descriptions, in the order of the manifest.
        splits: the names of the splits.
        listed: a line of `rejects.jsonl` for each reject of the listing.
        scratch: a folder, for the lists that may be larger than memory.

    Attributes:
        shards: the shards of each split, in order.
        beside: for each of them the names of the files beside it that the manifest has not.
        sums: the sums over the pixels of each split.
        shapes: the shape that all images of a field have.
        changed: the number of records of each kind of change.
        rejected: the number of rejects of the shards.
        suspects: the number of suspects.
        first: the first few rejects.
        first_defects: the first few rejects that are no duplicates.
        thumbnails: the thumbnails of the dataset.
    """

    def __init__(
        self,
        shards: Iterable[tuple[WrittenShard, Listed]],
        splits: Sequence[str],
        listed: Iterable[bytes],
        scratch: Path,
    ) -> None:
        self.shards: dict[str, list[Shard]] = {name: [] for name in splits}
        self.beside: dict[str, list[tuple[str, ...]]] = {name: [] for name in splits}
        self._classes = {name: _LabelCounts() for name in splits}
        self.sums = dict.fromkeys(splits, ChannelSums())
        self.shapes: dict[str, Shape] = {}
        self.changed = Counter[str]()
        self._hosts: dict[str, tuple[int, int]] = {}
        self.rejected = self.suspects = 0
        self.first, self.first_defects = list[Reject](), list[Reject]()
        self._paths = scratch / REJECTS_NAME, scratch / SUSPECTS_NAME
        with open(self._paths[0], "wb") as rejects, open(self._paths[1], "wb") as suspects:
            for line in listed:
                rejects.write(line)
                if len(self.first_defects) < _SHOWN:
                    self._keep_first(Reject.from_line(line))
            # The candidates for thumbnails are taken from the shards one by one, and with them all the rest.
            self.thumbnails = chosen(self._added(shards, rejects, suspects))

    @property
    def classes(self) -> dict[str, dict[int, int]]:
        """The number of records of each label, by rising labels, for each split."""
        return {name: counts.total() for name, counts in self._classes.items()}

    @property
    def hosts(self) -> dict[str, Host]:
        """The web servers with the most images, and the others together as "..."."""
        return {host: Host(images=images, bytes=size) for host, (images, size) in _largest(self._hosts, _HOSTS).items()}

    @property
    def lists(self) -> Sequence[Path]:
        """The files with the content of `rejects.jsonl` and of `suspects.jsonl`, under these names."""
        return self._paths

    def _added(
        self, shards: Iterable[tuple[WrittenShard, Listed]], rejects: BinaryIO, suspects: BinaryIO
    ) -> Iterator[tuple[int, Thumbnail]]:
        for written, listed in shards:
            split = written.task.split
            self.shards[split].append(written.shard)
            self.beside[split].append(tuple(name for name in written.beside if name not in PART_NAMES))
            self._classes[split].add(listed["classes"])
            self.sums[split] += written.sums
            self.shapes = common_shapes(self.shapes, written.shapes)
            self.changed.update(written.changed)
            self.rejected += written.rejected
            self.suspects += written.suspects
            self._add_hosts(listed["hosts"])
            for reject in listed["rejects"]:
                rejects.write(reject.to_line())
                self._keep_first(reject)
            suspects.writelines(suspect.to_line() for suspect in listed["suspects"])
            yield from listed["thumbnails"]

    def _add_hosts(self, hosts: Mapping[str, Sequence[int]]) -> None:
        for host, (images, size) in hosts.items():
            before = self._hosts.get(host, (0, 0))
            self._hosts[host] = before[0] + images, before[1] + size
        if len(self._hosts) > _COUNTED_HOSTS:
            self._hosts = _largest(self._hosts, _COUNTED_HOSTS // 2)

    def _keep_first(self, reject: Reject) -> None:
        if len(self.first) < _SHOWN:
            self.first.append(reject)
        if len(self.first_defects) < _SHOWN and reject.reason not in DROPPED:
            self.first_defects.append(reject)


class _LabelCounts:
    """The number of records of each label, in memory of a few times the number of labels."""

    def __init__(self) -> None:
        self._labels = self._counts = np.zeros(0, np.int64)
        self._waiting, self._held = list[NDArray[np.int64]](), 0

    def add(self, counts: NDArray[np.int64]) -> None:
        """Add labels and their numbers, int64 `[2, n]`."""
        self._waiting.append(counts)
        self._held += counts.shape[1]
        if self._held > _HELD:
            self._sum()

    def total(self) -> dict[int, int]:
        """The sums, by rising labels."""
        self._sum()
        return dict(zip(self._labels.tolist(), self._counts.tolist(), strict=True))

    def _sum(self) -> None:
        labels, counts = np.concatenate([np.empty((2, 0), np.int64), *self._waiting], axis=1)
        self._waiting, self._held = [], 0
        # After a few shards no label is new.
        if not np.isin(labels, self._labels).all():
            known = np.union1d(self._labels, labels)
            before = np.zeros(len(known), np.int64)
            before[np.searchsorted(known, self._labels)] = self._counts
            self._labels, self._counts = known, before
        np.add.at(self._counts, np.searchsorted(self._labels, labels), counts)


def _largest(hosts: Mapping[str, tuple[int, int]], count: int) -> dict[str, tuple[int, int]]:
    """The hosts with the most images, sorted by that, and the sum of the others."""
    ordered = sorted((host for host in hosts if host != _OTHERS), key=lambda host: (-hosts[host][0], host))
    others = [hosts[host] for host in [*ordered[count:], *hosts.keys() & {_OTHERS}]]
    rest = {_OTHERS: (sum(images for images, _ in others), sum(size for _, size in others))} if others else {}
    return {host: hosts[host] for host in ordered[:count]} | rest
