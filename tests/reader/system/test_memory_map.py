"""Maps and leased buffers: what is in them, how long they live, and that no file stays open."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_reader.errors import CorruptionError
from shard_reader.system.buffers import BufferPool
from shard_reader.system.memory_map import Window, address, announce, map_file


def mapped(path: Path) -> int:
    """How many maps of a file this process has."""
    return sum(line.rstrip("\n").endswith(str(path)) for line in Path("/proc/self/maps").read_text().splitlines())


linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux to see its maps")


def test_a_map_is_the_file_s_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100 + b"end"
    (tmp_path / "file").write_bytes(content)
    data = map_file(tmp_path / "file", len(content))
    assert data.tobytes() == content and data.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        data[0] = 1


def test_an_empty_file_is_an_empty_array(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert map_file(tmp_path / "file", 0).size == 0


def test_another_size_is_found_before_anything_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(CorruptionError, match="file: has 5 bytes, the manifest says 6"):
        map_file(tmp_path / "file", 6)
    with pytest.raises(FileNotFoundError):
        map_file(tmp_path / "other")


@linux
def test_a_map_lives_as_long_as_a_view_of_it_and_keeps_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 100_000)
    open_files = len(os.listdir("/proc/self/fd"))
    data = map_file(path)
    view = data[5:9].view("<u4")
    assert (mapped(path), len(os.listdir("/proc/self/fd"))) == (1, open_files)
    del data
    gc.collect()
    assert mapped(path) == 1 and view.tobytes() == b"aaaa"
    del view
    gc.collect()
    assert mapped(path) == 0


@given(st.data(), st.integers(1, 300), st.integers(0, 3000))
def test_a_window_copies_from_wherever_it_is(data: st.DataObject, length: int, count: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    sources = [rng.integers(0, 256, size, dtype=np.uint8) for size in (length, 5 * length, 4096 + length)]
    which = rng.integers(0, 3, count)
    starts = np.array([rng.integers(0, sources[n].size - length + 1) for n in which], np.int64)
    addresses = np.array([address(sources[n]) for n in which], np.int64) + starts
    rows = Window(addresses, np.dtype(f"V{length}"))[:]
    for row, n, start in zip(rows, which, starts, strict=True):
        assert row.tobytes() == sources[n][start : start + length].tobytes()


def test_a_window_gives_rows_of_any_type() -> None:
    source = np.arange(24, dtype="<f4").reshape(6, 4)
    window = Window(address(source) + np.array([5, 0, 3]) * 16, np.dtype(("<f4", (2, 2))).base)
    assert window[:].tolist() == [20, 0, 12]
    rows = Window(address(source) + np.array([5, 0, 3]) * 16, np.dtype([("a", "<f4"), ("b", "<f4", (3,))]))
    assert rows[np.array([2, 0])]["b"].tolist() == [[13, 14, 15], [21, 22, 23]]
    assert rows[1:2]["a"].tolist() == [0]
    assert rows[3:].shape == Window(np.empty(0, np.int64), np.dtype("V3"))[:].shape == (0,)


def test_announcing_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a" * 100_000)
    data = map_file(tmp_path / "file")
    announce([(address(data) + 5000, 90_000), (address(data), 1), (8, 100)])  # the last is mapped by nobody
    assert data.tobytes() == b"a" * 100_000


def test_a_buffer_comes_back_when_the_last_view_is_gone() -> None:
    pool = BufferPool(1000, keep=2)
    one = pool.array((10, 25), "<f4")
    assert one.ctypes.data % 64 == 0 and one.flags.c_contiguous and one.flags.writeable
    place, view = one.ctypes.data, one[3:5].T
    del one
    gc.collect()
    other = pool.array((10, 25), "<f4")
    assert other.ctypes.data != place
    del view
    assert pool.array((7,), "u1").ctypes.data == place


def test_a_buffer_is_held_by_who_has_its_memory_without_the_array() -> None:
    """As `torch.from_numpy` or `jax.device_put` may."""
    pool = BufferPool(100, keep=2)
    one = pool.array((100,), "u1")
    place, memory = one.ctypes.data, memoryview(one)
    del one
    assert pool.array((100,), "u1").ctypes.data != place
    assert len(memory) == 100


def test_no_more_buffers_are_kept_than_asked_for() -> None:
    pool = BufferPool(100, keep=2)
    several = [pool.array((100,), "u1") for _ in range(5)]
    places = {one.ctypes.data for one in several}
    assert len(places) == 5
    del several
    assert len(pool._free) == 2
    pool.close()
    assert len(pool._free) == 0
    with pytest.raises(ValueError, match="an array of 101 bytes does not fit into a buffer of 100"):
        pool.array((101,), "u1")
