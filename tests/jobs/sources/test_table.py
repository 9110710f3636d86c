"""Tables of images: what columns become, files as pandas and pyarrow write them, and rows that cannot be used."""

from __future__ import annotations

import datetime
import decimal
import gzip
import os
import resource
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from beam_jobs.errors import UsageError
from beam_jobs.sources import BadInput, Entry, Layout, LeftOut, Reference
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.known import recognised
from beam_jobs.sources.paths import Paths
from beam_jobs.sources.tabular.table import Table
from shard_reader.format import Field


def listed(path: Path | str, **options: Any) -> tuple[list[Entry], Layout]:
    source = Table(SourceOptions(input=str(path), **options))
    return list(source.entries()), source.layout()


def written(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


def stored(folder: Path, columns: dict[str, Any], name: str = "labels.parquet") -> Path:
    parquet.write_table(pa.table(columns), folder / name)
    return folder / name


def problems(path: Path, **options: Any) -> list[tuple[str, str, str]]:
    source = Table(SourceOptions(input=str(path), **options))
    return [(entry.id, *entry.problem) for entry in source.entries() if entry.problem]


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        listed(path, **options)
    return str(error.value).replace(f"INPUT {path}: ", "")


def test_a_csv(tmp_path: Path) -> None:
    entries, layout = listed(written(tmp_path, "path,label,split,age,city\n1.jpg,cat,train,7,Ulm\n2.jpg,dog,val,,\n"))
    assert entries == [
        Entry("1.jpg", label="cat", split="train", fields={"age": "7", "city": "Ulm"}),
        Entry("2.jpg", label="dog", split="val", fields={"age": "", "city": ""}),
    ]
    assert layout == Layout(
        text='a CSV table of 2 rows; images in column "path", labels in "label", split in "split", fields age, city',
        untyped=True,
    )


def test_a_data_frame_as_tutorials_have_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"tile_name": ["a.png", "b.png"], "y": [0, 1]})
    frame.to_csv(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "b.csv", index=False)
    frame.to_parquet(tmp_path / "c.parquet")
    frame.set_index(pd.Index(["p", "q"])).to_parquet(tmp_path / "d.parquet")
    frame.to_json(tmp_path / "e.jsonl", orient="records", lines=True)
    texts = []
    for name in ("a.csv", "b.csv", "c.parquet", "d.parquet", "e.jsonl"):
        entries, layout = listed(tmp_path / name)
        labels = ["0", "1"] if layout.untyped else [0, 1]
        assert entries == [Entry("a.png", label=labels[0]), Entry("b.png", label=labels[1])]
        texts.append((layout.text, [one.what for one in layout.left_out]))
    found = 'table of 2 rows; images in column "tile_name", labels in "y"'
    nameless = ["the column without a name"]
    kinds = (("CSV", nameless), ("CSV", []), ("Parquet", []), ("Parquet", nameless), ("JSONL", []))
    assert texts == [(f"a {kind} {found}", left_out) for kind, left_out in kinds]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("\ufeffpath,label\r\n1.jpg,cat\r\n2.jpg,dog", "labels.csv"),
        ("Path, Label\n\n1.jpg, cat\n\n2.jpg, dog\n\n", "labels.CSV"),
        ("path;label\n1.jpg;cat\n2.jpg;dog\n", "labels.csv"),
        ('"label"\t"path"\n"cat"\t1.jpg\n"dog"\t2.jpg\n', "labels.tsv"),
        ('{"path": "1.jpg", "label": "cat"}\n\n{"label": "dog", "path": "2.jpg"}', "labels.ndjson"),
    ],
    ids=["bom-crlf", "blanks", "semicolons", "tsv", "ndjson"],
)
def test_kinds_of_text(tmp_path: Path, text: str, name: str) -> None:
    entries, _ = listed(written(tmp_path, text, name))
    assert entries == [Entry("1.jpg", label="cat"), Entry("2.jpg", label="dog")]


def test_quoted_cells(tmp_path: Path) -> None:
    path = written(tmp_path, 'path,note\n"a,1.jpg","two\nlines, a ""quote"""\nb.jpg,x,y\nc.jpg,\n')
    entries, _ = listed(path)
    assert [entry.fields for entry in entries if not entry.problem] == [
        {"note": 'two\nlines, a "quote"'},
        {"note": ""},
    ]
    assert entries[0].id == "a,1.jpg"
    assert problems(path) == [("labels.csv:4", "bad-row", "labels.csv line 4: has 3 cells, the header has 2:"
        " 'b.jpg,x,y'; put quotes around a cell that has a comma in it")]  # fmt: skip


