"""Images of a few hundred bytes that claim billions of pixels, and JPEGs of nothing but markers. They cost little."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from support.crafted import BOMBS, SIDE, crafted_dataset, fields_of
from support.limits import limited, limited_command

from shard_reader import CenterCrop, CorruptionError, ManifestError, open_dataset
from shard_reader.format.image_codecs.jpeg import Jpeg

# A sound image first, then the bomb: in memory of the size of the sound one, the bomb would be found by chance.
READ = """
import sys
from shard_reader import CenterCrop, CorruptionError, Resize, RandomResizedCrop, open_dataset

data = open_dataset(sys.argv[1])
for read in (lambda: data[1], lambda: data.image(1)):
    try:
        read()
        raise SystemExit("no error")
    except CorruptionError as error:
        print(error)
for image in (CenterCrop(8), Resize(8), [RandomResizedCrop(8)], lambda image: image[:8, :8]):
    for verify in ("always", "never"):
        stream = data.stream(batch_size=2, shuffle="none", image=image, verify=verify)
        try:
            list(stream)
            raise SystemExit("no error")
        except CorruptionError as error:
            print(error)
    stream = data.stream(batch_size=2, shuffle="none", image=image, on_error="skip")
    (batch,) = stream
    assert batch["weight"].tolist() == [1, 0], batch["weight"]
    assert [one.record for one in stream.skipped] == [1]
    assert not batch["image"][1].any()
"""


def bomb(path: Path, encoding: str, *, agrees: bool, format: str = "tfrecord") -> Path:
    """A dataset of a sound image and a bomb, with the bomb's size in the index or another one."""
    make, side = BOMBS[encoding]
    images = [(make(SIDE, SIDE), SIDE, SIDE), (make(side, side), *((side, side) if agrees else (SIDE, SIDE)))]
    return crafted_dataset(path, images, fields_of(encoding), format)


@pytest.mark.parametrize("agrees", [True, False], ids=["the index agrees", "the index says another size"])
@pytest.mark.parametrize("encoding", BOMBS)
def test_an_image_that_claims_billions_of_pixels_is_damaged(tmp_path: Path, encoding: str, agrees: bool) -> None:
    if encoding == "raw" and not agrees:
        pytest.skip("raw pixels have no header that could claim another size")
    path = bomb(tmp_path / "shards", encoding, agrees=agrees)
    result = limited(READ, path)
    assert result.returncode == 0, result.stderr
    assert all("row 1, id '1.jpg': the image" in line for line in result.stdout.splitlines())
    said = "more than max_pixels=178956970" if agrees else "pixels"
    assert encoding == "raw" or said in result.stdout, result.stdout


@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp", "avif"])
def test_commands_find_such_an_image(tmp_path: Path, encoding: str) -> None:
    path = bomb(tmp_path / "shards", encoding, agrees=True)
    result = limited_command("verify", path, "--decode", "--workers", "1")
    assert result.returncode == 1 and "more than max_pixels=" in result.stdout, result.stdout + result.stderr
    assert "row 1, id '1.jpg'" in result.stdout
    assert limited_command("inspect", path).returncode == 0
    assert limited_command("index", path, "--workers", "1").returncode == 0
    result = limited_command("benchmark", path, "--crop", "8", "--seconds", "1")
    assert result.returncode == 1 and "more than max_pixels=" in result.stderr, result.stdout + result.stderr


def test_a_dataset_whose_images_are_all_that_large_is_not_opened(tmp_path: Path) -> None:
    make, side = BOMBS["jpeg"]
    path = crafted_dataset(tmp_path / "shards", [(make(side, side), side, side)], fields_of("jpeg", (side, side, 3)))
    with pytest.raises(ManifestError, match=r"image.shape: 65500x65500 pixels are more than max_pixels=178956970"):
        open_dataset(path)


def test_the_bound_can_be_raised(tmp_path: Path) -> None:
    make, _ = BOMBS["jpeg"]
    path = crafted_dataset(tmp_path / "shards", [(make(SIDE, SIDE), SIDE, SIDE)], fields_of("jpeg"))
    with pytest.raises(CorruptionError, match=r"has 16x16 pixels, more than max_pixels=255: pass a larger number"):
        open_dataset(path, max_pixels=255)[0]
    assert open_dataset(path, max_pixels=256)[0]["image"].shape == (16, 16, 3)
    with pytest.raises(ValueError, match=r"max_pixels=0: must be at least 1"):
        open_dataset(path, max_pixels=0)


