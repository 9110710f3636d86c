"""Further images and bytes inside of Parquet and Arrow files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.sources import Found, refusal

from beam_jobs.sources.files.interface import BadInput, Reading, Reference, SourceOptions
from beam_jobs.sources.tabular.arrow import ArrowFiles

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS = {
    "image": pa.array([{"bytes": b"a", "path": None}, {"bytes": b"b", "path": None}], STRUCT),
    "mask": pa.array([{"bytes": b"m" * 70_000, "path": None}, None], STRUCT),
    "other": pa.array([[{"bytes": b"x", "path": None}], [{"bytes": b"y", "path": None}]], pa.list_(STRUCT)),
    "header": pa.array([b"\x00\x01", b"\x02"]),
    "age": pa.array([1, 2]),
}


def write(path: Path, columns: dict[str, Any] = COLUMNS, codec: str = "snappy") -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, compression=codec)
        return path
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return path


def found(path: Path, **options: Any) -> Found:
    return Found(ArrowFiles(SourceOptions(input=str(path), **options)))


def payloads(path: Path, **options: Any) -> list[dict[str, bytes]]:
    """The payloads of each row, read by another source of the same options, as a worker does."""
    listing, worker = found(path, **options), ArrowFiles(SourceOptions(input=str(path), **options))
    references = [Reference(id, -1, one.place, payloads=one.payloads) for id, one in listing.entries.items()]
    return [{name: worker.read_payload(one, name) for name in one.payloads} for one in references]


ALL = ("image", "mask", "other", "header:bytes")


@pytest.mark.parametrize(
    ("name", "codec"), [("t.parquet", "none"), ("t.parquet", "snappy"), ("t.parquet", "zstd"), ("t.arrow", "")]
)
def test_further_columns_are_read(name: str, codec: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, codec=codec)
    assert payloads(path, image_columns=ALL) == [
        {"mask": b"m" * 70_000, "other": b"x", "header": b"\x00\x01"},
        {"other": b"y", "header": b"\x02"},  # the mask is null
    ]
    layout = found(path, image_columns=ALL).layout
    assert layout.payloads == {"mask": "mask", "other": "photo", "header": "bytes"}
    assert sorted(found(path, image_columns=ALL).entries[f"{0:08d}"].fields) == ["age"]


def test_masks_come_by_their_names_and_others_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")
    layout = found(path).layout
    assert layout.payloads == {"mask": "mask"}
    named = {one.what: one.why for one in layout.left_out}
    assert named["columns other, header"] == (
        "--image-columns image,mask,other,header stores them, or NAME:bytes as bytes"
    )
    assert payloads(path) == [{"mask": b"m" * 70_000}, {}]


def test_the_column_of_masks_becomes_the_field_mask(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", COLUMNS | {"mask": COLUMNS["age"], "truth": COLUMNS["mask"]})
    listing = found(path, mask_column="truth", fields=("age",))
    assert listing.layout.payloads == {"mask": "mask"}


def test_sounds_are_bytes(tmp_path: Path) -> None:
    features = '{"info": {"features": {"image": {"_type": "Image"}, "sound": {"_type": "Audio"}}}}'
    table = pa.table({"image": COLUMNS["image"], "sound": COLUMNS["mask"]})
    parquet.write_table(table.replace_schema_metadata({"huggingface": features}), tmp_path / "t.parquet")
    (left_out,) = found(tmp_path / "t.parquet", fields=()).layout.left_out[-1:]
    assert (left_out.what, left_out.why) == (
        "columns sound",
        "--image-columns image,sound:bytes stores them as they are",
    )
    assert payloads(tmp_path / "t.parquet", image_columns=("image", "sound:bytes"))[0] == {"sound": b"m" * 70_000}


def test_masks_may_be_paths(tmp_path: Path) -> None:
    masks = pa.array([{"bytes": None, "path": "m.png"}, {"bytes": None, "path": "../m.png"}], STRUCT)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/m.png").write_bytes(b"file")
    path = write(tmp_path / "in/t.parquet", COLUMNS | {"mask": masks})
    options = {"below": str(tmp_path / "in")}
    assert payloads(path, **options) == [{"mask": b"file"}]
    (reject,) = found(path, **options).rejects.values()
    assert reject[0] == "outside" and reject[1].startswith('t.parquet row 1: column "mask": the path')


def test_a_payload_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")
    source = ArrowFiles(SourceOptions(input=str(path)))
    entry = next(source.entries())
    source.reading = Reading(max_bytes=100)
    with pytest.raises(BadInput, match="--max-bytes"):
        source.read_payload(Reference(entry.id, -1, entry.place, payloads=entry.payloads), "mask")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_columns": ("image", "age")},
            "--image-columns age: is no column of images or bytes; those are: image,",
        ),
        ({"mask_column": "gone"}, "--mask-column gone: is no column of images or bytes"),
        ({"image_columns": ("age", "mask")}, "--image-columns age: is no column of images"),
        (
            {"image_columns": ("image", "mask"), "image_key": "other"},
            "its first is the image, and --image-key is other",
        ),
    ],
)
def test_wrong_columns_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(ArrowFiles, write(tmp_path / "t.parquet"), **options)


def test_files_of_a_folder_have_the_same_further_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", COLUMNS | {"mask": pa.array([b"1", b"2"])})
    assert "the files of a folder have the same columns" in refusal(ArrowFiles, tmp_path)
