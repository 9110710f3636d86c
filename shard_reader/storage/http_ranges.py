"""Ranges of objects by HTTP, received by the thread that asks for them.

The libraries that fsspec stands on receive all that a process fetches in one thread, that of their event loop, in
small pieces: it takes three times the CPU, and no more than a gigabyte comes in a second. So they are asked here for
what they alone know: a URL, or headers, that let one in.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import logging
import mmap
import os
import select
import ssl
import time
import urllib.request
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

__all__ = ["HttpRanges"]

_PIECE = 1 << 16  # bytes that are received at a time: behind each, whether it takes too long is looked at
_MANY = 1 << 21  # bytes
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses
_REFUSALS = (301, 302, 303, 307, 308, 400, 401, 403, 501)
_FRESH, _EXPIRES = 60.0, 3600  # seconds that a URL is used, and that it lasts
_REST, _IDLE = 600.0, 20.0  # seconds for which the library reads, and for which a connection may be kept
_MOST_REQUESTS = 1 << 10  # that are kept
_LOG = logging.getLogger("shard_reader")
_Request = tuple[str, dict[str, str]]  # a URL and headers
_Idle = defaultdict[tuple[int, str, str], list[tuple[float, http.client.HTTPConnection]]]


class HttpRanges:
    """Reads the objects of one of fsspec's file systems. Safe to share between threads, and across a fork.

    Args:
        file_system: S3's, Google's, Azure's or the web's; of others, the library reads everything.
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
        self, path: str, start: int, end: int | None, seconds: float, library: Callable[[], bytes]
    ) -> bytes | memoryview:
        """Bytes of an object, fewer of one that is shorter.

        Args:
            end: of the range; None: that of the object.
            seconds: for all of it.
            library: reads them, where it knows more than is known here: another way in, or what is wrong.

        Raises:
            OSError: the store cannot be reached, is too slow, breaks off, or has to be asked again.
            Exception: what the library raises.
        """
        if self._authorize is None or time.monotonic() < self._rests_until:
            return library()
        try:
            return self._read(path, start, end, time.monotonic() + seconds)
        except _Refused as error:
            refused = error
        data = library()
        if refused.rest:
            _LOG.debug("a store's library reads for %.0f seconds: %s", refused.rest, refused)
            self._rests_until = time.monotonic() + refused.rest
        return data

    def _read(self, path: str, start: int, end: int | None, give_up: float) -> memoryview:
        address, headers = self._request(path)
        url, headers = urlsplit(address), {**headers, "Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        connection = self._connection(url)
        try:
            found = self._get(connection, url, headers, give_up)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if isinstance(error, ssl.SSLCertVerificationError):  # the library may know of others
                raise _Refused(type(error).__name__, _REST) from error
            if not self._has_answered:  # and of a proxy
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
        """What lets one in, for some seconds: libraries renew credentials minutes before they expire."""
        assert self._authorize is not None
        now = time.monotonic()
        made, request = self._requests.get(path, (now, None))
        if request is None or now - made > _FRESH:
            try:
                request = self._authorize(self._file_system, path, self._timeout)
            except Exception as error:  # there are no credentials, or none that sign URLs
                raise _Refused(type(error).__name__, _FRESH) from error
            if len(self._requests) >= _MOST_REQUESTS:
                self._requests = {}
            self._requests[path] = now, request
        return request

    def _get(
        self, connection: http.client.HTTPConnection, url: SplitResult, headers: dict[str, str], give_up: float
    ) -> memoryview:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", target, headers=headers)
        with contextlib.closing(connection.getresponse()) as answer:
            self._has_answered = True
            if answer.status in _PASSING:
                error = OSError(errno.EIO, f"the store answers {answer.status} {answer.reason}")
                error.status = answer.status  # type: ignore[attr-defined]
                raise error
            expected = http.client.PARTIAL_CONTENT if "Range" in headers else http.client.OK
            if answer.status != expected:
                raise _Refused(f"status {answer.status}", _REST if answer.status in _REFUSALS else 0)
            size = answer.length
            if size is None or answer.getheader("Content-Encoding", "identity") != "identity":
                raise _Refused("an answer of unknown length", 0)
            data = _memory(size)
            done = 0
            while done < size:
                received = answer.readinto(data[done : done + _PIECE])
                if not received:
                    raise ConnectionError(f"the answer broke off: {done} bytes came, not {size}")
                done += received
                if time.monotonic() > give_up:
                    raise TimeoutError(f"{done} bytes came, not {size}")
        return data.toreadonly()

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        """One that is open and idle, or else a new one."""
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


class _Refused(Exception):
    """Only the library may know how to read it, and has to for so many seconds if it does."""

    def __init__(self, why: str, rest: float) -> None:
        super().__init__(why)
        self.rest = rest


def _s3(file_system: Any, path: str, timeout: float) -> _Request:
    """A presigned URL."""
    if file_system.req_kw:  # the requester pays, which is in a header
        raise ValueError("the requester pays")
    events = file_system.s3.meta.events
    events.register_first("choose-signer.s3", _signature_4, unique_id="image-shards-signature")
    events.register_first("before-endpoint-resolution.s3", _regional, unique_id="image-shards-endpoint")
    return file_system.url(path, expires=_EXPIRES, timeout=timeout), {}


def _signature_4(signature_version: Any, **_: Any) -> str | None:
    """botocore signs URLs as few stores accept. What has schemes of its own, as S3 Express, keeps them."""
    return "s3v4-query" if signature_version in ("s3v4-query", "v4-query") else None


def _regional(context: dict[str, Any], **_: Any) -> None:
    """botocore signs URLs for a host of all regions, which private networks and new buckets do not know."""
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
    """A URL with a signature; it takes the account's key."""
    return file_system.url(path, expires=_EXPIRES, timeout=timeout), {}


def _web(file_system: Any, path: str, timeout: float) -> _Request:
    """The URL itself."""
    if file_system.kwargs or file_system.client_kwargs or "@" in urlsplit(path).netloc:
        raise ValueError("there are headers, or a password")
    return str(file_system.encode_url(path)), {}


_AUTHORIZERS = {"s3": _s3, "gs": _google, "abfs": _azure, "http": _web}


def _authorizer(file_system: Any) -> Callable[[Any, str, float], _Request] | None:
    protocols = file_system.protocol
    names = (protocols,) if isinstance(protocols, str) else protocols
    return next((_AUTHORIZERS[name] for name in names if name in _AUTHORIZERS), None)


def _memory(size: int) -> memoryview:
    """Bytes to write to. Many go back to the kernel when they are free: malloc keeps some for each thread."""
    if size < _MANY:
        return memoryview(bytearray(size))
    mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # a system without large pages
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapped)


def _key(url: SplitResult) -> tuple[int, str, str]:
    """Of the connections that may be used: a process that was forked has those of its parent, too."""
    return os.getpid(), url.scheme, url.netloc


def _close(idle: _Idle) -> None:
    for connections in idle.values():
        for _, connection in connections:
            connection.close()


def _is_dropped(connection: http.client.HTTPConnection) -> bool:
    """Whether the store has closed a connection: there is something to read, its end."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
