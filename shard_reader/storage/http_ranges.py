"""Ranges of objects by HTTP, received by the thread that asks for them.

fsspec's libraries are asked only for a URL, or headers, that grant access. The bytes come through `http.client`.
"""

# fsspec's libraries receive all bytes of a process in one thread, that of their event loop, in small pieces. That takes
# three times the CPU, and no more than a gigabyte comes in a second.

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import io
import logging
import mmap
import os
import select
import socket
import ssl
import time
import urllib.request
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from shard_reader.printable import printable
from shard_reader.storage.libraries import web

__all__ = ["HttpRanges"]

_PIECE = 1 << 16  # bytes that are received at a time
_MANY = 1 << 21  # bytes from which on memory comes from the kernel: the size of a large page
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses of temporary errors
_REFUSALS = (301, 302, 303, 307, 308, 400, 401, 403, 501)
_FRESH, _EXPIRES = 60.0, 3600  # seconds for which a URL is used, and after which it expires
_REST, _IDLE = 600.0, 20.0  # seconds for which the library reads instead, and for which a connection may be idle
_MOST_REQUESTS = 1 << 10  # URLs and headers to keep
_LOG = logging.getLogger("shard_reader")
_Request = tuple[str, dict[str, str]]  # a URL and headers
_Idle = defaultdict[tuple[int, str, str], list[tuple[float, http.client.HTTPConnection]]]