def test_pixels_of_another_kind_are_damaged(tmp_path: Path) -> None:
    """A palette's indices are not grey values, and 16 bits are not 8."""
    import io

    from PIL import Image

    for number, image in enumerate(
        [Image.new("P", (4, 4)), Image.fromarray(np.zeros((4, 4), np.uint16)), Image.new("RGBA", (4, 4))]
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        fields = fields_of("png", (None, None, 1))
        path = crafted_dataset(tmp_path / str(number), [(buffer.getvalue(), 4, 4)], fields)
        with pytest.raises(CorruptionError, match=r"has a header that says pixels of mode"):
            open_dataset(path)[0]


def test_a_sound_image_is_decoded_as_before(tmp_path: Path) -> None:
    for encoding, (make, _) in BOMBS.items():
        path = crafted_dataset(tmp_path / encoding, [(make(SIDE, SIDE), SIDE, SIDE)], fields_of(encoding))
        (batch,) = open_dataset(path).stream(batch_size=1, image=CenterCrop(8))
        assert batch["image"].shape == (1, 8, 8, 3) and not batch["image"].any()


CUT = """
import sys
from shard_reader import CenterCrop, CorruptionError, Flip, RandomResizedCrop, Resize, open_dataset

data = open_dataset(sys.argv[1])
for image in (CenterCrop(8), Resize(8), [RandomResizedCrop(8, (0.001, 0.01)), Flip()]):
    for verify in ("always", "never"):
        try:
            (batch,) = data.stream(batch_size=1, image=image, verify=verify)
            print(batch["image"].std())
        except CorruptionError as error:
            print(error)
"""
_HEADER = Jpeg().encode(np.full((SIDE, SIDE, 1), 77, np.uint8), 90, "row")


def with_markers(height: int, width: int, interval: int, scan: bytes) -> bytes:
    """A grey JPEG of any size, with a marker after each `interval` blocks."""
    header = bytearray(_HEADER[: _HEADER.index(b"\xff\xda") + 10])
    frame, restart = header.index(b"\xff\xc0"), header.index(b"\xff\xdd")
    header[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    header[restart + 4 : restart + 6] = struct.pack(">H", interval)
    return bytes(header) + scan


def segments(count: int) -> bytes:
    """Segments of one block each, with the markers after them."""
    block = Jpeg().encode(np.full((8, 8, 1), 77, np.uint8), 90, "none")
    block = block[block.index(b"\xff\xda") + 10 : -2]
    eight = b"".join(block + bytes((0xFF, 0xD0 + number)) for number in range(8))
    return (eight * (count // 8 + 1))[: count * (len(block) + 2) - 2] + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "height", "width", "said"),
    [
        (with_markers(4000, 4000, 1, segments(250_000)), 4000, 4000, "0.0"),
        (with_markers(4000, 4000, 1, segments(249_999)), 4000, 4000, "the image"),
        (with_markers(6000, 6000, 1, b"\xff\xd9"), 6000, 6000, "the image"),
        (with_markers(1000, 1000, 1, b"\xff" * (15 << 20) + b"\xff\xd9"), 1000, 1000, "the image"),
        (with_markers(1000, 1000, 1, b"\xff\xd0" * (7 << 20) + b"\xff\xd9"), 1000, 1000, "the image"),
        (with_markers(1000, 1000, 125, b"\xff\0" * (7 << 20) + b"\xff\xd9"), 1000, 1000, "the image"),
        (with_markers(1000, 65_000, 1, segments(9)), 16, 16, "pixels, not 16x16"),
    ],
    ids=["as many as there can be", "one less", "none", "bytes of 255", "markers alone", "zeros alone", "another size"],
)
def test_a_jpeg_of_nothing_but_markers_costs_little(
    tmp_path: Path, data: bytes, height: int, width: int, said: str
) -> None:
    path = crafted_dataset(tmp_path / "shards", [(data, height, width)], fields_of("jpeg"))
    result = limited(CUT, path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 6 and all(said in line for line in lines), result.stdout
