"""Sorting more than memory holds: lines in order, and equal hashes, whatever goes to disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs import external_sort
from beam_jobs.external_sort import Spill, find_equal_hashes


@given(st.lists(st.text(max_size=5), max_size=60), st.sampled_from([1, 7, 1024]), st.sampled_from([0, 100, 1 << 26]))
def test_lines_come_in_the_order_of_their_bytes(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], buckets: int, memory: int
) -> None:
    spill = Spill(tmp_path_factory.mktemp("lines"), buckets, memory)
    lines = []
    for text in texts:
        key = hashlib.blake2b(text.encode(), digest_size=4).digest()
        lines.append(f"{key.hex()} {text!a}".encode())
        spill.add_line(key, lines[-1])
    assert list(spill.lines()) == sorted(lines)
    assert list(spill.lines()) == sorted(lines)  # as often as they are asked for


def test_no_more_is_held_in_memory_than_is_allowed(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 16, memory=1000)
    for number in range(500):
        spill.add(bytes([number % 256, 0]), bytes(90))
        assert sum(map(len, spill._buffers)) <= 1000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 40_000
    assert sum(map(len, spill.buckets())) == 500 * 90


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 50), st.randoms(use_true_random=False))
def test_every_repetition_is_found_with_the_first_of_its_kind(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], block: int, random: Any
) -> None:
    numbers = [(0, 0)] + [(random.getrandbits(64), number) for number in range(1, 31)]
    hashes = np.array([numbers[value] for value in values], np.uint64).reshape(-1, 2)
    blocks = (hashes[start : start + block] for start in range(0, len(hashes), block))
    folder = tmp_path_factory.mktemp("hashes")
    found = find_equal_hashes(blocks, folder)
    expected = [(place, values.index(value)) for place, value in enumerate(values) if value in values[:place] and value]
    assert list(zip(found.places.tolist(), found.firsts.tolist(), strict=True)) == expected
    assert not list(folder.iterdir())


def test_places_without_a_hash_take_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of zeros would be in one bucket, which is read whole."""
    added = list[int]()
    monkeypatch.setattr(external_sort.Spill, "add", lambda self, key, records: added.append(len(records)))
    find_equal_hashes(iter([np.zeros((1000, 2), np.uint64), np.ones((1, 2), np.uint64)]), tmp_path)
    assert sum(added) == 24
