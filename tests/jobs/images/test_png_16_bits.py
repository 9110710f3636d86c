"""16-bit PNG as a stored encoding: from 16-bit files through shards to batches, in all of its channels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import command, prepared
from support.pictures import DEEP, in_mode, numbers, png, raw_pixels, refused, saved

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import UsageError
from beam_jobs.images.process import prepare_image
from beam_jobs.options import ImageOptions
from shard_reader import Flip, RandomResizedCrop, Resize, open_dataset
from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.table import decode_image

OPTIONS = ImageOptions(
    width=64, height=48, fit="none", filter="lanczos", encoding="png", quality=None, dtype="uint16", normalize="none",
    channels="keep",
)  # fmt: skip
FILES = {
    "rgb": png(numbers(3)),
    "rgba": png(numbers(4)),
    "grey-and-opacity": png(numbers(2)),
    "grey": saved(in_mode("I;16")),
    "tiff": DEEP["tiff"],
    "8-bit": saved(in_mode("RGB")),
}


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_are_those_that_raw_has(name: str) -> None:
    payload = prepare_image(FILES[name], OPTIONS)
    field = Field(dtype="uint16", shape=(None, None, payload.channels), encoding="png")
    found = decode_image(np.frombuffer(payload.data, np.uint8), field, payload.height, payload.width)
    assert np.array_equal(found, raw_pixels(FILES[name], dtype="uint16", channels="keep"))
    assert payload.data == prepare_image(FILES[name], OPTIONS).data
    assert np.array_equal(raw_pixels(payload.data, dtype="uint16", channels="keep"), found)  # in again


def test_a_stored_file_is_a_16_bit_png_to_others() -> None:
    data = prepare_image(FILES["rgb"], OPTIONS).data
    assert data[24] == 16
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), numbers(3) >> 8)  # Pillow keeps 8 bits


def test_shards_give_16_bits_in_every_way(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / "in" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.random.default_rng(number).integers(0, 65_536, (20, 24, 3), np.uint16)))
    words = ("--size", "16x12", "--encoding", "png", "--dtype", "uint16", "--workers", 1)
    output = prepared(tmp_path / "in", tmp_path / "out", *words, "--format", "tfrecord", "--format", "hdf5")
    raw = prepared(tmp_path / "in", tmp_path / "raw", "--size", "16x12", "--dtype", "uint16", "--workers", 1)
    image = json.loads((output / "features.json").read_text())["featuresDict"]["features"]["image"]["image"]
    assert (image["dtype"], image["encodingFormat"]) == ("uint16", "png")
    expected = [open_dataset(raw, "train")[n]["image"] for n in range(6)]
    for format in ("tfrecord", "hdf5"):
        data = open_dataset(output, "train", format=format)
        assert all(np.array_equal(data[n]["image"], expected[n]) for n in range(6))
        for image in (Resize(8), [RandomResizedCrop(8), Flip()], None):
            batch = next(iter(data.stream(batch_size=6, seed=1, image=image)))["image"]
            assert (batch.dtype, batch.shape[-1]) == (np.uint16, 3)
            assert batch.max() > 40_000
    assert command("verify", output, "--decode", "--workers", 1).stdout.startswith(f"{output}: whole; ")
    assert "uint16 [12, 16, 3], png" in command("inspect", output).stdout


def test_opencv_is_asked_for_before_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_jobs.cli.options.pixels.find_spec", lambda name: None if name == "cv2" else name)
    words = ["prepare", "in", "out", "--encoding", "png", "--dtype", "uint16"]
    with pytest.raises(UsageError, match=r"--encoding png needs cv2 for colours of uint16: pip install 'image-shards"):
        parse(words)
    assert parse([*words, "--channels", "grey"]).image.encoding == "png"  # Pillow's


def test_damage_is_still_a_reject() -> None:
    assert refused(FILES["rgb"][:-40], encoding="png", dtype="uint16") in ("damaged", "not-an-image")
