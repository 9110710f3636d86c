"""Trains a small network with Lightning, and resumes where it was killed: Lightning saves the position of the data.

    python examples/lightning_training.py SHARDS CHECKPOINTS [--epochs 2] [--batch-size 32] [--save-every 5]

SHARDS was made by `image-shards prepare photos SHARDS --size 64x64`. With torchrun, each process takes its share of
every batch.
"""

import argparse
import os

import torch
from torch import nn

try:
    import lightning
except ImportError:
    import pytorch_lightning as lightning

from shard_reader import Flip, open_dataset
from shard_reader.torch import StreamDataset, normalization


class Photos(lightning.LightningDataModule):
    """The batches of the split "train". A StreamDataset is the loader itself: it has the position that is saved."""

    def __init__(self, shards: str, batch_size: int) -> None:
        super().__init__()
        self.data, self.batch_size = open_dataset(shards, "train"), batch_size

    def train_dataloader(self) -> StreamDataset:
        stream = self.data.stream(batch_size=self.batch_size, seed=0, image=Flip())
        return StreamDataset(stream, inputs="image", targets="label")


class Classifier(lightning.LightningModule):
    """Two convolutions and a classifier of images `[n, 3, height, width]`, uint8."""

    def __init__(self, normalize: nn.Module, classes: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)]
        self.network = nn.Sequential(normalize, *convolutions, *head)

    def training_step(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        images, labels, weight = batch
        each = nn.functional.cross_entropy(self.network(images), labels, reduction="none")
        loss = (each * weight).mean()  # padding has weight 0
        print(f"step {self.global_step + 1}: loss {loss:.6f}", flush=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def main(shards: str, checkpoints: str, epochs: int, batch_size: int, save_every: int) -> None:
    """Train to the end from the last checkpoint, if there is one, and print the loss of each step."""
    torch.manual_seed(0)
    photos = Photos(shards, batch_size)
    model = Classifier(normalization(photos.data), len(photos.data.class_names))
    saves = lightning.pytorch.callbacks if hasattr(lightning, "pytorch") else lightning.callbacks
    trainer = lightning.Trainer(
        max_epochs=epochs,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        callbacks=[saves.ModelCheckpoint(checkpoints, every_n_train_steps=save_every, save_last=True)],
        logger=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, photos, ckpt_path="last")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("checkpoints")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--save-every", type=int, default=5, help="steps")
    main(**vars(parser.parse_args()))
