"""The library of the web: the name of this program, and bounds on answers, which it would receive whole."""

from __future__ import annotations

import errno
import functools
import importlib.metadata
import re
from collections.abc import Mapping
from typing import Any

import fsspec
from fsspec.asyn import sync

__all__ = [
    "MOST_WHOLE",
    "check_range",
    "client_options",
    "is_plain",
    "is_web",
    "options",
    "read",
    "too_large",
    "user_agent",
]

MOST_WHOLE = 1 << 28
"""The most bytes of a web server's file that is read whole, without a range: a manifest, an index, a listing."""
_MOST_SKIPPED = 1 << 26  # bytes of a file that are received needlessly, from a server that sends no ranges
_SECONDS = 30.0  # for facts about a file, and listings
_RANGE = re.compile(r"bytes (\d+)-(\d+)/")


@functools.cache
def user_agent() -> str:
    """The name of this program and its version, which web servers are told."""
    try:
        return f"image-shards/{importlib.metadata.version('image-shards')}"
    except importlib.metadata.PackageNotFoundError:
        return "image-shards"


@functools.cache
def client_options() -> dict[str, Any]:
    """Options of aiohttp's client for the file system of the web.

    Raises:
        ImportError: aiohttp is missing.
    """
    import aiohttp

    class Answer(aiohttp.ClientResponse):
        """An answer that is received whole up to a bound."""

        async def read(self) -> bytes:
            return await _received(self, 0, None, MOST_WHOLE)

        async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
            return (await self.read()).decode(encoding or self.charset or "utf-8", errors)

    headers = {"User-Agent": user_agent(), "Accept-Encoding": "identity"}
    return {"response_class": Answer, "headers": headers, "timeout": aiohttp.ClientTimeout(total=_SECONDS)}


def options(url: str) -> dict[str, Any]:
    """Options of fsspec for a URL of the web: those of its user's configuration, and `client_options`."""
    given: Mapping[str, Any] = fsspec.config.conf.get(url.partition("://")[0], {}).get("client_kwargs", {})
    ours = client_options()
    return {"client_kwargs": {**ours, **given, "headers": {**ours["headers"], **given.get("headers", {})}}}


def file_system(scheme: str = "https") -> Any:
    """The file system of the web.

    Raises:
        ImportError: the package for it is missing.
    """
    return fsspec.filesystem(scheme, use_listings_cache=False, **options(f"{scheme}://"))


def is_web(file_system: Any) -> bool:
    """Whether one of fsspec's file systems is that of web servers."""
    return "https" in file_system.protocol and hasattr(file_system, "set_session")


def is_plain(file_system: Any) -> bool:
    """Whether requests have no headers or options but `client_options`."""
    return not file_system.kwargs and file_system.client_kwargs in ({}, client_options())


def read(file_system: Any, url: str, start: int, end: int | None, *, timeout: float) -> bytes:
    """Bytes of a file of a web server: those asked for, fewer if the file is shorter, and no others.

    Raises:
        OSError: the file is larger than `MOST_WHOLE`, and no range is asked for; or the answer is another range.
    """

    async def received() -> bytes:
        import aiohttp

        given = dict(file_system.kwargs)
        headers = dict(given.pop("headers", {}))
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        session = await file_system.set_session()
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            asked = await session.get(file_system.encode_url(url), headers=headers, timeout=limit, **given)
        except aiohttp.TooManyRedirects:
            raise OSError(errno.ENOSYS, "the server's redirects lead in circles, or are too many") from None
        async with asked as answer:
            if answer.status == 404:
                raise FileNotFoundError(url)
            answer.raise_for_status()
            is_part = answer.status == 206
            if not is_part and start > _MOST_SKIPPED:
                raise OSError(errno.ENOSYS, "the server sends no ranges, only whole files; copy it to a disk")
            if is_part:
                check_range(answer.headers.get("Content-Range"), start)
            wanted = None if end is None else end - start
            return await _received(answer, 0 if is_part else start, wanted, MOST_WHOLE)

    found: bytes = sync(file_system.loop, received, timeout=timeout)
    return found


async def _received(answer: Any, skipped: int, wanted: int | None, most: int) -> bytes:
    """The body of an answer from byte `skipped` on: `wanted` bytes, or all of them, but no more than `most`."""
    if wanted is None and (answer.content_length or 0) > most:
        raise too_large(answer.content_length, most)
    data = bytearray()
    async for piece in answer.content.iter_any():
        data += piece[skipped:]
        skipped = max(0, skipped - len(piece))
        if wanted is not None and len(data) >= wanted:
            return bytes(data[:wanted])
        if wanted is None and len(data) > most:
            size = len(data)
            del data, piece  # which the traceback of the error would keep
            raise too_large(size, most)
    return bytes(data)


def check_range(header: str | None, start: int) -> None:
    """Check the header Content-Range of an answer, where it is there.

    Raises:
        OSError: the answer has other bytes than those from `start`.
    """
    found = _RANGE.match(header or "")
    if header is not None and (found is None or int(found[1]) != start):
        raise OSError(errno.EIO, f"the server sends other bytes than those from {start}: Content-Range {header!r:.80}")


def too_large(size: int, most: int) -> OSError:
    """An error about a file that is too large to be read whole, which is not tried again."""
    return OSError(errno.EFBIG, f"has {size} bytes or more, and at most {most} are read")
