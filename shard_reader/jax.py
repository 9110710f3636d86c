"""Streams as JAX arrays, on one device or over the devices of several processes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import jax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("shard_reader.jax needs JAX: pip install 'image-shards[jax]'", name=error.name) from error

from shard_reader.adapters.device_queue import prefetch_to_device
from shard_reader.adapters.elements import Choice, Elements
from shard_reader.adapters.normalization import pixel_statistics
from shard_reader.arguments import at_least_one
from shard_reader.dataset.records import Records
from shard_reader.stream.batch_reader import Batch
from shard_reader.stream.loop import Loop
from shard_reader.stream.stream import Stream
from shard_reader.system.stats import Stats

__all__ = ["GlobalBatches", "normalization"]

_SMALL = 1 << 16  # bytes up to which arrays go to the device together


class GlobalBatches:
    """Batches of a stream as JAX arrays, the next ones on their way to the devices. Each loop is one epoch.

    With a sharding, each array is that of the global batch, `[batch_size, ...]`, divided among the devices along its
    first axis. If the devices are of several processes, that axis must go over all of them. A stream without ranks
    then becomes that of this process, and the records of a global batch are in the order of the ranks. Without a
    sharding, arrays are this stream's share, on the default device.

    Arrays of objects (ids, lists) stay NumPy arrays, of this process's share.

    `state_dict()` is the position after the last batch of the loop, not after batches that are on their way.

    Args:
        stream: the stream of the batches.
        sharding: the division of a global batch, `NamedSharding(mesh, PartitionSpec("data"))`.
        inputs: the first part of elements `(inputs, targets, weight)`: a field's name, several names, which give a
            tuple, or a function of the dictionary of arrays. By default elements are dictionaries.
        targets: the second part, in the same forms.
        weight: the third part, in the same forms. None leaves it out.
        one_hot: labels as float32 `[n, classes]`: True, or the number of classes.
        prefetch: number of batches that are sent to the devices in advance of the one in use.

    Raises:
        ValueError: the stream has no such field, padding would count, its ranks are not the sharding's processes, or
            the sharding does not divide each of its batches.
        TypeError: `stream` is not a Stream, or `sharding` is not a Sharding.

    Examples:
        >>> batches = GlobalBatches(stream, sharding, inputs="image", targets="label")  # doctest: +SKIP
        >>> for images, labels, weight in batches:  # doctest: +SKIP
        ...     parameters, loss = train_step(parameters, images, labels, weight)
    """

    def __init__(
        self,
        stream: Stream,
        sharding: jax.sharding.Sharding | None = None,
        *,
        inputs: Choice = None,
        targets: Choice = None,
        weight: Choice = "weight",
        one_hot: bool | int = False,
        prefetch: int = 1,
    ) -> None:
        self._elements = Elements(stream, inputs, targets, weight, one_hot)
        self._prefetch = at_least_one("prefetch", prefetch)
        self._sharding = sharding
        self._stream = stream if sharding is None else _of_this_process(stream, sharding)
        # The position of the loop, which the stream is ahead of.
        self._moves, self._place = self._stream.moves, self._stream.next

    def __repr__(self) -> str:
        sharding = "" if self._sharding is None else f", {self._sharding}"
        return f"GlobalBatches({self._stream!r}{sharding}{self._elements})"

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._stream)

    def __iter__(self) -> Iterator[Any]:
        """The elements of one epoch.

        Raises:
            ValueError: an integer does not fit into JAX's int32.
        """
        return Loop(self._epoch())

    def _epoch(self) -> Generator[Any, None, None]:
        for element, place in prefetch_to_device(self._stream, self._send, self._prefetch):
            self._moves, self._place = self._stream.moves, place
            yield element

    def stats(self) -> Stats:
        """`Stream.stats` of the stream of this process."""
        return self._stream.stats()

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch of the loop."""
        # Without a loop since, as after another position was loaded, the stream's own position is right.
        if self._moves != self._stream.moves:
            return self._stream.state_dict()
        epoch, step = self._place
        return self._stream.state_at(step, epoch)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position of a stream of any rank and world size.

        Raises:
            StateError: the position is of another dataset or order.
        """
        self._stream.load_state_dict(state)

    def _send(self, batch: Batch) -> Any:
        arrays = self._elements.arrays(batch)
        numbers = {name: _as_jax_takes_it(name, values) for name, values in arrays.items() if values.dtype != object}
        if self._sharding is not None:
            return self._elements.select(arrays | {name: self._divide(values) for name, values in numbers.items()})
        # Each call to JAX takes as long as the copy of a small array, so small arrays go together, in one call.
        small = {name: values for name, values in numbers.items() if values.nbytes < _SMALL}
        large: dict[str, Any] = {name: jax.device_put(values) for name, values in numbers.items() if name not in small}
        large |= _copied(small)
        return self._elements.select(arrays | large)

    def _divide(self, values: NDArray[Any]) -> jax.Array:
        shape = (self._stream.order.batch_size, *values.shape[1:])
        array: jax.Array = jax.make_array_from_process_local_data(self._sharding, values, shape)
        return array


def normalization(
    data: Records,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: Any = "float32",
) -> Callable[[Any], jax.Array]:
    """A function from images `[n, height, width, channels]` to `dtype` with mean 0 and standard deviation 1.

    It can be called in `jax.jit`, and runs on the device.

    Args:
        data: the dataset, with the mean and standard deviation of each channel in its manifest.
        mean: means to take instead, of pixels scaled to 0..1.
        std: standard deviations to take instead, of pixels scaled to 0..1.
        dtype: dtype of the result, "bfloat16" for instance; the arithmetic is in float32.

    Raises:
        ValueError: the dataset has no statistics, or its pixels are normalized already.
    """
    statistics = pixel_statistics(data, mean, std)
    center, scale = np.array(statistics.mean, np.float32), np.array(statistics.std, np.float32)

    def normalize(images: Any) -> jax.Array:
        values: jax.Array = (images.astype("float32") - center) / scale
        return values.astype(dtype)

    return normalize


# An identity: `jit` copies all of its arguments to the device at once.
@jax.jit
def _copied(arrays: dict[str, Any]) -> dict[str, Any]:
    return arrays


def _of_this_process(stream: Stream, sharding: jax.sharding.Sharding) -> Stream:
    if not isinstance(sharding, jax.sharding.Sharding):
        raise TypeError(f"{sharding!r} is no sharding: pass NamedSharding(mesh, PartitionSpec(axis))")
    order = stream.order
    devices: Any = sharding.device_set
    processes = len({device.process_index for device in devices})
    if order.world_size == 1 < processes:
        stream = stream.for_rank(jax.process_index(), processes)
    elif order.world_size != processes:
        raise ValueError(
            f"world_size={order.world_size}: the sharding's devices are of {processes} processes; leave rank and"
            " world_size out"
        )
    # A global array has one shape on all processes, and every device the same share of it.
    rest = order.records % order.batch_size
    if order.remainder == "keep" and rest:
        raise ValueError(
            f'remainder="keep": the last batch has {rest} records, which a sharding may not divide: take "pad" or'
            ' "drop"'
        )
    try:
        sharding.shard_shape((order.batch_size,))
    except (IndexError, ValueError) as error:
        raise ValueError(
            f"batch_size={order.batch_size}: {sharding} does not divide the first axis, and nothing else, of every"
            " array: the size of its mesh axis must divide batch_size, as PartitionSpec(axis) does"
        ) from error
    return stream


def _as_jax_takes_it(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Integers of 64 bits as JAX's default of 32 bits, if they fit."""
    # JAX itself would cut off the upper bits without a word.
    if values.dtype != np.int64 or jax.config.read("jax_enable_x64"):
        return values
    small = values.astype(np.int32)
    if (small != values).any():
        raise ValueError(
            f"{name!r} has {values[small != values].flat[0]}, which JAX's int32 cannot hold: leave it out of fields=,"
            ' or call jax.config.update("jax_enable_x64", True)'
        )
    return small
