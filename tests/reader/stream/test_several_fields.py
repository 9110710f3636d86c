"""Streams of records with several images, bytes, boxes and keypoints, which move together."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.servers import Servers
from support.stored import SEVERAL, several, several_objects

from shard_reader import CenterCrop, CorruptionError, Draws, Flip, RandomResizedCrop, Resize, mix, open_dataset
from shard_reader.format import Field, index_name
from shard_reader.order.shuffle import key
from shard_reader.transforms.compose import compose
from shard_reader.transforms.moves.move import moved_boxes, moved_keypoints

IMAGES = ("image", "mask", "depth", "right")
LISTS = ("objects/bbox", "objects/label", "objects/name", "objects/keypoints")
FIELDS = (*IMAGES, "audio", *LISTS)
FORMATS = ("tfrecord", "hdf5")
RANDOM = [RandomResizedCrop((18, 20), (0.2, 1)), Flip()]
EXACT = [CenterCrop((30, 31)), Flip()]  # without a filter: every image has the same pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def png(folder: Path) -> Path:
    """Encoded images of several sizes."""
    return several(folder / "png")


@pytest.fixture(scope="module", params=[(24, 26), (80, 90)], ids=["gathered", "copied"])
def raw(request: pytest.FixtureRequest, folder: Path) -> Path:
    """Raw pixels of one size: small ones, which are gathered, and large ones."""
    return several(folder / f"raw{request.param[0]}", size=request.param, encoding="raw", formats=FORMATS[:1])


@pytest.mark.parametrize("error", [ValueError("is odd"), KeyError("odd")], ids=["refused", "bug"])
def test_an_error_at_the_image_that_shows_the_shape_names_the_record(png: Path, error: Exception) -> None:
    def fails(image: NDArray[Any]) -> NDArray[Any]:
        raise error

    data = open_dataset(png, "train")
    for name, what in (("image", "the image"), ("right", "the image 'right'")):
        crops = {"image": CenterCrop(8), "right": CenterCrop(8)}
        stream = data.stream(batch_size=2, fields=tuple(crops), transform={**crops, name: fails})
        with pytest.raises(type(error)) as caught:
            _ = stream.specs
        told = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert data.describe(0) in told and what in told and "odd" in told
        error.__notes__ = []


def moves_of(stream: Any, step: int, place: int, transform: Any) -> tuple[int, int, list[Any]]:
    """Height and width of a record's image, and its moves, from the seed, the epoch and its position."""
    record = int(stream.order.records_of(0, step, step + 1)[place])
    height, width = stream.data.image(record).shape[:2]
    draws = Draws(key(stream.seed, 0, "draws"), int(stream.order.positions(step, step + 1)[place]))
    return height, width, compose(transform).moves(height, width, draws)


