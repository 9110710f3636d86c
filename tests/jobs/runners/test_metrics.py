"""Beam's own metrics of a job, which engines show on their pages: the same sums as the manifest's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.images import write_image

from beam_jobs.cli.prepare import parse
from beam_jobs.meter import STAGES
from beam_jobs.runners import local
from beam_jobs.runners.pipeline import NAMESPACE, _metric
from beam_jobs.steps.prepare import prepare
from shard_reader.format import Manifest


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The results of the pipelines that a test runs on this machine."""
    found, make = list[Any](), local.make_pipeline

    def watched(*arguments: Any) -> Any:
        pipeline = make(*arguments)
        run = pipeline.run

        def kept() -> Any:
            found.append(run())
            return found[-1]

        pipeline.run = kept
        return pipeline

    monkeypatch.setattr("beam_jobs.runners.local.make_pipeline", watched)
    yield found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(12):
        write_image(tmp_path / f"in/{'ab'[number % 2]}/{number:02d}.png", number, (20, 16))
    (tmp_path / "in/a/99.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    return tmp_path / "in"


@pytest.mark.parametrize("is_inline", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_counters_are_the_sums_of_the_manifest(
    images: Path, tmp_path: Path, results: list[Any], is_inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_inline:  # as in a worker of an engine
        monkeypatch.setattr("beam_jobs.steps.planner._IN_PROCESS", (str(tmp_path),))
    words = ["--size", "16", "--shards", "2", "--max-rejects", "1", "--workers", "1"]
    text = prepare(parse(["prepare", str(images), str(tmp_path / "out"), *words])).text
    (result,) = results
    found = result.metrics().query()
    counters = {
        one.key.metric.name: one.committed for one in found["counters"] if one.key.metric.namespace == NAMESPACE
    }
    manifest = Manifest.from_json((tmp_path / "out/dataset.json").read_text())
    files = [file for shard in manifest.splits["train"].shards for file in shard.files.values()]
    assert counters == {
        "shards": 2,
        "images": 12,
        "rejected": 1,
        "rejected_not_an_image": 1,
        "bytes_in": sum(path.stat().st_size for path in images.rglob("*.png")),
        "bytes_out": sum(file.bytes for file in files),
    }
    times = {
        one.key.metric.name: one.committed for one in found["distributions"] if one.key.metric.name.endswith("_ms")
    }
    assert set(times) == {f"{stage}_ms" for stage in STAGES}
    assert {one.count for one in times.values()} == {2}
    assert " CPU seconds: read " in text or " CPU seconds: decode " in text


@pytest.mark.parametrize(
    ("reason", "name"), [("too-large", "too_large"), ("a" * 41, "other"), ("\x1b[2J", "other"), ("Caf\xe9", "other")]
)
def test_a_reason_of_a_source_of_others_is_no_name_of_a_metric(reason: str, name: str) -> None:
    assert _metric(reason) == name
