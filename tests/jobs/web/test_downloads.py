"""Images by URL: who asks, how many at a time, what owners say, and when to come back."""

from __future__ import annotations

import contextlib
import email.utils
import json
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import command
from support.images import write_image
from support.web import Asked, Web, response, serving

from beam_jobs.sources.files.interface import BadInput, Reading, SourceOptions
from beam_jobs.web import downloads
from beam_jobs.web.downloads import Downloads
from beam_jobs.web.hosts import Hosts
from beam_jobs.web.opt_out import opted_out
from shard_reader.errors import StoreError
from shard_reader.storage import retry

READING = Reading()
BODY = bytes(range(256)) * 40


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Asked], bytes | None]], Web]]:
    """Starts a web server."""
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(serving(answer))


Serve = Callable[[Callable[[Asked], bytes | None]], Web]


def read(url: str, reading: Reading = READING, **options: Any) -> bytes:
    return Downloads(SourceOptions(input="table.csv", **options), reading).read(url)


def test_a_server_is_told_who_asks(serve: Serve) -> None:
    web = serve(lambda asked: response(BODY))
    assert read(f"{web.url}/a") == BODY == read(f"{web.url}/a", user_agent="ann/2 (ann@example.org)")
    first, second = (one.headers for one in web.requests)
    assert first["user-agent"].startswith("image-shards") and second["user-agent"] == "ann/2 (ann@example.org)"
    assert first["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X_Robots_Tag": "noai"}, "X-Robots-Tag: noai"),
        ({"X_Robots_Tag": "nofollow, NoImageAI"}, "X-Robots-Tag: noimageai"),
        ({"X_Robots_Tag": "none"}, "X-Robots-Tag: none"),
        ({"X_Robots_Tag": "image-shards: noindex"}, "X-Robots-Tag: noindex"),
        ({"X_Robots_Tag": "googlebot: nofollow, image-shards: noimageindex"}, "X-Robots-Tag: noimageindex"),
        ({"X_Robots_Tag": "unavailable_after: 25 Jun 2010 15:00:00 PST, noai"}, "X-Robots-Tag: noai"),
        ({"TDM_Reservation": "1"}, "TDM-Reservation: 1"),
        ({"X_Robots_Tag": "otherbot: noai, noindex"}, ""),
        ({"X_Robots_Tag": "all, nofollow, max-image-preview: none"}, "X-Robots-Tag: none"),
        ({"X_Robots_Tag": "nofollow", "TDM_Reservation": "0"}, ""),
    ],
)
def test_an_owner_opts_out(serve: Serve, headers: dict[str, str], expected: str) -> None:
    web = serve(lambda asked: response(BODY, **headers))
    if expected:
        with pytest.raises(BadInput, match=expected) as caught:
            read(f"{web.url}/a")
        assert caught.value.reason == "opted-out" and len(web.requests) == 1
    assert read(f"{web.url}/a", ignore_opt_out=bool(expected)) == BODY


def test_a_redirect_may_opt_out(serve: Serve) -> None:
    pages = {"/a": response(status="302 Found", Location="/b", X_Robots_Tag="noai"), "/b": response(BODY)}
    web = serve(lambda asked: pages[asked.path])
    with pytest.raises(BadInput, match="noai"):
        read(f"{web.url}/a")


def test_several_headers_are_one() -> None:
    assert opted_out(["nofollow", "noai"], [], "x") and opted_out([], ["0", "1"], "x")


