"""Streams as `tf.data`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "shard_reader.tf_data needs TensorFlow: pip install 'image-shards[tf]'", name=error.name
    ) from error

from shard_reader.stream import Spec, Stream

__all__ = ["as_dataset"]


def as_dataset(stream: Stream, *, inputs: str | None = None, targets: str | None = None) -> tf.data.Dataset:
    """Batches of a stream as a `tf.data.Dataset`, one epoch for each time it is iterated.

    Args:
        stream: where the batches come from; order, share and position stay with it.
        inputs, targets: with both, elements are `(inputs, targets, weight)`, as `model.fit` takes them;
            with neither, they are dictionaries of tensors.

    Raises:
        ValueError: one of the two is given without the other, the stream has no such field, or a field is a list.
        TypeError: `stream` is no Stream.

    >>> model.fit(as_dataset(stream, inputs="image", targets="label"), epochs=3)  # doctest: +SKIP
    """
    if not isinstance(stream, Stream):
        raise TypeError(f"{stream!r} is no Stream: pass data.stream(...)")
    names = _element_names(stream, inputs, targets)
    specs = {name: _tensor_spec(stream, name, spec) for name, spec in stream.specs.items()}
    signature = tuple(specs[name] for name in names) if names else specs

    whole = stream.remaining == len(stream)

    def epoch() -> Iterator[Any]:
        if whole and stream.remaining != len(stream):
            raise ValueError("the stream was given another position after as_dataset: call as_dataset again")
        for batch in stream:
            yield tuple(batch[name] for name in names) if names else batch

    dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    if whole:  # a restored epoch is shorter than those that follow: its length stays unknown
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(stream)))
    return dataset


def _element_names(stream: Stream, inputs: str | None, targets: str | None) -> tuple[str, ...]:
    if inputs is None and targets is None:
        return ()
    if inputs is None or targets is None:
        raise ValueError(f"inputs={inputs!r}, targets={targets!r}: give both or neither")
    stream.require(inputs, targets)
    return inputs, targets, "weight"


def _tensor_spec(stream: Stream, name: str, spec: Spec) -> tf.TensorSpec:
    if spec.dtype == "list":
        raise ValueError(
            f"{name!r} is a list, of another length in each record, and no tensor: leave it out of fields=, or pad it"
            ' with ragged="pad"'
        )
    size = None if stream.order.remainder == "keep" else stream.order.share
    return tf.TensorSpec((size, *spec.shape), spec.dtype)
