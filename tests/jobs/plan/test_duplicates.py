"""Inputs with the same bytes: counted and listed, or dropped."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import command, prepared
from support.images import write_image

from beam_jobs.cli.main import main
from beam_jobs.plan.duplicates import Contradictions
from shard_reader import open_dataset
from shard_reader.format import Manifest


@pytest.fixture(scope="module")
def doubled(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images, of which four are there again, one of them twice."""
    copy = Path(shutil.copytree(class_folders, tmp_path_factory.mktemp("doubled") / "in"))
    for source, target in (
        ("a/000.jpg", "a/again.jpg"),
        ("a/000.jpg", "a/once more.jpg"),
        ("a/003.png", "a/x.png"),
        ("b/001.png", "b/y.png"),
        ("c/002.jpg", "c/z.jpg"),
    ):
        shutil.copy(copy / source, copy / target)
    return copy


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def groups(folder: Path) -> dict[bytes, set[str]]:
    """The ids of the files of each content."""
    found: dict[bytes, set[str]] = {}
    for path in folder.rglob("*.*"):
        found.setdefault(path.read_bytes(), set()).add(str(path.relative_to(folder)))
    return found


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_duplicates_are_listed_and_counted(doubled: Path, tmp_path: Path, format: str) -> None:
    options = ["--size", 8, "--split", "train=0.5,val=0.5", "--shards", 3, "--format", format]
    result = command("prepare", doubled, tmp_path / "out", *options)
    assert result.returncode == 0, result.stderr
    manifest = Manifest.from_json((tmp_path / "out/dataset.json").read_text())
    found = lines(tmp_path / "out/duplicates.jsonl")
    split_of = {}
    for split in ("train", "val"):
        data = open_dataset(tmp_path / "out", split)
        split_of |= {data[n]["id"]: split for n in range(len(data))}
    assert len(split_of) == 65
    by_id = {id: ids for ids in groups(doubled).values() for id in ids}
    for line in found:
        assert by_id[line["id"]] == by_id[line["first_id"]] and line["id"] != line["first_id"]
        assert (split_of[line["id"]], split_of[line["first_id"]]) == (line["split"], line["first_split"])
        assert line["leak"] == (line["split"] != line["first_split"])
    assert Counter(by_id[line["id"]].__len__() for line in found) == {2: 3, 3: 2}
    leaks = sum(line["leak"] for line in found)
    assert (manifest.counts.duplicates, manifest.counts.leaks) == (5, leaks) and leaks
    assert f"duplicates 5 with the bytes of another, {leaks} of them across splits, listed in" in result.stdout


def test_content_hashes_are_in_the_records(doubled: Path, tmp_path: Path) -> None:
    data = open_dataset(prepared(doubled, tmp_path / "out", "--size", 8, "--format", "tfrecord", "--format", "hdf5"))
    every = np.arange(len(data))
    hashes = dict(zip([id.decode() for id in data.ids(every)], data.column("content_hash", every), strict=True))
    assert len(set(hashes.values())) == 60
    assert hashes["a/000.jpg"] == hashes["a/again.jpg"] == hashes["a/once more.jpg"]
    import xxhash

    digest = xxhash.xxh3_128_digest((doubled / "a/000.jpg").read_bytes())
    assert hashes["a/000.jpg"] == int.from_bytes(digest[:8], signed=True)


@pytest.fixture
def contradicted(tmp_path: Path) -> Path:
    """Four images: one there three times under two labels, one twice under one label, two once."""
    for name, seed in (("a/1", 1), ("a/2", 1), ("b/3", 1), ("b/4", 4), ("b/5", 4), ("a/6", 6), ("b/7", 7)):
        write_image(tmp_path / f"in/{name}.png", seed)
    return tmp_path / "in"


def kept(output: Path) -> set[str]:
    return {data[n]["id"] for data in [open_dataset(output)] for n in range(len(data))}


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_labels_that_contradict_are_named_and_counted(contradicted: Path, tmp_path: Path, format: str) -> None:
    result = command("prepare", contradicted, tmp_path / "out", "--size", 8, "--format", format)
    found = lines(tmp_path / "out/duplicates.jsonl")
    assert {(line["id"][0], line["first_id"][0]) for line in found} == {
        (*line["labels"], *line["first_labels"]) for line in found
    }
    assert all(line["contradiction"] == (line["labels"] != line["first_labels"]) for line in found)
    number = sum(line["contradiction"] for line in found)
    counts = Manifest.from_json((tmp_path / "out/dataset.json").read_text()).counts
    assert (counts.duplicates, counts.contradictions) == (3, number) and number
    assert f"duplicates 3 with the bytes of another, {number} under another label, listed in" in result.stdout
    assert "under another label: correct them; --drop-duplicates --duplicate-labels drop" in result.stdout


