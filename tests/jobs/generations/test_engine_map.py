"""`verify` and `index` on an engine: the same results as in processes of this machine, a shard an element."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.command import HAS_BEAM, command, prepared
from support.generations import GONE, OPTIONS, images, withdrawn

from beam_jobs.errors import JobError, UsageError
from beam_jobs.generations.checks.engine_map import EngineMap, engine_map
from beam_jobs.generations.checks.engine_run import EngineRun
from beam_jobs.generations.checks.index_again import index_remote
from beam_jobs.generations.checks.traces import Traces, ids_in
from beam_jobs.runners.local import AddSteps, make_pipeline
from beam_jobs.tools.checks.shard import ShardTask, check_shard
from beam_jobs.tools.checks.verify import Verification
from beam_jobs.tools.index import IndexOptions, index_directory

pytestmark = pytest.mark.skipif(not HAS_BEAM, reason="needs Beam: pip install 'image-shards[beam]'")


def in_this_process(add: AddSteps, beam: Mapping[str, Any], progress: Callable[[], str]) -> None:
    """Run a pipeline with Beam's runner in this process, as an engine would run it."""
    del beam
    make_pipeline(add, {"runner": "FnApiRunner", "direct_running_mode": "in_memory"}, "").run()
    assert progress()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engine")
    formats = ("--format", "tfrecord", "--format", "hdf5")
    return withdrawn(prepared(images(root / "in"), root / "out", *OPTIONS, *formats), *GONE)


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineMap]:
    (tmp_path / "scratch").mkdir()
    yield EngineMap({}, str(tmp_path / "scratch"), in_this_process)
    assert list((tmp_path / "scratch").iterdir()) == []


def problems_of(dataset: Path, workers: Any, *, decode: bool = False) -> tuple[list[str], list[str]]:
    found = list[str]()
    with closing(Verification(str(dataset), decode=decode)) as verification:
        verification.run(workers, found.append, lambda: None)
        return found, list(verification.summary())


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "decoded"])
def test_verify_finds_the_same(dataset: Path, engine: EngineMap, decode: bool) -> None:
    path = dataset / "train-00001-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-40])
    (dataset / "val-00000-of-00001.h5.index.npy").unlink()
    expected = problems_of(dataset, 1, decode=decode)
    assert len(expected[0]) == 2
    assert problems_of(dataset, engine, decode=decode) == expected


def test_traces_are_the_same(dataset: Path, engine: EngineMap) -> None:
    found = dict[str, list[str]]()
    for name, workers in (("here", 1), ("engine", engine)):
        notes = found.setdefault(name, [])
        Traces(str(dataset)).run(lambda: ids_in(str(dataset.parent / "ids.txt")), workers, notes.append, lambda: None)
    assert found["engine"] == found["here"] != []


@pytest.fixture(autouse=True)
def ids(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(GONE))


@pytest.mark.parametrize("is_remote", [False, True], ids=["disk", "store"])
def test_an_index_is_made_again(dataset: Path, engine: EngineMap, is_remote: bool) -> None:
    whole = {path.name: path.read_bytes() for path in dataset.glob("*.index.npy")}
    gone, damaged = dataset / "val-00000-of-00001.h5.index.npy", dataset / "train-00000-of-00002.tfrecord.index.npy"
    gone.unlink()
    damaged.write_bytes(b"not an index")
    (dataset / "train-00001-of-00002.h5").write_bytes(b"damaged")
    (dataset / "train-00001-of-00002.h5.index.npy").unlink()
    if is_remote:  # the way of a store, on a disk
        lines, problems = index_remote(f"file://{dataset}", engine)
    else:
        lines, problems = index_directory(IndexOptions(path=str(dataset)), engine, lambda _: None)
    assert problems == 1 and "train-00001-of-00002.h5: is damaged (SHA-256 mismatch)" in lines[0]
    assert lines[-1].endswith("2 indexes made again, 3 whole, 1 problem")
    del whole["train-00001-of-00002.h5.index.npy"]
    assert {path.name: path.read_bytes() for path in dataset.glob("*.index.npy")} == whole


