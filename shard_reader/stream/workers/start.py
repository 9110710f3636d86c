"""The start of worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

__all__ = ["can_start", "new_context", "packed", "started"]

_NOT_FORKED = ("tensorflow", "jax")  # a fork of a process in which they have threads may wait for ever
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_starting = threading.Lock()


def can_start() -> bool:
    """Whether this process may have worker processes: not on Windows, and not in a daemonic process."""
    return os.name == "posix" and not multiprocessing.current_process().daemon


def new_context() -> BaseContext:
    """The way in which processes are started: multiprocessing's own default, or "spawn" where a fork would hang."""
    # `get_context()` would fix the default, and a later `set_start_method` of the user's would fail.
    default = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if default == "fork" and any(name in sys.modules for name in _NOT_FORKED):
        default = "spawn"
    return multiprocessing.get_context(default)


def packed(setup: Any, context: BaseContext, transforms: object) -> Any:
    """The arguments of a process: as they are for a fork, otherwise pickled.

    Args:
        transforms: the transforms in them, for the message.

    Raises:
        TypeError: they cannot be pickled.
    """
    method = context.get_start_method()
    if method == "fork":
        return setup
    try:
        return pickle.dumps(setup)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        reason = re.sub(" at 0x[0-9a-f]+", "", str(error))
        raise TypeError(
            f"image={transforms!r} cannot be sent to worker processes, which begin by {method!r} ({reason}): define"
            " functions at the top of a module, and not as lambdas or inside of functions"
        ) from error


def started(context: BaseContext, target: Callable[..., None], name: str, *arguments: Any) -> BaseProcess:
    """A daemonic process that was started.

    Raises:
        RuntimeError: the system starts no more processes.
    """
    process: BaseProcess = context.Process(target=target, args=arguments, name=name, daemon=True)  # type: ignore[attr-defined]
    method = context.get_start_method()
    # Functions of the user's script need it. Otherwise the script is not run again, and needs no guard.
    needs_main = method == "fork" or any(b"__main__" in one for one in arguments if isinstance(one, bytes))
    try:
        with _starting, contextlib.nullcontext() if needs_main else _without_main():
            # Helpers of multiprocessing, which start with the first process, take signals as usual.
            if method == "forkserver":
                forkserver.ensure_running()
            if method != "fork":
                resource_tracker.ensure_running()
            with _signals_wait():
                _start(process)
    except OSError as error:
        raise RuntimeError(
            f"a worker process cannot be started ({error.strerror}): take fewer (threads=), or raise the limit"
        ) from error
    return process


def _start(process: BaseProcess) -> None:
    with warnings.catch_warnings():
        # Python 3.12 and later warn of a fork beside other threads. The child takes no lock that they may hold.
        warnings.filterwarnings("ignore", r".*use of fork\(\) may lead to deadlocks", DeprecationWarning)
        process.start()


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold back signals while a process is started, which handles them in its own way when it has begun."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module from a process that is started, which would import it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
