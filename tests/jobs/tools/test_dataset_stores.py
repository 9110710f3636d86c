"""`image-shards inspect` and `verify` of datasets in buckets and on the web."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import command
from support.fault_proxy import FaultProxy
from support.servers import Store, first_of


def run(name: str, url: str, store: Store, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command about a dataset, for somebody who has set what the store's SDK reads."""
    result = command(name, url, *words, env={**os.environ, **store.environment, **more})
    assert "Traceback" not in result.stderr
    return result


@pytest.mark.parametrize("name", first_of("moto", "gcs", "azurite", "nginx"))
def test_what_is_said_is_what_is_said_of_a_copy(
    name: str, raw_shards: Path, tmp_path: Path, new_store: Callable[[str], Store]
) -> None:
    store = new_store(name)
    url = store.copy(raw_shards, "shards")
    here, there = (run("inspect", place, store) for place in (str(raw_shards), url))
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout.replace(str(raw_shards), url)
    here, there = (run("verify", place, store, "--decode", TMPDIR=str(tmp_path)) for place in (str(raw_shards), url))
    assert there.returncode == 0, there.stdout + there.stderr
    assert there.stdout == here.stdout.replace(str(raw_shards), url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_damage_in_a_bucket_is_named(raw_shards: Path, new_store: Callable[[str], Store]) -> None:
    store = new_store("moto")
    url = store.copy(raw_shards, "shards")
    path = raw_shards / "train-00000-of-00003.tfrecord"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    store.write(f"shards/{path.name}", bytes(data))
    store.fs().rm(f"{url}/val-00000-of-00001.h5")
    store.write("shards/notes.txt", b"?")
    found = run("verify", url, store)
    assert found.returncode == 1
    assert f"{url}/{path.name}: row 0" in found.stdout
    assert f"{url}/val-00000-of-00001.h5: is missing" in found.stdout
    assert f"{url}: 1 file that the dataset does not know: 'notes.txt'" in found.stdout
    assert "val-00000-of-00001.h5" in run("inspect", url, store).stderr


def test_inspecting_reads_a_few_bytes_of_a_shard(raw_shards: Path, new_store: Callable[[str], Store]) -> None:
    store = new_store("moto")
    url = store.copy(raw_shards, "shards")
    with FaultProxy(store.endpoint) as proxy:
        shown = run("inspect", url, store.through("127.0.0.1", proxy.port), "--json")
    assert json.loads(shown.stdout)["records"] == 60
    of_shards = [r for r in proxy.requests if r.path.endswith((".tfrecord", ".h5")) and r.method == "GET"]
    assert 0 < sum(request.sent for request in of_shards) < 200


@pytest.mark.slow
def test_what_is_no_dataset(new_store: Callable[[str], Store]) -> None:
    store = new_store("moto")
    bucket = store.url.rpartition("/")[0]
    for url, message in (
        (f"{store.url}/none", "is no dataset, it has no dataset.json"),
        (f"{bucket}x/none", "there is no such bucket, asked at "),
    ):
        for name in ("inspect", "verify"):
            result = run(name, url, store)
            assert result.returncode == 2
            assert result.stderr.startswith(f"image-shards: error: {url}: {message}")
            assert len(result.stderr.splitlines()) == 1
    store.write("begun/_image-shards.lock", b"somebody")
    assert "is not finished" in run("inspect", f"{store.url}/begun", store).stderr
