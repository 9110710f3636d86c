"""One client's connection: its requests, the store's answers, and what is done to these."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from .faults import Faults, Request
from .wire import Body, Head, Stream, read_head

if TYPE_CHECKING:
    from .proxy import FaultProxy

__all__ = ["Connection"]

CODES = {403: "AccessDenied", 404: "NoSuchKey", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}


class _Reset(Exception):
    """The client's connection is to be reset."""


class _Place(NamedTuple):
    """Where in a body something happens to it: before or to which byte."""

    fault: str
    byte: int


class Connection:
    """A client's connection, and the one to the server that goes with it."""

    def __init__(self, proxy: FaultProxy, client: Stream):
        self.proxy = proxy
        self.client = client
        self.store: Stream | None = None
        self._pump: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer requests until either side has enough."""
        try:
            while await self._exchange():
                pass
            if self._pump is not None:
                # A client may have got its answer before its request was sent. Two must not read from it at once.
                self._pump.cancel()
                await asyncio.wait({self._pump})
            await self.client.close()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, _Reset):
            self.client.reset()
        except BaseException:
            self.client.reset()
            raise
        finally:
            self._drop()

    def _drop(self) -> None:
        """End what goes on with the server."""
        if self._pump is not None:
            self._pump.cancel()
        if self.store is not None:
            self.store.reset()
        self.store = None

    async def _exchange(self) -> bool:
        """Answer one request; whether another may follow."""
        head = await read_head(self.client.reader)
        if head is None:
            return False
        request = self.proxy.note(head)
        settings = self.proxy.settings(request)
        dice = random.Random(f"{self.proxy.seed} {request.method} {request.target} {request.range} {request.number}")
        fault = self.proxy.choose(request, settings, dice)
        if settings.latency:
            await asyncio.sleep(settings.latency)
        body = Body.of_request(self.client.reader, head)
        keep = head.persistent
        if fault == "resets":
            self.proxy.count(request, fault)
            raise _Reset
        if fault in ("errors", "missing", "forbidden"):
            self.proxy.count(request, fault)
            if head.get("expect") is not None:
                keep = False  # nobody knows whether the body will come
            else:
                while await body.read():
                    pass
            status = {"missing": 404, "forbidden": 403}.get(fault) or dice.choice(settings.statuses)
            return await self._refuse(request, status, keep, settings.retry_after if fault == "errors" else None)
        if fault == "whole" and (request.method != "GET" or request.range is None):
            fault = None
        try:
            answer = None
            if fault == "whole":
                answer = await self._forward(head.without("range"), body)
                if answer.status != 200:
                    self._drop()
                    answer = fault = None
            answer = answer or await self._forward(head.without(), body)
        except (OSError, asyncio.IncompleteReadError):  # the server itself failed
            return await self._refuse(request, 502, False, None)
        if fault == "lost":
            self.proxy.count(request, fault)
            raise _Reset
        return await self._answer(request, answer, keep, fault, settings, dice)

    async def _forward(self, head: Head, body: Body) -> Head:
        """The head of the server's answer to a request."""
        # A server may close a connection at any time, so only what may be asked twice is sent over one that was used.
        if self.store is not None and not (head.words[0] in ("GET", "HEAD") and body.done):
            self._drop()
        if self.store is not None:
            with suppress(OSError, asyncio.IncompleteReadError):
                return await self._ask(self.store, head, body)
            self._drop()
        self.store = Stream(*await asyncio.open_connection(*self.proxy.server, limit=1 << 18))
        return await self._ask(self.store, head, body)

    async def _ask(self, store: Stream, head: Head, body: Body) -> Head:
        store.writer.write(head.encode())
        await store.writer.drain()
        if not body.done:
            self._pump = asyncio.create_task(self._upload(store, body))
        while answer := await read_head(store.reader):
            if answer.status >= 200:
                return answer
            self.client.writer.write(answer.encode())  # 100 Continue: the client waits for it
        raise ConnectionResetError("the server closed the connection")

    async def _upload(self, store: Stream, body: Body) -> None:
        """Send a request's body on, while an answer may come already."""
        try:
            await body.copy(store.writer)
        except (OSError, asyncio.IncompleteReadError):
            store.reset()  # has the answer, for which the connection waits, end

    async def _refuse(self, request: Request, status: int, keep: bool, retry_after: int | None) -> bool:
        """Give an answer of our own."""
        code = CODES.get(status, "InternalError")
        xml = f"<Error><Code>{code}</Code><Message>By the fault proxy.</Message><RequestId>0</RequestId></Error>"
        content = f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'.encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))]
        if retry_after is not None:
            headers.append(("Retry-After", str(retry_after)))
        if not keep:
            headers.append(("Connection", "close"))
        if request.method == "HEAD":
            content = b""
        request.status, request.sent = status, len(content)
        self.client.writer.write(Head(["HTTP/1.1", str(status), code], headers).encode() + content)
        await self.client.writer.drain()
        return keep

    async def _answer(
        self, request: Request, head: Head, keep: bool, fault: str | None, settings: Faults, dice: random.Random
    ) -> bool:
        """Pass the server's answer on, less or more damaged; whether the connection can go on."""
        assert self.store is not None
        body = Body.of_answer(self.store.reader, head, request.method)
        if settings.bandwidth:
            body.piece = max(1, min(body.piece, int(settings.bandwidth / 20)))
        reusable = head.persistent and not body.until_end
        keep = keep and not body.until_end and (self._pump is None or self._pump.done())
        piece = await body.read()
        place = _Place("", -1)
        if fault is not None and piece and head.status in (200, 206):
            self.proxy.count(request, fault)
            size = len(piece) if body.length is None else body.length
            place = _Place(
                fault, dice.randrange(size) if fault == "corruptions" else dice.randrange(min(1, size - 1), size)
            )
        head = head.without()
        head.words[0] = "HTTP/1.1"
        if place.fault == "truncations":
            head.shorten(place.byte)
        if not keep:
            head.headers.append(("Connection", "close"))
        request.status = head.status
        self.client.writer.write(head.encode())
        offset = 0
        while piece:
            cut = place.byte - offset
            offset += len(piece)
            if 0 <= cut < len(piece):
                if place.fault in ("cuts", "truncations"):
                    await self._send(request, body.frame(piece[:cut]), cut, settings)
                    break
                if place.fault == "corruptions":
                    piece = piece[:cut] + bytes([piece[cut] ^ dice.randrange(1, 256)]) + piece[cut + 1 :]
                if place.fault == "stalls":
                    await self._send(request, body.frame(piece[:cut]), cut, settings)
                    await self.client.idle(settings.stall_seconds)
                    piece = piece[cut:]
            await self._send(request, body.frame(piece), len(piece), settings)
            piece = await body.read()
        if place.fault != "cuts":
            self.client.writer.write(body.end())
        await self.client.writer.drain()
        if not (reusable and body.done):
            self._drop()
        return keep and place.fault != "cuts"

    async def _send(self, request: Request, framed: bytes, size: int, settings: Faults) -> None:
        if settings.bandwidth:
            await asyncio.sleep(size / settings.bandwidth)
        request.sent += size
        self.client.writer.write(framed)
        await self.client.writer.drain()
