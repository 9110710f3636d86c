"""Worker processes read from a store what threads read, and their requests are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.remote_data import digests, options_of, write_dataset
from support.servers import Servers

from shard_reader import CorruptionError, Stream, open_dataset
from shard_reader.stream.batch_reader import BatchReader


@pytest.fixture(scope="module")
def places(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """JPEGs on a disk, and in an object store."""
    local, store = write_dataset(tmp_path_factory.mktemp("data") / "jpeg", encoding="jpeg"), servers.store("moto")
    with pytest.MonkeyPatch.context() as patch:
        url = store.copy(local, "jpeg")
        store.use(patch)
        yield local, url


def stream(place: Any, options: dict[str, Any], **more: Any) -> Stream:
    more = {**options_of("jpeg"), "shuffle": "window", "lanes": 2, "window": 2, **more}
    return open_dataset(place, **options).stream(**more)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ranges", "cache"])
def test_batches_are_those_of_a_copy_on_a_disk(places: tuple[Path, str], way: str, tmp_path: Path) -> None:
    local, url = places
    options = {"cache": tmp_path / "cache"} if way == "cache" else {}
    expected = stream(local, {})
    with stream(url, options, workers="processes", threads=2) as found:
        assert [digests(found) for _ in range(2)] == [digests(expected) for _ in range(2)]
        stats = found.stats()
        assert stats.requests > 0 and stats.bytes_fetched > 0
        for _ in found:  # a loop that breaks off ends in the processes, too
            break
        assert digests(found) == digests(expected.batches(3))


def test_the_memory_for_remote_bytes_is_divided_by_the_processes(places: tuple[Path, str]) -> None:
    one = stream(places[1], {"ahead_bytes": "30MB"}, workers="processes", threads=3)
    reader = BatchReader(one.data, one.order, one.seed, one._reader.options, readers=3)
    assert reader._prefetch_bytes == 10_000_000
    one.close()


def test_damage_in_a_store_is_told_as_with_threads(
    places: tuple[Path, str], servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = write_dataset(tmp_path / "copy", encoding="jpeg")
    file = sorted(copy.glob("*00004*.tfrecord"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    file.write_bytes(content)
    store = servers.store("moto")
    url = store.copy(copy, "damaged")
    store.use(monkeypatch)
    told = []
    for workers in ("threads", "processes"):
        with stream(url, {"retry_for": 0.1}, workers=workers) as one, pytest.raises(CorruptionError) as error:
            digests(one)
        told.append(str(error.value))
    assert told[0] == told[1]
