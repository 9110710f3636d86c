"""Datasets in a notebook and in a terminal: pictures, or the reason why there are none, and nothing that runs."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image
from support.command import REPOSITORY, prepared
from support.remote_data import write_dataset
from support.stored import FIELDS, dataset, flip, record, write_manifest

from beam_jobs.shards.write import store
from shard_reader import CorruptionError, Dataset, StoreError, mix, open_dataset
from shard_reader.dataset.shown import display, thumbnails
from shard_reader.format import Field, shard_name

HOSTILE = "\"><script>alert(1)</script>' \x1b[31m\u202e"
TAGS = {"b", "div", "figcaption", "figure", "img", "p", "rect", "span", "svg", "table", "tbody", "td", "th", "thead"}
TAGS |= {"title", "tr"}


class Page(HTMLParser):
    """The tags and pictures of a page, and its text. A tag or an attribute that could run or load is an error."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[Image.Image] = []
        self.text = ""
        self.source = data._repr_html_()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on") and name not in ("href", "srcdoc"), name
            assert "url(" not in (value or "") or name in ("alt", "title")
            if name == "src":
                start, _, content = (value or "").partition(",")
                assert start.startswith("data:image/") and start.endswith(";base64")
                image = Image.open(io.BytesIO(base64.b64decode(content)))
                assert image.get_format_mimetype() == start[5:-7]
                image.load()
                self.pictures.append(image)

    def handle_data(self, data: str) -> None:
        assert data.isprintable()
        self.text += data


def made(
    path: Path, image: Field, records: Sequence[Mapping[str, Any]], names: Sequence[str] = ("a", "b"), **fields: Field
) -> Dataset:
    """A dataset of one shard with images of a type, and with fields beside those of FIELDS."""
    path.mkdir()
    every = {**FIELDS, "image": image, **fields}
    shard = store([dict(one) for one in records], {"tfrecord": path / shard_name("train", 0, 1, "tfrecord")}, every)
    write_manifest(path, every, [shard], formats=["tfrecord"], class_names=tuple(names))
    return open_dataset(path)


def of_pixels(pixels: np.ndarray, number: int = 0, **others: Any) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    sizes = {"height": height, "width": width}
    return {**record(f"{number}.png"), "image": pixels.tobytes(), **sizes, **others}


def test_a_dataset_shows_pictures_splits_fields_and_classes(raw_shards: Path) -> None:
    page = Page(open_dataset(raw_shards))
    assert len(page.pictures) == 8 and {image.size for image in page.pictures} == {(16, 12)}
    for text in ("Dataset(", "split", "val", "tfrecord", "hdf5", "content_hash", "12x16x3", "raw", "class", "16"):
        assert text in page.text
    assert page.source == open_dataset(raw_shards)._repr_html_(), "the same each time"


@pytest.mark.slow
def test_photos_are_shown_as_they_are_stored(photos: Path, tmp_path: Path) -> None:
    for path in sorted(photos.rglob("*.jpg"))[:12]:
        target = tmp_path / "in" / path.relative_to(photos)
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
    data = open_dataset(prepared(tmp_path / "in", tmp_path / "shards", "--size", 128))
    shown = data.show(5, seed=1)
    page = Page(shown)
    assert len(page.source) < 5 * 90_000 and len(page.pictures) == 5
    for one, picture in zip(shown.records, page.pictures, strict=True):
        assert one.id == data[one.number]["id"] and one.label == data.class_names[data[one.number]["label"]]
        assert picture.size == (one.width, one.height) == data.image(one.number).shape[1::-1]
        assert f"{one.number} {one.label}" in page.text
    assert [one.number for one in shown.records] == sorted({one.number for one in shown.records})
    assert data.show(5, seed=2).records != shown.records == data.show(5, seed=1).records


def test_a_terminal_shows_a_line_for_each_record(jpeg_shards: Path) -> None:
    data = open_dataset(jpeg_shards)
    first, *lines = repr(data.show(3, where={"label": "b"})).splitlines()
    assert first == f"3 records of Subset(20 records of {data!r}, where label='b'):"
    for line in lines:
        number, label, size, id = line.split()
        assert (label, id) == ("b", data[int(number)]["id"]), "numbers are those of the data that was asked"
        assert size == "x".join(map(str, data.image(int(number)).shape[1::-1]))


