"""A thousand million images: what each step takes, what binds first, and what a thousand ranks ask of a store.

    python benchmarks/simulate.py PHOTOS [--run 1000000] [--records 1000000000] [--shard-bytes 512]

Three kinds of figures, which the tables keep apart:

- **run**: a made-up listing of `--run` entries goes through the whole of `prepare`, and the result is opened, read,
  verified and withdrawn from. Its images are 4x4 raw pixels, so that what is measured is everything but the pixels.
  The cost of pixels and the bytes of a record are those of PHOTOS at 256 pixels.
- **written**: the manifest of the whole, with as many shards as it would have, is written, parsed and opened.
- **calculated**: the run, in proportion to the number of records; and the shards and requests of ranks, from the
  reader's own orders. A small dataset in memory, read by ranks with caches of their own, checks the latter: the table
  says what was calculated, and what was counted.

Prints the tables of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from plan import anonymous_memory

from beam_jobs.sources import Entry, Layout, Reference, Source
from shard_reader import open_dataset
from shard_reader.format.manifest import Manifest, ShardTable, Split
from shard_reader.format.shard_table import FileColumns
from shard_reader.order.batches import BatchOrder
from shard_reader.order.shuffle import WindowShuffle
from shard_reader.remote.client import PIECE

CLASSES = 1000
MADE_UP = "simulate:MadeUp"
WITHDRAWN = 1000  # of a million records that were run
RANKS, OF_A_MACHINE = 1000, 8
LANES, WINDOW, SHARE = 2, 2, 256  # lanes of a rank, shards of a window, records of a rank in a batch
IMAGES_A_SECOND = 1000  # of a rank
PAGE, PAGE_SECONDS = 1000, 0.15  # names in a page of a store's listing, and the time of an answer
LINE = 260  # bytes of a line of the listing in memory
GB, TB = 1e9, 1e12


class MadeUp(Source):
    """A thousand classes of images of 4x4 pixels, as many as INPUT says: `entries-1000000`."""

    def entries(self) -> Iterator[Entry]:
        """Ids that differ, of the length of ImageNet's."""
        for number in range(int(self.options.input.rpartition("-")[2])):
            name = f"n{number % CLASSES:08d}"
            yield Entry(f"{name}/{name}_{number:010d}.JPEG", 110_000, label=name)

    def layout(self) -> Layout:
        """Class folders."""
        return Layout(text="made up", class_names=tuple(f"n{number:08d}" for number in range(CLASSES)))

    def read(self, reference: Reference) -> Any:
        """Pixels that differ."""
        number = int(reference.id.rpartition("_")[2].partition(".")[0])
        return np.frombuffer((number * 2654435761 % 2**384).to_bytes(48, "little"), np.uint8).reshape(4, 4, 3)


def main() -> None:
    """Run, write and calculate, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--run", type=int, default=1_000_000, help="entries that are really listed")
    parser.add_argument("--records", type=int, default=1_000_000_000, help="records of the whole")
    parser.add_argument("--shard-bytes", type=int, default=512, help="megabytes of a shard of the whole")
    parser.add_argument("--one", nargs=2, metavar=("INPUT", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(prepared(*options.one)))
        return
    print(f"Python {platform.python_version()}, numpy {version('numpy')}, {os.cpu_count()} CPUs\n")
    photo = cost_of_photos(options.photos)
    shards = math.ceil(options.records * photo["bytes"] / (options.shard_bytes * 1e6))
    with tempfile.TemporaryDirectory() as folder:
        ran = run(options.run, options.run * shards // options.records or 1, Path(folder))
        steps(ran, photo, options, shards)
        manifest(options.records, shards, photo["bytes"], Path(folder), ran["manifest"])
    ranks(options.records, shards, photo["bytes"])
    check()


def cost_of_photos(photos: str) -> dict[str, float]:
    """The CPU seconds and the stored bytes of a photo at 256 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/out"
        words = [sys.executable, "-m", "beam_jobs", "prepare", photos, output, "--max-rejects", "1.0", "--quiet"]
        before = used()
        subprocess.run(words, check=True, capture_output=True)
        spent, found = used() - before, Manifest.from_json(Path(output, "dataset.json").read_text())
        size = sum(file.bytes for shard in found.shards() for file in shard.files.values())
    return {"cpu": spent / found.records, "bytes": size / found.records}


