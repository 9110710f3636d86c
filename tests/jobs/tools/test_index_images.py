"""`image-shards index`: TFRecords with several images, and with bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import command
from support.foreign_records import image_bytes, manifest, tf, write

from beam_jobs.errors import UsageError
from beam_jobs.tools.checks.verify import Verification
from beam_jobs.tools.index import IndexOptions, index_directory
from shard_reader import open_dataset


def png(pixels: np.ndarray, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(pixels) if mode is None else Image.frombytes(mode, pixels.shape[::-1], pixels.tobytes())
    if mode == "P":
        image.putpalette([value for number in range(256) for value in (number, 0, 255 - number)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def mask_of(number: int, height: int = 16, width: int = 20) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 4, (height, width), np.uint8)


def record(number: int, **values: Any) -> dict[str, Any]:
    return {"image/encoded": image_bytes(number), "image/filename": f"{number}.jpg".encode(), **values}


def said(path: Path, **options: Any) -> str:
    lines, problems = index_directory(IndexOptions(path=str(path), **options), 1, lambda text: None)
    assert problems == 0
    return "\n".join(lines) + "\n"


def check(path: Path) -> None:
    problems = list[str]()
    Verification(str(path), decode=True).run(1, problems.append, lambda: None)
    assert problems == []


def test_further_images_have_the_role_of_their_name(tmp_path: Path) -> None:
    masks = [mask_of(n, 8 + n, 10) for n in range(3)]
    depths = [mask_of(n).astype(np.uint16) * 20_000 for n in range(3)]
    records = [
        record(n, segmentation_mask=png(masks[n]), depth=png(depths[n]), right=image_bytes(9 + n, "WEBP"))
        for n in range(3)
    ]
    write(tmp_path / "train-00000-of-00001", records)
    text = said(tmp_path)
    assert "  depth      from depth, uint16 [16, 20, 1], png, depth\n" in text
    assert "  segmentation_mask from segmentation_mask, uint8 [*, 10, 1], png, mask\n" in text
    assert "  right      from right, uint8 [16, 20, 3], webp, photo\n" in text and "left out" not in text
    data = open_dataset(tmp_path)
    assert data.manifest.requires == ("payloads",)
    for number in range(3):
        assert np.array_equal(data[number]["segmentation_mask"], masks[number])  # of half the size, as it is
        assert np.array_equal(data[number]["depth"][..., 0], depths[number])
        assert data[number]["right"].shape == (16, 20, 3)
    check(tmp_path)


def test_masks_with_a_palette_are_named_and_left_out(tmp_path: Path) -> None:
    """Their colours are no numbers of classes. Without their palette, they are."""
    records = [record(n, mask=png(mask_of(n), "P"), other=image_bytes(n)) for n in range(2)]
    write(tmp_path / "x.tfrecord", records)
    text = said(tmp_path)
    assert "left out   mask: is images that a reader does not decode (" in text
    assert "record 0, at byte 12: the image has pixels of Pillow's mode P" in text and "`image-shards prepare`" in text
    assert tuple(manifest(tmp_path).fields) == ("image", "id", "height", "width", "other")
    check(tmp_path)


@pytest.mark.parametrize(("name", "is_left_out"), [("mask", True), ("depth", True), ("thumbnail", False)])
def test_values_of_few_bits_are_those_of_the_file_or_left_out(tmp_path: Path, name: str, is_left_out: bool) -> None:
    """Decoders scale 4 bits to 8, which is right for a photo alone."""
    few = png(np.zeros((4, 4), np.uint8), bits=4)
    narrow = few[:24] + b"\x04" + few[25:29]
    import zlib

    narrow += zlib.crc32(narrow[12:29]).to_bytes(4, "big")
    body = zlib.compress(b"\0\x12\x34" * 4)
    chunk = b"IDAT" + body
    narrow += len(body).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + few[-12:]
    write(tmp_path / "x.tfrecord", [record(0, **{name: narrow})])
    text = said(tmp_path)
    assert (f"left out   {name}: is a {name} of PNG files with less than 8 bits" in text) == is_left_out
    if not is_left_out:
        assert open_dataset(tmp_path)[0][name][0, :, 0].tolist() == [17, 34, 51, 68]
    check(tmp_path)


def test_an_encoding_with_a_loss_has_no_numbers(tmp_path: Path) -> None:
    write(tmp_path / "x.tfrecord", [record(0, mask=image_bytes(1, mode="L"))])
    assert "  mask       from mask, uint8 [16, 20, 1], jpeg, photo\n" in said(tmp_path)


def test_grey_among_colour_is_colour_in_photos_alone(tmp_path: Path) -> None:
    modes = ["L", "RGB"]
    records = [record(n, after=image_bytes(n, "PNG", mode=m), mask=image_bytes(n, "PNG", mode=m)) for n, m in
               enumerate(modes)]  # fmt: skip
    write(tmp_path / "x.tfrecord", records)
    text = said(tmp_path)
    assert "after, uint8 [16, 20, 3], png, photo\n" in text and "mask, uint8 [16, 20, *], png, mask\n" in text
    check(tmp_path)


def test_images_that_cannot_be_a_field_are_named_with_the_reason(tmp_path: Path) -> None:
    others = [
        {"some": image_bytes(0), "two": image_bytes(0), "text": b"a", "half": image_bytes(0)},
        {"two": image_bytes(1, "PNG"), "text": image_bytes(1), "half": b"\xff\xfe"},
    ]
    write(tmp_path / "x.tfrecord", [record(n, **values) for n, values in enumerate(others)])
    text = said(tmp_path)
    assert "left out   some: is an image that 1 of 2 records lack; `image-shards prepare` reads such files\n" in text
    assert "left out   two: is images of several encodings (jpeg uint8, png uint8); `image-shards prepare`" in text
    assert "left out   text: is bytes that are no text; --bytes-key text keeps them\n" in text
    assert "left out   half: is bytes that are no text; --bytes-key half keeps them\n" in text
    assert "some" not in manifest(tmp_path).fields
    check(tmp_path)


def test_columns_of_a_further_image_have_their_own_names(tmp_path: Path) -> None:
    records = [record(n, mask=png(mask_of(n)), mask_height=99, mask_width=[98, 97], height=1) for n in range(2)]
    write(tmp_path / "x.tfrecord", records)
    said(tmp_path)
    data = open_dataset(tmp_path)
    assert data.column("source/mask_height").tolist() == [99, 99]
    assert data.column("source/mask_width").tolist() == [[98, 97]] * 2
    check(tmp_path)


def test_bytes_are_kept_if_they_are_asked_for(tmp_path: Path) -> None:
    records = [record(n, audio=b"\xff" * n, text=b"plain", n=[1] * n) for n in range(3)]
    write(tmp_path / "x.tfrecord", records)
    assert "left out   audio: is bytes that are no text; --bytes-key audio keeps them\n" in said(tmp_path)
    (tmp_path / "dataset.json").unlink()
    assert "  fields     audio, n, text\n" in said(tmp_path, bytes_keys=("audio", "text"))
    data = open_dataset(tmp_path)
    assert [data[n]["audio"] for n in range(3)] == [b"", b"\xff", b"\xff\xff"] and data[0]["text"] == b"plain"
    assert manifest(tmp_path).fields["audio"].kind == "bytes"
    check(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("n", "--bytes-key n: has not one value of bytes in every record, which a field needs"),
        ("none", "--bytes-key none: there is no such feature beside the image; there are: image/filename, n"),
    ],
)
def test_a_feature_that_is_no_bytes_is_refused(tmp_path: Path, name: str, words: str) -> None:
    write(tmp_path / "x.tfrecord", [record(0, n=1)])
    with pytest.raises(UsageError) as found:
        said(tmp_path, bytes_keys=(name,))
    assert str(found.value) == words
    assert not (tmp_path / "dataset.json").exists()


def test_the_words_of_the_command(tmp_path: Path) -> None:
    write(tmp_path / "x.tfrecord", [record(0, audio=b"\xff", mask=png(mask_of(0)))])
    result = command("index", tmp_path, "--workers", 1, "--bytes-key", "audio")
    assert result.returncode == 0 and "  fields     audio\n" in result.stdout
    again = command("index", tmp_path, "--bytes-key", "audio")
    assert again.returncode == 2 and "--bytes-key: " in again.stderr


def test_tensorflow_decodes_the_same_mask(tmp_path: Path) -> None:
    write(tmp_path / "x.tfrecord", [record(0, mask=png(mask_of(0)))])
    said(tmp_path)
    payload = open_dataset(tmp_path).payload(0, "mask").tobytes()
    assert np.array_equal(tf.io.decode_png(payload).numpy()[..., 0], open_dataset(tmp_path)[0]["mask"])
