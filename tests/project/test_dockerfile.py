"""What can be known of the worker image without building it."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import metadata, requires

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from support.command import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text("utf-8")
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "requirements.lock").read_text("utf-8"), re.M)
}
(PYTHON, BEAM) = re.findall(r"^FROM apache/beam_python([\d.]+)_sdk:(\S+)$", DOCKERFILE, re.M)[0]


def required(distribution: str, extra: str) -> list[Requirement]:
    """What an installed distribution wants with this extra, on the image's Python."""
    where = {"extra": extra, "python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    found = map(Requirement, requires(distribution) or [])
    return [one for one in found if one.marker is None or one.marker.evaluate(where)]


def test_every_line_of_the_lock_is_a_pin() -> None:
    lines = (REPOSITORY / "requirements.lock").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#") and "==" not in line] == []
    assert len(PINS) == sum("==" in line for line in lines)


OURS = [("image-shards", extra) for extra in ("dataflow", "s3", "gcs", "azure", "http")]


@pytest.mark.parametrize(
    ("distribution", "extra"), [*OURS, ("apache-beam", "gcp"), *((name, "") for name in ("adlfs", "gcsfs", "s3fs"))]
)
def test_the_lock_has_all_that_a_worker_needs(distribution: str, extra: str) -> None:
    wanted = required(distribution, extra)
    assert len(wanted) > 2
    missing = [str(one) for one in wanted if canonicalize_name(one.name) not in PINS]
    assert missing == []
    wrong = [f"{one}: {PINS[canonicalize_name(one.name)]}" for one in wanted
             if not one.specifier.contains(PINS[canonicalize_name(one.name)])]  # fmt: skip
    assert wrong == []


def test_the_image_has_the_beam_of_the_lock_and_a_python_that_we_run_on() -> None:
    assert PINS["apache-beam"] == BEAM
    assert SpecifierSet(metadata("image-shards")["Requires-Python"]).contains(f"{PYTHON}.0")


def test_what_the_image_copies_and_imports_exists() -> None:
    for sources in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M):
        for source in sources.split():
            assert (REPOSITORY / source).exists(), source
    (imported,) = re.findall(r'python -P -c "import (.+)"', DOCKERFILE)
    for name in imported.split(", "):
        assert name in PINS or importlib.util.find_spec(name), name