def test_columns_that_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "key,where,what,part,label,y,z\nk1,1.jpg,cat,train,a,2,3\n")
    options: dict[str, Any] = {"path_column": "where", "id_column": "key", "label_column": "what"}
    entries, layout = listed(path, **options, split_column="part", fields=("y", "label"))
    assert entries == [Entry("k1", place="1.jpg", label="cat", split="train", fields={"y": "2", "label": "a"})]
    assert layout.text == (
        'a CSV table of 1 rows; images in column "where", ids in "key", labels in "what", split in "part",'
        " fields y, label"
    )


def test_a_field_is_not_the_label(tmp_path: Path) -> None:
    entries, _ = listed(stored(tmp_path, {"path": ["1.jpg"], "y": [0.5]}), fields=("y",))
    assert entries == [Entry("1.jpg", fields={"y": 0.5})]


def test_several_labels(tmp_path: Path) -> None:
    text = "path,labels\n1.jpg,cat|dog\n2.jpg,cat\n3.jpg,\n"
    entries, _ = listed(written(tmp_path, text), label_separator="|")
    assert [entry.label for entry in entries] == [["cat", "dog"], ["cat"], []]
    path = stored(tmp_path, {"path": ["1.jpg", "2.jpg", "3.jpg"], "labels": [[1, 2], [], [3]]})
    assert [entry.label for entry in listed(path)[0]] == [[1, 2], [], [3]]
    path = written(tmp_path, '{"path": "1.jpg", "label": ["a", "b"]}', "x.jsonl")
    assert listed(path)[0][0].label == ["a", "b"]


def test_labels_among_which_one_is_missing(tmp_path: Path) -> None:
    frame = pd.DataFrame({"path": ["1.jpg", "2.jpg"], "label": [3, None], "ok": [True, False]})
    frame.to_parquet(tmp_path / "x.parquet")
    assert listed(tmp_path / "x.parquet")[0][0] == Entry("1.jpg", label=3, fields={"ok": True})
    assert problems(tmp_path / "x.parquet") == [
        ("2.jpg", "no-label", 'x.parquet row 2: column "label" is empty; it is to have a label')
    ]


def test_jsonl_keys_may_be_missing(tmp_path: Path) -> None:
    path = written(tmp_path, '{"path": "1.jpg"}\n{"path": "2.jpg", "label": 4, "x": [1, 2]}\n', "x.jsonl")
    entries, layout = listed(path)
    assert entries[1] == Entry("2.jpg", label=4, fields={"x": [1, 2]})
    assert entries[0].problem is not None and entries[0].problem.reason == "no-label"
    assert not layout.untyped


def test_types_of_parquet(tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, 10)
    zone = datetime.timezone(datetime.timedelta(hours=2))
    columns = {
        "image": ["1.jpg", "2.jpg"],
        "int": pa.array([1, None], pa.int16()),
        "half": np.array([0.5, 1.5], np.float16),
        "text": pa.array(["a", None], pa.large_string()),
        "coded": pa.array(["x", "y"]).dictionary_encode(),
        "list": [[1, 2], None],
        "fixed": pa.array([[1.5, 2.5], [3.5, 4.5]], pa.list_(pa.float64(), 2)),
        "matrix": pa.array([[[1, 2]], [[3, 4]]], pa.list_(pa.list_(pa.int32(), 2), 1)),
        "moment": pa.array([moment, None]),
        "zoned": pa.array([moment.replace(tzinfo=zone)] * 2, pa.timestamp("s", "Europe/Berlin")),
        "day": [datetime.date(2024, 5, 6)] * 2,
        "price": [decimal.Decimal("1.50"), decimal.Decimal("2")],
    }
    entries, layout = listed(stored(tmp_path, columns))
    assert entries[0].fields == {
        "int": 1, "half": 0.5, "text": "a", "coded": "x", "list": [1, 2], "fixed": [1.5, 2.5],
        "matrix": [[1, 2]], "moment": "2024-05-06T07:08:09.000010", "zoned": "2024-05-06T05:08:09.000Z",
        "day": "2024-05-06", "price": "1.50",
    }  # fmt: skip
    assert (entries[1].fields["int"], entries[1].fields["list"], entries[1].fields["moment"]) == (None, None, None)
    assert layout.fields == {
        "fixed": Field(dtype="float32", shape=(2,)),
        "matrix": Field(dtype="int64", shape=(1, 2)),
    }


