"""Reports about records with several images, boxes and keypoints."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.browser import Browser, checked, chromium
from support.several import SEVERAL, several_images, several_record
from support.stored import write_manifest

from beam_jobs.metadata.pictures import coloured
from beam_jobs.report.reading import previews as previews_module
from beam_jobs.report.reading.choice import Place
from beam_jobs.report.reading.layers import boxes_of, further_of, mask_of, points_of
from beam_jobs.report.reading.pictures import Picture, picture_of
from beam_jobs.report.reading.previews import Previews
from beam_jobs.report.report import make_report
from beam_jobs.shards.write import store
from shard_reader import open_dataset
from shard_reader.format import Field, shard_name


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return several_images(tmp_path_factory.mktemp("several") / "data")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def pixels_of(picture: Picture) -> np.ndarray:
    data = base64.b64decode(picture.uri.partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))


def test_a_mask_lies_over_the_picture_in_colours_without_loss(several: Path) -> None:
    data = open_dataset(several)
    picture = picture_of(data.image(0))
    mask = mask_of(data, 0, picture)
    assert mask is not None and mask.name == "mask"
    assert (mask.picture.width, mask.picture.height) == (picture.width, picture.height) == (64, 48)
    shown, expected = pixels_of(mask.picture), coloured(data.image(0, "mask"))
    assert np.array_equal(shown[..., 3], expected[..., 3])
    assert np.array_equal(shown[shown[..., 3] > 0], expected[expected[..., 3] > 0])
    assert [number for number, _ in mask.numbers] == [2, 1, 255] and mask.numbers[2][1] == "#ffffff"


def test_further_images_are_beside_the_picture(several: Path) -> None:
    found = {one.name: one for one in further_of(open_dataset(several), 1)}
    assert list(found) == ["instances", "depth", "right"]
    assert found["depth"].note == "16 bits shown as 8" and found["right"].note == ""
    right = found["right"].picture
    assert right is not None and (right.width, right.height) == (64, 49)


def test_keypoints_outside_of_the_image_are_not_drawn() -> None:
    values = several_record(0, 48, 64)[0]
    found = points_of(values, SEVERAL)
    assert [point[:2] for point in found] == [(500, 500), (375, 375), (750, 750), (800, 700)]
    assert [point.is_hidden for point in found] == [False, True, False, False]
    assert [point.number for point in found] == [0, 0, 1, 1]
    boxes = boxes_of(values, SEVERAL, ("cat", "dog"))
    assert [box.name for box in boxes] == ["cat", "dog"] and boxes[0][:4] == (250, 250, 250, 250)
    earlier = {"objects/bbox": Field(dtype="float32", shape=(None, 4))}  # of a dataset before fields had roles
    assert boxes_of(values, earlier, None) == tuple(box._replace(name=str(box.number)) for box in boxes)
    many = np.tile(np.array([[[0.5, 0.5, 2]] * 3], np.float32), (10_000, 1, 1))
    assert len(points_of({"objects/keypoints": many}, SEVERAL)) == 400


def test_an_image_that_is_too_large_or_damaged_has_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset(several_images(tmp_path / "data", 1))
    monkeypatch.setattr("beam_jobs.report.reading.layers._MOST_PIXELS", 100)
    assert mask_of(data, 0, picture_of(data.image(0))) is None
    assert {one.note for one in further_of(data, 0)} == {"it is larger than a report shows"}
    monkeypatch.undo()
    path = tmp_path / "broken"
    path.mkdir()
    record = several_record(0, 48, 64)[0]
    for name in ("mask", "depth"):
        record[name] = record[name][:60] + b"\0" * 40
    shard = store([record], {"tfrecord": path / shard_name("train", 0, 1, "tfrecord")}, SEVERAL)
    data = open_dataset(write_manifest(path, SEVERAL, [shard], formats=["tfrecord"], class_names=("cat", "dog")))
    assert mask_of(data, 0, picture_of(data.image(0))) is None
    assert [(one.name, one.note) for one in further_of(data, 0)][1] == ("depth", "cannot be read")
    (preview,) = Previews([data], []).of([Place(0, 0)])
    assert preview.picture is not None and preview.mask is None


def test_pictures_have_a_bound_together(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset(several)
    places = [Place(0, number) for number in range(4)]
    whole = Previews([data], []).of(places)[0]
    assert whole.picture is not None and whole.mask is not None and len(whole.further) == 3
    monkeypatch.setattr(previews_module, "_MOST_BYTES", len(whole.picture.uri) + len(whole.mask.picture.uri))
    few = Previews([data], [])
    shown = few.of(places)
    assert shown[0].mask is not None and shown[0].further[1].note == "left out, for want of room"
    assert few.left_out > 0 and shown[3].picture is None and shown[3].mask is None


def test_a_report_counts_records_without_a_value(several: Path) -> None:
    text = make_report(str(several)).html.decode()
    assert re.search(r"<dt>Without a value</dt><dd>audio in 1 record</dd>", text)
    assert "mask (uint8 [*, *, 1], png, mask)" in text and "keypoints (float32 [*, 3, 3], keypoints)" in text
    assert text.count('class="over"') == text.count('alt="mask of ') >= 4


def test_names_of_fields_are_text(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    name = '"><script>alert(1)</script>'
    fields = {new: field for old, field in SEVERAL.items() if (new := name if old == "mask" else old)}
    fields[f"{name}2"] = replace(SEVERAL["depth"], role="photo")
    record = several_record(0, 48, 64)[0]
    record |= {name: record["mask"], f"{name}2": record["depth"]}
    shard = store([record], {"tfrecord": path / shard_name("train", 0, 1, "tfrecord")}, fields)
    write_manifest(path, fields, [shard], formats=["tfrecord"], class_names=("cat", "dog"))
    text = make_report(str(path)).html.decode()
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert Field(dtype="bytes").is_payload


@pytest.mark.slow
def test_it_is_read_in_a_browser(several: Path, tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "report.html").write_bytes(make_report(str(several)).html)
    page = checked(browser, tmp_path / "report.html")
    assert page.locator("#gallery .over").count() == 4 and page.locator("#gallery circle").count() == 16
    image, over = (page.locator(f"#gallery .frame {kind}").first.bounding_box() for kind in ("img", ".over"))
    assert image == over
    point = page.locator("#gallery circle:not(.hidden)").first.bounding_box()
    centre = (point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    # The first one is that of the middle of the image, which is in the middle of its frame.
    assert centre == pytest.approx((image["x"] + image["width"] / 2, image["y"] + image["height"] / 2), abs=1)
