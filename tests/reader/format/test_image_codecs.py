"""The table of image codecs: every entry keeps the promises of the interface, and AVIF's bytes depend on no CPUs."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image
from support.command import REPOSITORY

from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.codec import ImageCodec
from shard_reader.format.image_codecs.table import (
    IMAGE_CODECS,
    codec_for,
    codec_of,
    decode_image,
    encoding_of,
    is_pixel_array,
    read_header,
)

CODECS = list(IMAGE_CODECS.values())
ENCODED = [codec for codec in CODECS if not codec.is_raw]


def drawn(height: int, width: int, channels: int, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """A smooth image, with an opacity that is not the same everywhere."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [np.sin(rows * a / 9 + columns * b / 9) for a, b in rng.uniform(0.2, 1, (channels, 2))]
    pixels = np.stack(planes, 2) / 2 + 0.5
    return (pixels * 255).astype(dtype) if dtype == "uint8" else (pixels * 60_000).astype(dtype)


def as_array(payload: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(payload, np.uint8)


def holdings() -> list[tuple[ImageCodec, int, str]]:
    return [(codec, channels, dtype) for codec in CODECS for channels in codec.channels for dtype in codec.dtypes]


@pytest.mark.parametrize(("codec", "channels", "dtype"), holdings(), ids=lambda v: getattr(v, "name", str(v)))
def test_a_codec_gives_back_all_that_it_holds(codec: ImageCodec, channels: int, dtype: str) -> None:
    pixels = drawn(33, 47, channels, dtype)
    payload = as_array(codec.encode(pixels, None))
    field = Field(dtype=dtype, shape=(None, None, channels), encoding=codec.name)
    again = decode_image(payload, field, 33, 47)
    assert again.dtype == np.dtype(dtype) and again.shape == pixels.shape
    if codec.quality is None:
        assert np.array_equal(again, pixels)
    else:
        assert np.abs(again[..., :3].astype(int) - pixels[..., :3].astype(int)).mean() < 8
    assert codec.encode(pixels, None) == payload.tobytes()


@pytest.mark.parametrize("codec", ENCODED, ids=lambda codec: codec.name)
def test_an_encoding_is_recognised_by_its_first_bytes(codec: ImageCodec) -> None:
    for channels, dtype in itertools.product(codec.channels, codec.dtypes):
        payload = as_array(codec.encode(drawn(20, 30, channels, dtype), None))
        assert encoding_of(payload) == codec.name
        assert read_header(payload) == (codec.name, 20, 30, channels, dtype)
        assert Image.open(io.BytesIO(payload)).get_format_mimetype() == codec.media_type
        others = [other for other in CODECS if other is not codec]
        assert not any(other.matches(payload[:12].tobytes()) for other in others)


@pytest.mark.parametrize("codec", [codec for codec in ENCODED if codec.quality], ids=lambda codec: codec.name)
def test_quality_decides_the_bytes_and_the_error(codec: ImageCodec) -> None:
    pixels = drawn(64, 64, 3, seed=1)
    assert codec.encode(pixels, None) == codec.encode(pixels, codec.quality)
    assert len(codec.encode(pixels, 30)) < len(codec.encode(pixels, 95))


@pytest.mark.parametrize(
    ("codec", "dtype"),
    [(codec, dtype) for codec in ENCODED for dtype in codec.dtypes],
    ids=lambda value: getattr(value, "name", value),
)
@given(data=st.data())
def test_damage_is_a_value_error_or_an_image(codec: ImageCodec, dtype: str, data: st.DataObject) -> None:
    """Whatever bytes there are: no other error, and never an image of another size."""
    payload = bytearray(codec.encode(drawn(9, 7, 3, dtype), None))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    del payload[data.draw(st.integers(len(payload) // 2, len(payload))) :]
    field = Field(dtype=dtype, shape=(None, None, 3), encoding=codec.name)
    try:
        image = decode_image(as_array(bytes(payload)), field, 9, 7)
    except ValueError:
        return
    assert image.shape == (9, 7, 3)


@pytest.mark.parametrize("codec", ENCODED, ids=lambda codec: codec.name)
def test_a_payload_of_another_encoding_is_refused(codec: ImageCodec) -> None:
    """A file that lies of its encoding reaches no other decoder: some of Pillow's run programs."""
    other = next(other for other in ENCODED if other is not codec)
    field = Field(dtype="uint8", shape=(None, None, 3), encoding=codec.name)
    for payload in (other.encode(drawn(9, 7, 3), None), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\n"):
        with pytest.raises(ValueError):
            decode_image(as_array(payload), field, 9, 7)


# 16-bit PNG


def deep_png(channels: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    pixels = drawn(20, 30, channels, "uint16")
    return as_array(IMAGE_CODECS["png"].encode(pixels, None)), pixels


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colours_of_an_earlier_index_are_8_bit_ones(channels: int) -> None:
    """Which Pillow reads, so that datasets that were indexed keep their pixels."""
    payload, pixels = deep_png(channels)
    field = Field(dtype="uint8", shape=(None, None, channels), encoding="png")
    assert np.array_equal(decode_image(payload, field, 20, 30), pixels >> 8)


def test_16_bit_grey_among_colours_is_coloured() -> None:
    payload, pixels = deep_png(1)
    field = Field(dtype="uint16", shape=(None, None, 3), encoding="png")
    assert np.array_equal(decode_image(payload, field, 20, 30), np.repeat(pixels, 3, 2))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param(lambda data: data[: len(data) // 2], "cannot be decoded", id="cut off"),
        pytest.param(lambda data: data[:90] + bytes([data[90] ^ 1]) + data[91:], "cannot be decoded", id="a bit"),
        pytest.param(lambda data: IMAGE_CODECS["png"].encode(drawn(9, 7, 3, "uint16"), None), "7x9", id="size"),
        pytest.param(lambda data: deep_png(4)[0].tobytes(), "4 channels, not 3", id="channels"),
    ],
)
def test_damage_of_16_bit_colours_is_told_once(
    damage: Callable[[bytes], bytes], problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """libpng would write to the standard error of the process."""
    field = Field(dtype="uint16", shape=(None, None, 3), encoding="png")
    with pytest.raises(ValueError, match=problem):
        decode_image(as_array(damage(deep_png(3)[0].tobytes())), field, 20, 30)
    assert capfd.readouterr() == ("", "")


def test_16_bit_colours_need_opencv_alone() -> None:
    png = IMAGE_CODECS["png"]
    assert png.packages_for(Field(dtype="uint16", shape=(None, None, 3), encoding="png")) == ("PIL", "cv2")
    assert png.packages_for(Field(dtype="uint16", shape=(None, None, 1), encoding="png")) == ("PIL",)
    assert png.packages_for(Field(dtype="uint8", shape=(None, None, 3), encoding="png")) == ("PIL",)


ENCODE = """
import os, sys
cpus = int(sys.argv[1])
os.sched_getaffinity = lambda _: set(range(cpus))
os.cpu_count = lambda: cpus
import numpy as np
from shard_reader.format.image_codecs.table import IMAGE_CODECS
pixels = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(384, 512, 3)
sys.stdout.buffer.write(IMAGE_CODECS[sys.argv[2]].encode(pixels, None))
"""


@pytest.mark.slow
@pytest.mark.parametrize("codec", ENCODED, ids=lambda codec: codec.name)
def test_bytes_do_not_depend_on_the_number_of_cpus(codec: ImageCodec) -> None:
    """AVIF's encoder takes a thread for each CPU, and then gives other bytes, unless it is told not to."""
    pixels = drawn(384, 512, 3, seed=2)
    pixels += np.random.default_rng(3).integers(0, 30, pixels.shape, dtype=np.uint8)
    found = [
        subprocess.run(
            [sys.executable, "-c", ENCODE, str(cpus), codec.name],
            input=pixels.tobytes(),
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        ).stdout
        for cpus in (1, 8)
    ]
    assert found[0] == found[1] == codec.encode(pixels, None)


def test_the_default_of_pillow_would_depend_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above can fail."""
    image = Image.fromarray(drawn(384, 512, 3, seed=2))
    sizes = list[bytes]()
    for cpus in (1, 8):
        monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", cpus)
        buffer = io.BytesIO()
        image.save(buffer, "AVIF", quality=75)
        sizes.append(buffer.getvalue())
    assert sizes[0] != sizes[1]


def test_defaults_and_questions() -> None:
    assert list(IMAGE_CODECS) == ["jpeg", "png", "webp", "avif", "raw"]
    assert (codec_for("uint8").name, codec_for("uint16").name, codec_for("float32").name) == ("jpeg", "raw", "raw")
    assert is_pixel_array(Field(dtype="uint8", shape=(2, 3, 3), encoding="raw"))
    assert not is_pixel_array(Field(dtype="uint8", shape=(None, None, 3), encoding="raw"))
    assert not is_pixel_array(Field(dtype="float32", shape=(2, 3, 3)))
    with pytest.raises(ValueError, match="encoding None: expected one of jpeg, png, webp, avif, raw"):
        codec_of(Field(dtype="float32", shape=(2, 3, 3)))
    with pytest.raises(ValueError, match="is no JPEG, PNG, WebP or AVIF: it begins with b'GIF89a"):
        read_header(as_array(b"GIF89a.........."))
