"""The check of torch_ddp.py and jax_sharded.py: a training that was killed has resumed as if it had never stopped.

Each launch of a training writes a line for every step to a log of its own: the step, the loss, the number of parts of
the global batch, and the ids in it, None for padding.
"""

import json
import sys
from pathlib import Path

EPOCHS = 2
TOLERANCE = 1e-4  # of a loss, relative


def step_to_kill_in(images: int, steps: int, save_every: int) -> int:
    """The middle of the last epoch. Ends the process if the last checkpoint before that is not in an epoch's middle.

    Args:
        images: the number of images.
        steps: the steps of an epoch.
        save_every: the steps between two checkpoints.
    """
    step = (EPOCHS - 1) * steps + steps // 2
    if step // save_every * save_every % steps == 0:
        sys.exit(
            f"{images} images are {steps} steps an epoch: a checkpoint every {save_every} steps comes too late to go on"
            f" from; give more images, or --batch-size {max(1, images // 10)} or less"
        )
    return step


def compare(directory: Path, ids: list[str], parts: str) -> str:
    """Print the losses of the two trainings side by side. Returns the first difference that is an error, or "".

    Args:
        directory: the folder of the runs "uninterrupted" and "interrupted".
        ids: the sorted ids of all images.
        parts: the noun for `parts` in the logs.
    """
    (whole,), launches = logs(directory / "uninterrupted"), logs(directory / "interrupted")
    if len(launches) != 2:
        return f"there was no checkpoint to go on from: {len(whole)} steps are too few"
    both, (first, last), steps = launches[0] | launches[1], (min(launches[1]), max(launches[0])), len(whole) // EPOCHS
    print(f"\n{'step':>6}{'uninterrupted':>16}{'interrupted':>14}{parts:>12}")
    for step in sorted({0, first - 1, first, last, last + 1, len(whole) - 1} & whole.keys() & both.keys()):
        note = {last: "  <- killed here", first: "  <- from the checkpoint"}.get(step, "")
        print(f"{step:6}{whole[step]['loss']:16.6f}{both[step]['loss']:14.6f}{both[step]['parts']:12}{note}")
    print(f"steps done twice: {last - first}; with checkpoints between epochs alone it would be {last % steps}")

    if both.keys() != whole.keys() or first % steps == 0:
        return "steps are missing, or the checkpoint was not from the middle of an epoch"
    for step, line in whole.items():
        if any(line["ids"] != launch[step]["ids"] for launch in launches if step in launch):
            return f"step {step}: the global batches differ"
    for epoch in range(EPOCHS):
        given = [id for step in range(epoch * steps, (epoch + 1) * steps) for id in both[step]["ids"]]
        if sorted(filter(None, given)) != ids:
            return f"epoch {epoch}: not each image once"
    print(f"{len(whole)} global batches: the same in both, each of {len(ids)} images once in each of {EPOCHS} epochs")
    difference = max(abs(both[step]["loss"] / line["loss"] - 1) for step, line in whole.items())
    print(f"largest relative difference of a loss: {difference:.1e}, tolerance {TOLERANCE:.0e}")
    return "" if difference <= TOLERANCE else "the losses differ"


def logs(run: Path) -> list[dict[int, dict]]:
    """The log lines of each launch of a training, by the number of the step."""
    launches = [path.read_text().splitlines() for path in sorted(run.glob("from-*.jsonl"))]
    return [{line["step"]: line for line in map(json.loads, lines)} for lines in launches]
