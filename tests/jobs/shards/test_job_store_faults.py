"""Jobs in a store that fails: what passes is tried again, and a job that fails goes on from the shards it finished."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.clock import ThreadClock
from support.places import FaultyStore, contents, copied, new_faulty_store
from support.store_jobs import OPTIONS, is_as

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import JobError
from beam_jobs.shards import lock
from beam_jobs.steps.prepare import prepare
from shard_reader.storage import retry

pytestmark = pytest.mark.filterwarnings("ignore")  # of packages that Beam does not find


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix in a store whose pauses pass at once.

    The lock of OUTPUT beats in a thread of its own, so that the number of requests is another one in each run: which
    requests fail is said by names of objects.
    """
    monkeypatch.setattr(retry, "time", ThreadClock())
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    return new_faulty_store(monkeypatch)


def run(source: str, output: str) -> str:
    return prepare(parse(["prepare", source, output, *OPTIONS.split()])).text


@pytest.mark.parametrize("method", ["cat_file", "put_file"])
def test_a_store_with_hiccups(
    method: str, class_folders: Path, raw_shards: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first requests for each object fail, as many as there are kinds of errors."""
    kinds = [TimeoutError(), ConnectionResetError(), RuntimeError("503")]
    failed = Counter[str]()
    source, output = copied(class_folders, f"{store}/in"), f"{store}/out"

    def hiccups(called: str, path: str) -> None:
        if called == method and failed[path] < len(kinds):
            failed[path] += 1
            raise kinds[failed[path] - 1]

    monkeypatch.setattr(FaultyStore, "faults", hiccups)
    run(source, output)
    monkeypatch.setattr(FaultyStore, "faults", None)
    is_as(contents(output), raw_shards)
    objects = {Path(path).name for path, times in failed.items() if times == len(kinds)}
    files = class_folders.rglob("*.*") if method == "cat_file" else raw_shards.iterdir()
    assert objects >= {path.name for path in files}


def test_a_store_that_goes_away_fails_the_job_which_then_goes_on(
    class_folders: Path, raw_shards: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = copied(class_folders, f"{store}/in"), f"{store}/out"
    finished, puts = list[str](), list[str]()

    def away_once_a_shard_is_finished(method: str, path: str) -> None:
        if method == "put_file":
            if finished:
                raise TimeoutError("the store is away")
            finished.extend([path] if path.endswith("written.json") else [])

    def noted(method: str, path: str) -> None:
        puts.extend([path] if method == "put_file" else [])

    monkeypatch.setattr(FaultyStore, "faults", away_once_a_shard_is_finished)
    with pytest.raises(JobError, match=r"the store is away"):
        run(source, output)
    found = contents(output)
    assert "dataset.json" not in found
    assert [name for name in found if name.endswith("written.json")] == [finished[0].partition("/out/")[2]]
    monkeypatch.setattr(FaultyStore, "faults", noted)
    run(source, output)
    is_as(contents(output), raw_shards)
    assert sum(name.endswith(".h5") for name in puts) == 4 - 1
