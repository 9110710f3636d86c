"""Records as a DataFrame."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import REPOSITORY
from support.remote_data import write_dataset
from support.stored import FIELDS, dataset, record, write_manifest

from beam_jobs.shards.write import store
from shard_reader import CorruptionError, mix, open_dataset
from shard_reader.format import Field, shard_name

pandas = pytest.importorskip("pandas")


def test_a_frame_has_a_row_for_each_record(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    frame = data.to_pandas()
    assert list(frame.columns[:3]) == ["label", "class", "id"] and {"height", "width"} <= set(frame.columns)
    assert frame.index.name == "record" and list(frame.index) == list(range(48))
    assert frame.dtypes["label"] == np.int64 and frame.dtypes["class"] == pandas.CategoricalDtype(["a", "b", "c"])
    for number in (0, 17, 47):
        row, one = frame.loc[number], data[number]
        assert (row["id"], row["label"], row["class"]) == (one["id"], one["label"], data.class_names[one["label"]])
    assert frame["class"].value_counts().to_dict() == {"a": 16, "b": 16, "c": 16}


def test_rows_choose_records(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    frame = data.to_pandas()
    expected = [one["id"] for one in data if one["label"] == 1]
    for chosen in (frame.index[frame["class"] == "b"], frame["class"] == "b", (frame["class"] == "b").to_numpy()):
        assert list(data.select(chosen).to_pandas(["id"])["id"]) == expected


def test_every_kind_of_field_can_be_a_column(tmp_path: Path) -> None:
    data = open_dataset(write_dataset(tmp_path / "a", sizes=(3, 4)))
    names = ["objects/bbox", "note", "tags", "scores", "label"]
    frame = data.to_pandas(iter(names))
    assert list(frame.columns) == names, "no class names, no column with them"
    assert list(data.to_pandas().columns) == ["label", "id", "height", "width"]
    for number, one in enumerate(data):
        row = frame.loc[number]
        assert (row["note"], row["tags"], row["label"]) == (one["note"], one["tags"], one["label"])
        assert np.array_equal(row["scores"], one["scores"]) and row["objects/bbox"].shape[1] == 4


def test_labels_without_a_name_are_missing(tmp_path: Path) -> None:
    path = dataset(tmp_path / "a", [record(f"{n}.png", label=label) for n, label in enumerate([1, -1, 2, 0, 2**62])])
    found = open_dataset(path).to_pandas()["class"]
    assert found.isna().tolist() == [False, True, True, False, True] and found[0] == "b" and found[3] == "a"


def test_names_that_come_twice_are_one_category(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    rows = [record(f"{n}.png", label=n) for n in range(3)]
    shard = store(rows, {"hdf5": tmp_path / "a" / shard_name("train", 0, 1, "hdf5")}, FIELDS)
    write_manifest(tmp_path / "a", FIELDS, [shard], formats=["hdf5"], class_names=("x", "y", "x"))
    found = open_dataset(tmp_path / "a").to_pandas(["label"])["class"]
    assert found.tolist() == ["x", "y", "x"] and list(found.cat.categories) == ["x", "y"]


def test_a_field_named_class_stays_that_field(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    fields = {**FIELDS, "class": Field(dtype="int64"), "place": Field(dtype="float32", shape=(2,))}
    rows = [record("0.png", **{"class": 7, "place": np.array([1, 2], np.float32)})]
    shard = store(rows, {"tfrecord": tmp_path / "a" / shard_name("train", 0, 1, "tfrecord")}, fields)
    write_manifest(tmp_path / "a", fields, [shard], formats=["tfrecord"], class_names=("a", "b"))
    frame = open_dataset(tmp_path / "a").to_pandas()
    assert frame["class"].tolist() == [7] and frame["place"][0].tolist() == [1, 2]


def test_subsets_and_mixtures_are_frames_too(raw_shards: Path, jpeg_shards: Path) -> None:
    both = mix([open_dataset(raw_shards), open_dataset(jpeg_shards)], [1, 1])
    assert len(both.to_pandas()) == 108
    empty = open_dataset(raw_shards).where(label=99).to_pandas()
    assert empty.dtypes.equals(open_dataset(raw_shards).to_pandas().dtypes) and not len(empty)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (["colour"], ValueError, "fields: 'colour' is not a column of split 'train' of .*: label, id, height, width"),
        (["image"], ValueError, "fields: 'image' is not a column"),
        ("label", TypeError, r"fields='label': must be several names, as \('label',\)"),
    ],
    ids=str,
)
def test_wrong_fields_are_named(raw_shards: Path, fields: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        open_dataset(raw_shards).to_pandas(fields)


def test_a_text_that_is_no_utf_8_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset(dataset(tmp_path / "a", [record("0.png")]))
    monkeypatch.setattr(type(data), "column", lambda *_: np.array([b"\xff"], object))
    with pytest.raises(CorruptionError, match="'id' has a text that is no UTF-8"):
        data.to_pandas(["id"])


def test_without_pandas_the_extra_is_named() -> None:
    code = "import sys; sys.modules['pandas'] = None; import shard_reader as s; s.open_dataset({!r}).to_pandas()"
    golden = str(REPOSITORY / "tests/reader/format/golden/v1/raw")
    result = subprocess.run([sys.executable, "-c", code.format(golden)], capture_output=True, text=True)
    assert result.stderr.splitlines()[-1].endswith("to_pandas needs pandas: pip install 'image-shards[pandas]'")
