"""Calls of other libraries by hand, with the seed that a record of a stream has."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader import Draws, Stream
from shard_reader.order.shuffle import key

__all__ = ["draws_of", "global_states", "picture", "same_states", "seeded_by_hand"]


def picture(height: int = 41, width: int = 57, channels: int = 3, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Smooth pixels with some noise: augmentations of noise alone look alike."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 0.8, height)[:, None, None] * np.linspace(0.3, 1, width)[None, :, None]
    pixels = np.clip(ramp + rng.uniform(0, 0.2, (height, width, channels)), 0, 1)
    most = 1 if dtype.startswith("float") else np.iinfo(dtype).max
    return (pixels * most).astype(dtype)


def draws_of(stream: Stream, step: int, place: int, number: int = 0) -> Draws:
    """The draws of a record of a batch for the transform with this number."""
    position = int(stream.order.positions(step, step + 1)[place])
    return Draws(key(stream.seed, 0, "draws"), position).child(number)


@contextlib.contextmanager
def seeded_by_hand(draws: Draws) -> Iterator[int]:
    """The global generators with the seed that a stream takes from these draws; as before afterwards."""
    states, seed = global_states(), draws.integer(1 << 64)
    torch: Any = sys.modules.get("torch")
    random.seed(seed)
    np.random.seed((seed % (1 << 32), seed >> 32))
    if torch is not None:
        torch.manual_seed(seed)
    yield seed
    random.setstate(states[0])
    np.random.set_state(states[1])
    if torch is not None:
        torch.set_rng_state(states[2])


def global_states() -> tuple[Any, Any, Any]:
    """The states of the generators of Python, NumPy and PyTorch."""
    torch: Any = sys.modules.get("torch")
    return random.getstate(), np.random.get_state(), None if torch is None else torch.get_rng_state().clone()


def same_states(one: tuple[Any, Any, Any], other: tuple[Any, Any, Any]) -> bool:
    return repr(one) == repr(other) and (one[2] is None or bool((one[2] == other[2]).all()))
