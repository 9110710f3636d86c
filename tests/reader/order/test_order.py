"""The order: pinned, a permutation for every size, and the same global batches for any number of ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shard_reader.order.batches import BatchOrder
from shard_reader.order.record_order import RecordOrder, Remainder
from shard_reader.order.shuffle import FullShuffle, MixedOrder, StoredOrder, WindowShuffle, permute

sizes = st.integers(1, 400)
epochs = st.integers(0, 2**40)
seeds = st.integers(-(2**70), 2**70)


PINNED_WINDOW = [3, 20, 13, 7, 1, 8, 4, 6, 0, 19, 2, 5, 12, 18, 15, 9, 14, 11, 16, 10, 17]


def arranged(shuffle: str, shards: list[int], seed: int = 0, lanes: int = 12, window: int = 2) -> RecordOrder:
    """An order of the records of shards of these sizes."""
    if shuffle == "window":
        return WindowShuffle(shards, seed=seed, lanes=lanes, window=window)
    return FullShuffle(sum(shards), seed) if shuffle == "full" else StoredOrder(sum(shards))


def order(record_order: RecordOrder | None = None, **options: object) -> BatchOrder:
    return BatchOrder(**{"record_order": record_order or StoredOrder(10), "batch_size": 4, **options})  # type: ignore[arg-type]


def whole_epoch(one: BatchOrder, epoch: int = 0) -> list[tuple[int, float]]:
    """Each record and its weight, in the order of an epoch."""
    if one.steps == 0:
        return []
    records, weights = one.records_of(epoch, 0, one.steps), one.weights(epoch, one.positions(0, one.steps))
    return list(zip(records.tolist(), weights.tolist(), strict=True))


shards = st.lists(st.integers(0, 40), max_size=8)
shuffles = st.sampled_from(["none", "full", "window"])


def test_one_permutation_is_pinned() -> None:
    """A change here would reorder everybody's training: it needs a new version of the state."""
    positions = np.arange(20)
    assert permute(positions, 20, seed=0, epoch=0).tolist() == [
        7,
        11,
        8,
        16,
        4,
        1,
        6,
        9,
        2,
        13,
        12,
        19,
        18,
        0,
        3,
        15,
        14,
        17,
        5,
        10,
    ]
    assert permute(positions, 20, seed=0, epoch=1).tolist() == [
        18,
        6,
        11,
        0,
        2,
        9,
        5,
        16,
        14,
        4,
        1,
        10,
        13,
        8,
        7,
        12,
        3,
        19,
        17,
        15,
    ]
    assert permute(np.array([0, 1, 10**12 - 1]), 10**12, seed=7, epoch=3).tolist() == [
        231067600543,
        520277249613,
        46135576284,
    ]


@given(sizes, seeds, epochs)
def test_it_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(size), size, seed, epoch).tolist()) == list(range(size))


def test_epochs_and_seeds_differ() -> None:
    positions = np.arange(1000)
    orders = [permute(positions, 1000, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (-1, 0), (0, 10))]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one == other).mean() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 16, 17, 20])
def test_places_are_spread_evenly(size: int) -> None:
    """Over many epochs each record is everywhere equally often: chi-squared, p > 1e-9."""
    cells, epochs = np.zeros((size, size)), 200 * size
    for epoch in range(epochs):
        cells[np.arange(size), permute(np.arange(size), size, 3, epoch)] += 1
    chi_squared = ((cells - 200) ** 2 / 200).sum()
    freedom = (size - 1) ** 2
    assert chi_squared < freedom + 6 * (2 * freedom) ** 0.5 + 12


@given(
    shards=shards,
    share=st.integers(1, 5),
    world_size=st.sampled_from([1, 2, 3, 4, 6]),
    shuffle=shuffles,
    remainder=st.sampled_from(["pad", "drop", "keep"]),
    epoch=st.integers(0, 3),
    lanes=st.sampled_from([12, 24]),
    window=st.integers(1, 9),
)
def test_every_record_once_for_any_number_of_ranks(
    shards: list[int],
    share: int,
    world_size: int,
    shuffle: str,
    remainder: Remainder,
    epoch: int,
    lanes: int,
    window: int,
) -> None:
    records, batch_size = sum(shards), share * world_size
    record_order = arranged(shuffle, shards, lanes=lanes, window=window)
    options = {"batch_size": batch_size, "remainder": remainder, "world_size": world_size}
    ranks = [order(record_order, **options, rank=rank) for rank in range(world_size)]
    seen = Counter(r for one in ranks for r, weight in whole_epoch(one, epoch) if weight)
    kept = records - records % batch_size if remainder == "drop" else records
    assert sum(seen.values()) == kept
    assert len(seen) == kept
    assert all(0 <= record < records for one in ranks for record, _ in whole_epoch(one, epoch))
    if remainder != "keep":
        assert len({one.steps for one in ranks}) == 1


