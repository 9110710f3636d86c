"""Streams as a Keras `PyDataset`."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

try:
    import keras
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "shard_reader.keras needs Keras: pip install 'image-shards[keras]'", name=error.name
    ) from error

from shard_reader.stream import Stream

__all__ = ["ShardSequence"]


class ShardSequence(keras.utils.PyDataset):
    """Batches of a stream by number; `sequence[b]` reads batch `b` of the epoch and nothing else.

    Under `fit(shuffle=True)`, its default, Keras takes the batches in an order of its own, each once an
    epoch; pass `shuffle=False` for the order of the stream. Keras asks for batches by number, so a stream
    restored in the middle of an epoch starts that epoch anew. Leave `steps_per_epoch` out: Keras would
    begin a new epoch, with another order, in the middle of this one.

    Args:
        stream: where the batches come from.
        inputs, targets: the fields that make an element `(inputs, targets, weight)`.
        options: what `keras.utils.PyDataset` takes: `workers`, `use_multiprocessing`, `max_queue_size`.

    Raises:
        ValueError: the stream has no such field.
        TypeError: `stream` is no Stream.
    """

    def __init__(self, stream: Stream, *, inputs: str = "image", targets: str = "label", **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(stream, Stream):
            raise TypeError(f"{stream!r} is no Stream: pass data.stream(...)")
        stream.require(inputs, targets)
        self._stream, self._names = stream, (inputs, targets, "weight")
        self._epoch, self._within_epoch = stream.epoch, False

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self._stream)

    def __getitem__(self, step: int) -> tuple[NDArray[Any], ...]:
        """Batch `step` of the epoch, as `(inputs, targets, weight)`."""
        batch = self._stream.batch(self._epoch, step)
        return tuple(batch[name] for name in self._names)

    def on_epoch_begin(self) -> None:
        """Keras calls this; its worker threads may have asked for the epoch's first batches before."""
        self._within_epoch = True

    def on_epoch_end(self) -> None:
        """Go to the next epoch, with its own order. Keras calls this, also where none has begun."""
        self._epoch, self._within_epoch = self._epoch + self._within_epoch, False
