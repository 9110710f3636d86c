"""Memory of a training by the number of its epochs, for benchmarks/feed.py.

    python benchmarks/feed_memory.py LOOP DATASET [--epochs 20]

It prints JSON: RssAnon in MiB after the second epoch and after the last, and seconds. The model is small.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from feed_tables import MEMORY

BATCH = 64
CLASSES = 10
NAMES: dict[str, str] = {"inputs": "image", "targets": "label"}
Seen = Callable[[], None]


def rss_anon() -> float:
    """Memory of this process's own that is in RAM, in MiB: without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def stream(dataset: str) -> Any:
    """Small batches, so that there are many."""
    from shard_reader import open_dataset

    return open_dataset(dataset, split="train").stream(batch_size=BATCH, seed=0)


def fit(backend: str, source: str, dataset: str, epochs: int, seen: Seen) -> None:
    """`model.fit` on one of Keras' backends."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    batches = stream(dataset)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3, 2), keras.layers.GlobalAveragePooling2D()]
    shape = batches.specs["image"].shape
    model = keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(CLASSES)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data: tuple[Any, ...]
    if source == "dataset":
        from shard_reader.tf_data import as_dataset

        data = (as_dataset(batches, **NAMES),)
    elif source == "sequence":
        from shard_reader.keras import ShardSequence

        data = (ShardSequence(batches),)
    else:
        whole = batches.take(range(len(batches.data)))
        data = (whole["image"], whole["label"])
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen())
    model.fit(*data, batch_size=BATCH if source == "arrays" else None, epochs=epochs, verbose=0, callbacks=[callback])


def torch_loop(dataset: str, epochs: int, seen: Seen) -> None:
    """As people write it."""
    import torch
    from torch import nn

    from shard_reader.torch import StreamDataset

    batches = StreamDataset(stream(dataset), **NAMES)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(epochs):
        for images, labels, weight in batches:
            losses = nn.functional.cross_entropy(model(images / 255), labels, reduction="none")
            optimizer.zero_grad()
            ((losses * weight).sum() / weight.sum()).backward()
            optimizer.step()
        seen()


def jax_loop(dataset: str, epochs: int, seen: Seen) -> None:
    """A linear model."""
    import jax
    import jax.numpy as jnp

    from shard_reader.jax import GlobalBatches

    batches = GlobalBatches(stream(dataset), **NAMES)

    def loss(matrix: Any, images: Any, labels: Any, weight: Any) -> Any:
        logits = (images / 255).reshape(len(images), -1) @ matrix
        losses = -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
        return (losses * weight).sum() / weight.sum()

    @jax.jit
    def step(matrix: Any, *batch: Any) -> Any:
        return matrix - 0.01 * jax.grad(loss)(matrix, *batch)

    matrix = jnp.zeros((3 * 32 * 32, CLASSES))
    for _ in range(epochs):
        for batch in batches:
            matrix = step(matrix, *batch)
        matrix.block_until_ready()
        seen()


def main() -> None:
    """Run the loop that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loop", choices=MEMORY)
    parser.add_argument("dataset", help="ours, of raw images of 32x32")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    memory: list[float] = []
    began = time.perf_counter()
    framework, _, source = options.loop.partition("-")
    arguments = (options.dataset, options.epochs, lambda: memory.append(rss_anon()))
    if source == "loop":
        {"torch": torch_loop, "jax": jax_loop}[framework](*arguments)
    else:
        fit(framework, source, *arguments)
    seconds = time.perf_counter() - began
    print(json.dumps({"second": memory[1], "last": memory[-1], "most": max(memory[1:]), "seconds": seconds}))


if __name__ == "__main__":
    main()
