"""Segmentation from a folder of photos and masks: a small U-Net, in Keras or PyTorch, and its IoU.

    python examples/segmentation.py [PHOTOS] [--framework keras|torch] [--directory DIRECTORY] [--epochs 6]

Draws discs and squares on photos (on noise without PHOTOS), and a mask for each: 0 is the background, 1 a disc, 2 a
square. Prepares both with the command a user would type. One random crop moves a photo and its mask.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages of TensorFlow,
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nor the one about oneDNN

import numpy as np
from PIL import Image, ImageDraw

from shard_reader import CenterCrop, Flip, RandomResizedCrop, open_dataset

CLASSES = ("background", "disc", "square")
COLOURS = ((230, 60, 40), (40, 90, 230))
COUNT, SIDE, SIZE = 240, 96, 64


def main(photos: Path | None, directory: Path, framework: str, epochs: int) -> list[float]:
    """Run the whole way in `directory`; the IoU of each class on the "val" split."""
    folder, shards = directory / "photos", directory / "shards"
    draw(folder, sorted(photos.rglob("*.jpg")) if photos is not None else [])
    options = f"--size {SIDE}x{SIDE} --split train=0.8,val=0.2 --max-rejects 0"
    command = [sys.executable, "-m", "beam_jobs", "prepare", str(folder), str(shards), *options.split()]
    status = subprocess.run(command).returncode
    if status:
        sys.exit(status)  # the command has said why

    fields = ("image", "mask")
    augment = [RandomResizedCrop(SIZE, scale=(0.5, 1.0)), Flip()]
    train = open_dataset(shards, "train").stream(batch_size=16, fields=fields, image=augment, remainder="drop")
    val = open_dataset(shards, "val").stream(
        batch_size=16, fields=fields, image=CenterCrop(SIZE), shuffle="none", remainder="keep"
    )
    predict = (train_keras if framework == "keras" else train_torch)(train, epochs)
    pairs = [(predict(batch["image"]), batch["mask"]) for batch in val]
    found = iou(np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs]))
    print("\nIoU on the val split: " + ", ".join(f"{n} {v:.2f}" for n, v in zip(CLASSES, found, strict=True)))
    return found


def draw(folder: Path, photos: list[Path]) -> None:
    """Write FOLDER/images/N.jpg and FOLDER/masks/N.png."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        noise = rng.integers(60, 200, (4, 4, 3), np.uint8)
        image = Image.open(photos[number % len(photos)]).convert("RGB") if photos else Image.fromarray(noise)
        image, mask = image.resize((128, 112), Image.Resampling.BICUBIC), Image.new("L", (128, 112))
        for _ in range(rng.integers(1, 4)):
            kind, side = int(rng.integers(1, 3)), int(rng.integers(20, 48))
            left, top = int(rng.integers(0, 128 - side)), int(rng.integers(0, 112 - side))
            box = (left, top, left + side, top + side)
            for target, value in ((image, COLOURS[kind - 1]), (mask, kind)):
                pen = ImageDraw.Draw(target)
                (pen.ellipse if kind == 1 else pen.rectangle)(box, value)
        image.save(folder / f"images/{number:04d}.jpg", quality=92)
        mask.save(folder / f"masks/{number:04d}.png")


def iou(predicted: np.ndarray, masks: np.ndarray) -> list[float]:
    """The intersection over union of each class."""
    pairs = [(predicted == label, masks == label) for label in range(len(CLASSES))]
    return [float((one & other).sum() / max(1, (one | other).sum())) for one, other in pairs]


def train_keras(stream, epochs: int):
    """Train with Keras; a function from images to classes."""
    import keras
    from keras import layers

    from shard_reader.keras import ShardSequence

    keras.utils.set_random_seed(0)

    def block(x, channels):
        return layers.Conv2D(channels, 3, padding="same", activation="relu")(x)

    inputs = keras.Input((SIZE, SIZE, 3))
    first = block(layers.Rescaling(1 / 255)(inputs), 16)
    second = block(layers.MaxPooling2D()(first), 32)
    third = block(layers.MaxPooling2D()(second), 48)
    second = block(layers.Concatenate()([layers.UpSampling2D()(third), second]), 32)
    first = block(layers.Concatenate()([layers.UpSampling2D()(second), first]), 16)
    model = keras.Model(inputs, layers.Conv2D(len(CLASSES), 1)(first))
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(ShardSequence(stream, inputs="image", targets="mask", weight=None), epochs=epochs, verbose=2)
    return lambda images: np.argmax(model.predict(images, verbose=0), -1)


def train_torch(stream, epochs: int):
    """Train with PyTorch; a function from images to classes."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, interpolate, max_pool2d

    from shard_reader.torch import StreamDataset

    torch.manual_seed(0)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = ((3, 16), (16, 32), (32, 48), (80, 32), (48, 16))
            self.blocks = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in sizes)
            self.head = nn.Conv2d(16, len(CLASSES), 1)

        def forward(self, images):
            down = [torch.relu(self.blocks[0](images.float() / 255))]
            down += [torch.relu(self.blocks[1](max_pool2d(down[0], 2)))]
            x = torch.relu(self.blocks[2](max_pool2d(down[1], 2)))
            for block, skipped in zip(self.blocks[3:], reversed(down), strict=True):
                x = torch.relu(block(torch.cat([interpolate(x, scale_factor=2.0), skipped], 1)))
            return self.head(x)

    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(epochs):
        losses = []
        for images, masks in StreamDataset(stream, inputs="image", targets="mask", weight=None):
            loss = cross_entropy(model(images), masks.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}")
    model.eval()

    @torch.no_grad()
    def predict(images: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(images.copy()).permute(0, 3, 1, 2)).argmax(1).numpy()

    return predict


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="?", type=Path)
    parser.add_argument("--framework", choices=("keras", "torch"), default="keras")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    where = given.directory or Path(tempfile.mkdtemp(prefix="image-shards-segmentation-"))
    main(given.photos, where, given.framework, given.epochs)
