"""`prepare --append`: a dataset and what is added to it are as one dataset of all inputs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.grown import SPLIT, added, assert_as_one, folder, image, made, records, table

from beam_jobs import PrepareOptions, dry_run
from beam_jobs.errors import JobError, UsageError
from beam_jobs.generations.growth import Growth
from shard_reader import open_dataset
from shard_reader.format import MANIFEST_NAME, Manifest


@pytest.mark.parametrize("formats", ["tfrecord", ("tfrecord", "hdf5")], ids=str)
def test_a_dataset_that_grew_is_as_one_of_all_inputs(formats: Any, tmp_path: Path) -> None:
    before = folder(tmp_path / "in", "ac", range(12))
    made(before, tmp_path / "out", split=SPLIT, format=formats)
    first = open_dataset(tmp_path / "out")
    batches = [batch["id"].tolist() for batch in first.stream(batch_size=4, seed=3, fields=("id",))]
    result = added(folder(tmp_path / "in", "abc", range(12, 24)), tmp_path / "out")
    made(tmp_path / "in", tmp_path / "all", split=SPLIT, format=formats)
    assert_as_one(tmp_path / "out", tmp_path / "all")
    manifest = result.manifest
    assert (manifest.class_names, manifest.generation) == (("a", "c", "b"), 2)
    assert (manifest.counts.written, manifest.counts.planned, manifest.counts.skipped) == (24, 24, 12)
    again = open_dataset(tmp_path / "out", generation=1)
    assert [batch["id"].tolist() for batch in again.stream(batch_size=4, seed=3, fields=("id",))] == batches


def test_inputs_that_are_there_are_skipped(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "ab", range(6))
    made(source, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    result = added(source, tmp_path / "out")
    assert result.was_finished and result.text.endswith("has all of these inputs, nothing to do (generation 1)")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


AGES = {f"{number}.png": ("ab"[number % 2], number / 2) for number in range(6)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("1.png", ("a", 0.5), "other labels or fields"),
        ("1.png", ("b", 9), "other labels or fields"),
        ("1.png", None, "other bytes"),
    ],
    ids=["label", "field", "bytes"],
)  # fmt: skip
def test_an_id_with_other_content_is_refused_or_replaces(name: str, row: Any, why: str, tmp_path: Path) -> None:
    made(table(tmp_path / "in", AGES), tmp_path / "out", split=SPLIT)
    changed = table(tmp_path / "more", {**AGES, name: row or AGES[name], "7.png": ("b", 1)})
    if row is None:
        image(tmp_path / "more" / name, 77)
    with pytest.raises(
        UsageError, match=rf"1 of 7 inputs have the id of a record .*: 1\.png \({why}\)\. Give --replace"
    ):
        added(changed, tmp_path / "out")
    result = added(changed, tmp_path / "out", replace=True)
    assert (result.manifest.counts.written, result.manifest.counts.skipped) == (7, 5)
    made(changed, tmp_path / "all", split=SPLIT)
    assert_as_one(tmp_path / "out", tmp_path / "all")
    assert open_dataset(tmp_path / "out").manifest.requires == ("withdrawn",)
    # A replaced record may be replaced again, by what it was.
    added(table(tmp_path / "in", AGES), tmp_path / "out", replace=True)
    made(table(tmp_path / "last", {**AGES, "7.png": ("b", 1)}), tmp_path / "whole", split=SPLIT)
    assert_as_one(tmp_path / "out", tmp_path / "whole")


def test_a_column_keeps_its_type(tmp_path: Path) -> None:
    made(table(tmp_path / "in", AGES), tmp_path / "out")
    added(table(tmp_path / "more", {"8.png": ("a", 3), "9.png": ("b", 4)}), tmp_path / "out")
    assert records(open_dataset(tmp_path / "out"))["8.png"]["age"] == 3.0


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("path,label", ("a",), "the field age is missing here"),
        ("path,label,age,mood", ("a", 1, "good"), "the field mood is not there"),
        ("path,label,age", ("a", "old"), "the field age is a number there, and a text here"),
        ("path,label,age", ("3", 1), "labels are names there, and numbers here"),
    ],
    ids=["missing", "more", "type", "labels"],
)
def test_other_fields_are_refused(header: str, row: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    made(table(tmp_path / "in", AGES), tmp_path / "out")
    with pytest.raises(UsageError, match=f"--append: INPUT does not fit .*: {message}"):
        added(table(tmp_path / "more", {"8.png": row}, header), tmp_path / "out")
    assert not (tmp_path / "out/g0002").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "crop", "size": 4}, r"image\.width is 0 there, 4 here"),
        ({"seed": 4}, "seed is 0 there, 4 here"),
        ({"drop_duplicates": True}, "drop_duplicates is None there, True here"),
        ({"split": {"train": 0.5, "val": 0.5}}, "split is 'train=0.7,val=0.3' there, 'train=0.5,val=0.5' here"),
    ],
    ids=str,
)
def test_other_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    made(folder(tmp_path / "in", "ab", range(6)), tmp_path / "out", split=SPLIT)
    with pytest.raises(UsageError, match=message):
        added(folder(tmp_path / "in", "ab", range(8)), tmp_path / "out", **options)
    added(folder(tmp_path / "in", "ab", range(8)), tmp_path / "out", split=SPLIT, seed=0, fit="none")


def test_a_finished_folder_is_published_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(folder(tmp_path / "in", "ab", range(6)), tmp_path / "out")
    more = folder(tmp_path / "more", "ab", range(6, 12))
    with monkeypatch.context() as patch:
        patch.setattr(Growth, "publish", lambda *_: (_ for _ in ()).throw(JobError("stopped")))
        with pytest.raises(JobError, match="stopped"):
            added(more, tmp_path / "out")
    assert open_dataset(tmp_path / "out").manifest.generation == 1
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/g0002").glob("*.tfrecord")}
    with pytest.raises(UsageError, match="has an unfinished append in g0002, of another job: INPUT has other inputs"):
        added(folder(tmp_path / "another", "ab", range(30, 33)), tmp_path / "out")
    assert added(more, tmp_path / "out").manifest.generation == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/g0002").glob("*.tfrecord")} == times
    assert len(records(open_dataset(tmp_path / "out"))) == 12


def test_overwrite_discards_an_unfinished_append_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(folder(tmp_path / "in", "ab", range(6)), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Growth, "publish", lambda *_: (_ for _ in ()).throw(JobError("stopped")))
        with pytest.raises(JobError, match="stopped"):
            added(folder(tmp_path / "more", "ab", range(6, 12)), tmp_path / "out")
    added(folder(tmp_path / "another", "ab", range(30, 33)), tmp_path / "out", overwrite=True)
    assert len(records(open_dataset(tmp_path / "out"))) == 9


def test_an_append_to_a_dataset_of_before_says_what_is_missing(tmp_path: Path) -> None:
    made(folder(tmp_path / "in", "ab", range(4)), tmp_path / "out")
    path = tmp_path / "out" / MANIFEST_NAME
    manifest = Manifest.from_json(path.read_text())
    body = json.loads(manifest.to_json())
    del body["fields"]["values_hash"]
    path.write_text(Manifest.from_json(json.dumps(body), checked=False).to_json())
    with pytest.raises(UsageError, match="was made before datasets could grow"):
        added(folder(tmp_path / "more", "ab", range(5, 7)), tmp_path / "out")


def test_a_stratified_dataset_does_not_grow(tmp_path: Path) -> None:
    made(folder(tmp_path / "in", "ab", range(8)), tmp_path / "out", split={"train": 0.5, "val": 0.5}, stratify=True)
    with pytest.raises(UsageError, match="split with --stratify, which counts all records of a class"):
        added(folder(tmp_path / "more", "ab", range(8, 12)), tmp_path / "out")


@pytest.mark.slow
def test_overwriting_removes_the_files_of_all_generations(tmp_path: Path) -> None:
    made(folder(tmp_path / "in", "ab", range(6)), tmp_path / "out")
    added(folder(tmp_path / "more", "ab", range(6, 9)), tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("somebody's own")
    unfinished = tmp_path / "out/g0003"
    (unfinished / "_work").mkdir(parents=True)
    made(tmp_path / "in", tmp_path / "out", overwrite=True)
    made(tmp_path / "in", tmp_path / "new")
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert names == {path.name for path in (tmp_path / "new").rglob("*")} | {"notes.txt"}


def test_new_inputs_none_of_which_can_be_used_make_no_generation(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "ab", range(4))
    made(source, tmp_path / "out")
    (source / "a/broken.png").write_bytes(b"no image")
    result = added(source, tmp_path / "out", max_rejects=1)
    assert result.was_finished and re.search(r"\n  rejected   1 input that cannot .*broken\.png", result.text)
    assert open_dataset(tmp_path / "out").manifest.generation == 1
    assert not (tmp_path / "out/g0002").exists()


def test_the_result_and_the_plan_are_for_programs(tmp_path: Path) -> None:
    made(folder(tmp_path / "in", "ab", range(4)), tmp_path / "out")
    more = folder(tmp_path / "in", "ab", range(7))
    options = PrepareOptions(input=more, output=tmp_path / "out", append=True, workers=1)
    planned = json.loads(dry_run(options).to_json())
    assert planned["splits"]["train"]["images"] == 3
    assert planned["state"].startswith("has generation 1 of 4 records, another would be added; 4 inputs with a known")
    (more / "a/broken.png").write_bytes(b"no image")
    result = added(more, tmp_path / "out", max_rejects=1)
    found = json.loads(result.to_json())
    assert (found["generation"], found["counts"]["written"], found["counts"]["skipped"]) == (2, 7, 4)
    assert found["rejects"].endswith("g0002/rejects.jsonl") and [one.id for one in result.rejects()] == ["a/broken.png"]


def test_options_of_a_crafted_manifest_end_in_one_line(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "ab", range(4))
    path = Path(made(source, tmp_path / "out").output) / MANIFEST_NAME
    manifest = Manifest.from_json(path.read_text())
    for crafted in (
        {},
        {"width": "a"},
        {"fit": "bend"},
        {"quality": [1]},
        {"width": 8, "height": 8, "encoding": {"a": 1}},
    ):
        options = {**manifest.options, "image": crafted, "source": {"kind": "os:system", "label_column": 5}}
        path.write_text(replace(manifest, options=options).to_json())
        with pytest.raises(UsageError) as caught:
            added(source, tmp_path / "out")
        assert "\n" not in str(caught.value)


def test_the_command_of_the_first_generation_has_nothing_to_do(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "ab", range(4))
    made(source, tmp_path / "out")
    more = folder(tmp_path / "more", "ab", range(4, 6))
    with pytest.raises(
        UsageError, match=r"INPUT has other inputs\. Give another OUTPUT, or --overwrite; --append adds"
    ):
        made(more, tmp_path / "out")
    added(more, tmp_path / "out")
    assert made(source, tmp_path / "out").was_finished


def test_inputs_of_the_same_kind_are_read_as_before(tmp_path: Path) -> None:
    for name, number in (("one", 1), ("two", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.bin").write_bytes(bytes([number, *range(12)]) * 3)
    made(tmp_path / "one", tmp_path / "out", record="label:u1,image:u1[2,2,3]", encoding="raw")
    added(tmp_path / "two", tmp_path / "out")
    assert [one["label"] for _, one in sorted(records(open_dataset(tmp_path / "out")).items())] == [1, 1, 1, 3, 3, 3]
