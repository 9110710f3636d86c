"""Pixels: against Pillow, against arithmetic, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageOps

from beam_jobs.images import BadImage, ChannelSums, decode, fit, prepare_image
from beam_jobs.options import FILTERS, FITS, ImageOptions

OPTIONS = ImageOptions(
    width=64, height=48, fit="crop", filter="lanczos", encoding="raw", quality=None, dtype="uint8", normalize="none"
)
PILLOW_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """A smooth picture with an edge: what photographs are made of."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / max(1, width - 1), 255 * y / max(1, height - 1)
    blue = np.where(x + y < (width + height) / 2, 30, 220)
    return Image.fromarray(np.stack([red, green, blue], -1).round().astype(np.uint8))


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels_of(payload: bytes, height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    return np.frombuffer(payload, np.dtype(dtype).newbyteorder("<")).reshape(height, width, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture(), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode(data), np.asarray(expected))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)
    else:
        image = picture().convert(mode)
    pixels = decode(saved(image, "TIFF"))
    expected = picture().convert("L") if mode == "I;16" else image
    assert np.array_equal(pixels, np.asarray(expected.convert("RGB")))


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    pixels = decode(saved(Image.fromarray(values), "PNG"))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_transparent_16_bit_grey_goes_over_white() -> None:
    image = Image.fromarray(np.array([[5, 600]], np.uint16))
    assert decode(saved(image, "PNG", transparency=5))[0].tolist() == [[255] * 3, [2] * 3]


def test_no_other_program_is_started_for_an_image() -> None:
    """Pillow would run Ghostscript, if it is there, for an EPS file: another result on each machine."""
    with pytest.raises(BadImage) as caught:
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


