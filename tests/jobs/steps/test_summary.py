"""The text about a new dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from beam_jobs.meter import Meter
from beam_jobs.plan.order import DROPPED
from beam_jobs.sources.files.interface import Reject
from beam_jobs.steps.summary import summary
from shard_reader.format import Manifest


@pytest.fixture
def manifest(raw_shards: Path) -> Manifest:
    return Manifest.from_json((raw_shards / "dataset.json").read_text("utf-8"))


def test_each_reason_is_shown_once_and_duplicates_last(manifest: Manifest, tmp_path: Path) -> None:
    reasons = [DROPPED[0]] * 3 + ["damaged"] * 9 + ["too-large"]
    rejects = [
        Reject(f"{number}.png", f"in/{number}.png", "read", reason, "why") for number, reason in enumerate(reasons)
    ]
    (tmp_path / "rejects.jsonl").write_bytes(b"".join(map(Reject.to_line, rejects)))
    text = summary(replace(manifest, counts=replace(manifest.counts, rejected=13)), str(tmp_path), 1.0)
    _, _, shown = text.partition("  rejected   ")
    assert shown.splitlines()[:5] == [
        f"13 (9 damaged, 3 duplicate, 1 too-large), listed in {tmp_path}/rejects.jsonl",
        "    3.png: damaged: why",
        "    12.png: too-large: why",
        "    0.png: duplicate: why",
        "    ...",
    ]


@pytest.mark.parametrize(
    ("leaks", "contradictions", "remedies"),
    [
        (0, 0, []),
        (2, 0, ["--drop-duplicates keeps one"]),
        (2, 1, ["--drop-duplicates keeps one", "labels drop keeps none"]),
    ],
)
def test_a_leak_and_a_contradiction_come_with_a_remedy(
    manifest: Manifest, leaks: int, contradictions: int, remedies: list[str]
) -> None:
    counts = replace(manifest.counts, duplicates=3, leaks=leaks, contradictions=contradictions)
    lines = summary(replace(manifest, counts=counts), "shards", 1.0).splitlines()
    (place,) = [
        number for number, line in enumerate(lines) if line.startswith("  duplicates 3 with the bytes of another")
    ]
    found = lines[place + 1 : place + 1 + len(remedies)]
    assert [line.endswith(remedy) for line, remedy in zip(found, remedies, strict=True)] == [True] * len(remedies)
    assert lines[place + 1 + len(remedies)].startswith("  rejected")


def test_the_time_is_shown_by_stage_and_the_waiting_where_it_is_long(manifest: Manifest) -> None:
    spent = Meter()
    spent.cpu |= {"read": 0.004, "decode": 6, "resize": 2.4, "encode": 1.2, "write": 0.4}
    lines = summary(manifest, "shards", 1.0, spent).splitlines()
    assert "  time       10.0 CPU seconds: decode 60 %, resize 24 %, encode 12 %, write 4 %" in lines
    assert not [line for line in lines if "waited" in line]
    spent.wall["read"] = 1234.5
    assert "             threads waited 1,234 seconds for INPUT" in summary(manifest, "shards", 1.0, spent).splitlines()


def test_a_run_that_has_written_no_shard_has_no_time(manifest: Manifest) -> None:
    assert "  time  " not in summary(manifest, "shards", 1.0, Meter())
