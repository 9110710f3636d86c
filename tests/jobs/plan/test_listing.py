"""The listing of INPUT: its warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.cli.prepare import parse
from beam_jobs.plan.listing import list_input
from beam_jobs.sources.known import open_source, recognised


def test_class_names_of_missing_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for names in (["nan", "cat", "None", "NA"], ["cat", "nancy"]):
        rows = "".join(f"{number}.jpg,{name}\n" for number, name in enumerate(names))
        (tmp_path / "a.csv").write_text(f"path,label\n{rows}")
        options = parse(["prepare", str(tmp_path / "a.csv"), str(tmp_path / "out")])
        listing = list_input(options, open_source(recognised(options.source)[0]), "", None)
        warning = "class 'NA', 'None', 'nan': is this a missing label? if so, remove these inputs or leave their labels"
        assert listing.layout.warnings == ((f"{warning} empty",) if "nan" in names else ())
        assert listing.schema.class_names == tuple(sorted(names))
    assert capsys.readouterr().err.count(warning) == 1