@pytest.mark.parametrize(
    ("values", "kind"),
    [([{"a": 1}], "struct<a: int64>"), ([b"x"], "binary"), (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
        "map<string, int8 ('odd')>"), ([[{"a": 1}]], "list<element: struct<a: int64>>")],
    ids=["struct", "binary", "map", "list"],
)  # fmt: skip
def test_columns_that_are_no_fields(tmp_path: Path, values: Any, kind: str) -> None:
    path = stored(tmp_path, {"path": ["1.jpg"], "odd": values, "x": [1]})
    assert refusal(path) == (
        f'column "odd" is {kind}, which is no field: name the columns to keep with --fields; for images in it,'
        " give --source arrow"
    )
    assert listed(path, fields=("x",))[0] == [Entry("1.jpg", fields={"x": 1})]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_of_parts(tmp_path: Path, kind: str) -> None:
    for number in (2, 1):
        frame = pd.DataFrame({"path": [f"{number}.jpg"], "label": [number]})
        getattr(frame, f"to_{kind}")(tmp_path / f"part-{number}.{kind}", index=False)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "1.jpg").write_bytes(b"123")
    assert "nothing else in it, here is 1.jpg; give the table alone" in refusal(tmp_path)
    (tmp_path / "1.jpg").rename(tmp_path / ".1.jpg")
    entries, layout = listed(tmp_path)
    assert [entry.id for entry in entries] == ["1.jpg", "2.jpg"]
    assert " table of 2 rows in 2 files; " in layout.text
    frame.rename(columns={"label": "class"}).to_csv(tmp_path / "part-3.csv", index=False)
    if kind == "csv":
        with pytest.raises(UsageError) as error:
            listed(tmp_path)
        assert str(error.value) == (
            f"INPUT {tmp_path}/part-3.csv: has the columns path, class; part-1.csv has path, label:"
            " the files of a folder are one table, with the same columns"
        )


