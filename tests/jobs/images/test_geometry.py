"""Where boxes and points go: a box is drawn, the image prepared, and the box found again."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from beam_jobs.images.geometry import plan_geometry
from beam_jobs.images.process import prepare_image
from beam_jobs.options import FITS, ImageOptions

OPTIONS = ImageOptions(
    width=64, height=48, fit="crop", filter="area", encoding="raw", quality=None, dtype="uint8", normalize="none"
)
SHRINKING = ("inside", "cover", "pad")
WAYS = [(fit, only_shrink) for fit in FITS for only_shrink in (False, True) if fit in SHRINKING or not only_shrink]


def options(fit: str, width: int = 64, height: int = 48, only_shrink: bool = False) -> ImageOptions:
    return replace(OPTIONS, fit=fit, width=width, height=height, only_shrink=only_shrink)


@pytest.mark.parametrize(
    ("source", "fit", "only_shrink", "scaled", "size"),
    [
        ((1, 1), "inside", False, (5, 5), (5, 5)),
        ((1, 1), "inside", True, (1, 1), (1, 1)),
        ((1, 5000), "inside", False, (1, 5), (1, 5)),
        ((1, 5000), "cover", False, (5, 25_000), (5, 25_000)),
        ((1, 5000), "cover", True, (1, 5000), (1, 5000)),
        ((1, 5000), "crop", False, (5, 5), (5, 5)),
        ((1, 5000), "pad", False, (1, 5), (5, 5)),
        ((1, 5000), "none", False, (1, 5000), (1, 5000)),
        ((1, 5000), "stretch", False, (5, 5), (5, 5)),
        ((7, 3), "inside", False, (5, 2), (5, 2)),
        ((7, 3), "inside", True, (5, 2), (5, 2)),
        ((7, 3), "cover", False, (12, 5), (12, 5)),
        ((7, 3), "cover", True, (7, 3), (7, 3)),
        ((7, 3), "pad", False, (5, 2), (5, 5)),
        ((7, 3), "crop", True, (5, 5), (5, 5)),
        ((3, 2), "pad", True, (3, 2), (5, 5)),
        ((20, 10), "cover", True, (10, 5), (10, 5)),
    ],
)
def test_sizes(
    source: tuple[int, int], fit: str, only_shrink: bool, scaled: tuple[int, int], size: tuple[int, int]
) -> None:
    geometry = plan_geometry(*source, 1, options(fit, 5, 5, only_shrink))
    assert (geometry.scaled, geometry.size) == (scaled, size)
    turned = plan_geometry(*source[::-1], 6, options(fit, 5, 5, only_shrink))
    assert (turned.upright, turned.scaled, turned.size) == (source, scaled, size)


SIDES = st.tuples(*[st.integers(1, 90)] * 2)


@given(SIDES, SIDES, st.sampled_from(WAYS), st.integers(1, 8))
def test_sizes_are_those_of_pillow(
    source: tuple[int, int], target: tuple[int, int], way: tuple[str, bool], orientation: int
) -> None:
    geometry = plan_geometry(*source, orientation, options(way[0], *target, way[1]))
    upright = source[::-1] if orientation > 4 else source
    expected = {
        "none": lambda image: image,
        "stretch": lambda image: image.resize(target),
        "inside": lambda image: ImageOps.contain(image, target),
        "cover": lambda image: ImageOps.cover(image, target),
        "crop": lambda image: ImageOps.fit(image, target),
        "pad": lambda image: ImageOps.pad(image, target),
    }
    try:
        result = expected[way[0]](Image.new("L", upright)).size
    except ValueError:  # a side would round to nothing
        result = geometry.size if way[0] == "pad" else geometry.scaled
        assert min(geometry.scaled) == 1
    enlarged = geometry.scaled[0] > upright[0] or geometry.scaled[1] > upright[1]
    if way[1]:
        assert not enlarged
        if geometry.scaled == upright and way[0] != "pad":
            return
    assert geometry.size == result


def test_only_shrink_puts_a_small_image_in_the_middle_of_its_border() -> None:
    geometry = plan_geometry(4, 2, 1, options("pad", 10, 8, only_shrink=True))
    assert (geometry.scaled, geometry.offset, geometry.size) == ((4, 2), (3, 3), (10, 8))
    assert not geometry.resizes and geometry.pads and geometry.changes


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    assert plan_geometry(7, 3, orientation, options("none")) == plan_geometry(7, 3, 1, options("none"))


def encoded(pixels: np.ndarray, orientation: int, format: str) -> bytes:
    """The bytes of an image file, with an EXIF tag."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    keywords = {"quality": 98, "subsampling": 0} if format == "JPEG" else {}
    Image.fromarray(pixels).save(buffer, format, exif=exif, **keywords)
    return buffer.getvalue()


