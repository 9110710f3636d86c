"""The fault proxy does to each answer what it was told to, and to the others nothing."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.fault_proxy import FAULTS, FaultProxy, Faults, Request, kind_of

OBJECT = random.Random(0).randbytes(300_000)


class Handler(BaseHTTPRequestHandler):
    """Objects in memory, as an object store has them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Store

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.hosts.append(self.headers["Host"])
        content, status = self.server.objects.get(path, b"none"), 200 if path in self.server.objects else 404
        headers = {}
        if status == 200 and (span := self.headers["Range"]):
            first, last = (int(word) for word in span.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            content, status = content[first : last + 1], 206
        elif self.server.signed:
            content, status = b"signature", 403
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        chunked = path.startswith("/chunked")
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(content)))))
        self.end_headers()
        if self.command == "HEAD":
            return
        if chunked:
            parts = [content[at : at + 70_001] for at in range(0, len(content), 70_001)]
            content = b"".join(b"%x;note=1\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nX-End: 1\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        if "Content-Length" in self.headers:
            content = self.rfile.read(int(self.headers["Content-Length"]))
        else:
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.objects[self.path] = content
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT

    def log_message(self, *arguments: object) -> None:
        pass


class Store(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects = {"/b/key": OBJECT, "/b/other": OBJECT, "/chunked/key": OBJECT, "/b/empty": b""}
        self.hosts: list[str] = []
        self.accepted = 0
        self.signed = False  # refuse a request without a range, as where a signature includes it

    def process_request(self, *arguments: Any) -> None:
        self.accepted += 1
        super().process_request(*arguments)

    def handle_error(self, *arguments: Any) -> None:  # clients that have gone are no news
        pass

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server_port


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Answer = tuple[int, bytes, dict[str, str]]


@contextlib.contextmanager
def connected(proxy: FaultProxy) -> Iterator[Callable[..., Answer]]:
    """A client with one connection: a function that makes a request on it."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=300)

    def ask(path: str = "/b/key", method: str = "GET", span: str | None = None, **options: Any) -> Answer:
        headers = {"Range": f"bytes={span}"} if span else {}
        connection.request(method, path, headers=headers | options.pop("headers", {}), **options)
        with connection.getresponse() as response:
            return response.status, response.read(), {key.lower(): value for key, value in response.headers.items()}

    with contextlib.closing(connection):
        yield ask


def ask(proxy: FaultProxy, *arguments: Any, **options: Any) -> Answer:
    """One request on a connection of its own."""
    with connected(proxy) as client:
        return client(*arguments, **options)


def always(name: str, **options: Any) -> Faults:
    rates: dict[str, Any] = {name: 1.0}
    return Faults(**rates, **options)


def differing(content: bytes) -> int:
    return sum(a != b for a, b in zip(content, OBJECT, strict=True))


def test_without_faults_all_is_as_it_was(store: Store) -> None:
    with FaultProxy(store.address) as proxy, connected(proxy) as client:
        assert client()[:2] == (200, OBJECT)
        status, content, headers = client(span="1000-1999")
        assert (status, content) == (206, OBJECT[1000:2000])
        assert headers["content-range"] == "bytes 1000-1999/300000"
        status, content, headers = client(method="HEAD")
        assert (status, content, headers["content-length"]) == (200, b"", "300000")
        assert client("/chunked/key")[:2] == (200, OBJECT)
        assert client("/b/empty")[:2] == (200, b"")
        assert client("/b/nothing")[:2] == (404, b"none")
        assert client("/b/key?list-type=2")[0] == 200
        # One connection on each side, and the Host that the client meant.
        assert store.accepted == 1
        assert set(store.hosts) == {f"127.0.0.1:{proxy.port}"}
        seen = [(each.method, each.target, each.range, each.status, each.sent) for each in proxy.requests]
        assert seen[:3] == [
            ("GET", "/b/key", None, 200, 300_000),
            ("GET", "/b/key", "bytes=1000-1999", 206, 1000),
            ("HEAD", "/b/key", None, 200, 0),
        ]
        assert not proxy.counts


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_uploads_arrive(store: Store, chunked: bool) -> None:
    with FaultProxy(store.address) as proxy, connected(proxy) as client:
        body: Any = iter([OBJECT[:100_000], OBJECT[100_000:]]) if chunked else OBJECT
        assert client("/b/new", "PUT", body=body, encode_chunked=chunked)[0] == 200
        assert store.objects["/b/new"] == OBJECT
        assert client("/b/new")[:2] == (200, OBJECT)


def test_a_client_that_waits_for_100_continue_is_told_by_the_server(store: Store) -> None:
    head = b"PUT /b/new HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    with FaultProxy(store.address) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=300) as client:
            client.sendall(head)
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"12345")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert store.objects["/b/new"] == b"12345"
        proxy.faults = {"put": always("errors")}
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=300) as client:
            client.sendall(head)
            assert client.makefile("rb").read().startswith(b"HTTP/1.1 503 ")


def test_errors(store: Store) -> None:
    faults = always("errors", retry_after=7, statuses=(503, 429, 500))
    with FaultProxy(store.address, {"*": faults}) as proxy, connected(proxy) as client:
        answers = [client(span=f"{number}-999") for number in range(40)]
        assert {status for status, *_ in answers} == {503, 429, 500}
        assert all(headers["retry-after"] == "7" for *_, headers in answers)
        assert any(b"<Code>SlowDown</Code>" in content for _, content, _ in answers)
        assert client("/b/new", "PUT", body=OBJECT)[0] in faults.statuses
        assert client(method="HEAD")[1] == b""
        proxy.faults = Faults()
        assert client()[:2] == (200, OBJECT)
        assert "/b/new" not in store.objects
        assert (store.accepted, proxy.counts) == (1, {"errors": 42})


@pytest.mark.parametrize("name, arrives", [("resets", False), ("lost", True)], ids=["before", "after"])
def test_resets(store: Store, name: str, arrives: bool) -> None:
    with FaultProxy(store.address, {"put": always(name)}) as proxy:
        with pytest.raises(ConnectionResetError):
            ask(proxy, "/b/new", "PUT", body=b"12345")
        assert ("/b/new" in store.objects) == arrives
        assert [(each.status, each.fault) for each in proxy.requests] == [(0, name)]


@pytest.mark.parametrize("path, span", [("/b/key", None), ("/b/key", "5-200004"), ("/chunked/key", None)])
def test_cuts(store: Store, path: str, span: str | None) -> None:
    with FaultProxy(store.address, always("cuts")) as proxy:
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(proxy, path, span=span)
        start = 5 if span else 0
        partial = caught.value.partial
        assert 0 < len(partial) == proxy.requests[0].sent
        assert partial == OBJECT[start : start + len(partial)]


def test_truncations_agree_with_their_headers(store: Store) -> None:
    with FaultProxy(store.address, always("truncations")) as proxy, connected(proxy) as client:
        status, content, headers = client(span="5-200004")
        assert status == 206 and 0 < len(content) < 200_000
        assert content == OBJECT[5 : 5 + len(content)]
        assert headers["content-range"] == f"bytes 5-{4 + len(content)}/300000"
        status, content, _ = client("/chunked/key")
        assert status == 200 and 0 < len(content) < len(OBJECT)
        proxy.faults = Faults()
        assert client()[1] == OBJECT


def test_corruptions_change_one_byte_where_the_path_matches(store: Store) -> None:
    with FaultProxy(store.address, always("corruptions", corrupt_paths="key$")) as proxy, connected(proxy) as client:
        assert differing(client()[1]) == differing(client("/chunked/key")[1]) == 1
        assert client("/b/other")[1] == OBJECT
        assert client("/b/nothing")[1] == b"none"
        assert client("/b/empty")[1] == b""
        assert proxy.counts == {"corruptions": 2}


def test_stalls(store: Store) -> None:
    with FaultProxy(store.address, always("stalls", stall_seconds=0.3)) as proxy:
        begin = time.monotonic()
        assert ask(proxy)[1] == OBJECT
        assert time.monotonic() - begin >= 0.3
        proxy.faults = always("stalls", stall_seconds=1000)
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=300)
        connection.request("GET", "/b/key")
        response = connection.getresponse()
        deadline = time.monotonic() + 300
        while not proxy.requests[-1].sent and time.monotonic() < deadline:
            time.sleep(0.01)
        connection.sock.settimeout(0.2)
        with response, contextlib.closing(connection), pytest.raises(TimeoutError):
            response.read()
        assert 0 < proxy.requests[-1].sent < len(OBJECT)


def test_a_range_is_answered_with_the_whole_object_unless_the_signature_forbids_it(store: Store) -> None:
    with FaultProxy(store.address, always("whole")) as proxy, connected(proxy) as client:
        assert client(span="10-19")[:2] == (200, OBJECT)
        store.signed = True
        assert client(span="10-19")[:2] == (206, OBJECT[10:20])
        assert proxy.counts == {"whole": 1}


@pytest.mark.parametrize("name, status", [("missing", 404), ("forbidden", 403)], ids=["missing", "forbidden"])
def test_an_object_is_missing_or_forbidden_once(store: Store, name: str, status: int) -> None:
    with FaultProxy(store.address, always(name)) as proxy, connected(proxy) as client:
        assert [client("/b/key", span=f"{n}-9")[0] for n in range(3)] == [status, 206, 206]
        assert [client("/b/other")[0] for n in range(3)] == [status, 200, 200]


def test_latency_and_bandwidth(store: Store) -> None:
    with FaultProxy(store.address, Faults(latency=0.2)) as proxy, connected(proxy) as client:
        begin = time.monotonic()
        client()
        assert time.monotonic() - begin >= 0.2
        proxy.faults = Faults(bandwidth=1_000_000)
        begin = time.monotonic()
        assert client()[1] == OBJECT
        assert time.monotonic() - begin >= 0.3


def test_kinds_have_rates_of_their_own(store: Store) -> None:
    with FaultProxy(store.address, {"list": always("errors"), "*": Faults()}) as proxy, connected(proxy) as client:
        assert [client(path)[0] for path in ("/b/key", "/b/key?list-type=2&prefix=")] == [200, 503]
        assert client("/b/new", "PUT", body=b"1")[0] == 200


@pytest.mark.parametrize(
    "method, target, kind",
    [
        ("GET", "/bucket/key", "get"),
        ("GET", "/bucket/key?partNumber=1", "get"),
        ("GET", "/bucket/", "list"),
        ("GET", "/bucket?list-type=2&prefix=a/b", "list"),
        ("GET", "/storage/v1/b/bucket/o?prefix=a", "list"),
        ("GET", "/storage/v1/b/bucket/o/key", "head"),
        ("GET", "/storage/v1/b/bucket/o/key?alt=media", "get"),
        ("GET", "/download/storage/v1/b/bucket/o/key?alt=media", "get"),
        ("HEAD", "/bucket/key", "head"),
        ("DELETE", "/bucket/key", "delete"),
    ],
)
def test_what_kind_a_request_is_of(method: str, target: str, kind: str) -> None:
    assert kind_of(method, target) == kind


def test_what_befalls_a_request_depends_on_the_seed_and_not_on_the_order(store: Store) -> None:
    faults = Faults(errors=0.3, missing=0.1, corruptions=0.2)

    def befallen(seed: int, workers: int) -> dict[tuple[str, int], str | None]:
        def four_times(path: str) -> None:
            with connected(proxy) as client:
                for _ in range(4):
                    client(path)

        paths = [f"/b/{number}" for number in range(20)]
        store.objects.update(dict.fromkeys(paths, b"content"))
        with FaultProxy(store.address, faults, seed) as proxy, ThreadPoolExecutor(workers) as pool:
            list(pool.map(four_times, paths))
            return {(each.target, each.number): each.fault for each in proxy.requests}

    one = befallen(1, 1)
    assert befallen(1, 8) == one != befallen(2, 1)
    shares = {name: sum(fault == name for fault in one.values()) / len(one) for name in FAULTS}
    assert 0.15 < shares["errors"] < 0.45 and 0.05 < shares["corruptions"] < 0.35


def test_a_request_fails_no_more_often_than_the_limit(store: Store) -> None:
    with FaultProxy(store.address, always("errors", limit=2)) as proxy, connected(proxy) as client:
        assert [client(span="0-9")[0] for _ in range(4)] == [503, 503, 206, 206]
        assert client(span="1-9")[0] == 503


def test_a_script_decides(store: Store) -> None:
    def script(request: Request) -> str | None:
        return {("/b/key", 1): "corruptions", ("/b/other", 0): "errors"}.get((request.path, request.number))

    with FaultProxy(store.address, Faults(script=script)) as proxy, connected(proxy) as client:
        assert [differing(client()[1]) for _ in range(3)] == [0, 1, 0]
        assert [client("/b/other")[0] for _ in range(2)] == [503, 200]


def test_a_script_that_fails_is_heard_of(store: Store) -> None:
    proxy = FaultProxy(store.address, Faults(script=lambda _: "typo"))
    with pytest.raises(ValueError, match="'typo'"), proxy, contextlib.suppress(ConnectionError):
        ask(proxy)


def test_a_store_that_is_away_refuses_and_comes_back(store: Store) -> None:
    with FaultProxy(store.address, always("stalls", stall_seconds=1000)) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=300)
        connection.request("GET", "/b/key")
        response = connection.getresponse()
        for _ in range(2):
            with proxy.away(), pytest.raises(ConnectionRefusedError):
                ask(proxy)
        with contextlib.closing(connection), response, pytest.raises(ConnectionResetError):
            response.read()
        proxy.faults = Faults()
        assert ask(proxy)[1] == OBJECT


def test_a_server_that_is_gone_is_a_bad_gateway() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with FaultProxy(nobody.getsockname()) as proxy:
            assert ask(proxy)[0] == ask(proxy, "/b/new", "PUT", body=b"123")[0] == 502


def test_a_forked_child_does_not_hold_connections_open(store: Store) -> None:
    with FaultProxy(store.address, always("stalls", stall_seconds=1000)) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=300)
        connection.request("GET", "/b/key")
        response = connection.getresponse()
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
        try:
            with proxy.away():
                with contextlib.closing(connection), response, pytest.raises(ConnectionResetError):
                    response.read()
                with pytest.raises(ConnectionRefusedError):
                    ask(proxy)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


def test_many_clients_among_all_faults_get_what_they_asked_for_in_the_end(store: Store) -> None:
    rates: dict[str, Any] = dict.fromkeys(set(FAULTS) - {"corruptions", "truncations", "whole"}, 0.08)

    def persistent(number: int) -> str:
        for _ in range(30):
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, content, _ = ask(proxy, span=f"{number * 1000}-{number * 1000 + 99_999}")
                if status == 206:
                    return hashlib.sha256(content).hexdigest()
        raise AssertionError("never")

    with (
        FaultProxy(store.address, Faults(**rates, stall_seconds=0.05), seed=3) as proxy,
        ThreadPoolExecutor(16) as pool,
    ):
        found = list(pool.map(persistent, range(100)))
    assert found == [hashlib.sha256(OBJECT[n * 1000 : n * 1000 + 100_000]).hexdigest() for n in range(100)]
    assert set(proxy.counts) == set(rates)


def test_rates_are_parts_of_one() -> None:
    with pytest.raises(ValueError, match="1 at most"):
        Faults(errors=0.6, cuts=0.6)
