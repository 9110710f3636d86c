"""The finished shards of a run, seen by the launcher: their time in sum, and for each a line of JSON in a file."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import IO, Any

from beam_jobs.errors import JobError, UsageError
from beam_jobs.meter import Meter
from beam_jobs.parallel import in_order, readers_of
from beam_jobs.plan.tasks import TASKS_NAME, ShardTask, read_tasks
from beam_jobs.shards.output import PLAN, Work
from beam_jobs.shards.written_shard import WrittenShard, read_written
from beam_jobs.terminal import print_warning
from shard_reader.storage.directory import Directory

__all__ = ["ShardLog", "log_file"]

_SECONDS = 10.0  # between two looks at OUTPUT


@contextlib.contextmanager
def log_file(path: str | None) -> Iterator[IO[bytes] | None]:
    """The file of `--log-json`, emptied; None without the option.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None:
        yield None
        return
    try:
        # Without a buffer: every line is on its way when it is written, and none is left to fail at the end.
        file = open(path, "wb", buffering=0)  # noqa: SIM115  # closed below
    except OSError as error:
        raise UsageError(f"--log-json {path}: cannot be written ({error.strerror})") from error
    with file:
        yield file


class ShardLog:
    """Finds the shards that workers have finished, on this machine or on an engine, by their descriptions in OUTPUT.

    Args:
        files: the directory of OUTPUT.
        work: the paths of the job in it.
        run_id: the id of this run of the command: shards of an earlier one are logged at the end, as kept.
        file: takes the lines; None sums up the time only.

    Attributes:
        total: the time and the bytes of the shards that this run has finished.
    """

    def __init__(self, files: Directory, work: Work, run_id: str, file: IO[bytes] | None) -> None:
        self._files, self._work, self.run_id, self._file = files, work, run_id, file
        self._logged, self._kept = set[str](), set[str]()
        self._looked = time.monotonic()
        self._error: OSError | None = None
        self.total = Meter()

    def update(self) -> None:
        """Log the shards that have been finished since the last call, if some time has passed. Raises nothing."""
        if self._file is None or time.monotonic() - self._looked < _SECONDS:
            return
        self._looked = time.monotonic()
        with contextlib.suppress(Exception):  # of a store, which may be away for a moment: `close` reads what is left
            self._log(self._finished(self._logged | self._kept), is_last=False)

    def close(self) -> None:
        """Log all that is left, when the dataset is whole.

        Raises:
            JobError: the log is not complete.
        """
        try:
            self._log(self._finished(self._logged), is_last=True)
        except Exception as error:
            if self._file is None:
                print_warning(f"warning: the time of the shards is not known: {error}")
                return
            raise JobError(
                f"the dataset is whole, but the descriptions for --log-json cannot be read: {error}"
            ) from error
        if self._file is not None and self._error is not None:
            raise JobError(
                f"the dataset is whole, but --log-json {self._file.name} cannot be written ({self._error.strerror})"
            )

    def _log(self, shards: Iterator[WrittenShard], is_last: bool) -> None:
        for shard in shards:
            is_new = shard.metrics.run_id == self.run_id
            if not is_new and not is_last:
                # It may be damaged, and be written again.
                self._kept.add(shard.task.name)
                continue
            self._logged.add(shard.task.name)
            if is_new:
                self.total.add(shard.metrics)
            self._print(json.dumps(_line(shard, is_kept=not is_new)))

    def _print(self, line: str) -> None:
        """Write a line. A full disk is said at once, and ends the command when the dataset is whole."""
        if self._file is None or self._error is not None:
            return
        try:
            self._file.write(line.encode() + b"\n")
        except OSError as error:
            self._error = error
            print_warning(
                f"warning: --log-json {self._file.name}: cannot be written ({error.strerror}); the job goes on"
            )

    def _finished(self, known: set[str]) -> Iterator[WrittenShard]:
        """The finished shards but the known ones."""
        found = set(self._files.names(self._work.shards)) - known
        if found:
            tasks = (task for task in read_tasks(self._files, PLAN + TASKS_NAME) if task.name in found)
            yield from in_order(self._read, tasks, readers_of(self._files))

    def _read(self, task: ShardTask) -> WrittenShard:
        return read_written(task, self._work, self._files)[0]


def _line(shard: WrittenShard, is_kept: bool) -> dict[str, Any]:
    metrics = shard.metrics
    return {
        "shard": shard.task.name,
        "split": shard.task.split,
        "kept": is_kept,
        "records": shard.shard.records,
        "rejected": shard.rejected,
        "reasons": metrics.rejects,
        "bytes_in": metrics.bytes_read,
        "bytes_out": shard.size,
        "seconds": round(metrics.seconds, 6),
        "cpu_seconds": _rounded(metrics.cpu),
        "wall_seconds": _rounded(metrics.wall),
    }


def _rounded(seconds: Any) -> dict[str, float]:
    return {stage: round(value, 6) for stage, value in seconds.items()}
