"""Records with several images: pictures with their masks and keypoints, tables, single records."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.stored import SEVERAL, several, several_objects, several_pixels

from shard_reader import ManifestError, mix, open_dataset
from shard_reader.dataset.shown.shown_pixels import shown_mask
from shard_reader.dataset.shown.thumbnails import thumbnails


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return several(tmp_path_factory.mktemp("several") / "shards", shards=1)


def test_a_picture_has_its_mask_and_its_keypoints(shards: Path) -> None:
    data = open_dataset(shards)
    (found,) = thumbnails(data, [7])
    assert not found.problem and found.uri and len(found.boxes) == 3
    expected = several_objects(7)["objects/keypoints"][:, :2, :2].reshape(-1, 2)
    assert np.allclose(found.points, expected), "those of visibility 0 are nowhere"
    with Image.open(io.BytesIO(base64.b64decode(found.mask.partition(",")[2]))) as image:
        overlay = np.asarray(image)
    assert overlay.shape == (*several_pixels(7).shape[:2], 4)
    assert np.array_equal(overlay[..., 3] == 0, several_pixels(7)[..., 0] == 0)


def test_a_notebook_shows_them(shards: Path) -> None:
    data = open_dataset(shards)
    text = data.show(12)._repr_html_()
    assert text.count("<img") == 24 and len(re.findall("<path", text)) == sum(2 * (number % 4) for number in range(12))
    overview = data._repr_html_()
    assert "keypoints" in overview and "depth" in overview


def test_classes_have_colours_of_their_own_and_the_background_has_none() -> None:
    colours = shown_mask(np.arange(256, dtype=np.uint8).reshape(16, 16, 1)).reshape(-1, 4)
    assert colours[0, 3] == 0 and (colours[1:, 3] == 128).all()
    assert len({tuple(colour) for colour in colours[1:21].tolist()}) == 20
    assert shown_mask(np.full((2, 3, 1), np.nan, np.float32)).shape == (2, 3, 4)


def test_tables_have_bytes_and_no_images(shards: Path) -> None:
    pytest.importorskip("pandas")
    data = open_dataset(shards)
    frame = data.to_pandas(["audio", "label", "objects/keypoints"])
    assert frame["audio"].tolist() == [bytes(range(number % 7)) for number in range(12)]
    assert frame["objects/keypoints"][3].shape == (3, 3, 3)
    assert set(data.to_pandas().columns) == {"label", "class", "id", "height", "width"}
    with pytest.raises(ValueError, match="'mask' is not a column of"):
        data.to_pandas(["mask"])


def test_a_record_has_all_of_it(shards: Path) -> None:
    record = mix([open_dataset(shards), open_dataset(shards, format="hdf5")], weights=[0.5, 0.5])[15]
    assert set(record) == {*SEVERAL} - {"height", "width"}
    assert np.array_equal(record["mask"], several_pixels(3)[..., 0]) and record["audio"] == bytes(range(3))


def test_every_image_is_below_the_bound_of_pixels(tmp_path: Path) -> None:
    path = several(tmp_path / "shards", size=(40, 48), count=2, formats=("tfrecord",))
    with pytest.raises(ManifestError, match=r"fields.mask.shape: 48x40 pixels are more than max_pixels=1000"):
        open_dataset(path, max_pixels=1000)
