"""The peers of benchmarks/read_peers.py that read Arrow tables, and SPDL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from read_data import Records
from read_decode import BATCH, SIZE, WORKERS, collated, decoder, random_box, torch_options
from read_timing import Epoch

Load = Callable[[np.ndarray], Any]
"""From the numbers of a batch's records to its images."""


def decoded(table: Any, decode: Callable[[Any], np.ndarray]) -> list[tuple[np.ndarray, int]]:
    """The samples of an Arrow table, each payload as the table holds it."""
    payloads = (payload.as_buffer() for payload in table["image"])
    return [(decode(payload), label) for payload, label in zip(payloads, table["label"].to_pylist(), strict=True)]


def datasets(task: str, dataset: str, written: str) -> Epoch:
    """Hugging Face datasets: Arrow tables, in PyTorch's loader with two workers, a random order of all records.

    A worker takes a batch at a time, in the format "arrow", which copies no payload to Python's objects.
    """
    from datasets import load_from_disk
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    decode = decoder(task, Records(dataset).shape)
    data = load_from_disk(written).with_format("arrow")
    order = BatchSampler(RandomSampler(data), BATCH, drop_last=False)

    def collate(table: Any) -> tuple[Any, Any]:
        return collated(decoded(table, decode))

    loader = DataLoader(data, sampler=order, batch_size=None, collate_fn=collate, **torch_options())
    return lambda: iter(loader)


def lancedb(task: str, dataset: str, written: str) -> Epoch:
    """LanceDB: its StreamingDataset, a random order of all records, decoded by two threads of its own.

    It draws the order of an epoch when it is made, so each epoch makes one, as its documentation says.
    """
    import lancedb as library
    from lancedb.streaming import StreamingDataset
    from torch.utils.data import DataLoader

    decode = decoder(task, Records(dataset).shape)
    table = library.connect(written).open_table("images")
    number = itertools.count()

    def epoch() -> Iterator[tuple[Any, Any]]:
        data = StreamingDataset(
            table,
            epoch=next(number),
            read_batch_size=BATCH,
            transform=lambda rows: decoded(rows, decode),
            transform_parallelism=WORKERS,
        )
        yield from DataLoader(data, batch_size=BATCH, collate_fn=collated)

    return epoch


def spdl_pipeline(written: str, load: Load) -> Epoch:
    """SPDL: its pipeline, in which two threads make a batch each, in a random order of all records."""
    from spdl.pipeline import PipelineBuilder

    labels = np.load(f"{written}/labels.npy")
    generator = np.random.default_rng(0)

    def batch(numbers: np.ndarray) -> tuple[Any, Any]:
        return load(numbers), labels[numbers]

    def epoch() -> Iterator[tuple[Any, Any]]:
        order = generator.permutation(len(labels))
        numbers = [order[begin : begin + BATCH] for begin in range(0, len(order), BATCH)]
        pipeline = PipelineBuilder().add_source(numbers).pipe(batch, concurrency=WORKERS).add_sink(3)
        with (made := pipeline.build(num_threads=WORKERS)).auto_stop():
            yield from made

    return epoch


def spdl(task: str, dataset: str, written: str) -> Epoch:
    """SPDL on files of JPEGs, with the decoder of the other peers in Python, or on a memory map of all pixels."""
    if task == "raw":
        images = np.load(f"{written}/images.npy", mmap_mode="r")
        return spdl_pipeline(written, lambda numbers: images[numbers])
    decode = decoder(task, (SIZE, SIZE, 3))

    def load(numbers: np.ndarray) -> Any:
        return np.stack([decode(jpeg(written, number).read_bytes()) for number in numbers])

    return spdl_pipeline(written, load)


def spdl_decoder(task: str, dataset: str, written: str) -> Epoch:
    """SPDL on files of JPEGs, decoded, cut and resized by its own FFmpeg."""
    from spdl import io

    sizes = [(record.height, record.width) for record in Records(dataset)]
    generator = np.random.default_rng(0)

    def filters(number: int) -> str:
        height, width = sizes[number]
        if task == "crop":
            return f"crop={SIZE}:{SIZE}:{(width - SIZE) // 2}:{(height - SIZE) // 2},format=rgb24"
        top, left, h, w = random_box(height, width, generator)
        flip = "hflip," if generator.random() < 0.5 else ""
        return f"crop={w}:{h}:{left}:{top},scale={SIZE}:{SIZE}:flags=bilinear,{flip}format=rgb24"

    def load(numbers: np.ndarray) -> Any:
        frames = [
            io.decode_packets(io.demux_image(str(jpeg(written, number))), filter_desc=filters(number))
            for number in numbers
        ]
        return io.to_numpy(io.convert_frames(frames))

    return spdl_pipeline(written, load)


def jpeg(written: str, number: int) -> Path:
    """The file of a record."""
    return Path(written) / f"{number:06d}.jpg"
