"""The proxy: where it listens, what it has seen, and what befalls which request."""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from .connection import Connection
from .faults import FAULTS, Faults, Request
from .wire import Head, Stream

__all__ = ["FaultProxy"]


class FaultProxy:
    """A proxy in front of `server` (host and port), at `url` within `with`.

    `faults` is for requests of kind "get"; or a mapping from kinds (see `kind_of`) to faults, in which "*" is all
    other kinds. It may be set at any time, for requests that come later. What befalls a request depends on `seed`, the
    request, and how often it came before, not on the order in which different requests come.
    """

    def __init__(self, server: tuple[str, int], faults: Faults | Mapping[str, Faults] | None = None, seed: int = 0):
        self.server = server
        self.faults: Faults | Mapping[str, Faults] = faults or Faults()
        self.seed = seed
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()
        self.connections: dict[asyncio.Task[Any], Connection] = {}
        self._problems: list[Exception] = []
        self._asked: Counter[tuple[str, str, str | None]] = Counter()
        self._failed: Counter[tuple[str, str, str | None]] = Counter()
        self._once: set[tuple[str, str]] = set()
        self._listener: asyncio.Server | None = None

    def __enter__(self) -> Self:
        # Bound, but never listening: the port stays ours while connections to it are refused.
        self._holder = _bound(0)
        self.port: int = self._holder.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._call(self._come())
        _running.add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._call(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._holder.close()
        _running.discard(self)
        if self._problems and exception[0] is None:
            raise self._problems[0]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Meanwhile all connections are reset, and new ones refused."""
        self._call(self._leave())
        try:
            yield
        finally:
            self._call(self._come())

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(300)

    async def _come(self) -> None:
        listener = _bound(self.port)
        self._listener = await asyncio.start_server(self._serve, sock=listener, limit=1 << 18, backlog=1024)

    async def _leave(self) -> None:
        if self._listener is not None:
            # asyncio loses, and never closes, what it has accepted but not begun when a listener is closed.
            for listening in self._listener.sockets:
                self._loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)
            self._listener.close()
            self._listener = None
        for task in self.connections:
            task.cancel()
        await asyncio.gather(*self.connections)
        # What they have cancelled ends, too, as does what was accepted just now, of which tasks are still to come.
        stuck: set[asyncio.Task[Any]] = set()
        while others := asyncio.all_tasks() - stuck - {asyncio.current_task()}:
            _, stuck = await asyncio.wait(others, timeout=2)
            await asyncio.sleep(0)  # closed sockets are closed in the next turn

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, Stream(reader, writer))
        if self._listener is None:
            return connection.client.reset()
        task = asyncio.current_task()
        assert task is not None
        self.connections[task] = connection
        try:
            await connection.run()
        except Exception as problem:  # the proxy's own, the script's, or of something that is not HTTP
            self._problems.append(problem)
        finally:
            del self.connections[task]
        return None

    def sockets(self) -> list[int]:
        """The file descriptors of all open sockets."""
        listeners = self._listener.sockets if self._listener is not None else ()
        streams = [stream for each in list(self.connections.values()) for stream in (each.client, each.store) if stream]
        numbers = [each.fileno() for each in (self._holder, *listeners)] + [each.fileno for each in streams]
        return [number for number in numbers if number >= 0]

    def settings(self, request: Request) -> Faults:
        """What holds for a request."""
        faults = self.faults
        if isinstance(faults, Faults):
            return faults if request.kind == "get" else Faults()
        return faults.get(request.kind) or faults.get("*") or Faults()

    def note(self, head: Head) -> Request:
        """The request that begins with `head`, noted."""
        key = (head.words[0], head.words[1], head.get("range"))
        request = Request(*key, number=self._asked[key])
        self._asked[key] += 1
        self.requests.append(request)
        return request

    def choose(self, request: Request, settings: Faults, dice: random.Random) -> str | None:
        """The fault that is to befall a request."""
        key = (request.method, request.target, request.range)
        if settings.script is not None:
            name = settings.script(request)
            if name is not None and name not in FAULTS:
                raise ValueError(f"the script wants {name!r}, which is none of {', '.join(FAULTS)}")
            return name
        name = dice.choices((*FAULTS, None), settings.weights)[0]
        unlikely = (
            (settings.limit is not None and self._failed[key] >= settings.limit)
            or (name in ("missing", "forbidden") and (name, request.path) in self._once)
            or (name == "corruptions" and not re.search(settings.corrupt_paths, request.path))
        )
        return None if unlikely else name

    def count(self, request: Request, name: str) -> None:
        """A fault befalls a request."""
        request.fault = name
        self.counts[name] += 1
        self._failed[request.method, request.target, request.range] += 1
        self._once.add((name, request.path))


def _bound(port: int) -> socket.socket:
    """A socket at a port of this machine, which several of them share; 0 is any that is free."""
    # With the protocol named: only then asyncio sends small pieces at once, and not after 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


_running: weakref.WeakSet[FaultProxy] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In a forked child: let go of the proxy's sockets, which would not be closed while a child has them.

    Their numbers stay taken, so that whatever closes them later closes nothing else.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for proxy in _running:
        for number in proxy.sockets():
            os.dup2(null, number, inheritable=False)
    os.close(null)


os.register_at_fork(after_in_child=_leave_to_parent)
