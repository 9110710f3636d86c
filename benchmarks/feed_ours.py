"""This project's adapters in benchmarks/feed.py, each with its framework, and the bare stream below them.

    python benchmarks/feed_ours.py READER {crop,long,rrc,raw} DATASET WRITTEN [--seconds 3] [--window]

It prints JSON: images/s, seconds of CPU for an image, and versions. A batch has arrived when its tensors are there: a
pixel of it is read, or JAX is asked to wait for it. Two threads make batches.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from feed_timing import LONG, measure
from read_ours import BATCH, PACKAGES, SIZE, THREADS, transforms
from read_timing import Epoch, Reader

JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
SHEAR, ZOOM = 0.2, 0.2
NAMES: dict[str, str] = {"inputs": "image", "targets": "label"}


def stream(task: str, dataset: str, image: Any = None, balance: str = "") -> Any:
    """Batches of NumPy arrays, shuffled over all records; of the task's images, or by other transforms."""
    from shard_reader import open_dataset

    data: Any = open_dataset(dataset, split="train")
    if balance == "weighted":
        data = data.weighted(np.linspace(0.1, 2, len(data)))
    elif balance:
        data = data.balanced("label", power=0.5, stratified=balance == "stratified")
    if task == "long":
        data, task = data.select(np.tile(np.arange(len(data)), LONG)), "crop"
    image = transforms(task) if image is None else image
    return data.stream(batch_size=BATCH, shuffle="full", seed=0, threads=THREADS, prefetch=2, image=image)


def arrived(batches: Any) -> Iterator[tuple[Any, Any]]:
    """Images and labels of each batch, a pixel of which was read through the tensor's own memory, uncopied."""
    for images, labels, *_ in batches:
        np.asarray(images)[-1, -1, -1, -1]
        yield images, labels


def bare(task: str, dataset: str, written: str) -> Epoch:
    """The stream itself."""
    batches = stream(task, dataset)
    return lambda: arrived((batch["image"], batch["label"]) for batch in batches)


def balanced(task: str, dataset: str, written: str, balance: str) -> Epoch:
    """The stream of a balanced or weighted dataset."""
    batches = stream(task, dataset, balance=balance)
    return lambda: arrived((batch["image"], batch["label"]) for batch in batches)


def tensorflow(task: str, dataset: str, written: str) -> Epoch:
    """`as_dataset` in a custom loop."""
    from shard_reader.tf_data import as_dataset

    batches = as_dataset(stream(task, dataset), **NAMES)
    return lambda: arrived(batches)


def keras(task: str, dataset: str, written: str) -> Epoch:
    """`ShardSequence` as `fit` takes it on TensorFlow, which has no public way to be asked for batches alone."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from shard_reader.keras import ShardSequence

    return as_fit_takes(ShardSequence(stream(task, dataset)))


def as_fit_takes(sequence: Any) -> Epoch:
    """The batches of a Keras `PyDataset` as `fit` on TensorFlow takes them."""
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    adapter = PyDatasetAdapter(sequence)
    batches = adapter.get_tf_dataset()

    def epoch() -> Iterator[tuple[Any, Any]]:
        adapter.on_epoch_begin()
        yield from arrived(batches)
        adapter.on_epoch_end()

    return epoch


def torch(task: str, dataset: str, written: str) -> Epoch:
    """`StreamDataset`, looped over as it is."""
    from shard_reader.torch import StreamDataset

    batches = StreamDataset(stream(task, dataset), **NAMES)
    return lambda: arrived(batches)


def augmentations() -> list[Any]:
    """torchvision's transforms of a training, from the pixels of an image to float32."""
    import torch
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    return [*crop, v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]


