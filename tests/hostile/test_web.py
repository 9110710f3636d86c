"""Web servers that drip, never end, lie, lead in circles and send bombs: a reject, or a line with the URL."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.images import write_image
from support.limits import limited, limited_command
from support.web import Asked, Web, response, serving

Serve = Callable[[Callable[[Asked], bytes | None]], Web]
BOMB = gzip.compress(bytes(1 << 20), 9) * 700  # members of a megabyte of zeros each
# The times after which a command gives up, which are minutes, are seconds here.
HASTE = """
from shard_reader.storage import http_ranges, object_store, retry
from shard_reader.storage.libraries import web
import beam_jobs.web.downloads as downloads
retry.REMOTE_SECONDS = downloads.REMOTE_SECONDS = 1.0
object_store._TIMEOUT = web._SECONDS = 3.0
"""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a web server."""
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(serving(answer))


def endless(asked: Asked, head: bytes, piece: bytes = bytes(1 << 16), pause: float = 0.0) -> None:
    """Send an answer until the client has gone."""
    asked.send(head)
    while True:
        asked.send(piece)
        time.sleep(pause)


def table(folder: Path, *urls: str) -> Path:
    """A table of URLs, and of an image that can be used."""
    write_image(folder / "good.png")
    path = folder / "table.csv"
    path.write_text("\n".join(["url,label", f"{folder}/good.png,a", *(f"{url},b" for url in urls)]) + "\n")
    return path


def rejects(output: Path) -> dict[str, tuple[str, str]]:
    """The reason and the message of each rejected input."""
    lines = map(json.loads, (output / "rejects.jsonl").read_text().splitlines())
    return {line["id"].rpartition("/")[2]: (line["reason"], line["message"]) for line in lines}


def prepare(table: Path, output: Path, *words: str) -> tuple[int, str]:
    given = (*words, "--size", "8", "--shards", "1", "--workers", "1", "--max-rejects", "1.0")
    found = limited_command("prepare", table, output, *given)
    return found.returncode, found.stderr


@pytest.mark.slow
def test_bodies_that_do_not_end_are_rejects(serve: Serve, tmp_path: Path) -> None:
    """Forty of them, of all kinds, at the same time: as many bodies of the largest size would not fit."""
    head = response(Content_Length=None)

    def answer(asked: Asked) -> bytes | None:
        kind = asked.path[1]
        if kind == "e":
            return endless(asked, head)
        if kind == "c":
            chunked = response(Content_Length=None, Transfer_Encoding="chunked")
            return endless(asked, chunked, b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        if kind == "h":
            return response(Content_Length=1 << 60)
        return response(BOMB, Content_Encoding="gzip")

    web = serve(answer)
    urls = [f"{web.url}/{kind}{number}" for kind in "ecbh" for number in range(10)]
    status, errors = prepare(table(tmp_path, *urls), tmp_path / "out", "--max-bytes", "40MiB")
    assert status == 0, errors
    found = rejects(tmp_path / "out")
    assert len(found) == 40
    for name, (reason, message) in found.items():
        # A body of gzip ends with its first member, of a megabyte of zeros.
        assert reason == "too-large" or name[0] == "b", (name, reason, message)


@pytest.mark.slow
def test_a_compressed_bomb_is_a_reject(serve: Serve, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(400 << 20), 9)
    web = serve(lambda asked: response(bomb, Content_Encoding="gzip"))
    status, errors = prepare(
        table(tmp_path, *(f"{web.url}/{n}" for n in range(8))), tmp_path / "out", "--max-bytes", "200MiB"
    )
    assert status == 0, errors
    assert {reason for reason, _ in rejects(tmp_path / "out").values()} == {"too-large"}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["body", "headers", "status", "nothing"])
def test_an_answer_that_drips_ends_the_job_with_its_url(serve: Serve, tmp_path: Path, part: str) -> None:
    def answer(asked: Asked) -> None:
        heads = {"body": response(Content_Length=1 << 20), "headers": b"HTTP/1.1 200 OK\r\n", "status": b"HTT"}
        endless(asked, heads.get(part, b""), b"x" if part != "nothing" else b"", 0.05)

    url = f"{serve(answer).url}/drips.jpg"
    words = ["prepare", table(tmp_path, url), "memory://out", "--size", "8", "--shards", "1", "--download-seconds", "1"]
    main = "import sys; from beam_jobs.cli.main import main; sys.exit(main(sys.argv[1:]))"
    found = limited(f"{HASTE}\n{main}", *words)  # a store in memory keeps the work in this process
    assert found.returncode == 1 and "Traceback" not in found.stderr
    # A parser in C gives such a status line up before the time is over.
    why = "Bad status line" if part == "status" else "did not come in 1 seconds (--download-seconds)"
    assert f"{url}: cannot be read (" in found.stderr and why in found.stderr


