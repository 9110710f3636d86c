"""Every odd file: its size and its pixels, made with plain Pillow here, or why it is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from beam_jobs.images.process import prepare_image
from beam_jobs.options import ImageOptions
from beam_jobs.sources import BadInput
from shard_reader.format.image_codecs.table import IMAGE_CODECS

OPTIONS = ImageOptions(
    width=1, height=1, fit="none", filter="lanczos", encoding="raw", quality=None, dtype="uint8", normalize="none"
)


def plain(image: Image.Image) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def over_white(image: Image.Image) -> np.ndarray:
    rgba = image.convert("RGBA")
    assert rgba.getchannel("A").getextrema()[0] < 255
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB"))


def with_profile(image: Image.Image) -> np.ndarray:
    profile = io.BytesIO(image.info["icc_profile"])
    converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"))
    assert converted is not None
    return np.asarray(converted)


def deep_grey(image: Image.Image) -> np.ndarray:
    grey = np.round(np.asarray(image).astype(float) * 255 / 65_535).astype(np.uint8)
    return np.dstack([grey] * 3)


def high_bytes(image: Image.Image) -> np.ndarray:
    """Of 16-bit colours, as Pillow reads them: at most one less than they are, rounded."""
    return np.asarray(image)


# Width and height, what makes the pixels, and how far ours may be from them.
IMAGES: dict[str, tuple[tuple[int, int], Callable[[Image.Image], np.ndarray], int]] = {
    "16_bit_noise.tif": ((32, 32), deep_grey, 0),
    "16bit.cropped.tif": ((64, 64), deep_grey, 0),
    "dispose_bgnd_rgba.gif": ((100, 100), over_white, 0),
    "exif_imagemagick_orientation.png": ((512, 512), plain, 0),
    "hopper.gif": ((128, 128), plain, 0),
    "hopper.jpg": ((128, 128), plain, 0),
    "hopper.png": ((128, 128), plain, 0),
    "hopper.webp": ((128, 128), plain, 0),
    "hopper_16bit_qtables.jpg": ((128, 128), plain, 0),
    "hopper_orientation_2.jpg": ((128, 128), plain, 0),
    "hopper_orientation_3.jpg": ((128, 128), plain, 0),
    "hopper_orientation_5.jpg": ((128, 128), plain, 0),
    "hopper_orientation_6.jpg": ((128, 128), plain, 0),
    "hopper_orientation_6.webp": ((128, 128), plain, 0),
    "hopper_orientation_8.jpg": ((128, 128), plain, 0),
    "icc_profile_big.jpg": ((425, 250), with_profile, 0),
    "invalid-exif.jpg": ((200, 200), plain, 0),
    "iss634.apng": ((245, 245), plain, 0),
    "la.tga": ((64, 64), over_white, 0),
    "no_palette_with_transparency.gif": ((2, 2), plain, 0),
    "orientation_rectangle.jpg": ((1, 2), plain, 0),
    "p_16.png": ((128, 128), plain, 0),
    "palette_wedge.png": ((128, 128), plain, 0),
    "photoshop-200dpi-broken.jpg": ((200, 200), plain, 0),
    "pil123rgba.png": ((162, 150), over_white, 0),
    "pil_sample_cmyk.jpg": ((100, 100), plain, 0),
    "rgba.psd": ((100, 100), over_white, 0),
    "tiff_16bit_RGB.tiff": ((100, 40), high_bytes, 1),
    "tiff_strip_cmyk_jpeg.tif": ((100, 100), plain, 0),
    "transparent.gif": ((200, 150), over_white, 0),
    "transparent.png": ((200, 150), over_white, 0),
    "transparent.webp": ((200, 150), over_white, 0),
}
REFUSED = {
    "broken.png": "not-an-image",
    "broken_data_stream.png": "damaged",
    "crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif": "damaged",
    "crash-2020-10-test.tif": "unsupported-mode",
    "decompression_bomb.gif": "too-large",
    "decompression_bomb.ico": "too-large",
    "truncated_image.png": "damaged",
    "truncated_jpeg.jpg": "damaged",
}


def test_the_tables_have_every_file(odd: Path) -> None:
    assert {path.name for path in odd.iterdir()} == IMAGES.keys() | REFUSED.keys()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", IMAGES)
def test_an_odd_image_is_what_pillow_makes_of_it(odd: Path, name: str) -> None:
    size, expected, tolerance = IMAGES[name]
    payload = prepare_image((odd / name).read_bytes(), OPTIONS)
    assert ((payload.width, payload.height), payload.channels) == (size, 3)
    pixels = np.frombuffer(payload.data, np.uint8).reshape(size[1], size[0], 3)
    with Image.open(odd / name) as image:
        image.load()
        assert np.abs(pixels - expected(image).astype(int)).max() <= tolerance


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_file_is_refused_with_a_reason(odd: Path, name: str) -> None:
    with pytest.raises(BadInput) as caught:
        prepare_image((odd / name).read_bytes(), OPTIONS)
    assert (caught.value.reason, bool(str(caught.value))) == (REFUSED[name], True)


def test_orientations_of_real_files_agree(odd: Path) -> None:
    upright = prepare_image((odd / "hopper.jpg").read_bytes(), OPTIONS)
    for number in (2, 3, 5, 6, 8):
        turned = prepare_image((odd / f"hopper_orientation_{number}.jpg").read_bytes(), OPTIONS)
        assert turned.geometry.orientation == number
        pair = [np.frombuffer(payload.data, np.uint8).astype(int) for payload in (upright, turned)]
        assert np.abs(pair[0] - pair[1]).mean() < 12


def test_real_16_bits_are_kept(odd: Path) -> None:
    options = replace(OPTIONS, dtype="uint16", channels="keep")
    grey = prepare_image((odd / "16_bit_noise.tif").read_bytes(), options)
    with Image.open(odd / "16_bit_noise.tif") as image:
        assert grey.data == np.asarray(image).astype("<u2").tobytes()
    colours = prepare_image((odd / "tiff_16bit_RGB.tiff").read_bytes(), options)
    values = np.frombuffer(colours.data, "<u2").reshape(40, 100, 3)
    with Image.open(odd / "tiff_16bit_RGB.tiff") as image:
        assert np.array_equal(values >> 8, np.asarray(image))
    assert len(np.unique(values & 255)) > 20


def test_a_real_jpeg_keeps_its_bytes(odd: Path) -> None:
    data = (odd / "hopper.jpg").read_bytes()
    assert prepare_image(data, replace(OPTIONS, encoding="jpeg")).data == data
    for other in ("hopper_orientation_2.jpg", "icc_profile_big.jpg", "pil_sample_cmyk.jpg"):
        data = (odd / other).read_bytes()
        assert prepare_image(data, replace(OPTIONS, encoding="jpeg")).data != data


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["rgb", "grey", "keep"])
@pytest.mark.parametrize("fit", ["none", "inside", "pad"])
@pytest.mark.parametrize("encoding", IMAGE_CODECS)
def test_every_odd_image_can_be_stored_in_every_way(odd: Path, encoding: str, fit: str, channels: str) -> None:
    options = replace(OPTIONS, encoding=encoding, fit=fit, channels=channels, width=64, height=64)
    stored = 0
    for path in sorted(odd.iterdir()):
        try:
            payload = prepare_image(path.read_bytes(), options)
        except BadInput:
            continue
        stored += 1
        if encoding != "raw":
            with Image.open(io.BytesIO(payload.data)) as image:
                image.load()
                assert image.size == (payload.width, payload.height)
        else:
            assert len(payload.data) == payload.width * payload.height * payload.channels
    assert stored >= 30
