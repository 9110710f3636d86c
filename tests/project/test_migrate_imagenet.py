"""The change of PyTorch's ImageNet example on the page about it: as short as it says, and its statements run."""

from __future__ import annotations

import re
import textwrap
from argparse import Namespace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from support.command import REPOSITORY
from support.pages import blocks

PAGE = (REPOSITORY / "docs/migrate/ddp-imagenet.md").read_text("utf-8")
DIFF = next(block.text for block in blocks(PAGE) if block.language == "diff")
MOST = 10


def hunks() -> dict[str, list[str]]:
    """The lines of each hunk, by its name."""
    parts = re.split(r"^@@ (.+) @@$", DIFF, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (part.strip("\n").splitlines() for part in parts[1::2]), strict=True))


def changed_lines(lines: list[str]) -> int:
    """A line in place of another counts once, as does one that is only added or removed."""
    runs = [list(run) for is_changed, run in groupby(lines, lambda line: line[:1] in ("-", "+")) if is_changed]
    return sum(max(sum(line[0] == sign for line in run) for sign in "-+") for run in runs)


def after(name: str) -> str:
    """A hunk after the change, as statements."""
    return textwrap.dedent("\n".join(line[1:] for line in hunks()[name] if not line.startswith("-")))


def test_the_change_is_of_ten_lines() -> None:
    assert sum(changed_lines(lines) for lines in hunks().values()) == MOST


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_the_changed_statements_run(raw_shards: Path) -> None:
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision.transforms")
    args = Namespace(data=raw_shards, batch_size=16, workers=1, start_epoch=2, epochs=3, distributed=False)
    names: dict[str, Any] = {"torch": torch, "transforms": transforms, "args": args}
    names["normalize"] = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    for name in ("imports", "data", "loaders"):
        exec(compile(after(name), name, "exec"), names)
    exec(after("epochs").splitlines()[0], names)
    assert names["train_dataset"].next == (2, 0)
    shapes = [(tuple(images.shape), tuple(labels.shape)) for images, labels in names["train_loader"]]
    assert shapes == [((16, 3, 224, 224), (16,))] * 3
    images, labels = next(iter(torch.utils.data.DataLoader(names["val_dataset"], batch_size=12)))
    assert tuple(images.shape) == (12, 3, 224, 224) and images.dtype == torch.float32 and len(labels) == 12
