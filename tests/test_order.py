"""The order: pinned, a permutation for every size, and the same global batches for any number of ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shard_reader.order import Order, Remainder, Shuffle, permute

sizes = st.integers(1, 400)
epochs = st.integers(0, 2**40)
seeds = st.integers(-(2**70), 2**70)


def order(**options: object) -> Order:
    return Order(**{"records": 10, "batch_size": 4, **options})  # type: ignore[arg-type]


def whole_epoch(one: Order, epoch: int = 0) -> list[tuple[int, float]]:
    """Each record and its weight, in the order of an epoch."""
    batches = [one.batch(epoch, step) for step in range(one.steps)]
    return [(r, w) for records, weights in batches for r, w in zip(records.tolist(), weights.tolist(), strict=True)]


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


def test_places_are_spread_evenly() -> None:
    """Over many epochs each record is everywhere equally often: chi-squared of 16 cells, p > 1e-9."""
    cells = np.zeros((16, 16))
    for epoch in range(4000):
        cells[np.arange(16), permute(np.arange(16), 16, 3, epoch)] += 1
    chi_squared = ((cells - 250) ** 2 / 250).sum()
    assert chi_squared < 400  # 225 degrees of freedom


@given(
    records=st.integers(0, 200),
    share=st.integers(1, 5),
    world_size=st.integers(1, 5),
    shuffle=st.sampled_from(["none", "full"]),
    remainder=st.sampled_from(["pad", "drop", "keep"]),
    epoch=st.integers(0, 3),
)
def test_every_record_once_for_any_number_of_ranks(
    records: int, share: int, world_size: int, shuffle: Shuffle, remainder: Remainder, epoch: int
) -> None:
    batch_size = share * world_size
    options = {"records": records, "batch_size": batch_size, "shuffle": shuffle, "remainder": remainder}
    ranks = [order(**options, rank=rank, world_size=world_size) for rank in range(world_size)]
    seen = Counter(r for one in ranks for r, weight in whole_epoch(one, epoch) if weight)
    kept = records - records % batch_size if remainder == "drop" else records
    assert sum(seen.values()) == kept
    assert len(seen) == kept
    if remainder != "keep":
        assert len({one.steps for one in ranks}) == 1


@given(st.integers(1, 200), st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from(["none", "full"]))
def test_a_global_batch_is_the_same_for_any_number_of_ranks(records: int, world_size: int, shuffle: Shuffle) -> None:
    alone = order(records=records, batch_size=12, shuffle=shuffle)
    ranks = [
        order(records=records, batch_size=12, shuffle=shuffle, rank=r, world_size=world_size) for r in range(world_size)
    ]
    for step in range(alone.steps):
        expected, weights = alone.batch(5, step)
        together = np.empty_like(expected)
        for rank, one in enumerate(ranks):
            together[rank::world_size] = one.batch(5, step)[0]
        assert together.tolist() == expected.tolist()
        assert sum(one.batch(5, step)[1].sum() for one in ranks) == weights.sum()


@given(st.integers(1, 10**12), st.integers(1, 1000), st.data())
def test_a_batch_of_any_size_of_dataset_is_in_range(records: int, batch_size: int, data: st.DataObject) -> None:
    one = order(records=records, batch_size=batch_size)
    assume(one.steps > 0)
    step = data.draw(st.integers(0, one.steps - 1))
    numbers, weights = one.batch(0, step)
    assert len(numbers) == batch_size
    assert 0 <= numbers.min() <= numbers.max() < records
    assert len(set(numbers[weights > 0].tolist())) == weights.sum()


def test_pad_keep_and_drop() -> None:
    epochs = {how: whole_epoch(order(shuffle="none", remainder=how)) for how in ("pad", "keep", "drop")}
    assert epochs["keep"] == [(n, 1.0) for n in range(10)]
    assert epochs["drop"] == [(n, 1.0) for n in range(8)]
    assert epochs["pad"] == [*epochs["keep"], (0, 0.0), (1, 0.0)]
    assert [order(remainder="keep", rank=r, world_size=4).steps for r in range(4)] == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"world_size": 0}, "world_size=0: must be at least 1"),
        ({"rank": 2, "world_size": 2}, "rank=2: must be in 0..1"),
        ({"rank": -1}, "rank=-1: must be in 0..0"),
        ({"batch_size": 4, "world_size": 3}, "batch_size=4: world_size 3 does not divide it"),
        ({"shuffle": "some"}, "shuffle='some': must be one of none, full"),
        ({"remainder": "lose"}, "remainder='lose': must be one of pad, drop, keep"),
    ],
)
def test_a_wrong_value_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("..", r"\.\.")):
        order(**options)


@pytest.mark.parametrize("options", [{"seed": 1.0}, {"seed": None}, {"batch_size": "32"}, {"rank": "0"}], ids=str)
def test_what_is_no_integer_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(options))}=.*: must be an integer"):
        order(**options)


def test_numpy_s_integers_are_integers() -> None:
    assert type(order(seed=np.int32(3)).seed) is int


@pytest.mark.parametrize("step", [-1, 3])
def test_there_is_no_such_step(step: int) -> None:
    with pytest.raises(IndexError, match=rf"step {step} is not in 0\.\.2"):
        order().batch(0, step)
