"""Trains a network of timm with its transforms, and resumes where it was killed, in the middle of an epoch.

    python examples/timm_training.py SHARDS CHECKPOINTS [--epochs 2] [--batch-size 32] [--save-every 5]

SHARDS was made by `image-shards prepare photos SHARDS --size 64x64`. With torchrun, each process takes its share of
every batch.
"""

import argparse
import os
from pathlib import Path

import torch
from timm import create_model
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils.distributed import init_distributed_device_so
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from shard_reader import open_dataset
from shard_reader.torch import StreamDataset


def main(shards: str, checkpoints: Path, epochs: int, batch_size: int, save_every: int, model: str) -> None:
    """Train to the end from the last checkpoint, if there is one, and print the loss of each step."""
    place = init_distributed_device_so("cuda" if torch.cuda.is_available() else "cpu")
    data = open_dataset(shards, "train")
    augment = create_transform((3, 64, 64), is_training=True, auto_augment="rand-m5", re_prob=0.2)
    stream = data.stream(batch_size=batch_size, seed=0, image=augment)  # worker processes, since it draws globally
    batches = StreamDataset(stream, inputs="image", targets="label", device=place["device"])

    torch.manual_seed(0)
    network = create_model(model, num_classes=len(data.class_names)).to(place["device"])
    optimizer = create_optimizer_v2(network, "adamw", lr=1e-3)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=epochs, updates_per_epoch=len(batches))
    trained = DistributedDataParallel(network) if place["distributed"] else network
    file, step = checkpoints / "last.pth.tar", 0
    if file.exists():
        saved = torch.load(file, map_location=place["device"])
        network.load_state_dict(saved["state_dict"])
        optimizer.load_state_dict(saved["optimizer"])
        batches.load_state_dict(saved["position"])
        step = saved["step"]

    for epoch in range(step // len(batches), epochs):
        scheduler.step(epoch)
        for images, labels, weight in batches:
            each = nn.functional.cross_entropy(trained(images), labels, reduction="none")
            loss = (each * weight).mean()  # padding has weight 0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            print(f"step {step}: loss {loss:.6f}", flush=True)
            if step % save_every == 0 and place["global_rank"] == 0:
                states = {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                checkpoints.mkdir(parents=True, exist_ok=True)
                torch.save(states | {"position": batches.state_dict()}, checkpoints / "new")
                os.replace(checkpoints / "new", file)
    stream.close()
    if place["distributed"]:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--save-every", type=int, default=5, help="steps")
    parser.add_argument("--model", default="test_resnet", help="a model of timm")
    main(**vars(parser.parse_args()))
