"""Datasets with several generations, made of a few small images by the commands."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.command import command
from support.images import write_image

from shard_reader.format.manifest import Manifest

__all__ = ["GONE", "OPTIONS", "bytes_of", "compacted", "images", "manifest_of", "withdrawn"]

OPTIONS = ("--size", "8", "--split", "train=0.7,val=0.3", "--shards", "2", "--max-rejects", "5", "--encoding", "png")
GONE = ("cat/01.png", "dog/00.png", "cat/13.png", "cat/twin.png")


def images(root: Path) -> Path:
    """26 images of two classes, of which two have the bytes of others, and two files that are no images."""
    for number in range(24):
        path = root / ("cat" if number % 3 else "dog") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, number, (20 + number % 5, 16))
    shutil.copy(root / "cat/02.png", root / "cat/twin.png")
    shutil.copy(root / "cat/04.png", root / "cat/second.png")
    (root / "cat/bad.png").write_bytes(b"nothing")
    (root / "cat/worse.png").write_bytes(b"no image")
    return root


def withdrawn(dataset: Path, *ids: str) -> Path:
    """The dataset, from which some ids were withdrawn. They are in a file of its name beside it."""
    (dataset.parent / f"{dataset.name}.txt").write_text("".join(f"{id}\n" for id in ids))
    result = command("withdraw", dataset, dataset.parent / f"{dataset.name}.txt")
    assert result.returncode == 0, result.stderr
    return dataset


def compacted(*words: object) -> str:
    """What `image-shards compact` prints, which must succeed."""
    result = command("compact", *words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def manifest_of(dataset: Path) -> Manifest:
    return Manifest.from_json((dataset / "dataset.json").read_text())


def bytes_of(dataset: Path) -> dict[str, bytes]:
    """The bytes of each file directly in a dataset."""
    return {path.name: path.read_bytes() for path in sorted(dataset.iterdir()) if path.is_file()}
