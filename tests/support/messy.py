"""A folder of cats and dogs with all that goes wrong in folders of images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from PIL import Image
from support.images import write_image

MESSY: Final = ["--size", "64", "--split", "train=0.8,val=0.2", "--max-rejects", "10", "--near-duplicates", "report"]
"""The options with which it becomes a dataset."""


def write_messy(root: Path) -> Path:
    """Cats and dogs, a copy of some in a folder `train`, damaged files, duplicates, and one image of one colour."""
    for number, folder in enumerate(["cat", "dog", "train/cat", "train/dog"]):
        for picture in range(20 if number < 2 else 4):
            write_image(root / "train" / folder / f"{picture:02d}.png", 100 * number + picture, (60, 48))
    cats, dogs = root / "train/cat", root / "train/dog"
    shutil.copy(cats / "03.png", dogs / "also-a-cat.png")
    shutil.copy(dogs / "04.png", cats / "also-a-dog.png")
    for number in range(5, 12):
        shutil.copy(dogs / f"{number:02d}.png", dogs / f"again-{number}.png")
    write_image(cats / "cut-off.jpg", 7, (160, 120))
    whole = (cats / "cut-off.jpg").read_bytes()
    (cats / "cut-off.jpg").write_bytes(whole[: len(whole) // 2])
    (dogs / "empty.jpg").write_bytes(b"")
    (dogs / "page.jpg").write_bytes(b"<html>404 not found</html>")
    Image.new("RGB", (60, 48), (90, 90, 90)).save(dogs / "grey.png")
    return root
