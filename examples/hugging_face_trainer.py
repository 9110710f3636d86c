"""Trains a small network with Hugging Face's Trainer, and resumes where it was killed, with the batches that follow.

    python examples/hugging_face_trainer.py SHARDS CHECKPOINTS [--epochs 2] [--batch-size 32] [--save-every 5]

SHARDS was made by `image-shards prepare photos SHARDS --size 64x64`. With torchrun, each process takes its share of
every batch.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from shard_reader import Flip, open_dataset
from shard_reader.torch import StreamDataset, normalization


class Classifier(nn.Module):
    """Two convolutions and a classifier of images `[n, 3, height, width]`, uint8."""

    def __init__(self, normalize: nn.Module, classes: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)]
        self.network = nn.Sequential(normalize, *convolutions, *head)

    def forward(self, image: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(image)
        each = nn.functional.cross_entropy(logits, label, reduction="none")
        return {"loss": (each * weight).mean(), "logits": logits}  # padding has weight 0


class StreamTrainer(Trainer):
    """A Trainer of a StreamDataset. Batches are those of the stream, whatever `per_device_train_batch_size` is."""

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_size=None)


class Losses(TrainerCallback):
    """Prints the loss of each step."""

    def on_log(self, args, state, control, logs, **others) -> None:
        if "loss" in logs:
            print(f"step {state.global_step}: loss {float(logs['loss']):.6f}", flush=True)


def main(shards: str, checkpoints: str, epochs: int, batch_size: int, save_every: int) -> None:
    """Train to the end from the last checkpoint, if there is one, and print the loss of each step."""
    data = open_dataset(shards, "train")
    stream = data.stream(batch_size=batch_size, seed=0, image=Flip(), fields=("image", "label"))
    torch.manual_seed(0)
    arguments = TrainingArguments(
        checkpoints,
        num_train_epochs=epochs,
        save_steps=save_every,
        logging_steps=1,
        learning_rate=1e-3,
        disable_tqdm=True,
        report_to=[],
    )
    model = Classifier(normalization(data), len(data.class_names))
    trainer = StreamTrainer(model, arguments, train_dataset=StreamDataset(stream), callbacks=[Losses()])
    Path(checkpoints).mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(checkpoints))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("checkpoints")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--save-every", type=int, default=5, help="steps")
    main(**vars(parser.parse_args()))
