"""Beam jobs that turn raw images into the datasets that `shard_reader` streams."""

__version__ = "0.1.0"