class HttpRanges:
    """Reads the objects of one of fsspec's file systems. Safe to share between threads, and across a fork.

    Args:
        file_system: S3's, Google's, Azure's or the web's. Other file systems read everything by their library.
        timeout: seconds for an answer.
    """

    def __init__(self, file_system: Any, timeout: float) -> None:
        self._file_system, self._timeout = file_system, timeout
        self._authorize = _authorizer(file_system)
        self._requests: dict[str, tuple[float, _Request]] = {}
        self._rests_until, self._has_answered = 0.0, False
        self._idle: _Idle = defaultdict(list)
        weakref.finalize(self, _close, self._idle)

    def read(
        self,
        path: str,
        start: int,
        end: int | None,
        seconds: float,
        library: Callable[[], bytes],
        most: int | None = None,
    ) -> bytes | memoryview:
        """Bytes of an object; fewer if the object is shorter.

        Args:
            end: end of the range; None for the end of the object.
            seconds: time limit for all of it.
            library: reads the bytes by the file system's library, where the store refuses the request made here.
            most: the most bytes of a whole object.

        Raises:
            OSError: the store cannot be reached, is too slow, breaks off, sends other bytes, or has to be asked again.
            Exception: an error of the library.
        """
        if self._authorize is None or time.monotonic() < self._rests_until:
            return library()
        try:
            return self._read(path, start, end, time.monotonic() + seconds, most)
        except _Refused as error:
            refused = error
        # Only if the library succeeds, it is the one to read from now on. Otherwise its error is the better one.
        data = library()
        if refused.rest:
            _LOG.debug("a store's library reads for %.0f seconds: %s", refused.rest, refused)
            self._rests_until = time.monotonic() + refused.rest
        return data

    def _read(self, path: str, start: int, end: int | None, give_up: float, most: int | None) -> memoryview:
        address, headers = self._request(path)
        url, headers = urlsplit(address), {**headers, "Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        connection = self._connection(url)
        connection.response_class = functools.partial(_Answer, give_up)  # type: ignore[assignment]
        wanted = _Wanted(start, None if end is None else end - start, most)
        try:
            found = self._get(connection, url, headers, wanted)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            # The library may have certificates of its own.
            if isinstance(error, ssl.SSLCertVerificationError):
                raise _Refused(type(error).__name__, _REST) from error
            # Before the first answer, the store may not be reachable from here at all, but by a proxy of the library.
            if not self._has_answered:
                raise _Refused(type(error).__name__, _FRESH) from error
            if isinstance(error, http.client.HTTPException | ssl.SSLError):
                raise ConnectionError(f"the answer broke off ({type(error).__name__})") from error
            raise
        except BaseException:
            connection.close()
            raise
        if connection.sock is not None:
            self._idle[_key(url)].append((time.monotonic(), connection))
        return found

    def _request(self, path: str) -> _Request:
        """A URL and headers that grant access to an object."""
        assert self._authorize is not None
        # They are used for a minute: libraries renew credentials minutes before these expire.
        now = time.monotonic()
        since, request = self._requests.get(path, (now, None))
        if request is None or now - since > _FRESH:
            try:
                request = self._authorize(self._file_system, path, self._timeout)
            except Exception as error:  # without credentials, or with some that cannot sign URLs
                raise _Refused(type(error).__name__, _FRESH) from error
            if len(self._requests) >= _MOST_REQUESTS:
                self._requests = {}
            self._requests[path] = now, request
        return request

    def _get(
        self, connection: http.client.HTTPConnection, url: SplitResult, headers: dict[str, str], wanted: _Wanted
    ) -> memoryview:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", target, headers=headers)
        with contextlib.closing(connection.getresponse()) as answer:
            self._has_answered = True
            if answer.status in _PASSING:
                error = OSError(errno.EIO, f"the store answers {answer.status} {printable(answer.reason)}")
                error.status = answer.status  # type: ignore[attr-defined]
                raise error
            expected = http.client.PARTIAL_CONTENT if "Range" in headers else http.client.OK
            if answer.status != expected:
                raise _Refused(f"status {answer.status}", _REST if answer.status in _REFUSALS else 0)
            size = answer.length
            if size is None or answer.getheader("Content-Encoding", "identity") != "identity":
                raise _Refused("an answer of unknown length", 0)
            wanted.check(size, answer.getheader("Content-Range"))
            data = _memory(size)
            done = 0
            while done < size:
                received = answer.readinto(data[done : done + _PIECE])
                if not received:
                    raise ConnectionError(f"the answer broke off: {done} bytes came, not {size}")
                done += received
        return data.toreadonly()

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        """An idle connection, or else a new one."""
        idle = self._idle[_key(url)]
        while idle:
            try:
                since, connection = idle.pop()
            except IndexError:  # another thread has it
                break
            if time.monotonic() - since < _IDLE and not _is_dropped(connection):
                return connection
            connection.close()
        if url.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(url.hostname or ""):
            raise _Refused("there is a proxy", _REST)
        if url.scheme == "https":
            return http.client.HTTPSConnection(url.netloc, timeout=self._timeout, context=_tls())
        return http.client.HTTPConnection(url.netloc, timeout=self._timeout)


class _Wanted(NamedTuple):
    """The bytes of a request: the first, and their number (None for all that follow), and the most that may come."""

    start: int
    size: int | None
    most: int | None

    def check(self, size: int, content_range: str | None) -> None:
        """Check that an answer has no other bytes, before memory is made for them.

        Raises:
            OSError: the server sends more bytes, or others.
        """
        if self.size is None and self.most is not None and size > self.most:
            raise web.too_large(size, self.most)
        if self.size is not None and size > self.size:
            raise OSError(errno.EIO, f"the server sends {size} bytes, of the {self.size} that were asked for")
        web.check_range(content_range, self.start)


class _Until(io.RawIOBase):
    """Bytes of a socket, up to a time. The time limit of a socket is one for each byte that it waits for."""

    def __init__(self, raw: io.RawIOBase, give_up: float) -> None:
        self._raw, self._give_up = raw, give_up

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._give_up:
            raise TimeoutError("the answer comes too slowly")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer whose headers and body come by a time."""

    def __init__(self, give_up: float, sock: socket.socket, *arguments: Any, **more: Any) -> None:
        super().__init__(sock, *arguments, **more)
        self.fp = io.BufferedReader(_Until(self.fp.detach(), give_up))


class _Refused(Exception):
    """A request that only the library may be able to make. If it can, it reads for `rest` seconds."""

    def __init__(self, why: str, rest: float) -> None:
        super().__init__(why)
        self.rest = rest


def _s3(file_system: Any, path: str, timeout: float) -> _Request:
    """A presigned URL."""
    if file_system.req_kw:  # "requester pays" takes a header, which the URL does not have
        raise ValueError("the requester pays")
    events = file_system.s3.meta.events
    events.register_first("choose-signer.s3", _signature_4, unique_id="image-shards-signature")
    events.register_first("before-endpoint-resolution.s3", _regional, unique_id="image-shards-endpoint")
    return file_system.url(path, expires=_EXPIRES, timeout=timeout), {}


def _signature_4(signature_version: Any, **_: Any) -> str | None:
    """Signature version 4 for presigned URLs."""
    # By default botocore signs URLs by version 2, which few stores accept. S3 Express keeps its own scheme.
    return "s3v4-query" if signature_version in ("s3v4-query", "v4-query") else None


def _regional(context: dict[str, Any], **_: Any) -> None:
    """The host of the bucket's region for presigned URLs."""
    # botocore signs URLs for the global host, which private networks do not reach and new buckets do not know.
    if context.get("is_presign_request"):
        context["use_global_endpoint"] = False


def _google(file_system: Any, path: str, timeout: float) -> _Request:
    """A URL, and a token in a header."""
    if file_system.requester_pays:
        raise ValueError("the requester pays")
    headers: dict[str, str] = {}
    file_system.credentials.apply(headers)
    return file_system.url(path), headers


def _azure(file_system: Any, path: str, timeout: float) -> _Request:
    """A signed URL. To sign it takes the account's key."""
    return file_system.url(path, expires=_EXPIRES, timeout=timeout), {}


def _web(file_system: Any, path: str, timeout: float) -> _Request:
    """The URL itself."""
    if not web.is_plain(file_system) or "@" in urlsplit(path).netloc:
        raise ValueError("there are headers, or a password")
    return str(file_system.encode_url(path)), {"User-Agent": web.user_agent()}


_AUTHORIZERS = {"s3": _s3, "gs": _google, "abfs": _azure, "http": _web}


def _authorizer(file_system: Any) -> Callable[[Any, str, float], _Request] | None:
    protocols = file_system.protocol
    names = (protocols,) if isinstance(protocols, str) else protocols
    return next((_AUTHORIZERS[name] for name in names if name in _AUTHORIZERS), None)


def _memory(size: int) -> memoryview:
    """Memory of `size` bytes to write to."""
    # Large memory is mapped, and goes back to the kernel when it is free; malloc keeps some for each thread.
    if size < _MANY:
        return memoryview(bytearray(size))
    mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # of a system without large pages
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapped)


def _key(url: SplitResult) -> tuple[int, str, str]:
    """The key of idle connections to a host."""
    # By process, since two processes on one connection after a fork would read each other's answers.
    return os.getpid(), url.scheme, url.netloc


def _close(idle: _Idle) -> None:
    for connections in idle.values():
        for _, connection in connections:
            connection.close()


def _is_dropped(connection: http.client.HTTPConnection) -> bool:
    """Whether the store has closed an idle connection."""
    # Nothing is due on an idle connection, so that something to read can only be its end.
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
