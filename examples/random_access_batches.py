"""A batch by its number, from a data set that is larger than the memory there is for it.

    python examples/random_access_batches.py IMAGES [DIRECTORY]

IMAGES is a folder of class folders, or of train/ and test/ with them. They are prepared as raw pixels, of such a size
that all of them together are some 200 MB. Each way runs in a process of its own that may have half as much as that
above what it starts with (RLIMIT_DATA bounds anonymous memory; pages of mapped files, which the kernel drops when it
needs the room, are not counted), and is asked for the same batches of the same shuffled epoch:

    list(dataset)[n]         holds every batch: it fails, and is measured without the limit
    dataset.skip(n).take(1)  reads every batch before, for each one that is asked for
    stream.batch(epoch, n)   reads one batch, of any epoch

`dataset` is the stream as a tf.data.Dataset. At last, still under the limit and with stream.batch: a whole epoch in a
custom order, and records and subsets by number and by class. The limit and the figures of memory need Linux.
"""

import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages of TensorFlow,
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nor the one about oneDNN

import numpy as np

from shard_reader import Dataset, Stream, open_dataset

DECODED = 200e6  # bytes of all images, at least


def main(images: Path, directory: Path) -> None:
    """Prepare shards, take the same batches in each way, and print the time and memory of each."""
    shards, files = directory / "shards", sum(path.is_file() for path in images.rglob("*"))
    check(files > 0, f"{images}: has no images")
    side = 32 * math.ceil(math.sqrt(DECODED / 3 / files) / 32)
    command = [sys.executable, "-m", "beam_jobs", "prepare", str(images), str(shards)]
    done = subprocess.run([*command, "--size", f"{side}x{side}", "--encoding", "raw"])
    check(done.returncode == 0, "image-shards prepare failed")

    stream = batches(open_dataset(shards))
    decoded = len(stream.data) * side * side * 3
    limit = decoded // 2
    steps = np.random.default_rng(0).integers(len(stream), size=8).tolist()
    print(f"\n{len(stream.data):,} images of {side}x{side}, decoded {mb(decoded)}; limit {mb(limit)}")
    print(f"batches {', '.join(map(str, steps))} of {len(stream)}:\n")
    print(f"{'':36}{'limit':>8}{'seconds':>10}  anonymous memory")
    kept = row("list(dataset)[n]", by_list, shards, steps, None)
    listed = row("list(dataset)[n]", by_list, shards, steps, limit)
    skipped = row("next(iter(dataset.skip(n).take(1)))", by_skip, shards, steps, limit)
    ours = row("stream.batch(0, n)", by_number, shards, steps, limit)
    check(listed is None, "the list was there under the limit: is the limit in force?")
    check(None not in (kept, skipped, ours), "a way that should have enough memory ran out of it")
    check(ours == kept and skipped == kept, "the ways gave different batches")
    print("\nthe batches are the same in each way; under the limit there were also:")
    print(in_a_process(random_access, shards, limit))


def by_list(new_stream: Callable[[], Stream], steps: list[int]) -> Iterator[Any]:
    """All batches, of which some are taken."""
    from shard_reader.tf_data import as_dataset

    held = list(as_dataset(new_stream()))
    for step in steps:
        yield held[step]["image"].numpy()


def by_skip(new_stream: Callable[[], Stream], steps: list[int]) -> Iterator[Any]:
    """Each batch by an iteration of its own, over a new stream: a second one of the same is the next epoch."""
    from shard_reader.tf_data import as_dataset

    for step in steps:
        with new_stream() as stream:
            yield next(iter(as_dataset(stream).skip(step).take(1)))["image"].numpy()


def by_number(new_stream: Callable[[], Stream], steps: list[int]) -> Iterator[Any]:
    """Each batch, and nothing else."""
    stream = new_stream()
    for step in steps:
        yield stream.batch(0, step)["image"]