def run(entries: int, shards: int, folder: Path) -> dict[str, Any]:
    """Prepare a made-up listing in a process of its own, and use the dataset."""
    output = folder / "shards"
    words = [sys.executable, __file__, "-", "--one", f"entries-{entries}", str(output)]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    environment["SIMULATED_SHARDS"] = str(shards)
    with Watched(output) as watched:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True)
        watched.pid = process.pid
        text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"prepare failed: {process.returncode}")
    found = {**json.loads(text), "memory": watched.memory, "disk": watched.disk, "records": entries}
    found["manifest"] = Manifest.from_json((output / "dataset.json").read_text())
    found["table"] = (output / "metadata.parquet").stat().st_size
    found["output"] = sum(path.stat().st_size for path in output.rglob("*"))
    found["verify"] = timed([sys.executable, "-m", "beam_jobs", "verify", str(output)])
    ids = open_dataset(output).ids(np.arange(min(WITHDRAWN, entries)))
    (folder / "ids.txt").write_bytes(b"\n".join(ids.tolist()))
    found["withdraw"] = timed([sys.executable, "-m", "beam_jobs", "withdraw", str(output), str(folder / "ids.txt")])
    return found


def prepared(entries: str, output: str) -> dict[str, float]:
    """Prepare the listing. The CPU seconds until shards are written, of writing them, and of the publication."""
    import beam_jobs

    # Of this process, which lists, plans and publishes. Others write, and their time counts when they have ended.
    marks = [time.process_time()]

    def on_progress(report: Any) -> None:
        if report.step == "WriteShards":
            marks[1:] = [marks[1] if len(marks) > 1 else time.process_time(), time.process_time()]

    cpu = used()
    beam_jobs.prepare(
        beam_jobs.PrepareOptions(
            input=entries,
            output=output,
            source=MADE_UP,
            size="4x4",
            encoding="raw",
            shards=int(os.environ["SIMULATED_SHARDS"]),
        ),
        on_progress=on_progress,
    )
    begun, planned, written = marks
    plan, publish = planned - begun, time.process_time() - written
    return {"plan": plan, "write": used() - cpu - plan - publish, "publish": publish}


def steps(ran: dict[str, Any], photo: dict[str, float], options: argparse.Namespace, shards: int) -> None:
    """The table of the steps of the job."""
    times, n = options.records / ran["records"], options.records
    hours = times / 3600
    pages = n / PAGE
    print(f"{n:,} images of 110 kB, stored as {photo['bytes'] / 1e3:.1f} kB in {shards:,} shards:\n")
    print(f"| step | CPU time of a run of {ran['records']:,} entries | the whole, calculated | objects and requests |")
    print("|---|---|---|---|")
    pixels, stored = photo["cpu"] * n / 3600, n * photo["bytes"]
    rows = [
        (
            "list a store",
            "not run",
            f"{pages * PAGE_SECONDS / 3600:.0f} h, a page after the other",
            f"{pages:,.0f} requests of {PAGE} names",
        ),
        ("list, sort, plan", f"{ran['plan']:.1f} s", f"{ran['plan'] * hours:.1f} h, one process", "4 plan files"),
        (
            "write shards, without pixels",
            f"{ran['write']:.0f} s",
            f"{ran['write'] * hours:,.0f} CPU hours",
            f"{n:,} GET; {2 * shards:,} PUT of {options.shard_bytes} MB and of indexes",
        ),
        (
            "pixels of photos",
            f"{photo['cpu'] * 1e3:.1f} ms an image",
            f"{pixels:,.0f} CPU hours: {pixels / 1000:.1f} h on 1,000 CPUs",
            f"{n * 110e3 / TB:,.0f} TB in, {stored / TB:,.0f} TB out",
        ),
        (
            "publish",
            f"{ran['publish']:.1f} s",
            f"{ran['publish'] * hours:.1f} h, one process",
            f"{2 * shards:,} GET of descriptions and tables, 20 PUT",
        ),
        (
            "verify",
            f"{ran['verify']:.0f} s, {ran['output'] / 1e6:.0f} MB",
            f"{stored / 1e9 / 3600:.0f} h at 1 GB/s on one machine",
            f"{2 * shards:,} GET, {stored / TB:,.0f} TB",
        ),
        (
            f"withdraw {WITHDRAWN:,} records",
            f"{ran['withdraw']:.1f} s",
            f"{ran['withdraw'] * hours:.1f} h, one process",
            "3 PUT and the manifest",
        ),
    ]
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    print(
        f"\nMemory of the launcher: {ran['memory'] / GB:.2f} GB in the run, of which 64 MiB are of the listing. One of"
        f" 1,024 buckets of lines is in memory while it is sorted, of the whole {n / 1024 * LINE / GB:.2f} GB. Disk of"
        f" the launcher beside the shards: {ran['disk'] / GB:.2f} GB, of the whole {ran['disk'] * times / GB:,.0f} GB."
        f" `metadata.parquet`: {ran['table'] / 1e6:.0f} MB, of the whole {ran['table'] * times / GB:,.0f} GB.\n"
    )