def test_paths_of_all_kinds(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe({"memory://table-bucket/u.jpg": b"url", "memory://table-bucket/t/b.jpg": b"root"})
    (tmp_path / "t").mkdir()
    for name in ("a.jpg", "t/b.jpg", "t/c d.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    paths = {
        "b.jpg": b"t/b.jpg", "./b.jpg": b"t/b.jpg", "../a.jpg": b"a.jpg", f"{tmp_path}/a.jpg": b"a.jpg",
        f"file://{tmp_path}/t/c%20d.jpg": b"t/c d.jpg", "memory://table-bucket/u.jpg": b"url",
    }  # fmt: skip
    path = written(tmp_path / "t", "path\n" + "\n".join(paths))
    entries, _ = listed(path)
    worker = Table(SourceOptions(input=str(path)))
    assert [worker.read(Reference(entry.id, -1, entry.place)) for entry in entries] == list(paths.values())
    worker = Table(SourceOptions(input=str(path), root="memory://table-bucket/t"))
    found = {"b.jpg": b"root", "./b.jpg": b"root", "../u.jpg": b"url", f"{tmp_path}/a.jpg": b"a.jpg"}
    for name, data in found.items():
        assert worker.read(Reference("x", -1, name)) == data
    assert worker.uri(Reference("../u.jpg", -1)) == "memory://table-bucket/u.jpg"


def test_a_table_in_a_bucket() -> None:
    frame = pd.DataFrame({"path": ["1.jpg", "2.jpg"], "label": [0, 1]})
    data = {"x.csv": frame.to_csv(index=False).encode(), "x.parquet": frame.to_parquet(), "1.jpg": b"123"}
    data["x.jsonl"] = frame.to_json(orient="records", lines=True).encode()
    fsspec.filesystem("memory").pipe({f"memory://in-bucket/{name}": value for name, value in data.items()})
    for name in ("x.csv", "x.parquet", "x.jsonl"):
        entries, _ = listed(f"memory://in-bucket/{name}")
        assert [entry.id for entry in entries] == ["1.jpg", "2.jpg"]
        worker = Table(SourceOptions(input=f"memory://in-bucket/{name}"))
        assert worker.read(Reference("1.jpg", -1)) == b"123"
        assert worker.uri(Reference("1.jpg", -1)) == "memory://in-bucket/1.jpg"
        with pytest.raises(FileNotFoundError):
            worker.read(Reference("2.jpg", -1))
        assert worker.answers(Reference("2.jpg", -1))
    assert refusal("memory://in-bucket/y.csv") == "does not exist"
    assert not Table(SourceOptions(input="memory://no-bucket/x.csv")).answers(Reference("1.jpg", -1))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    written(tmp_path, "x", "file")
    source = Table(SourceOptions(input=str(tmp_path / "x.csv")))
    for path in ("gone.jpg", "file/a.jpg", "x" * 300, "gone/a.jpg"):
        with pytest.raises(FileNotFoundError):
            source.read(Reference(path, -1))
        assert source.answers(Reference(path, -1))
    for path in ("pipe.jpg", str(tmp_path)):
        with pytest.raises(BadInput, match="is a folder, a pipe or a device"):
            source.read(Reference(path, -1))
    assert not source.answers(Reference(f"{tmp_path}/gone/a.jpg", -1))


@pytest.mark.parametrize(
    ("text", "id", "reason", "message"),
    [
        (",cat,train", "labels.csv:3", "no-path", 'column "path" is empty; it is to have the path of an image'),
        ("1.jpg,,train", "1.jpg", "no-label", 'column "label" is empty; it is to have a label'),
        ("1.jpg,cat,", "1.jpg", "no-split", 'column "split" is empty; it is to have a split'),
        ("1.jpg,cat", "labels.csv:3", "bad-row", "has 2 cells, the header has 3: '1.jpg,cat'; fill in the missing"
            " value, or remove the row"),
        ("1\0.jpg,cat,val", "1\0.jpg", "bad-path", "the path '1\\x00.jpg' has a NUL character, which no path has"),
        ("hdfz://a/1.jpg,cat,val", "hdfz://a/1.jpg", "unsupported-url", "the path 'hdfz://a/1.jpg' is of hdfz://, and"
            " the URLs of a table are file, s3, gs, az, http, https or hdfs"),
    ],
)  # fmt: skip
def test_rows_of_csv_that_cannot_be_used(tmp_path: Path, text: str, id: str, reason: str, message: str) -> None:
    path = written(tmp_path, f"path,label,split\n0.jpg,dog,val\n{text}\n")
    assert problems(path) == [(id, reason, f"labels.csv line 3: {message}")]


def test_where_a_row_without_a_path_is(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    source = Table(SourceOptions(input=str(written(tmp_path, "path,x\n,2\n")), root=str(tmp_path / "photos")))
    [entry] = source.entries()
    assert source.uri(entry) == f"{tmp_path}/labels.csv:2"


@pytest.mark.parametrize(
    ("line", "id", "reason", "message"),
    [
        ('{"path": "2.jpg"', "x.jsonl:2", "bad-row", "is no JSON (Expecting ',' delimiter): '{\"path\": \"2.jpg\"'"),
        ("[1]", "x.jsonl:2", "bad-row", "is no JSON object: '[1]'"),
        ('{"path": "\\ud800"}', "x.jsonl:2", "bad-row", "has half of a surrogate pair, which is no text"),
        ('{"path": 7}', "x.jsonl:2", "no-path", 'column "path" is 7; it is to have the path of an image'),
        ('{"path": "2.jpg", "y": [null]}', "2.jpg", "bad-label", 'column "y" has None, which is no class'),
    ],
)
def test_lines_of_json_that_cannot_be_used(tmp_path: Path, line: str, id: str, reason: str, message: str) -> None:
    path = written(tmp_path, f'{{"path": "1.jpg", "y": 1}}\n{line}\n', "x.jsonl")
    assert problems(path) == [(id, reason, f"x.jsonl line 2: {message}")]


def test_ids_that_are_missing(tmp_path: Path) -> None:
    path = stored(tmp_path, {"path": ["1.jpg", "2.jpg"], "key": [7, None]})
    assert listed(path, id_column="key")[0][0].id == "7"
    message = 'labels.parquet row 2: column "key" is empty; it is to have an id'
    assert problems(path, id_column="key") == [("2.jpg", "no-id", message)]


LATIN = "iconv -f LATIN1 -t UTF-8 labels.csv > labels-utf8.csv"
UTF16 = "iconv -f UTF-16 -t UTF-8 labels.csv > labels-utf8.csv"
QUOTE = (
    "a row that begins here has a quote that is not closed, or that has text after it ({});"
    ' write a " in a quoted cell twice'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; its first line names the columns"),
        ("path,label\n", "has no row, only the columns path, label"),
        ("path,x,x\n1,2,3\n", 'two columns are named "x"; rename one'),
        ("where,x\n1,2\n", "which column has the paths of images? give --path-column; it has where, x"),
        ("path,x\n1.jpg,caf\xe9\n".encode("latin-1"), "line 2: byte 10 (0xe9) is not UTF-8; if the file is Latin-1,"
            f" convert it: {LATIN}"),
        ("path,x\n1,2\n".encode("utf-16"), f"line 1: byte 1: is UTF-16, not UTF-8; convert it: {UTF16}"),
        ("path,x\n1,2\n".encode("utf-16-le"), f"line 1: byte 1: is UTF-16, not UTF-8; convert it: {UTF16}"),
        ('path,x\n1,2\n3,"4\n5,6\n', "line 3: " + QUOTE.format("unexpected end of data")),
        ('path,x\n1,2\n3,"4\n5,"6"\n', "line 3: " + QUOTE.format("',' expected after '\"'")),
        ("path,x\n,2\n,3\n", 'has no row that can be used; labels.csv line 2: column "path" is empty; it is to have'
            " the path of an image"),
    ],
)  # fmt: skip
def test_a_csv_that_cannot_be(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert refusal(written(tmp_path, text)) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path_column": "p"}, "--path-column p: INPUT {} has no such column; it has path, label, a, b"),
        ({"label_column": "p"}, "--label-column p: INPUT {} has no such column; it has path, label, a, b"),
        ({"fields": ("a", "c")}, "--fields c: INPUT {} has no such column; it has path, label, a, b"),
        ({"boxes": ("c",)}, "--boxes c: INPUT {} has no such column; it has path, label, a, b"),
        ({"boxes": ("a", "b")}, "--boxes a,b: give one column of lists, or 4 columns"),
        ({"points": ("a", "b", "a")}, "--points a,b,a: give one column of lists, or 2 columns"),
        ({"label_separator": "|", "fields": ("label",)}, "INPUT {}: --label-separator: no column has labels; give"
            " --label-column; it has path, label, a, b"),
    ],
)  # fmt: skip
def test_columns_that_are_not_there(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = written(tmp_path, "path,label,a,b\n1.jpg,cat,2,3\n")
    with pytest.raises(UsageError) as error:
        listed(path, **options)
    assert str(error.value) == message.format(path)


def test_a_label_that_is_a_value(tmp_path: Path) -> None:
    path = stored(tmp_path, {"path": ["1.jpg"], "y": [0.5]})
    with pytest.raises(UsageError) as error:
        listed(path)
    assert str(error.value) == (
        'labels.parquet row 1: column "y" is 0.5, which is no class; if it is a value to predict, make it a field:'
        " --fields y"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.csv", "does not exist"),
        ("gone", "is no table; its name would end in .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .csv.gz,"
            " .tsv.gz, .jsonl.gz, .ndjson.gz"),
        ("empty", "is an empty folder"),
        ("bad.parquet", "cannot be read as Parquet: Parquet magic bytes not found in footer. Either the file is"
            " corrupted or this is not a parquet file."),
        ("bad.jsonl", "has no line with a JSON object"),
    ],
)  # fmt: skip
def test_an_input_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    written(tmp_path, "no Parquet at all", "bad.parquet")
    written(tmp_path, "[1]\n", "bad.jsonl")
    assert refusal(tmp_path / name) == message


