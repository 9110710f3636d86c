"""Records with several images, bytes, keypoints and outlines, from a source to both formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.everything import COUNT, SIZE, WITHOUT_MASK, Everything, depth_of, mask_of, pixels_of
from support.images import write_image

from beam_jobs import PrepareOptions, PrepareResult, UsageError, prepare
from shard_reader import Dataset, Flip, RandomResizedCrop, open_dataset

pytest.importorskip("apache_beam")
EXACT = {"fit": "none", "encoding": "png"}


def made(tmp_path: Path, **more: Any) -> PrepareResult:
    (tmp_path / "in").mkdir(exist_ok=True)
    options = {"shards": 2, "workers": 1, "max_rejects": 1, "format": ("tfrecord", "hdf5"), **more}
    return prepare(
        PrepareOptions(input=tmp_path / "in", output=tmp_path / "out", source=Everything, **options), quiet=True
    )


def opened(tmp_path: Path) -> Dataset:
    return open_dataset(tmp_path / "out")


def number_of(record: dict[str, Any]) -> int:
    return int(record["id"].partition(".")[0])


def test_every_image_of_a_record_is_stored_and_turned_alike(tmp_path: Path) -> None:
    result = made(tmp_path, **EXACT)
    assert (result.manifest.counts.written, result.manifest.requires) == (COUNT - 1, ("payloads",))
    data = opened(tmp_path)
    for record in data:
        number = number_of(record)
        turn = np.rot90 if number == 1 else lambda pixels, _: pixels
        assert np.array_equal(record["image"], turn(pixels_of(number), -1))
        assert np.array_equal(record["right"], turn(pixels_of(number + 100), -1))
        assert np.array_equal(record["mask"], turn(mask_of(number), -1))
        assert np.array_equal(record["depth"][..., 0], turn(depth_of(number), -1))
        assert record["audio"] == b"RIFF" + bytes([number])
        assert record["objects/keypoints"].shape == (2, 2, 3)
    fields = data.fields
    assert [(name, fields[name].role, fields[name].dtype) for name in ("mask", "depth", "right", "audio")] == [
        ("mask", "mask", "uint8"),
        ("depth", "depth", "uint16"),
        ("right", "photo", "uint8"),
        ("audio", None, "bytes"),
    ]


def test_an_image_without_its_mask_is_rejected_and_named(tmp_path: Path) -> None:
    made(tmp_path, **EXACT)
    (line,) = (tmp_path / "out/rejects.jsonl").read_text().splitlines()
    reject = json.loads(line)
    assert (reject["id"], reject["reason"]) == (f"{WITHOUT_MASK}.png", "missing")
    assert reject["message"] == "mask: INPUT has none; --allow-missing mask stores an empty one"


def test_the_file_of_a_mask_that_is_gone_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png")
    Image.new("L", (20, 16), 1).save(tmp_path / "good.png")
    (tmp_path / "t.csv").write_text("path,mask\n1.png,good.png\n./1.png,gone.png\n")
    place = {"input": tmp_path / "t.csv", "output": tmp_path / "out"}
    prepare(PrepareOptions(**place, mask_column="mask", id_column="mask", workers=1, max_rejects=1), quiet=True)
    (line,) = (tmp_path / "out/rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["message"] == f"mask: {tmp_path}/gone.png is not there"


def test_a_mask_that_may_be_missing_is_empty_and_counted(tmp_path: Path) -> None:
    result = made(tmp_path, **EXACT, allow_missing=("mask",), max_rejects=0)
    assert result.manifest.counts.changed["missing"] == 1
    empty = {number_of(record): not record["mask"].any() for record in opened(tmp_path)}
    assert [number for number, is_empty in empty.items() if is_empty] == [WITHOUT_MASK]


def test_a_name_that_no_field_has_may_not_be_missing(tmp_path: Path) -> None:
    message = "--allow-missing masks: is no further image .* of INPUT, which has mask, depth, right, audio"
    with pytest.raises(UsageError, match=message):
        made(tmp_path, allow_missing=("masks",))


@pytest.mark.parametrize("ragged", ["list", "pad"])
def test_instances_agree_with_the_objects_that_a_crop_leaves(tmp_path: Path, ragged: Any) -> None:
    made(tmp_path, fit="none", encoding="png", segments="instances", allow_missing=("mask",))
    fields = ("instances", "objects/bbox", "objects/label", "objects/instance")
    data = opened(tmp_path)
    stream = data.stream(batch_size=COUNT, fields=fields, ragged=ragged, image=[RandomResizedCrop(24), Flip()])
    dropped = 0
    for _ in range(6):
        (batch,) = stream
        for place, pixels in enumerate(batch["instances"]):
            values = batch["objects/instance"][place]
            kept = batch["objects/instance/mask"][place] if ragged == "pad" else slice(None)
            # A part of a pixel may be left of a box, and no pixel of its object.
            assert set(np.unique(pixels)) - {0} <= set(values[kept].tolist())
            dropped += len(values[kept]) < 2
    assert dropped


def test_both_formats_hold_the_same_records(tmp_path: Path) -> None:
    made(tmp_path, size=16, encoding="raw")
    both = [open_dataset(tmp_path / "out", format=name) for name in ("tfrecord", "hdf5")]
    for one, other in zip(*both, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_keypoints_and_boxes_go_with_the_pixels(tmp_path: Path) -> None:
    made(tmp_path, **EXACT)
    by_number = {number_of(record): record for record in opened(tmp_path)}
    width, height = SIZE
    points = by_number[0]["objects/keypoints"]
    assert np.allclose(points[0], [[6 / height, 10 / width, 2], [6 / height, 30 / width, 1]])
    assert points[1].tolist()[0] == [0, 0, 0]  # which is not labelled
    # Turned to the right, y becomes x, counted from the other side.
    assert np.allclose(by_number[1]["objects/keypoints"][0][0], [10 / width, 1 - 6 / height, 2])


@pytest.mark.parametrize("size", [16, "24x12"])
def test_instances_are_where_their_boxes_are(tmp_path: Path, size: Any) -> None:
    made(tmp_path, size=size, segments="instances")
    for record in opened(tmp_path):
        tall, wide = record["instances"].shape
        assert record["image"].shape[:2] == (tall, wide)
        for number, box in zip(record["objects/instance"], record["objects/bbox"], strict=True):
            rows, columns = np.nonzero(record["instances"] == number)
            ends = rows.min() / tall, columns.min() / wide, (rows.max() + 1) / tall, (columns.max() + 1) / wide
            assert np.allclose(ends, box, atol=1.5 / min(tall, wide))


@pytest.mark.parametrize("form", ["mask", "rle", "polygons"])
def test_outlines_have_every_form(tmp_path: Path, form: str) -> None:
    pytest.importorskip("pycocotools")
    if form == "mask":  # the source has a field of this name
        with pytest.raises(Exception, match="--segments mask: INPUT has a field of this name"):
            made(tmp_path, segments=form)
        return
    made(tmp_path, fit="none", segments=form)
    texts = opened(tmp_path)[0]["objects/segmentation"]
    found = [json.loads(text) for text in texts]
    assert [type(one) for one in found] == ([dict, dict] if form == "rle" else [list, list])


def test_a_job_with_further_images_is_the_same_on_every_run(tmp_path: Path) -> None:
    made(tmp_path, size=16)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    made(tmp_path, size=16, overwrite=True, workers=2)
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert before == after
