"""`image-shards export` of records with several images, bytes, boxes and keypoints."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.several import several_images, several_record
from support.stored import FIELDS, PNG, record, write_manifest

from beam_jobs import PrepareOptions, prepare
from beam_jobs.errors import UsageError
from beam_jobs.shards.write import store
from beam_jobs.tools.exporting.export import export
from shard_reader import open_dataset
from shard_reader.format import Field, shard_name

IMAGES = ("image", "mask", "instances", "depth", "right")
KEYPOINTS = [[[32, 24, 2], [24, 18, 1], [0, 0, 0]], [[48, 36, 2], [32, -12, 2], [51.2, 33.6, 2]]]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return several_images(tmp_path_factory.mktemp("several") / "data")


def check_points(values: dict[str, Any]) -> None:
    """The keypoints of record 0, whose image has 48 rows and 64 columns."""
    assert np.allclose(values["keypoints"], KEYPOINTS, atol=1e-4)
    assert values["bbox"] == [[16, 12, 16, 12], [32, 24, 32, 24]]


def test_a_folder_has_further_images_beside_the_image(several: Path, tmp_path: Path) -> None:
    export(str(several), str(tmp_path / "out"), "folder")
    place = tmp_path / "out/train"
    lines = [json.loads(line) for line in (place / "metadata.jsonl").read_text().splitlines()]
    data = open_dataset(several)
    for number, line in enumerate(lines):
        assert line["mask_file_name"] == f"mask/{number}_{number:08d}.png"
        assert line["audio"] == f"audio/{number}_{number:08d}.bin"
        for name in IMAGES[1:]:
            assert (place / line[f"{name}_file_name"]).read_bytes() == data.payload(number, name).tobytes()
        assert (place / line["audio"]).read_bytes() == data[number]["audio"]
    check_points(lines[0])
    assert {path.name for path in place.iterdir()} == {"cat", "dog", "metadata.jsonl", "audio", *IMAGES[1:]}


def test_an_archive_has_further_images_as_members(several: Path, tmp_path: Path) -> None:
    export(str(several), str(tmp_path / "out"), "webdataset")
    with tarfile.open(tmp_path / "out/train-00000.tar") as archive:
        names = archive.getnames()
        ends = ["jpg", "mask.png", "instances.png", "depth.png", "right.png", "audio.bin", "cls", "json"]
        assert names[:8] == [f"00000000.{end}" for end in ends]
        with Image.open(archive.extractfile("00000001.mask.png")) as image:  # type: ignore[arg-type]
            assert np.array_equal(np.asarray(image), open_dataset(several)[1]["mask"])
        member = archive.extractfile("00000000.json")
        assert member is not None
        check_points(json.load(member))


@pytest.mark.filterwarnings("ignore")  # of the library
def test_the_library_of_hugging_face_reads_several_images(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    export(str(several), str(tmp_path / "parquet"), "parquet")
    export(str(several), str(tmp_path / "folder"), "folder")
    cache = {"cache_dir": str(tmp_path / "cache"), "split": "train"}
    parquet = datasets.load_dataset("parquet", data_files=str(tmp_path / "parquet/data/*.parquet"), **cache)
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), **cache)
    assert all(isinstance(parquet.features[name], datasets.Image) for name in IMAGES)
    assert all(isinstance(folder.features[name], datasets.Image) for name in IMAGES)
    for number in range(4):
        expected, pixels = several_record(number, 48 + number, 64)
        for found in (parquet[number], folder[number]):
            for name, image in pixels.items():
                assert np.array_equal(np.asarray(found[name]).reshape(image.shape), image), name
        assert parquet[number]["audio"] == expected["audio"]
    check_points(parquet[0]["objects"])


def values_of(place: Path, names: dict[str, str]) -> list[dict[str, Any]]:
    """The values of some fields by other names, sorted by id."""
    found = [
        {new: v.tolist() if isinstance(v := one[name], np.ndarray) else v for name, new in names.items()}
        for one in open_dataset(place)
    ]
    return sorted(found, key=lambda one: str(one["id"]))


SAME = {name: name for name in ("image", "id", "label", "objects/bbox")}
FURTHER = ("mask", "instances", "depth")  # photos become JPEGs
ROLES = "file_name,mask_file_name:mask,instances_file_name,depth_file_name,right_file_name,audio:bytes"


@pytest.mark.parametrize("by", ["names", "columns"])
def test_a_folder_out_and_in_again_gives_the_same_images(several: Path, tmp_path: Path, by: str) -> None:
    """A column `mask_file_name` is the field `mask` with its usual role; one of --image-columns has its own name."""
    export(str(several), str(tmp_path / "out"), "folder")
    if by == "names":
        shutil.rmtree(tmp_path / "out/train/audio")  # no name says that a column has names of files of bytes
    options = PrepareOptions(
        input=tmp_path / "out",
        output=tmp_path / "again",
        fit="none",
        id_column="id",
        boxes="bbox",
        box_format="xywh",
        fields=["objects/label"],  # keypoints are read from files of poses alone
        image_columns=ROLES.split(",") if by == "columns" else None,
        mask_dtype="uint16",
        workers=1,
    )
    prepare(options, quiet=True)
    more = {name: f"{name}_file_name" for name in FURTHER} | {"audio": "audio"}
    names = SAME | (more if by == "columns" else {name: name for name in FURTHER})
    for one, other in zip(
        values_of(tmp_path / "again", {n: n for n in names.values()}), values_of(several, names), strict=True
    ):
        assert {n for n in one if one[n] != other[n]} == set()


@pytest.mark.parametrize(
    ("to", "columns"),
    [
        ("webdataset", "jpg,mask.png,instances.png,depth.png,audio.bin:bytes"),
        ("parquet", "image,mask,instances,depth,audio:bytes"),
    ],
)
def test_archives_and_tables_out_and_in_again_give_the_same_images(
    several: Path, tmp_path: Path, to: str, columns: str
) -> None:
    export(str(several), str(tmp_path / "out"), to)
    options: dict[str, Any] = {"boxes": "bbox", "classes": ("cat", "dog"), "fields": ["objects/label"]}
    if to == "parquet":
        options = {"boxes": "objects.bbox", "label_column": "label", "fields": ["id"]}
    options |= {"fit": "none", "id_column": "id", "box_format": "xywh", "mask_dtype": "uint16", "workers": 1}
    options |= {"image_columns": columns.split(",")}
    prepare(PrepareOptions(input=tmp_path / "out", output=tmp_path / "again", **options), quiet=True)
    # The field of a member `audio.bin` has the name of the member.
    renamed = {"audio": "audio.bin"} if to == "webdataset" else {}
    names = SAME | {name: renamed.get(name, name) for name in (*FURTHER, "audio")}
    again = values_of(tmp_path / "again", {name: name for name in names.values()})
    for one, other in zip(again, values_of(several, names), strict=True):
        assert {name for name in one if one[name] != other[name]} == set()


def test_pixels_that_are_stored_raw_become_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    raw = Field(dtype="uint16", shape=(2, 1, 1), encoding="raw", role="mask")
    fields = {**FIELDS, "a/mask": raw, "a.mask": raw, "a_mask_file_name": Field(dtype="string")}
    values = {"a/mask": bytes([1, 2, 3, 4]), "a.mask": bytes([5, 6, 7, 8]), "a_mask_file_name": "mine"}
    path = {"tfrecord": tmp_path / "data" / shard_name("train", 0, 1, "tfrecord")}
    shard = store([record("1", **values)], path, fields)
    write_manifest(tmp_path / "data", fields, [shard], formats=["tfrecord"], class_names=("a", "b"))
    export(str(tmp_path / "data"), str(tmp_path / "out"), "folder")
    (line,) = (json.loads(one) for one in (tmp_path / "out/train/metadata.jsonl").read_text().splitlines())
    assert line["a_mask_file_name"] == "mine"
    with Image.open(tmp_path / "out/train" / line["a/mask_file_name"]) as image:
        assert np.asarray(image).tolist() == [[0x0201], [0x0403]]
    with Image.open(tmp_path / "out/train" / line["a.mask_file_name"]) as image:
        assert np.asarray(image).tolist() == [[0x0605], [0x0807]]
    export(str(tmp_path / "data"), str(tmp_path / "tar"), "webdataset")
    with tarfile.open(tmp_path / "tar/train-00000.tar") as archive:
        ends = [name.partition(".")[2] for name in archive.getnames()]
        assert ends == ["png", "a_mask.png", "a_mask_.png", "cls", "json"]


def test_floats_of_a_further_image_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    fields = {**FIELDS, "depth": Field(dtype="float32", shape=(1, 1, 1), encoding="raw", role="depth")}
    path = {"tfrecord": tmp_path / "data" / shard_name("train", 0, 1, "tfrecord")}
    shard = store([record("1", depth=bytes(4))], path, fields)
    write_manifest(tmp_path / "data", fields, [shard], formats=["tfrecord"], class_names=("a", "b"))
    with pytest.raises(UsageError, match=r"its images 'depth' are of float32 and 1 channels, and no image file holds"):
        export(str(tmp_path / "data"), str(tmp_path / "out"), "folder")
    assert not (tmp_path / "out").exists() and PNG
