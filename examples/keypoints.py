"""Keypoints from a COCO file: a small network finds the nose, the tail and both fins of a drawn fish.

    python examples/keypoints.py [DIRECTORY] [--epochs 12]

Draws fish in any direction, and writes their keypoints as COCO does. One random crop moves the photo and its keypoints,
and a mirrored fish has its left fin where the right one was. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from shard_reader import CenterCrop, Flip, RandomResizedCrop, open_dataset
from shard_reader.torch import StreamDataset

NAMES = ("nose", "tail", "left_fin", "right_fin")
COUNT, SIDE, SIZE = 400, 96, 64


def main(directory: Path, epochs: int) -> float:
    """Run the whole way in `directory`; the mean distance to the keypoints of the "val" split, in pixels."""
    draw(directory / "fish")
    options = f"--root {directory / 'fish'} --size {SIDE}x{SIDE} --split train=0.8,val=0.2 --max-rejects 0"
    words = ["prepare", str(directory / "fish/keypoints.json"), str(directory / "shards"), *options.split()]
    status = subprocess.run([sys.executable, "-m", "beam_jobs", *words]).returncode
    if status:
        sys.exit(status)  # the command has said why

    fields = ("image", "objects/keypoints")
    augment = [RandomResizedCrop(SIZE, scale=(0.6, 1.0)), Flip()]
    train, val = (open_dataset(directory / "shards", name) for name in ("train", "val"))
    batches = StreamDataset(train.stream(batch_size=32, fields=fields, image=augment, remainder="drop"))
    torch.manual_seed(0)
    model = nn.Sequential(
        *(layer for pair in ((3, 16), (16, 32), (32, 64)) for layer in block(*pair)),
        nn.Flatten(),
        nn.Linear(64 * (SIZE // 8) ** 2, 2 * len(NAMES)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for epoch in range(epochs):
        distances = [step(model, batch, optimizer) for batch in batches]
        print(f"epoch {epoch + 1}: {np.mean(distances) * SIZE:.1f} pixels")
    model.eval()
    stream = val.stream(batch_size=32, fields=fields, image=CenterCrop(SIZE), shuffle="none", remainder="keep")
    found = float(np.mean([step(model, batch) for batch in StreamDataset(stream)])) * SIZE
    print(f"\nmean distance on the val split: {found:.1f} pixels of {SIZE}")
    return found


def block(before: int, after: int):
    """A convolution that halves the sides."""
    return nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)


def step(model, batch, optimizer=None) -> float:
    """Learn from a batch, if there is an optimizer; the mean distance to the keypoints, as a part of the image."""
    keypoints = torch.from_numpy(np.stack([fish[0] for fish in batch["objects/keypoints"]]))
    places, seen = keypoints[..., :2], ((keypoints[..., :2] >= 0) & (keypoints[..., :2] <= 1)).all(-1)
    with torch.set_grad_enabled(optimizer is not None):
        found = model(batch["image"].float() / 255).reshape(-1, len(NAMES), 2)
        distances = (found - places).norm(dim=-1)[seen]  # a crop may have cut one off
        if optimizer is not None:
            optimizer.zero_grad()
            distances.mean().backward()
            optimizer.step()
    return distances.mean().item()


def draw(folder: Path) -> None:
    """Write FOLDER/N.png, and FOLDER/keypoints.json with the keypoints of each fish."""
    rng, images, annotations = np.random.default_rng(0), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        noise = Image.fromarray(rng.integers(80, 160, (6, 6, 3), np.uint8)).resize((SIDE, SIDE))
        centre, angle = rng.uniform(38, 58, 2), rng.uniform(0, 2 * np.pi)
        ahead, aside = (np.array([np.cos(turn), np.sin(turn)]) for turn in (angle, angle + np.pi / 2))
        nose, tail = centre + 26 * ahead, centre - 26 * ahead
        left, right = centre - 14 * aside, centre + 14 * aside
        pen = ImageDraw.Draw(noise)
        pen.polygon([tuple(point) for point in (nose, right, tail, left)], fill=(240, 200, 60))
        for point, colour in ((nose, "black"), (left, "red"), (right, "blue")):
            pen.ellipse((*(point - 4), *(point + 4)), colour)
        noise.save(folder / f"{number}.png")
        points = [nose, tail, left, right]
        low, high = np.clip(np.min(points, 0), 0, SIDE), np.clip(np.max(points, 0), 0, SIDE)
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        annotation = {"id": number, "image_id": number, "category_id": 1, "bbox": [*low, *(high - low)]}
        flat = [value for x, y in points for value in (float(x), float(y), 2)]
        annotations.append(annotation | {"keypoints": flat, "num_keypoints": len(NAMES)})
    categories = [{"id": 1, "name": "fish", "keypoints": NAMES}]
    body = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "keypoints.json").write_text(json.dumps(body))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    main(given.directory or Path(tempfile.mkdtemp(prefix="image-shards-keypoints-")), given.epochs)
