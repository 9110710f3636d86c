"""Streams as JAX arrays: on one device, on eight of one process, on those of two processes."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

from shard_reader import CenterCrop, CorruptionError, Coverage, StateError, Stream, open_dataset  # JAX reads it once

jax = pytest.importorskip("jax", reason="needs JAX")

from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402  # after the check that it can be

from shard_reader.jax import GlobalBatches, normalization  # noqa: E402
from shard_reader.mixing import CutMix, MixUp, mixed  # noqa: E402


def stream(path: Path, **options: Any) -> Stream:
    """60 crops in 8 batches of 8, the last with 4 of padding."""
    chosen: dict[str, Any] = {"batch_size": 8, "image": CenterCrop(12), "seed": 3, **options}
    return open_dataset(path).stream(**chosen)


@pytest.fixture(params=["one device", "eight devices"])
def sharding(request: pytest.FixtureRequest) -> Any:
    if request.param == "one device":
        return None
    assert len(jax.devices()) == 8
    return NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))


def test_arrays_are_those_of_the_stream(jpeg_shards: Path, sharding: Any) -> None:
    fields = ("image", "label", "id")
    batches = GlobalBatches(stream(jpeg_shards, fields=fields), sharding)
    assert len(batches) == 8
    for found, batch in zip(batches, stream(jpeg_shards, fields=fields), strict=True):
        assert all(np.array_equal(found[name], batch[name]) for name in (*fields, "weight"))
        assert isinstance(found["image"], jax.Array) and found["image"].shape == (8, 12, 12, 3)
        assert found["label"].dtype == np.int32 and found["id"].dtype == object
        if sharding is not None:
            assert found["image"].sharding == found["label"].sharding == sharding
            assert {shard.data.shape for shard in found["image"].addressable_shards} == {(1, 12, 12, 3)}


@pytest.mark.parametrize("name", ["raw_shards", "jpeg_shards"])
def test_batches_that_are_kept_stay_as_they_are(name: str, sharding: Any, request: pytest.FixtureRequest) -> None:
    """JAX takes aligned memory as it is: it is used again only when nobody holds it."""
    path = request.getfixturevalue(name)
    options: dict[str, Any] = {"image": None} if name == "raw_shards" else {}
    kept = list(GlobalBatches(stream(path, **options), sharding, inputs="image", targets="label"))
    gc.collect()
    for (images, labels, weight), batch in zip(kept, stream(path, **options), strict=True):
        assert np.array_equal(images, batch["image"]) and np.array_equal(labels, batch["label"])
        assert np.array_equal(weight, batch["weight"])


def test_a_sharded_training_has_each_record_once(jpeg_shards: Path, sharding: Any) -> None:
    one = stream(jpeg_shards)
    data = one.data
    normalize = normalization(data)

    @jax.jit
    def step(weights: Any, images: Any, labels: Any, weight: Any) -> Any:
        def loss(weights: Any) -> Any:
            logits = normalize(images).reshape(len(images), -1) @ weights
            each = -(jax.nn.log_softmax(logits) * labels).sum(1)
            return (each * weight).sum() / weight.sum()

        value, slope = jax.value_and_grad(loss)(weights)
        return weights - 0.01 * slope, value, weight.sum()

    weights, losses, records = jax.numpy.zeros((12 * 12 * 3, 3)), [], 0.0
    for images, labels, weight in GlobalBatches(one, sharding, inputs="image", targets="label", one_hot=True):
        weights, value, count = step(weights, images, labels, weight)
        losses.append(float(value))
        records += float(count)
    assert records == 60 and np.isfinite(losses).all()
    assert sum([one.coverage()], Coverage()).covers(data.coverage())


@pytest.mark.parametrize("prefetch", [1, 3, 20])
def test_the_position_is_that_of_the_batch_that_was_given(jpeg_shards: Path, prefetch: int) -> None:
    expected = [batch["label"].tolist() for batch in stream(jpeg_shards)]
    for stop in (1, 4, 8):
        batches = GlobalBatches(stream(jpeg_shards), prefetch=prefetch)
        iterator = iter(batches)
        for _ in range(stop):
            next(iterator)
        state = json.loads(json.dumps(batches.state_dict()))
        assert (state["epoch"], state["step"]) == ((0, stop) if stop < 8 else (1, 0))
        other = GlobalBatches(stream(jpeg_shards), prefetch=prefetch)
        other.load_state_dict(state)
        assert other.state_dict() == state
        if stop < 8:
            assert [batch["label"].tolist() for batch in other] == expected[stop:]
        assert len(list(other)) == 8
    with pytest.raises(StateError, match="of another stream"):
        GlobalBatches(stream(jpeg_shards, seed=4)).load_state_dict(state)


def test_a_loop_that_is_over_says_so(jpeg_shards: Path) -> None:
    """Also where its last batches are on the device already."""
    batches = GlobalBatches(stream(jpeg_shards), prefetch=3)
    loop = iter(batches)
    for _ in range(6):
        next(loop)
    state = stream(jpeg_shards).state_at(2, 0)
    batches.load_state_dict(state)
    with pytest.raises(RuntimeError, match="this loop is over"):
        next(loop)
    assert batches.state_dict() == state and len(list(batches)) == 6


def test_ranks_and_batches_that_do_not_fit_are_errors(jpeg_shards: Path) -> None:
    eight = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    with pytest.raises(ValueError, match="world_size=2: the sharding's devices are of 1 processes"):
        GlobalBatches(stream(jpeg_shards, world_size=2), eight)
    with pytest.raises(ValueError, match=r"batch_size=12: NamedSharding.* does not divide the first axis"):
        GlobalBatches(stream(jpeg_shards, batch_size=12), eight)
    with pytest.raises(ValueError, match="does not divide the first axis"):
        GlobalBatches(stream(jpeg_shards), NamedSharding(eight.mesh, PartitionSpec(None, "data")))
    with pytest.raises(TypeError, match="is no sharding: pass NamedSharding"):
        GlobalBatches(stream(jpeg_shards), eight.mesh)


def test_batches_before_a_damaged_one_are_given(jpeg_shards: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(jpeg_shards, tmp_path / "shards")
    one = stream(tmp_path / "shards", shuffle="none")
    shard, row = one.data.locate(np.array([35])).shard(0)  # in the fifth batch
    offset = int(shard.rows["offset"][row])
    one.data.close()
    (path,) = (path for path in (tmp_path / "shards").iterdir() if path.name == shard.name)
    damaged = bytearray(path.read_bytes())
    damaged[offset + 20] ^= 1
    path.write_bytes(damaged)
    given = 0
    with pytest.raises(CorruptionError, match="CRC"):
        for _ in GlobalBatches(stream(tmp_path / "shards", shuffle="none"), prefetch=3):
            given += 1
    assert given == 4


def test_a_stream_that_is_moved_moves_what_is_made_of_it(jpeg_shards: Path) -> None:
    one = stream(jpeg_shards)
    batches = GlobalBatches(one)
    list(batches)
    one.load_state_dict(one.state_at(3, 5))
    assert (batches.state_dict()["epoch"], batches.state_dict()["step"]) == (5, 3)


def test_integers_that_jax_would_cut_off_are_errors(raw_shards: Path) -> None:
    one = open_dataset(raw_shards).stream(batch_size=8, fields=("content_hash",))
    with pytest.raises(ValueError, match=r"'content_hash' has -?\d{11,}, which JAX's int32 cannot hold"):
        next(iter(GlobalBatches(one)))
    with jax.enable_x64(True):
        found = next(iter(GlobalBatches(one)))["content_hash"]
        assert found.dtype == np.int64 and found.tolist() == one.batch(1, 0)["content_hash"].tolist()


def test_a_last_batch_that_cannot_be_divided_is_an_error(jpeg_shards: Path, sharding: Any) -> None:
    one = stream(jpeg_shards, remainder="keep")
    if sharding is None:
        assert [len(batch["label"]) for batch in GlobalBatches(one)][-1] == 4
    else:
        with pytest.raises(ValueError, match='remainder="keep": the last batch has 4 records'):
            GlobalBatches(one, sharding)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_normalization_is_the_manifests(raw_shards: Path, dtype: str) -> None:
    data = open_dataset(raw_shards)
    (images,) = list(GlobalBatches(data.stream(batch_size=48), inputs="image"))
    result = jax.jit(normalization(data, dtype=dtype))(images)
    assert result.dtype == dtype and result.shape == images.shape
    values = np.asarray(result.astype("float32"))
    assert np.allclose(values.mean((0, 1, 2)), 0, atol=0.02) and np.allclose(values.std((0, 1, 2)), 1, atol=0.02)


PROCESS = """
import json, os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from shard_reader import CenterCrop, open_dataset
from shard_reader.jax import GlobalBatches
from shard_reader.mixing import CutMix, MixUp, mixed

