"""Images/s of `image-shards prepare` against a hand-written pool of Pillow that writes TFRecords.

    python benchmarks/prepare.py FOLDER [--images 3000] [--runs 5] [--workers 2]

FOLDER holds class folders of JPEGs; they are repeated, as links, up to the number of images. Both sides
read the same files and write JPEGs of quality 90 whose short side is 256 pixels, resampled with Lanczos.
Each run is a whole process, start-up included; the two take turns, so that a machine that slows down
slows both. Prints a table for benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("apache-beam", "cykooz-resizer", "pillow", "simplejpeg", "tensorflow-cpu")


def main() -> None:
    """Time both sides in turn and print the table."""
    options = parse()
    if options.pillow_pool:
        pillow_pool(options.folder, options.pillow_pool, options.workers)
        return
    with tempfile.TemporaryDirectory() as directory:
        images = repeated(options.folder, Path(directory) / "images", options.images)
        ours, peer = [], []
        for run in range(options.runs + 1):
            times = (time_ours(images, directory, run, options), time_peer(images, directory, run, options))
            if run:  # the first warms the page cache
                ours.append(options.images / times[0])
                peer.append(options.images / times[1])
                print(f"run {run}: {ours[-1]:.0f} and {peer[-1]:.0f} images/s", file=sys.stderr)
    print_table(options, ours, peer)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pillow-pool", type=Path, metavar="OUTPUT", help="run the peer alone")
    return parser.parse_args()


def repeated(source: Path, target: Path, count: int) -> Path:
    """Links to the images of `source`, each as often as it takes to have `count`."""
    originals = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number, original in enumerate(itertools.islice(itertools.cycle(originals), count)):
        link = target / original.parent.name / f"{number:06d}{original.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(original.resolve())
    return target


def time_ours(images: Path, directory: str, run: int, options: argparse.Namespace) -> float:
    """Seconds of the command."""
    output = os.path.join(directory, f"ours-{run}")
    settings = ["--size", "256", "--filter", "lanczos", "--quality", "90", "--workers", str(options.workers)]
    return timed([sys.executable, "-m", "beam_jobs", "prepare", str(images), output, *settings])


def time_peer(images: Path, directory: str, run: int, options: argparse.Namespace) -> float:
    """Seconds of the hand-written pool."""
    output = os.path.join(directory, f"peer-{run}.tfrecord")
    settings = ["--workers", str(options.workers), "--pillow-pool", output]
    return timed([sys.executable, __file__, str(images), *settings])


def timed(command: list[str]) -> float:
    """Seconds of a process from start to end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def pillow_pool(images: Path, output: Path, workers: int) -> None:
    """What people write by hand: a pool that decodes, resizes and encodes, and one writer."""
    import tensorflow as tf

    paths = sorted(str(path) for path in images.rglob("*.*"))
    classes = sorted({Path(path).parent.name for path in paths})
    with multiprocessing.Pool(workers) as pool, tf.io.TFRecordWriter(str(output)) as writer:
        for path, payload in zip(paths, pool.imap(resized, paths, chunksize=16), strict=True):
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[payload])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[classes.index(Path(path).parent.name)])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def resized(path: str) -> bytes:
    """A JPEG whose short side is 256 pixels."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        covering = ImageOps.cover(image.convert("RGB"), (256, 256), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    covering.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def print_table(options: argparse.Namespace, ours: list[float], peer: list[float]) -> None:
    """Medians, the range of each, and the ratio pair by pair."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{options.images} images, {options.workers} workers, {options.runs} runs of each in turn;")
    print(f"Python {platform.python_version()}, {versions}\n")
    print("| | images/s (median) | least | most | ratio to the pool |")
    print("|---|---|---|---|---|")
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    for name, rates, last in (("image-shards prepare", ours, ratio), ("Pillow pool + TFRecordWriter", peer, "1")):
        print(f"| {name} | {statistics.median(rates):.0f} | {min(rates):.0f} | {max(rates):.0f} | {last} |")


if __name__ == "__main__":
    main()
