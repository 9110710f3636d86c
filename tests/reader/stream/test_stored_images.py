"""Images as they are stored, for a decoder on a device, with the parts that the stream's transforms draw."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.remote_data import write_dataset
from support.several import several_images
from support.stored import flip, write_manifest

from beam_jobs.shards.write import store
from shard_reader import CenterCrop, CorruptionError, Flip, RandomResizedCrop, Stream, concat, mix, open_dataset
from shard_reader.format import Field
from shard_reader.stream.batch_reader import Spec

CROP = RandomResizedCrop(12, exact=True)
FIELDS = ("image", "label", "id")


def stream(path: Path, **options: Any) -> Stream:
    return open_dataset(path).stream(**{"batch_size": 8, "fields": FIELDS, "seed": 4, "decode": False, **options})


@pytest.mark.parametrize("workers", ["threads", "processes"])
@pytest.mark.parametrize("image", [None, [CROP, Flip()], CenterCrop(12)], ids=["whole", "random", "centre"])
def test_bytes_are_those_of_the_shards_in_the_order_of_the_stream(jpeg_shards: Path, workers: Any, image: Any) -> None:
    with stream(jpeg_shards, image=image, workers=workers, threads=2) as one:
        numbers = {id: number for number, id in enumerate(one.data.ids().tolist())}
        decoded = stream(jpeg_shards, image=CenterCrop(12), decode=True)
        for _ in range(2):
            for found, expected in zip(one, decoded, strict=True):
                assert found["id"].tolist() == expected["id"].tolist()
                assert found["weight"].tolist() == expected["weight"].tolist()
                for id, payload in zip(found["id"], found["image"], strict=True):
                    assert payload == one.data.payload(numbers[id]).tobytes()
        assert one.coverage() == decoded.coverage()
        assert list(found) == list(one.specs)


def test_boxes_and_flips_are_those_that_the_stream_draws(jpeg_shards: Path) -> None:
    """A device that does as they say has the images of a stream that decodes."""
    stored, decoded = stream(jpeg_shards, image=[CROP, Flip()]), stream(jpeg_shards, image=[CROP, Flip()], decode=True)
    numbers = {id: number for number, id in enumerate(stored.data.ids().tolist())}
    flips = []
    for found, expected in zip(stored, decoded, strict=True):
        assert found["image/box"].dtype == np.int32 and found["image/flip"].dtype == np.bool_
        for place, id in enumerate(found["id"]):
            top, left, height, width = found["image/box"][place]
            part = stored.data.image(numbers[id])[top : top + height, left : left + width]
            assert part.shape[:2] == (height, width)
            image = CROP.of_part(part)
            image = image[:, ::-1] if found["image/flip"][place] else image
            assert np.abs(image.astype(int) - expected["image"][place]).max() <= 1
            flips.append(bool(found["image/flip"][place]))
    assert set(flips) == {False, True}
    specs = {"image": Spec("string", ()), "image/box": Spec("int32", (4,)), "image/flip": Spec("bool", ())}
    assert {name: stored.specs[name] for name in specs} == specs


def test_a_copy_goes_on_where_the_stream_is(jpeg_shards: Path) -> None:
    one, whole = (stream(jpeg_shards, image=[CROP, Flip()]) for _ in range(2))
    expected = list(whole)
    next(iter(one))
    for found, batch in zip(pickle.loads(pickle.dumps(one)), expected[1:], strict=True):
        assert all(np.array_equal(found[name], batch[name]) for name in batch)


@pytest.mark.parametrize("verify", [None, "never"])
def test_damaged_bytes_are_an_error_or_skipped(jpeg_shards: Path, tmp_path: Path, verify: Any) -> None:
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    data = open_dataset(copy)
    content = data.payload(3).tobytes()
    (file,) = [file for file in copy.glob("*.tfrecord") if content in file.read_bytes()]
    flip(file, file.read_bytes().index(content) + len(content) // 2)
    if verify == "never":
        list(stream(copy, verify="never"))
        return
    with pytest.raises(CorruptionError, match=r"row 3.*CRC mismatch"):
        list(stream(copy, shuffle="none"))
    one = stream(copy, shuffle="none", on_error="skip")
    first = next(iter(one))
    assert first["image"][3] == b"" and first["weight"].tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    assert [skipped.record for skipped in one.skipped] == [3]


@pytest.mark.parametrize(
    ("shards", "options", "message"),
    [
        ("raw_shards", {}, "are stored as pixels: leave it out"),
        ("jpeg_shards", {"image": np.fliplr}, "needs pixels: give image= one of CenterCrop"),
        ("jpeg_shards", {"image": [Flip(), CenterCrop(12)]}, "needs pixels"),
        ("jpeg_shards", {"image": CenterCrop(999)}, "smaller than the crop"),
        ("jpeg_shards", {"decode": 0}, "decode=0: must be True or False"),
    ],
    ids=["raw", "function", "flip first", "too small", "no flag"],
)
def test_what_a_decoder_cannot_do_is_an_error(
    shards: str, options: dict[str, Any], message: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(shards)
    split = {"split": "train"} if shards == "raw_shards" else {}
    with pytest.raises((ValueError, TypeError), match=message):
        list(open_dataset(path, **split).stream(**{"batch_size": 8, "decode": False, **options}))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("together", [concat, lambda both: mix(both, [1, 1])], ids=["concat", "mix"])
def test_pixels_beside_encoded_images_are_an_error(tmp_path: Path, together: Any, on_error: Any) -> None:
    """Their bytes are no file that a decoder could read."""
    both = [open_dataset(write_dataset(tmp_path / encoding, (5,), encoding=encoding)) for encoding in ("jpeg", "raw")]
    with pytest.raises(ValueError, match=r"raw.*is stored as pixels.*leave decode=False out"):
        list(together(both).stream(batch_size=4, decode=False, on_error=on_error))


def test_pixels_of_any_size_are_refused_as_those_of_one(tmp_path: Path) -> None:
    record = {"image": bytes(12), "label": 0, "id": "0", "height": 2, "width": 2}
    number, text = Field(dtype="int64"), Field(dtype="string")
    image = Field(dtype="uint8", shape=(None, None, 3), encoding="raw")
    fields = {"image": image, "label": number, "id": text, "height": number, "width": number}
    shard = store([record], {"tfrecord": tmp_path / "train-00000-of-00001.tfrecord"}, fields)
    write_manifest(tmp_path, fields, [shard], formats=("tfrecord",))
    assert open_dataset(tmp_path).image(0).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="are stored as pixels: leave it out"):
        stream(tmp_path)


def test_pytorch_has_the_bytes_and_the_boxes(jpeg_shards: Path) -> None:
    torch = pytest.importorskip("torch")
    from shard_reader.torch import StreamDataset

    batch = next(iter(StreamDataset(stream(jpeg_shards, image=[CROP, Flip()]))))
    assert isinstance(batch["image"][0], bytes)
    assert (batch["image/box"].dtype, tuple(batch["image/box"].shape)) == (torch.int32, (8, 4))
    assert batch["image/flip"].dtype == torch.bool


def test_objects_follow_the_box_and_masks_cannot(tmp_path: Path) -> None:
    path = several_images(tmp_path / "data", 6)
    objects = ("objects/label", "objects/bbox", "objects/keypoints")
    options = {"fields": ("image", *objects), "image": [CROP, Flip()], "batch_size": 6}
    (found,), (expected,) = stream(path, **options), stream(path, **options, decode=True)
    for name in objects:
        assert all(map(np.array_equal, found[name], expected[name]))
    with pytest.raises(ValueError, match="decode=False: 'mask' would have to follow"):
        stream(path, fields=("image", "mask"), image=CROP)
    (whole,) = stream(path, fields=("image", "mask"), batch_size=6)
    assert whole["mask"][0].startswith(b"\x89PNG") and list(whole) == ["image", "mask", "weight"]