def test_a_parquet_that_is_cut(tmp_path: Path) -> None:
    data = bytearray(stored(tmp_path, {"path": [f"{n}.jpg" for n in range(9999)]}).read_bytes())
    data[100:20_000] = bytes(19_900)
    assert refusal(written(tmp_path, bytes(data), "x.parquet")).startswith("cannot be read as Parquet: ")


BOX = Field(dtype="float32", shape=(None, 4))


def test_boxes_and_points_in_lists(tmp_path: Path) -> None:
    columns = {
        "path": ["1.jpg", "2.jpg", "3.jpg"],
        "bbox": [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8], None],
        "at": [[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]], []],
        "objects/label": [[1], [1, 2], []],
    }
    entries, layout = listed(stored(tmp_path, columns), boxes=("bbox",), points=("at",), box_format="rel-xywh")
    assert [entry.fields["objects/bbox"] for entry in entries] == [[[1, 2, 3, 4]], [[1, 2, 3, 4], [5, 6, 7, 8]], []]
    assert [entry.fields["objects/point"] for entry in entries] == [[[1, 2]], [[1, 2], [3, 4]], []]
    assert (layout.boxes, layout.points) == ({"objects/bbox": "rel-xywh"}, {"objects/point": "rel-xy"})
    assert layout.fields == {"objects/bbox": BOX, "objects/point": Field(dtype="float32", shape=(None, 2))}
    assert layout.text.endswith('boxes in "bbox", points in "at", fields objects/label')


