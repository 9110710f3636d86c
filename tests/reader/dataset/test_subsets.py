"""Some of the records, and mixtures: as exact and resumable as the whole."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import REPOSITORY, prepared
from support.images import write_image

from shard_reader import CenterCrop, Coverage, Dataset, StateError, Stream, mix, open_dataset

GOLDEN = REPOSITORY / "tests/reader/format/golden/v1"


def ids(batches: Any) -> list[bytes]:
    return [id for batch in batches for id in batch["id"][batch["weight"] > 0].tolist()]


def ids_of(data: Dataset) -> list[str]:
    return [data[number]["id"] for number in range(len(data))]


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "records",
    [[3, 1, 47, 20], range(10, 30), np.arange(48) % 3 == 0, [-1, -48], np.array([], bool)[:0].astype(int), (5,)],
    ids=lambda records: type(records).__name__,
)
@pytest.mark.parametrize("shuffle", ["none", "full"])
def test_selected_records_are_a_dataset(raw_shards: Path, records: Any, shuffle: Any) -> None:
    data = open_dataset(raw_shards)
    everything = ids_of(data)
    array = np.asarray(records)
    expected = [everything[n] for n in (np.flatnonzero(array) if array.dtype == bool else array)]
    some = data.select(records)
    assert ids_of(some) == expected
    stream = some.stream(batch_size=4, shuffle=shuffle, fields=("image", "label", "id"))
    batches = list(stream)
    assert sorted(ids(batches)) == sorted(id.encode() for id in expected)
    assert shuffle == "full" or ids(batches) == [id.encode() for id in expected]
    assert stream.coverage() == some.coverage() == Coverage.of_all(len(expected))


def test_a_selection_of_a_selection(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    assert ids_of(data.select(range(10, 40)).select([0, 5])) == [data[10]["id"], data[15]["id"]]
    assert ids_of(pickle.loads(pickle.dumps(data.select([7])))) == [data[7]["id"]]


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        ([48], IndexError, "record 48 of 48 in split 'train'"),
        ([0, -49], IndexError, "record -49 of 48"),
        ([True, False], ValueError, "the mask has 2 values for 48 records"),
        ([0.5], TypeError, "records has the type float64"),
        ([[1]], ValueError, r"records has the shape \(1, 1\)"),
        (["a"], TypeError, "records has the type"),
    ],
    ids=str,
)
def test_a_wrong_selection_is_named(raw_shards: Path, records: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        open_dataset(raw_shards).select(records)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"label": 1}, lambda record: record["label"] == 1),
        ({"label": "b"}, lambda record: record["label"] == 1),
        ({"label": ["a", 2]}, lambda record: record["label"] != 1),
        ({"label": {0}, "id": lambda ids: np.array([id.endswith(b"png") for id in ids])},
         lambda record: record["label"] == 0 and record["id"].endswith("png")),
        ({"label": np.array([0, 1])}, lambda record: record["label"] != 2),
        ({"height": lambda height: height > 12}, lambda record: False),
        ({"width": 16}, lambda record: True),
        ({"label": 99}, lambda record: False),
    ],
)  # fmt: skip
def test_where_chooses_by_values(raw_shards: Path, conditions: dict[str, Any], expected: Any) -> None:
    data = open_dataset(raw_shards)
    found = data.where(**conditions)
    assert ids_of(found) == [record["id"] for record in data if expected(record)]
    assert len(list(found.stream(batch_size=5))) == -(-len(found) // 5)


def test_where_finds_ids_and_texts() -> None:
    data = open_dataset(GOLDEN / "fields")
    assert len(data.where(note="naïve")) == 1
    assert len(data.where(note=["naïve", ""])) == 2
    assert ids_of(data.where(id=data[1]["id"])) == [data[1]["id"]]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"colour": 1}, "'colour' is no field with one value for each record: label, id, height, width"),
        ({"image": 1}, "'image' is no field with one value"),
        ({"label": "dog"}, "label='dog': is no class of"),
        ({"id": 3}, "id=3: the field is of type string"),
        ({"height": "3"}, "height='3': the field is of type int64"),
    ],
    ids=str,
)
def test_a_wrong_condition_is_named(raw_shards: Path, conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(raw_shards).where(**conditions)


def test_a_selection_shuffles_in_windows_if_it_is_in_stored_order(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    some = data.where(label=[0, 2])
    stream = some.stream(batch_size=6, shuffle="window", lanes=2, window=1, fields=("id",))
    assert sorted(ids(stream)) == sorted(id.encode() for id in ids_of(some))
    with pytest.raises(ValueError, match="needs records in stored order"):
        data.select([5, 3]).stream(batch_size=2, shuffle="window")


def test_states_of_other_selections_are_refused(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    state = data.select([1, 2, 3]).stream(batch_size=2).state_dict()
    data.select(np.array([1, 2, 3], np.int32)).stream(batch_size=2).load_state_dict(state)
    for other in (data, data.select([1, 2, 4]), data.select([3, 2, 1])):
        with pytest.raises(StateError):
            other.stream(batch_size=2).load_state_dict(state)


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 JPEG images of the same classes, in 2 shards."""
    root = tmp_path_factory.mktemp("others")
    for number in range(70):
        write_image(root / "in" / "abc"[number % 3] / f"x{number:03d}.png", 1000 + number, (18, 19))
    return prepared(root / "in", root / "shards", "--size", "16", "--shards", 2)


