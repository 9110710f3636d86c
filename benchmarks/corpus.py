"""Every file of a folder, as `prepare` decodes it, beside OpenCV: which differ, and which only one of them reads.

    python benchmarks/corpus.py FOLDER

Folders with odd images are the test images of decoders, such as `Tests/images` in the repository of Pillow.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["OPENCV_LOG_LEVEL"] = "SILENT"

import cv2
import numpy as np
from numpy.typing import NDArray

from beam_jobs.images.decode import Decoded, decode, to_8_bits
from beam_jobs.images.geometry import turned
from beam_jobs.options import ImageOptions
from beam_jobs.sources import BadInput

LEVELS = 2  # of 255, by which decoders of one file may differ
OPTIONS = ImageOptions(
    width=1,
    height=1,
    fit="none",
    filter="lanczos",
    encoding="raw",
    quality=None,
    dtype="uint8",
    normalize="none",
    channels="keep",
)


def ours(data: bytes) -> Decoded | BadInput:
    try:
        return decode(data, OPTIONS)
    except BadInput as error:
        return error


def opencv(data: bytes) -> NDArray[Any] | None:
    """The pixels by OpenCV, 8 bits, RGB or RGBA; None: it does not read the file."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:
        return None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        return None
    pixels = to_8_bits(pixels if pixels.ndim == 3 else pixels[..., None])
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.shape[2] >= 3 else pixels


def compare(decoded: Decoded, other: NDArray[Any]) -> str:
    """In words, whether two images agree, where neither is transparent."""
    pixels = to_8_bits(decoded.pixels)
    if decoded.orientation != 1:
        other = turned(other, decoded.orientation)
    if pixels.shape[:2] != other.shape[:2]:
        return "another size"
    colours = [
        np.broadcast_to(one[..., :1] if one.shape[2] < 3 else one[..., :3], (*one.shape[:2], 3))
        for one in (pixels, other)
    ]
    difference = np.abs(colours[0].astype(int) - colours[1]).max(2)
    if pixels.shape[2] == 4:
        difference = difference * (pixels[..., 3] > 0)
    return "the same" if difference.max(initial=0) <= LEVELS else "different"


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    fates = Counter[str]()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        data = path.read_bytes()
        decoded, other = ours(data), opencv(data)
        if isinstance(decoded, BadInput):
            fate = "read by neither" if other is None else "read by OpenCV alone"
        else:
            fate = "read by prepare alone" if other is None else compare(decoded, other)
        fates[fate] += 1
        if fate not in ("the same", "read by neither", "read by prepare alone"):
            changes = f"{decoded.reason}: {decoded}" if isinstance(decoded, BadInput) else ", ".join(decoded.changes)
            print(f"{path.relative_to(folder)}: {fate} ({changes or 'no change'})")
    print(f"{len(files)} files: " + ", ".join(f"{count} {fate}" for fate, count in fates.most_common()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
