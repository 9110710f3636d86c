"""The manifest: both directions, every problem with its path, versions, and the names of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shard_reader import format as fmt
from shard_reader.errors import DatasetError, ManifestError
from shard_reader.format import Field, Manifest, index_dtype, index_name, shard_name

GOLDEN = Path(__file__).parent / "golden/v1/encoded/dataset.json"


def changed(path: str, value: Any) -> str:
    """The golden manifest with the value at a path like `splits.train.shards.0` replaced, or removed by `...`."""
    body = json.loads(GOLDEN.read_text("utf-8"))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = body
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(body)


def test_a_manifest_goes_both_ways() -> None:
    text = GOLDEN.read_text("utf-8")
    manifest = Manifest.from_json(text)
    assert manifest.to_json() == text
    assert manifest.splits["train"].shards[0].files["hdf5"].path == "train-00000-of-00002.h5"
    assert manifest.fields["image"] == Field(dtype="uint8", shape=(None, None, 3), encoding="png")
    assert manifest.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("fields", ..., "$.fields: is missing"),
        ("fields", [], "$.fields: expected dict, got list []"),
        ("fields.image.dtype", "int7", "$.fields.image.dtype: expected one of"),
        ("fields.image.encoding", None, "$.fields.image: needs an encoding"),
        ("fields.image.shape", [2, "x", 3], "$.fields.image.shape[1]: expected int, got str"),
        ("fields.image.shape", [-2, 2, 3], "$.fields.image.shape[0]: must not be negative, got -2"),
        ("fields.id", ..., "$.fields.id: is missing"),
        ("formats", ["zip"], "$.formats[0]: expected one of tfrecord, hdf5, got 'zip'"),
        ("splits.train.records", True, "$.splits.train.records: expected int, got bool true"),
        ("splits.train.records", 4, "$.splits.train.records: is 4, its shards hold 3"),
        ("splits.train.shards.1", 5, "$.splits.train.shards[1]: expected an object, got int 5"),
        ("splits.train.shards.0.files.hdf5.path", "../x", "$.splits.train.shards[0].files.hdf5.path: must be a plain"),
        ("splits.train.shards.0.files.hdf5.bytes", "9", "$.splits.train.shards[0].files.hdf5.bytes: expected int"),
        ("splits.train.shards.0.files.hdf5", ..., "$.splits.train.shards[0].files: has ['tfrecord']"),
        ("class_names", [1], "$.class_names[0]: expected str, got int 1"),
        ("statistics.mean", [0.1, "b", 1], "$.statistics.mean[1]: expected float, got str"),
        ("counts.written", ..., "$.counts.written: is missing"),
        ("fingerprint.inputs", 7, "$.fingerprint.inputs: expected str, got int 7"),
    ],
)  # fmt: skip
def test_a_problem_is_reported_with_its_path(path: str, value: Any, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(changed(path, value))
    assert any(found.startswith(problem) for found in caught.value.problems), caught.value.problems


def test_all_problems_are_reported_at_once() -> None:
    body = json.loads(GOLDEN.read_text("utf-8"))
    body["seed"] = "x"
    del body["counts"]["ignored"], body["splits"]["train"]["shards"][0]["files"]["tfrecord"]["sha256"]
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(json.dumps(body))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "$.splits.train.shards[0].files.tfrecord.sha256",
        "$.counts.ignored",
        "$.seed",
    ]


def test_an_unknown_version_names_both() -> None:
    with pytest.raises(DatasetError, match=r"version 2, this reader knows version 1"):
        Manifest.from_json(changed("version", 2))


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "other", "version": 1}'])
def test_another_program_s_json_is_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="another program"):
        Manifest.from_json(text)


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(ManifestError, match="not JSON"):
        Manifest.from_json('{"format": ')


def test_unknown_keys_are_ignored() -> None:
    assert Manifest.from_json(changed("later", {"a": 1})) == Manifest.from_json(GOLDEN.read_text("utf-8"))


def test_names_of_files() -> None:
    assert shard_name("train", 3, 12, "tfrecord") == "train-00003-of-00012.tfrecord"
    assert index_name(shard_name("val", 0, 2, "hdf5")) == "val-00000-of-00002.h5.index.npy"


def test_an_index_has_a_column_for_each_scalar_once() -> None:
    fields = {name: Field(dtype="int64") for name in ("height", "label", "width")}
    assert [name for name, _ in index_dtype(fields)][-3:] == ["height", "width", "label"]


def test_the_readme_says_the_same_as_the_specification() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    assert fmt.__doc__ is not None
    assert fmt.__doc__.strip() in readme
