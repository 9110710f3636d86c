"""Sources of images as tests need them: files of every kind to make, and everything that a source lists."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.sources import Entry, Problem, Reference, Source
from beam_jobs.sources.archive import Archive
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.records import RecordFiles

FILES = {"cat/1.jpg": b"one" * 500, "cat/deep/2.PNG": b"two", "dog/3.webp": b"three" * 9}


class Found:
    """Everything that a source lists, by id, and what its workers read."""

    def __init__(self, source: Source) -> None:
        entries = sorted(source.entries(), key=lambda entry: entry.id)
        self.layout = source.layout()
        self.text, self.ignored = self.layout.text, self.layout.ignored
        self.entries: dict[str, Entry] = {}
        self.rejects: dict[str, tuple[str, str]] = {}
        for entry in entries:
            found = source.resolve(entry)
            if isinstance(found, Problem):
                self.rejects[entry.id] = tuple(found)
            else:
                self.entries[found.id] = found
        self._worker = type(source)(source.options)

    @property
    def labels(self) -> dict[str, tuple[Any, str | None]]:
        return {id: (entry.label, entry.split) for id, entry in self.entries.items()}

    def read(self, id: str) -> Any:
        entry = self.entries[id]
        return self._worker.read(Reference(id, entry.size, entry.place))


def found_archive(path: object, **options: Any) -> Found:
    return Found(Archive(SourceOptions(input=str(path), **options)))


def make_tar(path: Path, files: dict[str, bytes], format: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    return (make_zip if path.suffix == ".zip" else make_tar)(path, files)


def upload(path: Path, url: str) -> str:
    fsspec.filesystem("memory").put_file(str(path), url)
    return url


def found_records(path: object, **options: Any) -> Found:
    return Found(RecordFiles(SourceOptions(input=str(path), **options)))


def refused_records(path: object, **options: Any) -> str:
    """The message of a UsageError, without what is before the file's own name."""
    return refusal(RecordFiles, path, **options)


def refusal(kind: type[Source], path: object, **options: Any) -> str:
    """The message of a source's UsageError, without what is before the file's own name."""
    with pytest.raises(UsageError) as caught:
        Found(kind(SourceOptions(input=str(path), **options)))
    return str(caught.value).replace(f"INPUT {path}", "INPUT")


def example(**values: Any) -> bytes:
    """An Example by TensorFlow, with "__" in names for "/"."""
    import tensorflow as tf

    features = {}
    for name, value in values.items():
        given = value if isinstance(value, list) else [value]
        if any(isinstance(v, str | bytes) for v in given):
            coded = [v.encode() if isinstance(v, str) else v for v in given]
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=coded))
        elif any(isinstance(v, float) for v in given):
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=given))
        else:
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=given))
        features[name.replace("__", "/")] = feature
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def write_tfrecord(path: Path, *records: bytes, compression: str = "") -> Path:
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


def images(*shape: int, dtype: str = "uint8") -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def save(path: Path, arrays: dict[str, Any]) -> Path:
    """Write arrays in the format that the suffix says; without one, a folder of them."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    return path
