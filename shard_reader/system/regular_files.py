"""Opening files that are files: anything else may wait for ever, or never end."""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["NotRegularError", "check_regular", "open_regular", "read_regular"]

# A FIFO would otherwise wait for its writer. On a regular file it changes nothing.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)


class NotRegularError(OSError):
    """A path that leads to a FIFO, a device or a socket in place of a file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(errno.EINVAL, "is a FIFO, a device or a socket, and not a regular file", os.fspath(path))


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """The descriptor of a regular file. It can be the `opener` of Python's `open`.

    Raises:
        NotRegularError: the path leads to something else.
        OSError: the file cannot be opened.
    """
    try:
        file = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a FIFO to write to that nobody reads
            raise NotRegularError(path) from None
        raise
    try:
        kind = os.fstat(file).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(kind):
            raise NotRegularError(path)
    except BaseException:
        os.close(file)
        raise
    return file


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check a file that a library is about to open by its path.

    Raises:
        NotRegularError: the path leads to something else.
        OSError: the file cannot be opened.
    """
    os.close(open_regular(path))


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The first `most` bytes of a regular file, and one more if it has more.

    Raises:
        NotRegularError: the path leads to something else.
        OSError: the file cannot be read.
    """
    with open(path, "rb", opener=open_regular) as file:
        # A read makes memory for as many bytes as it may return.
        return file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
