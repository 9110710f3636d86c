"""A job for the tests of workers, which need no image."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.cli.prepare import parse
from beam_jobs.shards.job import Job
from beam_jobs.shards.output import PLAN, Work
from beam_jobs.sources.files.interface import SourceOptions


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job whose plan holds the references of two images, "0.png" and "1.png"."""
    (tmp_path / PLAN).mkdir(parents=True)
    (tmp_path / PLAN / "all.jsonl").write_text('["0.png", 3, null, {}, null]\n["1.png", 3, null, {}, null]\n')
    image = parse(["prepare", "in", "out"]).image
    return Job(
        source=SourceOptions(input=str(tmp_path)),
        output=str(tmp_path),
        work=Work("x"),
        image=image,
        formats=(),
        fields={},
        boxes={},
        points={},
        count_classes=False,
        threads=1,
    )
