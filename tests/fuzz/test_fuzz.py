"""Every parser of untrusted bytes ends, or raises an error with a message: on mutated inputs, and by a fuzzer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.mutations import mutations
from fuzz.targets import FOUND, TARGETS, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS = 5
IN_CI = ("manifest", "image-file", "tfrecord")  # scripts/nightly runs the others, and all for longer


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_ends_or_says_what_is_wrong(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutations(target.seeds()) | st.sampled_from(target.seeds()))
    def examples(data: bytes) -> None:
        check(target, data)

    examples()


@pytest.mark.parametrize("path", sorted(FOUND.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_input_that_a_fuzzer_found_stays_mended(path: Path) -> None:
    check(TARGETS[path.parent.name], path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_CI else pytest.mark.nightly) for name in TARGETS]
)
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed: it has no wheel here"
)
def test_a_fuzzer_finds_nothing(name: str, tmp_path: Path) -> None:
    words = [sys.executable, str(Path(__file__).with_name("run.py")), name, str(SECONDS), str(tmp_path / name)]
    # A process that is started by a large one is said to have had its memory: a small one is between them.
    words = ["sh", "-c", '"$@"; exit $?', "sh", *words]
    result = subprocess.run(words, capture_output=True, encoding="utf-8", errors="backslashreplace", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-6000:]
    assert "number_of_executed_units" in result.stderr
