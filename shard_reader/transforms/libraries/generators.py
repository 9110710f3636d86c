"""The global random generators of a process, seeded for one record at a time."""

# Libraries draw from one generator for all of a process. Threads would take turns at it in another order on every run,
# and the user's own draws would change with the number of images that were read.

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from shard_reader.transforms.draws import Draws

__all__ = ["give_up_generators", "seeded"]

_LOCK = threading.RLock()
_is_given_up = False


def _renew_lock() -> None:
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    # A thread of the parent may hold the lock in that moment, and is not there to give it back.
    os.register_at_fork(after_in_child=_renew_lock)


def give_up_generators() -> None:
    """Say that nothing else in this process draws: the generators then need not be as before after a record."""
    global _is_given_up
    _is_given_up = True


@contextlib.contextmanager
def seeded(draws: Draws) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and, where it is loaded, PyTorch (on the CPU), by the next draw.

    Threads wait for each other. Afterwards the generators are as before.
    """
    with _LOCK:
        restore = [] if _is_given_up else _states()
        seed = draws.integer(1 << 64)
        random.seed(seed)
        np.random.seed((seed & 0xFFFFFFFF, seed >> 32))
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            for restore_one, state in restore:
                restore_one(state)


def _states() -> list[tuple[Callable[[Any], Any], Any]]:
    """What sets each generator, and its state."""
    states: list[tuple[Callable[[Any], Any], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state(legacy=False)),
    ]
    torch = sys.modules.get("torch")
    if torch is not None:
        states.append((torch.default_generator.set_state, torch.default_generator.get_state()))
    return states
