"""Records whose masks, boxes and keypoints follow a transform of torchvision or Albumentations, in one call."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import stored
from support.libraries import draws_of, global_states, same_states, seeded_by_hand
from support.stored import SEVERAL, flip, several

from shard_reader import Draws, Flip, RandomResizedCrop, open_dataset
from shard_reader.format import Field
from shard_reader.transforms.libraries.library import JointRecord
from shard_reader.transforms.libraries.recognized import library_transform
from shard_reader.transforms.moves.move import Move, moved_boxes, moved_points
from shard_reader.transforms.part import Part

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
A = pytest.importorskip("albumentations")
torch = pytest.importorskip("torch")
tv_tensors = pytest.importorskip("torchvision.tv_tensors")
v2 = pytest.importorskip("torchvision.transforms.v2")

IMAGES = ("image", "mask", "depth", "right")
LISTS = ("objects/bbox", "objects/label", "objects/name", "objects/keypoints")
FIELDS = (*IMAGES, "label", *LISTS)
BOXES = A.BboxParams("pascal_voc")
POINTS = A.KeypointParams("xy", remove_invisible=False)

MOVING = {
    "torchvision": v2.Compose([v2.RandomCrop((30, 32)), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]),
    "Albumentations": A.Compose(
        [A.RandomCrop(30, 32), A.HorizontalFlip(), A.VerticalFlip()], bbox_params=BOXES, keypoint_params=POINTS
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("library_records")


@pytest.fixture(scope="module")
def data(folder: Path) -> Any:
    """Records of several sizes; every fourth has no objects."""
    return open_dataset(several(folder / "png", formats=("tfrecord",)))


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        repr([np.asarray(value).tolist() for value in one[name]]) == repr([np.asarray(v).tolist() for v in other[name]])
        for name in one
    )


@pytest.mark.parametrize("name", MOVING)
def test_all_images_show_the_same_part(data: Any, name: str) -> None:
    stream = data.stream(batch_size=4, fields=IMAGES, image=MOVING[name], seed=2)
    batches = [stream.batch(epoch, step) for epoch in (0, 1) for step in range(len(stream))]
    for batch in batches:
        pixels = batch["image"]
        assert np.array_equal(batch["mask"], pixels[..., 0]) and batch["mask"].dtype == np.uint8
        assert np.array_equal(batch["depth"], pixels[..., 1:2].astype(np.uint16) * 257)
        assert np.array_equal(batch["right"], 255 - pixels)
    assert not np.array_equal(batches[0]["image"], batches[len(stream)]["image"])
    assert stream.specs["mask"] == ("uint8", (30, 32)) and stream.specs["depth"] == ("uint16", (30, 32, 1))


@pytest.mark.parametrize("name", MOVING)
def test_an_image_is_the_same_with_and_without_its_followers(data: Any, name: str) -> None:
    steps = [RandomResizedCrop(40), Flip(), MOVING[name]]
    whole = data.stream(batch_size=4, fields=FIELDS, image=steps, seed=2)
    alone = data.stream(batch_size=4, image=steps, seed=2)
    for step in range(len(whole)):
        batch = whole.batch(0, step)
        assert np.array_equal(batch["image"], alone.batch(0, step)["image"])
        assert np.abs(batch["right"].astype(int) + batch["image"] - 255).max() <= 1


def in_batches(stream: Any) -> Iterator[tuple[int, int, dict[str, Any], NDArray[np.float64], dict[str, Any]]]:
    """Step and place of each record, the record, its boxes `[n, 4]` (x, y, x, y in pixels), and its batch."""
    for step in range(len(stream)):
        batch = stream.batch(0, step)
        for place, number in enumerate(stream.order.records_of(0, step, step + 1).tolist()):
            record = stream.data[number]
            height, width = record["image"].shape[:2]
            boxes = record["objects/bbox"][:, [1, 0, 3, 2]].astype(float) * (width, height, width, height)
            yield step, place, record, boxes, batch


def test_torchvision_gives_what_it_gives_by_hand(data: Any) -> None:
    transform = v2.Compose(
        [
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((24, 26)),
            v2.RandomPhotometricDistort(),
            v2.SanitizeBoundingBoxes(),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
        ]
    )
    stream = data.stream(batch_size=6, fields=("image", "mask", *LISTS), image=transform, seed=3)
    dropped = 0
    for step, place, record, boxes, batch in in_batches(stream):
        sample = {
            "image": tv_tensors.Image(torch.from_numpy(record["image"]).permute(2, 0, 1)),
            "mask": tv_tensors.Mask(torch.from_numpy(record["mask"])),
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes.astype(np.float32)), format="XYXY", canvas_size=record["image"].shape[:2]
            ),
            "labels": torch.arange(len(boxes)),
        }
        with seeded_by_hand(draws_of(stream, step, place)):
            found = transform(sample)
        assert np.array_equal(batch["image"][place], found["image"].permute(1, 2, 0).numpy())
        assert np.array_equal(batch["mask"][place], found["mask"].numpy())
        expected = found["boxes"].numpy()[:, [1, 0, 3, 2]] / np.float32([24, 26, 24, 26])
        np.testing.assert_allclose(batch["objects/bbox"][place], expected, atol=1e-6)
        names = [record["objects/name"][row].encode() for row in found["labels"].tolist()]
        assert list(batch["objects/name"][place]) == names
        assert np.array_equal(batch["objects/label"][place], record["objects/label"][found["labels"].numpy()])
        assert len(batch["objects/keypoints"][place]) == len(names)
        dropped += len(boxes) - len(names)
    assert dropped and batch["image"].dtype == np.float32 and batch["mask"].dtype == np.uint8


def test_albumentations_gives_what_it_gives_by_hand(data: Any) -> None:
    transform = A.Compose(
        [
            A.RandomResizedCrop((24, 26), scale=(0.1, 0.6)),
            A.HorizontalFlip(),
            A.RandomBrightnessContrast(),
            A.Normalize(),
        ],
        bbox_params=A.BboxParams("coco", label_fields=["rows"], min_visibility=0.3),
        keypoint_params=POINTS,
    )
    stream = data.stream(batch_size=6, fields=("image", "mask", *LISTS), image=transform, seed=3)
    dropped = 0
    for step, place, record, boxes, batch in in_batches(stream):
        boxes[:, 2:] -= boxes[:, :2]
        points = record["objects/keypoints"].reshape(-1, 3)
        seen = points[points[:, 2] > 0, 1::-1].astype(float) * record["image"].shape[1::-1] - 0.5
        seed = draws_of(stream, step, place).integer(1 << 64)
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        found = transform(
            image=record["image"],
            mask=record["mask"],
            bboxes=boxes.astype(np.float32),
            rows=list(range(len(boxes))),
            keypoints=seen.astype(np.float32),
        )
        assert np.array_equal(batch["image"][place], found["image"])
        assert np.array_equal(batch["mask"][place], found["mask"])
        assert list(batch["objects/name"][place]) == [
            record["objects/name"][int(row)].encode() for row in found["rows"]
        ]
        expected = np.asarray(found["bboxes"], float).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        expected = expected[:, [1, 0, 3, 2]] / (24, 26, 24, 26)
        np.testing.assert_allclose(batch["objects/bbox"][place], expected, atol=1e-6)
        dropped += len(boxes) - len(expected)
        if len(expected) == len(boxes) and len(boxes):
            moved = (np.asarray(found["keypoints"]) + 0.5)[:, ::-1] / (24, 26)
            own = batch["objects/keypoints"][place].reshape(-1, 3)
            ours = own[own[:, 2] > 0, :2]
            np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(moved, axis=0), atol=1e-5)
    assert dropped and batch["image"].dtype == np.float32


def crops(height: int, width: int, box: tuple[int, int, int, int], size: tuple[int, int], mirrored: bool) -> list[Any]:
    """A part of an image at a size, maybe mirrored, in both libraries."""
    top, left, tall, wide = box

    class Part_(v2.Transform):  # type: ignore[misc, name-defined]
        def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
            return v2.functional.crop(inpt, top, left, tall, wide)

    class Points(Part_):
        _transformed_types = (torch.Tensor,)

    of_torchvision = v2.Compose([Points(), v2.Resize(size), v2.RandomHorizontalFlip(float(mirrored))])
    of_albumentations = A.Compose(
        [
            A.Crop(left, top, left + wide, top + tall),
            A.Resize(*size),
            A.HorizontalFlip(p=float(mirrored)),
        ],
        bbox_params=BOXES,
        keypoint_params=POINTS,
    )
    return [of_torchvision, of_albumentations]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_boxes_and_points_move_as_with_the_transforms_of_this_package(draw: st.DataObject) -> None:
    height, width = draw.draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    tall, wide = draw.draw(st.tuples(st.integers(1, height), st.integers(1, width)))
    top, left = draw.draw(st.tuples(st.integers(0, height - tall), st.integers(0, width - wide)))
    size = draw.draw(st.sampled_from([(tall, wide), (7, 9), (50, 21)]))
    mirrored = draw.draw(st.booleans())
    rng = np.random.default_rng(draw.draw(st.integers(0, 1000)))
    corners = np.sort(rng.uniform(0, 1, (5, 2, 2)), axis=1).reshape(5, 4)
    points = rng.uniform(0, 1, (6, 2))
    moves = [Move(Part(top, left, tall, wide), *size), Move.whole(*size, is_mirrored=mirrored)]
    expected = moved_boxes(corners, height, width, moves)
    is_left = np.all(expected[:, 2:] > expected[:, :2] + 1e-6, axis=1)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    record = JointRecord(
        image=pixels,
        photos={"other": 255 - pixels},
        masks={"mask": pixels[..., 0], "deep": pixels[..., 1].astype(np.uint16) * 257},
        boxes=corners[:, [1, 0, 3, 2]] * (width, height, width, height),
        rows=np.arange(5),
        points=points[:, ::-1] * (width, height),
    )
    for transform in crops(height, width, (top, left, tall, wide), size, mirrored):
        step = library_transform(transform)
        assert step is not None
        found = step.joined(record, Draws(1, 0))
        assert found.image.shape == (*size, 3) and found.masks["deep"].dtype == np.uint16
        assert found.boxes is not None and found.points is not None
        boxes = np.zeros((5, 4))
        boxes[found.rows] = found.boxes[:, [1, 0, 3, 2]] / (*size, *size)
        np.testing.assert_allclose(boxes[is_left], expected[is_left], atol=1e-5)
        # Libraries scale the centres of pixels, and mirror them: half a pixel more or less.
        slack = np.abs(1 - np.array(size) / (tall, wide)) / 2 / size + 1e-4
        moved = found.points[:, ::-1] / size
        assert np.all(np.abs(moved - moved_points(points, height, width, moves)) <= slack)
        if size == (tall, wide):
            part = pixels[top : top + tall, left : left + wide]
            part = part[:, ::-1] if mirrored else part
            assert np.array_equal(found.image, part) and np.array_equal(found.masks["mask"], part[..., 0])
            assert np.array_equal(found.masks["deep"], part[..., 1].astype(np.uint16) * 257)
            assert np.array_equal(found.photos["other"], 255 - part)


@pytest.mark.parametrize(
    ("transform", "mirrored"),
    [
        (v2.RandomHorizontalFlip(1), True),
        (v2.RandomVerticalFlip(1), True),
        (v2.RandomRotation((180, 180)), False),
        (v2.Compose([v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1)]), False),
        (v2.Compose([v2.CenterCrop(9), v2.RandomHorizontalFlip(1)]), True),
        (v2.Compose([v2.RandomHorizontalFlip(1), v2.ClampKeyPoints()]), True),
        (A.Compose([A.HorizontalFlip(p=1)], bbox_params=BOXES, keypoint_params=POINTS), True),
        (A.Compose([A.Transpose(p=1)], bbox_params=BOXES, keypoint_params=POINTS), True),
        (A.Compose([A.Rotate((180, 180), p=1)], bbox_params=BOXES, keypoint_params=POINTS), False),
    ],
    ids=["left", "down", "turned", "both", "cropped", "clamped", "A left", "A across", "A turned"],
)
def test_pairs_of_keypoints_change_places_in_a_mirrored_image(folder: Path, transform: Any, mirrored: bool) -> None:
    path = folder / "pairs"
    if not path.exists():
        several(path, count=4, size=(40, 40), formats=("tfrecord",))
    data = open_dataset(path)
    stream = data.stream(batch_size=4, shuffle="none", fields=("image", *LISTS), image=transform)
    stored, batch = data[3]["objects/keypoints"], stream.batch(0, 0)
    found = batch["objects/keypoints"][3]
    # The right eye is nowhere: in a mirrored image, the left one is.
    assert len(found) or "CenterCrop" in repr(transform)
    for one in found:
        assert np.array_equal(one[1] if mirrored else one[2], [*stored[0, 2, :2], 0])
        assert np.all(one[[0, 2] if mirrored else [0, 1], 2] == 2)


def test_a_mask_of_all_objects_keeps_its_rows(folder: Path) -> None:
    """SanitizeBoundingBoxes takes a mask with as many rows as there are boxes for a mask of each box."""
    fields = {**SEVERAL}
    path = several(folder / "rows", count=4, size=(3, 3), formats=("tfrecord",), fields=fields)
    data = open_dataset(path)
    for times in (1, 2):
        transform = v2.Compose([v2.Identity(), *[v2.SanitizeBoundingBoxes(min_size=2)] * times])
        stream = data.stream(batch_size=4, shuffle="none", fields=(*IMAGES, *LISTS), image=transform)
        batch = stream.batch(0, 0)
        assert np.array_equal(batch["mask"], batch["image"][..., 0])
        assert [len(names) for names in batch["objects/name"]] != [0, 1, 2, 3]  # some boxes are dropped


@pytest.mark.parametrize("format", ["pascal_voc", "albumentations", "coco", "yolo"])
@pytest.mark.parametrize("points", ["xy", "yx", "xya", "xys", "xyas", "xysa", "xyz"])
@pytest.mark.parametrize("labels", [None, ["one", "two"]], ids=["plain", "labels"])
def test_every_format_of_albumentations_gives_the_same(data: Any, format: str, points: str, labels: Any) -> None:
    def batch(boxes: str, points: str, labels: Any) -> Any:
        transform = A.Compose(
            [A.Crop(3, 2, 40, 36), A.HorizontalFlip(p=1)],
            bbox_params=A.BboxParams(boxes, label_fields=labels),
            keypoint_params=A.KeypointParams(points, remove_invisible=False, label_fields=labels and ["three"]),
        )
        return data.stream(batch_size=4, shuffle="none", fields=("image", *LISTS), image=transform).batch(0, 0)

    expected, found = batch("pascal_voc", "xy", None), batch(format, points, labels)
    assert [list(names) for names in found["objects/name"]] == [list(names) for names in expected["objects/name"]]
    for name in ("objects/bbox", "objects/keypoints"):
        for one, other in zip(found[name], expected[name], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("format", ["pascal_voc", "albumentations", "coco", "yolo"])
@pytest.mark.parametrize("strict", [False, True])
def test_boxes_at_the_border_and_without_an_area_are_no_error(folder: Path, format: str, strict: bool) -> None:
    """Albumentations refuses boxes that are not in the image, and those without an area."""

    def odd(number: int, objects: dict[str, Any]) -> dict[str, Any]:
        boxes = [[0, 0, 1, 1], [0.2, 0.2, 0.2, 0.5], [-0.1, 0.3, 0.4, 1.2], [1 / 3, 2 / 3, 2 / 3, np.nextafter(1, 2)]]
        keypoints = np.full((4, 3, 3), [1.5, -0.5, 1], np.float32)
        return {
            "objects/bbox": np.float32(boxes),
            "objects/label": np.arange(4),
            "objects/name": list("abcd"),
            "objects/keypoints": keypoints,
        }

    path = folder / "odd"
    if not path.exists():
        _several_with(path, dict(SEVERAL), odd)
    declared = A.BboxParams(format, label_fields=["rows"])
    of_albumentations = A.Compose([A.HorizontalFlip(p=1)], bbox_params=declared, keypoint_params=POINTS, strict=strict)
    for transform in (of_albumentations, v2.RandomHorizontalFlip(1), [Flip(1)]):
        stream = open_dataset(path).stream(batch_size=4, fields=FIELDS, image=transform)
        batch = stream.batch(0, 0)
        for number in range(4):
            assert list(batch["objects/name"][number]) == [b"a", b"c", b"d"]
            expected = [[0, 0, 1, 1], [0, 0, 0.4, 0.7], [1 / 3, 0, 2 / 3, 1 / 3]]
            np.testing.assert_allclose(batch["objects/bbox"][number], expected, atol=1e-6)
            np.testing.assert_allclose(batch["objects/keypoints"][number], np.full((3, 3, 3), [1.5, 1.5, 1]), atol=1e-5)


def test_a_single_transform_of_albumentations_moves_masks(data: Any) -> None:
    for transform in (A.HorizontalFlip(p=1), A.OneOf([A.HorizontalFlip(p=1)], p=1)):
        batch = data.stream(batch_size=1, shuffle="none", fields=IMAGES, image=transform).batch(0, 0)
        assert np.array_equal(batch["image"][0], data.image(0)[:, ::-1])
        assert np.array_equal(batch["mask"][0], data.image(0, "mask")[:, ::-1])


def test_converted_boxes_come_back(data: Any) -> None:
    options: dict[str, Any] = {"batch_size": 4, "fields": ("image", *LISTS), "seed": 1}
    plain = data.stream(image=v2.Compose([v2.CenterCrop(30)]), **options).batch(0, 0)
    for step in (v2.ConvertBoundingBoxFormat("CXCYWH"), v2.ToPureTensor(), v2.ToPILImage()):
        found = data.stream(image=v2.Compose([v2.CenterCrop(30), step]), **options).batch(0, 0)
        for one, other in zip(found["objects/bbox"], plain["objects/bbox"], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("transform", "growth"),
    [
        (v2.Resize((80, 20)), 1.0),
        (v2.Resize((80, 80)), 4.0),
        (A.Compose([A.Resize(80, 80)], bbox_params=BOXES), 4.0),
        (A.Compose([A.Resize(80, 80)], bbox_params=BOXES, keypoint_params=POINTS), 4.0),
    ],
    ids=["stretched", "larger", "A by boxes", "A by points"],
)
def test_areas_grow_with_the_image(folder: Path, transform: Any, growth: float) -> None:
    path = folder / "areas"
    if not path.exists():
        fields = {name: field for name, field in SEVERAL.items() if name != "objects/keypoints"}
        fields["objects/area"] = Field(dtype="float32", shape=(None,))
        _several_with(path, fields, _areas)
    data = open_dataset(path)
    fields_ = ("image", "objects/bbox", "objects/area")
    batch = data.stream(batch_size=4, shuffle="none", fields=fields_, image=transform).batch(0, 0)
    for number in range(4):
        np.testing.assert_allclose(batch["objects/area"][number], data[number]["objects/area"] * growth, rtol=1e-3)


def _areas(number: int, objects: dict[str, Any]) -> dict[str, Any]:
    """Half of the boxes, in pixels."""
    boxes = objects["objects/bbox"].astype(float)
    return {"objects/area": (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * 1600 / 2).astype(np.float32)}


def _several_with(path: Path, fields: dict[str, Field], more: Callable[[int, dict[str, Any]], dict[str, Any]]) -> None:
    """The records of `several` of 40x40 pixels, with more fields."""
    made = stored.several_objects
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "several_objects", lambda number: made(number) | more(number, made(number)))
        several(path, count=4, size=(40, 40), formats=("tfrecord",), fields=fields)


@pytest.mark.parametrize("name", MOVING)
def test_a_loop_gives_the_batches_of_any_order_and_leaves_generators_alone(data: Any, name: str) -> None:
    torch.manual_seed(3)
    before = global_states()
    stream = data.stream(batch_size=5, fields=FIELDS, image=[RandomResizedCrop(40), MOVING[name]], seed=4, threads=2)
    with stream:
        looped = [dict(batch) for batch in stream]
        by_step = [stream.batch(0, step) for step in reversed(range(len(stream)))][::-1]
        assert all(map(same, looped, by_step))
        with data.stream(batch_size=5, fields=FIELDS, image=[RandomResizedCrop(40), MOVING[name]], seed=4) as other:
            other.load_state_dict(stream.state_at(1, 0))
            assert all(map(same, looped[1:], other))
    copy = pickle.loads(pickle.dumps(stream))
    assert same(copy.batch(0, 1), looped[1])
    assert same_states(before, global_states())
    assert not np.array_equal(stream.batch(1, 0)["image"], looped[0]["image"])


def test_records_by_number_are_the_same_each_time(data: Any) -> None:
    stream = data.stream(batch_size=5, fields=FIELDS, image=MOVING["torchvision"], seed=4)
    one, other = stream.take([3, 1, 7]), stream.take([7, 3])
    assert np.array_equal(one["image"][[2, 0]], other["image"]) and np.array_equal(one["mask"][[2, 0]], other["mask"])


def test_lists_may_be_padded(data: Any) -> None:
    stream = data.stream(batch_size=4, fields=("image", *LISTS), image=MOVING["Albumentations"], ragged=3)
    batch = stream.batch(0, 0)
    assert batch["objects/bbox"].shape == (4, 3, 4) and batch["objects/bbox/mask"].dtype == bool


def test_a_transform_of_one_s_own_leaves_a_mask_out_of_the_call(data: Any) -> None:
    own = {"image": v2.CenterCrop(30), "mask": [v2.CenterCrop(20)], "right": [v2.CenterCrop(16)]}
    batch = data.stream(batch_size=4, fields=IMAGES[:3], transform={**own, "mask": v2.CenterCrop(20)}).batch(0, 0)
    assert batch["mask"].shape == (4, 20, 20) and batch["depth"].shape == (4, 30, 30, 1)
    assert np.array_equal(batch["mask"], batch["image"][:, 5:25, 5:25, 0])


def test_a_mask_of_another_size_is_scaled_to_its_image(folder: Path) -> None:
    data = open_dataset(several(folder / "half", count=4, mask_scale=2, formats=("tfrecord",)))
    batch = data.stream(batch_size=4, fields=("image", "mask"), image=v2.CenterCrop(30)).batch(0, 0)
    assert batch["mask"].shape == (4, 30, 30)


def test_a_damaged_mask_is_skipped_with_its_record(folder: Path) -> None:
    path = several(folder / "damaged", count=4, shards=1, formats=("tfrecord",))
    data = open_dataset(path)
    place = data.locate(np.array([0]))
    offset = int(place.columns({"mask": data.fields["mask"]})["mask_offset"][0])
    shard = next(path.glob("*.tfrecord"))
    flip(shard, offset + 9)
    stream = open_dataset(path).stream(
        batch_size=4, shuffle="none", fields=IMAGES, image=v2.CenterCrop(30), on_error="skip"
    )
    batch = stream.batch(0, 0)
    assert batch["weight"].tolist() == [0, 1, 1, 1] and not batch["mask"][0].any() and batch["mask"][1].any()
    assert stream.specs["mask"].shape == (30, 30)


@pytest.mark.parametrize(
    ("transform", "fields", "message"),
    [
        (
            lambda: pytest.importorskip("torchvision.transforms").RandomCrop(9),
            IMAGES,
            "RandomCrop.* transforms images alone here, and 'mask' has to follow: take torchvision.transforms.v2 or",
        ),
        (
            lambda: [v2.CenterCrop(9), Flip()],
            IMAGES,
            "'mask' has to follow: make it the last one, all of them in one Com",
        ),
        (
            lambda: A.Compose([A.NoOp()]),
            LISTS,
            r"has no bbox_params, and 'objects/bbox' has to follow: declare them, as",
        ),
        (
            lambda: A.Compose([A.NoOp()], bbox_params=BOXES),
            ("objects/bbox", "objects/keypoints"),
            "has no keypoint_params, and 'objects/keypoints' has to follow: declare them, as A.Compose",
        ),
        (
            lambda: A.Compose([A.NoOp()], bbox_params=BOXES, keypoint_params=A.KeypointParams("xy")),
            LISTS,
            "drops points that leave the image, and 'objects/keypoints' has .* remove_invisible=False",
        ),
        (lambda: v2.Compose([v2.SanitizeKeyPoints()]), LISTS, "leave SanitizeKeyPoints out"),
        (
            lambda: v2.Compose([v2.ConvertBoundingBoxFormat("XYWH"), v2.ToPureTensor()]),
            LISTS,
            "drops the format of its boxes: leave ConvertBoundingBoxFormat or ToPureTensor out",
        ),
    ],
    ids=["v1", "not last", "no boxes", "no points", "invisible", "sanitized", "format"],
)
def test_a_transform_that_cannot_take_a_record_is_one_line(
    data: Any, transform: Callable[[], Any], fields: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        data.stream(batch_size=4, fields=("image", *fields), image=transform())
    assert "\n" not in str(caught.value)


def test_a_transform_of_colours_may_say_that_pixels_stay(data: Any) -> None:
    jitter = pytest.importorskip("torchvision.transforms").ColorJitter(0.5, 0.5)
    jitter.keeps_places = True
    options: dict[str, Any] = {"batch_size": 4, "seed": 3, "fields": FIELDS}
    crop = [RandomResizedCrop(20), Flip()]
    found = data.stream(image=[jitter, *crop], **options).batch(0, 0)
    plain = data.stream(image=crop, **options).batch(0, 0)
    assert not np.array_equal(found["image"], plain["image"])
    assert same({**found, "image": plain["image"], "right": plain["right"]}, plain)


def test_masks_without_their_image_are_one_line(data: Any) -> None:
    with pytest.raises(
        ValueError, match=r"takes 'mask' together with the image: fields=\['image', 'mask'\] gives both"
    ):
        data.stream(batch_size=4, fields=("mask",), image=v2.CenterCrop(9))


def test_an_error_of_a_library_names_the_record(data: Any) -> None:
    stream = data.stream(batch_size=4, shuffle="none", fields=IMAGES, image=v2.CenterCrop((44, 44)))
    assert stream.batch(0, 0)["mask"].shape == (4, 44, 44)  # torchvision pads
    stream = data.stream(batch_size=4, shuffle="none", fields=IMAGES, image=v2.Resize(20))
    with pytest.raises(ValueError, match=r"id '2.png': the image 'depth' gives \(21, 20, 1\) uint16, the first"):
        stream.batch(0, 0)
    stream = data.stream(batch_size=4, shuffle="none", fields=("image", *LISTS), image=v2.Compose([_Unlabelled()]))
    with pytest.raises(ValueError, match=r"has 0 boxes and 2 labels after .*SanitizeBoundingBoxes has to drop the lab"):
        stream.batch(0, 0)


class _Unlabelled(v2.Transform):  # type: ignore[misc, name-defined]
    """Drops boxes, and keeps their labels."""

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "boxes": sample["boxes"][:0]}


def test_two_fields_of_boxes_move_in_one_call(folder: Path) -> None:
    """Boxes of objects are dropped; those of another field lose their area."""

    def faces(number: int, objects: dict[str, Any]) -> dict[str, Any]:
        return {"faces": np.float32([[0, 0, 0.25, 0.25], [0.5, 0.5, 1, 0.75]])}

    path = folder / "faces"
    _several_with(path, {**SEVERAL, "faces": SEVERAL["objects/bbox"]}, faces)
    transform = v2.Compose([v2.CenterCrop(20), v2.RandomHorizontalFlip(1), v2.SanitizeBoundingBoxes()])
    batch, expected = (
        open_dataset(path).stream(batch_size=4, shuffle="none", fields=names, image=transform).batch(0, 0)
        for names in (("image", "objects/bbox", "faces"), ("image", *LISTS))
    )
    for number in range(4):
        assert np.array_equal(batch["objects/bbox"][number], expected["objects/bbox"][number])
        np.testing.assert_allclose(batch["faces"][number], [[0, 0, 0, 0], [0.5, 0, 1, 0.5]], atol=1e-6)
