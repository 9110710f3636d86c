"""Files of web servers: bytes are counted while they come, within a time, and owners are asked and obeyed."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from fsspec.asyn import sync

from beam_jobs.sources.files.interface import BadInput, Reading, SourceOptions
from beam_jobs.web.hosts import Hosts
from beam_jobs.web.opt_out import ROBOTS_BYTES, Robots, opted_out
from shard_reader.errors import StoreError
from shard_reader.storage.libraries.web import file_system, user_agent
from shard_reader.storage.open import directory
from shard_reader.storage.retry import REMOTE_SECONDS, retried
from shard_reader.storage.secrets import host_of, without_secrets
from shard_reader.storage.store_errors import as_os_error, explain

__all__ = ["Downloads"]

_SMALL = 4 << 20  # bytes up to which any number of files may come at the same time
_ROOM = 1 << 28  # bytes of larger files that may come at the same time
_REDIRECTS = 5
_IDLE = 30.0  # seconds until a connection is made, and between two pieces of an answer
_LONGEST_WAIT = 600.0  # seconds of Retry-After that are waited, in all, for one file
_REFUSALS = (401, 403, 410, 451)  # permanent refusals: another try would get the same
_PASSING = (408, 425, 429)
_BUSY = (429, 503)  # with Retry-After
_ENCODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # and the `wbits` of zlib
_T = TypeVar("_T")
_LOG = logging.getLogger("shard_reader")


class _Later(NamedTuple):
    """The answer of a host that is to be asked again after some seconds."""

    seconds: float
    status: int


class _Larger(Exception):
    """A file is larger than its bound, and has about `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class _Moved(Exception):
    """A file is at another host, whose robots.txt has not been read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class Downloads:
    """Files of web servers.

    Raises:
        ImportError: the package for such URLs is missing.
    """

    def __init__(self, options: SourceOptions, reading: Reading) -> None:
        self._agent, self._seconds = options.user_agent or user_agent(), options.download_seconds
        self._most, self._takes_all = reading.max_bytes, options.ignore_opt_out
        self._name = self._agent.partition("/")[0].strip().lower()
        self._files = file_system()
        self._hosts, self._room = Hosts(reading.requests_per_host, reading.turns), _Room(_ROOM)
        self._robots: Robots | None = None
        if options.respect_robots and reading.robots is not None:
            self._robots = Robots(directory(reading.robots), self._robots_text, self._hosts, self._agent)

    def read(self, url: str) -> bytes:
        """The bytes of a file.

        Raises:
            BadInput: it is too large, its owner has opted out, or its answer has no file.
            FileNotFoundError, PermissionError: the server does not have it, or does not give it.
            OSError: it cannot be read now.
            StoreError: the server wants to be asked much later.
        """
        self._check_robots(url)

        def read() -> bytes | BadInput:
            try:
                return self._read(url)
            except BadInput as error:  # which is not tried again
                return error

        found = _retried(read, url)
        if isinstance(found, BadInput):
            raise found
        return found

    def _read(self, url: str) -> bytes:
        bound, cleared = min(_SMALL, self._most), {host_of(url)}
        while True:
            # Only small files come in any number: a process has as many threads, and as many bodies, as a job allows.
            with self._room.of(bound if bound > _SMALL else 0):
                try:
                    return self._politely(url, bound, cleared)
                except _Larger as larger:
                    bound = larger.size
                except _Moved as moved:
                    self._check_robots(moved.url)
                    cleared.add(host_of(moved.url))

    def _check_robots(self, url: str) -> None:
        if self._robots is not None and not self._robots.allows(url):
            raise BadInput("opted-out", f"the robots.txt of {host_of(url)} does not allow it")

    def _robots_text(self, url: str) -> bytes:
        """A robots.txt; empty where a server has none, which allows everything (RFC 9309, section 2.3.1.3)."""

        def read() -> bytes:
            try:
                return self._politely(url, ROBOTS_BYTES, {host_of(url)}, is_robots=True)
            except (FileNotFoundError, PermissionError, BadInput):
                return b""

        try:
            return _retried(read, url)
        except (OSError, StoreError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise StoreError(f"{without_secrets(url)}, which decides: {said}") from error

    def _politely(self, url: str, bound: int, cleared: set[str], *, is_robots: bool = False) -> bytes:
        """A file, in one turn at its host, or after the pauses that the host asks for."""
        host, waited = host_of(url), 0.0
        while True:
            with self._hosts.turn(host):
                found = sync(self._files.loop, self._get, url, bound, cleared, is_robots)
            if isinstance(found, bytes):
                return found
            pause = max(found.seconds, 1.0, waited)  # twice as long each time, where the host says less
            waited += pause
            if waited > _LONGEST_WAIT:
                raise StoreError(
                    f"the server answers {found.status}, and wants to be asked again in {found.seconds:.0f} seconds"
                    f" (Retry-After), which is more than {_LONGEST_WAIT:.0f} in all; run the command again later"
                )
            _LOG.warning("%s: wants to be asked again in %.0f seconds", host, pause)
            self._hosts.pause(host, pause)

    async def _get(self, url: str, bound: int, cleared: set[str], is_robots: bool) -> bytes | _Later:
        import aiohttp

        session, given = await self._files.set_session(), dict(self._files.kwargs)
        headers = {**given.pop("headers", {}), "User-Agent": self._agent}
        limit = aiohttp.ClientTimeout(total=self._seconds, sock_connect=_IDLE, sock_read=_IDLE)
        asked = {"headers": headers, "timeout": limit, "max_redirects": _REDIRECTS, "auto_decompress": False, **given}
        try:
            async with session.get(self._files.encode_url(url), **asked) as answer:
                if later := _later(answer):
                    return later
                _check_status(answer, url)
                if self._robots is not None and not is_robots and host_of(str(answer.url)) not in cleared:
                    raise _Moved(str(answer.url))
                if not is_robots:
                    self._check_opt_out(answer)
                data = await self._body(answer, bound, is_robots)
        except TimeoutError:
            raise ConnectionError(f"did not come in {self._seconds} seconds (--download-seconds)") from None
        except aiohttp.TooManyRedirects:
            raise BadInput("unreadable", f"leads in circles, or over more than {_REDIRECTS} redirects") from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise BadInput("unreadable", f"leads to {_line(error)}, which is not an address of the web") from None
        except aiohttp.ClientPayloadError as error:
            raise ConnectionError(f"the answer broke off ({_line(error)})") from None
        except aiohttp.ClientResponseError as error:  # with a status that aiohttp gives
            raise ConnectionError(f"the answer is not HTTP ({_line(error.message)})") from None
        return data if is_robots else self._decoded(data, answer.headers.get("Content-Encoding", ""), bound)

    async def _body(self, answer: Any, bound: int, is_robots: bool) -> bytes:
        if not is_robots and (answer.content_length or 0) > bound:
            raise self._larger(answer.content_length, bound)
        data = bytearray()
        async for piece in answer.content.iter_any():
            data += piece
            if len(data) > bound:
                if is_robots:
                    return bytes(data[:bound])
                size = self._most if bound < self._most else len(data)
                del data, piece  # which the traceback of the error would keep
                raise self._larger(size, bound)
        return bytes(data)

    def _larger(self, size: int, bound: int) -> Exception:
        """The error about a file of `size` bytes: it comes again, within a larger bound, or is a reject."""
        if size <= self._most and bound < self._most:
            return _Larger(size)
        return BadInput("too-large", f"has {size} bytes or more, more than --max-bytes {self._most}")

    def _decoded(self, data: bytes, encodings: str, bound: int) -> bytes:
        """The bytes of a body whose server compresses them, though it was not asked to."""
        encoding = encodings.strip().lower()
        if encoding in ("", "identity"):
            return data
        if encoding not in _ENCODINGS:
            raise BadInput("unreadable", f"comes with Content-Encoding {encodings!r:.80}, which was not asked for")
        decoder = zlib.decompressobj(_ENCODINGS[encoding])
        try:
            found = decoder.decompress(data, bound + 1)
        except zlib.error as error:
            raise BadInput("damaged", f"its Content-Encoding {encoding} cannot be decoded ({error})") from None
        if len(found) > bound:
            size = self._most if bound < self._most else len(found)
            del found, data
            raise self._larger(size, bound)
        if not decoder.eof:
            raise BadInput("damaged", f"its Content-Encoding {encoding} is cut off")
        return found

    def _check_opt_out(self, answer: Any) -> None:
        if self._takes_all:
            return
        for one in (*answer.history, answer):
            robots, reservation = (one.headers.getall(name, ()) for name in ("X-Robots-Tag", "TDM-Reservation"))
            if header := opted_out(robots, reservation, self._name):
                raise BadInput("opted-out", f"its server says {header}; --ignore-opt-out states that you may use it")


class _Room:
    """A bound on bytes that come at the same time; more than the bound come alone."""

    def __init__(self, bound: int) -> None:
        self._bound, self._used, self._changed = bound, 0, threading.Condition()

    @contextlib.contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Wait for room for some bytes, and have it."""
        with self._changed:
            self._changed.wait_for(lambda: not size or not self._used or self._used + size <= self._bound)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


def _retried(call: Callable[[], _T], url: str) -> _T:
    try:
        return retried(call, REMOTE_SECONDS, explained=lambda error: f"{without_secrets(url)}: {explain(error, url)}")
    except StoreError:
        raise
    except Exception as error:
        raise as_os_error(error, url) from error


def _later(answer: Any) -> _Later | None:
    """The seconds after which a busy host is to be asked again, as a number or a date; None if it does not say."""
    said = answer.headers.get("Retry-After", "").strip()
    if answer.status not in _BUSY or not said:
        return None
    if said.isascii() and said.isdigit():
        return _Later(float(said[:9]), answer.status)
    try:
        return _Later(max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time()), answer.status)
    except (ValueError, OverflowError):
        return None


def _check_status(answer: Any, url: str) -> None:
    """Check that an answer has a file.

    Raises:
        BadInput: the status is neither that of a file nor that of an error.
        FileNotFoundError, PermissionError: the server does not have the file, or does not give it.
        OSError: the server has an error, with its `status`.
    """
    if answer.status == 200:
        return
    said = f"the server answers {answer.status} {_line(answer.reason)}".rstrip()
    if answer.status == 404:
        raise FileNotFoundError(errno.ENOENT, said, url)
    if answer.status in _REFUSALS:
        raise PermissionError(errno.EACCES, said, url)
    if answer.status < 400:
        raise BadInput("unreadable", said)
    error = OSError(errno.EIO, said)
    error.status = answer.status  # type: ignore[attr-defined]
    raise error


def _line(said: object) -> str:
    """The beginning of a text of a server, in one line."""
    return " ".join(str(said or "").split())[:200]
