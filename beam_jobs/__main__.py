"""The command `image-shards`, also `python -m beam_jobs`: a process of its own, and its signals."""

# Only light modules: a Ctrl-C before `command` runs ends Python with a traceback.
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

__all__ = ["command"]

# Ctrl-C sends SIGINT, a batch system SIGTERM, a closed terminal SIGHUP.
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command() -> NoReturn:
    """Run the command line of this process, and end the process."""
    _receive_signals(_end)
    from beam_jobs.cli.main import main  # imports NumPy, which takes up to a second

    _receive_signals(_interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _interrupt_again
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # Not `sys.exit`: the interpreter takes a while to take Beam's modules and threads apart, and there is nothing left
    # to clean up.
    os._exit(status)


def _receive_signals(handler: Callable[[int, object], NoReturn]) -> None:
    for number in _INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has SIGHUP ignored
            signal.signal(number, handler)


def _end(number: int, frame: object) -> NoReturn:
    """End the process at once, in which nothing has begun."""
    # No KeyboardInterrupt: within an import of NumPy, C code makes an ImportError of it.
    del number, frame
    print("image-shards: error: interrupted", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(130)


def _interrupt(number: int, frame: object) -> NoReturn:
    """Raise KeyboardInterrupt at the first signal, and ignore the others."""
    # A second signal must not cut the cleaning up short.
    del number, frame
    for other in _INTERRUPTS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Interrupt a little later if Python has dropped the KeyboardInterrupt."""
    # It drops every error in a callback of a finalized object, as in those of its import system.
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    command()
