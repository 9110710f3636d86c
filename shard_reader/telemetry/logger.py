"""The work for the batches of a loop as numbers by name, every few steps, for the loggers of trainings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from shard_reader.arguments import at_least_one
from shard_reader.system.stats import Stats

__all__ = ["HasStats", "StatsLogger", "Write", "check_stats", "numbers", "writer"]

Write = Callable[[dict[str, float], int], object]
"""Takes numbers by name, and the step of the training."""


class HasStats(Protocol):
    """A stream, or an adapter of one."""

    def stats(self) -> Stats:
        """The work of this process so far."""


def check_stats(stream: Any) -> None:
    """Check that a value is a stream, or an adapter of one.

    Raises:
        TypeError: it has no stats.
    """
    if not callable(getattr(stream, "stats", None)):
        raise TypeError(f"{stream!r} has no stats(): pass a stream, or the dataset that a loop is over")


def numbers(stats: Stats, prefix: str = "data/") -> dict[str, float]:
    """Some work as numbers of which curves are drawn; empty without a loop.

    Returns:
        `waited`: the share of the loop's time that it waited, 0 to 1. `records_per_second` of that time. `busy`, and
        of it `read`, `decode` and `transform`: shares of the workers' time, 0 to 1. `page_waits`, a count. `stalled`:
        the share of the loop's time that it waited for remote bytes. `fetched_bytes_per_second`.
    """
    loop, workers = stats.loop_seconds, stats.worker_seconds
    if loop <= 0:
        return {}
    found = {
        "waited": stats.waited,
        "records_per_second": stats.records / loop,
        "busy": stats.busy,
        "read": stats.read_seconds / workers if workers else 0.0,
        "decode": stats.decode_seconds / workers if workers else 0.0,
        "transform": stats.transform_seconds / workers if workers else 0.0,
        "page_waits": float(stats.page_waits),
        "stalled": min(1.0, stats.stalled_seconds / loop),
        "fetched_bytes_per_second": stats.bytes_fetched / loop,
    }
    return {f"{prefix}{name}": value for name, value in found.items()}


class StatsLogger:
    """Writes the work since the last time, every few steps, and that of each epoch. See `numbers`.

    Those of an epoch are below `data/epoch/`. Each process writes its own: call it on one rank, or give each rank a
    writer of its own.

    Args:
        stream: a stream, or `StreamDataset`, `ShardSequence` or `GlobalBatches`.
        to: the place to write to: a function of the numbers and the step, as `accelerator.log`; a `SummaryWriter` of
            PyTorch; a writer of `tf.summary.create_file_writer`; a run of Weights & Biases; a logger of Lightning.
        every: the number of steps between two writes.
        prefix: the beginning of each name.

    Raises:
        TypeError: `stream` has no stats, or `to` is something else.
        ValueError: `every` is not positive.

    Examples:
        >>> logger = StatsLogger(stream, SummaryWriter("runs/1"), every=50)  # doctest: +SKIP
        >>> for batch in stream:  # doctest: +SKIP
        ...     train(batch)
        ...     logger.step()
        >>> logger.end_epoch()  # doctest: +SKIP
    """

    def __init__(self, stream: HasStats, to: Any, *, every: int = 100, prefix: str = "data/") -> None:
        check_stats(stream)
        self._stream, self._write, self._every = stream, writer(to), at_least_one("every", every)
        self._prefix, self._steps, self._written = prefix, 0, 0
        self._last = self._epoch = stream.stats()

    def step(self, number: int | None = None) -> None:
        """Note that a step is done.

        Args:
            number: the number of the training's step; by default steps are counted from 1.
        """
        self._steps = self._steps + 1 if number is None else number
        self._written += 1
        if self._written >= self._every:
            self._written, now = 0, self._stream.stats()
            self._write_numbers(now - self._last, self._prefix)
            self._last = now

    def end_epoch(self) -> Stats:
        """Write the numbers of the epoch.

        Returns:
            the work of the epoch.
        """
        self._written, now = 0, self._stream.stats()
        epoch = now - self._epoch
        self._last = self._epoch = now
        if not epoch.batches:
            warnings.warn(
                "no batch of this epoch was counted in this process: worker processes of a DataLoader count for"
                " themselves: take num_workers=0, or the stream or dataset that the loop is over",
                RuntimeWarning,
                stacklevel=2,
            )
        self._write_numbers(epoch, f"{self._prefix}epoch/")
        return epoch

    def _write_numbers(self, stats: Stats, prefix: str) -> None:
        found = numbers(stats, prefix)
        if found:
            self._write(found, self._steps)


def writer(to: Any) -> Write:
    """A function that writes to one of the known places.

    Raises:
        TypeError: it is not known.
    """
    if callable(getattr(to, "log_metrics", None)):  # Lightning
        return lambda found, step: to.log_metrics(found, step)
    if callable(getattr(to, "add_scalar", None)):  # PyTorch
        return lambda found, step: _add_scalars(to, found, step)
    if callable(getattr(to, "define_metric", None)) and callable(getattr(to, "log", None)):  # Weights & Biases
        return _of_run(to)
    if callable(getattr(to, "as_default", None)):  # TensorFlow
        return lambda found, step: _summarize(to, found, step)
    if callable(to):
        write: Write = to
        return write
    raise TypeError(
        f"to={to!r}: must be a function of numbers and a step, a SummaryWriter, a writer of tf.summary, a run of"
        " Weights & Biases, or a logger of Lightning"
    )


def _add_scalars(to: Any, found: Mapping[str, float], step: int) -> None:
    for name, value in found.items():
        to.add_scalar(name, value, step)


def _of_run(run: Any) -> Write:
    # A step of its own: W&B's own step counts the calls of `log`, and refuses numbers that go back.
    known = set[str]()

    def write(found: dict[str, float], step: int) -> None:
        name = f"{min(found).rpartition('/')[0]}/step"
        if name not in known:
            known.add(name)
            for one in found:
                run.define_metric(one, step_metric=name)
        run.log({**found, name: step})

    return write


def _summarize(to: Any, found: Mapping[str, float], step: int) -> None:
    summary = sys.modules["tensorflow"].summary  # it has made the writer
    with to.as_default(step=step):
        for name, value in found.items():
            summary.scalar(name, value)
