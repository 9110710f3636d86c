"""Boxes and points on their way into a record, and what belongs to each object."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from beam_jobs.images.geometry import plan_geometry
from beam_jobs.images.targets.objects import Frame, check_objects, move_objects
from beam_jobs.options import ImageOptions
from beam_jobs.sources import BadInput

OPTIONS = ImageOptions(
    width=20, height=20, fit="crop", filter="area", encoding="png", quality=None, dtype="uint8", normalize="none"
)
FRAME = Frame(plan_geometry(40, 20, 1, OPTIONS), None)  # of which the middle half stays
BOXES = [0, 0, 5, 20, 15, 5, 25, 15]  # one on the left, of which nothing is left, and one in the middle


def moved(**values: Any) -> tuple[dict[str, Any], int]:
    found, kept = move_objects({"objects/bbox": BOXES, **values}, {"objects/bbox": "xyxy"}, {}, FRAME)
    assert kept is not None
    return dict(found), int((~kept).sum())


def test_what_belongs_to_a_dropped_box_is_dropped() -> None:
    values = {"objects/id": [7, 8], "objects/names": ["a", "b", "c", "d"], "objects/kp": [1, 2, 3, 4, 5, 6], "x": [1]}
    found, dropped = moved(**values)
    assert dropped == 1
    assert np.allclose(found["objects/bbox"], [[0.25, 0.25, 0.75, 0.75]])
    assert (found["objects/id"], found["objects/names"]) == ([8], ["c", "d"])
    assert (found["objects/kp"], found["x"]) == ([4, 5, 6], [1])


@pytest.mark.parametrize("value", [[1], [1, 2, 3], []], ids=str)
def test_lists_that_are_not_of_the_objects_are_refused(value: list[int]) -> None:
    with pytest.raises(BadInput, match="elements for 2 objects"):
        moved(**{"objects/kp": value})
    with pytest.raises(BadInput):
        check_objects({"objects/bbox": BOXES, "objects/kp": value}, {"objects/bbox": "xyxy"})


def test_no_objects_are_none() -> None:
    values = {"objects/bbox": list[float](), "objects/id": list[int]()}
    found, kept = move_objects(values, {"objects/bbox": "xyxy"}, {}, FRAME)
    assert kept is not None and len(kept) == 0
    assert (np.shape(found["objects/bbox"]), found["objects/id"]) == ((0, 4), [])


@pytest.mark.parametrize(
    ("form", "numbers"),
    [
        *(("xyxy", [15, 5, 25, 15]), ("xywh", [15, 5, 10, 10]), ("yxyx", [5, 15, 15, 25])),
        *(("rel-xyxy", [0.375, 0.25, 0.625, 0.75]), ("rel-xywh", [0.375, 0.25, 0.25, 0.5])),
        ("rel-yxyx", [0.25, 0.375, 0.75, 0.625]),
    ],
)
def test_every_form_of_a_box(form: str, numbers: list[float]) -> None:
    found, _ = move_objects({"b": numbers}, {"b": form}, {}, FRAME)
    assert np.allclose(found["b"], [[0.25, 0.25, 0.75, 0.75]])


@pytest.mark.parametrize(("form", "numbers"), [("xy", [15, 5]), ("yx", [5, 15]), ("rel-xy", [0.375, 0.25])])
def test_every_form_of_a_point(form: str, numbers: list[float]) -> None:
    found, _ = move_objects({"p": numbers}, {}, {"p": form}, FRAME)
    assert np.allclose(found["p"], [[0.25, 0.25]])


def test_areas_are_of_the_stored_image() -> None:
    options = dataclasses.replace(OPTIONS, width=10, height=10)
    frame = Frame(plan_geometry(40, 20, 1, options), None)  # the middle half, scaled to a half
    boxes = [0, 0, 5, 20, 15, 5, 25, 15, 5, 0, 15, 20]  # gone; whole; half of it
    for areas, expected in (([9.0, 50.0, 190.0], [12.5, 25.0]), ([9, 51, 190], [13, 25])):
        found, _ = move_objects({"b": boxes, "objects/area": areas}, {"b": "xyxy"}, {}, frame)
        assert found["objects/area"] == pytest.approx(expected)
    same = Frame(plan_geometry(20, 20, 1, OPTIONS), None)
    found, _ = move_objects({"b": [1, 1, 2, 2], "objects/area": [5.5]}, {"b": "xyxy"}, {}, same)
    assert found["objects/area"] == [5.5]
