"""Inputs, targets and sample weights of a model from the arrays of a batch, the same in every adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import at_least_one, require
from shard_reader.mixing import MIXING
from shard_reader.printable import printable
from shard_reader.stream.batch_reader import Batch, Spec
from shard_reader.stream.stream import Stream

__all__ = ["Choice", "Elements"]

Choice = str | Sequence[str] | Callable[[Mapping[str, Any]], Any] | None
"""The name of an array of a batch, several names, which give a tuple, or a function of the batch."""


class Elements:
    """Turns batches into training elements: `inputs`, `(inputs, targets)` or `(inputs, targets, weight)`.

    A choice is a name, several names, or a function of the batch as the adapter gives it: a dictionary of the
    framework's tensors.

    Args:
        stream: the stream of the batches.
        inputs: by default None, for the dictionaries themselves as elements.
        targets: by default None, for the inputs alone as elements.
        weight: the sample weights beside the targets: "weight" for those of the batch (0 for padding); another field,
            which is multiplied by those; a function, which has to multiply by them itself; or None.
        one_hot: make `label` float32 `[n, classes]`, with 1 for the class of each record, or each of its classes: the
            number of classes, or True for the number of class names in the data.
        is_trimmed: the adapter leaves padding out, unless other ranks have a share of the batch.

    Raises:
        TypeError: `stream` is not a Stream, or a choice is neither names nor a function.
        ValueError: the stream has no such field, or mixes and its numbers are left out; targets come without inputs;
            weights are left out, and the last batch is padded, or damaged records are skipped.
    """

    def __init__(
        self,
        stream: Stream,
        inputs: Choice,
        targets: Choice,
        weight: Choice = "weight",
        one_hot: bool | int = False,
        *,
        is_trimmed: bool = False,
    ) -> None:
        if not isinstance(stream, Stream):
            raise TypeError(f"{stream!r} is no Stream: pass data.stream(...)")
        self._inputs, self._targets, self._weight = inputs, targets, weight
        self._classes = _classes(stream, one_hot)
        self._weight_field = weight if isinstance(weight, str) and weight != "weight" else None
        self.specs = self._specs(stream)
        if inputs is None and targets is not None:
            raise ValueError(f"targets={targets!r} without inputs: give inputs as well, or neither")
        for name, choice in (("inputs", inputs), ("targets", targets), ("weight", weight)):
            _check_choice(name, choice, self.specs)
        if MIXING in self.specs and MIXING not in self.names:
            raise ValueError(
                f"mixing=: its numbers are in no part of the elements{self}, which would stay as they are: take"
                ' inputs=("image", "mixing"), or whole batches, and mix them by shard_reader.mixing.mixed'
            )
        self._check_weights(stream, is_trimmed)

    def __str__(self) -> str:
        """The choices as arguments: `inputs='image', targets='label'`."""
        choices = {"inputs": self._inputs, "targets": self._targets}
        if self._weight != "weight":
            choices["weight"] = self._weight
        return "".join(f", {name}={_as_text(choice)}" for name, choice in choices.items() if choice is not None)

    @property
    def are_dictionaries(self) -> bool:
        """Whether nothing is chosen, and elements are whole batches."""
        return self._inputs is None

    @property
    def has_weights(self) -> bool:
        """Whether elements are `(inputs, targets, weight)`."""
        return self._targets is not None and self._weight is not None

    @property
    def names(self) -> tuple[str, ...]:
        """The chosen arrays of a batch; all arrays where a choice is a function."""
        if self._inputs is None:
            return tuple(self.specs)
        chosen = set()
        for choice in (self._inputs, self._targets, self._weight if self._targets is not None else None):
            if callable(choice):
                return tuple(self.specs)
            chosen |= {choice} if isinstance(choice, str) else set(choice or ())
        return tuple(
            name for name in self.specs if name in chosen or (name == "weight" and self._weight_field in chosen)
        )

    def arrays(self, batch: Batch) -> Batch:
        """The chosen arrays of a batch, with the label one-hot if that was asked for.

        Raises:
            ValueError: a label is not one of the classes.
        """
        arrays = {name: batch[name] for name in self.names}
        if self._classes and "label" in arrays:
            arrays["label"] = _one_hot(batch["label"], batch.get("label/mask"), self._classes)
        # A field as a weight would count padding in full: it is multiplied by the batch's own weights.
        if self._weight_field in arrays:
            arrays["weight"] = (batch["weight"] * batch[self._weight_field]).astype(np.float32)
        return arrays

    def select(self, arrays: Mapping[str, Any]) -> Any:
        """The element of the arrays from `arrays`, or of the framework's tensors made of them."""
        if self._inputs is None:
            return arrays
        inputs = _chosen(self._inputs, arrays)
        if self._targets is None:
            return inputs
        targets = _chosen(self._targets, arrays)
        if self._weight is None:
            return inputs, targets
        return inputs, targets, _chosen("weight" if self._weight_field else self._weight, arrays)

    def _specs(self, stream: Stream) -> dict[str, Spec]:
        specs = stream.specs
        if self._classes:
            specs["label"] = Spec("float32", (self._classes,))
        return specs

    def _check_weights(self, stream: Stream, is_trimmed: bool) -> None:
        if self._inputs is None or (self._targets is not None and self._weight is not None):
            return
        order = stream.order
        padding = order.padding
        if padding and not (is_trimmed and order.world_size == 1 and not order.record_order.padding):
            raise ValueError(
                f"an epoch has {padding} records of padding, and without weights they would count: make the"
                ' stream with remainder="keep" (evaluation, prediction) or "drop", or give targets and weight'
            )
        if stream.skips:
            raise ValueError(
                'on_error="skip" gives damaged records weight 0, and without weights they would count: give targets and'
                ' weight, or take on_error="raise"'
            )


