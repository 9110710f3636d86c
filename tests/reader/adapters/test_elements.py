"""Fields to inputs, targets and weights, and the pixels' statistics: what all adapters share."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import prepared
from support.images import write_image

from shard_reader import CenterCrop, Stream, mix, open_dataset
from shard_reader.adapters.elements import Elements
from shard_reader.adapters.normalization import pixel_statistics


@pytest.fixture
def stream(raw_shards: Path) -> Stream:
    """48 records in batches of 20: the last has 12 of padding."""
    return open_dataset(raw_shards).stream(batch_size=20, fields=("image", "label", "height"))


def element(stream: Stream, *choices: Any, **options: Any) -> Any:
    elements = Elements(stream, *choices, **options)
    return elements.select(elements.arrays(stream.batch(0, 2)))


def test_names_give_arrays_and_several_give_tuples(stream: Stream) -> None:
    batch = stream.batch(0, 2)
    inputs, targets, weight = element(stream, "image", "label")
    assert np.array_equal(inputs, batch["image"]) and np.array_equal(targets, batch["label"])
    assert np.array_equal(weight, batch["weight"]) and weight.sum() == 8
    (images, heights), targets, _ = element(stream, ("image", "height"), ["label"])
    assert np.array_equal(images, batch["image"]) and heights.tolist() == [12] * 20
    assert np.array_equal(targets[0], batch["label"])
    assert element(stream, None, None).keys() == {"image", "label", "height", "weight"}


def test_functions_get_the_whole_batch(stream: Stream) -> None:
    doubled, labels, weight = element(stream, lambda batch: batch["height"] * 2, lambda batch: batch["label"], "weight")
    assert doubled.tolist() == [24] * 20 and labels.dtype == np.int64 and weight.sum() == 8
    assert Elements(stream, "height", "label", lambda batch: batch["weight"]).names == tuple(stream.specs)


def test_only_what_is_chosen_is_looked_at(stream: Stream) -> None:
    assert Elements(stream, "image", "label").names == ("image", "label", "weight")
    assert Elements(stream, "height", "label", "height").names == ("label", "height", "weight")


def test_another_weight_leaves_padding_at_0(stream: Stream) -> None:
    *_, weight = element(stream, "image", "label", "height")
    assert weight.dtype == np.float32 and sorted(weight.tolist()) == [0.0] * 12 + [12.0] * 8


def test_labels_become_one_hot(stream: Stream) -> None:
    labels = stream.batch(0, 2)["label"]
    _, encoded, _ = element(stream, "image", "label", one_hot=True)
    assert encoded.dtype == np.float32 and np.array_equal(encoded, np.eye(3)[labels])
    _, wider, _ = element(stream, "image", "label", one_hot=5)
    assert wider.shape == (20, 5) and np.array_equal(wider.argmax(1), labels)
    assert Elements(stream, "image", "label", one_hot=True).specs["label"] == ("float32", (3,))


@pytest.fixture(scope="module")
def several_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images with 1, 2 or 3 of the labels 0 to 3."""
    root = tmp_path_factory.mktemp("several")
    rows = ["path,label"]
    for number, labels in enumerate(("0", "1|3", "2", "0|1|2", "3", "1")):
        write_image(root / f"{number}.png", number)
        rows.append(f"{number}.png,{labels}")
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    options = ("--label-column", "label", "--label-separator", "|", "--size", "8x8", "--encoding", "raw")
    return prepared(root / "table.csv", root / "shards", *options)


@pytest.mark.parametrize("ragged", ["list", "pad", 5])
def test_several_labels_become_several_ones(several_labels: Path, ragged: Any) -> None:
    data = open_dataset(several_labels)
    stream = data.stream(batch_size=6, shuffle="none", fields=("label",), ragged=ragged)
    elements = Elements(stream, None, None, one_hot=4)
    encoded = elements.select(elements.arrays(stream.batch(0, 0)))["label"]
    assert encoded.sum() == 9 and set(encoded.ravel().tolist()) == {0, 1}
    for row, labels in zip(encoded, data.column("label", np.arange(6)), strict=True):
        assert np.flatnonzero(row).tolist() == labels.tolist()


def test_labels_that_have_no_place_are_errors(stream: Stream) -> None:
    with pytest.raises(ValueError, match=r"label 2: one_hot=2 has room for 0 to 1"):
        for step in range(3):
            Elements(stream, "image", "label", one_hot=2).arrays(stream.batch(0, step))
    with pytest.raises(ValueError, match=r"one_hot=0: must be at least 1"):
        Elements(stream, "image", "label", one_hot=0)
    with pytest.raises(ValueError, match="'label' is not among the stream's fields, image"):
        Elements(stream.data.stream(batch_size=20, fields=("image",)), "image", None, one_hot=True)


