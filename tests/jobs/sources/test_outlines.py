"""Outlines and keypoints of objects: the same ones in every format, and those that cannot be used."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import prepared
from support.images import write_image
from support.sources import Found, refusal

from beam_jobs.sources import Reference
from beam_jobs.sources.detection.coco import Coco
from beam_jobs.sources.detection.ndjson import Ndjson
from beam_jobs.sources.detection.voc import Voc
from beam_jobs.sources.detection.yolo import Yolo
from beam_jobs.sources.files.annotations.keypoints import flip_pairs
from beam_jobs.sources.files.interface import BadInput, SourceOptions
from shard_reader import open_dataset

WIDTH, HEIGHT = 40, 20
SQUARE, TRIANGLE = [4, 4, 14, 4, 14, 14, 4, 14], [20, 2, 36, 2, 28, 18]
POINTS = [[5, 5, 2], [9, 5, 1], [0, 0, 0]]
NAMES = ["left_eye", "right_eye", "nose"]


def coco(folder: Path, *annotations: dict[str, Any], categories: Any = None, **image: Any) -> Path:
    """A file with an image of 40x20 pixels and some annotations, which get ids and boxes."""
    one = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT} | image
    items = [{"id": n, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]} | a for n, a in enumerate(annotations, 1)]
    categories = categories or [{"id": 1, "name": "cat", "keypoints": NAMES}, {"id": 2, "name": "dog"}]
    folder.mkdir(exist_ok=True)
    (folder / "i.json").write_text(json.dumps({"images": [one], "annotations": items, "categories": categories}))
    return folder / "i.json"


def found(path: Path, **options: Any) -> Found:
    return Found(Coco(SourceOptions(input=str(path), **options)))


def relative(numbers: list[int]) -> list[float]:
    return [value / (WIDTH, HEIGHT)[place % 2] for place, value in enumerate(numbers)]


def as_coco(into: Path) -> Path:
    one = {"category_id": 1, "bbox": [4, 4, 10, 10], "segmentation": [SQUARE]}
    return coco(into, one, {"category_id": 2, "bbox": [20, 2, 16, 16], "segmentation": [TRIANGLE]})


def as_yolo(into: Path) -> Path:
    rows = [[0, *relative(SQUARE)], [1, *relative(TRIANGLE)]]
    (into / "labels").mkdir(parents=True)
    (into / "labels/a.txt").write_text("".join(" ".join(map(repr, row)) + "\n" for row in rows))
    (into / "images").mkdir()
    write_image(into / "images/a.png", size=(WIDTH, HEIGHT))
    (into / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    return into


def as_ndjson(into: Path) -> Path:
    rows = [[0, *relative(SQUARE)], [1, *relative(TRIANGLE)]]
    header = {"type": "dataset", "task": "segment", "class_names": {"0": "cat", "1": "dog"}}
    line = {"type": "image", "file": "a.png", "width": WIDTH, "height": HEIGHT, "annotations": {"segments": rows}}
    into.mkdir()
    (into / "a.ndjson").write_text(json.dumps(header) + "\n" + json.dumps(line) + "\n")
    return into / "a.ndjson"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["mask", "instances", "rle", "polygons"])
def test_the_same_outlines_in_every_format(form: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", size=(WIDTH, HEIGHT))
    records = []
    for make in (as_coco, as_yolo, as_ndjson):
        place = make(tmp_path / make.__name__)
        root = ["--root", tmp_path] if make is not as_yolo else []
        output = prepared(place, tmp_path / f"out-{make.__name__}", *root, "--segments", form, "--fit", "none")
        record = open_dataset(output)[0]
        records.append(record[form] if form in record else record["objects/segmentation"])
    if form in ("mask", "instances"):
        assert records[0].shape == (HEIGHT, WIDTH) and set(np.unique(records[0])) == {0, 1, 2}
        assert records[0][9, 9] == 1 and records[0][5, 28] == 2 and records[0][0, 0] == 0
    for other in records[1:]:
        assert np.array_equal(records[0], other)


OUTLINES: dict[str, tuple[Any, Any]] = {
    "polygons": ([SQUARE, TRIANGLE], [SQUARE, TRIANGLE]),
    "a polygon without an area": ([SQUARE, [1, 2, 3, 4]], [SQUARE]),
    "counts": ({"size": [HEIGHT, WIDTH], "counts": [800]}, {"size": [HEIGHT, WIDTH], "counts": [800]}),
    "a text": ({"size": [HEIGHT, WIDTH], "counts": "PY1"}, {"size": [HEIGHT, WIDTH], "counts": "PY1"}),
}


@pytest.mark.parametrize(("value", "expected"), OUTLINES.values(), ids=OUTLINES)
def test_outlines_of_coco(value: Any, expected: Any, tmp_path: Path) -> None:
    listing = found(coco(tmp_path, {"segmentation": value}, {"id": 0, "category_id": 2}), segments="rle")
    assert listing.layout.segments == "rle"
    assert listing.entries["a.png"].payloads == {"segments": [[], expected]}  # in the order of ids, as the boxes
    assert any("1 object without an outline" in warning for warning in listing.layout.warnings)


BAD = {
    "a text": ("PY1", "the outline 'PY1' is neither a list of polygons nor an RLE"),
    "one flat polygon": (SQUARE, "is neither a list of polygons nor an RLE"),
    "an odd number": ([[1, 2, 3, 4, 5, 6, 7]], "a polygon has 7 numbers: expected x and y of each point"),
    "NaN": ([[1, 2, 3, 4, 5, None]], "a polygon has None, which is no number"),
    "a text in it": ([[1, 2, 3, 4, 5, "6"]], "a polygon has '6', which is no number"),
    "another size": ({"size": [WIDTH, HEIGHT], "counts": [800]}, "an RLE is of 20x40 pixels, and the image of 40x20"),
    "no size": ({"counts": [800]}, "an RLE has the size None: expected height and width"),
    "a wrong size": ({"size": [0, -1], "counts": [800]}, "an RLE has the size [0, -1]"),
    "no counts": ({"size": [HEIGHT, WIDTH], "counts": 7}, "an RLE has the counts 7: expected a list or a text"),
    "too many points": ([[0] * 1_100_000], "the outlines of the image have more than 1,048,576 numbers"),
}


@pytest.mark.parametrize(("value", "message"), BAD.values(), ids=BAD)
def test_an_outline_that_cannot_be_used_rejects_its_image(value: Any, message: str, tmp_path: Path) -> None:
    path = coco(tmp_path, {"segmentation": value})
    whole = json.loads(path.read_text())
    whole["images"].append({"id": 2, "file_name": "b.png"})
    path.write_text(json.dumps(whole))
    reason, text = found(path, segments="mask", root=str(tmp_path)).rejects["a.png"]
    assert reason == "bad-segment" and text.startswith("i.json: image 1: annotation 1: ") and message in text


def test_outlines_of_an_image_have_a_bound_together(tmp_path: Path) -> None:
    path = coco(tmp_path, *({"segmentation": [[0] * 400_000]} for _ in range(3)))
    (_, message) = found_rejects(path, segments="mask")["a.png"]
    assert "annotation 3: the outlines of the image have more than 1,048,576 numbers" in message


def found_rejects(path: Path, **options: Any) -> dict[str, tuple[str, str]]:
    whole = json.loads(path.read_text())
    whole["images"].append({"id": 2, "file_name": "b.png"})
    path.write_text(json.dumps(whole))
    rejects: dict[str, tuple[str, str]] = found(path, **options).rejects
    return rejects


def test_without_the_option_outlines_are_named(tmp_path: Path) -> None:
    listing = found(coco(tmp_path, {"segmentation": [SQUARE]}))
    (left_out,) = listing.layout.left_out
    assert (left_out.what, left_out.why) == (
        "segmentation of annotations",
        "--segments stores them: as mask, instances, rle or polygons",
    )
    assert not listing.entries["a.png"].payloads


def test_objects_without_any_outline_are_refused(tmp_path: Path) -> None:
    message = "--segments mask: no object has an outline; leave it out"
    assert refusal(Coco, coco(tmp_path, {}), segments="mask") == message
    place = as_yolo(tmp_path / "yolo")
    (place / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert refusal(Yolo, place, segments="mask") == message


def test_keypoints_of_coco(tmp_path: Path) -> None:
    flat = [value for point in POINTS for value in point]
    listing = found(coco(tmp_path, {"keypoints": flat, "num_keypoints": 2}, {"category_id": 2}))
    assert listing.entries["a.png"].fields["objects/keypoints"] == [POINTS, [[0, 0, 0]] * 3]
    field = listing.layout.fields["objects/keypoints"]
    assert (field.shape, field.role, field.names, field.flip_pairs) == (
        (None, 3, 3),
        "keypoints",
        tuple(NAMES),
        ((0, 1),),
    )
    assert listing.layout.points == {"objects/keypoints": "xy"} and not listing.layout.left_out


def test_keypoints_without_names_are_of_one_number(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    one, other = {"keypoints": [1, 2, 2, 3, 4, 1]}, {"keypoints": [1, 2, 2]}
    field = found(coco(tmp_path / "a", one, categories=categories)).layout.fields["objects/keypoints"]
    assert (field.shape, field.names, field.flip_pairs) == ((None, 2, 3), (), ())
    layout = found(coco(tmp_path / "b", one, other, categories=categories)).layout
    assert "objects/keypoints" not in layout.fields
    assert [one.what for one in layout.left_out] == ["keypoints of annotations"]


def test_keypoints_of_several_lists_are_named(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "cat", "keypoints": NAMES}, {"id": 2, "name": "hand", "keypoints": ["thumb"]}]
    layout = found(coco(tmp_path / "a", {"keypoints": [1, 2, 2] * 3}, categories=categories)).layout
    (left_out,) = layout.left_out
    assert left_out.why.startswith("cat and hand have other keypoints")
    categories[1]["keypoints"] = NAMES
    layout = found(coco(tmp_path / "b", {"keypoints": [1, 2, 2] * 3}, categories=categories)).layout
    assert layout.fields["objects/keypoints"].names == tuple(NAMES)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([1, 2, 2], "annotation 1 has the keypoints 3 numbers: expected x, y, visibility of 3 points"),
        ([1, 2, 2] * 2 + [1, 2, 7], "annotation 1 keypoint 2 has the visibility 7: expected 0, 1 or 2"),
        ([1, 2, 2] * 2 + [None, 2, 1], "annotation 1 keypoint 2 has None, which is no number"),
        ([1, 2, 2] * 4000, "annotation 1 has the keypoints 3,001 numbers"),
        ("nose", "annotation 1 has the keypoints 'nose'"),
    ],
)
def test_keypoints_that_cannot_be_used_reject_their_image(points: Any, message: str, tmp_path: Path) -> None:
    good = {"keypoints": [1, 2, 2] * 3, "image_id": 2}
    reason, text = found_rejects(coco(tmp_path, {"keypoints": points}, good))["a.png"]
    assert reason == "bad-keypoints" and message in text


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["nose", "left_eye", "right_eye"], ((1, 2),)),
        (["R_hip", "L_hip"], ((1, 0),)),
        (["eye.l", "eye.r", "lip", "rip"], ((0, 1),)),
        (["rightKnee", "leftKnee"], ((1, 0),)),
        (["left_paw", "tail"], ()),
    ],
)
def test_pairs_by_their_names(names: list[str], pairs: tuple[tuple[int, int], ...]) -> None:
    assert flip_pairs(names) == pairs


POSE = """train: images
names: [cat]
kpt_shape: [3, {}]
flip_idx: [1, 0, 2]
kpt_names: {{0: [left_eye, right_eye, nose]}}
"""


@pytest.mark.parametrize("dimensions", [2, 3])
def test_poses_of_yolo(dimensions: int, tmp_path: Path) -> None:
    points = [value / side for x, y, _ in POINTS for value, side in ((x, WIDTH), (y, HEIGHT))]
    if dimensions == 3:
        points = [v for (x, y, seen) in POINTS for v in (x / WIDTH, y / HEIGHT, seen)]
    place = as_yolo(tmp_path / "yolo")
    (place / "data.yaml").write_text(POSE.format(dimensions))
    (place / "labels/a.txt").write_text(f"0 0.5 0.5 0.25 0.5 {' '.join(map(repr, points))}\n0 0.5 0.5 0.25 0.5\n")
    listing = Found(Yolo(SourceOptions(input=str(place))))
    seen = [2, 1, 0] if dimensions == 3 else [2, 2, 0]  # of two numbers, a point is labelled or not
    expected = [[x / WIDTH, y / HEIGHT, v] if v else [0, 0, 0] for (x, y, _), v in zip(POINTS, seen, strict=True)]
    (entry,) = listing.entries.values()
    assert entry.fields["objects/keypoints"] == [expected, [[0, 0, 0]] * 3]
    field = listing.layout.fields["objects/keypoints"]
    assert (field.shape, field.names, field.flip_pairs) == ((None, 3, 3), tuple(NAMES), ((0, 1),))
    assert listing.layout.points == {"objects/keypoints": "rel-xy"} and not listing.layout.left_out


def test_poses_of_ndjson(tmp_path: Path) -> None:
    path = as_ndjson(tmp_path / "ndjson")
    header = {"type": "dataset", "task": "pose", "class_names": ["cat"], "kpt_shape": [1, 3], "flip_idx": [0]}
    line = {"type": "image", "file": "a.png", "annotations": {"pose": [[0, 0.5, 0.5, 0.2, 0.2, 0.25, 0.75, 1]]}}
    path.write_text(json.dumps(header) + "\n" + json.dumps(line) + "\n")
    listing = Found(Ndjson(SourceOptions(input=str(path))))
    assert listing.entries["a.png"].fields["objects/keypoints"] == [[[0.25, 0.75, 1.0]]]
    assert not listing.layout.left_out


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("kpt_shape: [3, 4]", "kpt_shape is ['3', '4']: expected the number of keypoints"),
        ("kpt_shape: [5000, 3]", "expected the number of keypoints, up to 1,000"),
        ("kpt_shape: 17", "kpt_shape is '17': expected"),
        ("kpt_shape: [2, 3]\nflip_idx: [1, 1]", "flip_idx is ['1', '1']: expected the numbers 0 to 1"),
        ("kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]", "in which pairs have changed places"),
    ],
)
def test_a_wrong_description_of_keypoints_is_refused(yaml: str, message: str, tmp_path: Path) -> None:
    place = as_yolo(tmp_path / "yolo")
    (place / "data.yaml").write_text(f"train: images\nnames: [cat, dog]\n{yaml}\n")
    assert message in refusal(Yolo, place)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0.1 0.2 2", "has 3 numbers of keypoints: expected 3 points of 3, as kpt_shape says"),
        ("0.1 0.2 2 0.1 0.2 2 9 0.2 2", "keypoint 2 has 9: coordinates are parts of the image"),
        ("0.1 0.2 2 0.1 0.2 2 nan 0.2 2", "keypoint 2 has nan, which is no number"),
    ],
)
def test_poses_that_cannot_be_used_reject_their_image(row: str, message: str, tmp_path: Path) -> None:
    place = as_yolo(tmp_path / "yolo")
    (place / "data.yaml").write_text(POSE.format(3))
    (place / "labels/a.txt").write_text(f"0 0.5 0.5 0.25 0.5 {row}\n")
    write_image(place / "images/b.png")
    (reject,) = Found(Yolo(SourceOptions(input=str(place)))).rejects.values()
    assert reject[0] == "bad-keypoints" and reject[1].startswith("labels/a.txt line 1: ") and message in reject[1]


def panoptic(folder: Path, pixels: Any, segments: list[dict[str, Any]], **changed: Any) -> Path:
    """A panoptic file with one image, and its mask."""
    path = coco(folder)
    whole = json.loads(path.read_text())
    infos = [{"id": n, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 0, "area": 9} | one
             for n, one in enumerate(segments, 1)]  # fmt: skip
    whole["annotations"] = [{"image_id": 1, "file_name": "a.png", "segments_info": infos} | changed]
    (folder / "panoptic_a.json").write_text(json.dumps(whole))
    (folder / "panoptic_a").mkdir()
    colours = np.stack([np.asarray(pixels) % 256, np.asarray(pixels) // 256 % 256, np.asarray(pixels) // 65_536], 2)
    Image.fromarray(colours.astype(np.uint8)).save(folder / "panoptic_a/a.png")
    return folder / "panoptic_a.json"


def read_mask(path: Path, form: str) -> tuple[Found, Any]:
    options = SourceOptions(input=str(path), segments=form)
    listing = Found(Coco(options))
    entry = listing.entries["a.png"]
    payloads = json.loads(json.dumps(entry.payloads))
    return listing, Coco(options).read_payload(
        Reference("a.png", -1, entry.place, frame=entry.frame, payloads=payloads), form
    )


def test_panoptic_masks(tmp_path: Path) -> None:
    numbers = np.zeros((HEIGHT, WIDTH), np.int64)
    numbers[:5], numbers[5:9], numbers[9:12] = 70_000, 300, 5
    segments = [{"id": 300, "category_id": 2}, {"id": 70_000, "category_id": 1}, {"id": 5, "category_id": 2}]
    path = panoptic(tmp_path, numbers, segments)
    listing, mask = read_mask(path, "mask")
    assert listing.layout.payloads == {"mask": "mask"} and listing.layout.segments is None
    assert listing.entries["a.png"].fields["objects/id"] == [5, 300, 70_000]
    assert [mask[row, 0] for row in (0, 5, 9, 12)] == [1, 2, 2, 0]
    listing, mask = read_mask(path, "instances")
    assert listing.entries["a.png"].fields["objects/instance"] == [1, 2, 3]
    assert [mask[row, 0] for row in (0, 5, 9, 12)] == [3, 2, 1, 0]
    assert "1 image with 3 objects in 2 classes" in listing.text


def test_panoptic_masks_that_nobody_asks_for_are_named(tmp_path: Path) -> None:
    layout = found(panoptic(tmp_path, np.zeros((HEIGHT, WIDTH)), [])).layout
    (left_out,) = layout.left_out
    assert left_out.why == "--segments stores them: as mask (of classes) or instances" and not layout.payloads


def test_panoptic_masks_are_no_texts(tmp_path: Path) -> None:
    message = refusal(Coco, panoptic(tmp_path, np.zeros((HEIGHT, WIDTH)), []), segments="rle")
    assert message == "--segments rle: INPUT has panoptic masks; give mask or instances"


def test_a_panoptic_mask_with_an_unknown_segment_is_a_reject(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has the segment 9, which segments_info does not name"):
        read_mask(panoptic(tmp_path, np.full((HEIGHT, WIDTH), 9), [{"id": 5}]), "mask")


def test_a_panoptic_mask_of_another_size_is_not_unpacked(tmp_path: Path) -> None:
    path = panoptic(tmp_path, np.zeros((HEIGHT, WIDTH)), [])
    with io.BytesIO() as file:
        Image.new("RGB", (1, 1)).save(file, "PNG")
        data = bytearray(file.getvalue())
    data[16:24] = (60_000).to_bytes(4) * 2  # the size in the header, whose CRC is then wrong, too
    (tmp_path / "panoptic_a/a.png").write_bytes(data)
    with pytest.raises(BadInput) as caught:
        read_mask(path, "mask")
    assert caught.value.reason == "bad-mask"


@pytest.mark.parametrize(
    ("segments", "changed", "reason", "message"),
    [
        ([{"id": 0}], {}, "bad-annotation", "a segment has an id that no colour has"),
        ([{"category_id": 9}], {}, "unknown-category", "is of the category 9"),
        ([], {"file_name": None}, "bad-annotation", "has no file_name of its mask"),
        ([], {"segments_info": [7]}, "bad-annotation", "has segments_info that are no objects"),
        ([], {"file_name": "/etc/passwd"}, "outside", "leads out of --below"),
        ([], {"file_name": "../../x.png"}, "outside", "leads out of --below"),
    ],
)
def test_panoptic_annotations_that_cannot_be_used(
    segments: list[dict[str, Any]], changed: dict[str, Any], reason: str, message: str, tmp_path: Path
) -> None:
    path = panoptic(tmp_path, np.zeros((HEIGHT, WIDTH)), segments, **changed)
    found_reason, text = found_rejects(path, segments="mask", below=str(tmp_path))["a.png"]
    assert found_reason == reason and message in text


def voc(folder: Path, *, sets: bool = True) -> Path:
    files = {f"JPEGImages/{n}.jpg": b"jpg" for n in (1, 2, 3)}
    files |= {f"Annotations/{n}.xml": b"<annotation/>" for n in (1, 2, 3)}
    files |= {
        "SegmentationClass/1.png": b"class",
        "SegmentationObject/1.png": b"object",
        "ImageSets/Main/train.txt": b"",
    }
    if sets:
        files["ImageSets/Main/train.txt"] = b"1\n2\n3\n"
        files["ImageSets/Segmentation/train.txt"] = b"1\n2\n"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(("form", "data"), [("mask", b"class"), ("instances", b"object")])
def test_masks_of_voc(form: str, data: bytes, tmp_path: Path) -> None:
    options = SourceOptions(input=str(voc(tmp_path)), segments=form)
    listing = Found(Voc(options))
    assert listing.layout.payloads == {form: "mask"}
    assert sorted(listing.entries) == ["1.jpg", "2.jpg"]  # of the sets of images with masks
    assert not listing.entries["2.jpg"].payloads
    entry = listing.entries["1.jpg"]
    reference = Reference("1.jpg", entry.size, entry.place, payloads=entry.payloads)
    assert Voc(options).read_payload(reference, form) == data
    assert ("objects/instance" in entry.fields) == (form == "instances")


def test_masks_of_voc_that_nobody_asks_for_are_named(tmp_path: Path) -> None:
    listing = Found(Voc(SourceOptions(input=str(voc(tmp_path)))))
    (left_out,) = listing.layout.left_out
    assert left_out.what == "SegmentationClass, SegmentationObject"
    assert left_out.why == "--segments mask or instances stores them"


def test_masks_of_voc_are_no_texts_and_have_their_folder(tmp_path: Path) -> None:
    assert refusal(Voc, voc(tmp_path), segments="rle").endswith("Pascal VOC has masks; give mask or instances")
    (tmp_path / "SegmentationClass").rename(tmp_path / "Masks")
    message = "INPUT: has no folder SegmentationClass, which --segments mask reads"
    assert refusal(Voc, tmp_path, segments="mask") == message
