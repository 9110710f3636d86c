"""`prepare --append` in object stores, and what programs see that know nothing of generations."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from support.command import prepared
from support.grown import folder
from support.servers import Store
from support.store_jobs import finished

from beam_jobs.generations.compaction.compact import CompactOptions
from beam_jobs.generations.compaction.in_place import compact_in_place
from beam_jobs.generations.withdraw import withdraw
from shard_reader import open_dataset

WORDS = "--fit none --encoding png --workers 1 --split train=0.7,val=0.3"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moto", pytest.param("minio", marks=pytest.mark.nightly), "gcs", "azurite"])
def test_a_dataset_in_a_bucket_grows(name: str, new_store: Callable[[str], Store], tmp_path: Path) -> None:
    store, out = new_store(name), tmp_path / "out"
    first, more = folder(tmp_path / "in", "ab", range(8)), folder(tmp_path / "more", "bc", range(8, 14))
    finished(first, f"{store.url}/out", store, options=WORDS)
    before = store.contents("out")
    text = finished(more, f"{store.url}/out", store, options="--append --workers 1")
    assert f"{store.url}/out: generation 2: 6 images more, 14 in all" in text
    prepared(first, out, *WORDS.split())
    prepared(more, out, "--append", "--workers", 1)
    found = store.contents("out")
    shards = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.tfrecord*")}
    assert {name: found[name] for name in shards} == shards
    assert found["dataset.g0001.json"] == before["dataset.json"]
    assert all(found[name] == data for name, data in before.items() if name.endswith((".tfrecord", ".npy", ".jsonl")))
    assert not [name for name in found if "_work" in name or "lock" in name]
    assert "nothing to do (generation" in finished(more, f"{store.url}/out", store, options="--append --workers 1")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two generations, in both formats, with an index for DALI."""
    path = tmp_path_factory.mktemp("grown")
    words = [*WORDS.split(), "--format", "tfrecord", "--format", "hdf5", "--dali-index"]
    out = prepared(folder(path / "in", "ab", range(8)), path / "out", *words)
    return prepared(folder(path / "more", "bc", range(8, 14)), out, "--append", "--workers", 1)


def test_files_of_a_generation_are_found_by_names(grown: Path) -> None:
    first, every = {path.name for path in grown.glob("train-*")}, [*grown.glob("**/train-*")]
    assert len(every) == 2 * len(first) == 10  # two formats, their indexes, and DALI's
    assert sum(path.suffix == ".idx" for path in every) == 2
    sizes = {}
    for path in every:
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                sizes[path.parent.name] = len(file["id"])
    assert sum(sizes.values()) == open_dataset(grown, "train").manifest.splits["train"].records


@pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of NumPy, of protobuf and of itself
def test_tensorflow_datasets_reads_each_folder_as_a_dataset(grown: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    counts = {}
    for place in (grown, grown / "g0002"):
        builder = tfds.builder_from_directory(str(place))
        ids = [record["id"] for record in tfds.as_numpy(builder.as_dataset(split="all", shuffle_files=False))]
        counts[place.name] = len(ids)
    assert counts == {"out": 8, "g0002": 6}


def test_a_folder_of_a_generation_is_a_dataset_of_its_own(grown: Path) -> None:
    alone = open_dataset(grown / "g0002", "train").manifest
    assert (alone.generation, alone.records, alone.class_names) == (1, 6, ("a", "b", "c"))


@pytest.mark.filterwarnings("ignore")  # as above
def test_other_programs_see_withdrawn_records_until_they_are_compacted(grown: Path, tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    out = Path(shutil.copytree(grown, tmp_path / "out"))
    gone = [id.decode() for id in open_dataset(out, "train").ids([0, 1])]
    withdraw(str(out), gone)

    def ids_of(place: Path) -> set[str]:
        builder = tfds.builder_from_directory(str(place))
        return {one["id"].decode() for one in tfds.as_numpy(builder.as_dataset(split="all", shuffle_files=False))}

    def ids_in_hdf5(place: Path) -> set[str]:
        found = set[str]()
        for path in place.glob("**/*.h5"):
            with h5py.File(path) as file:
                found |= {id.decode() for id in file["id"][:]}
        return found

    assert set(gone) <= ids_of(out) | ids_of(out / "g0002")
    assert set(gone) <= ids_in_hdf5(out)
    compact_in_place(CompactOptions(place=str(out), workers=1), 0.0)
    left = {id.decode() for split in ("train", "val") for id in open_dataset(out, split).ids()}
    assert ids_of(out / "g0004") == ids_in_hdf5(out) == left
    assert not left & set(gone)
