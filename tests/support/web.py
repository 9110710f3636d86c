"""A web server of a test, which answers each path as the test says, right or wrong, byte by byte."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Asked", "Web", "response", "serving"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its path, its headers in lower case, and the connection that takes the answer."""

    path: str
    headers: Mapping[str, str]
    connection: socket.socket

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.connection.sendall(data)


@dataclass(slots=True)
class Web:
    """A running server. `requests` has each request, `most` the largest number of them at the same time."""

    url: str
    requests: list[Asked] = field(default_factory=list)
    now: int = 0
    most: int = 0

    @property
    def host(self) -> str:
        """Its name and port."""
        return self.url.partition("://")[2]

    def asked(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(one.path == path for one in self.requests)


def response(body: bytes = b"", status: str = "200 OK", **headers: object) -> bytes:
    """An answer. Headers have underscores for hyphens; None leaves one out."""
    given = {"Content_Length": len(body), "Connection": "close"} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1") + body


@contextlib.contextmanager
def serving(answer: Callable[[Asked], bytes | None]) -> Iterator[Web]:
    """Run a server. `answer` gives the bytes of an answer, or None if it has sent them."""
    changes = threading.Lock()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = self.request.recv(1 << 16)
                if not piece:
                    return
                head += piece
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            asked = Asked(first.split(" ")[1], headers, self.request)
            with changes:
                web.requests.append(asked)
                web.now += 1
                web.most = max(web.most, web.now)
            try:
                with contextlib.suppress(OSError):  # the client has gone, as it should
                    if (data := answer(asked)) is not None:
                        self.request.sendall(data)
            finally:
                with changes:
                    web.now -= 1

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing."""

    with Server(("127.0.0.1", 0), Handler) as server:
        web = Web("http://{}:{}".format(*server.server_address))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()
