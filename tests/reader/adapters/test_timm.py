"""timm's ImageDataset and loader over shards: the stored images, their labels and ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import prepared

from shard_reader import open_dataset

pytestmark = pytest.mark.slow  # timm is imported in seconds


@pytest.fixture(scope="module")
def reader() -> Callable[..., Any]:
    """`ShardReader`."""
    pytest.importorskip("timm", reason="needs timm")
    from shard_reader.timm import ShardReader

    return ShardReader


def test_encoded_images_are_their_stored_bytes(reader: Callable[..., Any], jpeg_shards: Path) -> None:
    with open_dataset(jpeg_shards) as data:
        found = reader(data)
        assert len(found) == len(data) and found.class_to_idx == {"a": 0, "b": 1, "c": 2}
        for number in (0, 7, len(data) - 1):
            file, label = found[number]
            assert file.read() == data.payload(number).tobytes() and label == data[number]["label"]
        assert reader(data, label=None)[0][1] is None  # which timm takes for -1


@pytest.mark.parametrize("channels", ["rgb", "grey"])
def test_raw_pixels_are_files_that_pillow_opens(
    reader: Callable[..., Any], class_folders: Path, tmp_path: Path, channels: str
) -> None:
    options = ["--size=16x12", "--encoding=raw", f"--channels={channels}"]
    with open_dataset(prepared(class_folders, tmp_path / "shards", *options)) as data:
        for number in range(3):
            opened = Image.open(reader(data)[number][0])
            assert (opened.size, opened.mode) == ((16, 12), "RGB" if channels == "rgb" else "L")
            assert np.array_equal(np.atleast_3d(np.asarray(opened)), data.image(number))


def test_file_names_are_ids(reader: Callable[..., Any], raw_shards: Path) -> None:
    with open_dataset(raw_shards) as data:
        ids = [id.decode() for id in data.ids()]
        assert reader(data).filenames() == ids and reader(data).filename(5) == ids[5]
        assert reader(data).filename(5, basename=True) == Path(ids[5]).name
        assert reader(data).filenames(basename=True)[5] == Path(ids[5]).name


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_loader_of_timm_gives_each_record(reader: Callable[..., Any], raw_shards: Path) -> None:
    import timm.data
    import torch

    dataset = timm.data.ImageDataset("shards", reader=reader(open_dataset(raw_shards)))
    options = {"use_prefetcher": False, "persistent_workers": False, "num_workers": 1, "device": torch.device("cpu")}
    loader = timm.data.create_loader(dataset, (3, 8, 8), batch_size=16, is_training=True, **options)
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [(16, 3, 8, 8)] * 3
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    assert np.array_equal(np.sort(labels), np.sort(open_dataset(raw_shards).column("label")))


def test_the_position_under_the_prefetch_of_timm_is_that_of_the_batch_in_use(
    reader: Callable[..., Any], raw_shards: Path
) -> None:
    import torch
    from timm.data.loader import PrefetchLoader
    from torch.utils.data import DataLoader

    from shard_reader.torch import StreamDataset

    def batches() -> StreamDataset:
        stream = open_dataset(raw_shards).stream(batch_size=8, remainder="drop")
        return StreamDataset(stream, inputs="image", targets="label", weight=None)

    expected, dataset = [labels.tolist() for _, labels in batches()], batches()
    loop = iter(PrefetchLoader(DataLoader(dataset, batch_size=None), device=torch.device("cpu")))
    taken = [next(loop)[1].tolist() for _ in range(3)]
    assert dataset.state_dict()["step"] == 3
    resumed = batches()
    resumed.load_state_dict(dataset.state_dict())
    assert taken + [labels.tolist() for _, labels in resumed] == expected
    assert len(list(loop)) == 3 and dataset.state_dict()["epoch"] == 1


def test_what_timm_cannot_open_is_refused(reader: Callable[..., Any], class_folders: Path, tmp_path: Path) -> None:
    options = ["--size=8x8", "--encoding=raw", "--dtype=float32"]
    with open_dataset(prepared(class_folders, tmp_path / "shards", *options)) as data:
        with pytest.raises(ValueError, match=r"image='image': float32 pixels of shape .* take StreamDataset"):
            reader(data)
        with pytest.raises(ValueError, match="image='mask': the data has no image of this name"):
            reader(data, image="mask")
        with pytest.raises(ValueError, match="label='id': the data has no such number of each record"):
            reader(data, label="id")
