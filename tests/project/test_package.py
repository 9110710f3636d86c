"""The package: its metadata, its files, what a release checks, and what an extra that is missing costs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from support import extras, release
from support.command import REPOSITORY
from support.images import write_image
from support.pictures import DEEP

import beam_jobs

VERSION = beam_jobs.__version__
FOR_DEVELOPERS = {"demo", "dev", "docs", "test"}


@pytest.fixture(scope="module")
def setup() -> dict[str, Any]:
    """The arguments that setup.py calls `setuptools.setup` with, and the names that it has."""
    given: dict[str, Any] = {}
    fake = ModuleType("setuptools")
    fake.find_packages = lambda **_: []  # type: ignore[attr-defined]
    fake.setup = lambda **arguments: given.update(arguments)  # type: ignore[attr-defined]
    path = REPOSITORY / "setup.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "setuptools", fake)
        names = {"__file__": str(path)}
        exec(compile(path.read_text("utf-8"), str(path), "exec"), names)
    return {**names, **given}


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;! ]", one)[0] for one in requirements}


# Metadata


def test_the_reader_needs_two_packages_and_any_new_numpy(setup: dict[str, Any]) -> None:
    assert sorted(setup["install_requires"]) == ["google-crc32c>=1.6", "numpy>=2.0"]


def test_preparing_jpegs_needs_no_opencv(setup: dict[str, Any]) -> None:
    """It is 160 of 660 MB, for images of 16-bit colours."""
    wanted = {name: names_of(found) for name, found in setup["extras_require"].items()}
    assert "opencv-python-headless" not in wanted["beam"]
    for name in ("decode", "dataflow", "demo", "tf", "torch", "jax", "keras"):
        assert "opencv-python-headless" in wanted[name], name


def test_every_extra_is_tried_in_a_fresh_environment(setup: dict[str, Any]) -> None:
    assert set(extras.EXAMPLES) - {""} | FOR_DEVELOPERS == set(setup["extras_require"])


def test_the_versions_of_python_are_those_of_the_classifiers(setup: dict[str, Any]) -> None:
    found = re.findall(r"Python :: 3\.(\d+)", "\n".join(setup["classifiers"]))
    first, last = min(map(int, found)), max(map(int, found))
    assert setup["python_requires"] == f">=3.{first},<3.{last + 1}"
    (asked,) = re.findall(r"set -- (3.*)", (REPOSITORY / "scripts/interpreters").read_text("utf-8"))
    assert asked.split() == [f"3.{minor}" for minor in range(first, last + 1)]


def test_addresses_that_are_not_there_yet_are_plain_placeholders(setup: dict[str, Any]) -> None:
    assert all(url.startswith("https://example.org/") for url in setup["project_urls"].values())
    assert setup["project_urls"]["Homepage"] == setup["HOME"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[a](docs/b.md)", "[a](HOME/blob/DOCS/b.md)"),
        ("[`a`](b.py), [c](d)", "[`a`](HOME/blob/V/b.py), [c](HOME/blob/V/d)"),
        ("[a](#b)", "[a](HOME/blob/V/README.md#b)"),
        ("![a](b.svg)", "![a](HOME/raw/V/b.svg)"),
        ("[![a](b.svg)](c.md)", "[![a](HOME/raw/V/b.svg)](HOME/blob/V/c.md)"),
        ('<a href="a.md"><img src="b.png"></a>', '<a href="HOME/blob/V/a.md"><img src="HOME/raw/V/b.png"></a>'),
        ("[a](https://b.org/c)", "[a](https://b.org/c)"),
        ("`x[0](y)` and [a] (b)", "`x[0](y)` and [a] (b)"),
        ("```\nx[0](y)\n```\n[a](b)", "```\nx[0](y)\n```\n[a](HOME/blob/V/b)"),
    ],
)
def test_links_of_the_readme_lead_somewhere_on_an_index_page(setup: dict[str, Any], text: str, shown: str) -> None:
    shown = shown.replace("DOCS", "V/docs").replace("HOME", setup["HOME"]).replace("V/", f"v{VERSION}/")
    assert setup["absolute_links"](text) == shown


def test_the_long_description_has_no_relative_link(setup: dict[str, Any]) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", setup["long_description"], flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"\]\(([^)\s]+)|(?:src|href)=\"([^\"]+)|^\[[^\]]+\]: (\S+)", prose, re.MULTILINE)
    assert found and not [link for one in found for link in one if link and not link.startswith("https://")]


# The files of the project


def test_the_citation_can_be_read() -> None:
    found = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert found["cff-version"] == "1.2.0" and found["version"] == VERSION and found["license"] == "Apache-2.0"
    assert {"message", "title", "authors", "date-released"} <= set(found)


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_the_issue_templates_can_be_read(name: str) -> None:
    found = yaml.safe_load((REPOSITORY / f".github/ISSUE_TEMPLATE/{name}.yml").read_text("utf-8"))
    assert {"name", "description", "body"} <= set(found)
    assert all(one["type"] == "markdown" or one["attributes"]["label"] for one in found["body"])


@pytest.mark.parametrize("name", ["CODE_OF_CONDUCT.md", "SUPPORT.md", "docs/reference/compatibility.md", "SECURITY.md"])
def test_the_files_that_a_page_links_to_are_there(name: str) -> None:
    path = REPOSITORY / name
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
        assert (path.parent / link).exists(), link


def test_the_tests_that_the_compatibility_page_names_are_there() -> None:
    page = (REPOSITORY / "docs/reference/compatibility.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 5
    for path, test in named:
        assert f"def {test}" in (REPOSITORY / path).read_text("utf-8"), (path, test)


# A release


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with what a release looks at, as it should be."""
    for name in ("README.md", "CHANGELOG.md", "CITATION.cff", "Dockerfile", "shard_reader/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    change(tmp_path, "CHANGELOG.md", r"## \[Unreleased\]\n.*?(?=^## )", "## [Unreleased]\n\n")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(root: Path, *words: str) -> None:
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "A change")


