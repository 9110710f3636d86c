"""Commands that are killed with -9 at any of their changes: the old generation or the new one is there, and whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import command
from support.images import write_image
from support.killing import changes, killed_at
from support.servers import Store

from shard_reader import open_dataset

FEW, MANY = 2, 20
Words = Callable[[object, Path], list[object]]
"""From the place of a dataset, and a folder with files for the command, to the words of the command."""


def withdraw(place: object, files: Path) -> list[object]:
    first = open_dataset(str(place), generation=1)
    (files / "gone.txt").write_text("\n".join(id.decode() for id in first.ids([0, 5, 17])))
    return ["withdraw", place, files / "gone.txt"]


def relabel(place: object, files: Path) -> list[object]:
    ids = [id.decode() for id in open_dataset(str(place), generation=1).ids([0, 5, 17])]
    (files / "table.csv").write_text("id,label\n" + "".join(f"{id},another\n" for id in ids))
    return ["relabel", place, files / "table.csv", "--workers", "1"]


def append(place: object, files: Path) -> list[object]:
    for number in range(8):
        write_image(files / f"more/{'ab'[number % 2]}/new-{number}.png", 100 + number, (20, 16))
    return ["prepare", files / "more", place, "--append", "--workers", 1]


COMMANDS: Mapping[str, Words] = {"append": append, "relabel": relabel, "withdraw": withdraw}


def content(place: object) -> dict[str, Any]:
    """All that a reader sees of the newest generation, but the order."""
    found: dict[str, Any] = {}
    first = open_dataset(str(place))
    for split in first.manifest.splits:
        with open_dataset(str(place), split) as data:
            records = []
            for number in range(len(data)):
                record = data[number]
                image = hashlib.sha256(np.ascontiguousarray(record.pop("image"))).hexdigest()
                records.append((record["id"], image, sorted((name, str(value)) for name, value in record.items())))
            found[split] = sorted(records)
    first.close()
    return found


def check(
    place: Callable[[str], object], words: Words, files: Path, moments: int, environment: Mapping[str, str]
) -> None:
    """Kill a command at some of its moments, each time on a new copy of a dataset, and run it again to its end."""
    count = files / "count"
    old = content(place("old"))
    undisturbed = place("undisturbed")
    number = changes(undisturbed, words(undisturbed, files), count, environment)
    new = content(undisturbed)
    assert new != old
    for moment in np.unique(np.linspace(1, number, moments).astype(int)).tolist():
        there = place(f"killed-{moment}")
        command_line = words(there, files)
        assert killed_at(moment, there, command_line, count, environment), f"{moment} of {number}"
        assert content(there) in (old, new), f"{moment} of {number}"
        # Killed after the last word of its work, a command finds nothing to do.
        assert not killed_at(0, there, command_line, count, environment)
        assert content(there) == new, f"{moment} of {number}"
        verified = command("verify", there, env={**os.environ, **environment})
        assert verified.returncode == 0, verified.stdout
    assert content(place("old")) == old


@pytest.fixture
def copies(jpeg_shards: Path, tmp_path: Path) -> Callable[[str], object]:
    def copy(name: str) -> object:
        path = tmp_path / "datasets" / name / "shards"
        return path if path.exists() else shutil.copytree(jpeg_shards, path)

    return copy


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_on_a_disk(copies: Callable[[str], object], words: Words, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    check(copies, words, tmp_path / "files", FEW, {})


@pytest.mark.nightly
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_on_a_disk_at_many_moments(copies: Callable[[str], object], words: Words, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    check(copies, words, tmp_path / "files", MANY, {})


@pytest.mark.nightly
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_in_a_store_at_many_moments(
    jpeg_shards: Path, words: Words, tmp_path: Path, new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store("minio")
    store.use(monkeypatch)
    (tmp_path / "files").mkdir()

    def copy(name: str) -> object:
        known = store.names(name)
        return f"{store.url}/{name}" if known else store.copy(jpeg_shards, name)

    check(copy, words, tmp_path / "files", MANY, store.environment)
