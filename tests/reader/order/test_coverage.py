"""Coverage and positions: what was seen, over ranks and over restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_reader import Coverage, StateError, Stream, open_dataset

counts = st.integers(0, 2**40)


def stream(path: Path, **options: Any) -> Stream:
    return open_dataset(path).stream(**{"batch_size": 10, "fields": ("label",), **options})


@given(st.lists(counts, unique=True, min_size=1, max_size=50), st.data())
def test_coverages_tell_sets_apart(records: list[int], data: st.DataObject) -> None:
    whole = Coverage.of(np.array(records))
    cut = data.draw(st.integers(0, len(records)))
    assert Coverage.of(np.array(records[cut:], np.int64)) + Coverage.of(np.array(records[:cut], np.int64)) == whole
    assert whole - Coverage.of(np.array(records[:cut], np.int64)) == Coverage.of(np.array(records[cut:], np.int64))
    doubled = [*records[:-1], records[0] + 2**41]
    assert Coverage.of(np.array(doubled)) != whole
    assert Coverage.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_one_coverage_is_pinned() -> None:
    """It travels in states: a change here would contradict those that are saved."""
    assert Coverage.of_all(100_000) == Coverage.of(np.arange(100_000)[::-1])
    assert Coverage.of_all(3) == Coverage(3, 6295367884614957298, 0)


@pytest.mark.parametrize("remainder", ["pad", "keep", "drop"])
@pytest.mark.parametrize("shuffle", ["full", "none", "window"])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_the_ranks_cover_each_record_once(raw_shards: Path, world_size: int, shuffle: Any, remainder: Any) -> None:
    options = {"shuffle": shuffle, "remainder": remainder, "world_size": world_size, "lanes": 10}
    ranks = [stream(raw_shards, **options, rank=rank) for rank in range(world_size)]
    for _ in range(2):
        for one in ranks:
            assert len(list(one)) == len(one)
        total = sum((one.coverage() for one in ranks), Coverage())
        assert total.records == (40 if remainder == "drop" else 48)
        assert total.covers(ranks[0].data.coverage()) == (remainder != "drop")


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_coverage_goes_on_where_it_stopped(raw_shards: Path, world_size: int) -> None:
    """From this rank's own state as it was counted, from that of another one as the order gives it."""
    ranks = [stream(raw_shards, rank=rank, world_size=world_size) for rank in range(world_size)]
    loops = [iter(one) for one in ranks]
    for _ in range(3):
        for loop in loops:
            next(loop)
    states = [json.loads(json.dumps(one.state_dict())) for one in ranks]
    for new_size in (1, 2, 5, 10):
        for saved in (states, [states[0]] * 10, [states[-1]] * 10):
            again = [stream(raw_shards, rank=rank, world_size=new_size) for rank in range(new_size)]
            for number, one in enumerate(again):
                one.load_state_dict(saved[number % len(saved)])
                assert len(list(one)) == 2
            total = sum((one.coverage() for one in again), Coverage())
            assert total.covers(again[0].data.coverage())


def test_a_coverage_that_was_tampered_with_shows(raw_shards: Path) -> None:
    one = stream(raw_shards)
    next(iter(one))
    state = one.state_dict()
    state["coverage"]["hash_sum"] ^= 1
    other = stream(raw_shards)
    other.load_state_dict(state)
    list(other)
    assert not other.coverage().covers(other.data.coverage())
    state["coverage"]["hash_sum"] = "1"
    with pytest.raises(StateError, match="is no coverage"):
        other.load_state_dict(state)


def test_states_of_the_version_before_are_loaded(raw_shards: Path) -> None:
    one = stream(raw_shards)
    list(one)
    next(iter(one))
    state = one.state_dict()
    del state["coverage"]
    other = stream(raw_shards)
    other.load_state_dict(state)
    assert (other.epoch, other.step, other.coverage()) == (1, 1, one.coverage())


@pytest.mark.parametrize("pulled", range(6))
def test_the_state_at_a_step_is_that_of_who_stopped_there(raw_shards: Path, pulled: int) -> None:
    """However many batches were taken ahead, in this epoch or in the next one."""
    expected = []
    slow = stream(raw_shards)
    for _ in range(2):
        expected.append(slow.state_dict())
        for _ in slow:
            expected.append(slow.state_dict())
        expected.pop()  # behind the last step is before the first of the next epoch
    ahead = stream(raw_shards)
    list(ahead)
    loop = iter(ahead)
    for _ in range(pulled):
        next(loop, None)
    for step in range(5):
        assert ahead.state_at(step, epoch=0) == expected[step]
        assert ahead.state_at(step, epoch=1) == expected[5 + step]
        assert ahead.state_at(step) == expected[(5 if pulled else 0) + step]
    assert ahead.state_at(5, epoch=0) == expected[5]
    assert ahead.state_at(5, epoch=1) == slow.state_dict()


@pytest.mark.parametrize(("step", "epoch"), [(-1, None), (6, None), (0, -1)])
def test_there_is_no_state_at_such_a_step(raw_shards: Path, step: int, epoch: int | None) -> None:
    with pytest.raises(ValueError, match=f"step={step}, epoch=.*: an epoch has 5 steps"):
        stream(raw_shards).state_at(step, epoch)


def test_the_state_at_a_step_knows_what_was_skipped(raw_shards: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    (copy / "train-00001-of-00003.tfrecord").unlink()
    one = stream(copy, on_error="skip", fields=("image",))
    states = [one.state_dict()]
    for _ in one:
        states.append(one.state_dict())
    for step in range(5):
        assert one.state_at(step, epoch=0) == states[step]
    assert states[4]["coverage"]["skipped"] + 8 >= 16
