"""The checkpoint of Keras' `ResumeCallback`: nothing in it is trusted, since it may come from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from shard_reader.errors import CorruptionError, StateError
from shard_reader.format.shard_formats.hdf5_layout import check_links
from shard_reader.printable import excerpt
from shard_reader.system.regular_files import NotRegularError, read_regular

__all__ = ["KEPT", "POSITION", "SavedPosition", "assign", "check_weights", "read_position", "weights_name"]

POSITION = "position.json"
KEPT = ("epoch", "weights", "position", "random_states")
_MOST_BYTES = 1 << 24
_LAST_EPOCH = 1 << 31
_WEIGHTS = re.compile(r"epoch-[0-9]{5,}-step-[0-9]{8,}\.weights\.h5")


class SavedPosition(NamedTuple):
    """A position as it was saved: Keras' epoch, the file of weights, the stream's state, and states of layers."""

    epoch: int
    weights: str
    position: Any
    random_states: list[Any]


def weights_name(epoch: int, step: int) -> str:
    """The name of a file of weights."""
    return f"epoch-{epoch:05d}-step-{step:08d}.weights.h5"


def read_position(directory: Path) -> SavedPosition | None:
    """The position in a directory, or None.

    Raises:
        StateError: it is not a position, or its file of weights is missing.
    """
    path, remedy = directory / POSITION, f"remove {directory} to begin again"
    try:
        data = read_regular(path, _MOST_BYTES)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        found = json.loads(data.decode())
        saved = SavedPosition(*(found[name] for name in KEPT))
    except FileNotFoundError:
        return None
    except NotRegularError as error:
        raise StateError(f"{path}: {error.strerror}: {remedy}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateError(f"{path}: is not a position ({excerpt(error)}): {remedy}") from None
    if (
        not isinstance(saved.epoch, int)
        or not 0 <= saved.epoch < _LAST_EPOCH
        or not isinstance(saved.random_states, list)
    ):
        raise StateError(f"{path}: is not a position (epoch {excerpt(saved.epoch)}): {remedy}")
    # The file of weights is loaded, and removed when there is a later one.
    if not isinstance(saved.weights, str) or not _WEIGHTS.fullmatch(saved.weights):
        named = excerpt(saved.weights)
        raise StateError(f"{path}: is not a position (no callback gives weights the name {named}): {remedy}")
    if not (directory / saved.weights).is_file():
        raise StateError(f"{directory / saved.weights}: is missing: {remedy}")
    return saved


def check_weights(path: Path) -> None:
    """Check that a file of weights has its values in itself: Keras would read those of other files.

    Raises:
        StateError: a value lies in another file, or the file is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            check_links(file)
    except (CorruptionError, KeyError, OSError, RuntimeError) as error:
        why = str(error) if isinstance(error, CorruptionError) else f"{path}: is damaged ({excerpt(error)})"
        raise StateError(f"{why}: remove {path.parent} to begin again") from None


def assign(variable: Any, values: Any, directory: Path) -> None:
    """Set a layer's random state to saved values.

    Raises:
        StateError: the values do not fit.
    """
    try:
        variable.assign(np.asarray(values, variable.dtype).reshape(variable.shape))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise StateError(
            f"{directory / POSITION}: the state of a layer that draws does not fit the model ({excerpt(error)}): remove"
            f" {directory} to begin again"
        ) from None