def contained(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The size of `source` scaled to fit into `target`."""
    scale = min(target[0] / source[0], target[1] / source[1])
    return round(source[0] * scale), round(source[1] * scale)


PILLOW_FITS: dict[str, Callable[[Image.Image, tuple[int, int], Any], Image.Image]] = {
    "stretch": lambda image, size, filter: image.resize(size, filter),
    "cover": ImageOps.cover,
    "crop": ImageOps.fit,
    "pad": lambda image, size, filter: ImageOps.pad(image, size, filter),
}


@pytest.mark.parametrize(
    "source", [(40, 30), (30, 40), (1, 1), (1, 300), (300, 1), (7, 3), (64, 48), (501, 333)], ids=str
)
@pytest.mark.parametrize("target", [(64, 48), (48, 64), (5, 5), (1, 9)], ids=str)
@pytest.mark.parametrize("how", PILLOW_FITS)
def test_sizes_and_pixels_are_those_of_pillow(source: tuple[int, int], target: tuple[int, int], how: str) -> None:
    image = picture(*source)
    result = fit(np.asarray(image), replace(OPTIONS, width=target[0], height=target[1], fit=how))
    if how == "pad" and min(contained(source, target)) < 1:
        assert result.shape == (target[1], target[0], 3)  # Pillow fails: a side would round to nothing
        return
    expected = np.asarray(PILLOW_FITS[how](image, target, Image.Resampling.LANCZOS))
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).mean() < 0.5


@given(st.tuples(*[st.integers(1, 60)] * 2), st.tuples(*[st.integers(1, 60)] * 2), st.sampled_from(FITS))
def test_every_size_becomes_every_size(source: tuple[int, int], target: tuple[int, int], how: str) -> None:
    result = fit(
        np.zeros((source[1], source[0], 3), np.uint8), replace(OPTIONS, width=target[0], height=target[1], fit=how)
    )
    if how == "cover":
        assert result.shape[0] >= target[1] and result.shape[1] >= target[0]
        assert result.shape[0] == target[1] or result.shape[1] == target[0]
    else:
        assert result.shape == (target[1], target[0], 3)


def test_a_long_thin_image_is_cropped_but_not_blown_up() -> None:
    line = np.zeros((50_000, 1, 3), np.uint8)
    assert fit(line, replace(OPTIONS, width=256, height=256, fit="crop")).shape == (256, 256, 3)
    assert fit(line, replace(OPTIONS, width=256, height=256, fit="pad")).shape == (256, 256, 3)
    with pytest.raises(BadImage, match="1x50000 would become 256x12800000 pixels") as caught:
        fit(line, replace(OPTIONS, width=256, height=256, fit="cover"))
    assert caught.value.reason == "too-large"


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("target", [(16, 12), (123, 77)], ids=["down", "up"])
def test_filters_are_those_of_pillow(name: str, target: tuple[int, int]) -> None:
    image = picture(80, 60)
    options = replace(OPTIONS, width=target[0], height=target[1], fit="stretch", filter=name)
    expected = np.asarray(image.resize(target, PILLOW_FILTERS[name])).astype(int)
    assert np.abs(fit(np.asarray(image), options) - expected).mean() < 0.5


def test_filters_are_those_of_pillow_on_photos(photos: Path) -> None:
    for path in sorted(photos.rglob("*.jpg"))[::10]:
        image = Image.open(path).convert("RGB")
        expected = ImageOps.cover(image, (256, 256), Image.Resampling.LANCZOS)
        result = fit(np.asarray(image), replace(OPTIONS, width=256, height=256, fit="cover"))
        assert np.abs(result.astype(int) - np.asarray(expected)).mean() < 0.5


@pytest.mark.parametrize("how", FITS)
def test_an_image_of_the_right_size_is_left_alone(how: str) -> None:
    pixels = np.asarray(picture(64, 48))
    assert np.array_equal(fit(pixels, replace(OPTIONS, fit=how)), pixels)


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
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.reason == reason
    assert str(caught.value)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(odd: Path) -> None:
    for name in ("decompression_bomb.gif", "decompression_bomb.ico"):
        with pytest.raises(BadImage) as caught:
            decode((odd / name).read_bytes())
        assert caught.value.reason == "too-large"


@pytest.mark.parametrize("length", [0, 1, 10, 100, 400])
def test_any_damage_to_a_jpeg_is_an_image_or_a_reason(length: int) -> None:
    data = bytearray(saved(picture(), "JPEG"))
    rng = np.random.default_rng(length)
    for _ in range(50):
        for position in rng.integers(0, len(data), length // 10 + 1):
            data[position] = rng.integers(256)
        try:
            assert decode(bytes(data)).shape[2] == 3
        except BadImage as error:
            assert error.reason in ("damaged", "not-an-image", "too-large", "unsupported-mode")


def test_jpeg_and_png_payloads(class_folders: Path) -> None:
    data = saved(picture())
    jpeg = prepare_image(data, replace(OPTIONS, encoding="jpeg", quality=95))
    with Image.open(io.BytesIO(jpeg.data)) as image:
        assert (image.format, image.size, (jpeg.width, jpeg.height)) == ("JPEG", (64, 48), (64, 48))
        assert np.abs(np.asarray(image).astype(int) - fit(decode(data), OPTIONS)).mean() < 4
    small = prepare_image(data, replace(OPTIONS, encoding="jpeg", quality=20))
    assert len(small.data) < len(jpeg.data)
    png = prepare_image(data, replace(OPTIONS, encoding="png"))
    with Image.open(io.BytesIO(png.data)) as image:
        assert np.array_equal(np.asarray(image), fit(decode(data), OPTIONS))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("how", ["none", "unit", "symmetric", "imagenet", "dataset", "per-image"])
def test_normalization_is_its_formula(how: str, dtype: str) -> None:
    data = saved(picture())
    unit = fit(decode(data), OPTIONS).astype(np.float64) / 255
    statistics = ChannelSums(pixels=2, total=(100, 200, 300), squares=(10_000, 30_000, 50_000))
    mean, std = statistics.mean_std()
    assert np.allclose(mean, np.array([50, 100, 150]) / 255)
    assert np.allclose(std, np.array([50, 5000**0.5, 2500**0.5]) / 255)
    expected = {
        "none": unit * 255,
        "unit": unit,
        "symmetric": unit * 2 - 1,
        "imagenet": (unit - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "dataset": (unit - mean) / std,
        "per-image": (unit - unit.mean((0, 1))) / unit.std((0, 1)),
    }[how]
    payload = prepare_image(data, replace(OPTIONS, dtype=dtype, normalize=how), statistics)
    result = pixels_of(payload.data, 48, 64, dtype)
    assert result.dtype == dtype
    assert np.allclose(result, expected, atol=2e-3 if dtype == "float16" else 1e-5, rtol=1e-3)


def test_one_colour_is_normalized_to_zero() -> None:
    data = saved(Image.new("RGB", (9, 9), (3, 4, 5)))
    payload = prepare_image(data, replace(OPTIONS, dtype="float32", normalize="per-image"))
    assert np.allclose(pixels_of(payload.data, 48, 64, "float32"), 0, atol=1e-6)


@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_sums_are_exact(pixels: np.ndarray) -> None:
    sums = ChannelSums.of(pixels)
    flat = pixels.reshape(-1, 3).astype(object)
    assert sums == ChannelSums(len(flat), tuple(flat.sum(0)), tuple((flat**2).sum(0)))
    mean, std = sums.mean_std()
    assert np.allclose(mean, pixels.reshape(-1, 3).mean(0) / 255)
    assert np.allclose(std, pixels.reshape(-1, 3).std(0) / 255)


def test_sums_of_the_largest_image_do_not_overflow() -> None:
    sums = ChannelSums.of(np.full((65_500, 2, 3), 255, np.uint8))
    assert sums.squares == (65_500 * 2 * 255**2,) * 3


def test_every_odd_file_is_an_image_or_a_reason(odd: Path) -> None:
    bad = set()
    for path in sorted(odd.iterdir()):
        try:
            assert decode(path.read_bytes()).dtype == np.uint8
        except BadImage:
            bad.add(path.name)
    assert bad == {
        "broken.png",
        "broken_data_stream.png",
        "crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif",
        "crash-2020-10-test.tif",
        "decompression_bomb.gif",
        "decompression_bomb.ico",
        "truncated_image.png",
        "truncated_jpeg.jpg",
    }


def test_orientations_of_real_files_agree(odd: Path) -> None:
    upright = decode((odd / "hopper.jpg").read_bytes()).astype(int)
    for number in (2, 3, 5, 6, 8):
        turned = decode((odd / f"hopper_orientation_{number}.jpg").read_bytes())
        assert np.abs(turned - upright).mean() < 12