path, address, process, processes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
jax.distributed.initialize(address, processes, process)
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
options = {"fields": ("image", "label", "id"), "mixing": [MixUp(), CutMix()]}
stream = open_dataset(path).stream(batch_size=8, image=CenterCrop(12), seed=3, **options)
ids, sums, mixes = [], [], []
mix = jax.jit(lambda images, labels, mixing: [one.sum(range(1, one.ndim)) for one in mixed(images, labels, mixing, 3)])
whole = jax.jit(lambda values: values, out_shardings=NamedSharding(sharding.mesh, PartitionSpec()))
total = jax.jit(lambda images, weight: (images.astype("float32").mean((1, 2, 3)) * weight).sum())
for batch in GlobalBatches(stream, sharding):
    assert batch["image"].shape == (8, 12, 12, 3)
    sums.append(float(total(batch["image"], batch["weight"])))
    here = np.concatenate([shard.data for shard in batch["weight"].addressable_shards])
    found = mix(batch["image"], (batch["label"] + 1) % 3, batch["mixing"])
    mixes.append([np.asarray(whole(one).addressable_data(0)).tolist() for one in found])
    ids.append([id.decode() for id, weight in zip(batch["id"].tolist(), here.tolist()) if weight])
print(json.dumps({"ids": ids, "sums": sums, "mixes": mixes, "devices": len(jax.devices())}))
"""


def test_two_processes_have_their_share_of_each_batch(jpeg_shards: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROCESS, str(jpeg_shards), address, str(number), "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    one, two = (json.loads(out.splitlines()[-1]) for out, _ in results)
    assert one["devices"] == two["devices"] == 4
    expected = list(stream(jpeg_shards, fields=("image", "id")))
    whole = [[id.decode() for id in batch["id"][batch["weight"] > 0].tolist()] for batch in expected]
    assert [sorted(a + b) for a, b in zip(one["ids"], two["ids"], strict=True)] == [sorted(ids) for ids in whole]
    assert Counter(id for ids in one["ids"] + two["ids"] for id in ids).most_common(1)[0][1] == 1
    sums = [float((batch["image"].mean((1, 2, 3)) * batch["weight"]).sum()) for batch in expected]
    assert np.allclose(one["sums"], sums, rtol=1e-5) and one["sums"] == two["sums"]
    options: dict[str, Any] = {"mixing": [MixUp(), CutMix()], "fields": ("image", "label"), "world_size": 2}
    ranks = [list(stream(jpeg_shards, rank=rank, **options)) for rank in range(2)]
    for parts, found in zip(zip(*ranks, strict=True), one["mixes"], strict=True):
        images, labels, mixing = (
            np.concatenate([part[name] for part in parts]) for name in ("image", "label", "mixing")
        )
        expected = mixed(images, (labels + 1) % 3, mixing, 3)
        for values, sums in zip(expected, found, strict=True):
            assert np.allclose(values.sum(tuple(range(1, values.ndim))), sums, rtol=1e-4)
    assert one["mixes"] == two["mixes"]


def test_memory_is_flat_over_20_epochs(raw_shards: Path) -> None:
    batches = GlobalBatches(open_dataset(raw_shards).stream(batch_size=16), inputs="image", targets="label")
    total = jax.jit(lambda images, labels, weight: (images.mean((1, 2, 3)) * labels * weight).sum())
    seen = []
    for epoch in range(20):
        for element in batches:
            total(*element).block_until_ready()
        if epoch in (4, 19):
            gc.collect()
            status = Path("/proc/self/status").read_text()
            seen.append(int(status.split("RssAnon:")[1].split()[0]))
    assert seen[1] - seen[0] < 4 << 10, seen