@pytest.mark.slow
def test_contradicting_labels_are_an_error_unless_it_is_said_what_to_do(contradicted: Path, tmp_path: Path) -> None:
    words = ["prepare", contradicted, tmp_path / "out", "--size", 8, "--drop-duplicates", "--max-rejects", 0]
    result = command(*words)
    assert result.returncode == 1
    assert re.search(
        r"error: --drop-duplicates: [12] of 3 duplicates have another label than an earlier input with the same bytes,"
        r" as (a|b)/[123]\.png \(\1\) and (?!\1)(a|b)/[123]\.png \(\2\): correct INPUT, or give --duplicate-labels",
        result.stderr,
    )
    assert not list((tmp_path / "out").glob("dataset.json"))
    prepared(*words[1:], "--duplicate-labels", "first")
    assert len(kept(tmp_path / "out")) == 4
    prepared(*words[1:], "--duplicate-labels", "drop", "--overwrite")
    assert kept(tmp_path / "out") in [{"a/6.png", "b/7.png", one} for one in ("b/4.png", "b/5.png")]
    messages = {reject["id"]: reject["message"] for reject in lines(tmp_path / "out/rejects.jsonl")}
    others = {"a/1.png", "a/2.png", "b/3.png"}
    assert {id for id, message in messages.items() if message.endswith("under another label")} == others
    assert all(messages[id].split()[5].rstrip(",") in others - {id} for id in others)


def test_labels_to_resolve_need_duplicates_to_drop(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "in", "out", "--duplicate-labels", "drop"]) == 2
    assert "--duplicate-labels drop: is for --drop-duplicates; give that, too" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_lists_of_labels_are_compared_in_any_order_and_none_contradicts_none(tmp_path: Path, format: str) -> None:
    labels = {1: ["x", "y"], 2: ["y", "x"], 3: None, 4: ["x"]}
    rows = []
    for number, own in labels.items():
        write_image(tmp_path / f"{number}.png", 1)
        rows.append(json.dumps({"path": f"{number}.png", "label": own}))
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    output = prepared(tmp_path / "t.jsonl", tmp_path / "out", "--size", 8, "--format", format, "--max-rejects", 1)
    found = lines(output / "duplicates.jsonl")
    first = found[0]["first_labels"]
    said = first or next(line["labels"] for line in found if line["labels"])
    assert {tuple(line["labels"]) for line in found} | {tuple(first)} <= {("x", "y"), ("x",), ()}
    assert [line["contradiction"] for line in found] == [line["labels"] not in ([], said) for line in found]


def test_what_contradicts_is_found_without_the_first_ones_label() -> None:
    contradictions = Contradictions()
    labels: list[tuple[int, ...]] = [(), (3,), (), (4,), (3,)]
    assert [contradictions.has(0, (), own) for own in labels] == [False, False, False, True, False]
    assert contradictions.has(7, (1,), (2,)) and not contradictions.has(7, (1,), ())


@pytest.mark.parametrize("workers", [1, 2])
def test_one_of_each_is_kept_when_asked_for(doubled: Path, tmp_path: Path, workers: int) -> None:
    options = ["--size", 8, "--drop-duplicates", "--max-rejects", 0, "--workers", workers]
    output = prepared(doubled, tmp_path / "out", *options, "--split", "train=0.8,val=0.2", "--stratify")
    manifest = Manifest.from_json((output / "dataset.json").read_text())
    rejects = lines(output / "rejects.jsonl")
    assert {reject["reason"] for reject in rejects} == {"duplicate"}
    assert len(rejects) == 5 and (manifest.counts.written, manifest.counts.rejected) == (60, 5)
    kept = {
        open_dataset(output, split)[n]["id"] for split, part in manifest.splits.items() for n in range(part.records)
    }
    assert all(len(ids & kept) == 1 for ids in groups(doubled).values())
    for reject in rejects:
        first = reject["message"].removeprefix("has the same bytes as ")
        assert first in kept and (doubled / first).read_bytes() == (doubled / reject["id"]).read_bytes()
    assert manifest.counts.duplicates == 0
    # The same again is nothing to do; and one without duplicates is another dataset.
    again = command("prepare", doubled, output, *options, "--split", "train=0.8,val=0.2", "--stratify")
    assert "is finished, nothing to do" in again.stdout
    other = command("prepare", doubled, output, "--size", 8, "--split", "train=0.8,val=0.2", "--stratify")
    assert other.returncode == 2 and "drop_duplicates" in other.stderr


@pytest.mark.slow
def test_the_order_of_what_is_left_is_as_if_the_others_had_never_been(
    doubled: Path, class_folders: Path, tmp_path: Path
) -> None:
    dropped = open_dataset(prepared(doubled, tmp_path / "dropped", "--size", 8, "--drop-duplicates"))
    rejected = {reject["id"] for reject in lines(tmp_path / "dropped/rejects.jsonl")}
    without = Path(shutil.copytree(doubled, tmp_path / "without"))
    for id in rejected:
        (without / id).unlink()
    plain = open_dataset(prepared(without, tmp_path / "plain", "--size", 8))
    assert [dropped[n]["id"] for n in range(60)] == [plain[n]["id"] for n in range(60)]


