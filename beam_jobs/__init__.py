"""Beam jobs that turn raw images into the datasets that `shard_reader` streams."""

__version__ = "0.2.0"
