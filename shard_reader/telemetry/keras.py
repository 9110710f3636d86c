"""A callback for Keras."""

from __future__ import annotations

from typing import Any

try:
    import keras
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "shard_reader.telemetry.keras needs Keras: pip install 'image-shards[keras]'", name=error.name
    ) from error

from shard_reader.telemetry.logger import HasStats, StatsLogger, numbers

__all__ = ["StatsCallback"]

_IN_LOGS = ("data/waited", "data/records_per_second")


class StatsCallback(keras.callbacks.Callback):
    """Adds `data/waited` and `data/records_per_second` to the logs of each epoch, and writes all numbers.

    The logs go to Keras' History, CSVLogger and TensorBoard, if these come after this callback, and to the bar.

    Args:
        stream: the `ShardSequence`, or the stream of `as_dataset`, that `fit` trains on.
        to: a place to write all numbers to, as for `StatsLogger`. By default only the logs of epochs have some.
        every: the number of steps between two writes.

    Raises:
        TypeError: `stream` has no stats, or `to` is no such place.

    Examples:
        >>> model.fit(train, epochs=3, callbacks=[StatsCallback(train)])  # doctest: +SKIP
    """

    def __init__(self, stream: HasStats, to: Any = None, *, every: int = 100) -> None:
        super().__init__()
        self._logger = StatsLogger(stream, _ignore if to is None else to, every=every)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step."""
        self._logger.step()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the numbers of the epoch."""
        found = numbers(self._logger.end_epoch())
        if logs is not None:
            logs.update({name: found[name] for name in _IN_LOGS if name in found})


def _ignore(found: dict[str, float], step: int) -> None:
    del found, step
