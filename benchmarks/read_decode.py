"""What the peers of benchmarks/read.py that leave it to Python decode and collate with, and the sizes of all peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

BATCH = 256
SIZE = 224
WORKERS = 2
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
PYTHON = ("torch", "numpy", "simplejpeg", "opencv-python-headless")


def decoder(task: str, shape: tuple[int, int, int]) -> Callable[[Any], np.ndarray]:
    """From a payload to an image, for peers that leave it to Python: simplejpeg and OpenCV, which are faster than the
    peers' own Pillow."""
    if task == "raw":
        return lambda payload: np.frombuffer(payload, np.uint8).reshape(shape)
    import cv2
    import simplejpeg

    cv2.setNumThreads(0)
    generator = np.random.default_rng()

    def crop(payload: Any) -> np.ndarray:
        image = simplejpeg.decode_jpeg(payload, "RGB")
        top, left = (image.shape[0] - SIZE) // 2, (image.shape[1] - SIZE) // 2
        return image[top : top + SIZE, left : left + SIZE]

    def random_resized_crop(payload: Any) -> np.ndarray:
        image = simplejpeg.decode_jpeg(payload, "RGB")
        top, left, height, width = random_box(*image.shape[:2], generator)
        image = cv2.resize(image[top : top + height, left : left + width], (SIZE, SIZE))
        return image[:, ::-1] if generator.random() < 0.5 else image

    return crop if task == "crop" else random_resized_crop


def tensorflow_crop(jpeg: Any, **method: Any) -> Any:
    """A random crop of a JPEG, mirrored or not, uint8 `[SIZE, SIZE, 3]`, in TensorFlow, which decodes only the crop."""
    import tensorflow as tf

    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(jpeg),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        area_range=SCALE,
        aspect_ratio_range=RATIO,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.stack([begin[0], begin[1], size[0], size[1]])
    image = tf.io.decode_and_crop_jpeg(jpeg, window, channels=3, **method)
    return tf.image.random_flip_left_right(tf.cast(tf.image.resize(image, (SIZE, SIZE)), tf.uint8))


def random_box(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop, drawn as torchvision does; the middle, if ten draws do not fit."""
    for _ in range(10):
        area = height * width * generator.uniform(*SCALE)
        ratio = np.exp(generator.uniform(*np.log(RATIO)))
        h, w = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return generator.integers(height - h + 1), generator.integers(width - w + 1), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def collated(samples: list[tuple[np.ndarray, int]]) -> tuple[Any, Any]:
    """A batch of PyTorch's tensors."""
    import torch

    images, labels = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def torch_options() -> dict[str, Any]:
    """Of PyTorch's DataLoader, for all that use it."""
    return {"num_workers": WORKERS, "persistent_workers": True, "prefetch_factor": 4}
