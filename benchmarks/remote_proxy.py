"""A link to a remote object store: a TCP proxy with a latency, and a bandwidth that all connections share.

    python benchmarks/remote_proxy.py SERVER_PORT [--port 0] [--latency 0.02] [--bandwidth 200e6]

It listens on the loopback interface and prints its port. Bytes of a client go on after `latency` seconds, so that a
request and its answer take that much longer; a connection is made at once. Bytes of the server pass at `bandwidth`
bytes a second at most, in turns of a quarter of a MiB. A token bucket keeps the bandwidth of up to `SAVED` seconds, so
that none is lost when the measured processes hold this one up.

At SIGUSR1 it prints the number of bytes of the server that it has passed on, and the number of connections so far.

It shares the CPUs of the measured processes, so it should cost little. Bytes from the server go by `splice` through a
pipe, and are never in this process's memory; small pieces of data are gathered for a millisecond.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import socket
import time
from collections import deque

TURN = 1 << 18
PIPE = 1 << 20
SAVED = 0.02
GATHERED = 0.001
HOST = "127.0.0.1"


class Connection:
    """A client, and its connection to the server."""

    def __init__(self, client: socket.socket, server_port: int) -> None:
        self.client = client
        self.server = socket.create_connection((HOST, server_port))
        for end in (self.client, self.server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pipe = os.pipe2(os.O_NONBLOCK)
        with contextlib.suppress(OSError):  # there is a limit to all pipes of a user
            fcntl.fcntl(self.pipe[1], fcntl.F_SETPIPE_SZ, PIPE)
        self.in_pipe = 0
        self.requests: deque[tuple[float, bytes]] = deque()  # when to send what; nothing, for the end
        self.queued = False  # among those that may have bytes for the client
        self.answered = self.closed = False

    def receive(self, now: float, latency: float) -> None:
        """Take the bytes that the client has sent."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self.client.recv(1 << 16)
                self.requests.append((now + latency, data))
                if not data:
                    return

    def send(self, now: float) -> None:
        """Pass on the bytes that are due."""
        with contextlib.suppress(BlockingIOError):
            while self.requests and self.requests[0][0] <= now:
                due, data = self.requests[0]
                if not data:
                    self.server.shutdown(socket.SHUT_WR)
                sent = self.server.send(data) if data else 0
                self.requests.popleft()
                if sent < len(data):
                    self.requests.appendleft((due, data[sent:]))

    def answer(self, most: int) -> tuple[int, bool]:
        """Pass on up to `most` bytes of the server. Returns their number, and whether to call again without an event.

        That is True until one of the sockets was empty or full: only then will there be an event. Fewer bytes than
        `most` are no sign of it, since many small packets fill the pipe as well.
        """
        try:
            if not self.in_pipe:
                self.in_pipe = os.splice(self.server.fileno(), self.pipe[1], most)
                if not self.in_pipe:
                    self.answered = True
                    self.client.shutdown(socket.SHUT_WR)
                    return 0, False
            passed = os.splice(self.pipe[0], self.client.fileno(), self.in_pipe)
        except BlockingIOError:
            return 0, False
        self.in_pipe -= passed
        return passed, True

    def close(self) -> None:
        """Let go of everything."""
        self.closed = True
        for end in (self.client, self.server):
            end.close()
        for descriptor in self.pipe:
            os.close(descriptor)


class Proxy:
    """All connections, in one thread."""

    def __init__(self, listener: socket.socket, server_port: int, latency: float, bandwidth: float) -> None:
        self.listener, self.server_port = listener, server_port
        self.latency, self.bandwidth = latency, bandwidth
        self.poll = select.epoll()
        self.poll.register(listener.fileno(), select.EPOLLIN)
        self.ends: dict[int, Connection] = {}
        self.waiting: deque[Connection] = deque()  # for bandwidth
        self.delayed: set[Connection] = set()  # with requests on their way
        self.tokens, self.filled = 0.0, time.monotonic()
        self.passed = self.connections = 0
        signal.signal(signal.SIGUSR1, lambda *_: print(self.passed, self.connections, flush=True))

    def run(self) -> None:
        """For ever."""
        while True:
            timeout = None
            if self.waiting:
                timeout = max(GATHERED, min(self.latency, (TURN - self.tokens) / self.bandwidth))
            if self.delayed:
                due = min(connection.requests[0][0] for connection in self.delayed) - time.monotonic()
                timeout = max(0.0, due) if timeout is None else min(timeout, max(0.0, due))
            if self.waiting and timeout:
                time.sleep(timeout)
                timeout = 0
            self.accept_events(self.poll.poll(timeout))
            now = time.monotonic()
            for connection in list(self.delayed):
                self.guarded(connection, now)
            self.pass_on()

    def accept_events(self, events: list[tuple[int, int]]) -> None:
        """Handle the events of sockets."""
        now = time.monotonic()
        for descriptor, event in events:
            if descriptor == self.listener.fileno():
                self.connect()
                continue
            connection = self.ends.get(descriptor)
            if connection is None or connection.closed:
                continue
            if descriptor == connection.client.fileno() and event & ~select.EPOLLOUT:
                try:
                    connection.receive(now, self.latency)
                except OSError:
                    self.remove(connection)
                    continue
            if connection.requests:
                self.delayed.add(connection)
            if not connection.queued and not connection.answered:
                connection.queued = True
                self.waiting.append(connection)

    def connect(self) -> None:
        """One more."""
        client, _ = self.listener.accept()
        self.connections += 1
        connection = Connection(client, self.server_port)
        for end in (connection.client, connection.server):
            self.ends[end.fileno()] = connection
            # One event for each change: a connection that waits for bandwidth would otherwise have one all the time.
            self.poll.register(end.fileno(), select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)

    def guarded(self, connection: Connection, now: float) -> None:
        """Send the bytes of a connection that are due."""
        try:
            connection.send(now)
        except OSError:
            self.remove(connection)
            return
        if not connection.requests:
            self.delayed.discard(connection)

    def pass_on(self) -> None:
        """Give each that waits its turn, as far as the bandwidth goes."""
        now = time.monotonic()
        self.tokens = min(self.tokens + (now - self.filled) * self.bandwidth, max(SAVED * self.bandwidth, TURN))
        self.filled = now
        while self.waiting and self.tokens > 0:
            connection = self.waiting.popleft()
            try:
                passed, more = connection.answer(TURN)
            except OSError:
                self.remove(connection)
                continue
            self.tokens -= passed
            self.passed += passed
            connection.queued = more
            if more:
                self.waiting.append(connection)
            elif connection.answered:
                self.remove(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        if connection.closed:
            return
        for end in (connection.client, connection.server):
            del self.ends[end.fileno()]
        self.delayed.discard(connection)
        if connection.queued and connection in self.waiting:
            self.waiting.remove(connection)
        connection.close()


def main() -> None:
    """Listen, say where, and go on until this process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server_port", type=int)
    parser.add_argument("--port", type=int, default=0, help="the one to listen on; any, by default")
    parser.add_argument("--latency", type=float, default=0.02, metavar="SECONDS")
    parser.add_argument("--bandwidth", type=float, default=200e6, metavar="BYTES", help="a second")
    options = parser.parse_args()
    with socket.create_server((HOST, options.port), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        Proxy(listener, options.server_port, options.latency, options.bandwidth).run()


if __name__ == "__main__":
    main()
