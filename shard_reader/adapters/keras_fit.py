"""The ways of Keras' `fit` that a sequence has to change: it shuffles, and refuses `class_weight` beside weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from shard_reader.stream.stream import Stream

__all__ = ["caller", "check_image_sizes", "take_over", "with_class_weight"]

_WEIGHTS = "shard_class_weight"  # an attribute of Keras' adapter, which exists once for each `fit`


def caller(depth: int, *attributes: str) -> Any:
    """The object whose method called, `depth` calls up from this one's caller, if it has these attributes."""
    found = sys._getframe(depth + 1).f_locals.get("self")
    return found if all(hasattr(found, name) for name in attributes) else None


def check_image_sizes(stream: Stream) -> None:
    """Check that the batches of a stream have one image size, where Keras takes that of the first two for all.

    Raises:
        ValueError: they have several, and the backend is TensorFlow.
    """
    if stream.data.bucket_sizes is not None and keras.config.backend() == "tensorflow":
        raise ValueError(
            "batches have several image sizes, and Keras on TensorFlow takes that of the first two for all: train on"
            " shard_reader.tf_data.as_dataset(stream, inputs=..., targets=...)"
        )


def take_over(adapter: Any, class_names: Sequence[str] | None, *, has_weights: bool) -> None:
    """Have Keras' adapter of a sequence keep the order of the batches, and leave class weights to the sequence.

    Args:
        class_names: the names of the classes, if they are known.
        has_weights: whether elements have sample weights, beside which Keras takes no class weights.

    Raises:
        ValueError: a class weight is of no class.
    """
    adapter.shuffle = False
    weights = getattr(adapter, "class_weight", None)
    if weights is None or not has_weights:
        return
    for label in weights:
        is_number = isinstance(label, int | np.integer)
        if not is_number or label < 0 or (class_names is not None and label >= len(class_names)):
            known = "" if class_names is None else f", of 0 to {len(class_names) - 1}"
            raise ValueError(f"class_weight={weights!r}: {label!r} must be the number of a class{known}")
    setattr(adapter, _WEIGHTS, dict(weights))
    adapter.class_weight = None


def with_class_weight(element: Any, adapter: Any) -> Any:
    """An element `(inputs, targets, weight)` with its weights multiplied by those of the classes, if `fit` has some.

    Raises:
        ValueError: the targets are not one array of labels, `[n]`, or one-hot, `[n, classes]`.
    """
    weights: Mapping[int, float] | None = getattr(adapter, _WEIGHTS, None)
    if weights is None:
        return element
    inputs, targets, weight = element
    if not isinstance(targets, np.ndarray) or targets.ndim > 2 or targets.dtype == object:
        raise ValueError("class_weight needs targets of one label for each record: give weight= as a function instead")
    labels = targets.argmax(axis=1) if targets.ndim == 2 and targets.shape[1] > 1 else targets.reshape(len(targets))
    found = np.array([weights.get(label, 1.0) for label in np.rint(labels).astype(np.int64).tolist()], np.float32)
    return inputs, targets, (weight * found).astype(np.float32)
