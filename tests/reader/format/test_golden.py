"""The golden files: what version 1 of the format is, byte for byte. See golden/make.py."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.command import REPOSITORY

from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.options import ImageOptions, JobOptions, MaxRejects, ShardRule, SplitRule, fingerprint
from beam_jobs.sources.files.interface import SourceOptions
from shard_reader import open_dataset
from shard_reader.format import Manifest, index, index_name
from shard_reader.format.checksum import crc32c
from shard_reader.format.manifest import Sums

GOLDEN = REPOSITORY / "tests/reader/format/golden"
FILES = sorted(path.relative_to(GOLDEN / "v1") for path in (GOLDEN / "v1").rglob("*.*"))
EARLIER = [(name, format) for name in ("encoded", "raw", "fields", "inputs") for format in ("tfrecord", "hdf5")]
CASES = [*EARLIER, ("payloads", "tfrecord"), ("payloads", "hdf5")]


@pytest.fixture(scope="module")
def made_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("make", GOLDEN / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    directory = tmp_path_factory.mktemp("golden") / "v1"
    module.make(directory)
    return directory


def test_there_are_golden_files() -> None:
    assert len(FILES) == 66


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_is_written_is_the_golden_bytes(path: Path, made_again: Path) -> None:
    again, golden = (made_again / path).read_bytes(), (GOLDEN / "v1" / path).read_bytes()
    if path.suffix == ".json" and path.name.startswith("dataset."):  # which has more keys by now
        one, other = (Manifest.from_json(text.decode()) for text in (again, golden))
        # The checksums of earlier generations are those of other texts, then.
        one, other = (
            replace(found, generations=tuple(replace(past, checksum="") for past in found.generations))
            for found in (one, other)
        )
        assert one == other
    else:
        assert again == golden


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_golden_fields_are_read(format: str) -> None:
    data = open_dataset(GOLDEN / "v1/fields", format=format)
    first, second = data[0], data[1]
    assert (first["age"], first["note"], first["tags"]) == (0.5, "naïve", ["x", "größer"])
    assert (second["age"], second["note"], second["tags"]) == (-2.0, "", [])
    assert first["label"].tolist() == [-1, 2**40] and second["label"].tolist() == []
    assert np.array_equal(first["camera"], np.array([[1, 2], [3, 4]], np.float32))
    assert np.array_equal(first["objects/bbox"], np.array([[0, 0.25, 0.5, 1], [0.5, 0.5, 1, 1]], np.float32))
    assert second["objects/bbox"].shape == (0, 4)
    assert data.column("content_hash", np.array([0, 1])).tolist() == [-5, 2**62]


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_golden_hashes_and_sums_are_read(format: str) -> None:
    data = open_dataset(GOLDEN / "v1/sums", format=format)
    assert data.column("values_hash").tolist() == [2**63 - 1, -2]
    statistics = data.manifest.statistics
    assert statistics is not None
    assert statistics.sums == Sums(total=(765, 255, 0), squares=(195_075, 65_025, 0), peak=255)
    lines = (GOLDEN / "v1/sums/pixels.jsonl").read_bytes().splitlines()
    assert sum(map(ChannelSums.from_line, lines), ChannelSums()).total == statistics.sums.total


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_golden_generations_are_read(format: str) -> None:
    expected = {
        1: [("a/1.png", 0, "one"), ("b/2.png", 1, "two")],
        2: [("a/1.png", 0, "one"), ("b/2.png", 1, "two"), ("b/3.png", 1, "three")],
        3: [("a/1.png", 0, "one"), ("b/3.png", 1, "three")],
        4: [("a/1.png", 1, "größer"), ("b/3.png", 1, "three")],
    }
    for generation, records in expected.items():
        data = open_dataset(GOLDEN / "v1/grown", format=format, generation=generation)
        assert [(record["id"], record["label"], record["note"]) for record in data] == records
        assert data.generation == generation
    history = open_dataset(GOLDEN / "v1/grown").generations()
    assert [(one.made, one.folder) for one in history][1:] == [
        ("append", "g0002"),
        ("withdraw", "g0003"),
        ("relabel", "g0004"),
    ]
    assert open_dataset(GOLDEN / "v1/grown").manifest.requires == ("relabeled", "withdrawn")


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_a_golden_dataset_over_the_shards_of_another_is_read(format: str) -> None:
    data = open_dataset(GOLDEN / "v1/joined", format=format)
    assert [(record["id"], record["note"]) for record in data] == [("a/1.png", "one"), ("b/2.png", "two")]
    assert data.manifest.requires == ("joined",)


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_golden_encoded_images_are_read(format: str) -> None:
    data = open_dataset(GOLDEN / "v1/encoded", format=format)
    assert [data[i]["id"] for i in range(len(data))] == ["a/1.png", "b/größer.png", "b/" + "long" * 40]
    assert [data[i]["label"] for i in range(len(data))] == [0, 1, 1]
    for record, shape, colour in ((0, (2, 1), (255, 0, 0)), (1, (1, 2), (0, 255, 0)), (2, (2, 3), (1, 2, 3))):
        assert np.array_equal(data[record]["image"], np.full((*shape, 3), colour, np.uint8))


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_golden_raw_images_are_read(format: str) -> None:
    data = open_dataset(GOLDEN / "v1/raw", format=format)
    for record in range(5):
        expected = np.arange(record, record + 18, dtype=np.uint8).reshape(2, 3, 3)
        assert np.array_equal(data[record]["image"], expected)
        assert "label" not in data[record]
    (batch,) = data.stream(batch_size=5, shuffle="none", fields=("image", "id"))
    assert batch["image"].tobytes() == b"".join(bytes(range(n, n + 18)) for n in range(5))
    assert batch["id"].tolist() == [f"{n}.png".encode() for n in range(5)]


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_golden_payloads_are_read(format: str) -> None:
    data = open_dataset(GOLDEN / "v1/payloads", format=format)
    assert data.manifest.requires == ("payloads",)
    tall, wide, again = data[0], data[1], data[2]
    assert tall["mask"].tolist() == [[1], [255]] and wide["mask"].tolist() == [[0, 2]]
    assert tall["instances"].tolist() == [[1], [300]] and wide["instances"].tolist() == [[0, 2]]
    assert tall["instances"].dtype == np.uint16
    assert tall["depth"].tolist() == [[[40000]], [[1]]] and wide["depth"].tolist() == [[[0], [65535]]]
    assert (tall["small"].item(), wide["small"].item()) == (0.5, -2.0)
    assert np.array_equal(tall["after"], np.full((2, 3, 3), (1, 2, 3), np.uint8))
    assert (tall["audio/wav"], wide["audio/wav"]) == (b"\0\xffRIFF", b"")
    assert tall["objects/keypoints"].tolist() == [[[0.5, 0.25, 2], [0.25, -0.5, 1], [0, 0, 0]]]
    assert wide["objects/keypoints"].shape == (0, 3, 3)
    assert all(np.array_equal(again[name], wide[name]) for name in ("image", "mask", "instances", "depth", "small"))


def test_golden_roles_names_and_pairs_are_in_the_manifest() -> None:
    fields = open_dataset(GOLDEN / "v1/payloads").fields
    roles = {name: field.role for name, field in fields.items() if field.role}
    assert roles == {
        "mask": "mask",
        "instances": "mask",
        "depth": "depth",
        "small": "depth",
        "after": "photo",
        "objects/bbox": "boxes",
        "objects/centre": "points",
        "objects/keypoints": "keypoints",
    }
    assert {name: fields[name].kind for name in ("mask", "audio/wav", "objects/bbox", "id", "height")} == {
        "mask": "image",
        "audio/wav": "bytes",
        "objects/bbox": "list",
        "id": "string",
        "height": "scalar",
    }
    points = fields["objects/keypoints"]
    assert (points.names, points.flip_pairs) == (("nose", "left eye", "right eye"), ((1, 2),))


@pytest.mark.parametrize("suffix", ["tfrecord", "h5"])
def test_golden_columns_of_payloads_are_those_of_the_specification(suffix: str) -> None:
    path = GOLDEN / f"v1/payloads/train-00000-of-00002.{suffix}"
    rows, data = np.load(index_name(str(path))), path.read_bytes()
    columns = {name: dtype for name, dtype in rows.dtype.descr if name.startswith(("mask_", "audio/wav_"))}
    assert columns == {
        "mask_offset": "<u8",
        "mask_length": "<u8",
        "mask_crc32c": "<u4",
        "mask_height": "<u4",
        "mask_width": "<u4",
        "audio/wav_offset": "<u8",
        "audio/wav_length": "<u8",
        "audio/wav_crc32c": "<u4",
    }
    assert rows[["mask_height", "mask_width"]].tolist() == [(2, 1), (1, 2)]
    assert rows[["after_height", "after_width", "small_height", "small_width"]].tolist() == [(2, 3, 1, 1)] * 2
    for name in ("mask", "instances", "depth", "small", "after", "audio/wav"):
        for row in rows:
            start, size = int(row[f"{name}_offset"]), int(row[f"{name}_length"])
            assert row[f"{name}_crc32c"] == crc32c(data[start : start + size])


def test_golden_raw_images_of_one_size_are_an_array_in_their_shard() -> None:
    several, one = (h5py.File(GOLDEN / f"v1/payloads/train-0000{number}-of-00002.h5") for number in (0, 1))
    with several, one:
        assert several["instances"].ndim == 1 and several["small"].shape == (2, 1, 1, 1)
        assert one["instances"].shape == (1, 1, 2, 1) and one["instances"].dtype == np.dtype("<u2")
        assert one["instances"].attrs["encoding"] == "raw" and "encoding" not in one["audio/wav"].attrs


@pytest.mark.parametrize(("name", "format"), CASES)
def test_an_index_is_made_again_from_its_shard(name: str, format: str) -> None:
    data = open_dataset(GOLDEN / "v1" / name, format=format)
    for shard in data.manifest.splits["train"].shards:
        path = GOLDEN / "v1" / name / shard.files[format].path
        rows = index.build(path, format, data.fields)
        assert index.to_bytes(rows) == path.with_name(index_name(path.name)).read_bytes()
        assert index.checksums_crc32c(rows) == shard.files[format].index_crc32c


@pytest.mark.parametrize(("name", "format"), EARLIER)
def test_datasets_of_earlier_versions_are_read(name: str, format: str) -> None:
    """Their indexes end with the rows, and their manifests list the shards."""
    earlier, now = (open_dataset(GOLDEN / version / name, format=format) for version in ("earlier", "v1"))
    assert earlier.manifest.splits["train"].shards[0].files[format].index_crc32c is None
    assert [repr(record) for record in earlier] == [repr(record) for record in now] and len(now)
    fields = [field for field in now.fields if not now.fields[field].is_image]
    for mine, other in zip(*(list(data.stream(batch_size=2, fields=fields)) for data in (earlier, now)), strict=True):
        assert repr(mine) == repr(other)
    for shard in earlier.manifest.splits["train"].shards:
        path = GOLDEN / "earlier" / name / shard.files[format].path
        rows = index.build(path, format, earlier.fields)
        assert index.to_bytes(rows, has_checksums=False) == path.with_name(index_name(path.name)).read_bytes()


def test_golden_indexes_are_what_numpy_reads() -> None:
    rows = np.load(GOLDEN / "v1/encoded/train-00000-of-00002.tfrecord.index.npy")
    assert rows.dtype.descr == [
        ("offset", "<u8"),
        ("length", "<u8"),
        ("id_offset", "<u8"),
        ("id_length", "<u4"),
        ("id_crc32c", "<u4"),
        ("crc32c", "<u4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("label", "<i8"),
    ]
    assert rows.tolist() == [
        (66, 73, 44, 7, 689809448, 3602051514, 2, 1, 0),
        (248, 72, 219, 14, 4078126737, 1295732653, 1, 2, 1),
        (581, 78, 404, 162, 3856352816, 3586139929, 2, 3, 1),
    ]


@pytest.mark.parametrize(("suffix", "checksum"), [("tfrecord", 4030427549), ("h5", 1098819395)])
def test_golden_checksums_are_those_of_strings_and_lists(suffix: str, checksum: int) -> None:
    path = GOLDEN / f"v1/fields/train-00000-of-00001.{suffix}"
    rows, data = np.load(index_name(str(path))), path.read_bytes()
    columns = ["label_offset", "label_length", "label_crc32c", "content_hash", "age", "note_offset"]
    assert list(rows.dtype.names)[8:14] == columns and rows.dtype["note_crc32c"] == np.dtype("<u4")
    assert rows["tags_crc32c"].tolist()[0] == checksum
    for name in ("id", "label", "note", "tags", "objects/bbox", "objects/id"):
        for row in rows:
            start, size = int(row[f"{name}_offset"]), int(row[f"{name}_length"])
            assert row[f"{name}_crc32c"] == crc32c(data[start : start + size])
    assert rows[["note_length", "note_crc32c"]][1].item() == (0, 0)


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_golden_fields_of_inputs_have_64_bits(format: str) -> None:
    data = open_dataset(GOLDEN / "v1/inputs", format=format)
    assert data.to_pandas().drop(columns=["id", "height", "width"]).to_dict("list") == {
        "original_height": [200, 1],
        "original_width": [2**31, 2],
        "content_hash": [-(2**63), 7],
        "phash": [-(2**63), 0],
        "dhash": [2**63 - 1, 0],
    }


@pytest.mark.parametrize("name", ["encoded", "raw"])
def test_a_shard_without_a_record_is_whole(name: str) -> None:
    directory = GOLDEN / "v1" / name
    assert (directory / "train-00001-of-00002.tfrecord").stat().st_size == 0
    assert len(np.load(directory / "train-00001-of-00002.tfrecord.index.npy")) == 0
    with h5py.File(directory / "train-00001-of-00002.h5") as file:
        assert all(len(file[field]) == 0 for field in file)
    assert len(np.load(directory / "train-00001-of-00002.h5.index.npy")) == 0


def test_the_option_fingerprint_is_frozen() -> None:
    image = ImageOptions(
        width=256,
        height=256,
        fit="cover",
        filter="lanczos",
        encoding="jpeg",
        quality=90,
        dtype="uint8",
        normalize="none",
    )
    options = JobOptions(
        source=SourceOptions(input="in"),
        output="out",
        image=image,
        formats=("tfrecord", "hdf5"),
        split=SplitRule(parts=(("train", "0.9"), ("val", "0.1"))),
        shards=ShardRule(by="bytes", value=128_000_000),
        seed=0,
        workers=2,
        max_rejects=MaxRejects(fraction="0.01"),
        beam={},
    )
    assert fingerprint(options.deciding()) == "5bd583370bbae1c7748c828b340f6fe31426b5553475a937b2ea4c3e0bfd7c00"