def test_boxes_in_csv(tmp_path: Path) -> None:
    text = 'path,x1,y1,x2,y2,all\n1.jpg,1,2,3,4.5,"[[1, 2, 3, 4], [5, 6, 7, 8]]"\n2.jpg,,,,,\n'
    path = written(tmp_path, text)
    entries, _ = listed(path, boxes=("x1", "y1", "x2", "y2"), fields=())
    assert [entry.fields for entry in entries] == [{"objects/bbox": [[1, 2, 3, 4.5]]}, {"objects/bbox": []}]
    entries, _ = listed(path, boxes=("all",), fields=())
    assert [entry.fields for entry in entries] == [{"objects/bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}, {"objects/bbox": []}]


@pytest.mark.parametrize(
    ("box", "format", "message"),
    [
        ("[5, 2, 3, 4]", "xyxy", "the box [5.0, 2.0, 3.0, 4.0] (xyxy) has a negative width or height"),
        ("[5, 2, 3, -4]", "rel-xywh", "the box [5.0, 2.0, 3.0, -4.0] (rel-xywh) has a negative width or height"),
        ("[5, 2, 9, NaN]", "xyxy", "the box [5, 2, 9, nan] is not four numbers"),
        ("[[1, 2, 3]]", "xyxy", "the box [1, 2, 3] is not four numbers"),
        ('[1, 2, 3, "4"]', "xyxy", "the box [1, 2, 3, '4'] is not four numbers"),
        ("[1, 2, 3]", "xyxy", "the boxes [1, 2, 3] have 3 numbers, no multiple of 4"),
        ("1 2 3 4", "xyxy", "'1 2 3 4' is no JSON, as a number or a list of numbers is"),
        ('{"x": 1}', "xyxy", "{'x': 1} is no list of boxes"),
    ],
)
def test_boxes_that_cannot_be(tmp_path: Path, box: str, format: str, message: str) -> None:
    path = written(tmp_path, f'path\tbox\n1.jpg\t\n2.jpg\t"{box.replace(chr(34), chr(34) * 2)}"\n', "x.tsv")
    assert problems(path, boxes=("box",), box_format=format) == [("2.jpg", "bad-box", f"x.tsv line 3: {message}")]


def test_points_that_cannot_be(tmp_path: Path) -> None:
    path = written(tmp_path, "path,x,y\n1.jpg,1,\n", "x.csv")
    assert problems(path, points=("x", "y")) == [
        ("1.jpg", "bad-point", "x.csv line 2: the point [1, None] is not two numbers")
    ]


def test_lists_that_are_not_of_the_same_objects(tmp_path: Path) -> None:
    path = stored(tmp_path, {"path": ["1.jpg"], "bbox": [[1, 2, 3, 4]], "objects/label": [[1, 2]]})
    assert problems(path, boxes=("bbox",)) == [
        ("1.jpg", "bad-box", "labels.parquet row 1: as many elements as objects are to be in each of them, here are"
            " 2 in objects/label, 1 in objects/bbox")
    ]  # fmt: skip


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Two million rows, which would take 400 MB as objects of Python, and a column that is not read."""
    rows, groups = 200_000, 10
    schema = pa.schema([("path", pa.string()), ("label", pa.int64()), ("unused", pa.string())])
    with parquet.ParquetWriter(tmp_path / "big.parquet", schema) as writer:
        for group in range(groups):
            paths = [f"{group}/{row:08d}.jpg" for row in range(rows)]
            writer.write_table(pa.table([paths, np.arange(rows), paths], schema))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = Table(SourceOptions(input=str(tmp_path / "big.parquet"), fields=()))
    assert sum(entry.problem is None for entry in source.entries()) == rows * groups
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("column", ["url", "image_id"])
def test_columns_of_addresses_and_ids(tmp_path: Path, column: str) -> None:
    entries, _ = listed(written(tmp_path, f"{column},label\n1.jpg,cat\n"))
    assert (entries[0].id, entries[0].label) == ("1.jpg", "cat")
    entries, _ = listed(written(tmp_path, f"{column},path,label\n5,1.jpg,cat\n"))
    assert (entries[0].id, entries[0].fields) == ("1.jpg", {column: "5"})


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    _, layout = listed(written(tmp_path, ",path,label,age,size\n0,1.jpg,cat,1,2\n"), fields=("age",))
    assert layout.left_out == (
        LeftOut(what="the column without a name", why="row numbers of pandas; rename it to read it"),
        LeftOut(what="columns size", why="--fields does not name them"),
    )


@pytest.mark.parametrize("vectors", [[[0.0, 1.0], [1.0, 0.0]], [[0, 1, 0], [1, 0, 0]]])
def test_one_hot_vectors_are_classes(tmp_path: Path, vectors: list[list[float]]) -> None:
    entries, _ = listed(stored(tmp_path, {"path": ["a", "b"], "label": vectors}))
    assert [entry.label for entry in entries] == [1, 0]
    entries, _ = listed(stored(tmp_path, {"path": ["a", "b"], "label": [[0, 1], [1]]}))
    assert [entry.label for entry in entries] == [[0, 1], [1]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "sep=;\npath;label\n1.jpg;cat\n"),
        ("a.csv", '"sep=|"\r\npath|label\r\n1.jpg|cat\r\n'),
        ("a.csv.gz", gzip.compress(b"path,label\n1.jpg,cat\n", mtime=0)),
        ("a.JSONL.gz", gzip.compress(b'{"path": "1.jpg", "label": "cat"}\n', mtime=0)),
        ("a.json", '[{"path": "1.jpg", "label": "cat"}]'),
    ],
)
def test_other_forms_of_tables(tmp_path: Path, name: str, text: str | bytes) -> None:
    path = written(tmp_path, text, name)
    assert listed(path)[0] == [Entry("1.jpg", label="cat")]
    assert recognised(SourceOptions(input=str(path)))[0].kind == ("coco" if name == "a.json" else "table")


def test_rows_after_a_line_of_the_separator_have_their_numbers(tmp_path: Path) -> None:
    assert problems(written(tmp_path, "sep=;\npath;label\n1.jpg\n"))[0][0] == "labels.csv:3"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,label\r1.jpg,cat\r", "lines that end in CR alone, as of old Macs; convert it: tr '\\r' '\\n'"),
        ("a.csv.gz", gzip.compress(b"path,label\n1.jpg,cat\n", mtime=0)[:-9], "cannot be unpacked by gzip"),
        ("a.csv.gz", "path,label\n1.jpg,cat\n", "cannot be unpacked by gzip"),
        ("a.json", "[1, ", "ends at byte 4"),
    ],
)
def test_tables_that_are_damaged(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    assert message in refusal(written(tmp_path, text, name))


def test_an_ordered_categorical_keeps_its_order(tmp_path: Path) -> None:
    sizes = ["small", "medium", "large"]
    for ordered in (True, False):
        label = pd.Categorical(["large", "small"], categories=sizes, ordered=ordered)
        pd.DataFrame({"path": ["a", "b"], "label": label}).to_parquet(tmp_path / "a.parquet")
        entries, layout = listed(tmp_path / "a.parquet")
        assert [entry.label for entry in entries] == ["large", "small"]
        assert layout.class_names == (tuple(sizes) if ordered else None)


@pytest.mark.parametrize("path", ["../b/x.jpg", "../../../b/x.jpg", "c/../../b/x.jpg"])
def test_two_dots_lead_out_of_no_bucket(path: str) -> None:
    paths = Paths("s3://bucket/a", SourceOptions(input="s3://bucket/a/t.csv"))
    assert paths._beside(path) == "s3://bucket/b/x.jpg"
    assert Paths("s3://bucket", SourceOptions(input="s3://bucket/t.csv"))._beside("../x") == "s3://bucket/x"
