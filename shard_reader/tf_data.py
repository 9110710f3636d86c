"""Streams as `tf.data`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

from numpy.typing import NDArray

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "shard_reader.tf_data needs TensorFlow: pip install 'image-shards[tf]'", name=error.name
    ) from error

from shard_reader.adapters.elements import Choice, Elements
from shard_reader.adapters.normalization import pixel_statistics
from shard_reader.dataset.records import Records
from shard_reader.stream.batch_reader import Batch, Spec
from shard_reader.stream.loop import Loop
from shard_reader.stream.stream import Stream
from shard_reader.system.buffers import ALIGNMENT, BufferPool

__all__ = ["as_dataset", "as_tensors", "normalization"]

_SMALL = 1 << 14  # bytes up to which TensorFlow's own copy does not matter
_HELD = 8  # batches that TensorFlow holds at a time
_LIST = (
    "{!r} is a list, of another length in each record, and no tensor: leave it out of fields=, or pad it with"
    ' ragged="pad"'
)


def as_dataset(
    stream: Stream,
    *,
    inputs: Choice = None,
    targets: Choice = None,
    weight: Choice = "weight",
    one_hot: bool | int = False,
) -> tf.data.Dataset:
    """Batches of a stream as a `tf.data.Dataset`. Each iteration is one epoch.

    Tensors share the memory of the stream's arrays, except for small raw images. The cardinality is set, and shapes and
    dtypes are static, except for the size of batches with `remainder="keep"`.

    After a position in the middle of an epoch was restored, the dataset is the rest of that epoch, and can be iterated
    once: make another one for the following epochs. Each iteration is the next epoch, also that of
    `dataset.skip(n).take(1)`: `stream.batch(epoch, n)` is one batch of any epoch. To resume `model.fit`, take
    `shard_reader.keras.ResumeCallback`.

    Args:
        stream: the stream of the batches; order, share and position stay with it.
        inputs: the first part of elements `(inputs, targets, weight)`: a field's name, several names, which give a
            tuple, or a function of the dictionary in TensorFlow's operations, which becomes part of the graph. By
            default elements are dictionaries of tensors.
        targets: the second part, in the same forms.
        weight: the third part, in the same forms. None leaves it out.
        one_hot: labels as float32 `[n, classes]`: True, or the number of classes.

    Raises:
        ValueError: the stream has no such field, a field is a list, or padding would count.
        TypeError: `stream` is not a Stream.

    Examples:
        >>> model.fit(as_dataset(stream, inputs="image", targets="label"), epochs=3)  # doctest: +SKIP
    """
    elements = Elements(stream, inputs, targets, weight, one_hot)
    size = None if stream.order.remainder == "keep" else stream.order.share
    signature = {name: _tensor_spec(name, elements.specs[name], size) for name in elements.names}
    batches, alive, aligned = stream.remaining, weakref.ref(stream), _Aligned()

    def epoch() -> Generator[Batch, None, None]:
        stream = alive()
        if stream is None:
            raise RuntimeError("the stream is gone, since neither it nor the dataset was kept: keep one of them")
        # The cardinality was set, and Keras takes the length of the first epoch for that of all.
        if stream.remaining != batches:
            raise ValueError(
                f"the dataset was made for {batches} batches, and the stream has {stream.remaining} ahead: it was given"
                " another position, or the rest of an epoch is done: call as_dataset again"
            )
        for batch in stream:
            yield {name: aligned(values) for name, values in elements.arrays(batch).items()}
            del batch  # its memory is for a later batch

    dataset = tf.data.Dataset.from_generator(lambda: Loop(epoch()), output_signature=signature)
    # The dataset keeps the stream, not the function: TensorFlow keeps that for ever, and with it would keep the
    # stream's threads and buffers.
    dataset._stream = stream
    if inputs is not None:
        dataset = dataset.map(elements.select)
    # There is nothing to tune, and the end of an iterator may wait for the tuning thread, which sleeps for as long as
    # the epoch took. Later stages with AUTOTUNE have a thread for each CPU, unless their options say otherwise.
    options = tf.data.Options()
    options.autotune.enabled = False
    if stream.order.world_size > 1:  # otherwise a strategy with several workers would divide this rank's share again
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.apply(tf.data.experimental.assert_cardinality(batches)).with_options(options)


def as_tensors(batch: Batch) -> dict[str, tf.Tensor]:
    """The arrays of a batch as tensors on the CPU, for a training loop without `tf.data`: as fast as the stream.

    Images share the memory of the batch, through DLPack. The memory goes to a later batch when neither the array nor a
    tensor is kept. Arrays that TensorFlow could not share, since they are read-only or not aligned, are copied.

    Args:
        batch: a batch of a stream. Strings become tensors of strings.

    Raises:
        ValueError: a field is a list.

    Examples:
        >>> for batch in stream:  # doctest: +SKIP
        ...     tensors = as_tensors(batch)
        ...     train_step(tensors["image"], tensors["label"], tensors["weight"])
    """
    return {name: _tensor(name, values) for name, values in batch.items()}


def normalization(
    data: Records, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Callable[[Any], Any]:
    """A function from images `[n, height, width, channels]` to float32 with mean 0 and standard deviation 1.

    For `dataset.map`, or a custom training step, which runs it on the device; in Keras models, take
    `shard_reader.keras.normalization`.

    Args:
        data: the dataset, with the mean and standard deviation of each channel in its manifest.
        mean: means to take instead, of pixels scaled to 0..1.
        std: standard deviations to take instead, of pixels scaled to 0..1.

    Raises:
        ValueError: the dataset has no statistics, or its pixels are normalized already.
    """
    statistics = pixel_statistics(data, mean, std)

    def normalize(images: Any) -> Any:
        return (tf.cast(images, tf.float32) - statistics.mean) / statistics.std

    return normalize


def _tensor(name: str, values: NDArray[Any]) -> tf.Tensor:
    if values.dtype.hasobject:
        if not all(isinstance(value, bytes) for value in values.flat):
            raise ValueError(_LIST.format(name))
        return tf.constant(values.tolist(), tf.string, values.shape)
    if values.nbytes < _SMALL or values.dtype == bool:
        return tf.constant(values)
    # TensorFlow does not look at the alignment of what it shares, and ends the process when it computes with it.
    values = _aligned_copies(values)
    if not values.flags.writeable:
        return tf.constant(values)
    return tf.experimental.dlpack.from_dlpack(values.__dlpack__())


class _Aligned:
    """Copies arrays into aligned memory, which TensorFlow takes as it is; its own copy would be slower."""

    def __init__(self) -> None:
        self._pool: BufferPool | None = None

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        if values.ctypes.data % ALIGNMENT == 0 or values.nbytes < _SMALL or values.dtype.hasobject:
            return values
        if self._pool is None or self._pool.size < values.nbytes:
            self._pool = BufferPool(values.nbytes, _HELD)
        memory = self._pool.array(values.shape, values.dtype)
        memory[...] = values
        return memory


def _tensor_spec(name: str, spec: Spec, size: int | None) -> tf.TensorSpec:
    if spec.dtype == "list":
        raise ValueError(_LIST.format(name))
    return tf.TensorSpec((size, *spec.shape), spec.dtype)


_aligned_copies = _Aligned()
