"""The CPU time of each augmentation, beside torchvision's of the same name, in one thread.

    python benchmarks/augmentations.py PHOTOS [--rounds 5]

The middles of photos, 224x224x3 uint8: arrays `[height, width, channels]` here, tensors `[channels, height, width]`
there, as each wants them. Both take turns on the same images, with random parameters; the median of the rounds counts.
The time is that of the thread, so other programs on the machine disturb it less than a clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from shard_reader import Draws
from shard_reader import transforms as own

SIZE, IMAGES = 224, 64
BILINEAR = {"interpolation": "bilinear"}
AFFINE: dict[str, Any] = {"degrees": 0, "scale": (0.8, 1.2), "shear": 10}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "brightness": ("ColorJitter", {"brightness": 0.4}),
    "contrast": ("ColorJitter", {"contrast": 0.4}),
    "saturation": ("ColorJitter", {"saturation": 0.4}),
    "hue": ("ColorJitter", {"hue": 0.1}),
    "all four": ("ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}),
    "grey": ("RandomGrayscale", {"p": 1.0}),
    "5x5": ("GaussianBlur", {"kernel_size": 5}),
    "23x23": ("GaussianBlur", {"kernel_size": 23}),
    "always": ("RandomErasing", {"p": 1.0}),
    "30 degrees": ("RandomRotation", {"degrees": 30}),
    "zoom, shear": ("RandomAffine", AFFINE),
    "zoom, shear, bilinear": ("RandomAffine", AFFINE | BILINEAR),
    "2 changes": ("RandAugment", {}),
    "1 change": ("TrivialAugmentWide", {}),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images = [middle(path) for path in sorted(options.photos.rglob("*.jpg"))[:IMAGES]]
    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    print("| | | µs for an image | torchvision | times as fast |\n|---|---|---|---|---|")
    for label, (name, arguments) in ROWS.items():
        ours, theirs = getattr(own, name)(**arguments), getattr(v2, name)(**arguments)
        rounds = range(options.rounds)
        times = [(seconds(own_call(ours, number), images), seconds(theirs, tensors)) for number in rounds]
        one, other = (1e6 * statistics.median(column) / len(images) for column in zip(*times, strict=True))
        print(f"| `{name}` | {label} | {one:,.0f} | {other:,.0f} | {other / one:.1f} |")


def middle(path: Path) -> np.ndarray:
    """The pixels of a photo, scaled and cut to a square."""
    with Image.open(path) as image:
        return np.array(ImageOps.fit(image.convert("RGB"), (SIZE, SIZE)))


def own_call(transform: Any, key: int) -> Callable[[np.ndarray], object]:
    """A call into memory that is there, as in a batch."""
    out, position = np.empty((SIZE, SIZE, 3), np.uint8), iter(range(1 << 30))
    return lambda image: transform(image, Draws(key, next(position)), out)


def seconds(call: Callable[[Any], object], images: list[Any]) -> float:
    """CPU time of a call for each image."""
    began = time.thread_time()
    for image in images:
        call(image)
    return time.thread_time() - began


if __name__ == "__main__":
    main()
