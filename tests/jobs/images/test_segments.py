"""Outlines of objects: polygons and run lengths as masks and texts, against pycocotools itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.images.geometry import Geometry, plan_geometry, turned
from beam_jobs.images.targets.masks import nearest
from beam_jobs.images.targets.segments import Outlines
from beam_jobs.options import FITS, ImageOptions
from beam_jobs.sources import BadInput

coco = pytest.importorskip("pycocotools.mask")

OPTIONS = ImageOptions(
    width=24, height=18, fit="crop", filter="area", encoding="png", quality=None, dtype="uint8", normalize="none"
)
WIDTH, HEIGHT = 50, 37
TRIANGLE = [[4.5, 3.0, 40.2, 8.0, 20.0, 33.3]]
TWO_PARTS = [[1.0, 1.0, 12.0, 1.0, 12.0, 12.0, 1.0, 12.0], [30, 20, 45, 20, 45, 30, 30, 30]]
FULL = [[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]]
RUNS = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}
TEXT = {"size": [HEIGHT, WIDTH], "counts": coco.frPyObjects(RUNS, HEIGHT, WIDTH)["counts"].decode()}
SEGMENTS = [TRIANGLE, TWO_PARTS, RUNS, TEXT, []]


def plain(**options: Any) -> Geometry:
    return plan_geometry(WIDTH, HEIGHT, 1, replace(OPTIONS, fit="none", **options))


def outlines(segments: list[Any], geometry: Geometry | None = None, **options: Any) -> Outlines:
    return Outlines(segments, geometry or plain(), **{"upright": False, **options})


def expected(segment: Any) -> Any:
    """The pixels of an object as pycocotools' own `annToMask` makes them."""
    if isinstance(segment, dict):
        runs = segment if isinstance(segment["counts"], str) else coco.frPyObjects(segment, HEIGHT, WIDTH)
    elif not segment:
        return np.zeros((HEIGHT, WIDTH), np.uint8)
    else:
        runs = coco.merge(coco.frPyObjects(segment, HEIGHT, WIDTH))
    return coco.decode(runs)


def as_pixels(text: str) -> Any:
    found = json.loads(text)
    return coco.decode({"size": found["size"], "counts": found["counts"].encode()})


@pytest.mark.parametrize("segment", SEGMENTS, ids=["triangle", "two parts", "runs", "text", "empty"])
def test_an_outline_has_the_pixels_of_pycocotools(segment: Any) -> None:
    assert np.array_equal(outlines([segment]).labelled([1], "uint8")[..., 0], expected(segment))
    assert np.array_equal(as_pixels(outlines([segment]).rle()[0]), expected(segment))


@given(st.lists(st.floats(-10, 60, width=32), min_size=6, max_size=20).filter(lambda found: len(found) % 2 == 0))
def test_any_polygon_has_the_pixels_of_pycocotools(polygon: list[float]) -> None:
    assert np.array_equal(outlines([[polygon]]).labelled([1], "uint8")[..., 0], expected([polygon]))


def test_a_smaller_object_lies_above_a_larger_one() -> None:
    found = outlines([TWO_PARTS, FULL, TRIANGLE]).labelled([3, 1, 2], "uint8")[..., 0]
    assert (found[expected(TWO_PARTS) == 1] == 3).all()
    assert (found[(expected(TRIANGLE) == 1) & (expected(TWO_PARTS) == 0)] == 2).all()
    assert (found[(expected(TRIANGLE) == 0) & (expected(TWO_PARTS) == 0)] == 1).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", FITS)
def test_texts_move_with_the_pixels(fit: str, orientation: int) -> None:
    geometry = plan_geometry(WIDTH, HEIGHT, orientation, replace(OPTIONS, fit=fit))
    found = outlines([TRIANGLE, RUNS], geometry)
    for text, segment in zip(found.rle(), (TRIANGLE, RUNS), strict=True):
        pixels = turned(expected(segment)[..., None], orientation)
        pixels = nearest(pixels, geometry.box, geometry.scaled) if geometry.resizes else pixels
        (left, top), size = geometry.offset, geometry.size
        whole = np.zeros(size[::-1], np.uint8)
        whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels[..., 0]
        assert np.array_equal(as_pixels(text), whole)
    polygon, runs = found.polygons()
    moved = geometry.points(np.reshape(TRIANGLE[0], (-1, 2))[:, ::-1]).ravel()
    assert np.allclose(json.loads(polygon), [moved], atol=1e-6)
    assert runs == found.rle()[1]  # which is no polygon


def test_relative_coordinates_are_parts_of_the_image() -> None:
    relative = [[x / side for x, side in zip(TRIANGLE[0], [WIDTH, HEIGHT] * 3, strict=True)]]
    found = outlines([relative], is_relative=True).labelled([1], "uint8")
    assert np.array_equal(found[..., 0], expected(TRIANGLE))


def test_objects_that_are_lost_are_left_out() -> None:
    found = outlines([TRIANGLE, RUNS])
    found.select(np.array([False, True]))
    assert len(found) == 1 and np.array_equal(as_pixels(found.rle()[0]), expected(RUNS))


def test_more_classes_than_a_mask_has_values_are_refused() -> None:
    with pytest.raises(BadInput, match="needs the value 256, which uint8 cannot hold; --mask-dtype uint16"):
        outlines([TRIANGLE]).labelled([256], "uint8")
    assert outlines([TRIANGLE]).labelled([256], "uint16").max() == 256


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ([[1, 2, 3, 4]], "is no polygon: x and y of three points or more"),
        ([[1, 2, 3, 4, 5, 6, 7]], "is no polygon"),
        ([[1, 2, 3, 4, 5, "6"]], "is no polygon"),
        ([[1, 2, 3, 4, 5, float("nan")]], "is no polygon"),
        ([[1, 2, 3, 4, 5, 10**400]], "is no polygon"),
        ([[1, 2, 3, 4, 5, 1e300]], "a point at 1e\\+300 lies outside of the image of 50x37 pixels"),
        ([[-51, 2, 3, 4, 5, 6]], "a point at -51 lies outside"),
        ("text", "is neither polygons nor run lengths"),
        (3, "is neither polygons nor run lengths"),
        ([[0, 0, WIDTH, HEIGHT, 0, 0] * 50_000], "the outline of an object is .* pixels long, more than 4,000,000"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "run lengths of 3 pixels for 50x37 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]}, "are no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": [1.5]}, "are no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "~~~"}, "are no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 100}, "are no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "11"}, "run lengths of 2 pixels"),
        ({"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}, r"run lengths of size \[50, 37\] for 50x37 pixels"),
        ({}, "run lengths of size None"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_outline_that_is_none_is_refused_in_one_line(segment: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        outlines([segment])
    assert caught.value.reason == "bad-segment" and "\n" not in str(caught.value)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 1 << 30))
def test_compressed_run_lengths_are_read_as_pycocotools_writes_them(
    height: int, width: int, share: float, seed: int
) -> None:
    pixels = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    text = coco.encode(np.asfortranarray(pixels))["counts"].decode()
    geometry = plan_geometry(width, height, 1, replace(OPTIONS, fit="none"))
    found = outlines([{"size": [height, width], "counts": text}], geometry)
    assert np.array_equal(found.labelled([1], "uint8")[..., 0], pixels)
    assert json.loads(found.rle()[0])["counts"] == text