def torchvision_workers(task: str, dataset: str, written: str) -> Epoch:
    """`StreamDataset` of a stream with torchvision's transforms, which run in two worker processes."""
    from torchvision.transforms import v2

    from shard_reader import open_dataset
    from shard_reader.torch import StreamDataset

    data = open_dataset(dataset, split="train")
    stream = data.stream(batch_size=BATCH, seed=0, threads=THREADS, image=v2.Compose(augmentations()))
    batches = StreamDataset(stream, **NAMES)
    return lambda: arrived(batches)


def augmented(task: str, dataset: str, written: str) -> Epoch:
    """`StreamDataset` with this project's augmentations, in two threads."""
    from shard_reader import Flip, RandomResizedCrop
    from shard_reader.torch import StreamDataset
    from shard_reader.transforms import ColorJitter, RandAugment

    image = [RandomResizedCrop(SIZE), Flip(), ColorJitter(*JITTER), RandAugment()]
    batches = StreamDataset(stream(task, dataset, image), **NAMES)
    return lambda: arrived(batches)


def colour_augmentations() -> list[Any]:
    """torchvision's transforms of the same names, from the pixels of an image to uint8."""
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    return [*crop, v2.ColorJitter(*JITTER), v2.RandAugment()]


def augmented_workers(task: str, dataset: str, written: str) -> Epoch:
    """`StreamDataset` of a stream with torchvision's augmentations, which run in two worker processes."""
    from torchvision.transforms import v2

    from shard_reader.torch import StreamDataset

    batches = StreamDataset(stream(task, dataset, v2.Compose(colour_augmentations())), **NAMES)
    return lambda: arrived(batches)


def sheared(task: str, dataset: str, written: str) -> Epoch:
    """`as_dataset` of a stream with this project's shear and zoom, in two threads."""
    from shard_reader import CenterCrop
    from shard_reader.tf_data import as_dataset
    from shard_reader.transforms import RandomAffine

    middle = [] if task == "raw" else [CenterCrop(SIZE)]
    degrees = math.degrees(math.atan(SHEAR))
    affine = RandomAffine(0, scale=(1 - ZOOM, 1 + ZOOM), shear=(-degrees, degrees, 0, 0), interpolation="bilinear")
    batches = as_dataset(stream(task, dataset, [*middle, affine]), **NAMES)
    return lambda: arrived(batches)


def keras_sheared(task: str, dataset: str, written: str) -> Epoch:
    """The same images without an augmentation, then Keras' layers for shear and zoom as a function of TensorFlow's."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf
    from keras import Sequential, layers

    from shard_reader.tf_data import as_dataset

    batches = as_dataset(stream(task, dataset), **NAMES)
    augment = Sequential(
        [layers.RandomShear(SHEAR, fill_mode="constant"), layers.RandomZoom(ZOOM, fill_mode="constant")]
    )
    augmented = tf.function(lambda images: augment(tf.cast(images, tf.float32), training=True))
    return lambda: arrived((augmented(images), labels) for images, labels, _ in batches)


def jax(task: str, dataset: str, written: str) -> Epoch:
    """`GlobalBatches`, on one device."""
    from shard_reader.jax import GlobalBatches

    batches = GlobalBatches(stream(task, dataset), **NAMES)
    return lambda: ready(batches)


def ready(batches: Any) -> Iterator[tuple[Any, Any]]:
    """Images and labels of each batch that JAX has."""
    import jax

    for images, labels, *_ in batches:
        jax.block_until_ready((images, labels))
        yield images, labels


def keras_layers(backend: str) -> Any:
    """Keras' RandomFlip and RandomZoom, with numbers for each image."""
    os.environ["KERAS_BACKEND"] = backend
    from keras import Sequential, layers

    augment = Sequential([layers.RandomFlip("horizontal"), layers.RandomZoom((-0.3, 0.0))])
    augment.build((BATCH, SIZE, SIZE, 3))
    return augment


