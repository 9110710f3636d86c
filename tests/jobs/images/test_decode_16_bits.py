"""Image files of 16 bits: decoded as such, or scaled."""

from __future__ import annotations

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.pictures import (
    DEEP,
    OPTIONS,
    eight,
    numbers,
    picture,
    png,
    raw_pixels,
    refused,
    saved,
    tiff,
)

from beam_jobs.images.process import prepare_image


@pytest.mark.parametrize("name", DEEP)
def test_16_bit_colours_keep_16_bits_or_are_scaled(name: str) -> None:
    assert np.array_equal(raw_pixels(DEEP[name], dtype="uint16"), numbers(3))
    assert np.array_equal(raw_pixels(DEEP[name]), eight(numbers(3)))
    assert np.allclose(raw_pixels(DEEP[name], dtype="float32"), numbers(3) / 257)
    assert np.allclose(raw_pixels(DEEP[name], dtype="float32", normalize="unit"), numbers(3) / 65_535)


def test_16_bit_colours_with_opacity() -> None:
    pixels = numbers(4)
    for data in (png(pixels), tiff(pixels, extra=2)):
        assert np.array_equal(raw_pixels(data, dtype="uint16", channels="keep"), pixels)
        assert np.array_equal(raw_pixels(data, channels="keep"), eight(pixels))
        opacity = pixels[..., 3:] / 65_535
        over = pixels[..., :3] * opacity + np.array([10, 20, 30]) * 257 * (1 - opacity)
        assert np.abs(raw_pixels(data, dtype="uint16", background=(10, 20, 30)) - over).max() <= 1
        assert np.abs(raw_pixels(data, background=(10, 20, 30)) - over / 257).max() <= 1.5
    grey = raw_pixels(png(numbers(2)), dtype="uint16", channels="keep")
    assert np.array_equal(grey, numbers(2)[..., [0, 0, 0, 1]])


def test_16_bit_colours_that_were_multiplied_by_their_opacity() -> None:
    opacity = numbers(1) // 2 + 20_000
    colours = (numbers(3).astype(np.uint64) * opacity // 65_535).astype(np.uint16)
    pixels = raw_pixels(tiff(np.dstack([colours, opacity]), extra=1), dtype="uint16", channels="keep")
    assert np.array_equal(pixels[..., 3:], opacity)
    assert np.abs(pixels[..., :3].astype(int) - numbers(3)).max() <= 4


def test_a_transparent_16_bit_colour() -> None:
    pixels = numbers(3)
    key = struct.pack(">3H", *pixels[2, 3].tolist())
    result = raw_pixels(png(pixels, (b"tRNS", key)), dtype="uint16", channels="keep")
    assert (result[..., 3] == 0).sum() == 1 and result[2, 3, 3] == 0
    assert np.array_equal(result[..., :3], pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colours_are_turned(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    marked = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7))
    places = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(saved(marked, exif=exif)))))
    expected = numbers(3).reshape(-1, 3)[places]
    for data in (png(numbers(3), (b"eXIf", exif.tobytes()[6:])), tiff(numbers(3), orientation=orientation)):
        assert np.array_equal(raw_pixels(data, dtype="uint16"), expected)
        geometry = prepare_image(data, replace(OPTIONS, fit="none")).geometry
        assert (geometry.stored, geometry.orientation) == ((7, 5), orientation)


def test_16_bit_colours_in_planes_are_read() -> None:
    pytest.importorskip("imagecodecs")
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, np.moveaxis(numbers(3), 2, 0), planarconfig="separate", photometric="rgb")
    assert np.array_equal(raw_pixels(file.getvalue(), dtype="uint16"), numbers(3))


def test_12_bit_grey_is_scaled() -> None:
    data = tiff(np.zeros((1, 2, 1)), bits=12, data=b"\xff\xf8\x00")  # 4095 and 2048
    assert raw_pixels(data, dtype="uint16").ravel()[::3].tolist() == [65_535, 2048 * 65_535 // 4095]


@pytest.mark.parametrize(("peak", "value", "expected"), [(65_535, 300, 300), (1023, 1023, 65_535), (1023, 512, 32_800)])
def test_a_16_bit_pgm_is_grey_up_to_its_peak(peak: int, value: int, expected: int) -> None:
    data = b"P5 1 1 %d\n" % peak + struct.pack(">H", value)
    assert raw_pixels(data, dtype="uint16", channels="keep").ravel().tolist() == [expected]
    assert raw_pixels(data, channels="keep").ravel().tolist() == eight(np.array([expected])).tolist()


def test_a_float_pfm_is_refused() -> None:
    assert refused(b"Pf 1 1 -1.0\n" + struct.pack("<f", 1)) == "unsupported-mode"


def test_8_bits_as_16() -> None:
    pixels = raw_pixels(saved(picture()), dtype="uint16")
    assert np.array_equal(pixels, np.asarray(picture()).astype(int) * 257)
    payload = prepare_image(np.full((1, 1), 258, ">u2"), replace(OPTIONS, fit="none", dtype="uint16", channels="keep"))
    assert payload.data == b"\x02\x01"


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
def test_16_bits_are_resized_as_8_are(channels: int, how: str) -> None:
    image = np.dstack([np.asarray(picture(80, 60)), np.full((60, 80), 255, np.uint8)])[..., :channels]
    changes = {"fit": how, "width": 24, "height": 32, "channels": "keep"}
    deep = raw_pixels(image.astype(np.uint16) * 257, dtype="uint16", **changes)
    shallow = raw_pixels(np.ascontiguousarray(image), **changes)
    assert np.abs(deep / 257 - shallow).max() < 1.5
    assert len(np.unique(deep % 257)) > 9  # it has more than 8 bits


@pytest.mark.parametrize("cut", [10, 30, 60])
def test_damaged_16_bit_colours_are_refused_in_silence(cut: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert refused(png(numbers(3))[:-cut][:-60], dtype="uint16") in ("damaged", "not-an-image")
    broken = bytearray(tiff(numbers(3)))
    refused(bytes(broken[:-cut]))
    assert capfd.readouterr() == ("", "")
