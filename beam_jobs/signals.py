"""The signals that interrupt a command, and their handlers. Imports light modules alone: it comes before all others."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn

__all__ = ["INTERRUPTS", "end_when_interrupted", "raise_when_interrupted"]

INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C sends SIGINT, a batch system SIGTERM, a closed terminal SIGHUP."""


def end_when_interrupted() -> None:
    """From now on, an interrupt ends this process at once, in which no work has begun."""
    _handle(_end)


def raise_when_interrupted() -> None:
    """From now on, the first interrupt raises KeyboardInterrupt in the main thread, and further ones are ignored.

    It is raised again if Python drops it.
    """
    _handle(_interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _interrupt_again


def _handle(handler: Callable[[int, object], NoReturn]) -> None:
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has SIGHUP ignored
            signal.signal(number, handler)


def _end(number: int, frame: object) -> NoReturn:
    # No KeyboardInterrupt: within an import of NumPy, C code makes an ImportError of it. No `print`, which fails where
    # the signal comes within another one.
    del number, frame
    os.write(2, b"image-shards: error: interrupted\n")
    os._exit(130)


def _interrupt(number: int, frame: object) -> NoReturn:
    # A second signal must not cut the cleaning up short.
    del number, frame
    for other in INTERRUPTS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Interrupt a little later if Python has dropped the KeyboardInterrupt."""
    # It drops every error in a callback of a finalized object, as in those of its import system.
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(unraisable)
