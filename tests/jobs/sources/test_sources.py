"""Every source through the command: the same photos give the same pixels and labels, whatever they come in."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import REPOSITORY, command, prepared
from support.images import write_image

from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.known import recognised
from shard_reader import open_dataset

COCO = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
        {"id": 9, "file_name": "b.png", "width": 20, "height": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [0, 0, 10, 20], "area": 200, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [15, 5, 10, 10], "area": 100, "iscrowd": 1},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
}


def records(output: Path) -> dict[str, tuple[str, bytes]]:
    """The class and the pixels of every record, by the name of its file."""
    data = open_dataset(output)
    found = {}
    for number in range(len(data)):
        record = data[number]
        assert data.class_names is not None
        name = data.class_names[record["label"]]
        found[Path(record["id"]).stem] = (name, record["image"].tobytes())
    assert len(found) == len(data)
    return found


def as_csv(photos: list[Path], root: Path, into: Path) -> list[Any]:
    import pandas as pd

    frame = pd.DataFrame(
        {"tile_name": [str(p.relative_to(root)) for p in photos], "y": [p.parent.name for p in photos]}
    )
    frame.to_csv(into / "photos.csv", index=False)
    return [into / "photos.csv", "--root", root, "--path-column", "tile_name", "--label-column", "y"]


def as_parquet(photos: list[Path], root: Path, into: Path) -> list[Any]:
    import pandas as pd

    frame = pd.DataFrame({"path": [str(p) for p in photos], "label": [p.parent.name for p in photos]})
    frame.to_parquet(into / "photos.parquet")
    return [into / "photos.parquet"]


def as_jsonl(photos: list[Path], root: Path, into: Path) -> list[Any]:
    lines = [json.dumps({"file": str(p.relative_to(root)), "class": p.parent.name}) + "\n" for p in photos]
    (into / "photos.jsonl").write_text("".join(lines))
    return [into / "photos.jsonl", "--root", root]


def as_tsv(photos: list[Path], root: Path, into: Path) -> list[Any]:
    with open(into / "photos.tsv", "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["image", "label", "note"])
        writer.writerows([str(p.relative_to(root)), p.parent.name, 'with a\ttab and "quotes"'] for p in photos)
    return [into / "photos.tsv", "--root", root]


def as_tar(photos: list[Path], root: Path, into: Path) -> list[Any]:
    with tarfile.open(into / "photos.tar", "w") as tar:
        for path in photos:
            tar.add(path, str(path.relative_to(root)))
    return [into / "photos.tar"]


def as_webdataset(photos: list[Path], root: Path, into: Path) -> list[Any]:
    import webdataset

    (into / "shards").mkdir()
    for number in range(2):
        with webdataset.TarWriter(str(into / f"shards/photos-{number}.tar")) as writer:
            for path in photos[number::2]:
                key, suffix = path.name.split(".", 1)
                writer.write({"__key__": key, suffix: path.read_bytes(), "cls": path.parent.name.encode()})
    return [into / "shards"]


def as_zip(photos: list[Path], root: Path, into: Path) -> list[Any]:
    with zipfile.ZipFile(into / "photos.zip", "w") as archive:
        for number, path in enumerate(photos):
            how = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.write(path, str(path.relative_to(root)), how)
    return [into / "photos.zip"]


def as_tfrecords(photos: list[Path], root: Path, into: Path) -> list[Any]:
    tf = pytest.importorskip("tensorflow")

    def feature(value: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(into / "photos.tfrecord")) as writer:
        for path in photos:
            features = {"image/encoded": feature(path.read_bytes()), "name": feature(path.stem.encode())}
            features["image/class/text"] = feature(path.parent.name.encode())
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return [into / "photos.tfrecord", "--label-column", "image/class/text", "--id-column", "name"]


def as_hdf5(photos: list[Path], root: Path, into: Path) -> list[Any]:
    import h5py

    with h5py.File(into / "photos.h5", "w") as file:
        images = file.create_dataset("image", (len(photos),), h5py.vlen_dtype(np.uint8))
        for row, path in enumerate(photos):
            images[row] = np.frombuffer(path.read_bytes(), np.uint8)
        file["label"] = [path.parent.name for path in photos]
        file["name"] = [path.stem for path in photos]
    return [into / "photos.h5", "--id-column", "name"]


def as_class_pattern(photos: list[Path], root: Path, into: Path) -> list[Any]:
    for path in photos:
        link = into / "in" / f"of {path.parent.name}" / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return [into / "in", "--class-pattern", "of (?P<label>.+)/[^/]+"]


def as_images_in_parquet(photos: list[Path], root: Path, into: Path) -> list[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"jpg": [path.read_bytes() for path in photos], "label": [path.parent.name for path in photos]}
    names = {"name": [path.stem for path in photos]}
    parquet.write_table(pa.table(columns | names), into / "photos.parquet", row_group_size=100)
    return [into / "photos.parquet", "--id-column", "name"]


def in_features(photos: list[Path]) -> Any:
    """A dataset of Hugging Face, with the files in it."""
    datasets = pytest.importorskip("datasets")
    names = sorted({path.parent.name for path in photos})
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    rows = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path in photos],
        "label": [names.index(path.parent.name) for path in photos],
    }
    return datasets.Dataset.from_dict(rows, features)


def as_files_of_the_hub(photos: list[Path], root: Path, into: Path) -> list[Any]:
    data = in_features(photos)
    for number in range(2):
        data.shard(2, number).to_parquet(str(into / f"in/data/train-0000{number}-of-00002.parquet"))
    return [into / "in", "--id-column", "image.path"]


def as_saved_to_disk(photos: list[Path], root: Path, into: Path) -> list[Any]:
    in_features(photos).save_to_disk(str(into / "in"), num_shards=2)
    return [into / "in", "--id-column", "image.path"]


def as_image_folder(photos: list[Path], root: Path, into: Path) -> list[Any]:
    lines = ["file_name,label"]
    for path in photos:
        lines.append(f"{path.parent.name}/{path.name},{path.parent.name}")
        (into / "in" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (into / "in" / path.parent.name / path.name).symlink_to(path)
    (into / "in/metadata.csv").write_text("\n".join(lines))
    return [into / "in"]


FORMS: list[Callable[[list[Path], Path, Path], list[Any]]] = [
    *(as_csv, as_parquet, as_jsonl, as_tsv, as_tar, as_webdataset, as_zip, as_tfrecords, as_hdf5, as_class_pattern),
    *(as_images_in_parquet, as_files_of_the_hub, as_saved_to_disk, as_image_folder),
]


@pytest.fixture(scope="session")
def photos_in_shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(photos, tmp_path_factory.mktemp("photos") / "out", "--size", 32, "--encoding", "png")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_same_photos_in_every_form(
    form: Callable[[list[Path], Path, Path], list[Any]], photos: Path, photos_in_shards: Path, tmp_path: Path
) -> None:
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    source, *options = form(files, photos, tmp_path)
    output = prepared(source, tmp_path / "out", *options, "--size", 32, "--encoding", "png")
    assert records(output) == records(photos_in_shards)


def test_a_table_s_columns_become_fields(class_folders: Path, tmp_path: Path) -> None:
    rows = ["path,label,age,city,split"]
    rows += [f"a/{n:03d}.{'png' if n % 2 else 'jpg'},{n % 2},{n / 2},Zürich,{'val' if n == 3 else 'train'}"
             for n in range(0, 60, 3)]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(rows), "utf-8")
    options = ["--root", class_folders, "--format", "tfrecord", "--format", "hdf5", "--size", 8]
    result = command("prepare", tmp_path / "t.csv", tmp_path / "out", *options)
    assert result.returncode == 0, result.stderr
    assert f'images in column "path" below {class_folders}, labels in "label", split in "split"' in result.stderr
    assert "source: table, from the name t.csv" in result.stderr
    for format in ("tfrecord", "hdf5"):
        data = open_dataset(tmp_path / "out", "val", format=format)
        record = data[0]
        assert (record["label"], record["age"], record["city"], record["id"]) == (1, 1.5, "Zürich", "a/003.png")
        assert data.manifest.splits["val"].classes == {"1": 1}
        (batch,) = data.stream(batch_size=1, fields=("age", "city"))
        assert batch["age"].tolist() == [1.5] and batch["city"].tolist() == ["Zürich".encode()]


def test_several_labels(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na/000.jpg,dog|cat\na/003.png,dog\n")
    options = ["--root", class_folders, "--label-separator", "|", "--size", 8]
    data = open_dataset(prepared(tmp_path / "t.csv", tmp_path / "out", *options))
    found = {data[n]["id"]: data[n]["label"].tolist() for n in range(2)}
    assert found == {"a/000.jpg": [0, 1], "a/003.png": [1]}
    assert data.manifest.splits["train"].classes == {"cat": 1, "dog": 2}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two images, one of which has a dog on its left half and a car in the middle."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :10] = [255, 0, 0]
    pixels[5:15, 15:25] = [0, 255, 0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    write_image(tmp_path / "b.png", size=(20, 20))
    (tmp_path / "instances.json").write_text(json.dumps(COCO))
    return tmp_path / "instances.json"


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_boxes_are_where_the_pixels_are(coco: Path, tmp_path: Path, fit: str, format: str) -> None:
    options = ["--size", "40x40", "--fit", fit, "--encoding", "raw", "--filter", "nearest", "--format", format]
    data = open_dataset(prepared(coco, tmp_path / "out", *options))
    assert data.class_names == ("car", "dog")
    by_id = {data[n]["id"]: data[n] for n in range(2)}
    empty, record = by_id["b.png"], by_id["a.png"]
    assert empty["objects/bbox"].shape == (0, 4) and record["image_id"] == 7
    found = {}
    for box, label, id in zip(record["objects/bbox"], record["objects/label"], record["objects/id"], strict=True):
        top, left, bottom, right = np.round(box * 40).astype(int)
        found[data.class_names[label]] = record["image"][top:bottom, left:right].reshape(-1, 3).mean(0).round().tolist()
        assert id == {"dog": 1, "car": 2}[data.class_names[label]]
    expected = {"car": [0, 255, 0], "dog": [255, 0, 0]}
    if fit == "crop":  # of the dog, to the left, nothing is left
        del expected["dog"]
    assert found == expected
    assert data.manifest.counts.changed.get("boxes", 0) == (fit == "crop")


@pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of protobuf and of itself
def test_tensorflow_datasets_reads_boxes(coco: Path, tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    output = prepared(coco, tmp_path / "out", "--size", "40x40", "--fit", "pad")
    builder = tfds.builder_from_directory(str(output))
    assert builder.info.features["objects"].feature["label"].names == ["car", "dog"]
    by_id = {example["id"]: example for example in tfds.as_numpy(builder.as_dataset(split="train"))}
    data = open_dataset(output)
    for record in (data[n] for n in range(2)):
        example = by_id[record["id"].encode()]
        assert np.array_equal(example["objects"]["bbox"], record["objects/bbox"])
        assert np.array_equal(example["objects"]["label"], record["objects/label"])
        assert example["image_id"] == record["image_id"]


@pytest.mark.slow
def test_annotations_for_an_image_of_another_size_are_a_reject(coco: Path, tmp_path: Path) -> None:
    Image.open(coco.parent / "a.png").resize((20, 10)).save(coco.parent / "a.png")
    output = prepared(coco, tmp_path / "out", "--max-rejects", 1)
    (line,) = (output / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "wrong-size"
    assert json.loads(line)["message"] == "is 20x10, its annotations are for 40x20"


@pytest.mark.slow
def test_boxes_in_the_frame_that_people_see_stay_there(tmp_path: Path) -> None:
    """An image that a camera stored on its side: annotation tools show it, and measure boxes, upright."""
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :10] = [255, 0, 0]  # turned by 90 degrees (orientation 6), this is the top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    image = {"id": 1, "file_name": "a.png", "width": 20, "height": 40}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 10], "area": 1, "iscrowd": 0}
    whole = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "red"}]}
    for name, changed in (("upright", {}), ("stored", {"width": 40, "height": 20, "bbox": [0, 0, 10, 20]})):
        image.update({key: value for key, value in changed.items() if key != "bbox"})
        box.update({key: value for key, value in changed.items() if key == "bbox"})
        (tmp_path / f"{name}.json").write_text(json.dumps(whole))
        options = ["--root", tmp_path, "--fit", "none", "--encoding", "png"]
        record = open_dataset(prepared(tmp_path / f"{name}.json", tmp_path / name, *options))[0]
        assert np.allclose(record["objects/bbox"], [[0, 0, 0.25, 1]])
        assert (record["image"][:10] == [255, 0, 0]).all() and not record["image"][10:].any()


def test_a_table_with_boxes_and_points(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", size=(40, 20))
    (tmp_path / "t.csv").write_text("path,x1,y1,x2,y2,eye_x,eye_y\na.png,-10,5,20,15,30,10\n")
    options = ["--boxes", "x1,y1,x2,y2", "--points", "eye_x,eye_y", "--size", "40x40", "--fit", "pad"]
    data = open_dataset(prepared(tmp_path / "t.csv", tmp_path / "out", *options))
    assert np.allclose(data[0]["objects/bbox"], [[15 / 40, 0, 25 / 40, 0.5]])  # clipped to the image
    assert np.allclose(data[0]["objects/point"], [[0.5, 0.75]])


def test_classes_from_a_file(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("c\nb\na\n")
    data = open_dataset(prepared(class_folders, tmp_path / "out", "--size", 8, "--classes", tmp_path / "classes.txt"))
    assert data.class_names == ("c", "b", "a")
    assert {(data[n]["id"][0], data[n]["label"]) for n in range(60)} == {("c", 0), ("b", 1), ("a", 2)}
    (tmp_path / "classes.txt").write_text("a\nb\n")
    result = command("prepare", class_folders, tmp_path / "two", "--classes", tmp_path / "classes.txt")
    assert result.returncode == 1
    assert "unknown-class: the class 'c' is not in --classes" in result.stderr


@pytest.mark.slow
def test_a_source_of_one_s_own(class_folders: Path, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "photos.db") as database:
        database.execute("CREATE TABLE photos (name TEXT PRIMARY KEY, class TEXT, caption TEXT, jpeg BLOB)")
        for path in sorted(class_folders.rglob("*.jpg")):
            row = (path.stem, path.parent.name, f"number {path.stem}", path.read_bytes())
            database.execute("INSERT INTO photos VALUES (?, ?, ?, ?)", row)
    database.close()
    shutil.copy(REPOSITORY / "examples/custom_source.py", tmp_path)
    words = ["photos.db", "out", "--source", "custom_source:Database", "--size", 8]
    result = command("prepare", *words, cwd=tmp_path, env=path_for_commands())
    assert result.returncode == 0, result.stderr
    assert "an SQLite database of photos, 30 images" in result.stderr
    data = open_dataset(tmp_path / "out")
    assert (len(data), data.class_names) == (30, ("a", "b", "c"))
    assert all(data[n]["caption"] == f"number {data[n]['id']}" for n in range(30))


def path_for_commands() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.slow
def test_boxes_of_the_image_as_it_is_shown(tmp_path: Path) -> None:
    """Half a turn: the size does not tell which way the annotations are."""
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :10] = [255, 0, 0]  # shown, that is on the right
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "t.csv").write_text("path,x1,y1,x2,y2\na.png,30,0,40,20\n")
    options = ["--boxes", "x1,y1,x2,y2", "--size", "40x20", "--encoding", "raw"]
    for frame, expected in (("upright", [0, 0.75, 1, 1]), ("stored", [0, 0, 1, 0.25])):
        data = open_dataset(prepared(tmp_path / "t.csv", tmp_path / frame, *options, "--box-frame", frame))
        assert np.allclose(data[0]["objects/bbox"], [expected])
        assert (data[0]["image"][:, 30:] == [255, 0, 0]).all()


def test_what_hangs_over_the_image_does_not_reach_into_the_border(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", size=(40, 20))
    (tmp_path / "t.csv").write_text("path,x1,y1,x2,y2\na.png,5,-15,15,50\n")
    options = ["--boxes", "x1,y1,x2,y2", "--size", "40x40", "--fit", "pad"]
    data = open_dataset(prepared(tmp_path / "t.csv", tmp_path / "out", *options))
    assert np.allclose(data[0]["objects/bbox"], [[0.25, 0.125, 0.75, 0.375]])


@pytest.mark.slow
def test_boxes_that_nobody_names_are_not_left_behind(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", size=(40, 20))
    (tmp_path / "t.csv").write_text("path,xmin\na.png,5\n")
    result = command("prepare", tmp_path / "t.csv", tmp_path / "out")
    assert result.returncode == 2
    assert (
        "the field 'xmin' looks like boxes, and would not move with the pixels: name it with --boxes" in result.stderr
    )
    assert prepared(tmp_path / "t.csv", tmp_path / "a", "--fields", "xmin")
    assert prepared(tmp_path / "t.csv", tmp_path / "b", "--fit", "none")


def test_paths_as_windows_and_kaggle_have_them(class_folders: Path, tmp_path: Path) -> None:
    names = [f"a\\{number:03d}" for number in range(0, 60, 6)]
    (tmp_path / "t.csv").write_text("file\tlabel\n" + "".join(f"{name}\t cat \n" for name in names))
    options = ["--root", class_folders, "--path-suffix", ".jpg", "--size", 8]
    data = open_dataset(prepared(tmp_path / "t.csv", tmp_path / "out", *options))
    assert len(data) == 10 and data.class_names == ("cat",)
    assert {data[n]["id"] for n in range(10)} == {f"a/{number:03d}.jpg" for number in range(0, 60, 6)}


def test_a_plan_says_that_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\nnowhere/1.jpg,a\nnowhere/2.jpg,b\n")
    result = command("prepare", tmp_path / "t.csv", tmp_path / "out", "--dry-run")
    assert "sample     2 of 2 images cannot be used, as" in result.stdout
    assert "nowhere/" in result.stdout and ": missing: is not there" in result.stdout


def test_another_root_is_another_job(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n000.jpg,a\n")
    prepared(tmp_path / "t.csv", tmp_path / "out", "--root", class_folders / "a", "--size", 8)
    result = command("prepare", tmp_path / "t.csv", tmp_path / "out", "--root", class_folders / "b", "--size", 8)
    assert result.returncode == 2 and "source.root is" in result.stderr


@pytest.mark.parametrize("option", ["--label-column x", "--boxes b", "--root /x", "--record a:u1", "--path-suffix .x"])
def test_options_that_mean_nothing_are_refused(option: str, class_folders: Path, tmp_path: Path) -> None:
    result = command("prepare", class_folders, tmp_path / "out", *option.split(), "--source", "folder")
    assert result.returncode == 2
    assert f"{option}: has no meaning where INPUT is a folder; leave it out" in result.stderr


def test_a_file_that_is_too_large_is_not_read(class_folders: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(class_folders, tmp_path / "in"))
    with open(copy / "a/huge.jpg", "wb") as file:
        file.truncate(1 << 33)  # larger than the memory that the job is given
    (tmp_path / "t.csv").write_text("path,label\na/huge.jpg,a\nb/001.png,b\n")
    options = ["--size", 8, "--max-rejects", 1, "--max-bytes", "1MB"]
    for place in (copy, tmp_path / "t.csv"):
        words = [place, tmp_path / f"out{place.suffix}", *options, *(["--root", copy] if place != copy else [])]
        line = shlex.join([sys.executable, "-m", "beam_jobs", "prepare", *map(str, words)])
        done = subprocess.run(["bash", "-c", f"ulimit -v 8000000; {line}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (reject,) = (Path(words[1]) / "rejects.jsonl").read_text().splitlines()
        assert "has 8589934592 bytes, more than --max-bytes 1000000" in reject


def test_grey_and_colour_as_they_are(tmp_path: Path) -> None:
    write_image(tmp_path / "in/colour.jpg", size=(20, 10))
    Image.new("L", (20, 10), 77).save(tmp_path / "in/grey.jpg")
    for encoding in ("jpeg", "png", "raw"):
        options = ["--channels", "keep", "--fit", "none", "--encoding", encoding, "--format", "hdf5"]
        data = open_dataset(prepared(tmp_path / "in", tmp_path / encoding, *options))
        found = {data[n]["id"]: data[n]["image"] for n in range(2)}
        assert found["grey.jpg"].shape == (10, 20, 1) and (found["grey.jpg"] == 77).all()
        assert found["colour.jpg"].shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photos.db out --source nowhere:Database", "--source nowhere:Database: No module named 'nowhere'"),
        ("photos.db out --source json:JSONDecoder", "JSONDecoder is no subclass of beam_jobs.sources.Source"),
        ("t.csv out --root nowhere", "--root nowhere: is no folder; give the one that paths are relative to"),
        ("c.json out --root nowhere", "--root nowhere: is no folder; give the one that paths are relative to"),
        ("nowhere.csv out", "INPUT nowhere.csv: does not exist"),
        ("nowhere.json out", "INPUT nowhere.json: does not exist"),
        ("nowhere.tar out", "INPUT nowhere.tar: does not exist"),
        ("nowhere.tfrecord out", "INPUT nowhere.tfrecord: does not exist"),
        ("nowhere.zip out", "INPUT nowhere.zip: does not exist"),
    ],
)
def test_a_source_that_is_not_there(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n1.jpg,a\n")
    (tmp_path / "c.json").write_text(json.dumps(COCO))
    result = command("prepare", *line.split(), cwd=tmp_path, env=path_for_commands())
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["cat/1.jpg", "labels.csv"], "folder"),
        (["1.tar", "2.tar", "README.md"], "archive"),
        (["train/1.tar", "val/1.tar"], "archive"),
        (["train/cat/1.jpg", "val/cat/1.jpg"], "folder"),
        (["a.tfrecord-00000-of-00002", "a.tfrecord-00001-of-00002"], "records"),
        (["train-00000-of-00001.tfrecord", "train-00000-of-00001.tfrecord.index.npy", "dataset.json"], "records"),
        (["part-0.parquet", "part-1.parquet"], "table"),
        (["images.npy", "labels.npy"], "records"),
        (["1.tar", "1.jpg"], "folder"),
        (["JPEGImages/1.jpg", "Annotations/1.xml"], "voc"),
        (["images/train/1.jpg", "labels/train/1.txt"], "yolo"),
        (["train/images/1.jpg", "train/labels/1.txt", "val/images/2.jpg", "val/labels/2.txt"], "yolo"),
        (["images/1.png", "labels/1.png"], "folder"),
        (["1.jpg", "1.xml", "data.yaml"], "folder"),
        ([], "folder"),
    ],
)
def test_what_a_folder_is_is_recognised(files: list[str], kind: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert recognised(SourceOptions(input=str(tmp_path)))[0].kind == kind


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("1.xml", "<annotation>", "voc"),
        ("1.xml", "<kml>", "folder"),
        ("pets.yaml", "train: images\nnames: [cat]\n", "yolo"),
        ("dvc.yaml", "stages:\n  train: x\n", "folder"),
        ("labels/1.txt", "0 0.5 0.5 1e-05 1\n", "yolo"),
        ("labels/1.txt", "a photo of a cat\n", "folder"),
    ],
)
def test_files_of_boxes_beside_images_are_recognised_by_their_content(
    name: str, text: str, kind: str, tmp_path: Path
) -> None:
    for path, content in (("1.jpg", ""), ("images/1.jpg", ""), (name, text)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    assert recognised(SourceOptions(input=str(tmp_path)))[0].kind == kind


def test_a_shard_of_ours_is_input_again(raw_shards: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    data = open_dataset(jpeg_shards)
    for format in (".tfrecord", ".h5"):
        again = tmp_path / format
        again.mkdir()
        for path in jpeg_shards.glob(f"*{format}"):
            shutil.copy(path, again)
        options = ["--fit", "none", "--id-column", "id"]
        copy = open_dataset(prepared(again, tmp_path / f"out{format}", *options))
        found = {copy[n]["id"]: copy[n] for n in range(len(copy))}
        for record in (data[n] for n in range(len(data))):
            same = found[record["id"]]
            assert same["label"] == record["label"] and np.array_equal(same["image"], record["image"])


def test_the_folder_of_a_dataset_is_no_folder_of_images(jpeg_shards: Path, tmp_path: Path) -> None:
    result = command("prepare", jpeg_shards, tmp_path / "out")
    assert result.returncode == 2
    assert "is a dataset of image-shards; give one of its shards, as train-00000-of-" in result.stderr
    assert f"`image-shards export {jpeg_shards} DIR --to folder`" in result.stderr


def test_arrays_of_numpy(tmp_path: Path) -> None:
    """As Keras has MNIST."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 20, dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels, x_test=images[:5], y_test=labels[:5])
    options = ["--image-key", "x_train", "--label-column", "y_train", "--fit", "none", "--channels", "grey"]
    data = open_dataset(prepared(tmp_path / "mnist.npz", tmp_path / "out", *options, "--encoding", "png"))
    assert (len(data), data.fields["image"].shape) == (20, (28, 28, 1))
    for record in (data[n] for n in range(20)):
        number = int(record["id"])
        assert np.array_equal(record["image"][:, :, 0], images[number])
        assert record["label"] == labels[number]


