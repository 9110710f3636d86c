"""A dataset in an object store gives what its copy on a disk gives, bit for bit, with a cache and without one."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.remote_data import ALL_FIELDS, FORMATS, digest, digests, options_of, write_dataset
from support.servers import Servers

from shard_reader import Dataset, mix, open_dataset

slow = pytest.mark.slow
ENCODINGS = ("raw", "jpeg")
WAYS = ("ranges", "cache")
ORDERS: dict[str, dict[str, Any]] = {
    "none": {"shuffle": "none"},
    "full": {"shuffle": "full"},
    "window": {"shuffle": "window", "lanes": 2, "window": 2},
}
QUICK = [("none", "hdf5", "raw"), ("full", "tfrecord", "jpeg"), ("window", "tfrecord", "raw")]


@pytest.fixture(scope="module")
def places(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, str]]]:
    """A dataset of each encoding: where it is on a disk, and in an object store."""
    root, store = tmp_path_factory.mktemp("data"), servers.store("moto")
    found = {}
    for encoding in ENCODINGS:
        local = write_dataset(root / encoding, encoding=encoding)  # type: ignore[arg-type]
        found[encoding] = local, store.copy(local, encoding)
    with pytest.MonkeyPatch.context() as patch:
        store.use(patch)
        yield found


@pytest.fixture(params=WAYS)
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Of `open_dataset`: by ranges, and through a cache."""
    return {"cache": tmp_path / "cache"} if request.param == "cache" else {}


@pytest.fixture
def pair(places: dict[str, tuple[Path, str]], options: dict[str, Any]) -> tuple[Dataset, Dataset]:
    """A dataset on a disk, and the same one in a store."""
    local, url = places["raw"]
    return open_dataset(local), open_dataset(url, **options)


def test_stored_images_are_those_of_a_copy(places: dict[str, tuple[Path, str]], options: dict[str, Any]) -> None:
    local, url = places["jpeg"]
    wanted = {**options_of("jpeg"), "seed": 3, "decode": False}
    assert digests(open_dataset(url, **options).stream(**wanted)) == digests(open_dataset(local).stream(**wanted))


@pytest.mark.parametrize(
    ("order", "format", "encoding"),
    [pytest.param(*one, marks=() if one in QUICK else slow) for one in itertools.product(ORDERS, FORMATS, ENCODINGS)],
)
def test_two_epochs_are_those_of_a_copy(
    places: dict[str, tuple[Path, str]], encoding: str, format: str, order: str, options: dict[str, Any]
) -> None:
    local, url = places[encoding]
    more = options_of(encoding) | ORDERS[order]
    near, far = open_dataset(local, format=format), open_dataset(url, format=format, **options)
    expected, found = near.stream(**more), far.stream(**more)
    for _ in range(2):
        assert digests(found) == digests(expected)
        assert found.coverage() == expected.coverage()
        assert found.coverage().covers(far.coverage())
    assert found.state_dict() == expected.state_dict()


@pytest.mark.parametrize("remainder", ["keep", *(pytest.param(one, marks=slow) for one in ("pad", "drop"))])
@pytest.mark.parametrize("order", ["window", *(pytest.param(one, marks=slow) for one in ("none", "full"))])
def test_ranks_get_the_batches_that_they_would_get_from_a_copy(
    pair: tuple[Dataset, Dataset], order: str, remainder: str
) -> None:
    for rank in range(2):
        more = options_of("raw") | ORDERS[order] | {"rank": rank, "world_size": 2, "remainder": remainder}
        near, far = (data.stream(**more) for data in pair)
        assert digests(far) == digests(near)
        assert digests(far) == digests(near)


def test_a_record_is_the_same_whichever_way_it_is_asked_for(pair: tuple[Dataset, Dataset]) -> None:
    near, far = pair
    for number in (0, 6, 7, 30, 74, -1):
        one, other = near[number], far[number]
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], strict=isinstance(value, np.ndarray))
        np.testing.assert_array_equal(far.image(number), near.image(number), strict=True)
    assert far.describe(30).partition("train-")[2] == near.describe(30).partition("train-")[2]
    assert len(list(far)) == len(near)
    with pytest.raises(IndexError, match="record 75 of 75"):
        far[75]


@pytest.mark.parametrize("name", [name for name in ALL_FIELDS if name != "image"])
def test_columns_are_those_of_a_copy(pair: tuple[Dataset, Dataset], name: str) -> None:
    near, far = pair
    for records in (None, [74, 0, 30, 30], []):
        assert digest({name: far.column(name, records)}) == digest({name: near.column(name, records)})
    assert digest({"id": far.ids()}) == digest({"id": near.ids()})


def test_some_of_the_records_and_mixtures_are_those_of_a_copy(pair: tuple[Dataset, Dataset]) -> None:
    near, far = (
        {
            "where": data.where(label=[1, 3], note=lambda notes: notes != b""),
            "select": data.select([40, 3, 3, 74, 12]),
            "mixture": mix([data, data.select(range(20))], [1, 2]),
        }
        for data in pair
    )
    for name, data in far.items():
        expected = near[name].stream(**options_of("raw"), seed=1)
        assert len(data) == len(near[name])
        assert digests(data.stream(**options_of("raw"), seed=1)) == digests(expected)


def test_a_mixture_of_near_and_far_is_that_of_copies(pair: tuple[Dataset, Dataset]) -> None:
    near, far = pair
    expected = digests(mix([near, near], [1, 3]).stream(**options_of("raw")))
    assert digests(mix([near, far], [1, 3]).stream(**options_of("raw"))) == expected


