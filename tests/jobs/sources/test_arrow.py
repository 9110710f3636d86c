"""Images inside of Parquet and Arrow files: every form of pages, what columns become, and files that are damaged."""

from __future__ import annotations

import io
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from support.command import prepared
from support.sources import Found, refusal, upload

from beam_jobs.sources import BadInput, Reference
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.files.tables import page_bodies
from beam_jobs.sources.files.tables.page_bodies import SnappyBody, Values
from beam_jobs.sources.known import recognised
from beam_jobs.sources.tabular import arrow
from beam_jobs.sources.tabular.arrow import ArrowFiles
from shard_reader import open_dataset
from shard_reader.format import Field
from shard_reader.storage.open import directory

RANDOM = np.random.default_rng(0)
VALUES = [
    RANDOM.bytes(30_000),
    b"",
    b"x",
    bytes(70_000),
    RANDOM.bytes(65_536),
    bytes(65_536),
    b"abc" * 40_000,
    None,
    RANDOM.integers(0, 4, 50_000, dtype=np.uint8).tobytes(),
    RANDOM.bytes(200_000),
]


def found(path: object, **options: Any) -> Found:
    return Found(ArrowFiles(SourceOptions(input=str(path), **options)))


def refused(path: object, **options: Any) -> str:
    return refusal(ArrowFiles, path, **options)


