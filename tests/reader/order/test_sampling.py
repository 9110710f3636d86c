"""Sampled epochs: exact counts, for any sizes, epochs, batches and ranks, and batches with the share of every class."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shard_reader.order.batches import BatchOrder
from shard_reader.order.buckets import BucketOrder
from shard_reader.order.coverage import Coverage
from shard_reader.order.record_order import OrderOptions, RecordOrder, Shuffle
from shard_reader.order.sampling import Balanced, SampledOrder, Sampling, StratifiedOrder, Weighted, largest_remainders
from shard_reader.order.shuffle import mix64, permute_each, shuffled

labels = st.lists(st.integers(0, 6), min_size=1, max_size=120)
epochs = st.integers(0, 2**40)
seeds = st.integers(-(2**70), 2**70)
shuffles = st.sampled_from(["none", "full", "window"])


def balanced(values: list[int], power: float, records: int | None = None) -> Balanced:
    _, classes = np.unique(values, return_inverse=True)
    shares = np.bincount(classes).astype(np.float64) ** power
    return Balanced(classes, largest_remainders(shares, len(values) if records is None else records))


def options(shuffle: Shuffle = "full", seed: int = 0, batch_size: int = 12, lanes: int = 12) -> OrderOptions:
    return OrderOptions(shuffle=shuffle, seed=seed, lanes=lanes, window=2, batch_size=batch_size, remainder="pad")


def order_of(sampling: Sampling, chosen: OrderOptions, records: int) -> SampledOrder:
    shards = np.array([records // 3, records - records // 3 - records // 2, records // 2])
    return SampledOrder(sampling, chosen, shards if chosen.shuffle == "window" else None)


def given_records(record_order: RecordOrder, epoch: int, world_size: int = 1, batch_size: int = 12) -> list[int]:
    """The records of an epoch, without padding, of all ranks."""
    found: list[int] = []
    for rank in range(world_size):
        one = BatchOrder(record_order=record_order, batch_size=batch_size, rank=rank, world_size=world_size)
        positions = one.positions(0, one.steps)
        found += record_order.at(epoch, positions)[one.weights(epoch, positions) > 0].tolist()
    return found


@given(values=st.lists(st.integers(1, 1000), min_size=1, max_size=60), data=st.data())
def test_each_value_has_a_permutation_of_its_own(values: list[int], data: st.DataObject) -> None:
    sizes = np.repeat(values, values)
    places = np.concatenate([np.arange(size) for size in values])
    seed = data.draw(st.integers(0, 2**63))
    keys = mix64(np.repeat(np.arange(len(values), dtype=np.uint64) + np.uint64(seed), values))
    found = permute_each(places, sizes, keys)
    for start, size in zip(np.cumsum(values) - values, values, strict=True):
        assert sorted(found[start : start + size].tolist()) == list(range(size))


def test_permutations_of_other_keys_differ() -> None:
    places, sizes = np.tile(np.arange(500), 2), np.full(1000, 500)
    found = permute_each(places, sizes, mix64(np.repeat(np.array([1, 2], np.uint64), 500)))
    assert np.mean(found[:500] == found[500:]) < 0.05


@given(
    labels=labels,
    power=st.floats(0, 1),
    epoch=epochs,
    seed=seeds,
    shuffle=shuffles,
    world_size=st.sampled_from([1, 2, 3, 4, 6]),
)
def test_each_epoch_has_the_counts_of_its_classes_for_any_ranks(
    labels: list[int], power: float, epoch: int, seed: int, shuffle: Shuffle, world_size: int
) -> None:
    sampling = balanced(labels, power)
    found = given_records(order_of(sampling, options(shuffle, seed), len(labels)), epoch, world_size)
    counts = Counter(labels[record] for record in found)
    assert [counts[label] for label in sorted(set(labels))] == sampling.class_counts.tolist()
    assert np.array_equal(np.bincount(found, minlength=len(labels)), sampling.counts(epoch))
    assert Coverage.of(np.array(found)).covers(Coverage.of_counts(sampling.counts(epoch)))


@given(labels=labels, epoch=epochs, seed=seeds)
def test_a_power_of_1_gives_each_record_once(labels: list[int], epoch: int, seed: int) -> None:
    assert balanced(labels, 1.0).counts(epoch).tolist() == [1] * len(labels)


@given(labels=labels, records=st.integers(7, 300), first=st.integers(0, 1000), several=st.integers(1, 8))
def test_a_class_goes_through_all_records_before_one_comes_again(
    labels: list[int], records: int, first: int, several: int
) -> None:
    """From the first epoch on, records of a class differ by one use at most, whatever the counts are."""
    sampling = balanced(labels, 0.5, records)
    assume(sampling.class_counts.all())
    total = sum((sampling.counts(epoch) for epoch in range(several)), np.zeros(len(labels), np.int64))
    for label in set(labels):
        uses = total[np.array(labels) == label]
        assert uses.max() - uses.min() <= 1
    # And so it is inside any later epoch, over two rounds of the class.
    later = sampling.counts(first)
    for label in set(labels):
        uses = later[np.array(labels) == label]
        assert uses.max() - uses.min() <= 2


weights = st.lists(st.one_of(st.integers(0, 20).map(float), st.floats(0, 1e6)), min_size=1, max_size=80).filter(any)


@given(weights=weights, records=st.integers(1, 500), epoch=epochs)
def test_weights_round_down_or_up(weights: list[float], records: int, epoch: int) -> None:
    sampling = Weighted.of(np.array(weights), records)
    found = np.bincount(sampling.at(epoch, np.arange(records)), minlength=len(weights))
    assert np.array_equal(found, sampling.counts(epoch)) and found.sum() == records
    total = sum(map(Fraction, weights))
    # Weights with a fraction are taken to a part in 2**52 of the largest.
    slack = 0 if all(weight == int(weight) for weight in weights) else Fraction(len(weights) * records, 2**48)
    for count, weight in zip(found.tolist(), weights, strict=True):
        exact = Fraction(weight) * records / total
        assert exact - 1 - slack < count < exact + 1 + slack


@given(weights=st.lists(st.integers(0, 20), min_size=1, max_size=80).filter(any), epoch=epochs)
def test_weights_that_are_counts_are_met_exactly(weights: list[int], epoch: int) -> None:
    assert Weighted.of(np.array(weights, np.float64), sum(weights)).counts(epoch).tolist() == weights


def test_over_many_epochs_weights_are_met_on_average() -> None:
    weights = np.array([0.1, 0.25, 1, 3.7, 0.013])
    sampling, several = Weighted.of(weights, 3), 2000
    total = sum((sampling.counts(epoch) for epoch in range(several)), np.zeros(5, np.int64))
    assert np.abs(total - 3 * several * weights / weights.sum()).max() < 4


@given(weights=weights, shuffle=shuffles, epoch=epochs, seed=seeds, world_size=st.sampled_from([1, 2, 4]))
def test_each_epoch_has_the_counts_of_its_weights_for_any_ranks(
    weights: list[float], shuffle: Shuffle, epoch: int, seed: int, world_size: int
) -> None:
    sampling = Weighted.of(np.array(weights), 2 * len(weights))
    found = given_records(order_of(sampling, options(shuffle, seed), len(weights)), epoch, world_size)
    assert np.array_equal(np.bincount(found, minlength=len(weights)), sampling.counts(epoch))


@given(labels=labels, power=st.floats(0, 1), epoch=epochs, seed=seeds, batch_size=st.integers(1, 40))
def test_stratified_batches_have_the_share_of_every_class(
    labels: list[int], power: float, epoch: int, seed: int, batch_size: int
) -> None:
    sampling = balanced(labels, power)
    record_order = StratifiedOrder(sampling, options(seed=seed, batch_size=batch_size))
    found = record_order.at(epoch, np.arange(sampling.records))
    assert np.array_equal(np.bincount(found, minlength=len(labels)), sampling.counts(epoch))
    names = sorted(set(labels))
    for start in range(0, sampling.records, batch_size):
        batch = Counter(labels[record] for record in found[start : start + batch_size].tolist())
        size = min(batch_size, sampling.records - start)
        for label, count in zip(names, sampling.class_counts.tolist(), strict=True):
            assert abs(batch[label] - size * count / sampling.records) <= 1 + 1 / max(1, sampling.records // batch_size)


@given(
    labels=labels,
    epoch=epochs,
    seed=seeds,
    share=st.integers(1, 12),
    world_size=st.sampled_from([1, 2, 3, 4]),
)
def test_the_share_of_each_rank_in_a_stratified_batch_is_that_of_the_batch(
    labels: list[int], epoch: int, seed: int, share: int, world_size: int
) -> None:
    """The records of a rank lie at equal distances in the batch, sorted by class."""
    sampling, size = balanced(labels, 1.0), share * world_size
    found = StratifiedOrder(sampling, options(seed=seed, batch_size=size)).at(epoch, np.arange(sampling.records))
    for start in range(0, sampling.records // size * size, size):
        batch = [labels[record] for record in found[start : start + size].tolist()]
        for rank in range(world_size):
            own = Counter(batch[rank::world_size])
            for label, count in Counter(batch).items():
                assert abs(own[label] - count / world_size) < 1


def test_an_unbalanced_batch_is_found_by_the_test_above() -> None:
    """A shuffle of everything does not give each batch its share."""
    sampling = balanced([0] * 60 + [1] * 60, 1.0)
    found = order_of(sampling, options(), 120).at(0, np.arange(120)) >= 60
    assert max(abs(int(found[start : start + 12].sum()) - 6) for start in range(0, 120, 12)) > 1


@pytest.mark.parametrize("shuffle", ["full", "stratified"])
def test_epochs_and_seeds_differ_in_order(shuffle: str) -> None:
    sampling = balanced(list(range(5)) * 40, 0.0)

    def records(seed: int, epoch: int) -> NDArray[np.int64]:
        chosen = options(seed=seed)
        made = StratifiedOrder(sampling, chosen) if shuffle == "stratified" else SampledOrder(sampling, chosen, None)
        return made.at(epoch, np.arange(200))

    assert np.mean(records(0, 0) == records(0, 1)) < 0.1
    assert np.mean(records(0, 0) == records(1, 0)) < 0.1


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_stratified_batches_have_other_records_together_in_each_epoch(classes: int) -> None:
    """Classes here have a multiple of the number of batches, which equal distances on the line come back to."""
    sampling = balanced(list(range(classes)) * 200, 1.0)
    record_order = StratifiedOrder(sampling, options(batch_size=50))
    epochs = [record_order.at(epoch, np.arange(sampling.records)).reshape(-1, 50) for epoch in range(20)]
    parts = [tuple(np.sort(batch[batch % classes == 0]).tolist()) for found in epochs for batch in found]
    assert len(set(parts)) == len(parts)


def test_the_order_of_samplings_is_pinned() -> None:
    """A change here would reorder everybody's training: it needs a new version of the state."""
    sampling = balanced([0, 0, 0, 0, 0, 0, 1, 1, 2], 0.5)
    full = order_of(sampling, options(), 9).at(3, np.arange(9)).tolist()
    strata = StratifiedOrder(sampling, options(batch_size=4)).at(3, np.arange(9)).tolist()
    weighted = Weighted.of(np.array([0.5, 0.25, 3, 1]), 6).at(3, np.arange(6)).tolist()
    assert (full, strata, weighted) == PINNED