def batches(data: Dataset, *fields: str) -> Stream:
    """The stream whose batches every way has to return."""
    size = max(1, min(32, len(data) // 20))
    # Two threads on any machine: the stack of each is anonymous memory, too.
    return data.stream(batch_size=size, shuffle="full", seed=0, remainder="keep", fields=fields or None, threads=2)


def row(name: str, way: Callable[..., Any], shards: Path, steps: list[int], limit: int | None) -> list[int] | None:
    """Print a line of the table; a checksum of each batch, or None if there was too little memory."""
    print(f"{name:36}{mb(limit) if limit else 'none':>8}", end="", flush=True)
    try:
        seconds, memory, sums = in_a_process(measured, way, shards, steps, limit)
    except (MemoryError, BrokenProcessPool) as error:
        if limit is None:
            raise
        # A failed allocation may also end the process, instead of raising an error.
        print(f"{'-':>10}  too little: {error if isinstance(error, MemoryError) else 'the process crashed'}")
        return None
    print(f"{seconds:>10.3f}  +{mb(memory)}")
    return sums


def measured(
    way: Callable[..., Any], shards: Path, steps: list[int], limit: int | None
) -> tuple[float, int, list[int]]:
    """Seconds for the batches, the anonymous memory while one of them is there, and their checksums."""
    data = open_dataset(shards)
    list(way(partial(batches, data.select([0])), [0]))  # imports modules, starts threads
    if limit:
        limit_memory(limit)
    memory, start, sums = [status("RssAnon")], time.perf_counter(), []
    try:
        for image in way(partial(batches, data), steps):
            sums.append(zlib.crc32(image))
            memory.append(status("RssAnon"))
    except Exception as error:
        if isinstance(error, MemoryError) or "MemoryError" in str(error) or "OOM" in str(error):
            raise MemoryError(type(error).__name__) from None
        raise
    return time.perf_counter() - start, max(memory) - memory[0], sums


def random_access(shards: Path, limit: int) -> str:
    """Read by number under the limit, check the records, and return a report."""
    limit_memory(limit)
    data = open_dataset(shards)
    all_ids, stream = data.ids().tolist(), batches(data, "image", "id")
    memory, seen, pixels = [status("RssAnon")], [], 0
    for step in np.random.default_rng(1).permutation(len(stream)):
        batch = stream.batch(5, step)
        seen += batch["id"].tolist()
        pixels += batch["image"].nbytes
        memory.append(status("RssAnon"))
    check(sorted(seen) == sorted(all_ids), "the batches of epoch 5 have lost or doubled records")
    record = data[all_ids.index(seen[-1])]
    check(record["id"].encode() == seen[-1], "data[i] is not the record with that number")
    check(np.array_equal(record["image"], batch["image"][-1]), "data[i] has other pixels than in its batch")

    backwards = data.select(range(len(data) - 1, -1, -1)).stream(batch_size=20, shuffle="none", fields=["id"])
    check(backwards.batch(0, 0)["id"].tolist() == all_ids[::-1][:20], "select gave other records, or another order")
    classes = {name: data.where(label=name) for name in data.class_names or ()}
    for name, part in classes.items():
        folders = {Path(id.decode()).parent.name for id in part.ids()}
        check(folders <= {name}, f"where(label={name!r}) gave images of {folders}")
    check(sum(map(len, classes.values())) == len(data), "the classes together are not all records")
    some = ", ".join(f"{name} {len(part)}" for name, part in list(classes.items())[:5])
    return (
        f"  stream.batch(5, n)      {len(stream)} batches in random order: {len(seen):,} records, each once\n"
        f"  data[i]                 {record['id']}, as in its batch\n"
        f"  data.select([...])      {len(backwards.data):,} records, backwards\n"
        f"  data.where(label=name)  {some}\n"
        f"with {mb(pixels)} of pixels read and +{mb(max(memory) - memory[0])} of anonymous memory at most"
    )


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a new process, which is gone afterwards."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def limit_memory(more: int) -> None:
    """Allow this process `more` bytes of anonymous memory, and no core dump if it dies of that."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + more, resource.RLIM_INFINITY))


def status(name: str) -> int:
    """One of the sizes that the kernel tells of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def mb(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e6:.0f} MB"


def check(holds: bool, otherwise: str) -> None:
    """End with the message `otherwise`, unless the condition holds."""
    if not holds:
        raise SystemExit(otherwise)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    where = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="image-shards-random-access-"))
    if where.exists() and any(where.iterdir()):
        sys.exit(f"{where}: is not empty; give a new directory")
    main(Path(sys.argv[1]), where)
