"""Writes what loops wait for to TensorBoard, Weights & Biases, Lightning, Keras and OpenTelemetry."""

from shard_reader.telemetry.logger import StatsLogger, numbers

__all__ = ["StatsLogger", "numbers"]