def test_records_of_other_programs_are_indexed(dataset: Path, engine: EngineMap, tmp_path: Path) -> None:
    for name in ("here", "engine"):
        (tmp_path / name).mkdir()
        for path in dataset.glob("*.tfrecord"):
            shutil.copy(path, tmp_path / name)
    expected = index_directory(IndexOptions(path=str(tmp_path / "here")), 1, lambda _: None)
    found = index_directory(IndexOptions(path=str(tmp_path / "engine")), engine, lambda _: None)
    assert [line.replace("/here", "/engine") for line in expected[0]] == found[0]
    assert (tmp_path / "here/dataset.json").read_bytes() == (tmp_path / "engine/dataset.json").read_bytes()


def test_a_shard_is_checked_on_a_machine_without_the_folder_of_the_command(dataset: Path, tmp_path: Path) -> None:
    with closing(Verification(str(dataset), decode=True)) as verification:
        here = [check_shard(task) for task in verification.tasks]
        other = tmp_path / "not-there"
        move = functools.partial(_moved, place=f"file://{dataset}", other=other)
        there = [check_shard(task) for task in map(move, verification.tasks)]
    assert [found.problems for found in there] == [found.problems for found in here] == [[]] * 3
    assert [found.ids.tolist() for found in there] == [found.ids.tolist() for found in here]
    assert not other.exists()


def _moved(task: ShardTask, place: str, other: Path) -> ShardTask:
    return replace(task, path=other, remote=place)


def _raise(task: str) -> None:
    raise JobError(f"{task}: cannot be done")


def test_the_error_of_a_task_is_that_of_the_command(engine: EngineMap) -> None:
    with pytest.raises(JobError, match=r"^one: cannot be done$"):
        list(engine(_raise, ["one", "two"]))


def test_no_task_starts_no_engine(tmp_path: Path) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    assert list(EngineMap({}, str(tmp_path), never)(len, [])) == []


def test_a_result_that_others_wrote_is_not_unpickled(tmp_path: Path) -> None:
    run = EngineRun(str(tmp_path), 1, bytes(32))
    run.do(len, (0, "abc"))
    assert list(run.results()) == [3]
    path = tmp_path / "results/00000000"
    path.write_bytes(path.read_bytes()[:32] + b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(JobError, match="another program has written it"):
        list(run.results())
    EngineRun(str(tmp_path), 1, b"another key").do(len, (0, "abc"))
    with pytest.raises(JobError, match="another program has written it"):
        list(run.results())


def test_many_tasks_are_in_several_files(tmp_path: Path, engine: EngineMap) -> None:
    assert list(engine(abs, list(range(-300, 0)))) == list(range(300, 0, -1))


def test_workers_on_other_machines_need_a_place_that_they_see(tmp_path: Path) -> None:
    beam = {"runner": "FlinkRunner", "flink_master": "cluster:8081"}
    with (
        pytest.raises(UsageError, match=r"--temp_location .*: is local, and the workers of FlinkRunner are elsewhere"),
        engine_map(beam, {"DATASET": "s3://bucket/shards"}),
    ):
        pass


@pytest.mark.nightly
@pytest.mark.parametrize("words", [("verify",), ("verify", "--withdrawn", "ids.txt"), ("index",)], ids=" ".join)
def test_flink_does_it(dataset: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    jar = Path(sys.prefix) / "engines/flink/job-server.jar"
    if not jar.exists() or not shutil.which("java"):
        pytest.skip(f"no {jar} or no java: run scripts/engines flink")
    name, *more = words
    more = [str(tmp_path / word) if word.endswith(".txt") else word for word in more]
    expected = command(name, dataset, *more)
    found = command(name, dataset, *more, "--runner=FlinkRunner", f"--flink_job_server_jar={jar}")
    assert (found.stdout, found.returncode) == (expected.stdout, expected.returncode), found.stderr
