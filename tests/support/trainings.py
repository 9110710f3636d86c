"""Examples that print `step N: loss X`, run to the end, or killed after a step."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from support.command import REPOSITORY, prepared
from support.images import write_image

__all__ = ["STEPS", "finished", "killed", "small_shards"]

STEPS = 16
"""The steps of two epochs of `small_shards` in batches of 8, of which the last has 3 records."""

_STEP = re.compile(r"^step (\d+): loss (.+)$", re.MULTILINE)
Losses = dict[int, str]
"""The loss of each step, as it was printed."""


def small_shards(folder: Path) -> Path:
    """A dataset of 59 images of 16x16 in three classes."""
    for number in range(59):
        write_image(folder / "images" / "abc"[number % 3] / f"{number}.png", number)
    return prepared(folder / "images", folder / "shards", "--size", "16x16")


def finished(example: str, *arguments: object, ranks: Sequence[dict[str, str]] = ({},)) -> list[Losses]:
    """What each process of a training prints, which must succeed.

    Args:
        ranks: the environment of each process.
    """
    processes = [_start(example, arguments, environment) for environment in ranks]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [_losses(output) for output in outputs]


def killed(example: str, *arguments: object, after: int, ranks: Sequence[dict[str, str]] = ({},)) -> Losses:
    """What the first process prints until every process gets SIGKILL, after a step."""
    processes = [_start(example, arguments, environment) for environment in ranks]
    lines = []
    assert processes[0].stdout is not None
    for line in processes[0].stdout:
        lines.append(line)
        if line.startswith(f"step {after}:"):
            for process in processes:
                process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate(timeout=60)
    assert processes[0].returncode == -signal.SIGKILL, lines
    return _losses("".join(lines))


def _start(example: str, arguments: Sequence[object], environment: dict[str, str]) -> subprocess.Popen[str]:
    words = [sys.executable, "-W", "ignore", str(REPOSITORY / "examples" / example), *map(str, arguments)]
    # One device of JAX in each process, whatever other tests have asked for.
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | environment
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env)


def _losses(output: str) -> Losses:
    return {int(step): loss for step, loss in _STEP.findall(output)}
