"""Trains a small network of Flax, and resumes where it was killed: Orbax saves the position beside the model.

    python examples/flax_training.py SHARDS CHECKPOINTS [--epochs 2] [--batch-size 32] [--save-every 5]

SHARDS was made by `image-shards prepare photos SHARDS --size 64x64`. The script uses all devices. In several processes,
set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import argparse
import os
from pathlib import Path

import jax
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax import checkpoint as orbax

from shard_reader import Flip, open_dataset
from shard_reader.jax import GlobalBatches, normalization


class Network(nnx.Module):
    """A convolution, dropout and a classifier of images `[n, height, width, 3]`, uint8."""

    def __init__(self, normalize, classes: int, rngs: nnx.Rngs) -> None:
        self.normalize = normalize
        self.convolution = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
        self.dropout, self.head = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(16, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(self.dropout(nnx.relu(self.convolution(self.normalize(images))).mean(axis=(1, 2))))


@nnx.jit
def train_step(model: Network, optimizer: nnx.Optimizer, images, labels, weight) -> jax.Array:
    """The loss of a batch, before the model is changed."""

    def loss(model: Network) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return (each * weight).sum() / weight.sum()  # padding has weight 0

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def main(shards: str, checkpoints: Path, epochs: int, batch_size: int, save_every: int) -> None:
    """Train to the end from the last checkpoint, if there is one, and print the loss of each step."""
    mesh = Mesh(jax.devices(), ("data",))
    divided, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    data = open_dataset(shards, "train")
    stream = data.stream(batch_size=batch_size, seed=0, image=Flip())
    batches = GlobalBatches(stream, divided, inputs="image", targets="label")

    model = Network(normalization(data), len(data.class_names), nnx.Rngs(0))
    trained = model, nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    nnx.update(trained, jax.jit(lambda state: state, out_shardings=everywhere)(nnx.state(trained)))
    step = 0
    with orbax.CheckpointManager(checkpoints.absolute(), options=orbax.CheckpointManagerOptions(max_to_keep=2)) as kept:
        if kept.latest_step() is not None:
            step = kept.latest_step()
            parts = {"model": orbax.args.StandardRestore(nnx.state(trained)), "position": orbax.args.JsonRestore()}
            saved = kept.restore(step, args=orbax.args.Composite(**parts))
            nnx.update(trained, saved["model"])
            batches.load_state_dict(saved["position"])
        while step < epochs * len(batches):
            for images, labels, weight in batches:
                step += 1
                print(f"step {step}: loss {train_step(*trained, images, labels, weight):.6f}", flush=True)
                if step % save_every == 0:
                    parts = {
                        "model": orbax.args.StandardSave(nnx.state(trained)),
                        "position": orbax.args.JsonSave(batches.state_dict()),
                    }
                    kept.save(step, args=orbax.args.Composite(**parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32, help="over all devices")
    parser.add_argument("--save-every", type=int, default=5, help="steps")
    found = parser.parse_args()
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        numbers = (int(os.environ[name]) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        jax.distributed.initialize(os.environ["JAX_COORDINATOR_ADDRESS"], *numbers)
    main(found.shards, found.checkpoints, found.epochs, found.batch_size, found.save_every)
