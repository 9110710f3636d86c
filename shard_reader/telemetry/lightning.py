"""A callback for Lightning."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

# Two packages have the same classes, which are not those of each other: that of the training is loaded already.
_NAMES = ("lightning.pytorch", "pytorch_lightning")
_NAME = next((name for name in _NAMES if name in sys.modules), None)
if _NAME is None:
    _NAME = _NAMES[0] if importlib.util.find_spec("lightning") else _NAMES[1]
try:
    _Callback: Any = importlib.import_module(_NAME).Callback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "shard_reader.telemetry.lightning needs Lightning: pip install lightning", name=error.name
    ) from error

from shard_reader.telemetry.logger import HasStats, StatsLogger  # noqa: E402

__all__ = ["StatsCallback"]


class StatsCallback(_Callback):  # type: ignore[misc]
    """Writes the numbers of `StatsLogger` to all loggers of the Trainer, which write on rank 0.

    Import Lightning before it.

    Args:
        stream: the `StreamDataset` that the Trainer trains on.
        every: the number of batches between two writes.

    Raises:
        TypeError: `stream` has no stats.

    Examples:
        >>> trainer = Trainer(callbacks=[StatsCallback(dataset)])  # doctest: +SKIP
    """

    def __init__(self, stream: HasStats, *, every: int = 100) -> None:
        super().__init__()
        self._loggers: list[Any] = []
        self._logger = StatsLogger(stream, self._write, every=every)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Count the batch."""
        self._loggers = trainer.loggers
        self._logger.step(trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """Write the numbers of the epoch."""
        self._loggers = trainer.loggers
        self._logger.end_epoch()

    def _write(self, found: dict[str, float], step: int) -> None:
        for logger in self._loggers:
            logger.log_metrics(found, step)