def manifest(records: int, shards: int, size: float, folder: Path, like: Manifest) -> None:
    """Write the manifest of the whole, and open it."""
    from dataclasses import replace

    bounds = [records * number // shards for number in range(shards + 1)]
    of_each = np.diff(bounds).tolist()
    digests = "".join(f"{number:064x}" for number in range(shards))
    columns = FileColumns(
        path=[f"train-{number:05d}-of-{shards:05d}.tfrecord" for number in range(shards)],
        bytes=[int(count * size) for count in of_each],
        sha256=digests,
        index_sha256=digests,
        index_crc32c=[number for number in range(shards)],
    )
    split = Split(
        records=records, shards=ShardTable(of_each, {"tfrecord": columns}), classes=like.splits["train"].classes
    )
    whole = replace(
        like, splits={"train": split}, generations=(), counts=replace(like.counts, written=records), files={}
    )
    (folder / "whole").mkdir()
    text = whole.to_json()
    (folder / "whole/dataset.json").write_text(text)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    data = open_dataset(folder / "whole")
    opened = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    started = time.perf_counter()
    data.stream(batch_size=RANKS * SHARE, shuffle="window", lanes=RANKS * LANES, window=WINDOW, world_size=RANKS)
    planned = time.perf_counter() - started
    print(
        f"The manifest of {shards:,} shards, written: {len(text) / 1e6:.1f} MB. `open_dataset` takes {opened:.2f} s and"
        f" {memory / 1024:.0f} MB, a stream of one of {RANKS:,} ranks {planned:.3f} s.\n"
    )


def ranks(records: int, shards: int, size: float) -> None:
    """The table of what many ranks ask of a store."""
    shard_bytes = records / shards * size
    pieces = 1 + math.ceil(shard_bytes / PIECE)
    machines = RANKS // OF_A_MACHINE
    epoch = records / (RANKS * IMAGES_A_SECOND)
    print(
        f"{RANKS:,} ranks on {machines} machines, {IMAGES_A_SECOND:,} images a second each: an epoch of {epoch:.0f} s,"
        f" {records * size / epoch / GB:.0f} GB/s of images.\n"
    )
    columns = "shards of a machine in an epoch | at a time | cache for these | requests in an epoch | a second | bytes"
    print(f"| order | {columns} |")
    print("|---|---|---|---|---|---|---|")
    used_shards, at_a_time = window_demand(records, shards)
    for name, of_epoch, together in (("window", used_shards, at_a_time), ("full", shards, shards)):
        requests, received = of_epoch * pieces, of_epoch * shard_bytes
        print(
            f'| `shuffle="{name}"` with a cache | {of_epoch:,.0f} | {together:,.0f}'
            f" | {together * shard_bytes / GB:,.0f} GB"
            f" | {machines * requests:,.0f} | {machines * requests / epoch:,.0f}"
            f" | {machines * received / TB:,.0f} TB, {machines * received / epoch / GB:,.0f} GB/s |"
        )
    print(
        f"| without a cache | {shards:,} | {shards:,} | none | {records + 2 * machines * shards:,.0f}"
        f" | {(records + 2 * machines * shards) / epoch:,.0f} | {records * size / TB:,.0f} TB |\n"
    )


def window_demand(records: int, shards: int) -> tuple[float, float]:
    """The shards that a machine uses in an epoch, and at a time with those that are fetched in advance."""
    sizes = np.diff([records * number // shards for number in range(shards + 1)])
    order = WindowShuffle(sizes.tolist(), seed=0, lanes=RANKS * LANES, window=WINDOW)
    ends, in_epoch, together = np.cumsum(sizes), set[int](), []
    for rank in range(OF_A_MACHINE):
        batches = BatchOrder(record_order=order, batch_size=RANKS * SHARE, rank=rank, world_size=RANKS)
        steps = np.linspace(0, batches.steps - 1, 200).astype(int).tolist()
        for step in steps:
            found = np.searchsorted(ends, batches.records_of(0, step, step + 1), "right")
            in_epoch.update(np.unique(found).tolist())
    # What lies between two steps of the sample is in the next window of the same lane.
    for step in range(0, 2000, 500):
        now = set[int]()
        for rank in range(OF_A_MACHINE):
            batches = BatchOrder(record_order=order, batch_size=RANKS * SHARE, rank=rank, world_size=RANKS)
            stop = min(batches.steps, step + 1 + int(sizes.max()) * WINDOW * LANES // SHARE)
            block = batches.records_of(0, min(step, stop - 1), stop)
            now.update(np.unique(np.searchsorted(ends, block, "right")).tolist())
        together.append(len(now))
    return len(in_epoch), max(together)


def check() -> None:
    """Read a small dataset in memory by ranks with caches of their own; the requests, calculated and counted."""
    import beam_jobs

    url, records, shards, world = "memory://simulated", 4096, 64, 8
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    sys.path.insert(0, str(Path(__file__).parent))
    options = beam_jobs.PrepareOptions(
        input=f"entries-{records}", output=url, source=MADE_UP, size="4x4", encoding="raw", shards=shards, workers=1
    )
    beam_jobs.prepare(options)
    counted = used_shards = 0
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(world):
            data = open_dataset(url, cache=f"{folder}/{rank}", cache_bytes="1GB")
            before = data.fetched()
            stream = data.stream(
                batch_size=16 * world, shuffle="window", lanes=LANES * world, window=1, rank=rank, world_size=world
            )
            for _ in stream:
                pass
            found = data.fetched() - before
            counted += found.requests
            ends = np.cumsum(data.manifest.splits["train"].shards.records)
            order = stream.order
            used_shards += len(np.unique(np.searchsorted(ends, order.records_of(0, 0, order.steps), "right")))
            data.close()
    # An index and one piece for each shard, of a few kilobytes each.
    print(f"Check, {shards} shards, {world} ranks: {2 * used_shards} requests calculated, {counted} counted.")


class Watched:
    """The largest anonymous memory of a process, and the largest disk beside finished shards."""

    def __init__(self, output: Path) -> None:
        self.pid, self.memory, self.disk, self._output = 0, 0, 0, output

    def __enter__(self) -> Watched:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            try:
                self.memory = max(self.memory, anonymous_memory(self.pid))
                beside = [*(self._output / "_spill").rglob("*"), *(self._output / "_work/plan").rglob("*")]
                self.disk = max(self.disk, sum(path.stat().st_size for path in beside if path.is_file()))
            except OSError:
                continue


def timed(words: list[str]) -> float:
    """The CPU seconds of a command, which must succeed."""
    before = used()
    subprocess.run(words, check=True, capture_output=True)
    return used() - before


def used() -> float:
    """The CPU seconds of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
