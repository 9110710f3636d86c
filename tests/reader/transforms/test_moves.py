"""Masks, boxes and keypoints move as torchvision moves them, by the draws of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shard_reader import CenterCrop, Draws, Flip, RandomResizedCrop, Resize, Transform
from shard_reader.transforms import Move, Part
from shard_reader.transforms.compose import ComposedTransform, compose
from shard_reader.transforms.moves.move import moved_boxes, moved_keypoints, moved_points
from shard_reader.transforms.resize import resize

torch = pytest.importorskip("torch")
tv_tensors = pytest.importorskip("torchvision.tv_tensors")
F = pytest.importorskip("torchvision.transforms.v2").functional

PAIRS = ((0, 1), (3, 2))


sides = st.integers(1, 40)
sizes = st.tuples(sides, sides)
steps = st.one_of(
    st.builds(Resize, sizes, st.sampled_from(["area", "bilinear", "nearest"])),
    st.builds(RandomResizedCrop, sizes, exact=st.booleans()),
    st.just(Flip()),
    st.sampled_from([CenterCrop(1), CenterCrop((1, 2)), CenterCrop((5, 3)), CenterCrop(16)]),
)
chains = st.lists(steps, max_size=4)


def chain_for(steps: list[Transform], height: int, width: int) -> ComposedTransform:
    """The steps that an image of this size can take."""
    found: list[Transform] = []
    for step in steps:
        fits = not isinstance(step, CenterCrop) or (step.shape[0] <= height and step.shape[1] <= width)
        if fits:
            found.append(step)
            height, width = (int(side or 0) for side in (step.output_shape((height, width, 1)) or ())[:2])
    return compose(found)


def by_torchvision(moves: list[Move], value: Any) -> Any:
    """A tensor with the moves, each by its function."""
    for move in moves:
        top, left, height, width, _ = move.part
        value = F.crop(value, top, left, height, width)
        exact = F.InterpolationMode.NEAREST_EXACT
        value = F.resize(value, [move.height, move.width], exact, antialias=False)
        if move.is_mirrored:
            value = F.horizontal_flip(value)
            if type(value).__name__ == "KeyPoints":
                # It mirrors keypoints as numbers of pixels, width - 1 - x, and boxes as places, width - x.
                value[:, 0] += 1
    return value


@settings(max_examples=150)
@given(chains, sides, sides, st.integers(0, 999), st.sampled_from(["uint8", "uint16", "float32"]))
def test_masks_are_those_of_torchvision(steps: list[Transform], height: int, width: int, seed: int, dtype: str) -> None:
    chain = chain_for(steps, height, width)
    mask = np.random.default_rng(seed).integers(0, 256, (height, width, 1)).astype(dtype)
    found = chain.by_nearest(keeps_values=True)(mask, Draws(seed, 5))
    moves = chain.moves(height, width, Draws(seed, 5))
    tensor = tv_tensors.Mask(torch.from_numpy(mask.astype(np.float32).transpose(2, 0, 1)))
    expected = by_torchvision(moves, tensor).numpy().transpose(1, 2, 0)
    assert found.dtype == dtype and np.array_equal(found, expected)


@settings(max_examples=100)
@given(chains, sides, sides, st.integers(0, 999))
def test_boxes_and_keypoints_are_those_of_torchvision(
    steps: list[Transform], height: int, width: int, seed: int
) -> None:
    moves = chain_for(steps, height, width).moves(height, width, Draws(seed, 5))
    rng, canvas = np.random.default_rng(seed), (height, width)
    corners = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1).reshape(6, 4)
    points = rng.uniform(0, 1, (7, 2))
    final = np.array([moves[-1].height, moves[-1].width] if moves else canvas)
    pixels = torch.from_numpy(corners[:, [1, 0, 3, 2]] * [width, height, width, height])
    boxes = tv_tensors.BoundingBoxes(pixels, format="XYXY", canvas_size=canvas)
    expected = F.clamp_bounding_boxes(by_torchvision(moves, boxes)).numpy()[:, [1, 0, 3, 2]]
    found = moved_boxes(corners, height, width, moves)
    have_area = (found[:, 2:] > found[:, :2]).all(axis=1)
    assert np.allclose(found[have_area] * np.tile(final, 2), expected[have_area], atol=1e-4)
    assert np.allclose(np.prod(expected[~have_area, 2:] - expected[~have_area, :2], axis=1), 0, atol=1e-4)
    # torchvision clamps keypoints to each canvas: those that stay inside are the same.
    keypoints = tv_tensors.KeyPoints(torch.from_numpy(points[:, ::-1] * [width, height]), canvas_size=canvas)
    expected = by_torchvision(moves, keypoints).numpy()[:, ::-1]
    found = points
    inside, size = np.ones(len(points), bool), canvas
    for move in moves:
        found = moved_points(found, *size, [move])
        size = move.height, move.width
        inside &= np.all((found >= 0) & (found * size <= np.array(size) - 1), axis=1) & (found[:, 1] * size[1] >= 1)
    assert np.allclose(found[inside] * final, expected[inside], atol=1e-4)


@settings(max_examples=300)
@given(st.integers(1, 199), st.integers(1, 129))
def test_the_nearest_pixels_are_those_of_torchvision(size: int, count: int) -> None:
    row = np.arange(size, dtype=np.float32).reshape(1, size, 1)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(row.reshape(1, 1, 1, size)), (1, count), mode="nearest-exact"
    )
    assert np.array_equal(resize(row, (1, count), "nearest", None).ravel(), expected.numpy().ravel())


@settings(max_examples=100)
@given(chains, sides, sides, st.integers(0, 999))
def test_a_call_and_its_moves_use_the_same_draws(steps: list[Transform], height: int, width: int, seed: int) -> None:
    chain = chain_for(steps, height, width)
    called, moved = Draws(seed, 1), Draws(seed, 1)
    result = chain(np.zeros((height, width, 1), np.uint8), called)
    moves = chain.moves(height, width, moved)
    assert called.uniform() == moved.uniform()
    assert result.shape[:2] == ((moves[-1].height, moves[-1].width) if moves else (height, width))


@pytest.mark.parametrize(
    "transforms",
    [CenterCrop((7, 9)), [CenterCrop(11), Flip(1)], [Flip(), Flip(), CenterCrop((12, 3))], Resize((30, 31), "nearest")],
    ids=repr,
)
def test_without_a_filter_a_mask_moves_pixel_for_pixel_as_the_image(transforms: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 23, 3), dtype=np.uint8)
    chain = compose(transforms)
    for position in range(20):
        whole, mask = chain(image, Draws(1, position)), chain.by_nearest(keeps_values=True)(image, Draws(1, position))
        assert np.array_equal(whole, mask)


def test_a_mirror_swaps_the_pairs_and_leaves_those_that_are_nowhere() -> None:
    keypoints = np.array([[[0.5, 0.25, 2], [0, 0, 0], [0.1, 0.2, 1], [0.3, 0.4, 2]]], np.float32)
    once = moved_keypoints(keypoints, 8, 8, [Move.whole(8, 8, is_mirrored=True)], PAIRS)
    assert np.allclose(once, [[[0, 0, 0], [0.5, 0.75, 2], [0.3, 0.6, 2], [0.1, 0.8, 1]]])
    twice = moved_keypoints(keypoints, 8, 8, [Move.whole(8, 8, is_mirrored=True)] * 2, PAIRS)
    assert np.allclose(twice, keypoints)


def test_a_keypoint_outside_keeps_its_place() -> None:
    moves = [Move(Part(4, 0, 4, 8), 16, 16)]
    assert np.allclose(moved_keypoints(np.array([[0.25, 1, 2.0]]), 8, 8, moves, ()), [[-0.5, 1, 2]])
    assert np.allclose(moved_boxes(np.array([[0.0, 0, 0.75, 0.5]]), 8, 8, moves), [[0, 0, 0.5, 0.5]])
    assert np.allclose(moved_boxes(np.array([[0.0, 0, 0.25, 0.5]]), 8, 8, moves)[0, [0, 2]], 0)


@dataclass(frozen=True)
class Brighter(Transform):
    keeps_places = True

    def __call__(self, image: NDArray[Any], draws: Draws, out: NDArray[Any] | None = None) -> NDArray[Any]:
        return np.clip(image * draws.uniform(1, 2), 0, 255).astype(image.dtype)


@dataclass(frozen=True)
class Zoom(Transform):
    """Takes a corner, of a size that is drawn."""

    def __call__(self, image: NDArray[Any], draws: Draws, out: NDArray[Any] | None = None) -> NDArray[Any]:
        part = self.move(*image.shape[:2], draws).part
        return resize(np.ascontiguousarray(image[part.rows, part.columns]), (16, 16), "nearest", None)

    def move(self, height: int, width: int, draws: Draws) -> Move:
        return Move(Part(0, 0, 1 + draws.integer(height), 1 + draws.integer(width)), 16, 16)

    def output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (16, 16, *shape[2:])


class Shifted(CenterCrop):
    """Changes what it inherits, and says nothing of it."""

    def __call__(self, image: Any, draws: Any = None, out: Any = None) -> Any:
        return np.roll(super().__call__(image, draws), 1, 0)


def test_a_transform_of_ones_own_moves_masks_by_its_move() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 23, 1), dtype=np.uint8)
    chain = compose([Zoom(), Flip(), Brighter()])
    chain.check_moves("mask")
    for position in range(20):
        expected = compose([Zoom(), Flip()])(image, Draws(1, position))
        assert np.array_equal(chain.by_nearest(keeps_values=True)(image, Draws(1, position)), expected)


def test_a_function_may_say_that_it_keeps_places() -> None:
    def darker(image: NDArray[Any]) -> NDArray[Any]:
        return image // 2

    with pytest.raises(ValueError, match=r"darker does not say how it moves pixels, and 'mask' has to follow: declare"):
        compose([CenterCrop(4), darker]).check_moves("mask")
    darker.keeps_places = True  # type: ignore[attr-defined]
    chain = compose([CenterCrop(4), darker])
    chain.check_moves("mask")
    image = np.arange(100, dtype=np.uint8).reshape(10, 10, 1)
    assert np.array_equal(chain.by_nearest(keeps_values=True)(image), image[3:7, 3:7])
    assert np.array_equal(chain.by_nearest(keeps_values=False)(image), image[3:7, 3:7] // 2)


class Counted(Brighter):
    """As its base class, and says how many numbers it draws."""

    def move(self, height: int, width: int, draws: Draws) -> Move:
        draws.uniform()
        return super().move(height, width, draws)


def test_a_transform_that_keeps_places_may_stand_anywhere_if_it_counts_its_draws() -> None:
    image = np.random.default_rng(0).integers(0, 128, (20, 23, 1), dtype=np.uint8)
    chain = compose([Counted(), Flip(), Zoom()])
    chain.check_moves("mask")
    by_hand = compose([Flip(), Zoom()])
    for position in range(20):
        draws = Draws(1, position)
        draws.uniform()
        expected = by_hand(image, draws)
        assert np.array_equal(chain.by_nearest(keeps_values=True)(image, Draws(1, position)), expected)
        assert chain(image, Draws(1, position)).sum() > expected.sum()
    called = compose([Counted()]).by_nearest(keeps_values=False)(image, Draws(1, 0))
    assert called.sum() > image.sum(), "in a list of its own a mask goes through it"


class Sizeless(Zoom):
    def __call__(self, image: Any, draws: Any, out: Any = None) -> Any:
        return image

    def move(self, height: int, width: int, draws: Draws) -> Move:
        return Move.whole(height, width)

    def output_shape(self, shape: tuple[int | None, ...]) -> None:
        return None


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (Shifted(4), "Shifted.* does not say how it moves pixels, and 'mask' has to follow: declare keeps_places"),
        ([CenterCrop(4), np.rot90], "numpy.rot90 does not say how it moves pixels"),
        ([Brighter(), Flip()], r"Brighter\(\) uses draws before Flip.* and 'mask' has to follow without it: put Brig"),
        (Sizeless(), "moves pixels, and has no output_shape"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_a_mask_cannot_follow_is_refused(transforms: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose(transforms).check_moves("mask")


@pytest.mark.parametrize("part", [Part(0, 0, 9, 8), Part(-1, 0, 4, 4), Part(0, 0, 0, 4), Part(5, 5, 4, 4)], ids=str)
def test_a_part_outside_of_the_image_is_refused(part: Part) -> None:
    with pytest.raises(ValueError, match=r"is 8x8, and Move.* is no move of it: its part must lie in the image"):
        Move(part, 4, 4).check(8, 8)


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.builds(Resize, st.tuples(st.integers(60, 130), st.integers(60, 130))),
            st.builds(RandomResizedCrop, st.integers(60, 130), st.just((0.3, 1)), exact=st.booleans()),
            st.just(Flip()),
            st.builds(CenterCrop, st.integers(40, 60)),
        ),
        max_size=4,
    ),
    st.integers(0, 999),
    st.floats(0.35, 0.65),
    st.floats(0.35, 0.65),
)
def test_a_dot_its_mask_its_box_and_its_keypoint_stay_together(
    steps: list[Transform], seed: int, y: float, x: float
) -> None:
    height, width, radius = 110, 130, 9
    places = np.stack(np.mgrid[:height, :width], axis=2) + 0.5
    is_dot = np.hypot(*np.moveaxis(places - (y * height, x * width), 2, 0)) < radius
    image, mask = (is_dot[..., np.newaxis] * np.array(colour, np.uint8) for colour in ([255, 255, 255], [1]))
    chain = chain_for(steps, height, width)
    moves = chain.moves(height, width, Draws(seed, 2))
    moved = chain(image, Draws(seed, 2))[..., 0].astype(float)
    moved_mask = chain.by_nearest(keeps_values=True)(mask, Draws(seed, 2))[..., 0].astype(float)
    box = np.array([y, x, y, x]) + np.array([-1, -1, 1, 1]) * np.tile([radius / height, radius / width], 2)
    size = np.array(moved.shape)
    (point,) = moved_points(np.array([[y, x]]), height, width, moves) * size
    top, left, bottom, right = moved_boxes(box[np.newaxis], height, width, moves)[0] * np.tile(size, 2)
    if not (top > 1 and bottom < size[0] - 1 and left > 1 and right < size[1] - 1):
        return  # a part of the dot has left the image
    for pixels in (moved, moved_mask):
        rows, columns = np.nonzero(pixels > pixels.max() / 2)
        centre = np.array([rows.mean(), columns.mean()]) + 0.5
        assert np.abs(centre - point).max() < 1 + size.max() / 60
        assert np.allclose(
            [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1], [top, left, bottom, right], atol=6
        )
    assert np.allclose([(top + bottom) / 2, (left + right) / 2], point, atol=1e-6)
