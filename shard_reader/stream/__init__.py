"""The loop over an epoch: batches in exact order, and the position to resume from."""

from shard_reader.stream.stream import Batch, Skipped, Spec, Stream

__all__ = ["Batch", "Skipped", "Spec", "Stream"]
