"""Batches on every way that pixels take into them: gathered, copied, decoded; damaged, skipped, padded."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import REPOSITORY, prepared

from shard_reader import (
    CenterCrop,
    CorruptionError,
    Draws,
    Flip,
    RandomResizedCrop,
    Resize,
    Stream,
    Transform,
    mix,
    open_dataset,
)
from shard_reader.format import MANIFEST_NAME, Manifest, index_name

FORMATS = ["tfrecord", "hdf5"]
PINNED = {"raw": "ae1e50bb81a83a99", "encoded": "ab8bbd64cdee2c6d"}
GOLDEN = REPOSITORY / "tests/reader/format/golden/v1"


@pytest.fixture(scope="session")
def large_shards(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw pixels of 19,200 bytes an image, which are copied one by one: 60 records in 2 shards of both formats."""
    output = tmp_path_factory.mktemp("large") / "shards"
    options = "--size 80x80 --encoding raw --format tfrecord --format hdf5 --shards 2"
    return prepared(class_folders, output, *options.split())


@pytest.fixture(params=["gathered", "copied", "decoded"])
def way(request: pytest.FixtureRequest) -> tuple[Path, dict[str, Any]]:
    """A dataset for each way into a batch, and the options that it needs. The test copies it before it harms it."""
    name = {"gathered": "raw_shards", "copied": "large_shards", "decoded": "jpeg_shards"}[request.param]
    options = {"image": CenterCrop(14)} if request.param == "decoded" else {}
    return request.getfixturevalue(name), options


def stream(path: Path, format: str = "tfrecord", **options: Any) -> Stream:
    data = open_dataset(path, format=format)
    return data.stream(**{"batch_size": 10, "fields": ("image", "label", "id"), **options})


def shard_files(path: Path, format: str = "tfrecord") -> list[Path]:
    manifest = Manifest.from_json((path / MANIFEST_NAME).read_text("utf-8"))
    return [path / shard.files[format].path for shard in manifest.splits["train"].shards]


