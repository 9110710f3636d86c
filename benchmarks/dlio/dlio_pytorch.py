"""Readers of DLIO (`reader.reader_classname`) for PyTorch: DLIO's own one, less its message, and with a crop.

DLIO 2.0.0 gives every batch the same pixels, made once from random numbers. Its `ImageReader` has Pillow decode a file,
and drops the pixels. For each image it also formats the index of all files, for a debug message that nobody sees, which
takes milliseconds.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
from dlio_benchmark.reader.image_reader import ImageReader
from PIL import Image

SIZE, SCALE, RATIO = 224, (0.08, 1.0), (3 / 4, 4 / 3)  # of RandomResizedCrop, as torchvision defines it
ATTEMPTS = 10


class PlainFiles(ImageReader):
    """DLIO's reader of image files, without the message for each image."""

    def read_index(self, image_idx: int, step: int) -> Any:
        self.image_idx, self.step = image_idx, step
        filename, sample_index = self.global_index_map[image_idx]
        self.open_file_map[filename] = self.open(filename)
        self.get_sample(filename, sample_index)
        self.preprocess()
        self.close(filename)
        self.open_file_map[filename] = None
        return self._args.resized_image


class PillowCrops(PlainFiles):
    """The same, whose images are cropped, resized and flipped by Pillow, and become the batch."""

    def read_index(self, image_idx: int, step: int) -> Any:
        filename, _ = self.global_index_map[image_idx]
        with Image.open(filename) as image:
            box = _box(*image.size)
            pixels = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
        if random.random() < 0.5:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(pixels)


def _box(width: int, height: int) -> tuple[int, int, int, int]:
    """The part of an image that RandomResizedCrop takes; the whole, if none fits."""
    for _ in range(ATTEMPTS):
        area = width * height * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height