PINNED = (
    [6, 0, 2, 7, 8, 1, 8, 6, 3],
    [0, 2, 6, 8, 1, 8, 7, 3, 6],
    [0, 2, 2, 2, 2, 3],
)


def test_counts_of_a_long_epoch_cost_no_more_than_its_records() -> None:
    sampling = Balanced(np.array([0, 0, 0, 1, 1]), np.array([10**12, 10**12 + 1]))
    for epoch in (0, 7, 10**5):
        counts = sampling.counts(epoch)
        assert counts[:3].sum() == 10**12 and counts[3:].sum() == 10**12 + 1
        assert counts[:3].max() - counts[:3].min() <= 2 and counts[3:].max() - counts[3:].min() <= 2


@given(weights=st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=40), records=st.integers(1, 2**47), epoch=epochs)
def test_weights_of_any_size_fill_an_epoch(weights: list[float], records: int, epoch: int) -> None:
    counts = Weighted.of(np.array(weights), records).counts(epoch)
    assert counts.sum() == records and counts.min() >= 0


@given(weights=st.lists(st.integers(0, 2**20), min_size=1, max_size=40).filter(any), records=st.integers(1, 2**40))
def test_ends_of_whole_weights_are_exact(weights: list[int], records: int) -> None:
    sampling = Weighted.of(np.array(weights, np.float64), records)
    line = records << (61 - records.bit_length())
    assert sampling.ends.tolist() == [int(end) * line // sum(weights) for end in np.cumsum(weights)]


def bucket_windows(chosen: OrderOptions, shards: int, of_each: int) -> BucketOrder:
    """Windows over shards whose records are in three buckets of unequal size."""
    ends = np.arange(1, shards + 1) * of_each
    buckets = np.random.default_rng(0).choice(3, shards * of_each, p=[0.2, 0.7, 0.1])
    members = [np.flatnonzero(buckets == number) for number in range(3)]
    sizes = [np.diff(np.searchsorted(numbers, ends), prepend=0) for numbers in members]
    orders = [
        shuffled(len(numbers), chosen, size.copy, by_mean=True) for numbers, size in zip(members, sizes, strict=True)
    ]
    return BucketOrder(orders, members, chosen)


@pytest.mark.parametrize("kind", ["one heavy shard", "buckets"])
def test_windows_use_few_shards_at_a_time(kind: str) -> None:
    """Not all of them, which a cache in front of a store has no room for."""
    shards, of_each, lanes = 64, 400, 4
    records, chosen = shards * of_each, options("window", batch_size=16, lanes=lanes)
    weights = np.ones(records)
    weights[800:1200] = 60
    one: RecordOrder = SampledOrder(Weighted.of(weights, records), chosen, np.full(shards, of_each))
    if kind == "buckets":
        one = bucket_windows(chosen, shards, of_each)
    positions = np.arange(one.records)
    positions = positions[~one.is_padding(0, positions)]
    used = one.at(0, positions) // of_each
    first, last = (np.array([positions[used == shard][end] for shard in np.unique(used)]) for end in (0, -1))
    at_a_time = [int(((first <= place) & (place <= last)).sum()) for place in positions[:: of_each // 2]]
    assert max(at_a_time) <= lanes * (chosen.window + 5)


@given(seed=seeds, epoch=st.integers(0, 5), batch_size=st.integers(1, 9), lanes=st.sampled_from([1, 3]))
def test_buckets_in_windows_have_each_record_once(seed: int, epoch: int, batch_size: int, lanes: int) -> None:
    one = bucket_windows(options("window", seed=seed, batch_size=batch_size, lanes=lanes), 5, 7)
    assert sorted(given_records(one, epoch, batch_size=batch_size)) == list(range(35))
    batches = one.at(epoch, np.arange(one.records)).reshape(-1, batch_size)
    assert all(np.isin(batch, members).all() for batch in batches for members in one._members if batch[0] in members)
