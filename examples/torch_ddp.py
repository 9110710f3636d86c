"""Distributed training in PyTorch that is killed, and resumes with other processes as if it had not stopped.

    python examples/torch_ddp.py IMAGES [DIRECTORY] [--processes 2] [--resume-with 3]

IMAGES is a folder of class folders, or of train/ and test/ with them. A small network is trained on shards of them with
DistributedDataParallel (gloo, on the CPU) twice: without interruption; and by as many processes, which get SIGKILL in
the middle of an epoch, and then by another number of them, from the last checkpoint. Every global batch must have the
same images in the same order in both, each image once an epoch, and the losses must agree: exactly they cannot, since
other processes add up the same numbers in another order.

`torchrun` can start the training by itself, too. It resumes from RUN/checkpoint.pt, if that is there:

    torchrun --nproc-per-node 2 examples/torch_ddp.py SHARDS RUN
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

try:
    from shard_reader.torch import StreamDataset, normalization
except ModuleNotFoundError as error:
    sys.exit(str(error))

import torch
from interrupted_training import EPOCHS, compare, step_to_kill_in
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from shard_reader import open_dataset

SAVE_EVERY = 7  # steps


def train(shards: Path, run: Path, batch_size: int, kill_at: int) -> None:
    """One process's part of the training. The first writes a log of every step to `run`, and a checkpoint every few."""
    run.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(minutes=2))
    rank, ranks = distributed.get_rank(), distributed.get_world_size()

    data = open_dataset(shards, "train")
    stream = data.stream(batch_size=batch_size, seed=0, fields=("image", "label", "id"))
    batches = StreamDataset(stream, inputs="image", targets=("label", "id"))  # this rank's share of them

    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(normalization(data), *small_network(len(data.class_names))))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    checkpoint = run / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        batches.load_state_dict(saved["position"])

    position = batches.state_dict()
    step = position["epoch"] * len(batches) + position["step"]
    with open(run / f"from-{step:06d}.jsonl" if rank == 0 else os.devnull, "w", buffering=1) as log:
        for _ in range(position["epoch"], EPOCHS):
            for images, (labels, ids), weight in batches:  # uint8, channels last in memory; padding has weight 0
                loss = cross_entropy(model(images), labels, reduction="none") @ weight
                sums = torch.stack([loss.detach(), weight.sum()])
                distributed.all_reduce(sums)
                shares: list[list[str | None]] = [[]] * ranks
                mine = [id.decode() if counts else None for id, counts in zip(ids, weight, strict=True)]
                distributed.all_gather_object(shares, mine)
                whole = [id for turn in zip(*shares, strict=True) for id in turn]  # of a global batch, ranks take turns
                line = {"step": step, "loss": (sums[0] / sums[1]).item(), "parts": ranks, "ids": whole}
                log.write(json.dumps(line) + "\n")
                if rank == 0 and step == kill_at:
                    os.killpg(0, signal.SIGKILL)  # every process of the training, wherever it is
                optimizer.zero_grad()
                (loss * ranks / sums[1]).backward()  # the mean over ranks, which DDP takes, is sum(loss) / sum(weight)
                optimizer.step()
                step += 1
                if rank == 0 and step % SAVE_EVERY == 0:
                    state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
                    torch.save(state | {"position": batches.state_dict()}, run / "checkpoint.new")
                    os.replace(run / "checkpoint.new", checkpoint)
    distributed.destroy_process_group()


def small_network(classes: int) -> list[nn.Module]:
    """Two convolutions and a classifier. No batch normalization: its statistics are of one rank's share alone."""
    convolutions = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()]
    return [*convolutions, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(32 * 9, classes)]


def launch(processes: int, shards: Path, run: Path, batch_size: int, kill_at: int = -1) -> None:
    """Train with `processes` processes, started as torchrun does. They must succeed, or be killed in step `kill_at`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    options = [f"--batch-size={batch_size}", f"--kill-at={kill_at}"]
    command, group = [sys.executable, __file__, str(shards), str(run), *options], []
    start = time.perf_counter()
    try:
        for rank in range(processes):
            env = os.environ | address | {"RANK": str(rank), "WORLD_SIZE": str(processes)}
            group.append(subprocess.Popen(command, env=env, process_group=group[0].pid if group else 0))
        statuses = [process.wait() for process in group]
    finally:
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.killpg(group[0].pid, signal.SIGKILL)
    if statuses != [0 if kill_at < 0 else -signal.SIGKILL] * processes:
        sys.exit(f"the training in {run} ended with exit statuses {statuses}")
    how = "trained to the end" if kill_at < 0 else f"killed in step {kill_at}"
    print(f"{run.name}: {processes} processes, {how}, {time.perf_counter() - start:.1f} s", flush=True)


def main(images: Path, directory: Path, processes: int, resume_with: int, batch_size: int) -> str:
    """Prepare the shards, train without and with an interruption, and compare. Returns the first error, or ""."""
    shards = directory / "shards"
    prepare = [sys.executable, "-m", "beam_jobs", "prepare", str(images), str(shards), "--size", "32x32"]
    status = subprocess.run([*prepare, "--encoding", "raw"]).returncode
    if status:
        sys.exit(status)  # the command has said why
    data = open_dataset(shards, "train")
    kill_at = step_to_kill_in(len(data), len(data.stream(batch_size=batch_size)), SAVE_EVERY)

    launch(processes, shards, directory / "uninterrupted", batch_size)
    launch(processes, shards, directory / "interrupted", batch_size, kill_at)
    launch(resume_with, shards, directory / "interrupted", batch_size)
    return compare(directory, sorted(id.decode() for id in data.ids()), "processes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--resume-with", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=96, help="of the global batch, over all processes")
    parser.add_argument("--kill-at", type=int, default=-1, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if "RANK" in os.environ:  # one of the processes
        train(asked.images, asked.directory, asked.batch_size, asked.kill_at)
        os._exit(0)  # at the interpreter's own end, threads of gloo may still be there, and abort it
    if asked.batch_size % asked.processes or asked.batch_size % asked.resume_with:
        parser.error(f"--batch-size {asked.batch_size}: must be a multiple of both numbers of processes")
    where = asked.directory or Path(tempfile.mkdtemp(prefix="image-shards-ddp-"))
    if where.exists() and any(where.iterdir()):
        sys.exit(f"{where}: is not empty; give a new directory")
    sys.exit(main(asked.images, where, asked.processes, asked.resume_with, asked.batch_size) or 0)
