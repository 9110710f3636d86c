"""The manifest: both directions, every problem with its path, versions, and the names of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import REPOSITORY

from shard_reader.errors import DatasetError, ManifestError
from shard_reader.format import Field, Manifest, index_dtype, index_name, shard_name
from shard_reader.format.manifest import with_checksum

GOLDEN = REPOSITORY / "tests/reader/format/golden/v1/encoded/dataset.json"


PAYLOADS = REPOSITORY / "tests/reader/format/golden/v1/payloads/dataset.json"


def changed(path: str, value: Any, manifest: Path = GOLDEN) -> str:
    """A golden manifest with the value at a path like `fields.image.shape.0` replaced, or removed by `...`."""
    body = json.loads(manifest.read_text("utf-8"))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = body
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(body)


def test_a_manifest_goes_both_ways() -> None:
    text = GOLDEN.read_text("utf-8")
    manifest = Manifest.from_json(text)
    assert Manifest.from_json(manifest.to_json()) == manifest
    again = json.loads(manifest.to_json())
    later = ("counts", "checksum")  # a count that is added to them changes the checksum
    assert all(again[key] == value for key, value in json.loads(text).items() if key not in later)
    assert manifest.splits["train"].shards[0].files["hdf5"].path == "train-00000-of-00002.h5"
    assert manifest.fields["image"] == Field(dtype="uint8", shape=(None, None, 3), encoding="png")
    assert manifest.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("fields", ..., "$.fields: is missing"),
        ("fields", [], "$.fields: expected dict, got list []"),
        ("fields.image.dtype", "int7", "$.fields.image.dtype: expected one of"),
        ("fields.image.encoding", None, "$.fields.image: needs an encoding"),
        ("fields.image.shape", [2, "x", 3], "$.fields.image.shape[1]: expected int, got str"),
        ("fields.image.shape", [-2, 2, 3], "$.fields.image.shape[0]: must not be negative, got -2"),
        ("fields.id", ..., "$.fields.id: is missing"),
        ("fields.label.feature", 3, "$.fields.label.feature: expected str, got int 3"),
        ("fields.image.dtype", "", "$.fields.image.dtype: expected one of"),
        ("fields.image.dtype", "string", "$.fields.image.dtype: is string, expected uint8 or uint16 or float16"),
        ("fields.label.dtype", "string", "$.fields.label.dtype: is string, expected int64"),
        ("fields.image.encoding", "", "$.fields.image.encoding: expected one of"),
        ("fields.label.shape", [2, None], "$.fields.label.shape: only the first size may be null"),
        ("fields.label.encoding", "png", "$.fields.label.encoding: this field is no image"),
        ("fields.id.shape", [None], "$.fields.id.shape: must be empty"),
        ("fields.label.shape", [70000], "$.fields.label.shape: more than 65536 values"),
        ("fields.x", {"dtype": "string", "shape": [None, 2]}, "$.fields.x.shape: strings come alone or in a list"),
        ("fields.id_offset", {"dtype": "int64", "shape": []}, "$.fields: two of them need an index column id_offset"),
        ("fields.id_crc32c", {"dtype": "int64", "shape": []}, "$.fields: two of them need an index column id_crc32c"),
        ("splits.train.classes", {"a": -1}, "$.splits.train.classes.a: must not be negative"),
        ("counts.leaks", "x", "$.counts.leaks: expected int"),
        ("formats", [], "$.formats: is empty"),
        ("splits.train.records", 10**30, "$.splits.train.records: is too large"),
        ("splits.train.shards.files.hdf5.path.0", "a\0b", "$.splits.train.shards.files.hdf5.path[0]: must be a plain"),
        ("statistics.mean", [10**400], "$.statistics.mean[0]: expected float"),
        ("formats", ["zip"], "$.formats[0]: expected one of tfrecord, hdf5, got 'zip'"),
        ("splits.train.records", True, "$.splits.train.records: expected int, got bool true"),
        ("splits.train.records", 4, "$.splits.train.records: is 4, its shards hold 3"),
        ("splits.train.shards", 5, "$.splits.train.shards: expected dict, got int 5"),
        ("splits.train.shards.files.hdf5.path.1", "../x", "$.splits.train.shards.files.hdf5.path[1]: must be a plain"),
        ("splits.train.shards.files.hdf5.bytes.0", "9", "$.splits.train.shards.files.hdf5.bytes[0]: expected int"),
        ("splits.train.shards.files.hdf5.bytes.0", -9, "$.splits.train.shards.files.hdf5.bytes[0]: must not be neg"),
        ("splits.train.shards.files.hdf5.bytes.0", True, "$.splits.train.shards.files.hdf5.bytes[0]: expected int"),
        ("splits.train.shards.files.hdf5.sha256", None, "$.splits.train.shards.files.hdf5.sha256: expected str"),
        ("splits.train.shards.files.hdf5.sha256", "00", "$.splits.train.shards.files.hdf5.sha256: has 2 digits, 64 f"),
        ("splits.train.shards.files.hdf5.index_crc32c", [0], "$.splits.train.shards.files.hdf5.index_crc32c: has 1 v"),
        ("splits.train.shards.records", [3], "$.splits.train.shards.files.tfrecord.path: has 2 values for 1 shards"),
        ("splits.train.shards.files.hdf5", ..., "$.splits.train.shards.files: has ['tfrecord']"),
        ("class_names", [1], "$.class_names[0]: expected str, got int 1"),
        ("statistics.mean", [0.1, "b", 1], "$.statistics.mean[1]: expected float, got str"),
        ("counts.written", ..., "$.counts.written: is missing"),
        ("requires", 5, "$.requires: expected list, got int 5"),
        ("requires", "abc", "$.requires: expected list, got str"),
        ("fingerprint.inputs", 7, "$.fingerprint.inputs: expected str, got int 7"),
    ],
)  # fmt: skip
def test_a_problem_is_reported_with_its_path(path: str, value: Any, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(changed(path, value))
    assert any(found.startswith(problem) for found in caught.value.problems), caught.value.problems


BOXES = "fields.objects/bbox"
POINTS = "fields.objects/keypoints"


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("fields.mask.role", "boxes", "$.fields.mask.role: is 'boxes', expected photo or mask or depth"),
        ("fields.mask.role", "normals", "$.fields.mask.role: is 'normals', expected photo or mask or depth"),
        ("fields.mask.role", 7, "$.fields.mask.role: expected str, got int 7"),
        ("fields.mask.encoding", "tiff", "$.fields.mask.encoding: expected one of"),
        ("fields.mask.dtype", "int64", "$.fields.mask.dtype: is int64, expected uint8 or uint16 or float16"),
        ("fields.mask.dtype", "bytes", "$.fields.mask.dtype: is bytes, expected uint8 or uint16 or float16"),
        ("fields.mask.shape", [None, None], "$.fields.mask: needs an encoding and a shape of height, width, channels"),
        ("fields.mask.shape", [None, None, 5], "$.fields.mask.shape: [null, null, 5] is that of no image"),
        ("fields.mask.shape", [0, None, 1], "$.fields.mask.shape: [0, null, 1] is that of no image"),
        ("fields.mask.names", ["a"], "$.fields.mask: only keypoints have names and flip_pairs"),
        ("fields.audio/wav.shape", [None], "$.fields.audio/wav.shape: must be empty"),
        ("fields.audio/wav.role", "mask", "$.fields.audio/wav.role: is 'mask', expected boxes or points or keypoints"),
        ("fields.audio/wav.role", "boxes", "$.fields.audio/wav.shape: boxes are a list [null, 4] of float32"),
        ("fields.audio/wav.dtype", "blob", "$.fields.audio/wav.dtype: expected one of"),
        ("fields.height.role", "boxes", "$.fields.height.shape: boxes are a list [null, 4] of float32"),
        (f"{BOXES}.shape", [None, 5], "$.fields.objects/bbox.shape: boxes are a list [null, 4] of float32"),
        (f"{BOXES}.shape", [None, 2, 4], "$.fields.objects/bbox.shape: boxes are a list [null, 4] of float32"),
        (f"{BOXES}.shape", [3, 4], "$.fields.objects/bbox.shape: boxes are a list [null, 4] of float32"),
        (f"{BOXES}.dtype", "int64", "$.fields.objects/bbox.shape: boxes are a list [null, 4] of float32"),
        (f"{BOXES}.role", "points", "$.fields.objects/bbox.shape: points are a list [null, 2] of float32"),
        (f"{BOXES}.flip_pairs", [[0, 1]], "$.fields.objects/bbox: only keypoints have names and flip_pairs"),
        (f"{POINTS}.shape", [None, 3], "$.fields.objects/keypoints.shape: keypoints are a list [null, k, 3] of"),
        (f"{POINTS}.shape", [None, 3, 2], "$.fields.objects/keypoints.shape: keypoints are a list [null, k, 3]"),
        (f"{POINTS}.shape", [None, 2, 3], "$.fields.objects/keypoints.names: are 3, there are 2 keypoints"),
        (f"{POINTS}.names", ["nose"], "$.fields.objects/keypoints.names: are 1, there are 3 keypoints"),
        (f"{POINTS}.names", [1, 2, 3], "$.fields.objects/keypoints.names[0]: expected str, got int 1"),
        (f"{POINTS}.names", "abc", "$.fields.objects/keypoints.names: expected list, got str"),
        (f"{POINTS}.flip_pairs", [[0, 3]], "$.fields.objects/keypoints.flip_pairs: must be pairs of different numbers"),
        (f"{POINTS}.flip_pairs", [[0, 1], [1, 2]], "$.fields.objects/keypoints.flip_pairs: must be pairs of different"),
        (f"{POINTS}.flip_pairs", [[1, 1]], "$.fields.objects/keypoints.flip_pairs: must be pairs of different numbers"),
        (f"{POINTS}.flip_pairs", [[0, -1]], "$.fields.objects/keypoints.flip_pairs[0][1]: must not be negative"),
        (f"{POINTS}.flip_pairs", [[0, 1, 2]], "$.fields.objects/keypoints.flip_pairs[0]: a pair has two numbers"),
        (f"{POINTS}.flip_pairs", [5], "$.fields.objects/keypoints.flip_pairs[0]: expected list"),
        ("fields.mask_height", {"dtype": "int64", "shape": []}, "$.fields: two of them need an index column mask_h"),
        ("fields.audio/wav_length", {"dtype": "int64", "shape": []}, "$.fields: two of them need an index column aud"),
        ("fields.id", {"dtype": "uint8", "shape": [None, None, 3], "encoding": "png"}, "$.fields.id.dtype: is uint8"),
        ("fields", {}, "$.fields.image: is missing"),
    ],
)  # fmt: skip
def test_a_problem_of_a_further_field_is_reported_with_its_path(path: str, value: Any, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(changed(path, value, PAYLOADS))
    assert any(found.startswith(problem) for found in caught.value.problems), caught.value.problems


def test_a_manifest_with_further_images_goes_both_ways() -> None:
    manifest = Manifest.from_json(PAYLOADS.read_text("utf-8"))
    assert Manifest.from_json(manifest.to_json()) == manifest and manifest.to_json() == PAYLOADS.read_text("utf-8")


def test_a_manifest_without_its_extension_is_refused() -> None:
    """An earlier reader would take the columns of its index for those of texts."""
    with pytest.raises(ManifestError, match=r"\$\.requires: lacks 'payloads', which the fields need"):
        Manifest.from_json(changed("requires", [], PAYLOADS))
    with pytest.raises(DatasetError, match=r"requires polygons, which this reader does not know"):
        Manifest.from_json(changed("requires", ["payloads", "polygons"], PAYLOADS))


def test_keys_of_fields_that_are_unknown_are_ignored() -> None:
    text = with_checksum(json.loads(changed("fields.mask.colours", [1, 2], PAYLOADS)))
    assert Manifest.from_json(text) == Manifest.from_json(PAYLOADS.read_text("utf-8"))


def test_all_problems_are_reported_at_once() -> None:
    body = json.loads(GOLDEN.read_text("utf-8"))
    body["seed"] = "x"
    del body["counts"]["ignored"], body["splits"]["train"]["shards"]["files"]["tfrecord"]["sha256"]
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(json.dumps(body))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "$.splits.train.shards.files.tfrecord.sha256",
        "$.splits.train.shards.files.tfrecord.sha256",
        "$.counts.ignored",
        "$.seed",
    ]


def test_an_unknown_version_names_both() -> None:
    with pytest.raises(DatasetError, match=r"version 2, this reader knows version 1"):
        Manifest.from_json(changed("version", 2))


EARLIER = REPOSITORY / "tests/reader/format/golden/earlier/encoded/dataset.json"


def test_a_manifest_of_an_earlier_version_lists_its_shards() -> None:
    earlier, now = (Manifest.from_json(path.read_text("utf-8")) for path in (EARLIER, GOLDEN))
    for old, new in zip(earlier.splits["train"].shards, now.splits["train"].shards, strict=True):
        assert old.records == new.records and old.files["hdf5"].index_crc32c is None
        assert all(old.files[format].sha256 == new.files[format].sha256 for format in now.formats)
    assert Manifest.from_json(earlier.to_json()) == earlier


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("1", 5, "$.splits.train.shards[1]: expected an object, got int 5"),
        ("0.files.hdf5.sha256", "00", "$.splits.train.shards[0].files.hdf5: a SHA-256 has not 64 digits"),
        ("0.files.hdf5.path", "../x", "$.splits.train.shards[0].files.hdf5.path: must be a plain"),
        ("0.files.hdf5", ..., "$.splits.train.shards[1].files: has ['hdf5', 'tfrecord'], not ['tfrecord']"),
    ],
)
def test_a_problem_in_a_list_of_shards(key: str, value: Any, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(changed(f"splits.train.shards.{key}", value, EARLIER))
    assert any(found.startswith(problem) for found in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "other", "version": 1}'])
def test_another_program_s_json_is_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="another program"):
        Manifest.from_json(text)


@pytest.mark.parametrize("text", ['{"format": ', "[" * 100_000, '{"format": NaN}'], ids=["cut", "deep", "nan"])
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match="not JSON"):
        Manifest.from_json(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


@given(st.data(), json_values)
def test_any_value_anywhere_is_read_or_reported(data: st.DataObject, value: Any) -> None:
    body = json.loads(GOLDEN.read_text("utf-8"))
    *parents, last = data.draw(st.sampled_from(places(body)[1:]))
    place = body
    for part in parents:
        place = place[part]
    place[last] = value
    try:
        manifest = Manifest.from_json(json.dumps(body))
    except DatasetError:
        return
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_unknown_keys_are_ignored() -> None:
    assert Manifest.from_json(with_checksum(json.loads(changed("later", {"a": 1})))) == Manifest.from_json(
        GOLDEN.read_text("utf-8")
    )


def test_names_of_files() -> None:
    assert shard_name("train", 3, 12, "tfrecord") == "train-00003-of-00012.tfrecord"
    assert index_name(shard_name("val", 0, 2, "hdf5")) == "val-00000-of-00002.h5.index.npy"


def test_an_index_has_a_column_for_each_scalar_once() -> None:
    fields = {name: Field(dtype="int64") for name in ("height", "label", "width")}
    assert [name for name, _ in index_dtype(fields)][-3:] == ["height", "width", "label"]


def test_every_changed_byte_of_a_manifest_is_found() -> None:
    data = (REPOSITORY / "tests/reader/format/golden/v1/fields/dataset.json").read_bytes()
    Manifest.from_json(data.decode())
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises((DatasetError, UnicodeDecodeError)):
            Manifest.from_json(changed.decode())


def test_a_manifest_without_its_checksum_is_refused() -> None:
    text = (REPOSITORY / "tests/reader/format/golden/v1/fields/dataset.json").read_text("utf-8")
    body = json.loads(text)
    del body["checksum"]
    for other in (json.dumps(body), text[:-1], text + "\n", json.dumps(json.loads(text))):
        with pytest.raises(ManifestError, match=r"checksum: is missing"):
            Manifest.from_json(other)


def test_what_a_dataset_requires_and_this_reader_does_not_know_is_refused_by_name() -> None:
    body = json.loads((REPOSITORY / "tests/reader/format/golden/v1/fields/dataset.json").read_text("utf-8"))
    with pytest.raises(DatasetError, match=r"requires generations, .* install a newer release"):
        Manifest.from_json(with_checksum(body | {"requires": ["generations"]}))
