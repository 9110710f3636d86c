"""Every image codec through the commands: prepared, verified, shown, timed, streamed, and indexed where it is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import command, prepared
from support.servers import first_of

from shard_reader import CenterCrop, open_dataset
from shard_reader.format.image_codecs.codec import ImageCodec
from shard_reader.format.image_codecs.table import IMAGE_CODECS
from shard_reader.format.shard_formats import example, tfrecord

CODECS = list(IMAGE_CODECS.values())


@pytest.fixture(scope="module", params=first_of(*CODECS), ids=lambda codec: codec.name)
def encoded(
    request: pytest.FixtureRequest, class_folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ImageCodec, Path]:
    """The class folders in one encoding, in both formats."""
    output = tmp_path_factory.mktemp(request.param.name) / "shards"
    options = f"--size 16 --encoding {request.param.name} --format tfrecord --format hdf5 --shard-records 30"
    return request.param, prepared(class_folders, output, *options.split())


@pytest.mark.slow
def test_the_commands_know_it(encoded: tuple[ImageCodec, Path]) -> None:
    codec, path = encoded
    result = command("verify", path, "--decode")
    assert (result.returncode, "60 records" in result.stdout) == (0, True), result.stdout + result.stderr
    shown = json.loads(command("inspect", path, "--json").stdout)
    assert shown["fields"]["image"]["encoding"] == codec.name
    timed = command("benchmark", path, "--crop", "8", "--seconds", "1")
    assert timed.returncode == 0 and "images/s" in timed.stdout, timed.stderr


def test_the_reader_gives_its_pixels(encoded: tuple[ImageCodec, Path]) -> None:
    codec, path = encoded
    data = open_dataset(path)
    other = open_dataset(path, format="hdf5")
    for record in (0, 17, 59):
        image = data[record]["image"]
        assert np.array_equal(image, other[record]["image"])
        if not codec.is_raw:
            shard, row = data._find(record)
            start, length, *_ = shard.rows[["offset", "length"]][row].item()
            plain = Image.open(io.BytesIO(shard.stored(start, length)))
            assert plain.get_format_mimetype() == codec.media_type
            assert np.abs(np.asarray(plain.convert("RGB")).astype(int) - image).max() <= 2
    batches = list(data.stream(batch_size=16, image=CenterCrop(12), seed=1))
    assert [batch["image"].shape for batch in batches] == [(16, 12, 12, 3)] * 4


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(
    encoded: tuple[ImageCodec, Path], class_folders: Path, tmp_path: Path
) -> None:
    codec, path = encoded
    options = f"--size 16 --encoding {codec.name} --format tfrecord --format hdf5 --shard-records 30 --workers 1"
    again = prepared(class_folders, tmp_path / "again", *options.split())
    for file in path.glob("train-*"):
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("codec", [codec for codec in CODECS if not codec.is_raw], ids=lambda codec: codec.name)
def test_records_of_others_are_indexed_where_they_are(codec: ImageCodec, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    with open(tmp_path / "train.tfrecord", "wb") as file:
        for number in range(3):
            features = {"image/encoded": codec.encode(pixels, None), "image/filename": str(number).encode()}
            tfrecord.write_record(file, example.encode(features))
    result = command("index", tmp_path)
    assert result.returncode == 0 and codec.name in result.stdout, result.stderr
    data = open_dataset(tmp_path)
    assert data.fields["image"].encoding == codec.name and data[2]["image"].shape == (9, 7, 3)


@pytest.mark.slow
@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec.quality], ids=lambda codec: codec.name)
def test_quality_is_asked_for(codec: ImageCodec, class_folders: Path, tmp_path: Path) -> None:
    def size(quality: int) -> int:
        options = f"--size 64 --encoding {codec.name} --quality {quality} --shards 1"
        path = prepared(class_folders, tmp_path / str(quality), *options.split())
        return sum(file.stat().st_size for file in path.glob("*.tfrecord"))

    assert size(20) < size(90)
