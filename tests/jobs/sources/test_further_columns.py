"""Columns with further images or bytes: of tables, and of the metadata of image folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.sources import Found, refusal

from beam_jobs.sources.files.interface import BadInput, Reading, Reference, SourceOptions
from beam_jobs.sources.tabular.image_folder import ImageFolder
from beam_jobs.sources.tabular.table import Table

ROWS = [{"path": "1.jpg", "mask": "m/1.png", "sound": "1.wav", "age": 1}, {"path": "2.jpg", "mask": "", "age": 2}]


def found(path: object, **options: Any) -> Found:
    return Found(Table(SourceOptions(input=str(path), **options)))


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0]), *(",".join(str(row.get(name, "")) for name in rows[0]) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_of_further_images_and_bytes(suffix: str, tmp_path: Path) -> None:
    place = table(tmp_path / f"t{suffix}", ROWS)
    listing = found(place, image_columns=("path", "mask", "sound:bytes"))
    assert listing.layout.payloads == {"mask": "mask", "sound": "bytes"}
    assert 'mask (mask) in "mask", sound (bytes) in "sound"' in listing.text
    assert listing.entries["1.jpg"].payloads == {"mask": "m/1.png", "sound": "1.wav"}
    assert listing.entries["2.jpg"].payloads == {}  # an empty cell
    assert [sorted(one.fields) for one in listing.entries.values()] == [["age"], ["age"]]


def test_the_column_of_masks(tmp_path: Path) -> None:
    place = table(tmp_path / "t.csv", [{"image": "1.jpg", "seg_path": "1.png"}])
    listing = found(place, mask_column="seg_path")
    assert listing.layout.payloads == {"mask": "mask"} and listing.layout.warnings == ()
    assert listing.entries["1.jpg"].payloads == {"mask": "1.png"}


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        (("path", "mask"), {"mask": "mask"}),
        (("path", "mask:photo"), {"mask": "photo"}),
        (("mask", "path"), {"path": "photo"}),
        (("path", "sound:depth"), {"sound": "depth"}),
    ],
)
def test_roles_of_columns(columns: tuple[str, ...], roles: dict[str, str], tmp_path: Path) -> None:
    assert found(table(tmp_path / "t.csv", ROWS[:1]), image_columns=columns).layout.payloads == roles


def test_further_files_lie_where_the_images_lie(tmp_path: Path) -> None:
    (tmp_path / "in/m").mkdir(parents=True)
    (tmp_path / "in/m/1.png").write_bytes(b"mask")
    options = SourceOptions(input=str(table(tmp_path / "t.csv", ROWS)), root=str(tmp_path / "in"), mask_column="mask")
    source = Table(options)
    entry = next(source.entries())
    reference = Reference(entry.id, entry.size, entry.place, payloads=entry.payloads)
    assert Table(options).read_payload(reference, "mask") == b"mask"
    source.reading = Reading(max_bytes=3)
    with pytest.raises(BadInput, match="--max-bytes"):
        source.read_payload(reference, "mask")


def test_a_suffix_is_for_paths_without_one(tmp_path: Path) -> None:
    place = table(tmp_path / "t.csv", [{"path": "1", "mask": "1_m", "depth": "1.tif"}])
    listing = found(place, path_suffix=".png", image_columns=("path", "mask", "depth"))
    assert listing.entries["1.png"].payloads == {"mask": "1_m.png", "depth": "1.tif"}


@pytest.mark.parametrize(
    ("value", "options", "reason", "message"),
    [
        ("https://example.com/1.png", {"no_urls": True}, "url", "which --no-urls rejects"),
        ("ssh://example.com/1.png", {}, "unsupported-url", "is of ssh://"),
        ("../1.png", {"below": True}, "outside", "leads out of --below"),
        ("/etc/passwd", {"below": True}, "outside", "leads out of --below"),
        ("1\0.png", {}, "bad-path", "NUL"),
        (7, {}, "no-path", "is 7; it is to have the path of a file"),
    ],
)
def test_a_path_that_may_not_be_read_rejects_its_row(
    value: Any, options: dict[str, Any], reason: str, message: str, tmp_path: Path
) -> None:
    rows = [{"path": "1.jpg", "mask": value}, {"path": "2.jpg", "mask": "2.png"}]
    options = {name: str(tmp_path) if name == "below" else one for name, one in options.items()}
    listing = found(table(tmp_path / "t.jsonl", rows), mask_column="mask", **options)
    assert list(listing.entries) == ["2.jpg"]
    (reject,) = listing.rejects.values()
    assert reject[0] == reason and message in reject[1]
    assert reject[1].startswith('t.jsonl line 1: column "mask"')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_columns": ("path", "gone")}, "--image-columns gone: INPUT {} has no such column"),
        ({"mask_column": "gone"}, "--mask-column gone: INPUT {} has no such column"),
        ({"image_columns": ("gone", "mask")}, "--image-columns gone: INPUT {} has no such column"),
        (
            {"image_columns": ("path", "mask"), "path_column": "mask"},
            "--image-columns path,...: its first is the image",
        ),
        ({"image_columns": ("path", "mask", "mask")}, "names a field twice"),
        ({"image_columns": ("path", "mask:film")}, "'film' is no role"),
        ({"segments": "mask"}, "--segments mask: has no meaning where INPUT is a table; leave it out"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    place = table(tmp_path / "t.csv", ROWS)
    assert message.format(place) in refusal(Table, place, **options).replace("INPUT has", f"INPUT {place} has")


def test_a_column_that_seems_to_have_masks_is_named(tmp_path: Path) -> None:
    place = table(tmp_path / "t.csv", ROWS)
    (warning,) = found(place).layout.warnings
    assert warning.endswith("to store these images, give --image-columns path,mask")
    assert not found(table(tmp_path / "u.csv", [{"path": "1.jpg", "mask": "blue", "x": "x.png"}])).layout.warnings


def test_further_names_of_files_in_metadata(tmp_path: Path) -> None:
    for name in ("train/1.jpg", "train/masks/1.png", "train/2.jpg", "train/stray.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "train/metadata.csv").write_text("file_name,mask_file_name,label\n1.jpg,masks/1.png,cat\n2.jpg,,dog\n")
    options = SourceOptions(input=str(tmp_path))
    listing = Found(ImageFolder(options))
    assert listing.layout.payloads == {"mask": "mask"} and listing.layout.splits == ("train",)
    assert listing.labels == {"train/1.jpg": ("cat", "train"), "train/2.jpg": ("dog", "train")}
    assert listing.rejects == {"train/stray.png": ("no-row", "no metadata.csv has a row for it")}
    entry = listing.entries["train/1.jpg"]
    reference = Reference(entry.id, entry.size, entry.place, payloads=entry.payloads)
    assert ImageFolder(options).read_payload(reference, "mask") == b"train/masks/1.png"
    assert listing.entries["train/2.jpg"].payloads == {}


def test_the_options_choose_among_names_of_files_in_metadata(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    (tmp_path / "metadata.csv").write_text("file_name,a_file_name,b_file_name,m\n1.jpg,a.png,b.png,m.png\n")
    kinds = {
        "all": ({}, {"a": "photo", "b": "photo"}),
        "named": ({"image_columns": ("file_name", "a_file_name:depth")}, {"a_file_name": "depth"}),
        "as texts": ({"fields": ("a_file_name", "b_file_name")}, {}),
        "and one more": ({"mask_column": "m"}, {"mask": "mask", "a": "photo", "b": "photo"}),
    }
    for options, expected in kinds.values():
        listing = Found(ImageFolder(SourceOptions(input=str(tmp_path), **options)))  # type: ignore[arg-type]
        assert listing.layout.payloads == expected
    (left_out,) = Found(
        ImageFolder(SourceOptions(input=str(tmp_path), image_columns=("file_name", "a_file_name")))
    ).layout.left_out
    assert left_out.what == "columns b_file_name"
    assert left_out.why == "--image-columns does not name them; the image is file_name"


def test_a_mask_outside_of_the_folder_rejects_its_row_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "in" / name).touch()
    (tmp_path / "in/metadata.csv").write_text("file_name,mask_file_name\n1.jpg,../m.png\n2.jpg,m.png\n")
    listing = Found(ImageFolder(SourceOptions(input=str(tmp_path / "in"))))
    assert list(listing.entries) == ["2.jpg"]
    message = "metadata.csv line 2: column \"mask_file_name\": the path '../m.png' leads out of INPUT"
    assert listing.rejects == {"1.jpg": ("outside", message)}