def test_binary_records_of_cifar10(cifar10: Path, tmp_path: Path) -> None:
    """The binary version of CIFAR-10: a label, and 3 planes of 32x32 pixels."""
    files = sorted(cifar10.glob("train/*/*"))[::100]
    names = sorted({path.parent.name for path in files})
    with open(tmp_path / "data_batch_1.bin", "wb") as file:
        for path in files:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            file.write(bytes([names.index(path.parent.name)]) + pixels.transpose(2, 0, 1).tobytes())
    (tmp_path / "names.txt").write_text("\n".join(names))
    options = ["--record", "label:u1,image:u1[3,32,32]", "--classes", tmp_path / "names.txt"]
    options += ["--fit", "none", "--encoding", "png"]
    data = open_dataset(prepared(tmp_path / "data_batch_1.bin", tmp_path / "out", *options))
    assert len(data) == len(files) > 20
    for record in (data[n] for n in range(len(data))):
        path = files[int(record["id"])]
        assert np.array_equal(record["image"], np.asarray(Image.open(path).convert("RGB")))
        assert data.class_names is not None and data.class_names[record["label"]] == path.parent.name


def test_the_inputs_of_a_table_are_part_of_the_job(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na/000.jpg,x\n")
    options = ["--root", class_folders, "--size", 8]
    prepared(tmp_path / "t.csv", tmp_path / "out", *options)
    (tmp_path / "t.csv").write_text("path,label\na/000.jpg,y\n")
    result = command("prepare", tmp_path / "t.csv", tmp_path / "out", *options)
    assert result.returncode == 2 and "INPUT has other inputs" in result.stderr


def encrypted_zip() -> bytes:
    """A zip whose member says that it is encrypted: bit 0 of its flags, in both headers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat/1.jpg", b"1")
    data = bytearray(buffer.getvalue())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def truncated_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("cat/1.jpg")
        info.size = 5000
        tar.addfile(info, io.BytesIO(bytes(5000)))
    return buffer.getvalue()[:3000]


def array_of_the_wrong_shape() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, image=np.zeros((4, 8), np.uint8), label=np.zeros(4, np.uint8))
    return buffer.getvalue()


def coco_with(**changes: Any) -> bytes:
    annotation = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 20], "area": 1, "iscrowd": 0} | changes
    return json.dumps(COCO | {"annotations": [annotation]}).encode()


@pytest.mark.parametrize(
    ("name", "content", "shown"),
    [
        ("a.csv", b"x,label\n1.jpg,a\n", ["a.csv: ", "which column has the paths", "--path-column; it has x, label"]),
        ("a.csv", b'path,label\n1.jpg,"a\n2.jpg,b\n', ["a.csv", "line 2", "quote"]),
        ("a.csv", b"path,label\n1.jpg,a,b\n", ["a.csv line 2", "3 cells"]),
        ("a.csv", b"path,label\n1.jpg\n", ["a.csv line 2", "1 cell", "fill in the missing value"]),
        ("a.csv", b"path,label\n1.jpg,caf\xe9\n", ["a.csv", "line 2", "iconv"]),
        ("a.jsonl", b'{"path": "1.jpg"}\n{path}\n', ["a.jsonl line 2", "JSON"]),
        ("a.json", coco_with(bbox=[0, 0, -5, 5]), ["annotation 5", "width", "-5"]),
        ("a.json", coco_with(image_id=1234), ["annotation 5", "1234"]),
        ("a.tar", truncated_tar(), ["a.tar", "was cut off at byte 3,000, in the member cat/1.jpg", "copy it again"]),
        ("a.zip", encrypted_zip(), ["a.zip", "cat/1.jpg", "password"]),
        ("a.tar.gz", b"\x1f\x8b", ["a.tar.gz", "random access", "gunzip"]),
        ("a.npz", array_of_the_wrong_shape(), ["a.npz", "image", "[4, 8]", "uint8"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_a_line_with_file_place_and_remedy(
    name: str, content: bytes, shown: list[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    for image in ("a.png", "b.png"):
        write_image(tmp_path / image, size=(40, 20) if image == "a.png" else (20, 20))
    result = command("prepare", tmp_path / name, tmp_path / "out", "--max-rejects", 0)
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    found = [line for line in result.stderr.splitlines() if all(text in line for text in shown)]
    assert len(found) == 1, result.stderr
    assert not (tmp_path / "out").exists()
