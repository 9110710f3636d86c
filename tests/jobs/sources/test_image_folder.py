"""A folder of images with metadata.csv, .jsonl or .parquet, as ImageFolder of Hugging Face has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.sources import Found, refusal, upload

from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.known import recognised
from beam_jobs.sources.tabular.image_folder import ImageFolder
from shard_reader.format import Field


def found(path: object, **options: Any) -> Found:
    return Found(ImageFolder(SourceOptions(input=str(path), **options)))


def refused(path: object, **options: Any) -> str:
    return refusal(ImageFolder, path, **options)


def described(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Metadata in the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def kind_of(path: object) -> tuple[str | None, str]:
    options, why = recognised(SourceOptions(input=str(path)))
    return options.kind, why


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_metadata_beside_images(suffix: str, tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "deep/2.jpg")
    rows = [{"file_name": "1.jpg", "label": "cat", "age": 7}, {"file_name": "deep/2.jpg", "label": "dog", "age": 8}]
    described(tmp_path / f"metadata{suffix}", rows)
    assert kind_of(tmp_path) == ("imagefolder", f"from metadata{suffix}, which names images")
    listing = found(tmp_path)
    assert listing.labels == {"1.jpg": ("cat", None), "deep/2.jpg": ("dog", None)}
    assert [int(entry.fields["age"]) for entry in listing.entries.values()] == [7, 8]
    assert [(listing.read(id), entry.size) for id, entry in listing.entries.items()] == [
        (b"1.jpg", 5),
        (b"deep/2.jpg", 10),
    ]
    assert listing.layout.untyped == (suffix == ".csv")
    assert listing.text == (
        f'images described by metadata{suffix} (names in column "file_name"), labels in "label", fields age'
    )


def test_metadata_in_each_split_folder(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.jpg", "test/1.jpg", "README.md")
    described(tmp_path / "train/metadata.csv", [{"file_name": "a/1.jpg", "label": 3}])
    described(tmp_path / "test/metadata.csv", [{"file_name": "1.jpg", "label": 4}])
    (tmp_path / "README.md").unlink()
    assert kind_of(tmp_path) == ("imagefolder", "from test/metadata.csv, which names images")
    listing = found(tmp_path)
    assert listing.labels == {"test/1.jpg": ("4", "test"), "train/a/1.jpg": ("3", "train")}
    assert listing.layout.splits == ("train", "test")


def test_one_file_for_all_splits(tmp_path: Path) -> None:
    write(tmp_path, "train/1.jpg", "val/1.jpg")
    described(tmp_path / "metadata.csv", [{"file_name": "train/1.jpg", "x": 1}, {"file_name": "val/1.jpg", "x": 2}])
    assert {id: split for id, (_, split) in found(tmp_path).labels.items()} == {
        "train/1.jpg": "train",
        "val/1.jpg": "val",
    }


def test_images_without_a_row_and_rows_without_an_image(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "2.jpg", "notes.txt", "sub/3.jpg")
    names = ["1.jpg", "missing.jpg", "../out.jpg", "/etc/passwd", "", "./sub/../1.jpg"]
    described(tmp_path / "metadata.csv", [{"file_name": name, "x": 1} for name in names])
    listing = found(tmp_path)
    assert listing.rejects == {
        "2.jpg": ("no-row", "no metadata.csv has a row for it"),
        "sub/3.jpg": ("no-row", "no metadata.csv has a row for it"),
        "missing.jpg": ("missing", "metadata.csv line 3: names missing.jpg, which is not there"),
        "metadata.csv:4": ("outside", "metadata.csv line 4: the path '../out.jpg' leads out of INPUT"),
        "metadata.csv:5": ("outside", "metadata.csv line 5: the path '/etc/passwd' leads out of INPUT"),
        "metadata.csv:6": (
            "no-path",
            'metadata.csv line 6: column "file_name" is empty; it is to have the path of an image',
        ),
    }
    source = ImageFolder(SourceOptions(input=str(tmp_path)))
    assert [entry.id for entry in source.entries()].count("1.jpg") == 2, "two rows are two inputs, of which one is kept"
    assert [one.what for one in listing.layout.left_out] == ["1 .txt file, as notes.txt"]


def test_a_bad_row_is_a_reject(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.jpg,cat\n2.jpg\n")
    listing = found(tmp_path)
    assert list(listing.entries) == ["1.jpg"]
    assert listing.rejects["metadata.csv:3"][1].startswith("metadata.csv line 3: has 1 cells, the header has 2")
    assert listing.rejects["2.jpg"][0] == "no-row"
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.jpg,cat\n2.jpg,\n")
    message = 'metadata.csv line 3: column "label" is empty; it is to have a label'
    assert found(tmp_path).rejects == {"2.jpg": ("no-label", message)}


def test_columns_of_other_files(tmp_path: Path) -> None:
    write(tmp_path, "in.jpg", "out.jpg")
    rows = [{"input_file_name": "in.jpg", "output_file_name": "out.jpg", "prompt": "x"}]
    described(tmp_path / "metadata.jsonl", rows)
    listing = found(tmp_path)
    assert list(listing.entries) == ["in.jpg"] and listing.entries["in.jpg"].fields == {"prompt": "x"}
    assert listing.layout.payloads == {"output": "photo"} and not listing.layout.left_out
    assert listing.entries["in.jpg"].payloads == {"output": "out.jpg"}
    assert not listing.rejects  # the further image is no image without a row
    assert list(found(tmp_path, path_column="output_file_name").entries) == ["out.jpg"]


def test_boxes_ids_and_splits_of_columns(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg")
    row = {"file_name": "1.jpg", "id": "one", "part": "dev", "bbox": [[0, 0, 2, 3]]}
    described(tmp_path / "metadata.jsonl", [row])
    listing = found(tmp_path, id_column="id", split_column="part", boxes=("bbox",), box_format="xywh")
    entry = listing.entries["one"]
    assert (entry.split, entry.fields) == ("dev", {"objects/bbox": [[0.0, 0.0, 2.0, 3.0]]})
    assert listing.read("one") == b"1.jpg"
    assert listing.layout.fields == {"objects/bbox": Field(dtype="float32", shape=(None, 4))}


def test_folders_are_no_classes_where_metadata_is(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg", "dog/2.jpg")
    described(tmp_path / "metadata.csv", [{"file_name": "cat/1.jpg", "x": 1}, {"file_name": "dog/2.jpg", "x": 2}])
    listing = found(tmp_path)
    assert [label for label, _ in listing.labels.values()] == [None, None]
    (warning,) = listing.layout.warnings
    assert warning.endswith(
        "images lie in folders, which are no classes where metadata describes them: if they are, write a column label,"
        " or give --source folder"
    )


def test_folders_that_are_no_image_folders(tmp_path: Path) -> None:
    """A table of paths without the column, and one without images beside it."""
    write(tmp_path, "a/1.jpg")
    described(tmp_path / "metadata.csv", [{"path": "a/1.jpg", "label": 1}])
    assert kind_of(tmp_path)[0] == "folder"
    described(tmp_path / "alone/metadata.csv", [{"file_name": "a/1.jpg", "label": 1}])
    assert kind_of(tmp_path / "alone")[0] == "folder"


def test_refusals(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "sub/2.jpg")
    assert refused(tmp_path) == "INPUT: has no metadata.csv, metadata.jsonl or metadata.parquet; give --source folder"
    described(tmp_path / "metadata.csv", [{"name": "1.jpg"}])
    assert refused(tmp_path) == "INPUT/metadata.csv: has no column file_name, nor one that ends so; it has name"
    described(tmp_path / "metadata.csv", [{"file_name": "x.jpg"}])
    assert "INPUT: has no image that can be used; " in refused(tmp_path)
    described(tmp_path / "metadata.jsonl", [{"file_name": "x.jpg"}])
    assert "metadata.csv" in refused(tmp_path) and refused(tmp_path).endswith("; keep one of them")
    (tmp_path / "metadata.jsonl").rename(tmp_path / "sub/metadata.jsonl")
    assert refused(tmp_path) == ("INPUT: is described by metadata.csv and sub/metadata.jsonl; write both in one format")
    (tmp_path / "sub/metadata.jsonl").unlink()
    described(tmp_path / "sub/metadata.csv", [{"file_name": "2.jpg", "x": 1}])
    assert refused(tmp_path).startswith("INPUT/sub/metadata.csv: has the columns file_name, x; ")
    assert refused(tmp_path / "none") == "INPUT: does not exist, or is no folder"


def test_a_folder_in_a_store(bucket: str, tmp_path: Path) -> None:
    write(tmp_path, "1.jpg")
    described(tmp_path / "metadata.csv", [{"file_name": "1.jpg", "label": "a"}])
    for name in ("1.jpg", "metadata.csv"):
        upload(tmp_path / name, f"{bucket}/in/{name}")
    assert kind_of(f"{bucket}/in")[0] == "imagefolder"
    assert found(f"{bucket}/in").read("1.jpg") == b"1.jpg"
