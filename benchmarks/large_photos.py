"""Photos of 12 megapixels: `image-shards prepare` against other programs, and the quality of its reduced decode.

    python benchmarks/large_photos.py FOLDER [--photos 12] [--images 120] [--runs 3] [--workers 2] [--peers PYTHON]

FOLDER holds class folders of JPEGs. PHOTOS of them are enlarged to 4000x3000 pixels, with texture of several sizes, so
that a file is as large as a camera's. They are repeated, as links, up to the number of IMAGES. One set is sRGB, the
other has a Display P3 profile. The sides, the settings and the tables are those of benchmarks/prepare.py. A last table
compares the stored pixels of the default with those of --exact-decode, and these with themselves as a JPEG.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import statistics
import struct
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prepare import PEERS, Side, count_tfrecords, list_urls, peers, print_table, repeated, rounds, served

from beam_jobs.images.process import prepare_image
from beam_jobs.options import ImageOptions

OPTIONS = ImageOptions(
    width=256,
    height=256,
    fit="cover",
    filter="lanczos",
    encoding="raw",
    quality=None,
    dtype="uint8",
    normalize="none",
)
SIDES = (4000, 3000)
TEXTURE = ((1, 5.0), (2, 5.0), (6, 4.0))  # the side of a cell in pixels, and the deviation of its levels
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))  # to XYZ of D50


def main() -> None:
    """Make the photos, time all sides in turn on each set, and print the tables."""
    options = parse()
    with tempfile.TemporaryDirectory() as directory:
        for name, profile in (("sRGB", None), ("Display P3", display_p3())):
            root = Path(directory) / name.replace(" ", "-")
            originals = enlarged(options.folder, root / "originals", options.photos, profile)
            images = repeated(originals, root / "images", options.images)
            few = repeated(originals, root / "few", options.workers)
            print(f"\n{name}, {size_of(originals):.1f} MB a photo; ", end="", flush=True)
            with served(root) if options.peers else contextlib.nullcontext() as address:
                for folder in (images, few):
                    list_urls(folder, address)
                print_table(options, *rounds(sides(options), images, few, options))
            print_quality(originals)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter with img2dataset")
    return parser.parse_args()


def sides(options: argparse.Namespace) -> list[Side]:
    """The programs."""
    workers = ["--workers", str(options.workers)]

    def ours(*more: str) -> Side:
        settings = ["--size", "256", "--quality", "90", *workers, *more]
        return Side(
            " ".join(["image-shards prepare", *more]),
            lambda images, output: [sys.executable, "-m", "beam_jobs", "prepare", str(images), output, *settings],
            count_tfrecords,
        )

    def pool(name: str, peer: str) -> Side:
        return Side(
            name,
            lambda images, output: [sys.executable, PEERS, peer, str(images), output, *workers],
            count_tfrecords,
        )

    found = [
        ours(),
        ours("--exact-decode"),
        pool("Pillow pool", "pillow"),
        pool("Pillow pool with draft", "draft"),
        pool("OpenCV pool", "opencv"),
    ]
    others = peers(options.peers, options.workers) if options.peers else []
    return found + [side for side in others if side.name == "img2dataset"]


def enlarged(source: Path, target: Path, count: int, profile: bytes | None) -> Path:
    """A folder of large photos, made of some of those in `source`."""
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number, path in enumerate(paths[:: max(1, len(paths) // count)][:count]):
        file = target / path.parent.name / path.name
        file.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            pixels = textured(image.convert("RGB"), np.random.default_rng(number))
        options = {} if profile is None else {"icc_profile": profile}
        Image.fromarray(pixels).save(file, "JPEG", quality=92, subsampling="4:2:0", **options)
    return target


def textured(image: Image.Image, random: np.random.Generator) -> NDArray[np.uint8]:
    """An image at 12 megapixels, with grain."""
    width, height = SIDES if image.width >= image.height else SIDES[::-1]
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    for cell, deviation in TEXTURE:
        grain = random.normal(0, deviation, (height // cell, width // cell)).astype(np.float32)
        pixels += np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC))[..., None]
    return pixels.clip(0, 255).astype(np.uint8)


def size_of(folder: Path) -> float:
    """The mean size of its files, in MB."""
    return statistics.mean(path.stat().st_size for path in folder.glob("*/*")) / 1e6


def print_quality(originals: Path) -> None:
    """The decibels (PSNR) between the default and the exact decode, and between the latter and its JPEG."""
    reduced, encoded = list[float](), list[float]()
    for path in sorted(originals.glob("*/*")):
        data = path.read_bytes()
        exact = prepare_image(data, replace(OPTIONS, exact_decode=True))
        shape = (exact.height, exact.width, 3)
        pixels = np.frombuffer(exact.data, np.uint8).reshape(shape)
        default = np.frombuffer(prepare_image(data, OPTIONS).data, np.uint8).reshape(shape)
        reduced.append(decibels(default, pixels))
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        encoded.append(decibels(np.asarray(Image.open(file)), pixels))
    print("\n| against --exact-decode | dB (median) | least |\n|---|---|---|")
    for name, values in (("the default", reduced), ("--exact-decode as a JPEG of quality 90", encoded)):
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} |")


def decibels(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The peak signal-to-noise ratio."""
    return 10 * math.log10(255**2 / float(((one.astype(float) - other) ** 2).mean()))


def display_p3() -> bytes:
    """An ICC profile of version 2: the primaries of Display P3, and the curve of sRGB (ICC.1:2001-04, section 6)."""

    def fixed(kind: bytes, *numbers: float, head: bytes = b"") -> bytes:
        return kind + bytes(4) + head + struct.pack(f">{len(numbers)}i", *(round(x * 65_536) for x in numbers))

    curve = fixed(b"para", 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, head=struct.pack(">H2x", 3))
    tags = {b"wtpt": fixed(b"XYZ ", 0.9642, 1, 0.8249)}
    for name, primary in zip((b"r", b"g", b"b"), P3, strict=True):
        tags |= {name + b"XYZ": fixed(b"XYZ ", *primary), name + b"TRC": curve}
    start = 128 + 4 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    for name, value in tags.items():
        table += name + struct.pack(">II", start, len(value))
        start += len(value)
    header = struct.pack(">I4xI4s4s4s12x4s", start, 0x0240_0000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63_190, 65_536, 54_061)
    return header.ljust(128, b"\0") + table + b"".join(tags.values())


if __name__ == "__main__":
    main()
