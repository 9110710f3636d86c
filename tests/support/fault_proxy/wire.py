"""HTTP/1.1 as bytes on a connection: heads kept as they are, bodies in pieces."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Self

__all__ = ["Body", "Head", "Stream", "read_head"]


@dataclass
class Head:
    """A request's or an answer's first line, as its three words, and its headers in order, in their own spelling."""

    words: list[str]
    headers: list[tuple[str, str]] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def without(self, *names: str) -> Head:
        """A copy without headers of these names (lower case), and without those that are about one connection only."""
        drop = {"connection", "keep-alive", "proxy-connection", *names}
        return Head(list(self.words), [item for item in self.headers if item[0].lower() not in drop])

    def encode(self) -> bytes:
        lines = [" ".join(self.words), *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    @property
    def status(self) -> int:
        return int(self.words[1])

    @property
    def persistent(self) -> bool:
        """Whether its sender leaves the connection open."""
        return "HTTP/1.1" in self.words and (self.get("connection") or "").lower() != "close"

    @property
    def chunked(self) -> bool:
        return "chunked" in (self.get("transfer-encoding") or "").lower()

    def shorten(self, length: int) -> None:
        """Have the headers of an answer say that its body has `length` bytes."""
        for at, (name, value) in enumerate(self.headers):
            if name.lower() == "content-length":
                self.headers[at] = (name, str(length))
            if name.lower() == "content-range" and length and (match := re.match(r"bytes (\d+)-\d+(/.*)", value)):
                first = int(match[1])
                self.headers[at] = (name, f"bytes {first}-{first + length - 1}{match[2]}")


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The head that comes next; None if the connection ends before it."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise
        return None
    first, *lines = raw.decode("latin-1").strip().split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not (words[0].startswith("HTTP/1.") or words[-1].startswith("HTTP/1.")):
        raise ValueError(f"not HTTP/1.1: {first[:200]!r}")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Head(words + [""] * (3 - len(words)), headers)


class Body:
    """The body that follows a head: `length` bytes, chunks, or (None, not chunked) whatever comes until the end."""

    def __init__(self, reader: asyncio.StreamReader, length: int | None, chunked: bool):
        self.length = None if chunked else length
        self.chunked = chunked
        self.until_end = length is None and not chunked
        self.done = self.length == 0
        self.piece = 1 << 16  # bytes at a time
        self._reader = reader
        self._left = 0 if chunked else length  # of the chunk or of all
        self._trailers = b""

    @classmethod
    def of_request(cls, reader: asyncio.StreamReader, head: Head) -> Self:
        return cls(reader, int(head.get("content-length") or 0), head.chunked)

    @classmethod
    def of_answer(cls, reader: asyncio.StreamReader, head: Head, method: str) -> Self:
        if method == "HEAD" or head.status in (204, 304):
            return cls(reader, 0, False)
        length = head.get("content-length")
        return cls(reader, None if length is None else int(length), head.chunked)

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises IncompleteReadError if the connection ends before."""
        if self.done:
            return b""
        if self.chunked and not self._left:
            self._left = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if not self._left:
                while (line := await self._reader.readuntil(b"\r\n")) != b"\r\n":
                    self._trailers += line
                self.done = True
                return b""
        piece = await self._reader.read(self.piece if self._left is None else min(self.piece, self._left))
        if self._left is None:
            self.done = not piece
            return piece
        if not piece:
            raise asyncio.IncompleteReadError(b"", self._left)
        self._left -= len(piece)
        if not self._left and self.chunked:
            await self._reader.readexactly(2)
        self.done = not self._left and not self.chunked
        return piece

    def frame(self, piece: bytes) -> bytes:
        """A piece as it is sent on."""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked and piece else piece

    def end(self) -> bytes:
        """What is sent after the last piece."""
        return b"0\r\n" + self._trailers + b"\r\n" if self.chunked else b""

    async def copy(self, writer: asyncio.StreamWriter) -> None:
        """Send all of it on."""
        while piece := await self.read():
            writer.write(self.frame(piece))
            await writer.drain()
        writer.write(self.end())


class Stream(NamedTuple):
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def fileno(self) -> int:
        connection: socket.socket = self.writer.get_extra_info("socket")
        return connection.fileno()

    def reset(self) -> None:
        """End it with a TCP reset; what was not sent yet is lost."""
        with suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def close(self) -> None:
        """End it after all was sent. Closed with anything unread it would be reset, and the answer be lost."""
        self.writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while await self.reader.read(1 << 16):
                    pass
        self.writer.close()

    async def idle(self, seconds: float) -> None:
        """Wait, but not for a peer that has left."""
        end = asyncio.get_running_loop().time() + seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            if self.reader.at_eof() or self.writer.is_closing():
                raise ConnectionResetError("the client has left")
            await asyncio.sleep(min(left, 0.05))
