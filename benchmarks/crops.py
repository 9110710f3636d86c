"""CPU time of crops, of whole images and of the job, for JPEGs with restart markers and without.

    python benchmarks/crops.py PHOTOS [--sizes 256 512] [--rounds 9] [--work FOLDER]

`image-shards prepare` makes a dataset of PHOTOS for each size (of the short side) and each choice of
`--restart-markers`. The rows of the first table are what one thread of a stream does with a payload: decode it, or a
part of it, and transform it. Those of the second are decoders that know nothing of this project, with the payloads of
these datasets. Those of the third are the job's way from a file to a payload. "former" is as before there were markers:
with simplejpeg as the encoder, whole images, and `area` for all factors above 1.5.

All rows take turns in one process, every few images, and each of them has the same images in a round. The first round
is not counted. A number is the median of the CPU time of the rounds, a ratio that of the ratios within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import simplejpeg
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from beam_jobs.cli.prepare import parse as parse_options
from beam_jobs.images.process import prepare_image
from beam_jobs.sources.files.interface import BadInput
from shard_reader import CenterCrop, Dataset, Draws, RandomResizedCrop, Resize, Transform, open_dataset
from shard_reader.format.image_codecs.codec import Scratch
from shard_reader.format.image_codecs.jpeg import Jpeg
from shard_reader.format.image_codecs.table import decode_image
from shard_reader.transforms import standard
from shard_reader.transforms.compose import compose

MARKERS = ("none", "row", "auto")
CROP = 224
TURN = 25  # images
Rows = dict[str, Callable[[int], object]]
"""Names, and functions that do the work of a turn, by its number."""


def main() -> None:
    """Make the datasets, and print the tables."""
    options = parse()
    cv2.setNumThreads(1)  # its idle threads take time of the CPU, too
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.work or temporary)
        for size in options.sizes:
            data = {markers: prepared(Path(options.photos), work, size, markers) for markers in MARKERS}
            print_sizes(size, data)
            images, rounds = len(data["none"]), options.rounds
            print_table(f"crop, short side {size}", crops(data), images, rounds)
            print_table(f"decoder, short side {size}", decoders(data), images, rounds)
            print_table(f"job, `--size {size}`", jobs(size, Path(options.photos)), images, rounds)


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
    means = {markers: statistics.mean(map(len, payloads(dataset))) for markers, dataset in data.items()}
    bytes_of = ", ".join(f"{name} {mean:,.0f} ({mean / means['none'] - 1:+.2%})" for name, mean in means.items())
    print(f"\nShort side {size}, {len(data['none'])} photos, bytes of a JPEG: {bytes_of}\n")


def crops(data: Mapping[str, Dataset]) -> Rows:
    """Crops and a resize, as a thread of a stream makes them."""
    random = RandomResizedCrop(CROP)
    rows: Rows = {
        "RandomResizedCrop, former": former(made(data["none"], RandomResizedCrop(CROP, exact=True), whole=True))
    }
    rows |= {f"RandomResizedCrop, {markers}": made(data[markers], random) for markers in MARKERS}
    rows["CenterCrop, former"] = made(data["none"], CenterCrop(CROP), whole=True)
    rows |= {f"CenterCrop, {markers}": made(data[markers], CenterCrop(CROP)) for markers in MARKERS}
    rows["Resize(64), former"] = made(data["none"], Resize(64), whole=True)
    return rows | {"Resize(64), none": made(data["none"], Resize(64))}


def made(data: Dataset, transform: Transform, *, whole: bool = False) -> Callable[[int], object]:
    """From payloads to transformed images, each from the whole image or from a part."""
    chain, field, images, scratch = compose(transform), data.fields["image"], payloads(data), Scratch()
    sizes = list(zip(data.column("height").tolist(), data.column("width").tolist(), strict=True))
    out = np.empty((*transform.shape, 3), np.uint8)  # type: ignore[attr-defined]

    def run(turn: int) -> None:
        for record in range(turn * TURN, (turn + 1) * TURN):
            draws, payload = Draws(1, record), np.frombuffer(images[record], np.uint8)
            if whole:
                chain(decode_image(payload, field, *sizes[record], scratch=scratch), draws, out)
            else:
                part = chain.part(*sizes[record], draws)
                chain.of_part(decode_image(payload, field, *sizes[record], scratch=scratch, part=part), draws, out)

    return run


def former(run: Callable[[int], object]) -> Callable[[int], object]:
    """With the resize that `RandomResizedCrop` had before."""

    def replaced(turn: int) -> None:
        with patch.object(standard, "_HALVED_UP_TO", 0.0):
            run(turn)

    return replaced


def decoders(data: Mapping[str, Dataset]) -> Rows:
    """Whole images by other decoders."""
    found: dict[str, Callable[[bytes], object]] = {
        "simplejpeg": simplejpeg.decode_jpeg,
        "Pillow": lambda payload: np.asarray(Image.open(io.BytesIO(payload))),
        **tensorflow_decoders(),
        **torchvision_decoders(),
    }
    stored = {markers: payloads(dataset) for markers, dataset in data.items()}
    return {
        f"{name}, {markers}": each(decode, stored[markers]) for name, decode in found.items() for markers in MARKERS
    }


def tensorflow_decoders() -> dict[str, Callable[[bytes], object]]:
    """Those of tf.io, on one thread."""
    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        return {}
    with contextlib.suppress(RuntimeError):  # it has begun, with the first size
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


def jobs(size: int, photos: Path) -> Rows:
    """The job, with the former encoder and with each choice of markers."""
    files = [path.read_bytes() for path in sorted(photos.rglob("*.*"))]
    ways = {markers: each(preparing(size, markers), files) for markers in MARKERS}
    return {"prepare_image, former": with_simplejpeg(ways["none"])} | {
        f"prepare_image, {markers}": way for markers, way in ways.items()
    }


def preparing(size: int, markers: str) -> Callable[[bytes], object]:
    """A function from a file to its payload."""
    image = parse_options(["prepare", "in", "out", "--size", str(size), "--restart-markers", markers]).image

    def run(data: bytes) -> None:
        with contextlib.suppress(BadInput):
            prepare_image(data, image)

    return run


def with_simplejpeg(run: Callable[[int], object]) -> Callable[[int], object]:
    """With an encoder that knows no markers."""

    def encode(self: Jpeg, pixels: Any, quality: int | None, restart_markers: str) -> bytes:
        encoded: bytes = simplejpeg.encode_jpeg(pixels, quality or self.quality, "RGB", "420")
        return encoded

    def replaced(turn: int) -> None:
        with patch.object(Jpeg, "encode", encode):
            run(turn)

    return replaced


def each(work: Callable[[bytes], object], images: list[bytes]) -> Callable[[int], object]:
    """A function that works on the images of a turn."""

    def run(turn: int) -> None:
        for image in images[turn * TURN : (turn + 1) * TURN]:
            work(image)

    return run


def payloads(data: Dataset) -> list[bytes]:
    """The JPEGs of a dataset."""
    places = (data.locate(np.array([record])).shard(0) for record in range(len(data)))
    return [shard.payload(row).tobytes() for shard, row in places]


def print_table(title: str, rows: Rows, images: int, rounds: int) -> None:
    """Measure rows in turns; the first of its kind is the one that the others are compared with."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    turns = images // TURN
    for _ in range(rounds + 1):
        seconds = dict.fromkeys(rows, 0.0)
        for turn in range(turns):
            for name, run in rows.items():
                start = time.process_time()
                run(turn)
                seconds[name] += time.process_time() - start
        for name in rows:
            found[name].append(seconds[name] / (turns * TURN) * 1e6)
    print(f"| {title} | CPU µs for an image (median) | times as fast as the first of its kind |\n|---|---|---|")
    kinds: dict[str, list[float]] = {}
    for name, times in found.items():
        kind = kinds.setdefault(name.split(",")[0], times)
        ratios = [first / own for first, own in zip(kind[1:], times[1:], strict=True)]
        bounds = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {statistics.median(times[1:]):,.0f} | {bounds} |")
    print(flush=True)


if __name__ == "__main__":
    main()