def keras_layers_tensorflow(task: str, dataset: str, written: str) -> Epoch:
    """The middles of images, then Keras' layers as a function of TensorFlow's."""
    augment = keras_layers("tensorflow")
    import tensorflow as tf

    from shard_reader.tf_data import as_dataset

    augmented = tf.function(lambda images: augment(tf.cast(images, tf.float32), training=True))
    batches = as_dataset(stream("crop", dataset), **NAMES)
    return lambda: arrived((augmented(images), labels) for images, labels, _ in batches)


def keras_layers_jax(task: str, dataset: str, written: str) -> Epoch:
    """The middles of images, then Keras' layers as JAX compiles them."""
    augment = keras_layers("jax")
    import jax

    from shard_reader.jax import GlobalBatches

    batches = GlobalBatches(stream("crop", dataset), **NAMES)
    values = [variable.value for variable in augment.non_trainable_variables]

    @jax.jit
    def augmented(values: Any, images: Any) -> Any:
        return augment.stateless_call([], values, images.astype("float32"), training=True)

    def epoch() -> Iterator[tuple[Any, Any]]:
        nonlocal values
        for images, labels, _ in batches:
            images, values = augmented(values, images)
            yield images, labels

    return lambda: ready(epoch())


def torchvision_batch(task: str, dataset: str, written: str) -> Epoch:
    """The middles of images, then torchvision's own augmentation: one draw for all images of a batch."""
    from torchvision.transforms import v2

    return torchvision(dataset, v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]))


def torchvision_images(task: str, dataset: str, written: str) -> Epoch:
    """The same for one image after the other: draws for each."""
    from torchvision.transforms import v2

    augment = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    return torchvision(dataset, lambda images: stacked([augment(image) for image in images]))


def stacked(images: list[Any]) -> Any:
    """A batch."""
    import torch

    return torch.stack(images)


def torchvision(dataset: str, augment: Callable[[Any], Any]) -> Epoch:
    """The middles of images, then a transform on the GPU where there is one."""
    import torch

    from shard_reader.torch import StreamDataset

    device = "cuda" if torch.cuda.is_available() else None
    batches = StreamDataset(stream("crop", dataset), **NAMES, device=device)

    def epoch() -> Iterator[tuple[Any, Any]]:
        for images, labels, _ in batches:
            images = augment(images)
            images[-1, -1, -1, -1].item()
            yield images, labels

    return epoch


TENSORFLOW, KERAS = ("tensorflow", "tensorflow-cpu"), ("keras",)
TORCH, JAX = ("torch",), ("jax",)


def adapter(epochs: Any, *packages: str) -> Reader:
    """An adapter of this project, with the packages that it needs beside NumPy."""
    return Reader(epochs, (*PACKAGES, *packages))


READERS = {
    "stream": adapter(bare),
    "stream-balanced": adapter(partial(balanced, balance="balanced")),
    "stream-stratified": adapter(partial(balanced, balance="stratified")),
    "stream-weighted": adapter(partial(balanced, balance="weighted")),
    "tensorflow": adapter(tensorflow, *TENSORFLOW),
    "keras": adapter(keras, *TENSORFLOW, *KERAS),
    "torch": adapter(torch, *TORCH),
    "jax": adapter(jax, *JAX),
    "keras-layers-tensorflow": adapter(keras_layers_tensorflow, *KERAS, *TENSORFLOW),
    "keras-layers-jax": adapter(keras_layers_jax, *KERAS, *JAX),
    "torchvision-workers": adapter(torchvision_workers, *TORCH, "torchvision"),
    "augmented": adapter(augmented, *TORCH),
    "augmented-workers": adapter(augmented_workers, *TORCH, "torchvision"),
    "sheared": adapter(sheared, *TENSORFLOW),
    "keras-sheared": adapter(keras_sheared, *TENSORFLOW, *KERAS),
    "torchvision-batch": adapter(torchvision_batch, *TORCH, "torchvision"),
    "torchvision-images": adapter(torchvision_images, *TORCH, "torchvision"),
}

if __name__ == "__main__":
    measure(__doc__, READERS)