@given(shards, st.sampled_from([1, 2, 3, 4, 6, 12]), shuffles)
def test_a_global_batch_is_the_same_for_any_number_of_ranks(shards: list[int], world_size: int, shuffle: str) -> None:
    record_order = arranged(shuffle, shards)
    alone = order(record_order, batch_size=12)
    ranks = [order(record_order, batch_size=12, rank=r, world_size=world_size) for r in range(world_size)]
    for step in range(alone.steps):
        expected = alone.records_of(5, step, step + 1)
        together = np.empty_like(expected)
        for rank, one in enumerate(ranks):
            together[rank::world_size] = one.records_of(5, step, step + 1)
        assert together.tolist() == expected.tolist()
        total, *parts = (one.weights(0, one.positions(step, step + 1)).sum() for one in (alone, *ranks))
        assert sum(parts) == total


@given(shards, shuffles, st.integers(1, 7), st.data())
def test_steps_together_are_steps_alone(shards: list[int], shuffle: str, size: int, data: st.DataObject) -> None:
    one = order(arranged(shuffle, shards), batch_size=size, remainder="keep")
    assume(one.steps > 0)
    first = data.draw(st.integers(0, one.steps - 1))
    stop = data.draw(st.integers(first + 1, one.steps))
    positions = [one.positions(step, step + 1) for step in range(first, stop)]
    assert one.positions(first, stop).tolist() == np.concatenate(positions).tolist()
    records = [one.records_of(2, step, step + 1) for step in range(first, stop)]
    assert one.records_of(2, first, stop).tolist() == np.concatenate(records).tolist()


@given(st.integers(1, 10**12), st.integers(1, 1000), st.data())
def test_a_batch_of_any_size_of_dataset_is_in_range(records: int, batch_size: int, data: st.DataObject) -> None:
    one = order(FullShuffle(records, 0), batch_size=batch_size)
    step = data.draw(st.integers(0, one.steps - 1))
    found, weights = one.records_of(0, step, step + 1), one.weights(0, one.positions(step, step + 1))
    assert len(found) == batch_size
    assert 0 <= found.min() <= found.max() < records
    assert len(set(found[weights > 0].tolist())) == weights.sum()


def test_pad_keep_and_drop() -> None:
    epochs = {how: whole_epoch(order(remainder=how)) for how in ("pad", "keep", "drop")}
    assert epochs["keep"] == [(n, 1.0) for n in range(10)]
    assert epochs["drop"] == [(n, 1.0) for n in range(8)]
    assert epochs["pad"] == [*epochs["keep"], (0, 0.0), (1, 0.0)]
    assert [order(remainder="keep", rank=r, world_size=4).steps for r in range(4)] == [3, 3, 2, 2]


def test_one_window_shuffle_is_pinned() -> None:
    """A change here would reorder everybody's training, as above."""
    assert WindowShuffle([5, 0, 7, 3, 6], seed=1, lanes=2, window=1).at(4, np.arange(21)).tolist() == PINNED_WINDOW


