"""Transforms for streams with worker processes, which a process that was not forked can import; and those processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader import CenterCrop, Draws, Flip, RandomResizedCrop, Stream, Transform
from shard_reader.transforms.libraries.generators import seeded

__all__ = [
    "TRANSFORMS",
    "Breaks",
    "Kills",
    "Noise",
    "Torchvision",
    "dark",
    "memory_of",
    "processes",
    "says_its_process",
    "shared_files",
]


@dataclass(frozen=True)
class Noise(Transform):
    """A transform of a user's, with draws of its own."""

    in_place = True
    keeps_image = False
    keeps_places = True

    def __call__(self, image: NDArray[Any], draws: Draws, out: NDArray[Any] | None = None) -> NDArray[Any]:
        noise = draws.generator().integers(0, 9, image.shape, np.uint8)
        return image // 2 + noise


@dataclass(frozen=True)
class Torchvision(Transform):
    """torchvision's transforms, with the global generators seeded: float32."""

    keeps_image = False

    def __call__(self, image: NDArray[Any], draws: Draws, out: NDArray[Any] | None = None) -> NDArray[Any]:
        import torch
        from torchvision.transforms import v2

        steps = [v2.RandomResizedCrop(12, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.5)]
        pipeline = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])
        with seeded(draws):
            made: NDArray[Any] = pipeline(torch.from_numpy(image.copy()).permute(2, 0, 1)).permute(1, 2, 0).numpy()
        return made


def dark(image: NDArray[Any]) -> NDArray[Any]:
    """A plain function."""
    return image // 3


dark.keeps_places = True  # type: ignore[attr-defined]


def says_its_process(image: NDArray[Any]) -> NDArray[Any]:
    """The number of the process that made the image, in place of it."""
    return np.full((2, 2, 2), os.getpid(), np.int64)


@dataclass(frozen=True)
class Breaks(Transform):
    """Fails on some images, by the sum of their pixels: with an error of one's own, or with one that images are."""

    every: int = 20
    kind: str = "KeyError"

    keeps_places = True
    in_place = True

    def __call__(self, image: NDArray[Any], draws: Draws, out: NDArray[Any] | None = None) -> NDArray[Any]:
        if int(image.sum()) % self.every == 0:
            raise {"KeyError": KeyError("no such thing"), "ValueError": ValueError("is too dark"), "own": _Own(1, 2)}[
                self.kind
            ]
        return image


class _Own(Exception):
    """An error that cannot be pickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


@dataclass(frozen=True)
class Kills(Transform):
    """Ends the process that calls it, unless it is the one that made it."""

    maker: int
    how: str = "SIGKILL"
    keeps_places = True
    in_place = True

    def __call__(self, image: NDArray[Any], draws: Draws, out: NDArray[Any] | None = None) -> NDArray[Any]:
        if os.getpid() != self.maker:
            if self.how == "exit":
                os._exit(3)
            os.kill(os.getpid(), getattr(signal, self.how))
            time.sleep(100)
        return image


TRANSFORMS: dict[str, Any] = {
    "function": [CenterCrop(14), dark],
    "own": [RandomResizedCrop(14), Flip()],
    "class": [CenterCrop(14), Noise()],
    "torchvision": Torchvision(),
}


def processes(stream: Stream) -> list[int]:
    """The numbers of a stream's worker processes."""
    pool = stream._pool
    return [] if pool is None else [int(worker.process.pid or 0) for worker in pool._workers]


def shared_files(stream: Stream, name: str = "image") -> list[int]:
    """The files of the memory that a stream shares with its processes, for `memory_of`; to be closed."""
    pool: Any = stream._pool
    return [os.dup(worker.buffers[name]._file.descriptor) for worker in pool._workers]


def memory_of(files: list[int]) -> int:
    """The bytes of memory that files in memory take."""
    return sum(os.fstat(file).st_blocks * 512 for file in files)
