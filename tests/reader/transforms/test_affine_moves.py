"""Masks, boxes and points follow affine maps as torchvision moves them, and as the pixels do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shard_reader import CenterCrop, Draws, Flip, RandomResizedCrop, Resize, Transform
from shard_reader.transforms import (
    AffineMap,
    ColorJitter,
    GaussianBlur,
    Move,
    Part,
    RandAugment,
    RandomAffine,
    RandomErasing,
    RandomRotation,
    TrivialAugmentWide,
)
from shard_reader.transforms.augmentations.geometric import AffineParameters
from shard_reader.transforms.compose import compose
from shard_reader.transforms.moves.affine import affine_map
from shard_reader.transforms.moves.move import moved_boxes, moved_keypoints, moved_points

GEOMETRY: list[Transform] = [
    RandomRotation(40, expand=True),
    RandomRotation(180),
    RandomAffine(20, (0.2, 0.1), (0.7, 1.4), (-20, 20, -9, 9)),
    RandAugment(3, 25),
    TrivialAugmentWide(),
]
steps = st.lists(
    st.one_of(
        st.sampled_from(GEOMETRY),
        st.sampled_from([Flip(), CenterCrop(30), RandomResizedCrop((40, 36)), Resize((33, 47))]),
        st.sampled_from([ColorJitter(0.4, 0.4), GaussianBlur(3), RandomErasing()]),
    ),
    max_size=5,
)
numbers = st.floats(-1, 1)
parameters = st.builds(
    AffineParameters,
    numbers.map(lambda one: 180 * one),
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    st.floats(0.5, 2),
    st.tuples(numbers, numbers).map(lambda two: (40 * two[0], 40 * two[1])),
)


@settings(max_examples=100)
@given(steps, st.integers(0, 999))
def test_a_mask_shows_the_same_pixels_as_the_image_by_nearest(chain: list[Transform], seed: int) -> None:
    """An image whose channels are its rows and columns, which nothing mixes: it goes where its mask goes."""
    exact = [one for one in chain if isinstance(one, RandomRotation | RandomAffine | Flip | CenterCrop)]
    height, width = 45, 52
    image = np.stack([*np.mgrid[1 : height + 1, 1 : width + 1], np.zeros((height, width))], 2).astype(np.uint8)
    steps = compose(exact)
    moves = steps.moves(height, width, Draws(seed, 1))
    whole = steps(image, Draws(seed, 1))
    for channel in range(2):
        mask = image[..., channel : channel + 1].astype(np.uint16)
        found = steps.by_nearest(keeps_values=True)(mask, Draws(seed, 1))
        assert np.array_equal(found[..., 0], whole[..., channel])
    assert whole.shape[:2] == ((moves[-1].height, moves[-1].width) if moves else (height, width))


@settings(max_examples=100)
@given(steps, st.integers(0, 999))
def test_each_pixel_of_a_mask_is_the_one_at_its_moved_point(chain: list[Transform], seed: int) -> None:
    height, width = 45, 52
    steps = compose(chain)
    moves = steps.moves(height, width, Draws(seed, 1))
    numbers = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width, 1)
    found = steps.by_nearest(keeps_values=True)(numbers, Draws(seed, 1))[..., 0]
    rows, columns = np.nonzero(found)
    if not len(rows):
        return
    first = found[rows, columns] - 1
    centres = np.stack([(first // width + 0.5) / height, (first % width + 0.5) / width], axis=1)
    # The centre of a pixel of the result, back in the image, is at most a pixel from the one that it shows, and
    # further where several maps have rounded.
    size = np.array(found.shape)
    places = moved_points(centres, height, width, moves) * size - 0.5
    scale = max([1.0, *(np.sqrt(move.growth) * 3 for move in moves)])
    assert np.abs(places - np.stack([rows, columns], axis=1)).max() < scale * (1 + len(moves))


@settings(max_examples=60)
@given(steps, st.integers(0, 999))
def test_a_call_and_its_moves_use_the_same_draws(chain: list[Transform], seed: int) -> None:
    image = np.zeros((45, 52, 3), np.uint8)
    steps = compose(chain)
    called, moved, masked = (Draws(seed, 1) for _ in range(3))
    steps(image, called)
    steps.moves(45, 52, moved)
    steps.by_nearest(keeps_values=True)(image[..., :1], masked)
    assert called.uniform() == moved.uniform() == masked.uniform()


@settings(max_examples=80)
@given(parameters, st.integers(1, 60), st.integers(1, 60))
def test_points_go_there_and_back(given_: AffineParameters, height: int, width: int) -> None:
    found = affine_map((height, width), *given_)
    places = np.random.default_rng(0).uniform(-50, 50, (9, 2))
    y, x = places[:, 0], places[:, 1]
    shown = np.stack([found.d * x + found.e * y + found.f, found.a * x + found.b * y + found.c], axis=1)
    assert np.allclose(found.moved(shown), places, atol=1e-6)
    assert np.isclose(found.determinant, 1 / given_.scale**2)


@settings(max_examples=100)
@given(parameters, st.integers(0, 999))
def test_boxes_and_points_are_those_of_torchvision(given_: AffineParameters, seed: int) -> None:
    torch = pytest.importorskip("torch")
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    F = pytest.importorskip("torchvision.transforms.v2").functional
    size, rng = (45, 52), np.random.default_rng(seed)
    scale = np.array([*size, *size])
    moves = [Move.by_map(*size, affine_map(size, *given_)) for _ in range(2)]
    boxes = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1).reshape(6, 4)
    found = moved_boxes(boxes, *size, moves)
    expected = tv_tensors.BoundingBoxes(
        torch.from_numpy((boxes * scale)[:, [1, 0, 3, 2]]), format="XYXY", canvas_size=size, clamping_mode="hard"
    )
    for _ in moves:
        expected = F.affine(expected, *given_)
    theirs = expected.numpy()[:, [1, 0, 3, 2]]
    # torchvision gives an area to a box that has left the image, and comes back by the second map.
    once = moved_boxes(boxes, *size, moves[:1])
    stayed = (once[:, 2:] > once[:, :2]).all(axis=1)
    assert np.allclose((found * scale)[stayed], theirs[stayed], atol=1e-3)
    assert not (found[~stayed, 2:] > found[~stayed, :2]).all(axis=1).any()
    points = rng.uniform(0, 1, (7, 2))
    theirs = F.affine(
        tv_tensors.KeyPoints(torch.from_numpy((points * size)[:, ::-1].copy()), canvas_size=size),
        *given_,
    )
    assert np.allclose(moved_points(points, *size, moves[:1]) * size, theirs.numpy()[:, ::-1], atol=1e-3)


@pytest.mark.parametrize("angle", [-50.0, 20.0, 90.0])
def test_boxes_of_an_expanded_rotation_lie_within_a_pixel_of_torchvision_s(angle: float) -> None:
    """Its boxes begin at the corner of the rotated image, and its pixels in the middle of the larger one."""
    torch = pytest.importorskip("torch")
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    F = pytest.importorskip("torchvision.transforms.v2").functional
    move = RandomRotation((angle, angle), expand=True).move(45, 52, Draws(1, 1))
    boxes = np.array([[0.1, 0.2, 0.5, 0.9], [0.3, 0.0, 1.0, 0.4]])
    pixels = torch.from_numpy(boxes[:, [1, 0, 3, 2]] * [52, 45, 52, 45])
    theirs = F.rotate(tv_tensors.BoundingBoxes(pixels, format="XYXY", canvas_size=(45, 52)), angle, expand=True)
    assert np.abs(np.array(theirs.canvas_size) - [move.height, move.width]).max() <= 1, "nor do its own images agree"
    found = moved_boxes(boxes, 45, 52, [move]) * np.tile([move.height, move.width], 2)
    assert np.abs(found - theirs.numpy()[:, [1, 0, 3, 2]]).max() <= 1


def test_a_box_that_has_left_does_not_come_back() -> None:
    left = Move.by_map(40, 40, AffineMap(1, 0, 30, 0, 1, 0))
    back = Move.by_map(40, 40, affine_map((40, 40), 20.0, (30, 0)))
    boxes = moved_boxes(np.array([[0.1, 0.1, 0.5, 0.5]]), 40, 40, [left, back])
    assert not (boxes[:, 2:] > boxes[:, :2]).any()
    assert moved_boxes(np.array([[0.1, 0.1, 0.5, 0.9]]), 40, 40, [left])[0] == pytest.approx([0.1, 0.0, 0.5, 0.15])


def test_pairs_change_places_where_a_map_mirrors() -> None:
    keypoints = np.array([[[0.5, 0.25, 2], [0.25, 0.5, 1], [0, 0, 0]]])
    mirror = Move.by_map(8, 8, AffineMap(-1, 0, 8, 0, 1, 0))
    found = moved_keypoints(keypoints, 8, 8, [mirror], ((0, 1),))
    assert np.allclose(found, [[[0.25, 0.5, 1], [0.5, 0.75, 2], [0, 0, 0]]])
    by_flip = moved_keypoints(keypoints, 8, 8, [Move.whole(8, 8, is_mirrored=True)], ((0, 1),))
    assert np.allclose(found, by_flip)
    turned = Move.by_map(8, 8, affine_map((8, 8), 180.0))
    assert np.allclose(
        moved_keypoints(keypoints, 8, 8, [turned], ((0, 1),)), [[[0.5, 0.75, 2], [0.75, 0.5, 1], [0, 0, 0]]]
    )


def test_a_map_says_how_an_area_grows() -> None:
    assert np.isclose(Move.by_map(8, 8, affine_map((8, 8), 30.0, scale=2.0, shear=(10, 5))).growth, 4)
    assert Move(Part(0, 0, 4, 4), 8, 8).growth == 4


def test_masks_have_their_own_value_outside_of_the_image() -> None:
    mask = np.full((20, 30, 1), 3, np.uint8)
    for transform in (RandomRotation((45, 45), fill=9, mask_fill=255), RandomAffine((45, 45), fill=9, mask_fill=255)):
        found = compose(transform).by_nearest(keeps_values=True)(mask, Draws(1, 1))
        assert set(np.unique(found)) == {3, 255} and found[0, 0] == 255
        assert transform(mask, Draws(1, 1))[0, 0] == 9
    plain = compose(RandomRotation((45, 45), fill=9)).by_nearest(keeps_values=True)(mask, Draws(1, 1))
    assert set(np.unique(plain)) == {0, 3}
    depth = np.full((20, 30, 1), 3, np.float32)
    lost = compose(TrivialAugmentWide(mask_fill=-1)).by_nearest(keeps_values=True)
    assert {-1.0, 3.0} == set(np.unique([lost(depth, Draws(1, position)) for position in range(30)]))
    with pytest.raises(ValueError, match=r"has pixels of uint8, .* and not of 256.0, its fill"):
        compose(RandomRotation((45, 45), mask_fill=256)).by_nearest(keeps_values=True)(mask, Draws(1, 1))


_WHOLE = Part(0, 0, 8, 8)


@dataclass(frozen=True)
class Mapped(Transform):
    """A map of one's own."""

    map: AffineMap
    part: Part = _WHOLE
    in_place = True

    def __call__(self, image: NDArray[Any], draws: Draws, out: NDArray[Any] | None = None) -> NDArray[Any]:
        return image

    def move(self, height: int, width: int, draws: Draws) -> Move:
        return Move(self.part, 8, 8, affine=self.map)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Mapped(AffineMap(0, 0, 1, 0, 1, 0)), r"has no inverse of AffineMap\(a=0"),
        (Mapped(AffineMap(float("nan"), 0, 1, 0, 1, 0)), "has no inverse"),
        (Mapped(AffineMap(1, 0, 1, 0, 1, 0), Part(0, 0, 4, 8)), "no move of it: an affine map is one of the whole"),
    ],
)  # fmt: skip
def test_a_map_that_nothing_can_follow_is_refused(transform: Transform, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose(transform).moves(8, 8, Draws(1, 1))
    with pytest.raises(ValueError, match=message):
        compose(transform).by_nearest(keeps_values=True)(np.zeros((8, 8, 1), np.uint8), Draws(1, 1))


@settings(max_examples=60)
@given(parameters, st.floats(0.35, 0.65), st.floats(0.35, 0.65), st.sampled_from(["nearest", "bilinear"]))
def test_a_dot_its_box_and_its_point_stay_together(
    given_: AffineParameters, y: float, x: float, interpolation: Any
) -> None:
    height, width, radius = 110, 130, 9
    places = np.stack(np.mgrid[:height, :width], axis=2) + 0.5
    is_dot = np.hypot(*np.moveaxis(places - (y * height, x * width), 2, 0)) < radius
    dot = (255 * is_dot[..., np.newaxis]).astype(np.uint8)
    moved = RandomAffine(0, interpolation=interpolation).apply(dot, given_)[..., 0].astype(float)
    moves = [Move.by_map(height, width, affine_map((height, width), *given_))]
    (point,) = moved_points(np.array([[y, x]]), height, width, moves) * (height, width)
    box = np.array([[y - radius / height, x - radius / width, y + radius / height, x + radius / width]])
    top, left, bottom, right = moved_boxes(box, height, width, moves)[0] * (height, width, height, width)
    if min(top, left) < 1 or bottom > height - 1 or right > width - 1:
        return  # a part of the dot may have left the image
    rows, columns = np.nonzero(moved > 127)
    assert np.abs(np.array([rows.mean(), columns.mean()]) + 0.5 - point).max() < 1
    slack = 1 + given_.scale  # half a pixel of both images, and the dot's own edge
    assert top - slack < rows.min() and rows.max() < bottom + slack
    assert left - slack < columns.min() and columns.max() < right + slack
