"""Time and memory of publishing: from the finished shards of a job to its manifest, for up to 100,000 shards.

    python benchmarks/publish.py [--shards 1000 10000 100000] [--classes 1000 20000] [--folder FOLDER]

One shard of a few tiny images is written by the job's own code. The others are copies of it under names of their own,
with hashes of inputs and counts of a thousand labels that are made up. Publishing is the real one: it reads the
descriptions, sums the counts, renames, searches for duplicates, joins the table, writes the papers and the manifest.
Each case has a process of its own. `inspect` of the dataset follows in another. FOLDER needs 25 kB for each shard.
Prints a table for benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from plan import MIB, PeakMemory

from beam_jobs.cli.prepare import parse
from beam_jobs.external_sort import Spill
from beam_jobs.plan.order import plan_inputs, scan
from beam_jobs.plan.schema.catalog import Catalog
from beam_jobs.plan.tasks import TASKS_NAME, ShardTask, first_references
from beam_jobs.shards.job import Job, Watcher
from beam_jobs.shards.output import PLAN, Output
from beam_jobs.shards.publish import Publication, publish
from beam_jobs.shards.records.record import image_fields
from beam_jobs.shards.write import write_shard
from beam_jobs.shards.written_shard import WRITTEN_NAME
from beam_jobs.sources.files.interface import Layout
from beam_jobs.sources.folder import Folder
from shard_reader.format import index
from shard_reader.format.manifest import Fingerprint, index_name
from shard_reader.storage.open import directory

RECORDS = 8  # of a shard
COUNTED = 1000  # labels with a count in the description of a shard, at most
LINKS = 30_000  # names of one file: ext4 has at most 65,000


def main() -> None:
    """Measure each case in processes of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--folder", help="of the datasets, which are removed; by default that for temporary files")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a dataset to publish, here
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(Path(options.one), options.shards[0], options.classes[0])))
        return
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pyarrow"))
    print(f"Python {platform.python_version()}, {versions}, {RECORDS} records a shard:\n")
    columns = "publish: CPU s | s | peak, MiB | manifest, MB | `inspect`: CPU s"
    print(f"| shards | classes | {columns} |")
    print("|---|---|---|---|---|---|---|")
    for classes in options.classes:
        for shards in options.shards:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                print(row(shards, classes, Path(folder)), flush=True)


def row(shards: int, classes: int, folder: Path) -> str:
    """A line of the table."""
    words = [sys.executable, __file__, "--shards", str(shards), "--classes", str(classes), "--one", str(folder)]
    found = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return (
        f"| {shards:,} | {classes:,} | {found['cpu']:.1f} | {found['seconds']:.1f} | {found['peak'] / MIB:.0f}"
        f" | {found['manifest'] / 1e6:.1f} | {cpu_of_inspect(folder / 'out'):.1f} |"
    )


