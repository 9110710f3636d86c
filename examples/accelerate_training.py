"""Trains a small network with Accelerate, and resumes where it was killed: a checkpoint has the position of the data.

    python examples/accelerate_training.py SHARDS CHECKPOINTS [--epochs 2] [--batch-size 32] [--save-every 5]

SHARDS was made by `image-shards prepare photos SHARDS --size 64x64`. With `accelerate launch`, or torchrun, each
process takes its share of every batch.
"""

import argparse
import os
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from shard_reader import Flip, open_dataset
from shard_reader.torch import StreamDataset, normalization


def main(shards: str, checkpoints: Path, epochs: int, batch_size: int, save_every: int) -> None:
    """Train to the end from the last checkpoint, if there is one, and print the loss of each step."""
    accelerator = Accelerator()
    data = open_dataset(shards, "train")
    stream = data.stream(batch_size=batch_size, seed=0, image=Flip())
    batches = StreamDataset(stream, inputs="image", targets="label", device=accelerator.device)

    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(data.class_names))]
    model = nn.Sequential(normalization(data), *convolutions, *head)
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), 1e-3))
    accelerator.register_for_checkpointing(batches)
    step = max((int(path.name) for path in checkpoints.glob("[0-9]*")), default=0)
    if step:
        accelerator.load_state(checkpoints / str(step))

    while step < epochs * len(batches):
        for images, labels, weight in batches:
            each = nn.functional.cross_entropy(model(images), labels, reduction="none")
            loss = (each * weight).mean()  # padding has weight 0
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            print(f"step {step}: loss {loss:.6f}", flush=True)
            if step % save_every == 0:
                accelerator.save_state(checkpoints / "new")
                accelerator.wait_for_everyone()
                if accelerator.is_main_process:
                    os.replace(checkpoints / "new", checkpoints / str(step))  # so that each that is there is whole
    accelerator.end_training()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--save-every", type=int, default=5, help="steps")
    main(**vars(parser.parse_args()))