@pytest.mark.parametrize("shared", [True, False])
def test_a_host_has_a_few_requests_at_a_time(serve: Serve, tmp_path: Path, shared: bool) -> None:
    """Of all threads; and of all processes that share a folder, of which this one stands for two."""

    def slow(asked: Asked) -> bytes:
        time.sleep(0.02)
        return response(BODY)

    web = serve(slow)
    turns = str(tmp_path) if shared else None
    reading, options = Reading(turns=turns, requests_per_host=3), SourceOptions(input="x")
    processes = [Downloads(options, reading) for _ in range(2 if shared else 1)]
    threads = [
        threading.Thread(target=process.read, args=(f"{web.url}/{n}",)) for n in range(10) for process in processes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert web.most <= 3 and len(web.requests) == len(threads)


def test_a_turn_is_given_back_and_hosts_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, other = Hosts(1, str(tmp_path)), Hosts(1, str(tmp_path))
    with one.turn("a"), other.turn("b"):
        assert other._take(1, 1) is not None
    with other.turn("a"):
        pass


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that hosts ask for, which are not made."""
    found = list[float]()
    monkeypatch.setattr(Hosts, "pause", lambda self, host, seconds: found.append(seconds))
    return found


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize("as_date", [True, False])
def test_a_host_that_is_busy_is_asked_again_when_it_says(
    serve: Serve, pauses: list[float], status: str, as_date: bool
) -> None:
    when = email.utils.formatdate(time.time() + 120, usegmt=True) if as_date else "120"
    answers = iter([response(status=status, Retry_After=when)])
    web = serve(lambda asked: next(answers, response(BODY)))
    assert read(f"{web.url}/a") == BODY
    assert len(pauses) == 1 and 100 < pauses[0] <= 120


@pytest.mark.parametrize("said", ["601", "999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_host_that_wants_to_be_asked_much_later_ends_the_job(serve: Serve, pauses: list[float], said: str) -> None:
    web = serve(lambda asked: response(status="429 Too Many Requests", Retry_After=said))
    with pytest.raises(StoreError, match=r"answers 429, and wants to be asked again in \d+ seconds"):
        read(f"{web.url}/a")
    assert pauses == [] and len(web.requests) == 1


def test_pauses_without_a_length_grow_and_end(serve: Serve, pauses: list[float]) -> None:
    web = serve(lambda asked: response(status="503 Busy", Retry_After="0"))
    with pytest.raises(StoreError, match="more than 600 in all"):
        read(f"{web.url}/a")
    assert pauses[:4] == [1, 1, 2, 4] and sum(pauses) <= 600


def test_a_pause_is_one_of_all_processes(tmp_path: Path) -> None:
    one, other = Hosts(1, str(tmp_path)), Hosts(1, str(tmp_path))
    one.pause("a", 100)
    assert 90 < other.pause_of("a") <= 100 and other.pause_of("b") <= 0 and one.pause_of("a") > 90


# Bounds


def test_a_large_file_comes_as_it_is(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_SMALL", 100)
    for length in (len(BODY), None):
        web = serve(lambda asked, length=length: response(BODY, Content_Length=length))  # type: ignore[misc]
        assert read(f"{web.url}/a") == BODY
        assert len(web.requests) == 2  # the second time with room for it


@pytest.mark.parametrize("length", [len(BODY), None])
def test_a_file_that_is_too_large_is_a_reject(serve: Serve, length: int | None) -> None:
    web = serve(lambda asked: response(BODY, Content_Length=length))
    with pytest.raises(BadInput, match="more than --max-bytes 10000") as caught:
        read(f"{web.url}/a", Reading(max_bytes=10_000))
    assert caught.value.reason == "too-large"
    assert read(f"{web.url}/a", Reading(max_bytes=len(BODY))) == BODY


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("x-gzip", 31), ("deflate", 15)])
def test_a_body_is_decoded_within_the_bound(serve: Serve, encoding: str, wbits: int) -> None:
    coder = zlib.compressobj(9, zlib.DEFLATED, wbits)
    data = coder.compress(BODY) + coder.flush()
    web = serve(lambda asked: response(data[: -5 if asked.path == "/cut" else None], Content_Encoding=encoding))
    assert read(f"{web.url}/a") == BODY
    with pytest.raises(BadInput, match="more than --max-bytes 10000"):
        read(f"{web.url}/a", Reading(max_bytes=10_000))
    with pytest.raises(BadInput, match="is cut off"):
        read(f"{web.url}/cut")


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd", "\x1b[31mred"])
def test_an_encoding_that_was_not_asked_for_is_a_reject(serve: Serve, encoding: str) -> None:
    web = serve(lambda asked: response(BODY, Content_Encoding=encoding))
    with pytest.raises(BadInput, match="which was not asked for") as caught:
        read(f"{web.url}/a")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/a", "leads in circles"),
        ("file:///etc/passwd", "not an address of the web"),
        ("gopher://x/", "not an address"),
    ],
)
def test_a_redirect_that_leads_nowhere_is_a_reject(serve: Serve, location: str, expected: str) -> None:
    web = serve(lambda asked: response(status="302 Found", Location=location))
    with pytest.raises(BadInput, match=expected) as caught:
        read(f"{web.url}/a")
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("status", ["206 Partial Content", "204 No Content", "304 Not Modified", "302 Found"])
def test_an_answer_without_a_file_is_a_reject(serve: Serve, status: str) -> None:
    web = serve(lambda asked: response(status=status))
    with pytest.raises(BadInput, match=f"answers {status[:3]}"):
        read(f"{web.url}/a")


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "REMOTE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (response(BODY, Content_Length=len(BODY) + 1), "broke off"),
        (response(BODY, Content_Length=-5), "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", "not HTTP"),
        (response(BODY, X_Large="x" * 100_000), "not HTTP"),
        (response(BODY, **{f"X_{n}": n for n in range(5000)}), "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (response(b"zz\r\n", Content_Length=None, Transfer_Encoding="chunked"), "not HTTP"),
        (b"", "disconnected"),
        (response(status="500 Oops"), "answers 500 Oops"),
    ],
)
def test_an_answer_that_is_not_whole_may_pass(serve: Serve, answer: bytes, expected: str) -> None:
    web = serve(lambda asked: answer)
    with pytest.raises(OSError, match=expected) as caught:
        read(f"{web.url}/a")
    assert retry.may_pass(caught.value) and len(str(caught.value)) < 400


# robots.txt


def robots(web: Web, kept: Path, path: str, **options: Any) -> bytes:
    return read(f"{web.url}{path}", Reading(robots=str(kept)), respect_robots=True, **options)


def test_robots_txt_is_read_once_and_kept(serve: Serve, tmp_path: Path) -> None:
    text = [b"User-agent: *\nDisallow: /private/\n"]
    web = serve(lambda asked: response(text[0] if asked.path == "/robots.txt" else BODY))
    for _ in range(2):
        assert robots(web, tmp_path, "/a") == BODY
        with pytest.raises(BadInput, match=r"the robots.txt of 127.0.0.1:\d+ does not allow it") as caught:
            robots(web, tmp_path, "/private/b")
        assert caught.value.reason == "opted-out"
        text[0] = b"User-agent: *\nDisallow: /\n"  # a later run of the job decides alike
    assert web.asked("/robots.txt") == 1 and web.asked("/private/b") == 0
    assert read(f"{web.url}/private/b") == BODY  # not asked for


def test_robots_txt_may_be_about_this_program(serve: Serve, tmp_path: Path) -> None:
    text = b"User-agent: image-shards\nDisallow: /\n"
    web = serve(lambda asked: response(text if asked.path == "/robots.txt" else BODY))
    with pytest.raises(BadInput, match="does not allow"):
        robots(web, tmp_path, "/a")
    assert robots(web, tmp_path, "/a", user_agent="other/1") == BODY


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden"])
def test_a_host_without_robots_txt_allows_all(serve: Serve, tmp_path: Path, status: str) -> None:
    web = serve(lambda asked: response(status=status) if asked.path == "/robots.txt" else response(BODY))
    assert robots(web, tmp_path, "/a") == BODY


@pytest.mark.usefixtures("no_retries")
def test_a_robots_txt_that_cannot_be_read_allows_nothing(serve: Serve, tmp_path: Path) -> None:
    web = serve(lambda asked: response(status="500 Oops") if asked.path == "/robots.txt" else response(BODY))
    with pytest.raises(StoreError, match=r"/robots.txt, which decides: the server answers 500"):
        robots(web, tmp_path, "/a")
    assert web.asked("/a") == 0 and list(tmp_path.iterdir()) == []


def test_the_host_that_a_redirect_leads_to_is_asked_too(serve: Serve, tmp_path: Path) -> None:
    there = serve(lambda asked: response(b"User-agent: *\nDisallow: /no" if asked.path == "/robots.txt" else BODY))
    moved = {"/yes": f"{there.url}/yes", "/no": f"{there.url}/no", "/robots.txt": "/all.txt"}
    here = serve(
        lambda asked: response(status="302 Found", Location=moved[asked.path]) if asked.path in moved else response()
    )
    assert robots(here, tmp_path, "/yes") == BODY
    with pytest.raises(BadInput, match=f"robots.txt of {there.host}"):
        robots(here, tmp_path, "/no")


def test_an_endless_robots_txt_is_cut_off(serve: Serve, tmp_path: Path) -> None:
    text = b"User-agent: *\nDisallow: /no\n" + b"# and so on\n" * 100_000
    web = serve(lambda asked: response(text if asked.path == "/robots.txt" else BODY))
    assert robots(web, tmp_path, "/a") == BODY
    (kept,) = tmp_path.iterdir()
    assert kept.stat().st_size == 500 << 10


# The whole job


@pytest.fixture
def gallery(serve: Serve, tmp_path: Path) -> tuple[Web, Path]:
    """A server with ten images, and a table of them."""

    def answer(asked: Asked) -> bytes:
        if asked.path == "/robots.txt":
            return response(b"User-agent: *\nDisallow: /7")
        headers = {"X_Robots_Tag": "noai"} if asked.path == "/3.png" else {}
        return response(png_bytes(int(asked.path[1])), **headers)

    web, table = serve(answer), tmp_path / "table.csv"
    rows = [f"{web.url}/{n}.png,{'ab'[n % 2]}" for n in range(10)]
    table.write_text("\n".join(["url,label", *rows]) + "\n")
    return web, table


def png_bytes(seed: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_image(path := Path(folder) / "a.png", seed)
        return path.read_bytes()


def prepared(table: Path, output: Path, *words: str) -> tuple[dict[str, Any], str, list[dict[str, str]]]:
    found = command("prepare", table, output, "--size", "8", "--shards", "2", "--max-rejects", "1.0", *words)
    assert found.returncode == 0, found.stderr
    rejects = [json.loads(line) for line in (output / "rejects.jsonl").read_text().splitlines()]
    return json.loads((output / "dataset.json").read_text()), found.stdout, rejects


@pytest.mark.slow
def test_a_job_counts_hosts_and_names_those_who_opt_out(gallery: tuple[Web, Path], tmp_path: Path) -> None:
    web, table = gallery
    manifest, text, rejects = prepared(table, tmp_path / "out", "--requests-per-host", "2", "--respect-robots")
    assert {(reject["uri"], reject["reason"]) for reject in rejects} == {
        (f"{web.url}/{n}.png", "opted-out") for n in (3, 7)
    }
    size = sum(len(png_bytes(n)) for n in range(10) if n not in (3, 7))
    assert manifest["hosts"] == {web.host: {"images": 8, "bytes": size}}
    assert f"hosts      {web.host}: 8 images, " in text and "rejected   2 (2 opted-out)" in text
    assert manifest["options"]["source"]["respect_robots"] is True and web.asked("/robots.txt") == 1
    assert web.most <= 2
    manifest, text, rejects = prepared(table, tmp_path / "all", "--ignore-opt-out")
    assert rejects == [] and manifest["counts"]["written"] == 10
    same = prepared(table, tmp_path / "one", "--ignore-opt-out", "--workers", "1", "--user-agent", "ann/1")[0]
    assert same["splits"] == manifest["splits"] and same["fingerprint"] == manifest["fingerprint"]


def test_a_dataset_that_is_not_from_the_web_has_no_hosts(raw_shards: Path) -> None:
    assert "hosts" not in json.loads((raw_shards / "dataset.json").read_text())
