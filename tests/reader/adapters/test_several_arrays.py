"""Every adapter gives masks, depth maps, further photos, bytes and keypoints as the stream does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.stored import several

from shard_reader import CenterCrop, Flip, RandomResizedCrop, Stream, open_dataset

IMAGES = ("image", "mask", "depth", "right")
FIELDS = (*IMAGES, "audio", "objects/bbox", "objects/keypoints")


@pytest.fixture(scope="module", params=["decoded", "gathered"])
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "shards"
    if request.param == "decoded":
        return several(path, formats=("tfrecord",))
    return several(path, size=(24, 26), encoding="raw", formats=("tfrecord",))


def stream(path: Path, **options: Any) -> Stream:
    data = open_dataset(path)
    image = None if data.fields["image"].encoding == "raw" else [RandomResizedCrop((64, 72)), Flip()]
    return data.stream(**{"batch_size": 4, "fields": FIELDS, "image": image, "ragged": "pad", "seed": 3, **options})


def first(path: Path) -> dict[str, NDArray[Any]]:
    return next(iter(stream(path)))


def test_in_pytorch_masks_have_no_channels_and_other_images_have_them_first(shards: Path) -> None:
    torch = pytest.importorskip("torch")
    from shard_reader.torch import RecordDataset, StreamDataset

    expected = first(shards)
    found = next(iter(StreamDataset(stream(shards))))
    for name in ("image", "depth", "right"):
        assert np.array_equal(found[name].permute(0, 2, 3, 1).numpy(), expected[name])
    assert np.array_equal(found["mask"].numpy(), expected["mask"]) and found["depth"].dtype == torch.uint16
    assert found["audio"].tolist() == expected["audio"].tolist()
    assert np.array_equal(found["objects/keypoints"].numpy(), expected["objects/keypoints"])
    images, masks, weight = next(iter(StreamDataset(stream(shards), inputs="image", targets="mask")))
    assert images.shape[1] == 3 and masks.shape == (4, *images.shape[2:]) and weight.shape == (4,)
    crop = CenterCrop(16)
    one = RecordDataset(
        open_dataset(shards), fields=("image", "mask"), transform={"image": crop, "mask": [crop, _half]}
    )
    assert one[3]["image"].shape == (3, 16, 16) and one[3]["mask"].shape == (8, 16)


def _half(mask: NDArray[Any]) -> NDArray[Any]:
    return mask[::2]


def test_in_tensorflow(shards: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    from shard_reader.tf_data import as_dataset, as_tensors

    expected, one = first(shards), stream(shards)
    dataset = as_dataset(one)
    assert dataset.element_spec["depth"].dtype == tf.uint16 and dataset.element_spec["audio"].dtype == tf.string
    for found in (next(iter(dataset)), as_tensors(expected)):
        for name in FIELDS:
            assert found[name].numpy().tolist() == expected[name].tolist()
    elements = as_dataset(stream(shards), inputs=("image", "right"), targets="mask")
    (image, right), mask, _ = next(iter(elements))
    assert image.shape == right.shape and mask.shape == image.shape[:3]


def test_in_jax(shards: Path) -> None:
    pytest.importorskip("jax")
    from shard_reader.jax import GlobalBatches

    expected = first(shards)
    found = next(iter(GlobalBatches(stream(shards))))
    assert all(np.array_equal(found[name], expected[name]) for name in FIELDS)
    assert str(found["depth"].dtype) == "uint16" and found["mask"].ndim == 3


def test_in_keras(shards: Path) -> None:
    pytest.importorskip("keras")
    from shard_reader.keras import ShardSequence

    expected = first(shards)
    sequence = ShardSequence(stream(shards), inputs=("image", "depth"), targets="mask")
    (image, depth), mask, _ = sequence[0]
    assert all(
        np.array_equal(found, expected[name]) for name, found in {"image": image, "depth": depth, "mask": mask}.items()
    )
    whole = ShardSequence(stream(shards), inputs=None, targets=None)[0]
    assert whole["audio"].tolist() == expected["audio"].tolist() and whole["depth"].dtype == np.uint16


def test_normalization_is_of_the_image(shards: Path) -> None:
    torch = pytest.importorskip("torch")
    from shard_reader.torch import normalization

    layer = normalization(open_dataset(shards), mean=[0.5] * 3, std=[0.5] * 3)
    assert layer(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).unique().tolist() == [1.0]
