"""Arrays of a batch as PyTorch's tensors, on the CPU or on their way to a GPU."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shard_reader.stream.stream import Stream

__all__ = ["Copies", "image_names", "of_record", "tensors"]

_OPENCV = ("uint8", "uint16", "int16", "float16", "float32", "float64")
"""The types of pixels that OpenCV copies."""


class Copies:
    """Copies to a GPU, on a CUDA stream of their own.

    Args:
        device: the GPU.
        images: the names of the arrays that are images.
        memory_format: the memory format of images.
    """

    def __init__(self, device: torch.device, images: frozenset[str], memory_format: torch.memory_format) -> None:
        self._device, self._copies = device, torch.cuda.Stream(device)
        self._images, self._memory_format = images, memory_format

    def send(self, arrays: dict[str, NDArray[Any]]) -> tuple[dict[str, Any], torch.cuda.Event]:
        """Begin to copy; the tensors, and the event of their arrival."""
        with torch.cuda.stream(self._copies):
            sent = tensors(arrays, self._device, self._images, self._memory_format)
            return sent, self._copies.record_event()

    def receive(self, tensors: dict[str, Any], copied: torch.cuda.Event) -> dict[str, Any]:
        """The tensors, for this thread's next work on the GPU, which waits for the copies."""
        using = torch.cuda.current_stream(self._device)
        using.wait_event(copied)
        for tensor in tensors.values():
            if isinstance(tensor, torch.Tensor):
                # Otherwise its memory could go to the next copy while the GPU still computes with it.
                tensor.record_stream(using)
        return tensors


def tensors(
    arrays: dict[str, NDArray[Any]],
    device: torch.device | None,
    images: frozenset[str],
    memory_format: torch.memory_format = torch.channels_last,
) -> dict[str, Any]:
    """Arrays as tensors, and images with the channels first.

    They share the memory of the arrays where they stay on the CPU, but for images that are not `channels_last`.
    """
    return {name: _tensor(array, device, memory_format if name in images else None) for name, array in arrays.items()}


def _tensor(array: NDArray[Any], device: torch.device | None, memory_format: torch.memory_format | None) -> Any:
    if array.dtype == object:
        return array
    order = memory_format if array.ndim == 4 else None  # of an image
    if order == torch.contiguous_format and (device is None or device.type == "cpu"):
        return torch.from_numpy(_channels_first(array))
    tensor = torch.from_numpy(array)
    if device is not None and device.type == "cuda":
        # Pinned memory need not be kept until the copy is done: PyTorch does not use it again before that.
        tensor = tensor.pin_memory(device)
    if device is not None:
        tensor = tensor.to(device, non_blocking=True)
    if order is None:
        return tensor
    # On the device, where it costs nothing beside the copy to it.
    return tensor.permute(0, 3, 1, 2).contiguous(memory_format=order)


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """Images `[n, height, width, channels]` as a copy `[n, channels, height, width]`."""
    count, height, width, channels = images.shape
    found = np.empty((count, channels, height, width), images.dtype)
    try:
        # A quarter of the time of PyTorch's and NumPy's own copies.
        cv2 = importlib.import_module("cv2") if images.dtype in _OPENCV else None
    except ImportError:
        cv2 = None
    if cv2 is None:
        found[...] = images.transpose(0, 3, 1, 2)
        return found
    for image, planes in zip(images, found, strict=True):
        cv2.split(image, list(planes))
    return found


def of_record(batch: Any, place: int) -> Any:
    """One record of a batch, or of a structure of batches."""
    if isinstance(batch, dict):
        return {name: of_record(part, place) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(of_record(part, place) for part in batch)
    return batch[place]


def image_names(stream: Stream) -> frozenset[str]:
    """The names of the arrays of a batch that are images: of them, masks are `[n, height, width]` and stay so."""
    return frozenset(name for name in stream.fields if stream.data.fields[name].is_image)