def _classes(stream: Stream, one_hot: bool | int) -> int:
    """The number of classes; 0 if labels stay numbers."""
    if one_hot is False:
        return 0
    stream.require("label")
    if one_hot is True:
        names = stream.data.class_names
        require(names is not None, "one_hot", one_hot, "the data has no names of classes: give their number")
        return len(names or ())
    return at_least_one("one_hot", one_hot)


def _check_choice(name: str, choice: Any, specs: Mapping[str, Spec]) -> None:
    if choice is None or callable(choice):
        return
    names = (choice,) if isinstance(choice, str) else choice
    if not isinstance(names, Sequence) or not names or not all(isinstance(part, str) for part in names):
        raise TypeError(f"{name}={choice!r}: must be a name, several, or a function of the batch")
    if name == "weight" and not isinstance(choice, str):
        raise TypeError(f"weight={choice!r}: must be one name, or a function of the batch")
    for part in names:
        require(
            part in specs, name, choice, f"{part!r} is not among the stream's fields, {printable(', '.join(specs))}"
        )
    if name == "weight" and (specs[choice].shape or specs[choice].dtype not in ("int64", "float32")):
        raise ValueError(f"weight={choice!r}: is no number of each record")


def _chosen(choice: Choice, arrays: Mapping[str, Any]) -> Any:
    if callable(choice):
        return choice(arrays)
    if isinstance(choice, str):
        return arrays[choice]
    return tuple(arrays[name] for name in choice or ())


def _as_text(choice: Choice) -> str:
    """A choice, for people: a name, names, or the name of a function."""
    return getattr(choice, "__name__", repr(choice)) if callable(choice) else repr(choice)


def _one_hot(labels: NDArray[Any], mask: NDArray[np.bool_] | None, classes: int) -> NDArray[np.float32]:
    """Labels, or lists of them, as `[n, classes]`."""
    if labels.dtype == object:
        rows = np.repeat(np.arange(len(labels)), [len(values) for values in labels])
        values = np.concatenate([np.empty(0, np.int64), *labels])
    elif mask is not None:
        rows, values = np.nonzero(mask)[0], labels[mask]
    else:
        rows, values = np.arange(len(labels)), labels
    wrong = values[(values < 0) | (values >= classes)]
    if len(wrong):
        raise ValueError(f"label {wrong[0]}: one_hot={classes} has room for 0 to {classes - 1}")
    encoded = np.zeros((len(labels), classes), np.float32)
    encoded[rows, values] = 1
    return encoded
