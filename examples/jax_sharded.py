"""Data-parallel training in JAX that is killed, and resumes with another number of devices as if it had not stopped.

    python examples/jax_sharded.py IMAGES [DIRECTORY] [--devices 8] [--resume-with 6]

IMAGES is a folder of class folders, or of train/ and test/ with them. A small network is trained on shards of them,
each global batch divided among the devices of a mesh (virtual ones, of the CPU), twice: without interruption; and on as
many devices by a process that gets SIGKILL in the middle of an epoch, and then on another number of them, from the last
checkpoint. Every global batch must have the same images in the same order in both, each image once an epoch, and the
losses must agree: exactly they cannot, since other devices add up the same numbers in another order.
"""

import argparse
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    from shard_reader.jax import GlobalBatches, normalization
except ModuleNotFoundError as error:
    sys.exit(str(error))

import jax
import jax.numpy as jnp
import numpy as np
from interrupted_training import EPOCHS, compare, step_to_kill_in
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from shard_reader import open_dataset

SAVE_EVERY = 7  # steps


def train(shards: Path, run: Path, batch_size: int, kill_at: int) -> None:
    """The training, on all devices, with a log of every step in `run`, and a checkpoint every few."""
    data = open_dataset(shards, "train")
    stream = data.stream(batch_size=batch_size, seed=0, fields=("image", "label", "id"))
    mesh = Mesh(jax.devices(), ("data",))
    divided, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    batches = GlobalBatches(stream, divided, inputs="image", targets=("label", "id"))

    parameters = small_network(len(data.class_names))
    model = {"parameters": parameters, "momentum": jax.tree.map(np.zeros_like, parameters)}
    checkpoint = run / "checkpoint.pickle"
    if checkpoint.exists():
        model, position = pickle.loads(checkpoint.read_bytes())
        batches.load_state_dict(position)
    model = jax.device_put(model, everywhere)
    update = make_update(normalization(data))

    position = batches.state_dict()
    step = position["epoch"] * len(batches) + position["step"]
    with open(run / f"from-{step:06d}.jsonl", "w", buffering=1) as log:
        for _ in range(position["epoch"], EPOCHS):
            for images, (labels, ids), weight in batches:  # padding has weight 0
                model, loss = update(model, images, labels, weight)
                names = [id.decode() if counts else None for id, counts in zip(ids, weight, strict=True)]
                parts = len(images.addressable_shards)
                log.write(json.dumps({"step": step, "loss": loss.item(), "parts": parts, "ids": names}) + "\n")
                if step == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                step += 1
                if step % SAVE_EVERY == 0:
                    (run / "checkpoint.new").write_bytes(pickle.dumps((jax.device_get(model), batches.state_dict())))
                    os.replace(run / "checkpoint.new", checkpoint)


def small_network(classes: int) -> dict[str, np.ndarray]:
    """The parameters of two convolutions and a classifier, always the same."""
    draw = np.random.default_rng(0).standard_normal
    shapes = {"conv1": (3, 3, 3, 16), "conv2": (3, 3, 16, 32), "dense": (32, classes)}
    return {name: np.float32(draw(shape) * np.sqrt(2 / np.prod(shape[:-1]))) for name, shape in shapes.items()}


def make_update(normalize):
    """One step of gradient descent with momentum; XLA divides it among the devices as its arguments are."""

    def mean_loss(parameters, images, labels, weight):
        values = normalize(images)  # from uint8, on the device
        for name in ("conv1", "conv2"):
            values = jax.lax.conv_general_dilated(
                values, parameters[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            values = jax.nn.relu(values)
        logits = values.mean((1, 2)) @ parameters["dense"]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
        return (losses * weight).sum() / weight.sum()  # of the global batch

    @jax.jit
    def update(model, images, labels, weight):
        loss, gradients = jax.value_and_grad(mean_loss)(model["parameters"], images, labels, weight)
        momentum = jax.tree.map(lambda old, gradient: 0.9 * old + gradient, model["momentum"], gradients)
        parameters = jax.tree.map(lambda old, velocity: old - 0.02 * velocity, model["parameters"], momentum)
        return {"parameters": parameters, "momentum": momentum}, loss

    return update


def launch(devices: int, shards: Path, run: Path, batch_size: int, kill_at: int = -1) -> None:
    """Train on `devices` devices, in a process of its own, which must succeed, or be killed in step `kill_at`."""
    run.mkdir(exist_ok=True)
    options = ["--train", f"--batch-size={batch_size}", f"--kill-at={kill_at}"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}  # read when JAX is first used
    start = time.perf_counter()
    status = subprocess.run([sys.executable, __file__, str(shards), str(run), *options], env=env).returncode
    if status != (0 if kill_at < 0 else -signal.SIGKILL):
        sys.exit(f"the training in {run} ended with exit status {status}")
    how = "trained to the end" if kill_at < 0 else f"killed in step {kill_at}"
    print(f"{run.name}: {devices} devices, {how}, {time.perf_counter() - start:.1f} s", flush=True)


def main(images: Path, directory: Path, devices: int, resume_with: int, batch_size: int) -> str:
    """Prepare the shards, train without and with an interruption, and compare. Returns the first error, or ""."""
    shards = directory / "shards"
    prepare = [sys.executable, "-m", "beam_jobs", "prepare", str(images), str(shards), "--size", "32x32"]
    status = subprocess.run([*prepare, "--encoding", "raw"]).returncode
    if status:
        sys.exit(status)  # the command has said why
    data = open_dataset(shards, "train")
    kill_at = step_to_kill_in(len(data), len(data.stream(batch_size=batch_size)), SAVE_EVERY)

    launch(devices, shards, directory / "uninterrupted", batch_size)
    launch(devices, shards, directory / "interrupted", batch_size, kill_at)
    launch(resume_with, shards, directory / "interrupted", batch_size)
    return compare(directory, sorted(id.decode() for id in data.ids()), "devices")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--resume-with", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=96, help="of the global batch, over all devices")
    parser.add_argument("--kill-at", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        train(asked.images, asked.directory, asked.batch_size, asked.kill_at)
        sys.exit()
    if asked.batch_size % asked.devices or asked.batch_size % asked.resume_with:
        parser.error(f"--batch-size {asked.batch_size}: must be a multiple of both numbers of devices")
    where = asked.directory or Path(tempfile.mkdtemp(prefix="image-shards-jax-"))
    if where.exists() and any(where.iterdir()):
        sys.exit(f"{where}: is not empty; give a new directory")
    sys.exit(main(asked.images, where, asked.devices, asked.resume_with, asked.batch_size) or 0)
