"""CPU time of random crops, and of whole images, from JPEGs with restart markers and without.

    python benchmarks/crops.py PHOTOS [--sizes 256 512] [--rounds 9] [--work FOLDER]

`image-shards prepare` makes a dataset of PHOTOS for each size (of the short side) and each choice of
`--restart-markers`. The rows of the first table are streams in one thread, with `RandomResizedCrop(224)` or
`CenterCrop(224)`. The rows of the second are decoders that know nothing of this project, with the payloads of these
datasets. All rows take turns in one process, an epoch of PHOTOS each; the first round is not counted. A number is the
median of the CPU time of the rounds, a ratio that of the ratios within a round.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from shard_reader import CenterCrop, Dataset, RandomResizedCrop, Resize, open_dataset

MARKERS = ("none", "row", "auto")
CROP = 224


def main() -> None:
    """Make the datasets, and print the tables."""
    options = parse()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.work or temporary)
        for size in options.sizes:
            data = {markers: prepared(Path(options.photos), work, size, markers) for markers in MARKERS}
            print_sizes(size, data)
            print_streams(size, data, options.rounds)
            print_decoders(size, data, options.rounds)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", metavar="PHOTOS")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", metavar="FOLDER")
    return parser.parse_args()


def prepared(photos: Path, work: Path, size: int, markers: str) -> Dataset:
    """The dataset of a size and a kind of restart markers."""
    path = work / f"{size}-{markers}"
    if not path.exists():
        words = [str(photos), str(path), "--size", str(size), "--restart-markers", markers]
        subprocess.run([sys.executable, "-m", "beam_jobs", "prepare", *words], check=True, stdout=subprocess.DEVNULL)
    return open_dataset(path, "train")


def print_sizes(size: int, data: Mapping[str, Dataset]) -> None:
    """The bytes of the payloads."""
    lengths = {markers: sum(len(one) for one in payloads(dataset)) for markers, dataset in data.items()}
    print(f"\nShort side {size}, {len(data['none'])} photos, bytes of a JPEG:", end=" ")
    print(", ".join(f"{name} {total / len(data['none']):,.0f} ({total / lengths['none'] - 1:+.2%})"
          for name, total in lengths.items()), "\n")  # fmt: skip


def print_streams(size: int, data: Mapping[str, Dataset], rounds: int) -> None:
    """Streams with crops."""
    rows: dict[str, Callable[[], object]] = {}
    for exact in (True, False):
        for markers in MARKERS:
            name = f"RandomResizedCrop, {markers}{', exact' if exact else ''}"
            rows[name] = epoch(data[markers], RandomResizedCrop(CROP, exact=exact))
    for markers in MARKERS:
        rows[f"CenterCrop, {markers}"] = epoch(data[markers], CenterCrop(CROP))
    for exact in (True, False):
        rows[f"Resize(64), none{', exact' if exact else ''}"] = epoch(data["none"], Resize(64, exact=exact))
    print_table(f"stream, short side {size}", rows, len(data["none"]), rounds)


def epoch(data: Dataset, transform: Any) -> Callable[[], object]:
    """A function that reads an epoch."""
    stream = data.stream(batch_size=50, image=transform, fields=("image",), threads=1, verify="never")
    return lambda: sum(len(batch["image"]) for batch in stream)


def print_decoders(size: int, data: Mapping[str, Dataset], rounds: int) -> None:
    """Whole images by other decoders."""
    decoders: dict[str, Callable[[bytes], object]] = {
        "simplejpeg": simplejpeg.decode_jpeg,
        "Pillow": lambda payload: np.asarray(Image.open(io.BytesIO(payload))),
        **tensorflow_decoders(),
        **torchvision_decoders(),
    }
    rows = {
        f"{name}, {markers}": decoding(decode, payloads(data[markers]))
        for name, decode in decoders.items()
        for markers in MARKERS
    }
    print_table(f"decoder, short side {size}", rows, len(data["none"]), rounds)


def tensorflow_decoders() -> dict[str, Callable[[bytes], object]]:
    """Those of tf.io, on one thread."""
    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        return {}
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    window = tf.constant([16, 16, CROP, CROP])
    return {
        "tf.io.decode_jpeg": lambda payload: tf.io.decode_jpeg(payload, 3),
        "tf.io.decode_and_crop_jpeg": lambda payload: tf.io.decode_and_crop_jpeg(payload, window, 3),
    }


def torchvision_decoders() -> dict[str, Callable[[bytes], object]]:
    """That of torchvision."""
    try:
        import torch
        from torchvision.io import decode_jpeg
    except ModuleNotFoundError:
        return {}
    return {"torchvision": lambda payload: decode_jpeg(torch.frombuffer(bytearray(payload), dtype=torch.uint8))}


def decoding(decode: Callable[[bytes], object], images: list[bytes]) -> Callable[[], object]:
    """A function that decodes images."""
    return lambda: [decode(image) for image in images] and None


def payloads(data: Dataset) -> list[bytes]:
    """The JPEGs of a dataset."""
    places = (data.locate(np.array([record])).shard(0) for record in range(len(data)))
    return [shard.payload(row).tobytes() for shard, row in places]


def print_table(title: str, rows: Mapping[str, Callable[[], object]], images: int, rounds: int) -> None:
    """Measure rows in turns; the first is the one that the others are compared with."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds + 1):
        for name, run in rows.items():
            start = time.process_time()
            run()
            found[name].append((time.process_time() - start) / images * 1e6)
    print(f"| {title} | us of CPU for an image (median) | times as fast as the first of its kind |\n|---|---|---|")
    kinds: dict[str, list[float]] = {}
    for name, times in found.items():
        kind = kinds.setdefault(name.split(",")[0], times)
        ratios = [first / time for first, time in zip(kind[1:], times[1:], strict=True)]
        bounds = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {statistics.median(times[1:]):,.0f} | {bounds} |")
    print()


if __name__ == "__main__":
    main()