@pytest.mark.parametrize("order", ["full", *(pytest.param(one, marks=slow) for one in ("none", "window"))])
def test_a_position_goes_on_as_if_nothing_had_been(pair: tuple[Dataset, Dataset], order: str) -> None:
    near, far = pair
    more = options_of("raw") | ORDERS[order]
    expected = digests(near.stream(**more))
    for step in (1, 4, 9):
        stream = far.stream(**more)
        found = digests(itertools.islice(stream, step))
        state = stream.state_dict()
        other = far.stream(**more)
        other.load_state_dict(state)
        assert found + digests(other) == expected
        stream.load_state_dict(state)
        assert digests(stream) == expected[step:]


def test_single_batches_and_every_nth_of_them_are_those_of_the_epoch(pair: tuple[Dataset, Dataset]) -> None:
    near, far = (data.stream(**options_of("raw")) for data in pair)
    expected = digests(near)
    assert [digest(far.batch(0, step)) for step in (0, 5, 9)] == [expected[step] for step in (0, 5, 9)]
    assert digests(far.batches(0, 1, every=3)) == expected[1::3]
    assert digest(far.take([3, 74, 3])) == digest(near.take([3, 74, 3]))


def test_two_loops_at_the_same_time_do_not_disturb_each_other(pair: tuple[Dataset, Dataset]) -> None:
    near, far = pair
    expected = digests(near.stream(**options_of("raw"))), digests(near.stream(**options_of("raw"), seed=1))
    found = zip(far.stream(**options_of("raw")), far.stream(**options_of("raw"), seed=1), strict=True)
    assert tuple(map(list, zip(*((digest(one), digest(other)) for one, other in found), strict=True))) == expected


def test_threads_may_share_a_dataset(pair: tuple[Dataset, Dataset]) -> None:
    near, far = pair
    expected = {seed: digests(near.stream(**options_of("raw"), seed=seed)) for seed in range(6)}
    found: dict[int, list[str]] = {}

    def read(seed: int) -> None:
        found[seed] = digests(far.stream(**options_of("raw"), seed=seed))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in expected]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # whatever can come between, will
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
    finally:
        sys.setswitchinterval(switch)
    assert found == expected


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=slow)])
def test_worker_processes_share_an_epoch(pair: tuple[Dataset, Dataset], method: str) -> None:
    near, far = pair
    stream = far.stream(**options_of("raw"))
    next(iter(stream))  # threads, connections and maps, which are not the workers'
    context = multiprocessing.get_context(method)
    ends = [context.Pipe(duplex=False) for _ in range(2)]
    workers = [context.Process(target=_send, args=(stream, n, ends[n][1]), daemon=True) for n in range(2)]
    for worker in workers:
        worker.start()
    found: list[list[str]] = []
    for receiver, _ in ends:
        assert receiver.poll(300)
        made, requests, fetched = receiver.recv()
        assert requests >= 0 and fetched >= 0, "counts for itself"
        found.append(made)
    for worker in workers:
        worker.join(300)
        assert worker.exitcode == 0
    expected = digests(near.stream(**options_of("raw")))
    assert found == [expected[0::2], expected[1::2]]


def _send(stream: Any, number: int, connection: Any) -> None:
    made = digests(stream.batches(0, number, every=2))
    stats = stream.stats()
    connection.send((made, stats.requests, stats.bytes_fetched))


def test_datasets_and_streams_are_pickled_with_all_that_was_asked_for(pair: tuple[Dataset, Dataset]) -> None:
    near, far = pair
    stream = far.stream(**options_of("raw"), seed=3)
    list(itertools.islice(stream, 3))
    data, other = pickle.loads(pickle.dumps((far.select(range(70)), stream)))
    other.load_state_dict(stream.state_dict())
    assert digests(other) == digests(near.stream(**options_of("raw"), seed=3))[3:]
    assert other.stats().requests >= 0 and other.stats().bytes_fetched >= 0
    assert digest(data.stream(batch_size=70).batch(0, 0)) == digest(
        near.select(range(70)).stream(batch_size=70).batch(0, 0)
    )


def test_a_closed_dataset_is_read_again(pair: tuple[Dataset, Dataset]) -> None:
    near, far = pair
    expected = digests(near.stream(**options_of("raw")))
    stream = far.stream(**options_of("raw"))
    loop = iter(stream)
    next(loop)
    stream.close()
    far.close()
    with pytest.raises(RuntimeError, match="this loop is over"):
        next(loop)
    assert digests(far.stream(**options_of("raw"))) == expected


@pytest.mark.parametrize(
    ("place", "options", "message"),
    [
        (Path("s3://bucket/shards"), {}, r"path='s3:/bucket/shards': a URL has two slashes"),
        ("shards", {"cache": ""}, r"cache='': must be a directory on a local disk"),
        ("shards", {"cache": "s3://bucket/cache"}, r"cache='s3://bucket/cache': must be a directory"),
        ("shards", {"cache_bytes": "5GB"}, r"cache_bytes='5GB': there is no cache"),
        ("shards", {"cache": "c", "cache_bytes": "lots"}, r"cache_bytes: expected a size as .*'lots'"),
        ("shards", {"ahead_bytes": 0}, r"ahead_bytes=0: must be at least 1"),
        ("shards", {"retry_for": -1}, r"retry_for=-1: must be a number of seconds"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_before_anything_is_opened(
    place: str | Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(place, **options)
