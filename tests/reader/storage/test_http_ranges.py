"""Ranges that the thread that asks receives: from each store, and left to the store's library where that knows more."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import multiprocessing
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.servers import Store

from shard_reader.storage import http_ranges
from shard_reader.storage.object_store import ObjectDirectory

DATA = bytes(range(256)) * 3000


LIBRARY = b"the library was asked"


def by_http(files: ObjectDirectory, name: str, start: int, end: int, seconds: float = 300) -> bytes:
    """The bytes, or LIBRARY."""
    return bytes(files._http.read(files._path(name), start, end, seconds, lambda: LIBRARY))


@pytest.fixture(params=["moto", "minio", "gcs", "azurite", "nginx"])
def place(request: pytest.FixtureRequest, new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that has DATA."""
    store = new_store(request.param)
    store.use(monkeypatch)
    store.write("a/b 1+2%.bin", DATA)
    return store


def test_ranges_do_not_come_through_the_library(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ObjectDirectory(place.url)
    monkeypatch.setattr(type(files._fs), "cat_file", lambda *_, **__: pytest.fail("the library was asked"))
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda n: files.read_once("a/b 1+2%.bin", n * 1000, n * 1000 + 777), range(100))
    assert list(map(bytes, found)) == [DATA[n * 1000 : n * 1000 + 777] for n in range(100)]
    assert bytes(files.read_once("a/b 1+2%.bin")) == DATA  # in pieces
    assert bytes(files.read_once("a/b 1+2%.bin", len(DATA) - 5)) == DATA[-5:]


def test_what_comes_cannot_be_written_to(place: Store) -> None:
    assert memoryview(ObjectDirectory(place.url).read_once("a/b 1+2%.bin", 0, 10)).readonly


def test_an_object_that_is_shorter_or_missing(place: Store) -> None:
    files = ObjectDirectory(place.url)
    with pytest.raises(EOFError, match=f"10 bytes came, not the 30 from byte {len(DATA) - 10}"):
        files.read_once("a/b 1+2%.bin", len(DATA) - 10, len(DATA) + 20)
    with pytest.raises(FileNotFoundError):
        files.read_once("a/other.bin", 0, 10)
    assert files._http._rests_until == 0  # an error of the object's, which the library has, too


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """Starts a web server that answers each GET with a function; gives its URL."""
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[Any], None], tls: ssl.SSLContext | None = None) -> str:
            class Handler(http.server.BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"

                def do_GET(self) -> None:
                    answer(self)

                def log_message(self, format: str, *arguments: object) -> None:
                    """Nothing."""

            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            server.daemon_threads = True
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_port}"

        yield start


def answer(handler: Any, status: int = 206, body: bytes = b"0123456789", length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def test_connections_are_used_again_but_not_by_a_forked_child(
    served: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_ranges, "_IDLE", 3600)
    ports: list[int] = []

    def noting(handler: Any) -> None:
        ports.append(handler.client_address[1])
        answer(handler)

    files = ObjectDirectory(served(noting))

    def read() -> bool:
        return by_http(files, "data", 0, 10) == b"0123456789"

    assert read() and read()
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(not read()))
    child.start()
    child.join(300)
    assert child.exitcode == 0 and read()
    first, second, of_child, last = ports
    assert first == second == last != of_child


