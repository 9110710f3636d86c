"""`croissant.json` and `metadata.parquet`, by the readers of others: mlcroissant and Hugging Face's datasets."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.command import prepared
from support.images import write_image

from beam_jobs.metadata import croissant as module
from beam_jobs.metadata.card import Card
from beam_jobs.metadata.croissant import croissant
from shard_reader import open_dataset

pytestmark = pytest.mark.filterwarnings("ignore")  # of pandas, of the packages' own dependencies

FACTS = {
    "name": "Pets: <script>alert(1)</script>",
    "licence": "CC-BY-4.0",
    "citation": "@misc{pets}",
    "url": "https://example.org/pets",
    "source_url": "https://example.org/source",
    "description": "Photos\n---\nof pets",
    "date_published": "2026-05-31",
    "creators": ("Ann",),
    "rai": {"dataBiases": ("few breeds",), "personalSensitiveInformation": "none", "hasSyntheticData": False},
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records whose classes, ids and fields have names that mean something elsewhere."""
    root = tmp_path_factory.mktemp("hostile")
    names = ["@id", "<b>", "a, b", "---"]
    lines = []
    for number in range(8):
        write_image(root / f"in/{number} <i>,@.png", number)
        fields = {"@type": 1, "column": "x", "records/id": 2, "a b#c?d%e": 0.5, "row": [1, 2], "text|list": ["a", "b"]}
        line = {"path": f"in/{number} <i>,@.png", "label": names[number % 4], "box": [[1, 1, 9, 9]] * (number % 3)}
        lines.append(json.dumps(line | fields | {"split": "train" if number % 2 else "val"}))
    (root / "table.jsonl").write_text("\n".join(lines))
    options = ("--size", 16, "--shards", 1, "--workers", 1, "--boxes", "box", "--name", FACTS["name"])
    return prepared(root / "table.jsonl", root / "out", *options)


def read(path: Path) -> Any:
    return pytest.importorskip("mlcroissant").Dataset(path)


def plain(value: Any) -> Any:
    """A value of mlcroissant's as JSON has it."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0):
        return [plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value


def expected(path: Path) -> Iterator[dict[str, Any]]:
    for split in open_dataset(path, next(iter(open_dataset_splits(path)))).manifest.splits:
        data = open_dataset(path, split)
        for number in range(len(data)):
            record = data[number]
            yield {key: plain(value) for key, value in record.items() if key != "image"} | {"split": split}


def open_dataset_splits(path: Path) -> list[str]:
    return list(json.loads((path / "dataset.json").read_text("utf-8"))["splits"])


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["jpeg_shards", "hostile"])
def test_mlcroissant_reads_our_records(fixture: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(fixture)
    dataset = read(path / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    names = {field.id: field.name for field in dataset.metadata.record_sets[-1].fields}
    found = [{names[key]: plain(value) for key, value in row.items()} for row in dataset.records("records")]
    by_id = {row["id"]: row for row in found}
    wanted = list(expected(path))
    assert len(wanted) == len(found) == len(by_id)
    for record in wanted:
        row = by_id[record["id"]]
        assert {key: row[key] for key in record} == record
    class_names = open_dataset(path, open_dataset_splits(path)[0]).class_names
    assert [plain(row["classes/name"]) for row in dataset.records("classes")] == list(class_names)
    assert [plain(row["splits/name"]) for row in dataset.records("splits")] == open_dataset_splits(path)


@pytest.mark.parametrize("fixture", ["jpeg_shards", "hostile"])
def test_datasets_reads_our_records(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = request.getfixturevalue(fixture)
    # In a process of its own: beside other frameworks, its import has been seen to give a module without its functions.
    code = (
        "import datasets, json, sys\n"
        "loaded = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])\n"
        "print(json.dumps({name: list(rows) for name, rows in loaded.items()}))"
    )
    words = [sys.executable, "-c", code, str(path), str(tmp_path)]
    loaded = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert list(loaded) == ["records"]
    by_id = {row["id"]: row for row in loaded["records"]}
    wanted = list(expected(path))
    assert len(wanted) == len(by_id) == len(loaded["records"])
    assert all({key: by_id[record["id"]][key] for key in record} == record for record in wanted)


def test_a_card_with_every_fact_is_clean(jpeg_shards: Path, tmp_path: Path) -> None:
    manifest = open_dataset(jpeg_shards).manifest
    body = croissant(manifest, Card(**FACTS), "pets", "0" * 64, 1)
    (tmp_path / "croissant.json").write_text(json.dumps(body))
    issues = read(tmp_path / "croissant.json").metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    assert body["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"
    assert body["name"] == FACTS["name"] and body["description"] == FACTS["description"]
    assert body["rai:dataBiases"] == ["few breeds"] and body["rai:hasSyntheticData"] is False
    assert body["prov:wasDerivedFrom"] == {"@id": "https://example.org/source"}


def test_nothing_is_invented(jpeg_shards: Path) -> None:
    body = json.loads((jpeg_shards / "croissant.json").read_text("utf-8"))
    given = {"license", "url", "creator", "datePublished", "citeAs", "description", "prov:wasDerivedFrom"}
    assert not given & set(body)
    assert [key for key in body if key.startswith("rai:")] == ["rai:dataPreprocessingProtocol"]
    assert any("smallest size that covers 16x16" in step for step in body["rai:dataPreprocessingProtocol"])


def test_known_defects_are_limitations(jpeg_shards: Path) -> None:
    manifest = open_dataset(jpeg_shards).manifest
    counts = replace(manifest.counts, rejected=3, leaks=2)
    card = Card(rai={"dataLimitations": "few breeds"})
    limits = croissant(replace(manifest, counts=counts), card, "pets", "", 0)["rai:dataLimitations"]
    assert limits[0] == "few breeds" and len(limits) == 3 and limits[1].startswith("3 inputs") and "2 of" in limits[2]


def test_every_file_has_its_checksum(jpeg_shards: Path) -> None:
    body = json.loads((jpeg_shards / "croissant.json").read_text("utf-8"))
    files = {entry["contentUrl"]: entry for entry in body["distribution"]}
    assert {"dataset.json", "metadata.parquet", "train-00000-of-00002.tfrecord", "train-00001-of-00002.h5"} <= set(
        files
    )
    for name, entry in files.items():
        data = (jpeg_shards / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry.get("contentSize", f"{len(data)} B") == f"{len(data)} B"
    # Never the other way round.
    assert "croissant" not in (jpeg_shards / "dataset.json").read_text("utf-8")


def test_very_many_shards_are_a_set_of_files(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LISTED_SHARDS", 3)
    manifest = open_dataset(jpeg_shards).manifest
    body = croissant(manifest, Card(**FACTS), "pets", "0" * 64, 1)
    sets = [entry for entry in body["distribution"] if entry["@type"] == "cr:FileSet"]
    assert [entry["includes"] for entry in sets] == ["*.tfrecord", "*.h5"]
    (jpeg_shards.parent / "many.json").write_text(json.dumps(body))
    issues = read(jpeg_shards.parent / "many.json").metadata.ctx.issues
    assert not issues.errors and not issues.warnings


def test_reading_needs_no_network(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(list(read(jpeg_shards / "croissant.json").records("records"))) == 60
