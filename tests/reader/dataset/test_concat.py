"""`concat`: several datasets one after the other give what one dataset with all of their shards gives."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.remote_data import ALL_FIELDS, digests, write_dataset
from support.stored import FIELDS, SEVERAL, dataset, record, several, write_manifest

from shard_reader import Concatenation, Dataset, StateError, concat, mix, open_dataset
from shard_reader.format import Field
from shard_reader.format.manifest import Manifest

SIZES = (7, 5, 6, 0, 9, 4, 7, 1)
CUTS = {"two": (3,), "three": (1, 5), "an empty one": (3, 4), "all": tuple(range(1, 8))}
ORDERS: dict[str, dict[str, Any]] = {
    "none": {"shuffle": "none"},
    "full": {"shuffle": "full"},
    "window": {"shuffle": "window", "lanes": 4, "window": 2},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("whole"), SIZES, size=(2, 3, 3), formats=("tfrecord",))


def parts_of(whole: Path, folder: Path, cuts: tuple[int, ...]) -> list[Path]:
    """Datasets of some shards each, in order."""
    manifest = Manifest.from_json((whole / "dataset.json").read_text())
    shards, found = list(manifest.splits["train"].shards), []
    for start, end in zip((0, *cuts), (*cuts, len(shards)), strict=True):
        place = folder / f"{start}-{end}"
        place.mkdir()
        for shard in shards[start:end]:
            for file in shard.files.values():
                for name in (file.path, file.index):
                    os.link(whole / name, place / name)
        found.append(write_manifest(place, manifest.fields, shards[start:end], formats=("tfrecord",)))
    return found


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_a_concatenation_streams_as_one_dataset(
    whole: Path, tmp_path: Path, cuts: tuple[int, ...], order: dict[str, Any]
) -> None:
    one = open_dataset(whole)
    both = concat([open_dataset(part) for part in parts_of(whole, tmp_path, cuts)])
    assert (len(both), both.shard_count) == (len(one), one.shard_count)
    assert both.shard_records().tolist() == list(SIZES)
    rng = np.random.default_rng(len(cuts))
    for world_size in (1, 2, 4):
        for rank in range(world_size):
            options = {"batch_size": 8, "fields": ALL_FIELDS, "seed": 5, "rank": rank, "world_size": world_size}
            expected, found = one.stream(**options, **order), both.stream(**options, **order)
            for _ in range(2):
                assert digests(found) == digests(expected)
                assert found.coverage() == expected.coverage()
            # And from any step on.
            steps = int(rng.integers(1, 4))
            loop = iter(found)
            batches = [next(loop) for _ in range(steps)]
            resumed = both.stream(**options, **order)
            resumed.load_state_dict(found.state_dict())
            again = one.stream(**options, **order)
            again.set_epoch(2)
            assert [*digests(batches), *digests(resumed)] == digests(again)


def test_records_are_those_of_the_sources_in_their_order(whole: Path, tmp_path: Path) -> None:
    sources = [open_dataset(part) for part in parts_of(whole, tmp_path, (2, 5))]
    both = concat([concat(sources[:2]), sources[2].select([4, 2])])
    ids = [id for source in (*sources[:2], sources[2].select([4, 2])) for id in source.ids().tolist()]
    assert both.ids().tolist() == ids and both[-1]["id"].encode() == ids[-1]
    assert [row["id"] for row in both] == [id.decode() for id in ids]
    assert both.to_pandas(["label"]).shape == (len(ids), 1)
    assert "Concatenation(Concatenation(Dataset(" in repr(both)
    copy = pickle.loads(pickle.dumps(both))
    assert copy.ids().tolist() == ids and copy.fingerprint == both.fingerprint
    with pytest.raises(ValueError, match="needs records in stored order"):
        both.stream(batch_size=2, shuffle="window")
    assert len(mix([both, sources[0]], [1, 1])) == len(both) + len(sources[0])


def test_state_of_another_concatenation_is_refused(whole: Path) -> None:
    sources = [open_dataset(whole).select(numbers) for numbers in (range(5), range(5, 12))]
    state = concat(sources).stream(batch_size=4).state_dict()
    with pytest.raises(StateError, match="the state is of another stream"):
        concat(sources[::-1]).stream(batch_size=4).load_state_dict(state)


def named(path: Path, names: tuple[str, ...] | None) -> Dataset:
    place = dataset(path, [record("a", 0), record("b", 1)])
    manifest = Manifest.from_json((place / "dataset.json").read_text())
    (place / "dataset.json").write_text(replace(manifest, class_names=names).to_json())
    return open_dataset(place)


def test_the_longest_list_of_class_names_counts_if_the_others_begin_it(tmp_path: Path) -> None:
    short, long = named(tmp_path / "1", ("x", "y")), named(tmp_path / "2", ("x", "y", "z"))
    assert concat([short, long]).class_names == concat([long, short]).class_names == ("x", "y", "z")
    other = named(tmp_path / "3", ("x", "q", "z"))
    with pytest.raises(ValueError, match="as 'q' and 'y' of number 1"):
        concat([short, long, other])
    with pytest.raises(ValueError, match=r"class names of .* differ: prepare them"):
        concat([short, named(tmp_path / "4", None)])


OTHER_FIELDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda path: several(path, 2, size=(2, 2)), "the field 'mask' is missing in .*, and uint8"),
    "type": (
        lambda path: written(path, {**FIELDS, "label": Field(dtype="int64", shape=(None,))}, label=np.array([1])),
        r"the field 'label' is int64 in .*, and int64 \[\*\] in",
    ),
}


def written(path: Path, fields: dict[str, Field], **values: Any) -> Path:
    from beam_jobs.shards.write import store

    path.mkdir()
    shard = store([{**record("c"), **values}], {"tfrecord": path / "train-00000-of-00001.tfrecord"}, fields)
    return write_manifest(path, fields, [shard], formats=("tfrecord",), class_names=("a", "b"))


@pytest.mark.parametrize(("make", "message"), OTHER_FIELDS.values(), ids=OTHER_FIELDS)
def test_other_fields_are_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    first = named(tmp_path / "1", ("a", "b"))
    with pytest.raises(ValueError, match=message):
        concat([first, open_dataset(make(tmp_path / "2"))])


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    data = named(tmp_path / "1", ("a", "b"))
    with pytest.raises(ValueError, match="pass a dataset"):
        concat([])
    for wrong in (mix([data], [1]), "shards"):
        with pytest.raises(TypeError, match="pass the results of open_dataset"):
            concat([data, wrong])  # type: ignore[list-item]


def test_images_of_other_sizes_are_one_field(tmp_path: Path) -> None:
    first, second = (several(tmp_path / str(size), 4, size=(size, size), encoding="raw") for size in (4, 6))
    both = concat([open_dataset(first), open_dataset(second)])
    assert isinstance(both, Concatenation) and set(both.fields) == {*SEVERAL}
    assert [image.shape for image in (both.image(0), both.image(4))] == [(4, 4, 3), (6, 6, 3)]
