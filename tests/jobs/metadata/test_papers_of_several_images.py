"""The papers of a dataset with several images, bytes and keypoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from support.several import SEVERAL, several_images, several_record

from beam_jobs.metadata.card import Card
from beam_jobs.metadata.croissant import croissant
from beam_jobs.metadata.page import page
from beam_jobs.metadata.parquet import join_parts, write_part
from beam_jobs.metadata.pictures import coloured, pictures
from beam_jobs.metadata.tfds import metadata_files
from shard_reader import open_dataset
from shard_reader.format import index


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return several_images(tmp_path_factory.mktemp("several") / "data")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of NumPy, of protobuf and of itself
def test_tensorflow_datasets_reads_every_kind(several: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    for name, content in metadata_files(open_dataset(several).manifest, "pairs").items():
        (several / name).write_bytes(content)
    builder = tfds.builder_from_directory(str(several))
    found = list(tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False)))
    assert len(found) == 4
    for number, record in enumerate(found):
        expected, pixels = several_record(number, 48 + number, 64)
        for name, image in pixels.items():
            assert record[name].dtype == image.dtype and np.array_equal(record[name], image), name
        assert record["audio"] == expected["audio"] and record["label"] == expected["label"]
        assert np.array_equal(record["objects"]["keypoints"], expected["objects/keypoints"])
        assert np.array_equal(record["objects"]["bbox"], expected["objects/bbox"])
    features = builder.info.features
    assert type(features["mask"]).__name__ == "Image" and features["depth"].np_dtype == np.uint16
    assert type(features["objects"].feature["bbox"]).__name__ == "BBoxFeature"
    (pair, *_) = tfds.as_numpy(builder.as_dataset(split="train", as_supervised=True))
    assert pair[1] in (0, 1)


def test_a_mask_is_the_target_where_there_is_no_label(tmp_path: Path) -> None:
    manifest = open_dataset(several_images(tmp_path / "data", 1)).manifest
    assert b'"output": "label"' in metadata_files(manifest, "pairs")["dataset_info.json"]
    del manifest.fields["label"]  # type: ignore[attr-defined]
    assert b'"output": "mask"' in metadata_files(manifest, "pairs")["dataset_info.json"]


def test_the_table_has_neither_images_nor_bytes(several: Path, tmp_path: Path) -> None:
    data = open_dataset(several)
    (shard,) = data.manifest.splits["train"].shards
    file = shard.files["hdf5"]
    rows = index.load(several, file, shard.records, data.fields)
    write_part(tmp_path / "part", several / file.path, "hdf5", rows, data.fields)
    parts = [("train", (tmp_path / "part").read_bytes())]
    join_parts(tmp_path / "metadata.parquet", parts, data.fields, data.manifest.class_names)
    table = pq.read_table(tmp_path / "metadata.parquet")
    payloads = {"image", "mask", "instances", "depth", "right", "audio"}
    assert {*SEVERAL} - {*table.column_names} == payloads
    assert {*table.column_names} - {*SEVERAL} == {"split", "label_name", "objects/label_name"}
    assert table.column("objects/keypoints")[1].as_py()[0][0] == [0.5, 0.5, 2]


def test_the_card_says_what_fields_mean(several: Path) -> None:
    text = page(open_dataset(several).manifest, Card(), "pairs")
    assert yaml.safe_load(text.split("---\n")[1])["task_categories"] == [
        "image-classification",
        "object-detection",
        "image-segmentation",
        "keypoint-detection",
        "depth-estimation",
    ]
    assert "| mask | uint8 \\[n, n, 1\\], png, mask | for each pixel a number, as of its class |" in text
    assert "| audio | bytes |  |" in text
    assert "(visible): nose, left eye, right eye |" in text
    assert "- mask was turned, resized and cropped like its image, with the nearest pixel, and is stored as png" in text


def test_croissant_has_no_field_without_a_column(several: Path) -> None:
    manifest = open_dataset(several).manifest
    files = {**manifest.files, "metadata.parquet": "0" * 64}
    from dataclasses import replace

    found = croissant(replace(manifest, files=files), Card(), "pairs", "0" * 64, 1)
    (records,) = [one for one in found["recordSet"] if one["name"] == "records"]
    names = {one["name"] for one in records["field"]}
    assert "objects/keypoints" in names and not names & {"image", "mask", "audio"}
    words = "All fields of the records but image, mask, instances, depth, right, audio, which are in the shards."
    assert records["description"] == words


def test_pictures_show_masks_over_their_images(several: Path) -> None:
    import io

    from PIL import Image

    (sheet,) = pictures(open_dataset(several).manifest, str(several)).values()
    with Image.open(io.BytesIO(sheet)) as picture:
        pixels = np.asarray(picture).astype(int)
    first = pixels[8:168, 8:168]
    colourful = np.ptp(first, axis=2) > 40
    assert 0.1 < colourful.mean() < 0.5  # the image itself is grey, and two fifths of it have a class


def test_colours_of_masks() -> None:
    colours = coloured(np.array([[0, 1, 2, 255, 256]], np.uint16))
    assert colours[0, 0, 3] == 0 and colours[0, 3].tolist() == [255] * 4
    assert colours[0, 1].tolist() == colours[0, 4].tolist() != colours[0, 2].tolist()
    assert coloured(np.array([[[np.nan], [-1.5], [1e30]]], np.float32)).shape == (1, 3, 4)
