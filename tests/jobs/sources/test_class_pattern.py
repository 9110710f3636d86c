"""Classes in the names of images: by a pattern, and recognised where the names can be nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import command, prepared
from support.images import write_image
from support.sources import Found, found_archive, make_tar

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.folder import Folder
from shard_reader import open_dataset

KAGGLE = [f"train/{word}.{number}.jpg" for word in ("cat", "dog") for number in range(3)] + ["test/1.jpg", "test/2.jpg"]
WORD_NUMBER = r"(?P<label>\w+)\.\d+\.jpg"


def found(root: Path, names: list[str], pattern: str | None = None, **options: object) -> Found:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"123")
    return Found(Folder(SourceOptions(input=str(root), class_pattern=pattern, **options)))  # type: ignore[arg-type]


def test_a_pattern_finds_the_class_in_a_name(tmp_path: Path) -> None:
    source = found(tmp_path, ["cat.0.jpg", "deep/cat.1.jpg", "dog.0.jpg", "readme.jpg"], WORD_NUMBER)
    assert source.labels == {"cat.0.jpg": ("cat", None), "deep/cat.1.jpg": ("cat", None), "dog.0.jpg": ("dog", None)}
    assert source.layout.class_names == ("cat", "dog")
    assert source.text == "images with 2 classes in their names"
    assert source.rejects == {"readme.jpg": ("no-class", f"its name does not match --class-pattern {WORD_NUMBER}")}


def test_a_pattern_with_a_slash_is_of_the_path_and_may_have_the_split(tmp_path: Path) -> None:
    names = ["test1/1.jpg", "train1/cat.0.jpg", "train1/dog.0.jpg"]
    source = found(tmp_path, names, r"(?P<split>train|test)\d/((?P<label>\w+)\.)?\d+\.jpg")
    assert source.labels == {
        "test1/1.jpg": (None, "test"),
        "train1/cat.0.jpg": ("cat", "train"),
        "train1/dog.0.jpg": ("dog", "train"),
    }
    assert source.layout.splits == ("train", "test") and source.layout.unlabelled == {"test"}


def test_the_option_wins_over_class_folders(tmp_path: Path) -> None:
    source = found(tmp_path, ["red/a_1.jpg", "blue/b_1.jpg"], r"(?P<label>[a-z])_\d\.jpg")
    assert source.labels == {"red/a_1.jpg": ("a", None), "blue/b_1.jpg": ("b", None)}


def test_dogs_vs_cats_is_recognised(tmp_path: Path) -> None:
    source = found(tmp_path / "in", KAGGLE)
    assert source.text == (
        "split folders (test, train) of images with 2 classes in their names, as cat.0.jpg, none in test"
    )
    assert source.labels["train/dog.2.jpg"] == ("dog", "train") and source.labels["test/1.jpg"] == (None, "test")
    assert source.layout.unlabelled == {"test"} and source.layout.warnings == ()
    assert Found(Folder(SourceOptions(input=str(tmp_path / "in"), class_pattern=WORD_NUMBER))).labels == source.labels
    archive = found_archive(make_tar(tmp_path / "a.tar", dict.fromkeys([f"data/{name}" for name in KAGGLE], b"1")))
    assert {id.removeprefix("data/"): label for id, label in archive.labels.items()} == source.labels
    assert archive.layout.unlabelled == {"test"}


@pytest.mark.parametrize(
    "names",
    [
        [f"IMG_{number:04}.jpg" for number in range(6)],
        [f"frame.{number:04}.png" for number in range(6)],
        [f"{side}.{number:04}.png" for side in ("left", "right") for number in range(3)],
        [f"{split}/{side}.{n}.png" for split in ("train", "test") for side in ("left", "right") for n in range(3)],
        [f"train/frame.{number}.jpg" for number in range(6)] + ["test/1.jpg"],
        [*KAGGLE, "train/stray.jpg"],
        [*KAGGLE, "test/unknown.jpg"],
        [*KAGGLE, "val/bird.1.jpg"],
    ],
    ids=["photos", "frames", "cameras", "cameras-in-splits", "one-word", "stray", "stray-test", "another-word"],
)  # fmt: skip
def test_names_that_may_be_anything_are_no_classes(names: list[str], tmp_path: Path) -> None:
    source = found(tmp_path, names)
    assert source.layout.class_names is None
    assert {label for label, _ in source.labels.values()} == {None}


@pytest.mark.parametrize(
    ("pattern", "options", "message"),
    [
        ("(", {}, r"--class-pattern \(: is no regular expression \(missing \)"),
        (r"\w+\.jpg", {}, r"has no group named label, as '\(\?P<label>"),
        (r"(?P<label>x)\.jpg", {}, r"has no name that it finds a class in: cat\.0\.jpg"),
        (r"a/(?P<label>x)\.jpg", {}, r"has no path that it finds a class in: cat\.0\.jpg"),
        (WORD_NUMBER, {"nested_classes": True}, "does not go with --nested-classes"),
    ],
    ids=["broken", "no-group", "no-match", "no-path", "nested"],
)
def test_a_pattern_that_cannot_be_used(pattern: str, options: dict[str, bool], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        found(tmp_path, ["cat.0.jpg"], pattern, **options)


def test_a_folder_that_may_have_classes_says_what_to_type(tmp_path: Path) -> None:
    names = [f"{word}{number}.jpg" for word in ("cat-", "hot_dog ") for number in range(3)]
    (warning,) = found(tmp_path, names).layout.warnings
    pattern = warning.partition("--class-pattern '")[2].removesuffix("'")
    source = found(tmp_path, names, pattern)
    assert source.layout.class_names == ("cat", "hot_dog") and not source.rejects


def test_a_test_folder_without_labels_is_a_split_without_labels(tmp_path: Path) -> None:
    seeds = dict(zip(KAGGLE, [0, 1, 2, 3, 4, 5, 0, 6], strict=True))  # test/1.jpg is train/cat.0.jpg again
    for name, seed in seeds.items():
        write_image(tmp_path / "in" / name, seed)
    output = prepared(tmp_path / "in", tmp_path / "out", "--size", 8, "--report")
    manifest = json.loads((output / "dataset.json").read_text())
    assert manifest["splits"]["train"]["classes"] == {"cat": 3, "dog": 3}
    assert manifest["splits"]["test"].get("classes") is None
    with open_dataset(output, "test") as data:
        assert [data[n]["label"] for n in range(len(data))] == [-1, -1] and data.class_names == ("cat", "dog")
    (line,) = map(json.loads, (output / "duplicates.jsonl").read_text().splitlines())
    assert (
        line["leak"] and not line["contradiction"] and sorted([line["labels"], line["first_labels"]]) == [[], ["cat"]]
    )
    for name in ("verify", "inspect"):
        result = command(name, output)
        assert result.returncode == 0, result.stdout + result.stderr
    plan = command("prepare", tmp_path / "in", tmp_path / "none", "--dry-run").stdout
    assert "  classes    2: cat 3, dog 3\n" in plan