def flip_bit(path: Path, row: int) -> None:
    """Damage the payload of a record."""
    data = bytearray(path.read_bytes())
    extent = np.load(index_name(str(path)))[row]
    data[int(extent["offset"]) + int(extent["length"]) // 2] ^= 16
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("options", [{}, {"threads": 1, "prefetch": 1}, {"threads": 5, "prefetch": 7}], ids=str)
def test_a_batch_is_what_its_records_are(
    way: tuple[Path, dict[str, Any]], format: str, options: dict[str, Any]
) -> None:
    path, more = way
    one = stream(path, format, remainder="keep", verify="always", **options, **more)
    crop = more.get("image", lambda image: image)
    for step, batch in enumerate(one):
        for place, record in enumerate(one.order.records_of(0, step, step + 1).tolist()):
            expected = one.data[record]
            assert np.array_equal(batch["image"][place], crop(expected["image"]))
            assert (batch["label"][place], batch["id"][place].decode()) == (expected["label"], expected["id"])


def test_batches_that_are_kept_are_never_overwritten(way: tuple[Path, dict[str, Any]]) -> None:
    """Buffers are used again, but only those that nobody holds, not even a row of."""
    path, options = way
    one = stream(path, **options)
    rows, sums = [], []
    for epoch in range(6):
        for number, batch in enumerate(one):
            kept = batch["image"] if (number + epoch) % 2 else batch["image"][3, 1:, ::2]
            rows.append(kept)
            sums.append(kept.tobytes())
            del batch
    assert [row.tobytes() for row in rows] == sums


def test_buffers_are_aligned_and_used_again(large_shards: Path) -> None:
    one = stream(large_shards)
    addresses = [batch["image"].__array_interface__["data"][0] for _ in range(5) for batch in one]
    assert len(set(addresses)) < 10
    assert all(address % 64 == 0 for address in addresses)


@pytest.mark.parametrize("verify", [None, "first-epoch", "always"])
def test_damage_is_found_and_named(way: tuple[Path, dict[str, Any]], tmp_path: Path, verify: Any) -> None:
    path, options = way
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    flip_bit(shard_files(copy)[1], 4)
    one = stream(copy, shuffle="none", verify=verify, **options)
    first = json.loads((copy / MANIFEST_NAME).read_text())["splits"]["train"]["shards"]["records"][0]
    batches = iter(one)
    for _ in range((first + 4) // 10):
        assert next(batches)["weight"].sum() == 10
    with pytest.raises(CorruptionError, match=r"train-00001-of-0000\d\.tfrecord: row 4, id '.*': the image is damaged"):
        next(batches)


def test_never_does_not_look_and_first_epoch_looks_once(raw_shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    unchecked = stream(copy, verify="never")
    looked = stream(copy, verify="first-epoch")
    list(looked)
    always = stream(copy, verify="always")
    list(always)
    for file in shard_files(copy):
        with open(file, "r+b") as opened:  # in place: the maps see it
            offset = int(np.load(index_name(str(file)))["offset"][0])
            opened.seek(offset)
            byte = opened.read(1)[0]
            opened.seek(offset)
            opened.write(bytes([byte ^ 1]))
    assert len(list(unchecked)) == len(list(looked)) == 5
    with pytest.raises(CorruptionError):
        list(always)
    resumed = stream(copy)
    resumed.load_state_dict(always.state_dict() | {"epoch": 7, "step": 4})
    with pytest.raises(CorruptionError):  # the rest of an epoch is not all of it: the next one is looked at, too
        list(resumed)
        list(resumed)


def checked_batches(one: Stream, epochs: int) -> list[int]:
    """The number of batches of each epoch whose images were checked."""
    begin, checks = one._reader.begin, list[bool]()

    def watched(*arguments: Any, **options: Any) -> Any:
        pending = begin(*arguments, **options)
        checks.append(pending.verify)
        return pending

    one._reader.begin = watched  # type: ignore[method-assign]
    found = []
    for _ in range(epochs):
        checks.clear()
        list(one)
        found.append(sum(checks))
    return found


def test_images_are_checked_once_whatever_an_epoch_leaves_out(raw_shards: Path) -> None:
    """48 records, of which an epoch of whole batches leaves out 13, others each time."""
    one = stream(raw_shards, batch_size=35, remainder="drop")
    assert checked_batches(one, 40)[-1] == 0 and one._reader.has_checked_all
    assert checked_batches(stream(raw_shards, batch_size=10), 3) == [5, 0, 0]
    assert checked_batches(stream(raw_shards, batch_size=10, on_error="skip"), 2) == [5, 5]
    assert checked_batches(stream(raw_shards, batch_size=10, verify="never"), 1) == [0]
    ranks = [stream(raw_shards, batch_size=10, rank=rank, world_size=2) for rank in range(2)]
    assert [checked_batches(rank, 60)[-1] for rank in ranks] == [0, 0]
    restored = pickle.loads(pickle.dumps(one))
    assert checked_batches(restored, 1) == [0]


def test_a_loop_that_breaks_off_has_checked_its_records(raw_shards: Path) -> None:
    one = stream(raw_shards, batch_size=10, shuffle="none", prefetch=1)
    for _ in zip(range(3), one, strict=False):
        pass
    assert checked_batches(one, 2) == [2, 0]


def test_images_of_a_mixture_are_checked_once(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    one = mix([data.select(range(10)), data.select(range(10, 48))], [0.5, 0.5]).stream(batch_size=8)
    assert checked_batches(one, 12)[-1] == 0


def test_a_damaged_image_is_found_again(raw_shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    flip_bit(shard_files(copy)[0], 4)
    one = stream(copy, batch_size=10)
    for _ in range(3):
        with pytest.raises(CorruptionError, match="the image is damaged"):
            list(one)


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_records_are_skipped_with_weight_0(
    way: tuple[Path, dict[str, Any]], tmp_path: Path, format: str
) -> None:
    path, options = way
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    for row in (0, 4, 7):
        flip_bit(shard_files(copy, format)[1], row)
    whole, one = stream(path, format, **options), stream(copy, format, on_error="skip", **options)
    size = len(one.data)
    start = whole.data.manifest.splits["train"].shards[0].records
    for _ in range(2):
        for expected, batch in zip(whole, one, strict=True):
            bad = expected["weight"] != batch["weight"]
            assert not batch["image"][bad].any() and not batch["weight"][bad].any()
            assert np.array_equal(batch["image"][~bad], expected["image"][~bad]) or bad.any()
            assert np.array_equal(batch["label"], expected["label"])
        assert sorted(skipped.record for skipped in one.skipped) == [start, start + 4, start + 7]
        assert all("the image is damaged (CRC mismatch)" in skipped.reason for skipped in one.skipped)
        assert (one.coverage().records, one.coverage().skipped) == (size, 3)
        assert one.coverage().covers(one.data.coverage())


def test_skipping_is_the_same_under_resume(raw_shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    flip_bit(shard_files(copy)[0], 2)
    flip_bit(shard_files(copy)[2], 9)
    whole = stream(copy, on_error="skip")
    expected = [batch["weight"].tolist() for _ in range(2) for batch in whole]
    assert sum(map(sum, expected)) == 2 * 46
    for step in range(10):
        one = stream(copy, on_error="skip")
        one.load_state_dict(whole.state_dict() | {"epoch": step // 5, "step": step % 5})
        rest = [batch["weight"].tolist() for batch in one]
        assert rest == expected[step : 5 * (step // 5 + 1)]


@pytest.mark.parametrize("how", ["break", "drop", "mixture", "batch", "restored"])
def test_what_no_whole_epoch_has_shown_is_looked_at(raw_shards: Path, tmp_path: Path, how: str) -> None:
    """The first epoch checks each record only if it was read to its end, and has each record."""
    copy = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    for file in shard_files(copy):
        for row in range(len(np.load(index_name(str(file))))):
            flip_bit(file, row)
    data = open_dataset(copy)
    source = mix([data], [1]) if how == "mixture" else data
    one = source.stream(batch_size=10, remainder="drop" if how == "drop" else "pad")
    if how == "batch":
        for epoch in (0, 1, 5):
            with pytest.raises(CorruptionError):
                one.batch(epoch, 0)
        return
    if how == "restored":
        one.load_state_dict(one.state_dict() | {"epoch": 3, "step": 2})
    for _ in range(4):
        with pytest.raises(CorruptionError):
            next(iter(one))


@pytest.mark.parametrize("fields", [("image",), ("image", "label", "id")])
def test_the_only_shard_is_missing(raw_shards: Path, tmp_path: Path, fields: tuple[str, ...]) -> None:
    copy = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    (copy / "val-00000-of-00001.tfrecord").unlink()
    data = open_dataset(copy, "val")
    with pytest.raises(CorruptionError, match="is missing"):
        next(iter(data.stream(batch_size=4, fields=fields)))
    one = data.stream(batch_size=4, fields=fields, on_error="skip")
    assert sum(batch["weight"].sum() for batch in one) == 0
    assert (one.coverage().records, one.coverage().skipped) == (12, 12)


def test_a_function_s_shape_is_that_of_a_record_that_can_be_read(jpeg_shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    flip_bit(shard_files(copy)[0], 0)
    one = stream(copy, image=lambda image: image[:8, :8], on_error="skip")
    assert one.specs["image"].shape == (8, 8, 3)
    assert sum(batch["weight"].sum() for batch in one) == 59
    with pytest.raises(CorruptionError):
        stream(copy, image=lambda image: image[:8, :8]).specs  # noqa: B018
    for nothing in (lambda image: None, lambda image: [1], lambda image: np.array([None])):
        with pytest.raises(ValueError, match=r"gives \w+: transforms give arrays of numbers"):
            next(iter(stream(jpeg_shards, image=nothing)))


def test_a_damaged_list_is_skipped_as_a_damaged_image_is(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(GOLDEN / "fields", tmp_path / "copy"))
    file = copy / "train-00000-of-00001.h5"
    rows = np.load(index_name(str(file)))
    data = bytearray(file.read_bytes())
    start = int(rows["tags_offset"][0])
    data[start : start + 2] = b"x!"
    file.write_bytes(data)
    options: dict[str, Any] = {"batch_size": 2, "shuffle": "none", "fields": ("tags", "label")}
    with pytest.raises(CorruptionError, match=r"row 0, id .*: 'tags' is damaged"):
        open_dataset(copy, format="hdf5").stream(**options).batch(0, 0)
    one = open_dataset(copy, format="hdf5").stream(**options, on_error="skip")
    batch = next(iter(one))
    assert batch["weight"].tolist() == [0, 1] and batch["tags"].tolist() == [[], []]
    assert [skipped.record for skipped in one.skipped] == [0]


def test_a_kept_remainder_needs_no_more_memory_than_records(large_shards: Path) -> None:
    (batch,) = stream(large_shards, remainder="keep", batch_size=2**40)
    assert batch["image"].shape == (60, 80, 80, 3)


def test_more_shards_than_may_be_open_are_read_a_few_at_a_time(
    raw_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [batch["id"].tolist() for batch in stream(raw_shards, batch_size=4)]
    monkeypatch.setattr("shard_reader.stream.batch_reader.MOST_LOOKED_UP", 1)
    one = stream(raw_shards, batch_size=4)
    assert one._reader.most_records == 1
    assert [batch["id"].tolist() for batch in one] == expected


def test_the_kernel_is_told_what_comes_next_once_a_page_was_waited_for(
    way: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = way
    told: list[list[tuple[int, int]]] = []
    faults = iter([0, 0, 0, *[1] * 1000])
    monkeypatch.setattr("shard_reader.stream.prefetch.major_faults", lambda: next(faults))
    monkeypatch.setattr("shard_reader.stream.arrays.images.announce", lambda extents: told.append(list(extents)))
    one = stream(path, batch_size=6, **options)
    list(one)
    assert len(told) == len(one) - 2
    located = one.data.locate(one.order.records_of(0, 2, 3))
    columns = located.columns({"image": one.data.fields["image"]})
    expected = zip(located.addresses(columns).tolist(), columns["length"].tolist(), strict=True)
    assert told[0] == sorted(expected)
    told.clear()
    list(one)
    assert len(told) == len(one), "an epoch behind one that waited does not wait again"
    told.clear()
    list(one)
    assert told == [], "and one behind an epoch that did not wait tells nothing"


HARM: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("what", ["shard", "index"])
def test_a_shard_that_is_not_there_is_named_or_skipped(
    way: tuple[Path, dict[str, Any]], tmp_path: Path, harm: str, what: str
) -> None:
    path, options = way
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    file = shard_files(copy)[1]
    file = file if what == "shard" else Path(index_name(str(file)))
    HARM[harm](file)
    with pytest.raises(CorruptionError, match=file.name):
        list(stream(copy, **options))
    one = stream(copy, on_error="skip", **options)
    lost = one.data.manifest.splits["train"].shards[1].records
    batches = list(one)
    assert sum(batch["weight"].sum() for batch in batches) == len(one.data) - lost
    assert len(one.skipped) == lost
    assert one.coverage().covers(one.data.coverage())
    gone = [id for batch in batches for id, weight in zip(batch["id"], batch["weight"], strict=True) if not weight]
    assert set(gone[: lost // 2]) <= {b"", *gone}


def test_a_stream_without_images_skips_what_is_not_there(raw_shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    for file in shard_files(copy):
        file.unlink()
    one = stream(copy, on_error="skip", fields=("label", "id"))
    assert sum(batch["weight"].sum() for batch in one) == 0
    assert one.coverage().skipped == 48
    with pytest.raises(CorruptionError, match="is missing"):
        list(stream(copy, fields=("label",)))


def test_a_shard_that_may_not_be_read_is_no_damage(raw_shards: Path, tmp_path: Path) -> None:
    """It may be read tomorrow: skipping it would make the order depend on the weather."""
    copy = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    file = shard_files(copy)[1]
    file.unlink()
    file.symlink_to(file)  # as good as no permission, which a test that runs as root would have
    with pytest.raises(OSError, match=file.name):
        list(stream(copy, on_error="skip"))


class Brightness(Transform):
    """Of our own, with draws."""

    in_place = True

    def __call__(self, image: Any, draws: Draws, out: Any = None) -> Any:
        return np.clip(image * draws.uniform(0.5, 1.5), 0, 255).astype(image.dtype)


# Ways of a batch, not every transform: those have tests of their own.
AUGMENTATIONS: dict[str, Any] = {
    "crop": RandomResizedCrop((10, 9)),
    "crop-flip": [RandomResizedCrop(12), Flip()],
    "own": [Resize((9, 11)), Brightness(), Flip(0.3)],
}


@pytest.mark.parametrize("image", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_augmentation_is_the_same_under_resume_and_for_any_number_of_ranks(
    jpeg_shards: Path, image: Any, world_size: int
) -> None:
    whole = stream(jpeg_shards, image=image, seed=4)
    epochs = [[batch["image"].copy() for batch in whole] for _ in range(2)]
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    for step in range(len(whole)):
        for rank in range(world_size):
            one = stream(jpeg_shards, image=image, seed=4, rank=rank, world_size=world_size, threads=1 + rank)
            one.load_state_dict(whole.state_dict() | {"epoch": 1, "step": step})
            for expected, batch in zip(epochs[1][step:], one, strict=True):
                assert np.array_equal(batch["image"], expected[rank::world_size])


def test_augmentation_differs_between_epochs_seeds_and_records(jpeg_shards: Path) -> None:
    data = open_dataset(jpeg_shards).select([3] * 20)
    one = data.stream(batch_size=20, shuffle="none", image=RandomResizedCrop(8))
    first, second = (next(iter(one))["image"] for _ in range(2))
    other = next(iter(data.stream(batch_size=20, shuffle="none", image=RandomResizedCrop(8), seed=1)))["image"]
    assert len({image.tobytes() for images in (first, second, other) for image in images}) > 55


def test_a_function_is_a_transform_and_shows_its_shape(jpeg_shards: Path) -> None:
    def channels_first(image: Any) -> Any:
        return (image[:8, :9] / 255).astype(np.float32).transpose(2, 0, 1)

    one = stream(jpeg_shards, image=channels_first)
    assert one.specs["image"] == ("float32", (3, 8, 9))
    batch = next(iter(one))
    record = one.order.records_of(0, 0, 1)[4]
    assert np.array_equal(batch["image"][4], channels_first(one.data[int(record)]["image"]))


def test_what_a_function_raises_names_the_record(jpeg_shards: Path) -> None:
    def fails(image: Any) -> Any:
        raise KeyError("no such thing")

    with pytest.raises(KeyError) as caught:
        list(stream(jpeg_shards, image=[CenterCrop(8), fails]))
    one = stream(jpeg_shards, image=lambda image: image)
    with pytest.raises(ValueError, match=r"row \d+, id '.*': the image gives \(.*\) uint8, the first image gave"):
        list(one)
    assert caught.value.args == ("no such thing",)


def test_raw_images_are_transformed_too(large_shards: Path) -> None:
    one = stream(large_shards, image=[CenterCrop(50), Flip(1)])
    record = int(one.order.records_of(0, 2, 3)[7])
    expected = one.data[record]["image"][15:65, 15:65][:, ::-1]
    assert np.array_equal(one.batch(0, 2)["image"][7], expected)


def test_fast_decoding_is_nearly_the_same(jpeg_shards: Path) -> None:
    exact, fast = (stream(jpeg_shards, image=CenterCrop(16), fast=fast).batch(0, 0)["image"] for fast in (False, True))
    assert not np.array_equal(exact, fast)
    assert np.abs(exact.mean(3) - fast.mean(3)).mean() < 8  # these are colourful, small and noisy, unlike photos


@pytest.mark.parametrize("format", FORMATS)
def test_lists_are_objects_or_padded(format: str) -> None:
    fields = ("label", "objects/bbox", "tags", "note", "camera")
    data = open_dataset(GOLDEN / "fields", format=format)
    as_lists = data.stream(batch_size=2, shuffle="none", fields=fields).batch(0, 0)
    assert [value.tolist() for value in as_lists["label"]] == [[-1, 2**40], []]
    assert as_lists["tags"].tolist() == [[b"x", "größer".encode()], []]
    assert as_lists["camera"].shape == (2, 2, 2)
    boxes = len(as_lists["objects/bbox"][0])
    padded = data.stream(batch_size=2, shuffle="none", fields=fields, ragged="pad").batch(0, 0)
    assert padded["label"].tolist() == [[-1, 2**40], [0, 0]]
    assert padded["label/mask"].tolist() == [[True, True], [False, False]]
    assert padded["tags"].tolist() == [[b"x", "größer".encode()], [b"", b""]]
    assert padded["objects/bbox"].shape[2] == 4 and padded["objects/bbox"].dtype == np.float32
    assert padded["objects/bbox/mask"].sum() == sum(len(value) for value in as_lists["objects/bbox"])
    assert "note/mask" not in padded and "camera/mask" not in padded
    specs = data.stream(batch_size=2, fields=fields, ragged=7).specs
    assert (specs["label"], specs["label/mask"]) == (("int64", (7,)), ("bool", (7,)))
    assert (specs["objects/bbox"], specs["tags"]) == (("float32", (7, 4)), ("string", (7,)))
    fixed = data.stream(batch_size=2, shuffle="none", fields=fields, ragged=5).batch(0, 0)
    assert fixed["label"].shape == (2, 5) and fixed["objects/bbox"].shape == (2, 5, 4)
    assert np.array_equal(fixed["objects/bbox"][0, :boxes], as_lists["objects/bbox"][0])
    with pytest.raises(ValueError, match=r"row 0, id '.*': 'label' has 2 elements, ragged=1"):
        data.stream(batch_size=2, shuffle="none", fields=fields, ragged=1).batch(0, 0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["raw", "encoded"])
def test_golden_files_are_streamed_as_ever(name: str, format: str) -> None:
    """The order and the pixels of shards that an earlier version wrote: pinned when this reader was new."""
    image = None if name == "raw" else CenterCrop(1)
    one = open_dataset(GOLDEN / name, format=format).stream(batch_size=2, seed=1, image=image, fields=("image", "id"))
    digest = hashlib.sha256()
    for batch in (*one, *one):
        digest.update(batch["image"].tobytes() + b"".join(batch["id"]) + batch["weight"].tobytes())
    assert digest.hexdigest()[:16] == PINNED[name]


class Remembers(CenterCrop):
    """A transform that says nothing of its memory, as one of a user would, and uses its images later."""

    images: list[Any] = []  # noqa: RUF012

    def __call__(self, image: Any, draws: Draws | None = None, out: Any = None) -> Any:
        self.images.append(image)
        return super().__call__(image, draws, out)


def test_a_transform_may_keep_its_images(jpeg_shards: Path) -> None:
    """A subclass does not inherit that the memory of its images may be used again."""
    assert Remembers.keeps_image and not CenterCrop.keeps_image
    Remembers.images.clear()
    one = stream(jpeg_shards, image=Remembers(14), shuffle="none", threads=1, remainder="keep")
    assert len(list(one)) > 1
    records = range(len(one.data))
    assert [image.tobytes() for image in Remembers.images] == [one.data.image(record).tobytes() for record in records]