def test_a_damaged_duplicate_is_not_taken_for_the_good_one(doubled: Path, tmp_path: Path) -> None:
    """Two files of the same garbage: one is rejected as a duplicate, the other for what it is."""
    copy = Path(shutil.copytree(doubled, tmp_path / "in"))
    for name in ("a/bad1.jpg", "a/bad2.jpg"):
        (copy / name).write_bytes(b"garbage")
    output = prepared(copy, tmp_path / "out", "--size", 8, "--drop-duplicates", "--max-rejects", 1)
    reasons = Counter(reject["reason"] for reject in lines(output / "rejects.jsonl"))
    assert reasons == {"duplicate": 6, "not-an-image": 1}


def test_pixels_of_another_shape_are_no_duplicates(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, shape in (("a", (2, 8, 16, 3)), ("b", (2, 16, 8, 3))):
        pixels = np.zeros(shape, np.uint8) + np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1)
        np.savez(tmp_path / f"in/{name}.npz", image=pixels)
    output = prepared(tmp_path / "in", tmp_path / "out", "--drop-duplicates", "--size", 8)
    assert lines(output / "rejects.jsonl") == []


def test_one_that_is_rejected_does_not_take_the_others_along(tmp_path: Path, class_folders: Path) -> None:
    """The same bytes, annotated once for another size: that one is a reject, and the other no duplicate of it."""
    images, annotations = [], list[Any]()
    for number, path in enumerate(sorted(class_folders.rglob("*.png"))[:6]):
        for copy, wrong in (("a", 0), ("b", 1)):
            shutil.copy(path, tmp_path / f"{number}{copy}.png")
            width, height = 20 + int(path.stem) % 7, 16 + int(path.stem) % 5
            name = f"{number}{copy}.png"
            images.append({"id": name, "file_name": name, "width": width + wrong, "height": height})
    categories = [{"id": 1, "name": "x"}]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "c.json").write_text(json.dumps(whole))
    output = prepared(tmp_path / "c.json", tmp_path / "out", "--drop-duplicates", "--max-rejects", 6, "--size", 8)
    assert {open_dataset(output)[n]["id"] for n in range(6)} == {f"{n}a.png" for n in range(6)}


def test_nothing_but_rejects_has_no_duplicates(doubled: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("x\n")
    options = ["--classes", tmp_path / "classes.txt", "--drop-duplicates", "--max-rejects", "1.0", "--shard-records", 5]
    result = command("prepare", doubled, tmp_path / "out", *options)
    assert result.returncode == 1
    assert "unknown-class" in result.stderr


@pytest.mark.slow
def test_what_was_being_overwritten_is_removed_to_the_end(doubled: Path, tmp_path: Path) -> None:
    """Cut off while it removes the old dataset, after its own pre-pass, and gone on with without --overwrite."""
    output = prepared(doubled, tmp_path / "out", "--size", 8, "--shards", 4)
    code = (
        "import os, sys; from beam_jobs.cli.main import main;"
        "from shard_reader.storage.local import LocalDirectory;"
        "LocalDirectory.delete_all = lambda self, names: names and os.kill(os.getpid(), 9);"
        "main(sys.argv[1:])"
    )
    words = ["prepare", doubled, output, "--size", 8, "--shards", 1, "--drop-duplicates", "--overwrite"]
    killed = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (output / "dataset.json").exists()
    prepared(*words[1:-1])
    assert sorted(path.name for path in output.glob("*.tfrecord")) == ["train-00000-of-00001.tfrecord"]


def test_a_split_may_be_called_all(doubled: Path, tmp_path: Path) -> None:
    output = prepared(doubled, tmp_path / "out", "--drop-duplicates", "--size", 8, "--split", "all=0.8,rest=0.2")
    assert len(lines(output / "rejects.jsonl")) == 5


@pytest.mark.slow
def test_what_cannot_be_done_without_duplicates_leaves_the_dataset(doubled: Path, tmp_path: Path) -> None:
    output = prepared(doubled, tmp_path / "out", "--size", 8)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    result = command("prepare", doubled, output, "--size", 8, "--overwrite", "--drop-duplicates", "--shards", 62)
    assert result.returncode == 2
    assert "--shards 62: the largest split has only 60 images" in result.stderr
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
    prepared(doubled, output, "--size", 8, "--overwrite", "--drop-duplicates", "--shards", 2)
    assert len(lines(output / "rejects.jsonl")) == 5


@pytest.mark.slow
def test_a_pre_pass_that_is_cut_off_goes_on(tmp_path: Path, class_folders: Path) -> None:
    """Killed again and again while it hashes: parts that are done are not done again, and the bytes are the same."""
    (tmp_path / "in").mkdir()
    files = sorted(class_folders.rglob("*.*"))
    for number in range(20_000):
        data = files[number % 60].read_bytes()
        (tmp_path / f"in/{number:05d}.jpg").write_bytes(data + number.to_bytes(4) * (number % 3 > 0))
    words = [tmp_path / "in", tmp_path / "out", "--size", 8, "--encoding", "raw", "--drop-duplicates", "--shards", 4]
    line = [sys.executable, "-m", "beam_jobs", "prepare", *map(str, words)]
    for parts in range(4):  # of five
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(tmp_path.glob("out/_work/*/hashed/[!.]*"))) <= parts:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    prepared(*words)
    whole = prepared(words[0], tmp_path / "whole", *words[2:])
    for path in whole.glob("train-*"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
