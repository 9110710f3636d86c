"""Near-duplicates: how many changed copies of photos are found, how many pairs of others, and the time of a search.

python benchmarks/near_duplicates.py ladder PHOTOS        a folder of photos
python benchmarks/near_duplicates.py cifar10 CIFAR        its folders train/CLASS and test/CLASS
python benchmarks/near_duplicates.py search 1000000       random hashes, and copies of one in a hundred of them
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from beam_jobs.images.measures.perceptual_hash import perceptual_hashes
from beam_jobs.plan.near_duplicates import NEAR_DISTANCE, find_near_duplicates

DISTANCES = (2, 4, 6, 8, 10, 11)
MORE_IN_DHASH = 4
Hashes = NDArray[np.uint64]


def stored(image: Image.Image, side: int = 256) -> NDArray[np.uint8]:
    """Pixels as `prepare --size 256` stores them."""
    factor = side / min(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))


def jpeg(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=30)
    return Image.open(data)


def cropped(image: Image.Image) -> Image.Image:
    """The middle, of 95 % of each side."""
    left, top = image.width // 40, image.height // 40
    return image.crop((left, top, image.width - left, image.height - top))


LADDER: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resize 0.5": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "resize 2": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "JPEG 30": jpeg,
    "crop 5 %": cropped,
    "brightness 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "mirror": ImageOps.mirror,
}


def hashes(pixels: Iterator[NDArray[np.uint8]]) -> Hashes:
    return np.array([perceptual_hashes(one) for one in pixels], np.int64).view(np.uint64)


def are_near(one: Hashes, other: Hashes, distance: int) -> NDArray[np.bool_]:
    bits = np.bitwise_count(one ^ other)
    return (bits[..., 0] <= distance) & (bits[..., 1] <= distance + MORE_IN_DHASH)


def ladder(folder: Path) -> None:
    images = [Image.open(path).convert("RGB") for path in sorted(folder.rglob("*.jpg"))]
    began = time.thread_time()
    pixels = [stored(image) for image in images]
    middle = time.thread_time()
    own = hashes(iter(pixels))
    print(f"{len(images)} photos; a hash takes {(time.thread_time() - middle) / len(images) * 1e6:.0f} us of CPU,")
    print(f"scaling with Pillow {(middle - began) / len(images) * 1e6:.0f} us\n")
    print("| copies found of | " + " | ".join(f"distance {distance}" for distance in DISTANCES) + " |")
    print("|---" * (len(DISTANCES) + 1) + "|")
    for name, change in LADDER.items():
        others = hashes(stored(change(image)) for image in images)
        shares = (f"{are_near(own, others, distance).mean():.1%}" for distance in DISTANCES)
        print(f"| {name} | " + " | ".join(shares) + " |")
    pairs = np.triu_indices(len(own), 1)
    false = (str(int(are_near(own[pairs[0]], own[pairs[1]], distance).sum())) for distance in DISTANCES)
    print(f"| pairs of different photos, of {len(pairs[0]):,} | " + " | ".join(false) + " |")


def cifar10(folder: Path) -> None:
    """Groups of all images, and test images that look like one of the training."""
    files = [*sorted(folder.glob("train/*/*")), *sorted(folder.glob("test/*/*"))]
    labels = np.array([path.parent.name for path in files])
    is_test = np.array([path.parent.parent.name == "test" for path in files])
    found_hashes = hashes(np.asarray(Image.open(path).convert("RGB")) for path in files)
    print(f"{len(files):,} images, of which {is_test.sum():,} are for tests\n")
    print("| distance | look like an earlier one | of them tests like a training image | with another label |")
    print("|---|---|---|---|")
    for distance in (0, 2, 4, 6, 8):
        with tempfile.TemporaryDirectory() as scratch:
            near = find_near_duplicates([found_hashes], distance, Path(scratch))
        later = near.places != near.firsts
        places, firsts = near.places[later], near.firsts[later]
        leaks = (is_test[places] & ~is_test[firsts]).sum()
        print(f"| {distance} | {len(places):,} | {leaks:,} | {(labels[places] != labels[firsts]).sum():,} |")


def search(count: int) -> None:
    rng = np.random.default_rng(0)
    random = rng.integers(0, 1 << 64, (count, 2), dtype=np.uint64)
    sources, copies = rng.integers(0, count, (2, count // 100))
    for column, flips in enumerate((NEAR_DISTANCE, NEAR_DISTANCE + MORE_IN_DHASH)):
        changed = random[sources, column]
        for _ in range(flips):
            changed ^= np.uint64(1) << rng.integers(0, 64, len(changed), dtype=np.uint64)
        random[copies, column] = changed
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        near = find_near_duplicates(np.array_split(random, 100), NEAR_DISTANCE, Path(scratch))
    seconds, memory = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{count:,} hashes: {len(near.places):,} in groups, {seconds:.0f} s, {memory} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ladder", "cifar10", "search"))
    parser.add_argument("value", help="the folder, or the number of hashes")
    given = parser.parse_args()
    if given.what == "search":
        search(int(given.value))
    else:
        {"ladder": ladder, "cifar10": cifar10}[given.what](Path(given.value))


if __name__ == "__main__":
    main()