def same(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> bool:
    return one.keys() == other.keys() and all(map(_same, one.values(), other.values()))


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype != object:
        return one.dtype == other.dtype and np.array_equal(one, other)
    return repr([np.asarray(value).tolist() for value in one]) == repr([np.asarray(value).tolist() for value in other])


def test_without_a_transform_a_batch_is_what_its_records_are(raw: Path) -> None:
    data = open_dataset(raw)
    stream = data.stream(batch_size=4, fields=FIELDS, seed=1)
    for step, batch in enumerate(stream):
        for place, number in enumerate(stream.order.records_of(0, step, step + 1).tolist()):
            record = data[number]
            for name in (*IMAGES, "audio", "objects/bbox", "objects/keypoints"):
                assert np.array_equal(batch[name][place], record[name]), name
    assert batch["mask"].ndim == 3 and batch["mask"].dtype == np.uint8
    assert batch["depth"].shape[3] == 1 and batch["depth"].dtype == np.uint16
    assert stream.specs["mask"] == ("uint8", batch["mask"].shape[1:])
    assert stream.specs["audio"] == ("string", ()) and all(isinstance(value, bytes) for value in batch["audio"])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("transform", [EXACT, CenterCrop(32), [Flip(), CenterCrop((9, 40))]], ids=repr)
def test_all_images_show_the_same_part(png: Path, format: str, transform: Any) -> None:
    stream = open_dataset(png, format=format).stream(batch_size=4, fields=IMAGES, image=transform, seed=2)
    for batch in (*stream, *stream):
        pixels = batch["image"]
        assert np.array_equal(batch["mask"], pixels[..., 0])
        assert np.array_equal(batch["depth"], pixels[..., 1:2].astype(np.uint16) * 257)
        assert np.array_equal(batch["right"], 255 - pixels)


def test_all_raw_images_show_the_same_part(raw: Path) -> None:
    for batch in open_dataset(raw).stream(batch_size=4, fields=IMAGES, image=[CenterCrop(20), Flip()]):
        assert np.array_equal(batch["mask"], batch["image"][..., 0])
        assert np.array_equal(batch["right"], 255 - batch["image"])


def test_masks_take_the_nearest_pixels_where_photos_are_filtered(png: Path) -> None:
    stream = open_dataset(png).stream(batch_size=4, fields=IMAGES, image=RANDOM, seed=3)
    for step, batch in enumerate(stream):
        assert np.abs(batch["right"].astype(int) - (255 - batch["image"].astype(int))).max() <= 1
        for place, number in enumerate(stream.order.records_of(0, step, step + 1).tolist()):
            draws = Draws(key(3, 0, "draws"), int(stream.order.positions(step, step + 1)[place]))
            mask = stream.data.image(number, "mask")[..., np.newaxis]
            expected = compose(RANDOM).by_nearest(keeps_values=True)(mask, draws)
            assert np.array_equal(batch["mask"][place], expected[..., 0])
            assert set(np.unique(batch["depth"][place])) <= set(np.unique(stream.data.image(number, "depth")))


def test_both_formats_give_the_same_batches(png: Path) -> None:
    one, other = (open_dataset(png, format=f).stream(batch_size=5, fields=FIELDS, image=RANDOM) for f in FORMATS)
    assert all(same(*batches) for batches in zip(one, other, strict=True))


def test_a_field_moves_the_same_without_the_image(png: Path) -> None:
    data = open_dataset(png)
    whole = list(data.stream(batch_size=5, fields=FIELDS, image=RANDOM))
    for name in ("mask", "depth", "right", "objects/keypoints"):
        stream = data.stream(batch_size=5, fields=(name,), image=RANDOM)
        assert list(stream.specs) == [name, "weight"]
        for batch, expected in zip(stream, whole, strict=True):
            if name != "objects/keypoints":
                assert _same(batch[name], expected[name])
            else:  # without boxes no object is dropped
                assert all(len(a) >= len(b) for a, b in zip(batch[name], expected[name], strict=True))


def test_boxes_and_keypoints_move_and_objects_that_left_are_dropped(png: Path) -> None:
    stream = open_dataset(png).stream(batch_size=4, fields=(*LISTS, "id"), image=RANDOM, seed=4)
    dropped = 0
    for step, batch in enumerate(stream):
        for place in range(4):
            objects = several_objects(int(batch["id"][place].split(b".")[0]))
            height, width, moves = moves_of(stream, step, place, RANDOM)
            boxes = moved_boxes(objects["objects/bbox"], height, width, moves).astype(np.float32)
            kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
            dropped += int((~kept).sum())
            assert np.array_equal(batch["objects/bbox"][place], boxes[kept])
            assert batch["objects/label"][place].tolist() == objects["objects/label"][kept].tolist()
            assert batch["objects/name"][place] == [
                name.encode() for name, stays in zip(objects["objects/name"], kept, strict=True) if stays
            ]
            keypoints = moved_keypoints(objects["objects/keypoints"], height, width, moves, ((1, 2),))
            assert np.allclose(batch["objects/keypoints"][place], keypoints[kept], atol=1e-6)
            assert batch["objects/keypoints"][place].dtype == np.float32
    assert dropped, "the case is in the data"


def test_padding_comes_after_the_drops(png: Path) -> None:
    options: dict[str, Any] = {"batch_size": 4, "fields": LISTS, "image": RANDOM, "seed": 4}
    data = open_dataset(png)
    for lists, padded in zip(data.stream(**options), data.stream(**options, ragged="pad"), strict=True):
        counts = [len(value) for value in lists["objects/bbox"]]
        assert padded["objects/bbox/mask"].sum(axis=1).tolist() == counts
        assert padded["objects/keypoints"].shape == (4, max(counts), 3, 3)


def test_transforms_that_keep_places_move_nothing(png: Path) -> None:
    def darker(image: NDArray[Any]) -> NDArray[Any]:
        return image // 2

    darker.keeps_places = True  # type: ignore[attr-defined]
    data = open_dataset(png)
    options: dict[str, Any] = {"batch_size": 4, "fields": FIELDS}
    for plain, dark in zip(
        data.stream(**options, image=EXACT), data.stream(**options, image=[*EXACT, darker]), strict=True
    ):
        assert np.array_equal(dark["image"], plain["image"] // 2) and np.array_equal(dark["right"], plain["right"] // 2)
        assert all(_same(dark[name], plain[name]) for name in ("mask", "depth", *LISTS))
    stored = data.stream(batch_size=12, shuffle="none", fields=LISTS, image=darker).batch(0, 0)
    assert _same(stored["objects/bbox"], data.stream(batch_size=12, shuffle="none", fields=LISTS).batch(0, 0)[LISTS[0]])


def test_fields_may_have_transforms_of_their_own(png: Path) -> None:
    data = open_dataset(png)
    crop = RandomResizedCrop(32, exact=True)

    def classes(mask: NDArray[Any]) -> NDArray[Any]:
        return (mask > 127).astype(np.float32)

    together = {"image": [crop, Flip()], "mask": [RandomResizedCrop(16, exact=True), Flip(), classes]}
    stream = data.stream(batch_size=4, fields=IMAGES, transform=together)
    small = data.stream(batch_size=4, fields=("mask",), image=[RandomResizedCrop(16, exact=True), Flip()])
    plain = data.stream(batch_size=4, fields=IMAGES, image=[crop, Flip()])
    assert stream.specs["mask"] == ("float32", (16, 16))
    for batch, masks, images in zip(stream, small, plain, strict=True):
        assert np.array_equal(batch["mask"], masks["mask"] > 127)
        assert all(np.array_equal(batch[name], images[name]) for name in ("image", "depth", "right"))


def test_image_is_the_first_one_of_transform(png: Path) -> None:
    data = open_dataset(png)
    one, other = (
        data.stream(batch_size=4, fields=FIELDS, **options)
        for options in ({"image": RANDOM}, {"transform": {"image": RANDOM}})
    )
    assert all(same(*batches) for batches in zip(one, other, strict=True))


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_a_mask_of_half_the_size_moves_by_proportion(folder: Path, encoding: str) -> None:
    path = several(folder / f"half-{encoding}", size=(48, 64), encoding=encoding, mask_scale=2, formats=FORMATS[:1])
    data = open_dataset(path)
    plain = data.stream(batch_size=4, shuffle="none", fields=("mask",)).batch(0, 0)["mask"]
    assert plain.shape == (4, 24, 32)
    mask = data.stream(batch_size=4, shuffle="none", fields=("mask",), image=CenterCrop((24, 32))).batch(0, 0)["mask"]
    assert np.array_equal(mask, plain.repeat(2, 1).repeat(2, 2)[:, 12:36, 16:48])
    own = {"mask": [Resize((24, 32)), lambda mask: 255 - mask]}
    found = data.stream(batch_size=4, shuffle="none", fields=("mask",), transform=own)
    assert found.specs["mask"].shape == (24, 32) and np.array_equal(found.batch(0, 0)["mask"], 255 - plain)


def test_a_stream_goes_on_exactly_with_all_its_fields(png: Path) -> None:
    data = open_dataset(png)

    def stream() -> Any:
        return data.stream(batch_size=4, fields=(*FIELDS, "id"), image=RANDOM, seed=5)

    whole, begun, other = stream(), stream(), stream()
    expected = [*whole, *whole]
    loop = iter(begun)
    next(loop), next(loop)
    other.load_state_dict(json.loads(json.dumps(begun.state_dict())))
    copied = pickle.loads(pickle.dumps(begun))
    for again in (other, copied):
        assert all(same(*batches) for batches in zip([*again, *again], expected[2:], strict=True))
    ranks = [stream().for_rank(rank, 2) for rank in range(2)]
    for parts, batch in zip(zip(*ranks, strict=True), expected, strict=False):
        found = {name: mask for part in parts for name, mask in zip(part["id"], part["mask"], strict=True)}
        assert all(np.array_equal(found[name], mask) for name, mask in zip(batch["id"], batch["mask"], strict=True))
    taken = stream().take([3, 1])
    assert taken["mask"].shape == (2, 18, 20) and len(taken["objects/bbox"]) == 2


def test_a_copy_knows_the_shapes_that_only_a_call_shows(png: Path) -> None:
    own = {"image": [CenterCrop(8), _half], "right": [CenterCrop(8), _half], "mask": [CenterCrop(8), _half]}
    stream = open_dataset(png).stream(batch_size=4, fields=IMAGES[:2], transform=own)
    specs = stream.specs
    copied = pickle.loads(pickle.dumps(stream))
    assert copied._reader.probed_images == stream._reader.probed_images
    assert [set(probed) for probed in copied._reader.probed_images] == [set(IMAGES[:2])]
    assert copied.specs == specs and specs["mask"].shape == (4, 8)


def _half(image: NDArray[Any]) -> NDArray[Any]:
    return image[::2]


def damage(path: Path, name: str, row: int = 0) -> None:
    """Damage a payload of a row of the first shard."""
    file = sorted(path.glob("*.tfrecord"))[0]
    extent = np.load(index_name(str(file)))[row]
    data = bytearray(file.read_bytes())
    data[int(extent[f"{name}_offset"]) + int(extent[f"{name}_length"]) // 2] ^= 16
    file.write_bytes(data)


@pytest.mark.parametrize("way", ["png", "gathered", "copied"])
def test_damage_in_a_mask_is_that_of_its_record(tmp_path: Path, way: str) -> None:
    size = {"png": None, "gathered": (24, 26), "copied": (130, 140)}[way]
    options: dict[str, Any] = {"size": size, "encoding": "png" if way == "png" else "raw", "formats": FORMATS[:1]}
    path = several(tmp_path / "shards", **options)
    expected = (
        open_dataset(path)
        .stream(batch_size=4, shuffle="none", fields=IMAGES, image=CenterCrop(20) if size is None else None)
        .batch(0, 0)
    )
    damage(path, "mask", 1)
    data = open_dataset(path)
    more: dict[str, Any] = {"batch_size": 4, "shuffle": "none", "image": CenterCrop(20) if size is None else None}
    with pytest.raises(CorruptionError, match=r"row 1, id '2.png': the image 'mask' is damaged \(CRC mismatch\)"):
        list(data.stream(**more, fields=("image", "mask")))
    stream = data.stream(**more, fields=IMAGES, on_error="skip")
    batch = next(iter(stream))
    assert batch["weight"].tolist() == [1, 0, 1, 1] and [one.record for one in stream.skipped] == [1]
    assert not batch["mask"][1].any() and np.array_equal(batch["image"], expected["image"])
    assert np.array_equal(batch["mask"][[0, 2, 3]], expected["mask"][[0, 2, 3]])
    assert len(list(data.stream(**more, fields=("image", "right"), verify="always"))) == 3, "nobody asked for it"


def test_two_damaged_images_are_one_damaged_record(tmp_path: Path) -> None:
    path = several(tmp_path / "shards", formats=FORMATS[:1])
    for name in ("depth", "mask", "audio"):
        damage(path, name, 1)
    stream = open_dataset(path).stream(batch_size=4, fields=FIELDS, image=RANDOM, on_error="skip")
    assert sum(batch["weight"].sum() for batch in stream) == 11
    assert len(stream.skipped) == 1 and stream.coverage().skipped == 1


def test_damaged_bytes_and_boxes_are_skipped(tmp_path: Path) -> None:
    path = several(tmp_path / "shards", formats=FORMATS[:1])
    damage(path, "objects/bbox", 1)
    stream = open_dataset(path).stream(batch_size=4, fields=LISTS, image=RANDOM, on_error="skip")
    assert sum(batch["weight"].sum() for batch in stream) == 11
    with pytest.raises(CorruptionError, match=r"row 1, id '2.png': 'objects/bbox' is damaged"):
        list(open_dataset(path).stream(batch_size=4, fields=LISTS, image=RANDOM))


def test_images_outside_of_the_shard_are_damaged(tmp_path: Path) -> None:
    path = several(tmp_path / "shards", size=(24, 26), encoding="raw", formats=FORMATS[:1])
    data = open_dataset(path)
    stream = data.stream(batch_size=4, shuffle="none", fields=("mask",), on_error="skip")
    lookup = stream._reader.lookup(0, 0, 1)
    assert lookup.mapped["mask"].outside is None
    lookup.columns["mask_offset"][1] = 1 << 40
    found = stream._reader._arrays[0]._images["mask"].payloads(lookup)
    assert found.outside is not None and found.outside.tolist() == [False, True, False, False]
    assert lookup.columns["mask_length"][1] == 0


def test_a_mixture_has_the_images_that_all_have(folder: Path, png: Path) -> None:
    other = several(folder / "other", size=(44, 48), encoding="raw", formats=FORMATS[:1])
    data = mix([open_dataset(png), open_dataset(other)], weights=[0.5, 0.5])
    assert [data.fields[name].role for name in IMAGES] == [None, "mask", "depth", "photo"]
    assert data.fields["objects/keypoints"].flip_pairs == ((1, 2),)
    for batch in data.stream(batch_size=6, fields=FIELDS, image=EXACT):
        assert np.array_equal(batch["mask"], batch["image"][..., 0])
    chosen = open_dataset(png).select([5, 2, 7])
    (batch,) = chosen.stream(batch_size=3, shuffle="none", fields=("mask", "image"), image=CenterCrop(16))
    assert list(batch) == ["mask", "image", "weight"] and np.array_equal(batch["mask"], batch["image"][..., 0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"transform": {"image": CenterCrop(8)}, "image": CenterCrop(8)}, ValueError, "image= and transform= exclude"),
        ({"transform": CenterCrop(8)}, TypeError, "transform=CenterCrop.*: must be transforms by the names of image"),
        ({"transform": {"label": CenterCrop(8)}}, ValueError, "'label' is not one of the images image, mask, depth, r"),
        ({"transform": {"mask": 3}}, TypeError, "image=3: expected a transform"),
        ({"image": np.rot90}, ValueError, "numpy.rot90 does not say how it moves pixels, and 'mask' has to follow"),
        ({"image": np.rot90, "fields": ("image", "objects/bbox")}, ValueError, "and 'objects/bbox' has to follow"),
        ({"transform": {"image": CenterCrop(8), "mask": []}}, ValueError, "the images 'mask' of .* may differ in size"),
        ({"image": CenterCrop(200)}, ValueError, "is .*, smaller than the crop of 200x200"),
        ({"image": CenterCrop(200), "fields": ("mask",)}, ValueError, "the image 'mask' is .*, smaller than the crop"),
        ({"image": CenterCrop(200), "fields": ("objects/bbox",)}, ValueError, "the image is .*, smaller than the crop"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_clear_line_for_what_cannot_be(png: Path, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        list(open_dataset(png).stream(**{"batch_size": 4, "fields": ("image", "mask"), **options}))


def test_photos_alone_take_any_transform(png: Path) -> None:
    stream = open_dataset(png).stream(
        batch_size=4, fields=("image", "right", "label"), image=[CenterCrop(16), np.rot90]
    )
    for batch in stream:
        assert np.array_equal(batch["right"], 255 - batch["image"])


@pytest.mark.parametrize("way", ["ranges", "cache"])
def test_remote_fields_that_are_not_asked_for_are_not_fetched(
    way: str, folder: Path, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Large masks, so that no request takes them along.
    local = several(tmp_path / "shards", count=6, size=(300, 320), encoding="raw", formats=FORMATS[:1])
    store = servers.store("moto")
    url = store.copy(local, f"several-{way}")
    store.use(monkeypatch)
    options: dict[str, Any] = {"cache": tmp_path / "cache"} if way == "cache" else {}
    more: dict[str, Any] = {"batch_size": 3, "image": RANDOM, "seed": 6}
    near = open_dataset(local)
    fetched = {}
    for fields in (("mask",), ("image",), ("mask", "audio"), FIELDS):
        with open_dataset(url, **options) as far:
            stream = far.stream(**more, fields=fields)
            assert all(same(*pair) for pair in zip(stream, near.stream(**more, fields=fields), strict=True))
            fetched[fields] = far.fetched().bytes_fetched
    if way == "ranges":
        mask = 6 * 300 * 320
        indexes = sum(path.stat().st_size for path in local.glob("*.npy"))
        assert mask <= fetched[("mask",)] <= mask + indexes + 4096
        assert 3 * mask <= fetched[("image",)] <= 3 * mask + indexes + 4096


def test_a_field_that_is_not_asked_for_is_not_looked_up(raw: Path) -> None:
    data = open_dataset(raw)
    alone = data.stream(batch_size=4)._reader.lookup(0, 0, 1)
    assert set(alone.columns) == {"offset", "length", "crc32c", "height", "width", "label"}
    assert list(alone.mapped) == ["image"]
    mask = data.stream(batch_size=4, fields=("mask",))._reader.lookup(0, 0, 1)
    assert not {"offset", "depth_offset"} & set(mask.columns) and list(mask.mapped) == ["mask"]


def test_outlines_do_not_move_and_say_so(tmp_path: Path) -> None:
    fields = {**SEVERAL, "objects/segmentation": Field(dtype="string", shape=(None,))}
    path = several(tmp_path / "shards", count=4, shards=1, formats=FORMATS[:1], fields=fields)
    data = open_dataset(path)
    with pytest.raises(ValueError, match="'objects/segmentation' has outlines in the stored image, which"):
        data.stream(batch_size=4, fields=("image", "objects/segmentation"), image=CenterCrop(8))
    batch = data.stream(batch_size=4, fields=("objects/segmentation",), shuffle="none").batch(0, 0)
    assert [len(outlines) for outlines in batch["objects/segmentation"]] == [0, 1, 2, 3]


def test_a_dataset_of_masks_takes_functions(tmp_path: Path) -> None:
    fields = {**SEVERAL, "image": Field(dtype="uint8", shape=(None, None, 3), encoding="png", role="mask")}
    data = open_dataset(several(tmp_path / "shards", count=4, shards=1, formats=FORMATS[:1], fields=fields))
    options: dict[str, Any] = {"batch_size": 4, "fields": ("image",), "shuffle": "none"}
    plain = data.stream(**options, image=CenterCrop(8)).batch(0, 0)["image"]
    assert np.array_equal(data.stream(**options, image=[CenterCrop(8), _half]).batch(0, 0)["image"], plain[:, ::2])