def test_all_are_shown_where_there_are_few(raw_shards: Path) -> None:
    some = open_dataset(raw_shards).select([5, 3, 3])
    assert [one.number for one in some.show(200).records] == [0, 1, 2]
    assert [one.id for one in some.show().records] == [some[n]["id"] for n in range(3)]


def test_an_empty_subset_says_so(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    nothing = data.where(label=99)
    assert "no records" in Page(nothing).text and not Page(nothing).pictures
    assert repr(data.show(where={"label": 99})) == f"0 records of Subset(0 records of {data!r}, where label=99):"
    assert nothing.to_pandas().empty


def test_nothing_that_a_dataset_says_becomes_markup(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    data = made(
        tmp_path / "a<b>",
        Field(dtype="uint8", shape=(4, 4, 3), encoding="raw"),
        [of_pixels(pixels, id=f"{n}{HOSTILE}", label=n % 3) for n in range(3)],
        names=(HOSTILE, "x" * 10_000),
    )
    for shown in (Page(data), Page(data.show())):
        assert len(shown.pictures) == 3
        assert "<script>alert(1)</script>" in shown.text and "\\x1b[31m" in shown.text and "\\u202e" in shown.text
        assert "x" * 100 not in shown.text
    assert all(line.isprintable() for line in repr(data.show()).splitlines())


def test_a_damaged_record_shows_its_damage(tmp_path: Path) -> None:
    path = dataset(tmp_path / "a", [record(f"{n}.png") for n in range(4)])
    data = open_dataset(path)
    shard = path / "train-00000-of-00001.tfrecord"
    place = shard.read_bytes().index(b"IDAT")
    data.close()
    flip(shard, place)
    page = Page(open_dataset(path))
    assert len(page.pictures) == 3 and page.text.count("CorruptionError: ") == 1
    assert "the image is damaged (CRC mismatch)" in page.text
    assert "0  a  1x2  0.png  CorruptionError: " in repr(open_dataset(path).show())


def test_a_missing_shard_is_named_in_the_place_of_its_pictures(tmp_path: Path) -> None:
    path = dataset(tmp_path / "a", [record("0.png")], [record("1.png")])
    (path / "train-00001-of-00002.tfrecord").unlink()
    page = Page(open_dataset(path))
    assert len(page.pictures) == 1 and "train-00001-of-00002.tfrecord: is missing" in page.text


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_raw_pixels_are_scaled_to_be_seen(tmp_path: Path, dtype: str, channels: int) -> None:
    ramp = np.linspace(-2, 2, 20 * 30 * channels) if dtype != "uint16" else np.linspace(10, 500, 600 * channels)
    pixels = ramp.reshape(20, 30, channels).astype(dtype)
    if dtype != "uint16":
        pixels[0, 0], pixels[0, 1] = np.nan, np.inf
    field = Field(dtype=dtype, shape=(20, 30, channels), encoding="raw")
    (picture,) = Page(made(tmp_path / "a", field, [of_pixels(pixels)])).pictures
    shown = np.asarray(picture)
    assert picture.size == (30, 20) and picture.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    assert shown.min() < 4 and shown.max() == 255 and 100 < np.median(shown) < 155


@pytest.mark.parametrize(("value", "expected"), [(0.5, 128), (0.0, 0), (1.0, 255), (7.0, 0), (np.nan, 0)])
def test_even_pixels_are_shown_too(tmp_path: Path, value: float, expected: int) -> None:
    """Parts of 1 keep their brightness."""
    pixels = np.full((4, 4, 3), value, np.float32)
    (picture,) = Page(made(tmp_path / "a", Field(dtype="float32", shape=(4, 4, 3), encoding="raw"), [of_pixels(pixels)])
                      ).pictures  # fmt: skip
    assert np.asarray(picture)[0, 0].tolist() == [expected] * 3


def test_png_of_16_bits_and_large_images_become_small(tmp_path: Path) -> None:
    deep = np.linspace(0, 4000, 300 * 200).reshape(200, 300, 1).astype(np.uint16)
    content = io.BytesIO()
    Image.fromarray(deep[..., 0]).save(content, "png")
    field = Field(dtype="uint16", shape=(None, None, 1), encoding="png")
    data = made(tmp_path / "a", field, [of_pixels(deep) | {"image": content.getvalue()}])
    (picture,) = Page(data).pictures
    assert picture.size == (256, 171) and picture.mode == "L" and np.asarray(picture).max() > 250
    noise = np.random.default_rng(0).integers(0, 256, (3000, 40, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "png")
    field = Field(dtype="uint8", shape=(None, None, 3), encoding="png")
    page = Page(made(tmp_path / "b", field, [of_pixels(noise) | {"image": content.getvalue()}]))
    assert page.pictures[0].size == (3, 256) and len(page.source) < 10_000


def test_an_image_that_is_too_large_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dataset(tmp_path / "a", [record("0.png")])
    monkeypatch.setattr(thumbnails, "_MOST_PIXELS", 1)
    assert (
        "1x2 pixels in" in repr(open_dataset(path).show())
        and "too many for a thumbnail" in Page(open_dataset(path)).text
    )


def test_a_header_of_another_size_reaches_no_browser(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(content, "png")
    small = record("0.png") | {"image": content.getvalue(), "height": 2, "width": 1}
    page = Page(open_dataset(dataset(tmp_path / "a", [small])))
    assert not page.pictures and "5000x5000 pixels, not 1x2" in page.text


def test_boxes_lie_on_the_picture(tmp_path: Path) -> None:
    boxes = [[0.25, 0.5, 0.75, 1.0], [np.nan, 0, 1, 1], [-9, 0.2, 99, 0.4], [0.9, 0.1, 0.2, 0.3], [0, 0, np.inf, 1]]
    data = made(
        tmp_path / "a",
        Field(dtype="uint8", shape=(4, 4, 3), encoding="raw"),
        [
            of_pixels(np.zeros((4, 4, 3), np.uint8), number=number, **{
                "objects/bbox": np.array(found, np.float32).reshape(-1, 4), "objects/label": np.arange(len(found)) % 3,
            })
            for number, found in enumerate([boxes, [], [[0, 0, 1, 1]] * 1000])
        ],
        names=(HOSTILE, "dog"),
        **{
            "objects/bbox": Field(dtype="float32", shape=(None, 4)),
            "objects/label": Field(dtype="int64", shape=(None,)),
        },
    )  # fmt: skip
    several, none, many = data.show().records
    corners = [(box.top, box.left, box.bottom, box.right) for box in several.boxes]
    assert np.allclose(corners, [(0.25, 0.5, 0.75, 1.0), (0, 0.2, 1, 0.4), (0, 0, 1, 1)])
    assert [box.label for box in several.boxes][1:] == ["2", "dog"]
    assert not none.boxes and len(many.boxes) == 100
    page = Page(data.show())
    assert page.tags.count("rect") == 103 and page.tags.count("svg") == 2
    assert "<rect x='0.50000' y='0.25000' width='0.50000' height='0.50000'" in page.source


def test_objects_stand_under_pictures_without_a_label(tmp_path: Path) -> None:
    fields = {name: field for name, field in FIELDS.items() if name != "label"}
    fields |= {
        "objects/bbox": Field(dtype="float32", shape=(None, 4)),
        "objects/label": Field(dtype="int64", shape=(None,)),
    }
    one = record(
        "0.png", **{"objects/bbox": np.zeros((7, 4), np.float32), "objects/label": np.array([1, 0, 1, 5, 6, 7, 8])}
    )
    (tmp_path / "a").mkdir()
    shard = store([one], {"hdf5": tmp_path / "a" / shard_name("train", 0, 1, "hdf5")}, fields)
    write_manifest(tmp_path / "a", fields, [shard], formats=["hdf5"], class_names=("cat", "dog"))
    assert open_dataset(tmp_path / "a").show().records[0].label == "dog, cat, 5, 6, 2 more"


def test_a_mixture_shows_records_of_each_encoding(raw_shards: Path, jpeg_shards: Path) -> None:
    both = mix([open_dataset(raw_shards), open_dataset(jpeg_shards).select(range(48))], [1, 3])
    page = Page(both)
    assert {image.format for image in page.pictures} == {"JPEG", "PNG"}
    assert len(page.pictures) == 8 and "any" in page.text and "25.0% Dataset(" in page.text
    assert len(both.show(20).records) == 20


def test_a_dataset_in_a_store_is_shown(tmp_path: Path, bucket: str) -> None:
    local = write_dataset(tmp_path / "a", encoding="jpeg", formats=["tfrecord"])
    fsspec.filesystem("memory").put(str(local), bucket, recursive=True)
    remote = open_dataset(bucket)
    assert len(Page(remote).pictures) == 8
    assert remote.show(5).records == open_dataset(local).show(5).records
    assert remote.to_pandas().equals(open_dataset(local).to_pandas())


def test_a_store_that_does_not_answer_is_named_once_for_all(raw_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*_: Any) -> Any:
        calls.append(1)
        raise StoreError("s3://b/a: does not answer")

    monkeypatch.setattr(Dataset, "locate", fail)
    page = Page(open_dataset(raw_shards))
    assert page.text.count("StoreError: s3://b/a: does not answer") == 8 and len(calls) == 1
    monkeypatch.undo()
    monkeypatch.setattr(thumbnails, "_picture", fail)
    assert Page(open_dataset(raw_shards)).text.count("does not answer") == 8 and len(calls) == 2


def test_an_overview_does_not_wait_for_a_silent_store(raw_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(display, "_STRIP_SECONDS", 0.1)
    monkeypatch.setattr(thumbnails, "_picture", lambda *_: str(goes_on.wait(60)))
    page = Page(open_dataset(raw_shards))
    goes_on.set()
    assert page.text.count("was not read in 0.1 seconds") == 8


def test_without_decoders_the_extra_is_named() -> None:
    code = "import sys; sys.modules['PIL'] = None; import shard_reader as s; print(s.open_dataset({!r}).show(1))"
    golden = str(REPOSITORY / "tests/reader/format/golden/v1/encoded")
    result = subprocess.run([sys.executable, "-c", code.format(golden)], capture_output=True, text=True, check=True)
    assert "pip install 'image-shards[decode]'" in result.stdout


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, ValueError, "n=0: must be at least 1"),
        ({"n": 201}, ValueError, "n=201: must be at most 200"),
        ({"n": 2.5}, TypeError, "n=2.5: must be an integer"),
        ({"seed": "a"}, TypeError, "seed='a'"),
        ({"where": {"colour": 1}}, ValueError, "'colour' is no field with one value"),
        ({"where": {"label": "dog"}}, ValueError, "label='dog': is no class"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(raw_shards: Path, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        open_dataset(raw_shards).show(**options)


def test_subsets_say_how_they_were_chosen(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    assert repr(data.where(label=["a", "b"]).where(width=16)) == (
        f"Subset(32 records of {data!r}, where label=['a', 'b'], where width=16)"
    )
    assert repr(data.select(range(9)).select([0]).where(height=lambda height: height > 0)) == (
        f"Subset(1 records of {data!r}, selected, where height=<lambda>)"
    )
    assert len(repr(data.where(id=[f"\x1b{n}" for n in range(10_000)]))) < len(repr(data)) + 200
    assert repr(data.where(id="\x1b[2J\n")).isprintable()


def test_many_classes_do_not_make_a_long_page(tmp_path: Path) -> None:
    classes = {f"c{n}": n for n in range(10_000)} | {HOSTILE: 10_000}
    page = Page(open_dataset(dataset(tmp_path / "a", [record("0.png")], classes=classes)))
    assert "c9999" in page.text and "and 9,989 more" in page.text and len(page.source) < 20_000
    assert "<script>alert(1)</script>" in page.text


def test_corruption_of_texts_is_not_hidden(tmp_path: Path) -> None:
    """`to_pandas` is for computing: it does not go on without a value."""
    path = dataset(tmp_path / "a", [record("0.png"), record("hello.png")])
    shard = path / "train-00000-of-00001.tfrecord"
    flip(shard, shard.read_bytes().index(b"hello"))
    with pytest.raises(CorruptionError, match="'id' is damaged"):
        open_dataset(path).to_pandas()
