"""Masks and depth maps: their values in files, and the way they go with their photo."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from beam_jobs.images.geometry import followed, plan_geometry
from beam_jobs.images.process import prepare_image
from beam_jobs.images.targets.further import empty_payload, further_payload, payload_field
from beam_jobs.images.targets.masks import exact_values, nearest
from beam_jobs.options import FITS, ImageOptions
from beam_jobs.sources import BadInput
from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.table import decode_image, read_header

OPTIONS = ImageOptions(
    width=16,
    height=12,
    fit="crop",
    filter="nearest",
    encoding="png",
    quality=None,
    dtype="uint8",
    normalize="none",
    channels="grey",
    mask_border=9,
)
MASK = payload_field("mask", OPTIONS, (None, None), 1)
DEPTH = payload_field("depth", OPTIONS, (None, None), 1)
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def as_file(pixels: Any, format: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    image = (
        pixels
        if isinstance(pixels, Image.Image)
        else Image.fromarray(pixels, mode)
        if mode
        else Image.fromarray(pixels)
    )
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def turned_file(pixels: NDArray[Any], orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return as_file(pixels, exif=exif)


def with_palette(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels).convert("L")
    image.putpalette([value for number in range(256) for value in (255 - number, 7, number)])
    assert image.mode == "P"
    return image


def pixels_of(data: bytes, field: Field) -> NDArray[Any]:
    header = read_header(np.frombuffer(data, np.uint8))
    return decode_image(np.frombuffer(data, np.uint8), field, header.height, header.width)


WIDE = np.array([[0, 300, 65_535]], np.uint16)
FILES = {
    "grey": (as_file(GREY), GREY),
    "palette": (as_file(with_palette(GREY)), GREY),
    "gif": (as_file(with_palette(GREY), "GIF"), None),
    "bits": (as_file(Image.fromarray(GREY > 5)), GREY > 5),
    "equal colours": (as_file(np.stack([GREY] * 3, 2)), GREY),
    "opaque": (as_file(np.stack([GREY, GREY, GREY, np.full_like(GREY, 255)], 2)), GREY),
    "opaque grey": (as_file(np.stack([GREY, np.full_like(GREY, 255)], 2)), GREY),
    "16 bits of small values": (as_file(GREY.astype(np.uint16)), GREY),
    "tiff": (as_file(GREY, "TIFF"), GREY),
    "bmp": (as_file(GREY, "BMP"), GREY),
    "numbers of 32 bits": (as_file(GREY.astype(np.int32), "TIFF"), GREY),
    "array": (GREY, GREY),
    "array of int64": (GREY.astype(np.int64)[..., None], GREY),
    "array of bool": (GREY > 5, GREY > 5),
}


@pytest.mark.parametrize("name", FILES)
def test_a_mask_has_the_values_of_its_file(name: str) -> None:
    data, expected = FILES[name]
    found, orientation, changes = exact_values(data, "mask", OPTIONS)
    assert (found.dtype, found.shape, orientation, changes) == (np.uint8, (3, 4, 1), None, ())
    if expected is not None:
        assert np.array_equal(found[..., 0], expected)


@pytest.mark.parametrize(
    ("data", "role", "message"),
    [
        (as_file(np.stack([GREY, GREY, GREY + 1], 2)), "mask", "has 3 channels, and a mask or a depth map has one"),
        (as_file(np.stack([GREY, GREY, GREY, GREY], 2)), "mask", "has transparency"),
        (as_file(WIDE), "mask", "has the value 65535, which uint8 cannot hold; --mask-dtype uint16 holds"),
        (as_file(np.array([[-1]], np.int32), "TIFF"), "mask", "has the value -1, which uint8 cannot hold"),
        (as_file(np.array([[0.5]], np.float32), "TIFF"), "mask", "has values that are no whole numbers"),
        (as_file(np.array([[0.5]], np.float32), "TIFF"), "depth", "--depth-dtype float32 --encoding raw keeps them"),
        (np.array([[np.nan]]), "depth", "has values that are no whole numbers"),
        (np.array([[70_000]]), "depth", "has the value 70000, which uint16 cannot hold"),
        (np.zeros((2, 2, 2, 2)), "mask", r"expected numbers \[height, width\], got float64 \[2, 2, 2, 2\]"),
        (np.zeros((0, 2)), "mask", "expected numbers"),
        (as_file(GREY)[:45], "mask", ".+"),
        (b"", "mask", "the file has no bytes"),
        (b"no image", "mask", ".+"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_mask_is_refused_in_one_line(data: Any, role: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        exact_values(data, role, OPTIONS)
    assert "\n" not in str(caught.value)


def test_values_of_lossy_files_and_further_frames_are_counted() -> None:
    for format in ("JPEG", "WEBP"):
        assert exact_values(as_file(GREY, format), "mask", OPTIONS).changes == ("lossy",)
    assert exact_values(as_file(GREY, "WEBP", lossless=True), "mask", OPTIONS).changes == ()
    frames = with_palette(GREY)
    animated = as_file(frames, "GIF", save_all=True, append_images=[with_palette(GREY + 9)])
    assert exact_values(animated, "mask", OPTIONS).changes == ("frames",)
    geometry = plan_geometry(4, 3, 1, OPTIONS)
    assert further_payload(as_file(GREY, "JPEG"), MASK, geometry, OPTIONS).changes == ("lossy",)


def test_broken_metadata_is_no_reason_to_lose_a_mask() -> None:
    exif = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    found = exact_values(as_file(GREY, exif=exif), "mask", OPTIONS)
    assert np.array_equal(found.values[..., 0], GREY) and set(found.changes) <= {"metadata"}


def test_a_tiff_is_turned_once() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (30, 30), np.uint8)
    photo = prepare_image(turned_file(pixels, 6), OPTIONS)
    found = further_payload(as_file(pixels, "TIFF", tiffinfo={0x0112: 6}), MASK, photo.geometry, OPTIONS)
    assert np.array_equal(pixels_of(found.data, MASK), pixels_of(photo.data, MASK))


def test_the_bounds_of_photos_are_those_of_masks() -> None:
    for options, message in (
        (replace(OPTIONS, max_bytes=9), "bytes are more"),
        (replace(OPTIONS, max_pixels=9), "4x3"),
    ):
        with pytest.raises(BadInput, match=message):
            exact_values(as_file(GREY), "mask", options)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 90), st.integers(1, 90))
def test_nearest_is_exact_in_any_crop(height: int, width: int, tall: int, wide: int) -> None:
    """Against fractions: of two pixels that are as near, the second."""
    geometry = plan_geometry(width, height, 1, replace(OPTIONS, width=wide, height=tall))
    rows = nearest(np.arange(height)[:, None, None], geometry.box, geometry.scaled)[:, 0, 0]
    kept = min(Fraction(height), Fraction(width * tall, wide))
    start = (height - kept) / 2
    exact = [min(height - 1, int(start + (row + Fraction(1, 2)) * kept / tall)) for row in range(tall)]
    assert rows.tolist() == exact


def test_a_mask_that_states_that_it_is_upright_is_not_turned() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (30, 30), np.uint8)
    photo = prepare_image(turned_file(pixels, 3), OPTIONS)
    upright = pixels[::-1, ::-1].copy()
    found = further_payload(turned_file(upright, 1), MASK, photo.geometry, OPTIONS)
    assert np.array_equal(pixels_of(found.data, MASK), pixels_of(photo.data, MASK))


def test_16_bits_of_colours_are_not_cut_to_8() -> None:
    cv2 = pytest.importorskip("cv2")
    deep = cv2.imencode(".png", np.full((2, 2, 3), 300, np.uint16))[1].tobytes()
    with pytest.raises(BadInput, match="16-bit colours"):
        exact_values(deep, "mask", replace(OPTIONS, mask_dtype="uint16"))


def test_wide_values_are_kept() -> None:
    deep = replace(OPTIONS, mask_dtype="uint16")
    for role in ("mask", "depth"):
        assert np.array_equal(exact_values(as_file(WIDE), role, deep)[0][..., 0], WIDE)
    floats = np.array([[0.25, -1, 1e30]], np.float32)
    found, *_ = exact_values(as_file(floats, "TIFF"), "depth", replace(OPTIONS, depth_dtype="float32"))
    assert np.array_equal(found[..., 0], floats)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", FITS)
def test_a_mask_goes_where_the_pixels_of_its_photo_go(fit: str, orientation: int) -> None:
    """A copy of a photo, as a mask: by the nearest filter, both have the same pixels."""
    options = replace(OPTIONS, fit=fit, pad_color=(9, 9, 9))
    for height, width in ((31, 47), (48, 20), (7, 9)):
        pixels = np.random.default_rng(height).integers(0, 256, (height, width), np.uint8)
        photo = prepare_image(turned_file(pixels, orientation), options)
        stored = pixels_of(photo.data, MASK)
        mask = further_payload(as_file(pixels), MASK, photo.geometry, options)
        assert np.array_equal(pixels_of(mask.data, MASK), stored)
        # With an orientation of its own, a mask is turned by that.
        own = further_payload(turned_file(pixels, orientation), MASK, photo.geometry, options)
        assert own.data == mask.data
        upright = exact_values(turned_file(pixels, orientation), "mask", options)[0]
        shown = further_payload(upright, MASK, photo.geometry, options, is_upright=True)
        assert shown.data == mask.data


def test_a_mask_of_the_shown_photo_is_known_by_its_proportions() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
    photo = prepare_image(turned_file(pixels, 6), OPTIONS)
    upright = exact_values(turned_file(pixels, 6), "mask", OPTIONS)[0]
    assert upright.shape == (50, 30, 1)
    mask = further_payload(upright, MASK, photo.geometry, OPTIONS)
    assert np.array_equal(pixels_of(mask.data, MASK), pixels_of(photo.data, MASK))


@pytest.mark.parametrize("fit", FITS)
def test_a_mask_of_half_the_size_is_scaled_by_proportion(fit: str) -> None:
    small = np.random.default_rng(1).integers(0, 256, (20, 33), np.uint8)
    large = small.repeat(2, 0).repeat(2, 1)
    options = replace(OPTIONS, fit=fit, width=22, height=18)
    photo = prepare_image(as_file(large), options)
    one, other = (further_payload(as_file(mask), MASK, photo.geometry, options) for mask in (small, large))
    assert one.data == other.data


@pytest.mark.parametrize("size", [(10, 21), (21, 10), (1, 1), (20, 40)], ids=str)
def test_sizes_by_proportion_may_be_rounded(size: tuple[int, int]) -> None:
    first = plan_geometry(41, 20, 1, OPTIONS)
    if size in ((20, 10), (21, 10), (1, 1)):
        assert followed(first, size, (1,)).size == first.size
    else:
        with pytest.raises(BadInput, match=f"has {size[0]}x{size[1]} pixels, and the image 41x20: other proportions"):
            further_payload(np.zeros(size[::-1], np.uint8), MASK, first, OPTIONS)
        with pytest.raises(BadInput, match="other proportions"):
            prepare_image(np.zeros(size[::-1], np.uint8), OPTIONS, first=first)


def test_a_border_has_its_value_in_masks_and_zero_in_depth_maps() -> None:
    options = replace(OPTIONS, fit="pad", mask_border=255)
    geometry = plan_geometry(10, 40, 1, options)
    mask = pixels_of(further_payload(np.ones((40, 10), np.uint8), MASK, geometry, options).data, MASK)
    depth = pixels_of(further_payload(np.ones((40, 10), np.uint8), DEPTH, geometry, options).data, DEPTH)
    inside = slice(geometry.offset[0], geometry.offset[0] + geometry.scaled[0])
    assert (mask[:, inside] == 1).all() and (np.delete(mask, inside, 1) == 255).all()
    assert (depth[:, inside] == 1).all() and (np.delete(depth, inside, 1) == 0).all()


def test_a_depth_map_is_filtered_only_if_it_is_asked_for() -> None:
    depth = np.array([[0, 1000] * 16] * 24, np.uint16)
    geometry = plan_geometry(32, 24, 1, OPTIONS)
    near = pixels_of(further_payload(depth, DEPTH, geometry, OPTIONS).data, DEPTH)
    smooth = pixels_of(further_payload(depth, DEPTH, geometry, replace(OPTIONS, depth_filter="bilinear")).data, DEPTH)
    assert set(np.unique(near).tolist()) <= {0, 1000}
    assert ((smooth > 0) & (smooth < 1000)).any()


def test_a_further_photo_is_filtered_as_the_first_one() -> None:
    options = replace(OPTIONS, channels="rgb", filter="lanczos", encoding="jpeg")
    field = payload_field("photo", options, (None, None), 3)
    pixels = np.random.default_rng(2).integers(0, 256, (40, 60, 3), np.uint8)
    first = prepare_image(pixels, options)
    assert further_payload(pixels, field, first.geometry, options).data == first.data
    assert further_payload(as_file(pixels), field, first.geometry, options).data == first.data


@pytest.mark.parametrize("role", ["photo", "mask", "depth"])
@pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
def test_an_image_that_is_missing_is_zero(role: str, encoding: str) -> None:
    options = replace(OPTIONS, fit="pad", encoding=encoding, channels="rgb")
    field = payload_field(role, options, (12, 16), 3)
    found = empty_payload(field, plan_geometry(40, 40, 1, options), options, 3)
    pixels = decode_image(np.frombuffer(found.data, np.uint8), field, 12, 16)
    assert pixels[:, 2:14].max() == 0
    assert set(np.unique(pixels[:, :2]).tolist()) == ({9} if role == "mask" else {0})


def test_bytes_are_stored_as_they_are() -> None:
    field = payload_field("bytes", OPTIONS, (None, None), 3)
    geometry = plan_geometry(40, 40, 1, OPTIONS)
    assert further_payload(b"RIFF\0", field, geometry, OPTIONS).data == b"RIFF\0"
    assert empty_payload(field, geometry, OPTIONS, 3).data == b""


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_nearest_is_that_of_torchvision(height: int, width: int, tall: int, wide: int) -> None:
    torch = pytest.importorskip("torch")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    values = np.random.default_rng(height * width).integers(0, 256, (height, width, 1), np.uint8)
    found = nearest(values, (0.0, 0.0, float(width), float(height)), (wide, tall))
    # By way of centres that lie on the edge of no pixel, or on that of both: its factors are floats of 32 bits.
    exact = v2.functional.resize_image(
        torch.from_numpy(values.transpose(2, 0, 1)), [tall, wide], v2.InterpolationMode.NEAREST_EXACT
    ).numpy()[0]
    same = found[..., 0] == exact
    rows = np.isclose((np.arange(tall) + 0.5) * height / tall % 1, 0, atol=1e-4)
    columns = np.isclose((np.arange(wide) + 0.5) * width / wide % 1, 0, atol=1e-4)
    rows |= np.isclose((np.arange(tall) + 0.5) * height / tall % 1, 1, atol=1e-4)
    columns |= np.isclose((np.arange(wide) + 0.5) * width / wide % 1, 1, atol=1e-4)
    assert (same | rows[:, None] | columns).all()
