"""One image as the job did it: the pixels of `preprocess` are those that a stream gives."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import everything
from support.images import write_image

from beam_jobs import PrepareOptions, UsageError, prepare, preprocess, serving
from beam_jobs.sources import BadInput
from shard_reader import CenterCrop, Dataset, Flip, Resize, open_dataset

SHAPES = {"size": (24, 16), "shards": 1, "workers": 1, "max_rejects": 0}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes, depths and modes, among them a JPEG that keeps its bytes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("serving")
    for number, name in enumerate(("a/0.png", "a/1.jpg", "b/2.jpg", "b/3.png")):
        write_image(folder / name, number, (60 - 7 * number, 30 + 5 * number))
    rng = np.random.default_rng(3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(folder / "a/turned.jpg", exif=exif)
    Image.fromarray(rng.integers(0, 65_535, (20, 30), np.uint16)).save(folder / "b/deep.png")
    Image.fromarray(rng.integers(0, 255, (20, 30, 4), np.uint8)).save(folder / "b/clear.png")
    return folder


def made(images: Path, output: Path, **more: Any) -> Dataset:
    prepare(PrepareOptions(input=images, output=output, **(SHAPES | more)), quiet=True)
    return open_dataset(output)


@pytest.mark.parametrize(
    "more",
    [
        {"encoding": "raw", "fit": "crop"},
        {"encoding": "png", "fit": "pad", "pad_color": "red", "filter": "area"},
        {"fit": "none", "size": None},
        {"fit": "inside", "encoding": "webp", "quality": 60},
        {"dtype": "uint16", "encoding": "raw", "fit": "stretch", "channels": "keep"},
        {"normalize": "dataset", "fit": "crop"},
        {"normalize": "per-image", "channels": "grey", "fit": "crop", "dtype": "float16"},
        {"fit": "cover", "only_shrink": True, "restart_markers": "row", "background": (3, 4, 5), "exact_decode": True},
    ],
    ids=lambda more: "-".join(map(str, more.values())),
)
def test_an_image_gets_the_pixels_of_its_record(images: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    data = made(images, tmp_path / "out", **more)
    for number in range(len(data)):
        record = data[number]
        path = images / record["id"]
        for image in (path, str(path), path.read_bytes()):
            found = preprocess(image, data)
            np.testing.assert_array_equal(found, record["image"])
            assert found.dtype == record["image"].dtype
    assert len(data) == 7


def test_a_transform_gives_what_a_stream_gives(images: Path, tmp_path: Path) -> None:
    """The stream decodes a JPEG at a scale of its size where the transform allows it."""
    data = made(images, tmp_path / "out", fit="none", size=None)
    steps = [Resize(12, exact=False), CenterCrop(8)]
    batch = next(iter(data.stream(batch_size=7, image=steps, fields=["image", "id"])))
    for image, id in zip(batch["image"], batch["id"], strict=True):
        np.testing.assert_array_equal(preprocess(images / bytes(id).decode(), data, steps), image)


def test_pixels_are_an_image_too(images: Path, tmp_path: Path) -> None:
    from PIL import Image

    data = made(images, tmp_path / "out", encoding="raw", fit="crop")
    pixels = np.asarray(Image.open(images / "a/0.png"))
    expected = next(data[n]["image"] for n in range(len(data)) if data[n]["id"] == "a/0.png")
    np.testing.assert_array_equal(preprocess(pixels, data.manifest), expected)
    np.testing.assert_array_equal(preprocess(pixels, tmp_path / "out"), expected)


def test_what_cannot_be_served_is_said(images: Path, tmp_path: Path) -> None:
    data = made(images, tmp_path / "out", encoding="raw", fit="crop")
    with pytest.raises(BadInput, match="no image format that Pillow knows"):
        preprocess(b"hello", data)
    with pytest.raises(UsageError, match=r"transform=\[Flip.* is random; give the transforms of the evaluation"):
        preprocess(images / "a/0.png", data, Flip())
    with pytest.raises(UsageError, match=r"there is no dataset; it would have a dataset\.json"):
        preprocess(images / "a/0.png", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="was not made by `prepare`"):
        preprocess(images / "a/0.png", replace(data.manifest, options={}))
    newer = data.manifest.options | {"image": data.manifest.options["image"] | {"sharpen": 1}}
    with pytest.raises(UsageError, match="a newer version made the dataset: this one has no option sharpen"):
        preprocess(images / "a/0.png", replace(data.manifest, options=newer))


def test_other_versions_of_decoders_are_told_once(images: Path, tmp_path: Path) -> None:
    data = made(images, tmp_path / "out", encoding="raw", fit="crop")
    codecs = dict(data.manifest.fingerprint.codecs) | {"simplejpeg": "0.1"}
    other = replace(data.manifest, fingerprint=replace(data.manifest.fingerprint, codecs=codecs))
    serving._told.clear()
    with pytest.warns(UserWarning, match=r"pixels may differ from those of the dataset: here is simplejpeg .* 0\.1\)"):
        preprocess(images / "a/0.png", other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preprocess(images / "a/0.png", other)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_every_photo_gets_the_pixels_of_its_record(photos: Path, tmp_path: Path, encoding: str) -> None:
    output = tmp_path / "out"
    prepare(PrepareOptions(input=photos, output=output, size=224, fit="crop", encoding=encoding), quiet=True)
    data = open_dataset(output)
    for number in range(len(data)):
        record = data[number]
        np.testing.assert_array_equal(preprocess(photos / record["id"], data), record["image"])
    assert len(data) == 300


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Records with a mask, a depth map and a second photo, of which one is turned."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "in").mkdir()
    options = {
        "source": everything.Everything,
        "size": (20, 14),
        "fit": "pad",
        "mask_border": 9,
        "allow_missing": ("mask",),
    }
    return made(folder / "in", folder / "out", **options)


@pytest.mark.parametrize("transform", [None, CenterCrop(12), [Resize(30), CenterCrop((8, 10))]], ids=repr)
def test_several_images_of_a_record_are_those_of_a_stream(several: Dataset, transform: Any) -> None:
    names = ("image", "mask", "depth", "right")
    stream = several.stream(batch_size=len(several), shuffle="none", fields=(*names, "id"), image=transform)
    (batch,) = stream
    for place, id in enumerate(batch["id"]):
        number = int(id.partition(b".")[0])
        if number == everything.WITHOUT_MASK:
            continue
        orientation = 6 if number == 1 else 1
        given = {
            "mask": everything.mask_of(number),
            "image": everything.photo_file(number, orientation),
            "depth": everything.depth_of(number),
            "right": everything.photo_file(number + 100, orientation),
        }
        found = preprocess(given, several, transform)
        assert list(found) == list(given)
        for name in names:
            assert np.array_equal(found[name], batch[name][place]), (number, name)


def test_images_that_the_dataset_has_not_are_refused(several: Dataset) -> None:
    photo, mask = everything.photo_file(0), everything.mask_of(0)
    with pytest.raises(UsageError, match="'masks' is no image of the dataset; it has image, mask, depth, right"):
        preprocess({"image": photo, "masks": mask}, several)
    with pytest.raises(UsageError, match="needs 'image', whose geometry the others follow"):
        preprocess({"mask": mask}, several)
    with pytest.raises(BadInput, match="mask: has 40x15 pixels, and the image 40x30: other proportions"):
        preprocess({"image": photo, "mask": mask[:15]}, several)
    with pytest.raises(UsageError, match="does not say how it moves pixels, and 'mask' has to follow"):
        preprocess({"image": photo, "mask": mask}, several, np.fliplr)