def mixed(raw_shards: Path, others: Path, weights: tuple[float, float] = (1, 3), **options: Any) -> Stream:
    both = mix([open_dataset(raw_shards), open_dataset(others)], weights)
    return both.stream(**{"batch_size": 8, "fields": ("image", "label", "id"), "image": CenterCrop(12), **options})


@pytest.mark.slow
def test_a_mixture_is_in_proportion_and_whole(raw_shards: Path, others: Path) -> None:
    stream = mixed(raw_shards, others)
    seen = Counter(id for _ in range(20) for id in ids(stream))
    assert len(stream) == -(-118 // 8)
    assert sum(seen.values()) == 20 * 118
    of_others = Counter({id: n for id, n in seen.items() if b"/x" in id})
    assert abs(sum(of_others.values()) / (20 * 118) - 0.75) < 0.02
    assert len(of_others) == 70 and len(seen) == 118
    assert max(of_others.values()) - min(of_others.values()) <= 1, "none comes again before all have come"


def test_a_mixture_s_batch_holds_what_the_sources_hold(raw_shards: Path, others: Path) -> None:
    """Raw pixels of one size, and JPEGs that are cropped."""
    stream = mixed(raw_shards, others, image=CenterCrop((12, 15)))
    records = {record["id"]: record for path in (raw_shards, others) for record in open_dataset(path)}
    crop = CenterCrop((12, 15))
    for batch in stream:
        for image, label, id in zip(batch["image"], batch["label"], batch["id"], strict=True):
            record = records[id.decode()]
            assert np.array_equal(image, crop(record["image"])) and label == record["label"]
    assert stream.data[0]["id"] == open_dataset(raw_shards)[0]["id"]
    assert stream.data[48]["id"] == open_dataset(others)[0]["id"]
    assert "others" in stream.data.describe(117)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("shuffle", ["full", "none", "window"])
def test_a_mixture_is_resumed_as_a_dataset_is(raw_shards: Path, others: Path, world_size: int, shuffle: Any) -> None:
    options: dict[str, Any] = {"shuffle": shuffle, "seed": 5}
    whole = mixed(raw_shards, others, **options)
    expected = [{name: values.copy() for name, values in batch.items()} for _ in range(2) for batch in whole]
    for step in range(0, len(whole), 3):
        for rank in range(world_size):
            one = mixed(raw_shards, others, rank=rank, world_size=world_size, **options)
            one.load_state_dict(json.loads(json.dumps(whole.state_dict() | {"epoch": 0, "step": step})))
            rest = [batch for _ in range(2) for batch in one]
            for batch, wanted in zip(rest, expected[step:], strict=True):
                assert same(batch, {name: values[rank::world_size] for name, values in wanted.items()})


def test_a_mixture_of_other_parts_is_another_order(raw_shards: Path, others: Path) -> None:
    state = mixed(raw_shards, others, (1, 3)).state_dict()
    mixed(raw_shards, others, (2, 6)).load_state_dict(state)
    for other in (mixed(raw_shards, others, (1, 2)), mixed(others, raw_shards), mixed(raw_shards, others, seed=1)):
        with pytest.raises(StateError):
            other.load_state_dict(state)


def test_mixtures_of_selections_and_mixtures(raw_shards: Path, others: Path) -> None:
    data = open_dataset(raw_shards)
    inner = mix([data.where(label="a"), data.where(label="b")], [1, 1])
    both = mix([inner, open_dataset(others)], [0.5, 0.5], epoch_records=40)
    stream = both.stream(batch_size=10, image=CenterCrop(12), fields=("id", "label"))
    assert len(stream) == 4
    assert len(ids(stream)) == 40


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "must be one for each of the 2 sources"),
        ([1, 0], "must be above 0"),
        ([1, float("nan")], "must be above 0"),
        ([1, 1e-9], "below a thousandth of the whole"),
    ],
    ids=str,
)
def test_wrong_weights_are_named(raw_shards: Path, weights: Any, message: str) -> None:
    data = open_dataset(raw_shards)
    with pytest.raises(ValueError, match=message):
        mix([data, data], weights)


