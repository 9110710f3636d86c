"""Whether a version can be released: `PYTHONPATH=tests python -m support.release VERSION [FOLDER with distributions]`.

Each problem is a line, and the exit status is then 1.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_FINAL = re.compile(r"\d+\.\d+\.\d+")
_NOT_IN_SDIST = re.compile(r"\.git(ignore|/|hub/).*")  # of the repository alone


def problems(version: str, root: Path = REPOSITORY) -> list[str]:
    """What in the files of a repository, and in its state, stands against the release of a version."""
    found = [] if _FINAL.fullmatch(version) else [f"{version!r} is no version: give three numbers, as 1.2.3"]
    return [*found, *_versions(version, root), *_dates(version, root), *_state(version, root)]


def _versions(version: str, root: Path) -> list[str]:
    places = {
        "shard_reader/__init__.py": r'__version__ = "(.+)"',
        "CITATION.cff": r"version: (.+)",
        "README.md": r"image_shards-(\d+\.\d+\.\d+)-py3",
        "Dockerfile": r"image-shards:(\d+\.\d+\.\d+)",
    }
    found = []
    for name, pattern in places.items():
        there = set(re.findall(rf"^{pattern}" if name == "CITATION.cff" else pattern, _text(root, name), re.M))
        if name == "README.md" and not there:
            continue  # it need not name a wheel
        if there != {version}:
            found.append(f"{name}: has version {', '.join(sorted(there)) or 'none'}, not {version}")
    return found


def _dates(version: str, root: Path) -> list[str]:
    sections = re.findall(
        r"^## \[([^\]]+)\](?: - ([^\n]+))?\n(.*?)(?=^## |\Z)", _text(root, "CHANGELOG.md"), re.M | re.S
    )
    if [name for name, *_ in sections[:2]] != ["Unreleased", version]:
        return [f"CHANGELOG.md: does not begin with the sections Unreleased and {version}"]
    (_, _, waiting), (_, date, changes) = sections[:2]
    found = []
    if waiting.strip():
        found.append(f"CHANGELOG.md: has changes under Unreleased; move them to {version}")
    if not changes.strip():
        found.append(f"CHANGELOG.md: says nothing of {version}")
    try:
        if datetime.date.fromisoformat(date) > datetime.date.today():
            found.append(f"CHANGELOG.md: the date of {version}, {date}, is in the future")
    except ValueError:
        found.append(f"CHANGELOG.md: the date of {version} is {date!r}, not as 2026-12-31")
    cited = re.findall(r'^date-released: "(.+)"', _text(root, "CITATION.cff"), re.M)
    if cited != [date]:
        found.append(f"CITATION.cff: was released on {', '.join(cited) or 'no day'}, in CHANGELOG.md on {date}")
    return found


def _state(version: str, root: Path) -> list[str]:
    found = []
    if _git(root, "status", "--porcelain"):
        found.append("git: there are changes that are not committed")
    if _git(root, "tag", "--list", f"v{version}"):
        found.append(f"git: the tag v{version} exists already")
    return found


def missing(folder: Path, version: str, root: Path = REPOSITORY) -> list[str]:
    """What the distributions in a folder lack, or have too much: each should be the only one, and whole."""
    wheel, source = folder / f"image_shards-{version}-py3-none-any.whl", folder / f"image_shards-{version}.tar.gz"
    found = [path.name for path in folder.iterdir()]
    if sorted(found) != sorted([wheel.name, source.name]):
        return [f"{folder}: has {', '.join(sorted(found)) or 'nothing'}, not a wheel and a source distribution alone"]
    tracked = set(_git(root, "ls-files").splitlines())
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
    code = {name for name in tracked if name.startswith(("beam_jobs/", "shard_reader/"))}
    lines = [
        f"{wheel.name}: {name}: {'is missing' if name in code else 'is too much'}" for name in sorted(code ^ there)
    ]
    with tarfile.open(source) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for name in tracked if not _NOT_IN_SDIST.fullmatch(name)}
    return [*lines, *(f"{source.name}: {name}: is missing" for name in sorted(wanted - there))]


def _text(root: Path, name: str) -> str:
    path = root / name
    return path.read_text("utf-8") if path.exists() else ""


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    lines = missing(Path(sys.argv[2]), sys.argv[1]) if sys.argv[2:] else problems(sys.argv[1])
    print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)
    sys.exit(1 if lines else 0)
