"""The whole path: images in a bucket, a dataset in a bucket, streamed through a small cache, stopped, resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import command, prepared
from support.remote_data import digests
from support.servers import Store

from shard_reader import open_dataset

OPTIONS = ["--size", "16x12", "--encoding", "raw", "--split", "train=1", "--shards", "12"]
ORDER = {"batch_size": 4, "shuffle": "window", "lanes": 2, "window": 1, "fields": ("image", "label", "id")}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_from_bucket_to_bucket_to_batches(
    store: Store, class_folders: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.copy(class_folders, "in")
    options = [*OPTIONS, "--format", format]
    result = command("prepare", f"{store.url}/in", f"{store.url}/out", *options, env=store.environment)
    assert result.returncode == 0, result.stderr
    local = open_dataset(prepared(class_folders, tmp_path / "out", *options)).stream(**ORDER)
    expected = [digests(local) for _ in range(3)]

    store.use(monkeypatch)
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("train-*.npy")]
    files = [path.stat().st_size for path in (tmp_path / "out").glob("train-*") if path.suffix != ".npy"]
    room = 5 * (max(files) + max(sizes) + 64)  # of twelve shards
    data = open_dataset(f"{store.url}/out", cache=tmp_path / "cache", cache_bytes=room)
    stream = data.stream(**ORDER)
    assert digests(stream) == expected[0]
    batches = iter(stream)
    begun = [digests([next(batches)])[0] for _ in range(4)]
    state = stream.state_dict()
    stream.close()

    resumed = open_dataset(f"{store.url}/out", cache=tmp_path / "cache", cache_bytes=room).stream(**ORDER)
    resumed.load_state_dict(state)
    assert begun + digests(resumed) == expected[1]
    assert digests(resumed) == expected[2]
    assert (data.fetched() + resumed.stats()).evictions > 0
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*-train-*")) <= room
