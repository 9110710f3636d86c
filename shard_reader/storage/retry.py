"""Calls that are tried again after temporary errors."""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from shard_reader.errors import ShardsError
from shard_reader.storage.store_errors import NO_CREDENTIALS, answer, has_unknown_host
from shard_reader.system.regular_files import NotRegularError

__all__ = ["LOCAL_SECONDS", "REMOTE_SECONDS", "may_pass", "retried"]

_T = TypeVar("_T")

LOCAL_SECONDS = 8.0
"""Seconds for which a disk is asked again."""
REMOTE_SECONDS = 60.0
"""Seconds for which a store on the network is asked again."""
_FIRST_CONTACT_SECONDS = 1.0  # for a host whose name nobody knows, before anything was reached
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_QUIET_SECONDS, _TELL_SECONDS = 4.0, 30.0
_LOG = logging.getLogger("shard_reader")
# Errors about the file itself, which the operating system would repeat.
_LASTING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
    | {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENOSYS}
)
_LASTING_ERRORS = (
    FileNotFoundError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    FileExistsError,
    NotRegularError,
)
_MISTAKES = (
    ShardsError,
    MemoryError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ImportError,
    NotImplementedError,
)
# RefreshError is not among them: a token of Google's may fail to refresh for a moment.
_REFUSALS = (NO_CREDENTIALS | {"ClientAuthenticationError", "ParamValidationError"}) - {"RefreshError"}
_PASSING_STATUS = (408, 425, 429)  # temporary errors among the statuses below 500
_PASSING_CODES = ("IncompleteBody", "BadDigest", "RequestTimeout", "XAmzContentSHA256Mismatch", "OperationAborted")


class _Tells:
    """Turns at warning of a wait: one of many threads has one, now and then."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self._turn = threading.Lock()

    def may(self, now: float) -> bool:
        """Whether it is this thread's turn: no other had one for a while."""
        # Without waiting for the lock: a child that was forked while a thread held it is silent, and does not hang.
        if not self._turn.acquire(blocking=False):
            return False
        try:
            if now - self._last < _TELL_SECONDS:
                return False
            self._last = now
            return True
        finally:
            self._turn.release()


_tells = _Tells()


class _Network:
    """Whether any store has answered this process."""

    reached = False


_network = _Network()


def retried(
    call: Callable[[], _T],
    seconds: float | None = None,
    noted: Callable[[Exception], object] | None = None,
    explained: Callable[[Exception], str] = str,
) -> _T:
    """The result of a call, tried again after temporary errors, with growing pauses.

    Lasting errors are raised at once: a file that is missing or may not be read, a full disk. So is, a moment later,
    an unknown host's name, as of a machine without a network, if no store has answered this process before. After some
    seconds of waiting, the logger `shard_reader` warns of it.

    Args:
        seconds: time after the first failure at which the last error is raised. By default that for a disk.
        noted: called with each error that is followed by another try. It may raise to prevent that.
        explained: the text of an error in the warning.
    """
    is_remote, seconds = seconds is not None, LOCAL_SECONDS if seconds is None else seconds
    give_up, pause = float("inf"), _FIRST_PAUSE
    while True:
        try:
            found = call()
            _network.reached = _network.reached or is_remote
            return found
        except Exception as error:
            now = time.monotonic()
            if not _network.reached and has_unknown_host(error):
                seconds = min(seconds, _FIRST_CONTACT_SECONDS)
            give_up = min(give_up, now + seconds)
            if now >= give_up or not may_pass(error):
                raise
            if noted is not None:
                noted(error)
            if give_up - now < seconds - _QUIET_SECONDS and _tells.may(now):
                _LOG.warning("%s; trying for %.0f seconds more", explained(error), give_up - now)
        # Random pauses keep many workers from asking at the same moment (as "full jitter", but never at once).
        time.sleep(min(pause * random.uniform(0.5, 1.5), give_up - now))
        pause = min(2 * pause, _LONGEST_PAUSE)


def may_pass(error: Exception) -> bool:
    """Whether an error is temporary: time-outs, resets and I/O errors, as OSError or as errors of a store's library."""
    if isinstance(error, _LASTING_ERRORS) or type(error).__name__ in _REFUSALS:
        return False
    status, code = answer(error)
    if 400 <= status < 500:
        return status in _PASSING_STATUS or code in _PASSING_CODES
    if isinstance(error, OSError):
        return error.errno not in _LASTING
    return not isinstance(error, _MISTAKES)
