"""`image-shards relabel`: new labels and fields by id, in new indexes, while every shard stays as it is."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.command import REPOSITORY, command, prepared
from support.images import write_image
from support.stored import SEVERAL, flip, several, several_objects

from beam_jobs.errors import UsageError
from beam_jobs.generations.relabeled.relabel import RelabelOptions, RelabelResult, relabel
from beam_jobs.generations.withdraw import withdraw
from beam_jobs.tools.checks.verify import Verification
from shard_reader import Dataset, open_dataset

FORMATS = ("tfrecord", "hdf5")
ROWS = [
    {"id": "0.png", "label": "c", "objects/name": [], "note": "größer"},
    {"id": "1.png", "label": "new", "objects/name": ["x"], "note": ""},
    {"id": "7.png", "objects/name": ["x", "x", "y"], "objects/label": ["a", "zebra", "b"], "note": "plain"},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return several(tmp_path / "shards", size=(4, 6), shards=3, encoding="raw")


def table(place: Path, rows: list[dict[str, Any]], name: str = "table.jsonl") -> Path:
    file = place.parent / name
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return file


def changed(place: Path | str, rows: list[dict[str, Any]], where: Path | None = None, **options: Any) -> RelabelResult:
    file = table(where or Path(place), rows)
    return relabel(RelabelOptions(place=str(place), table=str(file), **options), 1)


def with_notes(rows: list[dict[str, Any]], count: int = 12) -> list[dict[str, Any]]:
    """The rows, and a note for each other record."""
    ids = {row["id"] for row in rows}
    return [*rows, *({"id": f"{n}.png", "note": f"note {n}"} for n in range(count) if f"{n}.png" not in ids)]


def plain(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in record.items()}


def by_id(data: Dataset) -> dict[str, dict[str, Any]]:
    return {record["id"]: plain(record) for record in data}


def problems(place: Path) -> list[str]:
    found: list[str] = []
    with closing(Verification(str(place), decode=True)) as verification:
        verification.run(1, found.append, lambda: None)
    return found


def files_of(place: Path) -> dict[str, str]:
    names = [file for file in place.rglob("*") if file.is_file() and file.name not in ("README.md", "croissant.json")]
    return {str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest() for file in names}


@pytest.mark.parametrize("format", FORMATS)
def test_records_have_the_values_of_the_table(path: Path, format: str) -> None:
    before = by_id(open_dataset(path, format=format))
    result = changed(path, with_notes(ROWS))
    data = open_dataset(path, format=format)
    after = by_id(data)
    assert data.class_names == ("a", "b", "c", "new", "zebra") and result.new_classes == ("new", "zebra")
    assert open_dataset(path, generation=1).class_names == ("a", "b", "c")
    for row in with_notes(ROWS):
        expected = {**before[row["id"]], **row}
        if "label" in row:
            expected["label"] = data.class_names.index(row["label"])
        if "objects/label" in row:
            expected["objects/label"] = [data.class_names.index(name) for name in row["objects/label"]]
        assert after[row["id"]] == expected
    assert by_id(open_dataset(path, format=format, generation=1)) == before
    assert problems(path) == []


def test_no_file_of_before_is_written_again(path: Path) -> None:
    before = files_of(path)
    changed(path, ROWS[:1], fields=())
    after = files_of(path)
    assert after["dataset.g0001.json"] == before.pop("dataset.json")
    assert before.items() <= after.items()
    new = [name for name in after if name.startswith("g0002/")]
    assert sorted(new) == [f"g0002/train-00000-of-00003.{suffix}.index.npy" for suffix in ("h5", "tfrecord")]


def test_a_second_change_keeps_the_values_of_the_first(path: Path) -> None:
    changed(path, with_notes(ROWS))
    first = by_id(open_dataset(path))
    changed(path, [{"id": "7.png", "objects/name": ["p", "q", "r"]}, {"id": "2.png", "note": "other"}])
    for format in FORMATS:
        second = by_id(open_dataset(path, format=format))
        assert second["7.png"] == {**first["7.png"], "objects/name": ["p", "q", "r"]}
        assert second["2.png"] == {**first["2.png"], "note": "other"}
        assert {id: record for id, record in second.items() if id not in ("7.png", "2.png")} == {
            id: record for id, record in first.items() if id not in ("7.png", "2.png")
        }
    assert problems(path) == []
    assert [one.number for one in open_dataset(path).generations()] == [1, 2, 3]


def test_nothing_changed_is_no_generation(path: Path) -> None:
    before = files_of(path)
    objects = several_objects(2)
    row = {"id": "2.png", "label": "c", "objects/name": objects["objects/name"], "objects/label": ["a", "b"]}
    assert changed(path, [row]).generation is None
    assert files_of(path) == before


@pytest.mark.parametrize("way", ["ranges", "cache", "local cache"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_store_and_a_cache_give_what_the_disk_gives(path: Path, tmp_path: Path, format: str, way: str) -> None:
    changed(path, with_notes(ROWS))
    names = [name for name in (*SEVERAL, "note") if name not in ("height", "width")]
    options = {"cache": tmp_path / "cache"} if way != "ranges" else {}
    url = str(path)
    if way != "local cache":
        url = f"memory://bucket-{tmp_path.name}-{format}-{way}/shards"
        fsspec.filesystem("memory").put(str(path), url.removeprefix("memory:/"), recursive=True)
    local, other = (open_dataset(place, format=format, **more) for place, more in ((path, {}), (url, options)))
    assert by_id(other) == by_id(local)
    epoch = {"batch_size": 4, "seed": 3, "fields": names}
    for one, two in zip(local.stream(**epoch), other.stream(**epoch), strict=True):
        assert {name: [plain({"": v}) for v in values] for name, values in one.items()} == {
            name: [plain({"": v}) for v in values] for name, values in two.items()
        }
    other.close()


def test_a_dataset_in_a_store_is_relabeled(path: Path, tmp_path: Path) -> None:
    url = f"memory://relabel-{tmp_path.name}/shards"
    fsspec.filesystem("memory").put(str(path), url.removeprefix("memory:/"), recursive=True)
    changed(url, with_notes(ROWS), tmp_path / "x")
    changed(path, with_notes(ROWS))
    assert by_id(open_dataset(url)) == by_id(open_dataset(path))
    assert open_dataset(url).fingerprint == open_dataset(path).fingerprint


GOLDEN = {
    "tfrecord": (39, "31da6c202aff714ec8071e657446ef94cbb8bba976c06712bd9111520eba3ed0"),
    "hdf5": (49, "8d61d7e84c57756ceb7e771ccc40948dda24456e525e1c45494dcebfcddea1b1"),
}


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_of_a_replaced_index_are_golden(tmp_path: Path, format: str) -> None:
    place = golden_fields(tmp_path / "fields")
    rows = [
        {"id": "1", "label": [3], "note": "größer", "tags": ["a", ""], "new": [1.5, 2.5], "objects/id": [5, -1]},
        {"id": "2", "age": 1.25, "camera": [[1, 2], [3, 4]], "new": []},
    ]
    changed(place, rows)
    file = open_dataset(place).manifest.splits["train"].shards[0].files[format]
    assert (file.index_values, file.index_sha256) == GOLDEN[format]
    first, second = open_dataset(place, format=format)
    assert (first["note"], first["tags"], first["label"].tolist()) == ("größer", ["a", ""], [3])
    assert first["new"].tolist() == [1.5, 2.5] and second["new"].tolist() == []
    assert (second["age"], second["note"], second["camera"].tolist()) == (1.25, "", [[1, 2], [3, 4]])


def test_one_fingerprint_for_both_formats_and_another_for_other_values(tmp_path: Path) -> None:
    found = []
    for number, (format, label) in enumerate([("tfrecord", "b"), ("hdf5", "b"), ("hdf5", "c")]):
        place = several(tmp_path / str(number), size=(2, 2), encoding="raw", formats=(format,))
        changed(place, [{"id": "0.png", "label": label}])
        found.append(open_dataset(place).fingerprint)
    assert found[0] == found[1] != found[2]


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "unknown": ([{"id": "no", "label": "a"}], "no record has the ids of 1 row: 'no' (table.jsonl line 1)"),
    "twice": ([{"id": "0.png", "label": "a"}, {"id": "0.png", "label": "b"}], "line 2: the id '0.png' is that of"),
    "height": ([{"id": "0.png", "height": 3}], 'the column "height" describes the image, or its place'),
    "hash": ([{"id": "0.png", "content_hash": 3}], 'the column "content_hash" describes'),
    "split": ([{"id": "0.png", "split": "test"}], 'the column "split" describes'),
    "mask": ([{"id": "0.png", "mask": "x"}], 'the field "mask" is of images'),
    "audio": ([{"id": "0.png", "audio": "x"}], 'the field "audio" is of bytes'),
    "lacking": ([{"id": "0.png", "age": 3}], "'age' is a new field, and 11 of 12 records have no value of it"),
    "objects": ([{"id": "2.png", "objects/name": ["a"]}], "objects/name has 1 elements, the record has 2 objects"),
    "no list": ([{"id": "2.png", "objects/name": "ab"}], "objects/name is 'ab', no list of shape [None] of texts"),
    "list": ([{"id": "2.png", "label": ["a", "b"]}], "label is ['a', 'b'], no whole number"),
    "number": ([{"id": "2.png", "label": 1}], "the label 1 is a number: give the names of classes"),
    "boxes": ([{"id": "1.png", "objects/bbox": [[0, 0, 1]]}], "objects/bbox is [[0, 0, 1]], no list of shape"),
    "no id": ([{"name": "2.png", "label": "a"}], "give --id-column; it has name, label"),
    "nothing": ([{"id": "2.png"}], "has no column but ids"),
    "name": ([{"id": f"{n}.png", "a//b": 1} for n in range(12)], "'a//b' cannot be the name of a field"),
}


@pytest.mark.parametrize(("rows", "message"), REFUSED.values(), ids=REFUSED)
def test_a_table_that_does_not_fit_is_refused_and_leaves_nothing(
    path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    before = files_of(path)
    with pytest.raises(UsageError) as error:
        changed(path, rows)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert files_of(path) == before


def test_unknown_ids_can_be_counted_and_add_no_class(path: Path) -> None:
    result = changed(path, [{"id": "no", "label": "never"}, {"id": "0.png", "label": "b"}], ignore_unknown=True)
    assert (result.unknown, result.records, result.new_classes) == (1, 1, ())


def test_withdrawn_records_are_unknown_and_need_no_value(path: Path) -> None:
    withdraw(str(path), ["3.png", "4.png"])
    with pytest.raises(UsageError, match="no record has the ids of 2 rows"):
        changed(path, with_notes([]))
    changed(path, [row for row in with_notes(ROWS) if row["id"] not in ("3.png", "4.png")])
    data = open_dataset(path)
    assert len(data) == 10 and data[0]["note"] == "größer"
    assert problems(path) == []


def test_an_empty_cell_of_csv_changes_nothing(path: Path, tmp_path: Path) -> None:
    lines = ["name,class,age", "0.png,b,", "1.png,,7", *(f"{number}.png,,1" for number in range(2, 12))]
    file = tmp_path / "t.csv"
    file.write_text("\n".join(lines))
    options = RelabelOptions(place=str(path), table=str(file), id_column="name")
    with pytest.raises(UsageError, match="'age' is a new field, and 1 of 12 records have no value"):
        relabel(options, 1)
    file.write_text("\n".join(lines).replace("0.png,b,", "0.png,b,2.5"))
    assert relabel(options, 1).fields == {"age": 12, "label": 1}
    data = open_dataset(path)
    assert by_id(data)["0.png"]["age"] == 2.5 and data.manifest.fields["age"].dtype == "float32"


def golden_fields(place: Path) -> Path:
    place.mkdir()
    for file in (REPOSITORY / "tests/reader/format/golden/v1/fields").iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


def test_a_label_may_be_several_classes(tmp_path: Path) -> None:
    place, file = golden_fields(tmp_path / "fields"), tmp_path / "t.csv"
    file.write_text("id,label\n1,\n2,7; 5;7\n")
    relabel(RelabelOptions(place=str(place), table=str(file), label_separator=";"), 1)
    for format in FORMATS:
        assert [record["label"].tolist() for record in open_dataset(place, format=format)] == [[], [5, 7]]


def test_classes_are_counted_again(tmp_path: Path) -> None:
    place = prepared_photos(tmp_path)
    changed(place, [{"id": "a/0.png", "label": "c"}, {"id": "b/0.png", "label": "b"}])
    manifest = open_dataset(place).manifest
    assert manifest.splits["train"].classes == {"a": 1, "b": 2, "c": 1} and manifest.class_names == ("a", "b", "c")


def prepared_photos(tmp_path: Path) -> Path:
    for number in range(4):
        write_image(tmp_path / "in" / "ab"[number % 2] / f"{number // 2}.png", number)
    return prepared(tmp_path / "in", tmp_path / "out", "--encoding", "png", "--report", "--quiet")


def test_one_table_has_the_new_values_of_all_records(tmp_path: Path) -> None:
    place = prepared_photos(tmp_path)
    rows = [{"id": f"{'ab'[n % 2]}/{n // 2}.png", "tags": ["x"] * n, "age": n} for n in range(4)]
    rows[2]["label"] = "new"
    changed(place, rows)
    manifest = open_dataset(place).manifest
    assert manifest.lists("metadata.parquet") == ("g0002/metadata.parquet",)
    found = {row["id"]: row for row in pq.read_table(place / "g0002/metadata.parquet").to_pylist()}
    assert [(found[row["id"]]["tags"], found[row["id"]]["age"]) for row in rows] == [(["x"] * n, n) for n in range(4)]
    assert [found[row["id"]]["label_name"] for row in rows] == ["a", "b", "new", "b"]
    assert "g0002/metadata.parquet" in (place / "README.md").read_text()
    changed(place, [{"id": "b/0.png", "tags": []}])
    assert open_dataset(place).manifest.lists("metadata.parquet") == ("g0003/metadata.parquet",)
    found = {row["id"]: row for row in pq.read_table(place / "g0003/metadata.parquet").to_pylist()}
    assert found["b/0.png"]["tags"] == [] and found["a/1.png"]["tags"] == ["x", "x"]
    assert problems(place) == []


def test_a_folder_that_a_killed_command_left_is_removed(path: Path) -> None:
    before = by_id(open_dataset(path))
    (path / "g0002").mkdir()
    (path / "g0002/train-00000-of-00003.tfrecord.index.npy").write_bytes(b"half")
    assert by_id(open_dataset(path)) == before
    changed(path, [{"id": "1.png", "label": "c"}])
    assert by_id(open_dataset(path))["1.png"]["label"] == 2 and problems(path) == []


def test_verify_finds_damage_in_a_replaced_index_and_index_does_not_write_old_values(path: Path) -> None:
    changed(path, with_notes(ROWS))
    name = path / "g0002/train-00001-of-00003.tfrecord.index.npy"
    whole = name.read_bytes()
    flip(name, len(whole) - 3)
    assert problems(path) == [
        f"{path}/g0002/{name.name}: is damaged (SHA-256 mismatch); restore it from a copy, or relabel again"
    ]
    result = command("index", path, "--workers", "1")
    assert result.returncode == 1
    assert f"{name}: is damaged, and has values of `relabel` that no shard has; restore it from a copy" in result.stdout
    name.unlink()
    assert f"{name}: is missing, and has values" in command("index", path, "--workers", "1").stdout
    name.write_bytes(whole)
    assert problems(path) == []


def test_the_command_says_what_changed(path: Path) -> None:
    file = table(path, ROWS[:2])
    result = command("relabel", path, file, "--fields", "objects/name")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "1 new class after the others: new",
        f"{path}: generation 2: 2 records in 2 shards changed (label of 2, objects/name of 1)",
    ]
    again = command("relabel", path, file, "--fields", "objects/name")
    assert again.stdout == f"{path}: has these values already; nothing is written\n"
    missing = command("relabel", path, path / "no.csv")
    assert missing.returncode == 2 and "does not exist" in missing.stderr
