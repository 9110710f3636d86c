"""Pickles of other versions: those made when the modules lay flat still load, and new ones name little.

`old_pickles.json` was made by the code before the packages (November 2026), in `tests/reader/format`, of the golden
files there, and of a copy of them with a damaged byte ("skipped"). Pickles are compressed by zlib, as base85.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import pickle
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import REPOSITORY

from shard_reader import CenterCrop, Flip, RandomResizedCrop, Resize, Stream, mix, open_dataset

FORMAT = REPOSITORY / "tests/reader/format"
OLD = json.loads((Path(__file__).parent / "old_pickles.json").read_text("utf-8"))
STEPS = {"full": 2, "window": 1, "transforms": 1, "composed": 1, "none": 0, "mixture": 2, "fields": 1, "cached": 1}


@pytest.fixture(autouse=True)
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden files where the pickles look for them."""
    shutil.copytree(FORMAT / "golden/earlier", tmp_path / "golden/v1")
    monkeypatch.chdir(tmp_path)


def raw(**options: Any) -> Any:
    return open_dataset("golden/v1/raw", **options)


def encoded() -> Any:
    return open_dataset("golden/v1/encoded", format="hdf5")


STREAMS: dict[str, Callable[[], Stream]] = {
    "full": lambda: raw().stream(batch_size=2, seed=3),
    "window": lambda: raw().stream(
        batch_size=2,
        seed=4,
        shuffle="window",
        lanes=2,
        window=1,
        remainder="keep",
        rank=1,
        world_size=2,
        fields=("image", "id"),
        threads=1,
        prefetch=1,
    ),
    "transforms": lambda: encoded().stream(
        batch_size=2, seed=5, image=[RandomResizedCrop(4), Flip()], verify="always", on_error="skip"
    ),
    "composed": lambda: encoded().stream(
        batch_size=2, seed=5, image=[CenterCrop(1), functools.partial(np.flip, axis=0)]
    ),
    "none": lambda: raw().select([4, 1, 2]).stream(batch_size=1, shuffle="none", image=[CenterCrop(1), Resize((2, 3))]),
    "mixture": lambda: mix([raw(), raw().select([0, 1])], weights=[0.5, 0.5]).stream(batch_size=2, seed=6),
    "fields": lambda: open_dataset("golden/v1/fields").stream(
        batch_size=1, seed=7, fields=("id", "tags", "age", "label"), ragged="pad"
    ),
    "cached": lambda: raw(cache="cache", cache_bytes="1MB").stream(batch_size=2, seed=8),
    "skipped": lambda: raw().stream(batch_size=2, seed=3, on_error="skip"),
}


class Unpickler(pickle.Unpickler):
    """Finds classes as pickle does, and the cache here."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("pathlib", "PosixPath"):
            return lambda *parts: Path("cache") if parts[-1] == "cache" else Path(*parts)
        return super().find_class(module, name)


def old(name: str) -> Any:
    return Unpickler(io.BytesIO(zlib.decompress(base64.b85decode(OLD["pickles"][name])))).load()


def batches(stream: Stream) -> Iterator[dict[str, Any]]:
    """Those of the rest of this epoch, and of the next one."""
    for _ in range(2):
        yield from ({name: values.tolist() for name, values in batch.items()} for batch in stream)


def stopped(name: str) -> Stream:
    """A stream that has given a few batches, and will go on after them."""
    stream = STREAMS[name]()
    loop = iter(stream)
    for _ in range(STEPS[name]):
        next(loop)
    return stream


@pytest.mark.parametrize("name", sorted(STEPS))
def test_an_old_stream_goes_on(name: str) -> None:
    """Its state is in the middle of an epoch, and the rest of that epoch comes next."""
    restored, same = old(name), stopped(name)
    assert (restored.epoch, restored.step, restored.moves) == (same.epoch, same.step, same.moves)
    assert restored.coverage() == same.coverage()
    assert restored.state_dict() == same.state_dict() == OLD["states"][name]
    same.load_state_dict(same.state_dict())
    assert list(batches(restored)) == list(batches(same))


@pytest.mark.parametrize("name", sorted(STEPS))
def test_an_old_state_goes_on(name: str) -> None:
    fresh, same = STREAMS[name](), old(name)
    fresh.load_state_dict(OLD["states"][name])
    same.load_state_dict(same.state_dict())
    assert list(batches(fresh)) == list(batches(same))


def test_an_old_stream_knows_its_skipped_records() -> None:
    restored = old("skipped")
    (skipped,) = restored.skipped
    assert skipped.record == 0 and "is damaged" in skipped.reason
    assert restored.coverage().skipped == 1
    assert restored.state_at(0)["coverage"]["skipped"] == 0
    assert restored.state_dict() == OLD["states"]["skipped"]


def test_an_old_dataset_loads() -> None:
    data = old("dataset")
    assert data.fingerprint == raw().where(height=2).fingerprint
    assert data.ids().tolist() == raw().ids().tolist()


def test_an_old_dataset_of_pytorch_goes_on() -> None:
    torch = pytest.importorskip("shard_reader.torch")
    restored = old("torch")
    same = torch.StreamDataset(raw().stream(batch_size=2, seed=9))
    next(iter(same))
    assert restored.state_dict() == same.state_dict() == OLD["states"]["torch"]
    same.load_state_dict(same.state_dict())
    for one, other in zip(restored, same, strict=True):
        assert all(one[name].tolist() == other[name].tolist() for name in one)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_copy_goes_on_where_its_state_is(name: str) -> None:
    one = stopped(name)
    copy = pickle.loads(pickle.dumps(one))
    assert copy.state_dict() == one.state_dict() and copy.moves == one.moves
    assert copy.next == (copy.epoch, copy.step) and copy.remaining == len(copy) - copy.step
    one.load_state_dict(one.state_dict())
    assert list(batches(copy)) == list(batches(one))


class Names(pickle.Unpickler):
    """Notes the names of this package that a pickle refers to."""

    def __init__(self, pickled: bytes) -> None:
        super().__init__(io.BytesIO(pickled))
        self.found: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("shard_reader"):
            self.found.add(f"{module}.{name}")
        return super().find_class(module, name)


# The classes that the pickles of this file name: not every transform need be among them.
STABLE = {
    "shard_reader.dataset.dataset.Dataset",
    "shard_reader.dataset.mixture.Mixture",
    "shard_reader.stream.stream.Stream",
    "shard_reader.transforms.standard.CenterCrop",
    "shard_reader.transforms.standard.Flip",
    "shard_reader.transforms.standard.RandomResizedCrop",
    "shard_reader.transforms.standard.Resize",
}


def test_a_pickle_names_nothing_but_what_users_know() -> None:
    """Whoever moves one of these adds a line to `old_pickles.py`."""
    unpicklers = [Names(pickle.dumps(stopped(name))) for name in STEPS]
    for one in unpicklers:
        one.load()
    assert set().union(*(one.found for one in unpicklers)) == STABLE


def test_a_part_of_a_dataset_shares_its_shards_in_a_copy() -> None:
    data = raw(cache="cache")
    whole, part = pickle.loads(pickle.dumps((data, data.select([1, 3]).select([1]))))
    assert whole._shards is part._shards and part.ids().tolist() == [data[3]["id"].encode()]


def test_the_old_modules_have_nothing_else() -> None:
    with pytest.raises(ImportError):
        exec("from shard_reader.reading import Batch")  # it is in `stream` now