def drawn(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """Black, with a white box (ymin, xmin, ymax, xmax)."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[box[0] : box[2], box[1] : box[3]] = 255
    return pixels


def extent(pixels: np.ndarray) -> list[float]:
    """Where what is light lies, in pixels: an edge that is half light lies in the middle of it."""
    light = pixels[..., 0].astype(float) / 255
    result = []
    for profile in (light.max(1), light.max(0)):
        bright = np.flatnonzero(profile > 0.5 * profile.max())
        result.append((float(bright[0]), float(bright[-1] + 1)))
    return [result[0][0], result[1][0], result[0][1], result[1][1]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("fit", "only_shrink"), WAYS)
def test_a_box_is_found_where_it_went(fit: str, only_shrink: bool, orientation: int) -> None:
    """Every way has sizes and boxes of its own, always the same ones."""
    random = np.random.default_rng([WAYS.index((fit, only_shrink)), orientation])
    for format in ("JPEG", "PNG") * 3:
        (width, height), target = random.integers(40, 90, 2), random.integers(30, 110, 2).tolist()
        top, left = int(random.integers(height - 12)), int(random.integers(width - 12))
        box = (top, left, int(random.integers(top + 12, height + 1)), int(random.integers(left + 12, width + 1)))
        found_where_it_went((int(width), int(height)), box, orientation, format, options(fit, *target, only_shrink))


def found_where_it_went(
    size: tuple[int, int], box: tuple[int, int, int, int], orientation: int, format: str, options: ImageOptions
) -> None:
    payload = prepare_image(encoded(drawn(size, box), orientation, format), options)
    pixels = np.frombuffer(payload.data, np.uint8).reshape(payload.height, payload.width, 3)
    scale = np.array([payload.height, payload.width] * 2)
    places, kept = payload.geometry.boxes([box])
    place = places[0] * scale
    assert kept[0] == bool(min(place[2:] - place[:2]) > 0)
    if min(place[2:] - place[:2]) >= 2:  # else it is cut away, or too thin to be seen
        assert np.abs(extent(pixels) - place).max() <= 1.01
    corners = payload.geometry.points([box[:2], box[2:]]) * scale[:2]
    assert np.allclose(np.sort(corners, 0).clip(0, scale[:2]).ravel(), place)


def test_boxes_of_the_upright_image() -> None:
    geometry = plan_geometry(40, 20, 6, options("none"))
    places, kept = geometry.boxes([[0, 0, 40, 20], [10, 5, 20, 10]], upright=True)
    assert places.tolist() == [[0, 0, 1, 1], [0.25, 0.25, 0.5, 0.5]] and kept.all()
    assert geometry.points([[10, 5]], upright=True).tolist() == [[0.25, 0.25]]
    # Turned clockwise, the left end is at the top, and what was at the top is on the right.
    assert geometry.boxes([[0, 0, 20, 10]])[0].tolist() == [[0, 0, 0.25, 1]]
    assert geometry.points([[0, 0]]).tolist() == [[0, 1]]


def test_boxes_are_clipped_points_are_not_and_the_border_is_part_of_the_image() -> None:
    cropped = plan_geometry(40, 20, 1, options("crop", 10, 10))  # keeps x of 10 to 30
    places, kept = cropped.boxes([[0, 0, 20, 20], [0, 0, 20, 10], [0, 35, 20, 40], [-5, 20, 50, 90]])
    assert places.tolist() == [[0, 0, 1, 0.5], [0, 0, 1, 0], [0, 1, 1, 1], [0, 0.5, 1, 1]]
    assert kept.tolist() == [True, False, False, True]
    assert cropped.points([[10, 0], [30, 40]]).tolist() == [[0.5, -0.5], [1.5, 1.5]]
    padded = plan_geometry(40, 20, 1, options("pad", 10, 10))
    assert padded.boxes([[0, 0, 20, 40]])[0].tolist() == [[0.2, 0, 0.7, 1]]  # 5 lines, between 2 and 3 of border


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_without_area_is_not_kept(orientation: int) -> None:
    geometry = plan_geometry(40, 20, orientation, options("cover"))
    boxes = [[5, 5, 5, 9], [9, 9, 5, 5], [np.nan, 0, 5, 5], [5, 5, 6, 6]]
    assert geometry.boxes(boxes)[1].tolist() == [False, False, False, True]


def test_no_boxes_and_no_points() -> None:
    geometry = plan_geometry(40, 20, 1, options("cover"))
    places, kept = geometry.boxes([])
    assert (places.shape, places.dtype, kept.shape, kept.dtype) == ((0, 4), np.float64, (0,), np.bool_)
    assert geometry.points(np.empty((0, 2))).shape == (0, 2)
