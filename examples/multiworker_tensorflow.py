"""Trains in several processes with MultiWorkerMirroredStrategy, and resumes where it was killed.

    python examples/multiworker_tensorflow.py SHARDS CHECKPOINTS [--epochs 2] [--batch-size 32] [--save-every 5]

SHARDS was made by `image-shards prepare photos SHARDS --size 64x64`. Each process gets the environment variable
TF_CONFIG, with the addresses of all and its own number:

    TF_CONFIG='{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'

Keras' `fit` takes no batches of this strategy (Keras 3), so the loop is one of TensorFlow's.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages of TensorFlow

import tensorflow as tf

from shard_reader import open_dataset
from shard_reader.tf_data import as_dataset, normalization


def main(shards: str, checkpoints: Path, epochs: int, batch_size: int, save_every: int) -> None:
    """Train to the end from the last checkpoint, if there is one, and print the loss of each step."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # first: nothing of TensorFlow may run before it
    cluster = strategy.cluster_resolver
    data = open_dataset(shards, "train")
    share = {"rank": cluster.task_id, "world_size": cluster.cluster_spec().num_tasks("worker")}
    stream = data.stream(batch_size=batch_size, seed=0, **share)

    scale, size = normalization(data), (3, len(data.class_names))
    with strategy.scope():
        kernel = tf.Variable(tf.zeros(size))
    position = tf.Variable(json.dumps(stream.state_dict()))  # in the checkpoint, beside the model

    def replica_step(images: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        total = replica.all_reduce("SUM", tf.reduce_sum(weight))  # padding has weight 0
        with tf.GradientTape() as tape:
            logits = tf.reduce_mean(scale(images), axis=(1, 2)) @ kernel
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(each * weight) / total
        kernel.assign_sub(replica.all_reduce("SUM", tape.gradient(loss, kernel)))
        return loss

    @tf.function
    def train_step(*batch: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(replica_step, args=batch), axis=None)

    # Each process saves, as the strategy wants it, and the first one's files count.
    saved = tf.train.Checkpoint(kernel=kernel, position=position)
    folder = checkpoints if cluster.task_id == 0 else Path(tempfile.mkdtemp())
    kept = tf.train.CheckpointManager(saved, folder, max_to_keep=2)
    saved.restore(tf.train.latest_checkpoint(checkpoints))
    stream.load_state_dict(json.loads(position.numpy()))

    for epoch in range(stream.epoch, epochs):
        first = stream.step
        local = as_dataset(stream, inputs="image", targets="label")
        batches = strategy.distribute_datasets_from_function(lambda _, local=local: local)
        for step, batch in enumerate(batches, first + 1):
            loss = train_step(*batch)
            if cluster.task_id == 0:
                print(f"step {epoch * len(stream) + step}: loss {loss:.6f}", flush=True)
            if step % save_every == 0:
                # TensorFlow takes batches in advance: the position is that of the trained step.
                position.assign(json.dumps(stream.state_at(step, epoch)))
                kept.save()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32, help="over all processes")
    parser.add_argument("--save-every", type=int, default=5, help="steps")
    found = parser.parse_args()
    main(found.shards, found.checkpoints, found.epochs, found.batch_size, found.save_every)