def test_what_cannot_be_mixed_is_named(raw_shards: Path, tmp_path: Path) -> None:
    data = open_dataset(raw_shards)
    with pytest.raises(ValueError, match="has no records to mix"):
        mix([data, data.where(label=99)], [1, 1])
    with pytest.raises(TypeError, match="is no dataset"):
        mix([data, [1, 2]], [1, 1])  # type: ignore[list-item]
    write_image(tmp_path / "in/dog/1.png")
    dogs = open_dataset(prepared(tmp_path / "in", tmp_path / "dogs", "--size", "16x12"))
    with pytest.raises(ValueError, match="their class names differ"):
        mix([data, dogs], [1, 1])
    grey = open_dataset(prepared(tmp_path / "in", tmp_path / "grey", "--size", "16x12", "--channels", "grey"))
    with pytest.raises(ValueError, match="their images differ in type or channels"):
        mix([data, grey], [1, 1])
    with pytest.raises(ValueError, match="epoch_records=0: must be at least 1"):
        mix([data], [1], epoch_records=0)


@pytest.mark.parametrize("records", [[-1], [48], [0, 10**12], np.array([-(10**9)])], ids=str)
@pytest.mark.parametrize("kind", ["whole", "selection", "mixture"])
def test_records_that_are_not_there_are_not_read(raw_shards: Path, kind: str, records: Any) -> None:
    """What a number leads to is memory."""
    whole = open_dataset(raw_shards)
    data = {"whole": whole, "selection": whole.select(range(48)), "mixture": mix([whole], [1])}[kind]
    for read in (
        lambda: data.column("label", records),
        lambda: data.ids(records),
        lambda: data[int(records[-1]) - 100],
    ):
        with pytest.raises(IndexError, match=r"record -?\d+ of 48 in"):
            read()
    with pytest.raises(TypeError, match="records has the type float64"):
        data.column("label", np.array([1.7]))
    with pytest.raises(ValueError, match="images are no column"):
        data.column("image", np.array([1]))


def test_a_mixture_in_a_mixture_has_epochs_of_its_own_length(raw_shards: Path, others: Path) -> None:
    one, two = open_dataset(raw_shards), open_dataset(others)
    for length in (5, 500):
        inner = mix([one.where(label="a"), one.where(label="b")], [1, 1], epoch_records=length)
        both = mix([inner, two], [1, 1], epoch_records=1000)
        seen = ids(both.stream(batch_size=100, image=CenterCrop(12), fields=("id",)))
        of_two = {id for id in seen if b"/x" in id}
        assert sum(b"/x" in id for id in seen) == 500 and len(of_two) == 70
        assert {id[:1] for id in seen if b"/x" not in id} == {b"a", b"b"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "expected"),
    [(0.1, 2), ([0.1, 0.3], 3), (frozenset({0.3}), 1), ((value for value in (0.1,)), 2), ({0.5: "x"}.keys(), 0)],
    ids=["number", "list", "set", "generator", "keys"],
)
def test_where_takes_numbers_as_they_are_written(tmp_path: Path, condition: Any, expected: int) -> None:
    rows = []
    for number, (score, address) in enumerate([(0.1, 7), (0.1, 8), (0.3, 9)]):
        write_image(tmp_path / f"in/{number}.png", number)
        rows.append(f"{number}.png,{score},{address},{number % 2}")
    (tmp_path / "in/t.csv").write_text("path,score,address,weight\n" + "\n".join(rows) + "\n")
    options = ["--size", "16x12", "--encoding", "raw", "--path-column", "path"]
    data = open_dataset(prepared(tmp_path / "in/t.csv", tmp_path / "out", *options))
    assert len(data.where(score=condition)) == expected
    batch = next(iter(data.stream(batch_size=3, shuffle="none", fields=(name for name in ("image", "address")))))
    assert sorted(batch["address"].tolist()) == [7, 8, 9], "no column of ours"


@pytest.mark.parametrize(
    "condition", [None, [None], slice(3), lambda values: True, lambda values: values], ids=range(5)
)
def test_where_refuses_what_can_never_be(raw_shards: Path, condition: Any) -> None:
    with pytest.raises(ValueError, match="where: "):
        open_dataset(raw_shards).where(label=condition)


def test_select_takes_what_can_be_iterated(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    assert len(data.select(n for n in (3, 4))) == len(data.select({3: 0, 4: 0}.keys())) == 2
    with pytest.raises(IndexError, match="record 18446744073709551615 of 48"):
        data.select(np.array([2**64 - 1], np.uint64))
