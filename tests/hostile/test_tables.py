"""Tables of strangers: one row is lost, or one line says why none can be read."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.images import write_image
from support.limits import limited_command

DEEP = "[" * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two photos, and a secret beside it."""
    for name in ("1.png", "2.png"):
        write_image(tmp_path / "in" / name)
    write_image(tmp_path / "secret.png")
    return tmp_path / "in"


def prepared(table: Path, *more: object) -> tuple[str, dict[str, str]]:
    """The summary, and the reason of each reject."""
    output = table.parent.parent / "out"
    result = limited_command("prepare", table, output, "--max-rejects", "1.0", "--workers", 1, *more)
    assert result.returncode == 0, result.stderr
    lines = map(json.loads, (output / "rejects.jsonl").read_text().splitlines())
    return result.stdout, {line["id"]: line["reason"] for line in lines}


def refused(table: Path, *more: object) -> str:
    result = limited_command("prepare", table, table.parent.parent / "out", *more)
    assert result.returncode == 2, result.stdout + result.stderr
    return result.stderr.splitlines()[-1]


def test_rows_of_urls_that_nobody_asks_for(folder: Path) -> None:
    urls = ["ssh://host/x.png", "ftp://host/x.png", "local:///dev/zero", "nonsense://x/x.png", "git://host/x.png"]
    urls += ["zip://x.png::file:///etc/passwd", "file://host/x.png", "github://a:b@main/x.png", "s3://b/x::http://c/y"]
    table = folder / "t.csv"
    table.write_text("path\n1.png\n2.png\n" + "\n".join(urls) + "\n")
    summary, reasons = prepared(table)
    assert "2 images" in summary
    assert len(reasons) == len(urls) and set(reasons.values()) == {"unsupported-url", "bad-path"}
    (rejects,) = (folder.parent / "out").glob("rejects.jsonl")
    assert "is of ssh://, and the URLs of a table are file, s3, gs, az, http, https or hdfs" in rejects.read_text()


def test_no_urls_and_below(folder: Path) -> None:
    os.symlink("../secret.png", folder / "link.png")
    os.symlink("1.png", folder / "inside.png")
    outside = ["../secret.png", str(folder.parent / "secret.png"), "link.png", "/etc/passwd", "../in/../secret.png"]
    urls = ["https://example.com/x.png", f"file://{folder}/1.png"]
    (folder / "t.csv").write_text("path\n" + "\n".join(["1.png", "inside.png", *outside, *urls]) + "\n")
    _, reasons = prepared(folder / "t.csv", "--no-urls", "--below", folder)
    assert reasons == dict.fromkeys(outside, "outside") | dict.fromkeys(urls, "url")


def test_coco_has_the_same_bounds(folder: Path) -> None:
    names = ["1.png", "../secret.png", "https://example.com/x.png"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    (folder / "t.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    _, reasons = prepared(folder / "t.json", "--no-urls", "--below", folder)
    assert reasons == {"../secret.png": "outside", "https://example.com/x.png": "url"}


def test_a_dry_run_names_hosts_and_folders(folder: Path) -> None:
    rows = ["1.png", "2.png", "../secret.png", "/etc/passwd", "https://me:secret@example.com/a.png?sig=hidden"]
    (folder / "t.csv").write_text("path\n" + "\n".join([*rows, "https://example.com/b.png"]) + "\n")
    words = ("--dry-run", "--max-rejects", "1.0", "--max-seconds", "30", "--exclude", folder / "ids")
    (folder / "ids").write_text("https://example.com/b.png\n" + "https://example.com/a.png\n")
    result = limited_command("prepare", folder / "t.csv", folder.parent / "out", *words)
    reads = result.stdout.partition("  reads ")[2]
    assert f"2 paths of {folder}" in reads and "1 path of /etc" in reads and "of https://example.com" in reads
    assert "secret@" not in result.stdout and "hidden" not in result.stdout


def test_devices_and_pipes_in_a_table(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    os.symlink("/dev/zero", folder / "zero.png")
    (folder / "t.csv").write_text("path\n1.png\n2.png\npipe.png\nzero.png\n/dev/zero\nfile:///dev/zero\n")
    _, reasons = prepared(folder / "t.csv")
    assert set(reasons.values()) == {"not-a-file"} and len(reasons) == 4


@pytest.mark.slow
def test_bombs_of_gzip(folder: Path) -> None:
    for name, piece in (("line.csv.gz", b"x"), ("row.csv.gz", b'"\n",'), ("line.jsonl.gz", b" ")):
        with gzip.open(folder / name, "wb", compresslevel=1) as file:
            file.write(b"path\n1.png\n")
            for _ in range(100):
                file.write(piece * (2_000_000 // len(piece)))
        assert f"{name}: line " in (line := refused(folder / name)) and "has more than 16,777,216" in line


def test_a_line_of_gigabytes(folder: Path) -> None:
    (folder / "t.csv").write_text("path\n1.png\n")
    os.truncate(folder / "t.csv", 3 << 30)
    assert "t.csv: line 3: has more than 16,777,216 bytes" in refused(folder / "t.csv")


@pytest.mark.slow
def test_texts_of_parquet_that_are_stored_once(folder: Path) -> None:
    for size, message in ((40 << 20, "has a text of more than 16,777,216 bytes"), (600 << 20, "in row group 0")):
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array(["x" * size]))
        table = pa.table({"path": texts})
        parquet.write_table(table, folder / "t.parquet", compression="zstd", dictionary_pagesize_limit=1 << 30)
        del texts, table
        assert (folder / "t.parquet").stat().st_size < 1 << 20
        assert message in refused(folder / "t.parquet")


@pytest.mark.parametrize("name", ["t.jsonl", "list.json"])
def test_json_that_nests_for_ever(name: str, folder: Path) -> None:
    deep = '{"path": "1.png", "a": ' + "[" * 900 + "]" * 900 + "}"
    text = '{"path": "1.png"}\n' + deep + "\n" + DEEP + "\n" if name == "t.jsonl" else f'[{{"path": "1.png"}}, {DEEP}'
    (folder / name).write_text(text)
    if name == "t.jsonl":
        _, reasons = prepared(folder / name)
        assert reasons == {"t.jsonl:2": "bad-row", "t.jsonl:3": "bad-row"}
    else:
        assert "nests lists and objects more than 200 levels deep" in refused(folder / name, "--source", "table")


def test_coco_that_nests_for_ever(folder: Path) -> None:
    (folder / "t.json").write_text('{"images": [{"id": 1, "file_name": ' + DEEP)
    assert "t.json: nests lists and objects more than 200 levels deep" in refused(folder / "t.json")


def test_names_steer_no_terminal(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "path,label,\x1b[2Jfield\n1.png,\x1b]0;title\x07cat,1\n2.png,dog,2\n\x1b[31mx.png,dog,3\n"
    )
    summary, reasons = prepared(folder / "t.csv", "--fields", "label", "--label-column", "label")
    assert reasons == {"\x1b[31mx.png": "missing"}
    assert "\x1b" not in summary and "\\x1b]0;title\\x07cat" in summary
    line = refused(folder / "t.csv", "--path-column", "no\x1b[31m")
    assert "\x1b" not in line and "\\x1b[2Jfield" in line