def test_connections_that_were_idle_for_long_are_not_used(
    served: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []

    def noting(handler: Any) -> None:
        ports.append(handler.client_address[1])
        answer(handler)

    files = ObjectDirectory(served(noting))
    by_http(files, "data", 0, 10)
    monkeypatch.setattr(http_ranges, "_IDLE", 0)
    by_http(files, "data", 0, 10)
    assert ports[0] != ports[1]


@pytest.mark.slow
def test_an_empty_object(place: Store) -> None:
    place.write("empty", b"")
    files = ObjectDirectory(place.url)
    for _ in range(3):
        assert bytes(files.read_once("empty")) == b"" and files.read_once("empty", 0, 0) == b""
        assert by_http(files, "a/b 1+2%.bin", 5, 9) == DATA[5:9]


def test_a_connection_that_the_store_has_closed_is_not_used(served: Callable[..., str]) -> None:
    def once(handler: Any) -> None:
        answer(handler)
        handler.close_connection = True  # without having said so

    files = ObjectDirectory(served(once))
    for _ in range(5):
        assert bytes(files.read_once("data", 0, 10)) == b"0123456789"
        ((_, connection),) = next(iter(files._http._idle.values()))
        deadline = time.monotonic() + 300
        while not http_ranges._is_dropped(connection):
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_an_error_with_its_status(served: Callable[..., str], status: int) -> None:
    files = ObjectDirectory(served(lambda handler: answer(handler, status)))
    with pytest.raises(OSError, match=f"the store answers {status}") as caught:
        files.read_once("data", 0, 10)
    assert caught.value.status == status  # type: ignore[attr-defined]


def test_an_answer_that_breaks_off_is_an_error(served: Callable[..., str]) -> None:
    lengths = iter([10])

    def broken(handler: Any) -> None:
        answer(handler, length=(length := next(lengths, 20)))
        # The first answer leaves the connection open: a server that closes it may do so while the next request comes.
        handler.close_connection = length == 20

    files = ObjectDirectory(served(broken))
    files.read_once("data", 0, 10)
    with pytest.raises(ConnectionError, match="broke off: 10 bytes came, not 20"):
        files.read_once("data", 0, 20)


def test_an_answer_that_trickles_ends_in_time(served: Callable[..., str]) -> None:
    lengths = iter([10])

    def slow(handler: Any) -> None:
        if next(lengths, None):
            return answer(handler)
        answer(handler, body=b"", length=1 << 24)
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(bytes(1 << 14))
                time.sleep(0.01)

    files = ObjectDirectory(served(slow))
    files.read_once("data", 0, 10)
    with pytest.raises(TimeoutError, match="the answer comes too slowly"):
        by_http(files, "data", 0, 1 << 24, seconds=0.3)


def test_until_there_was_an_answer_the_library_may_know_a_way(served: Callable[..., str]) -> None:
    files = ObjectDirectory(served(lambda handler: setattr(handler, "close_connection", True)))
    assert [by_http(files, "data", 0, 10) for _ in range(3)] == [LIBRARY] * 3


@pytest.mark.parametrize(("header", "value"), [("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")])
def test_answers_whose_bytes_are_to_be_decoded_are_left_to_the_library(
    served: Callable[..., str], header: str, value: str
) -> None:
    def encoded(handler: Any) -> None:
        handler.send_response(206)
        handler.send_header(header, value)
        handler.end_headers()
        handler.close_connection = True

    files = ObjectDirectory(served(encoded))
    assert by_http(files, "data", 0, 10) == LIBRARY and files._http._rests_until == 0


def test_where_the_url_is_refused_the_library_reads_and_goes_on_reading(
    served: Callable[..., str], new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy may forbid signatures in URLs."""
    store = new_store("moto")
    store.write("data", DATA)
    store.use(monkeypatch)
    refused: list[str] = []

    def refuse(handler: Any) -> None:
        refused.append(handler.path)
        answer(handler, 403)

    files, place = ObjectDirectory(store.url), served(refuse)
    files._http._authorize = lambda *_: (place, {})
    assert [bytes(files.read_once("data", n, n + 4)) for n in range(5)] == [DATA[n : n + 4] for n in range(5)]
    assert len(refused) == 1
    monkeypatch.setattr(files._http, "_rests_until", 0)  # some minutes later
    assert bytes(files.read_once("data", 5, 9)) == DATA[5:9]
    assert len(refused) == 2


def test_who_lets_anybody_in_is_asked_without_a_signature(
    new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store("moto")
    store.write("data", DATA)
    store.fs().chmod(f"{store.url}/data", "public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.environment["AWS_ENDPOINT_URL"])
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    files = ObjectDirectory(store.url)
    assert bytes(files.read_once("data", 1, 5)) == DATA[1:5]
    assert "?" not in files._http._request(files._path("data"))[0]


@pytest.mark.parametrize("region", ["eu-south-1", "us-west-2"])
def test_urls_are_signed_for_the_host_of_the_region(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they need is known here: nothing is asked."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    url, headers = ObjectDirectory("s3://photos-2026/shards")._http._request("photos-2026/shards/a b.tfrecord")
    assert url.startswith(f"https://photos-2026.s3.{region}.amazonaws.com/shards/a%20b.tfrecord?X-Amz-Algorithm=")
    assert headers == {}


def test_through_a_proxy_the_library_reads(served: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    files = ObjectDirectory(served(answer))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert by_http(files, "data", 0, 10) == LIBRARY
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files = ObjectDirectory(files.uri(""))
    assert by_http(files, "data", 0, 10) == b"0123456789"


def test_passwords_and_headers_are_left_to_the_library(
    served: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers: list[str | None] = []

    def noting(handler: Any) -> None:
        headers.extend(handler.headers[name] for name in ("Authorization", "X-Token"))
        answer(handler)

    place = served(noting)
    files = ObjectDirectory(place.replace("//", "//ann:secret@"))
    assert by_http(files, "data", 0, 10) == LIBRARY and headers == []
    assert files.read_once("data", 0, 10) == b"0123456789" and headers == ["Basic YW5uOnNlY3JldA==", None]
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": {"headers": {"X-Token": "sesame"}}})
    files = ObjectDirectory(place)
    assert files.read_once("data", 0, 10) == b"0123456789" and headers[2:] == [None, "sesame"]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One of 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    day = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + datetime.timedelta(1), [])
    signed = made.add_extension(address, critical=False).sign(key, hashes.SHA256())
    encoded = serialization.Encoding.PEM
    private = key.private_bytes(encoded, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "certificate.pem"
    path.write_bytes(private + signed.public_bytes(encoded))
    return path


@pytest.mark.parametrize("is_trusted", [True, False])
def test_https(
    served: Callable[..., str], certificate: Path, is_trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    body = DATA * 5

    def ranged(handler: Any) -> None:
        start, end = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        answer(handler, body=body[start : end + 1])

    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    http_ranges._tls.cache_clear()
    files = ObjectDirectory(served(ranged, tls))
    try:
        found = [by_http(files, "data", n, n + (1 << 20)) for n in range(3)]
    finally:
        http_ranges._tls.cache_clear()
    expected = [body[n : n + (1 << 20)] if is_trusted else LIBRARY for n in range(3)]
    assert found == expected  # where it is not trusted, the library says so, or knows whom to trust