def stored(path: Path, columns: Any, features: Any = None, **more: Any) -> Path:
    """A Parquet file of columns, with the metadata of Hugging Face."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, **more)
    return path


def images(*data: bytes | None, path: str | None = None) -> pa.Array:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.array([None if one is None else {"bytes": one, "path": path} for one in data], kind)


def classes(*names: str) -> dict[str, Any]:
    return {"_type": "ClassLabel", "names": list(names)}


def as_lists(values: list[Any]) -> list[Any]:
    """Lists of no, one and two values."""
    return [[value] * (number % 3) for number, value in enumerate(values)]


COLUMNS = {
    "binary": lambda: pa.array(VALUES),
    "large_binary": lambda: pa.array(VALUES, pa.large_binary()),
    "struct": lambda: images(*VALUES),
    "list": lambda: pa.array(as_lists(VALUES)),
    "list of structs": lambda: pa.array(as_lists(images(*VALUES).to_pylist())),
}


def firsts(kind: str) -> list[bytes | None]:
    return [one[0] if one else None for one in as_lists(VALUES)] if kind.startswith("list") else VALUES


def read_all(path: Path) -> list[bytes | None]:
    """The image of each row; None for one that is missing."""
    listing = found(path)
    ids = [f"{number:08d}" for number in range(len(listing.entries) + len(listing.rejects))]
    return [listing.read(id) if id in listing.entries else None for id in ids]


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"use_dictionary": False, "row_group_size": 4},
        {"data_page_version": "2.0", "data_page_size": 1000, "write_batch_size": 2},
        {"use_dictionary": False, "data_page_version": "2.0"},
    ],
    ids=["usual", "row groups", "small pages", "version 2"],
)
def test_every_form_of_pages(codec: str, more: dict[str, Any], tmp_path: Path) -> None:
    for kind, column in COLUMNS.items():
        path = stored(
            tmp_path / "x.parquet", {"image": column(), "n": list(range(len(VALUES)))}, compression=codec, **more
        )
        assert read_all(path) == firsts(kind), kind


@pytest.mark.parametrize("writer", [pa.ipc.new_stream, pa.ipc.new_file], ids=["stream", "file"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_streams_and_files_of_arrow(writer: Any, kind: str, tmp_path: Path) -> None:
    table = pa.table({"image": COLUMNS[kind](), "city": ["Ulm"] * len(VALUES)})
    with writer(str(tmp_path / "x.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=4)
    assert read_all(tmp_path / "x.arrow") == firsts(kind)
    assert {entry.fields["city"] for entry in found(tmp_path / "x.arrow").entries.values()} == {"Ulm"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90_000), st.sampled_from([1, 4, 256]), st.integers(0, 9)), max_size=8))
def test_values_in_snappy_are_ranges_of_it(parts: list[tuple[int, int, int]]) -> None:
    """Values of any length and any entropy."""
    values = [np.random.default_rng(seed).integers(0, kinds, size, np.uint8).tobytes() for size, kinds, seed in parts]
    plain = b"".join(struct.pack("<I", len(value)) + value for value in values)
    packed = pa.compress(plain, "snappy", asbytes=True)
    body, start = SnappyBody(lambda start, end: packed[start:end], 0, len(packed), len(plain)), 0
    store = directory("memory://snappy")
    store.write("x", [packed])
    for value in values:
        assert struct.unpack("<I", body.read(start, start + 4)) == (len(value),)
        place = body.place(start + 4, start + 4 + len(value))
        assert Values(store).read("x", place) == value
        assert place[2] <= len(value) + (1 << 17) + 64, "no more is read than the pieces that the value is in"
        start += 4 + len(value)


def test_a_listing_reads_no_images(tmp_path: Path) -> None:
    """Of images without repetitions, less than a tenth; and nothing of a gigabyte of nothing but zeros is in memory."""
    path = stored(tmp_path / "x.parquet", {"image": images(*(RANDOM.bytes(500_000) for _ in range(8)))})
    source, read = ArrowFiles(SourceOptions(input=str(path))), 0
    place = directory(str(path))

    class Counted(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal read
            data = super().read(size)
            read += len(data)
            return data

    place.open = lambda _: Counted(io.FileIO(path))  # type: ignore[method-assign, assignment]
    source._files.directory = place
    assert len(list(source.entries())) == 8
    assert read < path.stat().st_size / 10


def test_ids_are_files_and_rows(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001"):
        stored(tmp_path / f"in/{name}.parquet", {"image": images(b"1", b"2", path="a.jpg")})
    (tmp_path / "in/README.md").write_text("a card")
    listing = found(tmp_path / "in")
    assert listing.layout.splits == ("train", "test")
    assert [(id, entry.split) for id, entry in listing.entries.items()] == [
        ("data/test-00000-of-00001.parquet/00000000", "test"),
        ("data/test-00000-of-00001.parquet/00000001", "test"),
        ("data/train-00000-of-00002.parquet/00000000", "train"),
        ("data/train-00000-of-00002.parquet/00000001", "train"),
        ("data/train-00001-of-00002.parquet/00000000", "train"),
        ("data/train-00001-of-00002.parquet/00000001", "train"),
    ]
    assert listing.text == 'split files (test, train) of 3 Parquet files of 6 rows; images in column "image"'


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["default/train/0000.parquet", "default/validation/0000.parquet"], ("train", "validation")),
        (["train/x.parquet", "test/x.parquet"], ("train", "test")),
        (["x-train.parquet", "x-test.parquet"], ("train", "test")),
        (["0000.parquet", "0001.parquet"], None),
    ],
    ids=["a configuration", "folders", "names", "none"],
)
def test_splits_as_the_hub_lays_them_out(names: list[str], splits: tuple[str, ...] | None, tmp_path: Path) -> None:
    for name in names:
        stored(tmp_path / name, {"image": images(b"1")})
    assert found(tmp_path).layout.splits == splits
    assert recognised(SourceOptions(input=str(tmp_path)))[0].kind == "arrow"


def test_classes_of_the_metadata(tmp_path: Path) -> None:
    columns = {"image": images(*[b"1"] * 5), "label": [2, 0, None, -1, 3]}
    listing = found(stored(tmp_path / "x.parquet", columns, {"label": classes("2", "1", "0")}))
    assert listing.layout.class_names == ("2", "1", "0")
    assert {id: entry.label for id, entry in listing.entries.items()} == {
        "00000000": "0",
        "00000001": "2",
        "00000002": None,
        "00000003": None,
    }
    message = 'x.parquet row 4: column "label" is 3: the schema names 3 classes, from 0'
    assert listing.rejects == {"00000004": ("bad-label", message)}


@pytest.mark.parametrize("wrap", ["Sequence", "List", None])
def test_lists_of_classes(wrap: str | None, tmp_path: Path) -> None:
    feature = [classes("a", "b")] if wrap is None else {"_type": wrap, "feature": classes("a", "b")}
    columns = {"image": images(b"1", b"2"), "labels": [[1, 0], []]}
    listing = found(stored(tmp_path / "x.parquet", columns, {"labels": feature}))
    assert [entry.label for entry in listing.entries.values()] == [["b", "a"], []]


def test_the_only_column_of_classes_is_the_label(tmp_path: Path) -> None:
    columns = {"image": images(b"1"), "digit": [1], "style": [0]}
    path = stored(tmp_path / "x.parquet", columns, {"digit": classes("a", "b")})
    assert found(path).entries["00000000"].label == "b"
    path = stored(tmp_path / "x.parquet", columns, {"digit": classes("a", "b"), "style": classes("c", "d")})
    listing = found(path)
    assert listing.entries["00000000"].fields == {"digit": 1, "style": 0}
    assert listing.layout.warnings == (
        f"INPUT {path}: digit, style have classes, and none is the label: choose with --label-column",
    )
    assert found(path, label_column="style").entries["00000000"].label == "c"


def test_a_dataset_without_labels(tmp_path: Path) -> None:
    """Of tests of the Hub, every label is -1."""
    path = stored(tmp_path / "x.parquet", {"image": images(b"1"), "label": [-1]}, {"label": classes("a", "b")})
    assert (found(path).layout.class_names, found(path).entries["00000000"].label) == (None, None)


def test_a_split_without_labels(tmp_path: Path) -> None:
    """The labels of a test on the Hub are all -1: its images are no rejects, as those of a split with labels are."""
    pixels = io.BytesIO()
    Image.new("RGB", (8, 8)).save(pixels, "png")
    for name, labels in (("train", [1, 0, None]), ("test", [-1, -1, -1])):
        columns = {"image": images(*[pixels.getvalue()] * 3), "label": labels}
        stored(tmp_path / f"in/{name}-00000-of-00001.parquet", columns, {"label": classes("a", "b")})
    assert found(tmp_path / "in").layout.unlabelled == {"test"}
    output = prepared(tmp_path / "in", tmp_path / "out", "--fit", "none", "--max-rejects", 1)
    test, train = (open_dataset(output, split) for split in ("test", "train"))
    assert [record["label"] for record in test] == [-1] * 3
    assert (test.class_names, train.manifest.splits["train"].classes) == (("a", "b"), {"a": 1, "b": 1})
    (line,) = (output / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "train-00000-of-00001.parquet/00000002"


def test_other_columns_become_fields(tmp_path: Path) -> None:
    columns = {
        "image": images(b"1", path="a.jpg"),
        "age": [1.5],
        "tags": [["x", "y"]],
        "fixed": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
        "meta": [{"city": "Ulm", "odd": {"a": 1}}],
        "more": images(b"2"),
        "blob": [b"3"],
    }
    path = stored(tmp_path / "x.parquet", columns)
    listing = found(path)
    fields = {"age": 1.5, "tags": ["x", "y"], "fixed": [1.0, 2.0], "meta/city": "Ulm"}
    assert listing.entries["00000000"].fields == fields
    assert listing.layout.fields == {"fixed": Field(dtype="float32", shape=(2,))}
    assert [one.what for one in listing.layout.left_out] == [
        "image.path",
        "columns more, blob",
        "columns meta.odd (struct<a: int64>)",
    ]
    listing = found(path, id_column="image.path", fields=("meta.city",), image_key="more")
    assert [listing.read(id) for id in listing.entries] == [b"2"] and listing.entries["a.jpg"].fields == {
        "meta/city": "Ulm"
    }


@pytest.mark.parametrize("as_list", [False, True], ids=["struct of lists", "list of structs"])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_objects(as_list: bool, kind: str, tmp_path: Path) -> None:
    objects: Any = {"bbox": [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]], "category": [1, 0], "area": [12, 1]}
    feature: Any = {"bbox": None, "category": classes("cat", "dog")}
    if as_list:
        objects = [dict(zip(objects, values, strict=True)) for values in zip(*objects.values(), strict=True)]
        feature = [feature]
    columns = {"image": images(b"1", b"2"), "objects": [objects, None]}
    path = stored(tmp_path / "x.parquet", columns, {"objects": feature})
    if kind == "arrow":
        table = parquet.read_table(path)
        path = tmp_path / "x.arrow"
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    listing = found(path, boxes=("objects.bbox",), box_format="xywh")
    first, second = listing.entries.values()
    assert first.fields == {
        "objects/bbox": [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]],
        "objects/label": [1, 0],
        "objects/area": [12, 1],
    }
    assert second.fields["objects/bbox"] == [] and not second.fields["objects/label"]
    assert listing.layout.boxes == {"objects/bbox": "xywh"}
    assert listing.layout.class_names == ("cat", "dog")
    assert listing.layout.fields["objects/label"] == Field(dtype="int64", shape=(None,))


def test_a_struct_without_bytes_has_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"the file")
    rows = [{"bytes": None, "path": "a.jpg"}, {"bytes": b"x", "path": "b.jpg"}, None, {"bytes": None, "path": None}]
    rows.append({"bytes": None, "path": "ssh://host/x.jpg"})
    listing = found(stored(tmp_path / "x.parquet", {"image": rows}))
    assert [listing.read(id) for id in listing.entries] == [b"the file", b"x"]
    empty = 'column "image" is empty; it is to have an image'
    assert listing.rejects["00000002"] == ("no-image", f"x.parquet row 2: {empty}")
    assert listing.rejects["00000003"] == ("no-image", f"x.parquet row 3: {empty}")
    assert listing.rejects["00000004"][0] == "unsupported-url"
    assert listing.layout.reached == {str(tmp_path): 1}


def test_a_column_of_splits(tmp_path: Path) -> None:
    columns = {"image": images(b"1", b"2"), "split": ["train", "test"]}
    assert [e.split for e in found(stored(tmp_path / "x.parquet", columns)).entries.values()] == ["train", "test"]
    columns = {"image": images(b"1", b"2"), "part": ["a", "b"]}
    listing = found(stored(tmp_path / "x.parquet", columns), split_column="part")
    assert [entry.split for entry in listing.entries.values()] == ["a", "b"]


def test_files_in_a_store(bucket: str, tmp_path: Path) -> None:
    columns = {"image": images(*VALUES), "n": list(range(len(VALUES)))}
    upload(stored(tmp_path / "x.parquet", columns), f"{bucket}/in/train/x.parquet")
    assert recognised(SourceOptions(input=f"{bucket}/in"))[0].kind == "arrow"
    listing = found(f"{bucket}/in")
    for id, entry in listing.entries.items():
        assert listing.read(id) == VALUES[entry.fields["n"]]
    table = pa.table(columns)
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    upload(tmp_path / "x.arrow", f"{bucket}/saved/data-00000-of-00001.arrow")
    listing = found(f"{bucket}/saved")
    assert [listing.read(id) for id in listing.entries] == [value for value in VALUES if value is not None]


RECOGNISED = {
    "images": ({"image": images(b"1")}, "arrow"),
    "bytes": ({"bytes": [b"1"], "label": [1]}, "arrow"),
    "unusual binary": ({"blob": [b"1"], "label": [1]}, "arrow"),
    "paths": ({"path": ["a.jpg"], "hash": [b"1"]}, "table"),
    "paths and images": ({"path": ["a.jpg"], "photo": images(b"1")}, "arrow"),
}


@pytest.mark.parametrize(("columns", "kind"), RECOGNISED.values(), ids=RECOGNISED)
def test_parquet_of_images_and_of_paths(columns: dict[str, Any], kind: str, tmp_path: Path) -> None:
    path = stored(tmp_path / "in/x.parquet", columns)
    for place in (path, path.parent):
        options, why = recognised(SourceOptions(input=str(place)))
        assert options.kind == kind
        assert kind == "table" or " of x.parquet, which has images" in why
    assert recognised(SourceOptions(input=str(path), path_column="x"))[0].kind == "table"


def test_sounds_are_no_images(tmp_path: Path) -> None:
    """Hugging Face has them in the same structs."""
    columns = {"audio": images(b"1", path="a.wav"), "photo": images(b"2")}
    path = stored(tmp_path / "x.parquet", columns, {"audio": {"_type": "Audio"}, "photo": {"_type": "Image"}})
    listing = found(path)
    assert listing.read("00000000") == b"2" and listing.entries["00000000"].fields == {"audio/path": "a.wav"}
    path = stored(tmp_path / "x.parquet", {"audio": images(b"1")}, {"audio": {"_type": "Audio"}})
    assert refused(path).startswith("INPUT: has no column of images")
    assert recognised(SourceOptions(input=str(path)))[0].kind == "table"


def test_files_that_are_left_out_and_files_that_are_rejects(tmp_path: Path) -> None:
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / name).write_text("{}")
    table = pa.table({"image": images(b"1")})
    for name in ("data-00000-of-00001.arrow", "cache-1234.arrow"):
        with pa.ipc.new_stream(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    (tmp_path / "x.jpg").write_bytes(b"x")
    listing = found(tmp_path)
    assert list(listing.entries) == ["data-00000-of-00001.arrow/00000000"]
    assert listing.rejects == {"x.jpg": ("other-file", "is another kind of file than INPUT's")}
    assert [(one.what, one.why) for one in listing.layout.left_out[:2]] == [
        ("1 .arrow file, as cache-1234.arrow", "kept by datasets beside a dataset"),
        ("2 .json files, as dataset_info.json", "not images"),
    ]


def test_a_damaged_page_is_a_line_for_each_row_of_it(tmp_path: Path) -> None:
    """The rows of other row groups stay."""
    values = [RANDOM.bytes(1000) for _ in range(6)]
    columns = {"image": images(*values), "n": list(range(6))}
    path = stored(tmp_path / "x.parquet", columns, row_group_size=2, use_dictionary=False, compression="none")
    start = parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    listing = found(path)
    assert [listing.read(id) for id in listing.entries] == [values[n] for n in (0, 1, 4, 5)]
    assert listing.rejects == {
        f"0000000{n}": ("damaged", f"x.parquet row {n}: row group 1 cannot be read: has a page without a header")
        for n in (2, 3)
    }


def test_damage_after_the_listing_is_of_one_image(tmp_path: Path) -> None:
    path = stored(tmp_path / "x.parquet", {"image": images(bytes(100_000), RANDOM.bytes(1000))})
    source = ArrowFiles(SourceOptions(input=str(path)))
    entry, other = source.entries()
    data = bytearray(path.read_bytes())
    data[entry.place[2] : entry.place[2] + 50] = b"\xff" * 50
    path.write_bytes(data)
    with pytest.raises(BadInput, match="cannot be unpacked by snappy") as caught:
        source.read(Reference(entry.id, entry.size, entry.place))
    assert caught.value.reason == "damaged"
    path.write_bytes(data[:2000])
    with pytest.raises(BadInput, match="the file ends"):
        source.read(Reference(other.id, other.size, other.place))


def test_a_damaged_column_of_values_is_an_error(tmp_path: Path) -> None:
    columns = {"image": images(b"1", b"2"), "n": [7, 8]}
    path = stored(tmp_path / "x.parquet", columns, row_group_size=1)
    start = parquet.ParquetFile(path).metadata.row_group(1).column(2).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    assert refused(path).startswith("INPUT: row group 1 cannot be read: ")


def test_refusals(tmp_path: Path) -> None:
    path = stored(tmp_path / "x.parquet", {"path": ["a"], "n": [1], "odd": [{"a": {"b": 1}}]})
    assert refused(path) == (
        "INPUT: has no column of images, which are struct<bytes, path> or binary; it has path, n, odd.a; if one has"
        " paths, give --source table"
    )
    path = stored(tmp_path / "x.parquet", {"image": images(b"1"), "odd": [{"a": {"b": 1}}]})
    assert refused(path, image_key="img") == "INPUT: --image-key img: is no column of images; those are: image"
    assert "which cannot be a field; leave it out of --fields" in refused(path, fields=("odd.a",))
    path = stored(tmp_path / "x.parquet", {"image": images(b"1"), "l": [0]}, {"l": classes("a", "a")})
    assert refused(path) == "INPUT: two classes of \"l\" are named 'a'"
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and more PAR1")
    assert refused(path).startswith("INPUT: cannot be read as Parquet: ")
    assert refused(tmp_path / "none.parquet") == "INPUT: does not exist"
    assert refused(stored(tmp_path / "e.parquet", {"image": images()})) == "INPUT: has no row"


def test_files_of_a_folder_have_the_same_columns(tmp_path: Path) -> None:
    stored(tmp_path / "a.parquet", {"image": images(b"1"), "n": [1]})
    other = stored(tmp_path / "b.parquet", {"image": images(b"1"), "m": [1]})
    assert refused(tmp_path).endswith(
        "b.parquet: has the columns image, image.path, m; a.parquet has image, image.path, n: the files of a folder"
        " have the same columns; give a folder inside, or one file"
    )
    stored(other, {"image": [b"1"], "n": [1]})
    assert "another type" in refused(tmp_path) or "has the columns" in refused(tmp_path)
    other.unlink()
    with pa.ipc.new_stream(str(tmp_path / "c.arrow"), pa.schema({"image": pa.binary()})):
        pass
    assert refused(tmp_path) == "INPUT: holds Parquet and Arrow files; give a folder that holds one kind, or one file"


def test_arrow_that_is_refused(tmp_path: Path) -> None:
    table, path = pa.table({"image": images(RANDOM.bytes(1000)), "n": [1]}), tmp_path / "x.arrow"
    with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    assert refused(path) == "INPUT: has compressed buffers; write it without compression, or as Parquet"
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    whole = path.read_bytes()
    path.write_bytes(whole[:-700])
    assert refused(path) == "INPUT: ends too early; copy it again, whole"
    for data, message in ((b"", "is empty"), (b"no Arrow at all", "is no Arrow, or cut off")):
        path.write_bytes(data)
        assert refused(path) == f"INPUT: {message}"


def test_large_pages_without_random_access_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page_bodies, "_LARGEST", 1000)
    path = stored(tmp_path / "x.parquet", {"image": images(RANDOM.bytes(2000))}, compression="zstd")
    assert refused(path) == (
        "INPUT: has no image that can be used; 00000000: x.parquet row 0: row group 0 cannot be read: a page of"
        ' 2,014 bytes is packed with zstd, without random access; write the file again with compression="snappy", or'
        " with smaller pages"
    )


@pytest.mark.parametrize(("codec", "warned"), [("zstd", True), ("snappy", False)])
def test_slow_pages_are_named(codec: str, warned: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(arrow, "_MANY_BYTES", 1000)
    path = stored(
        tmp_path / "x.parquet", {"image": images(*(RANDOM.bytes(9000) for _ in range(20)))}, compression=codec
    )
    expected = f"INPUT {path}: to read an image, 20 times as much is unpacked"
    assert [warning.startswith(expected) for warning in found(path).layout.warnings] == [True] * warned


def test_pages_that_are_unpacked_whole_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page_bodies, "_LARGEST", 5000)
    values = [RANDOM.bytes(2000) for _ in range(4)]
    columns = {"image": images(*values)}
    path = stored(tmp_path / "x.parquet", columns, compression="zstd", row_group_size=1)
    source = ArrowFiles(SourceOptions(input=str(path)))
    entries = list(source.entries())
    for number in itertools.islice(itertools.cycle((3, 0, 2, 1)), 12):
        entry = entries[number]
        assert source.read(Reference(entry.id, entry.size, entry.place)) == values[number]
        assert sum(map(len, source._values._pages.values())) <= 5000


@pytest.mark.slow
def test_what_datasets_writes(tmp_path: Path) -> None:
    """As `push_to_hub` and `save_to_disk` do: the same pixels, classes and fields."""
    datasets = pytest.importorskip("datasets")
    pixels = RANDOM.integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["dog", "cat"]), n=datasets.Value("int32")
    )
    columns = {"image": [Image.fromarray(one) for one in pixels], "label": [0, 1] * 3, "n": list(range(6))}
    train = datasets.Dataset.from_dict(columns, features)
    train.to_parquet(str(tmp_path / "hub/data/train-00000-of-00001.parquet"))
    datasets.DatasetDict({"train": train}).save_to_disk(str(tmp_path / "saved"))
    for place in ("hub", "saved"):
        data = open_dataset(
            prepared(tmp_path / place, tmp_path / f"out-{place}", "--fit", "none", "--encoding", "raw"), "train"
        )
        assert data.class_names == ("dog", "cat")
        records = [data[number] for number in range(6)]
        for record in records:
            assert np.array_equal(record["image"], pixels[record["n"]]) and record["label"] == record["n"] % 2
