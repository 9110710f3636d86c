"""The result of a job, and its progress, as objects for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from beam_jobs.sources.files.interface import Reject
from shard_reader.format.manifest import MANIFEST_NAME, REJECTS_NAME, Counts, Manifest
from shard_reader.storage.open import directory
from shard_reader.storage.secrets import without_secrets

__all__ = ["OnProgress", "PrepareResult", "ProgressReport", "plain_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReport:
    """The progress of a job.

    Attributes:
        step: "HashInputs" while duplicates are looked for, "WriteShards" after that.
        done, total: the number of images, on an engine that of shards.
        unit: "images" or "shards".
        rejected: the number of rejected inputs so far; on an engine those of the listing alone.
        seconds: the time since the step began.
    """

    step: str
    done: int
    total: int
    unit: str
    rejected: int
    seconds: float


OnProgress = Callable[[ProgressReport], None]
"""Is called with the progress of a job. Its error ends the job, as Ctrl-C does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareResult:
    """A finished dataset.

    Attributes:
        output: the place of the dataset, for `open_dataset`.
        manifest: its manifest.
        seconds: the time that the job took.
        was_finished: whether an earlier run had finished the dataset, and this one changed nothing.
        report: the place of the report; None without one.
        text: the summary that the command prints.
    """

    output: str
    manifest: Manifest
    seconds: float
    was_finished: bool
    report: str | None
    text: str

    @property
    def counts(self) -> Counts:
        """The numbers of inputs, records, rejects and duplicates."""
        return self.manifest.counts

    def rejects(self) -> Iterator[Reject]:
        """The inputs that are not in the dataset, one at a time: there may be as many as inputs."""
        for name in self._reject_lists() if self.counts.rejected else ():
            yield from map(Reject.from_line, directory(self.output).lines(name))

    def to_json(self) -> str:
        """One object of JSON, without the secrets of URLs."""
        return json.dumps(plain_json(self._body()), indent=2)

    def _reject_lists(self) -> tuple[str, ...]:
        """The lists of rejects of all generations."""
        return self.manifest.lists(REJECTS_NAME) or (REJECTS_NAME,)

    def _body(self) -> dict[str, Any]:
        manifest, place = self.manifest, directory(self.output)
        return {
            "output": self.output,
            "manifest": place.uri(MANIFEST_NAME),
            "was_finished": self.was_finished,
            "generation": manifest.generation,
            "seconds": round(self.seconds, 3),
            "formats": list(manifest.formats),
            "splits": {
                name: {
                    "records": split.records,
                    "shards": len(split.shards),
                    "bytes": sum(file.bytes for shard in split.shards for file in shard.files.values()),
                }
                for name, split in manifest.splits.items()
            },
            "counts": asdict(manifest.counts),
            "classes": len(manifest.class_names or ()),
            "fields": list(manifest.fields),
            "left_out": [asdict(one) for one in manifest.left_out],
            "warnings": list(manifest.warnings),
            "rejects": place.uri(self._reject_lists()[-1]) if self.counts.rejected else None,
            "report": self.report,
        }

    def __str__(self) -> str:
        return self.text


def plain_json(value: Any) -> Any:
    """A value of JSON, each text of which is without the secrets of URLs."""
    # One by one: in a text of JSON, a secret may end with the backslash of an escape.
    if isinstance(value, dict):
        return {name: plain_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner) for inner in value]
    return without_secrets(value) if isinstance(value, str) else value