def test_numbers_of_the_inputs_own_have_no_names(several_labels: Path) -> None:
    stream = open_dataset(several_labels).stream(batch_size=2, fields=("label",))
    with pytest.raises(ValueError, match="has no names of classes: give their number"):
        Elements(stream, None, None, one_hot=True)


@pytest.mark.parametrize(("inputs", "targets", "weight"), [("image", None, "weight"), ("image", "label", None)])
def test_padding_is_never_left_without_weights(stream: Stream, inputs: Any, targets: Any, weight: Any) -> None:
    with pytest.raises(ValueError, match=r'12 records of padding, .* remainder="keep"'):
        Elements(stream, inputs, targets, weight)
    for batch_size, remainder in ((20, "keep"), (20, "drop"), (16, "pad")):
        other = stream.data.stream(batch_size=batch_size, remainder=remainder)  # type: ignore[arg-type]
        element = Elements(other, inputs, targets, weight)
        assert element.select(element.arrays(other.batch(0, 0))) is not None


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        (
            ("box", None),
            ValueError,
            r"inputs='box': 'box' is not among the stream's fields, image, label, height, weight",
        ),
        (("image", ["label", "box"]), ValueError, r"targets=\['label', 'box'\]: 'box' is not"),
        ((None, "label"), ValueError, "targets='label' without inputs"),
        ((3, "label"), TypeError, "inputs=3: must be a name, several, or a function of the batch"),
        (((), "label"), TypeError, r"inputs=\(\): must be a name"),
        (("image", "label", ("weight", "height")), TypeError, "weight=.* must be one name"),
        (("image", "label", "image"), ValueError, "weight='image': is no number of each record"),
    ],
)
def test_wrong_choices_are_named(stream: Stream, choices: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Elements(stream, *choices)


def test_a_dataset_is_no_stream(stream: Stream) -> None:
    with pytest.raises(TypeError, match=r"is no Stream: pass data\.stream"):
        Elements(stream.data, None, None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_statistics_are_in_the_units_of_the_pixels(class_folders: Path, tmp_path: Path) -> None:
    """Of what is stored: the same images as 8 bits, as 0..255 in float32, as 0..1, and as 16 bits."""
    for name, options, scale in (
        ("uint8", "", 1),
        ("float", "--dtype float32", 1),
        ("unit", "--normalize unit", 1 / 255),
        ("uint16", "--dtype uint16", 257),
    ):
        path = prepared(class_folders, tmp_path / name, "--size", "16x12", "--encoding", "raw", *options.split())
        data = open_dataset(path)
        pixels = np.concatenate([data.image(n).reshape(-1, 3) for n in range(len(data))]).astype(np.float64)
        mean, std = pixel_statistics(data)
        assert np.allclose(mean, pixels.mean(0), rtol=1e-4), name
        assert np.allclose(std, pixels.std(0), rtol=1e-3), name
        halves = pixel_statistics(data, [0.5] * 3, [0.25] * 3)
        assert np.allclose(halves.mean, 127.5 * scale) and np.allclose(halves.std, 63.75 * scale)


def test_pixels_of_one_colour_are_not_divided_by_0(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "images/red.png")
    data = open_dataset(prepared(tmp_path / "images", tmp_path / "shards", "--size", "8x8", "--encoding", "raw"))
    assert pixel_statistics(data) == ((255.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def test_what_has_no_statistics_says_so(raw_shards: Path, tmp_path: Path) -> None:
    data = open_dataset(raw_shards)
    with pytest.raises(ValueError, match=r"a mixture of .* has no statistics of its pixels: pass mean= and std="):
        pixel_statistics(mix([data, data], [1, 1]))
    with pytest.raises(ValueError, match="give both or neither"):
        pixel_statistics(data, mean=[0.5])
    with pytest.raises(ValueError, match=r"mean=\[0.5, 0.5\]: must be 3 numbers"):
        pixel_statistics(data, [0.5, 0.5], [1])
    with pytest.raises(ValueError, match=r"std=.*: must be of pixels scaled to 0..1, and above 0"):
        pixel_statistics(data, [0.5] * 3, [0.5, 0.5, 0])
    with pytest.raises(ValueError, match=r"mean=.*: must be of pixels scaled to 0..1"):
        pixel_statistics(data, [123, 116, 103], [58, 57, 57])
    with pytest.raises(TypeError, match="is no dataset"):
        pixel_statistics(raw_shards)  # type: ignore[arg-type]
    write_image(tmp_path / "images/1.png")
    path = prepared(
        tmp_path / "images", tmp_path / "shards", "--size", "8x8", "--encoding", "raw", "--normalize", "imagenet"
    )
    with pytest.raises(ValueError, match=r"are normalized already \(imagenet\)"):
        pixel_statistics(open_dataset(path))


def test_a_mixture_has_the_class_names_of_its_sources(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    both = mix([data, data], [1, 1])
    assert both.class_names == data.class_names == ("a", "b", "c")
    assert element(both.stream(batch_size=20), "image", "label", one_hot=True)[1].shape == (20, 3)


def test_records_are_taken_by_number_as_a_stream_makes_them(jpeg_shards: Path) -> None:
    stream = open_dataset(jpeg_shards).stream(batch_size=4, image=CenterCrop(12), fields=("image", "label", "id"))
    numbers = [7, 3, 3, 59, 0, 12]
    batch = stream.take(numbers)
    assert batch["id"].tolist() == stream.data.ids(np.array(numbers)).tolist() and batch["weight"].tolist() == [1] * 6
    every = {id: image for part in stream for id, image in zip(part["id"].tolist(), part["image"].copy(), strict=True)}
    assert all(np.array_equal(every[id], image) for id, image in zip(batch["id"].tolist(), batch["image"], strict=True))
    assert stream.take([])["image"].shape == (0, 12, 12, 3)
    with pytest.raises(IndexError, match="record 60 of 60"):
        stream.take([0, 60])


@pytest.mark.parametrize("records", [[True, False], [2.9], ["5"], [[1, 2]], slice(3)], ids=str)
def test_what_are_no_numbers_of_records_is_an_error(jpeg_shards: Path, records: Any) -> None:
    with pytest.raises(TypeError, match=r"records has the type .* pass numbers"):
        open_dataset(jpeg_shards).stream(batch_size=4, image=CenterCrop(12)).take(records)


def test_skipped_records_are_never_left_without_weights(raw_shards: Path) -> None:
    one = open_dataset(raw_shards).stream(batch_size=16, on_error="skip")
    for choices in (("image", None), ("image", "label", None)):
        with pytest.raises(ValueError, match='on_error="skip" gives damaged records weight 0'):
            Elements(one, *choices, is_trimmed=True)
    Elements(one, "image", "label")


@pytest.mark.parametrize(("first", "every"), [(0, 1), (2, 1), (1, 3), (0, 2), (8, 1), (7, 5)])
def test_batches_from_a_step_on_are_those_of_the_epoch(jpeg_shards: Path, first: int, every: int) -> None:
    stream = open_dataset(jpeg_shards).stream(batch_size=8, image=CenterCrop(12))
    expected = [stream.batch(3, step)["image"] for step in range(first, len(stream), every)]
    found = [batch["image"].copy() for batch in stream.batches(3, first, every=every)]
    assert len(found) == len(expected) and all(map(np.array_equal, found, expected))
    assert (stream.epoch, stream.step) == (0, 0), "the stream has not moved"


def test_a_stream_for_another_rank_is_at_the_same_position(raw_shards: Path) -> None:
    stream = open_dataset(raw_shards).stream(batch_size=12, fields=("id",), seed=5)
    expected = [batch["id"].tolist() for batch in stream]
    stream.load_state_dict(stream.state_at(2, 0))
    shares = [[batch["id"].tolist() for batch in stream.for_rank(rank, 2)] for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(ids) for ids in expected[2:]]
    with pytest.raises(ValueError, match="world_size 5 does not divide it"):
        stream.for_rank(0, 5)


@pytest.mark.parametrize(
    ("framework", "module", "name", "options", "words"),
    [
        ("torch", "torch", "StreamDataset", {"device": "cpu"}, ", inputs='image', targets='label', device='cpu'"),
        ("torch", "torch", "RecordDataset", {}, ", inputs='image', targets='label'"),
        ("jax", "jax", "GlobalBatches", {}, ", inputs='image', targets='label'"),
        ("keras", "keras", "ShardSequence", {"weight": len}, ", inputs='image', targets='label', weight=len"),
    ],
)  # fmt: skip
def test_an_adapter_says_what_it_gives(
    raw_shards: Path, framework: str, module: str, name: str, options: dict[str, Any], words: str
) -> None:
    pytest.importorskip(framework)
    data = open_dataset(raw_shards)
    stream = data.stream(batch_size=16, seed=3)
    assert repr(stream) == (f"Stream({data!r}, batch_size=16, shuffle='full', seed=3; next: epoch 0, step 0 of 3)")
    given = data if name == "RecordDataset" else stream
    adapter = getattr(importlib.import_module(f"shard_reader.{module}"), name)
    assert repr(adapter(given, inputs="image", targets="label", **options)) == f"{name}({given!r}{words})"


def test_a_stream_says_where_it_is(raw_shards: Path) -> None:
    stream = open_dataset(raw_shards).stream(batch_size=16, shuffle="window", rank=1, world_size=2)
    next(iter(stream))
    assert repr(stream).endswith(
        ", batch_size=16, shuffle='window', seed=0, rank=1, world_size=2; next: epoch 1, step 0 of 3)"
    )