@given(shards, st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(1, 3), st.integers(0, 3))
def test_a_rank_touches_the_shards_of_its_lanes_alone_and_in_order(
    shards: list[int], world_size: int, window: int, epoch: int
) -> None:
    """Each shard is needed by one lane, but for those that a border cuts; and a lane is done with it for good."""
    record_order, lanes = arranged("window", shards, lanes=12, window=window), 12
    ends = np.cumsum(shards)
    needed: list[list[int]] = []
    for lane in range(lanes):
        records = record_order.at(epoch, np.arange(lane, sum(shards), lanes))
        touched = np.searchsorted(ends, records, "right").tolist()
        needed.append(list(dict.fromkeys(touched)))
        length = max(1, window * max(shards, default=0))
        for start in range(0, len(touched), length):
            assert len(set(touched[start : start + length])) <= max(1, length)
            assert not set(touched[:start]) & set(touched[start + 2 * length :])  # none comes back after two windows
    used = sum(size > 0 for size in shards)
    assert sum(map(len, needed)) <= used + lanes - 1
    for rank in range(world_size):
        if not sum(shards):
            break
        one = order(record_order, batch_size=12, rank=rank, world_size=world_size)
        seen = {int(np.searchsorted(ends, record, "right")) for record, _ in whole_epoch(one, epoch)}
        own = {shard for lane in range(rank, lanes, world_size) for shard in needed[lane]}
        if sum(shards) >= lanes:  # otherwise some lanes have no record to pad with
            assert seen <= own


def test_windows_mix_records_of_several_shards() -> None:
    shuffled = WindowShuffle([100] * 40, seed=0, lanes=4, window=4).at(0, np.arange(4000))
    for lane in range(4):
        first = shuffled[lane::4][:100]
        assert len(set((first // 100).tolist())) >= 4
        assert (np.diff(first) == 1).mean() < 0.1


def test_a_mixture_has_the_exact_part_of_every_block() -> None:
    sources, sizes = [FullShuffle(100, 0), StoredOrder(7), FullShuffle(5000, 0)], [100, 7, 5000]
    mixed = MixedOrder(sources, [200, 300, 500], sizes, records=5107, seed=0)
    seen = [mixed.at(epoch, np.arange(mixed.records)) for epoch in range(3)]
    source = np.searchsorted([100, 107], np.concatenate(seen), "right")
    for start in range(0, len(source) - 999, 1000):
        assert np.bincount(source[start : start + 1000], minlength=3).tolist() == [200, 300, 500]
    everything = np.concatenate(seen)
    large = everything[everything >= 107]
    assert len(set(large[:5000].tolist())) == 5000, "each record once before one comes again"
    for low, high in ((0, 100), (100, 107)):
        own = everything[(low <= everything) & (everything < high)] - low
        for start in range(0, len(own) - (high - low), high - low):
            assert len(set(own[start : start + high - low].tolist())) == high - low, "an epoch of its own"
    assert (everything[(everything >= 100) & (everything < 107)] - 100)[:14].tolist() == [*range(7), *range(7)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 400), st.integers(0, 3), st.data())
def test_a_mixture_is_arithmetic(sizes: list[int], records: int, epoch: int, data: st.DataObject) -> None:
    counts = [1000 // len(sizes)] * (len(sizes) - 1)
    sources = [FullShuffle(n, 3) for n in sizes]
    mixed = MixedOrder(sources, [*counts, 1000 - sum(counts)], sizes, records=records, seed=3)
    whole = mixed.at(epoch, np.arange(records))
    some = np.array(data.draw(st.lists(st.integers(0, records - 1), max_size=20)), np.int64)
    assert mixed.at(epoch, some).tolist() == whole[some].tolist()
    assert 0 <= whole.min() <= whole.max() < sum(sizes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"world_size": 0}, "world_size=0: must be at least 1"),
        ({"rank": 2, "world_size": 2}, "rank=2: must be in 0..1"),
        ({"rank": -1}, "rank=-1: must be in 0..0"),
        ({"batch_size": 4, "world_size": 3}, "batch_size=4: world_size 3 does not divide it"),
        ({"remainder": "lose"}, "remainder='lose': must be one of pad, drop, keep"),
    ],
)
def test_a_wrong_value_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("..", r"\.\.")):
        order(**options)


@pytest.mark.parametrize("options", [{"batch_size": "32"}, {"rank": "0"}, {"world_size": 1.0}], ids=str)
def test_what_is_no_integer_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(options))}=.*: must be an integer"):
        order(**options)


def test_numpy_s_integers_are_integers() -> None:
    assert type(order(rank=np.int32(0)).rank) is int


@pytest.mark.parametrize("step", [-1, 3])
def test_there_is_no_such_step(step: int) -> None:
    with pytest.raises(IndexError, match=rf"steps {step} to {step} are not in 0\.\.2"):
        order().positions(step, step + 1)