def test_circles_other_schemes_and_odd_answers_are_rejects(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    answers = {
        "/circle": response(status="302 Found", Location="/circle"),
        "/file": response(status="302 Found", Location=f"file://{tmp_path}/secret.png"),
        "/empty": response(),
        "/html": response(b"<html>no image</html>"),
        "/gone": response(status="410 Gone"),
        "/missing": response(status="404 Not Found"),
        "/part": response(b"abc", status="206 Partial Content", Content_Range="bytes 5-7/9"),
        "/br": response(b"abc", Content_Encoding="br"),
    }
    web = serve(lambda asked: answers[asked.path])
    status, errors = prepare(table(tmp_path, *(web.url + path for path in answers)), tmp_path / "out")
    assert status == 0, errors
    found = rejects(tmp_path / "out")
    assert {name: found[name][0] for name in ("circle", "file", "gone", "missing", "part", "br")} == {
        "circle": "unreadable", "file": "unreadable", "gone": "unreadable", "missing": "missing",
        "part": "unreadable", "br": "unreadable",
    }  # fmt: skip
    assert set(found) == {path[1:] for path in answers}


# Whatever else reads from the web


def reading(code: str, *arguments: object) -> str:
    """What code says that reads in haste: the line of its error."""
    found = limited(f"{HASTE}\nimport sys\ntry:\n    {code}\nexcept Exception as error:\n    print(error)", *arguments)
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == 1, found.stdout
    return found.stdout


OPEN = "from shard_reader import open_dataset; open_dataset(sys.argv[1], retry_for=1.0)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("endless", "at most 268435456 are read"),
        ("chunked", "at most 268435456 are read"),
        ("huge", "at most 268435456 are read"),
        ("bomb", "at most 268435456 are read"),
        ("drip", "does not answer in time"),
        ("headers", "does not answer in time"),
        ("circle", "circle"),
    ],
)
def test_a_manifest_that_does_not_end(serve: Serve, kind: str, expected: str) -> None:
    bomb = gzip.compress(bytes(1 << 30), 9) if kind == "bomb" else b""

    def answer(asked: Asked) -> bytes | None:
        if kind == "endless":
            return endless(asked, response(Content_Length=None))
        if kind == "chunked":
            head = response(Content_Length=None, Transfer_Encoding="chunked")
            return endless(asked, head, b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        if kind in ("drip", "headers"):
            head = response(Content_Length=1 << 20) if kind == "drip" else b"HTTP/1.1 200 OK\r\n"
            return endless(asked, head, b"x", 0.05)
        if kind == "circle":
            return response(status="302 Found", Location="/circle")
        return response(bomb, Content_Encoding="gzip") if kind == "bomb" else response(Content_Length=1 << 60)

    web = serve(answer)
    said = reading(OPEN, f"{web.url}/data")
    assert said.startswith(f"{web.url}/data/dataset.json: ") and expected in said, said


RANGE = (
    "from shard_reader.remote.client import StoreClient;"
    " print(len(StoreClient(sys.argv[1], 1.0).read('a', 1000, 2000)))"
)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("whole", "1000"),  # a server without ranges: the bytes are cut out while they come
        ("more", "sends 1152921504606846976 bytes, of the 1000 that were asked for"),
        ("other", "sends other bytes than those from 1000: Content-Range 'bytes 0-999/5000'"),
        ("odd", "sends other bytes than those from 1000: Content-Range 'pages 3'"),
    ],
)
def test_a_range_that_is_not_the_one(serve: Serve, kind: str, expected: str) -> None:
    part, body = "206 Partial Content", bytes(1000)

    def answer(asked: Asked) -> bytes | None:
        if kind == "whole":
            return endless(asked, response(Content_Length=None))
        if kind == "more":
            return response(status=part, Content_Length=1 << 60)
        return response(body, status=part, Content_Range="bytes 0-999/5000" if kind == "other" else "pages 3")

    web = serve(answer)
    said = reading(RANGE, f"{web.url}/data")
    assert expected in said, said
    assert kind == "whole" or said.startswith(f"{web.url}/data/a (bytes 1000 to 2000): ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["endless", "drip"])
def test_a_listing_that_does_not_end(serve: Serve, kind: str) -> None:
    def answer(asked: Asked) -> None:
        head = response(Content_Length=None, Content_Type="text/html")
        endless(
            asked, head, b"<a href='x'>x</a>" * 4000 if kind == "endless" else b"x", 0 if kind == "endless" else 0.05
        )

    web = serve(answer)
    said = reading("from shard_reader.storage.open import directory; directory(sys.argv[1]).names()", web.url)
    assert "at most 268435456 are read" in said if kind == "endless" else "does not answer in time" in said, said


@pytest.mark.parametrize("name", ["table.csv", "photos.zip", "photos.tar", "instances.json"])
@pytest.mark.parametrize("size", [None, 1 << 62])
def test_an_input_of_a_server_that_lies_about_its_size_is_one_line(
    serve: Serve, tmp_path: Path, name: str, size: int | None
) -> None:
    web = serve(lambda asked: endless(asked, response(Content_Length=size), bytes(1 << 16)))
    found = limited_command("prepare", f"{web.url}/{name}", tmp_path / "out", seconds=300)
    assert found.returncode in (1, 2)
    (line,) = [line for line in found.stderr.splitlines() if "error" in line]
    assert f"{web.url}/{name}" in line
