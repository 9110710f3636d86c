"""Image files to pixels: against Pillow, in every mode and orientation, and files that are refused."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.command import REPOSITORY
from support.pictures import (
    DEEP,
    SAVED,
    decode,
    in_mode,
    numbers,
    picture,
    png,
    profile,
    raw_pixels,
    refused,
    saved,
)

from beam_jobs.sources import BadInput


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("mode", "format"), SAVED)
def test_every_mode_and_orientation_becomes_upright_rgb(mode: str, format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(in_mode(mode), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
    assert image.size == ((30, 40) if orientation > 4 else (40, 30))
    if mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    rgba = image.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    assert np.array_equal(decode(data), np.asarray(expected))


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    pixels = decode(saved(Image.fromarray(values), "PNG"))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_transparent_16_bit_grey_goes_over_white() -> None:
    image = Image.fromarray(np.array([[5, 600]], np.uint16))
    assert decode(saved(image, "PNG", transparency=5))[0].tolist() == [[255] * 3, [2] * 3]


def test_no_other_program_is_started_for_an_image() -> None:
    """Pillow would run Ghostscript, if it is there, for an EPS file: another result on each machine."""
    with pytest.raises(BadInput) as caught:
        decode(saved(picture(), "EPS"))
    assert caught.value.reason == "not-an-image"


def test_transparency_goes_over_white() -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (100, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))
    assert decode(saved(image))[0].tolist() == [[255, 255, 255], [100, 0, 0], [204, 204, 204]]


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_decodes_as_with_pillow(quality: int, subsampling: int) -> None:
    data = saved(picture(61, 47), "JPEG", quality=quality, subsampling=subsampling)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"no image at all", "not-an-image", id="text"),
        pytest.param(saved(picture(), "JPEG")[:600], "damaged", id="truncated-jpeg"),
        pytest.param(saved(picture(), "PNG")[:-40], "damaged", id="truncated-png"),
        pytest.param(saved(picture().convert("F"), "TIFF"), "unsupported-mode", id="float"),
        pytest.param(saved(picture().convert("I"), "TIFF"), "unsupported-mode", id="int32"),
    ],
)
def test_bad_images_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        decode(data)
    assert caught.value.reason == reason
    assert str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 10, 100, 400])
def test_any_damage_to_a_jpeg_is_an_image_or_a_reason(length: int) -> None:
    data = bytearray(saved(picture(), "JPEG"))
    rng = np.random.default_rng(length)
    for _ in range(50):
        for position in rng.integers(0, len(data), length // 10 + 1):
            data[position] = rng.integers(256)
        try:
            assert decode(bytes(data)).shape[2] == 3
        except BadInput as error:
            assert error.reason in ("damaged", "not-an-image", "too-large", "unsupported-mode")


def test_transparency_goes_over_the_background() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (100, 0, 0, 255))
    assert raw_pixels(saved(image), background=(1, 2, 3))[0].tolist() == [[1, 2, 3], [100, 0, 0]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert raw_pixels(saved(palette, "GIF", transparency=0), background=(1, 2, 3))[0].tolist() == [[1, 2, 3]]


def test_threads_share_no_state_but_what_may_be_shared() -> None:
    files = [saved(picture(200 + n, 150), "JPEG", icc_profile=profile()) for n in range(4)] + [
        DEEP["png"],
        DEEP["tiff"],
    ]
    one_by_one = [raw_pixels(file, fit="crop") for file in files]
    with ThreadPoolExecutor(4) as threads:
        for number, pixels in enumerate(threads.map(lambda file: raw_pixels(file, fit="crop"), files * 8)):
            assert np.array_equal(pixels, one_by_one[number % len(files)])


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(picture(40, 30))
    assert raw_pixels(data, max_pixels=1200).shape == (30, 40, 3)
    files = (data, saved(picture(40, 30), "JPEG"), saved(picture(40, 30), "TIFF"), png(numbers(3, 30, 40)))
    monkeypatch.setattr(Image.Image, "load", None)
    for file in files:
        assert refused(file, max_pixels=1199) == "too-large"
    assert refused(np.zeros((30, 40, 3), np.uint8), max_pixels=1199) == "too-large"


def test_the_limit_may_be_above_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = saved(picture(40, 30))
    assert refused(data, max_pixels=100) == "too-large"
    assert raw_pixels(data, max_pixels=1200).shape == (30, 40, 3)


def test_a_bomb_inside_of_an_image_is_refused() -> None:
    """The header of an ICO says 16x16; the PNG in it is larger."""
    large = saved(Image.new("1", (20_000, 20_000)), compress_level=1)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(large), 22)
    assert refused(struct.pack("<HHH", 0, 1, 1) + entry + large) == "too-large"


def test_too_many_bytes_are_refused() -> None:
    data = saved(picture())
    assert raw_pixels(data, max_bytes=len(data)).shape == (30, 40, 3)
    assert refused(data, max_bytes=len(data) - 1) == "too-large"


def test_opencv_is_imported_for_16_bit_colours_only() -> None:
    program = (
        "import sys; from support.pictures import *; raw_pixels(saved(picture())); assert 'cv2' not in sys.modules;"
        " raw_pixels(DEEP['png']); assert 'cv2' in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
