"""Fine-tunes a pretrained network on shards, and resumes where it was killed.

    python examples/finetune_keras.py SHARDS [--epochs 3] [--weights none] [--checkpoint DIRECTORY]

SHARDS was made by `image-shards prepare photos SHARDS --size 256 --split train=0.9,val=0.1`. `--weights none` is for
machines that cannot download weights. The network is then random, and the accuracy means little.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages of TensorFlow

import keras
import numpy as np

from shard_reader import CenterCrop, Flip, RandomResizedCrop, open_dataset
from shard_reader.keras import ResumeCallback, ShardSequence

SIZE = 224


def main(shards: str, epochs: int, weights: str | None, checkpoint: str) -> float:
    """Train a new head on a frozen network; the accuracy on the "val" split."""
    train_data, val_data = open_dataset(shards, "train"), open_dataset(shards, "val")
    augment = [RandomResizedCrop(SIZE), Flip()]
    train = ShardSequence(train_data.stream(batch_size=32, seed=0, image=augment))
    val = ShardSequence(val_data.stream(batch_size=32, shuffle="none", image=CenterCrop(SIZE)))

    model = pretrained(len(train_data.class_names), weights)
    resume = ResumeCallback(train, checkpoint, save_freq=50)
    counts = np.bincount(train_data.column("label"), minlength=len(train_data.class_names))
    balanced = {label: len(train_data) / (len(counts) * count) for label, count in enumerate(counts.tolist()) if count}
    begun = {"initial_epoch": resume.initial_epoch, "callbacks": [resume]}
    model.fit(train, validation_data=val, class_weight=balanced, epochs=epochs, verbose=2, **begun)
    _, accuracy = model.evaluate(val, verbose=0)
    print(f"accuracy on {len(val_data)} images of the val split: {accuracy:.1%}")
    return accuracy


def pretrained(classes: int, weights: str | None) -> keras.Model:
    """A frozen MobileNetV2 with a new head."""
    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), include_top=False, weights=weights)
    base.trainable = False
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),  # the range that MobileNetV2 was trained on
            base,
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, weighted_metrics=["accuracy"])
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--checkpoint", default="checkpoint")
    found = parser.parse_args()
    main(found.shards, found.epochs, None if found.weights == "none" else found.weights, found.checkpoint)
