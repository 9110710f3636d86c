"""The reader with many shards: the cost of a record, the first batch, and the memory of opening.

    python benchmarks/scale.py PHOTOS [--shards 10 1000 10000 100000] [--rounds 3] [--baseline CHECKOUT]

The records of each count of shards are the same images in another cut. Where there are more shards than images, several
shards are links to one file: every count reads the same bytes, so that only the number of shards differs. Each
measurement is a process of its own, and counts take turns. `--baseline` measures another checkout beside this one; its
datasets are written by that checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES = 10_000
SIZE = 224
LARGE = (100_000_000, 10_000)  # records and shards of the dataset whose first batch is timed
SECONDS = 2.0
LINKS = 50_000  # of one file, of which ext4 allows 65,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/image-shards-scale"))
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encodings", nargs="+", default=["jpeg", "raw"])
    parser.add_argument("--baseline", type=Path, help="another checkout")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(_TASKS[options.task](**json.loads(sys.stdin.read()))))
        return
    checkouts = {"": REPOSITORY} | ({"baseline: ": options.baseline} if options.baseline else {})
    _costs(options, checkouts)
    _openings(options, checkouts)


def _costs(options: argparse.Namespace, checkouts: dict[str, Path]) -> None:
    """The tables of the CPU time for each record."""
    for encoding in options.encodings:
        cases = [(name, count) for name in checkouts for count in options.shards]
        paths = {
            (name, count): _run(
                checkouts[name],
                "make",
                photos=str(options.photos),
                path=str(options.work / f"{name.strip(': ')}{encoding}-{count}"),
                encoding=encoding,
                shards=count,
            )["path"]
            for name, count in cases
        }
        found: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case in cases:
                found[case].append(_run(checkouts[case[0]], "read", path=paths[case]))
        print(f"\n{encoding}, {SIZE}x{SIZE}, full shuffle, batches of 256\n")
        print("| shards | CPU µs a record | to the fewest shards | wall µs a record | maximum memory, MB |")
        print("|---|---|---|---|---|")
        for name in checkouts:
            for count in options.shards:
                rounds = found[name, count]
                first = found[name, options.shards[0]]
                ratios = [one["cpu"] / other["cpu"] for one, other in zip(rounds, first, strict=True)]
                cpu, wall, memory = (statistics.median(one[key] for one in rounds) for key in ("cpu", "wall", "memory"))
                row = f"{cpu * 1e6:.1f} | {_range(ratios)} | {wall * 1e6:.1f} | {memory / 1e6:.0f}"
                print(f"| {name}{count:,} | {row} |", flush=True)


def _openings(options: argparse.Namespace, checkouts: dict[str, Path]) -> None:
    """The table of opening and first batches."""
    print("\n| dataset | open_dataset, s | memory of it, MB | first batch, s |\n|---|---|---|---|")
    for name, checkout in checkouts.items():
        for records, shards in (LARGE, (100_000, 100_000)):
            path = str(options.work / f"{name.strip(': ')}large-{records}-{shards}")
            _run(checkout, "make_large", path=path, records=records, shards=shards)
            rounds = [_run(checkout, "open", path=path) for _ in range(options.rounds)]
            values = [statistics.median(one[key] for one in rounds) for key in ("opened", "memory", "first")]
            row = f"{values[0]:.2f} | {values[1] / 1e6:.0f} | {values[2]:.2f}"
            print(f"| {name}{records:,} records in {shards:,} shards | {row} |", flush=True)


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _run(checkout: Path, task: str, **arguments: Any) -> Any:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, "-", "--task", task]
    done = subprocess.run(command, input=json.dumps(arguments), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{task} {arguments}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _make(photos: str, path: str, encoding: str, shards: int) -> dict[str, str]:
    """A dataset of `IMAGES` different images, and as many records, or one for each shard if that is more."""
    from beam_jobs.shards.write import store
    from shard_reader.format import Field, shard_name

    output = Path(path)
    if (output / "dataset.json").exists():
        return {"path": path}
    output.mkdir(parents=True)
    fields = {
        "image": Field(dtype="uint8", shape=(SIZE, SIZE, 3), encoding=encoding),
        "label": Field(dtype="int64"),
        "id": Field(dtype="string"),
        "height": Field(dtype="int64"),
        "width": Field(dtype="int64"),
    }
    payloads = _payloads(Path(photos), encoding)
    files = min(shards, IMAGES)
    written = []
    for number in range(files):
        records = [
            {"image": payloads[n % len(payloads)], "label": n % 10, "id": f"{n}", "height": SIZE, "width": SIZE}
            for n in range(number * IMAGES // files, (number + 1) * IMAGES // files)
        ]
        written.append(store(records, {"tfrecord": output / shard_name("train", number, shards, "tfrecord")}, fields))
    _publish(output, fields, written, shards)
    return {"path": path}


def _make_large(path: str, records: int, shards: int) -> dict[str, str]:
    """A dataset of tiny images in which the shards are links to a few files."""
    from beam_jobs.shards.write import store
    from shard_reader.format import Field, shard_name

    output = Path(path)
    if (output / "dataset.json").exists():
        return {"path": path}
    output.mkdir(parents=True)
    numbers = ("label", "height", "width", "original_height", "original_width", "content_hash", "phash", "dhash")
    fields = {
        "image": Field(dtype="uint8", shape=(4, 4, 1), encoding="raw"),
        "id": Field(dtype="string"),
        **{name: Field(dtype="int64") for name in numbers},
    }
    rows = [
        {"image": bytes(16), "id": f"{n}", **dict.fromkeys(numbers, n % 1000)} | {"height": 4, "width": 4}
        for n in range(records // shards)
    ]
    written = [
        store(rows, {"tfrecord": output / shard_name("train", number, shards, "tfrecord")}, fields)
        for number in range(-(-shards // LINKS))
    ]
    _publish(output, fields, written, shards)
    return {"path": path}


def _publish(output: Path, fields: Any, written: list[Any], shards: int) -> None:
    """Links for the shards that have no file of their own, and the manifest."""
    from dataclasses import replace

    from shard_reader.format import Counts, Fingerprint, Manifest, Shard, Split, index_name, shard_name

    every = []
    for number in range(shards):
        shard = written[number % len(written)]
        file, name = shard.files["tfrecord"], shard_name("train", number, shards, "tfrecord")
        if number >= len(written):
            os.link(output / file.path, output / name)
            os.link(output / index_name(file.path), output / index_name(name))
        every.append(Shard(records=shard.records, files={"tfrecord": replace(file, path=name)}))
    records = sum(shard.records for shard in every)
    try:
        from shard_reader.format import ShardTable

        table: Any = ShardTable.of(every)
    except ImportError:  # a baseline from before there was one
        table = tuple(every)
    manifest = Manifest(
        fields=fields,
        formats=("tfrecord",),
        splits={"train": Split(records=records, shards=table)},
        class_names=None,
        statistics=None,
        counts=Counts(ignored=0, planned=records, written=records, rejected=0),
        seed=0,
        options={},
        fingerprint=Fingerprint(inputs="", options="", codecs={}),
    )
    (output / "dataset.json").write_text(manifest.to_json(), "utf-8")


def _payloads(photos: Path, encoding: str) -> list[bytes]:
    import io

    import numpy as np
    from PIL import Image

    found = []
    for path in sorted(photos.rglob("*.jpg"))[:100]:
        image = Image.open(path).convert("RGB").resize((SIZE, SIZE))
        for turn in range(4):
            turned = image.rotate(90 * turn)
            if encoding == "raw":
                found.append(np.asarray(turned).tobytes())
            else:
                turned.save(file := io.BytesIO(), "JPEG", quality=90)
                found.append(file.getvalue())
    return found


def _read(path: str) -> dict[str, float]:
    """Whole epochs for some seconds, after one that is not timed."""
    import warnings

    from shard_reader import open_dataset

    warnings.simplefilter("ignore")
    stream = open_dataset(path).stream(batch_size=256, seed=0)
    records, elapsed, busy = 0, 0.0, 0.0
    for _ in stream:
        pass
    while elapsed < SECONDS:
        began, before = time.perf_counter(), _cpu()
        for batch in stream:
            records += len(batch["label"])
        elapsed, busy = elapsed + time.perf_counter() - began, busy + _cpu() - before
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"cpu": busy / records, "wall": elapsed / records, "memory": memory}


def _open(path: str) -> dict[str, float]:
    """A dataset that is opened, and its first batch."""
    import google_crc32c  # noqa: F401
    import numpy as np  # noqa: F401

    from shard_reader import open_dataset

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    data = open_dataset(path)
    opened = time.perf_counter() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    stream = data.stream(batch_size=256, seed=0)
    began = time.perf_counter()
    next(iter(stream))
    return {"opened": opened, "memory": memory, "first": time.perf_counter() - began}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


_TASKS = {"make": _make, "make_large": _make_large, "read": _read, "open": _open}

if __name__ == "__main__":
    main()
