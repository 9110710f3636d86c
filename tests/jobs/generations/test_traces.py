"""`image-shards verify --withdrawn`: every place where something of a withdrawn record may be left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.command import command, prepared
from support.generations import GONE, OPTIONS, compacted, images, withdrawn

from beam_jobs.generations.checks.mentions import Mentions, mentions_in_parts
from beam_jobs.generations.checks.traces import ids_in


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with withdrawn records `out`, one that is compacted `new`, and the ids `out.txt`."""
    root = tmp_path_factory.mktemp("traces")
    formats = ("--format", "tfrecord", "--format", "hdf5")
    withdrawn(prepared(images(root / "in"), root / "out", *OPTIONS, *formats), *GONE)
    compacted(root / "out", root / "new")
    return root


def found_in(dataset: Path, ids: Path) -> tuple[int, list[str]]:
    result = command("verify", dataset, "--withdrawn", ids, "--workers", "1")
    assert not result.stderr, result.stderr
    return result.returncode, result.stdout.replace(f"{dataset}/", "").splitlines()


def test_a_compacted_dataset_has_no_trace(made: Path) -> None:
    status, lines = found_in(made / "new", made / "out.txt")
    assert status == 0
    assert len(lines) == 1 and "no trace of the withdrawn records; 22 records" in lines[0]


def test_a_withdrawn_record_is_still_in_each_of_its_places(made: Path) -> None:
    status, lines = found_in(made / "out", made / "out.txt")
    assert status == 1
    for id in GONE:
        holding = [line for line in lines if f"holds the record {id!r}" in line]
        assert {line.partition(":")[0].rpartition(".")[2] for line in holding} == {"tfrecord", "h5"}
        assert f"metadata.parquet: column id: mentions the id {id!r}" in lines
        assert any(line.startswith("thumbnails.jsonl: line ") and repr(id) in line for line in lines)
    assert any(line.startswith("duplicates.jsonl: line ") and "'cat/twin.png'" in line for line in lines)


def add_line(name: str, line: object) -> Callable[[Path], None]:
    def add(dataset: Path) -> None:
        with (dataset / name).open("a") as file:
            file.write(json.dumps(line) + "\n")

    return add


def add_to_table(dataset: Path) -> None:
    table = pq.read_table(dataset / "metadata.parquet")
    notes = ["see dog/00.png", *[""] * (len(table) - 1)]
    pq.write_table(table.append_column("notes", pa.array(notes)), dataset / "metadata.parquet")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (add_line("rejects.jsonl", {"id": "dog/00.png"}), "rejects.jsonl: line 3: mentions the id 'dog/00.png'"),
        (
            add_line("rejects.jsonl", {"id": "x", "message": "has the same bytes as dog/00.png, under another label"}),
            "rejects.jsonl: line 3: mentions the id 'dog/00.png'",
        ),
        (
            add_line("suspects.jsonl", {"deep": [{"er": "dog/00.png"}]}),
            "suspects.jsonl: line 1: mentions the id 'dog/00.png'",
        ),
        (add_to_table, "metadata.parquet: column notes: mentions the id 'dog/00.png'"),
        (
            lambda dataset: (dataset / "README.md").write_text("All but dog/00.png.\n"),
            "README.md: line 1: mentions the id 'dog/00.png'",
        ),
        (
            lambda dataset: (dataset / "old.tfrecord").write_bytes(b"x"),
            "old.tfrecord: is not of the dataset, and may hold bytes of withdrawn records; remove it if it does",
        ),
        (
            lambda dataset: (dataset / "report.html").write_text("pictures"),
            "report.html: has pictures of records, and may hold bytes of withdrawn ones; remove it",
        ),
        (
            lambda dataset: (dataset / "val-00000-of-00001.h5").write_bytes(b"x"),
            "val-00000-of-00001.h5: is damaged (SHA-256 mismatch): it is not known what it holds; restore it from a"
            " copy",
        ),
        (
            lambda dataset: (dataset / "metadata.parquet").write_bytes(b"PAR1 and no table"),
            "metadata.parquet: cannot be read",
        ),
    ],
    ids=["id", "message", "deep", "table", "page", "other-file", "report", "shard", "damaged-table"],
)
def test_a_trace_is_one_line(made: Path, tmp_path: Path, change: Callable[[Path], None], line: str) -> None:
    dataset = Path(shutil.copytree(made / "new", tmp_path / "new"))
    change(dataset)
    status, lines = found_in(dataset, made / "out.txt")
    assert status == 1
    assert [found[: len(line)] for found in lines[:-1]] == [line]


def test_replaced_files_are_named_until_they_are_gone(made: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(made / "out", tmp_path / "out"))
    compacted(dataset, "--in-place")
    status, lines = found_in(dataset, made / "out.txt")
    assert status == 1
    assert any(line.startswith("train-00000-of-00002.h5: is replaced, and may hold bytes until 20") for line in lines)
    assert not [line for line in lines if "holds the record" in line or "g0003" in line]
    assert "that the dataset does not know" not in command("verify", dataset).stdout


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "the file has no id"), (b"a\n\xff\n", "line 2 is not UTF-8"), (None, "No such file")],
    ids=["empty", "not-text", "missing"],
)
def test_a_file_without_ids_is_refused(made: Path, tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "ids.txt").write_bytes(content)
    result = command("verify", made / "new", "--withdrawn", tmp_path / "ids.txt")
    assert result.returncode == 2 and why in result.stderr


def test_ids_are_lines_of_any_text(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes("\ufeffone\r\ntwo words \n\n\tthree".encode())
    assert list(ids_in(str(tmp_path / "ids.txt"))) == [b"one", b"two words ", b"\tthree"]


@pytest.mark.parametrize(
    ("id", "text", "is_there"),
    [
        ("a/1.jpg", "a/1.jpg", True),
        ("a/1.jpg", "has the same bytes as a/1.jpg", True),
        ("a/1.jpg", "'a/1.jpg', and others.", True),
        ("a/1.jpg", "It is a/1.jpg.", True),
        ("a/1.jpg", "b/a/1.jpg", False),
        ("a/1.jpg", "a/1.jpgs", False),
        ("a/1.jpg", "a/1.jpg.png", False),
        ("a/1.jpg", "/photos/a/1.jpg", True),
        ("a/1.jpg", "/photos/b/a/1.jpg", False),
        ("a photo (1).jpg", "see a photo (1).jpg", True),
        ("a photo (1).jpg", "see a photo (1).jpgs", False),
        ("(odd) name", "an (odd) name here", True),
        ("été.jpg", "l'été.jpg", True),
        ("été.jpg", "tété.jpg", False),
        ("12345", "12345", True),
        ("12345", "of 12345 images", False),
        ("cat", "a cat", False),
        ("cat", "cat", True),
        ("?!??", "?!??", True),
    ],
)
def test_an_id_is_found_as_whole_words(id: str, text: str, is_there: bool) -> None:
    mentions = Mentions([b"other", id.encode()], ["/photos"])
    assert mentions.find([b"nothing", text.encode()]) == ([(1, id.encode())] if is_there else [])


def test_ids_are_looked_for_in_parts() -> None:
    ids = [b"id-%d" % number for number in range(10)]
    parts = list(mentions_in_parts(ids, most=4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert [bool(part.find([b"id-5"])) for part in parts] == [False, True, False]
    assert not list(mentions_in_parts([]))