def change(root: Path, name: str, pattern: str, text: str) -> None:
    old = (root / name).read_text("utf-8")
    (root / name).write_text(re.sub(pattern, text, old, count=1, flags=re.DOTALL | re.MULTILINE))


def test_this_version_agrees_with_itself() -> None:
    """Where it has no changes yet that belong to the next one."""
    found = [line for line in release.problems(VERSION) if not line.startswith("git: ")]
    assert found in ([], [f"CHANGELOG.md: has changes under Unreleased; move them to {VERSION}"])


def test_a_release_that_is_ready_has_no_problem(project: Path) -> None:
    assert release.problems(VERSION, project) == []


@pytest.mark.parametrize(
    ("name", "pattern", "text", "problem"),
    [
        ("shard_reader/__init__.py", VERSION, "9.9.9", f"shard_reader/__init__.py: has version 9.9.9, not {VERSION}"),
        ("CITATION.cff", VERSION, "9.9.9", f"CITATION.cff: has version 9.9.9, not {VERSION}"),
        ("CITATION.cff", r"released: .*?$", 'released: "2020-01-01"', "CITATION.cff: was released on 2020-01-01, in"),
        ("Dockerfile", rf":{VERSION}", ":9.9.9", f"Dockerfile: has version 9.9.9, not {VERSION}"),
        ("CHANGELOG.md", rf"## \[{VERSION}\]", "## [9.9.9]", "CHANGELOG.md: does not begin with the sections"),
        (
            "CHANGELOG.md",
            r"Unreleased\]\n",
            "Unreleased]\n\n- A change\n",
            "CHANGELOG.md: has changes under Unreleased",
        ),
        ("CHANGELOG.md", rf"{VERSION}\] - .*?$", f"{VERSION}]", f"CHANGELOG.md: the date of {VERSION} is ''"),
        ("CHANGELOG.md", rf"{VERSION}\] - ....", f"{VERSION}] - 2999", f"CHANGELOG.md: the date of {VERSION}, 2999-"),
    ],
)
def test_a_release_that_is_not_ready_says_why(project: Path, name: str, pattern: str, text: str, problem: str) -> None:
    change(project, name, pattern, text)
    commit(project)
    assert any(line.startswith(problem) for line in release.problems(VERSION, project))


