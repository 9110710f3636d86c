"""What is damaged in the store is told or skipped as it is of a copy; what is damaged in the cache is healed."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.remote_data import digest, digests, file_of, options_of, write_dataset
from support.servers import Servers, Store

from shard_reader import CorruptionError, Dataset, DatasetError, open_dataset

SHARD, ROW, RECORD = 4, 2, 20  # of the record that is damaged
Damage = Callable[[Path, str], None]


@pytest.fixture(scope="module")
def place(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    return write_dataset(tmp_path_factory.mktemp("data") / "raw"), servers.store("moto")


def flip(path: Path, start: int) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        byte = file.read(1)
        file.seek(start)
        file.write(bytes([byte[0] ^ 1]))


def extent(path: Path, name: str, format: str) -> int:
    """Where a value of the damaged record begins."""
    shard = open_dataset(path, format=format)._shards.record(SHARD, 0)
    return int(shard.rows[f"{name}_offset" if name else "offset"][ROW])


def flipped(name: str) -> Damage:
    return lambda path, format: flip(file_of(path, SHARD, format), extent(path, name, format))


def cut(index: bool) -> Damage:
    def damage(path: Path, format: str) -> None:
        file = file_of(path, SHARD, format, index=index)
        file.write_bytes(file.read_bytes()[:-40])

    return damage


DAMAGES: dict[str, Damage] = {
    "image": flipped(""),
    "id": flipped("id"),
    "list": flipped("scores"),
    "no shard": lambda path, format: file_of(path, SHARD, format).unlink(),
    "no index": lambda path, format: file_of(path, SHARD, format, index=True).unlink(),
    "cut index": cut(index=True),
    "other index": lambda path, format: flip(file_of(path, SHARD, format, index=True), 300),
}


@pytest.fixture
def damaged(
    place: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Dataset, Dataset]]:
    """Gives a damaged dataset on a disk, and the same in a store."""

    def make(damage: Damage, way: str, format: str = "tfrecord") -> tuple[Dataset, Dataset]:
        source, store = place
        local = tmp_path / "damaged"
        shutil.copytree(source, local)
        damage(local, format)
        url = store.copy(local, str(tmp_path).strip("/"))
        store.use(monkeypatch)
        options: dict[str, Any] = {"cache": tmp_path / "cache"} if way == "cache" else {}
        return open_dataset(local, format=format), open_dataset(url, format=format, retry_for=2, **options)

    return make


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("image", "tfrecord"),
        *(pytest.param(name, "tfrecord", marks=pytest.mark.slow) for name in [*DAMAGES][1:]),
        *(pytest.param(name, "hdf5", marks=pytest.mark.slow) for name in ("image", "list")),
    ],
)
@pytest.mark.parametrize("way", ["ranges", "cache"])
def test_damage_in_the_store_is_that_of_a_copy(
    damaged: Callable[..., tuple[Dataset, Dataset]], name: str, way: str, format: str
) -> None:
    near, far = damaged(DAMAGES[name], way, format)
    # Without a shard, its index still has labels, which count for nothing.
    fields = {"fields": ("image",)} if name == "no shard" else {}
    expected, found = (data.stream(**options_of("raw") | fields, on_error="skip") for data in (near, far))
    for _ in range(2):
        assert digests(found) == digests(expected)
        assert [one.record for one in found.skipped] == [one.record for one in expected.skipped]
        assert found.coverage() == expected.coverage()
    assert RECORD in [one.record for one in found.skipped]
    place = rf"train-{SHARD:05d}-of-00014\.(tfrecord|h5)"
    with pytest.raises(CorruptionError, match=place):
        list(far.stream(**options_of("raw")))
    with pytest.raises(CorruptionError, match=place):
        far[RECORD]
    assert far[0]["label"] == 0


@pytest.mark.parametrize("way", ["ranges", "cache"])
def test_of_a_shard_that_was_cut_short_no_record_is_made_up(
    damaged: Callable[..., tuple[Dataset, Dataset]], way: str
) -> None:
    near, far = damaged(cut(index=False), way)
    of_copy = near.stream(**options_of("raw"), on_error="skip")
    list(of_copy)
    found = far.stream(**options_of("raw"), on_error="skip")
    list(found)
    skipped = {one.record for one in found.skipped}
    assert skipped and skipped <= {one.record for one in of_copy.skipped}
    assert all("bytes, the manifest says" in one.reason for one in found.skipped)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "image-shards", "version": 99}', "\xff"])
def test_a_wrong_manifest_is_told_as_that_of_a_copy(
    place: tuple[Path, Store], tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    store = place[1]
    url = store.copy(tmp_path, str(tmp_path).strip("/"))
    store.use(monkeypatch)
    with pytest.raises(DatasetError) as near:
        open_dataset(tmp_path)
    with pytest.raises(DatasetError) as far:
        open_dataset(url)
    assert type(far.value) is type(near.value)
    assert str(far.value).replace(url, str(tmp_path)) == str(near.value)


def cached(cache: Path, number: int) -> Path:
    return next(one for one in cache.iterdir() if f"-train-{number:05d}-of" in one.name)


@pytest.fixture
def warm(place: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str], Any]:
    """A cache that has a dataset, the batches of two epochs, and what opens the dataset."""
    local, store = place
    store.use(monkeypatch)
    url = store.copy(local, str(tmp_path).strip("/"))

    def new() -> Dataset:
        return open_dataset(url, cache=tmp_path / "cache")

    list(new().stream(**options_of("raw")))
    stream = open_dataset(local).stream(**options_of("raw"))
    return tmp_path / "cache", digests(stream) + digests(stream), new


def test_a_value_that_rots_in_the_cache_is_healed_for_good(warm: tuple[Path, list[str], Any], place: Any) -> None:
    cache, expected, new = warm
    file = cached(cache, SHARD)
    for name in ("", "scores"):
        flip(file, extent(place[0], name, "tfrecord"))
    stream = new().stream(**options_of("raw"))
    # Images are checked in the first epoch alone: in the second, the damaged file must not be in use any more.
    assert digests(stream) + digests(stream) == expected
    assert stream.stats().cache_misses == 1
    assert digests(new().stream(**options_of("raw"))) == expected[:10]
    assert new()[RECORD]["label"] == 0
    flip(cached(cache, SHARD), extent(place[0], "", "tfrecord"))
    np.testing.assert_array_equal(new()[RECORD]["image"], open_dataset(place[0])[RECORD]["image"])


def test_a_damaged_file_that_another_process_has_removed_is_not_used_in_the_next_epoch(
    warm: tuple[Path, list[str], Any], place: Any
) -> None:
    cache, expected, new = warm
    stream = new().stream(**options_of("raw"))
    assert digests(stream) == expected[:10]
    file = cached(cache, SHARD)
    flip(file, extent(place[0], "", "tfrecord"))
    file.unlink()  # as who finds it does
    assert digests(stream) == expected[10:]


@pytest.mark.parametrize("what", ["index", "cut", "empty", "foreign"])
def test_a_cached_file_that_cannot_be_right_is_fetched_again(warm: tuple[Path, list[str], Any], what: str) -> None:
    cache, expected, new = warm
    file = cached(cache, SHARD)
    size = file.stat().st_size
    if what == "index":
        flip(file, size - 5)
    elif what == "foreign":
        file.write_bytes(b"\xab" * size)
    else:
        file.write_bytes(file.read_bytes()[: -5 if what == "cut" else 0])
    stream = new().stream(**options_of("raw"))
    assert digests(stream) + digests(stream) == expected
    assert stream.stats().cache_misses == 1
    assert file.stat().st_size == size


def test_one_epoch_of_a_shared_cache_heals_what_another_process_has_mapped(
    warm: tuple[Path, list[str], Any], place: Any
) -> None:
    cache, expected, new = warm
    one, other = new(), new()
    held = one.image(RECORD)
    flip(cached(cache, SHARD), cached(cache, SHARD).stat().st_size - 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = other.stream(**options_of("raw"))  # it cannot have the file anew as long as `one` has it
        assert digests(stream) == expected[:10]
        del held
        one.close()
        assert digests(stream) == expected[10:]
    assert digest({"image": other.image(RECORD)}) == digest({"image": open_dataset(place[0]).image(RECORD)})