def cpu_of_inspect(output: Path) -> float:
    """The CPU seconds of `image-shards inspect`."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "beam_jobs", "inspect", str(output)], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(folder: Path, shards: int, classes: int) -> dict[str, float]:
    """Make the finished shards, and publish them."""
    publication = make(folder, shards, classes)
    with PeakMemory() as memory:
        seconds, cpu = time.perf_counter(), time.process_time()
        publish(publication)
        seconds, cpu = time.perf_counter() - seconds, time.process_time() - cpu
    size = (folder / "out/dataset.json").stat().st_size
    return {"cpu": cpu, "seconds": seconds, "peak": memory.peak, "manifest": size}


def make(folder: Path, shards: int, classes: int) -> Publication:
    """A job with all of its shards finished, up to the step of publishing."""
    for number in range(RECORDS):
        (folder / "in/a").mkdir(parents=True, exist_ok=True)
        (folder / f"in/a/{number}.png").write_bytes(picture(number))
    options = parse(["prepare", f"{folder}/in", f"{folder}/out", "--size", "16x16", "--encoding", "raw"])
    output = Output(options.output, directory(options.output))
    work = output.begin({"fingerprint": {"inputs": "", "options": "", "codecs": {}}, "options": {}})
    source, catalog, spill = Folder(options.source), Catalog(), Spill(folder)
    scan(source, 0, catalog, spill, lambda: None)
    schema = catalog.close(source.layout())
    (folder / "plan").mkdir()
    planned = plan_inputs(spill, source, schema, options.split, 0, folder / "plan")
    tasks = list(same_references(first_references("train", planned.ordered["train"], RECORDS, PLAN), shards))
    rows = [(t.split, t.number, t.count, t.records, t.plan, t.start, t.end) for t in tasks]
    (folder / "plan" / TASKS_NAME).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    output.install((folder / "plan").iterdir())
    job = Job(
        source=options.source,
        output=options.output,
        work=work,
        image=options.image,
        formats=options.formats,
        fields=image_fields(options.image, schema.fields),
        boxes={},
        points={},
        count_classes=True,
        threads=1,
    )
    write_shard(tasks[0], job, None, Watcher())
    copy(folder / "out" / work.shards, tasks, job, classes)
    return Publication(
        output=options.output,
        work=work,
        fields=dict(job.fields),
        formats=options.formats,
        splits=("train",),
        class_names=tuple(f"n{number:08d}" for number in range(classes)),
        count_classes=True,
        seed=0,
        options=options.to_json(),
        fingerprint=Fingerprint(inputs="", options="", codecs={}),
        layout=Layout(text=""),
        planned=shards * RECORDS,
        shards=shards,
        listing_rejected=0,
        listing_dropped=0,
        max_rejects=options.max_rejects,
    )


def picture(number: int) -> bytes:
    """A PNG of noise."""
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)).save(data, "PNG")
    return data.getvalue()


def same_references(task: ShardTask, count: int) -> Iterator[ShardTask]:
    """Tasks with the same references, which are read for the first of them only."""
    for number in range(count):
        yield ShardTask(
            split="train",
            number=number,
            count=count,
            records=task.records,
            plan=task.plan,
            start=task.start,
            end=task.end,
        )


def copy(finished: Path, tasks: list[ShardTask], job: Job, classes: int) -> None:
    """Make every shard but the first of the files of the first."""
    numbers = np.random.default_rng(0)
    source = finished / tasks[0].name
    (shard,) = source.glob("*.tfrecord")
    first = (source / index_name(shard.name)).read_bytes()
    body: dict[str, Any] = json.loads((source / WRITTEN_NAME).read_text())
    plain = [path for path in source.iterdir() if path.name not in (WRITTEN_NAME, index_name(shard.name))]
    links = dict.fromkeys(plain, b"")
    for task in tasks[1:]:
        target = finished / task.name
        target.mkdir()
        for path in plain:
            if task.number % LINKS == 1:
                links[path] = os.fsencode(target / path.name.replace(tasks[0].name, task.name))
                Path(os.fsdecode(links[path])).write_bytes(path.read_bytes())
            else:
                os.link(links[path], target / path.name.replace(tasks[0].name, task.name))
        start, end, dtype = index.extent(task.records, job.fields)
        rows = np.frombuffer(first[start:end], dtype).copy()
        rows["content_hash"] = numbers.integers(0, 1 << 63, len(rows))
        changed = index.to_bytes(rows)
        (target / index_name(shard.name.replace(tasks[0].name, task.name))).write_bytes(changed)
        labels = np.arange(classes) if classes <= COUNTED else np.unique(numbers.integers(0, classes, COUNTED))
        counts = np.array([labels, numbers.integers(1, 9, len(labels))], "<u2")
        body["listed"]["classes"] = ["<u2", base64.b64encode(counts.tobytes()).decode()]
        text = json.dumps(body).replace(tasks[0].name, task.name)
        old, new = (hashlib.sha256(data).hexdigest() for data in (first, changed))
        crc = json.loads(text)["shard"]["files"]["tfrecord"]["index_crc32c"]
        text = text.replace(f'"index_crc32c": {crc}', f'"index_crc32c": {index.checksums_crc32c(rows)}')
        (target / WRITTEN_NAME).write_text(text.replace(old, new))


if __name__ == "__main__":
    main()