def test_a_release_is_of_what_is_committed_and_not_tagged(project: Path) -> None:
    (project / "new.py").write_text("")
    assert release.problems(VERSION, project) == ["git: there are changes that are not committed"]
    commit(project)
    git(project, "tag", f"v{VERSION}")
    assert release.problems(VERSION, project) == [f"git: the tag v{VERSION} exists already"]
    assert release.problems("1.0rc1", project)[0] == "'1.0rc1' is no version: give three numbers, as 1.2.3"


def test_distributions_are_one_wheel_and_one_source(tmp_path: Path) -> None:
    (tmp_path / "other.whl").write_text("")
    (line,) = release.missing(tmp_path, VERSION)
    assert line == f"{tmp_path}: has other.whl, not a wheel and a source distribution alone"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the distributions of the files that git knows, as a release has them."""
    for name in ("build", "twine"):
        pytest.importorskip(name)
    place = tmp_path_factory.mktemp("package")
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(lambda name: (REPOSITORY / name).exists(), tracked.splitlines()):
        (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, place / "source" / name)
    python(place / "source", "-m", "build", "--outdir", str(place / "dist"), ".")
    return place / "dist"


def python(place: Path, *words: str) -> str:
    result = subprocess.run([sys.executable, *words], cwd=place, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_distributions_are_whole_and_their_description_renders(built: Path) -> None:
    assert release.missing(built, VERSION) == []
    assert python(built, "-m", "twine", "check", "--strict", *map(str, built.iterdir())).count("PASSED") == 2


@pytest.mark.slow
def test_the_reader_works_in_a_fresh_environment(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'tests'}")
    (wheel,) = built.glob("*.whl")
    assert python(built, "-m", "support.extras", str(wheel), "").splitlines()[-1].endswith("| works |")


# Without OpenCV


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[Path]:
    """A folder with 8-bit images, and one of 16-bit colours."""
    for number in range(3):
        write_image(tmp_path / f"photos/cat/{number}.png", number, (20, 16))
    (tmp_path / "photos/cat/deep.png").write_bytes(DEEP["png"])
    yield tmp_path / "photos"


def prepare(source: Path, output: Path, *words: str, without: str = "cv2") -> subprocess.CompletedProcess[str]:
    """Prepare in a Python that has no such module, nor do its worker processes."""
    (output.parent / "sitecustomize.py").write_text(f"import sys\nsys.modules[{without!r}] = None\n")
    environment = {**os.environ, "PYTHONPATH": f"{output.parent}:{REPOSITORY}"}
    line = [sys.executable, "-m", "beam_jobs", "prepare", str(source), str(output), *words]
    return subprocess.run(line, capture_output=True, text=True, env=environment)


def test_an_image_that_needs_opencv_is_one_line_that_names_the_extra(mixed: Path, tmp_path: Path) -> None:
    result = prepare(mixed, tmp_path / "shards", "--size", "16")
    said = [line for line in result.stderr.splitlines() if "cv2" in line]
    assert result.returncode == 1 and len(said) == 1
    assert "cat/deep.png" in said[0] and "16-bit colours need cv2: pip install 'image-shards[decode]'" in said[0]


@pytest.mark.slow
def test_all_other_images_need_no_opencv(mixed: Path, tmp_path: Path) -> None:
    result = prepare(mixed, tmp_path / "shards", "--size", "16", "--max-rejects", "1")
    assert result.returncode == 0, result.stderr
    (reject,) = (tmp_path / "shards/rejects.jsonl").read_text("utf-8").splitlines()
    assert '"reason": "missing-package"' in reject and '"id": "cat/deep.png"' in reject
