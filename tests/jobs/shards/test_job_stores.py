"""`image-shards prepare` from bucket to bucket, in processes of their own against real servers."""

from __future__ import annotations

import io
import tarfile
import threading
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet
from support.fault_proxy import FaultProxy
from support.servers import Store, first_of
from support.store_jobs import OPTIONS, finished, is_as, run

from beam_jobs.cli.prepare import parse
from beam_jobs.shards.records import record
from beam_jobs.steps.prepare import prepare

# From bucket to bucket


@pytest.mark.parametrize("name", first_of("moto", "minio", "gcs", "azurite"))
def test_from_a_bucket_to_a_bucket(
    name: str, new_store: Callable[[str], Store], class_folders: Path, raw_shards: Path
) -> None:
    store = new_store(name)
    source = store.copy(class_folders, "in")
    text = finished(source, f"{store.url}/out", store)
    assert f"{store.url}/out: 60 images" in text
    is_as(store.contents("out"), raw_shards)
    assert "is finished, nothing to do" in finished(source, f"{store.url}/out", store)


@pytest.mark.slow
def test_from_one_store_to_another(gcs: Store, s3: Store, class_folders: Path, raw_shards: Path) -> None:
    finished(gcs.copy(class_folders, "in"), f"{s3.url}/out", gcs, s3)
    is_as(s3.contents("out"), raw_shards)


@pytest.mark.slow
def test_overwriting_leaves_what_is_not_the_datasets(s3: Store, class_folders: Path) -> None:
    finished(class_folders, f"{s3.url}/out", s3)
    s3.write("out/notes.txt", b"somebody's own")
    s3.write("out2/train.txt", b"beside it")
    refused = run(class_folders, f"{s3.url}/out", s3, options=OPTIONS + " --seed 3")
    assert refused.returncode == 2 and "seed is 0 there, 3 here" in refused.stderr
    finished(class_folders, f"{s3.url}/out", s3, options=OPTIONS.replace("--shards 3", "--shards 1 --overwrite"))
    found = s3.contents("out")
    assert sum(name.endswith(".h5") for name in found) == 2
    assert found["notes.txt"] == b"somebody's own"
    assert s3.contents("out2") == {"train.txt": b"beside it"}


@pytest.mark.slow
def test_a_table_of_urls(s3: Store, web: Store, class_folders: Path, raw_shards: Path, tmp_path: Path) -> None:
    """In a bucket, of images on the web and in the bucket."""
    places = {"a": s3.copy(class_folders / "a", "images"), "b": web.copy(class_folders / "b", "images")}
    paths = [path for name in places for path in sorted((class_folders / name).iterdir())]
    rows = [f"{places[path.parent.name]}/{path.name},{path.parent.name},{path.name}" for path in paths]
    s3.write("table.csv", "\n".join(["path,label,name", *rows]).encode())
    options = "--size 16x12 --encoding raw --id-column name --shards 1"
    finished(f"{s3.url}/table.csv", tmp_path / "out", s3, options=options)
    local = "\n".join(["path,label,name", *(f"{path},{path.parent.name},{path.name}" for path in paths)])
    (tmp_path / "table.csv").write_text(local)
    finished(tmp_path / "table.csv", tmp_path / "expected", options=options)
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    is_as(found, tmp_path / "expected")


def archive(folder: Path, kind: str) -> bytes:
    """A tar or zip of class folders, or in WebDataset's layout."""
    buffer = io.BytesIO()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as zipped:
            for path in paths:
                zipped.write(path, path.relative_to(folder))
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, path in enumerate(paths):
            if kind == "tar":
                tar.add(path, str(path.relative_to(folder)))
                continue
            for suffix, data in (
                (path.suffix, path.read_bytes()),
                (".cls", str("abc".index(path.parent.name)).encode()),
            ):
                info = tarfile.TarInfo(f"{number:04d}{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# Each kind and each store in CI; scripts/nightly has all pairs.
PAIRS = [(kind, name) for kind in ("tar", "zip", "webdataset") for name in ("moto", "gcs", "nginx")]
IN_CI = {("tar", "moto"), ("zip", "gcs"), ("webdataset", "nginx")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(*pair, marks=() if pair in IN_CI else pytest.mark.nightly) for pair in PAIRS]
)
def test_archives_are_read_by_ranges(
    kind: str, name: str, class_folders: Path, tmp_path: Path, new_store: Callable[[str], Store]
) -> None:
    store, data = new_store(name), archive(class_folders, kind)
    suffix = "zip" if kind == "zip" else "tar"
    store.write(f"images.{suffix}", data)
    (tmp_path / f"images.{suffix}").write_bytes(data)
    options = "--size 16x12 --encoding raw --shards 2"
    finished(tmp_path / f"images.{suffix}", tmp_path / "expected", options=options)
    finished(f"{store.url}/images.{suffix}", tmp_path / "out", store, options=options)
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    is_as(found, tmp_path / "expected")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_images_inside_of_files_are_read_by_ranges(
    suffix: str, class_folders: Path, tmp_path: Path, new_store: Callable[[str], Store]
) -> None:
    store, path = new_store("moto"), tmp_path / f"train.{suffix}"
    photos = sorted(class_folders.rglob("*.*"))
    images = [{"bytes": photo.read_bytes(), "path": photo.name} for photo in photos]
    table = pa.table({"image": images, "label": [photo.parent.name for photo in photos]})
    if suffix == "parquet":
        parquet.write_table(table, path, row_group_size=25)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=25)
    store.write(path.name, path.read_bytes())
    options = "--size 16x12 --encoding raw --shards 2"
    finished(path, tmp_path / "expected", options=options)
    finished(f"{store.url}/{path.name}", tmp_path / "out", store, options=options)
    is_as({file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}, tmp_path / "expected")


# Requests


@pytest.mark.parametrize("name", first_of("moto", "gcs", "azurite"))
def test_each_image_is_one_request(
    name: str, class_folders: Path, tmp_path: Path, new_store: Callable[[str], Store]
) -> None:
    store = new_store(name)
    source = store.copy(class_folders, "in")
    with FaultProxy(store.endpoint) as proxy:
        near = store.through("127.0.0.1", proxy.port)
        finished(source, tmp_path / "out", near, options="--size 16x12 --encoding raw --shards 2")
    images = [request for request in proxy.requests if unquote(request.path).endswith((".jpg", ".png"))]
    assert {request.kind for request in images} == {"get"}
    counts = Counter(request.path for request in images)
    assert len(counts) == 60 and set(counts.values()) == {1}


def test_few_are_decoded_at_a_time(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many are waited for, as the files they are; as pixels they are large."""
    at_work, most = 0, 0
    real, changed = record.prepare_image, threading.Condition()

    def counted(*arguments: Any) -> Any:
        nonlocal at_work, most
        with changed:
            at_work += 1
            most = max(most, at_work)
            changed.notify_all()
            changed.wait_for(lambda: most >= 3, 300)  # as many as may be, however slowly they come
        time.sleep(0.01)  # for one too many
        try:
            return real(*arguments)
        finally:
            with changed:
                at_work -= 1

    monkeypatch.setattr(record, "prepare_image", counted)
    bucket = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").put(f"{class_folders}/", f"{bucket}/in/", recursive=True)
    prepare(parse(["prepare", f"{bucket}/in", f"{bucket}/out", "--size", "16", "--shards", "1", "--workers", "3"]))
    assert most == 3
