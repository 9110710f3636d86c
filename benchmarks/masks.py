"""Reading photos with and without their masks, in turns in one process, and beside torchvision in a DataLoader.

    python benchmarks/masks.py PHOTOS [--images 2000] [--side 256] [--rounds 7] [--before FOLDER]

PHOTOS holds JPEGs, which are repeated. Each gets a mask that this script draws: a few classes in large regions. Two
datasets are made of them, of the photos alone and with masks, as JPEG and as raw pixels. Rows read an epoch in batches
of 64: CPU time for a record, the median of the rounds; ratios are those within a round. The first round is not counted.
`--before` is the folder of another version of this project, whose reader takes turns in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent.parent
CROP, BATCH = 224, 64
READ = """
import sys, time
from shard_reader import Flip, RandomResizedCrop, open_dataset
data = open_dataset(sys.argv[1], "train")
image = [RandomResizedCrop(224), Flip()] if sys.argv[2] == "crop" else None
stream = data.stream(batch_size=64, seed=0, image=image, fields=("image",), threads=1, remainder="drop")
for _ in sys.stdin:
    began = time.process_time()
    records = sum(len(batch["image"]) for batch in stream)
    print((time.process_time() - began) / records, flush=True)
"""


def main() -> None:
    """Make the datasets, and print the tables."""
    options = parse()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        pairs = write(Path(options.photos), work, options.images)
        for name, words in (("JPEG", ()), ("raw", ("--encoding", "raw", "--size", f"{CROP}x{CROP}"))):
            size = words or ("--size", str(options.side))
            with_masks, alone = (
                prepared(work / "pairs", work / f"{name}-both", size),
                prepared(work / "pairs/images", work / f"{name}-alone", size),
            )
            print_table(name, rows(name, with_masks, alone, options, pairs), options.rounds)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--before", type=Path)
    return parser.parse_args()


def write(photos: Path, work: Path, count: int) -> list[tuple[Path, Path]]:
    """Photos and drawn masks in WORK/pairs, and their files."""
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    rng, pairs = np.random.default_rng(0), []
    for name in ("images", "masks"):
        (work / "pairs" / name).mkdir(parents=True)
    for number in range(count):
        source = found[number % len(found)]
        image, mask = work / f"pairs/images/{number:05d}.jpg", work / f"pairs/masks/{number:05d}.png"
        # A comment of its own, so that no two files are the same.
        comment = f"{number}".encode()
        data = source.read_bytes()
        image.write_bytes(data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:])
        with Image.open(source) as opened:
            size = opened.size
        small = Image.fromarray(rng.integers(0, 5, (4, 5), np.uint8))
        small.resize(size, Image.Resampling.NEAREST).save(mask)
        pairs.append((image, mask))
    return pairs


def prepared(source: Path, target: Path, words: tuple[str, ...]) -> Path:
    """A dataset of a folder."""
    command = [sys.executable, "-m", "beam_jobs", "prepare", str(source), str(target), *words, "--max-rejects", "1.0"]
    subprocess.run(command, check=True, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return target


Rows = dict[str, Callable[[], float]]
"""Names, and functions that read an epoch: the seconds of CPU time for a record."""


def rows(name: str, with_masks: Path, alone: Path, options: argparse.Namespace, pairs: list[tuple[Path, Path]]) -> Rows:
    """The ways to read, the first of them the one to compare with."""
    from shard_reader import open_dataset

    found: Rows = {}
    kind = "crop" if name == "JPEG" else "plain"
    found["image, of photos alone"] = other_process(HERE, alone, kind)
    if options.before is not None:
        found["image, of photos alone, before"] = other_process(options.before, alone, kind)
    found["image, of photos with masks"] = other_process(HERE, with_masks, kind)
    found["image and mask"] = own(open_dataset(with_masks, "train"), kind)
    if name == "JPEG":
        found["image and mask, torchvision in a DataLoader"] = loader(pairs)
    return found


def other_process(version: Path, data: Path, kind: str) -> Callable[[], float]:
    """A reader in a process of its own, which reads an epoch when it is asked."""
    process = subprocess.Popen(
        [sys.executable, "-c", READ, str(data), kind],
        cwd=version,
        env={"PYTHONPATH": str(version), "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def epoch() -> float:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return epoch


def own(data: Any, kind: str) -> Callable[[], float]:
    """This version's stream with both fields."""
    from shard_reader import Flip, RandomResizedCrop

    image = [RandomResizedCrop(CROP), Flip()] if kind == "crop" else None
    fields = ("image", "mask")
    stream = data.stream(batch_size=BATCH, seed=0, image=image, fields=fields, threads=1, remainder="drop")
    return lambda: timed(iter(stream))


def loader(pairs: list[tuple[Path, Path]]) -> Callable[[], float]:
    """torchvision's transforms of a photo and its mask from their files, in the process of the DataLoader."""
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    steps = v2.Compose([v2.RandomResizedCrop(CROP, antialias=True), v2.RandomHorizontalFlip()])

    class Pairs(Dataset):
        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, number: int) -> Any:
            image, mask = (Image.open(path) for path in pairs[number])
            return steps(
                tv_tensors.Image(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy()),
                tv_tensors.Mask(np.asarray(mask).copy()),
            )

    batches = DataLoader(Pairs(), BATCH, shuffle=True, drop_last=True)
    return lambda: timed({"image": image} for image, _ in batches)


def timed(batches: Iterator[Mapping[str, Any]]) -> float:
    """The CPU time of this process for a record of the batches."""
    began = time.process_time()
    records = sum(len(batch["image"]) for batch in batches)
    return (time.process_time() - began) / records


def print_table(name: str, found: Rows, rounds: int) -> None:
    """Read in turns, and print a table."""
    times: dict[str, list[float]] = {row: [] for row in found}
    for number in range(rounds + 1):
        for row, epoch in found.items():
            seconds = epoch()
            if number:
                times[row].append(seconds)
    first = next(iter(times.values()))
    print(f"\n{name}:\n\n| | CPU µs for a record | to the first row |\n|---|---|---|")
    for row, seconds in times.items():
        ratios = sorted(one / other for one, other in zip(seconds, first, strict=True))
        middle = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {row} | {statistics.median(seconds) * 1e6:,.0f} | {middle} |")


if __name__ == "__main__":
    main()
