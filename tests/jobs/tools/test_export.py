"""`image-shards export`: other programs read the files, and they give the same records again."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from support.images import write_image

from beam_jobs import PrepareOptions, prepare
from beam_jobs.cli import datasets as datasets_cli
from beam_jobs.cli.main import main
from beam_jobs.errors import JobError, UsageError
from beam_jobs.tools.exporting.export import TARGETS, export
from beam_jobs.tools.exporting.records import ExportedRecord, _column_names, boxes_in_pixels, file_name, folder_names
from shard_reader import open_dataset
from shard_reader.format.fields import INPUT_FIELDS

NAMES = ("cat", "pet/dog", "ünï")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of a table with classes, fields of every type, and boxes; two splits in several shards."""
    folder = tmp_path_factory.mktemp("export")
    rows = []
    for number in range(20):
        write_image(folder / f"images/{number % 3}/same.{number}.jpg", number, (40 + number, 30))
        boxes = [[0.1 * n, 0.25, 0.5 + 0.1 * n, 1] for n in range(number % 3)]
        row = {"path": f"images/{number % 3}/same.{number}.jpg", "label": NAMES[number % 3], "count": number}
        row |= {
            "weight_kg": None if number % 5 == 0 else number / 3,
            "note": f'"{number}"\n',
            "tags": ["a"] * (number % 3),
        }
        row |= {"box": boxes, "objects/kind": ["k"] * len(boxes), "at": [number, -1], "key": f"../{number}/same.jpg"}
        rows.append(row | {"split": "train" if number % 4 else "val"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = PrepareOptions(
        input=folder / "rows.jsonl",
        output=folder / "shards",
        size=24,
        boxes="box",
        box_format="rel-xyxy",
        id_column="key",
        format=["tfrecord", "hdf5"],
        shard_records=6,
        workers=1,
    )
    prepare(options, quiet=True)
    return folder / "shards"


def records(place: Path) -> dict[str, Any]:
    """The records of all splits by their ids: pixels and values, without those that describe an input file."""
    found = {}
    for split in ("train", "val"):
        data = open_dataset(place, split)
        for record in data:
            label = record.pop("label")
            for name in INPUT_FIELDS:
                record.pop(name, None)
            values = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in record.items()}
            name = None if label < 0 else (data.class_names or ())[label]
            found[record["id"]] = split, name, {n: v for n, v in values.items() if v == v}
    return found


def stored(place: Path, split: str) -> dict[str, bytes]:
    data = open_dataset(place, split)
    return {data.ids([n])[0].decode(): data.payload(n).tobytes() for n in range(len(data))}


def test_a_folder_has_the_stored_bytes_and_a_line_for_each_record(shards: Path, tmp_path: Path) -> None:
    made = export(str(shards), str(tmp_path / "out"), "folder")
    assert made.splits == {"train": 15, "val": 5}
    for split in made.splits:
        lines = [json.loads(line) for line in (tmp_path / f"out/{split}/metadata.jsonl").read_text().splitlines()]
        images = {line["id"]: (tmp_path / "out" / split / line["file_name"]).read_bytes() for line in lines}
        assert images == stored(shards, split)
        assert {line["label"] for line in lines} == set(NAMES)
        files = {str(path.relative_to(tmp_path / "out" / split)) for path in (tmp_path / "out" / split).rglob("*.jpg")}
        assert files == {line["file_name"] for line in lines}
    assert {path.name for path in (tmp_path / "out/train").iterdir()} == {"cat", "pet_dog", "ünï", "metadata.jsonl"}


BACK: dict[str, dict[str, Any]] = {
    "folder": {"boxes": "bbox"},
    "webdataset": {"boxes": "bbox", "classes": NAMES},
    "parquet": {"boxes": "objects.bbox"},
}
"""The options of `prepare` that read the files again."""


@pytest.mark.parametrize("to", BACK)
def test_out_and_in_again_gives_the_same_records(shards: Path, tmp_path: Path, to: str) -> None:
    export(str(shards), str(tmp_path / "out"), to)
    options: dict[str, Any] = {"fit": "none", "id_column": "id", "box_format": "xywh", "workers": 1}
    again = prepare(
        PrepareOptions(input=tmp_path / "out", output=tmp_path / "again", **options, **BACK[to]), quiet=True
    )
    assert again.counts.rejected == 0 and again.manifest.class_names == NAMES
    assert records(tmp_path / "again") == records(shards)
    for split in ("train", "val"):
        assert stored(tmp_path / "again", split) == stored(shards, split)


@pytest.mark.slow
@pytest.mark.parametrize("to", BACK)
def test_the_photos_out_and_in_again_are_the_same(photos: Path, tmp_path: Path, to: str) -> None:
    prepare(PrepareOptions(input=photos, output=tmp_path / "in", size=64, workers=2), quiet=True)
    export(str(tmp_path / "in"), str(tmp_path / "out"), to, workers=2)
    options: dict[str, Any] = {"fit": "none", "id_column": "id"}
    classes = {"classes": tmp_path / "out/classes.txt"} if to == "webdataset" else {}
    prepare(PrepareOptions(input=tmp_path / "out", output=tmp_path / "again", **options, **classes), quiet=True)
    assert len(stored(tmp_path / "again", "train")) == 300
    assert stored(tmp_path / "again", "train") == stored(tmp_path / "in", "train")
    names = [open_dataset(tmp_path / name).class_names for name in ("in", "again")]
    labels = [{r["id"]: r["label"] for r in open_dataset(tmp_path / name)} for name in ("in", "again")]
    assert names[0] == names[1] and labels[0] == labels[1]


def test_boxes_are_those_of_coco(shards: Path, tmp_path: Path) -> None:
    export(str(shards), str(tmp_path / "out"), "folder", splits=["val"])
    line = next(
        json.loads(line)
        for line in (tmp_path / "out/val/metadata.jsonl").read_text().splitlines()
        if json.loads(line)["count"] == 8
    )
    data = open_dataset(shards, "val")
    record = next(record for record in data if record["count"] == 8)
    height, width, _ = record["image"].shape
    expected = [
        [0, 0.25 * height, 0.5 * width, 0.75 * height],
        [0.1 * width, 0.25 * height, 0.5 * width, 0.75 * height],
    ]
    np.testing.assert_allclose(line["bbox"], expected, rtol=1e-6)
    assert line["objects/kind"] == ["k", "k"] and line["note"] == '"8"\n' and line["at"] == [8, -1]


def test_the_library_of_hugging_face_reads_parquet_and_folders(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    export(str(shards), str(tmp_path / "out"), "parquet")
    pictures = stored(shards, "val")
    found = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert found["train"].features["label"].names == list(NAMES)
    assert found["train"].num_rows == 15
    raw = found["val" if "val" in found else "validation"].cast_column("image", datasets.Image(decode=False))
    for row in raw:
        assert row["image"]["bytes"] == pictures[row["id"]]
        assert row["label"] == row["count"] % 3 and row["tags"] == ["a"] * (row["count"] % 3)
        assert (
            row["weight_kg"] is None if row["count"] % 5 == 0 else row["weight_kg"] == pytest.approx(row["count"] / 3)
        )
        assert len(row["objects"]["bbox"]) == len(row["objects"]["kind"]) == row["count"] % 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves archives open
def test_the_library_of_webdataset_reads_the_archives(shards: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    export(str(shards), str(tmp_path / "out"), "webdataset")
    assert (tmp_path / "out/classes.txt").read_text("utf-8").splitlines() == list(NAMES)
    pictures, names = stored(shards, "train"), sorted(path.name for path in (tmp_path / "out").glob("train-*.tar"))
    assert names == ["train-00000.tar", "train-00001.tar", "train-00002.tar"]
    urls = [str(tmp_path / "out" / name) for name in names]
    seen = 0
    for picture, label, values in (
        webdataset.WebDataset(urls, shardshuffle=False).decode().to_tuple("jpg", "cls", "json")
    ):
        del picture
        assert label == values["count"] % 3 and values["label"] == NAMES[label]
        seen += 1
    for name in names:
        with tarfile.open(tmp_path / "out" / name) as archive:
            for member in archive.getmembers():
                if member.name.endswith(".json"):
                    id = json.load(archive.extractfile(member))["id"]  # type: ignore[arg-type]
                    image = archive.extractfile(member.name.replace(".json", ".jpg"))
                    assert image is not None and image.read() == pictures[id]
    assert seen == 15


@pytest.mark.parametrize("more", [{"channels": "grey"}, {"channels": "keep"}, {}], ids=str)
def test_raw_images_become_png_files_with_the_same_pixels(tmp_path: Path, more: dict[str, Any]) -> None:
    for number in range(3):
        write_image(tmp_path / f"in/{number}.png", number)
    options = PrepareOptions(
        input=tmp_path / "in", output=tmp_path / "raw", size=(8, 6), encoding="raw", workers=1, **more
    )
    prepare(options, quiet=True)
    export(str(tmp_path / "raw"), str(tmp_path / "out"), "folder")
    for record in open_dataset(tmp_path / "raw"):
        (path,) = (tmp_path / "out/train").glob(f"{Path(record['id']).stem}_*.png")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), record["image"].squeeze())
    assert "label" not in json.loads((tmp_path / "out/train/metadata.jsonl").read_text().splitlines()[0])


def test_floats_are_refused_by_name(tmp_path: Path) -> None:
    write_image(tmp_path / "in/1.png")
    prepare(
        PrepareOptions(input=tmp_path / "in", output=tmp_path / "f", size=8, normalize="unit", workers=1), quiet=True
    )
    with pytest.raises(UsageError, match="its images are of float32 and 3 channels, and no image file holds those"):
        export(str(tmp_path / "f"), str(tmp_path / "out"), "parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "in"]


def test_a_target_that_is_there_is_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name in ("full", "full/file", "link"):
        with pytest.raises(UsageError, match=f"{name}: is not an empty folder; give a new one"):
            export(str(shards), str(tmp_path / name), "folder")
    with pytest.raises(UsageError, match="is a URL; export to a folder of this machine"):
        export(str(shards), "s3://bucket/out", "folder")
    with pytest.raises(UsageError, match=r"--split tset: .* has the splits train, val"):
        export(str(shards), str(tmp_path / "out"), "folder", splits=["tset"])
    (tmp_path / "empty").mkdir()
    assert export(str(shards), str(tmp_path / "empty"), "folder", splits=["val"]).splits == {"val": 5}


@pytest.mark.parametrize("to", TARGETS)
def test_a_damaged_record_ends_it_and_nothing_is_left(shards: Path, tmp_path: Path, to: str) -> None:
    import shutil

    shutil.copytree(shards, tmp_path / "shards")
    path = next((tmp_path / "shards").glob("train-00001-*.tfrecord"))
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xd8\xff") + 100
    data[start] ^= 1
    path.write_bytes(data)
    with pytest.raises(JobError, match=r"is damaged .*; `image-shards verify` lists all damage"):
        export(str(tmp_path / "shards"), str(tmp_path / "out"), to)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize("to", TARGETS)
def test_a_full_disk_ends_it_and_nothing_is_left(shards: Path, tmp_path: Path, to: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a tmpfs here")
    try:
        with pytest.raises(JobError, match="No space left on device") as caught:
            export(str(shards), str(disk / "out"), to)
        assert "\n" not in str(caught.value) and str(disk) in str(caught.value)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_processes_write_what_one_writes(shards: Path, tmp_path: Path) -> None:
    for to in TARGETS:
        for workers in (1, 2):
            export(str(shards), str(tmp_path / f"{to}{workers}"), to, workers=workers)
        one, two = (
            {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
            for root in (tmp_path / f"{to}1", tmp_path / f"{to}2")
        )
        assert one == two


def test_the_help_names_every_format() -> None:
    assert tuple(TARGETS) == datasets_cli._TARGETS


def test_the_command_says_what_it_wrote(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(shards), str(tmp_path / "out"), "--to", "folder", "--workers", "1"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out: 15 of train, 5 of val\n"
    assert main(words) == 2
    assert "is not an empty folder" in capsys.readouterr().err


@given(st.lists(st.sampled_from(["bbox", "bbox_", "objects/bbox", "objects", "file_name", "a"]), unique=True))
def test_no_two_fields_have_one_column(names: list[str]) -> None:
    columns = _column_names(names)
    assert list(columns) != [] or not names
    assert set(columns) == set(names) and len(set(columns.values())) == len(names)
    assert not set(columns.values()) & {"file_name", "image", "id", "label", "objects"}
    assert columns.get("objects/bbox", "bbox") == "bbox" and columns.get("a", "a") == "a"


@given(st.text(min_size=1), st.integers(0, 99_999_999))
def test_no_id_leads_out_of_the_folder(id: str, number: int) -> None:
    record = ExportedRecord(number, id, b"", ".jpg", None, {})
    for name in (file_name(record), *folder_names([id])):
        assert os.path.basename(name) == name not in ("", ".", "..") and len(name.encode()) <= 200
        assert not set(name) & set('\\:*?"<>|\0\n') and not name.startswith(".")


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True)
    | st.lists(st.text("_0?*aA", min_size=1, max_size=4), min_size=2, max_size=8, unique=True)
)
@example(["?", "*", "__0", "__0_"])
@example(["?", "*", "_?0", "_*0"])
def test_two_classes_have_two_folders(names: list[str]) -> None:
    folders = folder_names(names)
    assert len({folder.lower() for folder in folders}) == len(names)


@given(
    st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), min_size=1), st.integers(1, 65_500), st.integers(1, 65_500)
)
def test_boxes_in_pixels_give_the_same_boxes_again(boxes: list[Any], height: int, width: int) -> None:
    corners = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in boxes]
    x, y, w, h = np.array(boxes_in_pixels(np.array(corners), height, width)).T
    again = np.stack([y, x, y + h, x + w], 1) / [height, width, height, width]
    np.testing.assert_array_equal(again.astype(np.float32), np.array(corners, np.float32))


def test_the_image_of_a_webdataset_is_read_by_pillow(shards: Path, tmp_path: Path) -> None:
    export(str(shards), str(tmp_path / "out"), "webdataset", splits=["val"])
    with tarfile.open(tmp_path / "out/val-00000.tar") as archive:
        member = archive.extractfile("00000000.jpg")
        assert member is not None and Image.open(io.BytesIO(member.read())).height == 24
