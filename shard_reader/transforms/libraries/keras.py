"""Layers of Keras 3 that change images: with the state of their generators set for each image."""

from __future__ import annotations

import importlib
import pickle
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.draws import Draws
from shard_reader.transforms.libraries.functions import draws_globally
from shard_reader.transforms.libraries.library import LibraryTransform, described, of_batches

__all__ = ["Keras", "is_keras"]

# AugMix takes its chains by Python's generator. With PyTorch, its gamma and beta distributions seed the global one.
_OF_PROCESS = frozenset({"AugMix"})
_OF_BATCHES = frozenset({"CutMix", "MixUp"})
_SEEDS = (1 << 31) - 1  # seeds are of 32 bits, in some backends with a sign


class Keras(LibraryTransform):
    """A layer or a Sequential: it gets a batch of one image, and is called as in training.

    Each thread has a clone, on the CPU. The generator of each random layer is seeded for each image.

    Raises:
        ValueError: a layer expects channels first, or mixes the images of a batch.
        TypeError: a layer cannot be copied by its configuration and weights.
    """

    library = "keras"

    def __init__(self, original: Any) -> None:
        layers = original._flatten_layers()
        for layer in layers:
            if getattr(layer, "data_format", None) == "channels_first":
                raise ValueError(
                    f"image={described(layer)}: expects channels first, and images of a stream have channels last:"
                    " pass data_format='channels_last'"
                )
            if _is_of_library(type(layer)) and type(layer).__name__ in _OF_BATCHES:
                raise of_batches(layer)
        own = [layer for layer in layers if not _is_of_library(type(layer))]
        is_global = any(draws_globally(layer, lambda value: False) for layer in own)
        is_global = is_global or any(type(layer).__name__ in _OF_PROCESS for layer in layers)
        is_random = is_global or any(layer._seed_generators for layer in layers)
        super().__init__(original, is_random=is_random, draws_globally=is_global, code=own)
        try:
            self._pickled = pickle.dumps(original)
        except Exception as error:
            raise TypeError(
                f"image={described(original)}: cannot be copied for each thread, by get_config() and weights:"
                f" {type(error).__name__}: {error}"
            ) from error
        self._weights = _weights(original)
        self._clones = threading.local()

    def __call__(
        self, image: NDArray[Any], draws: Draws | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The result, `[height, width, channels]`, of the dtype that the library gives."""
        if self.draws_globally and draws is not None and not hasattr(self._clones, "layer"):
            # The first call of a layer traces it, and uses other draws of the process.
            super().__call__(image, Draws(0, 0))
        return super().__call__(image, draws, out)

    def called(self, image: NDArray[Any], draws: Draws | None) -> Any:
        keras = importlib.import_module("keras")
        batch = np.ascontiguousarray(image[np.newaxis], image.dtype.newbyteorder("="))
        with keras.device("cpu"), self.refusing():
            clone, generators = self._clone()
            if draws is not None:
                for generator in generators:
                    generator.state.assign([1 + draws.integer(_SEEDS), 0])
            result = np.asarray(keras.ops.convert_to_numpy(_result(clone, batch)))[0]
        if _weights(clone) != self._weights:
            raise ValueError(
                f"would go through weights that {self!r} makes at random in its first call: call it once, on a batch"
                " of one image, and then pass it"
            )
        return result

    def _clone(self) -> tuple[Any, list[Any]]:
        """The clone of this thread, and its generators."""
        if not hasattr(self._clones, "layer"):
            self._clones.layer = layer = pickle.loads(self._pickled)
            self._clones.generators = [one for part in layer._flatten_layers() for one in part._seed_generators]
        return self._clones.layer, self._clones.generators


def is_keras(value: Any) -> bool:
    """Whether an object is a layer of Keras 3, or of a subclass."""
    return any(_is_of_library(kind) and kind.__name__ == "Layer" for kind in type(value).__mro__)


def _result(layer: Any, batch: Any) -> Any:
    """The result of a layer in training."""
    # It would be built for the size of the first image.
    if _is_of_library(type(layer)) and type(layer).__name__ == "Sequential":
        for child in layer.layers:
            batch = _result(child, batch)
        return batch
    # As in `tf.data`: outside of it, some of these layers cannot take integers with some backends.
    if any(_is_of_library(kind) and kind.__name__ == "DataLayer" for kind in type(layer).__mro__):
        batch = importlib.import_module("keras").ops.cast(batch, layer.compute_dtype)
    return layer(batch, training=True) if layer._call_has_training_arg else layer(batch)


def _weights(layer: Any) -> int:
    """The number of weights of a layer and those in it, without the states of generators."""
    return sum(len(part.weights) for part in layer._flatten_layers())


def _is_of_library(kind: type) -> bool:
    return kind.__module__.startswith("keras.src.")
