"""Parquet and Arrow of strangers, with images in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.images import write_image
from support.limits import limited_command

KIND = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/1.png")
    write_image(tmp_path / "secret.png")
    return tmp_path / "in"


def stored(path: Path, rows: list[Any], **more: Any) -> Path:
    parquet.write_table(pa.table({"image": pa.array(rows, KIND)}), path, row_group_size=1, **more)
    return path


def rejects(path: Path, *more: object) -> dict[str, tuple[str, str]]:
    """The reason and the message of each reject."""
    output = path.parent.parent / "out"
    result = limited_command("prepare", path, output, "--max-rejects", "1.0", "--workers", 1, *more)
    assert result.returncode == 0, result.stderr
    lines = map(json.loads, (output / "rejects.jsonl").read_text().splitlines())
    return {line["id"]: (line["reason"], line["message"]) for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["zstd", "gzip", "snappy"])
def test_pages_that_unpack_to_gigabytes(codec: str, folder: Path) -> None:
    """Kilobytes that are images of 120 MB each, and one that can be read."""
    count = 2 if codec == "snappy" else 10
    bomb = {"bytes": bytes(120_000_000 if codec != "snappy" else 40_000_000), "path": None}
    good = {"bytes": (folder / "1.png").read_bytes(), "path": None}
    path = stored(folder / "x.parquet", [*[bomb] * count, good], compression=codec)
    found = rejects(path, "--max-bytes", "1MB")
    assert len(found) == count and {reason for reason, _ in found.values()} == {"too-large"}


def test_a_page_beyond_all_bounds(folder: Path) -> None:
    bomb, good = ({"bytes": data, "path": None} for data in (bytes(200_000_000), (folder / "1.png").read_bytes()))
    found = rejects(stored(folder / "x.parquet", [bomb, good], compression="zstd"))
    reason, message = found["00000000"]
    assert reason == "damaged" and "without random access" in message


def test_paths_of_structs_have_the_bounds_of_tables(folder: Path) -> None:
    os.symlink("../secret.png", folder / "link.png")
    names = ["../secret.png", "link.png", "/etc/passwd", "ssh://host/x.png", "https://example.com/x.png", "1.png"]
    path = stored(folder / "x.parquet", [{"bytes": None, "path": name} for name in names])
    found = rejects(path, "--no-urls", "--below", folder)
    assert [found[id][0] for id in sorted(found)] == ["outside"] * 3 + ["url"] * 2
    assert all(message.startswith("x.parquet row ") for _, message in found.values())


def test_metadata_that_nests_for_ever(folder: Path) -> None:
    table = pa.table({"image": pa.array([{"bytes": (folder / "1.png").read_bytes(), "path": "1.png"}], KIND)})
    for metadata in ("[" * 100_000, "1e999"):
        parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), folder / "x.parquet")
        result = limited_command("prepare", folder / "x.parquet", folder.parent / "out", "--overwrite", "--workers", 1)
        assert result.returncode == 0, result.stderr


def test_a_batch_that_claims_more_than_its_file(folder: Path) -> None:
    table = pa.table({"image": pa.array([{"bytes": (folder / "1.png").read_bytes(), "path": "1.png"}], KIND)})
    with pa.ipc.new_stream(str(folder / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    whole = (folder / "x.arrow").read_bytes()
    messages = pa.BufferReader(whole)
    pa.ipc.read_message(messages)  # the schema
    body = pa.ipc.read_message(messages).body.size.to_bytes(8, "little")
    assert whole.count(body) == 1
    for claim in (1 << 40, (1 << 63) - 1, -1):
        data = whole.replace(body, claim.to_bytes(8, "little", signed=True))
        (folder / "x.arrow").write_bytes(data)
        result = limited_command("prepare", folder / "x.arrow", folder.parent / "out", "--workers", 1)
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
        assert "ends too early" in result.stderr or "is damaged" in result.stderr


def test_a_footer_that_ends_pyarrow(folder: Path) -> None:
    """A wrong histogram of levels, which a fuzzer found: in a table, and with images."""
    crash = Path(__file__).parents[1] / "fuzz/found/parquet/histogram-of-levels"
    (folder / "x.parquet").write_bytes(crash.read_bytes())
    for kind in ("arrow", "table"):
        words = ["prepare", folder / "x.parquet", folder.parent / "out", "--source", kind, "--path-column", "label"]
        result = limited_command(*(words if kind == "table" else words[:-2]))
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
